//! Background work on a stripe: how the steward's jobs come to own their stripes.
//!
//! ```text
//!   steward: give_job --> the stripe is free, or this reactor's --> its op does the job, after one round of parts at most
//!                     --> no op to be had: parked, in line with the parts that wait for one
//!                     --> another reactor's: posted to it (Ask::Job); its op does the job --> Answer::Job --> job_ended
//! ```
//!
//! A job waits its turn like a part of a request, so a stripe that a host never leaves alone delays it by the rounds in front of it
//! and no more. (The steward once tried again each turn instead, and stopped looking further meanwhile: one hot stripe of another
//! reactor held up the whole rebuild for as long as it was hot.) A job that arrives after the owner has let go goes on to the
//! next owner, as a part does.

use bitmap::Cell;

use crate::mailbox::{Answer, Ask};
use crate::request::RequestError;
use crate::ring::Ring;

use super::{Array, Ownership, Parked, Started};

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
/// member that had some trouble in passing has answered by then. Each piece of rows is then read several times more (vain.rs).
const GIVE_UP_AFTER: u32 = 5;

impl Job {
    /// How often the stripe was tried before.
    pub(in crate::array) const fn attempt(self) -> u32 {
        match self {
            Job::Resync { attempt } | Job::Rebuild { attempt, .. } => attempt,
        }
    }

    /// Whether rows that cannot be computed may be given up now: see vain.rs.
    pub(in crate::array) const fn gives_up(self) -> bool {
        self.attempt() >= GIVE_UP_AFTER
    }

    /// Whether the stripe was tried before, so that what cannot be read there is known.
    pub(in crate::array) const fn is_retry(self) -> bool {
        self.attempt() > 0
    }
}

/// A job for whichever reactor owns the stripe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobAsk {
    pub(super) stripe: u64,
    pub(super) job: Job,
}

impl JobAsk {
    /// A job for tests of what carries it.
    #[cfg(test)]
    pub(crate) const NONE: JobAsk = JobAsk { stripe: 0, job: Job::Resync { attempt: 0 } };
}

/// The end of a job, for the steward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobEnd {
    pub(super) stripe: u64,
    pub(super) job: Job,
    /// Whether the cell is NeedSync after it.
    pub(super) need_sync: bool,
    /// Whether it is so because a member that the array needs does not take its rows: all that can be done is done.
    pub(super) unhealed: bool,
    pub(super) result: Result<(), RequestError>,
}

impl Array {
    /// Gives a stripe a job; the end of it comes by `job_ended`.
    pub(super) fn give_job(&mut self, stripe: u64, job: Job) {
        self.steward_mut().jobs += 1;
        self.enqueue_job(JobAsk { stripe, job });
    }

    /// Hands a job to the op of its stripe: here, or at the reactor that owns it.
    pub(super) fn enqueue_job(&mut self, ask: JobAsk) {
        let JobAsk { stripe, job } = ask;
        match self.own(stripe) {
            Ownership::Op(op) if self.ops[op].background.is_none() && self.ops[op].job.is_none() => {
                self.ops[op].background = Some(job);
            }
            // The op has a job already: one of the resync and one of the rebuild have met.
            Ownership::Op(_) | Ownership::NoRoom => self.parked.push_back(Parked::Job(ask)),
            Ownership::Other(reactor) => {
                if !self.post(reactor, Ask::Job(ask)) {
                    self.parked.push_back(Parked::Job(ask));
                }
            }
        }
    }

    /// Starts a job on a stripe that this reactor owns.
    pub(super) fn start_job<R: Ring>(&mut self, ring: &mut R, index: u32, job: Job) {
        let op = &mut self.ops[index];
        op.reset();
        op.job = Some(job);
        let started = match job {
            Job::Resync { .. } => self.start_resync(ring, index),
            Job::Rebuild { slot, .. } => match self.start_rebuild(ring, index, slot) {
                Started::Done => self.start_resync(ring, index),
                Started::Running => Started::Running,
            },
        };
        if matches!(started, Started::Done) {
            self.finish(index, Ok(()));
        }
    }

    /// The op's work has ended: if it was a job, the steward is told.
    pub(super) fn job_done(&mut self, index: u32, result: Result<(), RequestError>) {
        let op = &mut self.ops[index];
        let Some(job) = op.job.take() else { return };
        let (stripe, unhealed) = (op.stripe, op.unhealed);
        let need_sync = self.shared.bitmap.cell(stripe) == Cell::NeedSync;
        let end = JobEnd { stripe, job, need_sync, unhealed, result };
        if self.steward.is_some() {
            self.job_ended(end);
        } else {
            self.shared.mailboxes.answer(0, Answer::Job(end));
        }
    }
}
