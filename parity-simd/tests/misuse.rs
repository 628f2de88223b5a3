//! A misuse that only a bug of the caller can cause panics, in release too, and the message says what was
//! wrong.

use parity_simd::{pq_delta, pq_generate, recover_one_with_q, recover_two, xor_delta, xor_generate};

const ONE: &[u8] = &[1; 64];
const SHORT: &[u8] = &[1; 63];

#[test]
#[should_panic(expected = "differ in length: 63 and 64 bytes")]
fn a_short_data_strip() {
    xor_generate(&mut [0; 64], &[ONE, ONE, SHORT]);
}

#[test]
#[should_panic(expected = "differ in length: 64 and 63 bytes")]
fn a_short_output() {
    pq_generate(&mut [0; 64], &mut [0; 63], &[(0, ONE), (1, ONE)]);
}

#[test]
#[should_panic(expected = "differ in length")]
fn a_short_old_strip() {
    xor_delta(&mut [0; 64], SHORT, ONE);
}

#[test]
#[should_panic(expected = "data strip 1 is given twice")]
fn an_index_twice() {
    pq_generate(&mut [0; 64], &mut [0; 64], &[(0, ONE), (1, ONE), (1, ONE)]);
}

#[test]
#[should_panic(expected = "data index 255 is past 254")]
fn an_index_without_a_coefficient() {
    pq_generate(&mut [0; 64], &mut [0; 64], &[(0, ONE), (255, ONE)]);
}

#[test]
#[should_panic(expected = "data index 255 is past 254")]
fn a_delta_without_a_coefficient() {
    pq_delta(&mut [0; 64], &mut [0; 64], 255, ONE, ONE);
}

#[test]
#[should_panic(expected = "data strip 2 is both lost and present")]
fn lost_and_present() {
    recover_one_with_q(&mut [0; 64], 2, &[(0, ONE), (2, ONE)], ONE);
}

#[test]
#[should_panic(expected = "two lost strips have one index")]
fn lost_twice() {
    recover_two((&mut [0; 64], 2), (&mut [0; 64], 2), &[(0, ONE)], ONE, ONE);
}
