//! The generator: a front end that makes its own requests, keeps a given number in flight, and counts.
//!
//! With verification each block of the reactor's own region has a version. A write stores a pattern of block
//! and version, a read is compared with the version acknowledged last, and at the end every written block is
//! read back. A block has at most one request in flight, so there is exactly one right answer.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hdrhistogram::Histogram;
use rustix::event::{EventfdFlags, eventfd};

use super::BenchPattern;
use crate::clock::{Clock, MonotonicClock};
use crate::frontend::Frontend;
use crate::memory::{Memory, Pool, Span};
use crate::request::{Reply, Request, RequestKind};

/// Most blocks of one reactor's region under verification.
const VERIFIED_BLOCKS_MAX: u64 = 1 << 18;

/// Settings of a generator.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) pattern: BenchPattern,
    pub(super) read_percent: u8,
    pub(super) block_bytes: u32,
    pub(super) queue_depth: usize,
    /// The reactor's own part of the array, in bytes.
    pub(super) region: std::ops::Range<u64>,
    pub(super) seed: u64,
    pub(super) verify: bool,
    /// Whether blocks that were never written must read as zeros.
    pub(super) zeros_at_first: bool,
}

/// Counters of a generator during the measurement.
pub(super) struct Counted {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) latency: Histogram<u64>,
    pub(super) verified_bytes: u64,
    pub(super) mismatches: u64,
}

/// The buffer of one request, and its current use.
#[derive(Clone, Copy)]
struct InFlight {
    span: Span,
    /// Time of the buffer's last answer: the latency includes the time that a request waits until the engine
    /// takes it.
    submitted_ns: u64,
    block: u64,
    is_read: bool,
}

/// The generator; see the top of this file.
pub(super) struct Generator {
    load: Load,
    blocks: u64,
    buffers: Vec<InFlight>,
    /// Buffers that are not in flight, in the order in which they were answered. Like a host that asks again
    /// at once, the generator uses every buffer in turn, however few requests the engine takes at a time.
    free: VecDeque<u32>,
    random: u64,
    next: u64,
    measuring: Arc<AtomicBool>,
    counted: Counted,
    /// A latency, and how many successive requests had it, not in the histogram yet. The answers of one turn
    /// have few different latencies, and recording each by itself cost 2.5 percent of a 4 KiB write (perf).
    latency_run: (u64, u64),
    now_ns: u64,
    closed: bool,
    /// Version of each block, and whether a request for the block is in flight; empty without verification.
    versions: Vec<(u32, bool)>,
    /// The next block to read back at the end.
    read_back: u64,
    replied: bool,
    /// A descriptor that is never readable. Replies alone tell a generator what to do, so with everything in
    /// flight its reactor sleeps on the ring, as with a real front end, and leaves the core to the kernel's
    /// workers. On tmpfs, where the workers do all member I/O, that gives half as much throughput again
    /// (benches/record).
    silence: OwnedFd,
}

impl Generator {
    pub(super) fn new(load: Load, measuring: Arc<AtomicBool>) -> Generator {
        let mut blocks = (load.region.end - load.region.start) / u64::from(load.block_bytes);
        if load.verify {
            blocks = blocks.min(VERIFIED_BLOCKS_MAX);
        }
        let versions = if load.verify { vec![(0, false); blocks as usize] } else { Vec::new() };
        Generator {
            blocks,
            buffers: Vec::with_capacity(load.queue_depth),
            free: VecDeque::with_capacity(load.queue_depth),
            random: load.seed | 1,
            next: 0,
            measuring,
            counted: Counted {
                requests: 0,
                errors: 0,
                latency: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("these bounds are valid"),
                verified_bytes: 0,
                mismatches: 0,
            },
            latency_run: (0, 0),
            now_ns: 0,
            closed: false,
            versions,
            read_back: 0,
            replied: false,
            silence: eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor is left"),
            load,
        }
    }

    /// Returns the buffers to the pool; nothing is in flight.
    pub(super) fn give_back(self, pool: &mut Pool) {
        self.buffers.into_iter().for_each(|buffer| pool.give(buffer.span));
    }

    pub(super) fn counted(mut self) -> Counted {
        self.end_latency_run();
        self.counted
    }

    fn count_latency(&mut self, ns: u64) {
        if self.latency_run.0 != ns {
            self.end_latency_run();
            self.latency_run = (ns, 0);
        }
        self.latency_run.1 += 1;
    }

    fn end_latency_run(&mut self) {
        let (ns, count) = std::mem::take(&mut self.latency_run);
        if count > 0 {
            self.counted.latency.saturating_record_n(ns, count);
        }
    }

    /// xorshift64* (Vigna 2014): a few cycles, and random enough to choose blocks.
    fn chance(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next block, and whether to read it; `None` if verification must first wait for the block's request
    /// in flight.
    fn choose(&mut self) -> Option<(u64, bool)> {
        let is_random = matches!(
            self.load.pattern,
            BenchPattern::RandRead | BenchPattern::RandWrite | BenchPattern::RandRw
        );
        let block = if is_random {
            ((u128::from(self.chance()) * u128::from(self.blocks)) >> 64) as u64
        } else {
            let block = self.next;
            self.next = if block + 1 == self.blocks { 0 } else { block + 1 };
            block
        };
        let is_read = match self.load.pattern {
            BenchPattern::Read | BenchPattern::RandRead => true,
            BenchPattern::Write | BenchPattern::RandWrite => false,
            BenchPattern::RandRw => self.chance() % 100 < u64::from(self.load.read_percent),
        };
        self.claim(block).then_some((block, is_read))
    }

    fn claim(&mut self, block: u64) -> bool {
        match self.versions.get_mut(block as usize) {
            Some((_, busy)) => !std::mem::replace(busy, true),
            None => true,
        }
    }

    /// The next written block that is not read back yet.
    fn next_to_read_back(&mut self) -> Option<u64> {
        while self.read_back < self.versions.len() as u64 {
            let block = self.read_back;
            let (version, busy) = self.versions[block as usize];
            if busy {
                return None;
            }
            self.read_back += 1;
            if version > 0 {
                self.versions[block as usize].1 = true;
                return Some(block);
            }
        }
        None
    }

    fn make(&mut self, memory: &Memory, index: u32, block: u64, is_read: bool) -> Request {
        if !self.versions.is_empty() && !is_read {
            let version = self.versions[block as usize].0 + 1;
            memory.with_mut(self.buffers[index as usize].span, |bytes| fill(bytes, block, version));
        }
        let buffer = &mut self.buffers[index as usize];
        (buffer.block, buffer.is_read) = (block, is_read);
        Request {
            tag: u64::from(index),
            kind: if is_read { RequestKind::Read } else { RequestKind::Write { fua: false } },
            offset_bytes: self.load.region.start + block * u64::from(self.load.block_bytes),
            len_bytes: u64::from(self.load.block_bytes),
            span: buffer.span,
        }
    }

    fn check(&mut self, memory: &Memory, buffer: InFlight) {
        let (version, _) = self.versions[buffer.block as usize];
        let right = match version {
            0 if !self.load.zeros_at_first => return,
            0 => memory.is_zero(buffer.span),
            version => memory.with(buffer.span, |bytes| is_filled(bytes, buffer.block, version)),
        };
        if right {
            self.counted.verified_bytes += u64::from(buffer.span.len_bytes);
        } else {
            self.counted.mismatches += 1;
        }
    }
}

/// A word of the pattern of a block's version; each word depends on its place, so misplaced data is found.
fn word(block: u64, version: u32, at: usize) -> u64 {
    (block << 32 ^ u64::from(version)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(at as u32 & 63)
        ^ at as u64
}

fn fill(bytes: &mut [u8], block: u64, version: u32) {
    for (at, chunk) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *chunk = word(block, version, at).to_le_bytes();
    }
}

fn is_filled(bytes: &[u8], block: u64, version: u32) -> bool {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .enumerate()
        .all(|(at, chunk)| *chunk == word(block, version, at).to_le_bytes())
}

impl Frontend for Generator {
    fn gather(&mut self, memory: &Memory, pool: &mut Pool, room: usize, requests: &mut Vec<Request>) {
        if self.buffers.is_empty() {
            for index in 0..self.load.queue_depth {
                let span = pool.take(self.load.block_bytes).expect("the pool was made for this depth");
                let submitted_ns = MonotonicClock.now_ns();
                self.buffers.push(InFlight { span, submitted_ns, block: 0, is_read: false });
                self.free.push_back(index as u32);
            }
        }
        if self.free.is_empty() {
            return;
        }
        let mut tries = 2 * self.load.queue_depth;
        while requests.len() < room && tries > 0 {
            let Some(&index) = self.free.front() else { return };
            tries -= 1;
            let chosen = match self.closed {
                false => self.choose(),
                true if self.load.verify => self.next_to_read_back().map(|block| (block, true)),
                true => None,
            };
            let Some((block, is_read)) = chosen else { continue };
            self.free.pop_front();
            requests.push(self.make(memory, index, block, is_read));
        }
    }

    fn reply(&mut self, memory: &Memory, _pool: &mut Pool, reply: Reply) {
        if !self.replied {
            self.now_ns = MonotonicClock.now_ns();
            self.replied = true;
        }
        let buffer = self.buffers[reply.tag as usize];
        self.buffers[reply.tag as usize].submitted_ns = self.now_ns;
        self.free.push_back(reply.tag as u32);
        if !self.versions.is_empty() {
            if reply.result.is_ok() && buffer.is_read {
                self.check(memory, buffer);
            }
            let (version, busy) = &mut self.versions[buffer.block as usize];
            *busy = false;
            if reply.result.is_ok() && !buffer.is_read {
                *version += 1;
            }
        }
        if self.measuring.load(Ordering::Relaxed) {
            self.counted.requests += 1;
            self.counted.errors += u64::from(reply.result.is_err());
            self.count_latency(self.now_ns - buffer.submitted_ns);
        }
    }

    fn settle(&mut self, _memory: &Memory, _pool: &mut Pool) {
        self.replied = false;
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.silence.as_raw_fd())
    }

    fn close(&mut self) {
        self.closed = true;
    }

    fn drained(&self) -> bool {
        self.closed
            && self.free.len() == self.buffers.len()
            && (!self.load.verify || self.read_back == self.versions.len() as u64)
    }
}
