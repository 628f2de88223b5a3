//! What an operator asks of the steward, and what all reactors and the operator see of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;
use uuid::Uuid;

use crate::assembly::Roster;
use crate::events::Events;
use crate::ring::DeviceIndex;

use super::{Noting, Rest};

/// Where the outcome of an order goes.
#[derive(Clone, Debug)]
pub struct Answer(Option<Sender<Result<(), String>>>);

impl Answer {
    /// Answers into this channel, which has room for one.
    #[must_use]
    pub fn to(sender: Sender<Result<(), String>>) -> Answer {
        Answer(Some(sender))
    }

    /// Answers nobody.
    #[must_use]
    pub const fn ignored() -> Answer {
        Answer(None)
    }

    pub(crate) fn send(&self, outcome: Result<(), String>) {
        if let Some(sender) = &self.0 {
            // Whoever asked may have gone away, which changes nothing.
            let _ = sender.try_send(outcome);
        }
    }
}

/// What an operator asks of a running array.
pub enum Order {
    /// Fail a slot.
    Fail {
        /// Which.
        slot: u8,
        /// Told once it is on record.
        answer: Answer,
    },
    /// Put a device in an empty slot and fill it. All rings know the device already. What it holds around the data zone is
    /// wiped first. If the order is refused, the device is not a member, and nothing more is written to it.
    Join {
        /// Which slot.
        slot: u8,
        /// The device.
        device: DeviceIndex,
        /// Its new identity.
        member: Uuid,
        /// Whether it has a volatile cache.
        volatile: bool,
        /// Length of the device in bytes, a multiple of 4 KiB.
        device_bytes: u64,
        /// Told once it is on record.
        answer: Answer,
    },
    /// Stop in order. The front ends are drained, and no reactor [works for hosts](crate::array::Array::works_for_hosts).
    Stop {
        /// Told once the superblocks say Clean.
        answer: Answer,
    },
}

/// What all reactors and the operator see of the steward.
pub struct StewardState {
    /// What it is asked.
    pub orders: ArrayQueue<Order>,
    /// What it begins with; taken by reactor 0.
    pub(crate) beginning: Mutex<Option<Beginning>>,
    /// Stripes resynced since the start of the present resync, and how many there were to do.
    pub resync_done: AtomicU64,
    /// See `resync_done`; 0 when none is running.
    pub resync_total: AtomicU64,
    /// Whether another resync is due some time after one that could not read, or not write, some stripe.
    pub resync_is_due: AtomicBool,
    /// The slot being rebuilt + 1; 0 for none. The cursor is in the members.
    pub rebuild_slot: AtomicU64,
    /// The number of the epoch on record; 0 before the first change.
    pub epoch: AtomicU64,
    /// Stripes that writes have left torn, with every member there. Written by any reactor; a change asks for a resync.
    pub torn: AtomicU64,
    /// Runs of discards that devices have not heard the end of. Counted by the owners of their stripes; a stop waits for them.
    pub advice: AtomicU32,
    /// Whether a stop was ordered. Written by the steward; background work of any reactor looks at it, and does not wait then.
    pub is_stopping: AtomicBool,
    /// Whether members may be written.
    pub rest: Rest,
    /// What an operator should hear of.
    pub events: Events,
    /// Where changes of the record are noted before anything relies on them.
    pub(crate) noting: Noting,
}

/// What the steward begins with.
pub struct Beginning {
    /// The members on record; `None` for an array that lives in memory only.
    pub roster: Option<Roster>,
    /// Random: the ids of later epochs are made from it.
    pub seed: u64,
    /// The slot to go on filling, if any (from the members' cursor on).
    pub rebuilding: Option<u8>,
}

impl StewardState {
    /// A steward that has not begun yet.
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

    /// This steward of an array that is served as a block device: changes of its record are noted.
    #[must_use]
    pub fn noted_by(self, noting: Noting) -> StewardState {
        StewardState { noting, ..self }
    }

    /// The same of an array whose record says Active already, in both copies of every participant: it does not rest at first.
    #[must_use]
    pub fn awake(self) -> StewardState {
        self.rest.end();
        self
    }
}
