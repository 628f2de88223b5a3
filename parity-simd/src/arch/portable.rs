//! Portable kernels without any vector unit: 64-bit words of eight bytes each, four at a time.
//!
//! The compiler turns the four words into the vector instructions of the target's baseline (SSE2 on x86-64).
//! For this reason the per-byte mask is made by shifts and a subtraction, as in the Linux kernel's int.uc,
//! and not by a multiplication.
#![expect(unsafe_code, reason = "unaligned loads and stores")]

use super::table;
use crate::field::{Factor, POLYNOMIAL};
use crate::vector::Vector;

const WORDS: usize = 4;
const TOP_BITS: u64 = 0x8080_8080_8080_8080;
const ALL_BYTES: u64 = 0x0101_0101_0101_0101;

/// A vector of 32 bytes.
#[derive(Clone, Copy)]
pub(super) struct Words([u64; WORDS]);

impl Words {
    /// Doubles every byte of `word` in the field.
    #[inline(always)]
    fn double_word(word: u64) -> u64 {
        let tops = word & TOP_BITS;
        // Per byte 0x80 -> 0x100 - 0x01 = 0xff: the borrow of one byte is the carry of the one below.
        let mask = (tops << 1).wrapping_sub(tops >> 7);
        ((word & !TOP_BITS) << 1) ^ (mask & (ALL_BYTES * POLYNOMIAL as u64))
    }
}

impl Vector for Words {
    const BYTES: usize = 8 * WORDS;
    type Multiplier = u8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Words([0; WORDS])
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller's promise: 32 bytes are readable; the read asks for no alignment.
        Words(unsafe { from.cast::<[u64; WORDS]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller's promise: 32 bytes are writable; the write asks for no alignment.
        unsafe { to.cast::<[u64; WORDS]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn xor(mut self, other: Self) -> Self {
        for word in 0..WORDS {
            self.0[word] ^= other.0[word];
        }
        self
    }

    #[inline(always)]
    fn double(mut self) -> Self {
        for word in 0..WORDS {
            self.0[word] = Self::double_word(self.0[word]);
        }
        self
    }

    #[inline(always)]
    fn multiplier(self, factor: &Factor) -> u8 {
        factor.value
    }

    #[inline(always)]
    fn multiply(self, by: u8) -> Self {
        let (mut sum, mut addend, mut bits) = (Words([0; WORDS]), self, by);
        while bits != 0 {
            if bits & 1 != 0 {
                sum = sum.xor(addend);
            }
            addend = addend.double();
            bits >>= 1;
        }
        sum
    }
}

table!(PLAIN, "portable", Words, || true, xor: 2, q: 2);
