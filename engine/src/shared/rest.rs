//! Whether members may be written: an array rests after a start, and when nothing was written for a while.
//!
//! ```text
//!   Resting --(a write, a discard or background work wants to begin)--> Called
//!   Called  --(the record says Active, one move on, in both copies of every participant)--> Awake
//!   Awake   --(a pass of the sweep found nothing to do and nothing written)--> Drowsy
//!   Drowsy  --(the next pass found the same)--> Resting, or --(it found something)--> Awake
//! ```
//! For writers, Drowsy is the same as Awake. Because of Drowsy, an array that was called always has the time
//! between two passes for its first write.
//!
//! The record thus says Active only from the first write on: if the process ends before that, the stop is not
//! unclean. And an image of a member taken while the array rested has fewer moves than the array has after
//! the first write, so a later start knows that the image is old. (docs/epochs.md)
//!
//! A writer that saw Awake may continue while the steward sets Resting. Its write then belongs to the earlier
//! moves; the next sweep sees it and moves on. Such a write costs no data, because the record still says
//! Active.

use std::sync::atomic::{AtomicU32, Ordering};

const RESTING: u32 = 0;
const CALLED: u32 = 1;
const AWAKE: u32 = 2;
const DROWSY: u32 = 3;

/// Whether the array rests. Writers read it (Acquire) and may set Called; the steward sets all other states
/// (Release).
#[derive(Debug)]
pub struct Rest(AtomicU32);

impl Rest {
    /// Makes the state of an array that rests, or of one without a record, which never rests.
    pub(crate) const fn new(has_record: bool) -> Rest {
        Rest(AtomicU32::new(if has_record { RESTING } else { AWAKE }))
    }

    /// Whether members may be written.
    #[inline]
    #[must_use]
    pub fn is_over(&self) -> bool {
        // Acquire: pairs with the Release in `end`. The record says Active, durably, before a writer sees
        // Awake.
        self.0.load(Ordering::Acquire) >= AWAKE
    }

    /// Calls the steward; returns whether this is the first call.
    pub(crate) fn call(&self) -> bool {
        self.0.compare_exchange(RESTING, CALLED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether a writer waits.
    pub(crate) fn is_called(&self) -> bool {
        self.0.load(Ordering::Acquire) == CALLED
    }

    /// Lets members be written from now on. For the steward only.
    pub(crate) fn end(&self) {
        self.0.store(AWAKE, Ordering::Release);
    }

    /// Notes that a pass of the sweep found nothing to do. Called stays as it is, because a writer waits. For
    /// the steward only.
    pub(crate) fn approach(&self) {
        let next = if self.0.load(Ordering::Relaxed) == DROWSY { RESTING } else { DROWSY };
        let from = if next == RESTING { DROWSY } else { AWAKE };
        let _from_there_only = self.0.compare_exchange(from, next, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Notes that a pass of the sweep found something to do. For the steward only.
    pub(crate) fn put_off(&self) {
        let _from_there_only = self.0.compare_exchange(DROWSY, AWAKE, Ordering::AcqRel, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_that_was_called_is_awake_for_a_whole_pass() {
        let rest = Rest::new(true);
        rest.approach();
        assert!(!rest.is_over() && rest.call() && rest.is_called());
        assert!(!rest.call(), "it is called once");
        rest.approach();
        assert!(rest.is_called(), "a caller is not forgotten");
        rest.end();
        rest.approach();
        assert!(rest.is_over());
        rest.put_off();
        rest.approach();
        assert!(rest.is_over());
        rest.approach();
        assert!(!rest.is_over());
    }

    #[test]
    fn an_array_without_a_record_never_rests() {
        assert!(Rest::new(false).is_over());
    }
}
