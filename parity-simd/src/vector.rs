//! The verbs that a kernel asks of a vector unit.
//!
//! A kernel is written once, over any [`Vector`]; arch/ has one implementation for each instruction set. A
//! value of such a type is a proof that the CPU has the instructions: the only ways to make the first one,
//! `zero` and `load`, are unsafe and demand it, so the arithmetic on values is safe to call.
//!
//! **Horner's rule, lifted.** Q is evaluated from the highest index down, q <- 2q ^ d. Doubling needs the
//! polynomial in the bytes whose top bit is set, and the cheapest byte select that AVX2 and AVX-512 have, the
//! shuffle, selects where the top bit is *clear*: it yields 2q ^ 0x1d. That constant can be absorbed for
//! good: let x be the element with 2x ^ 0x1d = x, and carry q ^ x instead of q. Then
//!
//! ```text
//!   2(q ^ x) ^ 0x1d  =  2q ^ (2x ^ 0x1d)  =  2q ^ x
//! ```
//!
//! so the carried value stays off by the same x at every step, and is put right once at the end.
//! [`Vector::lift`] and [`Vector::lower`] are those two corrections; where doubling is exact they do nothing.
//! It saves one of five operations a source and vector (compare, add, and, xor, xor becomes shuffle, add,
//! xor, xor).
#![expect(unsafe_code, reason = "declares the operations that need a CPU feature or a raw pointer")]

use crate::field::Factor;
#[cfg(any(test, target_arch = "x86_64"))]
use crate::field::{POLYNOMIAL, inverse, product};

/// The x with 2x ^ 0x1d = x, in every byte of a lifted value: 3x = 0x1d.
#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) const LIFT: u8 = product(POLYNOMIAL, inverse(3));

/// One register, or a few worked as one, of bytes in GF(2^8).
pub(crate) trait Vector: Copy {
    /// Bytes in a vector, at most [`BYTES_MAX`].
    const BYTES: usize;

    /// A constant prepared for [`Vector::multiply`].
    type Multiplier: Copy;

    /// All zeros.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn zero() -> Self;

    /// `BYTES` bytes from any alignment.
    ///
    /// # Safety
    /// The CPU has the instruction set; `from` is readable for `BYTES`.
    unsafe fn load(from: *const u8) -> Self;

    /// `BYTES` bytes to any alignment.
    ///
    /// # Safety
    /// `to` is writable for `BYTES`.
    unsafe fn store(self, to: *mut u8);

    /// As `store`, past the caches where the CPU can. See [`Vector::drain`].
    ///
    /// # Safety
    /// As for `store`, and `to` is aligned to `BYTES`.
    #[inline(always)]
    unsafe fn stream(self, to: *mut u8) {
        // SAFETY: the caller's promise, which is stronger.
        unsafe { self.store(to) }
    }

    /// Orders streamed stores before every later store, as ordinary ones are: to be called before a kernel
    /// returns, or a device could be told of parity that is still in a write-combining buffer.
    #[inline(always)]
    fn drain() {}

    /// The sum of two.
    fn xor(self, other: Self) -> Self;

    /// The sum of three; one instruction on AVX-512.
    #[inline(always)]
    fn xor3(self, second: Self, third: Self) -> Self {
        self.xor(second).xor(third)
    }

    /// A value as Horner's rule carries it. See the head of this file.
    #[inline(always)]
    fn lift(self) -> Self {
        self
    }

    /// Undoes [`Vector::lift`].
    #[inline(always)]
    fn lower(self) -> Self {
        self
    }

    /// 2 * self, on a lifted value.
    fn double(self) -> Self;

    /// 2 * self ^ `next`: one step of Horner's rule, on a lifted value.
    #[inline(always)]
    fn step(self, next: Self) -> Self {
        self.double().xor(next)
    }

    /// Two steps: 4 * self ^ 2 * `high` ^ `low`, on a lifted value.
    #[inline(always)]
    fn step2(self, high: Self, low: Self) -> Self {
        self.step(high).step(low)
    }

    /// Prepares `factor`; `self` only proves that the CPU can.
    fn multiplier(self, factor: &Factor) -> Self::Multiplier;

    /// self * factor, on a value that is not lifted.
    fn multiply(self, by: Self::Multiplier) -> Self;
}

/// The widest vector there is: AVX-512.
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
