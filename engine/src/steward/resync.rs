//! Resync: the search for stripes whose parity does not match their data, and their repair, stripe by stripe, through the same ownership
//! and the same operations as a host's write.
//!
//! A few stripes are in flight at a time, fewer while hosts have requests (`share`). Each comes to its turn, whoever owns it and
//! however busy it is: see array/jobs.rs. A turn looks at a bounded number of cells; a search of a large bitmap takes several.

use std::sync::atomic::Ordering;

use crate::job::{Job, JobEnd};
use crate::shared::Shared;

use super::Steward;
use super::rebuild::backoff_ns;

/// Cells that the search for NeedSync stripes looks at in one turn: 32 KiB of memory, some microseconds. (All 234 million of 59 MB
/// on disk at once took 20 ms, in which the reactor served nobody.)
pub(super) const CELLS_PER_TURN: u64 = 1 << 16;
/// How long after a resync that could not read some stripe another begins.
const RESYNC_AGAIN_NS: u64 = 5_000_000_000;

/// The search for NeedSync stripes.
#[derive(Debug)]
pub(super) struct Resync {
    /// Where the search goes on; `None` when none is under way.
    from: Option<u64>,
    /// Stripes that could not be made consistent, in this pass.
    lost: u64,
    /// Of those, stripes of which a read failed: that may pass, so another pass is due some time later.
    unread: u64,
    again_at_ns: u64,
    /// How many passes before this could not read some stripe.
    attempt: u32,
    /// [`StewardState::torn`](crate::shared::StewardState::torn) as it was looked at last.
    torn_seen: u64,
    /// The slots that were readable when the pass began: with others, another pass may help.
    readable: u32,
}

impl Resync {
    /// The first search, as the array is made: no turn waits while every cell is counted.
    pub(super) fn begin(shared: &Shared) -> Resync {
        Resync::of(shared, shared.bitmap.count().need_sync)
    }

    /// Another search for what this one has left. No stripe becomes NeedSync while an array runs, so there are no more than
    /// those, and nothing need be counted.
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

    /// When the next pass is due, if some stripe could not be read.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        (self.from.is_none() && self.unread > 0).then_some(self.again_at_ns)
    }
}

impl Steward {
    /// Background jobs that may be in flight now, where this reactor's host has so many requests.
    pub(super) fn jobs_max(&mut self, shared: &Shared, now_ns: u64, requests: u32) -> u32 {
        self.share.jobs_max(now_ns, requests, || shared.mailboxes.load())
    }

    /// A job has ended, here or at another reactor.
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
            // Not at once: what refused a write a moment ago would refuse the resync's too.
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
