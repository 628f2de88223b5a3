//! Writes in flight, and a shadow of the content that the device must have.
//!
//! The shadow is the demo's oracle: it contains every acknowledged write, and nothing else. Writes that were
//! in flight when the server was killed are *open*: each of their blocks may hold the old bytes or the new
//! ones. Once a read has shown which, the device must hold those bytes from then on ([`Shadow::settle`]).
//! Writes in flight at the same time never overlap, so every read has one right answer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::dice::Dice;
use crate::failure::{Failure, Result};
use crate::nbd_client::{Client, NbdError};
use crate::units::about_size;

/// How many writes are in flight.
const QUEUE_DEPTH: usize = 32;

/// The unit of writes, and the size down to which refused reads are narrowed. Logical blocks of the device
/// are this large or smaller.
pub const BLOCK_BYTES: usize = 4096;

/// The length of one read when the whole device is read.
const READ_BYTES: usize = 4 << 20;

/// Lengths of writes, in blocks: mostly small, some of many strips.
const LENGTHS: [u64; 8] = [1, 1, 1, 2, 4, 8, 16, 64];

/// The content that the device must have.
pub struct Shadow {
    /// Every byte of the device.
    pub bytes: Vec<u8>,
    /// Writes that a kill left unanswered.
    open: Vec<Write>,
}

struct Write {
    offset: usize,
    data: Vec<u8>,
}

impl Write {
    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.data.len()
    }
}

/// The result of a load.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadReport {
    /// Writes that were acknowledged.
    pub writes: u64,
    /// The bytes of those writes.
    pub bytes: u64,
    /// How long the load took.
    pub elapsed: Duration,
    /// Writes that were in flight when the connection broke, if it did.
    pub open: usize,
}

/// The outcome of the open writes, in blocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settled {
    /// Blocks that hold the new bytes.
    pub new: u64,
    /// Blocks that hold the old bytes.
    pub old: u64,
    /// Blocks that the array refuses to read.
    pub refused: u64,
}

impl Shadow {
    /// The shadow of a device that reads as zeros.
    pub fn zeros(size_bytes: u64) -> Result<Self> {
        let len =
            usize::try_from(size_bytes).map_err(|_| Failure::new("the device is too large to shadow"))?;
        Ok(Self { bytes: vec![0; len], open: Vec::new() })
    }

    /// Compares the whole device with the shadow. Returns the blocks that could not be read, as ranges; a
    /// wrong byte is a failure.
    pub fn verify(&self, client: &mut Client) -> Result<Vec<Range<usize>>> {
        let mut buffer = vec![0; READ_BYTES];
        let mut refused = Vec::new();
        for start in (0..self.bytes.len()).step_by(READ_BYTES) {
            let end = self.bytes.len().min(start + READ_BYTES);
            self.verify_range(client, start..end, &mut buffer, &mut refused)?;
        }
        Ok(refused)
    }

    /// Compares one range. If the array refuses to read it, compares its halves, down to a block.
    fn verify_range(
        &self,
        client: &mut Client,
        range: Range<usize>,
        buffer: &mut [u8],
        refused: &mut Vec<Range<usize>>,
    ) -> Result<()> {
        let part = &mut buffer[..range.len()];
        match client.read(range.start as u64, part) {
            Ok(()) => compare(part, &self.bytes[range.clone()], range.start),
            Err(NbdError::Refused(_)) if range.len() <= BLOCK_BYTES => {
                match refused.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => refused.push(range),
                }
                Ok(())
            }
            Err(NbdError::Refused(_)) => {
                let middle = range.start + (range.len() / 2).next_multiple_of(BLOCK_BYTES);
                self.verify_range(client, range.start..middle, buffer, refused)?;
                self.verify_range(client, middle..range.end, buffer, refused)
            }
            Err(error) => Err(Failure::new(format!("cannot read at {}: {error}", range.start))),
        }
    }

    /// Reads which bytes the open writes have left, and expects the device to keep them from now on.
    pub fn settle(&mut self, client: &mut Client) -> Result<Settled> {
        let mut settled = Settled::default();
        let mut found = [0; BLOCK_BYTES];
        for write in std::mem::take(&mut self.open) {
            for (index, new) in write.data.chunks(BLOCK_BYTES).enumerate() {
                let offset = write.offset + index * BLOCK_BYTES;
                match client.read(offset as u64, &mut found) {
                    Ok(()) => {
                        let old = &mut self.bytes[offset..offset + BLOCK_BYTES];
                        let fresh = new_or_old(&found, new, old, offset)?;
                        old.copy_from_slice(&found);
                        if fresh { settled.new += 1 } else { settled.old += 1 }
                    }
                    // The write was never answered and its block cannot be read: a host knows that it must
                    // write it again.
                    Err(NbdError::Refused(_)) => settled.refused += 1,
                    Err(error) => return Err(Failure::new(format!("cannot read at {offset}: {error}"))),
                }
            }
        }
        Ok(settled)
    }

    /// Writes random data at random places of `area` until `go_on` returns false or the connection breaks. A
    /// write that is refused is a failure.
    pub fn load(
        &mut self,
        client: &mut Client,
        dice: &mut Dice,
        area: Range<usize>,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<LoadReport> {
        let started = Instant::now();
        let mut report = LoadReport::default();
        let mut in_flight: BTreeMap<u64, Write> = BTreeMap::new();
        let broken = loop {
            let more = go_on();
            while more && in_flight.len() < QUEUE_DEPTH {
                let write = roll(dice, &area, &in_flight);
                match client.start_write(write.offset as u64, &write.data) {
                    Ok(cookie) => {
                        in_flight.insert(cookie, write);
                    }
                    Err(_) => {
                        // The write counts as open: part of it may have been sent.
                        self.open.push(write);
                        break;
                    }
                }
            }
            if in_flight.is_empty() {
                break !self.open.is_empty();
            }
            match client.finish_write() {
                Ok((cookie, answer)) => {
                    let write =
                        in_flight.remove(&cookie).ok_or_else(|| Failure::new("an answer to no write"))?;
                    if let Err(errno) = answer {
                        return Err(Failure::new(format!(
                            "a write at {} was refused: error {errno}",
                            write.offset
                        )));
                    }
                    report.writes += 1;
                    report.bytes += write.data.len() as u64;
                    self.bytes[write.range()].copy_from_slice(&write.data);
                }
                Err(NbdError::Broken(_)) => break true,
                Err(error) => return Err(Failure::new(format!("cannot write: {error}"))),
            }
        };
        if broken {
            self.open.extend(in_flight.into_values());
        }
        report.open = self.open.len();
        report.elapsed = started.elapsed();
        Ok(report)
    }
}

/// A random write that overlaps none in flight.
fn roll(dice: &mut Dice, area: &Range<usize>, in_flight: &BTreeMap<u64, Write>) -> Write {
    loop {
        let length = LENGTHS[dice.below(LENGTHS.len() as u64) as usize] as usize * BLOCK_BYTES;
        let places = (area.len() - length) / BLOCK_BYTES + 1;
        let offset = area.start + dice.below(places as u64) as usize * BLOCK_BYTES;
        let apart = |other: &Write| offset + length <= other.offset || other.range().end <= offset;
        if in_flight.values().all(apart) {
            let mut data = vec![0; length];
            dice.fill(&mut data);
            return Write { offset, data };
        }
    }
}

/// Whether a block of an interrupted write holds the new bytes. Each unit of 512 bytes must be all old or all
/// new: a write is torn only between blocks of the device, and those are at least this large.
fn new_or_old(found: &[u8], new: &[u8], old: &[u8], offset: usize) -> Result<bool> {
    const UNIT: usize = 512;
    let mut fresh = true;
    for ((found, new), old) in found.chunks(UNIT).zip(new.chunks(UNIT)).zip(old.chunks(UNIT)) {
        if found != new {
            fresh = false;
            if found != old {
                return Err(Failure::new(format!(
                    "WRONG DATA: at {offset}: neither the old bytes nor the new ones of an interrupted write"
                )));
            }
        }
    }
    Ok(fresh)
}

/// Compares bytes. The failure says where the first wrong byte is.
pub fn compare(found: &[u8], expected: &[u8], offset: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let first = found.iter().zip(expected).position(|(found, expected)| found != expected).unwrap_or(0);
    let wrong = found.iter().zip(expected).filter(|(found, expected)| found != expected).count();
    Err(Failure::new(format!(
        "WRONG DATA: at byte {}: {wrong} of {} are not what was written",
        offset + first,
        about_size(found.len() as u64),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_in_flight_never_overlap() {
        let (mut dice, mut in_flight) = (Dice::new(1), BTreeMap::new());
        let area = (1 << 20)..(8 << 20);
        for cookie in 0..QUEUE_DEPTH as u64 {
            let write = roll(&mut dice, &area, &in_flight);
            assert!(write.offset >= area.start && write.range().end <= area.end);
            in_flight.insert(cookie, write);
        }
        let mut ranges: Vec<_> = in_flight.values().map(Write::range).collect();
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }

    #[test]
    fn a_torn_block_is_old_or_new_by_the_sector() {
        let (old, new) = ([1; BLOCK_BYTES], [2; BLOCK_BYTES]);
        assert!(new_or_old(&new, &new, &old, 0).unwrap());
        assert!(!new_or_old(&old, &new, &old, 0).unwrap());
        let mut torn = old;
        torn[512..1024].fill(2);
        assert!(!new_or_old(&torn, &new, &old, 0).unwrap());
        torn[600] = 3;
        assert!(new_or_old(&torn, &new, &old, 0).is_err());
    }

    #[test]
    fn a_wrong_byte_is_found() {
        assert!(compare(&[1, 2], &[1, 2], 0).is_ok());
        assert!(compare(&[1, 2], &[1, 3], 10).unwrap_err().line().contains("at byte 11: 1 of"));
    }
}
