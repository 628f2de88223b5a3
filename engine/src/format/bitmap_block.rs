//! A block of the bitmap as it is on disk: a header that identifies it, and its cells.
//!
//! A block has a 64-byte header and 4032 bytes of cells, two bits per stripe. The bitmap gives the bits their
//! meaning; this room only carries them. The header names the array and the index, so a block that a disk put
//! in another's place, or that an earlier array left behind, is not mistaken for the right one.
//!
//! A block is written to several members with the same generation, and on each member to one of two places in
//! turn, so that a torn write leaves the generation before. After a crash the copies may differ;
//! [`start`](crate::start::newest) decides which one counts.

use uuid::Uuid;

use super::Field;
use super::bytes::{Block, array_at, checksum, put, put_u32, put_u64, u32_at, u64_at};
use crate::limits::BLOCK_BYTES;

/// First bytes of a bitmap block.
pub const MAGIC: [u8; 8] = *b"STRIBMAP";

const OFFSET_MAGIC: usize = 0;
const OFFSET_VERSION: usize = OFFSET_MAGIC + 8;
const OFFSET_CRC: usize = OFFSET_VERSION + 4;
const OFFSET_ARRAY: usize = OFFSET_CRC + 4;
const OFFSET_INDEX: usize = OFFSET_ARRAY + 16;
const OFFSET_GENERATION: usize = OFFSET_INDEX + 8;
const OFFSET_RESERVED: usize = OFFSET_GENERATION + 8;
const OFFSET_CELLS: usize = OFFSET_RESERVED + 16;
/// Bytes of cells in one block.
pub const CELL_BYTES: usize = BLOCK_BYTES - OFFSET_CELLS;

const _: () = assert!(OFFSET_CELLS == 64);
const _: () = assert!(CELL_BYTES == 4032);

/// Version of the block's layout.
pub const VERSION: u32 = 1;

/// The fields, for the test that compares them with docs/format.md.
pub const FIELDS: &[Field] = &[
    Field { name: "magic", offset: OFFSET_MAGIC, bytes: 8 },
    Field { name: "version", offset: OFFSET_VERSION, bytes: 4 },
    Field { name: "crc32c", offset: OFFSET_CRC, bytes: 4 },
    Field { name: "array uuid", offset: OFFSET_ARRAY, bytes: 16 },
    Field { name: "block index", offset: OFFSET_INDEX, bytes: 8 },
    Field { name: "generation", offset: OFFSET_GENERATION, bytes: 8 },
    Field { name: "reserved", offset: OFFSET_RESERVED, bytes: 16 },
    Field { name: "cells", offset: OFFSET_CELLS, bytes: CELL_BYTES },
];

/// Upper bound of the generations that are believed. A million writes per second take 9,000 years to get
/// here, so a block with a higher one was forged; believed, it would leave no number for the next write.
pub const GENERATION_MAX: u64 = 1 << 58;

/// The cells of one block.
pub type Cells = [u8; CELL_BYTES];

/// The content of a block's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The array's identity.
    pub array: Uuid,
    /// Index of the block in the array's bitmap.
    pub index: u64,
    /// Generation, which grows by one with each write of this block.
    pub generation: u64,
}

/// Reasons why a block is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The length is not 4 KiB.
    #[error("a bitmap block has {BLOCK_BYTES} bytes")]
    Length,
    /// The magic is missing, or this program does not know the version.
    #[error("not a bitmap block of version {VERSION}")]
    NotABitmapBlock,
    /// The checksum does not match: the block is torn or damaged.
    #[error("bitmap block is torn or damaged: its checksum does not match")]
    Checksum,
    /// The block belongs to another array.
    #[error("bitmap block belongs to another array, {0}")]
    OtherArray(Uuid),
    /// The block belongs in another place.
    #[error("bitmap block is number {found}, found in the place of {expected}")]
    Misplaced {
        /// The index in the header.
        found: u64,
        /// The index that belongs in this place.
        expected: u64,
    },
    /// The generation is too high to be genuine.
    #[error("bitmap block counts to {0} generations: it was not written by this program")]
    Forged(u64),
}

/// Gives access to the cells of a block, so that they can be written in place before [`seal`].
///
/// # Panics
/// If `block` is not 4 KiB.
pub fn cells_mut(block: &mut [u8]) -> &mut Cells {
    block[OFFSET_CELLS..].as_mut_array().expect("a bitmap block has 4096 bytes")
}

/// Writes header and checksum around the cells that are already in `block`.
///
/// # Panics
/// If `block` is not 4 KiB.
pub fn seal(block: &mut [u8], header: &Header) {
    let block: &mut Block = block.as_mut_array().expect("a bitmap block has 4096 bytes");
    block[..OFFSET_CELLS].fill(0);
    put(block, OFFSET_MAGIC, &MAGIC);
    put_u32(block, OFFSET_VERSION, VERSION);
    put(block, OFFSET_ARRAY, header.array.as_bytes());
    put_u64(block, OFFSET_INDEX, header.index);
    put_u64(block, OFFSET_GENERATION, header.generation);
    let crc = checksum(block, OFFSET_CRC);
    put_u32(block, OFFSET_CRC, crc);
}

/// Writes a whole block.
///
/// # Panics
/// If `block` is not 4 KiB.
pub fn encode(block: &mut [u8], header: &Header, cells: &Cells) {
    cells_mut(block).copy_from_slice(cells);
    seal(block, header);
}

/// Reads a block found in the place of block `index` of `array`. Returns its generation and its cells.
pub fn decode(block: &[u8], array: Uuid, index: u64) -> Result<(u64, &Cells), BlockError> {
    let block: &Block = block.as_array().ok_or(BlockError::Length)?;
    if block[..8] != MAGIC || u32_at(block, OFFSET_VERSION) != VERSION {
        return Err(BlockError::NotABitmapBlock);
    }
    if u32_at(block, OFFSET_CRC) != checksum(block, OFFSET_CRC) {
        return Err(BlockError::Checksum);
    }
    let found_array = Uuid::from_bytes(array_at(block, OFFSET_ARRAY));
    if found_array != array {
        return Err(BlockError::OtherArray(found_array));
    }
    let found = u64_at(block, OFFSET_INDEX);
    if found != index {
        return Err(BlockError::Misplaced { found, expected: index });
    }
    let generation = u64_at(block, OFFSET_GENERATION);
    if generation >= GENERATION_MAX {
        return Err(BlockError::Forged(generation));
    }
    let cells = block[OFFSET_CELLS..].as_array().ok_or(BlockError::Length)?;
    Ok((generation, cells))
}
