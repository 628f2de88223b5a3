//! Recovery of lost data strips from the remaining strips.
//!
//! One lost strip with P is an XOR and needs no kernel of its own ([`super::generate::XorGenerate`]). The
//! other two cases sum the present strips as generation does, add the parity that was read, and solve, all in
//! registers:
//!
//! ```text
//!   a lost, P lost:   q' = q + sum g^i D_i = g^a D_a            D_a = q' / g^a
//!   a and b lost:     p' = p + sum D_i     = D_a + D_b
//!                     q' = q + sum g^i D_i = g^a D_a + g^b D_b
//!                     D_b = (g^a p' + q') / (g^a + g^b)          D_a = p' + D_b
//! ```
#![expect(unsafe_code, reason = "calls kernel blocks whose bounds `run` argues")]

use super::generate::{Source, sums};
use super::{Kernel, Transfer, load, store};
use crate::field::Factor;
use crate::vector::Vector;

/// Computes `out` = `scale` * (`q` + the Q sum of `present`).
pub(crate) struct RecoverOneWithQ<'a> {
    pub out: &'a mut [u8],
    pub scale: &'a Factor,
    pub present: &'a [Source<'a>],
    pub q: &'a [u8],
}

impl Kernel for RecoverOneWithQ<'_> {
    #[inline(always)]
    unsafe fn block<V: Vector, const N: usize, T: Transfer>(&mut self, at: usize, transfer: T) {
        // SAFETY: the caller's promises, for the sums, the load and the store: all strips are equally long.
        let (_, mut sum) = unsafe { sums::<V, N, false, false>(self.present, at, transfer) };
        // SAFETY: as above.
        let q: [V; N] = unsafe { load(transfer, self.q, at) };
        let scale = q[0].multiplier(self.scale);
        for lane in 0..N {
            sum[lane] = sum[lane].xor(q[lane]).multiply(scale);
        }
        // SAFETY: as above.
        unsafe { store(transfer, sum, self.out, at) };
    }
}

/// Computes `out_b` = `scale_p` * p' + `scale_q` * q' and `out_a` = p' + `out_b`, in the notation of the top
/// of this file.
pub(crate) struct RecoverTwo<'a> {
    pub out_a: &'a mut [u8],
    pub out_b: &'a mut [u8],
    /// The factor g^a / (g^a + g^b).
    pub scale_p: &'a Factor,
    /// The factor 1 / (g^a + g^b).
    pub scale_q: &'a Factor,
    pub present: &'a [Source<'a>],
    pub p: &'a [u8],
    pub q: &'a [u8],
}

impl Kernel for RecoverTwo<'_> {
    #[inline(always)]
    unsafe fn block<V: Vector, const N: usize, T: Transfer>(&mut self, at: usize, transfer: T) {
        // SAFETY: the caller's promises, for the sums, the loads and the stores: all strips are equally long.
        let (mut a, mut b) = unsafe { sums::<V, N, true, false>(self.present, at, transfer) };
        // SAFETY: as above.
        let p: [V; N] = unsafe { load(transfer, self.p, at) };
        // SAFETY: as above.
        let q: [V; N] = unsafe { load(transfer, self.q, at) };
        let scale_p = p[0].multiplier(self.scale_p);
        let scale_q = p[0].multiplier(self.scale_q);
        for lane in 0..N {
            let p = p[lane].xor(a[lane]);
            let q = q[lane].xor(b[lane]);
            b[lane] = p.multiply(scale_p).xor(q.multiply(scale_q));
            a[lane] = p.xor(b[lane]);
        }
        // SAFETY: as above.
        unsafe { store(transfer, a, self.out_a, at) };
        // SAFETY: as above.
        unsafe { store(transfer, b, self.out_b, at) };
    }
}
