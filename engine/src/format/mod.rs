//! What lies on a member: where each zone is, and what the bytes in it mean.
//!
//! Bytes in, checked types out; nothing here does I/O. The drawing of every structure is in
//! docs/format.md, and a test holds the offsets below and the drawings there equal.
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
//! - A decoder takes any bytes: it returns an error, and never panics, whatever they are, also when the
//!   checksum is right. What it returns has been checked in every field.
//! - The zones of all members of an array are the same, so one value describes them all, and a
//!   replacement needs only to be long enough.
//! - Block 0 is never written: a partition table or boot sector that someone puts there later stays
//!   visible as what it is, and no other system's superblock aliases ours.

pub mod bitmap_block;
mod bytes;
pub mod host;
pub mod label;
pub mod lost_rows;
pub mod signatures;
pub mod superblock;
pub mod zones;

use crate::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, MEMBERS_MAX, MEMBERS_MIN_RAID5, MEMBERS_MIN_RAID6};

/// How many members may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// One: P.
    Raid5,
    /// Two: P and Q.
    Raid6,
}

impl Level {
    /// Parity strips in a stripe, which is how many members may be lost: 1 or 2.
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

    /// As operators write it, and as it is on disk: 5 or 6.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Level::Raid5 => 5,
            Level::Raid6 => 6,
        }
    }

    /// The reverse of [`Level::number`].
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Level> {
        match number {
            5 => Some(Level::Raid5),
            6 => Some(Level::Raid6),
            _ => None,
        }
    }
}

/// What decides where a byte of the array lies, but for its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// RAID-5 or RAID-6.
    pub level: Level,
    /// How many slots: 3..=32, for RAID-6 4..=32.
    pub members: usize,
    /// Bytes placed on one member before moving on: a power of two, 4 KiB..=1 MiB.
    pub chunk_bytes: u32,
}

impl Shape {
    /// Members whose loss leaves the array without its data: one more than the parities may not be lost.
    #[must_use]
    pub const fn data_strips(&self) -> usize {
        self.members - self.level.parities()
    }

    /// Whether an array can have this shape; the error names the field that is wrong and its limits.
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

/// A shape that no array can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Too few or too many members.
    #[error("a RAID-{level} has {members_min} to {MEMBERS_MAX} members, not {members}")]
    Members {
        /// 5 or 6.
        level: u8,
        /// As asked.
        members: usize,
        /// Fewest for the level.
        members_min: usize,
    },
    /// Not a power of two, or out of range.
    #[error("a chunk is a power of two from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX} bytes, not {chunk_bytes}")]
    Chunk {
        /// As asked.
        chunk_bytes: u32,
    },
}

/// One field of a structure on disk, for the test that compares code and docs/format.md.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As in the drawing.
    pub name: &'static str,
    /// From the start of the structure.
    pub offset: usize,
    /// Its length.
    pub bytes: usize,
}
