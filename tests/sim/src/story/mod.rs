//! The story of a run: loads, faults, cuts and starts, drawn from the seed.

use std::cell::Cell;
use std::sync::Arc;

use engine::memory::Memory;

use crate::bus::Cut;
use crate::config::{Config, Flavour, Knobs};
use crate::latency::Latency;
use crate::rng::{Rng, mix};
use crate::world::{DISKS_MAX, StartOutcome, World, fresh_memory};

mod aftermath;
mod bad;
mod crowd;
mod decay;
mod earlier;
mod failed;
mod idle;
mod kinds;
pub mod matrix;
mod refused;
mod restart;
mod rollback;
mod scenarios;
mod silent;

pub use kinds::{SELDOM_EVERY, Scenario};

/// Result of a run without violations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of all events.
    pub trace: u64,
    /// Number of requests answered.
    pub answered: u64,
    /// Number of requests answered with an error.
    pub errors: u64,
    /// Number of member operations.
    pub operations: u64,
    /// Number of power-cut histories: cuts followed by a restart and a check of everything.
    pub cuts: u64,
    /// Number of member-death histories: members lost while the power was on, followed by a check of
    /// everything.
    pub deaths: u64,
    /// Simulated time, ns.
    pub sim_ns: u64,
}

impl Outcome {
    /// Adds the outcome of another run.
    pub fn add(&mut self, other: &Outcome) {
        self.trace = mix(self.trace ^ other.trace);
        self.answered += other.answered;
        self.errors += other.errors;
        self.operations += other.operations;
        self.cuts += other.cuts;
        self.deaths += other.deaths;
        self.sim_ns += other.sim_ns;
    }
}

/// Memories of a thread, which its runs use one after the other.
#[derive(Clone)]
pub struct Memories {
    /// Memory of the run itself.
    pub trunk: Arc<Memory>,
    /// Memory of the worlds that branch off.
    pub branch: Arc<Memory>,
    /// Memory of worlds aside of the run or of a branch.
    pub aside: Arc<Memory>,
}

impl Memories {
    /// Maps all memories, filled with zeros.
    #[must_use]
    pub fn fresh() -> Memories {
        Memories { trunk: fresh_memory(), branch: fresh_memory(), aside: fresh_memory() }
    }
}

thread_local! {
    /// The branch that this thread is running, for the report of a failure.
    pub static BRANCH: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Runs one story. Panics at the first violation.
#[must_use]
pub fn run(seed: u64, scenario: Scenario, knobs: Knobs, memories: &Memories, verbose: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let bounds = if scenario == Scenario::Absent { rare(&mut rng, knobs) } else { knobs };
    let mut config = Config::random(&mut rng, bounds);
    if scenario == Scenario::Seed {
        config.initial = rng.pick(&[bitmap::Cell::Unwritten, bitmap::Cell::NeedSync]);
        config.stripes = config.stripes.min(12);
    }
    if scenario == Scenario::Grow {
        // Growth stays within the present bitmap block; in some runs it reaches the next block, or several.
        config.stripes = config.stripes.min(6);
        config.room_stripes = rng.pick(&[1, 5, 12]);
        if rng.chance(10) {
            config.stripes = rng.between(16_126, 16_128);
            config.initial = bitmap::Cell::Unwritten;
        }
        if rng.chance(10) {
            config.room_stripes = rng.pick(&[16_130, 33_000]);
        }
    }
    if scenario == Scenario::Leaving && rng.chance(40) {
        // The only member with a cache may leave between the data writes of a first write and their flush.
        let one = rng.below(config.volatile.len() as u64) as usize;
        config.volatile.fill(false);
        config.volatile[one] = true;
        config.initial = bitmap::Cell::Unwritten;
    }
    if scenario == Scenario::Lost {
        (config.initial, config.stripes) = (bitmap::Cell::NeedSync, config.stripes.min(6));
        if rng.chance(50) {
            config.latency = Latency::skewed(&mut rng, config.shape.members);
        }
    }
    if matches!(scenario, Scenario::Rollback | Scenario::Earlier) {
        config.stripes = config.stripes.min(24);
    }
    if scenario == Scenario::Decay {
        match rng.below(100) {
            0..30 => {
                // Cells in several sectors of their block, so that writes of the block can tear.
                config.shape.chunk_bytes = 4096;
                (config.initial, config.stripes) = (bitmap::Cell::Unwritten, rng.between(1_800, 2_400));
            }
            // Unsynced stripes, so that rows are lost and listed.
            30..60 => (config.initial, config.stripes) = (bitmap::Cell::NeedSync, config.stripes.min(6)),
            _ => {}
        }
    }
    if scenario == Scenario::Idle && rng.chance(50) {
        // Several regions of cells. If all cells begin Clean, marks that spread too far are detected.
        config.stripes = rng.between(40, 400);
        if rng.chance(50) {
            config.initial = bitmap::Cell::Clean;
        }
    }
    if scenario == Scenario::Crowd {
        crowd::short(&mut rng, &mut config);
    }
    if scenario == Scenario::Filling {
        // So slow, and so many stripes, that a rebuild takes some seconds.
        config.shape.chunk_bytes = 4096;
        (config.initial, config.stripes) = (bitmap::Cell::Clean, rng.between(60, 160));
        config.latency = Latency::slow_to_fill();
    }
    if verbose {
        println!("{config:?}");
    }
    BRANCH.set(None);
    let world = World::new(rng.next(), config, Arc::clone(&memories.trunk), verbose);
    let mut story = Story::of(world, knobs, memories.clone(), verbose);
    story.take_moments(mix(seed));
    match scenario {
        Scenario::Rollback => story.world.remember_stop(),
        Scenario::Idle => story.world.idle.watched = true,
        _ => {}
    }
    story.start();
    match scenario {
        Scenario::Deaths => story.deaths(),
        Scenario::Cuts => story.cuts(),
        Scenario::Rebuild => story.rebuild(),
        Scenario::Faults => story.faults(),
        Scenario::Stops => story.stops(),
        Scenario::Starts => story.starts(),
        Scenario::Absent => story.absent(),
        Scenario::Grow => story.grow(),
        Scenario::Seed => story.seed(),
        Scenario::Leaving => story.leaving(),
        Scenario::Lost => story.lost(),
        Scenario::Filling => story.filling(),
        Scenario::Refused => story.refused(),
        Scenario::Rescue => story.rescue(),
        Scenario::Mixed => story.mixed(),
        Scenario::Rollback => story.rollback(),
        Scenario::Silent => story.silent(),
        Scenario::Decay => story.decay(),
        Scenario::Foreign => story.foreign(),
        Scenario::Idle => story.idle(),
        Scenario::Earlier => story.earlier(),
        Scenario::Bad => story.bad(),
        Scenario::Crowd => story.crowd(),
    }
    story.explore();
    story.outcome()
}

/// Bounds for [`Scenario::Absent`], which is about starts: few stripes and requests, and usually the fewest
/// members that the level allows. Two torn superblock copies are then all witnesses.
fn rare(rng: &mut Rng, knobs: Knobs) -> Knobs {
    let members = if rng.chance(75) { knobs.members.min(3) } else { knobs.members };
    Knobs { members, stripes: knobs.stripes.min(6), ..knobs }
}

struct Story {
    world: World,
    knobs: Knobs,
    memories: Memories,
    verbose: bool,
    /// Power cuts that no check has followed yet. `pending_deaths` counts deaths in the same way.
    pending_cuts: u64,
    pending_deaths: u64,
    /// Whether nothing may go wrong except the aimed fault.
    single_fault: bool,
    /// Percentage of restarts that are a storm: consecutive starts that are cut, each with other members
    /// missing.
    storm_percent: u64,
    /// Percentage of starts in a storm at which members are missing.
    missing_percent: u64,
    /// Percentage of starts at which the members missing at the previous start stay away.
    stay_percent: u64,
    /// Percentage of power cuts after which members get older content back.
    rollback_percent: u64,
    /// Percentage of power cuts after which metadata decays.
    decay_percent: u64,
    /// Whether the decay is an installer's partition table.
    partitioned: bool,
    /// Percentage of starts before which the array is grown.
    grow_percent: u64,
    /// Disks that were alive but missing at the last start.
    away: Vec<usize>,
    /// Number of worlds that branched off.
    branches: u32,
    outcome: Outcome,
}

impl Story {
    fn of(world: World, knobs: Knobs, memories: Memories, verbose: bool) -> Story {
        Story {
            world,
            knobs,
            memories,
            verbose,
            pending_cuts: 0,
            pending_deaths: 0,
            single_fault: false,
            storm_percent: 12,
            missing_percent: 40,
            stay_percent: 0,
            rollback_percent: 0,
            decay_percent: 0,
            partitioned: false,
            grow_percent: 0,
            away: Vec::new(),
            branches: 0,
            outcome: Outcome::default(),
        }
    }

    /// The outcome of the run and of its branches.
    fn outcome(&self) -> Outcome {
        let (world, mut outcome) = (&self.world, self.outcome);
        let bus = world.bus.borrow();
        outcome.add(&Outcome {
            trace: bus.trace,
            answered: world.answered,
            errors: world.errors,
            operations: bus.operations,
            cuts: 0,
            deaths: 0,
            sim_ns: bus.now_ns,
        });
        outcome
    }

    /// Reads and checks everything. Cuts and deaths before this point now count as histories.
    fn verify(&mut self) {
        self.world.verify();
        if !self.world.is_off() {
            self.world.come_to_rest();
        }
        if !self.world.is_off() {
            self.outcome.cuts += std::mem::take(&mut self.pending_cuts);
            self.outcome.deaths += std::mem::take(&mut self.pending_deaths);
        }
        self.explore();
    }

    fn requests(&mut self, from: u64, to: u64) -> u64 {
        (self.world.rng.between(from, to) * self.knobs.load / 100).max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.world.rng.chance(percent)
    }

    fn load(&mut self, from: u64, to: u64) {
        let count = self.requests(from, to);
        self.world.load(count);
        if self.chance(60) {
            self.world.drain();
        }
        self.explore();
    }

    fn rest(&mut self) {
        let ns = self.world.rng.pick(&[100_000, 10_000_000, 1_500_000_000, 4_000_000_000]);
        self.world.rest(ns);
        self.explore();
    }

    fn settle(&mut self) {
        self.heal();
        self.world.settle();
        if !self.world.is_off() && self.world.left_unsynced().is_some() {
            // Rows that could not be read are tried again after some seconds or minutes.
            for attempt in 0..60 {
                let is_whole = attempt == 0 || self.world.is_whole();
                if !self.world.is_off() && is_whole && self.world.left_unsynced().is_some() {
                    self.world.rest(6_000_000_000);
                }
            }
        }
        let settled = self.world.settle();
        self.explore();
        if self.world.is_off() {
            return;
        }
        assert!(settled, "A4: resync or rebuild does not end");
        let all_in_sync = self.world.spare() == u64::from(self.world.geometry.parities());
        let unsynced = self.world.left_unsynced();
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
        self.pending_deaths += 1;
        self.world.mark_lossy();
        let mut bus = self.world.bus.borrow_mut();
        bus.disks[disk].dead = true;
        bus.note(10, || format!("DEATH of disk {disk} in slot {slot}"));
    }

    fn die_or_be_failed(&mut self) {
        if self.chance(70) {
            self.die();
        } else {
            self.be_failed();
        }
    }

    /// Orders the array to fail a random slot.
    fn be_failed(&mut self) {
        let slot = self.world.random_slot();
        let disk = self.world.disk_of(slot);
        if self.world.bus.borrow().disks[disk].dead {
            return;
        }
        if self.order_to_fail(slot) {
            self.pending_deaths += 1;
        }
    }

    /// Orders the array to fail a slot whose loss the level tolerates. E7: this must not lose anything, so
    /// the order is refused while stripes need a resync. Returns whether the slot was failed.
    fn order_to_fail(&mut self, slot: u8) -> bool {
        let unsynced = |story: &Story| story.world.running().bitmap.next_need_sync(0);
        let before = unsynced(self);
        let answer = self.world.order_fail(slot);
        match &answer {
            None => false,
            Some(Ok(())) => true,
            Some(Err(why)) => {
                let is_told = why.contains("still to be resynced");
                assert!(
                    is_told && (before.or(unsynced(self)).is_some() || self.world.is_refusing()),
                    "ORDER: slot {slot} can be spared, and is not failed: {why}"
                );
                false
            }
        }
    }

    /// Orders a device to join in an empty slot: a new device, or one that was in the array before.
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
            // A device for which the kernel still has I/O is held open, and cannot be taken.
            let is_free = |disk: &usize| !used.contains(disk) && !bus.is_asked(*disk);
            (0..bus.disks.len()).filter(|disk| bus.disks[*disk].dead && is_free(disk)).collect()
        };
        let reuse = if !dead.is_empty() && self.chance(25) { Some(self.world.rng.pick(&dead)) } else { None };
        if self.world.bus.borrow().disks.len() >= DISKS_MAX {
            return;
        }
        // A refusal is a valid answer: another slot may be being rebuilt.
        if let Some(Ok(())) = self.world.order_join(slot, reuse)
            && !self.world.is_off()
        {
            let members = &self.world.running().members;
            assert!(
                members.view().writable.has(slot) || self.world.running().failed(),
                "ORDER: slot {slot} has taken its new member in, and it is not written to"
            );
        }
    }

    /// Breaks the disk that is being filled, or a disk that it is filled from.
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
        // Without a member to spare, only reads may fail, and the rows that they were for are lost until the
        // disks are healed.
        let kinds = if self.world.spare() == 0 { 2 } else { 4 };
        self.world.beyond_level |= kinds == 2;
        match self.world.rng.below(kinds) {
            0 => {
                self.world.bus.borrow_mut().monitors.repairs_happen = true;
                let stripes = self.world.geometry.stripes();
                for _ in 0..self.world.rng.between(1, 8) {
                    // Always the same member: two damaged strips of one stripe may be more than the level
                    // tolerates.
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
                self.pending_deaths += 1;
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
        self.heal_disks();
    }

    fn heal_disks(&mut self) {
        let mut bus = self.world.bus.borrow_mut();
        bus.note(11, || "HEAL".into());
        bus.disks.iter_mut().for_each(|disk| disk.heal());
        bus.wake_all();
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
        let count = self.requests(5, 120);
        self.world.load(count);
        if !self.world.is_off() && self.chance(30) {
            self.rest();
        }
        if !self.world.is_off() {
            self.world.cut_now();
        }
        self.pending_cuts += 1;
        self.world.after_cut();
    }
}
