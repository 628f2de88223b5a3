//! Reads that need the stripe.
//!
//! A read comes here when one of its strips is not there (degraded), or when its member has just
//! failed to read it. The rows are read from the other strips, in part straight into the host's buffer, and
//! reconstructed there; what a bad block had lost is written back to its member.

use crate::geometry::Strips;
use crate::memory::Span;
use crate::plan::{Plan, Trust};
use crate::request::RequestError;
use crate::ring::{Durability, MemberIo, Ring};

use super::{Array, Started};
use crate::part::Part;
use crate::stripe::op::{Phase, Segment, Work};

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
        crate::stripe::parity::recover(&self.shared.memory, &self.shared.geometry, read, lost, |strip| {
            if lost.has(strip) && self.ops[index].work_kind != Work::Read {
                segment.made_span(self.ops[index].work, strip)
            } else {
                self.old_bytes(index, segment, strip)
            }
        });
    }
}
