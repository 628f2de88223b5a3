//! Changing the list of lost rows: how ops list what nobody can compute, and how they take off what a host
//! has written. The steward makes the list durable (steward/lists.rs). The order and its reasons are at the
//! top of [`lost`](crate::lost).
//!
//! **Giving up rows.** Background work that has read a piece of rows several times in vain (stripe/vain.rs)
//! defines its lost strips as zeros. After each of these reads it reads another block of each member that
//! failed: a member that reads nothing at all is not a bad sector, and nothing is given up for it. Then the
//! rows are listed; and when that is durable the piece is written like any other, with zeros for the lost
//! strips.
//!
//! **First writes.** While a cell says Unwritten the list means nothing for its stripe, which reads as zeros.
//! An entry may be there all the same: a crash between a discard's cell and the list leaves it. It is taken
//! off before the cell says otherwise, or the first write would turn rows that read as zeros into errors.
//!
//! **Stripes on a missing member.** A NeedSync stripe with a data strip on the slot that is filled is given
//! up at once: its parity proves nothing, and the member that had the strip is gone. The strip is listed
//! whole, and the stripe is healed over the others.

use std::sync::atomic::Ordering;

use bitmap::Cell;

use crate::format::lost_rows::LostRange;
use crate::format::zones::{SUPERBLOCK_A_OFFSET_BYTES, SUPERBLOCK_B_OFFSET_BYTES};
use crate::geometry::Strips;
use crate::job::Job;
use crate::limits::BLOCK_BYTES;
use crate::lost::Refused;
use crate::part::{Part, PartKind, PartList, Rows};
use crate::request::RequestError;
use crate::ring::{MemberIo, Ring};
use crate::shared::Shared;
use crate::turn::IoFor;

use super::op::{Mode, Phase, StripeOp, Work};
use super::step::{Step, Until};
use super::vain::Vain;
use super::{At, LOST};

/// Whether any of these bytes of a stripe is lost. Asked before each read, and nearly always there is
/// nothing.
#[inline]
pub(crate) fn is_lost(shared: &Shared, stripe: u64, start: u32, len: u32) -> bool {
    !shared.lost.is_empty() && lists(shared, stripe, start, len)
}

fn lists(shared: &Shared, stripe: u64, start: u32, len: u32) -> bool {
    let (geometry, rotation) = (&shared.geometry, shared.geometry.rotation(stripe));
    let (first, first_row) = geometry.strip_of(start);
    let (last, last_row) = geometry.strip_of(start + len - 1);
    (first..=last).any(|strip| {
        let row = if strip == first { first_row } else { 0 };
        let end = if strip == last { last_row + 1 } else { geometry.chunk_bytes() };
        shared.lost.has(stripe, rotation.slot_of(strip), row, end - row)
    })
}

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

impl StripeOp {
    /// These rows cannot be had from the strips that can be read.
    pub(super) fn refused<R: Ring>(&mut self, at: &mut At<'_, '_, R>, rows: Rows) -> Step {
        let by_suspects = !self.suspects.is_empty();
        let is_job = by_suspects && self.careful && self.job.is_some();
        if is_job && at.shared.steward.is_stopping.load(Ordering::Relaxed) {
            // A drive may take seconds over each of the sectors behind.
            return LOST;
        }
        if is_job && self.job.is_some_and(Job::gives_up) {
            return if self.looks_closely() { self.probe(at, rows.end) } else { self.pass_by(at, rows.end) };
        }
        let suspects = std::mem::replace(&mut self.suspects, Strips::NONE);
        if by_suspects && !self.careful {
            // The strips may be bad in different rows, or may have been repaired by another op since: each
            // small piece is read anew, and has suspects of its own.
            (self.careful, self.vain) = (true, Vain::NONE);
            self.replan(at)
        } else if by_suspects && self.job.is_some() {
            // The other rows are done all the same.
            self.pass_by(at, rows.end)
        } else if by_suspects && self.work_kind == Work::Write(Mode::Heal) {
            // Unreadable strips of members in sync take writes: the host's data are stored, and parity stays
            // untrusted. Only parity could give back what is written to a strip of a slot that is not in
            // sync: that is refused.
            let away = self.view.lost_data().minus(suspects);
            let geometry = at.shared.geometry;
            let is_away = |part: &Part| {
                let has_rows = |strip| part.rows_of(&geometry, strip).1 > 0;
                away.iter().any(has_rows)
            };
            if self.answer_parts(at, is_away) == Left::Nothing {
                return LOST;
            }
            (self.work_kind, self.careful) = (Work::Write(Mode::DataOnly), false);
            self.row = 0;
            self.replan(at)
        } else if by_suspects && self.answer_refused(at, rows.first) {
            // Requests that the op works for together share no fate: the others go on without these.
            self.replan(at)
        } else {
            // What an earlier batch wrote of this request stays: it was never acknowledged.
            LOST
        }
    }

    /// Answers the parts that touch a row which is refused, if there are others. Says whether there are.
    fn answer_refused<R>(&mut self, at: &mut At<'_, '_, R>, row: u32) -> bool {
        let geometry = at.shared.geometry;
        self.answer_parts(at, |part| !part.corners(&geometry).at(row).is_empty()) == Left::Others
    }

    /// Answers these parts with an error, unless all are of them. What is left.
    fn answer_parts<R>(&mut self, at: &mut At<'_, '_, R>, touches: impl Fn(&Part) -> bool) -> Left {
        let list = &at.parts.list;
        let touching = self.active.iter(list).filter(|part| touches(part)).count();
        if touching == 0 {
            return Left::Everything;
        } else if touching == self.active.iter(list).count() {
            return Left::Nothing;
        }
        let mut parts = std::mem::replace(&mut self.active, PartList::EMPTY);
        while let Some(part) = parts.pop(&mut at.parts.list) {
            if touches(&at.parts.list[part]) {
                at.parts.end(part, Err(RequestError::Lost));
            } else {
                self.active.push(&mut at.parts.list, part);
            }
        }
        Left::Others
    }

    /// After each read of a piece that may have to be given up: asks whether the members that failed can read
    /// anything. `end` is the row after the piece.
    fn probe<R: Ring>(&mut self, at: &mut At<'_, '_, R>, end: u32) -> Step {
        let (suspects, rotation) = (self.suspects, self.rotation);
        let Some(work) = at.turn.buffers.pool.take(suspects.count() * BLOCK_BYTES as u32) else {
            return self.pass_by(at, end);
        };
        (self.work, self.row_next, self.phase) = (work, end, Phase::Probing);
        self.pending = suspects.count();
        // Either superblock, in turn: one of them may be bad too.
        let is_even = self.job.is_none_or(|job| job.attempt().is_multiple_of(2));
        let offset = if is_even { SUPERBLOCK_A_OFFSET_BYTES } else { SUPERBLOCK_B_OFFSET_BYTES };
        for strip in suspects.iter() {
            let span = work.part(suspects.rank(strip) * BLOCK_BYTES as u32, BLOCK_BYTES as u32);
            let what = IoFor::OpRead { op: at.index, strip };
            at.turn.push(what, rotation.slot_of(strip), MemberIo::Read, offset, span);
        }
        Step::Io
    }

    /// The members have been asked. If they can read another block, the piece is read anew after a while, or
    /// was read often enough and is given up.
    pub(super) fn probed<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.give_work(at);
        if std::mem::take(&mut self.read_failed) {
            return self.pass_by(at, self.row_next);
        }
        match self.vain.wait_ns() {
            Some(wait_ns) => Step::Rest { wait_ns },
            None => self.list_rows(at),
        }
    }

    /// Whether a piece that could not be read is looked at more closely.
    fn looks_closely(&mut self) -> bool {
        if !self.vain.note_read(self.suspects) {
            return false;
        }
        if self.vain.is_first() {
            let Some(left) = self.pieces_left.checked_sub(1) else { return false };
            self.pieces_left = left;
        }
        true
    }

    /// Background work goes on behind rows that it cannot compute.
    pub(super) fn pass_by<R: Ring>(&mut self, at: &mut At<'_, '_, R>, end: u32) -> Step {
        (self.suspects, self.incomplete) = (Strips::NONE, true);
        self.next_batch(at, end)
    }

    /// Lists the rows from the batch's first to `row_next` of every data strip that cannot be read.
    pub(super) fn list_rows<R>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        let (lost, stripe) = (self.view.lost_data(), self.stripe);
        let (row, rows) = (self.row, self.row_next - self.row);
        let mut listed = Ok(0);
        for strip in lost.iter() {
            let slot = self.rotation.slot_of(strip);
            let range = LostRange { stripe, stripes: 1, slot, row, rows };
            listed = listed.and_then(|_| at.shared.lost.add(range));
        }
        // Release, before the rows are written: a read in flight may see zeros where there was data.
        at.shared.deallocations.fetch_add(1, Ordering::Release);
        match listed {
            Ok(version) => {
                // Another strip that fails from now on is read as often as these were.
                (self.given_up, self.vain) = (lost, Vain::NONE);
                await_list(at, Until::Listed(version))
            }
            Err(Refused::Busy) => Step::Wait(Until::ListTakesMore),
            Err(Refused::Full) => LOST,
        }
    }

    /// The rows are listed, durably: they are worked at as zeros.
    pub(super) fn listed<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        if matches!(self.work_kind, Work::Rebuild { .. }) {
            // The stripe was trusted, and is changed like any other.
            self.mark(at);
        }
        self.replan(at)
    }

    /// Ends the op, which has done what its parts asked for. What they have written, durably where rows were
    /// listed, is listed no longer.
    #[inline]
    pub(super) fn finish_written<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        if self.active.is_empty() {
            Step::Finished(Ok(()))
        } else {
            self.unlist_or(at, |_, _| Step::Finished(Ok(())))
        }
    }

    /// Takes the rows that the op's parts have written (of a first write all rows) off the list, or goes on
    /// at once where the list has nothing of the stripe.
    #[inline]
    pub(super) fn unlist_or<R: Ring>(
        &mut self,
        at: &mut At<'_, '_, R>,
        go_on: impl FnOnce(&mut StripeOp, &mut At<'_, '_, R>) -> Step,
    ) -> Step {
        if !at.shared.lost.touches(self.stripe) {
            return go_on(self, at);
        }
        match self.unlist(at) {
            Ok(version) => await_list(at, Until::Unlisted(version)),
            Err(Refused::Busy) => Step::Wait(Until::ListTakesLess),
            Err(Refused::Full) => LOST,
        }
    }

    /// The list is durable without what the op has taken off it.
    pub(super) fn unlisted<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        let is_first = self.work_kind == Work::Write(Mode::First);
        if is_first && at.shared.bitmap.cell(self.stripe) == Cell::Unwritten {
            self.become_first(at)
        } else {
            Step::Finished(Ok(()))
        }
    }

    fn unlist<R>(&self, at: &At<'_, '_, R>) -> Result<u64, Refused> {
        let (geometry, lost) = (&at.shared.geometry, &at.shared.lost);
        let mut version = 0;
        if self.work_kind == Work::Write(Mode::First) {
            for strip in geometry.data_strips().iter() {
                version =
                    lost.remove(self.stripe, self.rotation.slot_of(strip), 0, geometry.chunk_bytes())?;
            }
            return Ok(version);
        }
        for part in self.active.iter(&at.parts.list) {
            for strip in geometry.data_strips().iter() {
                let (row, end) = match part.kind {
                    PartKind::Discard { .. } => (0, geometry.chunk_bytes()),
                    PartKind::Read | PartKind::Write | PartKind::Zero => part.rows_of(geometry, strip),
                };
                if row < end {
                    version = lost.remove(self.stripe, self.rotation.slot_of(strip), row, end - row)?;
                }
            }
        }
        Ok(version)
    }
}

/// A wait for a version of the list, which the steward writes.
fn await_list<R>(at: &At<'_, '_, R>, until: Until) -> Step {
    if at.turn.me != 0 {
        at.shared.mailboxes.wake(0);
    }
    Step::Wait(until)
}
