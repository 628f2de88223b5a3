//! Every set of kernels that this CPU can run, against the byte-at-a-time reference.
//!
//! One `check_*` function for each verb calls the API; the shapes are data. A strip is cut from the middle of
//! a larger buffer, at its own alignment, and the bytes around every output must survive: a kernel that
//! writes past its strip fails here and does not destroy a user's data.
//!
//! The reference is computed once for each shape and compared with every set of kernels: under an emulated
//! CPU (scripts/avx512-tests) the reference is most of the work.

use parity_simd::{Kernels, kernels_available, reference};

/// Lengths around the multiples of every vector (16, 32, 64) and wide block (up to 512), and of sectors and
/// blocks.
const LENGTHS: &[usize] = &[
    0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 95, 96, 127, 128, 129, 191, 192, 255, 256, 257,
    319, 320, 383, 511, 512, 513, 640, 1023, 1024, 1025, 4095, 4096, 4097,
];

/// Value of the bytes around every output, which must be unchanged afterwards.
const GUARD: u8 = 0xa5;
const GUARD_BYTES: usize = 80;

/// Makes bytes that look random and depend only on `seed`.
fn noise(seed: usize, bytes: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// A strip that begins `skew` bytes into its buffer, with guards on both sides.
struct Strip {
    buffer: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Strip {
    fn new(content: &[u8], skew: usize) -> Strip {
        let start = GUARD_BYTES + skew % 67;
        let mut buffer = vec![GUARD; start + content.len() + GUARD_BYTES];
        buffer[start..start + content.len()].copy_from_slice(content);
        Strip { buffer, start, bytes: content.len() }
    }

    fn noise(seed: usize, bytes: usize) -> Strip {
        Strip::new(&noise(seed, bytes), seed)
    }

    /// Makes a strip `skew` bytes past an address that is aligned for every vector.
    fn aligned(bytes: usize, skew: usize) -> Strip {
        let buffer = vec![GUARD; GUARD_BYTES + 64 + skew + bytes + GUARD_BYTES];
        let past = (buffer.as_ptr() as usize + GUARD_BYTES) % 64;
        let start = GUARD_BYTES + (64 - past) + skew;
        let mut strip = Strip { buffer, start, bytes };
        strip.get_mut().copy_from_slice(&noise(24, bytes));
        strip
    }

    fn get(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.bytes]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.bytes]
    }

    #[track_caller]
    fn expect(&self, expected: &[u8], what: &str) {
        if let Some(at) = self.get().iter().zip(expected).position(|(got, expected)| got != expected) {
            panic!("{what}: byte {at} is {:#04x}, not {:#04x}", self.get()[at], expected[at]);
        }
        let guards = self.buffer[..self.start].iter().chain(&self.buffer[self.start + self.bytes..]);
        assert!(guards.copied().all(|byte| byte == GUARD), "{what}: wrote outside the strip");
    }
}

/// The data strips at `indices`, in the forms that the calls take.
struct Data {
    indices: Vec<u8>,
    strips: Vec<Strip>,
}

impl Data {
    fn new(indices: impl IntoIterator<Item = u8>, bytes: usize) -> Data {
        let indices: Vec<u8> = indices.into_iter().collect();
        let strips = indices.iter().map(|index| Strip::noise(usize::from(*index) + 1000, bytes)).collect();
        Data { indices, strips }
    }

    fn slices(&self) -> Vec<&[u8]> {
        self.strips.iter().map(Strip::get).collect()
    }

    fn sources(&self) -> Vec<(u8, &[u8])> {
        self.indices.iter().copied().zip(self.strips.iter().map(Strip::get)).collect()
    }
}

fn check_generate(data: &Data, bytes: usize) {
    let (mut expected_p, mut expected_q) = (vec![0; bytes], vec![0; bytes]);
    reference::xor_generate(&mut expected_p, &data.slices());
    reference::q_generate(&mut expected_q, &data.sources());

    for kernels in &kernels_available() {
        let what = |verb: &str| format!("{kernels}: {verb} of {:?}, {bytes} bytes", data.indices);
        let mut p = Strip::noise(3, bytes);
        kernels.xor_generate(p.get_mut(), &data.slices());
        p.expect(&expected_p, &what("xor_generate"));

        let (mut p, mut q) = (Strip::noise(4, bytes), Strip::noise(5, bytes));
        kernels.pq_generate(p.get_mut(), q.get_mut(), &data.sources());
        p.expect(&expected_p, &what("P of pq_generate"));
        q.expect(&expected_q, &what("Q of pq_generate"));

        // Streamed: both outputs aligned for every vector, neither aligned, and only one aligned.
        for (skew_p, skew_q) in [(0, 0), (1, 1), (0, 3)] {
            let (mut p, mut q) = (Strip::aligned(bytes, skew_p), Strip::aligned(bytes, skew_q));
            kernels.pq_generate_streamed(p.get_mut(), q.get_mut(), &data.sources());
            p.expect(&expected_p, &what("P of pq_generate_streamed"));
            q.expect(&expected_q, &what("Q of pq_generate_streamed"));
            let mut p = Strip::aligned(bytes, skew_p);
            kernels.xor_generate_streamed(p.get_mut(), &data.slices());
            p.expect(&expected_p, &what("xor_generate_streamed"));
        }

        let mut q = Strip::noise(6, bytes);
        kernels.q_generate(q.get_mut(), &data.sources());
        q.expect(&expected_q, &what("q_generate"));
    }
}

fn check_delta(index: u8, bytes: usize) {
    let (old, new) = (Strip::noise(7, bytes), Strip::noise(8 + usize::from(index), bytes));
    let (before_p, before_q) = (noise(9, bytes), noise(10, bytes));
    let (mut expected_p, mut expected_q) = (before_p.clone(), before_q.clone());
    reference::xor_delta(&mut expected_p, old.get(), new.get());
    reference::q_delta(&mut expected_q, index, old.get(), new.get());

    for kernels in &kernels_available() {
        let what = |verb: &str| format!("{kernels}: {verb} of {index}, {bytes} bytes");
        let mut p = Strip::new(&before_p, 11);
        kernels.xor_delta(p.get_mut(), old.get(), new.get());
        p.expect(&expected_p, &what("xor_delta"));

        let (mut p, mut q) = (Strip::new(&before_p, 12), Strip::new(&before_q, 13));
        kernels.pq_delta(p.get_mut(), q.get_mut(), index, old.get(), new.get());
        p.expect(&expected_p, &what("P of pq_delta"));
        q.expect(&expected_q, &what("Q of pq_delta"));

        let mut q = Strip::new(&before_q, 14);
        kernels.q_delta(q.get_mut(), index, old.get(), new.get());
        q.expect(&expected_q, &what("q_delta"));
    }
}

fn check_multiply(factor: u8, bytes: usize) {
    // Every byte value occurs at least once, if there is room.
    let source: Vec<u8> = (0..bytes).map(|at| (at * 131) as u8).collect();
    let (source, before) = (Strip::new(&source, 15), noise(16, bytes));
    let mut expected = before.clone();
    reference::multiply_accumulate(&mut expected, factor, source.get());
    for kernels in &kernels_available() {
        let mut out = Strip::new(&before, 17);
        kernels.multiply_accumulate(out.get_mut(), factor, source.get());
        out.expect(&expected, &format!("{kernels}: multiply_accumulate by {factor}, {bytes} bytes"));
    }
}

/// Loses every data strip of `data` alone, and every pair, and recovers them in every possible way.
fn check_recovery(data: &Data, bytes: usize) {
    let (mut p, mut q) = (Strip::noise(18, bytes), Strip::noise(19, bytes));
    reference::xor_generate(p.get_mut(), &data.slices());
    reference::q_generate(q.get_mut(), &data.sources());
    for kernels in &kernels_available() {
        recover_from(kernels, data, p.get(), q.get());
    }
}

/// Recovers with the given kernels and parity; called by `check_recovery`.
fn recover_from(kernels: &Kernels, data: &Data, p: &[u8], q: &[u8]) {
    let bytes = p.len();
    for (a, &index_a) in data.indices.iter().enumerate() {
        let what = |verb: &str| format!("{kernels}: {verb}, {index_a} of {:?}, {bytes} bytes", data.indices);
        let lost_a = data.strips[a].get();
        let mut present = data.sources();
        present.remove(a);
        let slices: Vec<&[u8]> = present.iter().map(|source| source.1).collect();

        let mut out = Strip::noise(20, bytes);
        kernels.recover_one_with_p(out.get_mut(), &slices, p);
        out.expect(lost_a, &what("recover_one_with_p"));

        let mut out = Strip::noise(21, bytes);
        kernels.recover_one_with_q(out.get_mut(), index_a, &present, q);
        out.expect(lost_a, &what("recover_one_with_q"));

        for (b, &index_b) in data.indices.iter().enumerate().filter(|(b, _)| *b != a) {
            let mut present = data.sources();
            present.retain(|(index, _)| *index != index_a && *index != index_b);
            let (mut out_a, mut out_b) = (Strip::noise(22, bytes), Strip::noise(23, bytes));
            kernels.recover_two((out_a.get_mut(), index_a), (out_b.get_mut(), index_b), &present, p, q);
            out_a.expect(lost_a, &what(&format!("recover_two with {index_b}")));
            out_b.expect(data.strips[b].get(), &what(&format!("recover_two, {index_b} with")));
        }
    }
}

/// Names the kernels that the other tests check; scripts/avx512-tests reads the output.
#[test]
fn names_of_what_is_tested() {
    let available = kernels_available();
    for kernels in &available {
        println!("kernels tested: {kernels}");
    }
    assert_eq!(available.last().map(|kernels| kernels.name_q()), Some("portable"));
}

#[test]
fn generate_every_width_and_length() {
    for width in 0..=32 {
        for &bytes in LENGTHS {
            check_generate(&Data::new(0..width, bytes), bytes);
        }
    }
}

/// Checks sizes around the one from which parity is stored past the caches.
#[test]
fn generate_large() {
    for (width, bytes) in [(4, 65_535), (4, 65_536), (4, 65_568), (3, 87_360), (3, 87_424), (9, 65_536)] {
        check_generate(&Data::new(0..width, bytes), bytes);
    }
    check_generate(&Data::new([1, 3, 4, 9], 65_536), 65_536);
}

#[test]
fn generate_subsets() {
    let subsets: &[&[u8]] = &[
        &[1],
        &[5],
        &[254],
        &[0, 2],
        &[1, 2],
        &[0, 1, 3],
        &[0, 3, 6],
        &[2, 5, 9, 10],
        &[0, 4, 5, 6, 7, 29],
        &[7, 100, 254],
        // Sources in any order are valid.
        &[1, 0],
        &[3, 0, 2, 1],
        &[9, 4, 30, 0],
    ];
    for subset in subsets {
        for &bytes in LENGTHS {
            check_generate(&Data::new(subset.iter().copied(), bytes), bytes);
        }
    }
}

#[test]
fn generate_all_255_strips() {
    check_generate(&Data::new(0..=254, 321), 321);
    check_generate(&Data::new((0..=254).rev(), 321), 321);
}

#[test]
fn delta_every_index_and_length() {
    for index in 0..=254 {
        check_delta(index, 257);
    }
    for &bytes in LENGTHS {
        check_delta(3, bytes);
    }
}

#[test]
fn multiply_every_factor_and_length() {
    for factor in 0..=255 {
        check_multiply(factor, 257);
    }
    for &bytes in LENGTHS {
        check_multiply(0x8e, bytes);
    }
}

#[test]
fn recover_every_loss() {
    for width in 1..=30 {
        check_recovery(&Data::new(0..width, 193), 193);
    }
    for &bytes in LENGTHS {
        check_recovery(&Data::new(0..4, bytes), bytes);
    }
    // The strips that are left out of the stripe are known to be zeros.
    check_recovery(&Data::new([0, 3, 4, 11, 254], 515), 515);
}

#[test]
fn reference_recovers_what_it_lost() {
    let data = Data::new(0..5, 300);
    let (mut p, mut q) = (vec![0; 300], vec![0; 300]);
    reference::xor_generate(&mut p, &data.slices());
    reference::q_generate(&mut q, &data.sources());
    let (mut one, mut two) = (vec![0; 300], vec![0; 300]);
    let present = data.sources();
    reference::recover_two((&mut one, 1), (&mut two, 3), &[present[0], present[2], present[4]], &p, &q);
    assert_eq!((&one[..], &two[..]), (present[1].1, present[3].1));
    reference::recover_one_with_q(&mut one, 4, &present[..4], &q);
    assert_eq!(one, present[4].1);
}

/// Checks the free functions, on the kernels chosen for this machine.
#[test]
fn free_functions_serve_the_choice() {
    let data = Data::new(0..3, 100);
    let (mut p, mut q) = (vec![0; 100], vec![0; 100]);
    let (mut expected_p, mut expected_q) = (vec![0; 100], vec![0; 100]);
    reference::xor_generate(&mut expected_p, &data.slices());
    reference::q_generate(&mut expected_q, &data.sources());
    parity_simd::xor_generate(&mut p, &data.slices());
    parity_simd::q_generate(&mut q, &data.sources());
    assert_eq!((&p, &q), (&expected_p, &expected_q));

    let change = noise(1, 100);
    let sources = data.sources();
    parity_simd::pq_delta(&mut p, &mut q, 1, sources[1].1, &change);
    let changed = [sources[0], (1, &change[..]), sources[2]];
    parity_simd::pq_generate(&mut expected_p, &mut expected_q, &changed);
    assert_eq!((&p, &q), (&expected_p, &expected_q));

    let (mut one, mut two) = (vec![0; 100], vec![0; 100]);
    parity_simd::recover_two((&mut one, 1), (&mut two, 0), &[sources[2]], &p, &q);
    assert_eq!((&one[..], &two[..]), (&change[..], sources[0].1));
    parity_simd::recover_one_with_p(&mut one, &[sources[0].1, sources[2].1], &p);
    assert_eq!(one, change);
    parity_simd::recover_one_with_q(&mut one, 2, &changed[..2], &q);
    assert_eq!(one, sources[2].1);
    parity_simd::xor_delta(&mut p, &change, sources[1].1);
    parity_simd::q_delta(&mut q, 1, &change, sources[1].1);
    parity_simd::pq_generate(&mut expected_p, &mut expected_q, &sources);
    assert_eq!((&p, &q), (&expected_p, &expected_q));
    parity_simd::multiply_accumulate(&mut q, 1, &expected_q);
    assert_eq!(q, [0; 100]);
}
