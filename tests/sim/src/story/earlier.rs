//! Devices that join with content from another life of the same array.
//!
//! The array is stopped and goes on. Then it is set back to the stop as a whole, as from a backup, or as when
//! one half of a fork is given up. Some devices are not set back: they keep what they held in the other life,
//! including superblocks, and join as replacements. (No start sees them before they join: it would refuse an
//! array with two lives.) Their bitmap blocks have the array's identity, and their generations may be higher
//! than those of the life that goes on. None of that may count: reads afterwards return what this life
//! acknowledged. The array itself wipes the old content when it takes the devices in.

use std::rc::Rc;

use crate::images::Image;

use super::Story;
use super::rollback::Down;

impl Story {
    pub(super) fn earlier(&mut self) {
        for _ in 0..self.world.rng.between(1, 3) {
            self.set_probes(0, 0);
            self.load(1, 30);
            if self.stop_and_remember() == Down::Cut {
                self.restart(false);
                continue;
            }
            self.restart_present(false);
            self.live_another_life();
            if !self.set_back_without_some() {
                self.restart(false);
                continue;
            }
            self.verify();
            self.end_a_round();
        }
        self.end();
    }

    fn set_probes(&mut self, data_percent: u64, metadata_percent: u64) {
        let probes = &mut self.world.bus.borrow_mut().probes;
        (probes.data_percent, probes.metadata_percent) = (data_percent, metadata_percent);
    }

    /// Writes, rests and ends. All of this life is forgotten, except on the devices that join later.
    fn live_another_life(&mut self) {
        for _ in 0..self.world.rng.between(1, 3) {
            self.load(5, 60);
            if self.chance(50) {
                self.rest();
            }
        }
        if self.chance(50) {
            self.world.drain();
            self.world.cut_now();
            self.world.after_cut();
        } else if self.world.order_stop().is_none() {
            self.world.after_cut();
        }
    }

    /// Sets the array back to its last stop without some members. They join later with their content from the
    /// other life. Returns false if no member can be spared.
    fn set_back_without_some(&mut self) -> bool {
        let stop = Rc::clone(self.world.stops.last().expect("the array was stopped in order"));
        let mut joiners = stop.in_sync().to_vec();
        let spare = joiners.len().saturating_sub(usize::from(self.world.geometry.data()));
        self.world.rng.shuffle(&mut joiners);
        joiners.truncate(self.world.rng.between(1, 2).min(spare as u64) as usize);
        let lives: Vec<Image> = {
            let mut bus = self.world.bus.borrow_mut();
            bus.remember(&joiners, true).into_iter().map(|image| (*image).clone()).collect()
        };
        if joiners.is_empty() || !self.world.return_to(&stop) {
            return false;
        }
        for life in &lives {
            let mut bus = self.world.bus.borrow_mut();
            bus.put_back(life);
            bus.monitors.apart.insert(life.disk);
            bus.take_apart_away();
            self.world.gone.insert(life.disk);
        }
        self.restart_present(false);
        self.set_probes(5, 100);
        self.load(1, 20);
        for disk in joiners {
            self.take_in(disk);
            if self.chance(60) {
                self.load(1, 20);
            }
            if self.chance(30) {
                self.load_and_cut();
                self.restart(false);
            }
            self.settle();
        }
        true
    }

    /// Orders a device that was in the array before to join in some slot.
    fn take_in(&mut self, disk: usize) {
        let slots = self.world.empty_slots();
        if !slots.is_empty() && !self.world.is_off() {
            let slot = self.world.rng.pick(&slots);
            let _refused_or_cut = self.world.order_join(slot, Some(disk));
        }
    }

    fn end_a_round(&mut self) {
        if self.chance(50) {
            self.stop();
        } else {
            self.load_and_cut();
            let missing = self.chance(40);
            self.restart(missing);
        }
        self.verify();
        if self.world.spare() > 0 && self.chance(50) {
            self.die();
            self.load(1, 10);
            self.verify();
        }
    }
}
