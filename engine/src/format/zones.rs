//! Where each zone of a member lies: one function computes it, one checks it.
//!
//! The bitmap's length depends on how many stripes there are, and how many stripes fit depends on the
//! bitmap's length. The end of the data zone grows with the number of stripes, so the largest number
//! that fits is found by halving: 64 steps, exact, and no rounding to get wrong.
//!
//! Invariants:
//! - superblock A < superblock B < bitmap < log < data; they do not overlap and end inside the member.
//! - Superblocks, bitmap and log are whole 4 KiB blocks at multiples of 4 KiB; data starts at a multiple
//!   of 1 MiB, so a strip of any chunk size is aligned to its own size.
//! - One more stripe would not fit before the last MiB of the member, which stays unused: the second copy of a GPT and the
//!   superblocks of md 0.90 and 1.0 land there when something else is put on the device by mistake. (Arrays that were made before
//!   this rule use the end too.)
//!
//! Zones are computed once, for the smallest member, and are then the same on all of them. (Computing
//! them for each member was the alternative: a member 4 KiB longer may get a longer log, which pushes
//! its data zone by 1 MiB, and then it holds fewer stripes than the smaller one.)
//!
//! When the members have become longer, [`Zones::grown`] leaves every byte of the array where it is: more blocks of the
//! bitmap take the first part of the log's place, in which nothing is kept yet, and the data zone ends later.

use super::{Shape, ShapeError};
use crate::limits::BLOCK_BYTES;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// Where superblock A lies. Block 0 is left alone.
pub const SUPERBLOCK_A_OFFSET_BYTES: u64 = 4 * KIB;
/// Where superblock B lies, far enough from A that one damaged erase block or track does not take both.
pub const SUPERBLOCK_B_OFFSET_BYTES: u64 = 64 * KIB;
/// Where the bitmap zone begins.
pub const BITMAP_OFFSET_BYTES: u64 = 128 * KIB;

/// Cells in one bitmap block: two bits each in the 4032 bytes after the header.
pub const CELLS_PER_BLOCK: u64 = 16_128;

/// Places of a bitmap block on each member that keeps it. Its generations take turns, so that a write that
/// tears leaves the one before: the only other copies may be torn in the same moment, by the same power cut.
pub const PLACES_PER_BLOCK: u64 = 2;

/// The log of a member of 4 GiB and more; smaller ones have a 128th of their length.
pub const LOG_BYTES_MAX: u64 = 32 * MIB;
/// The log of the smallest members.
pub const LOG_BYTES_MIN: u64 = MIB;

/// The data zone begins at a multiple of this.
pub const DATA_ALIGNMENT_BYTES: u64 = MIB;

/// The end of a member that a new array leaves unused.
pub const TAIL_UNUSED_BYTES: u64 = MIB;

/// What lies beyond this on a member is not used: 128 PiB. 30 data members of it are less than 2^62
/// bytes, so no offset in an array overflows.
pub const MEMBER_BYTES_MAX: u64 = 1 << 57;

const _: () = assert!(SUPERBLOCK_A_OFFSET_BYTES + BLOCK <= SUPERBLOCK_B_OFFSET_BYTES);
const _: () = assert!(SUPERBLOCK_B_OFFSET_BYTES + BLOCK <= BITMAP_OFFSET_BYTES);
const _: () = assert!(CELLS_PER_BLOCK == super::bitmap_block::CELL_BYTES as u64 * 4);
const _: () = assert!(DATA_ALIGNMENT_BYTES >= crate::limits::CHUNK_BYTES_MAX as u64);

/// A byte range of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Zone {
    /// First byte.
    pub offset_bytes: u64,
    /// Length.
    pub len_bytes: u64,
}

impl Zone {
    /// One past the last byte, unless that is beyond any member.
    fn end(&self) -> Option<u64> {
        self.offset_bytes.checked_add(self.len_bytes).filter(|&end| end <= MEMBER_BYTES_MAX)
    }

    fn is_aligned(&self, alignment: u64) -> bool {
        self.offset_bytes.is_multiple_of(alignment) && self.len_bytes.is_multiple_of(BLOCK)
    }
}

/// The zones of every member of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Zones {
    /// Room for every bitmap block of the array; block i at `offset + i * 4096`.
    pub bitmap: Zone,
    /// Reserved for a log of partial parity.
    pub log: Zone,
    /// `stripes * chunk_bytes` long; the strip of stripe i at `offset + i * chunk_bytes`.
    pub data: Zone,
    /// Stripes in the array.
    pub stripes: u64,
}

/// Why a member cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// No array has this shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Not even one stripe fits.
    #[error(
        "a member of {member_bytes} bytes is too small: with this chunk it needs {minimum_bytes} at least"
    )]
    TooSmall {
        /// As given.
        member_bytes: u64,
        /// The shortest member that holds one stripe.
        minimum_bytes: u64,
    },
}

/// The zones of an array whose smallest member has `member_bytes`.
pub fn zones(member_bytes: u64, shape: &Shape) -> Result<Zones, ZoneError> {
    shape.check()?;
    let usable_bytes = usable(member_bytes);
    let log_bytes = log_bytes(usable_bytes);
    let fits = |stripes| layout(stripes, log_bytes, shape).end_bytes() <= usable_bytes;
    if !fits(1) {
        let minimum_bytes = layout(1, LOG_BYTES_MIN, shape).end_bytes() + TAIL_UNUSED_BYTES;
        return Err(ZoneError::TooSmall { member_bytes, minimum_bytes });
    }
    let (mut fitting, mut beyond) = (1, usable_bytes / u64::from(shape.chunk_bytes) + 1);
    while beyond - fitting > 1 {
        let middle = fitting + (beyond - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            beyond = middle;
        }
    }
    Ok(layout(fitting, log_bytes, shape))
}

/// What a new array uses of a member, and what an old one may grow to.
#[must_use]
pub fn usable(member_bytes: u64) -> u64 {
    member_bytes.min(MEMBER_BYTES_MAX).saturating_sub(TAIL_UNUSED_BYTES)
}

fn log_bytes(member_bytes: u64) -> u64 {
    let share = member_bytes / 128;
    (share - share % BLOCK).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX)
}

fn layout(stripes: u64, log_bytes: u64, shape: &Shape) -> Zones {
    let len_bytes = bitmap_blocks(stripes) * PLACES_PER_BLOCK * BLOCK;
    let bitmap = Zone { offset_bytes: BITMAP_OFFSET_BYTES, len_bytes };
    let log = Zone { offset_bytes: bitmap.offset_bytes + bitmap.len_bytes, len_bytes: log_bytes };
    let data_offset_bytes = (log.offset_bytes + log.len_bytes).next_multiple_of(DATA_ALIGNMENT_BYTES);
    let data = Zone { offset_bytes: data_offset_bytes, len_bytes: stripes * u64::from(shape.chunk_bytes) };
    Zones { bitmap, log, data, stripes }
}

fn bitmap_blocks(stripes: u64) -> u64 {
    stripes.div_ceil(CELLS_PER_BLOCK)
}

impl Zones {
    /// How long a member must be.
    #[must_use]
    pub const fn end_bytes(&self) -> u64 {
        self.data.offset_bytes + self.data.len_bytes
    }

    /// Bitmap blocks of the array.
    #[must_use]
    pub fn bitmap_blocks(&self) -> u64 {
        bitmap_blocks(self.stripes)
    }

    /// The zones of the same array on members of `member_bytes`: nothing moves but the log, and as many stripes are added as the
    /// members have room for, or the place before the data zone for their bitmap. `self` where that is none.
    #[must_use]
    pub fn grown(&self, member_bytes: u64, shape: &Shape) -> Zones {
        let room_bytes = member_bytes.min(MEMBER_BYTES_MAX).saturating_sub(self.data.offset_bytes);
        let stripes = (room_bytes / u64::from(shape.chunk_bytes)).min(self.stripes_max()).max(self.stripes);
        let len_bytes = self.bitmap.len_bytes.max(bitmap_blocks(stripes) * PLACES_PER_BLOCK * BLOCK);
        let bitmap = Zone { len_bytes, ..self.bitmap };
        let bitmap_end = bitmap.offset_bytes + bitmap.len_bytes;
        let log = if bitmap_end <= self.log.offset_bytes {
            self.log
        } else {
            let len_bytes = self.log.len_bytes.min(self.data.offset_bytes - bitmap_end);
            Zone { offset_bytes: bitmap_end, len_bytes }
        };
        let data = Zone { len_bytes: stripes * u64::from(shape.chunk_bytes), ..self.data };
        Zones { bitmap, log, data, stripes }
    }

    /// Stripes for whose cells there is a place before the data zone, with the shortest log beside it.
    #[must_use]
    pub const fn stripes_max(&self) -> u64 {
        let room_bytes = (self.data.offset_bytes - self.bitmap.offset_bytes).saturating_sub(LOG_BYTES_MIN);
        room_bytes / (PLACES_PER_BLOCK * BLOCK) * CELLS_PER_BLOCK
    }

    /// Where this generation of bitmap block `block` lies, on the members that keep it.
    #[must_use]
    pub fn bitmap_block_offset_bytes(&self, block: u64, generation: u64) -> u64 {
        assert!(block < self.bitmap_blocks());
        self.bitmap.offset_bytes + bitmap_place(block, generation)
    }

    /// Checks zones that come from a disk: ordered, disjoint, aligned, and as long as the array needs.
    /// (That they end inside the device is for [`choose`](super::superblock::choose), which knows it.)
    pub(super) fn check(&self, shape: &Shape) -> Result<(), &'static str> {
        let ends = [self.bitmap.end(), self.log.end(), self.data.end()];
        let [Some(bitmap_end), Some(log_end), Some(_)] = ends else {
            return Err("a zone ends beyond any member");
        };
        if self.bitmap.offset_bytes < BITMAP_OFFSET_BYTES
            || self.log.offset_bytes < bitmap_end
            || self.data.offset_bytes < log_end
        {
            return Err("zones overlap");
        }
        let aligned = self.bitmap.is_aligned(BLOCK)
            && self.log.is_aligned(BLOCK)
            && self.data.is_aligned(DATA_ALIGNMENT_BYTES);
        if !aligned {
            return Err("a zone is not aligned");
        }
        if self.stripes == 0
            || self.stripes.checked_mul(shape.chunk_bytes.into()) != Some(self.data.len_bytes)
        {
            return Err("the data zone is not as long as its stripes");
        }
        if self.bitmap.len_bytes / BLOCK / PLACES_PER_BLOCK < self.bitmap_blocks() {
            return Err("the bitmap zone is too short for the stripes");
        }
        Ok(())
    }
}

/// Where a generation of a bitmap block lies within the bitmap zone.
#[must_use]
pub const fn bitmap_place(block: u64, generation: u64) -> u64 {
    (block * PLACES_PER_BLOCK + generation % PLACES_PER_BLOCK) * BLOCK
}

/// The slots that keep bitmap block `block`: parities + 1 of them, rotating, so that as many members as
/// the level bears may be lost and one copy is left.
pub fn copies(block: u64, shape: &Shape) -> impl Iterator<Item = usize> + use<> {
    let members = shape.members as u64;
    (0..=shape.level.parities() as u64).map(move |k| ((block % members + k) % members) as usize)
}

/// The bitmap block of a stripe's cell, and the cell's index in it.
#[must_use]
pub const fn cell_of(stripe: u64) -> (u64, usize) {
    (stripe / CELLS_PER_BLOCK, (stripe % CELLS_PER_BLOCK) as usize)
}
