//! What this reactor is short of: for as long as something waits for a place, what comes later waits behind it.
//!
//! The queues of a reactor are looked at each turn, oldest first. The first that finds no room notes here what it is short of;
//! from then on nothing that comes later takes room of that kind, in this turn and before the next look at the queue: new
//! requests and mail are taken between two looks, and so would always find the room first that a completion has
//! just given back.

/// See the top of this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Short {
    /// Operations: a parked part or job has found none.
    pub(super) ops: bool,
    /// Parts for requests of this reactor's host: a request is not split to its end.
    pub(super) parts: bool,
    /// Reads of healthy strips: a request is not split to its end.
    pub(super) reads: bool,
    /// Places in the mailboxes of these reactors, a bit each.
    places: [u64; 4],
}

const _: () = assert!(crate::limits::REACTORS_MAX <= 4 * 64);

impl Short {
    /// Whether something waits for a place in the mailbox of this reactor.
    pub(super) const fn of_places(&self, reactor: u8) -> bool {
        self.places[reactor as usize / 64] & 1 << (reactor % 64) != 0
    }

    /// Notes that something waits for a place in the mailbox of this reactor.
    pub(super) const fn note_places(&mut self, reactor: u8) {
        self.places[reactor as usize / 64] |= 1 << (reactor % 64);
    }

    /// Before a look at what is parked.
    pub(super) const fn forget_parked(&mut self) {
        (self.ops, self.places) = (false, [0; 4]);
    }

    /// Before a look at the requests that are not split to their end.
    pub(super) const fn forget_stalled(&mut self) {
        (self.parts, self.reads) = (false, false);
    }
}
