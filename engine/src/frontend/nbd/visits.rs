//! Clients that arrive and leave, reported by the handshakes and the reactors to one listener, for a log.
//!
//! Nothing waits for the listener: the channel has room for [`VISITS_MAX`], and a visit that finds no room is
//! dropped. A reactor that reports a departure allocates nothing, since the client's name is shared.

use std::fmt;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::limits::VISITS_MAX;

/// A client that arrived, was refused, or left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visit {
    /// The client's handshake is done.
    Came(Arc<Peer>),
    /// The client belongs to a user who may not connect.
    Refused {
        /// The client.
        peer: Arc<Peer>,
        /// The user; `None` if the kernel did not report it.
        user: Option<u32>,
    },
    /// No TLS session could be made with the client.
    NotTrusted {
        /// The client.
        peer: Arc<Peer>,
        /// The reason, as the encryption reports it.
        why: String,
    },
    /// A number of further refusals, too many to report each.
    MoreRefused(u32),
    /// The server has closed the client's connection.
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
    /// The address of the client, or its process if it uses a unix socket.
    pub name: String,
    /// The address of the server to which it connected.
    pub at: String,
}

/// Bytes that one connection has moved since its handshake, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent by the server to the client.
    pub sent_bytes: u64,
    /// Bytes received by the server from the client.
    pub received_bytes: u64,
}

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The client said goodbye, or closed its side, and has received all of its answers.
    Left,
    /// The client is gone: both directions of its socket are closed.
    Vanished,
    /// The client sent bytes that are not a command, or its socket failed.
    Broken,
    /// A read failed after a part of it had been sent; the client cannot be told in any other way.
    ReadFailed,
    /// The client kept memory from others and moved next to nothing.
    Stalled,
    /// The client had not sent a command yet, and another client found no place.
    Unused,
    /// The server ends.
    Stopped,
}

impl Farewell {
    /// Whether the server ended the connection for a reason that an operator may want to examine.
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

/// The receiving end of a server's visits, in order.
#[derive(Clone, Debug)]
pub struct Visits(Receiver<Visit>);

impl Visits {
    /// Makes the sending and the receiving end.
    pub(super) fn new() -> (Sender<Visit>, Visits) {
        let (sender, receiver) = bounded(VISITS_MAX);
        (sender, Visits(receiver))
    }

    /// Waits for the next visit; `None` when the server and its reactors have ended.
    #[must_use]
    pub fn next(&self) -> Option<Visit> {
        self.0.recv().ok()
    }
}
