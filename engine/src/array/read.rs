//! Reads that need the stripe, and discards: what an owner does besides writing.
//!
//! A read comes here when one of its strips is not there (degraded), or when its member has just
//! failed to read it. The rows are read from the other strips, in part straight into the host's buffer, and
//! reconstructed there; what a bad block had lost is written back to its member.

use std::sync::atomic::Ordering;

use bitmap::Cell;

use crate::geometry::Strips;
use crate::memory::Span;
use crate::plan::{Plan, Trust};
use crate::request::RequestError;
use crate::ring::{Durability, MemberIo, Ring};

use super::op::{Phase, Segment, Work};
use super::part::Part;
use super::{Array, Started};

impl Array {
    /// Starts the one read that an op has taken.
    pub(super) fn start_read<R: Ring>(&mut self, ring: &mut R, index: u32) -> Started {
        if self.look(index) == Trust::Unwritten {
            let part = self.ops[index].active.first().expect("a read op has its part");
            self.shared.memory.zero(self.parts[part].span);
            self.answer_active(index, Ok(()));
            return Started::Done;
        }
        let part = self.ops[index].active.first().expect("a read op has its part");
        let Part { stripe, start, end, .. } = self.parts[part];
        if self.is_lost(stripe, start, end - start) {
            self.answer_active(index, Err(RequestError::Lost));
            return Started::Done;
        }
        self.ops[index].work_kind = Work::Read;
        self.plan_batch(ring, index);
        Started::Running
    }

    /// The strips of a read are there: reconstruct the others, and repair what a bad block had lost.
    pub(super) fn recover_read<R: Ring>(&mut self, ring: &mut R, index: u32) {
        self.ops[index].phase = Phase::Writing;
        for at in 0..self.segments[index as usize].len() {
            let segment = self.segments[index as usize].get(at);
            let Plan::Degraded { read, recover } = segment.plan else { continue };
            self.recover(index, &segment, read, recover);
            self.tally().reconstructed.add(1);
            // A read-only array repairs nothing: it answers what was reconstructed.
            let op = &self.ops[index];
            let repaired =
                if self.shared.read_only { Strips::NONE } else { op.suspects.and(op.view.writable) };
            for strip in recover.and(repaired).iter() {
                let span = self.old_bytes(index, &segment, strip);
                self.op_io(ring, index, &segment, strip, MemberIo::Write(Durability::Cached), span);
            }
        }
        if self.ops[index].pending == 0 {
            self.writes_done(ring, index);
        }
    }

    /// Where the old content of a strip is read to, or reconstructed.
    pub(super) fn old_bytes(&self, index: u32, segment: &Segment, strip: u8) -> Span {
        let op = &self.ops[index];
        if op.work_kind == Work::Read && segment.wanted.has(strip) {
            self.host_span(index, segment, strip)
        } else if segment.read.has(strip) {
            segment.read_span(op.work, strip)
        } else {
            segment.made_span(op.work, strip)
        }
    }

    /// Reconstructs the lost data strips of a segment from what was read.
    pub(super) fn recover(&self, index: u32, segment: &Segment, read: Strips, lost: Strips) {
        super::parity::recover(&self.shared.memory, &self.shared.geometry, read, lost, |strip| {
            if lost.has(strip) && self.ops[index].work_kind != Work::Read {
                segment.made_span(self.ops[index].work, strip)
            } else {
                self.old_bytes(index, segment, strip)
            }
        });
    }

    /// Starts the one discard that an op has taken.
    pub(super) fn start_discard(&mut self, index: u32) -> Started {
        match self.shared.bitmap.cell(self.ops[index].stripe) {
            _ if self.shared.failed() => {
                self.answer_active(index, Err(RequestError::Lost));
                return Started::Done;
            }
            Cell::Unwritten => {
                self.answer_active(index, Ok(()));
                return Started::Done;
            }
            // A neighbour's write is marking it: the mark is let through first.
            Cell::Marked => self.ops[index].phase = Phase::AwaitingUnmarked,
            Cell::First => unreachable!("it stays First only in an array that has failed"),
            Cell::Clean | Cell::Dirty | Cell::Aged | Cell::NeedSync => self.discard(index),
        }
        self.ops[index].work_kind = Work::Discard;
        self.polling.push(index);
        Started::Running
    }

    /// Makes the stripe Unwritten; the devices hear of it once that is durable.
    pub(super) fn discard(&mut self, index: u32) {
        let op = &mut self.ops[index];
        op.ticket = Some(self.shared.bitmap.discard(op.stripe));
        op.phase = Phase::AwaitingTicket;
        self.write_block(self.shared.bitmap.block_of(self.ops[index].stripe));
    }

    /// The cell is durably Unwritten: the strips may be given back.
    pub(super) fn deallocate<R: Ring>(&mut self, ring: &mut R, index: u32) {
        self.ops[index].phase = Phase::Deallocating;
        // The host has what it asked for, and need not wait for the advice, which may take a drive minutes. The stripe stays owned:
        // a deallocation must not come after the next write. (Rows that are listed as lost
        // are taken off the list first.)
        if !self.shared.lost.touches(self.ops[index].stripe) {
            self.answer_active(index, Ok(()));
        }
        let stripe = self.ops[index].stripe;
        let geometry = self.shared.geometry;
        // Release, before the devices hear: see `Shared::deallocations`.
        self.shared.deallocations.fetch_add(1, Ordering::Release);
        let offset = self.shared.layout.data_offset_bytes + geometry.strip_offset(stripe);
        for slot in self.shared.members.view().writable.iter() {
            self.ops[index].pending += 1;
            self.push_deallocate(ring, index, slot, offset, u64::from(geometry.chunk_bytes()));
        }
    }

    /// A device has heard. It may have refused: the advice is not needed for what a host reads.
    pub(super) fn op_deallocated(&mut self, index: u32) {
        let op = &mut self.ops[index];
        op.pending -= 1;
        if op.pending == 0 {
            self.finish_written(index);
        }
    }
}
