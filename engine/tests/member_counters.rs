//! Counters of each member: operations, bytes, errors and latencies.
//!
//! Method: an array is driven as reactor.rs drives it, by a clock that moves by random steps, over members
//! that complete operations in random order and time, and fail some of them. Oracle: the ring's own list of
//! every operation with the times of its two turns. Percentiles are taken from the sorted list and rounded up
//! by the rule of the manual: to the last value of a quarter of a power of two. All figures must be exactly
//! equal.

use std::cell::Cell as Shelf;
use std::rc::Rc;
use std::sync::Arc;

use bitmap::Cell;
use engine::array::{Array, Shared};
use engine::geometry::{Geometry, Slots};
use engine::memory::{Memory, Pool, Span};
use engine::request::{Request, RequestKind};
use engine::ring::{Completion, DeviceIndex, MemberIo, MemberOp, Ring};
use engine::status::{LatencyNs, MemberCounters, TransferCounters};
use engine::tally::DeviceTallies;

#[path = "support/shared.rs"]
mod shared;
use shared::Plain;

const MIB: usize = 1 << 20;
const MEMBERS: u8 = 4;
const CHUNK_BYTES: u32 = 16 << 10;
const STRIPES: u64 = 64;
const DATA_OFFSET_BYTES: u64 = 4 << 20;
/// Number of requests in flight.
const DEPTH: usize = 16;
const EIO: i32 = 5;

/// Random numbers from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// An operation that has ended.
struct Ended {
    device: DeviceIndex,
    io: MemberIo,
    bytes: u32,
    took_ns: u64,
    succeeded: bool,
}

/// Completes operations in random order, fails some reads in the data zone, and keeps the oracle.
struct RandomRing {
    dice: Dice,
    /// The time of the current turn.
    now_ns: Rc<Shelf<u64>>,
    in_flight: Vec<(MemberOp, u64)>,
    ended: Vec<Ended>,
}

impl Ring for RandomRing {
    fn push(&mut self, op: MemberOp) {
        self.in_flight.push((op, self.now_ns.get()));
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        for at in (0..self.in_flight.len()).rev() {
            if self.dice.below(3) > 0 {
                continue;
            }
            let (op, pushed_ns) = self.in_flight.swap_remove(at);
            // Errors are rare: more than 64 on a member within a minute would fail it.
            let may_fail = op.io == MemberIo::Read && op.offset_bytes >= DATA_OFFSET_BYTES;
            let succeeded = !(may_fail && self.dice.below(400) == 0);
            self.ended.push(Ended {
                device: op.device,
                io: op.io,
                bytes: op.span.len_bytes,
                took_ns: self.now_ns.get() - pushed_ns,
                succeeded,
            });
            completions.push(Completion { tag: op.tag, result: if succeeded { Ok(()) } else { Err(EIO) } });
        }
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

struct Driven {
    shared: Arc<Shared>,
    array: Array,
    ring: RandomRing,
    dice: Dice,
    now_ns: Rc<Shelf<u64>>,
    /// Memory of each request in flight, by its tag.
    spans: Vec<Span>,
    idle: Vec<usize>,
}

impl Driven {
    fn new(seed: u64) -> Driven {
        let geometry = Geometry::new(MEMBERS, 1, CHUNK_BYTES, STRIPES);
        let memory = Memory::new(&[32 * MIB, 2 * DEPTH * MIB]).expect("memory for a test");
        let now_ns = Rc::new(Shelf::new(0));
        let shared = Plain {
            geometry,
            stripes: STRIPES,
            cell: Cell::Clean,
            present: geometry.slots(),
            // The other members have no volatile cache and are never flushed.
            volatile: Slots::one(0).or(Slots::one(1)),
            data_offset_bytes: DATA_OFFSET_BYTES,
        }
        .shared(&memory);
        let mut pool = Pool::new(&memory, 1);
        Driven {
            array: Array::new(0, shared.clone(), Pool::new(&memory, 0)),
            shared,
            ring: RandomRing {
                dice: Dice(seed ^ 0x5555),
                now_ns: now_ns.clone(),
                in_flight: Vec::new(),
                ended: Vec::new(),
            },
            dice: Dice(seed),
            now_ns,
            spans: (0..DEPTH).map(|_| pool.take(64 << 10).expect("a fresh pool has room")).collect(),
            idle: (0..DEPTH).collect(),
        }
    }

    /// A random request; the content of what it reads or writes does not matter here.
    fn request(&mut self, tag: usize) -> Request {
        let kind = match self.dice.below(12) {
            0..6 => RequestKind::Read,
            6..10 => RequestKind::Write { fua: false },
            10 => RequestKind::Flush,
            _ => RequestKind::Discard,
        };
        let stripe_bytes = u64::from(self.shared.geometry.stripe_bytes());
        let (len_bytes, unit) = match kind {
            RequestKind::Flush => {
                return Request { tag: tag as u64, kind, offset_bytes: 0, len_bytes: 0, span: Span::EMPTY };
            }
            RequestKind::Discard => (stripe_bytes, stripe_bytes),
            _ => (512 << self.dice.below(7), 512),
        };
        let places = (self.shared.geometry.size_bytes() - len_bytes) / unit + 1;
        let offset_bytes = self.dice.below(places) * unit;
        let has_data = kind != RequestKind::Discard;
        let span = if has_data { self.spans[tag].part(0, len_bytes as u32) } else { Span::EMPTY };
        Request { tag: tag as u64, kind, offset_bytes, len_bytes, span }
    }

    /// Moves the clock by a random step, from less than a bucket to seconds, and turns once.
    fn turn(&mut self, asks: bool) {
        let bits = 1 + self.dice.below(31);
        let step_ns = self.dice.below(1 << bits);
        self.now_ns.set(self.now_ns.get() + step_ns);
        let now_ns = self.now_ns.get();
        while asks && let Some(tag) = self.idle.pop() {
            let request = self.request(tag);
            self.array.submit(&mut self.ring, now_ns, request);
        }
        self.array.turn(&mut self.ring, now_ns, 0);
        self.idle.extend(self.array.take_replies().map(|reply| reply.tag as usize));
    }
}

/// Rounds a latency up to the last value of its quarter of a power of two, as the manual says.
fn rounded_up(ns: u64) -> u64 {
    let mut width = 256;
    let mut last = 1023;
    while ns > last {
        // There are four quarters to a power of two; those of the next power are twice as wide.
        width <<= u32::from((last + 1).is_power_of_two() && last > 1023);
        last += width;
    }
    last
}

/// The expected counters, from the ring's list.
fn expected(ended: &[Ended], device: DeviceIndex) -> MemberCounters {
    let of = |is: fn(MemberIo) -> bool| ended.iter().filter(move |one| one.device == device && is(one.io));
    let transfers = |is: fn(MemberIo) -> bool| {
        let mut took: Vec<u64> = of(is).filter(|one| one.succeeded).map(|one| one.took_ns).collect();
        took.sort_unstable();
        let longest = took.last().copied().unwrap_or(0);
        let at = |permille: usize| rounded_up(took[(took.len() * permille).div_ceil(1000) - 1]).min(longest);
        TransferCounters {
            count: took.len() as u64,
            bytes: of(is).filter(|one| one.succeeded).map(|one| u64::from(one.bytes)).sum(),
            errors: of(is).filter(|one| !one.succeeded).count() as u64,
            latency_ns: (!took.is_empty()).then(|| LatencyNs {
                p50: at(500),
                p90: at(900),
                p99: at(990),
                p999: at(999),
                max: longest,
            }),
        }
    };
    MemberCounters {
        reads: transfers(|io| io == MemberIo::Read),
        writes: transfers(|io| matches!(io, MemberIo::Write(_))),
        flushes: of(|io| io == MemberIo::Flush).count() as u64,
        flush_errors: 0,
        deallocations: of(|io| io == MemberIo::Deallocate).count() as u64,
    }
}

#[test]
fn every_operation_is_counted_exactly() {
    for seed in 1..=4u64 {
        let mut driven = Driven::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (0..6_000).for_each(|_| driven.turn(true));
        while driven.idle.len() < DEPTH {
            driven.turn(false);
        }
        let mut errors = 0;
        for device in (0..MEMBERS).map(DeviceIndex) {
            let told = DeviceTallies::sum(&driven.shared.tallies, device);
            assert_eq!(told, expected(&driven.ring.ended, device), "seed {seed}, {device:?}");
            assert!(told.reads.count > 1_000 && told.writes.count > 1_000, "too little to tell: {told:?}");
            assert_eq!(told.flushes > 0, device.0 < 2, "{told:?}");
            assert!(told.deallocations > 0, "{told:?}");
            errors += told.reads.errors;
        }
        assert!(errors > 0, "no read has failed: seed {seed}");
    }
}

/// Checks the oracle's rule on examples that are easy to verify by hand.
#[test]
fn the_rule_of_rounding() {
    for (ns, told) in [
        (0, 1023),
        (1023, 1023),
        (1024, 1279),
        (1279, 1279),
        (1280, 1535),
        (2047, 2047),
        (2048, 2559),
        (4096, 5119),
        (1_000_000, 1_048_575),
        (1_048_576, 1_310_719),
    ] {
        assert_eq!(rounded_up(ns), told, "{ns}");
    }
}
