//! Exchange with the disk: block writes, tickets, loading.
//!
//! Two numbers hold the whole durability of a block:
//!
//! ```text
//!   turn     | generation begun last (60 bits) | repeat | single | behind | in flight |
//!   durable  | generation that is on all copies |
//! ```
//!
//! `single`: the generation begun last may differ in content from the one before it, which lies in the other
//! of the block's two places. A write that begins with nothing new (`behind` not set) repeats its predecessor
//! and clears the bit: from then on, either place alone has the block's content. `repeat`: such a write was
//! requested.
//!
//! One write of a block is in flight at a time. [`Bitmap::try_begin_block_write`] increments the generation,
//! sets `in flight`, clears `behind`, and *then* takes the snapshot. [`Bitmap::finish_block_write`] moves
//! cells to Dirty, *then* stores `durable`, *then* clears `in flight`. An aborted write has used up its
//! generation: that generation may be on some copies, and the next one must be newer.
//!
//! # Invariants, with their arguments
//! - **A change is in the first write that begins after it.** A thread that changes a cell then does a
//!   read-modify-write of `turn` (Release), which sets `behind`. A block write begins with a swap of `turn`
//!   (Acquire). Either this swap comes after the change's in the order of that word; then it reads from the
//!   change's chain, and the snapshot has the change. Or the swap came before; then `behind` remains set, and
//!   the change waits for the generation after, started + 1. Every change of `turn` is a read-modify-write,
//!   so no chain is ever broken. A plain load of `turn` after the change would not do: a store followed by a
//!   load, on either side, may cross.
//! - **At finish, every copy says what the snapshot said**, until the next write of the block begins, which
//!   cannot happen before this one has finished. So a lane that was Dirty in the snapshot and now is `Marked`
//!   or `First` is durably Dirty *whatever happened in between*, even if it was swept to Clean, or discarded
//!   and rewritten, and then marked again. The next snapshot will hold the lane's state at that time, and a
//!   Clean there went through a sweep.
//! - **A lane that is Dirty in RAM was pessimistic in the snapshot in flight**, finished or aborted: the lane
//!   became Dirty by an earlier finish (then the snapshot has it Dirty) or by a resync (the snapshot has
//!   NeedSync or Dirty).
//! - Copies may differ: a crash during a block write leaves copies of two generations. The newest is loaded;
//!   the caller writes the block to every copy before it admits a write to the block's stripes.

use crate::bitmap::Bitmap;
use crate::cell::{Cell, Event};
use crate::shape::{BlockIndex, CELL_BYTES_PER_BLOCK};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::word::{self, DISK_BYTES};

const IN_FLIGHT: u64 = 1;
const BEHIND: u64 = 2;
const SINGLE: u64 = 4;
const REPEAT: u64 = 8;
const GENERATION_SHIFT: u32 = 4;

/// The state of one on-disk block, in a cache line of its own: 64 bytes beside the 8064 of its cells.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct BlockState {
    /// Generation, `behind` and `in flight`, as drawn above; changed by all threads, by read-modify-write
    /// only.
    turn: AtomicU64,
    /// The generation that is on all copies. Stored by the block's writer (Release, after the cells), read by
    /// ticket holders (Acquire).
    durable: AtomicU64,
    /// Regions of the block that were written or marked since the last sweep: counted up by writers, set by
    /// the sweeper. Relaxed: only a heuristic.
    pub(crate) marks: AtomicU32,
    /// How often the block was aged. Changed by the sweeper alone, Relaxed.
    pub(crate) passes: AtomicU32,
}

/// A block write in flight. Each must be finished or aborted; otherwise the block is never written again.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block write is finished or aborted"]
#[non_exhaustive]
pub struct BlockWrite {
    /// The block that is written.
    pub block: BlockIndex,
    /// The generation for its header.
    pub generation: u64,
}

/// The condition that a discard waits for: a generation of a block becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the members deallocate only after the ticket is durable"]
pub struct Ticket {
    /// The block with the change.
    pub block: BlockIndex,
    /// The first generation that holds the change.
    pub generation: u64,
}

/// The kind of stop that preceded this load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadMode {
    /// Orderly stop: the cells on disk are taken as they are.
    Clean,
    /// Stop during writes: stripes that are Dirty on disk need a resync.
    Unclean,
}

impl BlockState {
    pub(crate) fn new() -> BlockState {
        BlockState {
            turn: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            marks: AtomicU32::new(0),
            passes: AtomicU32::new(0),
        }
    }

    /// Notes, after a change, that the disk does not have it yet. Returns the generation that will contain
    /// it.
    pub(crate) fn fall_behind(&self) -> u64 {
        // Release: the change goes before it. Acquire: keeps the chain whole for later threads.
        (self.turn.fetch_or(BEHIND, Ordering::AcqRel) >> GENERATION_SHIFT) + 1
    }

    /// Clears `in flight` of a generation. Panics if another generation, or none, is in flight.
    fn end(&self, generation: u64) {
        let turn = self.turn.fetch_and(!IN_FLIGHT, Ordering::AcqRel);
        assert!(
            turn & IN_FLIGHT != 0 && turn >> GENERATION_SHIFT == generation,
            "another block write is in flight"
        );
    }
}

impl Bitmap {
    /// Begins a write of a block, unless one is in flight: fills `cells` with the block's on-disk image and
    /// returns the generation. A caller that gets `Some` writes for every thread that waits for the block.
    pub fn try_begin_block_write(
        &self,
        block: BlockIndex,
        cells: &mut [u8; CELL_BYTES_PER_BLOCK],
    ) -> Option<BlockWrite> {
        let turn = &self.block_state(block).turn;
        let mut seen = turn.load(Ordering::Relaxed);
        let generation = loop {
            if seen & IN_FLIGHT != 0 {
                return None;
            }
            let generation = (seen >> GENERATION_SHIFT) + 1;
            let single = if seen & BEHIND != 0 { SINGLE } else { 0 };
            let begun = generation << GENERATION_SHIFT | IN_FLIGHT | single;
            // Acquire: the snapshot includes the changes of all threads that set `behind`, and the cells of
            // the last finish.
            match turn.compare_exchange_weak(seen, begun, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break generation,
                Err(now) => seen = now,
            }
        };
        self.snapshot(block, cells);
        Some(BlockWrite { block, generation })
    }

    /// Ends a block write: all copies of the block now durably hold `cells`, the image that the write began
    /// with.
    pub fn finish_block_write(&self, write: BlockWrite, cells: &[u8; CELL_BYTES_PER_BLOCK]) {
        let state = self.block_state(write.block);
        let (images, _) = cells.as_chunks::<DISK_BYTES>();
        for (index, image) in self.block_words(write.block).zip(images) {
            let dirty = word::dirty_on_disk(word::from_disk(*image));
            if dirty != 0 {
                self.move_some(index, dirty, Cell::Marked, Event::MarkDurable);
                self.move_some(index, dirty, Cell::First, Event::MarkDurable);
            }
        }
        // Release: a ticket holder that sees this generation may deallocate.
        state.durable.store(write.generation, Ordering::Release);
        state.end(write.generation);
    }

    /// Ends a block write that failed: any copy may or may not hold it. Marked and First cells stay so. The
    /// caller fails the members that failed, then writes again.
    pub fn abort_block_write(&self, write: BlockWrite) {
        let state = self.block_state(write.block);
        state.fall_behind();
        state.end(write.generation);
    }

    /// Whether the change for which the ticket was issued is on all copies.
    #[must_use]
    pub fn is_durable(&self, ticket: Ticket) -> bool {
        self.block_state(ticket.block).durable.load(Ordering::Acquire) >= ticket.generation
    }

    /// Requests a write of a block at some later time, for a reason of the caller's (for example, a copy that
    /// has to be made). The ticket is durable when such a write has ended.
    pub fn request_write(&self, block: BlockIndex) -> Ticket {
        Ticket { block, generation: self.block_state(block).fall_behind() }
    }

    /// Whether the disk lacks a change that no write begun so far holds. A clean stop writes these blocks.
    #[must_use]
    pub fn is_behind(&self, block: BlockIndex) -> bool {
        self.block_state(block).turn.load(Ordering::Acquire) & BEHIND != 0
    }

    /// Requests one more write of a block that has no new change, so that both its places have the same
    /// content.
    pub fn request_repeat(&self, block: BlockIndex) {
        self.block_state(block).turn.fetch_or(REPEAT, Ordering::AcqRel);
    }

    /// Whether there is a reason to write the block: the disk lacks a change, or a repetition was requested.
    #[must_use]
    pub fn is_due(&self, block: BlockIndex) -> bool {
        self.block_state(block).turn.load(Ordering::Acquire) & (BEHIND | REPEAT) != 0
    }

    /// Whether both places of the block have the current content: no change is missing or being written, and
    /// the last write repeated the one before. One bad sector then costs nothing.
    #[must_use]
    pub fn is_settled(&self, block: BlockIndex) -> bool {
        self.block_state(block).turn.load(Ordering::Acquire) & (BEHIND | IN_FLIGHT | SINGLE) == 0
    }

    /// Notes that the two places of the block may differ, as after a load. Called before the array serves.
    pub fn unsettle(&self, block: BlockIndex) {
        self.block_state(block).turn.fetch_or(SINGLE, Ordering::AcqRel);
    }

    /// Whether a write of the block is in flight.
    #[must_use]
    pub fn is_writing(&self, block: BlockIndex) -> bool {
        self.block_state(block).turn.load(Ordering::Acquire) & IN_FLIGHT != 0
    }

    /// The generation begun last; 0 before the first write.
    #[must_use]
    pub fn generation(&self, block: BlockIndex) -> u64 {
        self.block_state(block).turn.load(Ordering::Acquire) >> GENERATION_SHIFT
    }

    /// Sets the generation to the newest found on any copy, valid or not trusted: the next write is newer.
    /// Called before the array serves.
    pub fn set_generation(&self, block: BlockIndex, generation: u64) {
        assert!(
            generation < 1 << (u64::BITS - GENERATION_SHIFT - 1),
            "a generation that no array has lived to see"
        );
        let state = self.block_state(block);
        let turn = state.turn.load(Ordering::Relaxed);
        assert_eq!(turn & IN_FLIGHT, 0, "generations are set before the first block write");
        state
            .turn
            .store(generation << GENERATION_SHIFT | turn & (BEHIND | SINGLE | REPEAT), Ordering::Release);
        state.durable.store(generation, Ordering::Release);
    }

    /// Loads a block's cells from its newest valid copy. Called before the array serves. Any bytes are valid
    /// cells.
    ///
    /// If the loaded cells differ from the copy, the block is behind afterwards. If copies differ, the caller
    /// requests a write, and finishes it before it admits a write to the block's stripes.
    pub fn load_block(&self, block: BlockIndex, cells: &[u8; CELL_BYTES_PER_BLOCK], mode: LoadMode) {
        let (images, _) = cells.as_chunks::<DISK_BYTES>();
        let need_sync = self.count_block(block).need_sync;
        let mut changed = false;
        for (index, image) in self.block_words(block).zip(images) {
            let mut word = word::from_disk(*image);
            if mode == LoadMode::Unclean {
                word = word::moved(word, word::equal(word, Cell::Dirty), Cell::Dirty, Event::UncleanLoad);
            }
            word &= self.lanes_in_use(index) * 0xf;
            changed |= word::to_disk(word) != *image;
            self.words[index].store(word, Ordering::Release);
        }
        self.recount_need_sync(block, need_sync);
        if changed {
            self.block_state(block).fall_behind();
        }
    }

    /// Loads a block without a valid copy: every stripe needs a resync, even an Unwritten one. Called before
    /// the array serves. The block is behind, and must be written before a write to its stripes is admitted.
    pub fn load_stale(&self, block: BlockIndex) {
        let need_sync = self.count_block(block).need_sync;
        for index in self.block_words(block) {
            self.words[index]
                .store(word::splat(Cell::NeedSync) & (self.lanes_in_use(index) * 0xf), Ordering::Release);
        }
        self.recount_need_sync(block, need_sync);
        self.block_state(block).fall_behind();
    }

    /// Takes the current on-disk image of a block, word by word. Cells beyond the last stripe are Unwritten.
    fn snapshot(&self, block: BlockIndex, cells: &mut [u8; CELL_BYTES_PER_BLOCK]) {
        let (images, _) = cells.as_chunks_mut::<DISK_BYTES>();
        let mut words = self.words[self.block_words(block)].iter();
        for image in images {
            // An image longer than the bitmap ends in Unwritten cells.
            *image = word::to_disk(words.next().map_or(0, |word| word.load(Ordering::Acquire)));
        }
    }
}
