//! The world: reactors over a bus, a host, and the oracle. A single seed decides everything.
//!
//! `start` assembles, starts and grows arrays. `requests` makes requests and takes answers, and `checks`
//! compares these and the members with the oracle. `orders` gives the operator's orders and breaks devices.
//! `crash` branches off worlds at power cuts, `rollback` puts older contents back on members, `decay` damages
//! metadata, and `idle` says what an unclean end may cost.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use bitmap::Cell;
use engine::array::{Array, Shared};
use engine::assembly::NewArray;
use engine::format::label::Label;
use engine::format::zones::{ZoneError, Zones, zones};
use engine::geometry::Geometry;
use engine::memory::{Memory, Pool};
use engine::request::Reply;
use engine::start::{Bench, SCRATCH_BYTES, write_new};
use engine::tally::Tally;
use uuid::Uuid;

use crate::aim::State;
use crate::bus::Bus;
use crate::config::{Config, REACTORS_MAX};
use crate::disk::{Disk, SECTOR, ZoneKind, name_of};
use crate::host::{Asked, Habits, Host};
use crate::monitors::Watched;
use crate::oracle::Oracle;
use crate::ring::SimRing;
use crate::rng::Rng;

mod checks;
mod crash;
mod crowd;
mod decay;
mod idle;
mod lost;
mod orders;
mod read_only;
mod requests;
mod rollback;
mod start;
mod told;

pub use crash::Crash;
pub use decay::{Block, Decay, Spot};
pub use idle::Idle;
pub use orders::DISKS_MAX;
pub use rollback::Stop;
pub use start::{GrowOutcome, StartOutcome};

/// Time within which every request must be answered.
const ANSWERED_WITHIN_NS: u64 = 30_000_000_000;
const MIB: usize = 1 << 20;

struct Reactor {
    array: Array,
    ring: SimRing,
}

/// Memory for the runs of one thread, mapped once. A run must not depend on what an earlier run left in it;
/// comparing traces would show that.
#[must_use]
pub fn fresh_memory() -> Arc<Memory> {
    // Each size of buffer takes a MiB of its own, and silent members keep the buffers of their operations.
    // With 4 MiB per reactor, one buffer of each size held there would exhaust the memory. Arenas therefore
    // have 32 MiB, like the product's.
    let mut arenas = vec![32 * MIB; REACTORS_MAX];
    arenas.push(8 * MIB);
    arenas.push(MIB);
    Memory::new(&arenas).expect("memory for a world")
}

/// An array with everything around it; see the top of this file.
pub struct World {
    /// Random numbers for everything above the bus.
    pub rng: Rng,
    /// Shape of the run.
    pub config: Config,
    /// Geometry of the array.
    pub geometry: Geometry,
    zones: Zones,
    /// Zones of the array if it used all the room that the disks have.
    room: Zones,
    /// Length of every device.
    device_bytes: u64,
    array_uuid: Uuid,
    /// Disks, power and time: everything below the engine.
    pub bus: Rc<RefCell<Bus>>,
    memory: Arc<Memory>,
    reactors: Vec<Reactor>,
    /// State that the reactors share; `None` while the array does not run.
    pub shared: Option<Arc<Shared>>,
    /// State of the array as an operator knows it from events since the start.
    hearsay: Option<told::Hearsay>,
    host: Host,
    /// The host's memory; `None` only while it is being replaced.
    host_pool: Option<Pool>,
    oracle: Oracle,
    asked: Vec<Asked>,
    next_tag: u64,
    /// Stripes that may have lost something: they were `NeedSync` when a member was missing or might be lost.
    pub lossy: BTreeSet<u64>,
    /// Stripes of requests that were answered with an error. Members may differ there, since nothing was
    /// promised.
    torn: BTreeSet<u64>,
    /// Whether errors are excused for now, because more is broken than the level tolerates. Wrong bytes are
    /// never excused.
    pub beyond_level: bool,
    /// Number of requests answered.
    pub answered: u64,
    /// Number of requests answered with an error.
    pub errors: u64,
    /// Disks that take part or may return.
    pub present: Vec<usize>,
    /// State of the stripe or array that an aimed fault has hit, just before the hit.
    pub hit_state: Option<State>,
    /// State of the array when it last ran.
    pub stored_state: State,
    /// Cells at the last stop in order; `None` after a later start that failed.
    cells_at_stop: Option<Vec<Cell>>,
    /// Version of the list of lost rows at the last check.
    listed_version: u64,
    /// The oracle's moment at which a write was last answered.
    written_at: u64,
    /// Waiting times of the writes of the present load: see `crowd`.
    waits: crowd::Waits,
    /// Moments at which the power could have gone, to be examined later.
    pub crashes: Vec<Crash>,
    /// The array as each stop in order left it, and as it was created.
    pub stops: Vec<Rc<Stop>>,
    /// Damaged blocks of metadata that no start has repaired yet.
    pub damaged: Vec<Spot>,
    /// Whether some disks hold older content than before and no start has decided on them yet. A start may be
    /// refused then.
    pub older: bool,
    /// Disks that were removed when the whole array went back to an earlier stop.
    pub gone: BTreeSet<usize>,
    /// Knowledge about what an unclean end may cost.
    pub idle: Idle,
}

impl World {
    /// A world with an array that is created and not started.
    #[must_use]
    pub fn new(seed: u64, config: Config, memory: Arc<Memory>, verbose: bool) -> World {
        let mut rng = Rng::new(seed);
        let shape = config.shape;
        let mut bytes = (3 << 20) + config.stripes * u64::from(shape.chunk_bytes);
        let found = loop {
            match zones(bytes, &shape) {
                Ok(found) if found.stripes >= config.stripes => break found,
                Ok(_) | Err(ZoneError::TooSmall { .. }) => bytes += u64::from(shape.chunk_bytes),
                Err(error) => panic!("the shape is valid: {error}"),
            }
        };
        let stripes = found.stripes;
        let room_bytes = config.room_stripes * u64::from(shape.chunk_bytes);
        let room = found.grown(found.end_bytes() + room_bytes, &shape);
        let geometry =
            Geometry::new(shape.members as u8, shape.level.parities() as u8, shape.chunk_bytes, stripes);
        let mut bus = Bus::new(Rng::new(rng.next()), Arc::clone(&memory), config.latency, verbose);
        for &volatile in &config.volatile {
            let mut disk = Disk::new(rng.next(), room, volatile);
            disk.blank = config.initial == Cell::Clean;
            disk.block_sectors = config.block_sectors();
            disk.wipe_superblocks();
            bus.disks.push(disk);
        }
        let stripe_sectors = u64::from(geometry.stripe_bytes()) / SECTOR as u64;
        let habits = Habits::random(&mut rng, stripes, stripe_sectors, config.knobs.depth);
        let host_pool = Pool::new(&memory, REACTORS_MAX as u16);
        let oracle = Oracle::new(config.volatile.contains(&true));
        let members: Vec<Uuid> = (0..shape.members).map(|_| random_uuid(&mut rng)).collect();
        let mut world = World {
            array_uuid: random_uuid(&mut rng),
            present: (0..shape.members).collect(),
            rng,
            config,
            geometry,
            zones: found,
            room,
            device_bytes: (bytes + room_bytes).max(room.end_bytes()),
            bus: Rc::new(RefCell::new(bus)),
            memory,
            reactors: Vec::new(),
            shared: None,
            hearsay: None,
            host: Host::new(habits),
            host_pool: Some(host_pool),
            oracle,
            asked: Vec::new(),
            next_tag: 1,
            lossy: BTreeSet::new(),
            torn: BTreeSet::new(),
            beyond_level: false,
            answered: 0,
            errors: 0,
            hit_state: None,
            stored_state: State::Unwritten,
            written_at: 0,
            listed_version: 0,
            waits: crowd::Waits::default(),
            cells_at_stop: None,
            crashes: Vec::new(),
            stops: Vec::new(),
            damaged: Vec::new(),
            older: false,
            gone: BTreeSet::new(),
            idle: Idle::after(true, None),
        };
        world.create(&members);
        world
    }

    fn create(&mut self, members: &[Uuid]) {
        let mut ring = SimRing::new(&self.bus, 99, (0..members.len()).collect());
        let new = NewArray {
            array: self.array_uuid,
            name: Label::new("sim").expect("a name"),
            host: engine::format::host::Host::ANY,
            created_s: 1_700_000_000,
            shape: self.config.shape,
            logical_block_bytes: self.config.block_bytes,
            zones: self.zones,
            members,
            epoch_id: self.rng.next() | 1,
        };
        self.bus.borrow_mut().blocking = true;
        let scratch = self.memory.arena(REACTORS_MAX as u16 + 1).part(0, SCRATCH_BYTES);
        let mut bench = Bench { ring: &mut ring, memory: &self.memory, scratch };
        write_new(&mut bench, &new, self.config.initial, &mut |_, _| {}).expect("nothing is wrong yet");
        let mut bus = self.bus.borrow_mut();
        bus.blocking = false;
        bus.monitors.watched = Some(Watched {
            array: self.array_uuid,
            shape: self.config.shape,
            geometry: self.geometry,
            // Offsets are the same as in the zones of today, and the array may grow.
            zones: self.room,
        });
        bus.monitors.power_on();
        drop(bus);
        if self.config.initial == Cell::NeedSync {
            self.remember_media();
        }
    }

    /// Takes the present content of all members as the initial data, since a resync will make parity match
    /// it.
    fn remember_media(&mut self) {
        let mut bus = self.bus.borrow_mut();
        for sector in 0..self.sectors() {
            let (disk, place) = self.home_of(sector);
            let mut bytes = [0; SECTOR];
            let place = bus.disks[disk].place_in_data(place, SECTOR as u64);
            bus.disks[disk].read(place, &mut bytes);
            self.oracle.initial(sector, name_of(&bytes));
        }
    }

    /// Number of sectors of the array.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.geometry.size_bytes() / SECTOR as u64
    }

    const fn stripe_sectors(&self) -> u64 {
        self.geometry.stripe_bytes() as u64 / SECTOR as u64
    }

    /// The slot of a sector of the array, and its offset in the slot's data zone.
    fn home_of(&self, sector: u64) -> (usize, u64) {
        let (stripe, within) = self.geometry.locate(sector * SECTOR as u64);
        let (strip, row) = self.geometry.strip_of(within);
        let slot = self.geometry.rotation(stripe).slot_of(strip);
        (usize::from(slot), self.geometry.strip_offset(stripe) + u64::from(row))
    }

    /// The shared state of the running array.
    #[must_use]
    pub fn running(&self) -> &Arc<Shared> {
        self.shared.as_ref().expect("the array runs")
    }

    /// Whether the power went.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.bus.borrow().off
    }

    /// Applies a power cut: forgets the engine, and everything that it had not promised.
    pub fn after_cut(&mut self) {
        self.idle = Idle::after(self.idle.watched, self.loss());
        self.forget_engine();
        self.oracle.power_cut();
        self.bus.borrow_mut().take_apart_away();
    }

    fn forget_engine(&mut self) {
        self.reactors.clear();
        self.shared = None;
        self.hearsay = None;
        self.asked.clear();
        // The engine may have given a request another span, and may have parked the span that the request
        // came with.
        self.host_pool = None;
        self.host_pool = Some(Pool::new(&self.memory, REACTORS_MAX as u16));
    }

    /// Runs one turn of a random reactor. Returns whether it made progress.
    pub fn step(&mut self) -> bool {
        let at = self.rng.below(self.reactors.len() as u64) as usize;
        self.turn(at)
    }

    /// Runs one turn of a reactor. Returns whether it made progress.
    fn turn(&mut self, at: usize) -> bool {
        {
            let mut bus = self.bus.borrow_mut();
            let next = bus.next_due_ns();
            let random = self.rng.below(1500);
            // While a disk is silent, time advances in short hops, so that a reactor waiting for it looks now
            // and then instead of sleeping until the disk answers.
            let is_silent = bus.silences.iter().any(|silence| bus.now_ns < silence.until_ns);
            let hop_ns = if is_silent { 100_000_000 } else { u64::MAX };
            bus.now_ns = match next {
                Some(due) if self.rng.chance(60) => {
                    bus.now_ns.max(due.min(bus.now_ns.saturating_add(hop_ns)))
                }
                _ => bus.now_ns + random,
            };
        }
        let now_ns = self.bus.borrow().now_ns;
        let shared = Arc::clone(self.running());
        let had_failed = shared.failed();
        let blocks_begun = || Tally::sum(&shared.tallies).intent_writes;
        let begun_before = had_failed.then(blocks_begun);
        let states_before = self.bus.borrow().aim.is_some().then(|| self.states());
        let Reactor { array, ring } = &mut self.reactors[at];
        let mut moved = array.turn(ring, now_ns, self.rng.below(8) as usize);
        array.check_invariants();
        assert!(
            begun_before.is_none_or(|before| before == blocks_begun()),
            "E2: an array that has failed writes a bitmap block, perhaps over the newest complete generation"
        );
        array.exchange_spans(ring, self.host_pool.as_mut().expect("a host has its memory"), |bytes| bytes);
        let replies: Vec<Reply> = array.take_replies().collect();
        assert!(
            shared.failed() || !had_failed,
            "E2: an array that had failed goes on before it is started again"
        );
        self.hear_events();
        self.check_listed();
        self.keep_crashes();
        if let Some(before) = states_before {
            self.note_hit(&before);
        }
        if self.is_off() {
            return true;
        }
        moved |= !replies.is_empty();
        self.note_degraded();
        self.note_bad_sectors();
        self.note_errors_to_come();
        for reply in replies {
            self.take_reply(reply);
        }
        if std::mem::take(&mut self.bus.borrow_mut().monitors.look_at_members) {
            self.check_members();
        }
        moved
    }

    /// The state of the array, and the state of each stripe.
    fn states(&self) -> (State, Vec<State>) {
        let shared = self.running();
        let view = shared.members.view();
        let whole = if !view.rebuilding().is_empty() {
            Some(State::Rebuilding)
        } else {
            (view.readable != self.geometry.slots()).then_some(State::Degraded)
        };
        let of_stripe = |stripe| match shared.bitmap.cell(stripe) {
            Cell::Unwritten | Cell::First => State::Unwritten,
            Cell::NeedSync => State::NeedSync,
            Cell::Clean | Cell::Marked | Cell::Dirty | Cell::Aged => State::Synced,
        };
        let stripes: Vec<State> =
            (0..self.geometry.stripes()).map(|stripe| whole.unwrap_or(of_stripe(stripe))).collect();
        let of_array = [State::NeedSync, State::Synced, State::Unwritten];
        let of_array = of_array.into_iter().find(|state| stripes.contains(state));
        (whole.or(of_array).expect("a stripe is in some state"), stripes)
    }

    /// Notes the hit of an aimed fault in this step, with the previous state of what it hit. If the fault may
    /// cost the array a member, stripes that are `NeedSync` now may lose their strips on that member.
    fn note_hit(&mut self, before: &(State, Vec<State>)) {
        self.stored_state = before.0;
        let Some(aim) = self.bus.borrow().aim else { return };
        if let (Some(place), None) = (aim.hit, self.hit_state) {
            if aim.fault.may_cost_a_member() {
                self.mark_lossy();
            }
            let place = place.filter(|place| place.zone == ZoneKind::Data);
            let stripe = place.map(|place| place.offset_in_zone / u64::from(self.geometry.chunk_bytes()));
            self.hit_state = Some(stripe.map_or(before.0, |stripe| before.1[stripe as usize]));
        }
    }

    /// Runs until every reactor holds nothing. No request and no background work may be left.
    pub fn come_to_rest(&mut self) {
        for _ in 0..2_000 {
            let quiet = |reactor: &Reactor| reactor.array.quiet();
            if self.is_off() || self.is_busy() || self.outstanding() > 0 {
                return;
            }
            if self.reactors.iter().all(quiet) {
                // Events are checked only once the steward has nothing left to tell.
                if !self.reactors[0].array.must_turn() {
                    self.check_told();
                }
                return;
            }
            self.step();
        }
        panic!("I8: a reactor holds something though every request is answered");
    }

    /// Number of requests in flight.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.asked.len()
    }

    /// Makes `count` random requests, as many at a time as the host's depth allows.
    pub fn load(&mut self, count: u64) {
        let mut left = count;
        let mut idle = 0;
        while left > 0 && !self.is_off() {
            while left > 0 && (self.outstanding() as u64) < self.host.habits.depth && self.rng.chance(70) {
                self.submit_random();
                left -= 1;
            }
            self.step_watched(&mut idle);
        }
    }

    /// Time limit for a request. It grows with the latency of the devices, since a turn here can be long.
    fn answered_within_ns(&self) -> u64 {
        ANSWERED_WITHIN_NS + 500 * self.config.latency.slowest_ns()
    }

    /// Runs a step. After many steps without progress, time jumps ahead; a request that stays unanswered ends
    /// the run.
    fn step_watched(&mut self, idle: &mut u64) {
        *idle = if self.step() { 0 } else { *idle + 1 };
        if *idle > 200 {
            self.bus.borrow_mut().now_ns += 5_000_000;
        }
        if *idle > 200 || self.rng.below(256) == 0 {
            let now = self.bus.borrow().now_ns;
            let within = self.answered_within_ns();
            // A silent member may hold a request up for the length of its silence, if that ends, or until the
            // member is failed. Members are waited for ten times as long while stripes need a resync.
            // Patience is counted in beats, which are longer here than by the clock: time jumps in steps of
            // up to 100 ms, and each reactor needs its turn.
            let unsynced = self.running().bitmap.need_sync() > 0;
            self.bus.borrow_mut().silences.iter_mut().for_each(|silence| silence.unsynced |= unsynced);
            let patience_ns = 1_000_000_000 * u64::from(self.running().members.patience_s());
            let excused_until = |silence: &crate::bus::Silence| match silence.until_ns {
                crate::bus::ENDLESS => silence.since_ns + patience_ns * if silence.unsynced { 18 } else { 2 },
                until_ns => until_ns,
            };
            let excused = self.bus.borrow().silences.iter().map(excused_until).max().unwrap_or(0);
            let is_late = |asked: &&Asked| asked.asked_ns.max(excused) + within < now;
            if let Some(asked) = self.asked.iter().find(is_late) {
                panic!("I8: {asked:?} is not answered within 30 s");
            }
        }
    }

    /// Steps until every request is answered.
    pub fn drain(&mut self) {
        let mut idle = 0;
        while self.outstanding() > 0 && !self.is_off() {
            self.step_watched(&mut idle);
        }
    }

    /// Lets time pass without requests.
    pub fn rest(&mut self, ns: u64) {
        let until = self.bus.borrow().now_ns + ns;
        let mut still = 0;
        while self.bus.borrow().now_ns < until && !self.is_off() {
            still = if self.step() { 0 } else { still + 1 };
            if still > 30 * self.config.reactors as u64 {
                let mut bus = self.bus.borrow_mut();
                let step = self.rng.between(1_000_000, 100_000_000);
                bus.now_ns = (bus.now_ns + step).min(until);
                still = 0;
            }
        }
    }

    /// Lets time pass until no resync and no rebuild is running. Returns false if they do not end.
    pub fn settle(&mut self) -> bool {
        for _ in 0..1_200 {
            if self.is_off() || !self.is_busy() {
                return true;
            }
            self.rest(100_000_000 + 20 * self.config.latency.slowest_ns());
        }
        false
    }

    /// Whether background work is running.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        let shared = self.running();
        let steward = &shared.steward;
        steward.resync_total.load(Relaxed) > 0 || steward.rebuild_slot.load(Relaxed) > 0
    }
}

fn random_uuid(rng: &mut Rng) -> Uuid {
    Uuid::from_u64_pair(rng.next() | 1, rng.next())
}
