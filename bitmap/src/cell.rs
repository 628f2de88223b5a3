//! The states of a cell, and every way in which a cell can change.
//!
//! | cell | on disk | the parity matches the data | a read returns |
//! |---|---|---|---|
//! | `Unwritten` | Unwritten | unknown, irrelevant | zeros, without I/O |
//! | `First` | Unwritten or Dirty | yes: the whole stripe was written before | zeros, without I/O |
//! | `Clean` | Clean, or still Dirty | yes | what the member holds |
//! | `Marked` | Clean, or already Dirty | yes: no write may start yet | what the member holds |
//! | `Dirty` | Dirty or NeedSync, on every copy | yes, until an unclean stop | what the member holds |
//! | `Aged` | Dirty or NeedSync, on every copy | as `Dirty`; a sweep passed since | what the member holds |
//! | `NeedSync` | NeedSync or Dirty | no | what the member holds; a missing strip is an error |
//!
//! The cell itself says what is durable: a mark that may not be on disk yet is `Marked`, never `Dirty`. So a
//! second writer cannot mistake another writer's mark for a durable one: it waits for the state, and the
//! state is the durability.
//!
//! The first write to an `Unwritten` stripe writes the *whole* stripe (its data, zeros, parity) while the
//! cell is still `Unwritten`, then flushes the members with volatile caches, then changes the cell to
//! `First`. When that is on disk, the cell becomes `Dirty` and the write is acknowledged. So the disk never
//! promises a stripe that is not there, and no read returns the device's previous content.
//!
//! The events for each state. A name is the state that follows, `=` means that the event is possible and
//! changes nothing, `-` means that the event is impossible. [`next`] is the same table, and a test checks
//! that the two agree.
//!
//! | from | BeginWrite | WrittenFirst | MarkDurable | Rested | FoundBusy | Swept | Resynced | Torn | Discarded | UncleanLoad | StaleCopy |
//! |---|---|---|---|---|---|---|---|---|---|---|---|
//! | Unwritten | = | First | - | - | - | - | - | - | = | = | NeedSync |
//! | First | - | - | Dirty | - | - | - | - | - | - | NeedSync | NeedSync |
//! | Clean | Marked | - | - | - | - | - | - | - | Unwritten | = | NeedSync |
//! | Marked | = | - | Dirty | - | - | - | - | - | Unwritten | NeedSync | NeedSync |
//! | Dirty | = | - | - | Aged | - | - | - | NeedSync | Unwritten | NeedSync | NeedSync |
//! | Aged | Dirty | - | - | - | Dirty | Clean | - | NeedSync | Unwritten | NeedSync | NeedSync |
//! | NeedSync | = | - | - | - | - | - | Dirty | = | Unwritten | = | = |
//!
//! Reasons for the less obvious entries:
//! - `First` meets no `BeginWrite` and no `Discarded`: only the stripe's owner causes those, and the owner is
//!   still waiting for `First` to become `Dirty`.
//! - `Marked` may be discarded: a mark alone promises nothing, and only the owner, which discards, waits for
//!   it.
//! - `NeedSync` becomes `Dirty` without a block write, because the disk says NeedSync or Dirty, and either
//!   causes a resync after an unclean stop. A clean stop writes the block (it is behind).
//! - `Torn` comes from the owner, whose mark is durable and which has not discarded: from `Dirty` or `Aged`.
//!   No block write is needed before the host learns of the error: the disk says Dirty, as it did while the
//!   write was in flight.
//! - `Rested`, `FoundBusy` and `Swept` belong to the sweep, which applies them only to the state in their
//!   column; it skips a cell that a writer has taken back meanwhile.
//! - A clean load has no column: it takes the state on disk as it is.
//!
//! # Codes
//! A cell has four bits in RAM. The low two, XOR 1, are the code on disk:
//!
//! ```text
//!   bits 3..2  flavour of dirty     bits 1..0   RAM   disk
//!         00   Dirty                Unwritten   00    01     a fresh array is zeroed memory, untouched
//!         01   Marked               NeedSync    01    00     a zeroed block is pessimistic
//!         10   First                Dirty       10    11     a block of all ones is pessimistic too
//!         11   Aged                 Clean       11    10
//! ```
//! Disk blocks carry a checksum; the codes are a second line of defence. Zeros mistaken for a block mean
//! NeedSync, and ones mean Dirty; neither is ever read as Clean (parity trusted) or as Unwritten (data gone).

/// The state of one stripe. The discriminant is its four-bit lane in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cell {
    /// Never written, or discarded: reads return zeros and the members' content does not matter.
    Unwritten = 0b0000,
    /// Written whole for the first time, but not durably marked so. Reads still return zeros.
    First = 0b1010,
    /// The parity matches the data, durably on every member.
    Clean = 0b0011,
    /// About to be written; the mark is not known to be durable, so no write may start.
    Marked = 0b0110,
    /// Durably marked on every copy: writes may be in flight.
    Dirty = 0b0010,
    /// Dirty, and no write has begun since the sweep's last pass.
    Aged = 0b1110,
    /// The parity does not match the data and must not be an input.
    NeedSync = 0b0001,
}

impl Cell {
    /// Every state, in the order of the table.
    pub const ALL: [Cell; 7] =
        [Cell::Unwritten, Cell::First, Cell::Clean, Cell::Marked, Cell::Dirty, Cell::Aged, Cell::NeedSync];

    /// The state as the four-bit value of a lane.
    #[inline]
    pub(crate) const fn lane(self) -> u64 {
        self as u64
    }

    /// The two-bit code on disk.
    #[must_use]
    pub const fn disk_code(self) -> u8 {
        (self as u8 & 0b11) ^ 1
    }

    /// The state of a lane. Panics on a code without a state, which only a bug can write.
    #[inline]
    pub(crate) const fn from_lane(lane: u64) -> Cell {
        match lane {
            0b0000 => Cell::Unwritten,
            0b1010 => Cell::First,
            0b0011 => Cell::Clean,
            0b0110 => Cell::Marked,
            0b0010 => Cell::Dirty,
            0b1110 => Cell::Aged,
            0b0001 => Cell::NeedSync,
            _ => panic!("a bitmap lane holds no state"),
        }
    }
}

/// The events that change a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The stripe's owner, or a writer in its region or block, is about to write.
    BeginWrite,
    /// The whole of an unwritten stripe is on the members.
    WrittenFirst,
    /// A block write that says Dirty is on every copy.
    MarkDurable,
    /// The sweep has passed the cell.
    Rested,
    /// The sweep, about to flush, has found the stripe owned.
    FoundBusy,
    /// Every member was flushed, and no write began since the look.
    Swept,
    /// The whole stripe was made consistent.
    Resynced,
    /// A write of the owner did not reach every member, and all members stay: the parity may not match.
    Torn,
    /// The host no longer needs the data.
    Discarded,
    /// The cell was loaded after an unclean stop.
    UncleanLoad,
    /// No valid copy of the block was found.
    StaleCopy,
}

impl Event {
    /// Every event, in the order of the table.
    pub const ALL: [Event; 11] = [
        Event::BeginWrite,
        Event::WrittenFirst,
        Event::MarkDurable,
        Event::Rested,
        Event::FoundBusy,
        Event::Swept,
        Event::Resynced,
        Event::Torn,
        Event::Discarded,
        Event::UncleanLoad,
        Event::StaleCopy,
    ];
}

/// The state after an event: the same state if the event changes nothing, `None` if the event is impossible.
#[must_use]
#[inline]
pub const fn next(cell: Cell, event: Event) -> Option<Cell> {
    use Cell::{Aged, Clean, Dirty, First, Marked, NeedSync, Unwritten};
    match (event, cell) {
        (Event::BeginWrite, Clean) => Some(Marked),
        (Event::BeginWrite, Aged) => Some(Dirty),
        (Event::BeginWrite, Unwritten | Marked | Dirty | NeedSync) => Some(cell),
        (Event::BeginWrite, First) => None,

        (Event::WrittenFirst, Unwritten) => Some(First),
        (Event::WrittenFirst, First | Clean | Marked | Dirty | Aged | NeedSync) => None,

        (Event::MarkDurable, First | Marked) => Some(Dirty),
        (Event::MarkDurable, Unwritten | Clean | Dirty | Aged | NeedSync) => None,

        (Event::Rested, Dirty) => Some(Aged),
        (Event::Rested, Unwritten | First | Clean | Marked | Aged | NeedSync) => None,

        (Event::FoundBusy, Aged) => Some(Dirty),
        (Event::FoundBusy, Unwritten | First | Clean | Marked | Dirty | NeedSync) => None,

        (Event::Swept, Aged) => Some(Clean),
        (Event::Swept, Unwritten | First | Clean | Marked | Dirty | NeedSync) => None,

        (Event::Resynced, NeedSync) => Some(Dirty),
        (Event::Resynced, Unwritten | First | Clean | Marked | Dirty | Aged) => None,

        (Event::Torn, Dirty | Aged | NeedSync) => Some(NeedSync),
        (Event::Torn, Unwritten | First | Clean | Marked) => None,

        (Event::Discarded, Unwritten | Clean | Marked | Dirty | Aged | NeedSync) => Some(Unwritten),
        (Event::Discarded, First) => None,

        (Event::UncleanLoad, First | Marked | Dirty | Aged | NeedSync) => Some(NeedSync),
        (Event::UncleanLoad, Unwritten | Clean) => Some(cell),

        (Event::StaleCopy, _) => Some(NeedSync),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The rows of the events table above, each `[from, one entry per event]`.
    fn documented() -> Vec<Vec<&'static str>> {
        let mut rows = include_str!("cell.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
        let header = rows.by_ref().find(|row| row.starts_with("from |")).expect("the table has a header");
        let split =
            |row: &'static str| row.trim_end_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
        let events = Event::ALL.map(|event| format!("{event:?}"));
        assert_eq!(split(header)[1..], events, "the columns are the events");
        rows.map(split).collect()
    }

    #[test]
    fn the_documented_table_is_the_code() {
        let rows = documented();
        assert_eq!(rows.len(), Cell::ALL.len(), "one row a state");
        for (row, cell) in rows.iter().zip(Cell::ALL) {
            assert_eq!(row[0], format!("{cell:?}"));
            assert_eq!(row.len(), 1 + Event::ALL.len());
            for (entry, event) in row[1..].iter().zip(Event::ALL) {
                let code = match next(cell, event) {
                    None => "-".to_string(),
                    Some(same) if same == cell => "=".to_string(),
                    Some(other) => format!("{other:?}"),
                };
                assert_eq!(*entry, code, "{cell:?} on {event:?}");
            }
        }
    }

    #[test]
    fn lanes_and_disk_codes() {
        for cell in Cell::ALL {
            assert_eq!(Cell::from_lane(cell.lane()), cell);
        }
        assert_eq!(Cell::Unwritten.lane(), 0, "zeroed memory is Unwritten");
        assert_eq!(Cell::NeedSync.disk_code(), 0, "a zeroed block is pessimistic");
        for dirty in [Cell::First, Cell::Marked, Cell::Dirty, Cell::Aged] {
            assert_eq!(dirty.disk_code(), 3);
        }
        assert_eq!((Cell::Unwritten.disk_code(), Cell::Clean.disk_code()), (1, 2));
    }

    /// A cell becomes Clean only by the sweep, and Dirty only by durability, by a resync, or from Aged.
    #[test]
    fn ways_into_the_trusted_states() {
        for cell in Cell::ALL {
            for event in Event::ALL {
                let Some(after) = next(cell, event).filter(|after| *after != cell) else { continue };
                match after {
                    Cell::Clean => assert_eq!((cell, event), (Cell::Aged, Event::Swept)),
                    Cell::Dirty => assert!(matches!(
                        (cell, event),
                        (Cell::First | Cell::Marked, Event::MarkDurable)
                            | (Cell::Aged, Event::BeginWrite | Event::FoundBusy)
                            | (Cell::NeedSync, Event::Resynced)
                    )),
                    Cell::Unwritten => assert_eq!(event, Event::Discarded),
                    Cell::First | Cell::Marked | Cell::Aged | Cell::NeedSync => {}
                }
            }
        }
    }
}
