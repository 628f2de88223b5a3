//! The arrival of a device: what happens between the order to take it into a slot and the record that lists
//! it.
//!
//! A device may have been a member in another life of the same array: half of a fork, or a member that kept
//! its content while the others were restored from a backup. Its bitmap blocks, its list of lost rows and its
//! superblocks then carry the identity of this array, and their generations may be higher than those of this
//! life. Leftovers of other programs at either end of the device (a partition table and its copy, an md
//! superblock) would suggest that another program has written to the member. So everything before the data
//! zone, and the end that arrays leave unused, is overwritten with zeros, durably, before the device takes
//! part in any record:
//!
//! ```text
//!   Order::Join --> wiping --(both ends are zeros, durably)--> wish of the keeper --> on record --> rebuild
//!                     |                                          |
//!                     |                                          `--(the array has failed, a stop,
//!                     |                                              a write was lost)--> refused
//!                     `--(an error, silence, a stop, the array has failed)--> refused
//! ```
//!
//! - Nothing is written to the device before this file has accepted it, whatever the server checked before:
//!   the device may be a member that came back under another name, and another order may have been first.
//! - The ends are wiped through the ring, with at most [`WIPES_MAX`] writes in flight, so each turn does a
//!   bounded piece and a large bitmap does not hold up hosts. The data zone is not wiped: a rebuild reads
//!   nothing above its cursor.
//! - The log zone and the space before the data zone are wiped too: a later growth puts bitmap blocks there.
//! - An arrival that cannot continue is refused at once. Writes that are still in flight are parked and
//!   change nothing.
//! - Nothing about the slot changes before the record does: a refused device never was a member.

use std::ops::Range;

use crate::format::zones::TAIL_UNUSED_BYTES;
use crate::limits::{BLOCK_BYTES, WIPES_MAX};
use crate::ring::{DeviceIndex, Durability, MemberIo, Ring};
use crate::turn::{Io, IoFor, Turn};

use super::Steward;
use super::keeper::Joining;

/// Bytes of one wiping write. A drive of 1 GB/s takes 0.25 ms for it, so hosts hardly wait longer because of
/// it.
const WIPE_BYTES: u64 = 256 << 10;
/// The text that refuses an order on an array that has failed.
pub(crate) fn has_failed(name: &str) -> String {
    format!(
        "the array has failed: `striate detail {name}` says why. Stop it, put that right, and serve it again"
    )
}
/// The text that refuses an order during a stop.
pub(super) const IS_STOPPING: &str = "the array is being stopped";

/// A device that is being prepared for its slot.
#[derive(Debug)]
pub(super) struct Arrival {
    joining: Joining,
    /// The byte ranges still to be wiped.
    left: [Range<u64>; 2],
    in_flight: usize,
    /// The beat of the watch when a write last completed.
    heard_beat: u32,
}

impl Arrival {
    pub(super) fn new(joining: Joining, data_offset_bytes: u64, beat: u32) -> Arrival {
        let end = joining.device_bytes;
        // Members are used in whole blocks, but wiped to the last byte.
        let used = end - end % BLOCK_BYTES as u64;
        let tail = used.saturating_sub(TAIL_UNUSED_BYTES).max(data_offset_bytes);
        Arrival { joining, left: [0..data_offset_bytes, tail..end], in_flight: 0, heard_beat: beat }
    }

    /// The arriving device.
    pub(super) const fn device(&self) -> DeviceIndex {
        self.joining.device
    }

    /// Whether a turn can make progress now: another write can be submitted, or all is wiped.
    pub(super) fn can_go_on(&self) -> bool {
        let is_left = self.left.iter().any(|range| !range.is_empty());
        self.in_flight < WIPES_MAX && (is_left || self.in_flight == 0)
    }

    /// Takes the next piece to wipe, as (first byte, length); `None` when all have been taken.
    fn next_piece(&mut self) -> Option<(u64, u64)> {
        let range = self.left.iter_mut().find(|range| !range.is_empty())?;
        let (at, len) = (range.start, (range.end - range.start).min(WIPE_BYTES));
        range.start += len;
        Some((at, len))
    }
}

impl Steward {
    /// Accepts or refuses an order to put a device into a slot.
    pub(super) fn order_join<R>(&mut self, turn: &Turn<'_, R>, joining: Joining) {
        let shared = turn.shared;
        let name = self.keeper.name();
        let is_busy = self.arrival.is_some() || self.rebuild.is_some() || self.keeper.is_joining();
        if shared.failed() {
            joining.answer.send(Err(has_failed(name)));
        } else if self.is_stopping() {
            joining.answer.send(Err(IS_STOPPING.into()));
        } else if is_busy {
            joining
                .answer
                .send(Err(format!("another slot is being rebuilt: wait for it (`striate wait {name}`)")));
        } else if shared.members.view().writable.has(joining.slot) {
            let why = format!(
                "slot {0} is in use: to take its member out of service: `striate fail {name} {0}`",
                joining.slot
            );
            joining.answer.send(Err(why));
        } else {
            self.arrival = Some(Arrival::new(joining, shared.layout.data_offset_bytes, turn.ios.beat()));
        }
    }

    /// Wipes the next piece of the arriving device, and hands the device to the keeper once all is wiped.
    pub(super) fn arrival_turn<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        let Some(arrival) = &self.arrival else { return };
        let shared = turn.shared;
        if shared.failed() {
            self.refuse_arrival(turn, has_failed(self.keeper.name()));
        } else if self.is_stopping() {
            self.refuse_arrival(turn, IS_STOPPING.into());
        } else if arrival.in_flight > 0 && turn.ios.is_overdue_since(arrival.heard_beat, shared) {
            let patience_s = shared.members.patience_s();
            self.refuse_arrival(turn, format!("the device has not answered for {patience_s} s"));
        } else {
            self.wipe(turn);
        }
    }

    fn wipe<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        while let Some(arrival) = &mut self.arrival
            && arrival.in_flight < WIPES_MAX
        {
            let (slot, device) = (arrival.joining.slot, arrival.joining.device);
            let Some((offset, len)) = arrival.next_piece() else {
                if arrival.in_flight == 0 {
                    self.keeper.wishes.join = self.arrival.take().map(|arrival| arrival.joining);
                }
                return;
            };
            arrival.in_flight += 1;
            let zeros = turn.shared.memory.zeros(len as u32);
            let write = MemberIo::Write(Durability::Durable);
            turn.push_to(IoFor::Wipe, slot, device, write, offset, zeros);
        }
    }

    /// The device that is arriving now. A device that was refused is not waited for.
    pub(crate) fn arriving(&self) -> Option<DeviceIndex> {
        self.arrival.as_ref().map(Arrival::device)
    }

    /// Handles the end of a wiping write.
    pub(crate) fn wiped<R>(&mut self, turn: &mut Turn<'_, R>, io: &Io, result: Result<(), i32>) {
        let Some(arrival) = self.arrival.as_mut().filter(|arrival| arrival.device() == io.device) else {
            return;
        };
        (arrival.in_flight, arrival.heard_beat) = (arrival.in_flight - 1, turn.ios.beat());
        if let Err(errno) = result {
            let error = std::io::Error::from_raw_os_error(errno);
            self.refuse_arrival(turn, format!("the device does not take its metadata: {error}"));
        }
    }

    fn refuse_arrival<R>(&mut self, turn: &mut Turn<'_, R>, why: String) {
        if let Some(arrival) = self.arrival.take() {
            arrival.joining.answer.send(Err(why));
            // Look again: the writes in flight to this device are no longer waited for.
            turn.ios.look_again();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::SECTOR_BYTES;
    use crate::shared::Answer;

    /// Every byte of both ends is wiped once, in pieces that a ring accepts.
    #[test]
    fn the_pieces_are_the_ends() {
        let data_offset_bytes = 3 << 20;
        let sector = u64::from(SECTOR_BYTES);
        // In turn: a long device; one just long enough for an unused end; two devices of an old array, whose
        // data extends to the end; and one that does not end at a block boundary.
        for device_bytes in [64 << 20, 5 << 20, 3 << 20, (3 << 20) + 8192, (64 << 20) + 3 * 512] {
            let joining = Joining {
                slot: 0,
                device: DeviceIndex(9),
                member: uuid::Uuid::nil(),
                volatile: false,
                device_bytes,
                answer: Answer::ignored(),
            };
            let mut arrival = Arrival::new(joining, data_offset_bytes, 0);
            let mut wiped = vec![0u8; (device_bytes / sector) as usize];
            while let Some((offset, len)) = arrival.next_piece() {
                assert!(len > 0 && len <= WIPE_BYTES);
                assert!((offset | len).is_multiple_of(sector) && offset.is_multiple_of(BLOCK_BYTES as u64));
                wiped[(offset / sector) as usize..((offset + len) / sector) as usize]
                    .iter_mut()
                    .for_each(|count| *count += 1);
            }
            let blocks_end = device_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
            for (at, count) in wiped.iter().enumerate().map(|(at, count)| (at as u64 * sector, *count)) {
                let is_end = at < data_offset_bytes || at >= blocks_end - TAIL_UNUSED_BYTES;
                assert_eq!(count, u8::from(is_end), "byte {at} of {device_bytes}");
            }
            assert!(arrival.can_go_on());
        }
    }
}
