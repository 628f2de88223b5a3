//! The position of each zone of a member: one function computes it, one checks it.
//!
//! The bitmap's length depends on the number of stripes, and the number of stripes that fit depends on the
//! bitmap's length. The end of the data zone grows with the number of stripes, so bisection finds the largest
//! number that fits: 64 steps, exact, without rounding errors.
//!
//! Invariants:
//! - superblock A < superblock B < bitmap < log < data; they do not overlap and end inside the member.
//! - Superblocks, bitmap and log are whole 4 KiB blocks at multiples of 4 KiB; data starts at a multiple of 1
//!   MiB, so a strip of any chunk size is aligned to its own size.
//! - One more stripe would not fit before the last MiB of the member. That MiB stays unused: the second copy
//!   of a GPT and the superblocks of md 0.90 and 1.0 land there when another program uses the device by
//!   mistake. (Arrays made before this rule use the end too.)
//!
//! Zones are computed once, for the smallest member, and are then the same on all members. (The alternative
//! was to compute them for each member. But a member that is 4 KiB longer may get a longer log, which moves
//! its data zone by 1 MiB, and then it holds fewer stripes than the smaller one.)
//!
//! When the members have become longer, [`Zones::grown`] leaves every byte of the array where it is: new
//! bitmap blocks take the first part of the log zone, in which nothing is kept yet, and the data zone ends
//! later.

use super::{Shape, ShapeError};
use crate::limits::BLOCK_BYTES;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// Offset of superblock A. Block 0 stays untouched.
pub const SUPERBLOCK_A_OFFSET_BYTES: u64 = 4 * KIB;
/// Offset of superblock B, far enough from A that one damaged erase block or track does not hit both.
pub const SUPERBLOCK_B_OFFSET_BYTES: u64 = 64 * KIB;
/// Offset of the bitmap zone.
pub const BITMAP_OFFSET_BYTES: u64 = 128 * KIB;

/// Cells in one bitmap block: two bits each in the 4032 bytes after the header.
pub const CELLS_PER_BLOCK: u64 = 16_128;

/// Places of a bitmap block on each member that keeps it. Generations use the places in turn, so that a torn
/// write leaves the generation before. One place would not do: the same power cut may tear all other copies
/// at the same moment.
pub const PLACES_PER_BLOCK: u64 = 2;

/// Length of the log on members of 4 GiB and more; on smaller ones it is a 128th of the member.
pub const LOG_BYTES_MAX: u64 = 32 * MIB;
/// Length of the log on the smallest members.
pub const LOG_BYTES_MIN: u64 = MIB;

/// Alignment of the start of the data zone.
pub const DATA_ALIGNMENT_BYTES: u64 = MIB;

/// Length of the end of a member that a new array leaves unused.
pub const TAIL_UNUSED_BYTES: u64 = MIB;

/// Limit of the used part of a member: 128 PiB. 30 data members of this length are less than 2^62 bytes, so
/// no offset in an array overflows.
pub const MEMBER_BYTES_MAX: u64 = 1 << 57;

const _: () = assert!(SUPERBLOCK_A_OFFSET_BYTES + BLOCK <= SUPERBLOCK_B_OFFSET_BYTES);
const _: () = assert!(SUPERBLOCK_B_OFFSET_BYTES + BLOCK <= BITMAP_OFFSET_BYTES);
const _: () = assert!(CELLS_PER_BLOCK == super::bitmap_block::CELL_BYTES as u64 * 4);
const _: () = assert!(DATA_ALIGNMENT_BYTES >= crate::limits::CHUNK_BYTES_MAX as u64);

/// A byte range of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Zone {
    /// Offset of the first byte.
    pub offset_bytes: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

impl Zone {
    /// The byte after the last; `None` if that is beyond any member.
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
    /// Space for every bitmap block of the array, two places each; see [`bitmap_place`].
    pub bitmap: Zone,
    /// Space reserved for a log of partial parity.
    pub log: Zone,
    /// Strips, `stripes * chunk_bytes` in all; the strip of stripe i is at `offset + i * chunk_bytes`.
    pub data: Zone,
    /// Number of stripes in the array.
    pub stripes: u64,
}

/// Reasons why a member cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// No array can have this shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The member is too short for a single stripe.
    #[error(
        "a member of {member_bytes} bytes is too small: with this chunk it needs {minimum_bytes} at least"
    )]
    TooSmall {
        /// The given length.
        member_bytes: u64,
        /// Length of the shortest member that holds one stripe.
        minimum_bytes: u64,
    },
}

/// Computes the zones of an array whose smallest member has `member_bytes`.
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

/// Bytes of a member that a new array uses, and to which an old one may grow.
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
    /// The shortest length of a member with these zones.
    #[must_use]
    pub const fn end_bytes(&self) -> u64 {
        self.data.offset_bytes + self.data.len_bytes
    }

    /// Number of bitmap blocks of the array.
    #[must_use]
    pub fn bitmap_blocks(&self) -> u64 {
        bitmap_blocks(self.stripes)
    }

    /// The zones of the array on members that have grown to `member_bytes`. Only the log moves. As many
    /// stripes are added as fit on the members and as have space for their cells before the data zone. Equal
    /// to `self` if none can be added.
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

    /// Most stripes whose cells fit before the data zone, beside the shortest log.
    #[must_use]
    pub const fn stripes_max(&self) -> u64 {
        let room_bytes = (self.data.offset_bytes - self.bitmap.offset_bytes).saturating_sub(LOG_BYTES_MIN);
        room_bytes / (PLACES_PER_BLOCK * BLOCK) * CELLS_PER_BLOCK
    }

    /// The offset of this generation of bitmap block `block` on the members that keep it.
    #[must_use]
    pub fn bitmap_block_offset_bytes(&self, block: u64, generation: u64) -> u64 {
        assert!(block < self.bitmap_blocks());
        self.bitmap.offset_bytes + bitmap_place(block, generation)
    }

    /// Checks zones that come from a disk: ordered, disjoint, aligned, and as long as the array needs.
    /// ([`choose`](super::superblock::choose) knows the device's length, and checks that they end inside it.)
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

/// The offset of a generation of a bitmap block within the bitmap zone.
#[must_use]
pub const fn bitmap_place(block: u64, generation: u64) -> u64 {
    (block * PLACES_PER_BLOCK + generation % PLACES_PER_BLOCK) * BLOCK
}

/// The slots that keep bitmap block `block`: parities + 1 of them, rotating. One copy is left if the array
/// loses as many members as its level tolerates.
pub fn copies(block: u64, shape: &Shape) -> impl Iterator<Item = usize> + use<> {
    let members = shape.members as u64;
    (0..=shape.level.parities() as u64).map(move |k| ((block % members + k) % members) as usize)
}

/// The bitmap block of a stripe's cell, and the cell's index in it.
#[must_use]
pub const fn cell_of(stripe: u64) -> (u64, usize) {
    (stripe / CELLS_PER_BLOCK, (stripe % CELLS_PER_BLOCK) as usize)
}
