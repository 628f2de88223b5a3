//! Mailboxes: how reactors hand each other parts of requests, and the answers.
//!
//! One bounded, lock-free queue a reactor. When it is full the poster keeps the message and tries again
//! next turn. A reactor that is about to sleep says so first and then looks once more; a poster pushes
//! first and then looks whether the receiver sleeps. Each side has a sequentially consistent fence
//! between its two steps, so at least one of them sees the other.

use crossbeam::utils::CachePadded;

use crate::array::Part;
use crate::request::RequestError;
use crate::sync::{ArrayQueue, AtomicBool, Ordering, fence};

/// Messages that one mailbox holds.
pub const MESSAGES_MAX: usize = 1024;

/// What reactors tell each other.
#[derive(Clone, Copy, Debug)]
pub enum Message {
    /// A part for a stripe that the receiver owns (or did, a moment ago).
    #[allow(private_interfaces)]
    Part(Part),
    /// A part of the receiver's has ended.
    Done {
        /// Its index at the receiver.
        part: u32,
        /// How.
        result: Result<(), RequestError>,
    },
}

/// Wakes a reactor that sleeps in the kernel.
pub type Waker = Box<dyn Fn() + Send + Sync>;

struct Mailbox {
    queue: ArrayQueue<Message>,
    /// Written by the receiver, read by posters.
    sleeping: AtomicBool,
    waker: Waker,
}

/// The mailboxes of all reactors.
pub struct Mailboxes(Vec<CachePadded<Mailbox>>);

impl Mailboxes {
    /// One mailbox for each waker.
    #[must_use]
    pub fn new(wakers: Vec<Waker>) -> Mailboxes {
        Mailboxes::with_room(wakers, MESSAGES_MAX)
    }

    /// The same, of so many messages each.
    #[must_use]
    pub fn with_room(wakers: Vec<Waker>, messages: usize) -> Mailboxes {
        let mailbox = |waker| {
            CachePadded::new(Mailbox {
                queue: ArrayQueue::new(messages),
                sleeping: AtomicBool::new(false),
                waker,
            })
        };
        Mailboxes(wakers.into_iter().map(mailbox).collect())
    }

    /// Posts a message; gives it back when the mailbox is full.
    pub fn post(&self, reactor: u8, message: Message) -> Result<(), Message> {
        self.0[usize::from(reactor)].queue.push(message)?;
        self.wake(reactor);
        Ok(())
    }

    /// The next message of a reactor.
    #[must_use]
    pub fn take(&self, reactor: u8) -> Option<Message> {
        self.0[usize::from(reactor)].queue.pop()
    }

    /// Whether a reactor has mail.
    #[must_use]
    pub fn has_mail(&self, reactor: u8) -> bool {
        !self.0[usize::from(reactor)].queue.is_empty()
    }

    /// Wakes a reactor if it sleeps. Whatever it is to see was stored before.
    pub fn wake(&self, reactor: u8) {
        let mailbox = &self.0[usize::from(reactor)];
        fence(Ordering::SeqCst);
        if mailbox.sleeping.load(Ordering::Relaxed) {
            (mailbox.waker)();
        }
    }

    /// A reactor says that it is about to sleep; afterwards it looks for mail once more.
    pub fn about_to_sleep(&self, reactor: u8) {
        self.0[usize::from(reactor)].sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// A reactor is awake.
    pub fn awake(&self, reactor: u8) {
        self.0[usize::from(reactor)].sleeping.store(false, Ordering::Relaxed);
    }
}
