//! Flushes of the members, in rounds: all requests that arrive during a round share the next one.
//!
//! A round covers every write that was acknowledged before the round began, whichever reactor wrote it: a
//! flush is for the whole device. A member that fails its flush is failed and never flushed again, because
//! its cached data may be gone. Its flush counts as done once the failure is on record.

use crate::geometry::Slots;
use crate::members::{Failure, Missed};
use crate::memory::Span;
use crate::request::RequestError;
use crate::ring::{MemberIo, Ring};
use crate::shared::Shared;
use crate::sizes::Sizes;
use crate::turn::{Io, IoFor, Turn};

/// The party that waits for a round.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FlushWaiter {
    /// A host's flush request.
    Request(u32),
    /// An operation: the first write of a stripe.
    Op(u32),
    /// The steward; see its field `flushing`.
    Steward,
}

/// The rounds of one reactor.
#[derive(Debug)]
pub(crate) struct FlushGate {
    in_flight: u32,
    /// Members that this round did not flush: out of the view when it began, or their flush failed. The
    /// record must exclude them before anything relies on the round, because their cached data may be gone.
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

    /// Whether everything here waits for completions only.
    pub(crate) fn settled(&self) -> bool {
        self.in_flight > 0 || (self.running.is_empty() && self.next.is_empty())
    }

    /// Adds a waiter to the next round.
    pub(crate) fn join(&mut self, waiter: FlushWaiter) {
        self.next.push(waiter);
    }

    /// Begins the next round, if something waits for it and none is under way. The caller asks
    /// [`FlushGate::next_over`] before and after.
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

    /// Handles the end of a member's flush, successful or not.
    pub(crate) fn done(&mut self, shared: &Shared, io: &Io, result: Result<(), i32>) {
        if let Err(errno) = result {
            io.fail_metadata(shared, errno, Failure::Flush(errno));
        }
        self.ended(io, result.is_ok());
    }

    /// Counts a member's flush as over, because it ended or because nothing waits for it any more.
    pub(crate) fn ended(&mut self, io: &Io, is_flushed: bool) {
        if !is_flushed {
            self.missed.add(io.slot, io.device);
        }
        self.in_flight -= 1;
    }

    /// Returns the next waiter of a round that is over: every member's flush has ended, and the record
    /// excludes the slots that were not flushed. The answer names those slots.
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

/// The end of a flush, for one of its waiters.
pub(crate) struct Over {
    pub(crate) waiter: FlushWaiter,
    pub(crate) result: Result<(), RequestError>,
    /// Slots that were not flushed; the record excludes them.
    pub(crate) missed: Slots,
}
