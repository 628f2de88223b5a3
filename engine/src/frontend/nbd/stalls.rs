//! Finds the clients that keep memory from others: a pure record of what the front end sees at its looks.
//!
//! A watch begins when a connection is *denied* memory within its own share. The front end looks every
//! `LOOK_TIME`. A client has *stalled* if both of these hold at each of `LOOKS_PER_STALL` looks in a row:
//!
//! - The client keeps more than its base in bytes that only it can free: data that is ready to be sent to it,
//!   and the piece of a write of which it has sent a part. Data that waits for the engine, or for another
//!   piece of the same reply, does not count.
//! - The client has moved less than `STALL_BYTES_MIN` since the watch began.
//!
//! The watch ends early when no client qualifies any more, or when no other connection was denied since the
//! last look. A single look would not be enough: a healthy client has data ready to be sent whenever it is a
//! little slower than the members.

use super::limits::LOOKS_PER_STALL;

/// The result of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The watch continues.
    Again,
    /// No client has stalled, or none keeps memory for which others wait.
    Over,
    /// The clients that have stalled.
    Stalled(u64),
}

/// Sets of connections, by place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stalls {
    /// Connections whose last attempt to take memory was denied.
    denied: u64,
    /// Connections that were denied memory since the last look.
    denied_lately: u64,
    /// Connections that have qualified as stalled at all looks of this watch.
    suspects: u64,
    /// Number of looks in this watch.
    looks: u32,
}

impl Stalls {
    /// The connections that wait for memory that is their share.
    pub(super) fn denied(&self) -> u64 {
        self.denied
    }

    /// Records that the connection at a place was denied memory.
    pub(super) fn deny(&mut self, place: usize) {
        self.denied |= 1 << place;
        self.denied_lately |= 1 << place;
    }

    /// Records that the connection at a place no longer waits for memory.
    pub(super) fn relieve(&mut self, place: usize) {
        self.denied &= !(1 << place);
    }

    /// Forgets the connection at a place, because its client is gone.
    pub(super) fn forget(&mut self, place: usize) {
        self.denied &= !(1 << place);
        self.denied_lately &= !(1 << place);
        self.suspects &= !(1 << place);
    }

    /// Begins a watch; `keeping` holds the connections that qualify now.
    pub(super) fn begin(&mut self, keeping: u64) {
        self.denied_lately = self.denied;
        self.suspects = keeping;
        self.looks = 0;
    }

    /// Takes a look; `keeping` holds the connections that qualify now.
    pub(super) fn look(&mut self, keeping: u64) -> Look {
        self.looks += 1;
        self.suspects &= keeping;
        // A client that does not read may itself wait for memory. If only such clients wait, no other client
        // is affected.
        let others_denied = std::mem::replace(&mut self.denied_lately, self.denied) & !self.suspects;
        if self.suspects == 0 || others_denied == 0 {
            Look::Over
        } else if self.looks < LOOKS_PER_STALL {
            Look::Again
        } else {
            Look::Stalled(self.suspects)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a watch in which place 0 is denied at `denied` looks and the others qualify by `keeping`.
    fn watch(keeping: impl Fn(u32) -> u64, denied: impl Fn(u32) -> bool) -> (u32, Look) {
        let mut stalls = Stalls::default();
        stalls.deny(0);
        stalls.begin(keeping(0));
        stalls.relieve(0);
        for look in 1.. {
            if denied(look) {
                stalls.deny(0);
                stalls.relieve(0); // denied, and granted a little before the look
            }
            match stalls.look(keeping(look)) {
                Look::Again => {}
                end => return (look, end),
            }
        }
        unreachable!("a watch has an end")
    }

    #[test]
    fn a_client_has_stalled_if_it_is_in_the_way_at_every_look() {
        let last = LOOKS_PER_STALL;
        assert_eq!(watch(|_| 0b110, |_| true), (last, Look::Stalled(0b110)));
        assert_eq!(
            watch(|look| if look == 7 { 0b100 } else { 0b110 }, |_| true),
            (last, Look::Stalled(0b100))
        );
        assert_eq!(
            watch(|look| if look == 0 { 0 } else { 0b110 }, |_| true),
            (1, Look::Over),
            "not at first"
        );
        assert_eq!(
            watch(|look| if look == last { 0 } else { 2 }, |_| true),
            (last, Look::Over),
            "not at last"
        );
        assert_eq!(watch(|_| 2, |look| look < 5), (5, Look::Over), "the other has its memory");
        assert_eq!(watch(|_| 1, |_| true), (1, Look::Over), "only the stalled one itself waits");
    }

    #[test]
    fn a_client_that_is_gone_was_not_denied() {
        let mut stalls = Stalls::default();
        stalls.deny(3);
        stalls.begin(2);
        stalls.forget(3);
        assert_eq!((stalls.denied(), stalls.look(2)), (0, Look::Over));
    }
}
