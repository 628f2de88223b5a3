//! The world: reactors over a bus, a host, the oracle; one seed decides all of it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use bitmap::{Cell, StripeLocks};
use crossbeam::channel::{Receiver, bounded};
use engine::array::{Answer, Array, Beginning, Order, Shared, StewardState};
use engine::assembly::{Assembly, AssemblyOptions, Candidate, NewArray, assemble};
use engine::format::label::Label;
use engine::format::zones::{Zones, zones};
use engine::format::{Level, Shape};
use engine::geometry::{Geometry, Slots};
use engine::mailbox::Mailboxes;
use engine::memory::{Memory, Pool, Span};
use engine::request::{Reply, Request, RequestError, RequestKind};
use engine::ring::{DeviceIndex, Ring as _};
use engine::start::{Bench, SCRATCH_BYTES, StartOptions, read_superblocks, start, write_new};
use engine::tally::Tally;
use uuid::Uuid;

use crate::bus::{Bus, Cut, SimRing};
use crate::disk::{Disk, SECTOR, name_of};
use crate::host::{Asked, Habits, Host, Wish};
use crate::monitors::{Monitors, Watched};
use crate::oracle::Oracle;
use crate::rng::Rng;

/// Every request is answered within this time.
const ANSWERED_WITHIN_NS: u64 = 30_000_000_000;
const MIB: usize = 1 << 20;
/// Reactors of a world at most.
pub const REACTORS_MAX: usize = 3;

/// The shape of a run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Level, members, chunk.
    pub shape: Shape,
    /// Stripes.
    pub stripes: u64,
    /// Reactors.
    pub reactors: usize,
    /// Which members have a volatile cache.
    pub volatile: Vec<bool>,
    /// How cells begin.
    pub initial: Cell,
    /// Longest latency as a rule.
    pub latency_ns_max: u64,
}

impl Config {
    /// Random.
    pub fn random(rng: &mut Rng) -> Config {
        let level = rng.pick(&[Level::Raid5, Level::Raid6]);
        let members = rng.between(level.members_min() as u64, 8) as usize;
        let chunk_bytes = rng.pick(&[4096, 4096, 4096, 8192, 16384, 65536]);
        let caches = rng.below(3);
        let volatile = (0..members).map(|_| caches == 2 || caches == 1 && rng.chance(50)).collect();
        // Now and then several bitmap blocks: copies rotate, and the last is partial.
        let many = rng.chance(4) && chunk_bytes == 4096;
        let stripes = if many { rng.between(16_129, 40_000) } else { rng.between(4, 40) };
        let initial = match rng.below(10) {
            0..=5 => Cell::Unwritten,
            6..=7 => Cell::Clean,
            _ if many => Cell::Unwritten,
            _ => Cell::NeedSync,
        };
        Config {
            shape: Shape { level, members, chunk_bytes },
            stripes,
            reactors: rng.between(1, REACTORS_MAX as u64) as usize,
            volatile,
            initial,
            latency_ns_max: rng.pick(&[1_000, 20_000, 20_000, 100_000, 100_000, 300_000_000]),
        }
    }
}

/// What a start came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOutcome {
    /// It runs.
    Running,
    /// The power went.
    PowerCut,
    /// It was refused.
    Refused,
}

struct Reactor {
    array: Array,
    ring: SimRing,
}

/// An order whose answer is awaited.
type Pending = Receiver<Result<(), String>>;

/// Memory is mapped once for all runs of a thread: no run may depend on what an earlier one left in it, and the
/// comparison of traces would show it.
#[must_use]
pub fn fresh_memory() -> Arc<Memory> {
    let mut arenas = vec![4 * MIB; REACTORS_MAX];
    arenas.push(8 * MIB);
    arenas.push(MIB);
    Memory::new(&arenas).expect("memory for a world")
}

/// See the top of this file.
pub struct World {
    /// Chance above the bus.
    pub rng: Rng,
    /// The shape.
    pub config: Config,
    /// Its arithmetic.
    pub geometry: Geometry,
    zones: Zones,
    array_uuid: Uuid,
    /// Below the engine.
    pub bus: Rc<RefCell<Bus>>,
    memory: Arc<Memory>,
    reactors: Vec<Reactor>,
    /// What the reactors share, while they run.
    pub shared: Option<Arc<Shared>>,
    host: Host,
    host_pool: Pool,
    oracle: Oracle,
    asked: Vec<Asked>,
    next_tag: u64,
    /// Stripes of which something may be lost: they were NeedSync when the array was started without a member.
    pub lossy: BTreeSet<u64>,
    /// Errors are no violation for now: more is broken than the level bears. Wrong bytes still are.
    pub beyond_level: bool,
    /// Requests answered.
    pub answered: u64,
    /// Of those, with an error.
    pub errors: u64,
    /// Disks that take part or may return.
    pub present: Vec<usize>,
}

impl World {
    /// An array, created and not started.
    #[must_use]
    pub fn new(seed: u64, config: Config, memory: Arc<Memory>, verbose: bool) -> World {
        let mut rng = Rng::new(seed);
        let shape = config.shape;
        let mut bytes = (2 << 20) + config.stripes * u64::from(shape.chunk_bytes);
        let found = loop {
            let found = zones(bytes, &shape).expect("the shape is valid");
            if found.stripes >= config.stripes {
                break found;
            }
            bytes += u64::from(shape.chunk_bytes);
        };
        let stripes = found.stripes;
        let geometry =
            Geometry::new(shape.members as u8, shape.level.parities() as u8, shape.chunk_bytes, stripes);
        let mut bus = Bus::new(Rng::new(rng.next()), Arc::clone(&memory), config.latency_ns_max, verbose);
        for &volatile in &config.volatile {
            let mut disk = Disk::new(rng.next(), found, volatile);
            disk.blank = config.initial == Cell::Clean;
            disk.wipe_superblocks();
            bus.disks.push(disk);
        }
        let stripe_sectors = u64::from(geometry.stripe_bytes()) / SECTOR as u64;
        let habits = Habits::random(&mut rng, stripes, stripe_sectors);
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
            bus: Rc::new(RefCell::new(bus)),
            memory,
            reactors: Vec::new(),
            shared: None,
            host: Host::new(habits),
            host_pool,
            oracle,
            asked: Vec::new(),
            next_tag: 1,
            lossy: BTreeSet::new(),
            beyond_level: false,
            answered: 0,
            errors: 0,
        };
        world.create(&members);
        world
    }

    fn create(&mut self, members: &[Uuid]) {
        let mut ring = SimRing::new(&self.bus, 99, (0..members.len()).collect());
        let new = NewArray {
            array: self.array_uuid,
            name: Label::new("sim").expect("a name"),
            host: Label::EMPTY,
            created_s: 1_700_000_000,
            shape: self.config.shape,
            logical_block_bytes: SECTOR as u32,
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
            zones: self.zones,
        });
        bus.monitors.power_on();
        drop(bus);
        if self.config.initial == Cell::NeedSync {
            self.remember_media();
        }
    }

    /// What a resync takes for data: whatever the members hold.
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

    /// Sectors of the array.
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

    /// The shared state of a running array.
    #[must_use]
    pub fn running(&self) -> &Arc<Shared> {
        self.shared.as_ref().expect("the array runs")
    }

    /// Starts the array from the disks that are present, as the product does.
    pub fn start(&mut self, cut: Option<Cut>) -> StartOutcome {
        assert!(self.reactors.is_empty());
        let mut devices = self.present.clone();
        self.rng.shuffle(&mut devices);
        let mut ring = SimRing::new(&self.bus, 99, devices.clone());
        {
            let mut bus = self.bus.borrow_mut();
            bus.power_on();
            bus.blocking = true;
            bus.cut = cut;
            bus.note(2, || format!("START with disks {devices:?}, {cut:?}"));
        }
        let scratch = self.memory.arena(REACTORS_MAX as u16 + 1).part(0, SCRATCH_BYTES);
        let memory = Arc::clone(&self.memory);
        let mut bench = Bench { ring: &mut ring, memory: &memory, scratch };
        let mut candidates = Vec::new();
        for (index, &disk) in devices.iter().enumerate() {
            let bytes = self.bus.borrow().disks[disk].bytes();
            let found = read_superblocks(&mut bench, DeviceIndex(index as u8), bytes);
            candidates.push(Candidate { label: disk.to_string(), found });
        }
        if self.bus.borrow().verbose {
            print_candidates(&candidates);
        }
        let options = AssemblyOptions { run_degraded: true, ..AssemblyOptions::default() };
        let assembly = assemble(&candidates, &options);
        let off = self.bus.borrow().off;
        let assembly: Assembly = match assembly {
            _ if off => return self.start_failed(StartOutcome::PowerCut),
            Ok(assembly) => assembly,
            Err(error) => {
                self.bus.borrow_mut().note(3, || format!("refused: {error}"));
                return self.start_failed(StartOutcome::Refused);
            }
        };
        let seed = self.rng.next() | 1;
        let started = start(&mut bench, &assembly, &StartOptions { seed, ..StartOptions::default() });
        let off = self.bus.borrow().off;
        let started = match started {
            _ if off => return self.start_failed(StartOutcome::PowerCut),
            Ok(started) => started,
            Err(error) => {
                self.bus.borrow_mut().note(4, || format!("not started: {error}"));
                return self.start_failed(StartOutcome::Refused);
            }
        };
        let mut bus = self.bus.borrow_mut();
        bus.blocking = false;
        bus.cut = None;
        let mut volatile = Slots::NONE;
        for (slot, device) in started.devices.iter().enumerate() {
            if bus.disks[devices[usize::from(device.0)]].volatile {
                volatile = volatile.or(Slots::one(slot as u8));
            }
        }
        let (unclean, view, rebuilding) = (assembly.unclean, started.view, started.rebuilding);
        bus.note(5, || format!("started: unclean {unclean}, {view:?}, rebuilding {rebuilding:?}"));
        drop(bus);
        let members = started.members(volatile);
        let roster = started.roster;
        let beginning =
            Beginning { roster, seed: self.rng.next(), rebuilding: rebuilding.map(|(slot, _)| slot) };
        let reactors = self.config.reactors;
        let shared = Arc::new(Shared {
            geometry: started.geometry,
            layout: started.layout,
            bitmap: started.bitmap,
            locks: StripeLocks::new(),
            members,
            memory: Arc::clone(&self.memory),
            mailboxes: Mailboxes::new((0..reactors).map(|_| Box::new(|| {}) as _).collect()),
            tallies: (0..reactors).map(|_| Tally::default()).collect(),
            steward: StewardState::new(beginning),
            read_only: false,
            deallocations: std::sync::atomic::AtomicU32::new(0),
        });
        for me in 0..reactors {
            let array = Array::new(me as u8, Arc::clone(&shared), Pool::new(&self.memory, me as u16));
            self.reactors.push(Reactor { array, ring: SimRing::new(&self.bus, me as u32, devices.clone()) });
        }
        self.shared = Some(shared);
        self.lossy.clear();
        if view.readable != self.geometry.slots() {
            self.mark_lossy();
        }
        StartOutcome::Running
    }

    fn start_failed(&mut self, outcome: StartOutcome) -> StartOutcome {
        let mut bus = self.bus.borrow_mut();
        bus.blocking = false;
        bus.cut = None;
        outcome
    }

    /// Whether the power went.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.bus.borrow().off
    }

    /// After a cut: the engine is gone, and what it had not promised with it.
    pub fn after_cut(&mut self) {
        self.forget_engine();
        self.oracle.power_cut();
    }

    fn forget_engine(&mut self) {
        self.reactors.clear();
        self.shared = None;
        for asked in self.asked.drain(..) {
            if asked.span != Span::EMPTY {
                self.host_pool.give(asked.span);
            }
        }
    }

    /// A random wish of the host's becomes a request.
    pub fn submit_random(&mut self) {
        let chunk_sectors = u64::from(self.geometry.chunk_bytes()) / SECTOR as u64;
        let (sectors, stripe_sectors) = (self.sectors(), self.stripe_sectors());
        let wish = self.host.wish(&mut self.rng, sectors, stripe_sectors, chunk_sectors);
        self.submit(wish);
    }

    /// Submits a request at a random reactor; false when there is no room.
    pub fn submit(&mut self, wish: Wish) -> bool {
        let Wish { kind, first, count } = wish;
        let reactor = self.rng.below(self.reactors.len() as u64) as usize;
        if self.reactors[reactor].array.room() == 0 {
            return false;
        }
        let has_data = matches!(kind, RequestKind::Read | RequestKind::Write { .. });
        let len_bytes = count * SECTOR as u64;
        let span = if has_data {
            let Some(span) = self.host_pool.take(len_bytes as u32) else { return false };
            span
        } else {
            Span::EMPTY
        };
        let tag = self.next_tag;
        self.next_tag += 1;
        let start = match kind {
            RequestKind::Read => {
                self.memory.with_mut(span, |bytes| bytes.fill(0xdd));
                self.oracle.read_begins()
            }
            RequestKind::Flush => self.oracle.flush_begins(),
            RequestKind::Write { .. } => {
                let (memory, host, rng) = (&self.memory, &mut self.host, &mut self.rng);
                let names: Vec<u64> = memory.with_mut(span, |bytes| {
                    host.fill(rng, bytes);
                    bytes.chunks_exact(SECTOR).map(name_of).collect()
                });
                if self.bus.borrow().verbose {
                    println!("{:>27}contents #{tag} from {first}: {names:x?}", "");
                }
                self.oracle.write_begins(tag, first, &names)
            }
            RequestKind::Discard | RequestKind::WriteZeroes { .. } => {
                self.oracle.write_begins(tag, first, &vec![0; count as usize])
            }
        };
        let excused = self.is_excused(first, count);
        let mut bus = self.bus.borrow_mut();
        bus.note(tag ^ first << 20 ^ count << 40, || {
            format!("submit   #{tag} at {reactor}: {kind:?} {first}+{count}")
        });
        let (bus_moment, asked_ns) = (bus.moment, bus.now_ns);
        drop(bus);
        self.asked.push(Asked {
            tag,
            reactor,
            kind,
            first,
            count,
            span,
            start,
            bus_moment,
            asked_ns,
            excused,
        });
        let request = Request { tag, kind, offset_bytes: first * SECTOR as u64, len_bytes, span };
        let Reactor { array, ring } = &mut self.reactors[reactor];
        array.submit(ring, request);
        true
    }

    /// Whether an error is none of the engine's fault: a stripe of the range was found unsynced when a member was
    /// missing, or more is broken than the level bears.
    fn is_excused(&self, first: u64, count: u64) -> bool {
        if self.beyond_level {
            return true;
        }
        let stripes = first / self.stripe_sectors()..=(first + count.max(1) - 1) / self.stripe_sectors();
        stripes.into_iter().any(|stripe| self.lossy.contains(&stripe))
    }

    /// What is NeedSync now may be lost with what is about to happen.
    pub fn mark_lossy(&mut self) {
        let shared = Arc::clone(self.running());
        let mut next = shared.bitmap.next_need_sync(0);
        while let Some(stripe) = next {
            self.lossy.insert(stripe);
            next = (stripe + 1 < self.geometry.stripes())
                .then(|| shared.bitmap.next_need_sync(stripe + 1))
                .flatten();
        }
    }

    /// One turn of one reactor, in the product's order. Whether it moved.
    pub fn step(&mut self) -> bool {
        let at = self.rng.below(self.reactors.len() as u64) as usize;
        {
            let mut bus = self.bus.borrow_mut();
            let next = bus.next_due_ns();
            let random = self.rng.below(1500);
            bus.now_ns = match next {
                Some(due) if self.rng.chance(60) => bus.now_ns.max(due),
                _ => bus.now_ns + random,
            };
        }
        let now_ns = self.bus.borrow().now_ns;
        let shared = Arc::clone(self.running());
        let Reactor { array, ring } = &mut self.reactors[at];
        let mut moved = false;
        for _ in 0..self.rng.below(8) {
            if !array.has_room_for_mail() {
                break;
            }
            let Some(message) = shared.mailboxes.take(at as u8) else { break };
            array.receive(message);
            moved = true;
        }
        array.advance(ring, now_ns);
        let mut completions = Vec::new();
        ring.turn(&mut completions);
        moved |= !completions.is_empty();
        for completion in completions {
            array.complete(ring, completion);
        }
        let replies: Vec<Reply> = array.take_replies().collect();
        if self.is_off() {
            return true;
        }
        moved |= !replies.is_empty();
        for reply in replies {
            self.take_reply(reply);
        }
        if std::mem::take(&mut self.bus.borrow_mut().monitors.look_at_members) {
            self.check_members();
        }
        moved
    }

    /// I6 in full, after each superblock: every member that an assembly would now believe holds what was acknowledged,
    /// and the parity of stripes at rest.
    fn check_members(&mut self) {
        let shared = Arc::clone(self.running());
        let mut bus = self.bus.borrow_mut();
        let in_sync = Monitors::in_sync(&mut bus);
        let now = self.oracle.now();
        for sector in self.oracle.touched() {
            let (stripe, _) = self.geometry.locate(sector * SECTOR as u64);
            if matches!(shared.bitmap.cell(stripe), Cell::Unwritten | Cell::First) {
                continue;
            }
            let (slot, offset) = self.home_of(sector);
            let Some(disk) = in_sync.get(slot).copied().flatten() else { continue };
            let place = bus.disks[disk].place_in_data(offset, SECTOR as u64);
            let name = name_of(bus.disks[disk].sector(place.first));
            assert!(
                self.oracle.allows(sector, now, name),
                "I6: the superblocks let an assembly believe slot {slot} (disk {disk}) from now on, and what it holds in \
                 sector {sector} is not what was acknowledged"
            );
        }
        drop(bus);
        self.check_all_parity("a superblock is durable");
    }

    fn take_reply(&mut self, reply: Reply) {
        let at = self.asked.iter().position(|asked| asked.tag == reply.tag);
        let at = at.unwrap_or_else(|| panic!("I8: request #{} is answered twice", reply.tag));
        let asked = self.asked.swap_remove(at);
        let ok = reply.result.is_ok();
        self.answered += 1;
        self.errors += u64::from(!ok);
        self.bus.borrow_mut().note(asked.tag ^ u64::from(ok) << 60, || {
            format!(
                "reply    #{}: {:?} {}+{} -> {:?}",
                asked.tag, asked.kind, asked.first, asked.count, reply.result
            )
        });
        if let Err(error) = reply.result {
            let excused =
                error == RequestError::Lost && (asked.excused || self.is_excused(asked.first, asked.count));
            assert!(excused, "ERROR: {asked:?} is answered {error:?}, and nothing excuses it");
        }
        match asked.kind {
            RequestKind::Read if ok => self.check_read(&asked),
            RequestKind::Read => {}
            RequestKind::Flush if ok => {
                Monitors::check_flushed(&mut self.bus.borrow_mut(), asked.bus_moment);
                self.oracle.flush_ends(asked.start);
            }
            RequestKind::Flush => {}
            RequestKind::Write { fua } | RequestKind::WriteZeroes { fua } => {
                self.oracle.write_ends(asked.tag, asked.first, asked.count, ok, fua);
                if ok {
                    self.check_written(&asked, fua);
                }
            }
            RequestKind::Discard => self.oracle.write_ends(asked.tag, asked.first, asked.count, ok, false),
        }
        if asked.span != Span::EMPTY {
            self.host_pool.give(asked.span);
        }
    }

    fn check_read(&mut self, asked: &Asked) {
        let (memory, oracle) = (&self.memory, &mut self.oracle);
        memory.with(asked.span, |bytes| {
            for (sector, bytes) in (asked.first..).zip(bytes.chunks_exact(SECTOR)) {
                let name = name_of(bytes);
                assert!(
                    oracle.read_ends(sector, asked.start, name),
                    "READ: sector {sector} (request #{}) reads as {name:x}, begins {:02x?}; may be {:x?}",
                    asked.tag,
                    &bytes[..8],
                    oracle.allowed(sector, asked.start)
                );
            }
        });
    }

    /// I6, C2: every member that an assembly would believe has what was acknowledged; with FUA, durably. And where
    /// the stripe is at rest its parity matches (I3).
    fn check_written(&mut self, asked: &Asked, fua: bool) {
        let shared = Arc::clone(self.running());
        let mut bus = self.bus.borrow_mut();
        let in_sync = Monitors::in_sync(&mut bus);
        for sector in asked.first..asked.first + asked.count {
            let (stripe, _) = self.geometry.locate(sector * SECTOR as u64);
            if matches!(shared.bitmap.cell(stripe), Cell::Unwritten | Cell::First) {
                continue;
            }
            let (slot, offset) = self.home_of(sector);
            let Some(disk) = in_sync.get(slot).copied().flatten() else { continue };
            let place = bus.disks[disk].place_in_data(offset, SECTOR as u64);
            if bus.disks[disk].bad.contains(&place.first) {
                continue;
            }
            let name = name_of(bus.disks[disk].sector(place.first));
            assert!(
                self.oracle.allows(sector, asked.start, name),
                "I6: request #{} is acknowledged, and slot {slot} (disk {disk}), which the superblocks let an assembly \
                 believe, holds something else in sector {sector}",
                asked.tag
            );
            if fua {
                let name = name_of(&bus.disks[disk].durable_sector(place.first));
                assert!(
                    self.oracle.allows(sector, asked.start, name),
                    "C2: request #{} with FUA is acknowledged, and sector {sector} on disk {disk} is not durable",
                    asked.tag
                );
            }
        }
        let stripes =
            asked.first / self.stripe_sectors()..=(asked.first + asked.count - 1) / self.stripe_sectors();
        for stripe in stripes {
            let trusted =
                !matches!(shared.bitmap.cell(stripe), Cell::Unwritten | Cell::First | Cell::NeedSync);
            if trusted && shared.locks.is_free(stripe) {
                let chunk = u64::from(self.geometry.chunk_bytes());
                Monitors::check_parity(&mut bus, stripe, 0, chunk, "acknowledged");
            }
        }
    }

    /// Requests in flight.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.asked.len()
    }

    /// `count` random requests, as many at a time as the host's depth allows.
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

    /// Steps; when nothing moves for long, time flies, and in the end it is a hang.
    fn step_watched(&mut self, idle: &mut u64) {
        *idle = if self.step() { 0 } else { *idle + 1 };
        if *idle > 200 {
            self.bus.borrow_mut().now_ns += 5_000_000;
        }
        if *idle > 200 || self.rng.below(256) == 0 {
            let now = self.bus.borrow().now_ns;
            // Slow devices are excused, and a turn here can be a long one.
            let within = ANSWERED_WITHIN_NS + 500 * self.config.latency_ns_max;
            if let Some(asked) = self.asked.iter().find(|asked| asked.asked_ns + within < now) {
                panic!("I8: {asked:?} is not answered within 30 s");
            }
        }
    }

    /// Until every request is answered.
    pub fn drain(&mut self) {
        let mut idle = 0;
        while self.outstanding() > 0 && !self.is_off() {
            self.step_watched(&mut idle);
        }
    }

    /// Lets time pass, without requests.
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

    /// Lets time pass until no resync and no rebuild is under way; false when that does not come.
    pub fn settle(&mut self) -> bool {
        for _ in 0..200 {
            if self.is_off() || !self.is_busy() {
                return true;
            }
            self.rest(100_000_000 + 20 * self.config.latency_ns_max);
        }
        false
    }

    /// Whether background work goes on.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        let shared = self.running();
        let steward = &shared.steward;
        // A rebuild that has passed every stripe but those that nobody can vouch for waits for a host.
        let waits_for_lost =
            shared.members.cursor() == shared.geometry.stripes() && shared.bitmap.count().need_sync > 0;
        let rebuilding = steward.rebuild_slot.load(Relaxed) > 0 && !waits_for_lost;
        steward.resync_total.load(Relaxed) > 0 || rebuilding
    }

    /// Reads everything that was ever written, and some that was not, and checks all parity.
    pub fn verify(&mut self) {
        self.drain();
        if self.is_off() {
            return;
        }
        self.check_all_parity("all is quiet");
        let touched: Vec<u64> = self.oracle.touched().collect();
        let mut at = 0;
        let mut idle = 0;
        while at < touched.len() && !self.is_off() {
            let first = touched[at];
            let max = self.rng.pick(&[1, 8, 64, 256]).min(self.sectors() - first);
            let mut count = 1;
            while at + (count as usize) < touched.len()
                && count < max
                && touched[at + count as usize] == first + count
            {
                count += 1;
            }
            if self.outstanding() < 32 && self.submit(Wish { kind: RequestKind::Read, first, count }) {
                at += count as usize;
            } else {
                self.step_watched(&mut idle);
            }
        }
        for _ in 0..3 {
            let first = self.rng.below(self.sectors());
            let count = self.rng.between(1, 64).min(self.sectors() - first);
            if !self.is_off() {
                self.submit(Wish { kind: RequestKind::Read, first, count });
            }
        }
        self.drain();
    }

    /// I3 everywhere: no host request may be in flight.
    pub fn check_all_parity(&mut self, why: &str) {
        let shared = Arc::clone(self.running());
        let mut bus = self.bus.borrow_mut();
        let chunk = u64::from(self.geometry.chunk_bytes());
        let mut stripe = 0;
        while let Some(written) = shared.bitmap.next_written(stripe) {
            let trusted =
                !matches!(shared.bitmap.cell(written), Cell::Unwritten | Cell::First | Cell::NeedSync);
            if trusted && shared.locks.is_free(written) {
                Monitors::check_parity(&mut bus, written, 0, chunk, why);
            }
            stripe = written + 1;
            if stripe >= self.geometry.stripes() {
                break;
            }
        }
    }

    /// Gives an order to the steward.
    fn order(&mut self, order: impl FnOnce(Answer) -> Order) -> Pending {
        let (sender, receiver) = bounded(1);
        assert!(self.running().steward.orders.push(order(Answer::to(sender))).is_ok(), "room for an order");
        receiver
    }

    fn await_answer(&mut self, pending: &Pending, what: &str) -> Option<Result<(), String>> {
        let begun = self.bus.borrow().now_ns;
        let mut idle = 0;
        loop {
            if self.is_off() {
                return None;
            }
            if let Ok(answer) = pending.try_recv() {
                return Some(answer);
            }
            self.step_watched(&mut idle);
            assert!(self.bus.borrow().now_ns < begun + 4 * ANSWERED_WITHIN_NS, "I8: no answer to {what}");
        }
    }

    /// The operator fails a slot.
    pub fn order_fail(&mut self, slot: u8) -> Option<Result<(), String>> {
        self.bus.borrow_mut().note(6, || format!("ORDER fail slot {slot}"));
        let pending = self.order(|answer| Order::Fail { slot, answer });
        self.await_answer(&pending, "Fail")
    }

    /// A disk, new or an old one that was wiped, joins in a slot.
    pub fn order_join(&mut self, slot: u8, reuse: Option<usize>) -> Option<Result<(), String>> {
        let volatile = self.config.volatile.contains(&true) && self.rng.chance(50);
        let mut bus = self.bus.borrow_mut();
        let disk = match reuse {
            Some(disk) => disk,
            None => {
                let disk = Disk::new(self.rng.next(), self.zones, volatile);
                bus.disks.push(disk);
                bus.disks.len() - 1
            }
        };
        bus.disks[disk].wipe_superblocks();
        bus.disks[disk].heal();
        bus.disks[disk].dead = false;
        bus.monitors.superblocks_changed = true;
        let volatile = bus.disks[disk].volatile;
        bus.note(7, || format!("ORDER join disk {disk} in slot {slot}"));
        drop(bus);
        self.present.retain(|&other| other != disk);
        self.present.push(disk);
        let device = self.reactors[0].ring.devices.len();
        self.reactors.iter_mut().for_each(|reactor| reactor.ring.devices.push(disk));
        let member = random_uuid(&mut self.rng);
        let device = DeviceIndex(device as u8);
        let pending = self.order(|answer| Order::Join { slot, device, member, volatile, answer });
        self.await_answer(&pending, "Join")
    }

    /// Stops in order. The front end is drained.
    pub fn order_stop(&mut self) -> Option<Result<(), String>> {
        self.drain();
        let (mut idle, begun) = (0, self.bus.borrow().now_ns);
        while !self.is_off() && !self.reactors.iter().skip(1).all(|reactor| reactor.array.quiet()) {
            self.step_watched(&mut idle);
            let now = self.bus.borrow().now_ns;
            assert!(
                now < begun + 4 * ANSWERED_WITHIN_NS,
                "I8: a reactor is not quiet though every request is answered"
            );
        }
        if self.is_off() {
            return None;
        }
        self.bus.borrow_mut().note(8, || "ORDER stop".into());
        let pending = self.order(|answer| Order::Stop { answer });
        let answer = self.await_answer(&pending, "Stop")?;
        if answer.is_ok() {
            self.forget_engine();
            self.oracle.clean_stop();
            // Nothing is lost with the power, from now on.
            let mut bus = self.bus.borrow_mut();
            let moment = bus.moment;
            Monitors::check_flushed(&mut bus, moment);
        }
        Some(answer)
    }

    /// The disk of each slot that is readable now.
    #[must_use]
    pub fn disk_of(&self, slot: u8) -> usize {
        let device = self.running().members.device(slot);
        self.reactors[0].ring.disk(device).expect("a slot has a device")
    }

    /// How many more members may be lost.
    #[must_use]
    pub fn spare(&self) -> u64 {
        let readable = self.running().members.view().readable;
        let bus = self.bus.borrow();
        let good = readable.iter().filter(|&slot| {
            let disk = &bus.disks[self.disk_of(slot)];
            !disk.dead && disk.failing_writes + disk.failing_flushes + disk.transient_reads == 0
        });
        (good.count() as u64).saturating_sub(u64::from(self.geometry.data()))
    }

    /// A random slot that is readable.
    pub fn random_slot(&mut self) -> u8 {
        let slots: Vec<u8> = self.running().members.view().readable.iter().collect();
        self.rng.pick(&slots)
    }

    /// Slots without a device that takes writes.
    #[must_use]
    pub fn empty_slots(&self) -> Vec<u8> {
        self.geometry.slots().minus(self.running().members.view().writable).iter().collect()
    }

    /// A random sector of data or parity on a disk becomes unreadable.
    pub fn damage(&mut self, disk: usize, stripe: u64, sectors: u64) {
        let chunk = u64::from(self.geometry.chunk_bytes());
        let mut bus = self.bus.borrow_mut();
        let place = bus.disks[disk].place_in_data(self.geometry.strip_offset(stripe), chunk);
        for _ in 0..sectors {
            let sector = place.first + self.rng.below(place.count);
            bus.disks[disk].bad.insert(sector);
        }
        bus.note(9, || format!("DAMAGE disk {disk} stripe {stripe}"));
    }

    /// Power is cut at this moment.
    pub fn cut_now(&mut self) {
        self.bus.borrow_mut().lose_power();
    }
}

fn random_uuid(rng: &mut Rng) -> Uuid {
    Uuid::from_u64_pair(rng.next() | 1, rng.next())
}

fn print_candidates(candidates: &[Candidate]) {
    for candidate in candidates {
        match &candidate.found {
            Ok(found) => {
                let record = &found.superblock.record;
                let slots: Vec<String> = record.slots[..record.shape.members]
                    .iter()
                    .map(|slot| {
                        format!("{:?}@{}:{:04x}", slot.state, slot.held.number, slot.held.id & 0xffff)
                    })
                    .collect();
                println!(
                    "    disk {} slot {} sequence {} epoch {}:{:04x} parent {:04x} {:?} found {:?} both valid {} {slots:?}",
                    candidate.label,
                    found.superblock.slot,
                    found.superblock.sequence,
                    record.epoch.name.number,
                    record.epoch.name.id & 0xffff,
                    record.epoch.parent_id & 0xffff,
                    record.state,
                    record.found,
                    found.both_valid
                );
            }
            Err(error) => println!("    disk {}: {error}", candidate.label),
        }
    }
}
