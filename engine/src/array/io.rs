//! Operations of members: how they leave for the ring, for whom they are, and whose fault an error is.

use crate::format::superblock::Copy;
use crate::geometry::Slots;
use crate::memory::Span;
use crate::ring::blame::{Blame, blame};
use crate::ring::{DeviceIndex, MemberIo, MemberOp, Ring};
use crate::tally::Operation;

use super::Array;
use super::parked::Holds;

/// For whom a member I/O is.
#[derive(Clone, Copy, Debug)]
pub(super) enum IoFor {
    /// A healthy read, straight into the host's buffer; what is needed to reconstruct it instead, and the
    /// count of deallocations when it began.
    HostRead { request: u32, stripe: u64, start: u32, deallocations: u32 },
    /// A healthy read into memory that is not ours, of which the member has left: the request waits for it. See `parked`.
    LeftRead { request: u32, stripe: u64, start: u32, deallocations: u32 },
    /// A stripe op's read of one strip.
    OpRead { op: u32, strip: u8 },
    /// A stripe op's write of one strip.
    OpWrite { op: u32, strip: u8 },
    /// A copy of the superblock of a member that did not take a write of a stripe op, with this `errno`: whether the member is there at
    /// all.
    OpAsk { op: u32, strip: u8, errno: i32, copy: Copy },
    /// A stripe op's advice to the device.
    OpDeallocate { op: u32 },
    /// A flush round.
    Flush,
    /// A copy of a bitmap block.
    Block { write: u32 },
    /// A superblock.
    Superblock,
    /// The list of lost rows.
    List,
    /// Zeros over what a device that arrives holds of metadata.
    Wipe,
    /// A question whether the member is there: see `watch`.
    Probe,
    /// Nobody: its member has left. See `parked`.
    Parked(Holds),
}

/// One member I/O in flight.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))] // a cache line: see `slab`
pub(super) struct Io {
    pub(super) what: IoFor,
    pub(super) slot: u8,
    /// The device it went to: a slot may have another by the time it completes.
    pub(super) device: DeviceIndex,
    /// The bytes that the kernel may read or write until it completes.
    pub(super) span: Span,
    /// When it was pushed, in beats of the watch.
    pub(super) beat: u32,
}
const _: () = assert!(size_of::<Option<Io>>() == 64);

/// The operation and the turn of a member I/O: the time of the turn in nanoseconds times four, and the operation in the lowest two bits.
///
/// Stamps are kept by tag, beside [`Io`] and not in it: an `Io` is copied twice on its way, and two more fields in it made a write of
/// 4 KiB on null members 3 ns slower (of 234 ns). Eight stamps are in one cache line, and cost nothing that can be measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamp(u64);

impl Stamp {
    #[inline]
    const fn new(now_ns: u64, io: MemberIo) -> Stamp {
        let operation = match io {
            MemberIo::Read => Operation::Read,
            MemberIo::Write(_) => Operation::Write,
            MemberIo::Flush => Operation::Flush,
            MemberIo::Deallocate => Operation::Deallocate,
        };
        Stamp(now_ns << 2 | operation as u64)
    }

    /// The operation, and how long it took if it has completed in the turn of this time.
    #[inline]
    const fn ended(self, now_ns: u64) -> (Operation, u64) {
        let operation = match self.0 & 3 {
            0 => Operation::Read,
            1 => Operation::Write,
            2 => Operation::Flush,
            _ => Operation::Deallocate,
        };
        (operation, now_ns.saturating_sub(self.0 >> 2))
    }
}

impl Array {
    /// Pushes one member I/O.
    #[inline]
    pub(super) fn push<R: Ring>(
        &mut self,
        ring: &mut R,
        what: IoFor,
        slot: u8,
        io: MemberIo,
        offset: u64,
        span: Span,
    ) {
        let device = self.shared.members.device(slot);
        self.push_to(ring, what, slot, device, io, offset, span);
    }

    /// Pushes one member I/O to a device that the slot may not have yet.
    #[expect(clippy::too_many_arguments, reason = "the fields of an operation, each named")]
    #[inline]
    pub(super) fn push_to<R: Ring>(
        &mut self,
        ring: &mut R,
        what: IoFor,
        slot: u8,
        device: DeviceIndex,
        io: MemberIo,
        offset_bytes: u64,
        span: Span,
    ) {
        let len_bytes = u64::from(span.len_bytes);
        self.push_op(ring, what, slot, MemberOp { tag: 0, device, io, offset_bytes, len_bytes, span });
    }

    /// The one place at which member I/O leaves for the ring; the operation gets its tag here. A read-only array only reads:
    /// a single write could overwrite what is being rescued.
    ///
    /// The ring gets the operation by its address. It is put together in one step, with its tag: to set the tag in `op` and pass `op` on
    /// made a copy of what had just been stored, and the core waited for those stores (see [`Span`]).
    #[inline(always)]
    fn push_op<R: Ring>(&mut self, ring: &mut R, what: IoFor, slot: u8, op: MemberOp) {
        let MemberOp { device, io, span, .. } = op;
        assert!(io == MemberIo::Read || !self.shared.read_only, "{io:?} in a read-only array");
        if !self.shared.members.view().writable.has(slot) {
            // A plan from before the slot left. Nothing may wait for it.
            self.parking.look_again();
        }
        let tag = self.ios.insert(Io { what, slot, device, span, beat: self.watch.beat() });
        self.stamps[tag as usize] = Stamp::new(self.now_ns, io);
        ring.push(MemberOp { tag, ..op });
    }

    /// Counts a completed operation of the device that its slot has.
    #[inline(always)]
    pub(super) fn count_io(&self, tag: u32, io: &Io, result: Result<(), i32>) {
        let (operation, took_ns) = self.stamps[tag as usize].ended(self.now_ns);
        self.counters.of(io.device).add(operation, io.span.len_bytes, took_ns, result);
    }

    /// Advises a member that it may forget a range.
    pub(super) fn push_deallocate<R: Ring>(
        &mut self,
        ring: &mut R,
        op_index: u32,
        slot: u8,
        offset_bytes: u64,
        len_bytes: u64,
    ) {
        let device = self.shared.members.device(slot);
        let (io, span) = (MemberIo::Deallocate, Span::EMPTY);
        let op = MemberOp { tag: 0, device, io, offset_bytes, len_bytes, span };
        self.push_op(ring, IoFor::OpDeallocate { op: op_index }, slot, op);
    }

    /// Counts a failed read of a strip against its member, if it is the member's fault.
    pub(super) fn read_error(&self, io: &Io, stripe: u64, errno: i32) {
        if !self.is_current(io) {
            return;
        }
        match blame(errno) {
            Blame::Device => {
                self.shared.members.count_read_error(io.slot, stripe, errno, self.shared.needs());
            }
            Blame::Space | Blame::Ours => self.shared.members.count_refusal(io.slot),
        }
    }

    /// Whose fault it is that a write or a flush failed. An error of a member that is out, that was replaced or that is only being
    /// filled is that device's: the record excludes it, or is about to.
    pub(super) fn blame(&self, io: &Io, errno: i32) -> Blame {
        let view = self.shared.members.view();
        // A slot that is being filled can be spared: a refusal by it must cost the other members neither a stripe nor their service.
        // Exception: if a stripe was filled and then came to need a resync, the slot may hold the only copy of a strip.
        let is_spared = || self.shared.members.spares(view, Slots::one(io.slot), self.shared.needs());
        let needed = view.readable.has(io.slot) || (view.writable.has(io.slot) && !is_spared());
        let counts = self.is_current(io) && needed;
        if counts { blame(errno) } else { Blame::Device }
    }

    /// Whether an error on this I/O speaks of the device that the slot has now.
    pub(super) fn is_current(&self, io: &Io) -> bool {
        self.shared.members.device(io.slot) == io.device
    }
}
