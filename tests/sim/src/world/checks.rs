//! Checks of answers and members against the oracle.

use std::sync::Arc;

use bitmap::Cell;
use engine::request::RequestKind;

use crate::bus::Bus;
use crate::disk::{SECTOR, name_of};
use crate::host::{Asked, Wish};
use crate::monitors::{Monitors, code};

use super::World;

impl World {
    /// I6 in full, after each superblock: every member that an assembly would believe now holds what was
    /// acknowledged. Also checks the parity of stripes at rest.
    pub(super) fn check_members(&mut self) {
        let shared = Arc::clone(self.running());
        let mut bus = self.bus.borrow_mut();
        let believed = Monitors::believed(&mut bus);
        let now = self.oracle.now();
        for sector in self.oracle.touched() {
            let (stripe, _) = self.geometry.locate(sector * SECTOR as u64);
            if matches!(shared.bitmap.cell(stripe), Cell::Unwritten | Cell::First) {
                continue;
            }
            if self.oracle.lost.contains(&sector) {
                continue;
            }
            let (slot, offset) = self.home_of(sector);
            let Some(disk) = believed.disk(slot, stripe) else { continue };
            let place = bus.disks[disk].place_in_data(offset, SECTOR as u64);
            let name = name_of(bus.disks[disk].sector(place.first));
            assert!(
                self.oracle.allows(sector, now, name),
                "I6: the superblocks let an assembly believe slot {slot} (disk {disk}) from now on, and what it holds in \
                 sector {sector} is not what was acknowledged"
            );
        }
        drop(bus);
        self.check_all_parity("a superblock is durable");
    }

    pub(super) fn check_read(&mut self, asked: &Asked) {
        let (memory, oracle) = (&self.memory, &mut self.oracle);
        memory.with(asked.span, |bytes| {
            for (sector, bytes) in (asked.first..).zip(bytes.chunks_exact(SECTOR)) {
                let name = name_of(bytes);
                assert!(
                    oracle.read_ends(sector, asked.start, name),
                    "READ: sector {sector} (request #{}) reads as {name:x}, begins {:02x?}; may be {:x?}",
                    asked.tag,
                    &bytes[..8],
                    oracle.allowed(sector, asked.start)
                );
            }
        });
        self.note_readable(asked.first, asked.count);
    }

    /// I6 and C2: every member that an assembly would believe has what was acknowledged; with FUA, durably.
    /// If the stripe is at rest, its parity matches (I3).
    pub(super) fn check_written(&mut self, asked: &Asked, fua: bool) {
        let shared = Arc::clone(self.running());
        let mut bus = self.bus.borrow_mut();
        let (believed, in_sync) = (Monitors::believed(&mut bus), Monitors::in_sync(&mut bus));
        for sector in asked.first..asked.first + asked.count {
            let (stripe, _) = self.geometry.locate(sector * SECTOR as u64);
            if matches!(shared.bitmap.cell(stripe), Cell::Unwritten | Cell::First) {
                continue;
            }
            let (slot, offset) = self.home_of(sector);
            let Some(disk) = believed.disk(slot, stripe) else { continue };
            let place = bus.disks[disk].place_in_data(offset, SECTOR as u64);
            if bus.disks[disk].bad.contains(&place.first) {
                continue;
            }
            let name = name_of(bus.disks[disk].sector(place.first));
            assert!(
                self.oracle.allows(sector, asked.start, name),
                "I6: request #{} is acknowledged, and slot {slot} (disk {disk}), which the superblocks let an assembly \
                 believe, holds something else in sector {sector}",
                asked.tag
            );
            if fua {
                let name = name_of(bus.disks[disk].durable_sector(place.first));
                assert!(
                    self.oracle.allows(sector, asked.start, name),
                    "C2: request #{} with FUA is acknowledged, and sector {sector} on disk {disk} is not durable",
                    asked.tag
                );
                // If neither a host nor background work can have written the parity since, the parity must be
                // durable too.
                let is_alone = self.asked.is_empty() && self.written_at < asked.start && !self.is_busy();
                if is_alone && shared.locks.is_free(stripe) {
                    self.check_parity_durable(&mut bus, &in_sync, stripe, offset);
                }
            }
        }
        let stripes =
            asked.first / self.stripe_sectors()..=(asked.first + asked.count - 1) / self.stripe_sectors();
        for stripe in stripes {
            let trusted =
                !matches!(shared.bitmap.cell(stripe), Cell::Unwritten | Cell::First | Cell::NeedSync);
            if trusted && shared.locks.is_free(stripe) {
                let chunk = u64::from(self.geometry.chunk_bytes());
                Monitors::check_parity(&mut bus, stripe, 0, chunk, "acknowledged");
            }
        }
    }

    /// C2 for the parity of one row.
    fn check_parity_durable(&self, bus: &mut Bus, in_sync: &[Option<usize>], stripe: u64, offset: u64) {
        if self.running().bitmap.cell(stripe) == Cell::NeedSync {
            return;
        }
        for strip in self.geometry.parity_strips().iter() {
            let slot = usize::from(self.geometry.rotation(stripe).slot_of(strip));
            let Some(disk) = in_sync.get(slot).copied().flatten() else { continue };
            let place = bus.disks[disk].place_in_data(offset, SECTOR as u64);
            assert!(
                !bus.disks[disk].is_cached(place.first, u64::MAX),
                "C2: a write with FUA is acknowledged, and its parity on disk {disk} is not durable (stripe {stripe})"
            );
        }
    }

    /// Reads everything that was ever written and some that was not, and checks all parity.
    pub fn verify(&mut self) {
        self.drain();
        if self.is_off() {
            return;
        }
        self.check_all_parity("all is quiet");
        let touched: Vec<u64> = self.oracle.touched().collect();
        let mut at = 0;
        let mut idle = 0;
        while at < touched.len() && !self.is_off() {
            let first = touched[at];
            let max = self.rng.pick(&[1, 8, 64, 256]).max(self.config.block_sectors());
            let max = max.min(self.sectors() - first);
            let mut count = 1;
            while at + (count as usize) < touched.len()
                && count < max
                && touched[at + count as usize] == first + count
            {
                count += 1;
            }
            if self.outstanding() < 32 && self.submit(Wish { kind: RequestKind::Read, first, count }) {
                at += count as usize;
            } else {
                self.step_watched(&mut idle);
            }
        }
        for _ in 0..3 {
            let first = self.rng.below(self.sectors());
            let count = self.rng.between(1, 64).min(self.sectors() - first);
            if !self.is_off() {
                self.submit(Wish { kind: RequestKind::Read, first, count });
            }
        }
        self.drain();
    }

    /// B4: after a whole array has rested for some seconds, no stripe is left that would need a resync after
    /// a crash.
    pub fn check_swept(&mut self) {
        let is_whole = |world: &World| {
            !world.is_off() && world.running().members.view().readable == world.geometry.slots()
        };
        if !is_whole(self) {
            return;
        }
        self.rest(5_000_000_000 + 100 * self.config.latency.slowest_ns());
        if !is_whole(self) {
            return;
        }
        for (stripe, cell) in (0..).zip(self.cells()) {
            if cell == Cell::NeedSync && self.is_worn(stripe) {
                continue;
            }
            assert!(
                matches!(cell, Cell::Clean | Cell::Unwritten),
                "SWEPT: all members are in sync, nothing is written, and stripe {stripe} is still {cell:?}"
            );
            let stored = Monitors::stored_cells(&mut self.bus.borrow_mut(), stripe);
            assert!(
                stored.iter().all(|(_, cell)| matches!(cell, Some(code::CLEAN | code::UNWRITTEN))),
                "SWEPT: nothing is written, stripe {stripe} is {cell:?}, and its copies still say {stored:?}"
            );
        }
    }

    /// D7: when the array is started again after a stop in order, the bitmap says what it said at the stop.
    pub(super) fn check_kept(&mut self) {
        let Some(cells) = self.cells_at_stop.take() else { return };
        let as_stored = |cell| if cell == Cell::Aged { Cell::Dirty } else { cell };
        for (stripe, (then, now)) in (0..).zip(cells.into_iter().zip(self.cells())) {
            assert!(
                as_stored(then) == now,
                "KEPT: stripe {stripe} was {then:?} when the array was stopped in order, and is {now:?} when it is started"
            );
        }
    }

    /// The bitmap's cell of every stripe.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let bitmap = &self.running().bitmap;
        (0..self.geometry.stripes()).map(|stripe| bitmap.cell(stripe)).collect()
    }

    /// Checks I3 for every stripe at rest. No host request may be in flight.
    pub fn check_all_parity(&mut self, why: &str) {
        let shared = Arc::clone(self.running());
        if shared.failed() {
            // Writes in flight when too many members were lost may be torn. They were not acknowledged, and
            // stay torn.
            return;
        }
        let mut bus = self.bus.borrow_mut();
        let chunk = u64::from(self.geometry.chunk_bytes());
        let mut stripe = 0;
        while let Some(written) = shared.bitmap.next_written(stripe) {
            let trusted =
                !matches!(shared.bitmap.cell(written), Cell::Unwritten | Cell::First | Cell::NeedSync);
            if trusted && shared.locks.is_free(written) && !self.torn.contains(&written) {
                Monitors::check_parity(&mut bus, written, 0, chunk, why);
            }
            stripe = written + 1;
            if stripe >= self.geometry.stripes() {
                break;
            }
        }
    }
}
