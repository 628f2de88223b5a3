//! The permitted content of each sector: a ledger of commands sent, acknowledged and flushed.
//!
//! A sector's content names the command that wrote it (a number that is used only once; 0 is zeros, which a
//! trim leaves too), so a read shows which command won. Commands in flight never overlap, hence the rules:
//!
//! - If no command was in flight, the sector holds the last acknowledged value. For a flushed sector this is
//!   the promise of FLUSH; an unflushed one keeps it too when a *process* is killed, because no member's
//!   cache is lost with a process.
//! - If a command was in flight at the kill, the sector holds the old value or the new one, as a whole.
//! - Once a sector has been read after the restart it is settled: every later read returns the same,
//!   whichever member answers.

use crate::content::{Dice, pattern};
use crate::nbd_client::Command;

/// The promised unit of atomicity, and the unit of the ledger: one logical block.
pub const SECTOR_BYTES: u64 = 512;

#[derive(Clone, Copy, Default)]
struct Sector {
    /// The last acknowledged value.
    acknowledged: u64,
    /// Time of the acknowledgement, as the number of commands answered.
    acknowledged_at: u64,
    /// The value of the command in flight, if there is one.
    in_flight: Option<u64>,
}

/// The ledger of a range of sectors that begins at the array's first sector.
pub struct Ledger {
    sectors: Vec<Sector>,
    value_next: u64,
    answered: u64,
    /// All sectors acknowledged up to this time were flushed.
    flushed: u64,
}

/// A command that was sent, as the ledger records it.
pub enum Entry {
    Range {
        first: usize,
        count: usize,
        value: u64,
    },
    /// A flush, and the number of commands that were answered when it was sent.
    Flush {
        answered: u64,
    },
}

impl Ledger {
    pub fn new(bytes: u64) -> Ledger {
        let sectors = vec![Sector::default(); (bytes / SECTOR_BYTES) as usize];
        Ledger { sectors, value_next: 1, answered: 0, flushed: 0 }
    }

    pub fn bytes(&self) -> u64 {
        self.sectors.len() as u64 * SECTOR_BYTES
    }

    /// Draws a random command that overlaps none in flight, and enters it. `None` if the range drawn is in
    /// use.
    pub fn next_command(&mut self, dice: &mut Dice) -> Option<(Command, Entry)> {
        if dice.below(24) == 0 {
            return Some((Command::Flush, Entry::Flush { answered: self.answered }));
        }
        // Most are small, because small writes need read-modify-write.
        let count = dice.pick(&[1, 2, 8, 8, 8, 16, 32, 100, 128, 512, 1024]).min(self.sectors.len());
        let first = dice.below((self.sectors.len() - count + 1) as u64) as usize;
        if self.sectors[first..first + count].iter().any(|sector| sector.in_flight.is_some()) {
            return None;
        }
        let (offset, len) = (first as u64 * SECTOR_BYTES, (count as u64 * SECTOR_BYTES) as u32);
        let (value, command) = match dice.below(16) {
            0 => (0, Command::Trim { offset, len }),
            1 => (0, Command::WriteZeroes { offset, len }),
            chance => {
                let value = self.value_next;
                self.value_next += 1;
                let data = (first..first + count).flat_map(|index| sector_bytes(value, index)).collect();
                (value, Command::Write { offset, data, fua: chance == 2 })
            }
        };
        for sector in &mut self.sectors[first..first + count] {
            sector.in_flight = Some(value);
        }
        Some((command, Entry::Range { first, count, value }))
    }

    /// Records that a command was acknowledged.
    pub fn acknowledge(&mut self, entry: &Entry) {
        self.answered += 1;
        match *entry {
            Entry::Flush { answered } => self.flushed = self.flushed.max(answered),
            Entry::Range { first, count, value } => {
                for sector in &mut self.sectors[first..first + count] {
                    *sector = Sector { acknowledged: value, acknowledged_at: self.answered, in_flight: None };
                }
            }
        }
    }

    /// Number of bytes of the current content that FLUSH has promised.
    pub fn bytes_flushed(&self) -> u64 {
        let flushed = |s: &&Sector| s.acknowledged != 0 && s.acknowledged_at <= self.flushed;
        self.sectors.iter().filter(flushed).count() as u64 * SECTOR_BYTES
    }

    /// Compares what was read from sector `first` on with the ledger, and settles it. Returns a description
    /// of every breach.
    pub fn settle(&mut self, first: usize, bytes: &[u8]) -> Vec<String> {
        let mut breaches = Vec::new();
        for (index, found) in (first..).zip(bytes.chunks_exact(SECTOR_BYTES as usize)) {
            let sector = self.sectors[index];
            let value = sector_value(found, index);
            let fits = value.is_some_and(|v| v == sector.acknowledged || Some(v) == sector.in_flight);
            if fits {
                let settled = Sector { acknowledged: value.expect("it fits"), in_flight: None, ..sector };
                self.sectors[index] = settled;
            } else {
                let promise = if sector.acknowledged_at <= self.flushed {
                    "acknowledged and flushed"
                } else {
                    "acknowledged"
                };
                breaches.push(format!(
                    "sector {index}: found {}, {promise} was {}, in flight {:?}",
                    value.map_or("no whole value".to_string(), |v| format!("value {v}")),
                    sector.acknowledged,
                    sector.in_flight
                ));
            }
        }
        breaches
    }
}

/// The content that command `value` gives to the sector.
fn sector_bytes(value: u64, index: usize) -> Vec<u8> {
    let mut bytes = pattern(value, index as u64 * SECTOR_BYTES, SECTOR_BYTES as usize);
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    bytes
}

/// The command that wrote this content; `None` for a mixture, or for content of another sector.
fn sector_value(found: &[u8], index: usize) -> Option<u64> {
    if found.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let value = u64::from_le_bytes(found[..8].try_into().expect("eight bytes"));
    (found == sector_bytes(value, index)).then_some(value)
}
