//! A write fails on a member that is to stay.
//!
//! Some errors are of a bad sector, others of a dead drive, and the number does not tell which. Failing a member that the array needs
//! loses what it alone holds: the array has no redundancy left, or stripes need a resync. Keeping a dead one would answer
//! writes with errors that the others could bear. So the member is asked for its superblock:
//!
//! | answer | what follows |
//! |---|---|
//! | an error | it is failed, and the write goes on without it |
//! | any other | the batch is written once more; a second error ends a host's write with an error, and the member stays |
//!
//! Background work that has given rows up meets bad sectors where it writes its zeros. It goes on then, and leaves the stripe NeedSync.

use crate::format::zones::SUPERBLOCK_A_OFFSET_BYTES;
use crate::geometry::Slots;
use crate::request::RequestError;
use crate::ring::blame::Blame;
use crate::ring::{MemberIo, Ring};

use super::jobs::Job;
use super::{Array, Io, IoFor};

impl Array {
    /// Whether a member in sync that did not take a write is to stay: something cannot be computed without it, or background work
    /// has met one of its bad sectors.
    pub(super) fn is_kept(&self, index: u32, io: &Io) -> bool {
        let (members, one) = (&self.shared.members, Slots::one(io.slot));
        let view = members.view();
        self.is_current(io)
            && view.readable.has(io.slot)
            && (self.ops[index].job.is_some_and(Job::gives_up)
                || !members.spares(view, one, self.shared.needs()))
    }

    /// Asks a member that is to stay and did not take a write for its superblock; the write waits for the answer.
    pub(super) fn ask<R: Ring>(&mut self, ring: &mut R, index: u32, strip: u8, io: &Io, errno: i32) {
        let what = IoFor::OpAsk { op: index, strip, errno };
        let (at, into) = (SUPERBLOCK_A_OFFSET_BYTES, self.watch.scratch());
        self.push_to(ring, what, io.slot, io.device, MemberIo::Read, at, into);
    }

    /// It has answered.
    pub(super) fn op_asked<R: Ring>(
        &mut self,
        ring: &mut R,
        index: u32,
        strip: u8,
        errno: i32,
        io: &Io,
        result: Result<(), i32>,
    ) {
        match result {
            Err(error) if self.blame(io, error) == Blame::Device => {
                self.op_write_failed(index, strip, io, errno);
            }
            // The error may have been one in passing.
            _ if !self.ops[index].was_repeated => self.ops[index].once_more = true,
            // Background work has tried for minutes, and what it wrote is in rows that are listed as lost, or parity.
            _ if self.ops[index].job.is_some_and(Job::gives_up) => {
                self.ops[index].unhealed = true;
                self.shared.members.count_refusal(io.slot);
            }
            _ => self.op_write_refused(index, io, RequestError::NotTaken),
        }
        self.op_write_ended(ring, index);
    }
}
