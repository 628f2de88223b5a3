//! The relation of a device to an epoch, and the choice of the array's newest epoch.
//!
//! [`standings`] implements the table at the top of [`assembly`](super), row by row.

use std::cmp::Reverse;

use super::error::Whose;
use crate::format::superblock::{EpochName, Found, Record, SlotRecord, SlotState};

/// A candidate that has a valid superblock.
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

    /// The entry of `record` for this device, if the device still belongs to its slot.
    pub fn entry_in<'r>(&self, record: &'r Record) -> Option<&'r SlotRecord> {
        let entry = record.slots.get(self.slot())?;
        (entry.member == self.found.superblock.member).then_some(entry)
    }

    /// Whether the device takes part in the record's epoch and has all acknowledged data.
    pub fn is_current(&self, record: &Record) -> bool {
        self.entry_in(record).is_some_and(|entry| {
            entry.state.takes_part() && (self.epoch() == record.epoch.name || self.epoch() == entry.held)
        })
    }
}

/// Separates the devices that hold less than they are proven to have held: each is an older image of itself.
/// Returns the other devices first, then these. The proofs are in the records of all devices here, whichever
/// of them is the newest:
///
/// - a record says which epoch each slot's device held when the record was made, and how many moves within
///   it;
/// - a device that holds an epoch with *proven* moves says that every participant of the epoch has held as
///   many.
///
/// Epoch numbers grow along every line of descent, and a device by itself never goes back to less than it
/// held.
pub(super) fn set_aside(present: Vec<Present<'_>>) -> (Vec<Present<'_>>, Vec<Present<'_>>) {
    let is_old: Vec<bool> =
        present.iter().map(|member| present.iter().any(|other| shows_old(member, other))).collect();
    let (mut kept, mut old) = (Vec::new(), Vec::new());
    for (member, is_old) in present.into_iter().zip(is_old) {
        if is_old { old.push(member) } else { kept.push(member) }
    }
    (kept, old)
}

/// Whether the content of `witness` proves that `member` once held more than it holds now.
fn shows_old(member: &Present<'_>, witness: &Present<'_>) -> bool {
    let Some(entry) = member.entry_in(witness.record()) else { return false };
    let is_behind = |epoch: EpochName, moves: u64| {
        member.epoch().number < epoch.number || member.epoch() == epoch && member.record().moves < moves
    };
    let proven = witness.found.proven_moves.filter(|_| entry.state.takes_part());
    is_behind(entry.held, entry.held_moves) || proven.is_some_and(|moves| is_behind(witness.epoch(), moves))
}

/// The moves within the epoch of `record` that all its participants have certainly held, as far as any of
/// them proves it. `None` if the epoch may have been broken off before all of them held it.
pub(super) fn proven_moves(record: &Record, present: &[Present<'_>]) -> Option<u64> {
    let holders = present.iter().filter(|member| member.epoch() == record.epoch.name);
    holders.filter_map(|member| member.found.proven_moves).max()
}

/// The relation of a device to an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The device takes part and has all acknowledged data.
    Current,
    /// The device left the array when the record says it left.
    Stale,
    /// The device's epoch was never committed, or the array's line contains it: the device holds nothing that
    /// the array lacks.
    Leftover,
    /// Another device has taken the slot.
    Replaced,
    /// The device is apart: neither the epoch's line nor the device's epoch contains the other.
    Apart,
}

/// The relation of each device to the epoch of `record`. Leftovers are found in rounds, because a leftover
/// may itself be a witness for another; each round finds one or is the last.
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
        // The record's line goes through the member's epoch, without the member: rule "on the line" in
        // docs/epochs.md.
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

/// Whether the record names this epoch as one that it came from, or as the held epoch of some slot.
fn is_in_line(epoch: EpochName, record: &Record) -> bool {
    let used = &record.slots[..record.shape.members];
    epoch.number < record.epoch.name.number
        && (record.epoch.line.contains(&epoch.id) || used.iter().any(|entry| entry.held == epoch))
}

/// Whether the member's epoch was never committed (rule "never committed" in docs/epochs.md). Witnesses are
/// slots that were to be in sync in that epoch, and that are still where they were before it, or went from
/// there to the epoch of `record` or to one of its line. Two must say so, because one may have lost a copy to
/// decay. One is enough if the member holds its epoch only once: a committed epoch is soon held twice. A
/// witness that went on after the member's epoch was made shows which of the two epochs was made first; then
/// absent slots count too, by what the record says they held.
fn was_broken_off(member: &Present<'_>, present: &[Present<'_>], record: &Record) -> bool {
    let (mut here, mut absent, mut came_later) = (0, 0, false);
    for (slot, now) in record.slots[..record.shape.members].iter().enumerate() {
        let then = &member.record().slots[slot];
        // The record's line goes through the witness's earlier epoch, and so not through the member's epoch,
        // which came after that.
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

/// Whether others went on without the member (rule "passed by" in docs/epochs.md). They were to be in sync in
/// the member's epoch, are now current in the epoch of `record`, and their own records say that the member
/// takes no part. Their word counts even if one of their copies is torn. One witness is enough if the member
/// was to be in sync in its epoch and holds it only once; otherwise it takes two. The reason: a decayed copy
/// puts a witness back by one epoch, and a member that comes back is in sync two epochs later at the
/// earliest.
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

/// Whether the member holds its epoch in one copy only, with both copies valid. A committed epoch is soon
/// held twice.
const fn holds_it_once(member: &Present<'_>) -> bool {
    member.found.both_valid && !member.found.reinforced
}

/// Whether a device that was to be in sync in the member's epoch is now in another epoch, in the record's
/// line.
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

/// The choice of the newest epoch. Devices are named by their index in `present`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Newest {
    /// The newest epoch is that of `holder`: the highest one that leaves no device apart and has enough
    /// members in sync.
    Epoch { holder: usize },
    /// No epoch that leaves no device apart has enough members in sync; `holder` has the highest of these.
    TooFew { holder: usize },
    /// Every epoch leaves some device apart; `holder` has the highest, and `other` is a device that it leaves
    /// apart.
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

/// Number of devices here that are in sync according to this record.
pub(super) fn in_sync_count(record: &Record, present: &[Present<'_>]) -> usize {
    let is_in_sync = |member: &&Present<'_>| {
        member.is_current(record) && record.slots[member.slot()].state == SlotState::InSync
    };
    present.iter().filter(is_in_sync).count()
}
