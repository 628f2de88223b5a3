//! Members that do not answer.
//!
//! An I/O that is in flight through as many beats as the array has patience fails its member: from then on nothing
//! is asked of it. A beat is a turn at least a second after the last beat, so a reactor that slept, or a
//! process that was stopped, finds no I/O old: completions that came meanwhile are taken first.
//!
//! What is in flight stays so until the kernel gives it back, with its memory and its stripe: a device that
//! may still write to a buffer keeps it. (The drivers end every command in the end; NVMe's, by resetting the
//! controller after its own 30 s.) A member that the array cannot do without is waited for.

use crate::members::Failure;

use super::Array;

/// Least time between beats.
const BEAT_NS: u64 = 1_000_000_000;

/// Counts beats.
#[derive(Default)]
pub(super) struct Watch {
    beat: u32,
    beaten_ns: u64,
}

impl Watch {
    /// What an I/O that is pushed now notes.
    pub(super) const fn beat(&self) -> u32 {
        self.beat
    }

    /// When to look again.
    pub(super) const fn next_deadline_ns(&self) -> u64 {
        self.beaten_ns + BEAT_NS
    }
}

impl Array {
    pub(super) fn watch_advance(&mut self) {
        if self.ios.len() == 0 || self.now_ns < self.watch.next_deadline_ns() {
            return;
        }
        self.watch.beat = self.watch.beat.wrapping_add(1);
        self.watch.beaten_ns = self.now_ns;
        let patience = self.shared.members.patience_s();
        let (shared, beat) = (&self.shared, self.watch.beat);
        for io in self.ios.iter() {
            if beat.wrapping_sub(io.beat) > patience && self.is_current(io) {
                shared.members.fail_if_spared(
                    io.slot,
                    Failure::Silence(patience),
                    shared.geometry.data().into(),
                );
            }
        }
    }
}
