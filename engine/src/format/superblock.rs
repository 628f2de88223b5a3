//! The superblock: what a member knows of itself, and the array's record as of its newest write.
//!
//! There are two copies, A and B. A write goes to the copy that is older (or not valid), with a sequence
//! one higher; so a write that tears costs the write and nothing else. [`choose`] reads both.
//!
//! The first 64 bytes never change their meaning in any version: magic, version, checksum, sequence and
//! feature words. So a program can tell "newer than I understand" from "damaged".
//!
//! Feature words, as in file systems: an unknown *incompat* bit means that the array may not be touched;
//! an unknown *ro-compat* bit, that it may be read; an unknown *compat* bit may be ignored. This version
//! knows none, and writes none.
//!
//! Invariants:
//! - A [`Superblock`] that came out of [`decode`] satisfies everything that [`Superblock::check`] checks,
//!   and one that goes into [`encode`] is asserted to.
//! - [`choose`] returns only superblocks whose zones end inside the device.
//! - Reserved bytes are written as zero and not looked at when read; the checksum covers them.

use uuid::Uuid;

use super::bytes::{Block, array_at, checksum, put, put_u32, put_u64, u32_at, u64_at};
use super::label::{LABEL_BYTES_MAX, Label};
use super::zones::{SUPERBLOCK_A_OFFSET_BYTES, SUPERBLOCK_B_OFFSET_BYTES, Zone, Zones};
use super::{Field, Level, Shape};
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES_MIN, MEMBERS_MAX};

/// First bytes of a superblock.
pub const MAGIC: [u8; 8] = *b"STRIATE\0";
/// Version of the superblock's layout.
pub const VERSION: u32 = 1;
/// Incompat bits that this program knows.
pub const INCOMPAT_KNOWN: u64 = 0;
/// Largest sequence and epoch number that are believed. Counting a million a second takes 146,000 years
/// to get here, and whoever writes one has room left to add one.
pub const COUNT_MAX: u64 = 1 << 62;
/// Ro-compat bits that this program knows.
pub const RO_COMPAT_KNOWN: u64 = 0;

const OFFSET_MAGIC: usize = 0;
const OFFSET_VERSION: usize = OFFSET_MAGIC + 8;
const OFFSET_CRC: usize = OFFSET_VERSION + 4;
const OFFSET_SEQUENCE: usize = OFFSET_CRC + 4;
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
const OFFSET_RESERVED_FLAGS: usize = OFFSET_FOUND + 1;
const OFFSET_CHUNK: usize = OFFSET_RESERVED_FLAGS + 2;
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
const OFFSET_RESERVED_MIDDLE: usize = OFFSET_HOST + LABEL_BYTES_MAX;
const OFFSET_SLOTS: usize = 512;
const OFFSET_RESERVED_TAIL: usize = OFFSET_SLOTS + MEMBERS_MAX * SLOT_BYTES;

/// Offsets inside one entry of the slot table.
const SLOT_OFFSET_MEMBER: usize = 0;
const SLOT_OFFSET_HELD_NUMBER: usize = SLOT_OFFSET_MEMBER + 16;
const SLOT_OFFSET_HELD_ID: usize = SLOT_OFFSET_HELD_NUMBER + 8;
const SLOT_OFFSET_CURSOR: usize = SLOT_OFFSET_HELD_ID + 8;
const SLOT_OFFSET_STATE: usize = SLOT_OFFSET_CURSOR + 8;
const SLOT_OFFSET_RESERVED: usize = SLOT_OFFSET_STATE + 1;
const SLOT_BYTES: usize = SLOT_OFFSET_RESERVED + 7;

const _: () = assert!(OFFSET_ARRAY == 64);
const _: () = assert!(OFFSET_CHUNK.is_multiple_of(4) && OFFSET_STRIPES.is_multiple_of(8));
const _: () = assert!(OFFSET_RESERVED_MIDDLE <= OFFSET_SLOTS);
const _: () = assert!(SLOT_BYTES == 48);
const _: () = assert!(OFFSET_RESERVED_TAIL == 2048 && OFFSET_RESERVED_TAIL <= BLOCK_BYTES);

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
    Field { name: "reserved", offset: OFFSET_RESERVED_FLAGS, bytes: 2 },
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
    Field { name: "reserved", offset: OFFSET_RESERVED_MIDDLE, bytes: OFFSET_SLOTS - OFFSET_RESERVED_MIDDLE },
    Field { name: "slot table, 32 entries", offset: OFFSET_SLOTS, bytes: MEMBERS_MAX * SLOT_BYTES },
    Field { name: "reserved", offset: OFFSET_RESERVED_TAIL, bytes: BLOCK_BYTES - OFFSET_RESERVED_TAIL },
];

/// The fields of one entry of the slot table, for the same test.
pub const SLOT_FIELDS: &[Field] = &[
    Field { name: "member uuid", offset: SLOT_OFFSET_MEMBER, bytes: 16 },
    Field { name: "held epoch number", offset: SLOT_OFFSET_HELD_NUMBER, bytes: 8 },
    Field { name: "held epoch id", offset: SLOT_OFFSET_HELD_ID, bytes: 8 },
    Field { name: "rebuild cursor, stripes", offset: SLOT_OFFSET_CURSOR, bytes: 8 },
    Field { name: "state", offset: SLOT_OFFSET_STATE, bytes: 1 },
    Field { name: "reserved", offset: SLOT_OFFSET_RESERVED, bytes: 7 },
];

/// Which of the two copies on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copy {
    /// At 4 KiB.
    A,
    /// At 64 KiB.
    B,
}

impl Copy {
    /// Where it lies on the member.
    #[must_use]
    pub const fn offset_bytes(self) -> u64 {
        match self {
            Copy::A => SUPERBLOCK_A_OFFSET_BYTES,
            Copy::B => SUPERBLOCK_B_OFFSET_BYTES,
        }
    }

    /// The one that is written after this one.
    #[must_use]
    pub const fn other(self) -> Copy {
        match self {
            Copy::A => Copy::B,
            Copy::B => Copy::A,
        }
    }
}

/// An epoch by name: its number says how late, its id which one of those that bear the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochName {
    /// Grows along every line of descent; 0 = none.
    pub number: u64,
    /// Random; 0 = none.
    pub id: u64,
}

impl EpochName {
    /// What a device holds that has no part in the array yet.
    pub const NONE: EpochName = EpochName { number: 0, id: 0 };
}

/// One incarnation of the array: from one start or change of membership to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// Its own name.
    pub name: EpochName,
    /// The id of the epoch that it followed; 0 for the first.
    pub parent_id: u64,
}

/// What a slot is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotState {
    /// No device belongs here.
    Empty,
    /// Holds what it should.
    InSync,
    /// Being filled: right below the cursor.
    Rebuilding,
    /// Took no part in this epoch: it failed, was missing, or was taken out.
    Failed,
}

impl SlotState {
    /// Whether the slot's device is written in this epoch.
    #[must_use]
    pub const fn takes_part(self) -> bool {
        match self {
            SlotState::InSync | SlotState::Rebuilding => true,
            SlotState::Empty | SlotState::Failed => false,
        }
    }

    const fn number(self) -> u8 {
        match self {
            SlotState::Empty => 0,
            SlotState::InSync => 1,
            SlotState::Rebuilding => 2,
            SlotState::Failed => 3,
        }
    }

    const fn from_number(number: u8) -> Option<SlotState> {
        match number {
            0 => Some(SlotState::Empty),
            1 => Some(SlotState::InSync),
            2 => Some(SlotState::Rebuilding),
            3 => Some(SlotState::Failed),
            _ => None,
        }
    }
}

/// What the array's record says of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotRecord {
    /// The device that belongs here; nil if the slot is empty.
    pub member: Uuid,
    /// Its state in this epoch.
    pub state: SlotState,
    /// The epoch that the device's own superblock was known to hold when this epoch was made: the last
    /// one that it surely took part in. (See [`assembly`](crate::assembly) for what follows from it.)
    pub held: EpochName,
    /// Stripes below this are filled; 0 unless rebuilding.
    pub cursor: u64,
}

impl SlotRecord {
    /// A slot without a device.
    pub const EMPTY: SlotRecord =
        SlotRecord { member: Uuid::nil(), state: SlotState::Empty, held: EpochName::NONE, cursor: 0 };
}

/// Whether the array is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Stopped: flushed, and the cells were durable before this was.
    Clean,
    /// In use; an unclean stop, if it is found so.
    Active,
}

impl RunState {
    const fn number(self) -> u8 {
        match self {
            RunState::Clean => 0,
            RunState::Active => 1,
        }
    }

    const fn from_number(number: u8) -> Option<RunState> {
        match number {
            0 => Some(RunState::Clean),
            1 => Some(RunState::Active),
            _ => None,
        }
    }
}

/// What all members of an epoch agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The array's identity.
    pub array: Uuid,
    /// Its name, not empty.
    pub name: Label,
    /// The host that it belongs to; empty: any.
    pub host: Label,
    /// When it was created, seconds since 1970.
    pub created_s: u64,
    /// Level, members, chunk.
    pub shape: Shape,
    /// The unit of host requests: a power of two, 512..=4096.
    pub logical_block_bytes: u32,
    /// Where everything lies, on every member.
    pub zones: Zones,
    /// The incarnation.
    pub epoch: Epoch,
    /// In use, or stopped.
    pub state: RunState,
    /// What the array was when this epoch was made. It counts if the epoch's own writes never completed:
    /// then nothing was done in it, and it is as it was found.
    pub found: RunState,
    /// One entry a slot; those from `shape.members` on are empty.
    pub slots: [SlotRecord; MEMBERS_MAX],
}

/// A checked superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Grows by one with each write to this member.
    pub sequence: u64,
    /// This device.
    pub member: Uuid,
    /// Its place.
    pub slot: usize,
    /// An unknown ro-compat bit is set: the array may be read, and no superblock written.
    pub read_only_required: bool,
    /// The array's.
    pub record: Record,
}

/// Why a block is not a superblock to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No magic.
    #[error("no Striate superblock")]
    NotStriate,
    /// The magic is there, the checksum does not match.
    #[error("superblock is torn or damaged: checksum {found:08x}, computed {computed:08x}")]
    Torn {
        /// In the block.
        found: u32,
        /// Of the block.
        computed: u32,
    },
    /// Written by a newer program.
    #[error("superblock has version {0}, and this program knows {VERSION}: use a newer one")]
    FutureVersion(u32),
    /// Uses a feature that this program must not ignore.
    #[error("the array uses features that this program does not know (incompat {0:#x}): use a newer one")]
    UnknownIncompat(u64),
    /// The checksum is right and a field is not.
    #[error("superblock is not valid: {0}")]
    Invalid(&'static str),
}

impl Superblock {
    /// What must hold beyond the types. The error names what does not.
    pub fn check(&self) -> Result<(), &'static str> {
        let record = &self.record;
        record.check()?;
        if !(1..=COUNT_MAX).contains(&self.sequence) {
            return Err("sequence is out of range");
        }
        let own = record.slots.get(self.slot).ok_or("slot is not one of the members")?;
        if self.slot >= record.shape.members || !own.state.takes_part() || own.member != self.member {
            return Err("the slot table does not list this member in its slot");
        }
        Ok(())
    }
}

impl Record {
    fn check(&self) -> Result<(), &'static str> {
        self.shape.check().map_err(|_| "no array has this level, members and chunk")?;
        self.zones.check(&self.shape)?;
        let block = self.logical_block_bytes;
        if !(512..=CHUNK_BYTES_MIN).contains(&block) || !block.is_power_of_two() {
            return Err("logical block is not a power of two from 512 to 4096");
        }
        if self.array.is_nil() || self.name.is_empty() {
            return Err("array without uuid or name");
        }
        if !(1..=COUNT_MAX).contains(&self.epoch.name.number) || self.epoch.name.id == 0 {
            return Err("epoch number or id is out of range");
        }
        self.check_slots()
    }

    fn check_slots(&self) -> Result<(), &'static str> {
        let (used, unused) = self.slots.split_at(self.shape.members);
        if unused.iter().any(|slot| *slot != SlotRecord::EMPTY) {
            return Err("a slot beyond the members is not empty");
        }
        for (index, slot) in used.iter().enumerate() {
            if (slot.state == SlotState::Empty) != slot.member.is_nil() {
                return Err("a slot is empty and has a member, or the reverse");
            }
            if slot.state == SlotState::Empty && *slot != SlotRecord::EMPTY {
                return Err("an empty slot is not zero");
            }
            if slot.cursor > if slot.state == SlotState::Rebuilding { self.zones.stripes } else { 0 } {
                return Err("a rebuild cursor is out of range");
            }
            if slot.held.number >= self.epoch.name.number {
                return Err("a slot's held epoch is not older than the epoch");
            }
            let twice = used[..index].iter().any(|other| other.member == slot.member);
            if twice && slot.state != SlotState::Empty {
                return Err("a member is in two slots");
            }
        }
        Ok(())
    }

    /// The slots whose devices are written in this epoch.
    pub fn participants(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.shape.members).filter(|&slot| self.slots[slot].state.takes_part())
    }

    /// The slot of a device, if the record knows it.
    #[must_use]
    pub fn slot_of(&self, member: Uuid) -> Option<usize> {
        self.slots.iter().position(|slot| slot.member == member && slot.state != SlotState::Empty)
    }
}

/// The 4 KiB to write in the place of `copy`.
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
    encode_record(&mut block, &superblock.record);
    let crc = checksum(&block, OFFSET_CRC);
    put_u32(&mut block, OFFSET_CRC, crc);
    block
}

fn encode_record(block: &mut Block, record: &Record) {
    put(block, OFFSET_ARRAY, record.array.as_bytes());
    block[OFFSET_LEVEL] = record.shape.level.number();
    block[OFFSET_MEMBERS] = record.shape.members as u8;
    block[OFFSET_STATE] = record.state.number();
    block[OFFSET_FOUND] = record.found.number();
    put_u32(block, OFFSET_CHUNK, record.shape.chunk_bytes);
    put_u32(block, OFFSET_LOGICAL_BLOCK, record.logical_block_bytes);
    put_u64(block, OFFSET_STRIPES, record.zones.stripes);
    put_zone(block, OFFSET_BITMAP, &record.zones.bitmap);
    put_zone(block, OFFSET_LOG, &record.zones.log);
    put_zone(block, OFFSET_DATA, &record.zones.data);
    put_u64(block, OFFSET_EPOCH_NUMBER, record.epoch.name.number);
    put_u64(block, OFFSET_EPOCH_ID, record.epoch.name.id);
    put_u64(block, OFFSET_EPOCH_PARENT, record.epoch.parent_id);
    put_u64(block, OFFSET_CREATED, record.created_s);
    put(block, OFFSET_NAME, record.name.as_padded());
    put(block, OFFSET_HOST, record.host.as_padded());
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
        record: decode_record(block)?,
    };
    superblock.check().map_err(DecodeError::Invalid)?;
    Ok(superblock)
}

/// Magic and checksum, which are the same in every version.
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
    Ok(Record {
        array: uuid_at(block, OFFSET_ARRAY),
        name: label_at(OFFSET_NAME)?,
        host: label_at(OFFSET_HOST)?,
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
            parent_id: u64_at(block, OFFSET_EPOCH_PARENT),
        },
        state: state_at(OFFSET_STATE)?,
        found: state_at(OFFSET_FOUND)?,
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
        cursor: u64_at(block, offset + SLOT_OFFSET_CURSOR),
    })
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

/// What the two copies of a member come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The newest valid one.
    pub superblock: Superblock,
    /// The copy that the next write goes to.
    pub overwrite: Copy,
    /// Whether the other copy was valid too. If not, it may have been newer: a write that tore, or one
    /// that was complete and has decayed. The two cannot be told apart.
    pub both_valid: bool,
}

/// Why a device is no member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMember {
    /// Neither copy has the magic: blank, or something else's.
    #[error("no Striate superblock: not a member of any array, or wiped")]
    Blank,
    /// It was a member: at least one copy has the magic, and none is valid.
    #[error("both superblocks are damaged: {0}")]
    Damaged(DecodeError),
    /// The newest copy is of a newer program; the other, if valid, may not be used in its stead.
    #[error(transparent)]
    Unsupported(DecodeError),
    /// The device is shorter than its superblock says, so it was cut or is another partition.
    #[error("the device has {device_bytes} bytes, and its superblock needs {needed_bytes}: was it shrunk?")]
    TooSmall {
        /// As given.
        device_bytes: u64,
        /// End of the data zone.
        needed_bytes: u64,
    },
}

/// Reads both copies of a member of `device_bytes`: the newest valid one counts.
pub fn choose(a: &[u8], b: &[u8], device_bytes: u64) -> Result<Found, NoMember> {
    let (from_a, from_b) = (decode(a, Copy::A), decode(b, Copy::B));
    let newest_unsupported = [(&from_a, a), (&from_b, b)]
        .into_iter()
        .filter_map(|(result, block)| {
            unsupported(result).map(|error| (u64_at(block, OFFSET_SEQUENCE), error))
        })
        .max_by_key(|&(sequence, _)| sequence);
    let both_valid = from_a.is_ok() && from_b.is_ok();
    let (superblock, at) = match (from_a, from_b) {
        (Ok(in_a), Ok(in_b)) if in_b.sequence > in_a.sequence => (in_b, Copy::B),
        (Ok(in_a), _) => (in_a, Copy::A),
        (Err(_), Ok(in_b)) => (in_b, Copy::B),
        (Err(in_a), Err(in_b)) => return Err(no_member(in_a, in_b)),
    };
    if let Some((sequence, error)) = newest_unsupported
        && sequence > superblock.sequence
    {
        return Err(NoMember::Unsupported(error));
    }
    let needed_bytes = superblock.record.zones.end_bytes();
    if needed_bytes > device_bytes {
        return Err(NoMember::TooSmall { device_bytes, needed_bytes });
    }
    Ok(Found { superblock, overwrite: at.other(), both_valid })
}

fn unsupported(result: &Result<Superblock, DecodeError>) -> Option<DecodeError> {
    match result {
        Err(error @ (DecodeError::FutureVersion(_) | DecodeError::UnknownIncompat(_))) => Some(*error),
        Err(DecodeError::NotStriate | DecodeError::Torn { .. } | DecodeError::Invalid(_)) | Ok(_) => None,
    }
}

fn no_member(in_a: DecodeError, in_b: DecodeError) -> NoMember {
    let supported = |error| unsupported(&Err(error)).is_none();
    match (in_a, in_b) {
        (DecodeError::NotStriate, DecodeError::NotStriate) => NoMember::Blank,
        (error, _) if !supported(error) => NoMember::Unsupported(error),
        (_, error) if !supported(error) => NoMember::Unsupported(error),
        (DecodeError::NotStriate, error) | (error, _) => NoMember::Damaged(error),
    }
}
