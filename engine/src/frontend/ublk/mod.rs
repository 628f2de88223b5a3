//! ublk: the array as a block device of this machine, `/dev/ublkbN`.
//!
//! ```text
//!   device     /dev/ublkbN as a whole: make, recover, start, stop     blocks, on the caller's thread
//!     control    the driver's control commands, one at a time
//!     shape      the sizes and attributes that the block device advertises, pure
//!     mark       the array that a device belongs to
//!     found      ublk devices that already exist, and what killed servers keep
//!     takeover   whether the array still fits what hosts were told, pure
//!   queue      one reactor's share of the hardware queues             never blocks, never allocates
//!     exchange   how requests and results travel: one by one, or in batches
//!   null       a device that stores nothing: the ceiling for benchmarks
//!   abi        the driver's constants and structures
//! ```
//!
//! The driver keeps a *tag* for each request of a queue. Our commands wait at the driver, in the reactor's
//! own io_uring (see [`Lane`](crate::ring::Lane)). A command ends, or delivers, when requests have arrived;
//! their descriptions are then in memory shared with the driver. Other commands tell the driver the results.
//! Both directions work one request at a time or in batches: see `exchange`.
//!
//! How bytes move depends on what the driver can do:
//!
//! | driver | data of a write | data of a read |
//! |---|---|---|
//! | any (6.1) | the driver copies it into the tag's own memory | the driver copies it out; at most 128 KiB |
//! | `USER_COPY` (6.5) | `pread` of the character device into a span | `pwrite` from a span |
//! | `AUTO_BUF_REG` too (6.16) | as above: parity needs it mapped | the member fills the request's pages |
//!
//! A read into the request's own pages is tried first. It is repeated with a span if the array finds that it
//! must touch the bytes (an unwritten stripe, a strip that is reconstructed): see
//! [`RequestError::NeedsMemory`](crate::request::RequestError::NeedsMemory). The driver's features are
//! queried when a device is made, and an operator can have a device made without some of them
//! ([`UblkFeature`]).
//!
//! When the server ends, in whatever way, the device stays and requests wait in the driver. Requests that the
//! driver had handed out are handed out again to the next server (`USER_RECOVERY`, `USER_RECOVERY_REISSUE`).
//! The next server finds the device by the array's mark, which the driver stores for us (see `mark`). The
//! device is taken over only by an array that fits what hosts were told (`takeover`), and only in the state
//! in which its server left it (server/note.rs). A server that shuts down in order while its device is in use
//! quiesces the device first (`QUIESCE`, 6.16): the driver then hands out no more requests, and those it has
//! handed out are answered.

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
pub use found::{Existing, Leftover, existing, free, is_there, leftovers, remove};
pub use null::UblkNull;
pub(crate) use queue::flush_for_others;
pub use queue::{UblkFrontend, UblkPlace};
pub use shape::UblkShape;
pub use takeover::Last;

/// Why there is no block device: what happened, to which device, and what the operator can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UblkError(pub String);
