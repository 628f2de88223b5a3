//! What goes to disk, and what comes from it: block writes, tickets, loading.
//!
//! A block's whole durability is two numbers:
//!
//! ```text
//!   turn     | generation begun last (60 bits) | repeat | single | behind | in flight |
//!   durable  | generation that is on all copies |
//! ```
//!
//! `single`: the generation begun last may say something else than the one before it, which lies in the other of the
//! block's two places. A write that begins with nothing to tell (not `behind`) repeats its predecessor and takes the bit
//! away: then either place alone says what the block says. `repeat`: such a write was asked for.
//!
//! One write of a block is in flight at a time. [`Bitmap::try_begin_block_write`] counts the generation up, sets
//! `in flight`, clears `behind`, *then* takes the snapshot. [`Bitmap::finish_block_write`] moves cells to Dirty,
//! *then* says `durable`, *then* clears `in flight`. A write that is aborted leaves its generation used: it may be on some
//! copies, and the next one must be newer than it.
//!
//! # Invariants, with their arguments
//! - **A change is in the first write that begins after it.** Whoever changes a cell then does a read-modify-write of
//!   `turn` (Release), which sets `behind`; a writer's swap of `turn` (Acquire) either comes after it in that word's
//!   order, reads from its chain and so sees the change, or came before, and `behind` stands and the change waits for
//!   the generation after: started + 1. Every change of `turn` is a read-modify-write, so no chain is ever broken.
//!   A plain load of `turn` after the change would not do: store-then-load on either side may cross.
//! - **At finish, what the snapshot said is what every copy says**, until the next write of the block begins, and that
//!   cannot begin before this one has finished. So a lane that was Dirty in the snapshot and now is `Marked` or `First` is
//!   durably Dirty *whatever happened in between*: also if it was swept to Clean, or discarded and written anew, and
//!   marked again meanwhile. The next snapshot will hold it as it then is, and a Clean there went through a sweep.
//! - **A lane that is Dirty in RAM was pessimistic in the snapshot in flight**, finished or aborted: it was made Dirty
//!   by an earlier finish (then the snapshot has it Dirty) or by a resync (the snapshot has NeedSync or Dirty).
//! - Copies that differ: a crash in the midst of a block write leaves copies of two generations. The newest
//!   is loaded; the caller writes the block to every copy before it admits a write there.

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

/// What is known of one on-disk block. A cache line of its own: 64 bytes beside the 8064 of its cells.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct BlockState {
    /// Generation, behind, in flight, as drawn above; changed by everyone, by read-modify-write only.
    turn: AtomicU64,
    /// The generation that is on all copies; stored by the block's writer (Release, after the cells), read by ticket
    /// holders (Acquire).
    durable: AtomicU64,
    /// Regions of the block that were written or marked since the last sweep: counted up by writers, set by
    /// the sweeper. A heuristic, Relaxed.
    pub(crate) marks: AtomicU32,
    /// How often the block was aged: by the sweeper alone, Relaxed.
    pub(crate) passes: AtomicU32,
}

/// A block write in flight. Every one is answered, by finish or by abort, or the block is never written again.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block write is finished or aborted"]
#[non_exhaustive]
pub struct BlockWrite {
    /// Which block.
    pub block: BlockIndex,
    /// The generation for its header.
    pub generation: u64,
}

/// What a discard waits for: a block's generation to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the members deallocate only after the ticket is durable"]
pub struct Ticket {
    /// Which block.
    pub block: BlockIndex,
    /// The first generation that holds the change.
    pub generation: u64,
}

/// How the array was stopped before this load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadMode {
    /// In order: the disk's word is taken.
    Clean,
    /// In the midst of writes: what is Dirty on disk needs a resync.
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

    /// The disk has something to learn: called after the change. The generation that will tell it.
    pub(crate) fn fall_behind(&self) -> u64 {
        // Release: the change goes before it. Acquire: keeps the chain whole for those after.
        (self.turn.fetch_or(BEHIND, Ordering::AcqRel) >> GENERATION_SHIFT) + 1
    }

    /// Clears `in flight` of a generation. Panics when that is not the one in flight.
    fn end(&self, generation: u64) {
        let turn = self.turn.fetch_and(!IN_FLIGHT, Ordering::AcqRel);
        assert!(
            turn & IN_FLIGHT != 0 && turn >> GENERATION_SHIFT == generation,
            "another block write is in flight"
        );
    }
}

impl Bitmap {
    /// Begins to write a block, unless a write of it is in flight: fills `cells` with its on-disk image and says which
    /// generation it is. Whoever gets `Some` serves everyone who waits for the block.
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
            // Acquire: the changes of all who set `behind` are in the snapshot; so are the cells of the last finish.
            match turn.compare_exchange_weak(seen, begun, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break generation,
                Err(now) => seen = now,
            }
        };
        self.snapshot(block, cells);
        Some(BlockWrite { block, generation })
    }

    /// All copies of the block hold `cells`, which is what the write began with, durably.
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
        // Release: a ticket holder that sees it may deallocate.
        state.durable.store(write.generation, Ordering::Release);
        state.end(write.generation);
    }

    /// The block write failed: no copy can be trusted to hold it, nor not to. What was Marked or First stays so; the
    /// caller fails the members that failed, then writes again.
    pub fn abort_block_write(&self, write: BlockWrite) {
        let state = self.block_state(write.block);
        state.fall_behind();
        state.end(write.generation);
    }

    /// Whether the change that the ticket was given for is on all copies.
    #[must_use]
    pub fn is_durable(&self, ticket: Ticket) -> bool {
        self.block_state(ticket.block).durable.load(Ordering::Acquire) >= ticket.generation
    }

    /// Notes that a block is to be written some time, for a reason of the caller's (a copy that has to be made).
    /// The ticket is durable when such a write has ended.
    pub fn request_write(&self, block: BlockIndex) -> Ticket {
        Ticket { block, generation: self.block_state(block).fall_behind() }
    }

    /// Whether the disk has something to learn that no write begun so far holds. A clean stop writes these blocks.
    #[must_use]
    pub fn is_behind(&self, block: BlockIndex) -> bool {
        self.block_state(block).turn.load(Ordering::Acquire) & BEHIND != 0
    }

    /// Asks for one more write of a block that has nothing to tell, so that both its places say the same.
    pub fn request_repeat(&self, block: BlockIndex) {
        self.block_state(block).turn.fetch_or(REPEAT, Ordering::AcqRel);
    }

    /// Whether there is a reason to write the block: the disk has something to learn, or a repetition was asked for.
    #[must_use]
    pub fn is_due(&self, block: BlockIndex) -> bool {
        self.block_state(block).turn.load(Ordering::Acquire) & (BEHIND | REPEAT) != 0
    }

    /// Whether both places of the block say what the block says: nothing is behind or being written, and the last write
    /// repeated the one before. One bad sector then costs nothing.
    #[must_use]
    pub fn is_settled(&self, block: BlockIndex) -> bool {
        self.block_state(block).turn.load(Ordering::Acquire) & (BEHIND | IN_FLIGHT | SINGLE) == 0
    }

    /// Notes that the two places of the block may differ, as after a load. Before the array serves.
    pub fn unsettle(&self, block: BlockIndex) {
        self.block_state(block).turn.fetch_or(SINGLE, Ordering::AcqRel);
    }

    /// Whether a write of the block is in flight.
    #[must_use]
    pub fn is_writing(&self, block: BlockIndex) -> bool {
        self.block_state(block).turn.load(Ordering::Acquire) & IN_FLIGHT != 0
    }

    /// The generation begun last; 0 before the first.
    #[must_use]
    pub fn generation(&self, block: BlockIndex) -> u64 {
        self.block_state(block).turn.load(Ordering::Acquire) >> GENERATION_SHIFT
    }

    /// The newest generation found on any copy, valid or not trusted: the next write is newer. Before the array serves.
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

    /// Takes a block's cells from its newest valid copy. Before the array serves. Any bytes are cells.
    ///
    /// The block is behind afterwards if RAM says otherwise than the copy. If copies differ, the caller requests a
    /// write, and finishes it before it admits a write to the block's stripes.
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

    /// No copy of the block is valid: every stripe needs a resync, the Unwritten included. Before the array serves;
    /// the block is behind, and is written before a write to its stripes is admitted.
    pub fn load_stale(&self, block: BlockIndex) {
        let need_sync = self.count_block(block).need_sync;
        for index in self.block_words(block) {
            self.words[index]
                .store(word::splat(Cell::NeedSync) & (self.lanes_in_use(index) * 0xf), Ordering::Release);
        }
        self.recount_need_sync(block, need_sync);
        self.block_state(block).fall_behind();
    }

    /// The on-disk image of a block as it is now, word by word. Beyond the last stripe: Unwritten.
    fn snapshot(&self, block: BlockIndex, cells: &mut [u8; CELL_BYTES_PER_BLOCK]) {
        let (images, _) = cells.as_chunks_mut::<DISK_BYTES>();
        let mut words = self.words[self.block_words(block)].iter();
        for image in images {
            // An image longer than the bitmap ends in cells that are Unwritten.
            *image = word::to_disk(words.next().map_or(0, |word| word.load(Ordering::Acquire)));
        }
    }
}
