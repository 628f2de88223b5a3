//! Clients that come and go, for a log: from the handshakes and the reactors to one listener.
//!
//! Nothing waits for the listener: the channel has room for [`VISITS_MAX`], and what finds none is dropped. A reactor that tells of a
//! departure allocates nothing, since the name of the client is shared.

use std::fmt;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::limits::VISITS_MAX;

/// A client that came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visit {
    /// A client whose handshake is done.
    Came(Arc<Peer>),
    /// A client of a user who may not connect.
    Refused {
        /// The client.
        peer: Arc<Peer>,
        /// The user; `None` if the kernel did not tell.
        user: Option<u32>,
    },
    /// A client with which there is no session of TLS.
    NotTrusted {
        /// The client.
        peer: Arc<Peer>,
        /// The reason, as the encryption tells it.
        why: String,
    },
    /// So many more clients were refused, too many to tell of each.
    MoreRefused(u32),
    /// The server has closed its connection.
    Left {
        /// The client.
        peer: Arc<Peer>,
        /// The reason.
        why: Farewell,
        /// Bytes that the client moved.
        traffic: Traffic,
    },
}

/// The address of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The address of the client, or its process if it came by a unix socket.
    pub name: String,
    /// The address of the server at which it came.
    pub at: String,
}

/// Bytes that one connection has moved since its handshake, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By the server to the client.
    pub sent_bytes: u64,
    /// By the server from the client.
    pub received_bytes: u64,
}

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The client took its leave, or closed its side, and has all of its answers.
    Left,
    /// The client is gone: both directions of its socket are closed.
    Vanished,
    /// The client sent what is not a command, or its socket failed.
    Broken,
    /// A read failed of which a part had been sent: there is no other way to tell the client.
    ReadFailed,
    /// The client kept memory from others and moved next to nothing.
    Stalled,
    /// The client had not sent a command yet, and another found no place.
    Unused,
    /// The server ends.
    Stopped,
}

impl Farewell {
    /// Whether the server ended the connection, for a reason that an operator may want to look into.
    #[must_use]
    pub fn is_hang_up(self) -> bool {
        match self {
            Farewell::Left | Farewell::Vanished | Farewell::Stopped => false,
            Farewell::Broken | Farewell::ReadFailed | Farewell::Stalled | Farewell::Unused => true,
        }
    }
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Farewell::Left => "it has left",
            Farewell::Vanished => "it is gone without a word",
            Farewell::Broken => "its socket failed, or what it sent is not NBD",
            Farewell::ReadFailed => "a read failed after a part of it had been sent",
            Farewell::Stalled => "it did not move data for which others waited",
            Farewell::Unused => "it had sent no command, and another client needed the place",
            Farewell::Stopped => "the server stops",
        })
    }
}

/// The visits of a server, in order.
#[derive(Clone, Debug)]
pub struct Visits(Receiver<Visit>);

impl Visits {
    /// A way to tell of visits, and the visits that are told.
    pub(super) fn new() -> (Sender<Visit>, Visits) {
        let (sender, receiver) = bounded(VISITS_MAX);
        (sender, Visits(receiver))
    }

    /// Waits for the next; `None` when the server and its reactors have ended.
    #[must_use]
    pub fn next(&self) -> Option<Visit> {
        self.0.recv().ok()
    }
}
