//! The definition, a byte at a time. Slow, short, and the oracle of every kernel.
//!
//! P = sum of D_i, Q = sum of g^i * D_i, over GF(2^8) with polynomial 0x11d and g = 2; a strip that is not given
//! counts as zeros. Nothing here shares code with the kernels except the field's [`product`] and [`power`], and
//! those are held to a third party's definition in tests/oracle.rs.

use crate::field::{inverse, power, product};

/// `p` = XOR of `data`.
pub fn xor_generate(p: &mut [u8], data: &[&[u8]]) {
    for (at, p) in p.iter_mut().enumerate() {
        *p = data.iter().fold(0, |sum, strip| sum ^ strip[at]);
    }
}

/// `q` = sum of g^index * strip.
pub fn q_generate(q: &mut [u8], data: &[(u8, &[u8])]) {
    for (at, q) in q.iter_mut().enumerate() {
        *q = data.iter().fold(0, |sum, (index, strip)| sum ^ product(power(*index), strip[at]));
    }
}

/// `p` ^= `old` ^ `new`.
pub fn xor_delta(p: &mut [u8], old: &[u8], new: &[u8]) {
    for (at, p) in p.iter_mut().enumerate() {
        *p ^= old[at] ^ new[at];
    }
}

/// `q` ^= g^`index` * (`old` ^ `new`).
pub fn q_delta(q: &mut [u8], index: u8, old: &[u8], new: &[u8]) {
    for (at, q) in q.iter_mut().enumerate() {
        *q ^= product(power(index), old[at] ^ new[at]);
    }
}

/// `out` ^= `factor` * `source`.
pub fn multiply_accumulate(out: &mut [u8], factor: u8, source: &[u8]) {
    for (at, out) in out.iter_mut().enumerate() {
        *out ^= product(factor, source[at]);
    }
}

/// The lost strip `index`, from the other data strips and Q.
pub fn recover_one_with_q(out: &mut [u8], index: u8, present: &[(u8, &[u8])], q: &[u8]) {
    q_generate(out, present);
    for (at, out) in out.iter_mut().enumerate() {
        *out = product(inverse(power(index)), *out ^ q[at]);
    }
}

/// The lost strips `a.1` and `b.1`, from the other data strips, P and Q: two equations in two unknowns.
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
