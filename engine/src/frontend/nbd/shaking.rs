//! The handshakes in progress, and the choice of the one that gives way to a new client.
//!
//! A listener has places for [`HANDSHAKES_PER_LISTENER`]. When all are taken, a new client evicts a
//! handshake: the oldest of the source that has the most. So one source that opens many silent connections
//! cannot keep out clients of other sources. A source is an IPv4 address, an IPv6 network of 64 bits (one
//! machine has all of it), or a process that uses a unix socket.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::limits::HANDSHAKES_PER_LISTENER;

/// The machine or the process from which a client connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source(String);

impl Source {
    /// The source of a client of this name: an address with a port, or a process.
    pub(super) fn of(name: &str) -> Source {
        let address = name.parse::<SocketAddr>().map(|address| address.ip().to_canonical());
        Source(match address {
            Ok(IpAddr::V6(address)) => format!("{:x?}", &address.segments()[..4]),
            Ok(IpAddr::V4(address)) => address.to_string(),
            Err(_) => name.to_string(),
        })
    }
}

/// A handshake in progress.
struct Entry {
    listener: usize,
    source: Source,
    socket: Arc<OwnedFd>,
    /// Whether the handshake's place was given to another client, so that it is about to end.
    has_given_way: bool,
    /// Whether the client was accepted. It then has a connection, which cannot be lost to another client.
    is_accepted: bool,
}

/// The handshakes of all listeners, the oldest first.
#[derive(Default)]
pub(super) struct Shaking(Vec<Entry>);

/// The result for a client that needs a place.
pub(super) enum Place {
    /// A place was free.
    Free,
    /// The client got the place of another client, whose socket this is; the caller must shut it down.
    Taken(Arc<OwnedFd>),
    /// No place: the handshakes that gave way have not ended yet.
    None,
}

impl Shaking {
    /// Finds a place for a client, and records the handshake.
    pub(super) fn enter(&mut self, listener: usize, source: Source, socket: Arc<OwnedFd>) -> Place {
        if self.0.iter().filter(|entry| entry.listener == listener).count() >= 2 * HANDSHAKES_PER_LISTENER {
            return Place::None;
        }
        let place = match self.gives_way(listener) {
            Some(at) => {
                self.0[at].has_given_way = true;
                Place::Taken(Arc::clone(&self.0[at].socket))
            }
            None => Place::Free,
        };
        self.0.push(Entry { listener, source, socket, has_given_way: false, is_accepted: false });
        place
    }

    /// The handshake that has to give way to one more; `None` if there is room.
    fn gives_way(&self, listener: usize) -> Option<usize> {
        let mine: Vec<usize> = (0..self.0.len())
            .filter(|&at| self.0[at].listener == listener)
            .filter(|&at| !self.0[at].has_given_way && !self.0[at].is_accepted)
            .collect();
        if mine.len() < HANDSHAKES_PER_LISTENER {
            return None;
        }
        let of_its_source =
            |&at: &usize| mine.iter().filter(|&&other| self.0[other].source == self.0[at].source).count();
        // `max_by_key` returns the last of equal elements, which is the oldest because the order is reversed.
        mine.iter().rev().copied().max_by_key(of_its_source)
    }

    /// Records that the client was accepted; `false` if its place was given away before that.
    pub(super) fn accept(&mut self, socket: &Arc<OwnedFd>) -> bool {
        let entry = self.0.iter_mut().find(|entry| Arc::ptr_eq(&entry.socket, socket));
        entry.is_some_and(|entry| {
            entry.is_accepted = !entry.has_given_way;
            entry.is_accepted
        })
    }

    /// Removes a handshake that has ended.
    pub(super) fn leave(&mut self, socket: &Arc<OwnedFd>) {
        self.0.retain(|entry| !Arc::ptr_eq(&entry.socket, socket));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &Arc<OwnedFd>> {
        self.0.iter().map(|entry| &entry.socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/dev/null").unwrap().into())
    }

    #[test]
    fn the_source_with_the_most_gives_way() {
        let mut shaking = Shaking::default();
        let greedy = Source::of("192.0.2.1:5");
        let first = socket();
        let polite = socket();
        assert!(matches!(shaking.enter(0, Source::of("192.0.2.2:9"), Arc::clone(&polite)), Place::Free));
        assert!(matches!(shaking.enter(0, greedy.clone(), Arc::clone(&first)), Place::Free));
        for port in 2..HANDSHAKES_PER_LISTENER {
            let source = Source::of(&format!("192.0.2.1:{port}"));
            assert!(matches!(shaking.enter(0, source, socket()), Place::Free));
        }
        assert!(
            matches!(shaking.enter(1, greedy.clone(), socket()), Place::Free),
            "places of another listener"
        );
        let other = Source::of("192.0.2.3:1");
        match shaking.enter(0, other.clone(), socket()) {
            Place::Taken(gone) => assert!(Arc::ptr_eq(&gone, &first), "the oldest of the greedy one"),
            Place::Free | Place::None => panic!("the places are taken"),
        }
        // However many clients arrive, the polite client keeps its place, and the number of evicted
        // handshakes that have not ended is bounded.
        let mut none = 0;
        for _ in 0..3 * HANDSHAKES_PER_LISTENER {
            match shaking.enter(0, greedy.clone(), socket()) {
                Place::Taken(gone) => assert!(!Arc::ptr_eq(&gone, &polite)),
                Place::Free => panic!("the places are taken"),
                Place::None => none += 1,
            }
        }
        assert_eq!(none, 3 * HANDSHAKES_PER_LISTENER - (HANDSHAKES_PER_LISTENER - 1));
        assert!(!shaking.accept(&first), "its place was given away");
        shaking.leave(&first);
        assert!(matches!(shaking.enter(0, greedy.clone(), socket()), Place::Taken(_)));
        // An accepted client needs no place for a handshake, and cannot lose its connection.
        assert!(shaking.accept(&polite));
        shaking.0.retain(|entry| !entry.has_given_way);
        assert!(matches!(shaking.enter(0, greedy, socket()), Place::Free));
    }

    #[test]
    fn a_source_is_a_machine() {
        assert_eq!(Source::of("192.0.2.1:5"), Source::of("192.0.2.1:6"));
        assert_eq!(Source::of("[::ffff:192.0.2.1]:5"), Source::of("192.0.2.1:6"));
        assert_ne!(Source::of("192.0.2.1:5"), Source::of("192.0.2.2:5"));
        assert_eq!(Source::of("[2001:db8::1]:5"), Source::of("[2001:db8::ffff:1]:6"));
        assert_ne!(Source::of("[2001:db8::1]:5"), Source::of("[2001:db8:0:1::1]:5"));
        assert_ne!(Source::of("pid 5 of uid 7"), Source::of("pid 6 of uid 7"));
    }
}
