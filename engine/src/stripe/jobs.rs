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

use crate::job::{Job, JobAsk, JobEnd};
use crate::mailbox::{Answer, Ask};
use crate::request::RequestError;
use crate::ring::Ring;

use super::{Array, Ownership, Parked, Started};

impl Array {
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
        if let Some(steward) = &mut self.steward {
            steward.job_ended(&self.shared, self.now_ns, end);
        } else {
            self.shared.mailboxes.answer(0, Answer::Job(end));
        }
    }
}
