//! Common parts of the front end tests: an array in RAM, and a reactor that turns a front end over it.
//!
//! The reactor checks the contract while it turns: requests are well-formed, tags in flight differ, spans in
//! flight share no byte, and after the drain every span is back in the pool.
//!
//! A front end whose requests arrive by the reactor's ring brings that ring along ([`Opened`]), and the
//! reactor turns both. A read of such a front end may use a *host buffer*, which only a device can fill. Some
//! of these reads are answered `NeedsMemory`, as by an array that has to touch the bytes; for the others the
//! ring reads from a file, as from a member.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod block;
pub mod client;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::frontend::Frontend;
use engine::limits::REQUEST_BYTES_MAX;
use engine::memory::{Memory, Pool, Span};
use engine::request::{Reply, Request, RequestError, RequestKind};
use engine::ring::{Completion, Deallocate, DeviceIndex, MemberIo, MemberOp, Ring, Uring, UringDevice};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Requests that the engine takes before the first is answered.
const REQUESTS_IN_ENGINE_MAX: usize = 1024;

/// Longest wait of these tests: anything longer is a hang.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The order and time in which the array answers.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Answers in the turn that brought the request.
    Instant,
    /// Answers some turns later, in an order drawn from the seed.
    Shuffled(u64),
}

/// An array in RAM, shared by reactors.
pub struct RamArray {
    pub bytes: Mutex<Vec<u8>>,
    /// Range in which reads and writes fail with `Lost`.
    pub lost: Mutex<Range<u64>>,
    /// While set, nothing is answered.
    pub held: AtomicBool,
    /// Requests that touch this range are not answered.
    pub held_range: Mutex<Range<u64>>,
    /// Number of requests seen.
    pub requests: AtomicU64,
    /// The value of `requests` when the last write-zeroes was carried out.
    pub requests_at_zeroes: AtomicU64,
    /// Number of writes among the requests.
    pub writes: AtomicU64,
    /// Number of reactors that have seen requests.
    pub reactors: AtomicU64,
    pub flushes: AtomicU64,
    pub discards: AtomicU64,
    pub zeroes: AtomicU64,
    /// Number of writes and write-zeroes that had to be durable.
    pub durable: AtomicU64,
    /// Number of reads that filled a host buffer. `sent_back` counts those that were answered `NeedsMemory`.
    pub direct: AtomicU64,
    pub sent_back: AtomicU64,
}

impl RamArray {
    pub fn new(size_bytes: usize) -> Arc<RamArray> {
        Arc::new(RamArray {
            bytes: Mutex::new(vec![0; size_bytes]),
            lost: Mutex::new(0..0),
            held: AtomicBool::new(false),
            held_range: Mutex::new(0..0),
            requests: AtomicU64::new(0),
            requests_at_zeroes: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            reactors: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            discards: AtomicU64::new(0),
            zeroes: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            direct: AtomicU64::new(0),
            sent_back: AtomicU64::new(0),
        })
    }

    /// Counts the requests that a reactor has gathered.
    fn note(&self, requests: &[Request]) {
        let is_write = |request: &&Request| matches!(request.kind, RequestKind::Write { .. });
        self.writes.fetch_add(requests.iter().filter(is_write).count() as u64, Ordering::Relaxed);
        self.requests.fetch_add(requests.len() as u64, Ordering::Relaxed);
    }

    /// The bytes of a request, unless some are lost.
    fn range(&self, request: &Request) -> Result<Range<usize>, RequestError> {
        let range = request.offset_bytes as usize..(request.offset_bytes + request.len_bytes) as usize;
        if meets(request, &self.lost.lock().unwrap()) { Err(RequestError::Lost) } else { Ok(range) }
    }

    fn holds(&self, request: &Request) -> bool {
        self.held.load(Ordering::Relaxed) || meets(request, &self.held_range.lock().unwrap())
    }

    fn execute(&self, memory: &Memory, request: &Request) -> Result<(), RequestError> {
        let range = self.range(request)?;
        let mut bytes = self.bytes.lock().unwrap();
        match request.kind {
            RequestKind::Read => memory.write_to(request.span, &bytes[range]),
            RequestKind::Write { fua } => {
                memory.read_from(request.span, &mut bytes[range]);
                self.durable.fetch_add(fua.into(), Ordering::Relaxed);
            }
            RequestKind::Flush => drop(self.flushes.fetch_add(1, Ordering::Relaxed)),
            RequestKind::Discard => {
                bytes[range].fill(0);
                self.discards.fetch_add(1, Ordering::Relaxed);
            }
            RequestKind::WriteZeroes { fua } => {
                bytes[range].fill(0);
                self.zeroes.fetch_add(1, Ordering::Relaxed);
                self.requests_at_zeroes.store(self.requests.load(Ordering::Relaxed), Ordering::Relaxed);
                self.durable.fetch_add(fua.into(), Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Whether a request touches a range.
fn meets(request: &Request, range: &Range<u64>) -> bool {
    range.start < request.offset_bytes + request.len_bytes && request.offset_bytes < range.end
}

/// A front end, and the ring by which its requests arrive, if they do.
pub type Opened<F> = (F, Option<Uring>);

/// A front end on a thread of its own.
pub struct Reactor {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Reactor {
    /// Turns `frontend` over `array`, with a pool of `pool_bytes` and at most `room` requests per turn.
    pub fn start<F: Frontend + Send + 'static>(
        frontend: F,
        array: Arc<RamArray>,
        pace: Pace,
        pool_bytes: usize,
        room: usize,
    ) -> Reactor {
        Reactor::start_with(move |_, _| (frontend, None), array, pace, pool_bytes, room)
    }

    /// Like [`Reactor::start`], but opens the front end on the reactor's thread, with the reactor's memory
    /// and the pool that its turns use.
    pub fn start_with<F: Frontend>(
        open: impl FnOnce(&Arc<Memory>, &mut Pool) -> Opened<F> + Send + 'static,
        array: Arc<RamArray>,
        pace: Pace,
        pool_bytes: usize,
        room: usize,
    ) -> Reactor {
        let stop = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let bell = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let memory = Memory::new(&[pool_bytes]).unwrap();
            let mut pool = Pool::new(&memory, 0);
            let (frontend, ring) = open(&memory, &mut pool);
            Turning::new(frontend, ring, memory, pool, &array, pace, room).until_drained(&bell);
        });
        Reactor { stop, thread: Some(thread) }
    }

    /// Closes the front end and waits until it has drained; panics if the contract was broken.
    pub fn stop(mut self) {
        self.close();
        self.thread.take().unwrap().join().expect("the reactor found the contract kept");
    }

    /// Closes the front end.
    pub fn close(&self) {
        rustix::io::write(&*self.stop, &1u64.to_ne_bytes()).unwrap();
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.close();
        }
    }
}

/// The state of a reactor on its thread.
struct Turning<'a, F> {
    frontend: F,
    memory: Arc<Memory>,
    pool: Pool,
    direct: Option<Direct>,
    array: &'a RamArray,
    pace: Pace,
    room: usize,
    random: Random,
    has_gathered: bool,
    /// Requests that were gathered but not begun.
    in_flight: Vec<Request>,
    /// Spans of the requests that were gathered but not answered, by tag.
    tags: HashMap<u64, Span>,
}

impl<'a, F: Frontend> Turning<'a, F> {
    fn new(
        frontend: F,
        ring: Option<Uring>,
        memory: Arc<Memory>,
        pool: Pool,
        array: &'a RamArray,
        pace: Pace,
        room: usize,
    ) -> Self {
        let random = Random(match pace {
            Pace::Instant => 1,
            Pace::Shuffled(seed) => seed | 1,
        });
        Turning {
            frontend,
            memory,
            pool,
            direct: ring.map(Direct::new),
            array,
            pace,
            room,
            random,
            has_gathered: false,
            in_flight: Vec::new(),
            tags: HashMap::new(),
        }
    }

    fn until_drained(mut self, stop: &OwnedFd) {
        let full_bytes = self.pool.available_bytes();
        let mut closed: Option<Instant> = None;
        while !self.frontend.drained() {
            let gathered = self.gather();
            let (mut held, others) = self.in_flight.drain(..).partition(|request| self.array.holds(request));
            self.in_flight = others;
            let answered = self.answer();
            self.in_flight.append(&mut held);
            let held = self.in_flight.iter().any(|request| self.array.holds(request));
            self.frontend.settle(&self.memory, &mut self.pool);
            // Turned last: the replies are then on their way before the front end is drained.
            let completed = self.direct.as_mut().map_or(0, Direct::turn);
            if closed.is_none() && rustix::io::read(stop, &mut [0; 8]).is_ok() {
                self.frontend.close();
                closed = Some(Instant::now());
            }
            if closed.is_some_and(|since| since.elapsed() > PATIENCE) {
                panic!("the front end does not drain");
            }
            // With a ring, sleep as a reactor does, after a turn without progress; otherwise sleep at once.
            let moved = self.direct.is_some() && gathered + answered + completed > 0;
            if !moved && !self.frontend.has_arrivals() && !self.frontend.drained() {
                self.sleep(held, stop, closed.is_some());
            }
        }
        assert!(self.tags.is_empty(), "drained means that all is answered");
        assert_eq!(self.pool.available_bytes(), full_bytes, "drained means that every span is given back");
    }

    /// Gathers new requests; returns their number.
    fn gather(&mut self) -> usize {
        let mut requests = Vec::new();
        let room = self.room.min(REQUESTS_IN_ENGINE_MAX - self.tags.len());
        self.frontend.gather(&self.memory, &mut self.pool, room, &mut requests);
        assert!(requests.len() <= room, "no more than there is room for");
        self.array.note(&requests);
        if !requests.is_empty() && !self.has_gathered {
            self.has_gathered = true;
            self.array.reactors.fetch_add(1, Ordering::Relaxed);
        }
        for request in &requests {
            check_request(request, self.array.bytes.lock().unwrap().len() as u64);
            let apart = |other: &Span| !other.overlaps(request.span);
            assert!(self.tags.values().all(apart), "spans in flight are disjoint");
            assert!(self.tags.insert(request.tag, request.span).is_none(), "tags in flight differ");
        }
        self.in_flight.extend_from_slice(&requests);
        requests.len()
    }

    /// Answers as many requests as the pace demands, and those that the ring has read; returns their number.
    fn answer(&mut self) -> usize {
        let begun = match self.pace {
            Pace::Instant => self.in_flight.len(),
            Pace::Shuffled(_) => self.random.below(self.in_flight.len() + 1),
        };
        for _ in 0..begun {
            let index = match self.pace {
                Pace::Instant => 0,
                Pace::Shuffled(_) => self.random.below(self.in_flight.len()),
            };
            let request = self.in_flight.remove(index);
            if self.memory.is_mapped(request.span) {
                self.reply(request.tag, self.array.execute(&self.memory, &request));
            } else {
                self.read_to_host(&request);
            }
        }
        let read = self.direct.as_mut().map(|direct| std::mem::take(&mut direct.completions));
        let read = read.unwrap_or_default();
        for completion in &read {
            assert_eq!(completion.result, Ok(()), "a host buffer can be filled");
            self.reply(completion.tag.into(), Ok(()));
        }
        begun + read.len()
    }

    /// Performs a read into a host buffer, whose bytes only a device can touch.
    fn read_to_host(&mut self, request: &Request) {
        assert_eq!(request.kind, RequestKind::Read, "only reads may have host buffers");
        let range = match self.array.range(request) {
            Ok(range) => range,
            Err(error) => return self.reply(request.tag, Err(error)),
        };
        if self.random.below(2) == 0 {
            self.array.sent_back.fetch_add(1, Ordering::Relaxed);
            return self.reply(request.tag, Err(RequestError::NeedsMemory));
        }
        self.array.direct.fetch_add(1, Ordering::Relaxed);
        let direct = self.direct.as_mut().expect("without a ring there are no host buffers");
        direct.read(request, &self.array.bytes.lock().unwrap()[range]);
    }

    fn reply(&mut self, tag: u64, result: Result<(), RequestError>) {
        let mut span = self.tags.remove(&tag).expect("answered once");
        // Now and then the reply has another span than the request, as when a member has not released the
        // first.
        if self.memory.is_mapped(span)
            && span.len_bytes > 0
            && self.random.below(4) == 0
            && let Some(whole) = self.pool.take_kept_back(self.frontend.span_bytes(span.len_bytes))
        {
            let other = whole.part(0, span.len_bytes);
            self.memory.copy(span, other);
            self.memory.with_mut(span, |bytes| bytes.fill(0xee));
            self.pool.give(span);
            span = other;
        }
        self.frontend.reply(&self.memory, &mut self.pool, Reply { tag, result, span });
    }

    /// Sleeps until the front end, its ring or an order wakes the reactor, unless answers are pending.
    fn sleep(&self, held: bool, stop: &OwnedFd, closed: bool) {
        if !held && !self.in_flight.is_empty() {
            return;
        }
        let Some(fd) = self.frontend.wait_fd() else { return };
        // SAFETY: the front end is alive, and its descriptor with it.
        #[expect(unsafe_code, reason = "the trait gives a raw descriptor")]
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let mut waits = [PollFd::new(&fd, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        // Held requests have to be looked at again. Otherwise only the descriptors may wake the reactor, so a
        // front end that forgets to ring would hang the test.
        let timeout = if held { Timespec { tv_sec: 0, tv_nsec: 1_000_000 } } else { seconds(PATIENCE) };
        let woken = poll(&mut waits, Some(&timeout)).unwrap();
        assert!(woken > 0 || held || !closed, "nothing woke the reactor while it drained");
    }
}

/// A ring that fills host buffers from a file, as it would from a member; the array's bytes are put into the
/// file first.
struct Direct {
    ring: Uring,
    file: File,
    /// Completions that are not answered yet.
    completions: Vec<Completion>,
}

impl Direct {
    fn new(mut ring: Uring) -> Direct {
        let file: File = rustix::fs::memfd_create("member", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into();
        let device = UringDevice {
            file: file.try_clone().unwrap(),
            namespace: None,
            deallocate: Deallocate::Ignore,
            polled: false,
            depth_max: 64,
            transfer_bytes_max: REQUEST_BYTES_MAX,
        };
        ring.attach(DeviceIndex(0), device).unwrap();
        Direct { ring, file, completions: Vec::new() }
    }

    fn read(&mut self, request: &Request, bytes: &[u8]) {
        self.file.write_all_at(bytes, request.offset_bytes).unwrap();
        self.ring.push(MemberOp {
            tag: u32::try_from(request.tag).unwrap(),
            device: DeviceIndex(0),
            io: MemberIo::Read,
            offset_bytes: request.offset_bytes,
            len_bytes: request.len_bytes,
            span: request.span,
        });
    }

    /// Turns the ring; returns the number of reads that have completed.
    fn turn(&mut self) -> usize {
        let before = self.completions.len();
        self.ring.turn(&mut self.completions);
        self.completions.len() - before
    }
}

fn seconds(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: 0 }
}

fn check_request(request: &Request, size_bytes: u64) {
    let carries = matches!(request.kind, RequestKind::Read | RequestKind::Write { .. });
    assert!(
        request.offset_bytes.checked_add(request.len_bytes).is_some_and(|end| end <= size_bytes),
        "{request:?}"
    );
    assert_eq!((request.offset_bytes | request.len_bytes) % 512, 0, "{request:?}");
    assert_eq!(request.len_bytes == 0, request.kind == RequestKind::Flush, "{request:?}");
    let data_bytes = if carries { request.len_bytes } else { 0 };
    assert_eq!(u64::from(request.span.len_bytes), data_bytes, "{request:?}");
    assert!(data_bytes <= u64::from(REQUEST_BYTES_MAX), "{request:?}");
}

/// Random numbers from a seed (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Waits for something that another thread causes.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
