//! The door through which a client passes from the thread that shook hands with it to the reactor that serves
//! it.
//!
//! Each reactor has a door: a bounded queue and a bell (an eventfd that the reactor's poll watches). A client
//! is seated before it is told that it is welcome, so a client that cannot be served is refused in the
//! protocol's terms. The seat is part of the connection, and the count goes down when the connection is
//! freed. At most [`CONNECTIONS_MAX`] clients are seated, so the queue is never full and the reactor always
//! has a place.
//!
//! Seats are reserved for each listener, so that clients of one address cannot shut out those of another:
//! [`PLACES_FOR_UNIX`] of each reactor for unix sockets, [`PLACES_FOR_TCP`] for TCP, divided among the
//! listeners of the kind. With one listener of each kind, clients of TCP have at most 48 of 64 seats. If a
//! client finds no seat, the reactors disconnect one client of the same listener that has not used its seat
//! yet. A client of another listener would not help, since its seat may be reserved.

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
    /// The listener is a unix socket.
    Unix,
    /// The listener is a TCP socket.
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
    /// The seat of the client.
    pub seat: Seat,
}

/// A place at one reactor, taken for as long as this value lives.
pub(super) struct Seat {
    /// The index of the reactor's door.
    door: usize,
    /// The index of the listener through which the client came.
    listener: usize,
    seated: Arc<[AtomicUsize]>,
}

impl Seat {
    /// The index of the listener through which the client came.
    pub(super) fn listener(&self) -> usize {
        self.listener
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seated[self.listener].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The entrance to one reactor: its queue, its bell, and the counts of its seats.
pub(super) struct Door {
    queue: ArrayQueue<Accepted>,
    bell: OwnedFd,
    /// Seated clients, by listener. Handshakes count up under the lock of [`Reception`]; the thread that
    /// drops a seat counts down without the lock, so a handshake sees too many rather than too few. Relaxed:
    /// no other fact depends on the counts.
    seated: Arc<[AtomicUsize]>,
    /// Whether clients are admitted. The reactor clears it once. A handshake that does not see that yet
    /// leaves its client in the queue, where the client is disconnected. Relaxed: no other fact depends on
    /// it.
    open: AtomicBool,
    /// Listeners for which a client found no seat, shared by all doors. Handshakes set it, and the first
    /// reactor that can give up a seat clears it. Relaxed: the bell's ring tells the reactors to look, and no
    /// other fact depends on it.
    wanted: Arc<[AtomicBool]>,
    /// The sending end of the log of visits.
    visits: Sender<Visit>,
}

impl Door {
    /// Makes the door of the only reactor.
    pub(super) fn new(listeners: usize) -> std::io::Result<Door> {
        Door::all(1, listeners).map(|(mut doors, _)| doors.remove(0))
    }

    /// Makes the doors of all reactors, and the receiving end of their log of visits.
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

    /// Sends a visit to the log, if the log has room.
    pub(super) fn tell(&self, visit: Visit) {
        let _nobody_waits_for_a_log = self.visits.try_send(visit);
    }

    /// Whether a client of a listener found no seat, and none has been given up for it yet.
    pub(super) fn is_wanted(&self, listener: usize) -> bool {
        self.wanted[listener].load(Ordering::Relaxed)
    }

    /// Whether a client of any listener found no seat.
    pub(super) fn is_wanted_by_any(&self) -> bool {
        self.wanted.iter().any(|wanted| wanted.load(Ordering::Relaxed))
    }

    /// Takes on the duty to give up a seat to a listener. Returns false if no client lacks a seat, or another
    /// reactor took the duty.
    pub(super) fn take_wanted(&self, listener: usize) -> bool {
        self.wanted[listener].swap(false, Ordering::Relaxed)
    }

    /// The number of seated clients, of all listeners.
    fn seated_count(&self) -> usize {
        self.seated.iter().map(|seated| seated.load(Ordering::Relaxed)).sum()
    }

    /// Whether a client of `listener` may be seated; `kept` is the number of seats reserved for each
    /// listener.
    fn has_seat(&self, listener: usize, kept: &[usize]) -> bool {
        let unused = |(other, seated): (usize, &AtomicUsize)| {
            let unused = kept[other].saturating_sub(seated.load(Ordering::Relaxed));
            if other == listener { 0 } else { unused }
        };
        let unused: usize = self.seated.iter().enumerate().map(unused).sum();
        self.seated_count() + unused < CONNECTIONS_MAX
    }

    /// Takes the next client from the queue.
    pub(super) fn next(&self) -> Option<Accepted> {
        self.queue.pop()
    }

    /// Admits no client from now on.
    pub(super) fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
        while self.next().is_some() {}
    }

    /// Wakes the reactor's poll. The counter is never read: an edge-triggered poll reports every ring, and it
    /// takes 2^64 rings to fill the counter.
    pub(super) fn ring(&self) {
        let _full_is_rung = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// The descriptor that the reactor's poll watches.
    pub(super) fn bell(&self) -> &OwnedFd {
        &self.bell
    }
}

/// The doors of all reactors.
pub(super) struct Reception {
    doors: Box<[Arc<Door>]>,
    /// The door at which the search for a seat begins, so that ties rotate. The lock is held while a seat is
    /// taken; reactors do not need it.
    next: Mutex<usize>,
    /// Seats at each reactor that are reserved for each listener.
    kept: Box<[usize]>,
}

impl Reception {
    /// Sends a visit to the log, if the log has room.
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

    /// Takes a seat for a client of a listener, at the reactor with the fewest clients; `None` if no reactor
    /// has a seat for it.
    pub(super) fn seat(&self, listener: usize) -> Option<Seat> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, first) = (self.doors.len(), *next);
        *next = (first + 1) % count;
        let open = |&door: &usize| self.doors[door].open.load(Ordering::Relaxed);
        let candidates = (0..count).map(|step| (first + step) % count).filter(open);
        let door = candidates
            .filter(|&door| self.doors[door].has_seat(listener, &self.kept))
            .min_by_key(|&door| self.doors[door].seated_count());
        // All doors share this flag. A client that gets a seat shows that none needs to be given up.
        self.doors[first].wanted[listener].store(door.is_none(), Ordering::Relaxed);
        let Some(door) = door else {
            self.doors.iter().for_each(|door| door.ring());
            return None;
        };
        let seated = Arc::clone(&self.doors[door].seated);
        seated[listener].fetch_add(1, Ordering::Relaxed);
        Some(Seat { door, listener, seated })
    }

    /// The maximum number of TLS relay threads: twice the seats, because a relay whose connection the reactor
    /// has closed may still be sending the last replies.
    pub(super) fn relays_max(&self) -> usize {
        2 * CONNECTIONS_MAX * self.doors.len()
    }

    /// The number of seated clients, at all reactors.
    pub(super) fn seated(&self) -> usize {
        self.doors.iter().map(|door| door.seated_count()).sum()
    }

    /// Hands a client to its reactor.
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

    /// However many clients of one listener come first, the seats reserved for the other listeners remain.
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
