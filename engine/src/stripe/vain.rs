//! How many failed reads of a piece of rows it takes before background work gives the piece up.
//!
//! The steward counts attempts at a stripe, but a stripe is large, and one bad sector makes every attempt
//! fail. So the number of attempts says nothing about the other rows, where a single read may fail for a
//! transient reason (a command times out, a link is reset). Therefore, after many attempts
//! ([`Job::gives_up`](crate::job::Job::gives_up)), the operation takes a closer look at each piece that it
//! cannot read:
//!
//! ```text
//!   read 1 fails - probe - 0.5 s - read 2 fails - probe - 1 s
//!     - read 3 fails - probe - 2 s - read 4 fails - probe - rows are listed
//! ```
//!
//! A probe reads another block of the members that failed the read. The piece is left for a later attempt,
//! and no part of it is given up, if
//! - a read of the piece succeeds;
//! - a probe fails: the member currently reads nothing, so the cause is not a bad sector;
//! - a strip fails that an earlier read of the same piece could read: that error was transient;
//! - an error is not the device's (`Blame::Ours`, `Blame::Space`): it says nothing about the sector.
//!
//! The operation owns its stripe during all this, and holds one of the few places for background work. So it
//! has bounds:
//!
//! - An attempt takes a closer look at [`PIECES`] pieces, and leaves the others to the next attempts.
//! - If a host's request waits for the stripe, or anything waits for a free operation, the attempt ends and
//!   leaves its pieces. A stripe that hosts keep busy would then never be rebuilt. So from attempt [`LATE`]
//!   on, the current piece is looked at to the end (3.5 s plus the reads), and only the other pieces are
//!   left. The time between reads is never shortened.
//! - A stop ends the attempt at once.

use crate::geometry::Strips;

/// Number of failed reads of a piece after which its rows are given up.
const READS: u8 = 4;
/// The wait after the first read. Each later wait is twice as long as the one before.
const FIRST_WAIT_NS: u32 = 500_000_000;
/// Number of pieces that one attempt at a stripe looks at closely: as many as a member's strip of the usual
/// chunk size has.
pub(crate) const PIECES: u8 = 16;
/// Number of attempts (about five minutes) after which a piece is looked at to the end although others wait.
pub(crate) const LATE: u32 = 8;

/// Failed reads of the piece that background work is about to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vain {
    /// Number of reads of the piece so far.
    reads: u8,
    /// Whether some error was not the device's.
    is_unproven: bool,
    /// Strips that failed in every read.
    strips: Strips,
}

impl Vain {
    /// State before any read of a piece has failed.
    pub(crate) const NONE: Vain = Vain { reads: 0, is_unproven: false, strips: Strips::NONE };

    /// Notes that a read of the piece ended with an error that says nothing about the sector.
    pub(crate) const fn note_unproven(&mut self) {
        self.is_unproven = true;
    }

    /// Notes one more read of the piece, which could not be computed without the strips in `failed`. Returns
    /// whether the piece may have to be given up: each of these strips has failed in every read.
    pub(crate) const fn note_read(&mut self, failed: Strips) -> bool {
        let is_first = self.reads == 0;
        let same = is_first || failed.within(self.strips);
        (self.reads, self.strips) = (self.reads + 1, failed);
        same && !self.is_unproven
    }

    /// Whether only one read of the piece has failed so far.
    pub(crate) const fn is_first(self) -> bool {
        self.reads == 1
    }

    /// Time to wait before the next read; `None` after enough reads.
    pub(crate) const fn wait_ns(self) -> Option<u32> {
        if self.reads < READS { Some(FIRST_WAIT_NS << (self.reads - 1)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Case: the strips that fail in each read -> whether the piece may have to be given up after the last
    /// read.
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
