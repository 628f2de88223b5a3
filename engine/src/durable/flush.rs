//! Flushes of the members, in rounds: what asks while a round is in flight shares the next one.
//!
//! A round that begins after a write was acknowledged covers it, whichever reactor wrote it: a flush is
//! for the whole device. A member that fails its flush is failed, and never asked again: what it
//! had cached may be gone. Its flush counts as done once the failure is on record.

use crate::geometry::Slots;
use crate::members::{Failure, Missed};
use crate::memory::Span;
use crate::request::RequestError;
use crate::ring::{MemberIo, Ring};
use crate::shared::Shared;
use crate::sizes::Sizes;
use crate::turn::{Io, IoFor, Turn};

/// Who waits for a round.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FlushWaiter {
    /// A host's flush.
    Request(u32),
    /// The first write of a stripe.
    Op(u32),
    /// The steward.
    Steward,
}

/// The rounds of one reactor.
#[derive(Debug)]
pub(crate) struct FlushGate {
    in_flight: u32,
    /// Members that are not flushed by this round: out of the view when it began, or their flush failed. The
    /// record must exclude them before anyone relies on the round: what they had cached may be gone.
    missed: Missed,
    running: Vec<FlushWaiter>,
    next: Vec<FlushWaiter>,
}

impl FlushGate {
    pub(crate) fn new(sizes: &Sizes) -> FlushGate {
        let room = sizes.requests + sizes.ops + 1;
        FlushGate {
            in_flight: 0,
            missed: Missed::NONE,
            running: Vec::with_capacity(room),
            next: Vec::with_capacity(room),
        }
    }

    /// Whether nothing waits but for completions.
    pub(crate) fn settled(&self) -> bool {
        self.in_flight > 0 || (self.running.is_empty() && self.next.is_empty())
    }

    /// Waits for the next round.
    pub(crate) fn join(&mut self, waiter: FlushWaiter) {
        self.next.push(waiter);
    }

    /// Begins the next round, if something waits for it and none is under way. [`FlushGate::next_over`] is asked before and after.
    pub(crate) fn begin<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        if self.in_flight > 0 || !self.running.is_empty() || self.next.is_empty() {
            return;
        }
        std::mem::swap(&mut self.running, &mut self.next);
        let (view, missed) = turn.shared.members.missing_of(turn.shared.geometry.slots());
        self.missed = missed;
        for slot in view.writable.and(turn.shared.members.volatile()).iter() {
            self.in_flight += 1;
            turn.push(IoFor::Flush, slot, MemberIo::Flush, 0, Span::EMPTY);
        }
    }

    /// A member has been flushed, or has failed to.
    pub(crate) fn done(&mut self, shared: &Shared, io: &Io, result: Result<(), i32>) {
        if let Err(errno) = result {
            io.fail_metadata(shared, errno, Failure::Flush(errno));
        }
        self.ended(io, result.is_ok());
    }

    /// A member's flush is over, or is not waited for any more.
    pub(crate) fn ended(&mut self, io: &Io, is_flushed: bool) {
        if !is_flushed {
            self.missed.add(io.slot, io.device);
        }
        self.in_flight -= 1;
    }

    /// A waiter of a round that is over: every member has ended, and the record excludes those that did not flush. Also which slots
    /// those are.
    pub(crate) fn next_over(&mut self, shared: &Shared) -> Option<Over> {
        if self.in_flight > 0 || self.running.is_empty() {
            return None;
        }
        let has_failed = shared.failed();
        if !has_failed && !shared.members.excludes(&self.missed) {
            return None;
        }
        let result = if has_failed { Err(RequestError::Lost) } else { Ok(()) };
        self.running.pop().map(|waiter| Over { waiter, result, missed: self.missed.slots() })
    }
}

/// A flush that is over for one that waited for it.
pub(crate) struct Over {
    pub(crate) waiter: FlushWaiter,
    pub(crate) result: Result<(), RequestError>,
    /// Slots that were not flushed. The record excludes them.
    pub(crate) missed: Slots,
}
