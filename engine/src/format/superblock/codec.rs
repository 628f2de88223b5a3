//! The superblock's bytes: where each field lies, and how it is encoded and decoded.
//!
//! Offsets form a chain, each at the end of the field before; docs/format.md draws the same chain, and a test
//! compares the two. Decoding starts with the fields that are the same in every version (magic, checksum),
//! continues with those of this version, and ends with the rules among them ([`Superblock::check`]).

use std::iter;

use uuid::Uuid;

use super::super::bytes::{Block, array_at, checksum, put, put_u32, put_u64, u32_at, u64_at};
use super::super::host::Host;
use super::super::label::{LABEL_BYTES_MAX, Label};
use super::super::zones::{Zone, Zones};
use super::super::{Field, Level, Shape};
use super::{
    COMPAT_BOTH_PLACES, COMPAT_WIPED, Copy, DecodeError, Epoch, EpochName, INCOMPAT_KNOWN,
    INCOMPAT_LOST_ROWS, LINE_EPOCHS, MAGIC, RO_COMPAT_KNOWN, Record, RunState, SlotRecord, SlotState,
    Superblock, VERSION,
};
use crate::limits::{BLOCK_BYTES, MEMBERS_MAX};

const OFFSET_MAGIC: usize = 0;
const OFFSET_VERSION: usize = OFFSET_MAGIC + 8;
const OFFSET_CRC: usize = OFFSET_VERSION + 4;
pub(super) const OFFSET_SEQUENCE: usize = OFFSET_CRC + 4;
const OFFSET_INCOMPAT: usize = OFFSET_SEQUENCE + 8;
const OFFSET_RO_COMPAT: usize = OFFSET_INCOMPAT + 8;
const OFFSET_COMPAT: usize = OFFSET_RO_COMPAT + 8;
const OFFSET_RESERVED_HEAD: usize = OFFSET_COMPAT + 8;
const OFFSET_ARRAY: usize = OFFSET_RESERVED_HEAD + 16;
const OFFSET_MEMBER: usize = OFFSET_ARRAY + 16;
const OFFSET_SLOT: usize = OFFSET_MEMBER + 16;
const OFFSET_COPY: usize = OFFSET_SLOT + 1;
const OFFSET_LEVEL: usize = OFFSET_COPY + 1;
const OFFSET_MEMBERS: usize = OFFSET_LEVEL + 1;
const OFFSET_STATE: usize = OFFSET_MEMBERS + 1;
const OFFSET_FOUND: usize = OFFSET_STATE + 1;
const OFFSET_SETTLED: usize = OFFSET_FOUND + 1;
const OFFSET_PROVEN: usize = OFFSET_SETTLED + 1;
const OFFSET_CHUNK: usize = OFFSET_PROVEN + 1;
const OFFSET_LOGICAL_BLOCK: usize = OFFSET_CHUNK + 4;
const OFFSET_STRIPES: usize = OFFSET_LOGICAL_BLOCK + 4;
const OFFSET_BITMAP: usize = OFFSET_STRIPES + 8;
const OFFSET_LOG: usize = OFFSET_BITMAP + 16;
const OFFSET_DATA: usize = OFFSET_LOG + 16;
const OFFSET_EPOCH_NUMBER: usize = OFFSET_DATA + 16;
const OFFSET_EPOCH_ID: usize = OFFSET_EPOCH_NUMBER + 8;
const OFFSET_EPOCH_PARENT: usize = OFFSET_EPOCH_ID + 8;
const OFFSET_CREATED: usize = OFFSET_EPOCH_PARENT + 8;
const OFFSET_NAME: usize = OFFSET_CREATED + 8;
const OFFSET_HOST: usize = OFFSET_NAME + LABEL_BYTES_MAX;
const OFFSET_EPOCH_LINE: usize = OFFSET_HOST + LABEL_BYTES_MAX;
const OFFSET_MOVES: usize = OFFSET_EPOCH_LINE + (LINE_EPOCHS - 1) * 8;
const OFFSET_HOST_ID: usize = OFFSET_MOVES + 8;
const OFFSET_RESERVED_MIDDLE: usize = OFFSET_HOST_ID + 16;
const OFFSET_SLOTS: usize = 512;
const OFFSET_HELD_MOVES: usize = OFFSET_SLOTS + MEMBERS_MAX * SLOT_BYTES;
const OFFSET_TAIL_SALT: usize = OFFSET_HELD_MOVES + MEMBERS_MAX * 8;
const OFFSET_RESERVED_TAIL: usize = OFFSET_TAIL_SALT + 8;

/// Offsets inside one entry of the slot table.
const SLOT_OFFSET_MEMBER: usize = 0;
const SLOT_OFFSET_HELD_NUMBER: usize = SLOT_OFFSET_MEMBER + 16;
const SLOT_OFFSET_HELD_ID: usize = SLOT_OFFSET_HELD_NUMBER + 8;
const SLOT_OFFSET_CURSOR: usize = SLOT_OFFSET_HELD_ID + 8;
const SLOT_OFFSET_STATE: usize = SLOT_OFFSET_CURSOR + 8;
const SLOT_OFFSET_SALT: usize = SLOT_OFFSET_STATE + 1;
/// Length of the [`salt`] of one entry.
const SALT_BYTES: usize = 7;
const SLOT_BYTES: usize = SLOT_OFFSET_SALT + SALT_BYTES;

const _: () = assert!(OFFSET_ARRAY == 64);
const _: () = assert!(OFFSET_CHUNK.is_multiple_of(4) && OFFSET_STRIPES.is_multiple_of(8));
const _: () = assert!(OFFSET_RESERVED_MIDDLE <= OFFSET_SLOTS);
const _: () = assert!(SLOT_BYTES == 48);
const _: () = assert!(OFFSET_HELD_MOVES == 2048 && OFFSET_RESERVED_TAIL <= BLOCK_BYTES);

/// The fields, for the test that compares them with docs/format.md.
pub const FIELDS: &[Field] = &[
    Field { name: "magic", offset: OFFSET_MAGIC, bytes: 8 },
    Field { name: "version", offset: OFFSET_VERSION, bytes: 4 },
    Field { name: "crc32c", offset: OFFSET_CRC, bytes: 4 },
    Field { name: "sequence", offset: OFFSET_SEQUENCE, bytes: 8 },
    Field { name: "incompat features", offset: OFFSET_INCOMPAT, bytes: 8 },
    Field { name: "ro-compat features", offset: OFFSET_RO_COMPAT, bytes: 8 },
    Field { name: "compat features", offset: OFFSET_COMPAT, bytes: 8 },
    Field { name: "reserved", offset: OFFSET_RESERVED_HEAD, bytes: 16 },
    Field { name: "array uuid", offset: OFFSET_ARRAY, bytes: 16 },
    Field { name: "member uuid", offset: OFFSET_MEMBER, bytes: 16 },
    Field { name: "slot", offset: OFFSET_SLOT, bytes: 1 },
    Field { name: "copy", offset: OFFSET_COPY, bytes: 1 },
    Field { name: "level", offset: OFFSET_LEVEL, bytes: 1 },
    Field { name: "members", offset: OFFSET_MEMBERS, bytes: 1 },
    Field { name: "state", offset: OFFSET_STATE, bytes: 1 },
    Field { name: "found", offset: OFFSET_FOUND, bytes: 1 },
    Field { name: "settled", offset: OFFSET_SETTLED, bytes: 1 },
    Field { name: "proven", offset: OFFSET_PROVEN, bytes: 1 },
    Field { name: "chunk bytes", offset: OFFSET_CHUNK, bytes: 4 },
    Field { name: "logical block bytes", offset: OFFSET_LOGICAL_BLOCK, bytes: 4 },
    Field { name: "stripes", offset: OFFSET_STRIPES, bytes: 8 },
    Field { name: "bitmap offset", offset: OFFSET_BITMAP, bytes: 8 },
    Field { name: "bitmap length", offset: OFFSET_BITMAP + 8, bytes: 8 },
    Field { name: "log offset", offset: OFFSET_LOG, bytes: 8 },
    Field { name: "log length", offset: OFFSET_LOG + 8, bytes: 8 },
    Field { name: "data offset", offset: OFFSET_DATA, bytes: 8 },
    Field { name: "data length", offset: OFFSET_DATA + 8, bytes: 8 },
    Field { name: "epoch number", offset: OFFSET_EPOCH_NUMBER, bytes: 8 },
    Field { name: "epoch id", offset: OFFSET_EPOCH_ID, bytes: 8 },
    Field { name: "epoch parent id", offset: OFFSET_EPOCH_PARENT, bytes: 8 },
    Field { name: "created, seconds since 1970", offset: OFFSET_CREATED, bytes: 8 },
    Field { name: "name", offset: OFFSET_NAME, bytes: LABEL_BYTES_MAX },
    Field { name: "host", offset: OFFSET_HOST, bytes: LABEL_BYTES_MAX },
    Field { name: "epoch ids before the parent", offset: OFFSET_EPOCH_LINE, bytes: (LINE_EPOCHS - 1) * 8 },
    Field { name: "moves within the epoch", offset: OFFSET_MOVES, bytes: 8 },
    Field { name: "host id", offset: OFFSET_HOST_ID, bytes: 16 },
    Field { name: "reserved", offset: OFFSET_RESERVED_MIDDLE, bytes: OFFSET_SLOTS - OFFSET_RESERVED_MIDDLE },
    Field { name: "slot table, 32 entries", offset: OFFSET_SLOTS, bytes: MEMBERS_MAX * SLOT_BYTES },
    Field { name: "held moves, 32 slots", offset: OFFSET_HELD_MOVES, bytes: MEMBERS_MAX * 8 },
    Field { name: "salt", offset: OFFSET_TAIL_SALT, bytes: 8 },
    Field { name: "reserved", offset: OFFSET_RESERVED_TAIL, bytes: BLOCK_BYTES - OFFSET_RESERVED_TAIL },
];

/// The fields of one entry of the slot table, for the test that compares them with docs/format.md.
pub const SLOT_FIELDS: &[Field] = &[
    Field { name: "member uuid", offset: SLOT_OFFSET_MEMBER, bytes: 16 },
    Field { name: "held epoch number", offset: SLOT_OFFSET_HELD_NUMBER, bytes: 8 },
    Field { name: "held epoch id", offset: SLOT_OFFSET_HELD_ID, bytes: 8 },
    Field { name: "rebuild cursor, stripes", offset: SLOT_OFFSET_CURSOR, bytes: 8 },
    Field { name: "state", offset: SLOT_OFFSET_STATE, bytes: 1 },
    Field { name: "salt", offset: SLOT_OFFSET_SALT, bytes: SALT_BYTES },
];

/// Makes the 4 KiB to write in the place of `copy`.
///
/// # Panics
/// If the superblock does not pass its own check, or is of an array that must not be written.
#[must_use]
pub fn encode(superblock: &Superblock, copy: Copy) -> [u8; BLOCK_BYTES] {
    assert_eq!(superblock.check(), Ok(()), "a superblock to be written is valid");
    assert!(!superblock.read_only_required, "a read-only array is not written");
    let mut block: Block = [0; BLOCK_BYTES];
    put(&mut block, OFFSET_MAGIC, &MAGIC);
    put_u32(&mut block, OFFSET_VERSION, VERSION);
    put_u64(&mut block, OFFSET_SEQUENCE, superblock.sequence);
    put(&mut block, OFFSET_MEMBER, superblock.member.as_bytes());
    block[OFFSET_SLOT] = superblock.slot as u8;
    block[OFFSET_COPY] = copy_number(copy);
    block[OFFSET_PROVEN] = superblock.proven.into();
    encode_record(&mut block, &superblock.record);
    let salt = salt(superblock);
    for entry in block[OFFSET_SLOTS..OFFSET_HELD_MOVES].chunks_exact_mut(SLOT_BYTES) {
        entry[SLOT_OFFSET_SALT..].copy_from_slice(&salt);
    }
    put(&mut block, OFFSET_TAIL_SALT, &salt);
    let crc = checksum(&block, OFFSET_CRC);
    put_u32(&mut block, OFFSET_CRC, crc);
    block
}

/// Bytes that are unique to this write, put into each entry of the slot table and so into each sector that is
/// not zeros. Without them, the unfinished superblocks of two starts that broke off may differ in their first
/// sector only. If both tear in the same place, a part of the first and a part of the second then form the
/// first one, complete, after the second start had decided that it was never written. The salt is never read;
/// the checksum covers it.
fn salt(superblock: &Superblock) -> [u8; SALT_BYTES] {
    // The constant is 2^64 divided by the golden ratio: consecutive sequences differ in all bytes.
    let word = superblock.record.epoch.name.id ^ superblock.sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [salt @ .., _] = word.to_le_bytes();
    salt
}

fn encode_record(block: &mut Block, record: &Record) {
    put_u64(block, OFFSET_INCOMPAT, if record.lost_rows { INCOMPAT_LOST_ROWS } else { 0 });
    let compat = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
    let both_places = compat(record.both_places, COMPAT_BOTH_PLACES);
    put_u64(block, OFFSET_COMPAT, both_places | compat(record.wiped, COMPAT_WIPED));
    put(block, OFFSET_ARRAY, record.array.as_bytes());
    block[OFFSET_LEVEL] = record.shape.level.number();
    block[OFFSET_MEMBERS] = record.shape.members as u8;
    block[OFFSET_STATE] = record.state.number();
    block[OFFSET_FOUND] = record.found.number();
    block[OFFSET_SETTLED] = record.settled.into();
    put_u32(block, OFFSET_CHUNK, record.shape.chunk_bytes);
    put_u32(block, OFFSET_LOGICAL_BLOCK, record.logical_block_bytes);
    put_u64(block, OFFSET_STRIPES, record.zones.stripes);
    put_zone(block, OFFSET_BITMAP, &record.zones.bitmap);
    put_zone(block, OFFSET_LOG, &record.zones.log);
    put_zone(block, OFFSET_DATA, &record.zones.data);
    put_u64(block, OFFSET_EPOCH_NUMBER, record.epoch.name.number);
    put_u64(block, OFFSET_EPOCH_ID, record.epoch.name.id);
    for (id, offset) in record.epoch.line.iter().zip(line_offsets()) {
        put_u64(block, offset, *id);
    }
    put_u64(block, OFFSET_MOVES, record.moves);
    put_u64(block, OFFSET_CREATED, record.created_s);
    put(block, OFFSET_NAME, record.name.as_padded());
    put(block, OFFSET_HOST, record.host.name.as_padded());
    put(block, OFFSET_HOST_ID, record.host.id.as_bytes());
    for (slot, offset) in record.slots.iter().zip((OFFSET_HELD_MOVES..).step_by(8)) {
        put_u64(block, offset, slot.held_moves);
    }
    for (slot, offset) in record.slots.iter().zip((OFFSET_SLOTS..).step_by(SLOT_BYTES)) {
        put(block, offset + SLOT_OFFSET_MEMBER, slot.member.as_bytes());
        put_u64(block, offset + SLOT_OFFSET_HELD_NUMBER, slot.held.number);
        put_u64(block, offset + SLOT_OFFSET_HELD_ID, slot.held.id);
        put_u64(block, offset + SLOT_OFFSET_CURSOR, slot.cursor);
        block[offset + SLOT_OFFSET_STATE] = slot.state.number();
    }
}

/// Reads the 4 KiB found in the place of `copy`.
pub fn decode(block: &[u8], copy: Copy) -> Result<Superblock, DecodeError> {
    let block = verify(block)?;
    let version = u32_at(block, OFFSET_VERSION);
    if version > VERSION {
        return Err(DecodeError::FutureVersion(version));
    }
    if version != VERSION {
        return Err(DecodeError::Invalid("version is zero"));
    }
    let unknown = u64_at(block, OFFSET_INCOMPAT) & !INCOMPAT_KNOWN;
    if unknown != 0 {
        return Err(DecodeError::UnknownIncompat(unknown));
    }
    if block[OFFSET_COPY] != copy_number(copy) {
        return Err(DecodeError::Invalid("it is the other copy, in the wrong place"));
    }
    let superblock = Superblock {
        sequence: u64_at(block, OFFSET_SEQUENCE),
        member: uuid_at(block, OFFSET_MEMBER),
        slot: block[OFFSET_SLOT].into(),
        read_only_required: u64_at(block, OFFSET_RO_COMPAT) & !RO_COMPAT_KNOWN != 0,
        proven: block[OFFSET_PROVEN] != 0,
        record: decode_record(block)?,
    };
    superblock.check().map_err(DecodeError::Invalid)?;
    Ok(superblock)
}

/// Checks magic and checksum, which are the same in every version.
fn verify(block: &[u8]) -> Result<&Block, DecodeError> {
    let block: &Block = block.as_array().ok_or(DecodeError::NotStriate)?;
    if block[..MAGIC.len()] != MAGIC {
        return Err(DecodeError::NotStriate);
    }
    let (found, computed) = (u32_at(block, OFFSET_CRC), checksum(block, OFFSET_CRC));
    if found != computed {
        return Err(DecodeError::Torn { found, computed });
    }
    Ok(block)
}

fn decode_record(block: &Block) -> Result<Record, DecodeError> {
    let invalid = DecodeError::Invalid;
    let label_at =
        |offset| Label::from_padded(&array_at(block, offset)).ok_or(invalid("a name has other letters"));
    let state_at = |offset: usize| RunState::from_number(block[offset]).ok_or(invalid("no such state"));
    let mut slots = [SlotRecord::EMPTY; MEMBERS_MAX];
    for (slot, offset) in slots.iter_mut().zip((OFFSET_SLOTS..).step_by(SLOT_BYTES)) {
        *slot = decode_slot(block, offset).ok_or(invalid("no such slot state"))?;
    }
    for (slot, offset) in slots.iter_mut().zip((OFFSET_HELD_MOVES..).step_by(8)) {
        slot.held_moves = u64_at(block, offset);
    }
    let mut line = [0; LINE_EPOCHS];
    for (id, offset) in line.iter_mut().zip(line_offsets()) {
        *id = u64_at(block, offset);
    }
    Ok(Record {
        array: uuid_at(block, OFFSET_ARRAY),
        name: label_at(OFFSET_NAME)?,
        host: Host { id: uuid_at(block, OFFSET_HOST_ID), name: label_at(OFFSET_HOST)? },
        created_s: u64_at(block, OFFSET_CREATED),
        shape: Shape {
            level: Level::from_number(block[OFFSET_LEVEL]).ok_or(invalid("no such level"))?,
            members: block[OFFSET_MEMBERS].into(),
            chunk_bytes: u32_at(block, OFFSET_CHUNK),
        },
        logical_block_bytes: u32_at(block, OFFSET_LOGICAL_BLOCK),
        zones: Zones {
            bitmap: zone_at(block, OFFSET_BITMAP),
            log: zone_at(block, OFFSET_LOG),
            data: zone_at(block, OFFSET_DATA),
            stripes: u64_at(block, OFFSET_STRIPES),
        },
        epoch: Epoch {
            name: EpochName {
                number: u64_at(block, OFFSET_EPOCH_NUMBER),
                id: u64_at(block, OFFSET_EPOCH_ID),
            },
            line,
        },
        moves: u64_at(block, OFFSET_MOVES),
        state: state_at(OFFSET_STATE)?,
        settled: block[OFFSET_SETTLED] != 0,
        both_places: u64_at(block, OFFSET_COMPAT) & COMPAT_BOTH_PLACES != 0,
        wiped: u64_at(block, OFFSET_COMPAT) & COMPAT_WIPED != 0,
        found: state_at(OFFSET_FOUND)?,
        lost_rows: u64_at(block, OFFSET_INCOMPAT) & INCOMPAT_LOST_ROWS != 0,
        slots,
    })
}

fn decode_slot(block: &Block, offset: usize) -> Option<SlotRecord> {
    Some(SlotRecord {
        member: uuid_at(block, offset + SLOT_OFFSET_MEMBER),
        state: SlotState::from_number(block[offset + SLOT_OFFSET_STATE])?,
        held: EpochName {
            number: u64_at(block, offset + SLOT_OFFSET_HELD_NUMBER),
            id: u64_at(block, offset + SLOT_OFFSET_HELD_ID),
        },
        // The held moves are in the table after this one.
        held_moves: 0,
        cursor: u64_at(block, offset + SLOT_OFFSET_CURSOR),
    })
}

/// Offsets of the ids in the epoch's line. The parent has a separate place; the others were added later.
fn line_offsets() -> impl Iterator<Item = usize> {
    iter::once(OFFSET_EPOCH_PARENT).chain((OFFSET_EPOCH_LINE..OFFSET_MOVES).step_by(8))
}

const fn copy_number(copy: Copy) -> u8 {
    match copy {
        Copy::A => 0,
        Copy::B => 1,
    }
}

fn uuid_at(block: &Block, offset: usize) -> Uuid {
    Uuid::from_bytes(array_at(block, offset))
}

fn zone_at(block: &Block, offset: usize) -> Zone {
    Zone { offset_bytes: u64_at(block, offset), len_bytes: u64_at(block, offset + 8) }
}

fn put_zone(block: &mut Block, offset: usize, zone: &Zone) {
    put_u64(block, offset, zone.offset_bytes);
    put_u64(block, offset + 8, zone.len_bytes);
}
