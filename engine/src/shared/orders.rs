//! Orders of an operator to the steward, and what the steward publishes to all reactors and the operator.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;
use uuid::Uuid;

use crate::assembly::Roster;
use crate::events::Events;
use crate::ring::DeviceIndex;

use super::{Noting, Rest};

/// The destination of an order's outcome.
#[derive(Clone, Debug)]
pub struct Answer(Option<Sender<Result<(), String>>>);

impl Answer {
    /// Sends the outcome into this channel, which has room for one.
    #[must_use]
    pub fn to(sender: Sender<Result<(), String>>) -> Answer {
        Answer(Some(sender))
    }

    /// Discards the outcome.
    #[must_use]
    pub const fn ignored() -> Answer {
        Answer(None)
    }

    pub(crate) fn send(&self, outcome: Result<(), String>) {
        if let Some(sender) = &self.0 {
            // The party that asked may be gone, which changes nothing.
            let _ = sender.try_send(outcome);
        }
    }
}

/// An order of an operator to a running array.
pub enum Order {
    /// Fail a slot.
    Fail {
        /// The slot to fail.
        slot: u8,
        /// The channel that is told once the change is on record.
        answer: Answer,
    },
    /// Put a device into an empty slot and fill it. All rings already know the device. Everything around its
    /// data zone is wiped first. If the order is refused, the device is not a member and nothing more is
    /// written to it.
    Join {
        /// The slot to fill.
        slot: u8,
        /// The device.
        device: DeviceIndex,
        /// The device's new identity.
        member: Uuid,
        /// Whether the device has a volatile write cache.
        volatile: bool,
        /// Length of the device in bytes, a multiple of 4 KiB.
        device_bytes: u64,
        /// The channel that is told once the change is on record.
        answer: Answer,
    },
    /// Stop in order. Before this, the front ends were drained, and no reactor [works for
    /// hosts](crate::array::Array::works_for_hosts).
    Stop {
        /// The channel that is told once the superblocks say Clean.
        answer: Answer,
    },
}

/// The steward's state as all reactors and the operator see it.
pub struct StewardState {
    /// Orders to the steward.
    pub orders: ArrayQueue<Order>,
    /// The steward's starting values; reactor 0 takes them.
    pub(crate) beginning: Mutex<Option<Beginning>>,
    /// Stripes resynced since the start of the present resync.
    pub resync_done: AtomicU64,
    /// Stripes that the present resync has to do in all; 0 when none is running.
    pub resync_total: AtomicU64,
    /// Whether another resync is due some time after one that could not read or write some stripe.
    pub resync_is_due: AtomicBool,
    /// The slot being rebuilt + 1; 0 for none. The cursor is in the members.
    pub rebuild_slot: AtomicU64,
    /// The number of the epoch on record; 0 before the first change.
    pub epoch: AtomicU64,
    /// Number of stripes that writes have left torn with every member present. Written by any reactor; a
    /// change of it leads to a resync.
    pub torn: AtomicU64,
    /// Runs of discards whose deallocations have not ended. Counted by the owners of their stripes; a stop
    /// waits for them.
    pub advice: AtomicU32,
    /// Whether a stop was ordered. Written by the steward. Background work in any reactor looks at it and
    /// then stops waiting.
    pub is_stopping: AtomicBool,
    /// Whether members may be written.
    pub rest: Rest,
    /// Events for the operator.
    pub events: Events,
    /// Notes of the record's changes, written before anything relies on the changes.
    pub(crate) noting: Noting,
}

/// The steward's starting values.
pub struct Beginning {
    /// The members on record; `None` for an array that lives in memory only.
    pub roster: Option<Roster>,
    /// A random number from which the ids of later epochs are made.
    pub seed: u64,
    /// The slot whose rebuild continues at the members' cursor, if any.
    pub rebuilding: Option<u8>,
}

impl StewardState {
    /// Makes the state of a steward that has not begun yet.
    #[must_use]
    pub fn new(beginning: Beginning) -> StewardState {
        StewardState {
            orders: ArrayQueue::new(64),
            rest: Rest::new(beginning.roster.is_some()),
            beginning: Mutex::new(Some(beginning)),
            advice: AtomicU32::new(0),
            resync_done: AtomicU64::new(0),
            resync_total: AtomicU64::new(0),
            resync_is_due: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            rebuild_slot: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            torn: AtomicU64::new(0),
            events: Events::default(),
            noting: Noting::default(),
        }
    }

    /// Adds noting of record changes, for an array that is served as a block device.
    #[must_use]
    pub fn noted_by(self, noting: Noting) -> StewardState {
        StewardState { noting, ..self }
    }

    /// Makes the array not rest at first, because its record already says Active in both copies of every
    /// participant.
    #[must_use]
    pub fn awake(self) -> StewardState {
        self.rest.end();
        self
    }
}
