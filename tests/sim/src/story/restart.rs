//! Starts after a power cut: the disks that are present, and the moment at which the power goes again.

use crate::bus::Cut;
use crate::monitors::{Monitors, spare_at_start};
use crate::rng::Rng;
use crate::world::{Block, GrowOutcome, Spot, StartOutcome};

use super::Story;

/// Percentage of starts before which the array is looked at: see `World::look`.
const LOOKS_PERCENT: u64 = 3;

impl Story {
    /// Starts the array after a cut, perhaps with cuts during the start, perhaps without some members.
    pub(super) fn restart(&mut self, missing: bool) {
        if self.chance(30) {
            // Dead disks may come back with the content that they had.
            let mut bus = self.world.bus.borrow_mut();
            for (disk, of_disk) in bus.disks.iter_mut().enumerate() {
                of_disk.dead &= self.world.gone.contains(&disk);
            }
        }
        self.restart_present(missing);
    }

    pub(super) fn restart_present(&mut self, missing: bool) {
        let mut cuts_left = if self.chance(40) { self.world.rng.between(1, 3) } else { 0 };
        let storm = self.chance(self.storm_percent);
        if storm {
            cuts_left = self.world.rng.between(3, 8);
        }
        loop {
            if self.grow_percent > 0 && self.chance(self.grow_percent) && !self.grow_before_start() {
                continue;
            }
            let missing =
                if storm && self.may_suffer_more() { self.chance(self.missing_percent) } else { missing };
            let spare = self.choose_present(missing);
            if spare > 0 && self.may_suffer_more() && self.chance(15) {
                self.fail_a_write_of_the_start();
            }
            let superblocks = match self.stay_percent {
                0 => 2 * u64::from(self.world.geometry.members()) + 2,
                _ => 2 * self.world.present.len() as u64 + 1,
            };
            let cut = (cuts_left > 0).then(|| match self.world.rng.below(3) {
                _ if storm => Cut::MetadataPushes(self.world.rng.below(superblocks)),
                0 => Cut::Completions(self.world.rng.below(40)),
                1 => Cut::MetadataPushes(self.world.rng.below(12)),
                _ => Cut::MetadataCompletions(self.world.rng.below(12)),
            });
            cuts_left = cuts_left.saturating_sub(1);
            // Drawn from a copy of the generator, so that the run is the same with and without the look.
            if !self.single_fault && Rng::new(self.world.rng.clone().next()).chance(LOOKS_PERCENT) {
                let present = self.world.present.clone();
                self.look_read_only_from(&present, true);
            }
            let outcome = self.world.start(cut);
            self.forgive_disks();
            match outcome {
                StartOutcome::Running => return self.explore(),
                StartOutcome::PowerCut => {
                    self.pending_cuts += 1;
                    self.world.after_cut();
                }
                // Too many members went back in time: the branch ends here.
                StartOutcome::Refused if self.world.older => return self.world.cut_now(),
                StartOutcome::Refused => panic!("START: refused, and enough members are there"),
            }
        }
    }

    /// Whether another fault may accompany a start.
    fn may_suffer_more(&self) -> bool {
        !self.single_fault && self.world.damaged.is_empty()
    }

    /// Draws a moment during a start at which the power goes.
    pub(super) fn cut_in_a_start(&mut self) -> Cut {
        match self.world.rng.below(3) {
            0 => Cut::Completions(self.world.rng.below(40)),
            1 => Cut::MetadataPushes(self.world.rng.below(12)),
            _ => Cut::MetadataCompletions(self.world.rng.below(12)),
        }
    }

    /// Tries to grow the array, perhaps with a cut or a failing member. Returns whether the power is still
    /// on.
    fn grow_before_start(&mut self) -> bool {
        let spare = self.choose_present(false);
        if spare > 0 && self.chance(15) {
            self.fail_a_write_of_the_start();
        }
        let superblocks = 3 * self.world.present.len() as u64 + 2;
        let cut = match self.world.rng.below(6) {
            0 => Some(Cut::MetadataPushes(self.world.rng.below(superblocks))),
            1 => Some(Cut::MetadataCompletions(self.world.rng.below(superblocks))),
            2 => Some(Cut::Completions(self.world.rng.below(60))),
            _ => None,
        };
        let outcome = self.world.grow(cut);
        self.forgive_disks();
        if outcome == GrowOutcome::PowerCut {
            self.pending_cuts += 1;
            self.world.after_cut();
            return false;
        }
        self.explore();
        true
    }

    /// Clears the write failures that were planned for a start.
    fn forgive_disks(&mut self) {
        for disk in &mut self.world.bus.borrow_mut().disks {
            (disk.write_fails_after, disk.failing_writes) = (None, 0);
        }
    }

    /// Chooses the disks that are present: every disk that is alive, perhaps without those that were away
    /// before, and, if `missing`, without some that are in sync, as far as the level tolerates. Returns how
    /// many more may be lost.
    pub(super) fn choose_present(&mut self, missing: bool) -> usize {
        // The other keepers of a damaged bitmap block are needed until a start has repaired it.
        let is_bitmap = |spot: &Spot| matches!(spot.block, Block::Bitmap { .. });
        let missing = missing && !self.world.damaged.iter().any(is_bitmap);
        let mut bus = self.world.bus.borrow_mut();
        bus.monitors.superblocks_changed = true;
        let mut in_sync: Vec<usize> = Monitors::in_sync(&mut bus).into_iter().flatten().collect();
        in_sync.retain(|disk| !bus.disks[*disk].dead);
        let alive: Vec<usize> = (0..bus.disks.len()).filter(|disk| !bus.disks[*disk].dead).collect();
        drop(bus);
        let mut present = alive.clone();
        let stay_away =
            if self.stay_percent > 0 { self.who_stays_away(&mut present, &in_sync) } else { Vec::new() };
        let mut spare = in_sync
            .len()
            .saturating_sub(usize::from(self.world.geometry.data()))
            .min(spare_at_start(&mut self.world.bus.borrow_mut(), &present, &in_sync));
        for gone in stay_away.into_iter().take(spare) {
            in_sync.retain(|disk| *disk != gone);
            present.retain(|disk| *disk != gone);
            spare -= 1;
        }
        while missing && spare > 0 && self.chance(60) {
            let gone = in_sync.swap_remove(self.world.rng.below(in_sync.len() as u64) as usize);
            present.retain(|disk| *disk != gone);
            spare -= 1;
        }
        self.away = alive.into_iter().filter(|disk| !present.contains(disk)).collect();
        self.world.present = present;
        spare
    }

    /// The disks in sync that were missing at the last start and stay away. A disk that is not in sync is not
    /// needed, so it may stay away, or leave, however many members the level can miss.
    fn who_stays_away(&mut self, present: &mut Vec<usize>, in_sync: &[usize]) -> Vec<usize> {
        let mut away = std::mem::take(&mut self.away);
        if !self.chance(self.stay_percent) {
            away.clear();
            if !in_sync.is_empty() && self.chance(20) {
                away.extend(present.iter().filter(|disk| !in_sync.contains(disk)));
            }
        }
        present.retain(|disk| in_sync.contains(disk) || !away.contains(disk));
        away.retain(|disk| in_sync.contains(disk));
        away
    }

    fn fail_a_write_of_the_start(&mut self) {
        let disk = self.world.rng.pick(&self.world.present);
        let after = self.world.rng.below(6) as u32;
        let mut bus = self.world.bus.borrow_mut();
        bus.note(13, || format!("a write of disk {disk} will fail, after {after} others"));
        bus.disks[disk].write_fails_after = Some(after);
    }
}
