//! The position of the record, noted outside the members before anything relies on it.
//!
//! A block device outlives its server. The next server may take it over only with members in the state in
//! which the last server left them. A *note* proves that: a file that says which position the record had (see
//! server/note.rs and docs/epochs.md). This file is the array's part, which writes no file:
//!
//! ```text
//!   keeper: a change is on every participant --ask(position)--> the server's thread writes the note
//!   keeper: is_over? --yes--> the reactors rely on the change       <--the number of that note in `ended`--'
//! ```
//!
//! - A note is written after a change is on every participant and before anything relies on the change. A
//!   change that loses a write is neither noted nor relied on; the change that excludes the lost member
//!   follows it. So the record on the members is never behind the note. If it is ahead, the difference is
//!   changes of this server that nothing relied on.
//! - An array without a block device has no note and waits for none.
//! - A note that does not end (its file system hangs) delays changes for [`NOTE_TIME_MAX_NS`] in all, and no
//!   longer: hosts that wait forever are the greater harm. When the file system works again, the latest
//!   position is noted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use crate::format::superblock::{EpochName, Record};
use crate::limits::NOTE_TIME_MAX_NS;

/// The progress of an array's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch.
    pub epoch: EpochName,
    /// The moves within it.
    pub moves: u64,
}

impl Position {
    /// The position of a record.
    #[must_use]
    pub const fn of(record: &Record) -> Position {
        Position { epoch: record.epoch.name, moves: record.moves }
    }
}

/// A position that is to be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoteOrder {
    /// The number of the order, from 1.
    pub number: u64,
    /// The position that the note must contain.
    pub position: Position,
}

/// The array's half: orders notes, and knows whether they were written.
#[derive(Debug, Default)]
pub struct Noting {
    /// The channel to the thread; `None` if nothing is noted.
    to: Option<Orders>,
    /// Number of orders so far, and the time at which the steward began to wait for the oldest one that has
    /// not ended. Only the steward writes and reads these two (Relaxed).
    ordered: AtomicU64,
    since_ns: AtomicU64,
    /// Number of the last order that has ended, successfully or not. The thread that writes notes stores it
    /// (Release, after the file is written); the steward reads it (Acquire).
    ended: Arc<AtomicU64>,
}

/// A channel with room for one order, both ends: a later order replaces one that the thread has not taken.
#[derive(Debug)]
struct Orders(Sender<NoteOrder>, Receiver<NoteOrder>);

/// The half of the thread that writes notes.
#[derive(Debug)]
pub struct NoteOrders {
    /// The latest order. Disconnected when the array is gone.
    pub orders: Receiver<NoteOrder>,
    /// Number of the last order that has ended; the thread stores it.
    pub ended: Arc<AtomicU64>,
}

impl Noting {
    /// Makes the array's half and the thread's half.
    #[must_use]
    pub fn new() -> (Noting, NoteOrders) {
        let (sender, orders) = bounded(1);
        let ended = Arc::new(AtomicU64::new(0));
        let noting = Noting {
            to: Some(Orders(sender, orders.clone())),
            ended: Arc::clone(&ended),
            ..Noting::default()
        };
        (noting, NoteOrders { orders, ended })
    }

    /// Orders a note. Never blocks. For the steward only.
    pub(crate) fn order(&self, position: Position, now_ns: u64) {
        let Some(Orders(sender, taken_back)) = &self.to else { return };
        let ordered = self.ordered.load(Ordering::Relaxed);
        if self.ended.load(Ordering::Acquire) == ordered {
            self.since_ns.store(now_ns, Ordering::Relaxed);
        }
        let order = NoteOrder { number: ordered + 1, position };
        // The thread may take the older order meanwhile; two attempts are always enough, because only the
        // steward sends.
        while let Err(TrySendError::Full(_)) = sender.try_send(order) {
            let _older = taken_back.try_recv();
        }
        self.ordered.store(order.number, Ordering::Relaxed);
    }

    /// Whether the array waits for no note. For the steward only.
    pub(crate) fn is_over(&self, now_ns: u64) -> bool {
        self.ended.load(Ordering::Acquire) == self.ordered.load(Ordering::Relaxed)
            || now_ns.saturating_sub(self.since_ns.load(Ordering::Relaxed)) >= NOTE_TIME_MAX_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITION: Position = Position { epoch: EpochName { number: 5, id: 9 }, moves: 3 };

    #[test]
    fn a_change_waits_for_its_note() {
        let (noting, thread) = Noting::new();
        assert!(noting.is_over(0));
        noting.order(POSITION, 100);
        assert!(!noting.is_over(100 + NOTE_TIME_MAX_NS - 1));
        assert_eq!(thread.orders.try_recv(), Ok(NoteOrder { number: 1, position: POSITION }));
        assert!(!noting.is_over(101), "it is being written");
        thread.ended.store(1, Ordering::Release);
        assert!(noting.is_over(101));
    }

    /// A note that never ends, followed by two more orders.
    #[test]
    fn notes_that_do_not_end_hold_changes_up_once() {
        let (noting, thread) = Noting::new();
        noting.order(POSITION, 0);
        let _taken = thread.orders.try_recv().unwrap();
        assert!(!noting.is_over(1) && noting.is_over(NOTE_TIME_MAX_NS));
        noting.order(Position { moves: 4, ..POSITION }, NOTE_TIME_MAX_NS);
        assert!(noting.is_over(NOTE_TIME_MAX_NS), "the time is over already");
        let latest = Position { moves: 5, ..POSITION };
        noting.order(latest, NOTE_TIME_MAX_NS);
        // The file system works again: the latest position is noted, and changes wait for their notes again.
        assert_eq!(thread.orders.try_recv(), Ok(NoteOrder { number: 3, position: latest }));
        thread.ended.store(3, Ordering::Release);
        noting.order(POSITION, NOTE_TIME_MAX_NS);
        assert!(!noting.is_over(NOTE_TIME_MAX_NS));
    }

    #[test]
    fn without_a_block_device_nothing_is_noted() {
        let noting = Noting::default();
        noting.order(POSITION, 0);
        assert!(noting.is_over(0));
    }

    #[test]
    fn the_thread_ends_with_the_array() {
        let (noting, thread) = Noting::new();
        drop(noting);
        assert!(thread.orders.recv().is_err());
    }
}
