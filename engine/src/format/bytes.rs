//! Little-endian fields of a block, by offset, and the checksum of a block that contains its own checksum.
//!
//! Offsets are constants below the block's length (each structure asserts this at compile time), so the
//! slices here cannot be out of range.

use crate::limits::BLOCK_BYTES;

/// The bytes of one metadata block.
pub(super) type Block = [u8; BLOCK_BYTES];

pub(super) fn array_at<const N: usize>(block: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&block[offset..offset + N]);
    array
}

pub(super) fn u32_at(block: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(block, offset))
}

pub(super) fn u64_at(block: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(block, offset))
}

pub(super) fn put(block: &mut [u8], offset: usize, bytes: &[u8]) {
    block[offset..offset + bytes.len()].copy_from_slice(bytes);
}

pub(super) fn put_u32(block: &mut [u8], offset: usize, value: u32) {
    put(block, offset, &value.to_le_bytes());
}

pub(super) fn put_u64(block: &mut [u8], offset: usize, value: u64) {
    put(block, offset, &value.to_le_bytes());
}

/// Computes the crc32c of the whole block, with the four bytes at `offset_crc` taken as zero.
pub(super) fn checksum(block: &Block, offset_crc: usize) -> u32 {
    let before = crc32c::crc32c(&block[..offset_crc]);
    let zeroed = crc32c::crc32c_append(before, &[0; 4]);
    crc32c::crc32c_append(zeroed, &block[offset_crc + 4..])
}
