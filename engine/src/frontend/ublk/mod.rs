//! ublk: the array as a block device of this machine, `/dev/ublkbN`.
//!
//! ```text
//!   device     /dev/ublkbN as a whole: made, recovered, started, handed over, stopped      blocks, on the caller's thread
//!     control    its commands, one at a time
//!     shape      what the block device says of itself, pure
//!   queue      one hardware queue, one a reactor: requests and replies                      never blocks, never allocates
//!   null       a device that stores nothing: the ceiling
//!   abi        the driver's words
//! ```
//!
//! The driver keeps a *tag* for each request of a queue. A command of ours waits at the driver for each tag (FETCH); it
//! completes when a request has come, whose description is then in memory shared with the driver; the next command
//! (COMMIT_AND_FETCH) says how it went and waits for the next request of that tag. The commands travel in the reactor's
//! own io_uring, see [`Lane`](crate::ring::Lane).
//!
//! How bytes move, by what the driver can do:
//!
//! | driver | a write's | a read's |
//! |---|---|---|
//! | `USER_COPY` (6.5) | `pread` of the character device into a span | `pwrite` out of one |
//! | `AUTO_BUF_REG` too (6.16) | the same: parity needs them mapped | the member's read goes into the request's own pages |
//!
//! Older drivers are refused. A read into the request's own pages is tried first and done again with a span when the
//! array finds that it must touch the bytes (a stripe never written, a strip reconstructed): see
//! [`RequestError::NeedsMemory`](crate::request::RequestError::NeedsMemory).
//!
//! What happens when the server goes away, however it does: the device stays, requests wait in the driver, and those that
//! it had handed out are handed out again to the next server (`USER_RECOVERY`, `USER_RECOVERY_REISSUE`). The device is
//! found again by the array's mark, which the driver keeps for us; see `device`. A server that ends in order under a device
//! in use quiesces it first (`QUIESCE`, 6.16): the driver hands out no more, and what it has handed out is answered.

mod abi;
mod control;
mod device;
mod null;
mod queue;
mod shape;

pub use device::{Closed, Quiesced, Ublk, UblkChoice, is_there, leftovers, remove};
pub use null::UblkNull;
pub use queue::{UblkFrontend, UblkPlace};
pub use shape::UblkShape;

/// Why there is no block device: what, which, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UblkError(pub String);
