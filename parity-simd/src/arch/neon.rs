//! NEON: 16 bytes per register, 32 registers. Every aarch64 CPU has it.
//!
//! Doubling is exact: the arithmetic shift right by seven, which AVX2 lacks for bytes, makes the mask.
//! Multiplication is two 16-entry table look-ups.
#![expect(unsafe_code, reason = "NEON intrinsics; a value of the vector type proves the feature")]

use core::arch::aarch64::*;

use super::table;
use crate::field::{Factor, POLYNOMIAL};
use crate::vector::Vector;

/// A vector of 16 bytes under NEON.
#[derive(Clone, Copy)]
pub(super) struct Neon(uint8x16_t);

impl Neon {
    #[inline(always)]
    fn splat(self, byte: u8) -> uint8x16_t {
        // SAFETY: `self` exists, so the CPU has NEON.
        unsafe { vdupq_n_u8(byte) }
    }
}

impl Vector for Neon {
    const BYTES: usize = 16;
    /// Products of the low nibble, and products of the high nibble.
    type Multiplier = (uint8x16_t, uint8x16_t);

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise: the CPU has NEON.
        Neon(unsafe { vdupq_n_u8(0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller's promise: NEON, and 16 readable bytes; elements of a byte ask for no alignment.
        Neon(unsafe { vld1q_u8(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller's promise: 16 writable bytes.
        unsafe { vst1q_u8(to, self.0) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: `self` exists, so the CPU has NEON.
        Neon(unsafe { veorq_u8(self.0, other.0) })
    }

    #[inline(always)]
    fn double(self) -> Self {
        // SAFETY: `self` exists, so the CPU has NEON, for all of these.
        let twice = unsafe { vshlq_n_u8::<1>(self.0) };
        // SAFETY: as above.
        let signed = unsafe { vreinterpretq_s8_u8(self.0) };
        // 0xff in every byte whose top bit is set.
        // SAFETY: as above.
        let tops = unsafe { vshrq_n_s8::<7>(signed) };
        // SAFETY: as above.
        let mask = unsafe { vreinterpretq_u8_s8(tops) };
        // SAFETY: as above.
        let reduction = unsafe { vandq_u8(mask, self.splat(POLYNOMIAL)) };
        // SAFETY: as above.
        Neon(unsafe { veorq_u8(twice, reduction) })
    }

    #[inline(always)]
    fn multiplier(self, factor: &Factor) -> Self::Multiplier {
        // SAFETY: `self` exists, so the CPU has NEON; the table is 16 bytes.
        let low = unsafe { vld1q_u8(factor.low.as_ptr()) };
        // SAFETY: as above.
        let high = unsafe { vld1q_u8(factor.high.as_ptr()) };
        (low, high)
    }

    #[inline(always)]
    fn multiply(self, (low, high): Self::Multiplier) -> Self {
        // SAFETY: `self` exists, so the CPU has NEON, for all of these.
        let low_index = unsafe { vandq_u8(self.0, self.splat(0x0f)) };
        // SAFETY: as above.
        let high_index = unsafe { vshrq_n_u8::<4>(self.0) };
        // SAFETY: as above.
        let low = unsafe { vqtbl1q_u8(low, low_index) };
        // SAFETY: as above.
        let high = unsafe { vqtbl1q_u8(high, high_index) };
        // SAFETY: as above.
        Neon(unsafe { veorq_u8(low, high) })
    }
}

table!(PLAIN, "neon", Neon, || std::arch::is_aarch64_feature_detected!("neon"), xor: 8, q: 4,
       #[target_feature(enable = "neon")]);
