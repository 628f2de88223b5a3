//! A member operation in flight: what it is for, and whose fault its error is.

use crate::format::superblock::Copy;
use crate::geometry::Slots;
use crate::members::Failure;
use crate::memory::Span;
use crate::ring::blame::{Blame, blame};
use crate::ring::{DeviceIndex, MemberIo};
use crate::shared::Shared;
use crate::tally::Operation;

/// For whom a member I/O is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IoFor {
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

/// What a parked I/O holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holds {
    /// No memory that is ever used for anything else.
    Nothing,
    /// A lot of this reactor.
    Lot(u32),
    /// A piece of a request's span, which belongs to the front end of this reactor.
    Host { home: u8, span: Span },
}

/// One member I/O in flight.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))] // a cache line: see `slab`
pub(crate) struct Io {
    pub(crate) what: IoFor,
    pub(crate) slot: u8,
    /// The device it went to: a slot may have another by the time it completes.
    pub(crate) device: DeviceIndex,
    /// The bytes that the kernel may read or write until it completes.
    pub(crate) span: Span,
    /// When it was pushed, in beats of the watch.
    pub(crate) beat: u32,
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
    pub(super) const fn new(now_ns: u64, io: MemberIo) -> Stamp {
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
    /// Whether an error on this I/O speaks of the device that the slot has now.
    pub(crate) fn is_current(&self, shared: &Shared) -> bool {
        shared.members.device(self.slot) == self.device
    }

    /// Whose fault it is that a write or a flush failed. An error of a member that is out, that was replaced or that is only being
    /// filled is that device's: the record excludes it, or is about to.
    pub(crate) fn blame(&self, shared: &Shared, errno: i32) -> Blame {
        let view = shared.members.view();
        // A slot that is being filled can be spared: a refusal by it must cost the other members neither a stripe nor their service.
        // Exception: if a stripe was filled and then came to need a resync, the slot may hold the only copy of a strip.
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

    /// Acts on a failed write of metadata, or flush: the member is failed for `failure`, or, if the error is not the device's, the array
    /// stops serving. An error of a device that the slot has no longer says nothing.
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
