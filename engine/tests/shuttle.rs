//! Reactors as threads, under random schedules (shuttle): their interplay has too many states for loom.
//!
//! Method: two or three real arrays over members in RAM, each on a thread, contend for stripes: parts go to
//! the owner's mailbox, come home when the owner has released the stripe, or find the mailbox full. A
//! schedule may change at every atomic of the bitmap, the stripe locks, the members and the mailboxes (with
//! `--cfg shuttle` these are shuttle's own). Shuttle's atomics are sequentially consistent: loom checks the
//! orderings. Oracle: each request is answered once; the final content is what some order of the requests
//! would have left; parity matches; nothing is left in flight, and no stripe is owned.
//!
//! `SHUTTLE_RUNS` sets the number of schedules per test (300). Run by `.ci/run shuttle`; a failure prints the
//! schedule to replay.
#![cfg(shuttle)]
#![allow(clippy::disallowed_methods, reason = "a test stands for the world outside of the engine")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bitmap::{Bitmap, Cell, StripeLocks};
use engine::array::{Array, Beginning, Layout, Shared, Sizes, StewardState};
use engine::geometry::{Geometry, Slots};
use engine::mailbox::{Answer, Mailboxes};
use engine::members::{MemberView, Members};
use engine::memory::{Memory, Pool, Span};
use engine::request::{Reply, Request, RequestKind};
use engine::ring::{Completion, DeviceIndex, MemberIo, MemberOp, Ring};
use engine::tally::Tally;
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};

const BLOCK: usize = 4096;
const MEMBERS: u8 = 3;
const STRIPES: u64 = 2;
const BITMAP_BYTES: u64 = 2 * BLOCK as u64;
const SIZES: Sizes = Sizes { requests: 8, parts: 32, ops: 8, host_reads: 16, block_writes: 2 };
/// Time of a turn: long enough that a sweep happens now and then.
const TURN_NS: u64 = 20_000_000;

/// Runs a model under many schedules, half of them with few preemptions (PCT).
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let runs = std::env::var("SHUTTLE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(300);
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    let model = Arc::new(model);
    let again = Arc::clone(&model);
    Runner::new(RandomScheduler::new_from_seed(1, runs), config.clone()).run(move || model());
    Runner::new(PctScheduler::new_from_seed(2, 3, runs), config).run(move || again());
}

/// The members: bytes, and operations in flight, of which one completes per turn, in random order.
struct RamRing {
    members: Arc<Vec<Mutex<Vec<u8>>>>,
    memory: Arc<Memory>,
    in_flight: Vec<MemberOp>,
}

impl Ring for RamRing {
    fn push(&mut self, op: MemberOp) {
        self.in_flight.push(op);
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        if self.in_flight.is_empty() {
            return;
        }
        let op = self.in_flight.swap_remove(thread_rng().gen_range(0..self.in_flight.len()));
        let mut member = self.members[usize::from(op.device.0)].lock().expect("no holder panics");
        let range = op.offset_bytes as usize..(op.offset_bytes + op.len_bytes) as usize;
        match op.io {
            MemberIo::Read => self.memory.write_to(op.span, &member[range]),
            MemberIo::Write(_) => self.memory.read_from(op.span, &mut member[range]),
            MemberIo::Deallocate => member[range].fill(0xa5),
            MemberIo::Flush => {}
        }
        completions.push(Completion { tag: op.tag, result: Ok(()) });
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

/// A request: its kind, first block, number of blocks, and the byte that a write fills its blocks with.
#[derive(Clone, Copy)]
struct Ask(RequestKind, u64, u64, u8);

const fn write(first: u64, count: u64, with: u8) -> Ask {
    Ask(RequestKind::Write { fua: false }, first, count, with)
}

const fn read(first: u64, count: u64) -> Ask {
    Ask(RequestKind::Read, first, count, 0)
}

/// A reactor on its thread.
struct Reactor {
    me: u8,
    array: Array,
    ring: RamRing,
    shared: Arc<Shared>,
    clock: Arc<AtomicU64>,
    replies: Vec<Reply>,
}

impl Reactor {
    /// The host's memory for the `nth` request.
    fn span(&self, nth: usize, count: u64) -> Span {
        let arena = self.shared.memory.arena(3 + u16::from(self.me));
        arena.part((nth * 16 * BLOCK) as u32, count as u32 * BLOCK as u32)
    }

    fn submit(&mut self, nth: usize, Ask(kind, first, count, with): Ask) {
        let mut span = Span::EMPTY;
        if matches!(kind, RequestKind::Read | RequestKind::Write { .. }) {
            span = self.span(nth, count);
            self.shared.memory.with_mut(span, |bytes| bytes.fill(with));
        }
        let (offset_bytes, len_bytes) = (first * BLOCK as u64, count * BLOCK as u64);
        let now_ns = self.clock.load(Ordering::Relaxed);
        self.array.submit(
            &mut self.ring,
            now_ns,
            Request { tag: nth as u64, kind, offset_bytes, len_bytes, span },
        );
    }

    fn turn(&mut self) {
        let now_ns = self.clock.fetch_add(TURN_NS, Ordering::Relaxed);
        self.array.turn(&mut self.ring, now_ns, 2);
        self.replies.extend(self.array.take_replies());
        thread::yield_now();
    }

    /// Submits all of `asks`, and turns until the requests of every reactor are answered.
    fn run(mut self, asks: &[Ask], left: &AtomicUsize) -> Reactor {
        let mut submitted = 0;
        let mut told = false;
        while left.load(Ordering::Relaxed) > 0 {
            if submitted < asks.len() && thread_rng().gen_bool(0.5) {
                self.submit(submitted, asks[submitted]);
                submitted += 1;
            }
            self.turn();
            if !told && self.replies.len() == asks.len() {
                told = true;
                left.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self
    }
}

/// The result, when all requests are answered.
struct Ended {
    /// The byte that fills each block.
    blocks: Vec<u8>,
    /// The byte that fills the first block of a read, by reactor and request.
    reads: BTreeMap<(usize, usize), u8>,
}

fn arenas() -> Arc<Memory> {
    const MIB: usize = 1 << 20;
    Memory::new(&[4 * MIB, 4 * MIB, 4 * MIB, MIB, MIB, MIB]).expect("memory for three reactors")
}

/// Runs reactors on a thread each, with mailboxes of the given room, on an array whose cells all begin as
/// `initial`.
fn contend(memory: &Arc<Memory>, initial: Cell, room: usize, asks: &[&[Ask]]) -> Ended {
    let geometry = Geometry::new(MEMBERS, 1, BLOCK as u32, STRIPES);
    let all = MemberView { readable: geometry.slots(), writable: geometry.slots() };
    let devices: Vec<DeviceIndex> = (0..MEMBERS).map(DeviceIndex).collect();
    // Initial data: its parity matches where it is trusted, and does not where the cells are `NeedSync`.
    let member = |slot: u8| {
        let fill = if initial == Cell::NeedSync { 0x11 << slot } else { 0 };
        Mutex::new(vec![fill; BITMAP_BYTES as usize + STRIPES as usize * BLOCK])
    };
    let members: Arc<Vec<_>> = Arc::new((0..MEMBERS).map(member).collect());
    let shared = Arc::new(Shared {
        geometry,
        layout: Layout {
            uuid: [7; 16],
            bitmap_offset_bytes: 0,
            data_offset_bytes: BITMAP_BYTES,
            logical_block_bytes: BLOCK as u32,
        },
        bitmap: Bitmap::new(STRIPES, initial),
        lost: engine::lost::LostRows::none(geometry),
        locks: StripeLocks::new(),
        members: Members::new(all, 0, &devices, Slots::one(1)),
        memory: Arc::clone(memory),
        mailboxes: Mailboxes::with_room(
            asks.iter().map(|_| Box::new(|| {}) as _).collect(),
            room,
            &Sizes::FULL,
        ),
        tallies: asks.iter().map(|_| Tally::default()).collect(),
        steward: StewardState::new(Beginning { roster: None, seed: 1, rebuilding: None }),
        read_only: false,
        deallocations: AtomicU32::new(0),
    });
    let clock = Arc::new(AtomicU64::new(0));
    let left = Arc::new(AtomicUsize::new(asks.len()));
    let mut threads = Vec::new();
    for (me, asks) in asks.iter().enumerate() {
        let reactor = Reactor {
            me: me as u8,
            array: Array::with_sizes(me as u8, Arc::clone(&shared), Pool::new(memory, me as u16), SIZES),
            ring: RamRing {
                members: Arc::clone(&members),
                memory: Arc::clone(memory),
                in_flight: Vec::new(),
            },
            shared: Arc::clone(&shared),
            clock: Arc::clone(&clock),
            replies: Vec::new(),
        };
        let left = Arc::clone(&left);
        let asks = asks.to_vec();
        threads.push(thread::spawn(move || reactor.run(&asks, &left)));
    }
    let mut reactors: Vec<Reactor> =
        threads.into_iter().map(|thread| thread.join().expect("it turned")).collect();
    settle(&mut reactors);
    let mut reads = BTreeMap::new();
    for (me, reactor) in reactors.iter().enumerate() {
        let mut tags: Vec<u64> = reactor.replies.iter().map(|reply| reply.tag).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..asks[me].len() as u64).collect::<Vec<_>>(), "each request is answered once");
        for reply in &reactor.replies {
            assert_eq!(reply.result, Ok(()), "request {} of reactor {me}", reply.tag);
            let Ask(kind, _, count, _) = asks[me][reply.tag as usize];
            if kind == RequestKind::Read {
                let span = reactor.span(reply.tag as usize, count);
                let bytes = memory.with(span, |bytes| bytes.to_vec());
                reads.insert((me, reply.tag as usize), uniform(&bytes[..BLOCK]));
            }
        }
    }
    check_at_rest(&shared, &members);
    let blocks = read_back(&mut reactors[0]);
    Ended { blocks, reads }
}

/// Turns until nothing is in flight anywhere.
fn settle(reactors: &mut [Reactor]) {
    for _ in 0..10_000 {
        let busy = |reactor: &Reactor| !reactor.array.quiet() || reactor.array.must_turn();
        let mail = |reactor: &Reactor| reactor.shared.mailboxes.has_mail(reactor.me);
        if !reactors.iter().any(|reactor| busy(reactor) || mail(reactor)) {
            return;
        }
        reactors.iter_mut().for_each(Reactor::turn);
    }
    panic!("something is in flight for ever");
}

/// Checks that no stripe is owned, none needs a resync, and parity matches.
fn check_at_rest(shared: &Shared, members: &[Mutex<Vec<u8>>]) {
    for stripe in 0..STRIPES {
        assert!(shared.locks.is_free(stripe), "stripe {stripe} is owned, and nobody works at it");
        let cell = shared.bitmap.cell(stripe);
        assert_ne!(cell, Cell::NeedSync, "stripe {stripe} was resynced");
        if cell == Cell::Unwritten {
            continue;
        }
        let at = BITMAP_BYTES as usize + stripe as usize * BLOCK;
        let strips: Vec<Vec<u8>> = (members.iter())
            .map(|member| member.lock().expect("no holder panics")[at..at + BLOCK].to_vec())
            .collect();
        let odd = (0..BLOCK).find(|&byte| strips.iter().fold(0, |sum, strip| sum ^ strip[byte]) != 0);
        assert_eq!(odd, None, "parity of stripe {stripe} ({cell:?}) does not match its data");
    }
}

fn read_back(reactor: &mut Reactor) -> Vec<u8> {
    let count = reactor.shared.geometry.size_bytes() / BLOCK as u64;
    reactor.replies.clear();
    reactor.submit(0, read(0, count));
    settle(std::slice::from_mut(reactor));
    assert_eq!(reactor.replies.len(), 1);
    let bytes = reactor.shared.memory.with(reactor.span(0, count), |bytes| bytes.to_vec());
    bytes.chunks_exact(BLOCK).map(uniform).collect()
}

/// The byte that fills a block.
fn uniform(block: &[u8]) -> u8 {
    assert!(block.iter().all(|byte| *byte == block[0]), "a block is torn");
    block[0]
}

#[test]
fn neighbours_in_a_stripe() {
    let memory = arenas();
    explore(move || {
        let ended = contend(&memory, Cell::Clean, 8, &[&[write(0, 1, 1)], &[write(1, 1, 2)]]);
        assert_eq!(ended.blocks, [1, 2, 0, 0]);
    });
}

#[test]
fn one_of_two_overlapping_writes() {
    let memory = arenas();
    explore(move || {
        let ended = contend(&memory, Cell::Clean, 8, &[&[write(0, 2, 1)], &[write(0, 1, 2), write(1, 1, 2)]]);
        assert!(ended.blocks[..2].iter().all(|&block| block == 1 || block == 2), "{:?}", ended.blocks);
    });
}

#[test]
fn first_writes_of_a_stripe() {
    let memory = arenas();
    explore(move || {
        let ended = contend(&memory, Cell::Unwritten, 8, &[&[write(0, 1, 1)], &[write(1, 1, 2), read(0, 1)]]);
        assert_eq!(ended.blocks, [1, 2, 0, 0]);
        assert!(ended.reads[&(1, 1)] <= 1);
    });
}

/// A full mailbox is no deadlock: the poster keeps its messages, even if all reactors wait for each other.
#[test]
fn mailboxes_of_one_message() {
    let memory = arenas();
    explore(move || {
        let asks: &[&[Ask]] = &[
            &[write(0, 1, 1), write(2, 1, 1), write(0, 1, 4)],
            &[write(1, 1, 2), write(3, 1, 2), write(1, 1, 5)],
            &[write(2, 1, 3), write(0, 1, 3), write(3, 1, 6)],
        ];
        let ended = contend(&memory, Cell::Clean, 1, asks);
        let may_be: [&[u8]; 4] = [&[1, 3, 4], &[2, 5], &[1, 3], &[2, 6]];
        for (block, may_be) in ended.blocks.iter().zip(may_be) {
            assert!(may_be.contains(block), "{:?}", ended.blocks);
        }
    });
}

/// Reactor 0 resyncs a stripe whose parity is wrong while reactor 1 writes to it.
#[test]
fn a_resync_and_a_writer() {
    let memory = arenas();
    explore(move || {
        let ended = contend(&memory, Cell::NeedSync, 8, &[&[], &[write(0, 1, 9), read(1, 1)]]);
        assert_eq!(ended.blocks[0], 9);
        assert!([0x11, 0x22, 0x44].contains(&ended.blocks[1]) && ended.reads[&(1, 1)] == ended.blocks[1]);
    });
}

/// A discard and a write of one stripe take effect one after the other.
#[test]
fn a_discard_and_a_writer() {
    let memory = arenas();
    explore(move || {
        const DISCARD: Ask = Ask(RequestKind::Discard, 0, 2, 0);
        let ended = contend(&memory, Cell::Clean, 8, &[&[DISCARD], &[write(0, 1, 1), read(0, 1)]]);
        assert!(ended.blocks[0] <= 1 && ended.blocks[1] == 0, "{:?}", ended.blocks);
        assert!(ended.reads[&(1, 1)] <= 1, "what a member holds after it was told to forget is not read");
    });
}

/// A reactor that goes to sleep: it announces that, looks for mail once more, and waits for the bell.
fn sleeper(looks_again: bool) {
    let bell = Arc::new((shuttle::sync::Mutex::new(false), shuttle::sync::Condvar::new()));
    let rung = Arc::clone(&bell);
    let waker = Box::new(move || {
        *rung.0.lock().expect("no holder panics") = true;
        rung.1.notify_one();
    });
    let mailboxes = Arc::new(Mailboxes::with_room(vec![waker as _], 4, &Sizes::SMALL));
    let posters: Vec<_> = (0..2)
        .map(|part| {
            let mailboxes = Arc::clone(&mailboxes);
            thread::spawn(move || mailboxes.answer(0, Answer::Part { part, result: Ok(()), held: 0 }))
        })
        .collect();
    let mut heard = 0;
    while heard < 2 {
        if mailboxes.take_answer(0).is_some() {
            heard += 1;
            continue;
        }
        mailboxes.about_to_sleep(0);
        if !looks_again || !mailboxes.has_mail(0) {
            // Waits for the bell, which stays rung until it is silenced.
            let mut ringing = bell.0.lock().expect("no holder panics");
            while !*ringing {
                ringing = bell.1.wait(ringing).expect("no holder panics");
            }
        }
        mailboxes.awake(0);
        *bell.0.lock().expect("no holder panics") = false;
    }
    posters.into_iter().for_each(|poster| poster.join().expect("it posted"));
}

#[test]
fn who_sleeps_is_woken() {
    explore(|| sleeper(true));
}

/// The broken variant: without the second look, the reactor sleeps while it has mail.
#[test]
#[should_panic(expected = "deadlock")]
fn who_does_not_look_again_is_not_woken() {
    explore(|| sleeper(false));
}
