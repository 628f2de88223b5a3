//! Member I/O. [`Ring`] is the first of the three traits through which the outside world reaches the engine.
//!
//! A ring takes operations on devices, which are named by their index, and returns one completion for each.
//! It never blocks; an idle reactor sleeps on [`Ring::wait_fd`]. The engine does not touch an operation's
//! span until its completion has been taken.
//!
//! The contract, checked by one conformance suite that every ring passes:
//! - each pushed operation completes exactly once, in any order, no earlier than the next `turn`;
//! - a completion without an error means that *all* bytes were transferred: the ring itself retries short
//!   transfers, `EAGAIN` and `EINTR`;
//! - a write or zeroing with [`Durability::Durable`] is on stable media when it completes; a flush makes
//!   everything durable that completed on that device before the flush was pushed;
//! - operations on one device are not ordered among themselves;
//! - an operation on an index without a device fails with `EBADF`, and one beyond the end of its device fails
//!   with some error; a deallocation that the device does not support succeeds and does nothing, because it
//!   is only advice.

use crate::limits::IO_IN_FLIGHT_MAX;
use crate::memory::Span;

pub mod blame;
pub mod blocking;
pub mod instant;
pub mod nvme;
mod shared_bytes;
pub mod uring;

pub use instant::{InstantDevice, InstantRing, MemStorage};
pub use uring::{
    Arrival, BlockIndex, Deallocate, Lane, LaneCommand, Payload, Uring, UringConfig, UringDevice,
};

/// The unit of offsets and lengths on any device: the smallest logical block that exists.
pub const SECTOR_BYTES: u32 = 512;

/// A device of a ring: an index into its table, below [`DEVICES_MAX`](crate::limits::DEVICES_MAX).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceIndex(pub u8);

/// Whether a write may rest in a volatile cache when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The write may rest in a volatile cache.
    Cached,
    /// The write is on stable media (FUA, `RWF_DSYNC`).
    Durable,
}

/// The kind of an operation on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberIo {
    /// Fill the span from the device.
    Read,
    /// Store the span on the device.
    Write(Durability),
    /// Make everything durable that has completed.
    Flush,
    /// Give the range back to the device. Reading the range afterwards returns unknown bytes.
    Deallocate,
}

/// An operation on one member.
#[derive(Clone, Copy, Debug)]
pub struct MemberOp {
    /// The engine's name for the operation, below [`IO_IN_FLIGHT_MAX`]; returned in the completion.
    pub tag: u32,
    /// The device to operate on.
    pub device: DeviceIndex,
    /// The kind of operation.
    pub io: MemberIo,
    /// First byte on the device; a multiple of its logical block.
    pub offset_bytes: u64,
    /// Length of a deallocation; equal to `span.len()` for reads and writes, 0 for a flush.
    pub len_bytes: u64,
    /// The bytes to fill or to store; [`Span::EMPTY`] otherwise.
    pub span: Span,
}

/// The end of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The operation's tag.
    pub tag: u32,
    /// Success, or the `errno` of the failure (positive, as in `EIO` = 5).
    pub result: Result<(), i32>,
}

/// Reads and writes members.
pub trait Ring {
    /// Queues one operation. The caller keeps fewer than `IO_IN_FLIGHT_MAX` in flight, so there is always
    /// room.
    fn push(&mut self, op: MemberOp);

    /// Submits what was queued, as a rule with at most one system call, and appends every completion that has
    /// arrived to `completions`. Does not block.
    fn turn(&mut self, completions: &mut Vec<Completion>);

    /// A file descriptor that polls readable when `turn` would find a completion. A reactor may sleep on it
    /// after a turn that brought none (and may wake a few times for nothing). `None` means that the reactor
    /// must not sleep while operations are in flight: they complete by the next turn, or only because `turn`
    /// polls for them.
    fn wait_fd(&self) -> Option<std::os::fd::RawFd>;
}

/// Checks an operation that is given to a ring. Only a bug in the engine can violate these assertions.
#[inline]
fn assert_well_formed(op: &MemberOp) {
    assert!((op.tag as usize) < IO_IN_FLIGHT_MAX, "tag {} of {IO_IN_FLIGHT_MAX}", op.tag);
    let expected_bytes = match op.io {
        MemberIo::Read | MemberIo::Write(_) => u64::from(op.span.len_bytes),
        MemberIo::Flush => 0,
        MemberIo::Deallocate => op.len_bytes,
    };
    assert_eq!(op.len_bytes, expected_bytes, "the length of {:?}", op.io);
    assert!(
        (op.span.len_bytes | op.span.offset_bytes).is_multiple_of(SECTOR_BYTES),
        "misaligned {:?}",
        op.span
    );
}
