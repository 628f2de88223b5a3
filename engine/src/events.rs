//! What an operator should hear of, once each: a member that leaves, an array that is degraded, a rebuild that ends.
//!
//! The steward tells (`array/tell.rs`); whoever listens writes it down. Nothing waits for a listener: the channel has room for
//! as many as the listener says, and what finds none is counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::members::Failure;
use crate::ring::DeviceIndex;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member is out of service from now on.
    MemberLeft {
        /// Its slot.
        slot: u8,
        /// Its device.
        device: DeviceIndex,
        /// The reason.
        why: Failure,
    },
    /// A member that was passed by for its silence is read again (read-only arrays).
    MemberIsBack {
        /// Its slot.
        slot: u8,
        /// Its device.
        device: DeviceIndex,
    },
    /// A slot is being filled from the others.
    RebuildBegun {
        /// Which.
        slot: u8,
        /// Its device.
        device: DeviceIndex,
        /// The first stripe that is not filled yet.
        from_stripe: u64,
    },
    /// A slot was filled: it is in sync.
    RebuildEnded {
        /// Which.
        slot: u8,
        /// Its device.
        device: DeviceIndex,
    },
    /// Parity of stripes is made to match.
    ResyncBegun {
        /// How many, as far as is known.
        stripes: u64,
    },
    /// No more stripes can be resynced now.
    ResyncEnded {
        /// Stripes that still need it: another attempt follows, or what they lack is missing.
        left: u64,
    },
    /// So many members are in sync now.
    Redundancy {
        /// Members that may still be lost without loss of data; `None`: the array has failed.
        spare: Option<u8>,
        /// Slots that are not in sync.
        missing: u8,
    },
    /// The list of what nobody can compute has become longer.
    DataLost {
        /// Bytes on the list now.
        bytes: u64,
    },
    /// The server has stopped: no event follows.
    Stopped,
}

/// The way from the steward to who listens.
#[derive(Debug, Default)]
pub struct Events {
    listener: OnceLock<Sender<Event>>,
    /// Relaxed: it guards nothing.
    unheard: AtomicU64,
}

impl Events {
    /// Where events come from now on; so many may wait. (A member that leaves makes two.) There is one listener: a second one hears
    /// nothing.
    #[must_use]
    pub fn listen(&self, waiting_max: usize) -> Receiver<Event> {
        let (sender, receiver) = bounded(waiting_max);
        let _there_is_one = self.listener.set(sender);
        receiver
    }

    /// Events that found no room.
    #[must_use]
    pub fn unheard(&self) -> u64 {
        self.unheard.load(Ordering::Relaxed)
    }

    pub(crate) fn tell(&self, event: Event) {
        if self.listener.get().is_some_and(|listener| listener.try_send(event).is_err()) {
            self.unheard.fetch_add(1, Ordering::Relaxed);
        }
    }
}
