//! Bad sectors that stay bad until they are written, on several members, in the same rows and in others, while slots are filled,
//! stripes are resynced and the power goes. Nothing excuses an error but that its rows cannot be computed.
//!
//! In a quarter of the arrays bad sectors are worn: they take no writes either. A write that meets one may be refused, and a resync may
//! leave its stripe NeedSync. No member dies beside them: what such a stripe may lose then is not modelled.
//!
//! In a third of the others, reads of good sectors fail now and then while slots are filled and stripes are resynced. No more than
//! [`LAPSES`] of a disk fail within [`LAPSE_NS`], which are too few to give anything up for, so such an error excuses nothing.

use crate::rng::Rng;

use super::Story;

/// In this time a rebuild and a resync give up what cannot be read.
const ENDED_NS: u64 = 500_000_000_000;
/// Reads of a disk that fail one after the other: the first is that of a batch, mostly, and the next is that of a piece. The engine
/// reads a piece four times before it gives it up. So two such errors before that and two more meanwhile are not enough.
const LAPSES: u32 = 2;
/// The least time between two times that reads of a disk fail. It is longer than the engine takes to read a piece four times.
const LAPSE_NS: u64 = 5_000_000_000;
/// So long reads fail now and then. Then there is time for one more attempt of a resync, which comes after up to 160 s.
const LAPSES_END_NS: u64 = 250_000_000_000;

impl Story {
    pub(super) fn bad(&mut self) {
        // Drawn aside: the stored seeds of before do what they did, or the same with worn sectors.
        let mut aside = Rng::new(self.world.rng.clone().next());
        let is_worn = aside.chance(25);
        let mut lapses = (!is_worn && aside.chance(33)).then_some(aside);
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
            match &mut lapses {
                Some(rng) => self.rest_with_lapses(rng),
                None => self.world.rest(ENDED_NS),
            }
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

    /// A rest in which a few reads of good sectors fail now and then.
    fn rest_with_lapses(&mut self, rng: &mut Rng) {
        let (mut left_ns, disks) = (LAPSES_END_NS, self.world.bus.borrow().disks.len() as u64);
        while left_ns > 0 {
            let disk = rng.below(disks) as usize;
            self.world.bus.borrow_mut().disks[disk].transient_reads = LAPSES;
            let ns = rng.between(LAPSE_NS, 4 * LAPSE_NS).min(left_ns);
            self.world.rest(ns);
            left_ns -= ns;
        }
        self.world.bus.borrow_mut().disks.iter_mut().for_each(|disk| disk.transient_reads = 0);
        self.world.rest(ENDED_NS - LAPSES_END_NS);
    }
}
