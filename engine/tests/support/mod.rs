//! What the front end tests share: an array in RAM, and a reactor that turns a front end over it.
//!
//! The reactor checks the contract while it turns: requests are well-formed, tags in flight differ, spans
//! in flight share no byte, and after the drain every span is back in the pool.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod client;

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::frontend::Frontend;
use engine::limits::REQUEST_BYTES_MAX;
use engine::memory::{Memory, Pool, Span};
use engine::request::{Reply, Request, RequestError, RequestKind};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Nothing in these tests takes longer unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How the array answers.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// In the turn that brought the request.
    Instant,
    /// In an order drawn from the seed, some turns later.
    Shuffled(u64),
}

/// An array in RAM, shared by reactors.
pub struct RamArray {
    pub bytes: Mutex<Vec<u8>>,
    /// Reads and writes that touch this fail with `Lost`.
    pub lost: Mutex<Range<u64>>,
    /// While set, nothing is answered.
    pub held: AtomicBool,
    /// Requests seen.
    pub requests: AtomicU64,
    pub flushes: AtomicU64,
    /// Writes and write-zeroes that were to be durable.
    pub durable: AtomicU64,
}

impl RamArray {
    pub fn new(size_bytes: usize) -> Arc<RamArray> {
        Arc::new(RamArray {
            bytes: Mutex::new(vec![0; size_bytes]),
            lost: Mutex::new(0..0),
            held: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            durable: AtomicU64::new(0),
        })
    }

    fn execute(&self, memory: &Memory, request: &Request) -> Result<(), RequestError> {
        let range = request.offset_bytes as usize..(request.offset_bytes + request.len_bytes) as usize;
        let lost = self.lost.lock().unwrap().clone();
        if lost.start < range.end as u64 && (range.start as u64) < lost.end {
            return Err(RequestError::Lost);
        }
        let mut bytes = self.bytes.lock().unwrap();
        match request.kind {
            RequestKind::Read => memory.write_to(request.span, &bytes[range]),
            RequestKind::Write { fua } => {
                memory.read_from(request.span, &mut bytes[range]);
                self.durable.fetch_add(fua.into(), Ordering::Relaxed);
            }
            RequestKind::Flush => drop(self.flushes.fetch_add(1, Ordering::Relaxed)),
            RequestKind::Discard => bytes[range].fill(0),
            RequestKind::WriteZeroes { fua } => {
                bytes[range].fill(0);
                self.durable.fetch_add(fua.into(), Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// A front end on a thread of its own.
pub struct Reactor {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Reactor {
    /// Turns `frontend` over `array`, with a pool of `pool_bytes` and at most `room` requests a turn.
    pub fn start<F: Frontend + Send + 'static>(
        frontend: F,
        array: Arc<RamArray>,
        pace: Pace,
        pool_bytes: usize,
        room: usize,
    ) -> Reactor {
        let stop = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let bell = Arc::clone(&stop);
        let thread =
            std::thread::spawn(move || turn_until_drained(frontend, &array, pace, pool_bytes, room, &bell));
        Reactor { stop, thread: Some(thread) }
    }

    /// Closes the front end and waits until it has drained; fails when the contract was broken.
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

fn turn_until_drained<F: Frontend>(
    mut frontend: F,
    array: &RamArray,
    pace: Pace,
    pool_bytes: usize,
    room: usize,
    stop: &OwnedFd,
) {
    let memory = Memory::new(&[pool_bytes]).unwrap();
    let mut pool = Pool::new(&memory, 0);
    let full_bytes = pool.available_bytes();
    let size_bytes = array.bytes.lock().unwrap().len() as u64;
    let mut requests: Vec<Request> = Vec::new();
    let mut in_flight: Vec<Request> = Vec::new();
    let mut tags: HashMap<u64, Span> = HashMap::new();
    let mut random = Random(match pace {
        Pace::Instant => 1,
        Pace::Shuffled(seed) => seed | 1,
    });
    let mut closed: Option<Instant> = None;
    while !frontend.drained() {
        frontend.gather(&memory, &mut pool, room, &mut requests);
        assert!(requests.len() <= room, "no more than there is room for");
        array.requests.fetch_add(requests.len() as u64, Ordering::Relaxed);
        for request in requests.drain(..) {
            check_request(&request, size_bytes);
            assert!(tags.values().all(|other| !other.overlaps(request.span)), "spans in flight are disjoint");
            assert!(tags.insert(request.tag, request.span).is_none(), "tags in flight differ");
            in_flight.push(request);
        }
        let held = array.held.load(Ordering::Relaxed);
        let answered_count = match pace {
            _ if held => 0,
            Pace::Instant => in_flight.len(),
            Pace::Shuffled(_) => random.below(in_flight.len() + 1),
        };
        for _ in 0..answered_count {
            let index = match pace {
                Pace::Instant => 0,
                Pace::Shuffled(_) => random.below(in_flight.len()),
            };
            let request = in_flight.remove(index);
            let result = array.execute(&memory, &request);
            tags.remove(&request.tag);
            frontend.reply(&memory, &mut pool, Reply { tag: request.tag, result });
        }
        frontend.settle(&memory, &mut pool);
        if closed.is_none() && rustix::io::read(stop, &mut [0; 8]).is_ok() {
            frontend.close();
            closed = Some(Instant::now());
        }
        if closed.is_some_and(|since| since.elapsed() > PATIENCE) {
            panic!("the front end does not drain");
        }
        let waits_for_host = held || in_flight.is_empty();
        if let Some(fd) = frontend.wait_fd().filter(|_| waits_for_host && !frontend.drained()) {
            // SAFETY: the front end is alive, and its descriptor with it.
            #[expect(unsafe_code, reason = "the trait gives a raw descriptor")]
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let mut waits = [PollFd::new(&fd, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            // Held requests have to be looked at again; otherwise only the descriptors may wake us, and a
            // front end that forgets to would hang the test.
            let timeout = if held { Timespec { tv_sec: 0, tv_nsec: 1_000_000 } } else { seconds(PATIENCE) };
            let woken = poll(&mut waits, Some(&timeout)).unwrap();
            assert!(woken > 0 || held || closed.is_none(), "nothing woke the reactor while it drained");
        }
    }
    assert!(in_flight.is_empty(), "drained means that all is answered");
    assert_eq!(pool.available_bytes(), full_bytes, "drained means that every span is given back");
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

/// A small generator (xorshift64*): the same numbers for the same seed.
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

/// Waits for something that another thread brings about.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
