//! How background work and hosts share the members.
//!
//! A member serves operations in the order in which they arrive, so each side's share of a member is its
//! share of the operations in flight. A job has about one operation in flight at each member; a host's
//! request has one, at one member.
//!
//! | hosts | jobs in flight |
//! |---|---|
//! | no request at any reactor for [`IDLE_AFTER_NS`] | 32 |
//! | some | one for 16 requests, at least 4, at most 32 |
//!
//! Beside few requests, background work thus adds a queue of four to each member; beside many, it still makes
//! progress. With 1000 reads in flight, a quarter of them reconstructed, it has one in 42 of a member's
//! operations (engine/tests/fairness). Two alternatives lost: a fixed number of 8 jobs had a quarter of that;
//! and 32 jobs in each moment in which the steward's own reactor had no request meant that a host with one
//! request at a time, or a host at another reactor, met all 32.

use super::rebuild::JOBS_MAX_IDLE;

/// Time without any request in flight after which background work takes all that it can use.
const IDLE_AFTER_NS: u64 = 20_000_000;
/// Time between two looks at the other reactors' load: each look costs a cache line of another core.
const LOOK_EVERY_NS: u64 = 1_000_000;
/// Fewest jobs in flight beside hosts.
const JOBS_MIN: u32 = 4;
/// Host requests in flight for each job in flight.
const REQUESTS_PER_JOB: u32 = 16;

/// The steward's knowledge of the hosts' load.
#[derive(Debug, Default)]
pub(super) struct Share {
    others: u32,
    looked_ns: u64,
    /// The time at which a request was last seen; `None` if never.
    seen_ns: Option<u64>,
}

impl Share {
    /// How many jobs may be in flight now. `own` counts this reactor's requests; `others` adds up those of
    /// the other reactors.
    pub(super) fn jobs_max(&mut self, now_ns: u64, own: u32, others: impl FnOnce() -> u32) -> u32 {
        if now_ns >= self.looked_ns + LOOK_EVERY_NS {
            (self.others, self.looked_ns) = (others(), now_ns);
        }
        let requests = own + self.others;
        if requests > 0 {
            self.seen_ns = Some(now_ns);
        }
        match self.seen_ns {
            Some(seen_ns) if now_ns < seen_ns + IDLE_AFTER_NS => {
                (requests / REQUESTS_PER_JOB).clamp(JOBS_MIN, JOBS_MAX_IDLE)
            }
            _ => JOBS_MAX_IDLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_follow_the_load_of_all_reactors() {
        let mut share = Share::default();
        assert_eq!(share.jobs_max(5_000_000, 0, || 0), 32, "no host has asked for anything yet");
        assert_eq!(share.jobs_max(7_000_000, 1, || 0), JOBS_MIN);
        assert_eq!(share.jobs_max(9_000_000, 0, || 0), JOBS_MIN, "a pause between two requests is no rest");
        assert_eq!(share.jobs_max(11_000_000, 0, || 320), 20, "others count");
        assert_eq!(share.jobs_max(11_000_001, 32, || 0), 22, "as of the last look");
        assert_eq!(share.jobs_max(13_000_000, 4000, || 0), 32);
        assert_eq!(share.jobs_max(32_000_000, 0, || 0), JOBS_MIN);
        assert_eq!(share.jobs_max(33_000_000, 0, || 0), 32, "20 ms without a request");
    }
}
