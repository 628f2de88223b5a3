//! The list of lost rows: parts of data strips whose content can no longer be computed. A read of them is an
//! error until a host writes or discards them.
//!
//! Every member has two places for the list, between superblock B and the bitmap zone. A new version goes to
//! one place on all members and then to the other, so a torn write leaves the version before. The list counts
//! only if the superblock has the incompat bit [`INCOMPAT_LOST_ROWS`](super::superblock::INCOMPAT_LOST_ROWS).
//! The bit is on record before anything relies on the first entry: a program that does not know the list
//! would serve zeros for lost rows.
//!
//! Invariants:
//! - Ranges that [`decode`] returns lie inside the array: their slots, stripes and rows exist, and none is
//!   empty.
//! - Of the valid copies on members in sync, the one with the highest generation counts.

use uuid::Uuid;

use super::Field;
use super::bytes::{array_at, put, put_u32, put_u64, u32_at, u64_at};
use crate::limits::{BLOCK_BYTES, LOST_RANGES_MAX};

/// First bytes of a list.
pub const MAGIC: [u8; 8] = *b"STRILOST";
/// Version of the list's layout.
pub const VERSION: u32 = 1;
/// Bytes of one place: seven blocks.
pub const LIST_BYTES: usize = 7 * BLOCK_BYTES;
/// Offsets of the two places on a member.
pub const PLACE_OFFSETS_BYTES: [u64; 2] = [72 << 10, (72 << 10) + LIST_BYTES as u64];

const OFFSET_MAGIC: usize = 0;
const OFFSET_VERSION: usize = OFFSET_MAGIC + 8;
const OFFSET_CRC: usize = OFFSET_VERSION + 4;
const OFFSET_ARRAY: usize = OFFSET_CRC + 4;
const OFFSET_GENERATION: usize = OFFSET_ARRAY + 16;
const OFFSET_COUNT: usize = OFFSET_GENERATION + 8;
const OFFSET_RESERVED: usize = OFFSET_COUNT + 8;
const OFFSET_RANGES: usize = OFFSET_RESERVED + 16;

/// Offsets inside one range.
const RANGE_OFFSET_STRIPE: usize = 0;
const RANGE_OFFSET_STRIPES: usize = RANGE_OFFSET_STRIPE + 8;
const RANGE_OFFSET_ROW: usize = RANGE_OFFSET_STRIPES + 4;
const RANGE_OFFSET_ROWS: usize = RANGE_OFFSET_ROW + 4;
const RANGE_OFFSET_SLOT: usize = RANGE_OFFSET_ROWS + 4;
const RANGE_OFFSET_RESERVED: usize = RANGE_OFFSET_SLOT + 1;
const RANGE_BYTES: usize = RANGE_OFFSET_RESERVED + 3;

const _: () = assert!(OFFSET_RANGES == 64 && RANGE_BYTES == 24);
const _: () = assert!(OFFSET_RANGES + LOST_RANGES_MAX * RANGE_BYTES <= LIST_BYTES);
const _: () = assert!(PLACE_OFFSETS_BYTES[1] + LIST_BYTES as u64 == super::zones::BITMAP_OFFSET_BYTES);

/// The fields of the header, for the test that compares them with docs/format.md.
pub const FIELDS: &[Field] = &[
    Field { name: "magic", offset: OFFSET_MAGIC, bytes: 8 },
    Field { name: "version", offset: OFFSET_VERSION, bytes: 4 },
    Field { name: "crc32c", offset: OFFSET_CRC, bytes: 4 },
    Field { name: "array uuid", offset: OFFSET_ARRAY, bytes: 16 },
    Field { name: "generation", offset: OFFSET_GENERATION, bytes: 8 },
    Field { name: "ranges", offset: OFFSET_COUNT, bytes: 8 },
    Field { name: "reserved", offset: OFFSET_RESERVED, bytes: OFFSET_RANGES - OFFSET_RESERVED },
];

/// The fields of one range, for the test that compares them with docs/format.md.
pub const RANGE_FIELDS: &[Field] = &[
    Field { name: "first stripe", offset: RANGE_OFFSET_STRIPE, bytes: 8 },
    Field { name: "stripes", offset: RANGE_OFFSET_STRIPES, bytes: 4 },
    Field { name: "first row", offset: RANGE_OFFSET_ROW, bytes: 4 },
    Field { name: "rows", offset: RANGE_OFFSET_ROWS, bytes: 4 },
    Field { name: "slot", offset: RANGE_OFFSET_SLOT, bytes: 1 },
    Field { name: "reserved", offset: RANGE_OFFSET_RESERVED, bytes: 3 },
];

/// Lost rows of one slot's data strips, in consecutive stripes. In stripes where the slot holds parity
/// nothing is lost, because parity is computed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LostRange {
    /// The first stripe.
    pub stripe: u64,
    /// Number of stripes.
    pub stripes: u32,
    /// The slot of the strips.
    pub slot: u8,
    /// Start of the rows, in bytes from the start of each strip.
    pub row: u32,
    /// Length of the rows, in bytes.
    pub rows: u32,
}

/// Limits for the ranges of an array.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Number of stripes of the array.
    pub stripes: u64,
    /// Number of slots.
    pub members: u8,
    /// Length of a strip.
    pub chunk_bytes: u32,
}

impl Bounds {
    fn allow(&self, range: &LostRange) -> bool {
        let LostRange { stripe, stripes, slot, row, rows } = *range;
        let inside = |first: u64, count: u64, end: u64| count > 0 && first < end && count <= end - first;
        slot < self.members
            && inside(stripe, stripes.into(), self.stripes)
            && inside(row.into(), rows.into(), self.chunk_bytes.into())
    }
}

/// Reasons why a list is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The magic is missing, or this program does not know the version.
    #[error("not a list of lost rows of version {VERSION}")]
    NotAList,
    /// The checksum does not match: the list is torn or damaged.
    #[error("list of lost rows is torn or damaged: its checksum does not match")]
    Checksum,
    /// The list belongs to another array.
    #[error("list of lost rows belongs to another array, {0}")]
    OtherArray(Uuid),
    /// The checksum is right, but the content is not valid.
    #[error("list of lost rows is not valid: {0}")]
    Invalid(&'static str),
}

/// Upper bound of the generations that are believed, as for bitmap blocks.
const GENERATION_MAX: u64 = 1 << 60;

fn checksum(list: &[u8]) -> u32 {
    let before = crc32c::crc32c(&list[..OFFSET_CRC]);
    let zeroed = crc32c::crc32c_append(before, &[0; 4]);
    crc32c::crc32c_append(zeroed, &list[OFFSET_CRC + 4..])
}

/// Writes the whole content of a place.
///
/// # Panics
/// If `list` is not [`LIST_BYTES`] long, or there are more than [`LOST_RANGES_MAX`] ranges.
pub fn encode(list: &mut [u8], array: Uuid, generation: u64, ranges: &[LostRange]) {
    assert!(list.len() == LIST_BYTES && ranges.len() <= LOST_RANGES_MAX);
    list.fill(0);
    put(list, OFFSET_MAGIC, &MAGIC);
    put_u32(list, OFFSET_VERSION, VERSION);
    put(list, OFFSET_ARRAY, array.as_bytes());
    put_u64(list, OFFSET_GENERATION, generation);
    put_u64(list, OFFSET_COUNT, ranges.len() as u64);
    for (range, at) in ranges.iter().zip((OFFSET_RANGES..).step_by(RANGE_BYTES)) {
        put_u64(list, at + RANGE_OFFSET_STRIPE, range.stripe);
        put_u32(list, at + RANGE_OFFSET_STRIPES, range.stripes);
        put_u32(list, at + RANGE_OFFSET_ROW, range.row);
        put_u32(list, at + RANGE_OFFSET_ROWS, range.rows);
        list[at + RANGE_OFFSET_SLOT] = range.slot;
    }
    let crc = checksum(list);
    put_u32(list, OFFSET_CRC, crc);
}

/// Reads one place. Returns the generation and the ranges.
pub fn decode(list: &[u8], array: Uuid, bounds: &Bounds) -> Result<(u64, Vec<LostRange>), ListError> {
    if list.len() != LIST_BYTES || list[..8] != MAGIC || u32_at(list, OFFSET_VERSION) != VERSION {
        return Err(ListError::NotAList);
    }
    if u32_at(list, OFFSET_CRC) != checksum(list) {
        return Err(ListError::Checksum);
    }
    let found = Uuid::from_bytes(array_at(list, OFFSET_ARRAY));
    if found != array {
        return Err(ListError::OtherArray(found));
    }
    let generation = u64_at(list, OFFSET_GENERATION);
    if generation >= GENERATION_MAX {
        return Err(ListError::Invalid("its generation was not written by this program"));
    }
    let count = u64_at(list, OFFSET_COUNT);
    if count > LOST_RANGES_MAX as u64 {
        return Err(ListError::Invalid("it has more ranges than there is room for"));
    }
    let range_at = |at: usize| LostRange {
        stripe: u64_at(list, at + RANGE_OFFSET_STRIPE),
        stripes: u32_at(list, at + RANGE_OFFSET_STRIPES),
        slot: list[at + RANGE_OFFSET_SLOT],
        row: u32_at(list, at + RANGE_OFFSET_ROW),
        rows: u32_at(list, at + RANGE_OFFSET_ROWS),
    };
    let ranges: Vec<_> = (OFFSET_RANGES..).step_by(RANGE_BYTES).take(count as usize).map(range_at).collect();
    if !ranges.iter().all(|range| bounds.allow(range)) {
        return Err(ListError::Invalid("a range lies outside of the array"));
    }
    Ok((generation, ranges))
}
