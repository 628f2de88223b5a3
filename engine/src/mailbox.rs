//! Mailboxes: reactors use them to hand parts of requests and background work to each other, and to report
//! how these ended.
//!
//! Each reactor has three bounded, lock-free queues, all first in, first out:
//!
//! ```text
//!   asks     from any reactor: a part or a job for a stripe that the receiver owns
//!                each poster has places of its own
//!   answers  from any reactor: a part or a job that the receiver had handed over has ended
//!                never full
//!   returns  from any reactor: a piece of a span that the kernel has given back late
//!                a poster tries again
//! ```
//!
//! **Asks.** A poster may have [`Mailboxes::places`] asks in one mailbox that were not yet taken. The places
//! of all posters fit into the queue, so no poster can fill it for the others. A poster whose places are
//! taken keeps its asks in order and tries again in the next turn: the oldest is posted as soon as the
//! receiver has taken one. Without these shares, posters would race for each free place, and one of them
//! could lose forever.
//!
//! **Answers.** A reactor hands over at most half of its parts, and the steward gives a bounded number of
//! jobs; each gets exactly one answer. So there is always room for an answer. Answers are taken even by a
//! receiver that has no room for asks. If both were in one queue, an ask without room would block the answers
//! behind it, and two reactors that wait for each other's answers would wait forever.
//!
//! **Sleep.** A reactor that is about to sleep first says so and then looks for mail once more. A poster
//! first pushes and then looks whether the receiver sleeps. Each side has a sequentially consistent fence
//! between its two steps, so at least one of them sees the other.

use crossbeam::utils::CachePadded;

use crate::job::{JOBS_MAX, JobAsk, JobEnd};
use crate::memory::Span;
use crate::part::Part;
use crate::request::RequestError;
use crate::sizes::Sizes;
use crate::sync::{ArrayQueue, AtomicBool, AtomicU32, Ordering, fence};

/// Most asks in one mailbox, divided evenly among the reactors.
pub const ASKS_MAX: usize = 1024;

/// Most returns in one mailbox. They arrive when a member answers that was failed for its silence, thousands
/// at once.
const RETURNS_MAX: usize = 256;

/// A request to the owner of a stripe (or to the reactor that owned it a moment ago).
#[derive(Clone, Copy, Debug)]
#[expect(private_interfaces, reason = "parts and jobs are the array's own")]
pub enum Ask {
    /// Carry out this part of a request.
    Part(Part),
    /// Carry out this background work.
    Job(JobAsk),
}

/// A report about something that the receiver had handed over.
#[derive(Clone, Copy, Debug)]
#[expect(private_interfaces, reason = "parts and jobs are the array's own")]
pub enum Answer {
    /// A part of the receiver's requests has ended.
    Part {
        /// Index of the part at the receiver.
        part: u32,
        /// Result of the part.
        result: Result<(), RequestError>,
        /// Number of its I/Os that are parked and still hold the request's memory.
        held: u16,
    },
    /// Background work has ended; the receiver is the steward's reactor.
    Job(JobEnd),
}

/// Wakes a reactor that sleeps in the kernel.
pub type Waker = Box<dyn Fn() + Send + Sync>;

/// Counts of the asks that a poster has put into a mailbox, and of those that were taken. Both wrap around.
struct Places {
    /// Asks posted; written by the poster alone.
    posted: AtomicU32,
    /// Asks taken; written by the receiver alone (Release, after it has taken the ask), read by the poster
    /// (Acquire) before it posts.
    taken: AtomicU32,
}

struct Mailbox {
    asks: ArrayQueue<(u8, Ask)>,
    answers: ArrayQueue<Answer>,
    returns: ArrayQueue<Span>,
    /// The counts of each poster.
    places: Box<[Places]>,
    /// Requests in flight at the receiver. Written by the receiver, read by the steward; Relaxed, because any
    /// recent value will do.
    load: AtomicU32,
    /// Whether the receiver sleeps. Written by the receiver, read by posters.
    sleeping: AtomicBool,
    waker: Waker,
}

/// The mailboxes of all reactors.
pub struct Mailboxes {
    boxes: Vec<CachePadded<Mailbox>>,
    places: u32,
}

impl Mailboxes {
    /// Makes one mailbox for each waker, for arrays of the largest sizes.
    #[must_use]
    pub fn new(wakers: Vec<Waker>) -> Mailboxes {
        Mailboxes::with_room(wakers, ASKS_MAX, &Sizes::FULL)
    }

    /// Makes one mailbox for each waker, with room for `asks` asks (at least one from each poster), for
    /// arrays of these sizes.
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

    /// The number of asks from one reactor that may wait in the mailbox of another.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places as usize
    }

    /// Posts an ask from one reactor to another. Returns false if the poster's places there are taken.
    #[must_use]
    pub fn post(&self, from: u8, to: u8, ask: Ask) -> bool {
        let mailbox = &self.boxes[usize::from(to)];
        let Places { posted, taken } = &mailbox.places[usize::from(from)];
        // Relaxed: only this reactor writes the count.
        let count = posted.load(Ordering::Relaxed);
        // Acquire: the place in the queue is free before the count says so.
        if count.wrapping_sub(taken.load(Ordering::Acquire)) >= self.places {
            return false;
        }
        posted.store(count.wrapping_add(1), Ordering::Relaxed);
        assert!(mailbox.asks.push((from, ask)).is_ok(), "the places of all posters fit into a mailbox");
        self.wake(to);
        true
    }

    /// Sends an answer to a reactor.
    pub fn answer(&self, to: u8, answer: Answer) {
        let pushed = self.boxes[usize::from(to)].answers.push(answer);
        assert!(pushed.is_ok(), "there is room for the answer to all that a reactor can hand over");
        self.wake(to);
    }

    /// Takes the next ask to a reactor; returns its poster too.
    #[must_use]
    pub fn take_ask(&self, me: u8) -> Option<(u8, Ask)> {
        let mailbox = &self.boxes[usize::from(me)];
        let (from, ask) = mailbox.asks.pop()?;
        let taken = &mailbox.places[usize::from(from)].taken;
        // Release: the place in the queue is already free.
        taken.store(taken.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        Some((from, ask))
    }

    /// Takes the next answer to a reactor.
    #[must_use]
    pub fn take_answer(&self, me: u8) -> Option<Answer> {
        self.boxes[usize::from(me)].answers.pop()
    }

    /// Tells reactor `to` that one parked I/O fewer holds this piece of a span of one of its requests (see
    /// `array::parked`). Returns false if there is no room now.
    #[must_use]
    pub fn give_back(&self, to: u8, span: Span) -> bool {
        let is_pushed = self.boxes[usize::from(to)].returns.push(span).is_ok();
        self.wake(to);
        is_pushed
    }

    /// Takes the next return to a reactor.
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

    /// Publishes how many requests a reactor has in flight.
    pub fn tell_load(&self, me: u8, requests: u32) {
        self.boxes[usize::from(me)].load.store(requests, Ordering::Relaxed);
    }

    /// Sums up the requests that the reactors report. (The steward's reactor reports none here.)
    #[must_use]
    pub fn load(&self) -> u32 {
        self.boxes.iter().map(|mailbox| mailbox.load.load(Ordering::Relaxed)).sum()
    }

    /// Wakes a reactor if it sleeps. The caller has already stored everything that the reactor is to see.
    pub fn wake(&self, reactor: u8) {
        let mailbox = &self.boxes[usize::from(reactor)];
        fence(Ordering::SeqCst);
        if mailbox.sleeping.load(Ordering::Relaxed) {
            (mailbox.waker)();
        }
    }

    /// Announces that a reactor is about to sleep; after this call it looks for mail once more.
    pub fn about_to_sleep(&self, reactor: u8) {
        self.boxes[usize::from(reactor)].sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Announces that a reactor is awake.
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
