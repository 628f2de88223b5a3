//! Members that do not answer, for a while or for ever; one, several or all of them; and operations that they
//! carry out late.

use engine::request::RequestKind;

use crate::bus::ENDLESS;
use crate::host::Wish;

use super::Story;

/// Time within which every request is answered after the record excludes the last silent member. Operations
/// that were in flight to that member are repeated without it.
const GOES_ON_WITHIN_NS: u64 = 1_000_000_000;

impl Story {
    /// Makes a member silent for three times the array's patience. The member is failed, unless the array
    /// needs it. While stripes need a resync, the array needs every member (E7).
    pub(super) fn silence(&mut self) {
        if self.world.is_off() {
            return;
        }
        let slot = self.world.random_slot();
        let (disk, spared) = (self.world.disk_of(slot), self.world.spare() > 0);
        let members = &self.world.running().members;
        let needed = members.view().readable.count() == u32::from(self.world.geometry.data());
        let silence_ns = 3_000_000_000 * u64::from(members.patience_s());
        let was_unsynced = self.world.running().bitmap.need_sync() > 0;
        let until_ns = self.world.bus.borrow().now_ns + silence_ns;
        self.world.bus.borrow_mut().fall_silent(disk, until_ns);
        self.world.mark_lossy();
        self.load(5, 40);
        self.world.rest(silence_ns);
        if self.world.is_off() {
            return;
        }
        let silence = self.world.bus.borrow().silences.iter().find(|silence| silence.disk == disk).copied();
        let asked_ns = silence.and_then(|silence| silence.asked_ns);
        let for_long = asked_ns.is_some_and(|asked| until_ns - asked > silence_ns * 2 / 3);
        let failed = !self.world.running().members.view().writable.has(slot);
        let is_unsynced = was_unsynced && self.world.running().bitmap.need_sync() > 0;
        assert!(
            !failed || !is_unsynced,
            "E7: slot {slot} was silent for a while and is failed, and stripes need a resync"
        );
        assert!(
            failed || !spared || !for_long || was_unsynced,
            "E5: slot {slot} is silent, and is waited for"
        );
        assert!(!failed || !needed, "E5: slot {slot} is silent, the array needs it, and it was failed");
        self.pending_deaths += u64::from(failed);
    }

    pub(super) fn silent(&mut self) {
        for _ in 0..self.world.rng.between(1, 3) {
            self.load(5, 40);
            if self.chance(30) {
                self.settle();
            }
            match self.world.rng.below(4) {
                0 => self.all_are_silent_for_a_while(),
                1 => self.slow_advice(),
                _ => self.never_answer(),
            }
            if self.world.is_off() {
                break;
            }
            self.verify();
        }
        self.end();
    }

    /// Makes as many members as can be spared, or fewer, silent for ever. They are failed together, and
    /// nothing waits for them any more. Their slots are filled with other devices; later the silent members
    /// carry out their operations, or fail them.
    fn never_answer(&mut self) {
        let spare = self.world.spare();
        if spare == 0 || self.world.is_off() {
            return;
        }
        let count = self.world.rng.between(1, spare);
        let mut slots: Vec<u8> = Vec::new();
        while (slots.len() as u64) < count {
            let slot = self.world.random_slot();
            if !slots.contains(&slot) && !self.world.bus.borrow().disks[self.world.disk_of(slot)].dead {
                slots.push(slot);
            }
        }
        let disks: Vec<usize> = slots.iter().map(|&slot| self.world.disk_of(slot)).collect();
        self.world.mark_lossy();
        if self.chance(50) {
            // The members fall silent with requests in flight.
            let (few, ns) = (self.requests(2, 20), self.world.rng.below(200_000));
            for _ in 0..few {
                self.world.submit_random();
            }
            self.world.rest(ns);
        }
        disks.iter().for_each(|&disk| self.world.bus.borrow_mut().fall_silent(disk, ENDLESS));
        let order = if self.chance(20) { slots.first().copied() } else { None };
        if let Some(slot) = order {
            let _or_it_has_failed_by_now = self.world.order_fail(slot);
        }
        self.ask_everybody();
        self.load(2, 30);
        let patience_ns = 1_000_000_000 * u64::from(self.world.running().members.patience_s());
        // Ten times as long while stripes need a resync; counted in beats, which are longer here than by the
        // clock.
        let patiences = if self.world.running().bitmap.need_sync() > 0 { 18 } else { 3 };
        self.world.rest(patiences * patience_ns);
        if self.world.is_off() {
            return;
        }
        let record = self.world.running().members.record();
        assert!(
            self.world.running().failed() || !slots.iter().any(|&slot| record.writable.has(slot)),
            "E5: {slots:?} never answer, and are not out on record: {record:?}"
        );
        self.world.rest(GOES_ON_WITHIN_NS + 20 * self.world.config.latency.slowest_ns());
        assert!(
            self.world.is_off() || self.world.outstanding() == 0,
            "E8: {slots:?} are out on record, and {} requests wait for them",
            self.world.outstanding()
        );
        self.pending_deaths += slots.len() as u64;
        self.load(5, 40);
        self.verify();
        if self.chance(30) {
            self.load_and_cut();
            self.restart(false);
            return;
        }
        for _ in 0..self.world.rng.below(count + 1) {
            self.replace();
            if self.chance(70) {
                self.world.settle();
            }
            self.load(2, 20);
        }
        if self.world.is_off() {
            return;
        }
        for &disk in &disks {
            let dead = self.chance(50);
            let mut bus = self.world.bus.borrow_mut();
            bus.disks[disk].dead |= dead;
            bus.wake(disk);
        }
        self.load(5, 40);
        self.world.rest(10_000_000);
    }

    /// Makes all members silent for longer than the patience, perhaps with only one of them asked. None may
    /// be failed.
    fn all_are_silent_for_a_while(&mut self) {
        self.heal();
        self.world.rest(5_000_000_000);
        if self.world.is_off() || self.world.rebuilds() {
            return;
        }
        let slots: Vec<u8> = self.world.running().members.view().readable.iter().collect();
        let patience_ns = 1_000_000_000 * u64::from(self.world.running().members.patience_s());
        if slots.iter().any(|&slot| self.world.bus.borrow().disks[self.world.disk_of(slot)].dead) {
            return;
        }
        let before = self.world.running().members.view();
        for &slot in &slots {
            let (disk, more_ns) = (self.world.disk_of(slot), self.world.rng.below(1_000_000_000));
            let until_ns = self.world.bus.borrow().now_ns + patience_ns * 14 / 10 + more_ns;
            self.world.bus.borrow_mut().fall_silent(disk, until_ns);
        }
        if self.chance(60) {
            self.ask_everybody();
        } else {
            let first = self.world.rng.below(self.world.geometry.size_bytes() / 512);
            self.world.submit(Wish { kind: RequestKind::Read, first, count: 1 });
        }
        self.world.rest(2 * patience_ns);
        self.world.drain();
        if !self.world.is_off() {
            let after = self.world.running().members.view();
            assert_eq!(before, after, "E5: all were silent for a while, and some were failed for it");
        }
    }

    /// Makes deallocations take twice the patience, and nothing else. No member may be failed.
    fn slow_advice(&mut self) {
        self.heal();
        if self.world.is_off() || self.world.rebuilds() {
            return;
        }
        let patience_ns = 1_000_000_000 * u64::from(self.world.running().members.patience_s());
        let before = self.world.running().members.view();
        let dead =
            before.readable.iter().any(|slot| self.world.bus.borrow().disks[self.world.disk_of(slot)].dead);
        if dead {
            return;
        }
        {
            let mut bus = self.world.bus.borrow_mut();
            let disks = bus.disks.len();
            bus.slow_advice_ns = vec![2 * patience_ns; disks];
        }
        let stripe = self.world.rng.below(self.world.geometry.stripes());
        self.renew_by(RequestKind::Discard, stripe);
        self.world.rest(3 * patience_ns);
        self.world.bus.borrow_mut().slow_advice_ns.clear();
        self.world.drain();
        if !self.world.is_off() {
            let after = self.world.running().members.view();
            assert_eq!(before, after, "E5: deallocations were slow, and some were failed for it");
        }
    }

    /// Submits requests that reach every member.
    fn ask_everybody(&mut self) {
        for _ in 0..self.world.geometry.members() {
            let stripe = self.world.rng.below(self.world.geometry.stripes());
            self.renew_by(RequestKind::Write { fua: false }, stripe);
        }
        self.world.submit(Wish { kind: RequestKind::Flush, first: 0, count: 0 });
    }

    fn renew_by(&mut self, kind: RequestKind, stripe: u64) {
        let sectors = u64::from(self.world.geometry.stripe_bytes()) / 512;
        self.world.submit(Wish { kind, first: stripe * sectors, count: sectors.min(1024) });
    }
}
