//! How a client comes from the thread that shook hands with it to the reactor that serves it.
//!
//! Each reactor has a door: a bounded queue and a bell (an eventfd that its poll watches). A client is
//! seated before it is told that it is welcome, so one that cannot be served hears so in the protocol's
//! words; the seat is part of the connection and counts down when that is freed. At most
//! [`CONNECTIONS_MAX`] are seated, so the queue is never full and the reactor always has a place.
//!
//! Each listener has seats that are kept for its clients, so that those of one address cannot shut out those of another:
//! [`PLACES_FOR_UNIX`] of each reactor for unix sockets, [`PLACES_FOR_TCP`] for TCP, divided among the listeners of the kind. With
//! one of each, clients of TCP have at most 48 of 64 seats. A client that finds no seat makes the reactors hang up on one client of the
//! same listener that has not used its seat yet. One client of another listener would not help: its seat may be kept.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};

use super::admission::Terms;
use super::limits::{CONNECTIONS_MAX, PLACES_FOR_TCP, PLACES_FOR_UNIX};
use super::visits::{Peer, Visit, Visits};

/// The kind of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A unix socket.
    Unix,
    /// TCP.
    Tcp,
}

/// A client whose handshake is done.
pub(super) struct Accepted {
    /// The socket of the client.
    pub socket: OwnedFd,
    /// The address of the client.
    pub peer: Arc<Peer>,
    /// The result of the negotiation.
    pub terms: Terms,
    /// Its place.
    pub seat: Seat,
}

/// A place at one reactor, for as long as this lives.
pub(super) struct Seat {
    /// Which door.
    door: usize,
    /// By which listener the client came.
    listener: usize,
    seated: Arc<[AtomicUsize]>,
}

impl Seat {
    /// By which listener the client came.
    pub(super) fn listener(&self) -> usize {
        self.listener
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seated[self.listener].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way into one reactor.
pub(super) struct Door {
    queue: ArrayQueue<Accepted>,
    bell: OwnedFd,
    /// Clients seated, by listener. Handshakes count up under the lock of [`Reception`], and the thread that drops a seat counts down
    /// without it, so a handshake sees too many rather than too few. No other fact depends on the counts: relaxed.
    seated: Arc<[AtomicUsize]>,
    /// Whether clients are let in. The reactor clears it once; a handshake that does not see that yet
    /// leaves its client in the queue, where it is hung up on: relaxed.
    open: AtomicBool,
    /// Listeners of which a client found no seat, shared by all doors. Handshakes set it, and the first reactor that can give up a
    /// seat clears it. The bell's ring tells the reactors to look; no other fact depends on it: relaxed.
    wanted: Arc<[AtomicBool]>,
    /// The way to a log.
    visits: Sender<Visit>,
}

impl Door {
    /// The door of the only reactor.
    pub(super) fn new(listeners: usize) -> std::io::Result<Door> {
        Door::all(1, listeners).map(|(mut doors, _)| doors.remove(0))
    }

    /// The doors of all reactors, and the clients that come and go by them.
    pub(super) fn all(reactors: usize, listeners: usize) -> std::io::Result<(Vec<Door>, Visits)> {
        let wanted: Arc<[AtomicBool]> = (0..listeners).map(|_| AtomicBool::new(false)).collect();
        let (sender, visits) = Visits::new();
        let door = |_| Door::with(listeners, Arc::clone(&wanted), sender.clone());
        Ok(((0..reactors).map(door).collect::<Result<_, _>>()?, visits))
    }

    fn with(listeners: usize, wanted: Arc<[AtomicBool]>, visits: Sender<Visit>) -> std::io::Result<Door> {
        Ok(Door {
            queue: ArrayQueue::new(CONNECTIONS_MAX),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            seated: (0..listeners).map(|_| AtomicUsize::new(0)).collect(),
            open: AtomicBool::new(true),
            wanted,
            visits,
        })
    }

    /// Tells a log, if it has room.
    pub(super) fn tell(&self, visit: Visit) {
        let _nobody_waits_for_a_log = self.visits.try_send(visit);
    }

    /// Whether a client of a listener found no seat, and none was given up for it yet.
    pub(super) fn is_wanted(&self, listener: usize) -> bool {
        self.wanted[listener].load(Ordering::Relaxed)
    }

    /// Whether a client of any listener found no seat.
    pub(super) fn is_wanted_by_any(&self) -> bool {
        self.wanted.iter().any(|wanted| wanted.load(Ordering::Relaxed))
    }

    /// Whether the caller is the one to give up a seat to a client of a listener that found none.
    pub(super) fn take_wanted(&self, listener: usize) -> bool {
        self.wanted[listener].swap(false, Ordering::Relaxed)
    }

    /// Clients of all listeners that are seated.
    fn seated_count(&self) -> usize {
        self.seated.iter().map(|seated| seated.load(Ordering::Relaxed)).sum()
    }

    /// Whether a client of `listener` may be seated; `kept` is how many seats are kept for each listener.
    fn has_seat(&self, listener: usize, kept: &[usize]) -> bool {
        let unused = |(other, seated): (usize, &AtomicUsize)| {
            let unused = kept[other].saturating_sub(seated.load(Ordering::Relaxed));
            if other == listener { 0 } else { unused }
        };
        let unused: usize = self.seated.iter().enumerate().map(unused).sum();
        self.seated_count() + unused < CONNECTIONS_MAX
    }

    /// The next client.
    pub(super) fn next(&self) -> Option<Accepted> {
        self.queue.pop()
    }

    /// Lets nobody in from now on.
    pub(super) fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
        while self.next().is_some() {}
    }

    /// Wakes the reactor's poll. The counter is never read: an edge-triggered poll tells every ring, and
    /// it takes 2^64 of them to fill it.
    pub(super) fn ring(&self) {
        let _full_is_rung = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// What the reactor's poll watches.
    pub(super) fn bell(&self) -> &OwnedFd {
        &self.bell
    }
}

/// The doors of all reactors.
pub(super) struct Reception {
    doors: Box<[Arc<Door>]>,
    /// Where to look first for a seat, so that ties go round. The lock is held while a seat is taken; reactors do not need it.
    next: Mutex<usize>,
    /// Seats at each reactor that are kept for each listener.
    kept: Box<[usize]>,
}

impl Reception {
    /// Tells a log, if it has room.
    pub(super) fn tell(&self, visit: Visit) {
        self.doors[0].tell(visit);
    }

    pub(super) fn new(doors: Box<[Arc<Door>]>, listeners: &[Origin]) -> Reception {
        let kept = |origin: &Origin| {
            let alike = listeners.iter().filter(|other| *other == origin).count();
            let places = match origin {
                Origin::Unix => PLACES_FOR_UNIX,
                Origin::Tcp => PLACES_FOR_TCP,
            };
            places / alike
        };
        Reception { doors, next: Mutex::new(0), kept: listeners.iter().map(kept).collect() }
    }

    /// A seat for a client of a listener, at the reactor that has the fewest clients; `None` when there is none for it.
    pub(super) fn seat(&self, listener: usize) -> Option<Seat> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, first) = (self.doors.len(), *next);
        *next = (first + 1) % count;
        let open = |&door: &usize| self.doors[door].open.load(Ordering::Relaxed);
        let candidates = (0..count).map(|step| (first + step) % count).filter(open);
        let door = candidates
            .filter(|&door| self.doors[door].has_seat(listener, &self.kept))
            .min_by_key(|&door| self.doors[door].seated_count());
        // All doors share this. A client that is seated shows that no seat need be given up.
        self.doors[first].wanted[listener].store(door.is_none(), Ordering::Relaxed);
        let Some(door) = door else {
            self.doors.iter().for_each(|door| door.ring());
            return None;
        };
        let seated = Arc::clone(&self.doors[door].seated);
        seated[listener].fetch_add(1, Ordering::Relaxed);
        Some(Seat { door, listener, seated })
    }

    /// The maximum number of TLS relay threads: twice the seats, because a relay whose connection the reactor has closed may still be
    /// sending the last replies.
    pub(super) fn relays_max(&self) -> usize {
        2 * CONNECTIONS_MAX * self.doors.len()
    }

    /// Clients that have a seat, at all reactors.
    pub(super) fn seated(&self) -> usize {
        self.doors.iter().map(|door| door.seated_count()).sum()
    }

    /// Brings a client to its reactor.
    pub(super) fn enter(&self, accepted: Accepted) {
        let door = &self.doors[accepted.seat.door];
        if !door.open.load(Ordering::Relaxed) {
            return;
        }
        door.tell(Visit::Came(Arc::clone(&accepted.peer)));
        let pushed = door.queue.push(accepted);
        assert!(pushed.is_ok(), "each client in the queue has a seat, and there are as many as it is long");
        door.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_balanced_bounded_and_freed() {
        let doors: Vec<Arc<Door>> = Door::all(2, 1).unwrap().0.into_iter().map(Arc::new).collect();
        let reception = Reception::new(doors.clone().into(), &[Origin::Unix]);
        let mut seats: Vec<Seat> = (0..2 * CONNECTIONS_MAX).map(|_| reception.seat(0).unwrap()).collect();
        assert!(reception.seat(0).is_none());
        for door in &doors {
            assert_eq!(door.seated_count(), CONNECTIONS_MAX);
            assert!(door.is_wanted(0), "each reactor hears of it");
        }
        let givers = doors.iter().filter(|door| door.take_wanted(0)).count();
        assert_eq!(givers, 1, "one of them gives up a seat");
        assert!(reception.seat(0).is_none() && doors[0].is_wanted(0));
        assert_eq!(reception.seated(), 2 * CONNECTIONS_MAX);
        let freed = seats.pop().unwrap().door;
        assert_eq!(reception.seated(), 2 * CONNECTIONS_MAX - 1);
        assert_eq!(reception.seat(0).map(|seat| seat.door), Some(freed));
        assert!(!doors[0].is_wanted(0), "there was a seat after all");
        doors[freed].close();
        seats.retain(|seat| seat.door == freed);
        assert_eq!(reception.seat(0).map(|seat| seat.door), Some(1 - freed));
    }

    /// However many clients of one listener come first, the seats kept for the other listeners are left.
    #[test]
    fn each_listener_has_seats_of_its_own() {
        let listeners = [Origin::Unix, Origin::Tcp, Origin::Tcp];
        for (greedy, expected) in [(0, 64 - 8), (1, 64 - 16 - 4), (2, 64 - 16 - 4)] {
            let reception = Reception::new(vec![Arc::new(Door::new(3).unwrap())].into(), &listeners);
            let take = |listener| std::iter::from_fn(|| reception.seat(listener)).collect::<Vec<Seat>>();
            let taken = take(greedy);
            assert_eq!(taken.len(), expected, "listener {greedy} came first");
            let others: Vec<Vec<Seat>> = (0..3).filter(|&other| other != greedy).map(take).collect();
            assert!(others.iter().all(|seats| seats.len() >= 4), "the others have theirs");
            assert_eq!(taken.len() + others.iter().map(Vec::len).sum::<usize>(), CONNECTIONS_MAX);
        }
    }
}
