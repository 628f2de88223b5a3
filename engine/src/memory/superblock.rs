//! A superblock of a pool: 1 MiB, divided into blocks of one size, each free or taken.

use crate::limits::{BLOCK_BYTES, BUFFER_BYTES_MAX};

/// The log2 of the smallest class.
pub(super) const CLASS_SHIFT_MIN: u32 = BLOCK_BYTES.trailing_zeros();
/// The log2 of a superblock, which is the largest class.
pub(super) const SUPERBLOCK_SHIFT: u32 = BUFFER_BYTES_MAX.trailing_zeros();
/// Number of classes: 4 KiB, 8 KiB, ... 1 MiB are nine.
pub(super) const CLASSES: usize = (SUPERBLOCK_SHIFT - CLASS_SHIFT_MIN + 1) as usize;
/// Number of blocks of the smallest class in a superblock.
pub(super) const BLOCKS_MAX: usize = 1 << (SUPERBLOCK_SHIFT - CLASS_SHIFT_MIN);
/// The end of a list of superblocks.
pub(super) const NONE: u16 = u16::MAX;

const _: () = assert!(BUFFER_BYTES_MAX.is_power_of_two() && BLOCK_BYTES.is_power_of_two());
const _: () = assert!(BLOCKS_MAX == 256, "a link between blocks is a u8");
const _: () = assert!((crate::limits::ARENA_BYTES_MAX >> SUPERBLOCK_SHIFT) < NONE as usize);

/// The pool's knowledge of one superblock.
#[derive(Clone)]
pub(super) struct Superblock {
    /// The log2 of the size of its blocks; 0 if it is unassigned.
    pub(super) class_shift: u32,
    /// Number of taken blocks.
    pub(super) taken_count: u16,
    /// Number of taken blocks that are parked.
    pub(super) parked_count: u16,
    /// The first block that was never taken since the class was assigned; all later ones were not either.
    pub(super) fresh: u16,
    /// Number of blocks on the stack of returned ones.
    pub(super) stacked: u16,
    /// Top of that stack, if `stacked` is not 0.
    pub(super) top: u8,
    /// Neighbours on its list.
    pub(super) next: u16,
    pub(super) previous: u16,
    /// Whether blocks of it are never given back, so a claim of it would be useless.
    pub(super) pinned: bool,
    /// A bit per block, set while the block is taken.
    pub(super) taken: [u64; BLOCKS_MAX / 64],
}

impl Superblock {
    pub(super) const UNASSIGNED: Superblock = Superblock {
        class_shift: 0,
        taken_count: 0,
        parked_count: 0,
        fresh: 0,
        stacked: 0,
        top: 0,
        next: NONE,
        previous: NONE,
        pinned: false,
        taken: [0; BLOCKS_MAX / 64],
    };

    pub(super) fn block_count(&self) -> u16 {
        1 << (SUPERBLOCK_SHIFT - self.class_shift)
    }

    pub(super) fn is_full(&self) -> bool {
        self.taken_count == self.block_count()
    }

    /// Takes the block that was last given back, or one never taken. The superblock must not be full.
    pub(super) fn take_block(&mut self, links: &[u8; BLOCKS_MAX]) -> u8 {
        let block = if self.stacked > 0 {
            let block = self.top;
            self.top = links[block as usize];
            self.stacked -= 1;
            block
        } else {
            self.fresh += 1;
            u8::try_from(self.fresh - 1).expect("not full, so a fresh block is left")
        };
        let (word, bit) = (&mut self.taken[block as usize / 64], 1 << (block % 64));
        assert!(*word & bit == 0, "a free block is not taken");
        *word |= bit;
        self.taken_count += 1;
        block
    }

    /// Puts a taken block on the stack.
    pub(super) fn give_block(&mut self, block: u8, links: &mut [u8; BLOCKS_MAX]) {
        let (word, bit) = (&mut self.taken[block as usize / 64], 1 << (block % 64));
        assert!(*word & bit != 0, "block {block} was given twice");
        *word &= !bit;
        self.taken_count -= 1;
        links[block as usize] = self.top;
        self.top = block;
        self.stacked += 1;
    }
}

/// The log2 of the smallest class that holds `bytes`.
pub(super) fn class_shift_of(bytes: u32) -> u32 {
    bytes.next_power_of_two().trailing_zeros().max(CLASS_SHIFT_MIN)
}

pub(super) fn class_of(class_shift: u32) -> usize {
    (class_shift - CLASS_SHIFT_MIN) as usize
}
