//! Generation of P, and of P with Q, from data strips.
//!
//! P takes the sources two at a time, because AVX-512 adds three values in one instruction. Q is evaluated by
//! Horner's rule from the highest index down. A *dense* set has the indices 0, 1, .. n-1; it is the
//! full-stripe write and the case that matters, and needs no coefficient. A sparse set closes each gap
//! between neighbours by doubling, or by a table where that is cheaper, and ends with a multiplication by
//! g^lowest.
#![expect(unsafe_code, reason = "calls kernel blocks whose bounds `run` argues")]
#![expect(clippy::needless_range_loop, reason = "a lane is an index of vectors and of bytes alike")]

use super::{Kernel, Staged, Streamed, Transfer, Whole, load, store, walk};
use crate::field::{Factor, power};
use crate::vector::Vector;

/// A data strip and its index.
pub(crate) type Source<'a> = (u8, &'a [u8]);

/// Whether `data`, which ascends strictly by index, is exactly 0, 1, .. n-1.
pub(crate) fn is_dense(data: &[Source]) -> bool {
    data.last().is_none_or(|(highest, _)| usize::from(*highest) + 1 == data.len())
}

/// Largest gap that is closed by doubling: each doubling takes three operations, a table six and two loads.
const DOUBLINGS_MAX: u8 = 2;

/// Computes `out` = `first` ^ all of `rest`.
pub(crate) struct XorGenerate<'a> {
    pub out: &'a mut [u8],
    pub first: &'a [u8],
    pub rest: &'a [&'a [u8]],
}

impl Kernel for XorGenerate<'_> {
    #[inline(always)]
    unsafe fn block<V: Vector, const N: usize, T: Transfer>(&mut self, at: usize, transfer: T) {
        // SAFETY: the caller's promises, for this and every load and the store below: all strips are equally
        // long.
        let mut sum: [V; N] = unsafe { load(transfer, self.first, at) };
        let (pairs, odd) = self.rest.as_chunks::<2>();
        for [one, two] in pairs {
            for lane in 0..N {
                let offset = at + lane * V::BYTES;
                // SAFETY: as above.
                let one: V = unsafe { transfer.load(one, offset) };
                // SAFETY: as above.
                let two: V = unsafe { transfer.load(two, offset) };
                sum[lane] = sum[lane].xor3(one, two);
            }
        }
        if let [one] = odd {
            for lane in 0..N {
                // SAFETY: as above.
                sum[lane] = sum[lane].xor(unsafe { transfer.load(one, at + lane * V::BYTES) });
            }
        }
        // SAFETY: as above.
        unsafe { store(transfer, sum, self.out, at) };
    }
}

/// Sums over a set of strips: P (if `P`) and Q. `data` ascends by index; the empty set sums to zeros.
///
/// # Safety
/// As for [`Kernel::block`], for every strip of `data`.
#[inline(always)]
pub(super) unsafe fn sums<V: Vector, const N: usize, const P: bool, const DENSE: bool>(
    data: &[Source],
    at: usize,
    transfer: impl Transfer,
) -> ([V; N], [V; N]) {
    let Some((&(highest, last), rest)) = data.split_last() else {
        // SAFETY: the caller's promise: the CPU.
        let zero = unsafe { V::zero() };
        return ([zero; N], [zero; N]);
    };
    // SAFETY: the caller's promises, for this and every load below: `at` is within every strip.
    let mut p: [V; N] = unsafe { load(transfer, last, at) };
    let mut q = p;
    for q in &mut q {
        *q = q.lift();
    }
    if DENSE {
        let (odd, pairs) = rest.as_rchunks::<2>();
        for [low, high] in pairs.iter().rev() {
            for lane in 0..N {
                let offset = at + lane * V::BYTES;
                // SAFETY: as above.
                let high: V = unsafe { transfer.load(high.1, offset) };
                // SAFETY: as above.
                let low: V = unsafe { transfer.load(low.1, offset) };
                q[lane] = q[lane].step2(high, low);
                if P {
                    p[lane] = p[lane].xor3(high, low);
                }
            }
        }
        if let [only] = odd {
            for lane in 0..N {
                // SAFETY: as above.
                let only: V = unsafe { transfer.load(only.1, at + lane * V::BYTES) };
                q[lane] = q[lane].step(only);
                if P {
                    p[lane] = p[lane].xor(only);
                }
            }
        }
    } else {
        let mut above = highest;
        for &(index, strip) in rest.iter().rev() {
            // `step` itself doubles once.
            raise(&mut q, above - index - 1);
            above = index;
            for lane in 0..N {
                // SAFETY: as above.
                let next: V = unsafe { transfer.load(strip, at + lane * V::BYTES) };
                q[lane] = q[lane].step(next);
                if P {
                    p[lane] = p[lane].xor(next);
                }
            }
        }
        raise(&mut q, above);
    }
    for q in &mut q {
        *q = q.lower();
    }
    (p, q)
}

/// Multiplies lifted values by g^`gap`.
#[inline(always)]
fn raise<V: Vector, const N: usize>(values: &mut [V; N], gap: u8) {
    if gap <= DOUBLINGS_MAX {
        for _ in 0..gap {
            for value in values.iter_mut() {
                *value = value.double();
            }
        }
    } else {
        let by = values[0].multiplier(Factor::of(power(gap)));
        for value in values.iter_mut() {
            *value = value.lower().multiply(by).lift();
        }
    }
}

/// Computes `q`, and `p` if `P`, of `data`; without `P`, `p` is empty and untouched.
pub(crate) struct QGenerate<'a, const P: bool, const DENSE: bool> {
    pub p: &'a mut [u8],
    pub q: &'a mut [u8],
    pub data: &'a [Source<'a>],
}

impl<const P: bool, const DENSE: bool> Kernel for QGenerate<'_, P, DENSE> {
    #[inline(always)]
    unsafe fn block<V: Vector, const N: usize, T: Transfer>(&mut self, at: usize, transfer: T) {
        // SAFETY: the caller's promises, for the sums and both stores: all strips are equally long.
        let (p, q) = unsafe { sums::<V, N, P, DENSE>(self.data, at, transfer) };
        if P {
            // SAFETY: as above.
            unsafe { store(transfer, p, self.p, at) };
        }
        // SAFETY: as above.
        unsafe { store(transfer, q, self.q, at) };
    }
}

/// Number of bytes of P, and of Q, that are made before they are sent to memory. If P and Q are written past
/// the caches in turns of 128 bytes, each keeps the other's write-combining buffers from filling; bursts of
/// half a KiB let them fill (benches/record/).
const STAGE_BYTES: usize = 512;

/// A buffer aligned like the widest vector.
#[repr(align(64))]
struct Stage([u8; STAGE_BYTES]);

/// Generates P and Q of dense `data`, stored past the caches. They are made in a stage that stays in the
/// first-level cache, and the stage is then streamed out.
///
/// # Safety
/// The CPU must have V's instruction set; all strips must be equally long; `p` and `q` must be
/// [`super::fits`] for V.
#[inline(always)]
pub(crate) unsafe fn run_staged<V: Vector, const N: usize>(p: &mut [u8], q: &mut [u8], data: &[Source]) {
    let (mut stage_p, mut stage_q) = (Stage([0; STAGE_BYTES]), Stage([0; STAGE_BYTES]));
    let mut base = 0;
    while base < q.len() {
        let end = q.len().min(base + STAGE_BYTES);
        let mut kernel = QGenerate::<true, true> { p: &mut stage_p.0, q: &mut stage_q.0, data };
        // SAFETY: the caller's promises; the strips reach to `end`, the stage from `base` to there; and `end`
        // is a multiple of a vector, so nothing is left over.
        unsafe { walk::<V, N>(&mut kernel, base, end, Staged { base }) };
        for (out, stage) in [(&mut *p, &stage_p), (&mut *q, &stage_q)] {
            for at in (base..end).step_by(V::BYTES) {
                // SAFETY: the CPU is the caller's promise; a vector is left in the stage and, aligned, in
                // `out`.
                let vector: V = unsafe { Whole.load(&stage.0, at - base) };
                // SAFETY: as above.
                unsafe { Streamed.store(vector, out, at) };
            }
        }
        base = end;
    }
}
