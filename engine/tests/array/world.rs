//! An array over [`Disk`]s, stepped a turn at a time, and a model of what the host knows of its content.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bitmap::Cell;
use crossbeam::channel::{Receiver, bounded};
use engine::array::{Answer, Array, Noting, Order, Shared};
use engine::format::zones::{TAIL_UNUSED_BYTES, Zones, zones};
use engine::format::{Level, Shape};
use engine::geometry::{Geometry, Slots};
use engine::memory::{Memory, Pool, Span};
use engine::request::{Reply, Request, RequestKind};
use engine::ring::DeviceIndex;
use engine::start::SCRATCH_BYTES;
use uuid::Uuid;

use crate::beginnings::Beginnings;
use crate::disks::{Disk, Disks, SECTOR, SlowRing};
use crate::rng::Rng;

mod host;
pub mod restart;

const MIB: usize = 1 << 20;
/// The tag of reads into pages of the host.
const HOST_PAGES: u64 = u64::MAX;
/// Turns after which a test that still waits has failed.
const TURNS_MAX: u32 = 200_000;

/// The initial cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    All(Cell),
    Mixed,
}

/// The shape of one run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub seed: u64,
    pub level: Level,
    pub members: usize,
    pub chunk_bytes: u32,
    pub stripes: u64,
    pub initial: Initial,
    pub reactors: usize,
}

/// Receives the answer to an order.
pub type Answered = Receiver<Result<(), String>>;

/// A request in flight.
struct Asked {
    request: Request,
    reactor: usize,
    /// The bytes that the request writes.
    bytes: Vec<u8>,
    /// Ranges that another write in flight overlaps: either may have won.
    torn: Vec<Range<u64>>,
}

impl Asked {
    fn range(&self) -> Range<u64> {
        self.request.offset_bytes..self.request.offset_bytes + self.request.len_bytes
    }

    fn changes(&self) -> bool {
        !matches!(self.request.kind, RequestKind::Read | RequestKind::Flush)
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    a.start.max(b.start)..a.end.min(b.end)
}

pub struct World {
    pub config: Config,
    pub rng: Rng,
    pub shared: Arc<Shared>,
    pub geometry: Geometry,
    zones: Zones,
    pub disks: Disks,
    memory: Arc<Memory>,
    reactors: Vec<(Array, SlowRing)>,
    host_pool: Pool,
    /// Memory of answered requests, if it stays taken until all are answered.
    kept: Option<Vec<Span>>,
    asked: Vec<Asked>,
    next_tag: u64,
    now_ns: u64,
    /// The content that the host knows.
    model: Vec<u8>,
    /// Sectors whose content the host does not know.
    unknown: Vec<bool>,
    /// Stripes that were unsynced when a member was lost: a read of them may fail, but must not return wrong
    /// data.
    pub lossy: Vec<bool>,
    pub verified_bytes: u64,
    pub errors: u64,
    /// Writer of notes for the next start.
    pub noting: Noting,
}

impl World {
    pub fn new(config: Config) -> World {
        let mut rng = Rng::new(config.seed);
        let Config { level, members, chunk_bytes, .. } = config;
        let shape = Shape { level, members, chunk_bytes };
        let mut bytes = (2 << 20) + TAIL_UNUSED_BYTES + config.stripes * u64::from(chunk_bytes);
        let zones = loop {
            let zones = zones(bytes, &shape).expect("the shape is valid");
            if zones.stripes >= config.stripes {
                break zones;
            }
            bytes += u64::from(chunk_bytes);
        };
        let parities = level.parities() as u8;
        let geometry = Geometry::new(members as u8, parities, chunk_bytes, zones.stripes);
        let disks: Disks = Rc::new(RefCell::new((0..members).map(|_| Disk::new(bytes, &mut rng)).collect()));
        let mut arenas = vec![4 * MIB; config.reactors];
        arenas.extend([32 * MIB, SCRATCH_BYTES as usize]);
        let memory = Memory::new(&arenas).expect("memory for a test");
        let beginnings = Beginnings { config, zones, geometry, disks: &disks, memory: &memory };
        let cells = beginnings.cells(&mut rng);
        let model = beginnings.model(&cells);
        let shared = beginnings.start(&cells, bytes, &mut rng);
        let reactors = (0..config.reactors)
            .map(|me| {
                let array = Array::new(me as u8, shared.clone(), Pool::new(&memory, me as u16));
                (array, SlowRing::new(&disks, &memory, rng.fork()))
            })
            .collect();
        World {
            config,
            shared,
            geometry,
            zones,
            reactors,
            host_pool: Pool::new(&memory, config.reactors as u16),
            kept: None,
            asked: Vec::new(),
            next_tag: 0,
            now_ns: 0,
            unknown: vec![false; model.len() / SECTOR as usize],
            lossy: vec![false; zones.stripes as usize],
            model,
            verified_bytes: 0,
            errors: 0,
            noting: Noting::default(),
            disks,
            memory,
            rng,
        }
    }

    /// Performs a turn of every reactor, starting at a random one.
    pub fn turn(&mut self) {
        self.now_ns += self.rng.below(10_000_000);
        let first = self.rng.below(self.reactors.len() as u64) as usize;
        for nth in 0..self.reactors.len() {
            let me = (first + nth) % self.reactors.len();
            let (array, ring) = &mut self.reactors[me];
            array.turn(ring, self.now_ns, 64);
            array.check_invariants();
            array.exchange_spans(ring, &mut self.host_pool, |bytes| bytes);
            let replies: Vec<Reply> = array.take_replies().collect();
            replies.into_iter().for_each(|reply| self.answered(me, reply));
        }
    }

    /// Turns until `done` is true.
    pub fn turn_until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        for _ in 0..TURNS_MAX {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("{what} does not come to an end: {:?}", self.config);
    }

    /// Number of requests in flight.
    pub fn outstanding(&self) -> usize {
        self.asked.len()
    }

    pub fn settle(&mut self) {
        self.turn_until("a request", |world| world.asked.is_empty());
    }

    /// Submits a random request, if there is room.
    pub fn ask_random(&mut self) {
        let size = self.geometry.size_bytes();
        let stripe = u64::from(self.geometry.stripe_bytes());
        let len = match self.rng.below(100) {
            0..40 => SECTOR * (1 + self.rng.below(16)),
            40..70 => 4096 * (1 + self.rng.below(16)),
            70..85 => u64::from(self.geometry.chunk_bytes()),
            85..95 => stripe.min(MIB as u64),
            _ => SECTOR * (1 + self.rng.below(2048)),
        };
        let len = len.min(size).min(MIB as u64);
        let unit = [SECTOR, 4096, len][self.rng.below(3) as usize];
        let offset = (self.rng.below(size - len + 1) / unit * unit).min(size - len);
        let fua = self.rng.chance(10);
        match self.rng.below(100) {
            0..35 => self.ask(RequestKind::Read, offset, len),
            35..85 => self.ask(RequestKind::Write { fua }, offset, len),
            85..90 => self.ask(RequestKind::WriteZeroes { fua }, offset, len),
            90..93 => {
                let len = (stripe * (1 + self.rng.below(3))).min(size);
                let offset = (offset / stripe * stripe).min(size - len);
                self.ask(RequestKind::Discard, offset, len)
            }
            93..95 => self.ask(RequestKind::Discard, offset, len),
            _ => self.ask(RequestKind::Flush, 0, 0),
        };
    }

    /// Submits a request to a reactor; false if there is no room, or if the right answer would be ambiguous.
    pub fn ask(&mut self, kind: RequestKind, offset_bytes: u64, len_bytes: u64) -> bool {
        let range = offset_bytes..offset_bytes + len_bytes;
        let is_read = kind == RequestKind::Read;
        let in_flight = |asked: &&Asked| !overlap(&asked.range(), &range).is_empty();
        let others: Vec<usize> = (0..self.asked.len()).filter(|&at| in_flight(&&self.asked[at])).collect();
        let is_clear = others.iter().all(|&at| is_read && !self.asked[at].changes());
        // Now and then two writes overlap; a read never overlaps a write.
        let may_tear = !is_read && others.iter().all(|&at| self.asked[at].changes()) && self.rng.chance(30);
        if !(is_clear || may_tear) {
            return false;
        }
        let reactor = self.rng.below(self.reactors.len() as u64) as usize;
        let has_data = matches!(kind, RequestKind::Read | RequestKind::Write { .. });
        let span = match has_data {
            true => self.host_pool.take(len_bytes as u32),
            false => Some(Span::EMPTY),
        };
        let Some(span) = span.filter(|_| self.reactors[reactor].0.room() > 0) else { return false };
        let mut bytes = Vec::new();
        if !is_read {
            bytes.resize(len_bytes as usize, 0);
        }
        if has_data {
            let rng = &mut self.rng;
            self.memory.with_mut(span, |content| rng.fill(content));
            if !is_read {
                self.memory.read_from(span, &mut bytes);
            }
        }
        let mut torn = Vec::new();
        if !is_read {
            for at in others {
                let both = overlap(&self.asked[at].range(), &range);
                self.asked[at].torn.push(both.clone());
                torn.push(both);
            }
        }
        let tag = self.next_tag;
        self.next_tag += 1;
        let request = Request { tag, kind, offset_bytes, len_bytes, span };
        self.asked.push(Asked { request, reactor, bytes, torn });
        let (array, ring) = &mut self.reactors[reactor];
        array.submit(ring, self.now_ns, request);
        let replies: Vec<Reply> = array.take_replies().collect();
        replies.into_iter().for_each(|reply| self.answered(reactor, reply));
        true
    }

    fn answered(&mut self, reactor: usize, reply: Reply) {
        if reply.tag == HOST_PAGES {
            return;
        }
        let at = self.asked.iter().position(|asked| asked.request.tag == reply.tag);
        let mut asked = self.asked.swap_remove(at.expect("a request is answered once"));
        asked.request.span = reply.span;
        assert_eq!(asked.reactor, reactor);
        let range = asked.range();
        let sectors = (range.start / SECTOR) as usize..(range.end / SECTOR) as usize;
        let place = range.start as usize..range.end as usize;
        match (reply.result, asked.changes()) {
            (Err(error), changes) => {
                self.errors += 1;
                let stripe = u64::from(self.geometry.stripe_bytes());
                let mut stripes = (range.start / stripe) as usize..range.end.div_ceil(stripe) as usize;
                assert!(
                    stripes.any(|stripe| self.lossy[stripe]) || self.shared.failed(),
                    "{error:?}: {:?}, {:?}",
                    asked.request,
                    self.config
                );
                if changes {
                    self.unknown[sectors].fill(true);
                }
            }
            (Ok(()), true) => {
                self.model[place].copy_from_slice(&asked.bytes);
                self.unknown[sectors].fill(false);
                for torn in &asked.torn {
                    self.unknown[(torn.start / SECTOR) as usize..(torn.end / SECTOR) as usize].fill(true);
                }
                self.holes_are_zeros(range);
            }
            (Ok(()), false) => {
                let mut got = vec![0; asked.request.len_bytes as usize];
                self.memory.read_from(asked.request.span, &mut got);
                self.compare(range.start, &got);
                self.verified_bytes += asked.request.len_bytes;
            }
        }
        if asked.request.span != Span::EMPTY {
            match &mut self.kept {
                Some(kept) => kept.push(asked.request.span),
                None => self.host_pool.give(asked.request.span),
            }
        }
        if self.asked.is_empty()
            && let Some(kept) = &mut self.kept
        {
            kept.drain(..).for_each(|span| self.host_pool.give(span));
        }
    }

    /// Compares what was read with what is known.
    fn compare(&self, offset: u64, got: &[u8]) {
        if got == &self.model[offset as usize..][..got.len()] {
            return;
        }
        for (nth, sector) in got.chunks(SECTOR as usize).enumerate() {
            let at = offset as usize + nth * SECTOR as usize;
            let known = !self.unknown[at / SECTOR as usize];
            if known && sector != &self.model[at..at + SECTOR as usize] {
                let (stripe, within) = self.geometry.locate(at as u64);
                let (cell, view) = (self.shared.bitmap.cell(stripe), self.shared.members.view());
                panic!(
                    "sector at {at} (stripe {stripe}, {within}; {cell:?} now, {view:?}) is wrong, byte 0 is {:#x} for {:#x}: {:?}",
                    sector[0], self.model[at], self.config
                );
            }
        }
    }

    /// Submits random requests, keeping a random number in flight.
    pub fn load(&mut self, requests: u32) {
        for _ in 0..requests {
            let depth = 1 + self.rng.below(24) as usize;
            self.ask_random();
            while self.asked.len() >= depth {
                self.turn();
            }
        }
    }

    pub fn is_synced(&self) -> bool {
        self.shared.bitmap.next_need_sync(0).is_none()
    }

    /// Loses a slot, in one of three ways. First it notes the stripes whose content is not certain from now
    /// on.
    pub fn lose(&mut self, slot: u8) {
        self.heal_bad_sectors();
        // Noted before the loss: an order to fail takes turns, in which requests are answered.
        for stripe in 0..self.zones.stripes {
            self.lossy[stripe as usize] |= self.shared.bitmap.cell(stripe) == Cell::NeedSync;
        }
        match self.rng.below(3) {
            0 => assert!(self.shared.members.fail(slot, engine::members::Failure::Operator)),
            1 => {
                let was_synced = self.is_synced();
                let answered = self.order(|answer| Order::Fail { slot, answer });
                self.turn_until("a failure", |_| !answered.is_empty());
                if let Err(why) = answered.recv().expect("an answer") {
                    // An order never costs data and may be refused; a failed write of the drive gives no
                    // choice.
                    assert!(!was_synced && why.contains("still to be resynced"), "{why}");
                    assert!(self.shared.members.fail(slot, engine::members::Failure::Write(5)));
                }
            }
            _ => self.kill(slot),
        }
    }

    /// Makes a member silent until it has been failed for that; then it answers again, either with errors or
    /// normally.
    pub fn silence(&mut self, slot: u8) {
        let device = usize::from(self.shared.members.device(slot).0);
        self.disks.borrow_mut()[device].silent = true;
        for _ in 0..20 {
            self.ask_random();
            self.turn();
        }
        let began_ns = self.now_ns;
        self.turn_until("its patience", |world| !world.shared.members.view().writable.has(slot));
        let silence_ns = self.now_ns - began_ns;
        let patience_ns = u64::from(self.shared.members.patience_s()) * 1_000_000_000;
        assert!((patience_ns..patience_ns + 5_000_000_000).contains(&silence_ns), "after {silence_ns} ns");
        let dead = self.rng.chance(50);
        let disk = &mut self.disks.borrow_mut()[device];
        (disk.silent, disk.dead) = (false, dead);
    }

    /// Discards the lossy stripes, so that a rebuild can end.
    pub fn give_up_lossy(&mut self) {
        self.settle();
        let stripe_bytes = u64::from(self.geometry.stripe_bytes());
        for stripe in 0..self.zones.stripes {
            if self.lossy[stripe as usize] {
                while !self.ask(RequestKind::Discard, stripe * stripe_bytes, stripe_bytes) {
                    self.turn();
                }
            }
        }
        self.settle();
        self.lossy.fill(false);
    }

    /// Gives a slot a new device full of noise, under load, and waits until it is in sync.
    pub fn replace(&mut self, slot: u8, load: u32) {
        self.join(slot, load);
        self.turn_until("a rebuild", |world| {
            world.shared.members.record().readable.has(slot)
                && world.shared.steward.rebuild_slot.load(Ordering::Relaxed) == 0
        });
    }

    /// Adds a device full of noise to those that the rings serve.
    pub fn new_device(&mut self) -> DeviceIndex {
        let bytes = self.disks.borrow()[0].bytes.len() as u64;
        let mut disk = Disk::of_another(bytes, &mut self.rng);
        disk.joins = Some(self.zones.data.offset_bytes);
        let device = self.disks.borrow().len();
        self.disks.borrow_mut().push(disk);
        DeviceIndex(device as u8)
    }

    /// Orders the array to take a device into a slot.
    pub fn order_join(&mut self, slot: u8, device: DeviceIndex) -> Answered {
        let member = Uuid::from_u64_pair(self.rng.next(), self.rng.next());
        let volatile = self.rng.chance(50);
        let device_bytes = self.disks.borrow()[usize::from(device.0)].bytes.len() as u64;
        self.order(|answer| Order::Join { slot, device, member, volatile, device_bytes, answer })
    }

    /// Gives an order.
    pub fn order(&self, order: impl FnOnce(Answer) -> Order) -> Answered {
        let (answer, answered) = bounded(1);
        assert!(self.shared.steward.orders.push(order(Answer::to(answer))).is_ok());
        answered
    }

    /// Gives a slot a new device full of noise, under load, and waits until it has joined.
    pub fn join(&mut self, slot: u8, load: u32) {
        // A dead device is discovered by a write.
        let stripe = u64::from(self.geometry.stripe_bytes());
        while self.shared.members.view().writable.has(slot) {
            let at = self.rng.below(self.zones.stripes);
            for from in (0..stripe).step_by(MIB) {
                self.ask(
                    RequestKind::Write { fua: false },
                    at * stripe + from,
                    (stripe - from).min(MIB as u64),
                );
            }
            self.settle();
        }
        let device = self.new_device();
        let answered = self.order_join(slot, device);
        self.load(load);
        self.turn_until("a join", |_| !answered.is_empty());
        let answer = answered.recv().expect("an answer");
        if answer.as_ref().is_err_and(|why| why.contains("try again")) {
            // Another member was dead, and the record of this change discovered it.
            self.join(slot, load);
            return;
        }
        assert_eq!(answer, Ok(()), "{:?}", self.config);
        self.load(load);
        self.settle();
    }

    /// Makes a random sector unreadable if all sectors are readable and nothing is in flight. A read that met
    /// an earlier bad sector and waits for its stripe treats that strip as bad although it was repaired
    /// meanwhile; with a second bad sector in the same rows it would be answered with `Lost` (seed
    /// 8_594_030_594 of 4 KiB chunks on three members).
    pub fn spoil_a_sector(&mut self) {
        self.settle();
        let mut disks = self.disks.borrow_mut();
        if self.is_synced() && disks.iter().all(|disk| disk.bad.is_empty()) {
            let slot = self.rng.below(self.config.members as u64) as u8;
            let device = self.shared.members.device(slot);
            let data = self.zones.data;
            let sector = (data.offset_bytes + self.rng.below(data.len_bytes)) / SECTOR;
            disks[usize::from(device.0)].bad.insert(sector);
        }
    }

    /// Makes the member's sector that holds this row of a strip unreadable until it is written.
    pub fn spoil(&mut self, stripe: u64, strip: u8, row: u32) {
        let slot = self.geometry.rotation(stripe).slot_of(strip);
        let device = self.shared.members.device(slot);
        let at = self.zones.data.offset_bytes + self.geometry.strip_offset(stripe) + u64::from(row);
        self.disks.borrow_mut()[usize::from(device.0)].bad.insert(at / SECTOR);
    }

    /// Number of sectors that cannot be read now.
    pub fn bad_sectors(&self) -> usize {
        self.disks.borrow().iter().map(|disk| disk.bad.len()).sum()
    }

    /// Submits one request and waits for its answer; whether that was an error.
    pub fn fails(&mut self, kind: RequestKind, offset_bytes: u64, len_bytes: u64) -> bool {
        let errors = self.errors;
        self.settle();
        assert!(self.ask(kind, offset_bytes, len_bytes), "nothing is in the way");
        self.settle();
        self.errors > errors
    }

    /// Sets these bytes to zeros in the model: they are lost, and defined to read as zeros on the members.
    pub fn give_up(&mut self, offset_bytes: u64, len_bytes: u64) {
        self.model[offset_bytes as usize..(offset_bytes + len_bytes) as usize].fill(0);
    }

    /// Addresses at which a read of `len_bytes` fails.
    pub fn failing_reads(&mut self, len_bytes: u64) -> Vec<u64> {
        let all = (0..self.geometry.size_bytes()).step_by(len_bytes as usize);
        all.filter(|&at| self.fails(RequestKind::Read, at, len_bytes)).collect()
    }

    /// Reads everything through the array, and compares the data and parity of every member in sync with it.
    pub fn verify(&mut self) {
        self.settle();
        self.heal_bad_sectors();
        let size = self.geometry.size_bytes();
        for offset in (0..size).step_by(MIB) {
            while !self.ask(RequestKind::Read, offset, (size - offset).min(MIB as u64)) {
                self.turn();
            }
        }
        self.settle();
        let disks = self.disks.borrow();
        let readable = self.shared.members.view().readable;
        for stripe in 0..self.zones.stripes {
            let cell = self.shared.bitmap.cell(stripe);
            if !matches!(cell, Cell::Unwritten | Cell::NeedSync) {
                self.verify_stripe(&disks, stripe, readable);
            }
        }
    }

    fn verify_stripe(&self, disks: &[Disk], stripe: u64, readable: Slots) {
        let geometry = &self.geometry;
        let rotation = geometry.rotation(stripe);
        let chunk = geometry.chunk_bytes() as usize;
        let on_member = |strip: u8| {
            let slot = rotation.slot_of(strip);
            let device = usize::from(self.shared.members.device(slot).0);
            let start = (self.zones.data.offset_bytes + geometry.strip_offset(stripe)) as usize;
            readable.has(slot).then(|| &disks[device].bytes[start..start + chunk])
        };
        let at =
            |strip: u8| (stripe * u64::from(geometry.stripe_bytes())) as usize + usize::from(strip) * chunk;
        // If the host does not know the content, take the member's; parity must agree with that too.
        let data: Vec<(u8, &[u8])> = geometry
            .data_strips()
            .iter()
            .map(|strip| (strip, on_member(strip).unwrap_or(&self.model[at(strip)..at(strip) + chunk])))
            .collect();
        let is_lost = |strip: &u8| on_member(*strip).is_none();
        let sectors = |strip: u8| at(strip) / SECTOR as usize..(at(strip) + chunk) / SECTOR as usize;
        let guessed = geometry.data_strips().iter().filter(is_lost);
        let guess = guessed.into_iter().any(|strip| self.unknown[sectors(strip)].contains(&true));
        for &(strip, bytes) in &data {
            for (nth, sector) in bytes.chunks(SECTOR as usize).enumerate() {
                let place = at(strip) + nth * SECTOR as usize;
                let right = sector == &self.model[place..place + SECTOR as usize];
                assert!(
                    right || self.unknown[place / SECTOR as usize],
                    "D{strip} of {stripe}: {:?}",
                    self.config
                );
            }
        }
        let strips: Vec<&[u8]> = data.iter().map(|strip| strip.1).collect();
        let (mut p, mut q) = (vec![0; chunk], vec![0; chunk]);
        parity_simd::xor_generate(&mut p, &strips);
        parity_simd::q_generate(&mut q, &data);
        for (strip, parity) in geometry.parity_strips().iter().zip([p, q]) {
            if let Some(bytes) = on_member(strip).filter(|_| !guess) {
                assert!(bytes == parity, "parity {strip} of stripe {stripe} is wrong: {:?}", self.config);
            }
        }
    }
}
