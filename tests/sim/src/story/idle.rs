//! Arrays that rest, whole and degraded, and the cost of an unclean end.
//!
//! An array is written, loses as many members as its level can miss, and rests. Then it ends in one of three
//! ways: the power goes; or it is stopped, started and only read before the power goes; or it is written a
//! little before the power goes. See `world::idle` for what may be lost.

use super::Story;

impl Story {
    pub(super) fn idle(&mut self) {
        for _ in 0..self.world.rng.between(1, 4) {
            self.load(2, 60);
            while self.world.spare() > 0 && self.chance(60) {
                self.die_or_be_failed();
                self.load(1, 20);
            }
            if self.chance(20) {
                self.replace();
                if self.chance(60) {
                    self.settle();
                }
            }
            self.world.drain();
            if self.chance(60) {
                self.world.check_idle();
            }
            self.explore();
            if self.world.is_off() {
                return;
            }
            match self.world.rng.below(4) {
                0 => self.cut_at_rest(),
                1 => {
                    self.stop();
                    self.verify();
                    self.cut_at_rest();
                }
                2 => self.stop(),
                _ => {
                    self.load_and_cut();
                    let missing = self.chance(20);
                    self.restart(missing);
                }
            }
            self.verify();
        }
        self.end();
    }

    fn cut_at_rest(&mut self) {
        if self.chance(50) {
            self.rest();
        }
        self.world.drain();
        self.world.cut_now();
        self.pending_cuts += 1;
        self.world.after_cut();
        let missing = self.chance(20);
        self.restart(missing);
    }
}
