//! The layout of a member: where each zone is, and what the bytes in it mean.
//!
//! Functions here turn bytes into checked types; none does I/O. docs/format.md has the drawing of every
//! structure, and a test compares the offsets below with those drawings.
//!
//! ```text
//!   0      4K      64K      128K                                              stripes * chunk
//!   +------+---+----+---+----+-----------------+--------------+------------+------------------+
//!   | free | A |    | B |    | bitmap          | log          | (to 1 MiB) | data             |
//!   +------+---+----+---+----+-----------------+--------------+------------+------------------+
//! ```
//!
//! Invariants:
//! - Everything is little-endian and in units of 4 KiB blocks, each with a crc32c over the whole block.
//! - A decoder accepts any bytes: it returns an error and never panics, even if the checksum is right. Every
//!   field of the result has been checked.
//! - The zones of all members of an array are the same, so one value describes them all, and a replacement
//!   needs only to be long enough.
//! - Block 0 is never written: a partition table or boot sector that is put there later stays recognisable,
//!   and no other system's superblock aliases ours.

pub mod bitmap_block;
mod bytes;
pub mod host;
pub mod label;
pub mod lost_rows;
pub mod signatures;
pub mod superblock;
pub mod zones;

use crate::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, MEMBERS_MAX, MEMBERS_MIN_RAID5, MEMBERS_MIN_RAID6};

/// The RAID level, which says how many members may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// RAID-5: one may be lost; parity P.
    Raid5,
    /// RAID-6: two may be lost; parities P and Q.
    Raid6,
}

impl Level {
    /// Parity strips in a stripe, equal to how many members may be lost: 1 or 2.
    #[must_use]
    pub const fn parities(self) -> usize {
        match self {
            Level::Raid5 => 1,
            Level::Raid6 => 2,
        }
    }

    /// Fewest members of an array of this level.
    #[must_use]
    pub const fn members_min(self) -> usize {
        match self {
            Level::Raid5 => MEMBERS_MIN_RAID5,
            Level::Raid6 => MEMBERS_MIN_RAID6,
        }
    }

    /// The level as operators write it and as it is on disk: 5 or 6.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Level::Raid5 => 5,
            Level::Raid6 => 6,
        }
    }

    /// Reverses [`Level::number`].
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Level> {
        match number {
            5 => Some(Level::Raid5),
            6 => Some(Level::Raid6),
            _ => None,
        }
    }
}

/// The parameters, apart from the array's length, that determine where a byte of the array lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// RAID-5 or RAID-6.
    pub level: Level,
    /// Number of slots: 3..=32, for RAID-6 4..=32.
    pub members: usize,
    /// Bytes placed on one member before moving on: a power of two, 4 KiB..=1 MiB.
    pub chunk_bytes: u32,
}

impl Shape {
    /// Members needed to have all data.
    #[must_use]
    pub const fn data_strips(&self) -> usize {
        self.members - self.level.parities()
    }

    /// Checks whether an array can have this shape; the error names the wrong field and its limits.
    pub fn check(&self) -> Result<(), ShapeError> {
        let members_min = self.level.members_min();
        if !(members_min..=MEMBERS_MAX).contains(&self.members) {
            return Err(ShapeError::Members {
                level: self.level.number(),
                members: self.members,
                members_min,
            });
        }
        let in_range = (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes);
        if !in_range || !self.chunk_bytes.is_power_of_two() {
            return Err(ShapeError::Chunk { chunk_bytes: self.chunk_bytes });
        }
        Ok(())
    }
}

/// Reasons why no array can have a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The number of members is out of range.
    #[error("a RAID-{level} has {members_min} to {MEMBERS_MAX} members, not {members}")]
    Members {
        /// The level, 5 or 6.
        level: u8,
        /// The requested number.
        members: usize,
        /// The minimum for the level.
        members_min: usize,
    },
    /// The chunk size is not a power of two, or out of range.
    #[error("a chunk is a power of two from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX} bytes, not {chunk_bytes}")]
    Chunk {
        /// The requested size.
        chunk_bytes: u32,
    },
}

/// A field of a structure on disk, for the test that compares code and docs/format.md.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name, as in the drawing.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
}
