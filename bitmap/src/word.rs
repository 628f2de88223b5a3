//! Sixteen cells in a `u64`, handled all at once.
//!
//! ```text
//!   bit 63                                                    0
//!      | lane 15 | lane 14 | ...           | lane 1 | lane 0 |     RAM: four bits a cell
//!                    | 15 | 14 | ...           | 1 | 0 |           disk: two bits a cell, little-endian u32
//! ```
//!
//! A set of lanes is a `u64` with bit 0 of each lane of the set: [`equal`] makes one, [`moved`] applies an
//! event to one. Everything here is pure; the callers handle the atomics.

use crate::cell::{Cell, Event, next};

/// Number of cells in a word.
pub(crate) const LANES: u64 = 16;
/// Number of bytes of a word's cells on disk.
pub(crate) const DISK_BYTES: usize = 4;

/// Bit 0 of every lane: the set of all lanes.
pub(crate) const ALL: u64 = 0x1111_1111_1111_1111;

/// A word with every lane in the same state.
pub(crate) const fn splat(cell: Cell) -> u64 {
    ALL * cell.lane()
}

/// The state of one lane.
#[inline]
pub(crate) const fn get(word: u64, lane: u32) -> Cell {
    Cell::from_lane((word >> (lane * 4)) & 0xf)
}

/// The set of one lane.
#[inline]
pub(crate) const fn only(lane: u32) -> u64 {
    1 << (lane * 4)
}

/// The set of the first `count` lanes, 0..=16.
pub(crate) const fn first(count: u64) -> u64 {
    if count >= LANES { ALL } else { ALL & ((1 << (count * 4)) - 1) }
}

/// The lanes in state `cell`. XOR leaves a zero lane where the state matches; folding ORs a lane's four bits
/// into its bit 0 (bits shifted in from the neighbour land above bit 0 and are masked away).
#[inline]
pub(crate) const fn equal(word: u64, cell: Cell) -> u64 {
    let mut differs = word ^ splat(cell);
    differs |= differs >> 2;
    differs |= differs >> 1;
    !differs & ALL
}

/// The lanes that are Dirty on disk, of any flavour: low bits `10`.
#[inline]
pub(crate) const fn dirty_on_disk(word: u64) -> u64 {
    (word >> 1) & !word & ALL
}

/// Maximum number of sets added up for [`lanes_counted`]: a lane counts to fifteen.
pub(crate) const COUNTED_MAX: usize = 15;

/// Number of lanes in up to [`COUNTED_MAX`] sets that were added up. Pairs of lanes become bytes (30 at
/// most), and the product gathers the bytes in the top one (240 at most). Three times as fast as one
/// `count_ones` per set on targets without popcnt, such as the x86-64 baseline.
#[inline]
pub(crate) const fn lanes_counted(sum: u64) -> u64 {
    const BYTES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    ((sum & BYTES) + (sum >> 4 & BYTES)).wrapping_mul(0x0101_0101_0101_0101) >> 56
}

/// The word after `event` was applied to `lanes`, all of which are in state `from`. The table gives the next
/// state. `from` XOR next is four bits, so the product spreads it over the lanes without a carry.
#[inline]
pub(crate) const fn moved(word: u64, lanes: u64, from: Cell, event: Event) -> u64 {
    match next(from, event) {
        Some(to) => word ^ (lanes * (from.lane() ^ to.lane())),
        None => panic!("this event cannot come in this state"),
    }
}

/// Converts cells to their on-disk form. XOR 1 turns lanes into codes (see `cell`), then pairs of bits close
/// up.
#[inline]
pub(crate) const fn to_disk(word: u64) -> [u8; DISK_BYTES] {
    let mut x = (word ^ ALL) & 0x3333_3333_3333_3333;
    x = (x | x >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
    x = (x | x >> 4) & 0x00ff_00ff_00ff_00ff;
    x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    x = (x | x >> 16) & 0x0000_0000_ffff_ffff;
    (x as u32).to_le_bytes()
}

/// Converts cells from their on-disk form: Unwritten, Clean, Dirty and NeedSync. Any bytes are valid cells.
#[inline]
pub(crate) const fn from_disk(bytes: [u8; DISK_BYTES]) -> u64 {
    let mut x = u32::from_le_bytes(bytes) as u64;
    x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    x = (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    x = (x | x << 2) & 0x3333_3333_3333_3333;
    x ^ ALL
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cells() -> impl Strategy<Value = Vec<Cell>> {
        proptest::collection::vec(proptest::sample::select(Cell::ALL.to_vec()), 16)
    }

    fn word_of(cells: &[Cell]) -> u64 {
        cells.iter().rev().fold(0, |word, cell| word << 4 | cell.lane())
    }

    proptest! {
        #[test]
        fn lanes_agree_with_a_vector(cells in cells(), count in 0..=16u64) {
            let word = word_of(&cells);
            for (lane, cell) in cells.iter().enumerate() {
                prop_assert_eq!(get(word, lane as u32), *cell);
                prop_assert_eq!(first(count) & only(lane as u32) != 0, (lane as u64) < count);
                prop_assert_eq!(dirty_on_disk(word) & only(lane as u32) != 0, cell.disk_code() == 3);
                for other in Cell::ALL {
                    prop_assert_eq!(equal(word, other) & only(lane as u32) != 0, *cell == other);
                }
            }
        }

        #[test]
        fn lanes_are_counted(sets in proptest::collection::vec(any::<u64>(), 0..=COUNTED_MAX), full in any::<bool>()) {
            let sets: Vec<u64> = sets.into_iter().map(|set| if full { ALL } else { set & ALL }).collect();
            let counted: u32 = sets.iter().map(|set| set.count_ones()).sum();
            prop_assert_eq!(lanes_counted(sets.iter().sum()), u64::from(counted));
        }

        #[test]
        fn events_move_their_lanes_only(cells in cells(), set in any::<u64>()) {
            let word = word_of(&cells);
            for from in Cell::ALL {
                for event in Event::ALL {
                    let Some(to) = next(from, event) else { continue };
                    let lanes = equal(word, from) & set;
                    let after = moved(word, lanes, from, event);
                    for (lane, cell) in cells.iter().enumerate() {
                        let expected = if lanes & only(lane as u32) != 0 { to } else { *cell };
                        prop_assert_eq!(get(after, lane as u32), expected);
                    }
                }
            }
        }

        #[test]
        fn disk_holds_two_bits_a_cell_in_order(cells in cells()) {
            let bytes = to_disk(word_of(&cells));
            for (lane, cell) in cells.iter().enumerate() {
                prop_assert_eq!(bytes[lane / 4] >> (lane % 4 * 2) & 3, cell.disk_code());
            }
            for (lane, cell) in cells.iter().enumerate() {
                prop_assert_eq!(get(from_disk(bytes), lane as u32).disk_code(), cell.disk_code());
            }
        }

        #[test]
        fn any_bytes_are_cells(bytes in any::<[u8; DISK_BYTES]>()) {
            let word = from_disk(bytes);
            prop_assert_eq!(to_disk(word), bytes);
            for lane in 0..16 {
                let cell = get(word, lane);
                prop_assert!(matches!(cell, Cell::Unwritten | Cell::Clean | Cell::Dirty | Cell::NeedSync));
            }
        }
    }
}
