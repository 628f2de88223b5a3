//! Flushes of the members, in rounds: what asks while a round is in flight shares the next one.
//!
//! A round that begins after a write was acknowledged covers it, whichever reactor wrote it: a flush is
//! for the whole device. A member that fails its flush is failed, and never asked again: what it
//! had cached may be gone. Its flush counts as done once the failure is on record.

use crate::members::{Failure, Missed};
use crate::memory::Span;
use crate::request::RequestError;
use crate::ring::blame::Blame;
use crate::ring::{MemberIo, Ring};

use super::{Array, Io, IoFor, Sizes};

/// Who waits for a round.
#[derive(Clone, Copy, Debug)]
pub(super) enum FlushWaiter {
    /// A host's flush.
    Request(u32),
    /// The first write of a stripe.
    Op(u32),
    /// The steward.
    Steward,
}

/// The rounds of one reactor.
#[derive(Debug)]
pub(super) struct FlushGate {
    in_flight: u32,
    /// Members that are not flushed by this round: out of the view when it began, or their flush failed. The
    /// record must exclude them before anyone relies on the round: what they had cached may be gone.
    missed: Missed,
    running: Vec<FlushWaiter>,
    next: Vec<FlushWaiter>,
}

impl FlushGate {
    pub(super) fn new(sizes: &Sizes) -> FlushGate {
        let room = sizes.requests + sizes.ops + 1;
        FlushGate {
            in_flight: 0,
            missed: Missed::NONE,
            running: Vec::with_capacity(room),
            next: Vec::with_capacity(room),
        }
    }

    /// Whether nothing waits but for completions.
    pub(super) fn settled(&self) -> bool {
        self.in_flight > 0 || (self.running.is_empty() && self.next.is_empty())
    }
}

impl Array {
    /// Waits for the next round.
    pub(super) fn join_flush(&mut self, waiter: FlushWaiter) {
        self.flush.next.push(waiter);
    }

    /// Ends a round whose failures are on record, and begins the next.
    pub(super) fn flush_advance<R: Ring>(&mut self, ring: &mut R) {
        if self.flush.in_flight == 0 && !self.flush.running.is_empty() {
            self.end_flush_round();
        }
        if self.flush.in_flight > 0 || !self.flush.running.is_empty() || self.flush.next.is_empty() {
            return;
        }
        std::mem::swap(&mut self.flush.running, &mut self.flush.next);
        let (view, missed) = self.shared.members.missing_of(self.shared.geometry.slots());
        self.flush.missed = missed;
        for slot in view.writable.and(self.shared.members.volatile()).iter() {
            self.flush.in_flight += 1;
            self.push(ring, IoFor::Flush, slot, MemberIo::Flush, 0, Span::EMPTY);
        }
        if self.flush.in_flight == 0 {
            self.end_flush_round();
        }
    }

    pub(super) fn flush_done(&mut self, io: &Io, result: Result<(), i32>) {
        if let Err(errno) = result {
            match self.blame(io, errno) {
                // An error of a device that the slot has no longer says nothing.
                _ if !self.is_current(io) => {}
                Blame::Space | Blame::Ours => self.shared.members.stop_serving(io.slot, errno),
                Blame::Device => {
                    self.shared.members.fail(io.slot, Failure::Flush(errno));
                }
            }
        }
        self.flush_ended(*io, result.is_ok());
    }

    /// A member's flush is over, or is not waited for any more.
    pub(super) fn flush_ended(&mut self, io: Io, is_flushed: bool) {
        if !is_flushed {
            self.flush.missed.add(io.slot, io.device);
        }
        self.flush.in_flight -= 1;
        if self.flush.in_flight == 0 {
            self.end_flush_round();
        }
    }

    fn end_flush_round(&mut self) {
        let failed = self.shared.failed();
        if !failed && !self.shared.members.excludes(&self.flush.missed) {
            return;
        }
        let result = if failed { Err(RequestError::Lost) } else { Ok(()) };
        while let Some(waiter) = self.flush.running.pop() {
            match waiter {
                FlushWaiter::Request(request) => self.answer_flush(request, result),
                FlushWaiter::Op(op) => {
                    self.ops[op].skipped = self.ops[op].skipped.or(self.flush.missed.slots());
                    self.acknowledge(op);
                }
                FlushWaiter::Steward => self.steward_flushed(result.is_ok()),
            }
        }
    }
}
