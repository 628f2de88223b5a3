//! A block device that stores nothing and answers at once: the ceiling of this front end.
//!
//! Everything on the path except the array is present: the driver, the reactor's ring and its bell, the
//! queue, the copies. An array's figures are to be compared with this device's, on the same machine in the
//! same minute.

#![expect(unsafe_code, reason = "the ring names its descriptor by number")]

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::control::failed;
use super::{Last, Ublk, UblkChoice, UblkError, UblkFeature, UblkPlace, UblkPlan, UblkShape};
use crate::frontend::Frontend;
use crate::memory::{Memory, Pool};
use crate::request::{Reply, Request};
use crate::ring::{Completion, Ring, Uring, UringConfig};

/// Memory of each queue: room for as many of the largest requests as a queue of an array has.
const MEMORY_BYTES: usize = 32 << 20;
/// Idle turns before a queue sleeps, as in a reactor.
const SPINS_BEFORE_SLEEP: u32 = 256;
/// Requests taken per turn, as in a reactor.
const REQUESTS_PER_TURN: usize = 256;
/// How often a sleeping queue checks whether it is to end.
const LOOK_NS: i64 = 50_000_000;

/// A null device that is being served.
pub struct UblkNull {
    ublk: Ublk,
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl UblkNull {
    /// Makes the device, and starts one thread per queue.
    pub fn start(size_bytes: u64, queues: usize, without: &[UblkFeature]) -> Result<UblkNull, UblkError> {
        let shape = UblkShape {
            size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            chunk_bytes: 64 << 10,
            stripe_bytes: 256 << 10,
            volatile_cache: false,
            read_only: false,
        };
        let plan = UblkPlan { choice: UblkChoice::Any, queues, without: without.to_vec() };
        let mut ublk = Ublk::open(&plan, "a null device", "", &shape, &mut |_| Ok(Last::Whole))?;
        let ending = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for place in ublk.places() {
            let ending = Arc::clone(&ending);
            let thread = std::thread::Builder::new().name("null-queue".into()).spawn(move || {
                serve(place, &ending);
            });
            threads.push(thread.map_err(|error| failed("start a thread", &error))?);
        }
        ublk.start()?;
        Ok(UblkNull { ublk, ending, threads })
    }

    /// Path of the block device.
    #[must_use]
    pub fn path(&self) -> String {
        self.ublk.path()
    }

    /// Removes the device even if it is in use.
    pub fn stop(mut self) -> Result<(), UblkError> {
        self.ublk.close(true)?;
        // Relaxed: the flag publishes no other data.
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| UblkError("a queue of the null device panicked".into()))?;
        }
        self.ublk.remove()
    }
}

/// Serves a queue until the device ends. If a thread cannot begin, the start of the device times out.
fn serve(place: UblkPlace, ending: &AtomicBool) {
    let begun = Memory::new(&[MEMORY_BYTES]).and_then(|memory| {
        let config = UringConfig { host_buffers: place.host_buffers(), ..UringConfig::default() };
        let mut ring = Uring::new(Arc::clone(&memory), &config)?;
        let mut pool = Pool::new(&memory, 0);
        let frontend = place.open(&mut ring, &memory, &mut pool)?;
        Ok((memory, ring, pool, frontend))
    });
    let (memory, mut ring, mut pool, mut frontend) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "striate: a queue of the null device: {error}");
            return;
        }
    };
    let (mut requests, mut completions) =
        (Vec::<Request>::with_capacity(REQUESTS_PER_TURN), Vec::<Completion>::new());
    let mut idle_turns = 0;
    while !ending.load(Ordering::Relaxed) {
        frontend.gather(&memory, &mut pool, REQUESTS_PER_TURN, &mut requests);
        idle_turns = if requests.is_empty() { idle_turns + 1 } else { 0 };
        for request in requests.drain(..) {
            frontend.reply(
                &memory,
                &mut pool,
                Reply { tag: request.tag, result: Ok(()), span: request.span },
            );
        }
        frontend.settle(&memory, &mut pool);
        ring.turn(&mut completions);
        if idle_turns > SPINS_BEFORE_SLEEP && !frontend.has_arrivals() {
            let fd = ring.wait_fd().expect("its queue has a bell");
            // SAFETY: the ring owns the descriptor and outlives the call.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            let _woken_or_not = poll(
                &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
                Some(&Timespec { tv_sec: 0, tv_nsec: LOOK_NS }),
            );
        }
    }
}
