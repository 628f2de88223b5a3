//! How a device stands to an epoch, and which epoch is the array's newest.
//!
//! The table at the top of [`assembly`](super) is [`standings`] here, row by row.

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
}

/// Takes out the devices that hold less than they are proven to have held: each is an older image of itself. Returns the
/// others, and these. They are told from what the records say, all that are here, whichever of them is the newest:
///
/// - a record says which epoch each slot's device held when the record was made, and how many moves within it;
/// - a device that holds an epoch with *proven* moves says that every participant of it has held as many.
///
/// Epoch numbers grow along every line of descent, and a device never goes back from what it held by itself.
pub(super) fn set_aside(present: Vec<Present<'_>>) -> (Vec<Present<'_>>, Vec<Present<'_>>) {
    let is_old: Vec<bool> =
        present.iter().map(|member| present.iter().any(|other| shows_old(member, other))).collect();
    let (mut kept, mut old) = (Vec::new(), Vec::new());
    for (member, is_old) in present.into_iter().zip(is_old) {
        if is_old { old.push(member) } else { kept.push(member) }
    }
    (kept, old)
}

/// Whether what `witness` holds proves that the member once held more than it holds now.
fn shows_old(member: &Present<'_>, witness: &Present<'_>) -> bool {
    let Some(entry) = member.entry_in(witness.record()) else { return false };
    let is_behind = |epoch: EpochName, moves: u64| {
        member.epoch().number < epoch.number || member.epoch() == epoch && member.record().moves < moves
    };
    let proven = witness.found.proven_moves.filter(|_| entry.state.takes_part());
    is_behind(entry.held, entry.held_moves) || proven.is_some_and(|moves| is_behind(witness.epoch(), moves))
}

/// The moves within the epoch of `record` that all its participants have held for certain, as far as any of them proves
/// it; `None` if the epoch may have been broken off before all of them held it.
pub(super) fn proven_moves(record: &Record, present: &[Present<'_>]) -> Option<u64> {
    let holders = present.iter().filter(|member| member.epoch() == record.epoch.name);
    holders.filter_map(|member| member.found.proven_moves).max()
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

/// How each device stands to the epoch of `record`. What is a leftover is found in rounds, since a leftover
/// may itself bear witness for another; each round finds one or is the last.
pub(super) fn standings(record: &Record, present: &[Present<'_>]) -> Vec<Standing> {
    let mut standings: Vec<Standing> =
        present.iter().map(|member| by_the_record(member, record, present)).collect();
    while let Some(found) = (0..present.len()).find(|&index| {
        standings[index] == Standing::Apart && is_leftover(&present[index], present, &standings)
    }) {
        let belongs = present[found].entry_in(record).is_some();
        standings[found] = if belongs { Standing::Leftover } else { Standing::Replaced };
    }
    standings
}

fn by_the_record(member: &Present<'_>, record: &Record, present: &[Present<'_>]) -> Standing {
    match member.entry_in(record) {
        Some(_) if member.is_current(record) => Standing::Current,
        Some(entry) if !entry.state.takes_part() && member.epoch() == entry.held => Standing::Stale,
        // H came from its epoch, without it: see "a leftover of the line".
        Some(entry) if !entry.state.takes_part() && is_in_line(member.epoch(), record) => Standing::Leftover,
        Some(entry) if !entry.state.takes_part() && was_broken_off(member, present, record) => {
            Standing::Leftover
        }
        Some(entry) if !entry.state.takes_part() && was_passed_by(member, present, record) => {
            Standing::Leftover
        }
        None if member.epoch().number < record.epoch.name.number => Standing::Replaced,
        None if was_passed_by(member, present, record) => Standing::Replaced,
        Some(_) | None => Standing::Apart,
    }
}

/// Whether the record names the epoch as one that it came from, or as what some slot held.
fn is_in_line(epoch: EpochName, record: &Record) -> bool {
    let used = &record.slots[..record.shape.members];
    epoch.number < record.epoch.name.number
        && (record.epoch.line.contains(&epoch.id) || used.iter().any(|entry| entry.held == epoch))
}

/// Whether the member's epoch was never committed: others that were to be in sync in it are where they were before, or
/// came from there to the epoch of `record` or to one of its line. Two must say so; one may have lost a copy to
/// decay, and is believed if the member does not hold its epoch twice, as it soon would had it been committed. One that has come
/// on from where it was when the member's epoch was made shows which of the two was made first; so of those that are not here,
/// what the record says that they held then counts too.
fn was_broken_off(member: &Present<'_>, present: &[Present<'_>], record: &Record) -> bool {
    let (mut here, mut absent, mut came_later) = (0, 0, false);
    for (slot, now) in record.slots[..record.shape.members].iter().enumerate() {
        let then = &member.record().slots[slot];
        // The record's line goes through where it was, and so not through the member's epoch, which came after that.
        let is_passed = then.held != EpochName::NONE && record.epoch.line.contains(&then.held.id);
        let came_on = |to: EpochName| is_passed && then.held.number < to.number;
        if then.state != SlotState::InSync || then.member != now.member {
            continue;
        }
        if then.held != now.held && !came_on(now.held) {
            continue;
        }
        let epochs = present.iter().filter(|one| one.slot() == slot && one.entry_in(record).is_some());
        let is_of_line = |epoch: EpochName| epoch == now.held || record.epoch.line.contains(&epoch.id);
        match epochs.map(Present::epoch).next() {
            Some(epoch) if epoch == record.epoch.name || came_on(epoch) && is_of_line(epoch) => {
                (here, came_later) = (here + 1, true);
            }
            Some(epoch) => here += usize::from(epoch == now.held),
            None => absent += usize::from(now.state.takes_part()),
        }
    }
    let witnesses = here + if came_later { absent } else { 0 };
    witnesses >= if holds_it_once(member) { 1 } else { 2 }
}

/// Whether others that were to be in sync in the member's epoch have gone on to the epoch of `record`, and say themselves
/// that it took no part any more. With a copy torn they are believed, unless it is the one word against a member that was to
/// be rebuilt: a copy that decayed puts a witness back by one epoch, and a member that comes back is in sync two epochs
/// later at the soonest.
fn was_passed_by(member: &Present<'_>, present: &[Present<'_>], record: &Record) -> bool {
    let was_in_sync = |one: &Present<'_>| {
        one.entry_in(member.record()).is_some_and(|entry| entry.state == SlotState::InSync)
    };
    let went_on = |witness: &&Present<'_>| {
        let counts_it = member.entry_in(witness.record()).is_some_and(|entry| entry.state.takes_part());
        was_in_sync(witness) && witness.is_current(record) && !counts_it
    };
    let needed = if was_in_sync(member) && holds_it_once(member) { 1 } else { 2 };
    present.iter().filter(went_on).count() >= needed
}

/// What was committed is soon held twice.
const fn holds_it_once(member: &Present<'_>) -> bool {
    member.found.both_valid && !member.found.reinforced
}

/// Whether a device that was to be in sync in the member's epoch is now, in another, in the record's line.
fn is_leftover(member: &Present<'_>, present: &[Present<'_>], standings: &[Standing]) -> bool {
    present.iter().zip(standings).any(|(witness, standing)| {
        let had_all = witness.entry_in(member.record()).is_some_and(|entry| entry.state == SlotState::InSync);
        let went_elsewhere = witness.epoch() != member.epoch() && witness.found.both_valid;
        let in_line = match standing {
            Standing::Current | Standing::Stale | Standing::Leftover => true,
            Standing::Replaced | Standing::Apart => false,
        };
        had_all && went_elsewhere && in_line
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
        let standings = standings(record, present);
        if let Some(other) = standings.iter().position(|standing| *standing == Standing::Apart) {
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
