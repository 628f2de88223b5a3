//! What happens in a run: a story of loads, faults, cuts and starts, drawn from the seed.

use std::sync::Arc;

use bitmap::Cell;
use engine::memory::Memory;
use engine::request::RequestKind;

use crate::bus::Cut;
use crate::host::Wish;
use crate::monitors::Monitors;
use crate::rng::Rng;
use crate::world::{Config, StartOutcome, World};

/// A kind of story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Loads, and members that die without a power cut, as many as the level bears.
    Deaths,
    /// Power cuts, many in a row, also during starts; now and then a member is missing afterwards.
    Cuts,
    /// Death, replacement, rebuild under load, with cuts; then another death.
    Rebuild,
    /// Read, write and flush errors.
    Faults,
    /// Stops in order, and starts.
    Stops,
    /// The bug that started it all: a small write to an unsynced stripe, then a member dies.
    Seed,
    /// All of it.
    Mixed,
}

impl Scenario {
    /// Every scenario.
    pub const ALL: [Scenario; 7] = [
        Scenario::Deaths,
        Scenario::Cuts,
        Scenario::Rebuild,
        Scenario::Faults,
        Scenario::Stops,
        Scenario::Seed,
        Scenario::Mixed,
    ];

    /// By name, in lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Scenario> {
        Scenario::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Scenario::Deaths => "deaths",
            Scenario::Cuts => "cuts",
            Scenario::Rebuild => "rebuild",
            Scenario::Faults => "faults",
            Scenario::Stops => "stops",
            Scenario::Seed => "seed",
            Scenario::Mixed => "mixed",
        }
    }
}

/// What a run came to, if nothing was violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The hash of everything that happened.
    pub trace: u64,
    /// Requests answered.
    pub answered: u64,
    /// Of those, with an error.
    pub errors: u64,
    /// Member operations.
    pub operations: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Members lost.
    pub deaths: u64,
    /// Simulated time.
    pub sim_ns: u64,
}

/// One run. Panics at the first violation.
#[must_use]
pub fn run(seed: u64, scenario: Scenario, memory: &Arc<Memory>, verbose: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let mut config = Config::random(&mut rng);
    if scenario == Scenario::Seed {
        config.initial = rng.pick(&[Cell::Unwritten, Cell::NeedSync]);
        config.stripes = config.stripes.min(12);
    }
    if verbose {
        println!("{config:?}");
    }
    let world = World::new(rng.next(), config, Arc::clone(memory), verbose);
    let mut story = Story { world, cuts: 0, deaths: 0 };
    story.start();
    match scenario {
        Scenario::Deaths => story.deaths(),
        Scenario::Cuts => story.cuts(),
        Scenario::Rebuild => story.rebuild(),
        Scenario::Faults => story.faults(),
        Scenario::Stops => story.stops(),
        Scenario::Seed => story.seed(),
        Scenario::Mixed => story.mixed(),
    }
    let world = &story.world;
    let bus = world.bus.borrow();
    Outcome {
        trace: bus.trace,
        answered: world.answered,
        errors: world.errors,
        operations: bus.operations,
        cuts: story.cuts,
        deaths: story.deaths,
        sim_ns: bus.now_ns,
    }
}

struct Story {
    world: World,
    cuts: u64,
    deaths: u64,
}

impl Story {
    fn deaths(&mut self) {
        self.load(10, 150);
        if self.chance(50) {
            self.world.verify();
        }
        while self.world.spare() > 0 {
            if self.chance(40) {
                self.rest();
            }
            self.die();
            self.load(5, 80);
            self.world.verify();
        }
        if self.chance(30) {
            self.beyond();
        }
    }

    /// One more dies than the level bears: whatever is answered is true, and all is answered.
    fn beyond(&mut self) {
        self.world.beyond_level = true;
        self.die();
        self.load(5, 60);
        self.world.verify();
    }

    fn cuts(&mut self) {
        for _ in 0..self.world.rng.between(1, 6) {
            if self.chance(40) {
                self.world.settle();
            }
            self.load_and_cut();
            let missing = self.chance(20);
            self.restart(missing);
            if self.chance(70) {
                self.world.verify();
            }
        }
        self.end();
    }

    fn rebuild(&mut self) {
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
            self.world.verify();
        }
        self.end();
    }

    fn faults(&mut self) {
        for _ in 0..self.world.rng.between(1, 5) {
            // Not after a load: then the resync of a start has long ended.
            if self.chance(60) {
                self.load(5, 60);
            }
            self.fault();
            self.load(5, 60);
            self.world.verify();
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

    fn stops(&mut self) {
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
            self.world.verify();
        }
        self.end();
    }

    fn seed(&mut self) {
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
            self.world.verify();
        }
    }

    fn mixed(&mut self) {
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
                _ => self.world.verify(),
            }
        }
        self.end();
    }

    /// Everything is in order again, as far as it can be, and verified.
    fn end(&mut self) {
        self.heal();
        self.world.verify();
        self.settle();
        self.world.verify();
        if self.world.spare() > 0 && self.chance(50) {
            self.die();
            self.world.verify();
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.world.rng.chance(percent)
    }

    fn load(&mut self, from: u64, to: u64) {
        let count = self.world.rng.between(from, to);
        self.world.load(count);
        if self.chance(60) {
            self.world.drain();
        }
    }

    fn rest(&mut self) {
        let ns = self.world.rng.pick(&[100_000, 10_000_000, 1_500_000_000, 4_000_000_000]);
        self.world.rest(ns);
    }

    fn settle(&mut self) {
        self.heal();
        self.world.settle();
        if !self.world.is_off() && self.world.running().bitmap.next_need_sync(0).is_some() {
            // What could not be read is tried again some seconds later.
            self.world.rest(6_000_000_000);
        }
        let settled = self.world.settle();
        if self.world.is_off() {
            return;
        }
        assert!(settled || !self.world.lossy.is_empty(), "A4: resync or rebuild does not end");
        let all_in_sync = self.world.spare() == u64::from(self.world.geometry.parities());
        let unsynced = self.world.running().bitmap.next_need_sync(0);
        assert!(
            !all_in_sync || unsynced.is_none(),
            "A4: all members are in sync, and stripe {unsynced:?} is left NeedSync"
        );
    }

    fn start(&mut self) {
        let outcome = self.world.start(None);
        assert_eq!(outcome, StartOutcome::Running, "START: a new array does not start");
    }

    fn die(&mut self) {
        let slot = self.world.random_slot();
        let disk = self.world.disk_of(slot);
        if self.world.bus.borrow().disks[disk].dead {
            return;
        }
        self.deaths += 1;
        self.world.mark_lossy();
        let mut bus = self.world.bus.borrow_mut();
        bus.disks[disk].dead = true;
        bus.note(10, || format!("DEATH of disk {disk} in slot {slot}"));
    }

    fn die_or_be_failed(&mut self) {
        if self.chance(70) {
            self.die();
            return;
        }
        let slot = self.world.random_slot();
        let disk = self.world.disk_of(slot);
        if self.world.bus.borrow().disks[disk].dead {
            return;
        }
        self.world.mark_lossy();
        let answer = self.world.order_fail(slot);
        assert!(
            matches!(answer, Some(Ok(()))),
            "ORDER: slot {slot} can be spared, and is not failed: {answer:?}"
        );
        self.deaths += 1;
    }

    /// A device for an empty slot: new, or one that was in the array before.
    fn replace(&mut self) {
        let slots = self.world.empty_slots();
        if slots.is_empty() {
            return;
        }
        let slot = self.world.rng.pick(&slots);
        let dead: Vec<usize> = {
            let bus = self.world.bus.borrow();
            let used: Vec<usize> = (0..self.world.geometry.members())
                .filter(|slot| !slots.contains(slot))
                .map(|slot| self.world.disk_of(slot))
                .collect();
            (0..bus.disks.len()).filter(|disk| bus.disks[*disk].dead && !used.contains(disk)).collect()
        };
        let reuse = if !dead.is_empty() && self.chance(25) { Some(self.world.rng.pick(&dead)) } else { None };
        if self.world.bus.borrow().disks.len() >= 24 {
            return;
        }
        // A refusal is an answer too: another slot may be in work.
        let _answer = self.world.order_join(slot, reuse);
    }

    /// Something is wrong with the disk that is being filled, or with one that it is filled from.
    fn disturb_rebuild(&mut self) {
        let Some(slot) = self.world.running().members.view().rebuilding().iter().next() else { return };
        if self.chance(50) {
            let ns = self.world.rng.pick(&[1_000, 100_000, 3_000_000, 1_000_000_000]);
            self.world.rest(ns);
        }
        if self.world.is_off() || !self.world.running().members.view().rebuilding().has(slot) {
            return;
        }
        let disk = self.world.disk_of(slot);
        let roll = self.world.rng.below(8);
        if roll == 5 {
            self.fault();
            return;
        }
        self.world.mark_lossy();
        let mut bus = self.world.bus.borrow_mut();
        bus.note(12, || format!("DISTURB the rebuild of disk {disk} in slot {slot}: {roll}"));
        match roll {
            0 => bus.disks[disk].dead = true,
            1 | 2 => bus.disks[disk].failing_writes = 1,
            3 => bus.disks[disk].failing_flushes = 1,
            6 | 7 => bus.disks[disk].armed = true,
            _ => {
                drop(bus);
                let _gone_meanwhile = self.world.order_fail(slot);
            }
        }
    }

    fn stop(&mut self) {
        let Some(answer) = self.world.order_stop() else { return };
        assert!(answer.is_ok(), "STOP: refused: {answer:?}");
        self.restart_present(false);
    }

    fn fault(&mut self) {
        self.world.mark_lossy();
        // Without a member to spare only reads may fail, and what they were for is lost until all is healed.
        let kinds = if self.world.spare() == 0 { 2 } else { 4 };
        self.world.beyond_level |= kinds == 2;
        match self.world.rng.below(kinds) {
            0 => {
                self.world.bus.borrow_mut().monitors.repairs_happen = true;
                let stripes = self.world.geometry.stripes();
                for _ in 0..self.world.rng.between(1, 8) {
                    // One member for all: two damaged strips of a stripe may be more than it bears.
                    let slot = self.world.geometry.members() - 1;
                    let stripe = self.world.rng.below(stripes.min(40));
                    let disk = self.world.disk_of(slot);
                    if self.world.running().members.view().readable.has(slot) {
                        self.world.damage(disk, stripe, 3);
                    }
                }
            }
            1 => {
                self.world.bus.borrow_mut().monitors.repairs_happen = true;
                let slot = self.world.random_slot();
                let disk = self.world.disk_of(slot);
                self.world.bus.borrow_mut().disks[disk].transient_reads = self.world.rng.between(1, 6) as u32;
            }
            2 => {
                let slot = self.world.random_slot();
                let disk = self.world.disk_of(slot);
                self.deaths += 1;
                self.world.bus.borrow_mut().disks[disk].failing_writes = 1;
            }
            _ => {
                let slot = self.world.random_slot();
                let disk = self.world.disk_of(slot);
                self.world.bus.borrow_mut().disks[disk].failing_flushes = 1;
            }
        }
    }

    fn heal(&mut self) {
        self.world.drain();
        let mut bus = self.world.bus.borrow_mut();
        bus.note(11, || "HEAL".into());
        bus.disks.iter_mut().for_each(|disk| disk.heal());
        self.world.beyond_level = false;
    }

    fn load_and_cut(&mut self) {
        let cut = match self.world.rng.below(4) {
            0 => Cut::Pushes(self.world.rng.below(300)),
            1 => Cut::Completions(self.world.rng.below(300)),
            2 => Cut::MetadataPushes(self.world.rng.below(20)),
            _ => Cut::MetadataCompletions(self.world.rng.below(20)),
        };
        self.world.bus.borrow_mut().cut = Some(cut);
        let count = self.world.rng.between(5, 120);
        self.world.load(count);
        if !self.world.is_off() && self.chance(30) {
            self.rest();
        }
        if !self.world.is_off() {
            self.world.cut_now();
        }
        self.cuts += 1;
        self.world.after_cut();
    }

    /// After a cut: start, perhaps with cuts in the start, perhaps without some member.
    fn restart(&mut self, missing: bool) {
        if self.chance(30) {
            // What died may be back, as it was.
            let mut bus = self.world.bus.borrow_mut();
            bus.disks.iter_mut().for_each(|disk| disk.dead = false);
        }
        self.restart_present(missing);
    }

    fn restart_present(&mut self, missing: bool) {
        let mut cuts_left = if self.chance(40) { self.world.rng.between(1, 3) } else { 0 };
        loop {
            let spare = self.choose_present(missing);
            if spare > 0 && self.chance(15) {
                self.fail_a_write_of_the_start();
            }
            let cut = (cuts_left > 0).then(|| match self.world.rng.below(3) {
                0 => Cut::Completions(self.world.rng.below(40)),
                1 => Cut::MetadataPushes(self.world.rng.below(12)),
                _ => Cut::MetadataCompletions(self.world.rng.below(12)),
            });
            cuts_left = cuts_left.saturating_sub(1);
            let outcome = self.world.start(cut);
            for disk in &mut self.world.bus.borrow_mut().disks {
                (disk.write_fails_after, disk.failing_writes) = (None, 0);
            }
            match outcome {
                StartOutcome::Running => return,
                StartOutcome::PowerCut => {
                    self.cuts += 1;
                    self.world.after_cut();
                }
                StartOutcome::Refused => panic!("START: refused, and enough members are there"),
            }
        }
    }

    /// Every disk that is not dead; without some that are in sync, if that is wished and the level bears it.
    /// How many more may be lost.
    fn choose_present(&mut self, missing: bool) -> usize {
        let mut bus = self.world.bus.borrow_mut();
        bus.monitors.superblocks_changed = true;
        let mut in_sync: Vec<usize> = Monitors::in_sync(&mut bus).into_iter().flatten().collect();
        in_sync.retain(|disk| !bus.disks[*disk].dead);
        let mut present: Vec<usize> = (0..bus.disks.len()).filter(|disk| !bus.disks[*disk].dead).collect();
        drop(bus);
        let mut spare = in_sync.len().saturating_sub(usize::from(self.world.geometry.data()));
        while missing && spare > 0 && self.chance(60) {
            let gone = in_sync.swap_remove(self.world.rng.below(in_sync.len() as u64) as usize);
            present.retain(|disk| *disk != gone);
            spare -= 1;
        }
        self.world.present = present;
        spare
    }

    fn fail_a_write_of_the_start(&mut self) {
        let disk = self.world.rng.pick(&self.world.present);
        let after = self.world.rng.below(6) as u32;
        let mut bus = self.world.bus.borrow_mut();
        bus.note(13, || format!("a write of disk {disk} will fail, after {after} others"));
        bus.disks[disk].write_fails_after = Some(after);
    }
}
