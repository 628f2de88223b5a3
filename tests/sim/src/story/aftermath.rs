//! The aftermath of a power cut at a moment of a run: a real start, a check of everything, and then one of
//! several continuations.

use crate::rng::{Rng, mix};

use super::rollback::Down;
use super::{BRANCH, Flavour, Story};

impl Story {
    /// Makes the bus record moments of this run.
    pub(super) fn take_moments(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut bus = self.world.bus.borrow_mut();
        let probes = &mut bus.probes;
        probes.data_percent = rng.pick(&[1, 5, 20]);
        probes.metadata_percent = rng.pick(&[10, 40, 100]);
        probes.left = match self.knobs.flavour {
            Flavour::Small | Flavour::Skewed => rng.between(10, 40) as u32,
            Flavour::Full => rng.between(2, 6) as u32,
        };
        probes.rng = rng;
    }

    /// Examines the moments recorded since the last call, each in up to three worlds.
    pub(super) fn explore(&mut self) {
        for crash in std::mem::take(&mut self.world.crashes) {
            let worlds = if crash.is_open() { 3 } else { 1 };
            for _ in 0..worlds {
                let nth = self.branches;
                self.branches += 1;
                if self.knobs.only.is_some_and(|only| only != nth) {
                    continue;
                }
                if self.verbose {
                    println!("BRANCH {nth}");
                }
                BRANCH.set(Some(nth));
                let seed = mix(u64::from(nth)) ^ self.world.bus.borrow().probes.rng.clone().next();
                let world = self.world.branch(&crash, seed, &self.memories.branch, self.verbose);
                let mut branch = Story::of(world, self.knobs, self.memories.clone(), self.verbose);
                branch.pending_cuts = 1;
                branch.storm_percent = self.storm_percent;
                branch.missing_percent = self.missing_percent;
                branch.stay_percent = self.stay_percent;
                branch.rollback_percent = self.rollback_percent;
                branch.decay_percent = self.decay_percent;
                branch.partitioned = self.partitioned;
                branch.aftermath();
                self.outcome.add(&branch.outcome());
                BRANCH.set(None);
                if self.verbose {
                    println!("END OF BRANCH {nth}");
                }
            }
        }
    }

    fn aftermath(&mut self) {
        let missing = self.chance(15);
        if self.rollback_percent > 0 && self.chance(self.rollback_percent) {
            self.start_rolled_back(Down::Cut);
        } else if self.decay_percent > 0 && self.chance(self.decay_percent) {
            self.start_decayed(Down::Cut);
        } else {
            self.restart(missing);
        }
        if self.world.is_off() {
            return;
        }
        self.verify();
        match self.world.rng.below(100) {
            0..25 => {}
            // The resync leaves everything consistent.
            25..45 => {
                self.settle();
                self.verify();
                self.world.check_swept();
            }
            // A member dies before, during or after the resync.
            45..80 => {
                match self.world.rng.below(3) {
                    0 => {}
                    1 => self.world.rest(200_000),
                    _ => self.settle(),
                }
                self.die_all();
            }
            // A load, and another power cut.
            80..92 => {
                self.load_and_cut();
                self.restart(missing);
                self.verify();
            }
            // The missing member is replaced, and another member dies.
            _ => {
                self.replace();
                self.settle();
                self.verify();
                self.die_all();
            }
        }
    }

    /// Kills members, as many as the level tolerates, with writes in between. Everything is checked after
    /// each death.
    fn die_all(&mut self) {
        if self.world.has_worn() {
            return;
        }
        if self.chance(6) {
            while self.world.spare() > 0 {
                self.die();
            }
            self.beyond();
            return;
        }
        while self.world.spare() > 0 {
            self.die();
            if self.chance(30) {
                self.load(1, 10);
            }
            self.verify();
            if self.chance(30) {
                return;
            }
        }
    }
}
