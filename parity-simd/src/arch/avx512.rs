//! AVX-512 (F and BW), with and without GFNI: 64 bytes per register, 32 registers.
//!
//! vpternlogq adds three values in one instruction. Its immediate is the truth table of the result over the
//! bits of first, second and third: 0x96 = 1001_0110 has a bit set where an odd number of them is set. So P
//! costs half an operation per source, and the lifted step 2q ^ d costs three: shuffle, add, ternary. With
//! GFNI, two steps of Horner's rule at once, 4q ^ 2*high ^ low, are two affine products and one ternary: one
//! and a half operations per source.
#![expect(unsafe_code, reason = "AVX-512 intrinsics; a value of a vector type proves the features")]

use core::arch::x86_64::*;

use super::table;
use crate::field::{Factor, POLYNOMIAL, matrix};
use crate::vector::{LIFT, Vector};

/// first ^ second ^ third, as a vpternlog truth table.
const XOR3: i32 = 0x96;

/// A vector of 64 bytes under AVX-512 F and BW.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512i);

impl Avx512 {
    #[inline(always)]
    fn splat(self, byte: u8) -> __m512i {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_set1_epi8(byte as i8) }
    }

    /// The two parts of a lifted doubling, still to be added: 2 * self without reduction, and the reduction.
    #[inline(always)]
    fn double_parts(self) -> (Self, Self) {
        // SAFETY: `self` exists, so the CPU has AVX-512BW, for both of these.
        let twice = unsafe { _mm512_add_epi8(self.0, self.0) };
        // An index with its top bit set selects zero; any other selects an entry, and all entries are 0x1d.
        // SAFETY: as above.
        let select = unsafe { _mm512_shuffle_epi8(self.splat(POLYNOMIAL), self.0) };
        (Avx512(twice), Avx512(select))
    }
}

impl Vector for Avx512 {
    const BYTES: usize = 64;
    /// Products of the low nibble, and of the high nibble, each in all four quarters of a register.
    type Multiplier = (__m512i, __m512i);

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise: the CPU has AVX-512F.
        Avx512(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller's promise: AVX-512F, and 64 readable bytes; loadu asks for no alignment.
        Avx512(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller's promise: 64 writable bytes; storeu asks for no alignment.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller's promise: 64 writable bytes, aligned to 64; `drain` fences.
        unsafe { _mm512_stream_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    fn drain() {
        // SAFETY: every x86-64 has SSE.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Avx512(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    fn xor3(self, second: Self, third: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        Avx512(unsafe { _mm512_ternarylogic_epi64::<XOR3>(self.0, second.0, third.0) })
    }

    #[inline(always)]
    fn lift(self) -> Self {
        self.xor(Avx512(self.splat(LIFT)))
    }

    #[inline(always)]
    fn lower(self) -> Self {
        self.lift()
    }

    #[inline(always)]
    fn double(self) -> Self {
        let (twice, select) = self.double_parts();
        twice.xor(select)
    }

    #[inline(always)]
    fn step(self, next: Self) -> Self {
        let (twice, select) = self.double_parts();
        twice.xor3(select, next)
    }

    #[inline(always)]
    fn multiplier(self, factor: &Factor) -> Self::Multiplier {
        // SAFETY: `self` exists, so the CPU has AVX-512F; the table is 16 bytes. So for all of these.
        let low = unsafe { _mm_loadu_si128(factor.low.as_ptr().cast()) };
        // SAFETY: as above.
        let high = unsafe { _mm_loadu_si128(factor.high.as_ptr().cast()) };
        // SAFETY: as above.
        let low = unsafe { _mm512_broadcast_i32x4(low) };
        // SAFETY: as above.
        let high = unsafe { _mm512_broadcast_i32x4(high) };
        (low, high)
    }

    #[inline(always)]
    fn multiply(self, (low, high): Self::Multiplier) -> Self {
        let nibble = self.splat(0x0f);
        // SAFETY: `self` exists, so the CPU has AVX-512BW, for all of these.
        let low_index = unsafe { _mm512_and_si512(self.0, nibble) };
        // The shift works on 64-bit lanes; bits that cross the border of a byte are masked away.
        // SAFETY: as above.
        let shifted = unsafe { _mm512_srli_epi64::<4>(self.0) };
        // SAFETY: as above.
        let high_index = unsafe { _mm512_and_si512(shifted, nibble) };
        // The shuffle looks up within each 128-bit quarter, and each quarter holds the whole table.
        // SAFETY: as above.
        let low = unsafe { _mm512_shuffle_epi8(low, low_index) };
        // SAFETY: as above.
        let high = unsafe { _mm512_shuffle_epi8(high, high_index) };
        // SAFETY: as above.
        Avx512(unsafe { _mm512_xor_si512(low, high) })
    }
}

/// A vector of 64 bytes under AVX-512 F and BW, and GFNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512Gfni(Avx512);

impl Avx512Gfni {
    /// Multiplies by the constant whose matrix is in every quadword of `by`.
    #[inline(always)]
    fn affine(self, by: __m512i) -> Self {
        // SAFETY: `self` exists, so the CPU has GFNI and AVX-512F.
        Avx512Gfni(Avx512(unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(self.0.0, by) }))
    }

    #[inline(always)]
    fn splat_matrix(self, matrix: u64) -> __m512i {
        // SAFETY: `self` exists, so the CPU has AVX-512F.
        unsafe { _mm512_set1_epi64(matrix as i64) }
    }
}

impl Vector for Avx512Gfni {
    const BYTES: usize = 64;
    type Multiplier = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise: the CPU has AVX-512F (and GFNI).
        Avx512Gfni(unsafe { Avx512::zero() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller's promise: AVX-512F (and GFNI), and 64 readable bytes.
        Avx512Gfni(unsafe { Avx512::load(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller's promise: 64 writable bytes.
        unsafe { self.0.store(to) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller's promise: 64 writable bytes, aligned to 64; `drain` fences.
        unsafe { self.0.stream(to) }
    }

    #[inline(always)]
    fn drain() {
        Avx512::drain();
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        Avx512Gfni(self.0.xor(other.0))
    }

    #[inline(always)]
    fn xor3(self, second: Self, third: Self) -> Self {
        Avx512Gfni(self.0.xor3(second.0, third.0))
    }

    #[inline(always)]
    fn double(self) -> Self {
        self.affine(self.splat_matrix(const { matrix(2) }))
    }

    #[inline(always)]
    fn step2(self, high: Self, low: Self) -> Self {
        let four_times = self.affine(self.splat_matrix(const { matrix(4) }));
        four_times.xor3(high.double(), low)
    }

    #[inline(always)]
    fn multiplier(self, factor: &Factor) -> __m512i {
        self.splat_matrix(factor.matrix)
    }

    #[inline(always)]
    fn multiply(self, by: __m512i) -> Self {
        self.affine(by)
    }
}

fn avx512_runs_here() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

table!(PLAIN, "avx512", Avx512, avx512_runs_here, xor: 4, q: 4,
       #[target_feature(enable = "avx512f,avx512bw")]);

table!(GFNI, "avx512-gfni", Avx512Gfni,
       || avx512_runs_here() && is_x86_feature_detected!("gfni"), xor: 4, q: 4,
       #[target_feature(enable = "avx512f,avx512bw,gfni")]);
