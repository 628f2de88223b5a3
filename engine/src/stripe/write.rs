//! The path of a write through its stripe, top to bottom: view, plan, read, parity, intent, write,
//! acknowledge. Resync and rebuild take the same path without parts.
//!
//! The order of steps, with reasons:
//! 1. The cell is marked first. The first data or parity write waits until the mark is durable
//!    ([`Until::IntentDurable`]); the plan's reads continue meanwhile.
//! 2. A first write to an unwritten stripe needs no mark beforehand: as long as the cell on disk says
//!    Unwritten, no reader uses the strips. The whole stripe is written, with zeros where the host has
//!    written nothing; then the members with volatile caches are flushed; then the cell becomes Dirty,
//!    durably; then the write is acknowledged. A crash before the cell is durable leaves zeros, and a crash
//!    after it leaves a whole and consistent stripe. The previous content of the disk never shows.
//! 3. No write that skipped a slot is acknowledged before the record excludes that slot. The cell of a first
//!    write also waits for that.

use std::sync::atomic::Ordering;

use bitmap::{Begun, Cell};

use crate::format::superblock::Copy;
use crate::geometry::{Slots, Strips};
use crate::job::Job;
use crate::limits::BUFFER_BYTES_MAX;
use crate::members::Failure;
use crate::memory::Span;
use crate::part::{PartKind, Rows};
use crate::plan::{self, Plan, Trust, Unsynced, View};
use crate::request::RequestError;
use crate::ring::blame::{Blame, blame};
use crate::ring::{Durability, MemberIo, Ring};
use crate::turn::{Io, IoFor};

use super::asked::Question;
use super::op::{Mode, Phase, Segment, StripeOp, Work};
use super::shape::{piece_end, shape, targets};
use super::step::{Step, Until};
use super::vain::Vain;
use super::{At, LOST};

/// Alignment of the rows at which a batch is cut, one page, so that members see aligned I/O.
const ROWS_ALIGNMENT: u32 = 4096;

impl StripeOp {
    /// Starts the writes that the op has taken.
    pub(super) fn start_write<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        let trust = self.look(at);
        // Neither a cell nor the record can become durable any more, and writes in flight at the time of the
        // failure may be torn. Refuse the write even if a slot that is being rebuilt would replace a lost
        // one.
        if at.shared.failed() {
            return LOST;
        }
        // Make the data durable before its rows are taken off the list of lost rows.
        self.fua |= at.shared.lost.touches(self.stripe);
        let mode = match trust {
            Trust::Unwritten => {
                if self.active.iter(&at.parts.list).all(|part| part.kind == PartKind::Zero) {
                    // The stripe already reads as zeros, durably.
                    return Step::Finished(Ok(()));
                }
                Mode::First
            }
            Trust::NeedSync => {
                let (touched, whole) = self.touched(&at.parts.list, &at.shared.geometry);
                match plan::unsynced(&self.view, touched, whole) {
                    Unsynced::Heal => Mode::Heal,
                    Unsynced::DataOnly => Mode::DataOnly,
                    Unsynced::Refused => return LOST,
                }
            }
            Trust::Trusted => {
                // Ask for the mark now, so that it becomes durable while the plan reads.
                self.mark(at);
                Mode::Trusted
            }
        };
        self.work_kind = Work::Write(mode);
        self.plan_batch(at)
    }

    /// Asks for the cell's mark, unless the cell is already durably marked.
    #[inline]
    pub(super) fn mark<R>(&self, at: &mut At<'_, '_, R>) {
        if at.shared.bitmap.begin_write(self.stripe) == Begun::Pending {
            at.turn.tally().marks.add(1);
            at.blocks.ask(at.shared.bitmap.block_of(self.stripe));
        }
    }

    /// Resyncs every row of an unsynced stripe. If a data strip is lost, a resync leaves the stripe as it is,
    /// and a rebuild gives that strip up.
    pub(super) fn start_resync<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        if self.look(at) != Trust::NeedSync {
            return Step::Finished(Ok(()));
        }
        self.work_kind = Work::Write(Mode::Heal);
        let lost = self.view.lost_data();
        if !lost.is_empty() {
            if !matches!(self.job, Some(Job::Rebuild { .. })) {
                return Step::Finished(Ok(()));
            }
            (self.given_up_whole, self.row, self.row_next) = (lost, 0, at.shared.geometry.chunk_bytes());
            return self.list_rows(at);
        }
        self.plan_batch(at)
    }

    /// Rebuilds one strip of a trusted stripe. Returns `None` if the stripe is not trusted, or if the slot
    /// takes no writes.
    pub(super) fn start_rebuild<R: Ring>(&mut self, at: &mut At<'_, '_, R>, slot: u8) -> Option<Step> {
        let trust = self.look(at);
        let target = self.rotation.strip_on(slot);
        if trust != Trust::Trusted || !self.view.writable.has(target) {
            return None;
        }
        self.work_kind = Work::Rebuild { target };
        Some(self.plan_batch(at))
    }

    /// Reads the cell and the members' state into `view`, from which the next plan of this op is made.
    #[inline]
    pub(super) fn look<R>(&mut self, at: &At<'_, '_, R>) -> Trust {
        let shared = at.shared;
        let trust = match shared.bitmap.cell(self.stripe) {
            // A First cell is found here only if the array failed before the cell became durable and its op
            // gave up.
            Cell::Unwritten | Cell::First => Trust::Unwritten,
            Cell::Clean | Cell::Marked | Cell::Dirty | Cell::Aged => Trust::Trusted,
            Cell::NeedSync => Trust::NeedSync,
        };
        let members = shared.members.view();
        let readable = self.rotation.strips_on(shared.members.readable_at(
            members,
            self.stripe,
            trust == Trust::NeedSync,
        ));
        self.view = View {
            data: shared.geometry.data_strips(),
            parity: shared.geometry.parity_strips(),
            trust,
            readable: readable.minus(self.suspects),
            writable: self.rotation.strips_on(members.writable),
        };
        trust
    }

    /// Plans rows from `row_next` on, as many as fit into one buffer, and reads the strips that the plans
    /// need.
    pub(super) fn plan_batch<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        let geometry = &at.shared.geometry;
        let chunk = geometry.chunk_bytes();
        at.segments.clear();
        let every_row = match self.work_kind {
            Work::Write(mode) => mode.every_row(),
            Work::Rebuild { .. } => true,
            Work::Read | Work::Discard => false,
        };
        let rows = if every_row { Rows { first: 0, end: chunk } } else { self.rows };
        self.row = self.row_next;
        let (mut row, mut bytes) = (self.row.max(rows.first), 0);
        while row < rows.end && !at.segments.is_full(geometry.members()) {
            let (wanted, next) = self.coverage(&at.parts.list, geometry, row, rows.end);
            if wanted.is_empty() && !every_row {
                row = next;
                continue;
            }
            let next = if self.careful { next.min(piece_end(row)) } else { next };
            let given_up = self.given_up.or(self.given_up_whole);
            let Some(mut segment) = shape(&self.view, self.work_kind, wanted, given_up) else {
                return self.refused(at, Rows { first: row, end: next });
            };
            segment.row = row;
            segment.len = next - row;
            if matches!(self.work_kind, Work::Write(_)) {
                segment.gathered = self.gathered(&at.parts.list, geometry, wanted, row, segment.len);
            }
            let strips = segment.strips_in_memory();
            if strips * segment.len > BUFFER_BYTES_MAX {
                segment.len = BUFFER_BYTES_MAX / strips / ROWS_ALIGNMENT * ROWS_ALIGNMENT;
            }
            if bytes + strips * segment.len > BUFFER_BYTES_MAX {
                break;
            }
            segment.place(bytes, strips);
            bytes += strips * segment.len;
            row += segment.len;
            at.segments.push(segment);
            if self.careful {
                break;
            }
        }
        self.row_next = if row < rows.end { row } else { chunk };
        if bytes > 0 { Step::Memory { bytes } } else { self.issue_reads(at) }
    }

    /// Continues with the rows from `row` on, or ends the op if there are none.
    #[inline]
    pub(super) fn next_batch<R: Ring>(&mut self, at: &mut At<'_, '_, R>, row: u32) -> Step {
        if row < at.shared.geometry.chunk_bytes() {
            (self.row, self.given_up, self.vain) = (row, Strips::NONE, Vain::NONE);
            if self.careful {
                self.suspects = Strips::NONE;
            }
            return self.replan(at);
        }
        // Flush even if every member with a volatile cache has just failed; the round then waits until the
        // record excludes them.
        if self.work_kind == Work::Write(Mode::First) && !at.shared.members.volatile().is_empty() {
            self.phase = Phase::Flushing;
            return Step::Flush;
        }
        self.acknowledge(at)
    }

    /// Plans a batch again from its first row, after memory became free or a read failed.
    pub(super) fn replan<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.give_work(at.turn.buffers);
        self.row_next = self.row;
        self.read_failed = false;
        let resyncs = self.work_kind == Work::Write(Mode::Heal);
        self.look(at);
        if resyncs {
            // If a strip was lost meanwhile, the stripe may no longer be able to become consistent.
            match self.unsynced(at) {
                Unsynced::Heal => {}
                Unsynced::DataOnly if !self.active.is_empty() => {
                    self.work_kind = Work::Write(Mode::DataOnly);
                    self.row_next = 0;
                }
                Unsynced::DataOnly | Unsynced::Refused => return LOST,
            }
        }
        self.plan_batch(at)
    }

    /// Decides what can be done for an unsynced stripe with the members that are present. (Strips with a
    /// failed read count as present: they are handled row by row.)
    fn unsynced<R>(&self, at: &At<'_, '_, R>) -> Unsynced {
        let view = View { readable: self.view.readable.or(self.suspects), ..self.view };
        let (touched, whole) = if self.active.is_empty() {
            (Strips::NONE, self.given_up_whole)
        } else {
            self.touched(&at.parts.list, &at.shared.geometry)
        };
        plan::unsynced(&view, touched, whole)
    }

    #[inline]
    pub(super) fn issue_reads<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.phase = Phase::Reading;
        let is_read = self.work_kind == Work::Read;
        for nth in 0..at.segments.len() {
            let segment = at.segments.get(nth);
            let direct = if is_read { segment.wanted.and(self.view.readable) } else { Strips::NONE };
            for strip in segment.read.iter() {
                let span = segment.read_span(self.work, strip);
                self.push(at, &segment, strip, MemberIo::Read, span);
            }
            for strip in direct.iter() {
                let span = self.host_span(at, &segment, strip);
                self.push(at, &segment, strip, MemberIo::Read, span);
            }
            at.turn.tally().member_reads.add(u64::from(segment.read.or(direct).count()));
        }
        if self.pending == 0 { self.reads_done(at) } else { Step::Io }
    }

    /// A read has completed.
    pub(super) fn read_done<R: Ring>(
        &mut self,
        at: &mut At<'_, '_, R>,
        strip: u8,
        io: &Io,
        result: Result<(), i32>,
    ) -> Step {
        if let Err(errno) = result {
            let is_proven = blame(errno) == Blame::Device;
            if !(is_proven && self.job.is_some_and(Job::is_retry)) {
                io.count_read_error(at.shared, self.stripe, errno);
            } else if io.is_current(at.shared) {
                at.shared.members.note_read_error(io.slot);
            }
            if !is_proven {
                self.vain.note_unproven();
            }
            self.suspects = self.suspects.or(Strips::one(strip));
            self.read_failed = true;
        }
        self.read_ended(at)
    }

    /// A read has completed or was parked.
    pub(super) fn read_ended<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.pending -= 1;
        if self.pending == 0 { self.reads_done(at) } else { Step::Io }
    }

    /// Everything that the batch's plans read has arrived.
    fn reads_done<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        if self.phase == Phase::Probing {
            return self.probed(at);
        }
        if self.is_held(at) {
            // The kernel may still write to the host's memory, so the request is read again into other
            // memory.
            return Step::Finished(Ok(()));
        }
        if self.read_failed {
            return self.replan(at);
        }
        if self.work_kind == Work::Read {
            return self.recover_read(at);
        }
        for nth in 0..at.segments.len() {
            let segment = at.segments.get(nth);
            self.compute(at, &segment);
        }
        let gives_up = matches!(self.work_kind, Work::Rebuild { .. }) && !self.given_up.is_empty();
        let trusted = self.work_kind == Work::Write(Mode::Trusted) || gives_up;
        if trusted && at.shared.bitmap.cell(self.stripe) == Cell::Marked {
            return Step::Wait(Until::IntentDurable);
        }
        self.issue_writes(at)
    }

    /// Writes one batch. The cell is durably Dirty, or the write needs no mark.
    pub(super) fn issue_writes<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.phase = Phase::Writing;
        let shared = at.shared;
        let geometry = &shared.geometry;
        let volatile = shared.members.volatile();
        let write_through = shared.members.write_through();
        let mut written = 0;
        for nth in 0..at.segments.len() {
            let segment = at.segments.get(nth);
            let (work, rotation, writable) = (self.work, self.rotation, self.view.writable);
            let targets = targets(geometry.data_strips(), geometry.parity_strips(), &segment, self.work_kind);
            let missed = targets.minus(writable);
            if !missed.is_empty() {
                self.skipped = self.skipped.or(rotation.slots_of(missed));
                self.missed_data = self.missed_data.or(missed.and(segment.wanted));
            }
            let durable = if self.fua { volatile } else { volatile.and(write_through) };
            let durable = rotation.strips_on(durable);
            for strip in targets.and(writable).iter() {
                let span = if segment.wanted.has(strip) && !segment.void {
                    self.new_bytes(at, &segment, strip)
                } else if segment.made.has(strip) {
                    segment.made_span(work, strip)
                } else if segment.read.has(strip) {
                    segment.read_span(work, strip)
                } else {
                    shared.memory.zeros(segment.len)
                };
                let durability = if durable.has(strip) { Durability::Durable } else { Durability::Cached };
                self.push(at, &segment, strip, MemberIo::Write(durability), span);
                written += 1;
            }
            let tally = at.turn.tally();
            match segment.plan {
                Plan::Rmw { .. } => tally.rmw.add(1),
                Plan::Rcw { .. } | Plan::Degraded { .. } => tally.rcw.add(1),
                Plan::Full => tally.full_stripe.add(1),
                Plan::Init { zero } if zero.is_empty() => tally.full_stripe.add(1),
                Plan::Init { .. } | Plan::Resync { .. } | Plan::DataOnly | Plan::Refused => {}
            }
        }
        at.turn.tally().member_writes.add(written);
        if self.pending == 0 { self.writes_done(at) } else { Step::Io }
    }

    /// Pushes one read or write of a strip in the rows of a segment.
    #[inline(always)]
    pub(super) fn push<R: Ring>(
        &mut self,
        at: &mut At<'_, '_, R>,
        segment: &Segment,
        strip: u8,
        io: MemberIo,
        span: Span,
    ) {
        self.pending += 1;
        let slot = self.rotation.slot_of(strip);
        let offset = at.shared.layout.data_offset_bytes
            + at.shared.geometry.strip_offset(self.stripe)
            + u64::from(segment.row);
        let what = match io {
            MemberIo::Read => IoFor::OpRead { op: at.index, strip },
            _ => IoFor::OpWrite { op: at.index, strip },
        };
        at.turn.push(what, slot, io, offset, span);
    }

    /// A write has completed.
    pub(super) fn write_done<R: Ring>(
        &mut self,
        at: &mut At<'_, '_, R>,
        strip: u8,
        io: &Io,
        result: Result<(), i32>,
    ) -> Step {
        match result {
            Ok(()) if self.suspects.has(strip) => at.shared.members.count_repair(io.slot),
            Ok(()) => {}
            Err(errno) => match io.blame(at.shared, errno) {
                // A repair: the host already has the bytes, and the read error has been counted.
                Blame::Device if self.work_kind == Work::Read => {}
                Blame::Device if self.is_kept(at, io) => {
                    return self.ask(at, Question { strip, errno, copy: Copy::A }, io);
                }
                Blame::Device => self.write_failed(at, strip, io, errno),
                Blame::Space => self.write_refused(at, io, RequestError::NoSpace),
                Blame::Ours => self.write_refused(at, io, RequestError::NotTaken),
            },
        }
        self.write_ended(at)
    }

    /// A write has completed or was parked.
    pub(super) fn write_ended<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.pending -= 1;
        if self.pending == 0 { self.writes_done(at) } else { Step::Io }
    }

    /// A write did not reach its member, and the member has left the array.
    pub(super) fn write_missed<R: Ring>(&mut self, at: &mut At<'_, '_, R>, strip: u8, slot: u8) -> Step {
        self.skipped = self.skipped.or(Slots::one(slot));
        self.missed_data = self.missed_data.or(Strips::one(strip).and(self.view.data));
        self.write_ended(at)
    }

    /// Fails the member that is to blame for a failed write, and notes what the member missed.
    pub(super) fn write_failed<R>(&mut self, at: &At<'_, '_, R>, strip: u8, io: &Io, errno: i32) {
        self.skipped = self.skipped.or(Slots::one(io.slot));
        self.missed_data = self.missed_data.or(Strips::one(strip).and(self.view.data));
        if io.is_current(at.shared) {
            at.shared.members.fail(io.slot, Failure::Write(errno));
        }
    }

    /// A member that stays refused a write: the op will end with an error.
    pub(super) fn write_refused<R>(&mut self, at: &At<'_, '_, R>, io: &Io, error: RequestError) {
        self.refused = self.refused.or(Some(error));
        at.shared.members.count_refusal(io.slot);
    }

    /// Ends the op after a member that stays refused a write, so that the stripe is not in the intended
    /// state.
    fn end_refused<R>(&mut self, at: &At<'_, '_, R>, error: RequestError) -> Step {
        match self.work_kind {
            // Other strips and the parity may have been written. Until a resync, the parity must not be an
            // input.
            Work::Write(Mode::Trusted) | Work::Rebuild { .. }
                if self.work_kind == Work::Write(Mode::Trusted) || !self.given_up.is_empty() =>
            {
                self.tear(at);
            }
            // The stripe is as before: still unwritten, still unsynced, or the strip still not rebuilt.
            Work::Write(_) | Work::Rebuild { .. } => {}
            Work::Read | Work::Discard => {
                unreachable!("a repair that is refused changes nothing for the host")
            }
        }
        Step::Finished(Err(error))
    }

    /// Makes the stripe unsynced: its parity is not an input until a resync.
    fn tear<R>(&self, at: &At<'_, '_, R>) {
        at.shared.bitmap.torn(self.stripe);
        at.shared.steward.torn.fetch_add(1, Ordering::Release);
    }

    /// Every write of the batch has ended: continues with the next batch, or ends the op.
    pub(super) fn writes_done<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        if std::mem::take(&mut self.once_more) {
            self.was_repeated = true;
            return self.issue_writes(at);
        }
        let (row_next, refused) = (self.row_next, self.refused.filter(|_| self.work_kind != Work::Read));
        self.give_work(at.turn.buffers);
        match refused {
            Some(error) => self.end_refused(at, error),
            None => self.next_batch(at, row_next),
        }
    }

    /// Everything is written (and flushed, if needed): acknowledges the op once the record allows it.
    #[inline]
    pub(super) fn acknowledge<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        if self.work_kind == Work::Read {
            // A failed repair changes nothing for the host, which has the reconstructed bytes.
            return Step::Finished(Ok(()));
        }
        if self.incomplete {
            return LOST;
        }
        let unprotected = || self.work_kind == Work::Write(Mode::DataOnly) || at.shared.failed();
        if !self.missed_data.is_empty() && unprotected() {
            LOST
        } else if at.shared.members.on_record(self.skipped, self.stripe) {
            self.recorded(at)
        } else {
            Step::Wait(Until::OnRecord)
        }
    }

    /// The record excludes every slot that the op skipped.
    #[inline]
    pub(super) fn recorded<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        match self.work_kind {
            Work::Write(Mode::First) => return self.unlist_or(at, StripeOp::become_first),
            Work::Write(Mode::Heal) if self.unhealed => {}
            Work::Write(Mode::Heal) => at.shared.bitmap.resynced(self.stripe),
            Work::Rebuild { .. } if self.unhealed => self.tear(at),
            Work::Write(Mode::Trusted | Mode::DataOnly) => {}
            Work::Read | Work::Discard | Work::Rebuild { .. } => {}
        }
        self.finish_written(at)
    }

    /// A first write is complete on the members, and the list of lost rows has no entry for its stripe. The
    /// cell may now say so.
    pub(super) fn become_first<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        at.shared.bitmap.written_first(self.stripe);
        Step::Wait(Until::CellDurable)
    }
}
