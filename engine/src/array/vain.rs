//! How often a piece of rows is read in vain before background work gives it up.
//!
//! The steward counts attempts at a stripe, and a stripe is large: one bad sector in it makes every attempt fail. So the number of
//! attempts says nothing about its other rows, where a single read may fail for a moment (a command times out, a link is reset).
//! After many attempts ([`Job::gives_up`](super::jobs::Job::gives_up)) the operation therefore takes a closer look at each piece
//! that it cannot read:
//!
//! ```text
//!   read 1 fails - probe - 0.5 s - read 2 fails - probe - 1 s - read 3 fails - probe - 2 s - read 4 fails - probe - rows are listed
//! ```
//!
//! A probe reads another block of the members that failed the read. The piece is left for a later attempt, and nothing of it is given
//! up, if
//! - a read of it succeeds;
//! - a probe fails: the member reads nothing now, so this is no bad sector;
//! - a strip fails that an earlier read of the same piece could read: that error came and went;
//! - an error is not the device's (`Blame::Ours`, `Blame::Space`): it says nothing about the sector;
//! - the array is being stopped: the stop waits for the operation.
//!
//! The operation owns its stripe during all this. It does not wait between two reads while a host's request waits for the stripe, or
//! anything waits for an operation to become free.

use std::sync::atomic::Ordering;

use crate::geometry::Strips;
use crate::request::RequestError;
use crate::ring::Ring;

use super::Array;
use super::op::Phase;

/// Reads of a piece, all in vain, after which its rows are given up.
const READS: u8 = 4;
/// The wait after the first read. Each of the next waits is twice as long as the one before.
const FIRST_WAIT_NS: u64 = 500_000_000;

/// The reads of a piece that background work is about to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vain {
    /// Reads of the piece so far.
    reads: u8,
    /// An error was not the device's.
    is_unproven: bool,
    /// Strips that failed in each of the reads.
    strips: Strips,
}

impl Vain {
    /// No read of the piece has failed.
    pub(super) const NONE: Vain = Vain { reads: 0, is_unproven: false, strips: Strips::NONE };

    /// A read of the piece has ended with an error that says nothing about the sector.
    pub(super) const fn note_unproven(&mut self) {
        self.is_unproven = true;
    }

    /// The piece was read once more, and could not be computed without these strips. Whether it may have to be given up: each of
    /// them has failed in every read.
    pub(super) const fn note_read(&mut self, failed: Strips) -> bool {
        let is_first = self.reads == 0;
        let same = is_first || failed.within(self.strips);
        (self.reads, self.strips) = (self.reads + 1, failed);
        same && !self.is_unproven
    }

    /// How long to wait before the next read; `None` when there have been enough.
    const fn wait_ns(self) -> Option<u64> {
        if self.reads < READS { Some(FIRST_WAIT_NS << (self.reads - 1)) } else { None }
    }
}

/// An operation that waits before it reads a piece anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reread {
    pub(super) due_ns: u64,
    op: u32,
}

impl Array {
    /// The members that failed the last read of a piece can read another block: the piece is read anew after a while, or was read
    /// often enough and is given up.
    pub(super) fn read_in_vain(&mut self, index: u32) {
        match self.ops[index].vain.wait_ns() {
            Some(wait_ns) => {
                self.ops[index].phase = Phase::AwaitingReread;
                self.rereads.push_back(Reread { due_ns: self.now_ns + wait_ns, op: index });
            }
            None => self.list_rows(index),
        }
    }

    /// Reads the pieces anew whose wait is over.
    pub(super) fn reread_pieces<R: Ring>(&mut self, ring: &mut R) {
        if self.rereads.is_empty() {
            return;
        }
        let failed = self.shared.failed();
        let hurries = failed || self.short.ops || self.shared.steward.is_stopping.load(Ordering::Relaxed);
        for _ in 0..self.rereads.len() {
            let reread = self.rereads.pop_front().expect("counted");
            let Reread { due_ns, op } = reread;
            if self.now_ns < due_ns && !hurries && self.ops[op].waiting.is_empty() {
                self.rereads.push_back(reread);
            } else if failed {
                self.finish(op, Err(RequestError::Lost));
            } else {
                self.ops[op].suspects = Strips::NONE;
                self.replan(ring, op);
            }
        }
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
