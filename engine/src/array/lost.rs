//! Changing the list of lost rows: how ops list what nobody can compute, and how they take off what a host has written. The steward
//! makes the list durable (steward/lists.rs). The order and its reasons are at the top of [`lost`](crate::lost).
//!
//! **Giving up rows.** Background work that has read a piece of rows several times in vain (stripe/vain.rs) defines its lost strips as
//! zeros. After each of these reads it reads another block of each member that failed: a member that reads nothing at all is not a
//! bad sector, and nothing is given up for it. Then the rows are listed; and when that is durable the piece is written like any
//! other, with zeros for the lost strips.
//!
//! **First writes.** While a cell says Unwritten the list means nothing for its stripe, which reads as zeros. An entry may be there
//! all the same: a crash between a discard's cell and the list leaves it. It is taken off before the cell says otherwise, or the
//! first write would turn rows that read as zeros into errors.
//!
//! **Stripes on a missing member.** A NeedSync stripe with a data strip on the slot that is filled is given up at once: its parity
//! proves nothing, and the member that had the strip is gone. The strip is listed whole, and the stripe is healed over the others.

use std::sync::atomic::Ordering;

use bitmap::Cell;

use crate::format::lost_rows::LostRange;
use crate::format::zones::{SUPERBLOCK_A_OFFSET_BYTES, SUPERBLOCK_B_OFFSET_BYTES};
use crate::geometry::Strips;
use crate::limits::BLOCK_BYTES;
use crate::lost::Refused;
use crate::request::RequestError;
use crate::ring::{MemberIo, Ring};

use crate::job::Job;
use crate::part::{Part, PartKind, PartList, Rows};
use crate::stripe::op::{Mode, Phase, Work};
use crate::stripe::vain::Vain;
use crate::turn::IoFor;

use super::Array;

/// The parts of an op that are left when some are to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// None is to be refused.
    Everything,
    /// Some were answered, and the others go on.
    Others,
    /// All are to be refused, and none has been answered.
    Nothing,
}

impl Array {
    /// Whether any of these bytes of a stripe is lost. Asked before each read, and nearly always there is nothing.
    #[inline]
    pub(super) fn is_lost(&self, stripe: u64, start: u32, len: u32) -> bool {
        !self.shared.lost.is_empty() && self.lists(stripe, start, len)
    }

    fn lists(&self, stripe: u64, start: u32, len: u32) -> bool {
        let shared = &*self.shared;
        let (geometry, rotation) = (&shared.geometry, shared.geometry.rotation(stripe));
        let (first, first_row) = geometry.strip_of(start);
        let (last, last_row) = geometry.strip_of(start + len - 1);
        (first..=last).any(|strip| {
            let row = if strip == first { first_row } else { 0 };
            let end = if strip == last { last_row + 1 } else { geometry.chunk_bytes() };
            shared.lost.has(stripe, rotation.slot_of(strip), row, end - row)
        })
    }

    /// These rows cannot be had from the strips that can be read.
    pub(super) fn refused<R: Ring>(&mut self, ring: &mut R, index: u32, rows: Rows) {
        let end = rows.end;
        let op = &mut self.ops[index];
        let by_suspects = !op.suspects.is_empty();
        let is_job = by_suspects && op.careful && op.job.is_some();
        if is_job && self.shared.steward.is_stopping.load(Ordering::Relaxed) {
            // A drive may take seconds over each of the sectors behind.
            self.finish(index, Err(RequestError::Lost));
            return;
        }
        if is_job && op.job.is_some_and(Job::gives_up) {
            if self.looks_closely(index) {
                self.probe(ring, index, end);
            } else {
                self.pass_by(ring, index, end);
            }
            return;
        }
        let suspects = std::mem::replace(&mut op.suspects, Strips::NONE);
        if by_suspects && !op.careful {
            // The strips may be bad in different rows, or may have been repaired by another op since: each small piece is
            // read anew, and has suspects of its own.
            (op.careful, op.vain) = (true, Vain::NONE);
            self.replan(ring, index);
        } else if by_suspects && op.job.is_some() {
            // The other rows are done all the same.
            self.pass_by(ring, index, end);
        } else if by_suspects && op.work_kind == Work::Write(Mode::Heal) {
            // Unreadable strips of members in sync take writes: the host's data are stored, and parity stays untrusted. Only parity
            // could give back what is written to a strip of a slot that is not in sync: that is refused.
            let away = op.view.lost_data().minus(suspects);
            let geometry = self.shared.geometry;
            let is_away = |part: &Part| {
                let has_rows = |strip| part.rows_of(&geometry, strip).1 > 0;
                away.iter().any(has_rows)
            };
            if self.answer_parts(index, is_away) == Left::Nothing {
                self.finish(index, Err(RequestError::Lost));
                return;
            }
            let op = &mut self.ops[index];
            (op.work_kind, op.careful) = (Work::Write(Mode::DataOnly), false);
            op.row = 0;
            self.replan(ring, index);
        } else if by_suspects && self.answer_refused(index, rows.first) {
            // Requests that the op works for together share no fate: the others go on without these.
            self.replan(ring, index);
        } else {
            // What an earlier batch wrote of this request stays: it was never acknowledged.
            self.finish(index, Err(RequestError::Lost));
        }
    }

    /// Answers the parts that touch a row which is refused, if there are others. Says whether there are.
    fn answer_refused(&mut self, index: u32, row: u32) -> bool {
        let geometry = self.shared.geometry;
        self.answer_parts(index, |part| !part.corners(&geometry).at(row).is_empty()) == Left::Others
    }

    /// Answers these parts with an error, unless all are of them. What is left.
    fn answer_parts(&mut self, index: u32, touches: impl Fn(&Part) -> bool) -> Left {
        let active = &mut self.ops[index].active;
        let (touching, all) =
            (active.iter(&self.parts).filter(|part| touches(part)).count(), active.iter(&self.parts).count());
        if touching == 0 {
            return Left::Everything;
        } else if touching == all {
            return Left::Nothing;
        }
        let mut parts = std::mem::replace(active, PartList::EMPTY);
        while let Some(part) = parts.pop(&mut self.parts) {
            if touches(&self.parts[part]) {
                self.part_ended(part, Err(RequestError::Lost));
            } else {
                self.ops[index].active.push(&mut self.parts, part);
            }
        }
        Left::Others
    }

    /// After each read of a piece that may have to be given up: whether the members that failed can read anything. `end` is the row
    /// after the piece.
    pub(super) fn probe<R: Ring>(&mut self, ring: &mut R, index: u32, end: u32) {
        let op = &self.ops[index];
        let (suspects, rotation) = (op.suspects, op.rotation);
        let Some(work) = self.buffers.pool.take(suspects.count() * BLOCK_BYTES as u32) else {
            self.pass_by(ring, index, end);
            return;
        };
        let op = &mut self.ops[index];
        (op.work, op.row_next, op.phase) = (work, end, Phase::Probing);
        op.pending = suspects.count();
        // Either superblock, in turn: one of them may be bad too.
        let is_even = op.job.is_none_or(|job| job.attempt().is_multiple_of(2));
        let offset = if is_even { SUPERBLOCK_A_OFFSET_BYTES } else { SUPERBLOCK_B_OFFSET_BYTES };
        for strip in suspects.iter() {
            let span = work.part(suspects.rank(strip) * BLOCK_BYTES as u32, BLOCK_BYTES as u32);
            let what = IoFor::OpRead { op: index, strip };
            turn!(self, ring).push(what, rotation.slot_of(strip), MemberIo::Read, offset, span);
        }
    }

    /// The members have been asked.
    pub(super) fn probed<R: Ring>(&mut self, ring: &mut R, index: u32) {
        self.give_work(index);
        if std::mem::take(&mut self.ops[index].read_failed) {
            self.pass_by(ring, index, self.ops[index].row_next);
        } else {
            self.read_in_vain(index);
        }
    }

    /// Background work goes on behind rows that it cannot compute.
    pub(super) fn pass_by<R: Ring>(&mut self, ring: &mut R, index: u32, end: u32) {
        let op = &mut self.ops[index];
        (op.suspects, op.incomplete) = (Strips::NONE, true);
        self.next_batch(ring, index, end);
    }

    /// Lists the rows from the batch's first to `row_next` of every data strip that cannot be read.
    pub(super) fn list_rows(&mut self, index: u32) {
        let op = &self.ops[index];
        let (lost, stripe, rotation) = (op.view.lost_data(), op.stripe, op.rotation);
        let (row, rows) = (op.row, op.row_next - op.row);
        let mut listed = Ok(0);
        for strip in lost.iter() {
            let slot = rotation.slot_of(strip);
            listed =
                listed.and_then(|_| self.shared.lost.add(LostRange { stripe, stripes: 1, slot, row, rows }));
        }
        // Release, before the rows are written: a read in flight may see zeros where there was data.
        self.shared.deallocations.fetch_add(1, Ordering::Release);
        match listed {
            Ok(version) => {
                // Another strip that fails from now on is read as often as these were.
                (self.ops[index].given_up, self.ops[index].vain) = (lost, Vain::NONE);
                self.await_list(index, version, Phase::AwaitingList);
            }
            Err(Refused::Busy) => {
                self.ops[index].phase = Phase::Listing;
                self.polling.push(index);
            }
            Err(Refused::Full) => self.finish(index, Err(RequestError::Lost)),
        }
    }

    /// The rows are listed, durably: they are worked at as zeros.
    pub(super) fn listed<R: Ring>(&mut self, ring: &mut R, index: u32) {
        if matches!(self.ops[index].work_kind, Work::Rebuild { .. }) {
            // The stripe was trusted, and is changed like any other.
            let stripe = self.ops[index].stripe;
            if self.shared.bitmap.begin_write(stripe) == bitmap::Begun::Pending {
                self.tally().marks.add(1);
                self.blocks.ask(self.shared.bitmap.block_of(stripe));
            }
        }
        self.replan(ring, index);
    }

    fn await_list(&mut self, index: u32, version: u64, phase: Phase) {
        let op = &mut self.ops[index];
        (op.listed, op.phase) = (version, phase);
        self.polling.push(index);
        if self.me != 0 {
            self.shared.mailboxes.wake(0);
        }
    }

    /// Ends an op that has done what its parts asked for. What they have written, durably where rows were listed, is listed no
    /// longer.
    #[inline]
    pub(super) fn finish_written(&mut self, index: u32) {
        if self.ops[index].active.is_empty() || !self.awaits_unlisted(index) {
            self.finish(index, Ok(()));
        }
    }

    /// Whether an op has to wait for the list, which has something of its stripe: the rows that its parts have written (of a
    /// first write all rows) are taken off.
    #[inline]
    pub(super) fn awaits_unlisted(&mut self, index: u32) -> bool {
        if !self.shared.lost.touches(self.ops[index].stripe) {
            return false;
        }
        self.await_unlisted(index);
        true
    }

    fn await_unlisted(&mut self, index: u32) {
        match self.unlist(index) {
            Ok(version) => self.await_list(index, version, Phase::AwaitingUnlisted),
            Err(Refused::Busy) => {
                self.ops[index].phase = Phase::Unlisting;
                self.polling.push(index);
            }
            Err(Refused::Full) => self.finish(index, Err(RequestError::Lost)),
        }
    }

    /// The list is durable without what an op has taken off it.
    pub(super) fn unlisted(&mut self, index: u32) {
        let op = &self.ops[index];
        let is_first = op.work_kind == Work::Write(Mode::First);
        if is_first && self.shared.bitmap.cell(op.stripe) == Cell::Unwritten {
            self.become_first(index);
        } else {
            self.finish(index, Ok(()));
        }
    }

    fn unlist(&self, index: u32) -> Result<u64, Refused> {
        let op = &self.ops[index];
        let (geometry, lost) = (&self.shared.geometry, &self.shared.lost);
        let mut version = 0;
        if op.work_kind == Work::Write(Mode::First) {
            for strip in geometry.data_strips().iter() {
                version = lost.remove(op.stripe, op.rotation.slot_of(strip), 0, geometry.chunk_bytes())?;
            }
            return Ok(version);
        }
        for part in op.active.iter(&self.parts) {
            for strip in geometry.data_strips().iter() {
                let (row, end) = match part.kind {
                    PartKind::Discard { .. } => (0, geometry.chunk_bytes()),
                    PartKind::Read | PartKind::Write | PartKind::Zero => part.rows_of(geometry, strip),
                };
                if row < end {
                    version = lost.remove(op.stripe, op.rotation.slot_of(strip), row, end - row)?;
                }
            }
        }
        Ok(version)
    }
}
