//! Every cut of every start: see the top of main.rs.

use std::collections::BTreeSet;

use bitmap::Cell;
use engine::format::Level;
use engine::format::zones::copies;
use engine::start::StartOptions;

use crate::devices::{Held, LANDINGS, Landing, Members, Trouble};

/// Cells of stripes 0 to 3, in the low bits first: all Unwritten; stripe 0 Dirty; stripe 1 Dirty too.
const OLDER: u8 = 0b01_01_01_01;
const COMPLETE: u8 = 0b01_01_01_11;
const NEWER: u8 = 0b01_01_11_11;

/// The content of the members, and the faults that may still occur.
#[derive(Clone)]
struct State {
    members: Members,
    /// Devices that took part in the last start and did not leave in it.
    alive: Vec<usize>,
    /// Number of places that may still become unreadable. `refusals` is the number of writes that may still
    /// fail.
    spoils: u32,
    refusals: u32,
    /// Number of places that could not be read so far.
    spoilt: u32,
    /// Whether members were absent or have left.
    degraded: bool,
    story: Vec<String>,
}

/// The relevant part of a state: generations only by their order, and keepers without their numbers.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    places: Vec<[Held; 2]>,
    alive: usize,
    left: (u32, u32, u32, bool),
}

/// States that were met, and those still to be explored.
#[derive(Default)]
struct States {
    met: BTreeSet<Key>,
    next: Vec<State>,
}

impl States {
    fn add(&mut self, state: State) {
        if state.alive.len() >= state.members.shape.data_strips() && self.met.insert(state.key()) {
            self.next.push(state);
        }
    }
}

impl State {
    fn key(&self) -> Key {
        let keepers: Vec<usize> = self.keepers().collect();
        let mut generations: Vec<u64> = (keepers.iter().flat_map(|&device| self.members.held(device)))
            .filter_map(|held| if let Held::Block(generation, _) = held { Some(generation) } else { None })
            .collect();
        generations.sort_unstable();
        let ranked = |held| match held {
            Held::Block(generation, cells) => {
                let rank = generations.partition_point(|other| *other < generation);
                Held::Block(rank as u64, cells)
            }
            other => other,
        };
        let mut places: Vec<_> =
            keepers.iter().map(|&device| self.members.held(device).map(ranked)).collect();
        places.sort_unstable();
        let left = (self.spoils, self.refusals, self.spoilt.min(2), self.degraded);
        Key { places, alive: self.alive.len(), left }
    }

    fn keepers(&self) -> impl Iterator<Item = usize> {
        copies(0, &self.members.shape).filter(|device| self.alive.contains(device))
    }

    fn with(&self, what: String) -> State {
        let mut next = self.clone();
        next.story.push(what);
        next
    }

    fn spoil(&mut self, device: usize, place: u64) {
        self.members.spoil(device, place);
        self.spoilt += 1;
    }

    /// Starts these members read-only, and checks the cells.
    fn look(&self, present: &[usize]) {
        let options = StartOptions { read_only: true, ..StartOptions::default() };
        let started = self.members.clone().start(present, options, Trouble::default());
        let started = started.result.expect("nothing has to be written");
        let held: Vec<_> = self.keepers().map(|device| (device, self.members.held(device))).collect();
        let story = || format!("devices {present:?}, which hold {held:?}; {:#?}", self.story);
        assert_ne!(started.bitmap.cell(0), Cell::Unwritten, "an older generation is back: {}", story());
        // A block may become unknown only through bad sectors: not without one, and not through a single one
        // while all members are present.
        let keeper_is_here = self.spoilt == 0 || self.spoilt == 1 && !self.degraded;
        if keeper_is_here && present.len() == self.alive.len() || self.spoilt == 0 {
            assert_eq!(started.stale_blocks, 0, "a block is not known though it could be: {}", story());
        }
    }

    /// Starts from these members with this trouble; returns the resulting state, and the devices of each lot
    /// of writes.
    fn start(&self, present: &[usize], trouble: &Trouble) -> (State, Vec<Vec<usize>>) {
        let mut next = self.with(format!("start of {present:?}: {trouble:?}"));
        let lots = next.members.start(present, StartOptions::default(), trouble.clone()).lots;
        next.alive = next.members.in_sync(present);
        next.degraded |= next.alive.len() < self.members.devices.len();
        (next, lots)
    }

    /// Adds the states after each cut in a start with no other trouble, or with one failed write.
    fn after_cuts(&self, present: &[usize], into: &mut States) {
        let (whole, lots) = self.start(present, &Trouble::default());
        into.add(whole);
        self.cut_each(present, &lots, &Trouble::default(), 0, into);
        if self.refusals == 0 {
            return;
        }
        let mut less = self.clone();
        less.refusals -= 1;
        for (lot, devices) in lots.iter().enumerate() {
            for (&device, landing) in
                devices.iter().flat_map(|device| LANDINGS.map(|landing| (device, landing)))
            {
                let refusal = Trouble { refusal: Some((lot, device, landing)), ..Trouble::default() };
                // A refusal that leaves too few members ends the start, which is one more state like a cut.
                let (whole, lots) = less.start(present, &refusal);
                into.add(whole);
                less.cut_each(present, &lots, &refusal, lot + 1, into);
            }
        }
    }

    fn cut_each(
        &self,
        present: &[usize],
        lots: &[Vec<usize>],
        trouble: &Trouble,
        from: usize,
        into: &mut States,
    ) {
        for (lot, devices) in lots.iter().enumerate().skip(from) {
            for nth in 0..3usize.pow(devices.len() as u32) {
                let landings =
                    (0..devices.len() as u32).map(|op| LANDINGS[nth / 3usize.pow(op) % 3]).collect();
                let cut = Trouble { cut: Some((lot, landings)), ..trouble.clone() };
                into.add(self.start(present, &cut).0);
            }
        }
    }
}

/// The states that a power cut leaves, with generation `complete` on every keeper and the next one being
/// written.
fn left_by_a_cut(array: &Members, complete: u64, spoils: u32, refusals: u32) -> States {
    let keepers: Vec<usize> = copies(0, &array.shape).collect();
    let mut states = States::default();
    for nth in 0..3usize.pow(keepers.len() as u32) {
        for spoilt in 0..4u32.pow(keepers.len() as u32) {
            let mut state = State {
                members: array.clone(),
                alive: (0..array.devices.len()).collect(),
                spoils,
                refusals,
                spoilt: 0,
                degraded: false,
                story: vec![format!("cut {nth}, unreadable {spoilt:b}")],
            };
            for (at, &device) in keepers.iter().enumerate() {
                let landing = LANDINGS[nth / 3usize.pow(at as u32) % 3];
                state.members.put_block(device, complete - 1, OLDER, Landing::Whole);
                state.members.put_block(device, complete, COMPLETE, Landing::Whole);
                state.members.put_block(device, complete + 1, NEWER, landing);
                for place in 0..2 {
                    if spoilt >> (2 * at as u32 + place) & 1 == 1 {
                        state.spoil(device, place.into());
                    }
                }
            }
            states.add(state);
        }
    }
    states
}

/// Every subset of these devices that suffices for a start.
fn subsets(alive: &[usize], least: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..1u32 << alive.len()).filter(move |set| set.count_ones() as usize >= least).map(|set| {
        alive.iter().enumerate().filter(|(nth, _)| set >> nth & 1 == 1).map(|(_, device)| *device).collect()
    })
}

/// Explores every state that follows from these; returns their number.
fn explore(mut states: States) -> usize {
    while let Some(state) = states.next.pop() {
        let least = state.members.shape.data_strips();
        for present in subsets(&state.alive, least) {
            state.look(&present);
            state.after_cuts(&present, &mut states);
        }
        if state.spoils > 0 {
            for (device, place) in state.keepers().flat_map(|device| [(device, 0), (device, 1)]) {
                let mut next = state.with(format!("place {place} of device {device} cannot be read"));
                next.spoils -= 1;
                next.spoil(device, place);
                states.add(next);
            }
        }
    }
    states.met.len()
}

#[test]
fn no_cut_of_a_start_brings_an_older_generation_back() {
    let array = Members::in_use(Level::Raid5, 3);
    for complete in [(1 << 32) + 2, (1 << 32) + 3] {
        let states = explore(left_by_a_cut(&array, complete, 1, 1));
        println!("{states} states");
        assert!(states > 100);
    }
}

/// With three keepers of the block, of which two may be absent.
#[test]
fn no_cut_of_a_start_with_three_keepers_does_either() {
    let array = Members::in_use(Level::Raid6, 4);
    let states = explore(left_by_a_cut(&array, (1 << 32) + 2, 0, 0));
    println!("{states} states");
    assert!(states > 100);
}
