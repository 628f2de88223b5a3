//! How often a piece of rows is read in vain before background work gives it up.
//!
//! The steward counts attempts at a stripe, and a stripe is large: one bad sector in it makes every attempt
//! fail. So the number of attempts says nothing about its other rows, where a single read may fail for a
//! moment (a command times out, a link is reset). After many attempts
//! ([`Job::gives_up`](crate::job::Job::gives_up)) the operation therefore takes a closer look at each piece
//! that it cannot read:
//!
//! ```text
//!   read 1 fails - probe - 0.5 s - read 2 fails - probe - 1 s - read 3 fails - probe - 2 s - read 4 fails - probe - rows are listed
//! ```
//!
//! A probe reads another block of the members that failed the read. The piece is left for a later attempt,
//! and nothing of it is given up, if
//! - a read of it succeeds;
//! - a probe fails: the member reads nothing now, so this is no bad sector;
//! - a strip fails that an earlier read of the same piece could read: that error came and went;
//! - an error is not the device's (`Blame::Ours`, `Blame::Space`): it says nothing about the sector.
//!
//! The operation owns its stripe during all this, and holds one of the few places of background work. So it
//! has bounds:
//!
//! - An attempt looks at [`PIECES`] pieces so, and leaves the others to the next attempts.
//! - If a host's request waits for the stripe, or anything waits for an operation to become free, the attempt
//!   is over, and the pieces are left. A stripe that hosts never leave alone would never be filled, so from
//!   attempt [`LATE`] on the piece that is being looked at is looked at to the end (3.5 s and the reads), and
//!   only the others are left. The reads are never closer in time.
//! - A stop ends the attempt at once.

use crate::geometry::Strips;

/// Reads of a piece, all in vain, after which its rows are given up.
const READS: u8 = 4;
/// The wait after the first read. Each of the next waits is twice as long as the one before.
const FIRST_WAIT_NS: u64 = 500_000_000;
/// Pieces that one attempt at a stripe looks at so closely. The strip of a member with the usual chunk has as
/// many.
pub(crate) const PIECES: u8 = 16;
/// Attempts after which a piece is looked at to the end although others wait: some five minutes.
pub(crate) const LATE: u32 = 8;

/// The reads of a piece that background work is about to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vain {
    /// Reads of the piece so far.
    reads: u8,
    /// An error was not the device's.
    is_unproven: bool,
    /// Strips that failed in each of the reads.
    strips: Strips,
}

impl Vain {
    /// No read of a piece has failed.
    pub(crate) const NONE: Vain = Vain { reads: 0, is_unproven: false, strips: Strips::NONE };

    /// A read of the piece has ended with an error that says nothing about the sector.
    pub(crate) const fn note_unproven(&mut self) {
        self.is_unproven = true;
    }

    /// The piece was read once more, and could not be computed without these strips. Whether it may have to
    /// be given up: each of them has failed in every read.
    pub(crate) const fn note_read(&mut self, failed: Strips) -> bool {
        let is_first = self.reads == 0;
        let same = is_first || failed.within(self.strips);
        (self.reads, self.strips) = (self.reads + 1, failed);
        same && !self.is_unproven
    }

    /// Whether this is the first read of its piece that has failed.
    pub(crate) const fn is_first(self) -> bool {
        self.reads == 1
    }

    /// How long to wait before the next read; `None` when there have been enough.
    pub(crate) const fn wait_ns(self) -> Option<u64> {
        if self.reads < READS { Some(FIRST_WAIT_NS << (self.reads - 1)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The strips that fail in each read -> whether the piece may have to be given up after the last.
    #[test]
    fn strips_have_to_fail_each_time() {
        let strips = |bits: u32| Strips(bits);
        for (failed, expected) in [
            (&[0b01, 0b01, 0b01][..], true),
            (&[0b11, 0b01, 0b01], true),
            (&[0b01, 0b11], false),
            (&[0b11, 0b01, 0b11], false),
            (&[0b01, 0b10], false),
        ] {
            let mut vain = Vain::NONE;
            let last = failed.iter().map(|&bits| vain.note_read(strips(bits))).last();
            assert_eq!(last, Some(expected), "{failed:?}");
        }
        let mut vain = Vain::NONE;
        vain.note_unproven();
        assert!(!vain.note_read(strips(1)));
    }

    #[test]
    fn the_waits_grow_and_end() {
        let mut vain = Vain::NONE;
        let mut waits = Vec::new();
        loop {
            vain.note_read(Strips(1));
            let Some(wait_ns) = vain.wait_ns() else { break };
            waits.push(wait_ns / 1_000_000);
        }
        assert_eq!((vain.reads, waits), (READS, vec![500, 1000, 2000]));
    }
}
