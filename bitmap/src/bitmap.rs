//! The cells of one array, and the changes that a writer, a resync and a discard make to them.
//!
//! ```text
//!   words    | 16 cells | 16 cells | ...                  one u64 each, shared, compare-and-swap
//!   blocks   | turn, durable, marks, passes | ...         one cache line for 1008 words
//! ```
//!
//! Marking is by region: the Clean cells of 32 neighbouring stripes become Marked together, so writes to
//! neighbours find their intent already recorded. If more than [`WIDEN_AFTER_MARKS`] regions of a block were
//! marked recently, the next mark covers the whole block: a random load then pays for one block write, not
//! for 504. `Unwritten` and `NeedSync` cells do not change. A degraded array marks by region only
//! ([`Bitmap::mark_precisely`]), because an unclean stop costs it every stripe that is marked.
//!
//! # Orderings
//! - A change of a cell is AcqRel and [`Bitmap::cell`] is Acquire: a thread that sees a state also sees what
//!   led to it (the owner's preparation before `First`, the block write before `Dirty`).
//! - Every change that the disk must learn of is followed by a read-modify-write of the block's turn. The
//!   argument continues in `block`.
//! - The load in [`Bitmap::begin_write`] is `SeqCst`; see "The race" in `sweep`.

use crate::Ticket;
use crate::block::BlockState;
use crate::cell::{Cell, Event, next};
use crate::locks::StripeLocks;
use crate::shape::{
    BlockIndex, STRIPES_MAX, STRIPES_PER_BLOCK, WORDS_PER_BLOCK, WORDS_PER_REGION, block_of, place,
};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::word::{self, LANES};

/// Number of regions of a block that may be marked one by one; the next mark takes the whole block. A load
/// pays for four block writes before it is taken to be random; with a higher limit it would pay for more,
/// after each quiet second.
pub const WIDEN_AFTER_MARKS: u32 = 4;

/// The cells of one array, shared by its reactors.
#[derive(Debug)]
pub struct Bitmap {
    /// Sixteen cells each; changed by all threads, by compare-and-swap only.
    pub(crate) words: Box<[AtomicU64]>,
    /// The state of each on-disk block. [`BlockState`] says which thread changes which field.
    pub(crate) blocks: Box<[BlockState]>,
    /// Number of cells in use. The lanes beyond stay Unwritten.
    stripes: u64,
    /// See [`Bitmap::need_sync`]. Counted up before a cell becomes NeedSync, and down after it has left that
    /// state, by the code that changes the cell (AcqRel). So a thread that reads 0 (Acquire) sees no cell
    /// that was NeedSync before.
    need_sync: AtomicU64,
    /// See [`Bitmap::made_consistent`]. Added to (Release) after the cell changes, read (Acquire) before a
    /// look.
    made_consistent: AtomicU64,
    /// Whether marks stay within their region. Stored by the steward, read by every thread that marks.
    /// Relaxed: a mark that is wider than necessary is swept like any other.
    precise: AtomicBool,
    /// Whether the one sweeper has been handed out. Relaxed: the flag guards a token, not data.
    pub(crate) has_sweeper: AtomicBool,
}

/// The next step for a writer; see the crate's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Begun {
    /// The intent is durable: write now.
    Durable,
    /// Wait for [`Bitmap::intent_is_durable`], and drive the block write meanwhile.
    Pending,
    /// Write the whole stripe first, then call [`Bitmap::written_first`].
    Unwritten,
    /// Make the whole stripe consistent, then call [`Bitmap::resynced`].
    NeedSync,
}

/// Number of stripes in each state; First, Marked and Aged count as dirty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the count of the state of its name")]
pub struct CellCountsRaw {
    pub unwritten: u64,
    pub clean: u64,
    pub dirty: u64,
    pub need_sync: u64,
}

impl CellCountsRaw {
    /// The sums of both counts, state by state.
    #[must_use]
    pub fn plus(self, other: CellCountsRaw) -> CellCountsRaw {
        CellCountsRaw {
            unwritten: self.unwritten + other.unwritten,
            clean: self.clean + other.clean,
            dirty: self.dirty + other.dirty,
            need_sync: self.need_sync + other.need_sync,
        }
    }
}

impl Bitmap {
    /// Creates a bitmap of `stripes` cells (1..=[`STRIPES_MAX`]) in a settled state: Unwritten, Clean, Dirty
    /// or NeedSync. No block is behind the disk: next, either the blocks are loaded, or the creation of an
    /// array writes every one. An Unwritten bitmap is zeroed memory that the kernel has not handed out yet.
    #[must_use]
    pub fn new(stripes: u64, initial: Cell) -> Bitmap {
        assert!(
            (1..=STRIPES_MAX).contains(&stripes),
            "a bitmap has 1..={STRIPES_MAX} stripes, not {stripes}"
        );
        assert!(
            matches!(initial, Cell::Unwritten | Cell::Clean | Cell::Dirty | Cell::NeedSync),
            "no array begins as {initial:?}"
        );
        // vec![0; n] asks for zeroed memory. The map and collect below reuse it in place and compile to
        // nothing.
        let words: Vec<u64> = vec![word::splat(initial); stripes.div_ceil(LANES) as usize];
        let bitmap = Bitmap {
            words: words.into_iter().map(AtomicU64::new).collect(),
            blocks: (0..stripes.div_ceil(STRIPES_PER_BLOCK)).map(|_| BlockState::new()).collect(),
            stripes,
            need_sync: AtomicU64::new(if initial == Cell::NeedSync { stripes } else { 0 }),
            made_consistent: AtomicU64::new(0),
            precise: AtomicBool::new(false),
            has_sweeper: AtomicBool::new(false),
        };
        let last = bitmap.words.len() - 1;
        if initial != Cell::Unwritten {
            bitmap.words[last]
                .store(word::splat(initial) & (bitmap.lanes_in_use(last) * 0xf), Ordering::Relaxed);
        }
        bitmap
    }

    /// Number of stripes (not blocks).
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a bitmap has at least one stripe")]
    pub fn len(&self) -> u64 {
        self.stripes
    }

    /// Number of on-disk blocks; block indices are below this number.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// The block that holds a stripe's cell.
    #[inline]
    #[must_use]
    pub fn block_of(&self, stripe: u64) -> BlockIndex {
        assert!(stripe < self.stripes);
        block_of(stripe)
    }

    /// Memory that the bitmap uses, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        (size_of::<Bitmap>() + size_of_val(&*self.words) + size_of_val(&*self.blocks)) as u64
    }

    /// The state of one stripe.
    #[inline]
    #[must_use]
    pub fn cell(&self, stripe: u64) -> Cell {
        let (index, lane) = self.place(stripe);
        word::get(self.words[index].load(Ordering::Acquire), lane)
    }

    /// The cell of a stripe without an owner; `None` if the stripe is owned. `Unwritten` is then also what
    /// the disk says: a discard changes the cell at once, and is durable before its owner releases the
    /// stripe. Hence the cell is read first, and the lock after it.
    #[must_use]
    pub fn cell_at_rest(&self, stripe: u64, locks: &StripeLocks) -> Option<Cell> {
        let cell = self.cell(stripe);
        locks.is_free(stripe).then_some(cell)
    }

    /// Brings a stripe's cell into the cache. The load's value is not used, so the core does not wait for it;
    /// a prefetch instruction would do the same, but needs unsafe code.
    #[inline]
    pub fn anticipate(&self, stripe: u64) {
        std::hint::black_box(self.words[(stripe / LANES) as usize].load(Ordering::Relaxed));
    }

    /// Whether the intent is durable. The owner polls this after [`Begun::Pending`] and
    /// [`Bitmap::written_first`], and keeps the stripe's lock meanwhile. Only a finished block write makes it
    /// true: a second writer waits for durability, not for a value. (`Aged` counts: the sweep may have passed
    /// since, and cannot take the cell further while the lock is held.)
    #[inline]
    #[must_use]
    pub fn intent_is_durable(&self, stripe: u64) -> bool {
        matches!(self.cell(stripe), Cell::Dirty | Cell::Aged)
    }

    /// Begins a write by the stripe's owner. Marks the stripe, and its surroundings, if necessary.
    ///
    /// Panics on `First`: the owner of a first write has not finished, and a stripe has only one owner.
    #[inline(always)]
    pub fn begin_write(&self, stripe: u64) -> Begun {
        let (index, lane) = self.place(stripe);
        loop {
            // SeqCst: comes after the owner's swap of the stripe's lock; see `sweep`.
            let word = self.words[index].load(Ordering::SeqCst);
            match word::get(word, lane) {
                Cell::Dirty => return Begun::Durable,
                Cell::Marked => return Begun::Pending,
                Cell::Unwritten => return Begun::Unwritten,
                Cell::NeedSync => return Begun::NeedSync,
                Cell::First => {
                    panic!("a second writer of stripe {stripe} while its first write is not durable")
                }
                Cell::Clean => self.mark_around(stripe),
                // If the sweep wins this race, the next round of the loop finds the cell Clean.
                Cell::Aged => {
                    let taken_back = word::moved(word, word::only(lane), Cell::Aged, Event::BeginWrite);
                    if self.swap(index, word, taken_back) {
                        return Begun::Durable;
                    }
                }
            }
        }
    }

    /// Notes that an unwritten stripe has been written as a whole, and flushed on members with volatile
    /// caches. The write may be acknowledged when [`Bitmap::intent_is_durable`] is true.
    pub fn written_first(&self, stripe: u64) {
        self.apply(stripe, Event::WrittenFirst);
        self.block_state(block_of(stripe)).fall_behind();
        self.made_consistent.fetch_add(1, Ordering::Release);
    }

    /// Notes that the whole stripe is consistent: data and parity match on all members.
    pub fn resynced(&self, stripe: u64) {
        self.apply(stripe, Event::Resynced);
        self.need_sync.fetch_sub(1, Ordering::AcqRel);
        self.block_state(block_of(stripe)).fall_behind();
        self.made_consistent.fetch_add(1, Ordering::Release);
    }

    /// Notes that a write of the stripe's owner did not reach every member, although no member leaves the
    /// array for it. Until a resync, the parity must not be an input. Panics unless the stripe's mark is
    /// durable, as it is before any write.
    pub fn torn(&self, stripe: u64) {
        self.need_sync.fetch_add(1, Ordering::AcqRel);
        if self.apply(stripe, Event::Torn) == Cell::NeedSync {
            self.need_sync.fetch_sub(1, Ordering::AcqRel);
        }
        self.block_state(block_of(stripe)).fall_behind();
    }

    /// How often a whole stripe was made consistent ([`Bitmap::written_first`], [`Bitmap::resynced`]) and its
    /// cell dirtied after its last write, or without a write. A sweeper that finds the same number as before
    /// its last look has seen all those cells.
    #[must_use]
    pub fn made_consistent(&self) -> u64 {
        self.made_consistent.load(Ordering::Acquire)
    }

    /// Upper bound on the number of stripes that need a resync at this moment. Costs one load.
    #[must_use]
    pub fn need_sync(&self) -> u64 {
        self.need_sync.load(Ordering::Acquire)
    }

    /// Corrects the count after a block was loaded that had `before` stripes in need of a resync. Called
    /// before the array serves.
    pub(crate) fn recount_need_sync(&self, block: BlockIndex, before: u64) {
        let now = self.count_block(block).need_sync;
        // If the count falls, the difference wraps, and the sum is still right.
        self.need_sync.fetch_add(now.wrapping_sub(before), Ordering::AcqRel);
    }

    /// Discards the stripe's data, by its owner: reads return zeros from now on. The members may be told to
    /// deallocate once the ticket is durable. Panics on `First`.
    pub fn discard(&self, stripe: u64) -> Ticket {
        if self.apply(stripe, Event::Discarded) == Cell::NeedSync {
            self.need_sync.fetch_sub(1, Ordering::AcqRel);
        }
        let block = block_of(stripe);
        Ticket { block, generation: self.block_state(block).fall_behind() }
    }

    /// Restricts marks to their region, or allows a mark of the whole block where writes are scattered over
    /// it.
    pub fn mark_precisely(&self, precise: bool) {
        if self.precise.load(Ordering::Relaxed) != precise {
            self.precise.store(precise, Ordering::Relaxed);
        }
    }

    /// The first stripe at or after `from` that needs a resync.
    #[must_use]
    pub fn next_need_sync(&self, from: u64) -> Option<u64> {
        self.next_need_sync_before(from, self.stripes)
    }

    /// The first stripe at or after `from`, and before `end`, that needs a resync. For callers that may look
    /// at only so many cells at a time.
    #[must_use]
    pub fn next_need_sync_before(&self, from: u64, end: u64) -> Option<u64> {
        self.find(from, end, |word| word::equal(word, Cell::NeedSync))
    }

    /// The first stripe at or after `from` that is not Unwritten.
    #[must_use]
    pub fn next_written(&self, from: u64) -> Option<u64> {
        self.find(from, self.stripes, |word| {
            if word == 0 { 0 } else { word::ALL & !word::equal(word, Cell::Unwritten) }
        })
    }

    /// Counts all stripes; each word is read at its own moment. Takes about 0.3 ms per million stripes, so a
    /// reactor counts block by block.
    #[must_use]
    pub fn count(&self) -> CellCountsRaw {
        (0..self.blocks())
            .map(|block| self.count_block(BlockIndex(block)))
            .fold(Default::default(), CellCountsRaw::plus)
    }

    /// Counts the stripes of one block.
    #[must_use]
    pub fn count_block(&self, block: BlockIndex) -> CellCountsRaw {
        let mut counts = CellCountsRaw::default();
        for words in self.words[self.block_words(block)].chunks(word::COUNTED_MAX) {
            let (mut clean, mut dirty, mut need_sync) = (0, 0, 0);
            for word in words {
                let word = word.load(Ordering::Acquire);
                clean += word::equal(word, Cell::Clean);
                dirty += word::dirty_on_disk(word);
                need_sync += word::equal(word, Cell::NeedSync);
            }
            counts.clean += word::lanes_counted(clean);
            counts.dirty += word::lanes_counted(dirty);
            counts.need_sync += word::lanes_counted(need_sync);
        }
        let stripes = (self.stripes - u64::from(block.0) * STRIPES_PER_BLOCK).min(STRIPES_PER_BLOCK);
        counts.unwritten = stripes - counts.clean - counts.dirty - counts.need_sync;
        counts
    }

    /// Marks the Clean cells of the stripe's region, or of its block if writes are scattered over the block.
    #[cold]
    fn mark_around(&self, stripe: u64) {
        let block = block_of(stripe);
        let state = self.block_state(block);
        // Relaxed: only a heuristic. Of two writers at once, both may mark a region where one would have
        // widened.
        let words = match state.marks.fetch_add(1, Ordering::Relaxed) {
            0..WIDEN_AFTER_MARKS => self.region_words(stripe),
            _ if self.precise.load(Ordering::Relaxed) => self.region_words(stripe),
            _ => self.block_words(block),
        };
        for index in words {
            self.move_all(index, Cell::Clean, Event::BeginWrite);
        }
        state.fall_behind();
    }

    /// Applies an event to one cell, by its owner, and returns the state before. Panics if the event is
    /// impossible in that state.
    fn apply(&self, stripe: u64, event: Event) -> Cell {
        let (index, lane) = self.place(stripe);
        loop {
            let word = self.words[index].load(Ordering::Acquire);
            let from = word::get(word, lane);
            let Some(to) = next(from, event) else {
                panic!("{event:?} of stripe {stripe}, which is {from:?}")
            };
            if from == to || self.swap(index, word, word::moved(word, word::only(lane), from, event)) {
                return from;
            }
        }
    }

    /// Applies an event to all cells of a word that are in state `from`. Returns their number.
    pub(crate) fn move_all(&self, index: usize, from: Cell, event: Event) -> u32 {
        self.move_some(index, word::ALL, from, event)
    }

    /// Applies an event to those of `lanes` that are in state `from`. Returns their number.
    pub(crate) fn move_some(&self, index: usize, lanes: u64, from: Cell, event: Event) -> u32 {
        loop {
            let word = self.words[index].load(Ordering::Acquire);
            let lanes = word::equal(word, from) & lanes;
            if lanes == 0 || self.swap(index, word, word::moved(word, lanes, from, event)) {
                return lanes.count_ones();
            }
        }
    }

    /// Replaces a word if it still has the value that was seen. Only the ageing needs `SeqCst` (see "The
    /// race" in `sweep`); the others need AcqRel, for which the CPU has the same instruction.
    #[inline]
    fn swap(&self, index: usize, seen: u64, word: u64) -> bool {
        self.words[index].compare_exchange(seen, word, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// The first stripe from `from` on and before `end` that is in the set that `lanes` makes of its word.
    fn find(&self, from: u64, end: u64, lanes: impl Fn(u64) -> u64) -> Option<u64> {
        let (start, lane) = place(from);
        let mut before = word::first(u64::from(lane));
        let words = &self.words[..(end.div_ceil(LANES) as usize).min(self.words.len())];
        for (index, word) in words.iter().enumerate().skip(start) {
            let found = lanes(word.load(Ordering::Acquire)) & !before;
            if found != 0 {
                let stripe = index as u64 * LANES + u64::from(found.trailing_zeros() / 4);
                return (stripe < end).then_some(stripe);
            }
            before = 0;
        }
        None
    }

    /// The word of a stripe and its lane. Panics beyond the last stripe: such a lane would be a cell that no
    /// count includes.
    #[inline]
    fn place(&self, stripe: u64) -> (usize, u32) {
        assert!(stripe < self.stripes, "stripe {stripe} of {}", self.stripes);
        place(stripe)
    }

    /// The lanes of a word that belong to stripes.
    pub(crate) fn lanes_in_use(&self, index: usize) -> u64 {
        word::first(self.stripes - index as u64 * LANES)
    }

    pub(crate) fn block_state(&self, block: BlockIndex) -> &BlockState {
        &self.blocks[block.0 as usize]
    }

    /// The words of a stripe's region.
    fn region_words(&self, stripe: u64) -> std::ops::Range<usize> {
        let start = place(stripe).0 / WORDS_PER_REGION * WORDS_PER_REGION;
        start..(start + WORDS_PER_REGION).min(self.words.len())
    }

    /// The words of a block.
    pub(crate) fn block_words(&self, block: BlockIndex) -> std::ops::Range<usize> {
        let start = block.0 as usize * WORDS_PER_BLOCK;
        assert!(start < self.words.len(), "block {} of {}", block.0, self.blocks());
        start..(start + WORDS_PER_BLOCK).min(self.words.len())
    }
}
