//! How stripes fall into words, regions and blocks.
//!
//! ```text
//!   stripe  ... 16 ...  word (u64, four bits each)
//!   word    ...  2 ...  region, 32 stripes: marked together
//!   region  ... 504 ..  block, 16,128 stripes: written together
//!
//!   on disk, one block = 4096 bytes:   | header 64 | cells, two bits each: 4032 |
//! ```
//! Stripe, word, region and block are plain quotients of one another: no width that is a power of two is
//! assumed of a block (504 is not one). The last block, region and word may be partial: what lies
//! beyond the last stripe is Unwritten, in RAM and on disk, and is never reported or counted.

use crate::word::{DISK_BYTES, LANES};

/// Stripes whose write intent is recorded together.
pub const STRIPES_PER_REGION: u64 = 32;
/// Bytes of cells in an on-disk block of 4096: the rest is its header.
pub const CELL_BYTES_PER_BLOCK: usize = 4032;
/// Stripes of one block. Example: of 64 KiB chunks, 1008 MiB of every member.
pub const STRIPES_PER_BLOCK: u64 = CELL_BYTES_PER_BLOCK as u64 * 4;
/// Most stripes of a bitmap: blocks are numbered in 32 bits. Example: of 4 KiB chunks, 256 EiB a member.
pub const STRIPES_MAX: u64 = STRIPES_PER_BLOCK * (1 << 32);

/// Words of a region.
pub(crate) const WORDS_PER_REGION: usize = (STRIPES_PER_REGION / LANES) as usize;
/// Words of a block.
pub(crate) const WORDS_PER_BLOCK: usize = CELL_BYTES_PER_BLOCK / DISK_BYTES;

const _: () = assert!(STRIPES_PER_REGION.is_multiple_of(LANES));
const _: () = assert!(STRIPES_PER_BLOCK.is_multiple_of(STRIPES_PER_REGION), "no region straddles two blocks");
const _: () = assert!(WORDS_PER_BLOCK == 1008 && STRIPES_PER_BLOCK == 16_128);

/// Which on-disk block of the bitmap, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u32);

/// The word of a stripe, and its lane there.
#[inline]
pub(crate) const fn place(stripe: u64) -> (usize, u32) {
    ((stripe / LANES) as usize, (stripe % LANES) as u32)
}

/// The block of a stripe.
#[inline]
pub(crate) const fn block_of(stripe: u64) -> BlockIndex {
    BlockIndex((stripe / STRIPES_PER_BLOCK) as u32)
}
