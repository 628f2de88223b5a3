//! The content of a segment's strips: where it lies in memory, and how it is computed.

use crate::geometry::Strips;
use crate::memory::Span;
use crate::plan::Plan;

use super::At;
use super::op::{Segment, StripeOp};

impl StripeOp {
    /// The span with the new content of a data strip: written, read, or reconstructed. `None` stands for
    /// zeros.
    pub(super) fn content<R>(&self, at: &At<'_, '_, R>, segment: &Segment, strip: u8) -> Option<Span> {
        let work = self.work;
        if segment.wanted.has(strip) {
            (!segment.void).then(|| self.new_bytes(at, segment, strip))
        } else if segment.made.has(strip) {
            Some(segment.made_span(work, strip))
        } else if segment.read.has(strip) {
            Some(segment.read_span(work, strip))
        } else {
            None
        }
    }

    /// The bytes that the host writes to a strip.
    #[inline(always)]
    pub(super) fn new_bytes<R>(&self, at: &At<'_, '_, R>, segment: &Segment, strip: u8) -> Span {
        if segment.gathered.has(strip) {
            segment.gathered_span(self.work, strip)
        } else {
            self.host_span(at, segment, strip)
        }
    }

    /// The host's own bytes for a strip of a segment, where one part has them all.
    #[inline(always)]
    pub(super) fn host_span<R>(&self, at: &At<'_, '_, R>, segment: &Segment, strip: u8) -> Span {
        let geometry = &at.shared.geometry;
        let part = self.writer_of(&at.parts.list, geometry, segment.row, strip);
        part.span_of(geometry, &at.shared.memory, strip, segment.row, segment.len)
    }

    /// Gathers bytes that several parts write, reconstructs lost strips, and makes the parity of one segment.
    pub(super) fn compute<R>(&self, at: &At<'_, '_, R>, segment: &Segment) {
        let shared = at.shared;
        let (memory, geometry) = (&*shared.memory, &shared.geometry);
        let work = self.work;
        for strip in segment.gathered.iter() {
            let target = segment.gathered_span(work, strip);
            for (bytes, row) in self.pieces(&at.parts.list, geometry, memory, segment, strip) {
                memory.copy(bytes, target.part(row - segment.row, bytes.len_bytes));
            }
        }
        let parity = geometry.parity_strips();
        match segment.plan {
            Plan::Rmw { read } => {
                let p = read.has(geometry.p()).then(|| segment.read_span(work, geometry.p()));
                let q = (geometry.parities() == 2 && read.has(geometry.q()))
                    .then(|| segment.read_span(work, geometry.q()));
                for strip in segment.wanted.iter() {
                    let (old, new) = (segment.read_span(work, strip), self.new_bytes(at, segment, strip));
                    match (p, q) {
                        (Some(p), Some(q)) => memory.pq_delta(p, q, strip, old, new),
                        (Some(p), None) => memory.xor_delta(p, old, new),
                        (None, Some(q)) => memory.q_delta(q, strip, old, new),
                        (None, None) => unreachable!("an rmw without parity is an rcw without reads"),
                    }
                }
            }
            Plan::Full
            | Plan::Rcw { .. }
            | Plan::Init { .. }
            | Plan::Resync { .. }
            | Plan::Degraded { .. } => {
                if let Plan::Degraded { read, recover } = segment.plan {
                    self.recover(at, segment, read, recover);
                }
                self.generate(at, segment, segment.made.and(parity));
            }
            Plan::DataOnly | Plan::Refused => {}
        }
    }

    /// Makes parity strips from the complete new content of the data strips.
    pub(super) fn generate<R>(&self, at: &At<'_, '_, R>, segment: &Segment, parity: Strips) {
        if !parity.is_empty() {
            let work = self.work;
            super::parity::generate(
                &at.shared.memory,
                &at.shared.geometry,
                parity,
                |strip| self.content(at, segment, strip),
                |strip| segment.made_span(work, strip),
            );
        }
    }
}
