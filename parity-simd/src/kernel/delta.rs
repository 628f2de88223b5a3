//! The update of parity by a read-modify-write: adds the change of one data strip.
//!
//! The change is `old ^ new`. P takes the change as it is, Q takes it times g^index. Multiplication by a
//! constant is the same kernel with the source in place of the change.
#![expect(unsafe_code, reason = "calls kernel blocks whose bounds `run` argues")]

use super::{Kernel, Transfer, load, store};
use crate::field::Factor;
use crate::vector::Vector;

/// Computes `p` ^= `old` ^ `new`.
pub(crate) struct XorDelta<'a> {
    pub p: &'a mut [u8],
    pub old: &'a [u8],
    pub new: &'a [u8],
}

impl Kernel for XorDelta<'_> {
    #[inline(always)]
    unsafe fn block<V: Vector, const N: usize, T: Transfer>(&mut self, at: usize, transfer: T) {
        // SAFETY: the caller's promises, for the three loads and the store: all strips are equally long.
        let mut p: [V; N] = unsafe { load(transfer, self.p, at) };
        // SAFETY: as above.
        let old: [V; N] = unsafe { load(transfer, self.old, at) };
        // SAFETY: as above.
        let new: [V; N] = unsafe { load(transfer, self.new, at) };
        for lane in 0..N {
            p[lane] = p[lane].xor3(old[lane], new[lane]);
        }
        // SAFETY: as above.
        unsafe { store(transfer, p, self.p, at) };
    }
}

/// Computes `q` ^= `factor` * (`old` ^ `new`), and `p` ^= `old` ^ `new` if `P`; without `P`, `p` is empty and
/// untouched.
pub(crate) struct QDelta<'a, const P: bool> {
    pub p: &'a mut [u8],
    pub q: &'a mut [u8],
    pub factor: &'a Factor,
    pub old: &'a [u8],
    pub new: &'a [u8],
}

impl<const P: bool> Kernel for QDelta<'_, P> {
    #[inline(always)]
    unsafe fn block<V: Vector, const N: usize, T: Transfer>(&mut self, at: usize, transfer: T) {
        // SAFETY: the caller's promises, for all loads and stores here: all strips are equally long.
        let mut change: [V; N] = unsafe { load(transfer, self.old, at) };
        // SAFETY: as above.
        let new: [V; N] = unsafe { load(transfer, self.new, at) };
        for lane in 0..N {
            change[lane] = change[lane].xor(new[lane]);
        }
        if P {
            // SAFETY: as above.
            let mut p: [V; N] = unsafe { load(transfer, self.p, at) };
            for lane in 0..N {
                p[lane] = p[lane].xor(change[lane]);
            }
            // SAFETY: as above.
            unsafe { store(transfer, p, self.p, at) };
        }
        // SAFETY: as above.
        unsafe { accumulate(transfer, self.q, at, self.factor, change) };
    }
}

/// Computes `out` ^= `factor` * `source`.
pub(crate) struct MultiplyAccumulate<'a> {
    pub out: &'a mut [u8],
    pub factor: &'a Factor,
    pub source: &'a [u8],
}

impl Kernel for MultiplyAccumulate<'_> {
    #[inline(always)]
    unsafe fn block<V: Vector, const N: usize, T: Transfer>(&mut self, at: usize, transfer: T) {
        // SAFETY: the caller's promises, for the loads and the store: both strips are equally long.
        let source: [V; N] = unsafe { load(transfer, self.source, at) };
        // SAFETY: as above.
        unsafe { accumulate(transfer, self.out, at, self.factor, source) };
    }
}

/// Computes `out` ^= `factor` * `terms`, at byte `at`.
///
/// # Safety
/// As for [`Kernel::block`], for `out`.
#[inline(always)]
unsafe fn accumulate<V: Vector, const N: usize>(
    transfer: impl Transfer,
    out: &mut [u8],
    at: usize,
    factor: &Factor,
    terms: [V; N],
) {
    let by = terms[0].multiplier(factor);
    // SAFETY: the caller's promise, for the load and the store.
    let mut sum: [V; N] = unsafe { load(transfer, out, at) };
    for lane in 0..N {
        sum[lane] = sum[lane].xor(terms[lane].multiply(by));
    }
    // SAFETY: as above.
    unsafe { store(transfer, sum, out, at) };
}
