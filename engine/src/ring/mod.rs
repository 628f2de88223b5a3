//! Member I/O: the first of the three traits by which the world enters.
//!
//! A ring takes operations on devices, named by their index, and gives back one completion for each.
//! It never blocks; a reactor with nothing to do sleeps on [`Ring::wait_fd`]. Every operation's span
//! stays untouched by the engine until its completion has been taken.
//!
//! Contract, held by one conformance suite that every ring passes:
//! - each pushed operation completes exactly once, in any order, no earlier than the next `turn`;
//! - a completion without error means that *all* bytes were transferred: short transfers, `EAGAIN`
//!   and `EINTR` are the ring's to retry;
//! - a write or zeroing with [`Durability::Durable`] is on stable media when it completes, a flush
//!   makes everything durable that completed on that device before the flush was pushed;
//! - operations on one device are not ordered among themselves;
//! - an operation on an index without a device fails with `EBADF`, one beyond the end of its device
//!   with some error; a deallocation that the device does not know succeeds and does nothing, for it
//!   is advice.

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

/// The unit of offsets and lengths on any device: the smallest logical block there is.
pub const SECTOR_BYTES: u32 = 512;

/// A device of a ring: an index into its table, below [`DEVICES_MAX`](crate::limits::DEVICES_MAX).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceIndex(pub u8);

/// Whether a write may rest in a volatile cache when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It may.
    Cached,
    /// It may not (FUA, `RWF_DSYNC`).
    Durable,
}

/// What to do on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberIo {
    /// Fill the span from the device.
    Read,
    /// Store the span on the device.
    Write(Durability),
    /// Make everything durable that has completed.
    Flush,
    /// Give the range back to the device. What it reads as afterwards is unknown.
    Deallocate,
}

/// One operation on one member.
#[derive(Clone, Copy, Debug)]
pub struct MemberOp {
    /// The engine's name for it, below [`IO_IN_FLIGHT_MAX`];
    /// returned in the completion.
    pub tag: u32,
    /// Where.
    pub device: DeviceIndex,
    /// What.
    pub io: MemberIo,
    /// First byte on the device; a multiple of its logical block.
    pub offset_bytes: u64,
    /// Length of a deallocation; equal to `span.len()` for reads and writes, 0 for a flush.
    pub len_bytes: u64,
    /// The bytes to fill or to store; [`Span::EMPTY`] otherwise.
    pub span: Span,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The operation's tag.
    pub tag: u32,
    /// Nothing, or the `errno` of the failure (positive, as in `EIO` = 5).
    pub result: Result<(), i32>,
}

/// Reads and writes members.
pub trait Ring {
    /// Queues one operation. The caller keeps fewer than `IO_IN_FLIGHT_MAX` in flight, so there is
    /// always room.
    fn push(&mut self, op: MemberOp);

    /// Submits what was queued, at most one system call as a rule, and appends every completion that
    /// has arrived to `completions`. Does not block.
    fn turn(&mut self, completions: &mut Vec<Completion>);

    /// A file descriptor that polls readable when `turn` would find a completion. It may be slept on
    /// after a turn that brought none (and may wake a few times for nothing). `None` says that while operations are in flight there is no
    /// sleeping: they complete by the next turn, or only because `turn` polls for them.
    fn wait_fd(&self) -> Option<std::os::fd::RawFd>;
}

/// What every ring asserts of an operation it is given: only a bug above can violate it.
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
