//! The sweep: takes the cells of stripes that are no longer written back to Clean.
//!
//! One sweeper visits the blocks. A pass over a block, about a second after the pass before:
//!
//! ```text
//!   look     cells that are Aged and whose stripe is owned go back to Dirty
//!   flush    all members, and wait for all                                        (the caller)
//!   sweep    cells that still are Aged become Clean
//!   age      cells that are Dirty become Aged
//!   then the block is behind, and may be written at any time
//! ```
//!
//! `Aged` itself marks the candidates, so nothing is stored beside the cells between look and sweep, and one
//! flush serves all blocks that were looked at. A degraded array is swept like a complete one.
//!
//! # Why a swept cell is clean
//! Take a cell that is Aged at the sweep. It was also Aged at the look, since only [`Bitmap::age_block`]
//! makes cells Aged, and a [`Looked`] from before the last ageing is refused. Three cases exist for a write
//! to its stripe that began (`begin_write`) before the look:
//! - It began after the ageing: it found the cell Aged and swapped it to Dirty. Then the cell would not be
//!   Aged now.
//! - It began before the ageing and had ended, lock released, before the look: the flush covers it.
//! - It began before the ageing and had not ended at the look: it held the stripe's lock. The look saw that,
//!   and the cell would have become Dirty.
//!
//! A write that begins after the look finds the cell Aged (and the sweep's swap fails on it) or Clean (and
//! marks it). So every write to the stripe was over before the flush began.
//!
//! # The race
//! The third case requires that the look sees a writer that missed the ageing:
//!
//! ```text
//!   writer                             sweeper
//!   W1  lock := mine                   S1  cell := Aged
//!   W2  read cell: still Dirty         S2  read lock: free?
//! ```
//! If both could read the old value, the argument would fail. This is the store-buffer case, which acquire
//! and release allow. Therefore all four accesses are `SeqCst` and lie in one total order: W2 before S1 (W2
//! read Dirty), so W1 before S2, and the look sees the lock, or the release that followed, with which it
//! synchronizes. On x86-64 this costs nothing: W1 and S1 are locked instructions anyway, and a `SeqCst` load
//! is a plain one. The rejected alternatives are a fence in every `begin_write` (mfence, about 30 cycles), or
//! a swap of a word that sixteen stripes share.
//!
//! The ageing itself looks at no lock. Doing so would save a busy stripe one trip Dirty, Aged, Dirty, but
//! cost one load from a random cache line per cell.

use crate::bitmap::{Bitmap, WIDEN_AFTER_MARKS};
use crate::cell::{Cell, Event};
use crate::locks::StripeLocks;
use crate::shape::{BlockIndex, WORDS_PER_REGION};
use crate::sync::{Ordering, total_order};
use crate::word::{self, LANES};

/// The right to sweep a bitmap. Only one exists per bitmap.
#[derive(Debug)]
pub struct Sweeper(());

/// A block between look and sweep. Dropping it (a flush failed, a member left) sweeps nothing.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "flush every member, then sweep the block"]
#[non_exhaustive]
pub struct Looked {
    /// The block that was looked at.
    pub block: BlockIndex,
    /// Cells that will be swept unless writers take them back. If 0, no flush is needed for this block.
    pub candidates: u32,
    /// The number of ageings of the block at the time of the look.
    pass: u32,
}

impl Bitmap {
    /// Hands out the sweeper of this bitmap. Panics the second time: two sweepers would age under each
    /// other's look.
    #[must_use]
    pub fn sweeper(&self) -> Sweeper {
        assert!(!self.has_sweeper.swap(true, Ordering::Relaxed), "a bitmap has one sweeper");
        Sweeper(())
    }

    /// Whether any cell of the block is dirty, of any flavour, so that there is something to sweep, now or
    /// later.
    #[must_use]
    pub fn has_dirty(&self, block: BlockIndex) -> bool {
        self.words[self.block_words(block)]
            .iter()
            .any(|word| word::dirty_on_disk(word.load(Ordering::Acquire)) != 0)
    }

    /// Marks the Dirty cells as Aged; cells that are still Aged at the next pass have rested. Returns their
    /// number.
    pub fn age_block(&self, _sweeper: &mut Sweeper, block: BlockIndex) -> u32 {
        self.block_state(block).passes.fetch_add(1, Ordering::Relaxed);
        self.block_words(block).map(|index| self.move_all(index, Cell::Dirty, Event::Rested)).sum()
    }

    /// Before the flush: takes back the cells of the block whose stripes are owned. The others are to be
    /// swept.
    pub fn sweep_look(&self, _sweeper: &mut Sweeper, block: BlockIndex, locks: &StripeLocks) -> Looked {
        total_order();
        let candidates = self.block_words(block).map(|index| self.look(index, locks)).sum();
        Looked { block, candidates, pass: self.block_state(block).passes.load(Ordering::Relaxed) }
    }

    /// Makes rested cells Clean, after every member was flushed by flushes that began after the look. Returns
    /// their number.
    ///
    /// Panics if the block was aged since it was looked at.
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
        // If few regions were written since the last ageing, marks are precise again. If many, the next mark
        // is wide.
        state.marks.store(active, Ordering::Relaxed);
        if swept > 0 {
            state.fall_behind();
        }
        swept
    }

    /// The look at one word: Aged cells with an owner go back to Dirty. Returns the number of cells that stay
    /// Aged.
    fn look(&self, index: usize, locks: &StripeLocks) -> u32 {
        // No lane becomes Aged meanwhile, since only the sweeper ages cells. A lane that a writer takes back
        // is no longer Aged.
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
