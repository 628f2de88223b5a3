//! The superblocks of a running array: one change at a time, each an epoch that every member of it holds
//! before anything relies on it.
//!
//! The keeper compares what the reactors see (the view) with what the superblocks say (the roster), and
//! writes the difference; [`Members::on_record`](crate::members::Members::on_record) is what waits for it. A
//! member that fails a superblock write leaves in the next change. When a change would leave fewer
//! members than hold the data, the array has failed: nothing is written to say otherwise.
//!
//! Changes of membership are rare, and the roster allocates for them; nothing else in a turn does.

use uuid::Uuid;

use crate::assembly::{Change, Joiner, Roster, SuperblockWrite, WriteOutcome};
use crate::format::superblock::SlotState;
use crate::geometry::Slots;
use crate::limits::BLOCK_BYTES;
use crate::members::{Believed, Failure, MemberView};
use crate::memory::{Pool, Span};
use crate::ring::blame::Blame;
use crate::ring::{DeviceIndex, Durability, MemberIo, Ring};

use super::arrival::has_failed;
use super::noting::Position;
use super::steward::Answer;
use super::{Array, Io, IoFor, Shared};

/// A device that is to take a slot.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) slot: u8,
    pub(super) device: DeviceIndex,
    pub(super) member: Uuid,
    pub(super) volatile: bool,
    pub(super) device_bytes: u64,
    pub(super) answer: Answer,
}

/// What a round of superblock writes is for.
#[derive(Debug)]
enum Purpose {
    Leave,
    Join(Joining),
    Filled {
        slot: u8,
    },
    Progress,
    /// There is a list of lost rows.
    LostRows,
    Wake,
    Move,
    Stop,
    /// The last change again, into the other copies.
    Reinforce,
}

/// How far a change that also has to be in the second copies has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nobody asks for it.
    #[default]
    None,
    /// To be begun.
    Asked,
    /// The first copies are being written, or the second ones.
    Begun,
}

/// What the keeper is asked to put on record, beyond failures, which it finds itself.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) join: Option<Joining>,
    /// The slot whose rebuild has ended.
    pub(super) filled: Option<u8>,
    /// The cursor of the rebuild, flushed.
    pub(super) progress: Option<(u8, u64)>,
    /// There is a list of lost rows, on every member.
    pub(super) lost_rows: bool,
    /// Members are about to be written, for the first time since a start or a rest.
    wake: Wish,
    /// The moves are to count up; see [`Keeper::ask_to_move`].
    moving: Wish,
    /// Somebody asked for a move while one had begun.
    move_again: bool,
    pub(super) stop: Wish,
    /// A change has landed on one copy of each superblock, and goes to the other copies next.
    reinforce: bool,
}

/// Writes superblocks.
#[derive(Debug)]
pub(super) struct Keeper {
    /// `None` for an array that lives in memory only.
    roster: Option<Roster>,
    /// One for each slot; empty while the kernel holds the last one, and no other was free yet.
    spans: Vec<Span>,
    round: Option<(Purpose, u32)>,
    /// Epoch ids come from here: random at the start, mixed with each number.
    seed: u64,
    pub(super) wishes: Wishes,
    /// Moves that are in both copies of every participant since the start.
    moves_done: u64,
    pub(super) stopped: bool,
}

/// A move of the record that has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MoveTicket(u64);

impl Keeper {
    pub(super) fn new(roster: Option<Roster>, seed: u64, members: u8, pool: &mut Pool) -> Keeper {
        let span = |_| pool.take(BLOCK_BYTES as u32).expect("a fresh pool has room for the superblocks");
        Keeper {
            roster,
            spans: (0..members).map(span).collect(),
            round: None,
            seed,
            wishes: Wishes::default(),
            moves_done: 0,
            stopped: false,
        }
    }

    /// The array's name; of one in memory, a word that stands for it.
    pub(super) fn name(&self) -> &str {
        self.roster.as_ref().map_or("NAME", |roster| roster.record().name.as_str())
    }

    /// Whether a round is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.round.is_some()
    }

    /// Whether a device is being put on record, or is to be.
    pub(super) fn is_joining(&self) -> bool {
        self.wishes.join.is_some() || matches!(self.round, Some((Purpose::Join(_), _)))
    }

    /// Refuses to put a device on record, unless that has begun.
    pub(super) fn refuse_join(&mut self, why: &str) {
        if let Some(joining) = self.wishes.join.take() {
            joining.answer.send(Err(why.into()));
        }
    }

    /// Asks for the record's moves to count up, in a change that begins after this call: whatever was written to a member
    /// before the call is then later than every image of a member with fewer moves. An array without a record has nothing
    /// to move.
    pub(super) fn ask_to_move(&mut self) -> MoveTicket {
        if !self.has_record() {
            return MoveTicket(self.moves_done);
        }
        match self.wishes.moving {
            Wish::None => self.wishes.moving = Wish::Asked,
            Wish::Asked => {}
            Wish::Begun => {
                self.wishes.move_again = true;
                return MoveTicket(self.moves_done + 2);
            }
        }
        MoveTicket(self.moves_done + 1)
    }

    /// Whether the array has a record on its members; one in memory has none.
    pub(super) fn has_record(&self) -> bool {
        self.roster.is_some()
    }

    /// Whether nothing is to be put on record.
    pub(super) fn is_at_rest(&self) -> bool {
        let Wishes { join, filled, progress, lost_rows, wake, moving, move_again: _, stop, reinforce } =
            &self.wishes;
        self.round.is_none()
            && join.is_none()
            && filled.is_none()
            && progress.is_none()
            && [*wake, *moving, *stop] == [Wish::None; 3]
            && !lost_rows
            && !reinforce
    }

    /// Whether the move that was asked for is in both copies of every participant.
    pub(super) fn has_moved(&self, ticket: MoveTicket) -> bool {
        self.moves_done >= ticket.0
    }

    /// The slots on record.
    fn on_record(&self) -> MemberView {
        let mut view = MemberView { readable: Slots::NONE, writable: Slots::NONE };
        for (slot, entry) in self.roster.iter().flat_map(|roster| roster.record().slots.iter().enumerate()) {
            let one = Slots::one((slot % 32) as u8);
            match entry.state {
                SlotState::InSync => {
                    view.readable = view.readable.or(one);
                    view.writable = view.writable.or(one);
                }
                SlotState::Rebuilding => view.writable = view.writable.or(one),
                SlotState::Empty | SlotState::Failed => {}
            }
        }
        view
    }

    /// The record is in both copies of every participant: what was asked for is done.
    fn proven(&mut self, shared: &Shared) {
        let wishes = &mut self.wishes;
        if wishes.wake == Wish::Begun {
            wishes.wake = Wish::None;
            shared.steward.rest.end();
        }
        if wishes.moving == Wish::Begun {
            wishes.moving = if std::mem::take(&mut wishes.move_again) { Wish::Asked } else { Wish::None };
            self.moves_done += 1;
        }
        if wishes.stop == Wish::Begun {
            wishes.stop = Wish::None;
            self.stopped = true;
        }
    }

    /// The position of the record now.
    fn position(&self) -> Option<Position> {
        self.roster.as_ref().map(|roster| Position::of(roster.record()))
    }
}

impl Array {
    /// Begins the next change of the record, if there is one to make.
    pub(super) fn keep_record<R: Ring>(&mut self, ring: &mut R) {
        self.end_noted_round();
        let shared = self.shared.clone();
        let steward = self.steward.as_mut().expect("the steward keeps the record");
        let keeper = &mut steward.keeper;
        if shared.failed() {
            // No record is written any more: without this, the order would wait for ever.
            keeper.refuse_join(&has_failed(keeper.name()));
        }
        if keeper.round.is_some() || keeper.stopped || shared.failed() {
            return;
        }
        let view = shared.members.view();
        for span in &mut keeper.spans {
            if *span == Span::EMPTY {
                // None is free now: the change is begun in a later turn.
                let Some(fresh) = self.pool.take_kept_back(BLOCK_BYTES as u32) else { return };
                *span = fresh;
            }
        }
        let Some(roster) = &keeper.roster else {
            shared.members.set_record(view, shared.members.cursor());
            keeper.stopped |= keeper.wishes.stop != Wish::None;
            return;
        };
        if shared.steward.rest.is_called() && keeper.wishes.wake == Wish::None {
            keeper.wishes.wake = Wish::Asked;
        }
        if keeper.is_at_rest() && view == shared.members.record() {
            return;
        }
        let left = keeper.on_record().writable.minus(view.writable);
        let id = roster.record().epoch.name.next_id(keeper.seed);
        let roster = keeper.roster.as_mut().expect("looked at above");
        let (purpose, writes) = if !left.is_empty() {
            (Purpose::Leave, roster.begin(Change::Fail { slots: left }, id))
        } else if std::mem::take(&mut keeper.wishes.reinforce) {
            (Purpose::Reinforce, roster.reinforce())
        } else if let Some(joining) = keeper.wishes.join.take() {
            let joiner = Joiner::blank(usize::from(joining.device.0), joining.member);
            let change = Change::Join { slot: usize::from(joining.slot), joiner };
            (Purpose::Join(joining), roster.begin(change, id))
        } else if let Some(slot) = keeper.wishes.filled.take() {
            keeper.wishes.progress = None;
            if !shared.members.anticipate_record(slot, Believed::InSync) {
                return;
            }
            (Purpose::Filled { slot }, roster.begin(Change::Filled { slot: usize::from(slot) }, id))
        } else if let Some((slot, cursor)) = keeper.wishes.progress.take() {
            if !shared.members.anticipate_record(slot, Believed::Below(cursor)) {
                return;
            }
            // It counts from the first write on, whether or not all land.
            steward.recorded_cursor = cursor;
            (Purpose::Progress, roster.rebuild_progress(usize::from(slot), cursor))
        } else if std::mem::take(&mut keeper.wishes.lost_rows) {
            (Purpose::LostRows, roster.note_lost_rows())
        } else if keeper.wishes.wake == Wish::Asked {
            keeper.wishes.wake = Wish::Begun;
            (Purpose::Wake, roster.wake())
        } else if keeper.wishes.moving == Wish::Asked {
            keeper.wishes.moving = Wish::Begun;
            (Purpose::Move, roster.move_on())
        } else if keeper.wishes.stop == Wish::Asked {
            keeper.wishes.stop = Wish::Begun;
            (Purpose::Stop, roster.stop_clean())
        } else {
            return;
        };
        match writes {
            Ok(writes) => {
                keeper.round = Some((purpose, writes.len() as u32));
                for write in writes {
                    self.write_superblock(ring, &write);
                }
            }
            Err(refused) => {
                shared.members.set_record(keeper.on_record(), steward.recorded_cursor);
                if let Purpose::Join(joining) = purpose {
                    joining.answer.send(Err(refused.to_string()));
                }
            }
        }
    }

    fn write_superblock<R: Ring>(&mut self, ring: &mut R, write: &SuperblockWrite) {
        let steward = self.steward.as_ref().expect("the steward keeps the record");
        let span = steward.keeper.spans[write.slot];
        self.shared.memory.write_to(span, &write.encode());
        let device = DeviceIndex(u8::try_from(write.device).expect("a device index fits"));
        let io = MemberIo::Write(Durability::Durable);
        let offset = write.copy.offset_bytes();
        self.push_to(ring, IoFor::Superblock, write.slot as u8, device, io, offset, span);
    }

    pub(super) fn superblock_done(&mut self, io: &Io, result: Result<(), i32>) {
        if let Err(errno) = result {
            match self.blame(io, errno) {
                Blame::Space | Blame::Ours => self.shared.members.stop_serving(io.slot, errno),
                Blame::Device => drop(self.shared.members.fail(io.slot, Failure::Metadata(errno))),
            }
        }
        self.superblock_ended(*io, if result.is_ok() { WriteOutcome::Landed } else { WriteOutcome::Lost });
    }

    /// A superblock's write is parked: its device does not answer, and the slot is out of the view. The write may land at any
    /// time or never, so it is lost in the roster's sense, and the slot leaves in the next epoch whatever becomes of it.
    pub(super) fn superblock_lost(&mut self, io: Io) {
        let steward = self.steward.as_mut().expect("the steward keeps the record");
        steward.keeper.spans[usize::from(io.slot)] = Span::EMPTY;
        self.superblock_ended(io, WriteOutcome::Lost);
    }

    fn superblock_ended(&mut self, io: Io, outcome: WriteOutcome) {
        let steward = self.steward.as_mut().expect("the steward keeps the record");
        let keeper = &mut steward.keeper;
        let roster = keeper.roster.as_mut().expect("superblocks are written from a roster");
        roster.settle(usize::from(io.slot), outcome);
        let (_, pending) = keeper.round.as_mut().expect("a superblock is written in a round");
        *pending -= 1;
        if *pending == 0 {
            self.note_round();
            self.end_noted_round();
        }
    }

    /// Every write of the round has ended: orders a note of the new position, if all have landed. (Second copies say the same position
    /// again.)
    fn note_round(&self) {
        let keeper = &self.steward().keeper;
        let is_change = !matches!(keeper.round, Some((Purpose::Reinforce, _)));
        if is_change && keeper.roster.as_ref().is_some_and(Roster::has_landed) {
            let position = keeper.position().expect("a roster has a position");
            self.shared.steward.noting.order(position, self.now_ns);
        }
    }

    /// Ends the round whose writes have ended, once its position is noted; see `noting`.
    fn end_noted_round(&mut self) {
        let is_written = matches!(self.steward().keeper.round, Some((_, 0)));
        if is_written && self.shared.steward.noting.is_over(self.now_ns) {
            self.end_round();
        }
    }

    /// Every write of the round has ended, and its position is noted. What was lost leaves in the next round, and what relies on this
    /// one waits until one has landed whole.
    fn end_round(&mut self) {
        let shared = self.shared.clone();
        let steward = self.steward.as_mut().expect("the steward keeps the record");
        let (purpose, _) = steward.keeper.round.take().expect("a round ends once");
        let landed = steward.keeper.roster.as_ref().is_some_and(Roster::has_landed);
        // A change that lost a write is followed by another, without that slot.
        steward.keeper.wishes.reinforce = landed && !matches!(purpose, Purpose::Reinforce);
        match purpose {
            Purpose::Leave | Purpose::Progress | Purpose::Wake | Purpose::Move | Purpose::Stop => {}
            Purpose::LostRows => {}
            Purpose::Reinforce => {
                if landed {
                    steward.keeper.proven(&shared);
                }
            }
            Purpose::Join(joining) => {
                if landed {
                    shared.members.begin_rebuild(joining.slot, joining.device, joining.volatile);
                    steward.recorded_cursor = 0;
                    // Wishes of an earlier rebuild that failed.
                    (steward.keeper.wishes.filled, steward.keeper.wishes.progress) = (None, None);
                    steward.begin_rebuild(&shared, joining.slot, 0);
                    joining.answer.send(Ok(()));
                } else {
                    joining.answer.send(Err("the superblocks of the others could not be written, and the log says of which: try again".into()));
                }
            }
            Purpose::Filled { slot } => {
                // Readable from now on, whether or not all have heard: the slot is filled. (Unless it, or too many, failed.)
                shared.members.finish_rebuild(slot, shared.geometry.data().into());
            }
        }
        if landed {
            if steward.keeper.roster.as_ref().is_some_and(|roster| roster.record().lost_rows) {
                shared.lost.set_on_record();
            }
            let epoch = steward.keeper.roster.as_ref().map_or(0, |roster| roster.record().epoch.name.number);
            shared.steward.epoch.store(epoch, std::sync::atomic::Ordering::Relaxed);
            shared.members.set_record(steward.keeper.on_record(), steward.recorded_cursor);
        }
    }
}
