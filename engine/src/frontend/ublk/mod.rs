//! ublk: the array as a block device of this machine, `/dev/ublkbN`.
//!
//! ```text
//!   device     /dev/ublkbN as a whole: made, recovered, started, handed over, stopped      blocks, on the caller's thread
//!     control    its commands, one at a time
//!     shape      what the block device says of itself, pure
//!     mark       whose it is
//!     found      those that are there already
//!     takeover   whether the array can be served as what hosts were told, pure
//!   queue      a reactor's share of the hardware queues: requests and replies                never blocks, never allocates
//!     exchange   how they come and go: one by one, or in batches
//!   null       a device that stores nothing: the ceiling
//!   abi        the driver's words
//! ```
//!
//! The driver keeps a *tag* for each request of a queue. Commands of ours wait at the driver, in the reactor's own io_uring (see
//! [`Lane`](crate::ring::Lane)); one ends, or delivers, when requests have come, whose descriptions are then in memory shared
//! with the driver; other commands say how they went. One by one, or in batches: see `exchange`.
//!
//! How bytes move, by what the driver can do:
//!
//! | driver | a write's | a read's |
//! |---|---|---|
//! | any (6.1) | the driver copies them into memory that the tag has for good | and out of it; requests of 128 KiB at most |
//! | `USER_COPY` (6.5) | `pread` of the character device into a span | `pwrite` out of one |
//! | `AUTO_BUF_REG` too (6.16) | the same: parity needs them mapped | the member's read goes into the request's own pages |
//!
//! A read into the request's own pages is tried first and done again with a span when the array finds that it must touch the
//! bytes (a stripe never written, a strip reconstructed): see
//! [`RequestError::NeedsMemory`](crate::request::RequestError::NeedsMemory). What a driver can is asked when a device is made, and
//! an operator can have one made that does without ([`UblkFeature`]).
//!
//! What happens when the server goes away, however it does: the device stays, requests wait in the driver, and those that
//! it had handed out are handed out again to the next server (`USER_RECOVERY`, `USER_RECOVERY_REISSUE`). The device is
//! found again by the array's mark, which the driver keeps for us; see `mark`. It is taken over only by the array as hosts were told
//! of it (`takeover`), in the state in which its server left it (server/note.rs). A server that ends in order under a device
//! in use quiesces it first (`QUIESCE`, 6.16): the driver hands out no more, and what it has handed out is answered.

mod abi;
mod control;
mod device;
mod exchange;
mod found;
mod mark;
mod null;
mod queue;
mod shape;
mod takeover;

pub use device::{Closed, Quiesced, Ublk, UblkChoice, UblkFeature, UblkPlan};
pub use found::{Existing, Leftover, existing, is_there, leftovers, remove};
pub use null::UblkNull;
pub(crate) use queue::flush_for_others;
pub use queue::{UblkFrontend, UblkPlace};
pub use shape::UblkShape;

/// Why there is no block device: what, which, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UblkError(pub String);
