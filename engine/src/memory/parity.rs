//! Parity over spans: the kernels of `parity-simd`, with coordinates instead of slices.
//!
//! Every function asserts that all operands have one length and that no output overlaps another operand.
//! Inputs may be the same bytes (one strip of zeros stands for any number of absent ones). The slices are
//! built in arrays on the stack, so nothing is allocated.
//!
//! The three functions that a small write needs are inlined, and so is the check, because of how spans are
//! passed; see [`Span`].
//!
//! An `index` is a data strip's place among the stripe's data strips, 0 to 31. The strip's coefficient in Q
//! is 2^index in GF(2^8).

use super::{Memory, Span};
use crate::limits::MEMBERS_MAX;

/// A data strip and its index.
pub type Indexed = (u8, Span);

impl Memory {
    /// Computes P of the data strips.
    pub fn xor_generate(&self, p: Span, data: &[Span]) {
        check(&[p], data.iter().copied());
        let sources = self.slices(data);
        self.with_mut(p, |p| parity_simd::xor_generate(p, &sources[..data.len()]));
    }

    /// Computes P and Q of the data strips; strips that are not named count as zeros.
    pub fn pq_generate(&self, p: Span, q: Span, data: &[Indexed]) {
        check(&[p, q], spans(data));
        let sources = self.indexed_slices(data);
        self.with_mut(p, |p| self.with_mut(q, |q| parity_simd::pq_generate(p, q, &sources[..data.len()])));
    }

    /// Computes Q of the data strips; strips that are not named count as zeros.
    pub fn q_generate(&self, q: Span, data: &[Indexed]) {
        check(&[q], spans(data));
        let sources = self.indexed_slices(data);
        self.with_mut(q, |q| parity_simd::q_generate(q, &sources[..data.len()]));
    }

    /// Updates P in place for a data strip that changes from `old` to `new`.
    #[inline]
    pub fn xor_delta(&self, p: Span, old: Span, new: Span) {
        check(&[p], [old, new]);
        self.with_mut(p, |p| parity_simd::xor_delta(p, self.slice(old), self.slice(new)));
    }

    /// Updates P and Q in place for data strip `index`, which changes from `old` to `new`.
    #[inline]
    pub fn pq_delta(&self, p: Span, q: Span, index: u8, old: Span, new: Span) {
        check(&[p, q], [old, new]);
        self.with_mut(p, |p| {
            self.with_mut(q, |q| parity_simd::pq_delta(p, q, index, self.slice(old), self.slice(new)));
        });
    }

    /// Updates Q in place for data strip `index`, which changes from `old` to `new`.
    #[inline]
    pub fn q_delta(&self, q: Span, index: u8, old: Span, new: Span) {
        check(&[q], [old, new]);
        self.with_mut(q, |q| parity_simd::q_delta(q, index, self.slice(old), self.slice(new)));
    }

    /// Reconstructs the one data strip that is not in `present`, from P.
    pub fn recover_one_with_p(&self, out: Span, present: &[Span], p: Span) {
        check(&[out], present.iter().copied().chain([p]));
        let sources = self.slices(present);
        self.with_mut(out, |out| {
            parity_simd::recover_one_with_p(out, &sources[..present.len()], self.slice(p));
        });
    }

    /// Reconstructs data strip `index`, the one that is not in `present`, from Q.
    pub fn recover_one_with_q(&self, out: Span, index: u8, present: &[Indexed], q: Span) {
        check(&[out], spans(present).chain([q]));
        let sources = self.indexed_slices(present);
        self.with_mut(out, |out| {
            parity_simd::recover_one_with_q(out, index, &sources[..present.len()], self.slice(q));
        });
    }

    /// Reconstructs the two data strips that are not in `present`, from P and Q.
    pub fn recover_two(&self, a: (Span, u8), b: (Span, u8), present: &[Indexed], p: Span, q: Span) {
        check(&[a.0, b.0], spans(present).chain([p, q]));
        let sources = self.indexed_slices(present);
        let sources = &sources[..present.len()];
        self.with_mut(a.0, |out_a| {
            self.with_mut(b.0, |out_b| {
                let (p, q) = (self.slice(p), self.slice(q));
                parity_simd::recover_two((out_a, a.1), (out_b, b.1), sources, p, q);
            });
        });
    }

    fn slices(&self, operands: &[Span]) -> [&[u8]; MEMBERS_MAX] {
        let mut slices = [&[][..]; MEMBERS_MAX];
        slices.iter_mut().zip(operands).for_each(|(slice, span)| *slice = self.slice(*span));
        slices
    }

    fn indexed_slices(&self, operands: &[Indexed]) -> [(u8, &[u8]); MEMBERS_MAX] {
        let mut slices = [(0, &[][..]); MEMBERS_MAX];
        slices
            .iter_mut()
            .zip(operands)
            .for_each(|(slice, (index, span))| *slice = (*index, self.slice(*span)));
        slices
    }
}

fn spans(operands: &[Indexed]) -> impl Iterator<Item = Span> {
    operands.iter().map(|(_, span)| *span)
}

/// Asserts that all lengths are equal and that outputs overlap neither each other nor an input.
#[inline(always)]
fn check(outputs: &[Span], inputs: impl IntoIterator<Item = Span>) {
    let len_bytes = outputs[0].len_bytes;
    if let [a, b] = outputs {
        assert!(!a.overlaps(*b), "the outputs {a:?} and {b:?} overlap");
        assert_eq!(b.len_bytes, len_bytes);
    }
    let mut count = 0;
    for input in inputs {
        assert_eq!(input.len_bytes, len_bytes, "operands of different lengths");
        assert!(outputs.iter().all(|output| !output.overlaps(input)), "{input:?} overlaps an output");
        count += 1;
    }
    assert!(count <= MEMBERS_MAX + 2, "{count} operands are more than a stripe has");
}

#[cfg(test)]
mod tests {
    //! Method: call every function once over spans of a small stripe; the kernels have their own tests.
    //! Oracle: the recovered strips equal the original ones.
    use super::*;

    const LEN: u32 = 4096;

    fn setup() -> (std::sync::Arc<Memory>, Vec<Span>) {
        let memory = Memory::new(&[16 * LEN as usize]).unwrap();
        let spans: Vec<_> = (0..16).map(|at| memory.arena(0).part(at * LEN, LEN)).collect();
        for (at, span) in spans.iter().enumerate() {
            memory.with_mut(*span, |bytes| {
                bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * (at + 3) % 253) as u8);
            });
        }
        (memory, spans)
    }

    #[test]
    fn generated_changed_and_recovered() {
        let (memory, s) = setup();
        let (data, p, q, new, out, out2) = (&s[0..4], s[4], s[5], s[6], s[7], s[8]);
        let indexed: Vec<Indexed> = data.iter().enumerate().map(|(i, span)| (i as u8, *span)).collect();
        memory.pq_generate(p, q, &indexed);
        memory.xor_generate(out, data);
        memory.q_generate(out2, &indexed);
        assert!(memory.equal(p, out) && memory.equal(q, out2));

        memory.pq_delta(p, q, 2, data[2], new);
        memory.xor_delta(out, data[2], new);
        memory.q_delta(out2, 2, data[2], new);
        assert!(memory.equal(p, out) && memory.equal(q, out2));
        memory.copy(new, data[2]);

        memory.recover_one_with_p(out, &[data[0], data[2], data[3]], p);
        assert!(memory.equal(out, data[1]));
        memory.recover_one_with_q(out, 3, &indexed[..3], q);
        assert!(memory.equal(out, data[3]));
        memory.recover_two((out, 0), (out2, 2), &[indexed[1], indexed[3]], p, q);
        assert!(memory.equal(out, data[0]) && memory.equal(out2, data[2]));
    }

    #[test]
    fn zeros_stand_for_any_number_of_strips() {
        let (memory, s) = setup();
        let zeros = memory.zeros(LEN);
        memory.xor_generate(s[1], &[zeros, s[0], zeros]);
        assert!(memory.equal(s[0], s[1]));
    }

    #[test]
    #[should_panic(expected = "overlaps an output")]
    fn an_output_among_the_inputs_is_refused() {
        let (memory, s) = setup();
        memory.xor_generate(s[0], &[s[1], s[0]]);
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_outputs_are_refused() {
        let (memory, s) = setup();
        memory.pq_generate(s[0], s[0], &[(0, s[1])]);
    }

    #[test]
    #[should_panic(expected = "different lengths")]
    fn lengths_must_agree() {
        let (memory, s) = setup();
        memory.xor_delta(s[0], s[1], s[2].part(0, 512));
    }
}
