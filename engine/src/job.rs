//! Background work on one stripe, given by the steward to the owner of the stripe (stripe/ownership.rs says
//! how).

use crate::request::RequestError;

/// Most background jobs in flight in an array. Example: 32 stripes being rebuilt on 8 members read 224 strips
/// at once.
pub(crate) const JOBS_MAX: u32 = 32;

/// Background work on one stripe; `attempt` is 0 for the first try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Make parity match data.
    Resync { attempt: u32 },
    /// Fill this slot's strip.
    Rebuild { slot: u8, attempt: u32 },
}

/// Attempts at a stripe after which rows may be given up: after half a minute of a rebuild, or two and a half
/// minutes of a resync. A member with a passing problem has answered by then. Each piece of rows is still
/// read several times more (stripe/vain.rs).
const GIVE_UP_AFTER: u32 = 5;

impl Job {
    /// Number of earlier attempts at the stripe.
    pub(crate) const fn attempt(self) -> u32 {
        match self {
            Job::Resync { attempt } | Job::Rebuild { attempt, .. } => attempt,
        }
    }

    /// Whether rows that cannot be computed may be given up now; see stripe/vain.rs.
    pub(crate) const fn gives_up(self) -> bool {
        self.attempt() >= GIVE_UP_AFTER
    }

    /// Whether the stripe was tried before, so that its unreadable parts are known.
    pub(crate) const fn is_retry(self) -> bool {
        self.attempt() > 0
    }
}

/// A job for the reactor that owns the stripe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobAsk {
    pub(crate) stripe: u64,
    pub(crate) job: Job,
}

impl JobAsk {
    /// A job for tests of the code that carries jobs.
    #[cfg(test)]
    pub(crate) const NONE: JobAsk = JobAsk { stripe: 0, job: Job::Resync { attempt: 0 } };
}

/// The end of a job, for the steward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobEnd {
    pub(crate) stripe: u64,
    pub(crate) job: Job,
    /// Whether the stripe is unsynced after the job.
    pub(crate) need_sync: bool,
    /// Whether the stripe is unsynced because a member that the array needs does not take its rows; then
    /// nothing more can be done now.
    pub(crate) unhealed: bool,
    pub(crate) result: Result<(), RequestError>,
}
