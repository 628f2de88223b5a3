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

    pub fn is_current(&self, record: &Record) -> bool {
        self.entry_in(record).is_some_and(|entry| {
            entry.state.takes_part() && (self.epoch() == record.epoch.name || self.epoch() == entry.held)
        })
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
    let entry = member.entry_in(record);
    if member.is_current(record) {
        Standing::Current
    } else if entry.is_some_and(|entry| !entry.state.takes_part() && member.epoch() == entry.held) {
        Standing::Stale
    } else if entry.is_some() && is_leftover(member, record, present) {
        Standing::Leftover
    } else if entry.is_none()
        && (member.epoch().number < record.epoch.name.number || is_leftover(member, record, present))
    {
        Standing::Replaced
    } else {
        Standing::Apart
    }
}

/// Whether a current device was to be in sync in the member's epoch, and does not hold it.
fn is_leftover(member: &Present<'_>, record: &Record, present: &[Present<'_>]) -> bool {
    present.iter().any(|witness| {
        witness.is_current(record)
            && witness.epoch() != member.epoch()
            && witness.found.both_valid
            && witness.entry_in(member.record()).is_some_and(|entry| entry.state == SlotState::InSync)
    })
}

/// Which epoch is the newest.
#[derive(Clone, Copy, Debug)]
pub(super) enum Newest {
    /// That of this device (an index of `present`): the highest that leaves no device apart.
    Of(usize),
    /// Every epoch leaves some device apart. Of the highest, a holder and such a device.
    Apart { holder: usize, other: usize },
}

pub(super) fn newest(present: &[Present<'_>]) -> Newest {
    let mut heads: Vec<usize> = (0..present.len()).collect();
    heads.sort_by_key(|&head| Reverse((present[head].epoch().number, present[head].epoch().id)));
    heads.dedup_by_key(|head| present[*head].epoch());
    let apart_from = |head: usize| {
        present.iter().position(|member| standing(member, present[head].record(), present) == Standing::Apart)
    };
    let mut highest = None;
    for holder in heads {
        let Some(other) = apart_from(holder) else { return Newest::Of(holder) };
        highest.get_or_insert(Newest::Apart { holder, other });
    }
    highest.expect("some device is present, and so some epoch")
}

/// How many devices here are in sync, by this record.
pub(super) fn in_sync_count(record: &Record, present: &[Present<'_>]) -> usize {
    let is_in_sync = |member: &&Present<'_>| {
        member.is_current(record) && record.slots[member.slot()].state == SlotState::InSync
    };
    present.iter().filter(is_in_sync).count()
}
