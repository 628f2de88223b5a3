//! The parity functions a byte at a time: stands in for `parity-simd` until that crate has them.

/// Multiplication in GF(2^8) with polynomial 0x11d.
fn mul(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = (a << 1) ^ if a & 0x80 != 0 { 0x1d } else { 0 };
        b >>= 1;
    }
    product
}

fn pow2(index: u8) -> u8 {
    (0..index).fold(1, |power, _| mul(power, 2))
}

fn inverse(a: u8) -> u8 {
    (1..=255).find(|b| mul(a, *b) == 1).expect("not zero")
}

/// `out ^= coefficient * data`.
fn add(out: &mut [u8], coefficient: u8, data: &[u8]) {
    let table: [u8; 256] = std::array::from_fn(|byte| mul(coefficient, byte as u8));
    out.iter_mut().zip(data).for_each(|(out, data)| *out ^= table[*data as usize]);
}

pub fn xor_generate(p: &mut [u8], data: &[&[u8]]) {
    p.fill(0);
    data.iter().for_each(|data| add(p, 1, data));
}

pub fn pq_generate(p: &mut [u8], q: &mut [u8], data: &[(u8, &[u8])]) {
    p.fill(0);
    data.iter().for_each(|(_, data)| add(p, 1, data));
    q_generate(q, data);
}

pub fn q_generate(q: &mut [u8], data: &[(u8, &[u8])]) {
    q.fill(0);
    data.iter().for_each(|(index, data)| add(q, pow2(*index), data));
}

pub fn xor_delta(p: &mut [u8], old: &[u8], new: &[u8]) {
    add(p, 1, old);
    add(p, 1, new);
}

pub fn pq_delta(p: &mut [u8], q: &mut [u8], index: u8, old: &[u8], new: &[u8]) {
    xor_delta(p, old, new);
    q_delta(q, index, old, new);
}

pub fn q_delta(q: &mut [u8], index: u8, old: &[u8], new: &[u8]) {
    add(q, pow2(index), old);
    add(q, pow2(index), new);
}

pub fn recover_one_with_p(out: &mut [u8], present: &[&[u8]], p: &[u8]) {
    out.copy_from_slice(p);
    present.iter().for_each(|data| add(out, 1, data));
}

pub fn recover_one_with_q(out: &mut [u8], index: u8, present: &[(u8, &[u8])], q: &[u8]) {
    q_generate(out, present);
    add(out, 1, q);
    scale(out, inverse(pow2(index)));
}

pub fn recover_two(a: (&mut [u8], u8), b: (&mut [u8], u8), present: &[(u8, &[u8])], p: &[u8], q: &[u8]) {
    let ((out_a, a), (out_b, b)) = (a, b);
    // With the present strips taken away: P' = A + B, Q' = 2^a A + 2^b B, so
    // A = (Q' + 2^b P') / (2^a + 2^b) and B = P' + A.
    pq_generate(out_b, out_a, present);
    add(out_b, 1, p);
    add(out_a, 1, q);
    add(out_a, pow2(b), out_b);
    scale(out_a, inverse(pow2(a) ^ pow2(b)));
    add(out_b, 1, out_a);
}

fn scale(out: &mut [u8], coefficient: u8) {
    out.iter_mut().for_each(|byte| *byte = mul(coefficient, *byte));
}
