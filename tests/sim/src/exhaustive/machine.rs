//! A run of a scope: the product's array over the bus, driven choice by choice.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bitmap::{Cell, StripeLocks};
use engine::array::{Array, Beginning, Shared, Sizes, StewardState};
use engine::assembly::{AssemblyOptions, Candidate, WriteOutcome, assemble};
use engine::geometry::Slots;
use engine::mailbox::Mailboxes;
use engine::memory::{KEPT_BACK_OF_REQUESTS, Memory, Pool, Span};
use engine::request::{Reply, Request, RequestError, RequestKind};
use engine::ring::{Completion, DeviceIndex, Durability, MemberIo, MemberOp, Ring};
use engine::start::{Bench, SCRATCH_BYTES, StartOptions, read_superblocks, start, write_superblocks};
use engine::tally::Tally;

use super::scope::{Ask, Lie, STRIPES, Scope, Template, Turns};
use crate::bus::Bus;
use crate::disk::{Disk, SECTORS_PER_PAGE, name_of};
use crate::latency::Latency;
use crate::monitors::Monitors;
use crate::oracle::Oracle;
use crate::ring::SimRing;
use crate::rng::Rng;

/// Logical block size of every scope. A power cut leaves a logical block whole.
pub const BLOCK_BYTES: u32 = 4096;
/// Most reactors.
const REACTORS_MAX: usize = 2;
/// The arena for the host's buffers.
pub(super) const HOST_ARENA: u16 = REACTORS_MAX as u16;
/// The arena for the control steps.
pub const SCRATCH_ARENA: u16 = HOST_ARENA + 1;
const MIB: usize = 1 << 20;
/// Room for a handful of requests. Kept small, because each path gets an array of its own.
const SIZES: Sizes = Sizes { requests: 8, parts: 32, ops: 8, host_reads: 16, block_writes: 2 };
/// Time at the first choice.
const BEGUN_NS: u64 = 1 << 40;
/// Time that passes in a tick: enough that a pass of the sweep is due.
const TICK_NS: u64 = 1_000_000_001;
/// Turns after which a reactor is at rest after any event, if nothing else happens.
const TURNS_TO_REST: usize = 4;

/// Memory for a run, and for the recoveries that are tried during it.
pub struct Memories {
    /// Memory of the run.
    pub main: Arc<Memory>,
    /// Memory of the recoveries.
    pub recovery: Arc<Memory>,
}

impl Memories {
    /// Maps both memories; done once per thread.
    #[must_use]
    pub fn new() -> Memories {
        let memory = || {
            Memory::new(&[4 * MIB, 4 * MIB, 4 * MIB, SCRATCH_BYTES as usize]).expect("memory for two arrays")
        };
        Memories { main: memory(), recovery: memory() }
    }
}

impl Default for Memories {
    fn default() -> Memories {
        Memories::new()
    }
}

/// An event that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The host submits its next request.
    Submit,
    /// An operation in flight completes, and its reactor turns.
    Complete {
        /// Ring of the operation.
        ring: u32,
        /// Tag of the operation in its ring.
        tag: u32,
    },
    /// An operation in flight completes, without a turn of its reactor.
    Arrive {
        /// Ring of the operation.
        ring: u32,
        /// Tag of the operation in its ring.
        tag: u32,
    },
    /// A reactor takes one message, and turns.
    Mail(u8),
    /// A reactor turns.
    Turn(u8),
    /// A second passes, and reactor 0 turns.
    Tick,
    /// A disk dies.
    Die(usize),
}

/// A request that is not answered yet.
pub(super) struct Asked {
    pub(super) ask: Ask,
    pub(super) start: u64,
    pub(super) bus_moment: u64,
    pub(super) span: Span,
}

/// A ring that may carry out metadata writes otherwise than asked; see [`Lie`].
pub struct MachineRing {
    ring: SimRing,
    lie: Option<Lie>,
    watched: crate::monitors::Watched,
}

impl Ring for MachineRing {
    fn push(&mut self, op: MemberOp) {
        let zone = |zone: engine::format::zones::Zone| {
            (zone.offset_bytes..zone.offset_bytes + zone.len_bytes).contains(&op.offset_bytes)
        };
        let bitmap = zone(self.watched.zones.bitmap);
        let superblock = op.offset_bytes < self.watched.zones.bitmap.offset_bytes;
        let durable = op.io == MemberIo::Write(Durability::Durable);
        let cached = MemberOp { io: MemberIo::Write(Durability::Cached), ..op };
        match self.lie {
            Some(Lie::BitmapCached) if durable && bitmap => self.ring.push(cached),
            Some(Lie::SuperblocksCached) if durable && superblock => self.ring.push(cached),
            _ => self.ring.push(op),
        }
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        self.ring.turn(completions);
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

pub(super) struct Reactor {
    pub(super) array: Array,
    ring: MachineRing,
    /// Whether completions have arrived since the last turn.
    pub(super) arrived: bool,
}

/// A running array over a bus.
pub struct Machine<'a> {
    pub(super) template: &'a Template,
    pub(super) scope: &'a Scope,
    /// Everything below the engine.
    pub bus: Rc<RefCell<Bus>>,
    pub(super) memory: Arc<Memory>,
    /// Pool of the host's buffers.
    host_pool: Pool,
    pub(super) reactors: Vec<Reactor>,
    /// What reactors share.
    pub shared: Arc<Shared>,
    /// The contents that reads may return.
    pub oracle: Oracle,
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) submitted: usize,
    pub(super) ticks: u8,
    pub(super) dead: bool,
    /// Stripes that were `NeedSync` when a member was or became missing: errors are excused there.
    pub lossy: BTreeSet<u64>,
    /// Content that reads have returned for blocks of stripes that are still owned.
    pub(super) seen: BTreeMap<(usize, u64), u64>,
}

/// Starts the array from `devices`, as the product does. Returns `None` if the start is refused.
fn boot<'a>(
    template: &'a Template,
    bus: Bus,
    devices: &[usize],
    oracle: Oracle,
    lie: Option<Lie>,
) -> Option<Machine<'a>> {
    let scope = &template.scope;
    let memory = Arc::clone(&bus.memory);
    let bus = Rc::new(RefCell::new(bus));
    let mut ring = SimRing::new(&bus, 99, devices.to_vec());
    bus.borrow_mut().blocking = true;
    let scratch = memory.arena(SCRATCH_ARENA).part(0, SCRATCH_BYTES);
    let mut bench = Bench { ring: &mut ring, memory: &memory, scratch };
    let mut candidates = Vec::new();
    for (index, &disk) in devices.iter().enumerate() {
        let bytes = bus.borrow().disks[disk].bytes();
        let found = read_superblocks(&mut bench, DeviceIndex(index as u8), bytes);
        candidates.push(Candidate { label: disk.to_string(), found });
    }
    let options = AssemblyOptions { run_degraded: true, ..AssemblyOptions::default() };
    let assembly = assemble(&candidates, &options).ok()?;
    let mut started =
        start(&mut bench, &assembly, &StartOptions { seed: 77, ..StartOptions::default() }).ok()?;
    // The array wakes here; otherwise each exploration would begin with its superblock writes.
    if let Some(roster) = &mut started.roster {
        for second_copies in [false, true] {
            let writes = if second_copies { roster.reinforce() } else { roster.wake() }.ok()?;
            for (write, result) in writes.iter().zip(write_superblocks(&mut bench, &writes)) {
                result.ok()?;
                roster.settle(write.slot, WriteOutcome::Landed);
            }
        }
    }
    {
        let mut bus = bus.borrow_mut();
        bus.blocking = false;
        bus.by_choice = true;
        bus.now_ns = BEGUN_NS;
        bus.monitors.superblocks_changed = true;
        bus.monitors.watched = scope.monitors.then_some(template.watched);
    }
    let volatile = if scope.volatile { template.geometry.slots() } else { Slots::NONE };
    let members = started.members(volatile);
    let beginning =
        Beginning { roster: started.roster, seed: 78, rebuilding: started.rebuilding.map(|(slot, _)| slot) };
    let shared = Arc::new(Shared {
        geometry: started.geometry,
        layout: started.layout,
        bitmap: started.bitmap,
        lost: started.lost,
        locks: StripeLocks::new(),
        members,
        memory: Arc::clone(&memory),
        mailboxes: Mailboxes::with_room(
            (0..scope.reactors).map(|_| Box::new(|| {}) as _).collect(),
            SIZES.requests,
            &SIZES,
        ),
        tallies: (0..scope.reactors).map(|_| Tally::default()).collect(),
        steward: StewardState::new(beginning).awake(),
        read_only: false,
        deallocations: AtomicU32::new(0),
    });
    let reactors = (0..scope.reactors).map(|me| Reactor {
        array: Array::with_sizes(me as u8, Arc::clone(&shared), Pool::new(&memory, me as u16), SIZES),
        ring: MachineRing {
            ring: SimRing::new(&bus, me as u32, devices.to_vec()),
            lie,
            watched: template.watched,
        },
        arrived: false,
    });
    let mut host_pool = Pool::new(&memory, HOST_ARENA);
    host_pool.keep_back(KEPT_BACK_OF_REQUESTS);
    let mut machine = Machine {
        template,
        scope,
        reactors: reactors.collect(),
        bus,
        memory,
        oracle,
        host_pool,
        asked: BTreeMap::new(),
        submitted: 0,
        ticks: 0,
        dead: false,
        lossy: BTreeSet::new(),
        seen: BTreeMap::new(),
        shared,
    };
    if machine.shared.members.view().readable != template.geometry.slots() {
        machine.mark_lossy();
    }
    for me in 0..machine.reactors.len() {
        machine.rest(me);
    }
    Some(machine)
}

impl<'a> Machine<'a> {
    /// The scope's array before the first choice, started on all its members.
    #[must_use]
    pub fn new(template: &'a Template, memories: &Memories, verbose: bool) -> Machine<'a> {
        let mut bus =
            Bus::new(template.rng.clone(), Arc::clone(&memories.main), Latency::even(1000), verbose);
        bus.disks.clone_from(&template.disks);
        let scope = &template.scope;
        let devices: Vec<usize> = (0..scope.shape.members).collect();
        let oracle = Oracle::new(scope.volatile);
        let mut machine =
            boot(template, bus, &devices, oracle, scope.lie).expect("a whole array can be started");
        if scope.initial == Cell::NeedSync {
            machine.remember_media();
        }
        machine
    }

    /// Starts the array from what a cut left on these members. Returns `None` if the start is refused.
    #[must_use]
    pub fn recovered(
        template: &'a Template,
        memories: &Memories,
        disks: Vec<Disk>,
        devices: &[usize],
        oracle: Oracle,
        verbose: bool,
    ) -> Option<Machine<'a>> {
        let mut bus =
            Bus::new(template.rng.clone(), Arc::clone(&memories.recovery), Latency::even(1000), verbose);
        bus.disks = disks;
        boot(template, bus, devices, oracle, None)
    }

    /// Takes the members' present content as the initial data, since a resync makes parity match it.
    fn remember_media(&mut self) {
        let mut bus = self.bus.borrow_mut();
        for block in 0..self.blocks() {
            let (disk, page) = self.home_of(&bus, block);
            let name = name_of(bus.disks[disk].page_now(page));
            self.oracle.initial(block, name);
        }
    }

    /// Number of logical blocks of the array.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.template.geometry.size_bytes() / u64::from(BLOCK_BYTES)
    }

    pub(super) fn stripe_of(&self, block: u64) -> u64 {
        self.template.geometry.locate(block * u64::from(BLOCK_BYTES)).0
    }

    /// The slot of a block, and its page on the disk. Disk `i` is always in slot `i`.
    pub(super) fn home_of(&self, bus: &Bus, block: u64) -> (usize, u64) {
        let geometry = &self.template.geometry;
        let (stripe, within) = geometry.locate(block * u64::from(BLOCK_BYTES));
        let (strip, row) = geometry.strip_of(within);
        let slot = usize::from(geometry.rotation(stripe).slot_of(strip));
        let offset = geometry.strip_offset(stripe) + u64::from(row);
        (slot, bus.disks[slot].place_in_data(offset, u64::from(BLOCK_BYTES)).first / SECTORS_PER_PAGE)
    }

    /// The slot of a block, and so the disk that holds it.
    #[must_use]
    pub fn slot_of(&self, block: u64) -> usize {
        self.home_of(&self.bus.borrow(), block).0
    }

    fn mark_lossy(&mut self) {
        self.lossy.extend((0..STRIPES).filter(|&stripe| self.shared.bitmap.cell(stripe) == Cell::NeedSync));
    }

    /// All events that may happen next, in an order that depends only on the history of the state.
    #[must_use]
    pub fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        let bus = self.bus.borrow();
        let mut in_flight: Vec<(u32, u32)> = bus.in_flight().iter().map(|op| (op.ring, op.op.tag)).collect();
        in_flight.sort_unstable();
        choices.extend(in_flight.iter().map(|&(ring, tag)| Choice::Complete { ring, tag }));
        for me in 0..self.reactors.len() as u8 {
            if self.shared.mailboxes.has_mail(me) {
                choices.push(Choice::Mail(me));
            }
        }
        if self.submitted < self.scope.asks.len() {
            choices.push(Choice::Submit);
        }
        for (me, reactor) in self.reactors.iter().enumerate() {
            let others = self.reactors.len() > 1 || in_flight.is_empty();
            let may_turn = match self.scope.turns {
                Turns::Eager => others && reactor.array.must_turn(),
                Turns::Single | Turns::Batched => reactor.array.must_turn(),
            };
            if reactor.arrived || may_turn {
                choices.push(Choice::Turn(me as u8));
            }
        }
        if self.scope.turns == Turns::Batched {
            choices.extend(in_flight.iter().map(|&(ring, tag)| Choice::Arrive { ring, tag }));
        }
        if self.ticks < self.scope.ticks {
            choices.push(Choice::Tick);
        }
        if self.scope.death && !self.dead {
            choices.extend((0..self.scope.shape.members).map(Choice::Die));
        }
        choices
    }

    /// Whether the host has made all requests and all were answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.submitted == self.scope.asks.len() && self.asked.is_empty()
    }

    /// Carries out one event.
    pub fn take(&mut self, choice: Choice) {
        match choice {
            Choice::Submit => {
                let me = self.submitted % self.reactors.len();
                let ask = self.scope.asks[self.submitted];
                self.submitted += 1;
                self.submit(me, ask, self.submitted as u64);
                self.turns(me);
            }
            Choice::Complete { ring, tag } => {
                self.arrive(ring, tag);
                self.turns(ring as usize);
            }
            Choice::Arrive { ring, tag } => {
                self.arrive(ring, tag);
                self.reactors[ring as usize].arrived = true;
            }
            Choice::Mail(me) => {
                self.reactors[usize::from(me)].array.take_mail(1);
                self.turns(me.into());
            }
            Choice::Turn(me) => self.turns(me.into()),
            Choice::Tick => {
                self.ticks += 1;
                self.bus.borrow_mut().now_ns += TICK_NS;
                self.turns(0);
            }
            Choice::Die(disk) => {
                self.dead = true;
                self.mark_lossy();
                self.bus.borrow_mut().disks[disk].dead = true;
            }
        }
        if std::mem::take(&mut self.bus.borrow_mut().monitors.look_at_members) && self.scope.monitors {
            self.check_members();
        }
    }

    fn turns(&mut self, me: usize) {
        match self.scope.turns {
            Turns::Eager => self.rest(me),
            Turns::Single | Turns::Batched => self.turn(me),
        }
    }

    fn rest(&mut self, me: usize) {
        (0..TURNS_TO_REST).for_each(|_| self.turn(me));
    }

    fn turn(&mut self, me: usize) {
        let now_ns = self.bus.borrow().now_ns;
        let Reactor { array, ring, arrived } = &mut self.reactors[me];
        *arrived = false;
        array.advance(ring, now_ns);
        array.check_invariants();
        array.exchange_spans(ring, &mut self.host_pool, |bytes| bytes);
        array.take_replies().collect::<Vec<_>>().into_iter().for_each(|reply| self.answered(reply));
    }

    /// Completes an operation and hands the completion to its reactor.
    fn arrive(&mut self, ring: u32, tag: u32) {
        let mut completions = Vec::new();
        let reactor = &mut self.reactors[ring as usize];
        {
            let mut bus = self.bus.borrow_mut();
            let nth = bus.in_flight().iter().position(|op| (op.ring, op.op.tag) == (ring, tag));
            let nth = nth.expect("a choice names what is in flight");
            let op = &bus.in_flight()[nth];
            let read = (op.op.io == MemberIo::Read)
                .then_some((op.disk, op.place))
                .filter(|(disk, _)| !bus.disks[*disk].dead);
            bus.release(nth);
            if let Some((disk, Some(place))) = read {
                for page in place.first / SECTORS_PER_PAGE..(place.first + place.count) / SECTORS_PER_PAGE {
                    let name = name_of(bus.disks[disk].page_now(page));
                    self.seen.insert((disk, page), name);
                }
            }
        }
        reactor.ring.turn(&mut completions);
        for completion in completions {
            reactor.array.complete(&mut reactor.ring, completion);
        }
    }

    /// Submits a request.
    pub fn submit(&mut self, me: usize, ask: Ask, tag: u64) {
        let Ask { kind, first, count } = ask;
        let len_bytes = count * u64::from(BLOCK_BYTES);
        let mut span = Span::EMPTY;
        if matches!(kind, RequestKind::Read | RequestKind::Write { .. }) {
            span = self.host_pool.take(len_bytes as u32).expect("a scope has few requests");
        }
        let start = match kind {
            RequestKind::Read => {
                self.memory.with_mut(span, |bytes| bytes.fill(0xdd));
                self.oracle.read_begins()
            }
            RequestKind::Flush => self.oracle.flush_begins(),
            RequestKind::Write { .. } => {
                let names: Vec<u64> = self.memory.with_mut(span, |bytes| {
                    let blocks = bytes.chunks_exact_mut(BLOCK_BYTES as usize).enumerate();
                    let fill = |(nth, block): (usize, &mut [u8])| {
                        let mut rng = Rng::new(tag << 8 | nth as u64);
                        block
                            .chunks_exact_mut(8)
                            .for_each(|word| word.copy_from_slice(&rng.next().to_le_bytes()));
                        name_of(block)
                    };
                    blocks.map(fill).collect()
                });
                self.oracle.write_begins(tag, first, &names)
            }
            RequestKind::Discard | RequestKind::WriteZeroes { .. } => {
                self.oracle.write_begins(tag, first, &vec![0; count as usize])
            }
        };
        let bus_moment = {
            let mut bus = self.bus.borrow_mut();
            bus.note(tag, || format!("submit   #{tag} at {me}: {ask:?}"));
            bus.moment
        };
        self.asked.insert(tag, Asked { ask, start, bus_moment, span });
        let request = Request { tag, kind, offset_bytes: first * u64::from(BLOCK_BYTES), len_bytes, span };
        let Reactor { array, ring, .. } = &mut self.reactors[me];
        let now_ns = self.bus.borrow().now_ns;
        array.submit(ring, now_ns, request);
    }

    fn answered(&mut self, reply: Reply) {
        let asked = self.asked.remove(&reply.tag);
        let mut asked = asked.unwrap_or_else(|| panic!("I8: request #{} is answered twice", reply.tag));
        // The engine may have given the request another span.
        asked.span = reply.span;
        let Ask { kind, first, count } = asked.ask;
        let ok = reply.result.is_ok();
        self.bus
            .borrow_mut()
            .note(reply.tag, || format!("reply    #{}: {:?} -> {:?}", reply.tag, asked.ask, reply.result));
        if let Err(error) = reply.result {
            let stripes = (first..first + count).map(|block| self.stripe_of(block));
            let excused =
                error == RequestError::Lost && stripes.into_iter().any(|stripe| self.lossy.contains(&stripe));
            assert!(excused, "ERROR: {:?} is answered {error:?}, and nothing excuses it", asked.ask);
        }
        match kind {
            RequestKind::Read if ok => self.check_read(&asked),
            RequestKind::Read => {}
            RequestKind::Flush if ok => {
                if self.scope.monitors {
                    Monitors::check_flushed(&mut self.bus.borrow_mut(), asked.bus_moment);
                }
                self.oracle.flush_ends(asked.start);
            }
            RequestKind::Flush => {}
            RequestKind::Write { fua } | RequestKind::WriteZeroes { fua } => {
                self.oracle.write_ends(reply.tag, first, count, ok, fua);
                if ok && self.scope.monitors {
                    self.check_written(&asked, fua);
                }
            }
            RequestKind::Discard => self.oracle.write_ends(reply.tag, first, count, ok, false),
        }
        if asked.span != Span::EMPTY {
            self.host_pool.give(asked.span);
        }
    }

    /// Lets everything in flight complete, in order, until nothing moves any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            (0..self.reactors.len()).for_each(|me| self.rest(me));
            let next = self.bus.borrow().in_flight().first().map(|op| (op.ring, op.op.tag));
            if let Some((ring, tag)) = next {
                self.arrive(ring, tag);
                continue;
            }
            let mail = (0..self.reactors.len() as u8).find(|&me| self.shared.mailboxes.has_mail(me));
            if let Some(me) = mail {
                self.take(Choice::Mail(me));
                continue;
            }
            if self.asked.is_empty() && !self.reactors.iter().any(|reactor| reactor.array.must_turn()) {
                return;
            }
            self.bus.borrow_mut().now_ns += 1_000_000;
        }
        panic!("I8: nothing moves any more, and {:?} wait", self.asked.keys().collect::<Vec<_>>());
    }

    /// Reads every block, and returns the blocks that could not be read.
    pub fn read_all(&mut self) -> Vec<u64> {
        let mut lost = Vec::new();
        for block in 0..self.blocks() {
            let before = self.oracle.now();
            let lossy = std::mem::take(&mut self.lossy);
            // Excuse all errors here: the caller decides which of them are allowed.
            self.lossy = (0..STRIPES).collect();
            self.submit(0, super::scope::read(block, 1), 20);
            self.settle();
            self.lossy = lossy;
            // A read that was answered with data has advanced the oracle's clock twice.
            if self.oracle.now() < before + 2 {
                lost.push(block);
            }
        }
        lost
    }
}
