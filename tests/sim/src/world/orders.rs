//! Orders of an operator, and faults of members.

use crossbeam::channel::{Receiver, bounded};
use engine::array::{Answer, Order};
use engine::geometry::Slots;
use engine::ring::DeviceIndex;

use crate::disk::Disk;
use crate::monitors::Monitors;

use super::{World, random_uuid};

/// An order whose answer is awaited.
type Pending = Receiver<Result<(), String>>;

/// Most disks in a world. Each disk adds time to every look at all superblocks.
pub const DISKS_MAX: usize = 24;

impl World {
    /// Gives an order to the steward.
    pub(super) fn order(&mut self, order: impl FnOnce(Answer) -> Order) -> Pending {
        let (sender, receiver) = bounded(1);
        assert!(self.running().steward.orders.push(order(Answer::to(sender))).is_ok(), "room for an order");
        receiver
    }

    pub(super) fn await_answer(&mut self, pending: &Pending, what: &str) -> Option<Result<(), String>> {
        let begun = self.bus.borrow().now_ns;
        // An order takes several consecutive changes of the record.
        let within = 4 * self.answered_within_ns();
        let mut idle = 0;
        loop {
            if self.is_off() {
                return None;
            }
            if let Ok(answer) = pending.try_recv() {
                return Some(answer);
            }
            self.step_watched(&mut idle);
            assert!(self.bus.borrow().now_ns < begun + within, "I8: no answer to {what}");
        }
    }

    /// Orders the array to fail a slot.
    pub fn order_fail(&mut self, slot: u8) -> Option<Result<(), String>> {
        self.bus.borrow_mut().note(6, || format!("ORDER fail slot {slot}"));
        let pending = self.order(|answer| Order::Fail { slot, answer });
        self.await_answer(&pending, "Fail")
    }

    /// Orders a disk to join in a slot: a new disk, or one that was a member before. If it is refused, its
    /// device index is free for the next disk.
    pub fn order_join(&mut self, slot: u8, reuse: Option<usize>) -> Option<Result<(), String>> {
        let (disk, pending) = self.offer(slot, reuse);
        let answer = self.await_answer(&pending, "Join");
        match answer {
            Some(Ok(())) => drop(self.gone.remove(&disk)),
            Some(Err(_)) => self.take_back(disk),
            None => self.take_out_if_gone(disk),
        }
        answer
    }

    /// Makes a disk known to every ring, and asks the array to take it into a slot. The disk is new, or was a
    /// member before.
    fn offer(&mut self, slot: u8, reuse: Option<usize>) -> (usize, Pending) {
        let volatile = self.config.volatile.contains(&true) && self.rng.chance(50);
        let mut bus = self.bus.borrow_mut();
        let disk = match reuse {
            Some(disk) => disk,
            None => {
                let lasting = bus.lasting;
                let mut disk = Disk::new(self.rng.next(), self.room, volatile);
                (disk.lasting, disk.block_sectors) = (lasting, self.config.block_sectors());
                bus.disks.push(disk);
                bus.disks.len() - 1
            }
        };
        bus.disks[disk].heal();
        bus.disks[disk].bad.clear();
        bus.disks[disk].dead = false;
        bus.monitors.superblocks_changed = true;
        bus.monitors.joining.insert(disk);
        let volatile = bus.disks[disk].volatile;
        let disks = bus.disks.len();
        bus.slots.resize(disks, None);
        bus.slots[disk] = Some(slot);
        bus.note(7, || format!("ORDER join disk {disk} in slot {slot}"));
        drop(bus);
        self.present.retain(|&other| other != disk);
        self.present.push(disk);
        let index = self.reactors[0].ring.devices.len();
        self.reactors.iter_mut().for_each(|reactor| reactor.ring.devices.push(disk));
        let member = random_uuid(&mut self.rng);
        let device = DeviceIndex(index as u8);
        let device_bytes = self.device_bytes;
        let pending =
            self.order(|answer| Order::Join { slot, device, member, volatile, device_bytes, answer });
        (disk, pending)
    }

    /// Removes a disk of a later life of the array again. It was put in only to be offered, and does not
    /// belong to this life.
    fn take_out_if_gone(&mut self, disk: usize) {
        self.bus.borrow_mut().disks[disk].dead |= self.gone.contains(&disk);
    }

    /// Removes the disk that was offered last and did not become a member. As in the server, its device index
    /// is free once nothing is in flight to the disk.
    fn take_back(&mut self, disk: usize) {
        self.take_out_if_gone(disk);
        let mut bus = self.bus.borrow_mut();
        bus.monitors.joining.remove(&disk);
        bus.take_apart_away();
        if !bus.is_asked(disk) {
            self.reactors.iter_mut().for_each(|reactor| {
                reactor.ring.devices.pop();
            });
        }
    }

    /// Gives orders to an array that takes none: it has failed, was stopped, or is read-only. ORDER: each
    /// order is refused with that reason in the steward's next turn. D9: nothing is asked of the offered
    /// disk, so its device index is free again. Returns the disk that was offered.
    pub fn order_in_vain(&mut self, why: &str) -> Option<usize> {
        let members = self.reactors[0].ring.devices.len();
        self.reactors.iter_mut().for_each(|reactor| reactor.ring.members = members);
        let mut offered = None;
        for _ in 0..self.rng.between(2, 4) {
            let slot = self.rng.below(u64::from(self.geometry.members())) as u8;
            let roll = self.rng.below(100);
            if self.is_off() {
                break;
            }
            if roll < 35 {
                let pending = self.order(|answer| Order::Fail { slot, answer });
                self.is_refused_at_once(&pending, "Fail", why);
                continue;
            }
            if roll < 50 && self.running().failed() {
                let pending = self.order(|answer| Order::Stop { answer });
                self.is_refused_at_once(&pending, "Stop", why);
                continue;
            }
            let reuse = offered.or_else(|| self.device_that_is_back());
            if reuse.is_some() || self.bus.borrow().disks.len() < DISKS_MAX {
                let (disk, pending) = self.offer(slot, reuse);
                self.is_refused_at_once(&pending, "Join", why);
                self.take_back(disk);
                offered = Some(disk);
            }
        }
        for _ in 0..self.rng.below(8) {
            self.step();
        }
        offered
    }

    /// A dead disk that is in no writable slot, to be offered as if it had come back under another name.
    /// Often `None`; a new disk is offered then.
    fn device_that_is_back(&mut self) -> Option<usize> {
        let bus = self.bus.borrow();
        let writable = self.running().members.view().writable;
        let used: Vec<usize> = writable.iter().map(|slot| self.disk_of(slot)).collect();
        let is_free = |disk: &usize| bus.disks[*disk].dead && !used.contains(disk) && !bus.is_asked(*disk);
        let dead: Vec<usize> = (0..bus.disks.len()).filter(is_free).collect();
        drop(bus);
        (!dead.is_empty() && self.rng.chance(40)).then(|| self.rng.pick(&dead))
    }

    fn is_refused_at_once(&mut self, pending: &Pending, what: &str, why: &str) {
        self.bus.borrow_mut().note(22, || format!("ORDER {what}, in vain"));
        self.turn(0);
        let answer = pending.try_recv();
        assert!(
            matches!(&answer, Ok(Err(reason)) if reason.contains(why)),
            "ORDER: {what} is answered {answer:?} in the turn after it was given, and the array {why}"
        );
    }

    /// Stops the array in order. Requests are drained first.
    pub fn order_stop(&mut self) -> Option<Result<(), String>> {
        self.drain();
        let (mut idle, begun) = (0, self.bus.borrow().now_ns);
        while !self.is_off() && self.reactors.iter().any(|reactor| reactor.array.works_for_hosts()) {
            self.step_watched(&mut idle);
            let now = self.bus.borrow().now_ns;
            assert!(
                now < begun + 4 * self.answered_within_ns(),
                "I8: a reactor works for hosts though every request is answered"
            );
        }
        if self.is_off() {
            return None;
        }
        self.bus.borrow_mut().note(8, || "ORDER stop".into());
        let pending = self.order(|answer| Order::Stop { answer });
        let answer = self.await_answer(&pending, "Stop")?;
        if answer.is_ok() {
            self.cells_at_stop = Some(self.cells());
            if self.rng.chance(15) {
                self.bus.borrow_mut().read_only = true;
                self.order_in_vain("is being stopped");
                self.bus.borrow_mut().read_only = false;
            }
            // Another server may own the members from now on. (Operations on a member that has left may still
            // be in flight.)
            let members = self.running().members.view().writable;
            let changed = members.iter().find(|&slot| self.bus.borrow().is_being_changed(self.disk_of(slot)));
            assert!(changed.is_none(), "STOP: slot {changed:?} is being written when the stop is answered");
            self.forget_engine();
            self.oracle.clean_stop();
            // From now on, a power cut loses nothing.
            let mut bus = self.bus.borrow_mut();
            let moment = bus.moment;
            Monitors::check_flushed(&mut bus, moment);
            drop(bus);
            self.note_stop();
        }
        Some(answer)
    }

    /// The disk in a slot.
    #[must_use]
    pub fn disk_of(&self, slot: u8) -> usize {
        let device = self.running().members.device(slot);
        self.reactors[0].ring.disk(device).expect("a slot has a device")
    }

    /// Slots whose disk is dead.
    #[must_use]
    pub fn dead_slots(&self) -> Slots {
        let bus = self.bus.borrow();
        let dead = |slot: &u8| bus.disks[self.disk_of(*slot)].dead;
        self.geometry.slots().iter().filter(dead).fold(Slots::NONE, |slots, slot| slots.or(Slots::one(slot)))
    }

    /// Number of further members that may be lost.
    #[must_use]
    pub fn spare(&self) -> u64 {
        let readable = self.running().members.view().readable;
        let bus = self.bus.borrow();
        let good = readable.iter().filter(|&slot| {
            let at = self.disk_of(slot);
            let disk = &bus.disks[at];
            !disk.dead
                && bus.silence_of(at).is_none()
                && disk.failing_writes + disk.failing_flushes + disk.transient_reads == 0
        });
        (good.count() as u64).saturating_sub(u64::from(self.geometry.data()))
    }

    /// A random readable slot.
    pub fn random_slot(&mut self) -> u8 {
        let slots: Vec<u8> = self.running().members.view().readable.iter().collect();
        self.rng.pick(&slots)
    }

    /// Whether a rebuild is filling a slot.
    #[must_use]
    pub fn rebuilds(&self) -> bool {
        !self.running().members.view().rebuilding().is_empty()
    }

    /// Slots without a writable device.
    #[must_use]
    pub fn empty_slots(&self) -> Vec<u8> {
        self.geometry.slots().minus(self.running().members.view().writable).iter().collect()
    }

    /// Makes random blocks of a strip unreadable.
    pub fn damage(&mut self, disk: usize, stripe: u64, sectors: u64) {
        let chunk = u64::from(self.geometry.chunk_bytes());
        let mut bus = self.bus.borrow_mut();
        let place = bus.disks[disk].place_in_data(self.geometry.strip_offset(stripe), chunk);
        for _ in 0..sectors {
            let sector = place.first + self.rng.below(place.count);
            bus.disks[disk].spoil(sector);
        }
        bus.note(9, || format!("DAMAGE disk {disk} stripe {stripe}"));
    }

    /// Cuts the power now.
    pub fn cut_now(&mut self) {
        self.bus.borrow_mut().lose_power();
    }
}
