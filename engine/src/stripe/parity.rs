//! Parity of one segment: selects the kernel for the given strips. The arithmetic is in `parity-simd`.

use crate::geometry::{Geometry, Strips};
use crate::limits::MEMBERS_MAX;
use crate::memory::{Memory, Span};

/// A list on the stack of up to `MEMBERS_MAX` strips with their numbers.
struct Numbered {
    list: [(u8, Span); MEMBERS_MAX],
    count: usize,
}

impl Numbered {
    fn of(strips: impl Iterator<Item = (u8, Span)>) -> Numbered {
        let mut numbered = Numbered { list: [(0, Span::EMPTY); MEMBERS_MAX], count: 0 };
        for strip in strips {
            numbered.list[numbered.count] = strip;
            numbered.count += 1;
        }
        numbered
    }

    fn get(&self) -> &[(u8, Span)] {
        &self.list[..self.count]
    }

    /// Copies the spans without their strip numbers into `into`, as the P kernels take them. Returns their
    /// count.
    fn spans(&self, into: &mut [Span; MEMBERS_MAX]) -> usize {
        for (span, numbered) in into.iter_mut().zip(self.get()) {
            *span = numbered.1;
        }
        self.count
    }
}

/// Makes the parity strips `parity` into `out`, from the complete content of every data strip (`None`:
/// zeros).
pub(crate) fn generate(
    memory: &Memory,
    geometry: &Geometry,
    parity: Strips,
    content: impl Fn(u8) -> Option<Span>,
    out: impl Fn(u8) -> Span,
) {
    let data = Numbered::of(
        geometry.data_strips().iter().filter_map(|strip| content(strip).map(|span| (strip, span))),
    );
    let p = parity.has(geometry.p()).then(|| out(geometry.p()));
    let q = (geometry.parities() == 2 && parity.has(geometry.q())).then(|| out(geometry.q()));
    match (p, q) {
        (Some(p), Some(q)) => memory.pq_generate(p, q, data.get()),
        (Some(p), None) => {
            let mut spans = [Span::EMPTY; MEMBERS_MAX];
            let count = data.spans(&mut spans);
            memory.xor_generate(p, &spans[..count]);
        }
        (None, Some(q)) => memory.q_generate(q, data.get()),
        (None, None) => {}
    }
}

/// Reconstructs the data strips `lost` (one or two) from `read`: all other data strips, and as many parities
/// as data strips are lost. `place` gives the span of each strip, to read from or to fill.
pub(crate) fn recover(
    memory: &Memory,
    geometry: &Geometry,
    read: Strips,
    lost: Strips,
    place: impl Fn(u8) -> Span,
) {
    let present = Numbered::of(read.and(geometry.data_strips()).iter().map(|strip| (strip, place(strip))));
    let p = read.has(geometry.p()).then(|| place(geometry.p()));
    let q = (geometry.parities() == 2 && read.has(geometry.q())).then(|| place(geometry.q()));
    let mut lost = lost.iter();
    match (lost.next(), lost.next(), p, q) {
        (None, ..) => {}
        (Some(a), None, Some(p), _) => {
            let mut spans = [Span::EMPTY; MEMBERS_MAX];
            let count = present.spans(&mut spans);
            memory.recover_one_with_p(place(a), &spans[..count], p);
        }
        (Some(a), None, None, Some(q)) => memory.recover_one_with_q(place(a), a, present.get(), q),
        (Some(a), Some(b), Some(p), Some(q)) => {
            memory.recover_two((place(a), a), (place(b), b), present.get(), p, q);
        }
        _ => unreachable!("the planner reads as many parities as strips are lost"),
    }
}
