//! The position of the record, noted outside of the members before anything relies on it.
//!
//! A block device outlives its server. The next server may take it over only with members in the state in which the last one left
//! them. A *note* proves that: a file that says which position the record had (see server/note.rs and docs/epochs.md). This file is
//! the array's part, which writes no file:
//!
//! ```text
//!   keeper: a change is on every participant --ask(position)--> the server's thread writes the note
//!   keeper: is_over? --yes--> the reactors rely on the change       <--one more in `ended`--'
//! ```
//!
//! - A note comes after the change is on the members and before anything relies on the change. So the record on the members is never behind
//!   the note, and at most the one change ahead of it that nothing has relied on.
//! - An array without a block device has no note, and waits for none.
//! - A note that does not end (its file system hangs) holds a change up for [`NOTE_TIME_MAX_NS`], and then no longer: hosts that wait for
//!   ever are the greater harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::Sender;

use crate::format::superblock::{EpochName, Record};
use crate::limits::NOTE_TIME_MAX_NS;

/// How far the record of an array has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch.
    pub epoch: EpochName,
    /// The moves within it.
    pub moves: u64,
    /// The id that the next epoch has if this server begins it, 0 if it begins none. Random, so no other server begins one with this id.
    pub next_id: u64,
}

impl Position {
    /// The position of a record whose server makes the ids of its epochs from this seed.
    #[must_use]
    pub fn of(record: &Record, seed: u64) -> Position {
        let epoch = record.epoch.name;
        Position { epoch, moves: record.moves, next_id: epoch_id(seed, epoch.number) }
    }
}

/// The id of the epoch that a running array begins after the one with this number.
pub(super) const fn epoch_id(seed: u64, number: u64) -> u64 {
    // The finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection, so distinct numbers have
    // distinct ids.
    let mut id = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    id ^= id >> 31;
    if id == 0 { 1 } else { id }
}

/// Asks for notes, and says whether they are written.
#[derive(Debug, Default)]
pub struct Noting {
    /// Where positions go: a channel with room for one. `None` where nothing is noted.
    to: Option<Sender<Position>>,
    /// Notes that were asked for, and when the last one was. Only the steward writes and reads the two (Relaxed).
    asked: AtomicU64,
    asked_at_ns: AtomicU64,
    /// Notes that have ended, well or not. The thread that writes them adds to it (Release, after the file is written), the steward reads
    /// it (Acquire).
    ended: Arc<AtomicU64>,
}

impl Noting {
    /// Positions go to `to`, which has room for one; its reader adds 1 to `ended` after each.
    #[must_use]
    pub fn to(to: Sender<Position>, ended: Arc<AtomicU64>) -> Noting {
        Noting { to: Some(to), ended, ..Noting::default() }
    }

    /// Steward: asks for a note. Never blocks. With an earlier note that has not ended in time there is no room for this one, and it is
    /// left out; the note then stays behind until the next change.
    pub(super) fn ask(&self, position: Position, now_ns: u64) {
        if self.to.as_ref().is_some_and(|to| to.try_send(position).is_ok()) {
            self.asked.store(self.asked.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            self.asked_at_ns.store(now_ns, Ordering::Relaxed);
        }
    }

    /// Steward: whether no note is waited for.
    pub(super) fn is_over(&self, now_ns: u64) -> bool {
        self.ended.load(Ordering::Acquire) == self.asked.load(Ordering::Relaxed)
            || now_ns.saturating_sub(self.asked_at_ns.load(Ordering::Relaxed)) >= NOTE_TIME_MAX_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITION: Position = Position { epoch: EpochName { number: 5, id: 9 }, moves: 3, next_id: 7 };

    #[test]
    fn a_change_waits_for_its_note() {
        let (to, notes) = crossbeam::channel::bounded(1);
        let ended = Arc::new(AtomicU64::new(0));
        let noting = Noting::to(to, Arc::clone(&ended));
        assert!(noting.is_over(0));
        noting.ask(POSITION, 100);
        assert!(!noting.is_over(100 + NOTE_TIME_MAX_NS - 1));
        assert_eq!(notes.try_recv(), Ok(POSITION));
        assert!(!noting.is_over(101), "it is being written");
        ended.fetch_add(1, Ordering::Release);
        assert!(noting.is_over(101));
    }

    #[test]
    fn a_note_that_does_not_end_holds_up_one_change() {
        let (to, notes) = crossbeam::channel::bounded(1);
        let noting = Noting::to(to, Arc::default());
        noting.ask(POSITION, 0);
        assert!(!noting.is_over(1) && noting.is_over(NOTE_TIME_MAX_NS));
        noting.ask(Position { moves: 4, ..POSITION }, NOTE_TIME_MAX_NS);
        assert!(noting.is_over(NOTE_TIME_MAX_NS), "there was no room for it");
        assert_eq!(notes.try_recv(), Ok(POSITION));
    }

    #[test]
    fn without_a_block_device_nothing_is_noted() {
        let noting = Noting::default();
        noting.ask(POSITION, 0);
        assert!(noting.is_over(0));
    }
}
