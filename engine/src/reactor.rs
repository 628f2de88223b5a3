//! A reactor: one thread, one core, one ring, one share of the array, one share of the front end.
//!
//! Its loop is a turn: gather requests, take mail, take completions, advance, submit, reply. A turn is bounded and
//! never blocks, locks or allocates. When turns bring nothing it spins a little, then sleeps in the kernel
//! until its ring, its front end, its mailbox or the steward's clock has something: an idle array does
//! not burn a core. While something waits that no descriptor announces (another reactor's bitmap write, say),
//! it naps: microseconds, so that on a machine with few cores the other gets one.

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

/// Turns without anything before a reactor goes to sleep.
const SPINS_BEFORE_SLEEP: u32 = 256;
/// How long it naps while something waits that nobody announces.
const NAP_NS: u32 = 50_000;
/// Requests taken from the front end in one turn: enough to fill a submission with member I/O, few enough that
/// what the turn touches (ops, their memory, the requests' bytes) is still in cache when it comes to it again.
/// 4 KiB writes on null members, nanoseconds of a core each: 704 with 32, 746 with 64, 727 with 256; degraded
/// reads 257, 266, 291; healthy reads do not care down to 32 (98), and take 115 with 16.
const REQUESTS_PER_TURN: usize = 32;
/// Messages taken in one turn.
const MESSAGES_PER_TURN: usize = 256;

/// What the server asks of a reactor.
pub enum ReactorOrder<R> {
    /// Do this to the ring, on its own thread.
    WithRing(Box<dyn FnOnce(&mut R) + Send>),
    /// Take no new requests; tell when the last one is answered that the kernel does not keep (see [`Array::left_to_kernel`]), and
    /// no op works for hosts any more.
    Drain(Sender<()>),
    /// Return.
    Exit,
}

/// How a reactor is reached from outside.
pub struct ReactorPort<R> {
    /// Few, and not bounded: an order must not wait for a reactor that is held up.
    orders: SegQueue<ReactorOrder<R>>,
}

impl<R> ReactorPort<R> {
    /// A port without orders.
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
    /// A silent bell.
    pub fn new() -> std::io::Result<Arc<Bell>> {
        Ok(Arc::new(Bell(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)))
    }

    /// Wakes whoever polls it.
    pub fn ring(&self) {
        // Full (EAGAIN) means that it rings already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8][..]);
    }
}

/// One reactor.
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
    /// A reactor with these parts; `bell` is what its mailbox's waker rings.
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

    /// Turns until it is told to exit. Gives back the ring and the front end.
    pub fn run(mut self) -> (R, F) {
        let mut idle_turns = 0;
        loop {
            // Looked at first: taking from a queue that is empty costs a barrier.
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
                // Whatever woke it is found by the next turn; if that brings nothing, to sleep again.
                idle_turns = SPINS_BEFORE_SLEEP - 1;
            }
        }
    }

    /// One turn; whether it brought anything.
    pub fn turn(&mut self) -> bool {
        let now_ns = self.clock.now_ns();
        let room = self.array.room().min(REQUESTS_PER_TURN);
        self.frontend.gather(&self.memory, &mut self.pool, room, &mut self.requests);
        let mut moved = !self.requests.is_empty();
        self.requests.iter().for_each(|request| self.array.anticipate(request));
        for request in self.requests.drain(..) {
            self.array.submit(&mut self.ring, now_ns, request);
        }
        // Looked at first: taking from mailboxes that are empty costs barriers.
        let has_mail = self.shared.mailboxes.has_mail(self.me);
        let messages_max = if has_mail { MESSAGES_PER_TURN } else { 0 };
        moved |= self.array.turn(&mut self.ring, now_ns, messages_max) || has_mail;
        moved |= self.frontend.has_arrivals();
        let frontend = &self.frontend;
        self.array.exchange_spans(&mut self.ring, &mut self.pool, |bytes| frontend.span_bytes(bytes));
        let mut replied = false;
        for reply in self.array.take_replies() {
            self.frontend.reply(&self.memory, &mut self.pool, reply);
            replied = true;
        }
        // Every turn: a client that leaves without a word, or with NBD_CMD_DISC, gives nothing to answer and
        // yet something to tidy up. Left to turns that moved something, its place was not freed, and a stop
        // that followed at once waited for it in vain.
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

    /// Sleeps until something may have moved.
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

/// Waits until one of these is readable, or the time is over.
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
    // Interrupted: a turn that finds nothing.
    let _ = poll(&mut list, timeout.as_ref());
}
