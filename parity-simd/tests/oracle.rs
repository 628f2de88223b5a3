//! Compares the definition itself, and random whole stripes, with another implementation: the crate gf256,
//! whose RAID-6 is `P = sum D_i, Q = sum g^i D_i` with the polynomial and generator of Linux.

use gf256::raid::raid6;
use parity_simd::{kernels_available, product, reference};
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn product_is_theirs() {
    for left in 0..=255 {
        for right in 0..=255 {
            let theirs = gf256::gf256::new(left) * gf256::gf256::new(right);
            assert_eq!(product(left, right), u8::from(theirs), "{left} * {right}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Compares generation, update and repair with gf256, for every set of kernels.
    #[test]
    fn stripes_are_theirs(
        width in 2..=30usize,
        bytes in 1..700usize,
        seed in vec(any::<u8>(), 997),
        change in vec(any::<u8>(), 700),
        picks in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let byte = |strip: usize, at: usize| seed[(strip * 31 + at * 7) % 997] ^ strip as u8;
        let mut data: Vec<Vec<u8>> =
            (0..width).map(|strip| (0..bytes).map(|at| byte(strip, at)).collect()).collect();
        let (mut their_p, mut their_q) = (vec![0; bytes], vec![0; bytes]);
        raid6::format(&data, &mut their_p, &mut their_q);
        let (mut reference_p, mut reference_q) = (vec![0; bytes], vec![0; bytes]);
        let sources: Vec<(u8, &[u8])> = (0..).zip(data.iter().map(Vec::as_slice)).collect();
        let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        reference::xor_generate(&mut reference_p, &slices);
        reference::q_generate(&mut reference_q, &sources);
        prop_assert_eq!(&reference_p, &their_p);
        prop_assert_eq!(&reference_q, &their_q);

        let changed = picks.0.index(width);
        let (mut updated_p, mut updated_q) = (their_p.clone(), their_q.clone());
        raid6::update(changed, &data[changed], &change[..bytes], &mut updated_p, &mut updated_q);
        for kernels in &kernels_available() {
            let (mut p, mut q) = (vec![1; bytes], vec![2; bytes]);
            kernels.pq_generate(&mut p, &mut q, &sources);
            prop_assert_eq!(&p, &their_p, "{}", kernels);
            prop_assert_eq!(&q, &their_q, "{}", kernels);
            kernels.pq_delta(&mut p, &mut q, changed as u8, &data[changed], &change[..bytes]);
            prop_assert_eq!(&p, &updated_p, "{}", kernels);
            prop_assert_eq!(&q, &updated_q, "{}", kernels);
        }

        let (a, b) = (picks.0.index(width), picks.1.index(width));
        prop_assume!(a != b);
        let present: Vec<(u8, &[u8])> = sources
            .iter().copied().filter(|(index, _)| usize::from(*index) != a && usize::from(*index) != b).collect();
        let mut ours = Vec::new();
        for kernels in &kernels_available() {
            let (mut out_a, mut out_b) = (vec![0; bytes], vec![0; bytes]);
            kernels.recover_two((&mut out_a, a as u8), (&mut out_b, b as u8), &present, &their_p, &their_q);
            ours.push((out_a, out_b));
        }
        data[a].fill(0);
        data[b].fill(0);
        raid6::repair(&mut data, &mut their_p, &mut their_q, &[a, b]).expect("two losses can be repaired");
        for (out_a, out_b) in ours {
            prop_assert_eq!(&out_a, &data[a]);
            prop_assert_eq!(&out_b, &data[b]);
        }
    }
}
