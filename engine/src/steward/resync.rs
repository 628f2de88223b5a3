//! Resync: finds stripes whose parity does not match their data and repairs them, stripe by stripe, with the
//! same ownership and the same operations as a host's write.
//!
//! A few stripes are in flight at a time, fewer while hosts have requests (`share`). Each stripe gets its
//! turn, whichever reactor owns it and however busy it is (stripe/ownership.rs). A turn looks at a bounded
//! number of cells, so the search of a large bitmap takes several turns.

use std::sync::atomic::Ordering;

use crate::job::{Job, JobEnd};
use crate::shared::Shared;

use super::Steward;
use super::rebuild::backoff_ns;

/// Cells that the search for unsynced stripes looks at in one turn: 32 KiB of memory, some microseconds. (A
/// look at all 234 million cells of 59 MB on disk at once took 20 ms, during which the reactor served no
/// request.)
pub(super) const CELLS_PER_TURN: u64 = 1 << 16;
/// Time between a resync that could not read some stripe and the next one.
const RESYNC_AGAIN_NS: u64 = 5_000_000_000;

/// The search for unsynced stripes (`NeedSync` in the bitmap).
#[derive(Debug)]
pub(super) struct Resync {
    /// The next cell to look at; `None` when no search is under way.
    from: Option<u64>,
    /// Stripes of this pass that could not be made consistent.
    lost: u64,
    /// Number of these where a read failed. Such an error may pass, so another pass follows some time later.
    unread: u64,
    again_at_ns: u64,
    /// How many passes before this one could not read some stripe.
    attempt: u32,
    /// [`StewardState::torn`](crate::shared::StewardState::torn) when it was last looked at.
    torn_seen: u64,
    /// The readable slots when the pass began. If they change, another pass may succeed.
    readable: u32,
}

impl Resync {
    /// Starts the first search while the array is being made, so that no turn waits until every cell is
    /// counted.
    pub(super) fn begin(shared: &Shared) -> Resync {
        Resync::of(shared, shared.bitmap.count().need_sync)
    }

    /// Starts another search for the stripes that this one left. No stripe becomes unsynced while an array
    /// runs, so there are no more than those, and no cell need be counted.
    fn again(&self, shared: &Shared) -> Resync {
        let attempt = if self.unread > 0 { self.attempt + 1 } else { 0 };
        Resync { attempt, ..Resync::of(shared, self.lost.max(self.unread)) }
    }

    fn of(shared: &Shared, total: u64) -> Resync {
        shared.steward.resync_total.store(total, Ordering::Relaxed);
        shared.steward.resync_done.store(0, Ordering::Relaxed);
        shared.steward.resync_is_due.store(false, Ordering::Relaxed);
        Resync {
            from: (total > 0).then_some(0),
            lost: 0,
            unread: 0,
            again_at_ns: 0,
            attempt: 0,
            torn_seen: shared.steward.torn.load(Ordering::Acquire),
            readable: shared.members.view().readable.0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.from.is_some()
    }

    /// The time at which the next pass is due, if some stripe could not be read.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        (self.from.is_none() && self.unread > 0).then_some(self.again_at_ns)
    }
}

impl Steward {
    /// How many background jobs may be in flight now, where `requests` counts those of this reactor's host.
    pub(super) fn jobs_max(&mut self, shared: &Shared, now_ns: u64, requests: u32) -> u32 {
        self.share.jobs_max(now_ns, requests, || shared.mailboxes.load())
    }

    /// Takes note of the end of a job, here or at another reactor.
    pub(crate) fn job_ended(&mut self, shared: &Shared, now_ns: u64, end: JobEnd) {
        let JobEnd { stripe, job, need_sync, unhealed, result } = end;
        self.jobs -= 1;
        self.resync.unread += u64::from(result.is_err() && need_sync);
        match job {
            Job::Resync { .. } => {
                let done = &shared.steward.resync_done;
                done.store(done.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                self.resync.lost += u64::from(result.is_err() || need_sync);
            }
            Job::Rebuild { slot, attempt } => {
                if let Some(rebuild) = self.rebuild.as_mut().filter(|rebuild| rebuild.slot == slot) {
                    let is_filled = result.is_ok() && (!need_sync || unhealed);
                    rebuild.job_ended(stripe, attempt, is_filled, now_ns);
                }
            }
        }
    }

    pub(super) fn resync_turn(&mut self, shared: &Shared, now_ns: u64, requests: u32) {
        let readable = shared.members.view().readable.0;
        let torn = shared.steward.torn.load(Ordering::Acquire);
        let resync = &mut self.resync;
        if torn != resync.torn_seen {
            // Wait first: the cause that refused a write a moment ago would also refuse the resync's write.
            let again_at_ns = now_ns + RESYNC_AGAIN_NS;
            (resync.torn_seen, resync.again_at_ns, resync.attempt) = (torn, again_at_ns, 0);
            resync.unread += 1;
            shared.steward.resync_is_due.store(true, Ordering::Relaxed);
        }
        let Some(mut from) = resync.from else {
            let is_due = resync.unread > 0 && now_ns >= resync.again_at_ns;
            if is_due || (resync.lost > 0 && resync.readable != readable) {
                *resync = resync.again(shared);
            }
            return;
        };
        let attempt = resync.attempt;
        let jobs_max = self.jobs_max(shared, now_ns, requests);
        let stripes = shared.geometry.stripes();
        let end = (from + CELLS_PER_TURN).min(stripes);
        while self.jobs < jobs_max {
            let Some(stripe) = shared.bitmap.next_need_sync_before(from, end) else {
                from = end;
                break;
            };
            self.give_job(stripe, Job::Resync { attempt });
            from = stripe + 1;
        }
        let resync = &mut self.resync;
        resync.from = Some(from);
        if from == stripes && self.jobs == 0 {
            shared.steward.resync_is_due.store(resync.unread > 0, Ordering::Relaxed);
            shared.steward.resync_total.store(0, Ordering::Relaxed);
            resync.from = None;
            resync.again_at_ns = now_ns + backoff_ns(RESYNC_AGAIN_NS, attempt);
        }
    }
}
