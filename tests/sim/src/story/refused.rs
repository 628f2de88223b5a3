//! Operations that members refuse although they are not broken: a full file system (`ENOSPC`), a malformed
//! request (`EINVAL`). Also arrays that are only read, from failing members.
//!
//! - No member leaves because of refusals, in memory or on record, however many there are.
//! - A request whose write was refused is answered with an error. Its stripe is consistent, or is known not
//!   to be (I3).
//! - Once refusals end, every stripe is made consistent again, and everything acknowledged reads right.
//! - Refused metadata stops the whole array, and the next start finds every member in sync.
//! - A read-only array reads everything that its level can provide, whatever sectors are unreadable, and
//!   writes nothing (`READONLY`).

use engine::request::RequestKind;

use crate::disk::Refusal;
use crate::host::Wish;

use super::Story;

const ENOSPC: i32 = 28;
const EINVAL: i32 = 22;

impl Story {
    pub(super) fn refused(&mut self) {
        self.world.bus.borrow_mut().monitors.repairs_happen = true;
        for _ in 0..self.world.rng.between(1, 4) {
            self.load(5, 60);
            if self.chance(25) && self.world.spare() > 0 {
                self.die();
                self.load(2, 20);
            }
            if self.world.is_off() {
                return;
            }
            if self.chance(15) {
                self.refuse_metadata();
                continue;
            }
            let before = self.world.running().members.view();
            self.refuse_strips();
            self.load(10, 60);
            self.world.drain();
            if self.chance(30) {
                self.world.rest(7_000_000_000);
            }
            let dead = self.world.dead_slots();
            let lost = before.writable.minus(self.world.running().members.view().writable).minus(dead);
            assert!(lost.is_empty(), "E7: {lost:?} left, and no fault was theirs");
            if self.chance(25) {
                self.load_and_cut();
                self.heal_disks();
                self.restart(false);
            }
            self.heal();
            self.await_resync();
            self.settle();
            self.verify();
        }
        self.end();
    }

    /// Waits until refused stripes are resynced. The waits between the attempts double, up to five minutes.
    fn await_resync(&mut self) {
        for _ in 0..8 {
            if self.world.is_off() || self.world.running().bitmap.next_need_sync(0).is_none() {
                return;
            }
            self.world.rest(60_000_000_000);
        }
    }

    /// Makes one member, or all of them, refuse some of their reads or writes of strips.
    fn refuse_strips(&mut self) {
        let all = self.chance(40);
        let only = self.world.random_slot();
        let errno = self.world.rng.pick(&[ENOSPC, EINVAL]);
        let percent = self.world.rng.pick(&[3, 30, 100]);
        for slot in self.world.running().members.view().readable.iter() {
            if all || slot == only {
                let disk = self.world.disk_of(slot);
                let mut bus = self.world.bus.borrow_mut();
                bus.note(18, || {
                    format!("REFUSAL {errno} of {percent} percent by disk {disk} in slot {slot}")
                });
                bus.disks[disk].refusal = Some(Refusal { errno, percent, metadata: false });
            }
        }
        self.world.beyond_level |= errno == EINVAL;
    }

    /// Makes a member refuse metadata: the whole array stops, and the next start includes every member.
    fn refuse_metadata(&mut self) {
        let errno = self.world.rng.pick(&[ENOSPC, EINVAL]);
        let slot = self.world.random_slot();
        let disk = self.world.disk_of(slot);
        let before = self.world.in_sync_disks();
        self.world.mark_lossy();
        {
            let mut bus = self.world.bus.borrow_mut();
            bus.note(18, || format!("REFUSAL {errno} of metadata by disk {disk} in slot {slot}"));
            bus.disks[disk].refusal = Some(Refusal { errno, percent: 100, metadata: true });
        }
        self.world.beyond_level = true;
        self.load(10, 60);
        self.world.drain();
        if !self.world.is_off() && self.world.running().failed() {
            self.world.order_in_vain("has failed");
        }
        let after = self.world.in_sync_disks();
        assert!(
            before.iter().all(|disk| after.contains(disk) || self.world.bus.borrow().disks[*disk].dead),
            "E7: of {before:?} only {after:?} are in sync on record, and no fault was theirs"
        );
        self.world.cut_now();
        self.pending_cuts += 1;
        self.world.after_cut();
        self.heal_disks();
        self.restart(false);
        self.settle();
        self.verify();
    }

    /// Serves the array read-only from members with bad sectors, with as many members missing as the level
    /// can miss.
    pub(super) fn rescue(&mut self) {
        self.world.bus.borrow_mut().monitors.repairs_happen = true;
        for _ in 0..self.world.rng.between(1, 3) {
            self.load(5, 80);
            self.settle();
            if self.world.is_off() {
                return;
            }
            self.stop_for_rescue();
            let mut spare = self.choose_present(false);
            let present = self.world.in_sync_disks();
            for disk in present.into_iter().take(spare) {
                spare -= 1;
                for _ in 0..self.world.rng.between(1, 90) {
                    let stripe = self.world.rng.below(self.world.geometry.stripes().min(40));
                    self.world.damage(disk, stripe, 2);
                }
            }
            let alive = self.world.alive_disks();
            self.world.present.clone_from(&alive);
            assert_eq!(
                self.world.start_read_only(),
                crate::world::StartOutcome::Running,
                "START: refused read-only"
            );
            for _ in 0..self.world.rng.between(1, 3) {
                self.world.verify();
                self.world.submit(Wish { kind: RequestKind::Flush, first: 0, count: 0 });
                self.world.drain();
            }
            self.world.come_to_rest();
            self.world.order_in_vain("read-only");
            self.world.leave_read_only();
            self.heal_disks();
            self.restart_present(false);
            self.verify();
        }
        self.end();
    }

    fn stop_for_rescue(&mut self) {
        match self.world.order_stop() {
            Some(answer) => assert!(answer.is_ok(), "STOP: refused: {answer:?}"),
            None => self.world.after_cut(),
        }
    }
}
