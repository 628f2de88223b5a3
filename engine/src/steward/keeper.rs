//! The superblocks of a running array: one change at a time. Each change is an epoch that every member of it
//! holds before anything relies on it.
//!
//! The keeper compares the view (what the reactors see) with the roster (what the superblocks say) and writes
//! the difference. Operations that depend on a change wait for
//! [`Members::on_record`](crate::members::Members::on_record). A member that fails a superblock write leaves
//! in the next change. A change that would leave fewer members than the data needs means that the array has
//! failed; then no superblock is written.
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
use crate::shared::{Answer, Position, Shared};
use crate::turn::{Io, IoFor, Turn};

use super::arrival::has_failed;

/// A device that is to take over a slot.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) slot: u8,
    pub(crate) device: DeviceIndex,
    pub(crate) member: Uuid,
    pub(crate) volatile: bool,
    pub(crate) device_bytes: u64,
    pub(crate) answer: Answer,
}

/// Purpose of a round of superblock writes.
#[derive(Debug)]
enum Purpose {
    Leave,
    Join(Joining),
    Filled {
        slot: u8,
    },
    Progress,
    /// Record that a list of lost rows exists.
    LostRows,
    Wake,
    Move,
    Stop,
    /// Repeat the last change in the other copies.
    Reinforce,
}

/// Progress of a change that is complete only when the second copies have it too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Not asked for.
    #[default]
    None,
    /// Asked for, not begun.
    Asked,
    /// The first copies are being written, or the second ones.
    Begun,
}

/// Requests to put something on record. Failures are not listed here: the keeper finds them itself.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) join: Option<Joining>,
    /// The slot whose rebuild has finished.
    pub(crate) filled: Option<u8>,
    /// The slot being rebuilt and its cursor, already flushed.
    pub(crate) progress: Option<(u8, u64)>,
    /// A list of lost rows exists and is on every member.
    pub(crate) lost_rows: bool,
    /// Members are about to be written for the first time since a start or a rest.
    wake: Wish,
    /// The record's moves must count up; see [`Keeper::ask_to_move`].
    moving: Wish,
    /// Another move was asked for after the current one had begun.
    move_again: bool,
    pub(crate) stop: Wish,
    /// A change has reached one copy of each superblock; the other copies are next.
    reinforce: bool,
}

/// The writer of superblocks.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// The record on the members; `None` for an array that lives in memory only.
    roster: Option<Roster>,
    /// Spans to write superblocks from, one for each slot. A span is empty while the kernel still holds the
    /// old one and no other was free.
    spans: Vec<Span>,
    round: Option<(Purpose, u32)>,
    /// The rebuild cursor that the superblocks say, or are about to say.
    recorded_cursor: u64,
    /// Seed of the epoch ids: random at the start, mixed with each epoch number.
    seed: u64,
    pub(crate) wishes: Wishes,
    /// Moves since the start that are in both copies of every participant.
    moves_done: u64,
    pub(crate) stopped: bool,
}

/// A handle for one requested move of the record; see [`Keeper::has_moved`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MoveTicket(u64);

impl Keeper {
    pub(crate) fn new(roster: Option<Roster>, seed: u64, shared: &Shared, pool: &mut Pool) -> Keeper {
        let span = |_| pool.take(BLOCK_BYTES as u32).expect("a fresh pool has room for the superblocks");
        Keeper {
            roster,
            spans: (0..shared.geometry.members()).map(span).collect(),
            recorded_cursor: shared.members.cursor(),
            round: None,
            seed,
            wishes: Wishes::default(),
            moves_done: 0,
            stopped: false,
        }
    }

    /// The array's name, or a placeholder for an array in memory.
    pub(crate) fn name(&self) -> &str {
        self.roster.as_ref().map_or("NAME", |roster| roster.record().name.as_str())
    }

    /// Whether a round is in flight.
    pub(crate) fn is_busy(&self) -> bool {
        self.round.is_some()
    }

    /// Whether a device is being put on record, or waits for it.
    pub(crate) fn is_joining(&self) -> bool {
        self.wishes.join.is_some() || matches!(self.round, Some((Purpose::Join(_), _)))
    }

    /// Refuses the waiting device, unless putting it on record has begun.
    pub(crate) fn refuse_join(&mut self, why: &str) {
        if let Some(joining) = self.wishes.join.take() {
            joining.answer.send(Err(why.into()));
        }
    }

    /// Asks for the record's moves to count up in a change that begins after this call. Everything written to
    /// a member before the call is then later than every image of a member with fewer moves. An array without
    /// a record has nothing to move.
    pub(crate) fn ask_to_move(&mut self) -> MoveTicket {
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

    /// Whether the array has a record on its members; an array in memory has none.
    pub(crate) fn has_record(&self) -> bool {
        self.roster.is_some()
    }

    /// Whether there is nothing to put on record.
    pub(crate) fn is_at_rest(&self) -> bool {
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

    /// Whether the requested move is in both copies of every participant.
    pub(crate) fn has_moved(&self, ticket: MoveTicket) -> bool {
        self.moves_done >= ticket.0
    }

    /// The view that the record implies.
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

    /// Completes what was asked for, now that the record is in both copies of every participant.
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

    /// The current position of the record.
    fn position(&self) -> Option<Position> {
        self.roster.as_ref().map(|roster| Position::of(roster.record()))
    }

    /// Ends a round whose position has been noted by now, and begins the next change of the record if one is
    /// due. Returns the device that has joined, if one has: its rebuild begins, and then
    /// its order is answered.
    pub(crate) fn turn<R: Ring>(&mut self, turn: &mut Turn<'_, R>) -> Option<Joining> {
        let joined = self.end_noted_round(turn.shared, turn.now_ns);
        self.begin_change(turn);
        joined
    }

    fn begin_change<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        let shared = turn.shared;
        let keeper = &mut *self;
        if shared.failed() {
            // A failed array writes no record any more; without this refusal the order would wait forever.
            keeper.refuse_join(&has_failed(keeper.name()));
        }
        if keeper.round.is_some() || keeper.stopped || shared.failed() {
            return;
        }
        let view = shared.members.view();
        for span in &mut keeper.spans {
            if *span == Span::EMPTY {
                // No span is free now: a later turn begins the change.
                let Some(fresh) = turn.buffers.pool.take_kept_back(BLOCK_BYTES as u32) else { return };
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
            // The new cursor counts from the first write on, whether or not all writes land.
            keeper.recorded_cursor = cursor;
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
                    self.write_superblock(turn, &write);
                }
            }
            Err(refused) => {
                shared.members.set_record(keeper.on_record(), keeper.recorded_cursor);
                if let Purpose::Join(joining) = purpose {
                    joining.answer.send(Err(refused.to_string()));
                }
            }
        }
    }

    fn write_superblock<R: Ring>(&self, turn: &mut Turn<'_, R>, write: &SuperblockWrite) {
        let span = self.spans[write.slot];
        turn.shared.memory.write_to(span, &write.encode());
        let device = DeviceIndex(u8::try_from(write.device).expect("a device index fits"));
        let io = MemberIo::Write(Durability::Durable);
        let offset = write.copy.offset_bytes();
        turn.push_to(IoFor::Superblock, write.slot as u8, device, io, offset, span);
    }

    /// Handles the end of a superblock write. Returns the device that has joined by it, if one has.
    pub(crate) fn written(
        &mut self,
        shared: &Shared,
        now_ns: u64,
        io: &Io,
        result: Result<(), i32>,
    ) -> Option<Joining> {
        if let Err(errno) = result {
            match io.blame(shared, errno) {
                Blame::Space | Blame::Ours => shared.members.stop_serving(io.slot, errno),
                Blame::Device => drop(shared.members.fail(io.slot, Failure::Metadata(errno))),
            }
        }
        let outcome = if result.is_ok() { WriteOutcome::Landed } else { WriteOutcome::Lost };
        self.write_ended(shared, now_ns, io, outcome)
    }

    /// Gives up a superblock write that is parked because its device does not answer; its slot is already out
    /// of the view. The write may still land at any time, or never. The roster counts it as lost, and the
    /// slot leaves in the next epoch in either case.
    pub(crate) fn lost(&mut self, shared: &Shared, now_ns: u64, io: &Io) -> Option<Joining> {
        self.spans[usize::from(io.slot)] = Span::EMPTY;
        self.write_ended(shared, now_ns, io, WriteOutcome::Lost)
    }

    fn write_ended(
        &mut self,
        shared: &Shared,
        now_ns: u64,
        io: &Io,
        outcome: WriteOutcome,
    ) -> Option<Joining> {
        let roster = self.roster.as_mut().expect("superblocks are written from a roster");
        roster.settle(usize::from(io.slot), outcome);
        let (_, pending) = self.round.as_mut().expect("a superblock is written in a round");
        *pending -= 1;
        if *pending > 0 {
            return None;
        }
        self.note_round(shared, now_ns);
        self.end_noted_round(shared, now_ns)
    }

    /// Orders a note of the new position when every write of the round has landed. Second copies repeat a
    /// position that is already noted.
    fn note_round(&self, shared: &Shared, now_ns: u64) {
        let is_change = !matches!(self.round, Some((Purpose::Reinforce, _)));
        if is_change && self.roster.as_ref().is_some_and(Roster::has_landed) {
            let position = self.position().expect("a roster has a position");
            shared.steward.noting.order(position, now_ns);
        }
    }

    /// Ends the round whose writes have ended, once its position is noted; see shared/noting.rs.
    fn end_noted_round(&mut self, shared: &Shared, now_ns: u64) -> Option<Joining> {
        let is_written = matches!(self.round, Some((_, 0)));
        if is_written && shared.steward.noting.is_over(now_ns) { self.end_round(shared) } else { None }
    }

    /// Ends a round whose writes have ended and whose position is noted. A slot that lost its write leaves in
    /// the next round; what relies on this change waits for a round that lands completely.
    fn end_round(&mut self, shared: &Shared) -> Option<Joining> {
        let (purpose, _) = self.round.take().expect("a round ends once");
        let landed = self.roster.as_ref().is_some_and(Roster::has_landed);
        // A change that lost a write is followed by another one without that slot.
        self.wishes.reinforce = landed && !matches!(purpose, Purpose::Reinforce);
        let mut joined = None;
        match purpose {
            Purpose::Leave | Purpose::Progress | Purpose::Wake | Purpose::Move | Purpose::Stop => {}
            Purpose::LostRows => {}
            Purpose::Reinforce => {
                if landed {
                    self.proven(shared);
                }
            }
            Purpose::Join(joining) => {
                if landed {
                    shared.members.begin_rebuild(joining.slot, joining.device, joining.volatile);
                    self.recorded_cursor = 0;
                    // These wishes belong to an earlier rebuild, which failed.
                    (self.wishes.filled, self.wishes.progress) = (None, None);
                    joined = Some(joining);
                } else {
                    joining.answer.send(Err("the superblocks of the others could not be written, and the log says of which: try again".into()));
                }
            }
            Purpose::Filled { slot } => {
                // The slot is full, so it is readable from now on, even if some superblocks do not say so
                // yet. (Unless it failed, or too many did.)
                shared.members.finish_rebuild(slot, shared.geometry.data().into());
            }
        }
        if landed && let Some(roster) = &self.roster {
            if roster.record().lost_rows {
                shared.lost.set_on_record();
            }
            let epoch = roster.record().epoch.name.number;
            shared.steward.epoch.store(epoch, std::sync::atomic::Ordering::Relaxed);
            shared.members.set_record(self.on_record(), self.recorded_cursor);
        }
        joined
    }
}
