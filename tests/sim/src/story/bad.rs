//! Bad sectors that stay bad until they are written, on several members, in the same rows and in others, while slots are filled,
//! stripes are resynced and the power goes. Nothing excuses an error but that its rows cannot be computed.
//!
//! In a quarter of the arrays bad sectors are worn: they take no writes either. A write that meets one may be refused, and a resync may
//! leave its stripe NeedSync. No member dies beside them: what such a stripe may lose then is not modelled.

use crate::rng::Rng;

use super::Story;

/// In this time a rebuild and a resync give up what cannot be read.
const ENDED_NS: u64 = 500_000_000_000;

impl Story {
    pub(super) fn bad(&mut self) {
        // Drawn aside: the stored seeds of before do what they did, or the same with worn sectors.
        let is_worn = Rng::new(self.world.rng.clone().next()).chance(25);
        {
            let mut bus = self.world.bus.borrow_mut();
            bus.monitors.repairs_happen = true;
            (bus.lasting, bus.worn) = (true, is_worn);
            bus.disks.iter_mut().for_each(|disk| disk.lasting = true);
        }
        for _ in 0..self.world.rng.between(1, 4) {
            self.load(3, 40);
            if self.chance(60) && self.world.spare() > 0 {
                if !is_worn {
                    self.die_or_be_failed();
                } else if !self.world.has_worn() {
                    self.be_failed();
                }
            }
            if !self.world.is_off() {
                self.world.spoil();
            }
            if self.chance(40) {
                self.load(1, 30);
            }
            match self.world.rng.below(4) {
                0 => self.verify(),
                1 => {
                    self.load_and_cut();
                    self.restart(false);
                    if self.chance(50) {
                        self.verify();
                    }
                }
                _ => {}
            }
            self.replace();
            if self.chance(30) {
                self.load(1, 20);
            }
            if self.chance(30) {
                self.load_and_cut();
                self.restart(false);
            }
            if self.world.is_off() {
                return;
            }
            self.world.drain();
            self.world.rest(ENDED_NS);
            self.explore();
            self.world.check_ended();
            self.verify();
        }
        if is_worn {
            // The drives are replaced by good copies while the array is down: the next start resyncs what was left.
            {
                let mut bus = self.world.bus.borrow_mut();
                bus.worn = false;
                bus.disks.iter_mut().for_each(|disk| disk.bad.clear());
            }
            self.load_and_cut();
            self.restart(false);
            if self.world.is_off() {
                return;
            }
        }
        self.end();
    }
}
