//! The division of stripes into words, regions and blocks.
//!
//! ```text
//!   stripe  ... 16 ...  word (u64, four bits each)
//!   word    ...  2 ...  region, 32 stripes: marked together
//!   region  ... 504 ..  block, 16,128 stripes: written together
//!
//!   on disk, one block = 4096 bytes:   | header 64 | cells, two bits each: 4032 |
//! ```
//! Stripe, word, region and block are plain quotients of one another: no code assumes that the size of a
//! block is a power of two (504 is not one). The last block, region and word may be partial: cells beyond the
//! last stripe are Unwritten, in RAM and on disk, and are never reported or counted.

use crate::word::{DISK_BYTES, LANES};

/// Number of stripes whose write intent is recorded together.
pub const STRIPES_PER_REGION: u64 = 32;
/// Bytes of cells in an on-disk block of 4096 bytes; the rest is its header.
pub const CELL_BYTES_PER_BLOCK: usize = 4032;
/// Number of stripes in a block. Example: with 64 KiB chunks, 1008 MiB of every member.
pub const STRIPES_PER_BLOCK: u64 = CELL_BYTES_PER_BLOCK as u64 * 4;
/// Maximum number of stripes in a bitmap: block numbers have 32 bits. Example: with 4 KiB chunks, 256 EiB per
/// member.
pub const STRIPES_MAX: u64 = STRIPES_PER_BLOCK * (1 << 32);

/// Number of words in a region.
pub(crate) const WORDS_PER_REGION: usize = (STRIPES_PER_REGION / LANES) as usize;
/// Number of words in a block.
pub(crate) const WORDS_PER_BLOCK: usize = CELL_BYTES_PER_BLOCK / DISK_BYTES;

const _: () = assert!(STRIPES_PER_REGION.is_multiple_of(LANES));
const _: () = assert!(STRIPES_PER_BLOCK.is_multiple_of(STRIPES_PER_REGION), "no region straddles two blocks");
const _: () = assert!(WORDS_PER_BLOCK == 1008 && STRIPES_PER_BLOCK == 16_128);

/// Index of an on-disk block of the bitmap, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u32);

/// The word that holds a stripe's cell, and the cell's lane in it.
#[inline]
pub(crate) const fn place(stripe: u64) -> (usize, u32) {
    ((stripe / LANES) as usize, (stripe % LANES) as u32)
}

/// The block of a stripe.
#[inline]
pub(crate) const fn block_of(stripe: u64) -> BlockIndex {
    BlockIndex((stripe / STRIPES_PER_BLOCK) as u32)
}
