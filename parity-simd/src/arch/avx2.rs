//! AVX2, with and without GFNI: 32 bytes per register, 16 registers.
//!
//! The two share everything except multiplication and doubling. Without GFNI, multiplication is two 16-entry
//! shuffles, and doubling is the lifted kind (see vector.rs). With GFNI, each of the two is one gf2p8affineqb
//! by a bit matrix, and exact. (gf2p8mulb is of no use here: its polynomial is 0x11b, that of AES.)
#![expect(unsafe_code, reason = "AVX2 intrinsics; a value of a vector type proves the feature")]

use core::arch::x86_64::*;

use super::table;
use crate::field::{Factor, POLYNOMIAL, matrix};
use crate::vector::{LIFT, Vector};

/// A vector of 32 bytes under AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256i);

impl Avx2 {
    #[inline(always)]
    fn splat(self, byte: u8) -> __m256i {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_set1_epi8(byte as i8) }
    }
}

impl Vector for Avx2 {
    const BYTES: usize = 32;
    /// Products of the low nibble, and of the high nibble, each in both halves of a register.
    type Multiplier = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise: the CPU has AVX2.
        Avx2(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller's promise: AVX2, and 32 readable bytes; loadu asks for no alignment.
        Avx2(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller's promise: 32 writable bytes; storeu asks for no alignment.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller's promise: 32 writable bytes, aligned to 32; `drain` fences.
        unsafe { _mm256_stream_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    fn drain() {
        // SAFETY: every x86-64 has SSE.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX2.
        Avx2(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    fn lift(self) -> Self {
        self.xor(Avx2(self.splat(LIFT)))
    }

    #[inline(always)]
    fn lower(self) -> Self {
        self.lift()
    }

    #[inline(always)]
    fn double(self) -> Self {
        // SAFETY: `self` exists, so the CPU has AVX2, for all of these.
        let twice = unsafe { _mm256_add_epi8(self.0, self.0) };
        // An index with its top bit set selects zero; any other selects an entry, and all entries are 0x1d.
        // SAFETY: as above.
        let select = unsafe { _mm256_shuffle_epi8(self.splat(POLYNOMIAL), self.0) };
        // SAFETY: as above.
        Avx2(unsafe { _mm256_xor_si256(twice, select) })
    }

    #[inline(always)]
    fn multiplier(self, factor: &Factor) -> Self::Multiplier {
        // SAFETY: `self` exists, so the CPU has AVX2; the table is 16 bytes. So for all of these.
        let low = unsafe { _mm_loadu_si128(factor.low.as_ptr().cast()) };
        // SAFETY: as above.
        let high = unsafe { _mm_loadu_si128(factor.high.as_ptr().cast()) };
        // SAFETY: as above.
        let low = unsafe { _mm256_broadcastsi128_si256(low) };
        // SAFETY: as above.
        let high = unsafe { _mm256_broadcastsi128_si256(high) };
        (low, high)
    }

    #[inline(always)]
    fn multiply(self, (low, high): Self::Multiplier) -> Self {
        let nibble = self.splat(0x0f);
        // SAFETY: `self` exists, so the CPU has AVX2, for all of these.
        let low_index = unsafe { _mm256_and_si256(self.0, nibble) };
        // The shift works on 64-bit lanes; bits that cross the border of a byte are masked away.
        // SAFETY: as above.
        let shifted = unsafe { _mm256_srli_epi64::<4>(self.0) };
        // SAFETY: as above.
        let high_index = unsafe { _mm256_and_si256(shifted, nibble) };
        // SAFETY: as above.
        let low = unsafe { _mm256_shuffle_epi8(low, low_index) };
        // SAFETY: as above.
        let high = unsafe { _mm256_shuffle_epi8(high, high_index) };
        // SAFETY: as above.
        Avx2(unsafe { _mm256_xor_si256(low, high) })
    }
}

/// A vector of 32 bytes under AVX2 and GFNI.
#[derive(Clone, Copy)]
pub(super) struct Avx2Gfni(Avx2);

impl Avx2Gfni {
    /// Multiplies by the constant whose matrix is in every quadword of `by`.
    #[inline(always)]
    fn affine(self, by: __m256i) -> Self {
        // SAFETY: `self` exists, so the CPU has GFNI and AVX2.
        Avx2Gfni(Avx2(unsafe { _mm256_gf2p8affine_epi64_epi8::<0>(self.0.0, by) }))
    }

    #[inline(always)]
    fn splat_matrix(self, matrix: u64) -> __m256i {
        // SAFETY: `self` exists, so the CPU has AVX2.
        unsafe { _mm256_set1_epi64x(matrix as i64) }
    }
}

impl Vector for Avx2Gfni {
    const BYTES: usize = 32;
    type Multiplier = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise: the CPU has AVX2 (and GFNI).
        Avx2Gfni(unsafe { Avx2::zero() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller's promise: AVX2 (and GFNI), and 32 readable bytes.
        Avx2Gfni(unsafe { Avx2::load(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller's promise: 32 writable bytes.
        unsafe { self.0.store(to) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller's promise: 32 writable bytes, aligned to 32; `drain` fences.
        unsafe { self.0.stream(to) }
    }

    #[inline(always)]
    fn drain() {
        Avx2::drain();
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        Avx2Gfni(self.0.xor(other.0))
    }

    #[inline(always)]
    fn double(self) -> Self {
        self.affine(self.splat_matrix(const { matrix(2) }))
    }

    #[inline(always)]
    fn multiplier(self, factor: &Factor) -> __m256i {
        self.splat_matrix(factor.matrix)
    }

    #[inline(always)]
    fn multiply(self, by: __m256i) -> Self {
        self.affine(by)
    }
}

table!(PLAIN, "avx2", Avx2, || is_x86_feature_detected!("avx2"), xor: 8, q: 4,
       #[target_feature(enable = "avx2")]);

table!(GFNI, "avx2-gfni", Avx2Gfni,
       || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni"), xor: 8, q: 4,
       #[target_feature(enable = "avx2,gfni")]);
