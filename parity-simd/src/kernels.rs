//! The safe interface of a kernel table: checks the shapes, then calls.
//!
//! A [`Kernels`] exists only for tables that this CPU runs ([`crate::dispatch`] makes them). So each call has
//! to check only the shapes: strips equally long, indices distinct and at most [`INDEX_MAX`]. The check costs
//! one comparison per strip and stays on in release. A strip of another length is a bug of the caller, and
//! the call panics.
#![expect(unsafe_code, reason = "calls through a table, after checking what the table demands")]

use core::fmt;

use crate::arch::Table;
use crate::field::{Factor, INDEX_MAX, inverse, power};

/// The kernels of one instruction set, or of two: P alone from one, everything with Q from the other.
///
/// Its methods are the free functions of this crate, on these kernels.
///
/// ```
/// let portable = parity_simd::kernels_available().pop().expect("portable kernels run everywhere");
/// assert_eq!((portable.name_xor(), portable.name_q()), ("portable", "portable"));
/// let mut p = [0; 16];
/// portable.xor_generate(&mut p, &[&[1; 16], &[2; 16]]);
/// assert_eq!(p, [3; 16]);
/// ```
#[derive(Clone, Copy)]
pub struct Kernels {
    /// The table for calls that only add.
    xor: &'static Table,
    /// The table for calls that multiply.
    q: &'static Table,
}

impl Kernels {
    /// Makes kernels of these tables; panics if this CPU cannot run them.
    pub(crate) fn new(xor: &'static Table, q: &'static Table) -> Kernels {
        assert!((xor.runs_here)(), "this CPU cannot run the {} kernels", xor.name);
        assert!((q.runs_here)(), "this CPU cannot run the {} kernels", q.name);
        Kernels { xor, q }
    }

    /// The name of the instruction set that serves P alone: `avx512`, `avx2`, `neon`, `portable`, ...
    pub fn name_xor(&self) -> &'static str {
        self.xor.name
    }

    /// The name of the instruction set that serves Q, and P with Q; may also be `avx512-gfni` or `avx2-gfni`.
    pub fn name_q(&self) -> &'static str {
        self.q.name
    }

    /// [`crate::xor_generate`] on these kernels.
    pub fn xor_generate(&self, p: &mut [u8], data: &[&[u8]]) {
        match data.split_first() {
            None => p.fill(0),
            Some(_) if is_past_caches(p.len(), data.len()) => self.xor_generate_streamed(p, data),
            Some((first, rest)) => self.xor_all(p, first, rest),
        }
    }

    /// [`crate::pq_generate`] on these kernels.
    pub fn pq_generate(&self, p: &mut [u8], q: &mut [u8], data: &[(u8, &[u8])]) {
        if is_past_caches(q.len(), data.len()) {
            return self.pq_generate_streamed(p, q, data);
        }
        assert_equally_long(q.len(), [&*p]);
        // SAFETY: `new` asked the CPU; the lengths are compared, here and by `with_ascending`, which orders.
        with_ascending(q.len(), data, |data| unsafe { (self.q.pq_generate)(p, q, data) });
    }

    /// [`crate::xor_generate_streamed`] on these kernels.
    pub fn xor_generate_streamed(&self, p: &mut [u8], data: &[&[u8]]) {
        let Some((first, rest)) = data.split_first() else { return p.fill(0) };
        assert_equally_long(p.len(), data.iter().copied());
        // SAFETY: `new` asked the CPU; the lengths were compared.
        unsafe { (self.xor.xor_generate_streamed)(p, first, rest) }
    }

    /// [`crate::pq_generate_streamed`] on these kernels.
    pub fn pq_generate_streamed(&self, p: &mut [u8], q: &mut [u8], data: &[(u8, &[u8])]) {
        assert_equally_long(q.len(), [&*p]);
        // SAFETY: `new` asked the CPU; the lengths are compared, here and by `with_ascending`, which orders.
        with_ascending(q.len(), data, |data| unsafe { (self.q.pq_generate_streamed)(p, q, data) });
    }

    /// [`crate::q_generate`] on these kernels.
    pub fn q_generate(&self, q: &mut [u8], data: &[(u8, &[u8])]) {
        // SAFETY: `new` asked the CPU; `with_ascending` compares the lengths and orders.
        with_ascending(q.len(), data, |data| unsafe { (self.q.q_generate)(q, data) });
    }

    /// [`crate::xor_delta`] on these kernels.
    pub fn xor_delta(&self, p: &mut [u8], old: &[u8], new: &[u8]) {
        assert_equally_long(p.len(), [old, new]);
        // SAFETY: `new` asked the CPU; the lengths were compared.
        unsafe { (self.xor.xor_delta)(p, old, new) }
    }

    /// [`crate::pq_delta`] on these kernels.
    pub fn pq_delta(&self, p: &mut [u8], q: &mut [u8], index: u8, old: &[u8], new: &[u8]) {
        assert_equally_long(q.len(), [&*p, old, new]);
        // SAFETY: `new` asked the CPU; the lengths were compared.
        unsafe { (self.q.pq_delta)(p, q, coefficient(index), old, new) }
    }

    /// [`crate::q_delta`] on these kernels.
    pub fn q_delta(&self, q: &mut [u8], index: u8, old: &[u8], new: &[u8]) {
        assert_equally_long(q.len(), [old, new]);
        // SAFETY: `new` asked the CPU; the lengths were compared.
        unsafe { (self.q.q_delta)(q, coefficient(index), old, new) }
    }

    /// [`crate::multiply_accumulate`] on these kernels.
    pub fn multiply_accumulate(&self, out: &mut [u8], factor: u8, source: &[u8]) {
        assert_equally_long(out.len(), [source]);
        // SAFETY: `new` asked the CPU; the lengths were compared.
        unsafe { (self.q.multiply_accumulate)(out, Factor::of(factor), source) }
    }

    /// [`crate::recover_one_with_p`] on these kernels.
    pub fn recover_one_with_p(&self, out: &mut [u8], present: &[&[u8]], p: &[u8]) {
        self.xor_all(out, p, present);
    }

    /// [`crate::recover_one_with_q`] on these kernels.
    pub fn recover_one_with_q(&self, out: &mut [u8], index: u8, present: &[(u8, &[u8])], q: &[u8]) {
        assert_equally_long(out.len(), [q]);
        assert_absent(index, present);
        let scale = Factor::of(inverse(coefficient(index).value));
        with_ascending(out.len(), present, |present| {
            // SAFETY: `new` asked the CPU; the lengths are compared, here and by `with_ascending`, which
            // orders.
            unsafe { (self.q.recover_one_with_q)(out, scale, present, q) }
        });
    }

    /// [`crate::recover_two`] on these kernels.
    pub fn recover_two(
        &self,
        (out_a, index_a): (&mut [u8], u8),
        (out_b, index_b): (&mut [u8], u8),
        present: &[(u8, &[u8])],
        p: &[u8],
        q: &[u8],
    ) {
        assert_ne!(index_a, index_b, "two lost strips have one index");
        assert_equally_long(out_a.len(), [&*out_b, p, q]);
        assert_absent(index_a, present);
        assert_absent(index_b, present);
        // The coefficients of kernel/recover.rs.
        let (a, b) = (coefficient(index_a).value, coefficient(index_b).value);
        let scale_q = inverse(a ^ b);
        let scale_p = Factor::of(crate::field::product(a, scale_q));
        let scale_q = Factor::of(scale_q);
        with_ascending(out_a.len(), present, |present| {
            // SAFETY: `new` asked the CPU; the lengths are compared, here and by `with_ascending`, which
            // orders.
            unsafe { (self.q.recover_two)(out_a, out_b, scale_p, scale_q, present, p, q) }
        });
    }

    /// Computes out = first ^ all of rest.
    fn xor_all(&self, out: &mut [u8], first: &[u8], rest: &[&[u8]]) {
        assert_equally_long(out.len(), [first]);
        assert_equally_long(out.len(), rest.iter().copied());
        // SAFETY: `new` asked the CPU; the lengths were compared.
        unsafe { (self.xor.xor_generate)(out, first, rest) }
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Kernels {
    /// Writes `avx2`, or `avx512 (P), avx2 (Q)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.xor.name == self.q.name {
            true => f.write_str(self.xor.name),
            false => write!(f, "{} (P), {} (Q)", self.xor.name, self.q.name),
        }
    }
}

/// Number of data bytes from which parity is stored past the caches, whatever the caller knows of the data. A
/// stripe of this size and its parity fill about a second-level cache. With 4+2 strips of 64 KiB, streaming
/// loses a third of the throughput in that cache, and ordinary stores lose a fifth outside of it. Stripes
/// this large are seldom in it (benches/record/).
const STREAMED_FROM_BYTES: usize = 256 << 10;

/// Whether a call with this many data strips should be streamed.
fn is_past_caches(strip_bytes: usize, strips: usize) -> bool {
    strip_bytes * strips >= STREAMED_FROM_BYTES
}

/// Returns Q's coefficient of data strip `index`.
fn coefficient(index: u8) -> &'static Factor {
    assert!(
        index <= INDEX_MAX,
        "data index {index} is past {INDEX_MAX}, the last with a coefficient of its own"
    );
    Factor::of(power(index))
}

/// Panics unless every strip is `bytes` long.
#[inline]
#[track_caller]
fn assert_equally_long<'a>(bytes: usize, strips: impl IntoIterator<Item = &'a [u8]>) {
    for strip in strips {
        assert!(
            strip.len() == bytes,
            "strips of one call differ in length: {} and {bytes} bytes",
            strip.len()
        );
    }
}

/// Panics if a lost strip is among the present ones.
#[track_caller]
fn assert_absent(index: u8, present: &[(u8, &[u8])]) {
    assert!(present.iter().all(|source| source.0 != index), "data strip {index} is both lost and present");
}

/// Checks `data`, all of `bytes` bytes with distinct indices, and passes it on in ascending order of index.
///
/// Callers usually have the data in order, and it is then passed as it is. Otherwise a sorted copy is passed.
/// The copy is on the stack, since no code on the data path may allocate.
#[inline]
#[track_caller]
fn with_ascending(bytes: usize, data: &[(u8, &[u8])], call: impl FnOnce(&[(u8, &[u8])])) {
    assert_equally_long(bytes, data.iter().map(|source| source.1));
    match data.is_sorted_by(|one, next| one.0 < next.0) {
        true => {
            if let Some((highest, _)) = data.last() {
                coefficient(*highest);
            }
            call(data)
        }
        false => sorted(data, call),
    }
}

/// The slow half of [`with_ascending`]: sorts a copy.
#[cold]
#[track_caller]
fn sorted(data: &[(u8, &[u8])], call: impl FnOnce(&[(u8, &[u8])])) {
    const SOURCES_MAX: usize = INDEX_MAX as usize + 1;
    assert!(data.len() <= SOURCES_MAX, "{} data strips, but only {SOURCES_MAX} indices", data.len());
    let mut copy: [(u8, &[u8]); SOURCES_MAX] = [(0, &[]); SOURCES_MAX];
    let copy = &mut copy[..data.len()];
    copy.copy_from_slice(data);
    copy.sort_unstable_by_key(|source| source.0);
    for pair in copy.windows(2) {
        assert!(pair[0].0 != pair[1].0, "data strip {} is given twice", pair[0].0);
    }
    if let Some((highest, _)) = copy.last() {
        coefficient(*highest);
    }
    call(copy)
}
