//! A lock-free bitmap of RAID stripes. For each stripe it tells whether the parity can be trusted, and how
//! much of that knowledge is durable.
//!
//! Each stripe has one [`Cell`]: four bits in RAM, two on disk. The cell decides whether parity may be used
//! as an input, and after an unclean stop it identifies the stripes that need a resync. The crate does no
//! I/O, takes no lock and never waits: changes are compare-and-swap, and a caller that has to wait polls.
//!
//! # The life of a cell
//!
//! ```
//! use stripe_bitmap::{Begun, Bitmap, BlockIndex, CELL_BYTES_PER_BLOCK, Cell, StripeLocks};
//!
//! // Writes a block of the bitmap. In between, a caller with members writes `image` to each, durably.
//! fn write_block(bitmap: &Bitmap, block: BlockIndex) {
//!     let mut image = [0; CELL_BYTES_PER_BLOCK];
//!     let write = bitmap.try_begin_block_write(block, &mut image).expect("no write of it is in flight");
//!     bitmap.finish_block_write(write, &image);
//! }
//!
//! let (bitmap, locks) = (Bitmap::new(1000, Cell::Unwritten), StripeLocks::new());
//! let (stripe, reactor) = (7, 0);
//! let (block, slot) = (bitmap.block_of(stripe), StripeLocks::slot_of(stripe));
//!
//! // The first write: write the whole stripe, then say so, then acknowledge.
//! locks.try_own(slot, reactor).expect("the slot is free");
//! assert_eq!(bitmap.begin_write(stripe), Begun::Unwritten);
//! bitmap.written_first(stripe);
//! assert_eq!(bitmap.cell(stripe), Cell::First);
//! assert!(!bitmap.intent_is_durable(stripe) && bitmap.is_behind(block));
//! write_block(&bitmap, block);
//! assert!(bitmap.intent_is_durable(stripe));
//! locks.release(slot, reactor);
//!
//! // The sweep: a cell that rests for a whole pass becomes Clean, after every member was flushed.
//! let mut sweeper = bitmap.sweeper();
//! assert_eq!(bitmap.age_block(&mut sweeper, block), 1);
//! let looked = bitmap.sweep_look(&mut sweeper, block, &locks);
//! // ... flush every member here ...
//! assert_eq!(bitmap.sweep_block(&mut sweeper, looked), 1);
//! assert_eq!(bitmap.cell(stripe), Cell::Clean);
//! assert!(!bitmap.has_dirty(block));
//!
//! // A later write: mark the stripe's region, make that durable, then write.
//! assert_eq!(bitmap.begin_write(stripe), Begun::Pending);
//! write_block(&bitmap, block);
//! assert_eq!(bitmap.begin_write(stripe), Begun::Durable);
//!
//! // A discard: the members may deallocate once the ticket is durable.
//! let ticket = bitmap.discard(stripe);
//! assert!(!bitmap.is_durable(ticket));
//! write_block(&bitmap, block);
//! assert!(bitmap.is_durable(ticket) && bitmap.cell(stripe) == Cell::Unwritten);
//! ```
//!
//! # After an unclean stop
//!
//! ```
//! use stripe_bitmap::{Begun, Bitmap, BlockIndex, CELL_BYTES_PER_BLOCK, Cell, LoadMode};
//!
//! // A bitmap with one stripe that is being written, and the image of its block that the members hold.
//! let (before, block) = (Bitmap::new(1000, Cell::Unwritten), BlockIndex(0));
//! before.written_first(7);
//! let mut image = [0; CELL_BYTES_PER_BLOCK];
//! let write = before.try_begin_block_write(block, &mut image).expect("none is in flight");
//! let generation = write.generation;
//! before.finish_block_write(write, &image);
//!
//! // The next start loads it. The generation continues, or the copies of two lives could be confused.
//! let bitmap = Bitmap::new(1000, Cell::Unwritten);
//! bitmap.set_generation(block, generation);
//! bitmap.load_block(block, &image, LoadMode::Unclean);
//! assert_eq!((bitmap.need_sync(), bitmap.next_need_sync(0)), (1, Some(7)));
//! assert_eq!(bitmap.next_need_sync_before(0, 7), None);
//! assert_eq!(bitmap.begin_write(7), Begun::NeedSync); // a write now has to make the whole stripe consistent
//! bitmap.resynced(7);
//! assert_eq!((bitmap.cell(7), bitmap.made_consistent()), (Cell::Dirty, 1));
//!
//! // Without a valid copy of a block, all of its stripes need a resync.
//! bitmap.load_stale(block);
//! assert_eq!(bitmap.need_sync(), 1000);
//! ```
//!
//! # When something fails
//!
//! ```
//! use stripe_bitmap::{Begun, Bitmap, BlockIndex, CELL_BYTES_PER_BLOCK, Cell};
//!
//! let (bitmap, block) = (Bitmap::new(64, Cell::Clean), BlockIndex(0));
//! let mut image = [0; CELL_BYTES_PER_BLOCK];
//! assert_eq!(bitmap.begin_write(0), Begun::Pending);
//!
//! // A block write that fails makes nothing durable, and uses up its generation.
//! let write = bitmap.try_begin_block_write(block, &mut image).expect("none is in flight");
//! assert!(bitmap.is_writing(block) && bitmap.try_begin_block_write(block, &mut [0; 4032]).is_none());
//! bitmap.abort_block_write(write);
//! assert!(!bitmap.intent_is_durable(0) && bitmap.is_due(block) && bitmap.generation(block) == 1);
//!
//! let write = bitmap.try_begin_block_write(block, &mut image).expect("none is in flight");
//! bitmap.finish_block_write(write, &image);
//! assert!(bitmap.intent_is_durable(0));
//!
//! // A data write did not reach every member, and none is to leave: the parity is no input from now on.
//! bitmap.torn(0);
//! assert_eq!(bitmap.cell(0), Cell::NeedSync);
//!
//! // A block has two places on each member. A repeated write makes them equal: one bad sector costs nothing.
//! let ticket = bitmap.request_write(block);
//! for _ in 0..2 {
//!     bitmap.request_repeat(block);
//!     let write = bitmap.try_begin_block_write(block, &mut image).expect("none is in flight");
//!     bitmap.finish_block_write(write, &image);
//! }
//! assert!(bitmap.is_durable(ticket) && bitmap.is_settled(block));
//! bitmap.unsettle(block); // as after a load, which read only one of the places
//! assert!(!bitmap.is_settled(block));
//! ```
//!
//! # Ownership, counts, and the table of states
//!
//! ```
//! use stripe_bitmap::{Bitmap, BlockIndex, Cell, CellCountsRaw, Event, StripeLocks, next};
//!
//! let (bitmap, locks) = (Bitmap::new(20_000, Cell::Clean), StripeLocks::new());
//! let slot = StripeLocks::slot_of(3);
//! assert_eq!((locks.try_own(slot, 1), locks.try_own(slot, 2)), (Ok(()), Err(1))); // reactor 1 has it
//! assert_eq!((locks.is_free(3), bitmap.cell_at_rest(3, &locks)), (false, None));
//! locks.release(slot, 1);
//! assert_eq!(bitmap.cell_at_rest(3, &locks), Some(Cell::Clean));
//!
//! bitmap.mark_precisely(true); // marks stay within a region of 32 stripes, as a degraded array needs
//! bitmap.anticipate(40); // brings the cell into the cache
//! let _ = bitmap.begin_write(40);
//! let marked = CellCountsRaw { clean: 16_128 - 32, dirty: 32, ..CellCountsRaw::default() };
//! assert_eq!(bitmap.count_block(BlockIndex(0)), marked);
//! assert_eq!(bitmap.count(), marked.plus(bitmap.count_block(BlockIndex(1))));
//! assert_eq!((bitmap.len(), bitmap.blocks(), bitmap.next_written(19_999)), (20_000, 2, Some(19_999)));
//! assert!(bitmap.memory_bytes() > 10_000);
//!
//! assert_eq!(next(Cell::Marked, Event::MarkDurable), Some(Cell::Dirty));
//! assert_eq!(next(Cell::First, Event::BeginWrite), None); // its owner has not finished
//! assert!(Cell::ALL.iter().all(|cell| cell.disk_code() < 4));
//! ```
//!
//! # A write, step by step
//! 1. [`StripeLocks::try_own`]: one reactor owns the stripe.
//! 2. [`Bitmap::begin_write`] says what comes next:
//!    - [`Begun::Durable`]: write the members now.
//!    - [`Begun::Pending`]: poll [`Bitmap::intent_is_durable`]. Until it is true, call
//!      [`Bitmap::try_begin_block_write`] at each turn; the caller that gets the write sends the block to all
//!      copies and calls [`Bitmap::finish_block_write`]. The write serves every stripe that was marked before
//!      the write began.
//!    - [`Begun::NeedSync`]: write so that the whole stripe is consistent, then call [`Bitmap::resynced`].
//!    - [`Begun::Unwritten`]: write the whole stripe, flush volatile caches, call [`Bitmap::written_first`],
//!      and poll as for `Pending`.
//! 3. When the write is on the members, call [`StripeLocks::release`] and acknowledge the write.
//!
//! In the background a [`Sweeper`] takes resting cells back to Clean.
//!
//! # Invariants
//! - A cell that reads `Dirty` or `Aged` is Dirty or NeedSync on every copy that a start may read.
//! - A cell is `Clean` only if every member was flushed after the last write to its stripe had ended.
//! - One write of a block is in flight at a time, and the generations of a block only grow.
//! - Cells beyond the last stripe are Unwritten; they are never reported or counted.
//!
//! # Files
//! - `cell`: the states and their table
//! - `word`: sixteen cells at once
//! - `shape`: stripes, words, regions, blocks
//! - `bitmap`: the cells, and the calls of a writer
//! - `block`: the data written to disk and loaded from it
//! - `sweep`: the way back to Clean
//! - `locks`: the reactor that owns a stripe
//! - `sync`: the atomics of core, loom or shuttle

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

/// The examples of README.md, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
