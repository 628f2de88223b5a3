//! Read-only looks at a stopped array: it is started, everything is read, and everything is left as it was.
//!
//! Nothing may be written to any disk meanwhile (READONLY, see [`Bus::push`](crate::bus::Bus)), so the next
//! start finds what it would have found without the look. Random numbers and time are restored too, so the
//! run continues as without the look. For writes that a power cut interrupted, a look shows one outcome and
//! does not make it permanent: the only member that holds it may be missing at the next start. So what the
//! oracle learnt from the look is forgotten as well.

use engine::members::READ_ERRORS_MAX;
use engine::request::RequestKind;

use crate::host::Wish;

use super::{StartOutcome, World};

impl World {
    /// Looks at the array that these disks make up. Now and then, some sectors of a member that can be spared
    /// are unreadable: they are recovered, and not repaired.
    pub fn look(&mut self, disks: &[usize]) -> StartOutcome {
        self.look_with(disks, |world| {
            if world.spare() > 0 && world.rng.chance(50) {
                world.damage_for_a_look();
            }
            let view = world.running().members.view();
            world.verify();
            let now = world.running().members.view();
            assert_eq!(view, now, "READONLY: a member is failed by an array that is only looked at");
            world.submit(Wish { kind: RequestKind::Flush, first: 0, count: 0 });
            world.drain();
            world.come_to_rest();
        })
    }

    /// Starts the array that these disks make up read-only, calls `way`, and restores the world.
    pub(super) fn look_with(&mut self, disks: &[usize], way: impl FnOnce(&mut World)) -> StartOutcome {
        let (rng, present) = (self.rng.clone(), std::mem::replace(&mut self.present, disks.to_vec()));
        let (bus_rng, now_ns, probes_left, camera) = {
            let mut bus = self.bus.borrow_mut();
            let left = std::mem::take(&mut bus.probes.left);
            (bus.rng.clone(), bus.now_ns, left, bus.camera.take())
        };
        let (oracle, damaged) = (self.oracle.clone(), self.bus.borrow().disks.clone());
        let outcome = self.start_read_only();
        if outcome == StartOutcome::Running {
            way(self);
            self.leave_read_only();
        }
        let mut bus = self.bus.borrow_mut();
        for (disk, before) in bus.disks.iter_mut().zip(damaged) {
            (disk.bad, disk.failed_reads) = (before.bad, before.failed_reads);
        }
        (bus.rng, bus.now_ns, bus.probes.left, bus.camera) = (bus_rng, now_ns, probes_left, camera);
        drop(bus);
        (self.rng, self.present, self.oracle) = (rng, present, oracle);
        outcome
    }

    fn damage_for_a_look(&mut self) {
        self.mark_lossy();
        let slot = self.random_slot();
        let disk = self.disk_of(slot);
        let stripes = self.geometry.stripes();
        if self.rng.chance(10) {
            // Read errors in so many stripes would fail the member of a writable array.
            let end = stripes.min(u64::from(2 * READ_ERRORS_MAX));
            return (0..end).for_each(|stripe| self.damage(disk, stripe, 1));
        }
        for _ in 0..self.rng.between(1, 8) {
            let stripe = self.rng.below(stripes.min(40));
            self.damage(disk, stripe, 3);
        }
    }
}
