//! How a client comes from the thread that shook hands with it to the reactor that serves it.
//!
//! Each reactor has a door: a bounded queue and a bell (an eventfd that its poll watches). A client is
//! seated before it is told that it is welcome, so one that cannot be served hears so in the protocol's
//! words; the seat is part of the connection and counts down when that is freed. At most
//! [`CONNECTIONS_MAX`] are seated, so the queue is never full and the reactor always has a place.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};

use super::admission::ReplyStyle;
use super::limits::CONNECTIONS_MAX;

/// A client whose handshake is done.
pub(super) struct Accepted {
    /// Where it is.
    pub socket: OwnedFd,
    /// What it wants replies to look like.
    pub style: ReplyStyle,
    /// Its place.
    pub seat: Seat,
}

/// A place at one reactor, for as long as this lives.
pub(super) struct Seat {
    /// Which door.
    door: usize,
    seated: Arc<AtomicUsize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seated.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way into one reactor.
pub(super) struct Door {
    queue: ArrayQueue<Accepted>,
    bell: OwnedFd,
    /// Clients seated. Handshakes count up, the reactor (or whoever drops the seat) down. A bound and
    /// a balance, no fact depends on it: relaxed.
    seated: Arc<AtomicUsize>,
    /// Whether clients are let in. The reactor clears it once; a handshake that does not see that yet
    /// leaves its client in the queue, where it is hung up on: relaxed.
    open: AtomicBool,
}

impl Door {
    pub(super) fn new() -> std::io::Result<Door> {
        Ok(Door {
            queue: ArrayQueue::new(CONNECTIONS_MAX),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            seated: Arc::new(AtomicUsize::new(0)),
            open: AtomicBool::new(true),
        })
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
    /// Where to look first for a seat; handshake threads advance it, ties go round: relaxed.
    next: AtomicUsize,
}

impl Reception {
    pub(super) fn new(doors: Box<[Arc<Door>]>) -> Reception {
        Reception { doors, next: AtomicUsize::new(0) }
    }

    /// A seat at the reactor that has the fewest clients; `None` when all are full or closed.
    pub(super) fn seat(&self) -> Option<Seat> {
        let count = self.doors.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let candidates = (0..count).map(|step| first.wrapping_add(step) % count);
        let door = candidates
            .filter(|&door| self.doors[door].open.load(Ordering::Relaxed))
            .min_by_key(|&door| self.doors[door].seated.load(Ordering::Relaxed))?;
        let seated = &self.doors[door].seated;
        let taken = seated.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seated| {
            (seated < CONNECTIONS_MAX).then_some(seated + 1)
        });
        taken.ok().map(|_| Seat { door, seated: Arc::clone(seated) })
    }

    /// Clients that have a seat, at all reactors.
    pub(super) fn seated(&self) -> usize {
        self.doors.iter().map(|door| door.seated.load(Ordering::Relaxed)).sum()
    }

    /// Brings a client to its reactor.
    pub(super) fn enter(&self, accepted: Accepted) {
        let door = &self.doors[accepted.seat.door];
        if !door.open.load(Ordering::Relaxed) {
            return;
        }
        let pushed = door.queue.push(accepted);
        assert!(pushed.is_ok(), "everyone in the queue has a seat, and there are as many as it is long");
        door.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_balanced_bounded_and_freed() {
        let doors: Vec<Arc<Door>> = (0..2).map(|_| Arc::new(Door::new().unwrap())).collect();
        let reception = Reception::new(doors.clone().into());
        let mut seats: Vec<Seat> = (0..2 * CONNECTIONS_MAX).map(|_| reception.seat().unwrap()).collect();
        assert!(reception.seat().is_none());
        for door in &doors {
            assert_eq!(door.seated.load(Ordering::Relaxed), CONNECTIONS_MAX);
        }
        assert_eq!(reception.seated(), 2 * CONNECTIONS_MAX);
        let freed = seats.pop().unwrap().door;
        assert_eq!(reception.seated(), 2 * CONNECTIONS_MAX - 1);
        assert_eq!(reception.seat().map(|seat| seat.door), Some(freed));
        doors[freed].close();
        seats.retain(|seat| seat.door == freed);
        assert_eq!(reception.seat().map(|seat| seat.door), Some(1 - freed));
    }
}
