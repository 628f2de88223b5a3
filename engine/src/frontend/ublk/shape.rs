//! The sizes, limits and attributes that the block device advertises, derived from the array.
//!
//! Nothing is promised that the array does not do, and nothing is withheld that a file system could use:
//! - io_min is the chunk and io_opt is the data of a stripe, so that file systems align themselves. The
//!   driver takes a shift, so a stripe whose data is not a power of two cannot be expressed; then io_opt is
//!   the chunk.
//! - The granularity of discards is the stripe: a shorter discard is written as zeros, which frees no space.
//! - The cache is volatile only if a member's cache is, so hosts do not send needless flushes.

use super::abi::{PARAMETERS_USED, Parameters, attribute};

/// Longest discard and write-zeroes. The array accepts any length; the bound keeps one request from holding
/// up a STOP.
const DISCARD_BYTES_MAX: u64 = 1 << 30;

/// log2 of the driver's unit of length, the sector of 512 bytes.
const SECTOR_SHIFT: u32 = 9;

/// The properties of the array that a block device advertises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UblkShape {
    /// The array's size.
    pub size_bytes: u64,
    /// The unit of requests, the smallest that a host can address.
    pub logical_block_bytes: u32,
    /// Length that a member writes without reading first.
    pub physical_block_bytes: u32,
    /// Chunk: the bytes placed on one member before moving on to the next.
    pub chunk_bytes: u32,
    /// Data bytes of a stripe.
    pub stripe_bytes: u64,
    /// Whether a member has a volatile write cache.
    pub volatile_cache: bool,
    /// Whether writes are refused.
    pub read_only: bool,
}

impl UblkShape {
    /// Converts to the driver's parameters, for requests of at most `request_bytes_max`.
    pub(super) fn parameters(&self, request_bytes_max: u32) -> Parameters {
        let shift = |bytes: u64| bytes.trailing_zeros() as u8;
        let optimal =
            if self.stripe_bytes.is_power_of_two() { self.stripe_bytes } else { self.chunk_bytes.into() };
        let physical =
            self.physical_block_bytes.clamp(self.logical_block_bytes, 4096.max(self.logical_block_bytes));
        let sectors = |bytes: u64| (bytes >> SECTOR_SHIFT) as u32;
        let discard = (DISCARD_BYTES_MAX / self.stripe_bytes).max(1) * self.stripe_bytes;
        let read_only = if self.read_only { attribute::READ_ONLY } else { 0 };
        let cache = if self.volatile_cache { attribute::VOLATILE_CACHE | attribute::FUA } else { 0 };
        Parameters {
            len_bytes: size_of::<Parameters>() as u32,
            types: PARAMETERS_USED,
            attributes: read_only | cache,
            logical_block_shift: shift(self.logical_block_bytes.into()),
            physical_block_shift: shift(physical.into()),
            io_optimal_shift: shift(optimal),
            io_least_shift: shift(self.chunk_bytes.into()),
            request_sectors_max: sectors(request_bytes_max.into()),
            device_sectors: self.size_bytes >> SECTOR_SHIFT,
            discard_granularity_bytes: u32::try_from(self.stripe_bytes).expect("at most 31 MiB"),
            discard_sectors_max: sectors(discard),
            write_zeroes_sectors_max: sectors(discard),
            discard_segments_max: 1,
            ..Parameters::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: UblkShape = UblkShape {
        size_bytes: 1 << 30,
        logical_block_bytes: 512,
        physical_block_bytes: 4096,
        chunk_bytes: 64 << 10,
        stripe_bytes: 256 << 10,
        volatile_cache: true,
        read_only: false,
    };

    #[test]
    fn what_a_host_is_told() {
        let told = SHAPE.parameters(1 << 20);
        assert_eq!((told.logical_block_shift, told.physical_block_shift), (9, 12));
        assert_eq!((told.io_least_shift, told.io_optimal_shift), (16, 18));
        assert_eq!((told.request_sectors_max, told.device_sectors), (2048, 1 << 21));
        assert_eq!(told.discard_granularity_bytes, 256 << 10);
        assert_eq!(told.attributes, attribute::VOLATILE_CACHE | attribute::FUA);
    }

    #[test]
    fn a_stripe_that_is_no_power_of_two() {
        let told = UblkShape { stripe_bytes: 192 << 10, volatile_cache: false, ..SHAPE }.parameters(1 << 20);
        assert_eq!((told.io_optimal_shift, told.attributes), (16, 0));
        assert_eq!(u64::from(told.discard_sectors_max) * 512 % (192 << 10), 0);
    }

    #[test]
    fn blocks_of_4_kib() {
        let told =
            UblkShape { logical_block_bytes: 4096, physical_block_bytes: 512, ..SHAPE }.parameters(1 << 20);
        assert_eq!((told.logical_block_shift, told.physical_block_shift), (12, 12));
    }
}
