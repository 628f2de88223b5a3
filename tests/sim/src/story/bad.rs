//! Bad sectors that stay bad until they are written, on several members, in the same rows and in others,
//! while slots are filled, stripes are resynced and the power goes. An error is excused only if its rows
//! cannot be computed.
//!
//! In a quarter of the arrays, bad sectors are worn: they refuse writes too. A write that meets a worn sector
//! may be refused, and a resync may leave its stripe `NeedSync`. No other member dies in these arrays: what
//! such a stripe may lose then is not modelled.
//!
//! In a third of the other arrays, reads of good sectors fail now and then while slots are filled and stripes
//! are resynced. At most [`LAPSES`] reads of a disk fail within [`LAPSE_NS`]. That is too few for the engine
//! to give anything up, so such an error excuses nothing.

use crate::rng::Rng;

use super::Story;

/// Time within which a rebuild and a resync give up what cannot be read.
const ENDED_NS: u64 = 500_000_000_000;
/// Number of consecutive reads of a disk that fail: usually the first is the read of a batch, and the second
/// that of a piece. The engine reads a piece four times before it gives it up. So two such errors before, and
/// two more during the four reads, are not enough.
const LAPSES: u32 = 2;
/// Shortest time between two series of failing reads. It is longer than the engine takes to read a piece four
/// times.
const LAPSE_NS: u64 = 5_000_000_000;
/// Length of the period in which reads fail now and then. Then time is left for one more attempt of a resync,
/// which comes after up to 160 s.
const LAPSES_END_NS: u64 = 250_000_000_000;

impl Story {
    pub(super) fn bad(&mut self) {
        // Drawn from a copy of the generator, so that older stored seeds do what they did before, except for
        // worn sectors.
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
            // Good copies replace the drives while the array is down: the next start resyncs what was left
            // unsynced.
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

    /// Rests while a few reads of good sectors fail now and then.
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
