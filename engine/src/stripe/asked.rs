//! Handling of a write that fails on a member that should stay.
//!
//! Some errors come from a bad sector, others from a dead drive, and the error number does not tell which.
//! Failing a member that the array needs loses the data that only this member holds: the array has no
//! redundancy left, or stripes need a resync. Keeping a dead member would answer writes with errors, although
//! the other members could take them. So the copies of the member's superblock are read, the second only if
//! the first fails (one of them may lie in a bad sector too):
//!
//! | answer | what follows |
//! |---|---|
//! | both copies fail with an error of the device | the member is failed, and the write goes on without it |
//! | any other | the batch is written once more; a second error fails the host's write; the member stays |
//!
//! Background work that has given rows up meets bad sectors where it writes its zeros. It then continues, and
//! leaves the stripe unsynced (`NeedSync`).

use crate::format::superblock::Copy;
use crate::geometry::Slots;
use crate::job::Job;
use crate::request::RequestError;
use crate::ring::blame::Blame;
use crate::ring::{MemberIo, Ring};
use crate::turn::{Io, IoFor};

use super::At;
use super::op::StripeOp;
use super::step::Step;

/// A write of an op that a member refused, and the copy of the member's superblock that is read because of
/// it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) strip: u8,
    /// The error of the write.
    pub(crate) errno: i32,
    pub(crate) copy: Copy,
}

impl StripeOp {
    /// Whether a member in sync that refused a write is to stay: without it something cannot be computed, or
    /// background work has met one of its bad sectors.
    pub(super) fn is_kept<R>(&self, at: &At<'_, '_, R>, io: &Io) -> bool {
        let (members, one) = (&at.shared.members, Slots::one(io.slot));
        let view = members.view();
        io.is_current(at.shared)
            && view.readable.has(io.slot)
            && (self.job.is_some_and(Job::gives_up) || !members.spares(view, one, at.shared.needs()))
    }

    /// Reads a superblock copy of a member that refused a write and is to stay. The write waits for the
    /// answer.
    pub(super) fn ask<R: Ring>(&mut self, at: &mut At<'_, '_, R>, question: Question, io: &Io) -> Step {
        let Question { strip, errno, copy } = question;
        let what = IoFor::OpAsk { op: at.index, strip, errno, copy };
        let into = at.turn.ios.scratch();
        at.turn.push_to(what, io.slot, io.device, MemberIo::Read, copy.offset_bytes(), into);
        Step::Io
    }

    /// The read of a superblock copy has completed.
    pub(super) fn asked<R: Ring>(
        &mut self,
        at: &mut At<'_, '_, R>,
        question: Question,
        io: &Io,
        result: Result<(), i32>,
    ) -> Step {
        let Question { strip, errno, copy } = question;
        match result {
            Err(error) if io.blame(at.shared, error) == Blame::Device => {
                if copy == Copy::A {
                    return self.ask(at, Question { copy: copy.other(), ..question }, io);
                }
                self.write_failed(at, strip, io, errno);
            }
            // The write error may have been transient: write the batch once more.
            _ if !self.was_repeated => self.once_more = true,
            // Background work has tried for minutes, and the refused bytes are parity, or lie in rows that
            // are listed as lost.
            _ if self.job.is_some_and(Job::gives_up) => {
                self.unhealed = true;
                at.shared.members.count_refusal(io.slot);
            }
            _ => self.write_refused(at, io, RequestError::NotTaken),
        }
        self.write_ended(at)
    }
}
