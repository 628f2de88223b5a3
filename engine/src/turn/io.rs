//! A member operation in flight: its purpose, and what an error of it means.

use crate::format::superblock::Copy;
use crate::geometry::Slots;
use crate::members::Failure;
use crate::memory::Span;
use crate::ring::blame::{Blame, blame};
use crate::ring::{DeviceIndex, MemberIo};
use crate::shared::Shared;
use crate::tally::Operation;

/// The purpose of a member I/O.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IoFor {
    /// A healthy read, straight into the host's buffer. The fields are what a reconstruction would need, and
    /// the count of deallocations when the read began.
    HostRead { request: u32, stripe: u64, start: u32, deallocations: u32 },
    /// A healthy read into memory that is not ours, whose member has left. The request waits for it; see
    /// `parked`.
    LeftRead { request: u32, stripe: u64, start: u32, deallocations: u32 },
    /// A stripe op's read of one strip.
    OpRead { op: u32, strip: u8 },
    /// A stripe op's write of one strip.
    OpWrite { op: u32, strip: u8 },
    /// A read of a superblock copy, to find out whether the member is there at all. It follows a write of a
    /// stripe op that the member refused with `errno`.
    OpAsk { op: u32, strip: u8, errno: i32, copy: Copy },
    /// A stripe op's deallocation.
    OpDeallocate { op: u32 },
    /// A member's flush in a flush round.
    Flush,
    /// A write of one copy of a bitmap block.
    Block { write: u32 },
    /// A superblock write.
    Superblock,
    /// A write of the list of lost rows.
    List,
    /// Zeros over old metadata on a device that arrives.
    Wipe,
    /// A probe: a read that asks whether the member is there; see `watch`.
    Probe,
    /// An operation that nothing waits for, because its member has left; see `parked`.
    Parked(Holds),
}

/// The memory that a parked I/O holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holds {
    /// No memory that is ever used for another purpose.
    Nothing,
    /// A lot of this reactor.
    Lot(u32),
    /// A part of a request's span, which belongs to the front end of this reactor.
    Host { home: u8, span: Span },
}

/// A member I/O in flight.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))] // a cache line: see `slab`
pub(crate) struct Io {
    pub(crate) what: IoFor,
    pub(crate) slot: u8,
    /// The device that got the I/O: the slot may have another one by the time it completes.
    pub(crate) device: DeviceIndex,
    /// The bytes that the kernel may read or write until the I/O completes.
    pub(crate) span: Span,
    /// The beat of the watch at which the I/O was pushed.
    pub(crate) beat: u32,
}
const _: () = assert!(size_of::<Option<Io>>() == 64);

/// A member I/O's operation and push time in one word: the turn's time in nanoseconds times four, plus the
/// operation in the lowest two bits.
///
/// Stamps are kept by tag beside [`Io`], not in it. An `Io` is copied twice on its way, and two more fields
/// in it made a write of 4 KiB on null members 3 ns slower (of 234 ns). Eight stamps share a cache line, and
/// their cost cannot be measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamp(u64);

impl Stamp {
    #[inline]
    pub(super) const fn new(now_ns: u64, io: MemberIo) -> Stamp {
        let operation = match io {
            MemberIo::Read => Operation::Read,
            MemberIo::Write(_) => Operation::Write,
            MemberIo::Flush => Operation::Flush,
            MemberIo::Deallocate => Operation::Deallocate,
        };
        Stamp(now_ns << 2 | operation as u64)
    }

    /// The operation, and how long it took if it completed in the turn at `now_ns`.
    #[inline]
    pub(super) const fn ended(self, now_ns: u64) -> (Operation, u64) {
        let operation = match self.0 & 3 {
            0 => Operation::Read,
            1 => Operation::Write,
            2 => Operation::Flush,
            _ => Operation::Deallocate,
        };
        (operation, now_ns.saturating_sub(self.0 >> 2))
    }
}

impl Io {
    /// Whether an error of this I/O concerns the device that the slot has now.
    pub(crate) fn is_current(&self, shared: &Shared) -> bool {
        shared.members.device(self.slot) == self.device
    }

    /// Decides what to blame for a failed write or flush. If the member is out, was replaced, or is only
    /// being filled, the blame is on that device: the record excludes it or is about to.
    pub(crate) fn blame(&self, shared: &Shared, errno: i32) -> Blame {
        let view = shared.members.view();
        // A slot that is being filled can be spared: its refusal must cost the other members neither a stripe
        // nor their service. Exception: if a stripe was filled and later became unsynced, the slot may hold
        // the only copy of a strip.
        let is_spared = || shared.members.spares(view, Slots::one(self.slot), shared.needs());
        let needed = view.readable.has(self.slot) || (view.writable.has(self.slot) && !is_spared());
        let counts = self.is_current(shared) && needed;
        if counts { blame(errno) } else { Blame::Device }
    }

    /// Counts the failed read of a strip against its member, if it is the member's fault.
    pub(crate) fn count_read_error(&self, shared: &Shared, stripe: u64, errno: i32) {
        if !self.is_current(shared) {
            return;
        }
        match blame(errno) {
            Blame::Device => {
                shared.members.count_read_error(self.slot, stripe, errno, shared.needs());
            }
            Blame::Space | Blame::Ours => shared.members.count_refusal(self.slot),
        }
    }

    /// Acts on a failed metadata write or flush. If the device is at fault, the member fails with `failure`;
    /// otherwise the array stops serving. An error of a device that the slot no longer has is ignored.
    pub(crate) fn fail_metadata(&self, shared: &Shared, errno: i32, failure: Failure) {
        match self.blame(shared, errno) {
            _ if !self.is_current(shared) => {}
            Blame::Space | Blame::Ours => shared.members.stop_serving(self.slot, errno),
            Blame::Device => {
                shared.members.fail(self.slot, failure);
            }
        }
    }
}
