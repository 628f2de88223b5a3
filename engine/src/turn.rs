//! A turn of a reactor as the components of an array see it. Member I/O is pushed at one place only: here.
//!
//! ```text
//!   component (stripe op, block writes, flush, steward) --push--> Turn --> ring --> member
//!                                                                  |
//!   Array::complete  <-- MemberIos: what each operation is for, and when it was pushed
//! ```
//!
//! [`Turn`] borrows, for the length of a call, what several components need and none of them owns: the ring,
//! the state that all reactors share, the operations in flight ([`MemberIos`]), the reactor's own buffers
//! ([`Buffers`]), and the time. A component has no other way to reach a member.
//!
//! Invariants:
//! - an operation in flight has exactly one entry in [`MemberIos`], and its tag is the index of that entry;
//! - a read-only array pushes reads only;
//! - an operation of a member that has left is either parked, or the next look at all operations finds it
//!   (array/parked.rs).

use crate::members::MemberView;
use crate::memory::Span;
use crate::ring::{DeviceIndex, MemberIo, MemberOp, Ring};
use crate::shared::Shared;
use crate::sizes::Sizes;
use crate::slab::Slab;
use crate::tally::{DeviceTallies, Tally};

mod buffers;
mod io;
mod watch;

pub(crate) use buffers::Buffers;
use io::Stamp;
pub(crate) use io::{Holds, Io, IoFor};
use watch::Watch;

/// The resources that a component of an array may use during one call.
pub(crate) struct Turn<'a, R> {
    /// The reactor that runs this turn.
    pub(crate) me: u8,
    pub(crate) ring: &'a mut R,
    pub(crate) shared: &'a Shared,
    pub(crate) ios: &'a mut MemberIos,
    pub(crate) buffers: &'a mut Buffers,
    /// The time of this turn, from the array's clock.
    pub(crate) now_ns: u64,
}

/// The view and the record at one look. While both stay the same, no further operation has lost its member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) view: MemberView,
    pub(crate) record: MemberView,
}

/// Member operations in flight, by tag.
pub(crate) struct MemberIos {
    list: Slab<Io>,
    /// Operation and push time of each entry of `list`, by tag. Only counters depend on them.
    stamps: Box<[Stamp]>,
    /// Counters of the members' devices; the reactor's tally holds them too.
    counters: DeviceTallies,
    watch: Watch,
    /// Number of parked operations (those of members that have left), and its limit.
    parked: usize,
    parked_max: usize,
    /// View and record at the last look for members that have left.
    seen: Option<Seen>,
    /// Look again even if view and record are unchanged: an operation went to a member that is already out,
    /// or some time has passed.
    look_again: bool,
}

impl MemberIos {
    /// Makes room for as many operations as `sizes` says; memory for probes comes from `buffers`.
    pub(crate) fn new(me: u8, shared: &Shared, sizes: &Sizes, buffers: &mut Buffers) -> MemberIos {
        let room = sizes.ios() + sizes.parked();
        MemberIos {
            list: Slab::new(room),
            stamps: vec![Stamp::default(); room].into_boxed_slice(),
            counters: shared.tallies[usize::from(me)].devices.clone(),
            watch: Watch::new(&mut buffers.pool),
            parked: 0,
            parked_max: sizes.parked(),
            seen: None,
            look_again: false,
        }
    }

    /// Takes out a completed operation and counts it for its device. An operation of a device that its slot
    /// no longer has is not counted, because the counters are those of the slot's present device.
    #[inline(always)] // for its span: see `Span`
    pub(crate) fn complete(&mut self, tag: u32, result: Result<(), i32>, shared: &Shared, now_ns: u64) -> Io {
        let io = self.list.remove(tag);
        if io.is_current(shared) {
            self.watch.hear(io.slot);
            let (operation, took_ns) = self.stamps[tag as usize].ended(now_ns);
            self.counters.of(io.device).add(operation, io.span.len_bytes, took_ns, result);
        }
        io
    }

    /// Notes that a completed operation was a parked one.
    pub(crate) fn unpark(&mut self) {
        self.parked -= 1;
    }

    /// Notes a completed deallocation.
    pub(crate) fn hear_advice(&mut self, io: &Io, shared: &Shared) {
        if io.is_current(shared) {
            self.watch.hear_advice(io.slot);
        }
    }

    /// Whether no operation is in flight, not even a parked one.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether the array waits for no operation in flight (parked ones may remain).
    pub(crate) fn is_quiet(&self) -> bool {
        self.list.len() == self.parked
    }

    /// All operations in flight, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Io> {
        self.list.live().map(|(_, io)| io)
    }

    /// Looks up the operation with this tag.
    pub(crate) fn get(&self, tag: u32) -> Option<Io> {
        self.list.get(tag).copied()
    }

    /// An upper bound of the tags: every tag is below it.
    pub(crate) fn tags(&self) -> u32 {
        self.list.capacity()
    }

    /// Returns the state that the next look for members that have left must use; `None` if nothing has
    /// changed since the last look.
    pub(crate) fn look(&mut self, seen: Seen) -> Option<Seen> {
        if Some(seen) == self.seen && !self.look_again {
            return None;
        }
        (self.seen, self.look_again) = (Some(seen), false);
        Some(seen)
    }

    /// Makes the next turn look at every operation.
    pub(crate) fn look_again(&mut self) {
        self.look_again = true;
    }

    /// Whether a look at every operation is due.
    pub(crate) fn is_looked_at_again(&self) -> bool {
        self.look_again
    }

    /// Asserts that so many operations are parked.
    pub(crate) fn check_parked(&self, count: usize) {
        assert_eq!(count, self.parked, "parked operations");
    }

    /// Whether another operation may be parked.
    pub(crate) fn may_park(&self) -> bool {
        self.parked < self.parked_max
    }

    /// Parks an operation: from now on nothing waits for it.
    pub(crate) fn park(&mut self, tag: u32, what: IoFor) {
        debug_assert!(matches!(what, IoFor::Parked(_) | IoFor::LeftRead { .. }));
        self.list[tag].what = what;
        self.parked += 1;
    }
}

impl<R: Ring> Turn<'_, R> {
    /// Pushes one member operation to the device that the slot has now.
    #[inline]
    pub(crate) fn push(&mut self, what: IoFor, slot: u8, io: MemberIo, offset_bytes: u64, span: Span) {
        let device = self.shared.members.device(slot);
        self.push_to(what, slot, device, io, offset_bytes, span);
    }

    /// Pushes one member operation to a device that the slot may not have yet.
    #[inline]
    pub(crate) fn push_to(
        &mut self,
        what: IoFor,
        slot: u8,
        device: DeviceIndex,
        io: MemberIo,
        offset_bytes: u64,
        span: Span,
    ) {
        let len_bytes = u64::from(span.len_bytes);
        self.push_op(what, slot, MemberOp { tag: 0, device, io, offset_bytes, len_bytes, span });
    }

    /// Tells a member that it may discard the contents of a range.
    pub(crate) fn push_deallocate(&mut self, op_index: u32, slot: u8, offset_bytes: u64, len_bytes: u64) {
        let device = self.shared.members.device(slot);
        let (io, span) = (MemberIo::Deallocate, Span::EMPTY);
        let op = MemberOp { tag: 0, device, io, offset_bytes, len_bytes, span };
        self.push_op(IoFor::OpDeallocate { op: op_index }, slot, op);
    }

    /// Hands an operation to the ring, after giving it its tag; all member I/O passes here. A read-only array
    /// only reads: a single write could overwrite what is being rescued.
    ///
    /// The ring gets the operation by its address, so the operation is built in one step together with its
    /// tag. Setting the tag in `op` and passing `op` on copied what had just been stored, and the core waited
    /// for those stores (see [`Span`]).
    #[inline(always)]
    fn push_op(&mut self, what: IoFor, slot: u8, op: MemberOp) {
        let MemberOp { device, io, span, .. } = op;
        assert!(io == MemberIo::Read || !self.shared.read_only, "{io:?} in a read-only array");
        let ios = &mut *self.ios;
        if !self.shared.members.view().writable.has(slot) {
            // The plan is from before the slot left. The array must not wait for this operation.
            ios.look_again = true;
        }
        let tag = ios.list.insert(Io { what, slot, device, span, beat: ios.watch.beat() });
        ios.stamps[tag as usize] = Stamp::new(self.now_ns, io);
        self.ring.push(MemberOp { tag, ..op });
    }
}

impl<R> Turn<'_, R> {
    /// Counters of this reactor.
    pub(crate) fn tally(&self) -> &Tally {
        &self.shared.tallies[usize::from(self.me)]
    }
}
