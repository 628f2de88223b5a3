//! The scenarios: each a script over the verbs of a [`Story`].

use engine::request::RequestKind;

use crate::bus::Cut;
use crate::host::Wish;

use super::Story;

impl Story {
    pub(super) fn deaths(&mut self) {
        self.load(10, 150);
        if self.chance(50) {
            self.verify();
        }
        while self.world.spare() > 0 {
            if self.chance(40) {
                self.rest();
            }
            self.die();
            self.load(5, 80);
            self.verify();
        }
        if self.chance(30) {
            self.beyond();
        }
    }

    /// Kills one more member than the level tolerates. Every answer must be true, and every request must be
    /// answered.
    pub(super) fn beyond(&mut self) {
        self.world.beyond_level = true;
        let count = self.requests(3, 40);
        self.world.load(count);
        self.die();
        self.load(5, 60);
        self.verify();
        self.order_when_failed();
    }

    pub(super) fn cuts(&mut self) {
        for _ in 0..self.world.rng.between(1, 6) {
            if self.chance(40) {
                self.world.settle();
            }
            self.load_and_cut();
            let missing = self.chance(20);
            self.restart(missing);
            self.verify();
        }
        self.end();
    }

    pub(super) fn rebuild(&mut self) {
        for _ in 0..self.world.rng.between(1, 3) {
            self.load(10, 80);
            if self.world.spare() > 0 && self.world.empty_slots().is_empty() {
                self.die_or_be_failed();
                self.load(1, 60);
            }
            self.replace();
            if self.chance(60) {
                self.load(5, 60);
            }
            if self.chance(30) {
                self.disturb_rebuild();
                self.load(5, 40);
            }
            if self.world.spare() == 0 && self.chance(5) {
                self.beyond();
                return;
            }
            if self.chance(40) {
                self.load_and_cut();
                let missing = self.chance(15);
                self.restart(missing);
            }
            self.settle();
            self.verify();
        }
        self.end();
    }

    pub(super) fn faults(&mut self) {
        for _ in 0..self.world.rng.between(1, 5) {
            // Sometimes without a load first: after one, the resync of a start has long ended.
            if self.chance(60) {
                self.load(5, 60);
            }
            if self.chance(10) {
                self.silence();
            } else {
                self.fault();
            }
            self.load(5, 60);
            self.verify();
            self.heal();
            if self.chance(30) {
                self.replace();
                self.settle();
            }
            if self.chance(20) {
                self.load_and_cut();
                self.restart(false);
            }
        }
        self.end();
    }

    pub(super) fn stops(&mut self) {
        for _ in 0..self.world.rng.between(1, 4) {
            self.load(5, 80);
            if self.chance(30) {
                self.rest();
            }
            if self.chance(20) && self.world.spare() > 0 {
                self.die();
            }
            self.stop();
            if self.chance(20) {
                self.load_and_cut();
                self.restart(false);
            }
            self.verify();
        }
        self.end();
    }

    pub(super) fn starts(&mut self) {
        self.storm_percent = 90;
        for _ in 0..self.world.rng.between(2, 5) {
            self.load_and_cut();
            self.restart(false);
            self.load(1, 10);
            self.verify();
        }
        self.end();
    }

    pub(super) fn absent(&mut self) {
        // In some runs one member is away for long; in others a different member is away each time.
        (self.storm_percent, self.missing_percent) = (95, 60);
        self.stay_percent = self.world.rng.pick(&[20, 50, 80]);
        self.knobs.load = self.knobs.load.min(20);
        self.world.bus.borrow_mut().probes.metadata_percent = 100;
        for _ in 0..self.world.rng.between(2, 5) {
            // The member that is being filled may be away too.
            if self.chance(30) {
                if self.world.spare() > 0 && self.world.empty_slots().is_empty() {
                    self.die_or_be_failed();
                    self.load(1, 10);
                }
                self.replace();
            }
            self.load_and_cut();
            self.restart(false);
            self.load(1, 10);
            self.verify();
        }
        self.end();
    }

    pub(super) fn grow(&mut self) {
        (self.grow_percent, self.storm_percent) = (60, 30);
        self.knobs.load = self.knobs.load.min(30);
        for _ in 0..self.world.rng.between(2, 5) {
            self.load(2, 40);
            match self.world.rng.below(4) {
                0 => {
                    self.load_and_cut();
                    let missing = self.chance(20);
                    self.restart(missing);
                }
                1 if self.world.spare() > 0 => {
                    self.die();
                    self.load(1, 10);
                    self.stop();
                    self.heal();
                    self.replace();
                    self.settle();
                    self.stop();
                }
                _ => self.stop(),
            }
            self.load(2, 40);
            self.verify();
        }
        self.end();
    }

    pub(super) fn seed(&mut self) {
        let stripe_sectors = u64::from(self.world.geometry.stripe_bytes()) / 512;
        let stripes = self.world.geometry.stripes();
        for stripe in 0..stripes {
            for _ in 0..self.world.rng.between(1, 3) {
                let base = stripe * stripe_sectors;
                let wish = match self.world.rng.below(6) {
                    0 => Wish { kind: RequestKind::Discard, first: base, count: stripe_sectors },
                    1 => Wish {
                        kind: RequestKind::Write { fua: true },
                        first: base,
                        count: stripe_sectors.min(1024),
                    },
                    _ => {
                        let first = self.world.rng.below(stripe_sectors);
                        let count = self.world.rng.between(1, 8).min(stripe_sectors - first);
                        Wish { kind: RequestKind::Write { fua: false }, first: base + first, count }
                    }
                };
                self.world.submit(wish);
                if self.chance(50) {
                    self.world.drain();
                }
            }
        }
        self.world.drain();
        while self.world.spare() > 0 {
            self.die();
            self.verify();
        }
    }

    pub(super) fn leaving(&mut self) {
        self.world.bus.borrow_mut().probes.metadata_percent = 100;
        for _ in 0..self.world.rng.between(2, 5) {
            self.load(2, 20);
            match self.world.rng.below(5) {
                0 | 1 if self.world.spare() > 0 => self.fail_in_a_load(),
                2 => self.fail_while_recorded(),
                3 => self.fill_from_bad_blocks(),
                _ => {
                    if self.world.spare() > 0 {
                        self.die();
                    }
                    self.load(2, 20);
                }
            }
            if self.world.spare() == 0 && self.chance(15) {
                self.beyond();
                return;
            }
            self.heal();
            self.verify();
            if self.chance(40) {
                self.settle();
            }
        }
        self.end();
    }

    /// Makes a member fail the n-th write of a load; usually a member with a cache, if there is one.
    fn fail_in_a_load(&mut self) {
        let slots: Vec<u8> = self.world.running().members.view().readable.iter().collect();
        let has_cache = |slot: &u8| self.world.bus.borrow().disks[self.world.disk_of(*slot)].volatile;
        let cached: Vec<u8> = slots.iter().copied().filter(has_cache).collect();
        let slot = if cached.is_empty() || self.chance(25) {
            self.world.random_slot()
        } else {
            self.world.rng.pick(&cached)
        };
        let (disk, after) = (self.world.disk_of(slot), self.world.rng.below(20) as u32);
        if self.world.bus.borrow().disks[disk].dead {
            return;
        }
        self.world.mark_lossy();
        self.world.bus.borrow_mut().disks[disk].write_fails_after = Some(after);
        self.load(5, 40);
    }

    /// Makes a slot that is being filled fail a write while its record is being written.
    fn fail_while_recorded(&mut self) {
        if self.world.empty_slots().is_empty() && self.world.spare() > 0 {
            self.die();
            self.load(1, 10);
        }
        self.replace();
        if self.world.is_off() {
            return;
        }
        for _ in 0..self.world.rng.between(2, 20) {
            let filled = self.world.running().members.view().rebuilding().iter().next();
            if let Some(slot) = filled {
                let disk = self.world.disk_of(slot);
                self.world.mark_lossy();
                self.world.bus.borrow_mut().disks[disk].armed = true;
            }
            self.load(1, 6);
            let ns = self.world.rng.pick(&[1_000, 1_000, 20_000, 1_000_000]);
            self.world.rest(ns);
        }
    }

    /// Fills a slot from members of which some reads fail for a while.
    fn fill_from_bad_blocks(&mut self) {
        if self.world.empty_slots().is_empty() && self.world.spare() > 0 {
            self.die();
            self.load(1, 10);
        }
        self.replace();
        self.world.mark_lossy();
        self.world.beyond_level = true;
        self.world.bus.borrow_mut().monitors.repairs_happen = true;
        let slot = self.world.random_slot();
        let disk = self.world.disk_of(slot);
        let count = self.world.rng.between(1, 12) as u32;
        self.world.bus.borrow_mut().disks[disk].transient_reads = count;
        let ns = self.world.rng.pick(&[20_000, 1_000_000, 100_000_000]);
        self.world.rest(ns);
        self.load(1, 10);
        self.heal();
        self.settle();
    }

    pub(super) fn lost(&mut self) {
        for _ in 0..self.world.rng.between(1, 3) {
            // Before the resync has progressed far.
            if self.world.spare() > 0 && self.world.empty_slots().is_empty() {
                self.die_or_be_failed();
            }
            self.load(1, 6);
            self.replace();
            self.world.bus.borrow_mut().probes.metadata_percent = 100;
            if self.chance(30) {
                self.discard_and_cut();
            }
            let mut left: Vec<u64> = (0..self.world.geometry.stripes()).collect();
            while !left.is_empty() && !self.world.is_off() {
                let nth = self.world.rng.below(left.len() as u64) as usize;
                self.renew(left.swap_remove(nth));
                let ns = self.world.rng.pick(&[0, 1_000, 20_000, 1_000_000, 100_000_000]);
                self.world.rest(ns);
            }
            self.load(1, 6);
            self.heal();
            self.verify();
            self.check_filled();
            if self.chance(50) {
                self.load_and_cut();
                self.restart(false);
                self.verify();
            }
        }
        self.end();
    }

    /// Discards stripes that are listed as lost by now, and cuts the power before all of them are off the
    /// list. Then a part of each stripe is written: the rest of a discarded stripe must still read as zeros.
    fn discard_and_cut(&mut self) {
        self.world.rest(1_000_000_000);
        if self.world.is_off() {
            return;
        }
        let after = self.world.rng.below(24);
        let completions = self.chance(50);
        let cut = if completions { Cut::MetadataCompletions(after) } else { Cut::MetadataPushes(after) };
        self.world.bus.borrow_mut().cut = Some(cut);
        let sectors = u64::from(self.world.geometry.stripe_bytes()) / 512;
        let stripes = self.world.geometry.stripes();
        for stripe in 0..stripes {
            if !self.world.is_off() && self.chance(70) {
                let kind = RequestKind::Discard;
                self.world.submit(Wish { kind, first: stripe * sectors, count: sectors });
            }
        }
        self.world.drain();
        if !self.world.is_off() {
            self.world.cut_now();
        }
        self.pending_cuts += 1;
        self.world.after_cut();
        self.restart(false);
        if self.chance(70) {
            self.verify();
        }
        for stripe in 0..stripes {
            let (at, fua) = (self.world.rng.below(sectors), self.chance(50));
            let count = self.world.rng.between(1, 4).min(sectors - at);
            let kind = RequestKind::Write { fua };
            self.world.submit(Wish { kind, first: stripe * sectors + at, count });
        }
        self.verify();
    }

    pub(super) fn filling(&mut self) {
        let probes = |story: &Story, data_percent, metadata_percent| {
            let probes = &mut story.world.bus.borrow_mut().probes;
            (probes.data_percent, probes.metadata_percent) = (data_percent, metadata_percent);
        };
        probes(self, 0, 0);
        self.load(10, 60);
        // One slow rebuild and a power cut are enough to test rows that a flush does not cover.
        let slowly = self.chance(40);
        let rounds = if slowly { 1 } else { self.world.rng.between(2, 5) };
        for _ in 0..rounds {
            if self.world.spare() > 0 && self.world.empty_slots().is_empty() {
                self.die_or_be_failed();
                self.load(1, 10);
            }
            self.replace();
            if slowly && !self.world.is_off() {
                self.fill_slowly();
                probes(self, 5, 100);
            }
            let ns = self.world.rng.pick(&[1_000_000_000, 7_000_000_000, 9_000_000_000, 12_000_000_000]);
            self.world.rest(ns);
            probes(self, 5, 100);
            match self.world.rng.below(5) {
                0 | 1 => self.fail_who_is_filled(),
                2 => {
                    self.load_and_cut();
                    self.restart(false);
                    if self.chance(50) {
                        // The cursor of the failed device must not count for the device that comes after it.
                        self.fail_who_is_filled();
                        self.heal();
                        self.replace();
                    }
                }
                3 => {
                    self.load(5, 40);
                    self.stop();
                }
                _ => self.load(5, 40),
            }
            self.load(1, 20);
            self.heal();
            self.verify();
        }
        self.end();
    }

    /// Fills a slot for some 20 s, with flushes that take longer than the interval between two records of the
    /// cursor.
    fn fill_slowly(&mut self) {
        let flush_ns = self.world.rng.between(5_500_000_000, 9_000_000_000);
        let read_ns = 600_000_000_000 / self.world.geometry.stripes().max(100);
        {
            let mut bus = self.world.bus.borrow_mut();
            bus.slow_ns = (flush_ns, read_ns);
            (bus.probes.data_percent, bus.probes.metadata_percent) = (0, 100);
        }
        let ns = self.world.rng.between(12_000_000_000, 25_000_000_000);
        self.world.rest(ns);
        self.world.bus.borrow_mut().slow_ns = (0, 0);
    }

    /// Makes the slot that is being filled fail the n-th write of a load.
    fn fail_who_is_filled(&mut self) {
        if self.world.is_off() {
            return;
        }
        let filled = self.world.running().members.view().rebuilding().iter().next();
        if let Some(slot) = filled {
            let (disk, after) = (self.world.disk_of(slot), self.world.rng.below(20) as u32);
            self.world.mark_lossy();
            self.world.bus.borrow_mut().disks[disk].write_fails_after = Some(after);
        }
        self.load(5, 40);
    }

    /// Checks that a slot is filled before long once no stripe is lost any more.
    fn check_filled(&mut self) {
        if !self.world.is_off() && self.world.running().bitmap.next_need_sync(0).is_none() {
            self.world.rest(5_000_000_000 + 200 * self.world.config.latency.slowest_ns());
        }
        if !self.world.is_off() && self.world.running().bitmap.next_need_sync(0).is_none() {
            let filled = self.world.running().members.view().rebuilding();
            assert!(filled.is_empty(), "A4: no stripe is lost, and {filled:?} is not filled");
        }
        self.explore();
    }

    /// Writes or discards a whole stripe.
    fn renew(&mut self, stripe: u64) {
        let sectors = u64::from(self.world.geometry.stripe_bytes()) / 512;
        let kind = match self.world.rng.below(4) {
            0 => RequestKind::Write { fua: false },
            _ => RequestKind::Discard,
        };
        self.world.submit(Wish { kind, first: stripe * sectors, count: sectors.min(1024) });
    }

    pub(super) fn mixed(&mut self) {
        for _ in 0..self.world.rng.between(3, 12) {
            match self.world.rng.below(12) {
                0..=2 => self.load(5, 100),
                3 => self.rest(),
                4 => self.settle(),
                5 => {
                    if self.world.spare() > 0 {
                        self.die_or_be_failed();
                    }
                    self.load(1, 40);
                }
                6 => self.replace(),
                7 => {
                    self.load_and_cut();
                    let missing = self.chance(20);
                    self.restart(missing);
                }
                8 => self.stop(),
                9 => {
                    self.fault();
                    self.load(5, 40);
                    self.heal();
                }
                _ => self.verify(),
            }
        }
        self.end();
    }

    /// Puts everything in order again, as far as possible, and verifies it.
    pub(super) fn end(&mut self) {
        self.heal();
        self.verify();
        self.settle();
        self.verify();
        self.world.check_swept();
        if self.world.spare() > 0 && self.chance(50) {
            self.die();
            self.verify();
        }
    }
}
