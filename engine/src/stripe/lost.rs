//! Changes to the list of lost rows: ops add rows that can no longer be computed, and remove rows that a host
//! has written. The steward makes the list durable (steward/lists.rs). The order of the steps and its reasons
//! are at the top of [`lost`](crate::lost).
//!
//! **Giving up rows.** Background work that has failed to read a piece of rows several times (stripe/vain.rs)
//! defines the lost strips of that piece as zeros. After each of these reads it also reads another block of
//! each member that failed: if a member cannot read anything at all, the cause is not a bad sector, and no
//! rows are given up. Otherwise the rows are listed. When the list is durable, the piece is written like any
//! other, with zeros for the lost strips.
//!
//! **First writes.** While a cell says Unwritten, the list means nothing for its stripe, which reads as
//! zeros. An entry may still exist: a crash after a discard's cell became durable, and before the list did,
//! leaves one. The entry is removed before the cell changes; otherwise the first write would turn rows that
//! read as zeros into errors.
//!
//! **Stripes on a missing member.** An unsynced (`NeedSync`) stripe with a data strip on the slot that is
//! being rebuilt is given up at once: its parity proves nothing, and the member that had the strip is gone.
//! The whole strip is listed, and the stripe is resynced from the others.

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

/// Whether any of these bytes of a stripe are lost. Called before each read; the list is nearly always empty.
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

/// Result of refusing some parts of an op: the parts that remain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// No part had to be refused.
    Everything,
    /// Refused parts were answered; the others continue.
    Others,
    /// Every part had to be refused; none has been answered yet.
    Nothing,
}

impl StripeOp {
    /// Decides what to do about rows that cannot be computed from the readable strips.
    pub(super) fn refused<R: Ring>(&mut self, at: &mut At<'_, '_, R>, rows: Rows) -> Step {
        let by_suspects = !self.suspects.is_empty();
        let is_job = by_suspects && self.careful && self.job.is_some();
        if is_job && at.shared.steward.is_stopping.load(Ordering::Relaxed) {
            // Stop at once: a drive may take seconds over each of the bad sectors that follow.
            return LOST;
        }
        if is_job && self.job.is_some_and(Job::gives_up) {
            return if self.looks_closely() { self.probe(at, rows.end) } else { self.pass_by(at, rows.end) };
        }
        let suspects = std::mem::replace(&mut self.suspects, Strips::NONE);
        if by_suspects && !self.careful {
            // The strips may be bad in different rows, or another op may have repaired them since. Read each
            // small piece again, with its own suspects.
            (self.careful, self.vain) = (true, Vain::NONE);
            self.replan(at)
        } else if by_suspects && self.job.is_some() {
            // Skip these rows only; the other rows are still processed.
            self.pass_by(at, rows.end)
        } else if by_suspects && self.work_kind == Work::Write(Mode::Heal) {
            // Unreadable strips of members in sync can still be written: the host's data is stored, and
            // parity stays untrusted. A write to a strip of a slot that is not in sync is refused, because
            // only parity could give that data back.
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
            // The op serves independent requests: refuse those that touch these rows, and continue with the
            // others.
            self.replan(at)
        } else {
            // Rows of this request that an earlier batch wrote keep their new data: the write was never
            // acknowledged.
            LOST
        }
    }

    /// Refuses the parts that touch `row`, unless all of them do. Returns true if some were refused and
    /// others remain.
    fn answer_refused<R>(&mut self, at: &mut At<'_, '_, R>, row: u32) -> bool {
        let geometry = at.shared.geometry;
        self.answer_parts(at, |part| !part.corners(&geometry).at(row).is_empty()) == Left::Others
    }

    /// Answers the parts for which `touches` holds with an error, unless that is all of them. Returns what
    /// remains.
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

    /// After each failed read of a piece that may have to be given up: tests whether the members that failed
    /// can read anything. `end` is the row after the piece.
    fn probe<R: Ring>(&mut self, at: &mut At<'_, '_, R>, end: u32) -> Step {
        let (suspects, rotation) = (self.suspects, self.rotation);
        let Some(work) = at.turn.buffers.pool.take(suspects.count() * BLOCK_BYTES as u32) else {
            return self.pass_by(at, end);
        };
        (self.work, self.row_next, self.phase) = (work, end, Phase::Probing);
        self.pending = suspects.count();
        // Alternate between the two superblocks, since one of them may lie in a bad sector too.
        let is_even = self.job.is_none_or(|job| job.attempt().is_multiple_of(2));
        let offset = if is_even { SUPERBLOCK_A_OFFSET_BYTES } else { SUPERBLOCK_B_OFFSET_BYTES };
        for strip in suspects.iter() {
            let span = work.part(suspects.rank(strip) * BLOCK_BYTES as u32, BLOCK_BYTES as u32);
            let what = IoFor::OpRead { op: at.index, strip };
            at.turn.push(what, rotation.slot_of(strip), MemberIo::Read, offset, span);
        }
        Step::Io
    }

    /// The probe has ended. If every probed member could read another block, the piece is read again after a
    /// while, or, after enough reads, given up.
    pub(super) fn probed<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.give_work(at.turn.buffers);
        if std::mem::take(&mut self.read_failed) {
            return self.pass_by(at, self.row_next);
        }
        match self.vain.wait_ns() {
            Some(wait_ns) => Step::Rest { wait_ns },
            None => self.list_rows(at),
        }
    }

    /// Whether to keep reading a piece that could not be read, rather than leave it for a later attempt.
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

    /// Background work skips rows that it cannot compute and continues at row `end`.
    pub(super) fn pass_by<R: Ring>(&mut self, at: &mut At<'_, '_, R>, end: u32) -> Step {
        (self.suspects, self.incomplete) = (Strips::NONE, true);
        self.next_batch(at, end)
    }

    /// Adds to the list every data strip that cannot be read, in the rows from the batch's first to
    /// `row_next`.
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
                // A strip that fails from now on must fail as many reads as these strips did.
                (self.given_up, self.vain) = (lost, Vain::NONE);
                self.await_list(at, Until::Listed, version)
            }
            Err(Refused::Busy) => Step::Wait(Until::ListTakesMore),
            Err(Refused::Full) => LOST,
        }
    }

    /// The rows are durably listed: from here on they are treated as zeros.
    pub(super) fn listed<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        if matches!(self.work_kind, Work::Rebuild { .. }) {
            // The stripe was trusted, so it needs a mark like any stripe that is changed.
            self.mark(at);
        }
        self.replan(at)
    }

    /// Ends the op after it has done what its parts asked for. Rows that the parts have written are first
    /// taken off the list; where rows were listed, the writes were durable.
    #[inline]
    pub(super) fn finish_written<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        if self.active.is_empty() {
            Step::Finished(Ok(()))
        } else {
            self.unlist_or(at, |_, _| Step::Finished(Ok(())))
        }
    }

    /// Takes the rows that the op's parts have written (after a first write, all rows) off the list. If the
    /// list has no entry for the stripe, calls `go_on` at once.
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
            Ok(version) => self.await_list(at, Until::Unlisted, version),
            Err(Refused::Busy) => Step::Wait(Until::ListTakesLess),
            Err(Refused::Full) => LOST,
        }
    }

    /// The list is durable without the rows that the op removed.
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

    /// Waits for a version of the list, which the steward writes.
    fn await_list<R>(&mut self, at: &At<'_, '_, R>, until: Until, version: u64) -> Step {
        self.listed = version;
        if at.turn.me != 0 {
            at.shared.mailboxes.wake(0);
        }
        Step::Wait(until)
    }
}
