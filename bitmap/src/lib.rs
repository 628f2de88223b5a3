//! The sharded atomic stripe bitmap: what is known of each stripe, and which of it is durable.
//!
//! One cell a stripe, half a byte in RAM and two bits on disk. It decides whether parity may be an
//! input, and after an unclean stop it names the stripes that have to be made consistent. There is no
//! lock and no waiting in here: changes are compare-and-swap, and who has to wait polls.
//!
//! # A write, in the order of its life
//! 1. [`StripeLocks::try_own`]: one reactor owns the stripe.
//! 2. [`Bitmap::begin_write`]:
//!    - [`Begun::Durable`]: write the members now.
//!    - [`Begun::Pending`]: poll [`Bitmap::intent_is_durable`]; meanwhile, each time round,
//!      [`Bitmap::try_begin_block_write`]; who gets it writes the block to all copies and calls
//!      [`Bitmap::finish_block_write`]. All that were marked before it began are served by it.
//!    - [`Begun::NeedSync`]: write, and make the whole stripe consistent; then [`Bitmap::resynced`].
//!    - [`Begun::Unwritten`]: write the whole stripe, flush volatile caches, [`Bitmap::written_first`], and poll as
//!      for `Pending`.
//! 3. The members have it: [`StripeLocks::release`], acknowledge.
//!
//! In the background: a [`Sweeper`] takes quiet cells back to Clean, see `sweep`.
//!
//! # Invariants
//! - A cell that reads `Dirty` or `Aged` says Dirty or NeedSync on every copy that assembly may read.
//! - A cell is `Clean` only if every member was flushed after the last write to its stripe had ended.
//! - One write of a block is in flight at a time, and generations of a block only grow.
//! - Cells beyond the last stripe are Unwritten and nobody hears of them.
//!
//! # Rooms
//! `cell` the states and their table · `word` sixteen cells at once · `shape` stripes, words, regions, blocks ·
//! `bitmap` the cells and a writer's verbs · `block` what goes to disk and what comes from it · `sweep` back to
//! Clean · `locks` who owns a stripe · `sync` core's atomics or loom's.

#![forbid(unsafe_code)]

mod bitmap;
mod block;
mod cell;
mod locks;
mod shape;
mod sweep;
mod sync;
mod word;

pub use bitmap::{Begun, Bitmap, CellCountsRaw, WIDEN_AFTER_MARKS};
pub use block::{BlockWrite, LoadMode, Ticket};
pub use cell::{Cell, Event, next};
pub use locks::{LOCK_SLOTS, StripeLocks};
pub use shape::{BlockIndex, CELL_BYTES_PER_BLOCK, STRIPES_MAX, STRIPES_PER_BLOCK, STRIPES_PER_REGION};
pub use sweep::{Looked, Sweeper};
