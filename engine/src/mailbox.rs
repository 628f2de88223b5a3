//! Mailboxes: how reactors hand each other parts of requests and background work, and how they hear of the end of it.
//!
//! Each reactor has three bounded, lock-free queues, both first in, first out:
//!
//! ```text
//!   asks     from any reactor: a part or a job for a stripe that the receiver owns     each poster has places of its own
//!   answers  from any reactor: a part or a job that the receiver had handed over ended    never full
//!   returns  from any reactor: a piece of a span that the kernel has given back late      a poster tries again
//! ```
//!
//! **Asks.** A poster may have [`Mailboxes::places`] asks in one mailbox that were not taken yet. The places of all posters fit
//! into the queue, so no poster can fill it for the others. A poster whose places are taken keeps what it has, in order, and
//! tries again next turn: the oldest is posted as soon as the receiver has taken one. Without this share the posters would
//! race for each place that comes free, and one of them could lose for ever.
//!
//! **Answers.** A reactor hands over half of its parts at most, and the steward gives a bounded number of jobs; each is
//! answered once. So there is always room for an answer. Answers are taken even by a receiver that has no room for asks. In one
//! queue, an ask for which there is no room would keep the answers behind it from being taken, and two reactors that wait for each
//! other's answers would wait for ever.
//!
//! **Sleep.** A reactor that is about to sleep says so first and then looks once more; a poster pushes
//! first and then looks whether the receiver sleeps. Each side has a sequentially consistent fence
//! between its two steps, so at least one of them sees the other.

use crossbeam::utils::CachePadded;

use crate::job::{JOBS_MAX, JobAsk, JobEnd};
use crate::memory::Span;
use crate::part::Part;
use crate::request::RequestError;
use crate::sizes::Sizes;
use crate::sync::{ArrayQueue, AtomicBool, AtomicU32, Ordering, fence};

/// Asks that one mailbox holds, shared evenly by the reactors.
pub const ASKS_MAX: usize = 1024;

/// Returns that one mailbox holds: they come when a member answers that was failed for its silence, thousands at once.
const RETURNS_MAX: usize = 256;

/// What a reactor asks of the owner of a stripe (or of the reactor that owned it a moment ago).
#[derive(Clone, Copy, Debug)]
#[expect(private_interfaces, reason = "parts and jobs are the array's own")]
pub enum Ask {
    /// Do this part of a request.
    Part(Part),
    /// Do this background work.
    Job(JobAsk),
}

/// What a reactor is told of something that it had handed over.
#[derive(Clone, Copy, Debug)]
#[expect(private_interfaces, reason = "parts and jobs are the array's own")]
pub enum Answer {
    /// A part of the receiver's has ended.
    Part {
        /// Its index at the receiver.
        part: u32,
        /// How.
        result: Result<(), RequestError>,
        /// How many of its I/Os are parked, and still hold the request's memory.
        held: u16,
    },
    /// Background work has ended; the receiver is the steward's reactor.
    Job(JobEnd),
}

/// Wakes a reactor that sleeps in the kernel.
pub type Waker = Box<dyn Fn() + Send + Sync>;

/// How many asks a poster has put into a mailbox, and how many of those were taken. Both wrap around.
struct Places {
    /// Written by the poster alone.
    posted: AtomicU32,
    /// Written by the receiver alone: Release after it has taken the ask, read by the poster (Acquire) before it posts.
    taken: AtomicU32,
}

struct Mailbox {
    asks: ArrayQueue<(u8, Ask)>,
    answers: ArrayQueue<Answer>,
    returns: ArrayQueue<Span>,
    /// By poster.
    places: Box<[Places]>,
    /// Requests in flight at the receiver. Written by it, read by the steward; Relaxed, as a moment's opinion.
    load: AtomicU32,
    /// Written by the receiver, read by posters.
    sleeping: AtomicBool,
    waker: Waker,
}

/// The mailboxes of all reactors.
pub struct Mailboxes {
    boxes: Vec<CachePadded<Mailbox>>,
    places: u32,
}

impl Mailboxes {
    /// One mailbox for each waker, for arrays of the largest sizes.
    #[must_use]
    pub fn new(wakers: Vec<Waker>) -> Mailboxes {
        Mailboxes::with_room(wakers, ASKS_MAX, &Sizes::FULL)
    }

    /// One mailbox for each waker, for so many asks each (at least one of each poster), and for arrays of these sizes.
    #[must_use]
    pub fn with_room(wakers: Vec<Waker>, asks: usize, sizes: &Sizes) -> Mailboxes {
        let posters = wakers.len();
        let places = (asks / posters.max(1)).max(1);
        let place = |_| Places { posted: AtomicU32::new(0), taken: AtomicU32::new(0) };
        let mailbox = |waker| {
            CachePadded::new(Mailbox {
                asks: ArrayQueue::new(places * posters),
                answers: ArrayQueue::new(sizes.own_parts() + JOBS_MAX as usize),
                returns: ArrayQueue::new(RETURNS_MAX),
                places: (0..posters).map(place).collect(),
                load: AtomicU32::new(0),
                sleeping: AtomicBool::new(false),
                waker,
            })
        };
        Mailboxes { boxes: wakers.into_iter().map(mailbox).collect(), places: places as u32 }
    }

    /// How many asks of one reactor may be in the mailbox of another and not taken.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places as usize
    }

    /// Posts an ask from one reactor to another; false when the poster's places there are taken.
    #[must_use]
    pub fn post(&self, from: u8, to: u8, ask: Ask) -> bool {
        let mailbox = &self.boxes[usize::from(to)];
        let Places { posted, taken } = &mailbox.places[usize::from(from)];
        // Relaxed: only this reactor writes it.
        let count = posted.load(Ordering::Relaxed);
        // Acquire: the place in the queue is free before this says so.
        if count.wrapping_sub(taken.load(Ordering::Acquire)) >= self.places {
            return false;
        }
        posted.store(count.wrapping_add(1), Ordering::Relaxed);
        assert!(mailbox.asks.push((from, ask)).is_ok(), "the places of all posters fit into a mailbox");
        self.wake(to);
        true
    }

    /// Answers an ask of a reactor.
    pub fn answer(&self, to: u8, answer: Answer) {
        let pushed = self.boxes[usize::from(to)].answers.push(answer);
        assert!(pushed.is_ok(), "there is room for the answer to all that a reactor can hand over");
        self.wake(to);
    }

    /// The next ask to a reactor, and its poster.
    #[must_use]
    pub fn take_ask(&self, me: u8) -> Option<(u8, Ask)> {
        let mailbox = &self.boxes[usize::from(me)];
        let (from, ask) = mailbox.asks.pop()?;
        let taken = &mailbox.places[usize::from(from)].taken;
        // Release: after the place in the queue has come free.
        taken.store(taken.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        Some((from, ask))
    }

    /// The next answer to a reactor.
    #[must_use]
    pub fn take_answer(&self, me: u8) -> Option<Answer> {
        self.boxes[usize::from(me)].answers.pop()
    }

    /// One parked I/O fewer holds this piece of the span of a request of reactor `to` (see `array::parked`). False where
    /// there is no room now.
    #[must_use]
    pub fn give_back(&self, to: u8, span: Span) -> bool {
        let is_pushed = self.boxes[usize::from(to)].returns.push(span).is_ok();
        self.wake(to);
        is_pushed
    }

    /// The next return to a reactor.
    #[must_use]
    pub fn take_return(&self, me: u8) -> Option<Span> {
        self.boxes[usize::from(me)].returns.pop()
    }

    /// Whether a reactor has mail.
    #[must_use]
    pub fn has_mail(&self, me: u8) -> bool {
        let mailbox = &self.boxes[usize::from(me)];
        !(mailbox.asks.is_empty() && mailbox.answers.is_empty() && mailbox.returns.is_empty())
    }

    /// A reactor says how many requests it has in flight.
    pub fn tell_load(&self, me: u8, requests: u32) {
        self.boxes[usize::from(me)].load.store(requests, Ordering::Relaxed);
    }

    /// How many requests all reactors say that they have in flight. (The steward's says nothing.)
    #[must_use]
    pub fn load(&self) -> u32 {
        self.boxes.iter().map(|mailbox| mailbox.load.load(Ordering::Relaxed)).sum()
    }

    /// Wakes a reactor if it sleeps. Whatever it is to see was stored before.
    pub fn wake(&self, reactor: u8) {
        let mailbox = &self.boxes[usize::from(reactor)];
        fence(Ordering::SeqCst);
        if mailbox.sleeping.load(Ordering::Relaxed) {
            (mailbox.waker)();
        }
    }

    /// A reactor says that it is about to sleep; afterwards it looks for mail once more.
    pub fn about_to_sleep(&self, reactor: u8) {
        self.boxes[usize::from(reactor)].sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// A reactor is awake.
    pub fn awake(&self, reactor: u8) {
        self.boxes[usize::from(reactor)].sleeping.store(false, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    fn three() -> Mailboxes {
        Mailboxes::with_room((0..3).map(|_| Box::new(|| {}) as _).collect(), 6, &Sizes::SMALL)
    }

    const ASK: Ask = Ask::Job(JobAsk::NONE);

    #[test]
    fn one_poster_cannot_fill_a_mailbox_for_the_others() {
        let mailboxes = three();
        assert_eq!((mailboxes.post(0, 1, ASK), mailboxes.post(0, 1, ASK)), (true, true));
        assert!(!mailboxes.post(0, 1, ASK), "its places are taken");
        assert!(mailboxes.post(2, 1, ASK), "another's are not");
        assert!(mailboxes.post(0, 2, ASK), "neither are its own elsewhere");
        assert_eq!(mailboxes.take_ask(1).expect("there are three").0, 0);
        assert!(mailboxes.post(0, 1, ASK), "one was taken");
        assert_eq!([0; 3].map(|_| mailboxes.take_ask(1).expect("there are three").0), [0, 2, 0]);
        assert!(mailboxes.take_ask(1).is_none());
    }

    #[test]
    fn answers_do_not_wait_for_asks() {
        let mailboxes = three();
        assert!(mailboxes.post(0, 1, ASK));
        mailboxes.answer(1, Answer::Part { part: 7, result: Ok(()), held: 0 });
        assert!(matches!(mailboxes.take_answer(1), Some(Answer::Part { part: 7, .. })));
        assert!(mailboxes.has_mail(1) && !mailboxes.has_mail(0));
    }
}
