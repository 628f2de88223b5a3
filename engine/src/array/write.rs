//! The path of a write through its stripe, top to bottom: view, plan, read, parity, intent, write,
//! acknowledge. Resync and rebuild walk the same path without parts.
//!
//! Order, and why:
//! 1. The cell is marked first and its durability awaited before the first data or parity write
//!    (`AwaitingIntent`); the reads of the plan go on meanwhile.
//! 2. A first write to an Unwritten stripe needs no mark before: as long as the cell on disk says
//!    Unwritten nobody believes the strips. So the whole stripe is written, zeros where the host has
//!    written nothing, then the members are flushed (those with volatile caches), then the cell
//!    becomes Dirty, durably, then the write is acknowledged. A crash before that leaves zeros, after
//!    it a whole and consistent stripe: what the disk held before never shows, partial stripe or full.
//! 3. No write that skipped a slot is acknowledged before the record excludes that slot; on a first
//!    write the cell too waits for that.

use std::sync::atomic::Ordering;

use bitmap::{Begun, Cell};

use crate::format::superblock::Copy;
use crate::geometry::{Slots, Strips};
use crate::limits::BUFFER_BYTES_MAX;
use crate::members::Failure;
use crate::memory::Span;
use crate::plan::{self, Plan, Trust, Unsynced, View};
use crate::request::RequestError;
use crate::ring::blame::{Blame, blame};
use crate::ring::{Durability, MemberIo, Ring};

use super::asked::Question;
use crate::durable::FlushWaiter;
use crate::job::Job;
use crate::part::{PartKind, Rows};
use crate::stripe::op::{Mode, Phase, Segment, Work};
use crate::stripe::shape::{piece_end, shape, targets};
use crate::stripe::vain::Vain;
use crate::turn::{Io, IoFor};

use super::{Array, Started};

/// Rows are cut so that a batch fits; at pages, so that members see aligned I/O.
const ROWS_ALIGNMENT: u32 = 4096;

impl Array {
    /// Starts the writes that an op has taken.
    pub(super) fn start_write<R: Ring>(&mut self, ring: &mut R, index: u32) -> Started {
        let stripe = self.ops[index].stripe;
        let trust = self.look(index);
        // Neither cell nor record can become durable any more, and what was being written when it failed may be torn: also
        // where a slot that is being filled would make up for one that is lost.
        if self.shared.failed() {
            self.answer_active(index, Err(RequestError::Lost));
            return Started::Done;
        }
        // What is written over lost rows is durable before they are taken off the list.
        self.ops[index].fua |= self.shared.lost.touches(stripe);
        let mode = match trust {
            Trust::Unwritten => {
                let zeros_only =
                    self.ops[index].active.iter(&self.parts).all(|part| part.kind == PartKind::Zero);
                if zeros_only {
                    // It reads as zeros already, and has durably since before.
                    self.answer_active(index, Ok(()));
                    return Started::Done;
                }
                Mode::First
            }
            Trust::NeedSync => {
                let op = &self.ops[index];
                let (touched, whole) = op.touched(&self.parts, &self.shared.geometry);
                match plan::unsynced(&op.view, touched, whole) {
                    Unsynced::Heal => Mode::Heal,
                    Unsynced::DataOnly => Mode::DataOnly,
                    Unsynced::Refused => {
                        self.answer_active(index, Err(RequestError::Lost));
                        return Started::Done;
                    }
                }
            }
            Trust::Trusted => {
                // Asked for at once, so that the mark becomes durable while the plan reads.
                if self.shared.bitmap.begin_write(stripe) == Begun::Pending {
                    self.tally().marks.add(1);
                    self.blocks.ask(self.shared.bitmap.block_of(stripe));
                }
                Mode::Trusted
            }
        };
        self.ops[index].work_kind = Work::Write(mode);
        self.plan_batch(ring, index);
        Started::Running
    }

    /// Makes every row of a NeedSync stripe consistent, or leaves it where a data strip is lost.
    pub(super) fn start_resync<R: Ring>(&mut self, ring: &mut R, index: u32) -> Started {
        let trust = self.look(index);
        let chunk = self.shared.geometry.chunk_bytes();
        let op = &mut self.ops[index];
        if trust != Trust::NeedSync {
            return Started::Done;
        }
        op.work_kind = Work::Write(Mode::Heal);
        let lost = op.view.lost_data();
        if !lost.is_empty() {
            if !matches!(op.job, Some(Job::Rebuild { .. })) {
                return Started::Done;
            }
            (op.given_up_whole, op.row, op.row_next) = (lost, 0, chunk);
            self.list_rows(index);
            return Started::Running;
        }
        self.plan_batch(ring, index);
        Started::Running
    }

    /// Fills one strip of a trusted stripe.
    pub(super) fn start_rebuild<R: Ring>(&mut self, ring: &mut R, index: u32, slot: u8) -> Started {
        let trust = self.look(index);
        let op = &mut self.ops[index];
        let target = op.rotation.strip_on(slot);
        if trust != Trust::Trusted || !op.view.writable.has(target) {
            return Started::Done;
        }
        op.work_kind = Work::Rebuild { target };
        self.plan_batch(ring, index);
        Started::Running
    }

    /// Looks at cell and members: what the next plan of this op stands on.
    pub(super) fn look(&mut self, index: u32) -> Trust {
        let shared = &*self.shared;
        let op = &mut self.ops[index];
        let trust = match shared.bitmap.cell(op.stripe) {
            // First: the array failed before the cell was durable, and its owner gave up.
            Cell::Unwritten | Cell::First => Trust::Unwritten,
            Cell::Clean | Cell::Marked | Cell::Dirty | Cell::Aged => Trust::Trusted,
            Cell::NeedSync => Trust::NeedSync,
        };
        let members = shared.members.view();
        let readable =
            op.rotation.strips_on(shared.members.readable_at(members, op.stripe, trust == Trust::NeedSync));
        op.view = View {
            data: shared.geometry.data_strips(),
            parity: shared.geometry.parity_strips(),
            trust,
            readable: readable.minus(op.suspects),
            writable: op.rotation.strips_on(members.writable),
        };
        trust
    }

    /// Plans rows from `row_next` on, as many as fit, and starts their reads.
    pub(super) fn plan_batch<R: Ring>(&mut self, ring: &mut R, index: u32) {
        let shared = &*self.shared;
        let geometry = &shared.geometry;
        let chunk = geometry.chunk_bytes();
        let op = &mut self.ops[index];
        let segments = &mut self.segments[index as usize];
        segments.clear();
        let every_row = match op.work_kind {
            Work::Write(mode) => mode.every_row(),
            Work::Rebuild { .. } => true,
            Work::Read | Work::Discard => false,
        };
        let rows = if every_row { Rows { first: 0, end: chunk } } else { op.rows };
        op.row = op.row_next;
        let (mut row, mut bytes) = (op.row.max(rows.first), 0);
        while row < rows.end && !segments.is_full(geometry.members()) {
            let (wanted, next) = op.coverage(&self.parts, geometry, row, rows.end);
            if wanted.is_empty() && !every_row {
                row = next;
                continue;
            }
            let next = if op.careful { next.min(piece_end(row)) } else { next };
            let given_up = op.given_up.or(op.given_up_whole);
            let Some(mut segment) = shape(&op.view, op.work_kind, wanted, given_up) else {
                self.refused(ring, index, Rows { first: row, end: next });
                return;
            };
            segment.row = row;
            segment.len = next - row;
            if matches!(op.work_kind, Work::Write(_)) {
                segment.gathered = op.gathered(&self.parts, geometry, wanted, row, segment.len);
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
            segments.push(segment);
            if op.careful {
                break;
            }
        }
        op.row_next = if row < rows.end { row } else { chunk };
        if bytes > 0 {
            // As if not planned: what is taken up again is planned anew.
            let row_next = std::mem::replace(&mut op.row_next, op.row);
            op.phase = Phase::Starved;
            if !self.take_memory(index, bytes) {
                return;
            }
            self.ops[index].row_next = row_next;
        }
        self.issue_reads(ring, index);
    }

    /// Goes on with the rows from `row` on, or to the end of the op.
    #[inline]
    pub(super) fn next_batch<R: Ring>(&mut self, ring: &mut R, index: u32, row: u32) {
        let op = &mut self.ops[index];
        if row < self.shared.geometry.chunk_bytes() {
            (op.row, op.given_up, op.vain) = (row, Strips::NONE, Vain::NONE);
            if op.careful {
                op.suspects = Strips::NONE;
            }
            self.replan(ring, index);
            return;
        }
        // Also where the members with a cache have just left the view: the round then waits for the record.
        if op.work_kind == Work::Write(Mode::First) && !self.shared.members.volatile().is_empty() {
            self.ops[index].phase = Phase::Flushing;
            self.flush.join(FlushWaiter::Op(index));
        } else {
            self.acknowledge(index);
        }
    }

    /// Plans a batch again from its first row: memory has come, or a read has failed.
    pub(super) fn replan<R: Ring>(&mut self, ring: &mut R, index: u32) {
        self.give_work(index);
        let op = &mut self.ops[index];
        op.row_next = op.row;
        op.read_failed = false;
        let healing = op.work_kind == Work::Write(Mode::Heal);
        self.look(index);
        if healing {
            // A strip that was lost in the midst of it may keep the stripe from becoming consistent.
            match self.unsynced(index) {
                Unsynced::Heal => {}
                Unsynced::DataOnly if !self.ops[index].active.is_empty() => {
                    let op = &mut self.ops[index];
                    op.work_kind = Work::Write(Mode::DataOnly);
                    op.row_next = 0;
                }
                Unsynced::DataOnly | Unsynced::Refused => {
                    self.finish(index, Err(RequestError::Lost));
                    return;
                }
            }
        }
        self.plan_batch(ring, index);
    }

    /// What can be done for a NeedSync stripe with the members that are there. (Strips of which a read has failed are
    /// looked at row by row.)
    fn unsynced(&self, index: u32) -> Unsynced {
        let op = &self.ops[index];
        let view = View { readable: op.view.readable.or(op.suspects), ..op.view };
        let (touched, whole) = if op.active.is_empty() {
            (Strips::NONE, op.given_up_whole)
        } else {
            op.touched(&self.parts, &self.shared.geometry)
        };
        plan::unsynced(&view, touched, whole)
    }

    fn issue_reads<R: Ring>(&mut self, ring: &mut R, index: u32) {
        self.ops[index].phase = Phase::Reading;
        for at in 0..self.segments[index as usize].len() {
            let op = &self.ops[index];
            let (segment, work, is_read) =
                (self.segments[index as usize].get(at), op.work, op.work_kind == Work::Read);
            let direct = if is_read { segment.wanted.and(op.view.readable) } else { Strips::NONE };
            for strip in segment.read.iter() {
                self.op_io(ring, index, &segment, strip, MemberIo::Read, segment.read_span(work, strip));
            }
            for strip in direct.iter() {
                let span = self.host_span(index, &segment, strip);
                self.op_io(ring, index, &segment, strip, MemberIo::Read, span);
            }
            self.tally().member_reads.add(u64::from(segment.read.or(direct).count()));
        }
        if self.ops[index].pending == 0 {
            self.reads_done(ring, index);
        }
    }

    /// One read of an op has ended.
    pub(super) fn op_read_done<R: Ring>(
        &mut self,
        ring: &mut R,
        index: u32,
        strip: u8,
        io: &Io,
        result: Result<(), i32>,
    ) {
        if let Err(errno) = result {
            let is_proven = blame(errno) == Blame::Device;
            if !(is_proven && self.ops[index].job.is_some_and(Job::is_retry)) {
                io.count_read_error(&self.shared, self.ops[index].stripe, errno);
            } else if io.is_current(&self.shared) {
                self.shared.members.note_read_error(io.slot);
            }
            let op = &mut self.ops[index];
            if !is_proven {
                op.vain.note_unproven();
            }
            op.suspects = op.suspects.or(Strips::one(strip));
            op.read_failed = true;
        }
        self.op_read_ended(ring, index);
    }

    /// One read of an op is over, or is not waited for any more.
    pub(super) fn op_read_ended<R: Ring>(&mut self, ring: &mut R, index: u32) {
        self.ops[index].pending -= 1;
        if self.ops[index].pending == 0 {
            self.reads_done(ring, index);
        }
    }

    /// Everything that the batch's plans read is there.
    fn reads_done<R: Ring>(&mut self, ring: &mut R, index: u32) {
        if self.ops[index].phase == Phase::Probing {
            self.probed(ring, index);
            return;
        }
        if self.is_held(index) {
            // The kernel may still write to the host's memory: the request is read again into other memory.
            self.finish(index, Ok(()));
            return;
        }
        if self.ops[index].read_failed {
            self.replan(ring, index);
            return;
        }
        if self.ops[index].work_kind == Work::Read {
            self.recover_read(ring, index);
            return;
        }
        for at in 0..self.segments[index as usize].len() {
            let segment = self.segments[index as usize].get(at);
            self.compute(index, &segment);
        }
        let op = &self.ops[index];
        let gives_up = matches!(op.work_kind, Work::Rebuild { .. }) && !op.given_up.is_empty();
        let trusted = op.work_kind == Work::Write(Mode::Trusted) || gives_up;
        if trusted && self.shared.bitmap.cell(self.ops[index].stripe) == Cell::Marked {
            self.ops[index].phase = Phase::AwaitingIntent;
            self.polling.push(index);
        } else {
            self.issue_writes(ring, index);
        }
    }

    /// Writes one batch. The cell is durably Dirty (or needs no mark).
    pub(super) fn issue_writes<R: Ring>(&mut self, ring: &mut R, index: u32) {
        self.ops[index].phase = Phase::Writing;
        let geometry = self.shared.geometry;
        let volatile = self.shared.members.volatile();
        let write_through = self.shared.members.write_through();
        let mut written = 0;
        for at in 0..self.segments[index as usize].len() {
            let segment = self.segments[index as usize].get(at);
            let op = &mut self.ops[index];
            let (work, fua, rotation, writable) = (op.work, op.fua, op.rotation, op.view.writable);
            let targets = targets(geometry.data_strips(), geometry.parity_strips(), &segment, op.work_kind);
            let missed = targets.minus(writable);
            if !missed.is_empty() {
                op.skipped = op.skipped.or(rotation.slots_of(missed));
                op.missed_data = op.missed_data.or(missed.and(segment.wanted));
            }
            let durable = if fua { volatile } else { volatile.and(write_through) };
            let durable = rotation.strips_on(durable);
            for strip in targets.and(writable).iter() {
                let span = if segment.wanted.has(strip) && !segment.void {
                    self.new_bytes(index, &segment, strip)
                } else if segment.made.has(strip) {
                    segment.made_span(work, strip)
                } else if segment.read.has(strip) {
                    segment.read_span(work, strip)
                } else {
                    self.shared.memory.zeros(segment.len)
                };
                let durability = if durable.has(strip) { Durability::Durable } else { Durability::Cached };
                self.op_io(ring, index, &segment, strip, MemberIo::Write(durability), span);
                written += 1;
            }
            match segment.plan {
                Plan::Rmw { .. } => self.tally().rmw.add(1),
                Plan::Rcw { .. } | Plan::Degraded { .. } => self.tally().rcw.add(1),
                Plan::Full => self.tally().full_stripe.add(1),
                Plan::Init { zero } if zero.is_empty() => self.tally().full_stripe.add(1),
                Plan::Init { .. } | Plan::Resync { .. } | Plan::DataOnly | Plan::Refused => {}
            }
        }
        self.tally().member_writes.add(written);
        if self.ops[index].pending == 0 {
            self.writes_done(ring, index);
        }
    }

    #[inline(always)]
    pub(super) fn op_io<R: Ring>(
        &mut self,
        ring: &mut R,
        index: u32,
        segment: &Segment,
        strip: u8,
        io: MemberIo,
        span: Span,
    ) {
        let op = &mut self.ops[index];
        op.pending += 1;
        let slot = op.rotation.slot_of(strip);
        let offset = self.shared.layout.data_offset_bytes
            + self.shared.geometry.strip_offset(op.stripe)
            + u64::from(segment.row);
        let what = match io {
            MemberIo::Read => IoFor::OpRead { op: index, strip },
            _ => IoFor::OpWrite { op: index, strip },
        };
        turn!(self, ring).push(what, slot, io, offset, span);
    }

    /// One write of an op has ended.
    pub(super) fn op_write_done<R: Ring>(
        &mut self,
        ring: &mut R,
        index: u32,
        strip: u8,
        io: &Io,
        result: Result<(), i32>,
    ) {
        match result {
            Ok(()) if self.ops[index].suspects.has(strip) => self.shared.members.count_repair(io.slot),
            Ok(()) => {}
            Err(errno) => match io.blame(&self.shared, errno) {
                // A repair: the host has the bytes, and the error of the read has counted.
                Blame::Device if self.ops[index].work_kind == Work::Read => {}
                Blame::Device if self.is_kept(index, io) => {
                    self.ask(ring, Question { index, strip, errno, copy: Copy::A }, io);
                    return;
                }
                Blame::Device => self.op_write_failed(index, strip, io, errno),
                Blame::Space => self.op_write_refused(index, io, RequestError::NoSpace),
                Blame::Ours => self.op_write_refused(index, io, RequestError::NotTaken),
            },
        }
        self.op_write_ended(ring, index);
    }

    /// One write of an op is over, or is not waited for any more.
    pub(super) fn op_write_ended<R: Ring>(&mut self, ring: &mut R, index: u32) {
        self.ops[index].pending -= 1;
        if self.ops[index].pending == 0 {
            self.writes_done(ring, index);
        }
    }

    /// A member that is to blame leaves, and what it missed is noted.
    pub(super) fn op_write_failed(&mut self, index: u32, strip: u8, io: &Io, errno: i32) {
        let op = &mut self.ops[index];
        op.skipped = op.skipped.or(Slots::one(io.slot));
        op.missed_data = op.missed_data.or(Strips::one(strip).and(op.view.data));
        if io.is_current(&self.shared) {
            self.shared.members.fail(io.slot, Failure::Write(errno));
        }
    }

    /// A member that stays did not take a write, and the op ends with an error.
    pub(super) fn op_write_refused(&mut self, index: u32, io: &Io, error: RequestError) {
        let op = &mut self.ops[index];
        op.refused = op.refused.or(Some(error));
        self.shared.members.count_refusal(io.slot);
    }

    /// A member that stays did not take a write, so the stripe is not what the op was to make of it.
    fn end_refused(&mut self, index: u32, error: RequestError) {
        let op = &self.ops[index];
        match op.work_kind {
            // Other strips and the parity may have landed: from now on the parity is no input, until a resync.
            Work::Write(Mode::Trusted) | Work::Rebuild { .. }
                if op.work_kind == Work::Write(Mode::Trusted) || !op.given_up.is_empty() =>
            {
                self.tear(op.stripe);
            }
            // Unwritten still, NeedSync still, not filled still.
            Work::Write(_) | Work::Rebuild { .. } => {}
            Work::Read | Work::Discard => {
                unreachable!("a repair that is refused changes nothing for the host")
            }
        }
        self.finish(index, Err(error));
    }

    /// The parity of a stripe is no input from now on, until a resync.
    fn tear(&self, stripe: u64) {
        self.shared.bitmap.torn(stripe);
        self.shared.steward.torn.fetch_add(1, Ordering::Release);
    }

    /// Every write of the batch has ended: the next batch, or the end.
    pub(super) fn writes_done<R: Ring>(&mut self, ring: &mut R, index: u32) {
        let op = &mut self.ops[index];
        if std::mem::take(&mut op.once_more) {
            op.was_repeated = true;
            self.issue_writes(ring, index);
            return;
        }
        let (row_next, refused) = (op.row_next, op.refused.filter(|_| op.work_kind != Work::Read));
        self.give_work(index);
        if let Some(error) = refused {
            self.end_refused(index, error);
            return;
        }
        self.next_batch(ring, index, row_next);
    }

    /// All is written (and flushed, where that is needed): acknowledge once the record allows it.
    #[inline]
    pub(super) fn acknowledge(&mut self, index: u32) {
        let op = &self.ops[index];
        if op.work_kind == Work::Read {
            // A repair that failed changes nothing for the host: it has the reconstructed bytes.
            self.finish(index, Ok(()));
            return;
        }
        if op.incomplete {
            self.finish(index, Err(RequestError::Lost));
            return;
        }
        let unprotected = || op.work_kind == Work::Write(Mode::DataOnly) || self.shared.failed();
        if !op.missed_data.is_empty() && unprotected() {
            self.finish(index, Err(RequestError::Lost));
        } else if self.shared.members.on_record(op.skipped, op.stripe) {
            self.recorded(index);
        } else {
            self.ops[index].phase = Phase::AwaitingRecord;
            self.polling.push(index);
        }
    }

    /// The record excludes every slot that this op skipped.
    #[inline]
    pub(super) fn recorded(&mut self, index: u32) {
        let op = &mut self.ops[index];
        match op.work_kind {
            Work::Write(Mode::First) => {
                if !self.awaits_unlisted(index) {
                    self.become_first(index);
                }
                return;
            }
            Work::Write(Mode::Heal) if op.unhealed => {}
            Work::Write(Mode::Heal) => self.shared.bitmap.resynced(op.stripe),
            Work::Rebuild { .. } if op.unhealed => {
                let stripe = op.stripe;
                self.tear(stripe);
            }
            Work::Write(Mode::Trusted | Mode::DataOnly) => {}
            Work::Read | Work::Discard | Work::Rebuild { .. } => {}
        }
        self.finish_written(index);
    }

    /// A first write is whole on the members, and the list of lost rows has nothing of its stripe: now the cell may say so.
    pub(super) fn become_first(&mut self, index: u32) {
        self.shared.bitmap.written_first(self.ops[index].stripe);
        self.ops[index].phase = Phase::AwaitingFirst;
        self.polling.push(index);
    }
}
