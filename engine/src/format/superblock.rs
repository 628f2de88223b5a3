//! The superblock: a member's own identity, and the array's record as of its newest write.
//!
//! There are two copies, A and B. A write goes to the copy that is older (or invalid), with the sequence one
//! higher, so a torn write costs only itself. [`choose`] reads both.
//!
//! The first 64 bytes never change their meaning in any version: magic, version, checksum, sequence and
//! feature words. So a program can tell "newer than I understand" from "damaged".
//!
//! Feature words work as in file systems. With an unknown *incompat* bit the array must not be touched; with
//! an unknown *ro-compat* bit it may only be read; an unknown *compat* bit may be ignored. The constants
//! below are the bits that this version knows.
//!
//! Invariants:
//! - A [`Superblock`] returned by [`decode`] passes [`Superblock::check`], and one given to [`encode`] is
//!   asserted to.
//! - [`choose`] returns only superblocks whose zones end inside the device.
//! - Reserved bytes are written as zero and ignored when read; the checksum covers them.

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
/// Incompat bit: there is a list of lost rows ([`lost_rows`](super::lost_rows)), which must be consulted
/// before data is read.
pub const INCOMPAT_LOST_ROWS: u64 = 1 << 0;
/// Incompat bits that this program knows.
pub const INCOMPAT_KNOWN: u64 = INCOMPAT_LOST_ROWS;
/// Compat bit: both places of every bitmap block have been written. A program that does not know this bit may
/// leave a place unwritten, and clears the bit.
pub const COMPAT_BOTH_PLACES: u64 = 1 << 0;
/// Compat bit: every member was wiped around its data when it joined, so a signature of another program there
/// is newer than the array. A program that does not know this bit may take a member without wiping it, and
/// clears the bit.
pub const COMPAT_WIPED: u64 = 1 << 1;
/// Ro-compat bits that this program knows.
pub const RO_COMPAT_KNOWN: u64 = 0;
/// Largest sequence and epoch number. A million counts per second take 146,000 years to get here, so a higher
/// number was forged, and the program refuses to go on.
pub const COUNT_MAX: u64 = 1 << 62;

/// Number of earlier epochs that the record names as its line. A committed epoch is soon in both copies of
/// its members' superblocks, so more than the parent is needed only when several starts in a row broke off.
pub const LINE_EPOCHS: usize = 8;

/// A copy of the superblock on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copy {
    /// The copy at 4 KiB.
    A,
    /// The copy at 64 KiB.
    B,
}

impl Copy {
    /// The byte offset of this copy on the member.
    #[must_use]
    pub const fn offset_bytes(self) -> u64 {
        match self {
            Copy::A => SUPERBLOCK_A_OFFSET_BYTES,
            Copy::B => SUPERBLOCK_B_OFFSET_BYTES,
        }
    }

    /// The copy that is written after this one.
    #[must_use]
    pub const fn other(self) -> Copy {
        match self {
            Copy::A => Copy::B,
            Copy::B => Copy::A,
        }
    }
}

/// The name of an epoch: the number orders epochs, and the id tells apart epochs with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochName {
    /// Number, which grows along every line of descent; 0 for none.
    pub number: u64,
    /// Random id; 0 for none.
    pub id: u64,
}

impl EpochName {
    /// The id of an epoch that a server begins after this one. A server makes all its ids from its seed, a
    /// random number, so its epochs can be recognised.
    #[must_use]
    pub const fn next_id(self, seed: u64) -> u64 {
        // The finalizer of splitmix64 (Steele, Lea, Flood 2014). It is a bijection, so distinct numbers have
        // distinct ids.
        let mut id = seed ^ self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        id ^= id >> 31;
        if id == 0 { 1 } else { id }
    }
}

impl EpochName {
    /// The epoch of a device that has no part in the array yet.
    pub const NONE: EpochName = EpochName { number: 0, id: 0 };
}

/// An incarnation of the array: from one start or change of membership to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// The name of this epoch.
    pub name: EpochName,
    /// The ids of the epochs that it came from, the parent first; 0 where there were no more.
    pub line: [u64; LINE_EPOCHS],
}

impl Epoch {
    /// Makes the epoch that follows this one.
    #[must_use]
    pub fn next(&self, name: EpochName) -> Epoch {
        let mut line = [0; LINE_EPOCHS];
        line[0] = self.name.id;
        line[1..].copy_from_slice(&self.line[..LINE_EPOCHS - 1]);
        Epoch { name, line }
    }
}

/// State of a slot in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotState {
    /// No device belongs here.
    Empty,
    /// In sync: the device holds what it should.
    InSync,
    /// Being filled: right below the cursor only.
    Rebuilding,
    /// Not part of this epoch: the device failed, was missing, or was taken out.
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

/// The record's entry for one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotRecord {
    /// The device that belongs here; nil if the slot is empty.
    pub member: Uuid,
    /// State in this epoch.
    pub state: SlotState,
    /// The epoch that the device's own superblock was known to hold when this epoch was made, and thus the
    /// last one that it surely took part in. [`assembly`](crate::assembly) explains how this is used.
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
    /// Stopped: the members were flushed, and the cells were durable before this state was written.
    Clean,
    /// In use. If a start finds this state, the stop was unclean.
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

/// The part of the superblock that all members of an epoch agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The array's identity.
    pub array: Uuid,
    /// The array's name, not empty.
    pub name: Label,
    /// The host that the array belongs to.
    pub host: Host,
    /// Creation time, in seconds since 1970.
    pub created_s: u64,
    /// Level, number of members and chunk size.
    pub shape: Shape,
    /// The unit of host requests: a power of two, 512..=4096.
    pub logical_block_bytes: u32,
    /// The position of everything, the same on every member.
    pub zones: Zones,
    /// The epoch in which the record was written.
    pub epoch: Epoch,
    /// Number of changes of this record within its epoch so far: a first write after a rest, a sweep, a stop,
    /// the progress of a rebuild. Each change is on every participant before the next begins, and is then
    /// written to the second copies too. So a member with fewer moves than the others prove is an older image
    /// of itself. See [`assembly`](crate::assembly).
    pub moves: u64,
    /// Whether the array is in use or stopped.
    pub state: RunState,
    /// Whether both places of every bitmap block hold the same and have done so since the array was last
    /// written. True after a stop, until the next write.
    pub settled: bool,
    /// Whether both places of every bitmap block have been written on all members in sync. Programs that
    /// write both places set this; a program that did not left one place of each block unwritten on a member
    /// that joined.
    pub both_places: bool,
    /// Every member was wiped around its data when it joined. Only `create` sets this, and programs that wipe
    /// keep it.
    pub wiped: bool,
    /// The array's state when this epoch was made. It counts if the epoch was never committed: then nothing
    /// was done in the epoch, and the array is as it was found.
    pub found: RunState,
    /// Whether there is a list of lost rows on every member that takes part. Once on record this stays set,
    /// even if the list is empty.
    pub lost_rows: bool,
    /// An entry for each slot; entries from `shape.members` on are empty.
    pub slots: [SlotRecord; MEMBERS_MAX],
}

/// A checked superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Sequence number, which grows by one with each write to this member.
    pub sequence: u64,
    /// The device's identity.
    pub member: Uuid,
    /// The device's slot.
    pub slot: usize,
    /// An unknown ro-compat bit is set: the array may be read, but no superblock may be written.
    pub read_only_required: bool,
    /// Every participant of the epoch held this record, with its moves, when this copy was written. Without
    /// this flag the copy proves so only together with the other copy, which the next start overwrites.
    pub proven: bool,
    /// The array's record.
    pub record: Record,
}

/// Reasons why a block is not believed to be a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The magic is missing.
    #[error("no Striate superblock")]
    NotStriate,
    /// The magic is there, but the checksum does not match.
    #[error("superblock is torn or damaged: checksum {found:08x}, computed {computed:08x}")]
    Torn {
        /// The checksum in the block.
        found: u32,
        /// The checksum computed over the block.
        computed: u32,
    },
    /// The superblock was written by a newer program.
    #[error("superblock has version {0}, and this program knows {VERSION}: use a newer one")]
    FutureVersion(u32),
    /// The array uses a feature that this program must not ignore.
    #[error("the array uses features that this program does not know (incompat {0:#x}): use a newer one")]
    UnknownIncompat(u64),
    /// The checksum is right, but a field is not valid.
    #[error("superblock is not valid: {0}")]
    Invalid(&'static str),
}

impl Superblock {
    /// Checks the rules that the types do not ensure. The error names the broken one.
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
