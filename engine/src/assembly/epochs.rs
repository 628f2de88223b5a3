//! How a device stands to an epoch, and which epoch is the array's newest.
//!
//! The table at the top of [`assembly`](super) is [`standing`] here, row by row.

use std::cmp::Reverse;

use super::error::Whose;
use crate::format::superblock::{EpochName, Found, Record, SlotRecord, SlotState};

/// A candidate with a valid superblock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present<'a> {
    pub candidate: usize,
    pub label: &'a str,
    pub found: &'a Found,
}

impl Present<'_> {
    pub fn slot(&self) -> usize {
        self.found.superblock.slot
    }

    pub fn epoch(&self) -> EpochName {
        self.record().epoch.name
    }

    pub fn record(&self) -> &Record {
        &self.found.superblock.record
    }

    pub fn whose(&self) -> Whose {
        Whose { path: self.label.to_owned(), slot: self.slot() }
    }

    /// What `record` says of this device, if it still belongs to its slot.
    pub fn entry_in<'r>(&self, record: &'r Record) -> Option<&'r SlotRecord> {
        let entry = record.slots.get(self.slot())?;
        (entry.member == self.found.superblock.member).then_some(entry)
    }

    /// Takes part in the record's epoch, with all acknowledged data.
    pub fn is_current(&self, record: &Record) -> bool {
        self.entry_in(record).is_some_and(|entry| {
            entry.state.takes_part() && (self.epoch() == record.epoch.name || self.epoch() == entry.held)
        })
    }

    /// Takes no part in the record's epoch, and left when the record says it left.
    fn is_stale(&self, record: &Record) -> bool {
        self.entry_in(record).is_some_and(|entry| !entry.state.takes_part() && self.epoch() == entry.held)
    }
}

/// How a device stands to an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Takes part, with all acknowledged data.
    Current,
    /// Left the array when the record says so.
    Stale,
    /// Its epoch was never committed, or the array's line contains it: it holds nothing that is lacking.
    Leftover,
    /// Another device has its place.
    Replaced,
    /// Neither contains the other.
    Apart,
}

pub(super) fn standing(member: &Present<'_>, record: &Record, present: &[Present<'_>]) -> Standing {
    let belongs = member.entry_in(record).is_some();
    let is_older = member.epoch().number < record.epoch.name.number;
    if member.is_current(record) {
        Standing::Current
    } else if member.is_stale(record) {
        Standing::Stale
    } else if belongs && is_leftover(member, record, present) {
        Standing::Leftover
    } else if !belongs && (is_older || is_leftover(member, record, present)) {
        Standing::Replaced
    } else {
        Standing::Apart
    }
}

/// Whether a device that was to be in sync in the member's epoch is now, in another, in the record's line.
fn is_leftover(member: &Present<'_>, record: &Record, present: &[Present<'_>]) -> bool {
    present.iter().any(|witness| {
        let had_all = witness.entry_in(member.record()).is_some_and(|entry| entry.state == SlotState::InSync);
        let went_elsewhere = witness.epoch() != member.epoch() && witness.found.both_valid;
        had_all && went_elsewhere && (witness.is_current(record) || witness.is_stale(record))
    })
}

/// Which epoch is the newest. Devices are named by their index in `present`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Newest {
    /// The one that `holder` holds: of those that leave no device apart and have enough members in sync, the
    /// highest.
    Epoch { holder: usize },
    /// Of those that leave no device apart none has enough.
    TooFew { holder: usize },
    /// All leave some device apart; of the highest, a holder and such a device.
    Apart { holder: usize, other: usize },
}

pub(super) fn newest(present: &[Present<'_>]) -> Newest {
    let mut holders: Vec<usize> = (0..present.len()).collect();
    holders.sort_by_key(|&holder| Reverse((present[holder].epoch().number, present[holder].epoch().id)));
    holders.dedup_by_key(|holder| present[*holder].epoch());
    let (mut too_few, mut apart) = (None, None);
    for holder in holders {
        let record = present[holder].record();
        let is_apart = |member| standing(member, record, present) == Standing::Apart;
        if let Some(other) = present.iter().position(is_apart) {
            apart.get_or_insert(Newest::Apart { holder, other });
        } else if in_sync_count(record, present) < record.shape.data_strips() {
            too_few.get_or_insert(Newest::TooFew { holder });
        } else {
            return Newest::Epoch { holder };
        }
    }
    too_few.or(apart).expect("some device is present, and so some epoch")
}

/// How many devices here are in sync, by this record.
pub(super) fn in_sync_count(record: &Record, present: &[Present<'_>]) -> usize {
    let is_in_sync = |member: &&Present<'_>| {
        member.is_current(record) && record.slots[member.slot()].state == SlotState::InSync
    };
    present.iter().filter(is_in_sync).count()
}
