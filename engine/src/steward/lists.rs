//! The writes of the list of lost rows, until it is durable on every member and on record. The top of
//! [`lost`](crate::lost) explains the order.

use crate::format::lost_rows::{LIST_BYTES, PLACE_OFFSETS_BYTES, encode};
use crate::members::{Failure, Missed};
use crate::memory::{Pool, Span};
use crate::ring::{Durability, MemberIo, Ring};
use crate::shared::Shared;
use crate::slab::NONE;
use crate::turn::{Buffers, Holds, Io, IoFor, Turn};

use super::keeper::Keeper;

/// A version of the list on its way to the members.
#[derive(Debug)]
struct Round {
    version: u64,
    /// The place being written, of the two.
    place: usize,
    pending: u32,
    /// Members without this version: the record must exclude them before the version counts as durable.
    missed: Missed,
}

/// The state of the list's writes.
#[derive(Debug)]
pub(crate) struct ListWrites {
    span: Span,
    /// The lot of `span` if parked I/Os hold the span, otherwise `NONE`.
    lot: u32,
    round: Option<Round>,
}

impl ListWrites {
    pub(super) fn new(pool: &mut Pool) -> ListWrites {
        let span = pool.take(LIST_BYTES as u32).expect("a fresh pool has room for the list of lost rows");
        ListWrites { span, lot: NONE, round: None }
    }

    /// Keeps the span for a parked write of the list.
    pub(crate) fn hold(&mut self, buffers: &mut Buffers) -> Holds {
        buffers.hold(&mut self.lot, self.span)
    }

    /// Writes the list if the members' version is behind, to one place after the other.
    pub(super) fn advance<R: Ring>(&mut self, turn: &mut Turn<'_, R>, keeper: &mut Keeper) {
        let shared = turn.shared;
        let Some(round) = &self.round else {
            if !shared.lost.is_durable(shared.lost.version()) && !shared.failed() {
                self.begin(turn, keeper.has_record());
            }
            return;
        };
        if round.pending > 0 {
            return;
        }
        let (version, place, missed) = (round.version, round.place, round.missed);
        if shared.failed() {
            self.round = None;
        } else if !shared.members.excludes(&missed) {
            // The keeper is already excluding them.
        } else if place + 1 < PLACE_OFFSETS_BYTES.len() {
            self.write_place(turn, version, place + 1);
        } else if !shared.lost.is_on_record() {
            keeper.wishes.lost_rows = true;
        } else {
            shared.lost.set_durable(version);
            self.round = None;
        }
    }

    fn begin<R: Ring>(&mut self, turn: &mut Turn<'_, R>, has_record: bool) {
        let shared = turn.shared;
        let (version, ranges) = shared.lost.snapshot();
        if !has_record {
            // An array in memory has no place for the list.
            shared.lost.set_durable(version);
            return;
        }
        let lot = std::mem::replace(&mut self.lot, NONE);
        if lot != NONE {
            self.span = Span::EMPTY;
            turn.buffers.leave(lot);
        }
        if self.span == Span::EMPTY {
            // No span is free now: a later turn writes the list.
            let Some(span) = turn.buffers.pool.take_kept_back(LIST_BYTES as u32) else { return };
            self.span = span;
        }
        let array = uuid::Uuid::from_bytes(shared.layout.uuid);
        shared.memory.with_mut(self.span, |list| encode(list, array, version, &ranges));
        self.write_place(turn, version, 0);
    }

    fn write_place<R: Ring>(&mut self, turn: &mut Turn<'_, R>, version: u64, place: usize) {
        let (view, missed) = turn.shared.members.missing_of(turn.shared.geometry.slots());
        let slots = view.writable;
        self.round = Some(Round { version, place, pending: slots.count(), missed });
        for slot in slots.iter() {
            let write = MemberIo::Write(Durability::Durable);
            turn.push(IoFor::List, slot, write, PLACE_OFFSETS_BYTES[place], self.span);
        }
    }

    /// Handles the end of a member's write of the list, successful or not.
    pub(crate) fn written(&mut self, shared: &Shared, io: &Io, result: Result<(), i32>) {
        if let Err(errno) = result {
            io.fail_metadata(shared, errno, Failure::Metadata(errno));
        }
        self.write_ended(io, result.is_ok());
    }

    /// Counts a member's write of the list as over, because it ended or because nothing waits for it any
    /// more.
    pub(crate) fn write_ended(&mut self, io: &Io, is_written: bool) {
        let round = self.round.as_mut().expect("a list is written in a round");
        round.pending -= 1;
        if !is_written {
            round.missed.add(io.slot, io.device);
        }
    }
}
