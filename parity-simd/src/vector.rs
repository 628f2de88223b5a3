//! The operations that a kernel needs from a vector unit.
//!
//! A kernel is written once, over any [`Vector`]; arch/ has one implementation for each instruction set. A
//! value of such a type proves that the CPU has the instructions: the only ways to make the first value,
//! `zero` and `load`, are unsafe and demand it. So the arithmetic on values is safe to call.
//!
//! **Horner's rule, lifted.** Q is evaluated from the highest index down: q <- 2q ^ d. Doubling must add the
//! polynomial to the bytes whose top bit is set. The cheapest byte select of AVX2 and AVX-512, the shuffle,
//! adds the polynomial where the top bit is *clear*: the result is 2q ^ 0x1d. This constant can be absorbed
//! once and for all: let x be the element with 2x ^ 0x1d = x, and carry q ^ x instead of q. Then
//!
//! ```text
//!   2(q ^ x) ^ 0x1d  =  2q ^ (2x ^ 0x1d)  =  2q ^ x
//! ```
//!
//! so the carried value is off by the same x at every step, and is corrected once at the end.
//! [`Vector::lift`] and [`Vector::lower`] are the corrections at the two ends; where doubling is exact they
//! do nothing. This saves one of five operations per source and vector (compare, add, and, xor, xor becomes
//! shuffle, add, xor, xor).
#![expect(unsafe_code, reason = "declares the operations that need a CPU feature or a raw pointer")]

use crate::field::Factor;
#[cfg(any(test, target_arch = "x86_64"))]
use crate::field::{POLYNOMIAL, inverse, product};

/// The x with 2x ^ 0x1d = x, that is 3x = 0x1d: the offset in every byte of a lifted value.
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) const LIFT: u8 = product(POLYNOMIAL, inverse(3));

/// A vector of bytes in GF(2^8): one register, or a few used as one.
pub(crate) trait Vector: Copy {
    /// Number of bytes in a vector, at most [`BYTES_MAX`].
    const BYTES: usize;

    /// A constant prepared for [`Vector::multiply`].
    type Multiplier: Copy;

    /// Returns a vector of zeros.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn zero() -> Self;

    /// Loads `BYTES` bytes from any alignment.
    ///
    /// # Safety
    /// The CPU has the instruction set; `from` is readable for `BYTES`.
    unsafe fn load(from: *const u8) -> Self;

    /// Stores `BYTES` bytes to any alignment.
    ///
    /// # Safety
    /// `to` is writable for `BYTES`.
    unsafe fn store(self, to: *mut u8);

    /// Stores like `store`, but bypasses the caches if the CPU can. See [`Vector::drain`].
    ///
    /// # Safety
    /// As for `store`, and `to` is aligned to `BYTES`.
    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller's promise, which is stronger.
        unsafe { self.store(to) }
    }

    /// Orders streamed stores before every later store, as ordinary stores are. A kernel must call this
    /// before it returns; otherwise a device could be told of parity that is still in a write-combining
    /// buffer.
    #[inline(always)]
    fn drain() {}

    /// Adds two vectors.
    fn xor(self, other: Self) -> Self;

    /// Adds three vectors; one instruction on AVX-512.
    #[inline(always)]
    fn xor3(self, second: Self, third: Self) -> Self {
        self.xor(second).xor(third)
    }

    /// Lifts a value into the form that Horner's rule carries; see the top of this file.
    #[inline(always)]
    fn lift(self) -> Self {
        self
    }

    /// Undoes [`Vector::lift`].
    #[inline(always)]
    fn lower(self) -> Self {
        self
    }

    /// Computes 2 * self, on a lifted value.
    fn double(self) -> Self;

    /// Computes 2 * self ^ `next`: one step of Horner's rule, on a lifted value.
    #[inline(always)]
    fn step(self, next: Self) -> Self {
        self.double().xor(next)
    }

    /// Computes two steps, 4 * self ^ 2 * `high` ^ `low`, on a lifted value.
    #[inline(always)]
    fn step2(self, high: Self, low: Self) -> Self {
        self.step(high).step(low)
    }

    /// Prepares `factor` for `multiply`; `self` only proves that the CPU can.
    fn multiplier(self, factor: &Factor) -> Self::Multiplier;

    /// Computes self * factor, on a value that is not lifted.
    fn multiply(self, by: Self::Multiplier) -> Self;
}

/// Number of bytes of the widest vector, that of AVX-512.
pub(crate) const BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::double;

    #[test]
    fn lift_is_the_fixed_point_of_inexact_doubling() {
        assert_eq!(double(LIFT) ^ POLYNOMIAL, LIFT);
    }
}
