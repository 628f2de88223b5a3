//! A failed array: it takes no orders, and a start with the lost members makes it whole again.

use super::Story;

impl Story {
    /// Gives orders to a failed array. Then the lost members return, the array is started again, and takes in
    /// the device that it had refused.
    pub(super) fn order_when_failed(&mut self) {
        if self.world.is_off() || !self.world.running().failed() {
            return;
        }
        let refused = self.world.order_in_vain("has failed");
        if !self.chance(40) {
            return;
        }
        if !self.world.is_off() {
            self.world.cut_now();
        }
        self.pending_cuts += 1;
        self.world.after_cut();
        self.heal_disks();
        {
            let mut bus = self.world.bus.borrow_mut();
            for (disk, of_disk) in bus.disks.iter_mut().enumerate() {
                of_disk.dead &= self.world.gone.contains(&disk);
            }
        }
        let is_missing = self.world.in_sync_disks().len() < usize::from(self.world.geometry.data());
        if is_missing && !self.world.gone.is_empty() {
            return;
        }
        self.restart_present(false);
        self.verify();
        self.settle();
        if let Some(disk) = refused {
            self.take_in_the_refused(disk);
        }
        self.settle();
        self.verify();
    }

    /// Orders the device that was refused before the start to join: the earlier refusal must not matter.
    fn take_in_the_refused(&mut self, disk: usize) {
        if self.world.is_off() {
            return;
        }
        if self.world.empty_slots().is_empty() && self.world.spare() > 0 {
            let slot = self.world.random_slot();
            self.order_to_fail(slot);
        }
        if self.world.is_off() {
            return;
        }
        let writable = self.world.running().members.view().writable;
        let is_member = writable.iter().any(|slot| self.world.disk_of(slot) == disk);
        let slots = self.world.empty_slots();
        if slots.is_empty() || is_member || self.world.rebuilds() || self.world.bus.borrow().is_asked(disk) {
            return;
        }
        let slot = self.world.rng.pick(&slots);
        let answer = self.world.order_join(slot, Some(disk));
        assert!(
            !matches!(answer, Some(Err(_))),
            "ORDER: disk {disk} was refused by the array before its start, and is not taken into slot {slot}: {answer:?}"
        );
    }
}
