//! The position of each byte of the array: pure arithmetic, no I/O, no state.
//!
//! The array is a sequence of stripes. A stripe holds `data` chunks of host bytes and `parities` chunks of
//! parity, one strip on each member. The rotation is md's left-symmetric one:
//!
//! ```text
//!            slot 0  slot 1  slot 2  slot 3  slot 4        RAID-5 of five
//! stripe 0     D0      D1      D2      D3      P
//! stripe 1     D1      D2      D3      P       D0
//! stripe 2     D2      D3      P       D0      D1
//! ```
//!
//! With the strips of a stripe numbered D0..Dn, P, Q, the rotation is one addition for every strip, parity
//! included: `slot = (base + strip) mod members`, where `base` depends on the stripe alone. So a set of slots
//! becomes a set of strips by a rotation of its bits, and the planner, which knows strips only, never asks
//! for slots.
//!
//! Widths are not powers of two, so stripes are found by exact division, never by shifts or floats.

use crate::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, MEMBERS_MAX};

/// A set of the strips of one stripe: bit `i` is D`i` for `i < data`, then P, then Q.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Strips(pub u32);

/// A set of slots: bit `i` is slot `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slots(pub u32);

/// Counts the bits that are set. A program for every x86-64 may not use the processor's bit count
/// instruction, and the replacement takes some fifteen instructions. Most sets have few strips; for these a
/// table has the answer.
const fn ones(bits: u32) -> u32 {
    match bits {
        0..=0xff => ONES[bits as usize] as u32,
        0x100..=0xffff => (ONES[(bits & 0xff) as usize] + ONES[(bits >> 8) as usize]) as u32,
        _ => ones_of_many(bits),
    }
}

// Not inlined: otherwise the compiler computes the slow count in every case and then chooses.
#[inline(never)]
const fn ones_of_many(bits: u32) -> u32 {
    bits.count_ones()
}

const ONES: [u8; 256] = {
    let mut ones = [0; 256];
    let mut bits = 0;
    while bits < ones.len() {
        ones[bits] = bits.count_ones() as u8;
        bits += 1;
    }
    ones
};

macro_rules! set_operations {
    ($set:ident) => {
        impl $set {
            /// The empty set.
            pub const NONE: $set = $set(0);

            /// The first `count` elements.
            #[must_use]
            pub const fn first(count: u8) -> $set {
                $set(((1u64 << count) - 1) as u32)
            }

            /// The set of one element.
            #[must_use]
            pub const fn one(element: u8) -> $set {
                $set(1 << element)
            }

            /// Whether the element is in the set.
            #[must_use]
            pub const fn has(self, element: u8) -> bool {
                self.0 >> element & 1 == 1
            }

            /// The number of elements.
            #[must_use]
            pub const fn count(self) -> u32 {
                ones(self.0)
            }

            /// Whether the set is empty.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Elements of either set.
            #[must_use]
            pub const fn or(self, other: $set) -> $set {
                $set(self.0 | other.0)
            }

            /// Elements of both sets.
            #[must_use]
            pub const fn and(self, other: $set) -> $set {
                $set(self.0 & other.0)
            }

            /// Elements of this set that are not in the other.
            #[must_use]
            pub const fn minus(self, other: $set) -> $set {
                $set(self.0 & !other.0)
            }

            /// Whether every element is also in the other set.
            #[must_use]
            pub const fn within(self, other: $set) -> bool {
                self.0 & !other.0 == 0
            }

            /// The number of elements below this one: its index in a packed array of the set.
            #[must_use]
            pub const fn rank(self, element: u8) -> u32 {
                ones(self.0 & ((1u32 << element) - 1))
            }

            /// Iterates over the elements, ascending.
            pub fn iter(self) -> impl Iterator<Item = u8> {
                let mut left = self.0;
                std::iter::from_fn(move || {
                    if left == 0 {
                        return None;
                    }
                    let element = left.trailing_zeros() as u8;
                    left &= left - 1;
                    Some(element)
                })
            }
        }
    };
}
set_operations!(Strips);
set_operations!(Slots);

/// The shape of one array, with the arithmetic on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    members: u8,
    parities: u8,
    chunk_shift: u32,
    stripes: u64,
    by_data: Divisor,
    by_members: Divisor,
}

/// Division by a small number as a multiplication by its reciprocal, which is in units of 2^-64 and rounded
/// up. A request needs three divisions, and the division instruction takes ten to forty cycles.
///
/// The reciprocal is too large by less than `divisor` units, so the quotient of a number below 2^64 /
/// `divisor` is exact (Granlund and Montgomery, *Division by invariant integers using multiplication*, 1994).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Divisor {
    divisor: u8,
    reciprocal: u64,
}

impl Divisor {
    /// Makes the divisor of a number from 2 to [`MEMBERS_MAX`].
    const fn new(divisor: u8) -> Divisor {
        assert!(divisor >= 2 && divisor as usize <= MEMBERS_MAX);
        Divisor { divisor, reciprocal: u64::MAX / divisor as u64 + 1 }
    }

    /// Quotient and remainder of a count of chunks or stripes; there are fewer than 2^52 of these.
    const fn divide(self, count: u64) -> (u64, u8) {
        debug_assert!(count < u64::MAX / MEMBERS_MAX as u64);
        let quotient = ((count as u128 * self.reciprocal as u128) >> 64) as u64;
        (quotient, (count - quotient * self.divisor as u64) as u8)
    }
}

impl Geometry {
    /// Makes an array of `members` slots, with `parities` (1 or 2) parity strips in each stripe, chunks of
    /// `chunk_bytes` (a power of two), and `stripes` stripes. Panics outside the limits: callers have already
    /// checked them and reported errors to the operator.
    #[must_use]
    pub fn new(members: u8, parities: u8, chunk_bytes: u32, stripes: u64) -> Geometry {
        assert!((1..=2).contains(&parities));
        assert!(members >= parities + 2 && usize::from(members) <= MEMBERS_MAX);
        assert!(chunk_bytes.is_power_of_two());
        assert!((CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes));
        Geometry {
            members,
            parities,
            chunk_shift: chunk_bytes.trailing_zeros(),
            stripes,
            by_data: Divisor::new(members - parities),
            by_members: Divisor::new(members),
        }
    }

    /// The number of slots.
    #[must_use]
    pub const fn members(&self) -> u8 {
        self.members
    }

    /// Parity strips per stripe: 1 or 2.
    #[must_use]
    pub const fn parities(&self) -> u8 {
        self.parities
    }

    /// Data strips per stripe.
    #[must_use]
    pub const fn data(&self) -> u8 {
        self.members - self.parities
    }

    /// Bytes of one strip.
    #[must_use]
    pub const fn chunk_bytes(&self) -> u32 {
        1 << self.chunk_shift
    }

    /// The number of stripes.
    #[must_use]
    pub const fn stripes(&self) -> u64 {
        self.stripes
    }

    /// Host bytes of one stripe.
    #[must_use]
    pub const fn stripe_bytes(&self) -> u32 {
        (self.data() as u32) << self.chunk_shift
    }

    /// Host bytes of the array.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.stripes * self.stripe_bytes() as u64
    }

    /// All data strips.
    #[must_use]
    pub const fn data_strips(&self) -> Strips {
        Strips::first(self.data())
    }

    /// All parity strips: P, or P and Q.
    #[must_use]
    pub const fn parity_strips(&self) -> Strips {
        Strips::first(self.members).minus(self.data_strips())
    }

    /// The strip that is P.
    #[must_use]
    pub const fn p(&self) -> u8 {
        self.data()
    }

    /// The strip that is Q, for arrays with two parities only.
    #[must_use]
    pub const fn q(&self) -> u8 {
        self.data() + 1
    }

    /// All slots.
    #[must_use]
    pub const fn slots(&self) -> Slots {
        Slots::first(self.members)
    }

    /// The stripe of a host offset, and the offset within the stripe's host bytes.
    #[must_use]
    pub const fn locate(&self, offset_bytes: u64) -> (u64, u32) {
        let (stripe, strip) = self.by_data.divide(offset_bytes >> self.chunk_shift);
        let row = offset_bytes as u32 & (self.chunk_bytes() - 1);
        (stripe, (strip as u32) << self.chunk_shift | row)
    }

    /// The data strip of an offset within a stripe, and the row: the offset within that strip.
    #[must_use]
    pub const fn strip_of(&self, offset_in_stripe: u32) -> (u8, u32) {
        ((offset_in_stripe >> self.chunk_shift) as u8, offset_in_stripe & (self.chunk_bytes() - 1))
    }

    /// The rotation of one stripe.
    #[must_use]
    pub const fn rotation(&self, stripe: u64) -> Rotation {
        let (_, turn) = self.by_members.divide(stripe);
        let p_slot = self.members - 1 - turn;
        let base = p_slot + self.parities;
        Rotation {
            members: self.members,
            base: if base >= self.members { base - self.members } else { base },
        }
    }

    /// Whether a slot holds data, not parity, in this stripe.
    #[must_use]
    pub const fn is_data(&self, stripe: u64, slot: u8) -> bool {
        self.rotation(stripe).strip_on(slot) < self.data()
    }

    /// The first byte of a stripe's strip, within the data zone of its member.
    #[must_use]
    pub const fn strip_offset(&self, stripe: u64) -> u64 {
        stripe << self.chunk_shift
    }
}

/// The positions of one stripe's strips on the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    members: u8,
    base: u8,
}

impl Rotation {
    /// The slot of a strip.
    #[must_use]
    pub const fn slot_of(self, strip: u8) -> u8 {
        let slot = self.base + strip;
        if slot >= self.members { slot - self.members } else { slot }
    }

    /// The strip that a slot holds.
    #[must_use]
    pub const fn strip_on(self, slot: u8) -> u8 {
        if slot >= self.base { slot - self.base } else { slot + self.members - self.base }
    }

    /// The strips that these slots hold: the bits rotated down by `base`.
    #[must_use]
    pub const fn strips_on(self, slots: Slots) -> Strips {
        let wide = (slots.0 as u64) << self.members | slots.0 as u64;
        Strips((wide >> self.base) as u32 & Strips::first(self.members).0)
    }

    /// The slots that hold these strips.
    #[must_use]
    pub const fn slots_of(self, strips: Strips) -> Slots {
        let wide = (strips.0 as u64) << self.base;
        Slots((wide | wide >> self.members) as u32 & Slots::first(self.members).0)
    }
}

#[cfg(test)]
mod tests {
    //! Compares with a naive model for all widths and both levels: every stripe laid out as md's
    //! documentation describes.
    use super::*;

    /// Left-symmetric layout, computed step by step: parity moves down from the last slot, data follows it
    /// and wraps around.
    fn layout(members: u8, parities: u8, stripe: u64) -> Vec<u8> {
        let n = u64::from(members);
        let p = n - 1 - stripe % n;
        let mut slots = Vec::new();
        for d in 0..n - u64::from(parities) {
            slots.push(((p + u64::from(parities) + d) % n) as u8);
        }
        for k in 0..u64::from(parities) {
            slots.push(((p + k) % n) as u8);
        }
        slots
    }

    #[test]
    fn strips_and_slots_agree_with_the_layout() {
        for parities in 1..=2 {
            for members in parities + 2..=MEMBERS_MAX as u8 {
                let geometry = Geometry::new(members, parities, 4096, 1000);
                for stripe in (0..2 * u64::from(members)).chain([u64::MAX >> 20]) {
                    let expected = layout(members, parities, stripe);
                    let rotation = geometry.rotation(stripe);
                    for (strip, &slot) in expected.iter().enumerate() {
                        let strip = strip as u8;
                        assert_eq!(rotation.slot_of(strip), slot);
                        assert_eq!(rotation.strip_on(slot), strip);
                        assert_eq!(rotation.strips_on(Slots::one(slot)), Strips::one(strip));
                        assert_eq!(rotation.slots_of(Strips::one(strip)), Slots::one(slot));
                    }
                    assert_eq!(rotation.strips_on(geometry.slots()), Strips::first(members));
                    assert_eq!(rotation.slots_of(Strips::first(members)), geometry.slots());
                }
            }
        }
    }

    #[test]
    fn every_byte_has_one_place() {
        for parities in 1..=2u8 {
            for members in parities + 2..=MEMBERS_MAX as u8 {
                for chunk in [CHUNK_BYTES_MIN, 64 << 10, CHUNK_BYTES_MAX] {
                    let geometry = Geometry::new(members, parities, chunk, 77);
                    let mut expected = (0u64, 0u8, 0u32);
                    let step = chunk / 4;
                    for offset in (0..geometry.size_bytes()).step_by(step as usize) {
                        let (stripe, within) = geometry.locate(offset);
                        let (strip, row) = geometry.strip_of(within);
                        assert_eq!((stripe, strip, row), expected);
                        expected.2 += step;
                        if expected.2 == chunk {
                            expected = (expected.0, expected.1 + 1, 0);
                        }
                        if expected.1 == geometry.data() {
                            expected = (expected.0 + 1, 0, 0);
                        }
                    }
                    assert_eq!(expected, (77, 0, 0));
                }
            }
        }
    }

    /// Tests both ends of each quotient, up to the largest number allowed.
    #[test]
    fn a_reciprocal_divides() {
        for divisor in 2..=MEMBERS_MAX as u8 {
            let (by, wide) = (Divisor::new(divisor), u64::from(divisor));
            let near = |exponent: u32| (1u64 << exponent) / wide;
            let quotients =
                (0..100).chain((10..58).flat_map(|exponent| [near(exponent), near(exponent) + 1]));
            for quotient in quotients {
                assert_eq!(by.divide(quotient * wide), (quotient, 0));
                assert_eq!(by.divide(quotient * wide + wide - 1), (quotient, divisor - 1));
            }
        }
    }

    #[test]
    fn sets_count_and_rank() {
        let set = Strips(0b1011_0000);
        assert_eq!(set.iter().collect::<Vec<_>>(), [4, 5, 7]);
        assert_eq!((set.rank(4), set.rank(5), set.rank(7), set.count()), (0, 1, 2, 3));
        assert_eq!(Slots::first(32).count(), 32);
    }
}
