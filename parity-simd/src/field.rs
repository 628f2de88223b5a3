//! The field GF(2^8) of RAID-6: polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d), generator g = 2.
//!
//! Q = sum of g^i * D_i, the same as in the Linux kernel (lib/raid6) and in ISA-L; see H. Peter Anvin, "The
//! mathematics of RAID-6". The powers of g run through all 255 nonzero elements before they repeat, so data
//! indices 0..=254 have distinct coefficients and any two lost strips can be told apart.
//!
//! All tables here are computed by the compiler. A product by a constant is linear over the bits of the other
//! operand. So it can be written in three forms, one for each kind of hardware, which a [`Factor`] keeps
//! together:
//!
//! ```text
//!   product(c, x) = low[x & 15] ^ high[x >> 4]          two 16-entry byte shuffles (AVX2, AVX-512, NEON)
//!                 = M(c) * x, an 8x8 bit matrix         one gf2p8affineqb (GFNI)
//!                 = sum of x * 2^k over the bits of c   shifts and masks (portable)
//! ```

/// The low byte of the field's polynomial; x^8 is congruent to it.
pub(crate) const POLYNOMIAL: u8 = 0x1d;

/// The highest data index. g^255 equals g^0, so index 255 would have the same coefficient as index 0.
pub const INDEX_MAX: u8 = 254;

/// Computes 2 * `value` in the field.
pub(crate) const fn double(value: u8) -> u8 {
    (value << 1) ^ if value & 0x80 != 0 { POLYNOMIAL } else { 0 }
}

/// `left` * `right` in GF(2^8), by shift and add: the definition.
///
/// ```
/// assert_eq!(parity_simd::product(2, 0x80), 0x1d); // x * x^7 = x^8, which is 0x1d modulo 0x11d
/// ```
pub const fn product(left: u8, right: u8) -> u8 {
    let (mut sum, mut addend, mut bits) = (0, left, right);
    while bits != 0 {
        if bits & 1 != 0 {
            sum ^= addend;
        }
        addend = double(addend);
        bits >>= 1;
    }
    sum
}

/// g^`exponent`: the coefficient of data strip `exponent` in Q. Exponents count modulo 255.
///
/// ```
/// use parity_simd::{power, product};
/// assert_eq!([power(0), power(1), power(8)], [1, 2, 0x1d]);
/// assert_eq!(power(9), product(2, power(8)));
/// ```
pub const fn power(exponent: u8) -> u8 {
    POWERS[exponent as usize]
}

/// 1 / `value`. Panics on zero, which has no inverse.
///
/// ```
/// use parity_simd::{inverse, product};
/// assert!((1..=255).all(|value| product(value, inverse(value)) == 1));
/// ```
pub const fn inverse(value: u8) -> u8 {
    assert!(value != 0, "zero has no inverse in GF(2^8)");
    INVERSES[value as usize]
}

/// g^i for i = 0..=255.
static POWERS: [u8; 256] = {
    let mut powers = [1; 256];
    let mut exponent = 1;
    while exponent < 256 {
        powers[exponent] = double(powers[exponent - 1]);
        exponent += 1;
    }
    powers
};

/// 1/v for v = 1..=255, from g^i * g^(255 - i) = 1; entry 0 is unused.
static INVERSES: [u8; 256] = {
    let mut inverses = [0; 256];
    let mut exponent = 0;
    while exponent < 255 {
        inverses[POWERS[exponent] as usize] = POWERS[255 - exponent];
        exponent += 1;
    }
    inverses
};

/// A constant factor in the form that each vector unit needs. 48 bytes, aligned to 16.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub(crate) struct Factor {
    /// Products with 0, 1, .. 15.
    pub low: [u8; 16],
    /// Products with 0x00, 0x10, .. 0xf0.
    pub high: [u8; 16],
    /// The product as an 8x8 bit matrix, laid out for gf2p8affineqb: see [`matrix`].
    pub matrix: u64,
    /// The constant itself.
    pub value: u8,
}

impl Factor {
    /// Looks up the prepared form of `value`.
    pub fn of(value: u8) -> &'static Factor {
        &FACTORS[usize::from(value)]
    }

    const fn new(value: u8) -> Factor {
        let (mut low, mut high) = ([0; 16], [0; 16]);
        let mut nibble = 0;
        while nibble < 16 {
            low[nibble] = product(value, nibble as u8);
            high[nibble] = product(value, (nibble << 4) as u8);
            nibble += 1;
        }
        Factor { low, high, matrix: matrix(value), value }
    }
}

/// All 256 factors: 12 KiB, of which an array of eight strips uses a few lines.
static FACTORS: [Factor; 256] = {
    let mut factors = [Factor::new(0); 256];
    let mut value = 1;
    while value < 256 {
        factors[value] = Factor::new(value as u8);
        value += 1;
    }
    factors
};

/// Computes the matrix of x -> `value` * x, in the layout that gf2p8affineqb reads.
///
/// The instruction computes, for each byte x (Intel SDM, GF2P8AFFINEQB):
/// `result.bit[i] = parity(matrix.byte[7 - i] & x) ^ imm8.bit[i]`, so row i, which yields result bit i, lives
/// in byte 7 - i. Bit j of row i says whether bit j of x contributes to result bit i, and the contribution of
/// bit j is `value` * 2^j. The identity comes out as 0x0102_0408_1020_4080, as the manual has it.
pub(crate) const fn matrix(value: u8) -> u64 {
    let mut matrix = 0;
    let mut row = 0;
    while row < 8 {
        let mut column = 0;
        while column < 8 {
            let contribution = product(value, 1 << column);
            if contribution >> row & 1 != 0 {
                matrix |= 1 << (8 * (7 - row) + column);
            }
            column += 1;
        }
        row += 1;
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes gf2p8affineqb with a zero immediate, as defined in Intel's manual.
    fn affine_byte(matrix: u64, x: u8) -> u8 {
        let mut result = 0;
        for bit in 0..8 {
            let row = matrix.to_le_bytes()[7 - bit];
            result |= ((row & x).count_ones() as u8 & 1) << bit;
        }
        result
    }

    #[test]
    fn generator_has_order_255() {
        let mut seen = [false; 256];
        for exponent in 0..=INDEX_MAX {
            assert!(!seen[usize::from(power(exponent))], "g^{exponent} repeats");
            seen[usize::from(power(exponent))] = true;
        }
        assert!(!seen[0]);
        assert_eq!(power(255), 1);
        assert_eq!(power(8), POLYNOMIAL);
    }

    #[test]
    fn inverse_undoes_product() {
        for value in 1..=255 {
            assert_eq!(product(value, inverse(value)), 1, "{value}");
        }
    }

    #[test]
    fn every_shape_of_a_factor_gives_the_product() {
        assert_eq!(matrix(1), 0x0102_0408_1020_4080);
        for value in 0..=255 {
            let factor = Factor::of(value);
            assert_eq!(factor.value, value);
            for x in 0..=255 {
                let expected = product(value, x);
                let by_nibbles = factor.low[usize::from(x & 15)] ^ factor.high[usize::from(x >> 4)];
                assert_eq!(by_nibbles, expected, "nibbles, {value} * {x}");
                assert_eq!(affine_byte(factor.matrix, x), expected, "matrix, {value} * {x}");
            }
        }
    }
}
