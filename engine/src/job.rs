//! Background work on one stripe, as the steward gives it to the owner of the stripe. (How it comes to the owner: array/jobs.rs.)

use crate::request::RequestError;

/// Background jobs in flight in an array at most. Example: 32 rebuilt stripes of 8 members read 224 strips at once.
pub(crate) const JOBS_MAX: u32 = 32;

/// Background work on one stripe. The attempt is 0 for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Make parity match data.
    Resync { attempt: u32 },
    /// Fill this slot's strip.
    Rebuild { slot: u8, attempt: u32 },
}

/// Attempts at a stripe after which rows may be given up: for a rebuild after half a minute, for a resync after two and a half. A
/// member that had some trouble in passing has answered by then. Each piece of rows is then read several times more (stripe/vain.rs).
const GIVE_UP_AFTER: u32 = 5;

impl Job {
    /// How often the stripe was tried before.
    pub(crate) const fn attempt(self) -> u32 {
        match self {
            Job::Resync { attempt } | Job::Rebuild { attempt, .. } => attempt,
        }
    }

    /// Whether rows that cannot be computed may be given up now: see stripe/vain.rs.
    pub(crate) const fn gives_up(self) -> bool {
        self.attempt() >= GIVE_UP_AFTER
    }

    /// Whether the stripe was tried before, so that what cannot be read there is known.
    pub(crate) const fn is_retry(self) -> bool {
        self.attempt() > 0
    }
}

/// A job for whichever reactor owns the stripe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobAsk {
    pub(crate) stripe: u64,
    pub(crate) job: Job,
}

impl JobAsk {
    /// A job for tests of what carries it.
    #[cfg(test)]
    pub(crate) const NONE: JobAsk = JobAsk { stripe: 0, job: Job::Resync { attempt: 0 } };
}

/// The end of a job, for the steward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobEnd {
    pub(crate) stripe: u64,
    pub(crate) job: Job,
    /// Whether the cell is NeedSync after it.
    pub(crate) need_sync: bool,
    /// Whether it is so because a member that the array needs does not take its rows: all that can be done is done.
    pub(crate) unhealed: bool,
    pub(crate) result: Result<(), RequestError>,
}
