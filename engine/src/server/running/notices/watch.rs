//! News of an array that no event reports: about once a second the current state is compared with that of the
//! last look.
//!
//! - **Lost data** is both the listed rows and the strips of unsynced stripes whose slot is missing. Counting
//!   the second kind means searching the bitmap, 20 ms and more for a large array. So the count is made only
//!   after a change of what it depends on, and takes at most a tenth of the time.
//! - **A rebuild** is stuck if its cursor has not moved for [`STUCK_TIME_NS`] while no resync holds it up.

use crate::array::Shared;
use crate::clock::{Clock, MonotonicClock};
use crate::members::MemberView;
use crate::sync::Ordering;

use super::super::lost::lost_stripes;

/// Time without progress after which a rebuild counts as stuck. A rebuild normally passes thousands of
/// stripes in this time, and its longest pause before another attempt at an unreadable stripe is as long.
const STUCK_TIME_NS: u64 = 60_000_000_000;
/// Shortest time between two counts of lost data.
const COUNT_EVERY_NS: u64 = 1_000_000_000;

/// A finding of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// More data is lost than before.
    Lost {
        /// Bytes that are lost now.
        bytes: u64,
    },
    /// Data was lost before, and no data is lost any more.
    Restored,
    /// The list of lost rows is full.
    ListFull,
    /// A rebuild makes no progress.
    Stuck {
        /// The slot.
        slot: u8,
        /// The first stripe that is not rebuilt.
        stripe: u64,
    },
}

/// State at the last look.
#[derive(Debug, Default)]
pub(super) struct Watch {
    lost_bytes: u64,
    /// The state that the last count of lost bytes was made from: members, unsynced stripes, version of the
    /// list.
    counted: Option<(MemberView, u64, u64)>,
    next_count_ns: u64,
    list_is_full: bool,
    rebuild: Option<Standing>,
}

/// A rebuild that is at one stripe since a given time.
#[derive(Clone, Copy, Debug)]
struct Standing {
    slot: u8,
    stripe: u64,
    since_ns: u64,
    is_told: bool,
}

impl Watch {
    /// Returns the findings since the last look.
    pub(super) fn look(&mut self, shared: &Shared, now_ns: u64) -> Vec<Found> {
        let lost = self.look_at_lost(shared, now_ns);
        let list_is_full = shared.lost.is_full();
        let list = (list_is_full && !self.list_is_full).then_some(Found::ListFull);
        self.list_is_full = list_is_full;
        let state = &shared.steward;
        let is_held_up = state.resync_total.load(Ordering::Relaxed) > 0 || shared.failed();
        let slot = state.rebuild_slot.load(Ordering::Relaxed).checked_sub(1).filter(|_| !is_held_up);
        let at = slot.map(|slot| (slot as u8, shared.members.cursor()));
        let stuck = self.look_at_rebuild(at.filter(|at| at.1 < shared.geometry.stripes()), now_ns);
        lost.into_iter().chain(list).chain(stuck).collect()
    }

    fn look_at_lost(&mut self, shared: &Shared, now_ns: u64) -> Option<Found> {
        let view = shared.members.view();
        let now = (view, shared.bitmap.need_sync(), shared.lost.version());
        if self.counted == Some(now) || now_ns < self.next_count_ns {
            return None;
        }
        let bytes = lost_stripes(shared, &view).bytes + shared.lost.bytes();
        let took_ns = MonotonicClock.now_ns().saturating_sub(now_ns);
        (self.counted, self.next_count_ns) = (Some(now), now_ns + COUNT_EVERY_NS.max(10 * took_ns));
        let before = std::mem::replace(&mut self.lost_bytes, bytes);
        match bytes {
            _ if bytes > before => Some(Found::Lost { bytes }),
            0 if before > 0 => Some(Found::Restored),
            _ => None,
        }
    }

    /// Checks the rebuild `at` (the slot, and its first stripe that is not rebuilt) for progress.
    fn look_at_rebuild(&mut self, at: Option<(u8, u64)>, now_ns: u64) -> Option<Found> {
        let Some((slot, stripe)) = at else {
            self.rebuild = None;
            return None;
        };
        let standing =
            self.rebuild.get_or_insert(Standing { slot, stripe, since_ns: now_ns, is_told: false });
        if (standing.slot, standing.stripe) != (slot, stripe) {
            *standing = Standing { slot, stripe, since_ns: now_ns, is_told: false };
        }
        let is_stuck = now_ns >= standing.since_ns + STUCK_TIME_NS && !standing.is_told;
        standing.is_told |= is_stuck;
        is_stuck.then_some(Found::Stuck { slot, stripe })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuild_that_stands_still_is_told_of_once() {
        let (mut watch, mut told) = (Watch::default(), Vec::new());
        let stripe = |second: u64| if second < 200 { 7 } else { second };
        for second in 0..400 {
            told.extend(watch.look_at_rebuild(Some((2, stripe(second))), second * 1_000_000_000));
        }
        assert_eq!(told, [Found::Stuck { slot: 2, stripe: 7 }]);
        // The rebuild was held up in between, so its time at this stripe counts only since then.
        assert_eq!(watch.look_at_rebuild(None, 500 * 1_000_000_000), None);
        assert_eq!(watch.look_at_rebuild(Some((2, 399)), 501 * 1_000_000_000), None);
    }
}
