//! The single-fault matrix: every fault, at every operation on every spot of a member, in every state.
//!
//! For each cell, a small array is brought into the state, one fault is aimed, and the host, the operator and
//! the power act until the fault is hit. Then every check that holds elsewhere must hold: monitors, oracle, a
//! restart, a resync. A hit is counted for the state in which the stripe or array really was. Cells that the
//! level need not tolerate, or that cannot occur, are not legal; [`illegal`] gives the reason. Every legal
//! cell must be hit.

use std::sync::Arc;

use bitmap::Cell;
use engine::array::Sizes;
use engine::format::{Level, Shape};
use engine::request::RequestKind;

use crate::aim::{Aim, Ask, Fault, Spot, State};
use crate::config::{Config, Flavour, Knobs};
use crate::host::Wish;
use crate::latency::Latency;
use crate::rng::{Rng, mix};
use crate::world::{StartOutcome, World};

use super::{BRANCH, Memories, Story};

/// A cell of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// RAID-5 with four members, or RAID-6 with seven.
    pub level: Level,
    /// Whether the members have volatile caches.
    pub cached: bool,
    /// State of the array, or of the stripe that is hit.
    pub state: State,
    /// Spot on a member.
    pub spot: Spot,
    /// Kind of operation.
    pub ask: Ask,
    /// Kind of fault.
    pub fault: Fault,
}

const SPOTS: [Spot; 8] = [
    Spot::SuperblockA,
    Spot::SuperblockB,
    Spot::BitmapEven,
    Spot::BitmapOdd,
    Spot::Data,
    Spot::P,
    Spot::Q,
    Spot::Device,
];
const ASKS: [Ask; 5] = [Ask::Read, Ask::Write, Ask::Durable, Ask::Flush, Ask::Deallocate];

/// Every cell, legal or not.
pub fn all() -> impl Iterator<Item = Place> {
    let levels = [Level::Raid5, Level::Raid6].into_iter().flat_map(|level| [(level, true), (level, false)]);
    levels.flat_map(|(level, cached)| {
        State::ALL.into_iter().flat_map(move |state| {
            SPOTS.into_iter().flat_map(move |spot| {
                ASKS.into_iter().flat_map(move |ask| {
                    Fault::ALL.into_iter().map(move |fault| Place { level, cached, state, spot, ask, fault })
                })
            })
        })
    })
}

/// The reason why a cell is not legal, or `None` if it is legal.
#[must_use]
pub fn illegal(place: &Place) -> Option<&'static str> {
    let Place { level, cached, state, spot, ask, fault } = *place;
    let metadata = matches!(spot, Spot::SuperblockA | Spot::SuperblockB | Spot::BitmapEven | Spot::BitmapOdd);
    let strip = matches!(spot, Spot::Data | Spot::P | Spot::Q);
    let without_redundancy = level == Level::Raid5 && matches!(state, State::Degraded | State::Rebuilding);
    let costs_nothing = matches!(fault, Fault::Slow | Fault::Stuck | Fault::CutBefore | Fault::CutAfter);
    if (spot == Spot::Device) != (ask == Ask::Flush) {
        return Some("a flush has no place, and everything else has one");
    }
    if spot == Spot::Q && level == Level::Raid5 {
        return Some("RAID-5 has no Q");
    }
    if metadata && !matches!(ask, Ask::Read | Ask::Durable) {
        return Some("metadata is read, and written durably");
    }
    if spot == Spot::BitmapOdd && ask == Ask::Read {
        return Some("both places of a block are read by one operation");
    }
    if strip && ask == Ask::Durable && !cached || ask == Ask::Flush && !cached {
        return Some("a member without a cache is not asked");
    }
    let fits = match fault {
        Fault::Latent => ask == Ask::Read,
        Fault::Torn | Fault::Landed => ask != Ask::Read && (ask != Ask::Flush || fault == Fault::Landed),
        Fault::Lost | Fault::Misdirected | Fault::Flip => metadata && ask == Ask::Durable,
        Fault::CutBefore | Fault::CutAfter => ask != Ask::Read,
        _ => true,
    };
    if !fits {
        return Some("the fault does not fit the operation");
    }
    if ask == Ask::Deallocate && fault == Fault::Torn {
        return Some("a deallocation promises nothing of what it leaves");
    }
    if without_redundancy && !costs_nothing {
        return Some("a second fault: more than the level bears");
    }
    if matches!(spot, Spot::P | Spot::Q) && ask == Ask::Read {
        return match state {
            State::Unwritten => Some("nothing of an Unwritten stripe is read"),
            State::NeedSync => Some("the parity of a NeedSync stripe is no input"),
            _ => None,
        };
    }
    let at_its_begin = matches!(fault, Fault::Slow | Fault::Stuck | Fault::CutBefore);
    if state == State::Unwritten && spot == Spot::BitmapEven && ask == Ask::Durable && at_its_begin {
        return Some(
            "the first block write of a fresh array is the odd one; later ones begin with a cell written",
        );
    }
    if spot == Spot::Data && ask == Ask::Read && state == State::Unwritten {
        return Some("nothing of an Unwritten stripe is read");
    }
    if ask == Ask::Deallocate
        && state != State::Degraded
        && state != State::Rebuilding
        && state != State::Unwritten
    {
        return Some("its cell is Unwritten before strips are given back");
    }
    None
}

/// Runs until the fault is hit, and checks everything. Returns the cell that was hit, if any. Panics at the
/// first violation.
#[must_use]
pub fn run_cell(place: &Place, seed: u64, memories: &Memories, verbose: bool) -> Option<Place> {
    let mut rng = Rng::new(seed);
    // Wide enough that an rmw reads less than an rcw.
    let members = if place.level == Level::Raid5 { 4 } else { 7 };
    let knobs = Knobs::of(Flavour::Small);
    let config = Config {
        shape: Shape { level: place.level, members, chunk_bytes: 4096 },
        // Enough stripes that some are still `NeedSync` when the fault is hit.
        stripes: if place.state == State::NeedSync { 24 } else { 3 },
        room_stripes: 0,
        reactors: 1,
        sizes: Sizes::SMALL,
        block_bytes: 512,
        volatile: vec![place.cached; members],
        initial: match place.state {
            State::Unwritten => Cell::Unwritten,
            State::NeedSync => Cell::NeedSync,
            State::Synced | State::Degraded | State::Rebuilding => Cell::Clean,
        },
        latency: Latency::even(20_000),
        knobs,
    };
    BRANCH.set(None);
    let world = World::new(rng.next(), config, Arc::clone(&memories.trunk), verbose);
    let mut story = Story::of(world, knobs, memories.clone(), verbose);
    story.single_fault = true;
    story.start();
    story.bring_into(place.state);
    story.take_aim(place, rng.below(3));
    story.provoke(place);
    let state = story.world.hit_state?;
    story.after_hit();
    Some(Place { state, ..*place })
}

/// The seed for an attempt at a cell.
#[must_use]
pub fn seed_of(cell: u64, attempt: u64, base: u64) -> u64 {
    mix(base ^ mix(cell << 16 | attempt))
}

impl Story {
    fn bring_into(&mut self, state: State) {
        self.world.stored_state = state;
        if !matches!(state, State::Degraded | State::Rebuilding) {
            return;
        }
        self.load(2, 6);
        self.world.drain();
        if self.world.running().bitmap.need_sync() > 0 {
            self.world.settle();
        }
        let slot = self.world.random_slot();
        let answer = self.world.order_fail(slot);
        assert!(matches!(answer, Some(Ok(()))), "ORDER: not failed: {answer:?}");
        if state == State::Rebuilding {
            self.replace();
        }
    }

    fn take_aim(&mut self, place: &Place, after: u64) {
        let Place { spot, ask, fault, .. } = *place;
        let mut bus = self.world.bus.borrow_mut();
        bus.monitors.repairs_happen = true;
        bus.aim = Some(Aim { fault, spot, ask, spared: None, after, hit: None });
    }

    fn is_hit(&self) -> bool {
        self.world.hit_state.is_some()
    }

    /// Lets host, operator and time act until the fault is hit.
    fn provoke(&mut self, place: &Place) {
        let metadata = !matches!(place.spot, Spot::Data | Spot::P | Spot::Q | Spot::Device);
        let superblock = matches!(place.spot, Spot::SuperblockA | Spot::SuperblockB);
        let starts = metadata
            && (place.ask == Ask::Read
                || superblock && matches!(place.state, State::NeedSync | State::Unwritten));
        for round in 0..4 {
            if starts || round > 0 && self.chance(40) {
                self.stop_and_start(round);
            }
            for _ in 0..8 {
                if self.is_hit() || self.world.is_off() {
                    return;
                }
                if metadata && place.state == State::NeedSync && self.chance(70) {
                    self.discard_one();
                } else {
                    self.ask_something();
                }
                if self.chance(60) {
                    self.world.drain();
                }
            }
            if self.is_hit() || self.world.is_off() {
                return;
            }
            self.world.drain();
            match self.world.rng.below(3) {
                0 => self.world.rest(2_500_000_000),
                1 if self.world.spare() > 1 => {
                    self.world.mark_lossy();
                    let slot = self.world.random_slot();
                    let _answer = self.world.order_fail(slot);
                }
                1 => self.replace(),
                _ => {}
            }
            if self.is_hit() || self.world.is_off() {
                return;
            }
        }
    }

    fn ask_something(&mut self) {
        let stripe_sectors = u64::from(self.world.geometry.stripe_bytes()) / 512;
        let stripe = self.world.rng.below(self.world.geometry.stripes()) * stripe_sectors;
        let at = self.world.rng.below(stripe_sectors);
        let few = self.world.rng.between(1, 10).min(stripe_sectors - at);
        let fua = self.chance(40);
        let (kind, first, count) = match self.world.rng.below(12) {
            0..=3 => (RequestKind::Write { fua }, stripe + at, few),
            4 => (RequestKind::Write { fua }, stripe, stripe_sectors),
            5 | 6 => (RequestKind::Read, stripe + at, few),
            7 => (RequestKind::Read, stripe, stripe_sectors),
            8 => (RequestKind::Flush, 0, 0),
            9 => (RequestKind::Discard, stripe, stripe_sectors),
            10 => (RequestKind::WriteZeroes { fua }, stripe + at, few),
            _ => (RequestKind::WriteZeroes { fua }, stripe, stripe_sectors),
        };
        self.world.submit(Wish { kind, first, count });
    }

    fn discard_one(&mut self) {
        let count = u64::from(self.world.geometry.stripe_bytes()) / 512;
        let first = self.world.rng.below(self.world.geometry.stripes()) * count;
        self.world.submit(Wish { kind: RequestKind::Discard, first, count });
    }

    /// Stops the array in order or by a power cut, and starts it. The fault may be hit during the start.
    fn stop_and_start(&mut self, round: u64) {
        if round.is_multiple_of(2) || self.world.rebuilds() {
            self.world.cut_now();
            self.world.after_cut();
        } else {
            let stored = self.world.stored_state;
            let answer = self.world.order_stop();
            if self.world.is_off() || self.is_hit() && self.world.shared.is_some() {
                return;
            }
            assert!(matches!(answer, Some(Ok(()))), "STOP: refused: {answer:?}");
            if self.is_hit() {
                return self.restart_present(false);
            }
            self.world.stored_state = stored;
        }
        self.choose_present(false);
        let outcome = self.world.start(None);
        let fault = self.world.bus.borrow().aim.and_then(|aim| aim.hit.map(|_| aim.fault));
        let hit = fault.is_some();
        if hit {
            self.world.hit_state = Some(self.world.stored_state);
        }
        if outcome == StartOutcome::Running && fault.is_some_and(Fault::may_cost_a_member) {
            self.world.mark_lossy();
        }
        assert!(
            outcome == StartOutcome::Running || hit && outcome == StartOutcome::PowerCut,
            "START: {outcome:?} with one fault"
        );
    }

    /// Heals the disks, starts the array, resyncs it, and checks everything.
    fn after_hit(&mut self) {
        if !self.world.is_off() && self.chance(50) {
            self.world.drain();
            self.verify();
            self.heal();
            self.world.cut_now();
        }
        self.world.bus.borrow_mut().aim = None;
        if self.world.is_off() {
            self.world.after_cut();
            self.heal_disks();
            self.restart_present(false);
        }
        self.verify();
        self.settle();
        self.verify();
    }
}
