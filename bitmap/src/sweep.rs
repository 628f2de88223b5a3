//! Back to Clean: the cells of stripes that nobody writes any more.
//!
//! One sweeper visits the blocks. A pass over a block, about a second after the pass before:
//!
//! ```text
//!   look     cells that are Aged and whose stripe is owned go back to Dirty
//!   flush    all members, and wait for all                                        (the caller)
//!   sweep    cells that still are Aged become Clean
//!   age      cells that are Dirty become Aged
//!   then the block is behind, and is written when somebody likes
//! ```
//!
//! `Aged` itself marks the candidate, so between look and sweep nothing is stored beside the cells, and one flush
//! serves as many blocks as were looked at. A degraded array is swept like a whole one.
//!
//! # Why a swept cell is clean
//! Take a cell that is Aged at the sweep. It was Aged at the look, for only [`Bitmap::age_block`] makes cells Aged, and a
//! [`Looked`] from before the last ageing is refused. Any write to its stripe
//! - that began (`begin_write`) after the ageing found the cell Aged and swapped it to Dirty: then it would not be Aged;
//! - that began before the ageing and had ended, lock released, before the look: the flush covers it;
//! - that began before the ageing and had not ended at the look held the stripe's lock: the look saw that, and the
//!   cell would have been Dirty.
//!
//! A write that begins after the look finds the cell Aged (and the sweep's swap fails on it) or Clean (and marks it).
//! So every write to the stripe was over before the flush began.
//!
//! # The race
//! The third line needs that a writer which missed the ageing is seen by the look:
//!
//! ```text
//!   writer                             sweeper
//!   W1  lock := mine                   S1  cell := Aged
//!   W2  read cell: still Dirty         S2  read lock: free?
//! ```
//! Both reading the old value is the store-buffer case, which acquire and release allow. Therefore all four are
//! `SeqCst` and lie in one order: W2 before S1 (it read Dirty), so W1 before S2, and the look sees the lock, or the
//! release that followed, with which it synchronizes. On x86-64 this costs nothing: W1 and S1 are locked instructions
//! anyway and a `SeqCst` load is a plain one. The alternative that lost is a fence in every `begin_write` (mfence,
//! some 30 cycles), or a swap of a word that sixteen stripes share.
//!
//! The ageing itself looks at no lock: that would save a busy stripe one trip Dirty, Aged, Dirty, and cost a
//! load from a random line a cell.

use crate::bitmap::{Bitmap, WIDEN_AFTER_MARKS};
use crate::cell::{Cell, Event};
use crate::locks::StripeLocks;
use crate::shape::{BlockIndex, WORDS_PER_REGION};
use crate::sync::{Ordering, total_order};
use crate::word::{self, LANES};

/// The right to sweep a bitmap; there is one.
#[derive(Debug)]
pub struct Sweeper(());

/// A block that was looked at, between look and sweep. Dropping it (a flush failed, a member left) sweeps nothing.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "flush every member, then sweep the block"]
#[non_exhaustive]
pub struct Looked {
    /// Which block.
    pub block: BlockIndex,
    /// Cells that will be swept if no writer takes them back; with 0 there is no need to flush for this block.
    pub candidates: u32,
    /// The block's count of ageings at the look.
    pass: u32,
}

impl Bitmap {
    /// The sweeper of this bitmap. Panics when it was taken before: two would age under each other's look.
    #[must_use]
    pub fn sweeper(&self) -> Sweeper {
        assert!(!self.has_sweeper.swap(true, Ordering::Relaxed), "a bitmap has one sweeper");
        Sweeper(())
    }

    /// Whether any cell of the block is dirty, of whatever flavour: whether there is anything to sweep, now or later.
    #[must_use]
    pub fn has_dirty(&self, block: BlockIndex) -> bool {
        self.words[self.block_words(block)]
            .iter()
            .any(|word| word::dirty_on_disk(word.load(Ordering::Acquire)) != 0)
    }

    /// Notes which cells are Dirty: those that still are Aged at the next pass have rested. How many there were.
    pub fn age_block(&self, _sweeper: &mut Sweeper, block: BlockIndex) -> u32 {
        self.block_state(block).passes.fetch_add(1, Ordering::Relaxed);
        self.block_words(block).map(|index| self.move_all(index, Cell::Dirty, Event::Rested)).sum()
    }

    /// Before the flush: takes back the cells of the block whose stripes are owned; the others are to be swept.
    pub fn sweep_look(&self, _sweeper: &mut Sweeper, block: BlockIndex, locks: &StripeLocks) -> Looked {
        total_order();
        let candidates = self.block_words(block).map(|index| self.look(index, locks)).sum();
        Looked { block, candidates, pass: self.block_state(block).passes.load(Ordering::Relaxed) }
    }

    /// After every member was flushed, flushes that began after the look: what rested is Clean. How many there were.
    ///
    /// Panics when the block was aged since it was looked at.
    pub fn sweep_block(&self, _sweeper: &mut Sweeper, looked: Looked) -> u32 {
        let state = self.block_state(looked.block);
        let pass = state.passes.load(Ordering::Relaxed);
        assert_eq!(looked.pass, pass, "block {} was aged between look and sweep", looked.block.0);
        let (mut swept, mut active) = (0, 0);
        for (nth, index) in self.block_words(looked.block).enumerate() {
            swept += self.move_all(index, Cell::Aged, Event::Swept);
            if nth % WORDS_PER_REGION == 0 {
                active += u32::from(self.region_is_active(index));
            }
        }
        // Written in few regions since the last ageing: marks are precise again. In many: the next one is wide.
        state.marks.store(active, Ordering::Relaxed);
        if swept > 0 {
            state.fall_behind();
        }
        swept
    }

    /// The look at one word: the cells that are Aged and owned go back to Dirty. How many stay.
    fn look(&self, index: usize, locks: &StripeLocks) -> u32 {
        // No lane becomes Aged meanwhile, that is the sweeper's own doing; one that a writer takes back is his.
        let aged = word::equal(self.words[index].load(Ordering::Acquire), Cell::Aged);
        let mut busy = 0;
        let mut rest = aged;
        while rest != 0 {
            let lane = rest.trailing_zeros() / 4;
            if !locks.is_free(index as u64 * LANES + u64::from(lane)) {
                busy |= word::only(lane);
            }
            rest &= rest - 1;
        }
        if busy != 0 {
            self.move_some(index, busy, Cell::Aged, Event::FoundBusy);
        }
        (aged & !busy).count_ones()
    }

    /// Whether a region was written since the last ageing.
    fn region_is_active(&self, first_word: usize) -> bool {
        let words = first_word..(first_word + WORDS_PER_REGION).min(self.words.len());
        self.words[words].iter().any(|word| {
            let word = word.load(Ordering::Relaxed);
            word::equal(word, Cell::Dirty) | word::equal(word, Cell::Marked) != 0
        })
    }
}

const _: () = assert!(WIDEN_AFTER_MARKS > 0);
