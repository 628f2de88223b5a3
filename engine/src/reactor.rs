//! A reactor: one thread, one core, one ring, one share of the array, one share of the front end.
//!
//! The loop repeats a turn: gather requests, take mail, take completions, advance, submit, reply. A turn is
//! bounded and never blocks, locks or allocates. After turns without work the reactor spins a little, then
//! sleeps in the kernel until its ring, its front end, its mailbox or the steward's clock has work for it, so
//! an idle array does not burn a core. While it waits for something that no descriptor announces (another
//! reactor's bitmap write, for example), it naps for microseconds instead, so that on a machine with few
//! cores the other reactor gets to run.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use crossbeam::channel::Sender;
use crossbeam::queue::SegQueue;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::array::{Array, Shared};
use crate::clock::Clock;
use crate::frontend::Frontend;
use crate::memory::{Memory, Pool};
use crate::request::Request;
use crate::ring::Ring;

/// Turns without work before a reactor goes to sleep.
const SPINS_BEFORE_SLEEP: u32 = 256;
/// Length of a nap, while the reactor waits for something that no descriptor announces.
const NAP_NS: u32 = 50_000;
/// Requests taken from the front end in one turn: enough to fill a submission with member I/O, and few enough
/// that what the turn touches (ops, their memory, the requests' bytes) is still in cache when the turn comes
/// back to it. Nanoseconds of a core per request, on null members: 4 KiB writes 704 with 32, 746 with 64, 727
/// with 256; degraded reads 257, 266, 291; healthy reads 98 with 32 or more, and 115 with 16.
const REQUESTS_PER_TURN: usize = 32;
/// Most messages taken in one turn.
const MESSAGES_PER_TURN: usize = 256;

/// An order from the server to a reactor.
pub enum ReactorOrder<R> {
    /// Call this function with the ring, on the reactor's thread.
    WithRing(Box<dyn FnOnce(&mut R) + Send>),
    /// Take no new requests, and report when the array is drained: no op works for hosts any more, and every
    /// request is answered except those that the kernel keeps (see [`Array::left_to_kernel`]).
    Drain(Sender<()>),
    /// Return from [`Reactor::run`].
    Exit,
}

/// The server's connection to a reactor.
pub struct ReactorPort<R> {
    /// Orders are few, and the queue is unbounded so that an order never waits for a reactor that is held up.
    orders: SegQueue<ReactorOrder<R>>,
}

impl<R> ReactorPort<R> {
    /// Makes a port without orders.
    #[must_use]
    pub fn new() -> Arc<ReactorPort<R>> {
        Arc::new(ReactorPort { orders: SegQueue::new() })
    }

    /// Gives an order, and wakes the reactor.
    pub fn order(&self, shared: &Shared, reactor: u8, order: ReactorOrder<R>) {
        self.orders.push(order);
        shared.mailboxes.wake(reactor);
    }
}

/// An eventfd that wakes one reactor.
pub struct Bell(OwnedFd);

impl Bell {
    /// Makes a silent bell.
    pub fn new() -> std::io::Result<Arc<Bell>> {
        Ok(Arc::new(Bell(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)))
    }

    /// Wakes the reactor that polls the bell.
    pub fn ring(&self) {
        // EAGAIN (counter full) means that the bell rings already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8][..]);
    }
}

/// A reactor and its parts.
pub struct Reactor<R: Ring, F: Frontend, C: Clock> {
    me: u8,
    shared: Arc<Shared>,
    memory: Arc<Memory>,
    array: Array,
    ring: R,
    frontend: F,
    /// Memory of host requests.
    pool: Pool,
    clock: C,
    port: Arc<ReactorPort<R>>,
    bell: Arc<Bell>,
    requests: Vec<Request>,
    draining: Option<Sender<()>>,
}

impl<R: Ring, F: Frontend, C: Clock> Reactor<R, F, C> {
    /// Makes a reactor of these parts; `bell` is what its mailbox's waker rings.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "the parts of a reactor, each named at its one caller")]
    pub fn new(
        me: u8,
        array: Array,
        shared: Arc<Shared>,
        ring: R,
        frontend: F,
        pool: Pool,
        clock: C,
        port: Arc<ReactorPort<R>>,
        bell: Arc<Bell>,
    ) -> Self {
        Reactor {
            me,
            memory: shared.memory.clone(),
            shared,
            array,
            ring,
            frontend,
            pool,
            clock,
            port,
            bell,
            requests: Vec::with_capacity(REQUESTS_PER_TURN),
            draining: None,
        }
    }

    /// Runs turns until ordered to exit. Returns the ring and the front end.
    pub fn run(mut self) -> (R, F) {
        let mut idle_turns = 0;
        loop {
            // Check first: taking from an empty queue costs a barrier.
            if !self.port.orders.is_empty()
                && let Some(order) = self.port.orders.pop()
            {
                match order {
                    ReactorOrder::WithRing(act) => act(&mut self.ring),
                    ReactorOrder::Drain(done) => {
                        self.frontend.close();
                        self.draining = Some(done);
                    }
                    ReactorOrder::Exit => return (self.ring, self.frontend),
                }
                idle_turns = 0;
            }
            if self.turn() {
                idle_turns = 0;
            } else {
                idle_turns += 1;
            }
            if idle_turns >= SPINS_BEFORE_SLEEP {
                self.sleep();
                // The next turn finds the cause of the wake-up; if that turn finds nothing, sleep again at
                // once.
                idle_turns = SPINS_BEFORE_SLEEP - 1;
            }
        }
    }

    /// Runs one turn; returns whether the turn had work.
    pub fn turn(&mut self) -> bool {
        let now_ns = self.clock.now_ns();
        let room = self.array.room().min(REQUESTS_PER_TURN);
        self.frontend.gather(&self.memory, &mut self.pool, room, &mut self.requests);
        let mut moved = !self.requests.is_empty();
        self.requests.iter().for_each(|request| self.array.anticipate(request));
        for request in self.requests.drain(..) {
            self.array.submit(&mut self.ring, now_ns, request);
        }
        // Check first: taking from empty mailboxes costs barriers.
        let has_mail = self.shared.mailboxes.has_mail(self.me);
        let messages_max = if has_mail { MESSAGES_PER_TURN } else { 0 };
        moved |= self.array.turn(&mut self.ring, now_ns, messages_max) || has_mail;
        moved |= self.frontend.has_arrivals();
        let frontend = &self.frontend;
        self.array.exchange_spans(&mut self.ring, &mut self.pool, |bytes| frontend.span_bytes(bytes));
        if cfg!(debug_assertions) {
            self.array.check_invariants();
        }
        let mut replied = false;
        for reply in self.array.take_replies() {
            self.frontend.reply(&self.memory, &mut self.pool, reply);
            replied = true;
        }
        // Settle in every turn, even one without work. A client that leaves silently, or with NBD_CMD_DISC,
        // needs no answer but leaves something to clean up. With settling only in turns that had work, the
        // client's place was not freed, and a stop that followed at once waited for it in vain.
        self.frontend.settle(&self.memory, &mut self.pool);
        if self.draining.is_some()
            && !self.array.works_for_hosts()
            && let Some(left) = self.array.left_to_kernel()
            && self.frontend.drained_but_for(left)
        {
            let done = self.draining.take().expect("looked at above");
            let _ = done.send(());
        }
        moved || replied
    }

    /// Sleeps until there may be work.
    fn sleep(&mut self) {
        let (ring, frontend) = (self.ring.wait_fd(), self.frontend.wait_fd());
        // A ring without a descriptor completes by the next turn; a front end without one must be polled.
        if frontend.is_none() || (ring.is_none() && !self.array.io_is_quiet()) {
            std::hint::spin_loop();
            return;
        }
        self.shared.mailboxes.about_to_sleep(self.me);
        let timeout_ns = if self.array.must_turn() || self.draining.is_some() {
            Some(u64::from(NAP_NS))
        } else {
            let now = self.clock.now_ns();
            self.array.next_deadline_ns().map(|deadline| deadline.saturating_sub(now))
        };
        if !self.shared.mailboxes.has_mail(self.me) && self.port.orders.is_empty() {
            let fds = [Some(self.bell.0.as_raw_fd()), ring, frontend];
            sleep_on(fds, timeout_ns);
        }
        self.shared.mailboxes.awake(self.me);
        self.bell.silence();
    }
}

/// Waits until a descriptor is readable, or the timeout has passed.
#[expect(unsafe_code, reason = "the traits name their descriptors by number")]
fn sleep_on(fds: [Option<RawFd>; 3], timeout_ns: Option<u64>) {
    let timeout = timeout_ns.map(|ns| rustix::event::Timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    });
    // SAFETY: ring, front end and bell outlive this call: they belong to the reactor that sleeps.
    let borrow = |fd: RawFd| unsafe { BorrowedFd::borrow_raw(fd) };
    let first = fds[0].expect("a reactor has its bell");
    let fd = |at: usize| borrow(fds[at].unwrap_or(first));
    let mut list = [0, 1, 2].map(|at| PollFd::from_borrowed_fd(fd(at), PollFlags::IN));
    // An interrupted poll only causes a turn without work.
    let _ = poll(&mut list, timeout.as_ref());
}
