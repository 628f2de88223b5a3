//! The superblock: what a member knows of itself, and the array's record as of its newest write.
//!
//! There are two copies, A and B. A write goes to the copy that is older (or not valid), with a sequence
//! one higher; so a write that tears costs the write and nothing else. [`choose`] reads both.
//!
//! The first 64 bytes never change their meaning in any version: magic, version, checksum, sequence and
//! feature words. So a program can tell "newer than I understand" from "damaged".
//!
//! Feature words, as in file systems: an unknown *incompat* bit means that the array may not be touched;
//! an unknown *ro-compat* bit, that it may be read; an unknown *compat* bit may be ignored. The
//! constants below are the bits that this version knows.
//!
//! Invariants:
//! - A [`Superblock`] that came out of [`decode`] satisfies everything that [`Superblock::check`] checks,
//!   and one that goes into [`encode`] is asserted to.
//! - [`choose`] returns only superblocks whose zones end inside the device.
//! - Reserved bytes are written as zero and not looked at when read; the checksum covers them.

mod codec;
mod copies;

pub use codec::{FIELDS, SLOT_FIELDS, decode, encode};
pub use copies::{Found, NoMember, choose};

use uuid::Uuid;

use super::Shape;
use super::host::Host;
use super::label::Label;
use super::zones::{SUPERBLOCK_A_OFFSET_BYTES, SUPERBLOCK_B_OFFSET_BYTES, Zones};
use crate::limits::{CHUNK_BYTES_MIN, MEMBERS_MAX};

/// First bytes of a superblock.
pub const MAGIC: [u8; 8] = *b"STRIATE\0";
/// Version of the superblock's layout.
pub const VERSION: u32 = 1;
/// Incompat bit: there is a list of lost rows ([`lost_rows`](super::lost_rows)), which must be looked at before data is read.
pub const INCOMPAT_LOST_ROWS: u64 = 1 << 0;
/// Incompat bits that this program knows.
pub const INCOMPAT_KNOWN: u64 = INCOMPAT_LOST_ROWS;
/// Compat bit: both places of every bitmap block have been written. A program that does not know of it may leave one unwritten, and
/// clears the bit.
pub const COMPAT_BOTH_PLACES: u64 = 1 << 0;
/// Compat bit: every member was wiped around its data when it joined, so a signature of another program there is newer than the
/// array. A program that does not know of it may take a member without wiping it, and clears the bit.
pub const COMPAT_WIPED: u64 = 1 << 1;
/// Ro-compat bits that this program knows.
pub const RO_COMPAT_KNOWN: u64 = 0;
/// Largest sequence and epoch number. Counting a million a second takes 146,000 years to get here, so who
/// meets it was given a forgery, and refuses to go on.
pub const COUNT_MAX: u64 = 1 << 62;

/// How many epochs back the record names its line. An epoch that was committed is soon in both copies of its members'
/// superblocks, so only starts that broke off one after the other need more than the parent.
pub const LINE_EPOCHS: usize = 8;

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
    /// The id of an epoch that a server begins after this one: all epochs of one server are known by its seed, a random number.
    #[must_use]
    pub const fn next_id(self, seed: u64) -> u64 {
        // The finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection, so distinct numbers have distinct ids.
        let mut id = seed ^ self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        id ^= id >> 31;
        if id == 0 { 1 } else { id }
    }
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
    /// The ids of those that it came from, its parent first; 0 where there were no more.
    pub line: [u64; LINE_EPOCHS],
}

impl Epoch {
    /// The one that follows this one.
    #[must_use]
    pub fn next(&self, name: EpochName) -> Epoch {
        let mut line = [0; LINE_EPOCHS];
        line[0] = self.name.id;
        line[1..].copy_from_slice(&self.line[..LINE_EPOCHS - 1]);
        Epoch { name, line }
    }
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
    /// The moves within the held epoch that the device was known to hold.
    pub held_moves: u64,
    /// Stripes below this are filled; 0 unless rebuilding.
    pub cursor: u64,
}

impl SlotRecord {
    /// A slot without a device.
    pub const EMPTY: SlotRecord = SlotRecord {
        member: Uuid::nil(),
        state: SlotState::Empty,
        held: EpochName::NONE,
        held_moves: 0,
        cursor: 0,
    };
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
    /// The host that it belongs to.
    pub host: Host,
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
    /// Changes of this record within its epoch so far: a first write after a rest, a sweep, a stop, the progress of a
    /// rebuild. Each is on every participant before the next begins, and is then written to the second copies too, so a
    /// member with fewer moves than the others prove is an older image of itself. See [`assembly`](crate::assembly).
    pub moves: u64,
    /// In use, or stopped.
    pub state: RunState,
    /// Both places of every bitmap block say the same, and have since the array was last written. A stop leaves it so; the
    /// first write after it ends it.
    pub settled: bool,
    /// Both places of every bitmap block have been written on every member in sync. Programs that write both places say so; one that did
    /// not left a place of a block as it was on a member that joined.
    pub both_places: bool,
    /// Every member was wiped around its data when it joined. Only `create` says so, and programs that wipe go on saying it.
    pub wiped: bool,
    /// What the array was when this epoch was made. It counts if the epoch's own writes never completed:
    /// then nothing was done in it, and it is as it was found.
    pub found: RunState,
    /// There is a list of lost rows, on every member that takes part. Once on record it stays so, also when the list is empty.
    pub lost_rows: bool,
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
    /// Every participant of the epoch held this record, with its moves, when this copy was written. Without it a copy proves so only
    /// together with the other one, which the next start overwrites.
    pub proven: bool,
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
        if self.settled && self.state != RunState::Clean {
            return Err("an array in use says that its bitmap is settled");
        }
        if self.moves > COUNT_MAX {
            return Err("the count of moves is out of range");
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
            if slot.held_moves > COUNT_MAX {
                return Err("a slot's count of held moves is out of range");
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
