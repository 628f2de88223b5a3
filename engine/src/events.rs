//! Events of a running array that an operator should hear of, once each: a member leaves, the array becomes
//! degraded, a rebuild ends.
//!
//! The steward reports them (`steward/tell.rs`), and a listener writes them down. Nothing waits for the
//! listener: the channel has room for as many events as the listener asks for, and an event that finds no
//! room is only counted. Lost data is not among the events: finding it means searching the bitmap, which the
//! listener does itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::members::Failure;
use crate::ring::DeviceIndex;

/// An event of a running array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The array starts without a member in this slot.
    SlotMissing {
        /// The slot.
        slot: u8,
    },
    /// A member goes out of service.
    MemberLeft {
        /// The slot of the member.
        slot: u8,
        /// The device of the member.
        device: DeviceIndex,
        /// The reason.
        why: Failure,
        /// Whether the array has failed by then.
        array_has_failed: bool,
    },
    /// A member that was skipped because it did not answer is read again (read-only arrays).
    MemberIsBack {
        /// The slot of the member.
        slot: u8,
        /// The device of the member.
        device: DeviceIndex,
    },
    /// The array has stopped serving: a member refused metadata or a flush through no fault of the member.
    ServingStopped {
        /// The slot of that member, which stays in sync.
        slot: u8,
        /// The device of that member.
        device: DeviceIndex,
        /// The error of the refused operation.
        errno: i32,
    },
    /// A slot is being rebuilt from the others.
    RebuildBegun {
        /// The slot.
        slot: u8,
        /// The device in the slot.
        device: DeviceIndex,
        /// The first stripe that is not rebuilt yet.
        from_stripe: u64,
    },
    /// A slot has been rebuilt: it is in sync.
    RebuildEnded {
        /// The slot.
        slot: u8,
        /// The device in the slot.
        device: DeviceIndex,
    },
    /// A rebuild has ended before the slot was in sync.
    RebuildBrokenOff {
        /// The slot.
        slot: u8,
        /// The device that was in the slot.
        device: DeviceIndex,
        /// The first stripe that was not rebuilt.
        at_stripe: u64,
    },
    /// A resync has begun.
    ResyncBegun {
        /// Stripes that need a resync, as far as is known.
        stripes: u64,
    },
    /// No more stripes can be resynced now.
    ResyncEnded {
        /// Stripes that still need a resync: another attempt follows, or a member that they need is missing.
        left: u64,
    },
    /// The number of members in sync has changed, or the array has failed.
    Redundancy {
        /// Members that may still be lost without loss of data; `None`: the array has failed.
        spare: Option<u8>,
        /// Slots that are not in sync.
        missing: u8,
    },
    /// The server has stopped: no event follows.
    Stopped,
}

/// The channel from the steward to the listener.
#[derive(Debug, Default)]
pub struct Events {
    listener: OnceLock<Sender<Event>>,
    /// Number of events that found no room. Relaxed: it orders no other memory.
    unheard: AtomicU64,
}

impl Events {
    /// Begins to listen. At most `waiting_max` events may wait; a member that leaves causes two or three.
    /// There is one listener: the channel of a second one stays empty.
    #[must_use]
    pub fn listen(&self, waiting_max: usize) -> Receiver<Event> {
        let (sender, receiver) = bounded(waiting_max);
        let _there_is_one = self.listener.set(sender);
        receiver
    }

    /// Number of events that found no room.
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
