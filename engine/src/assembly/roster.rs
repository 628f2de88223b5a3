//! The members of a running array on record, and the superblock writes that each change of them takes.
//!
//! A [`Roster`] contains what the next superblocks say. A change makes a new epoch and returns its writes.
//! The caller does them (durably: FUA, or a flush after) and settles each as landed or lost. Nothing may rely
//! on the epoch until it [is committed](Roster::is_committed):
//!
//! ```text
//!   begin(change) -> writes --> settle(slot, Landed) ... --> is_committed: go on, and reinforce() -> writes
//!                          \-> settle(slot, Lost)       --> begin(Fail { slots }) -> writes
//! ```
//!
//! Invariants:
//! - No change begins while a write of the last one is unsettled. (Otherwise the record could not say which
//!   epoch each device holds, and after a crash a good member would look like a stranger.)
//! - A slot whose write was lost takes part in no later epoch.
//! - No epoch that begins here has fewer than n - parities slots in sync: an array that has lost more has
//!   failed, and no superblock is written to say otherwise.

use uuid::Uuid;

use super::Assembly;
use crate::format::host::Host;
use crate::format::superblock::{
    COUNT_MAX, Copy, EpochName, Found, Record, RunState, SlotRecord, SlotState, Superblock, encode,
};
use crate::format::zones::Zones;
use crate::geometry::Slots;
use crate::limits::BLOCK_BYTES;

/// A change that makes a new epoch.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// The array is started by this host.
    Start {
        /// The host that owns the array from now on.
        host: Host,
    },
    /// Slots leave because they failed or because the operator says so. All slots known to have failed leave
    /// in one epoch, so that no superblock is written to one of them, or waited for, while another leaves.
    Fail {
        /// The slots; at least one.
        slots: Slots,
    },
    /// A device takes a failed or empty slot, and is to be filled.
    Join {
        /// The slot to take.
        slot: usize,
        /// The device.
        joiner: Joiner,
    },
    /// A slot has been filled and its device flushed.
    Filled {
        /// The filled slot.
        slot: usize,
    },
    /// A failed slot gives up its device, which is then treated as replaced.
    Remove {
        /// The slot to empty.
        slot: usize,
    },
    /// Stripes are added. Every slot is in sync and durably holds its share of the new bitmap blocks.
    Grow {
        /// Zones made by [`Zones::grown`] from those that the record has now.
        zones: Zones,
    },
}

/// A device that joins.
#[derive(Clone, Copy, Debug)]
pub struct Joiner {
    member: Uuid,
    seat: Seat,
}

impl Joiner {
    /// Makes a joiner of a device that is new to the array; the caller names it `device`. Both of its
    /// superblock copies must have been wiped, durably, and its copies of bitmap blocks written.
    #[must_use]
    pub fn blank(device: usize, member: Uuid) -> Joiner {
        let seat = Seat {
            device,
            sequence: 0,
            overwrite: Copy::A,
            holds: EpochName::NONE,
            moves: 0,
            write: Write::Settled,
        };
        Joiner { member, seat }
    }

    /// Makes a joiner of a stale member that comes back.
    #[must_use]
    pub fn returning(device: usize, found: &Found) -> Joiner {
        Joiner { member: found.superblock.member, seat: Seat::of_current(device, found) }
    }
}

/// A superblock write to carry out.
#[derive(Clone, Debug)]
pub struct SuperblockWrite {
    /// The slot to settle when the write has ended.
    pub slot: usize,
    /// The device, as the caller names it (at assembly, the candidate's index).
    pub device: usize,
    /// The copy to write.
    pub copy: Copy,
    /// The content to write.
    pub superblock: Superblock,
}

impl SuperblockWrite {
    /// The bytes to write at `copy.offset_bytes()`.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        encode(&self.superblock, self.copy)
    }
}

/// Outcome of a superblock write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The write is durable.
    Landed,
    /// The write failed or was not answered in time: it may or may not have landed.
    Lost,
}

/// Reasons why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// Fewer members would be left than the data needs.
    #[error("that leaves {in_sync} members in sync, and the array needs {needed}: it has failed")]
    TooFew {
        /// Number of members in sync that would be left.
        in_sync: usize,
        /// Number of members in sync that the array needs.
        needed: usize,
    },
    /// The slot is not in a state that allows the change.
    #[error("slot {slot} is {}, and it would have to be {needed}", in_words(*state))]
    WrongState {
        /// The slot.
        slot: usize,
        /// The slot's state.
        state: SlotState,
        /// The state that the change requires.
        needed: &'static str,
    },
    /// The array has no such slot.
    #[error("there is no slot {slot}: the array has {members}")]
    NoSuchSlot {
        /// The requested slot.
        slot: usize,
        /// Number of slots of the array.
        members: usize,
    },
    /// The device already has a slot.
    #[error("the device is in slot {slot} already")]
    AlreadyMember {
        /// The slot that it has.
        slot: usize,
    },
    /// The array can only be read.
    #[error("the array can only be read: it uses features that this program does not know")]
    ReadOnly,
    /// A count of epochs or writes is too high to be genuine.
    #[error("a superblock counts to {COUNT_MAX}: it was not written by this program")]
    Exhausted,
}

const fn in_words(state: SlotState) -> &'static str {
    match state {
        SlotState::Empty => "empty",
        SlotState::InSync => "in sync",
        SlotState::Rebuilding => "being rebuilt",
        SlotState::Failed => "failed",
    }
}

/// Whether the record that is being written is already on one copy of every participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proven {
    NotYet,
    OnAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Settled,
    Pending,
    Lost,
}

/// The known state of the superblocks on a slot's device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    device: usize,
    /// Sequence of the newest copy.
    sequence: u64,
    /// The older copy, which the next write goes to.
    overwrite: Copy,
    /// Epoch of the newest copy, as far as is known for sure; `moves` are the moves within it.
    holds: EpochName,
    moves: u64,
    write: Write,
}

impl Seat {
    pub(super) fn of_current(device: usize, found: &Found) -> Seat {
        Seat {
            device,
            sequence: found.superblock.sequence,
            overwrite: found.overwrite,
            holds: found.superblock.record.epoch.name,
            moves: found.superblock.record.moves,
            write: Write::Settled,
        }
    }
}

/// The members on record.
#[derive(Clone, Debug)]
pub struct Roster {
    record: Record,
    /// The devices of participating slots, by slot.
    seats: Vec<Option<Seat>>,
    /// Highest epoch number so far; later epochs get higher ones.
    epoch_number_max: u64,
    /// Whether an epoch was begun here. Before that, `record.found` is the state that assembly found.
    begun: bool,
}

impl Assembly {
    /// Makes the roster to start the array with; absent slots are marked failed in it.
    pub fn roster(&self) -> Result<Roster, ChangeRefused> {
        if self.read_only {
            return Err(ChangeRefused::ReadOnly);
        }
        let mut record = self.record.clone();
        record.found = if self.unclean { RunState::Active } else { RunState::Clean };
        for (entry, seat) in record.slots.iter_mut().zip(&self.seats) {
            if seat.is_none() && entry.state.takes_part() {
                // If the newest epoch was committed, the absent devices hold it. If not, they hold either
                // that epoch or what they held before: the new record names the first as its parent and the
                // second here.
                let (held, held_moves) = match self.proven_moves {
                    Some(moves) => (self.record.epoch.name, moves),
                    None => (entry.held, entry.held_moves),
                };
                *entry = SlotRecord { state: SlotState::Failed, held, held_moves, cursor: 0, ..*entry };
            }
        }
        for &(slot, held) in &self.left_behind {
            if !record.slots[slot].state.takes_part() {
                (record.slots[slot].held, record.slots[slot].held_moves) = (held, 0);
            }
        }
        let (seats, epoch_number_max) = (self.seats.clone(), self.epoch_number_max);
        Ok(Roster { record, seats, epoch_number_max, begun: false })
    }
}

impl Roster {
    /// The content of the next superblocks.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Whether all participants hold the epoch. Before that, no bitmap block, data or parity is written, and
    /// nothing that relies on the change is acknowledged.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        self.begun && self.seats.iter().flatten().all(|seat| seat.holds == self.record.epoch.name)
    }

    /// Whether the present record is on every participant: every write of it has landed.
    #[must_use]
    pub fn has_landed(&self) -> bool {
        self.is_committed() && !self.has_pending() && !self.has_lost()
    }

    /// Begins a new epoch with the random id `id`. Slots whose last write was lost leave in it as well.
    ///
    /// # Panics
    /// If a write of the last change is not settled, or the id is zero.
    pub fn begin(&mut self, change: Change, id: u64) -> Result<Vec<SuperblockWrite>, ChangeRefused> {
        assert!(!self.has_pending(), "a change begins when the writes of the last one are settled");
        assert_ne!(id, 0);
        let mut next = self.clone();
        next.apply(change)?;
        next.drop_lost();
        next.check_enough()?;
        // An epoch by itself writes no data, so the array's state stays what it was before.
        next.renew(id, if self.is_committed() { self.record.state } else { self.record.found })?;
        let writes = next.writes(Proven::NotYet)?;
        *self = next;
        Ok(writes)
    }

    /// Makes the writes that put the record, which is on one copy of every participant, into the other copy
    /// too. They must follow immediately after every change. They prove to a later start that all
    /// participants held the change. Without them, a member that went back to an older image could not be
    /// told from one that the change had not yet reached.
    ///
    /// # Panics
    /// If the epoch is not committed.
    pub fn reinforce(&mut self) -> Result<Vec<SuperblockWrite>, ChangeRefused> {
        self.rewrite(Proven::OnAll)
    }

    /// Makes the writes that say that members may be written from now on: the record says Active, and its
    /// moves count up. Needed before the first write after a start or a rest, followed by
    /// [`Roster::reinforce`].
    ///
    /// # Panics
    /// If the epoch is not committed.
    pub fn wake(&mut self) -> Result<Vec<SuperblockWrite>, ChangeRefused> {
        (self.record.state, self.record.settled) = (RunState::Active, false);
        self.move_on()
    }

    /// Makes the writes that count the moves up, so that a member image from before them is known to be old.
    /// Needed before written cells become Clean on any member, followed by [`Roster::reinforce`].
    ///
    /// # Panics
    /// If the epoch is not committed.
    pub fn move_on(&mut self) -> Result<Vec<SuperblockWrite>, ChangeRefused> {
        self.record.moves += 1;
        if self.record.moves > COUNT_MAX {
            return Err(ChangeRefused::Exhausted);
        }
        self.rewrite(Proven::NotYet)
    }

    /// Makes the writes that mark the array as stopped. The front ends were drained before, all members
    /// flushed, and the cells are durable. A member that fails one of these writes leaves, and the others say
    /// it again.
    ///
    /// # Panics
    /// If the epoch is not committed.
    pub fn stop_clean(&mut self) -> Result<Vec<SuperblockWrite>, ChangeRefused> {
        (self.record.state, self.record.settled) = (RunState::Clean, true);
        self.move_on()
    }

    /// Notes that both places of every bitmap block have been written on every participant. Nothing is
    /// written for this; the next change of the record says so.
    pub fn note_both_places(&mut self) {
        self.record.both_places = true;
    }

    /// Makes the writes that record that there is a list of lost rows; the list is durable on every
    /// participant.
    ///
    /// # Panics
    /// If the epoch is not committed.
    pub fn note_lost_rows(&mut self) -> Result<Vec<SuperblockWrite>, ChangeRefused> {
        self.record.lost_rows = true;
        self.move_on()
    }

    /// Makes the writes that record the progress of a rebuild, after its stripes were flushed.
    ///
    /// # Panics
    /// If the epoch is not committed, or the slot is not being rebuilt.
    pub fn rebuild_progress(
        &mut self,
        slot: usize,
        cursor: u64,
    ) -> Result<Vec<SuperblockWrite>, ChangeRefused> {
        assert_eq!(self.record.slots[slot].state, SlotState::Rebuilding);
        assert!(cursor <= self.record.zones.stripes);
        self.record.slots[slot].cursor = cursor;
        self.move_on()
    }

    /// Settles the write that was handed out for `slot`.
    ///
    /// # Panics
    /// If no write is pending for the slot.
    pub fn settle(&mut self, slot: usize, outcome: WriteOutcome) {
        let seat = self.seats[slot].as_mut().expect("a slot that was written has a device");
        assert_eq!(seat.write, Write::Pending);
        match outcome {
            WriteOutcome::Landed => {
                seat.write = Write::Settled;
                seat.sequence += 1;
                seat.overwrite = seat.overwrite.other();
                (seat.holds, seat.moves) = (self.record.epoch.name, self.record.moves);
            }
            WriteOutcome::Lost => seat.write = Write::Lost,
        }
    }

    fn has_pending(&self) -> bool {
        self.seats.iter().flatten().any(|seat| seat.write == Write::Pending)
    }

    fn has_lost(&self) -> bool {
        self.seats.iter().flatten().any(|seat| seat.write == Write::Lost)
    }

    fn apply(&mut self, change: Change) -> Result<(), ChangeRefused> {
        match change {
            Change::Start { host } => self.record.host = host,
            Change::Fail { slots } => {
                assert!(!slots.is_empty(), "a change changes something");
                for slot in slots.iter().map(usize::from) {
                    self.require(slot, "a part of the array", SlotState::takes_part)?;
                    self.leave(slot);
                }
            }
            Change::Join { slot, joiner } => self.join(slot, joiner)?,
            Change::Filled { slot } => {
                self.require(slot, "rebuilding", |state| state == SlotState::Rebuilding)?;
                assert!(self.is_committed(), "a slot is filled in an epoch that it holds");
                let entry = &mut self.record.slots[slot];
                *entry = SlotRecord { state: SlotState::InSync, cursor: 0, ..*entry };
            }
            Change::Remove { slot } => {
                self.require(slot, "failed", |state| state == SlotState::Failed)?;
                self.record.slots[slot] = SlotRecord::EMPTY;
            }
            Change::Grow { zones } => {
                for slot in 0..self.record.shape.members {
                    self.require(slot, "in sync", |state| state == SlotState::InSync)?;
                }
                self.record.zones = zones;
            }
        }
        Ok(())
    }

    fn require(
        &self,
        slot: usize,
        needed: &'static str,
        ok: fn(SlotState) -> bool,
    ) -> Result<(), ChangeRefused> {
        let members = self.record.shape.members;
        if slot >= members {
            return Err(ChangeRefused::NoSuchSlot { slot, members });
        }
        let state = self.record.slots[slot].state;
        if ok(state) { Ok(()) } else { Err(ChangeRefused::WrongState { slot, state, needed }) }
    }

    fn join(&mut self, slot: usize, joiner: Joiner) -> Result<(), ChangeRefused> {
        self.require(slot, "failed or empty", |state| !state.takes_part())?;
        if let Some(other) = self.record.slot_of(joiner.member).filter(|&other| other != slot) {
            return Err(ChangeRefused::AlreadyMember { slot: other });
        }
        let (held, held_moves) = (joiner.seat.holds, joiner.seat.moves);
        let state = SlotState::Rebuilding;
        self.record.slots[slot] = SlotRecord { member: joiner.member, state, held, held_moves, cursor: 0 };
        self.seats[slot] = Some(joiner.seat);
        self.epoch_number_max = self.epoch_number_max.max(held.number);
        Ok(())
    }

    /// Takes a slot out. The record keeps what its device surely holds, and the device is not written again.
    fn leave(&mut self, slot: usize) {
        let seat = self.seats[slot].take();
        let (held, held_moves) = seat.map_or((EpochName::NONE, 0), |seat| (seat.holds, seat.moves));
        let entry = &mut self.record.slots[slot];
        *entry = SlotRecord { state: SlotState::Failed, held, held_moves, cursor: 0, ..*entry };
    }

    fn drop_lost(&mut self) {
        for slot in 0..self.seats.len() {
            if self.seats[slot].is_some_and(|seat| seat.write == Write::Lost) {
                self.leave(slot);
            }
        }
    }

    fn check_enough(&self) -> Result<(), ChangeRefused> {
        let in_sync = self.record.slots.iter().filter(|entry| entry.state == SlotState::InSync).count();
        let needed = self.record.shape.data_strips();
        if in_sync < needed { Err(ChangeRefused::TooFew { in_sync, needed }) } else { Ok(()) }
    }

    /// Makes the record of the next epoch. Each participant's entry says what its device holds now.
    fn renew(&mut self, id: u64, found: RunState) -> Result<(), ChangeRefused> {
        let number = self.epoch_number_max + 1;
        if number > COUNT_MAX {
            return Err(ChangeRefused::Exhausted);
        }
        self.epoch_number_max = number;
        self.record.epoch = self.record.epoch.next(EpochName { number, id });
        self.record.moves = 0;
        self.record.state = found;
        self.record.settled &= found == RunState::Clean;
        self.record.found = found;
        self.begun = true;
        for (entry, seat) in self.record.slots.iter_mut().zip(&self.seats) {
            if let Some(seat) = seat {
                (entry.held, entry.held_moves) = (seat.holds, seat.moves);
            }
        }
        Ok(())
    }

    fn rewrite(&mut self, proven: Proven) -> Result<Vec<SuperblockWrite>, ChangeRefused> {
        assert!(self.is_committed() && !self.has_pending(), "an epoch is rewritten when all hold it");
        assert!(!self.has_lost(), "a slot that lost a write leaves before the record is written again");
        self.writes(proven)
    }

    /// Makes the writes of the present record for every participant that has not lost a write.
    fn writes(&mut self, proven: Proven) -> Result<Vec<SuperblockWrite>, ChangeRefused> {
        let mut writes = Vec::new();
        for (slot, seat) in self.seats.iter_mut().enumerate() {
            let Some(seat) = seat.as_mut().filter(|seat| seat.write != Write::Lost) else { continue };
            if seat.sequence >= COUNT_MAX {
                return Err(ChangeRefused::Exhausted);
            }
            seat.write = Write::Pending;
            let superblock = Superblock {
                sequence: seat.sequence + 1,
                member: self.record.slots[slot].member,
                slot,
                read_only_required: false,
                proven: proven == Proven::OnAll,
                record: self.record.clone(),
            };
            writes.push(SuperblockWrite { slot, device: seat.device, copy: seat.overwrite, superblock });
        }
        Ok(writes)
    }
}
