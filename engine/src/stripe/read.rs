//! Reads that need ownership of the stripe.
//!
//! A read comes here when the member of one of its strips is missing (degraded), or has just failed to read
//! the strip. The rows are read from the other strips, partly straight into the host's buffer, and the
//! missing strips are reconstructed there. Data that a bad block had lost is written back to its member.

use crate::geometry::Strips;
use crate::memory::Span;
use crate::part::Part;
use crate::plan::{Plan, Trust};
use crate::ring::{Durability, MemberIo, Ring};

use super::lost::is_lost;
use super::op::{Phase, Segment, StripeOp, Work};
use super::step::Step;
use super::{At, LOST};

impl StripeOp {
    /// Starts the one read that the op has taken.
    pub(super) fn start_read<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        let trust = self.look(at);
        let part = self.active.first().expect("a read op has its part");
        let Part { stripe, start, end, span, .. } = at.parts.list[part];
        if trust == Trust::Unwritten {
            at.shared.memory.zero(span);
            return Step::Finished(Ok(()));
        }
        if is_lost(at.shared, stripe, start, end - start) {
            return LOST;
        }
        self.work_kind = Work::Read;
        self.plan_batch(at)
    }

    /// Reconstructs missing strips from those that were read, and repairs what a bad block had lost.
    pub(super) fn recover_read<R: Ring>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.phase = Phase::Writing;
        for nth in 0..at.segments.len() {
            let segment = at.segments.get(nth);
            let Plan::Degraded { read, recover } = segment.plan else { continue };
            self.recover(at, &segment, read, recover);
            at.turn.tally().reconstructed.add(1);
            // A read-only array repairs nothing; it only returns the reconstructed data.
            let repaired =
                if at.shared.read_only { Strips::NONE } else { self.suspects.and(self.view.writable) };
            for strip in recover.and(repaired).iter() {
                let span = self.old_bytes(at, &segment, strip);
                self.push(at, &segment, strip, MemberIo::Write(Durability::Cached), span);
            }
        }
        if self.pending == 0 { self.writes_done(at) } else { Step::Io }
    }

    /// The span into which the old content of a strip is read or reconstructed.
    pub(super) fn old_bytes<R>(&self, at: &At<'_, '_, R>, segment: &Segment, strip: u8) -> Span {
        if self.work_kind == Work::Read && segment.wanted.has(strip) {
            self.host_span(at, segment, strip)
        } else if segment.read.has(strip) {
            segment.read_span(self.work, strip)
        } else {
            segment.made_span(self.work, strip)
        }
    }

    /// Reconstructs the lost data strips of a segment from the strips that were read.
    pub(super) fn recover<R>(&self, at: &At<'_, '_, R>, segment: &Segment, read: Strips, lost: Strips) {
        super::parity::recover(&at.shared.memory, &at.shared.geometry, read, lost, |strip| {
            if lost.has(strip) && self.work_kind != Work::Read {
                segment.made_span(self.work, strip)
            } else {
                self.old_bytes(at, segment, strip)
            }
        });
    }
}
