//! The definition of every operation, one byte at a time: slow and short. Tests compare every kernel with it.
//!
//! P = sum of D_i and Q = sum of g^i * D_i, over GF(2^8) with polynomial 0x11d and g = 2. A strip that is not
//! given counts as zeros. This module shares only [`product`] and [`power`] with the kernels; tests/oracle.rs
//! compares these two, and P and Q, with another crate.
//!
//! ```
//! use parity_simd::reference;
//! let (d0, d1) = ([3, 0, 7], [4, 9, 255]);
//! let (mut p, mut q) = ([0; 3], [0; 3]);
//! reference::xor_generate(&mut p, &[&d0, &d1]);
//! reference::q_generate(&mut q, &[(0, &d0), (1, &d1)]);
//!
//! let (mut a, mut b) = ([0; 3], [0; 3]);
//! reference::recover_two((&mut a, 0), (&mut b, 1), &[], &p, &q);
//! assert_eq!((a, b), (d0, d1));
//! reference::recover_one_with_q(&mut a, 0, &[(1, &d1)], &q);
//! assert_eq!(a, d0);
//!
//! reference::xor_delta(&mut p, &d0, &d1);
//! reference::q_delta(&mut q, 0, &d0, &d1);
//! assert_eq!(p, [0; 3]); // both strips are d1 now
//! let mut sum = q;
//! reference::multiply_accumulate(&mut sum, 1 ^ 2, &d1);
//! assert_eq!(sum, [0; 3]); // and q is d1 + 2 * d1
//! ```

use crate::field::{inverse, power, product};

/// Sets `p` to the XOR of `data`.
pub fn xor_generate(p: &mut [u8], data: &[&[u8]]) {
    for (at, p) in p.iter_mut().enumerate() {
        *p = data.iter().fold(0, |sum, strip| sum ^ strip[at]);
    }
}

/// Sets `q` to the sum of g^index * strip.
pub fn q_generate(q: &mut [u8], data: &[(u8, &[u8])]) {
    for (at, q) in q.iter_mut().enumerate() {
        *q = data.iter().fold(0, |sum, (index, strip)| sum ^ product(power(*index), strip[at]));
    }
}

/// Updates `p` for a strip that changes: `p` ^= `old` ^ `new`.
pub fn xor_delta(p: &mut [u8], old: &[u8], new: &[u8]) {
    for (at, p) in p.iter_mut().enumerate() {
        *p ^= old[at] ^ new[at];
    }
}

/// Updates `q` for strip `index`, which changes: `q` ^= g^`index` * (`old` ^ `new`).
pub fn q_delta(q: &mut [u8], index: u8, old: &[u8], new: &[u8]) {
    for (at, q) in q.iter_mut().enumerate() {
        *q ^= product(power(index), old[at] ^ new[at]);
    }
}

/// Adds `factor` * `source` to `out`.
pub fn multiply_accumulate(out: &mut [u8], factor: u8, source: &[u8]) {
    for (at, out) in out.iter_mut().enumerate() {
        *out ^= product(factor, source[at]);
    }
}

/// Recovers the lost strip `index` from the other data strips and Q.
pub fn recover_one_with_q(out: &mut [u8], index: u8, present: &[(u8, &[u8])], q: &[u8]) {
    q_generate(out, present);
    for (at, out) in out.iter_mut().enumerate() {
        *out = product(inverse(power(index)), *out ^ q[at]);
    }
}

/// Recovers the lost strips `a.1` and `b.1` from the other data strips, P and Q: two equations in two
/// unknowns.
pub fn recover_two(a: (&mut [u8], u8), b: (&mut [u8], u8), present: &[(u8, &[u8])], p: &[u8], q: &[u8]) {
    let ((out_a, a), (out_b, b)) = (a, b);
    for at in 0..out_a.len() {
        let p = present.iter().fold(p[at], |sum, (_, strip)| sum ^ strip[at]);
        let q = present.iter().fold(q[at], |sum, (index, strip)| sum ^ product(power(*index), strip[at]));
        // a + b = p and g^a * a + g^b * b = q; the first times g^a, plus the second, leaves (g^a + g^b) * b.
        out_b[at] = product(product(power(a), p) ^ q, inverse(power(a) ^ power(b)));
        out_a[at] = p ^ out_b[at];
    }
}
