//! Operations that wait for memory, first come first served.
//!
//! While an operation waits, every later operation waits behind it, even if the later one needs less memory.
//! Without this rule, smaller operations kept taking the memory that a larger one waited for (a write of 256
//! KiB among 200 of 64 KiB had no answer in 40 s). Each turn the queue is looked at in order, and every
//! operation that can have memory takes it: 64 KiB that become free are of no use to an operation that needs
//! 256 KiB. The first operation in the queue *claims* a MiB of the pool (see `memory::pool`), so it waits
//! only for the operations that hold blocks of that MiB now.

use std::collections::VecDeque;

use crate::memory::{Pool, Span};

/// Time after which a claim that has not become free moves to another MiB: a device that does not answer may
/// hold memory of the claimed one.
const CLAIM_MOVES_AFTER_NS: u64 = 1_000_000_000;

/// The queue of operations that wait for memory; see the top of this file.
#[derive(Debug)]
pub(super) struct Starved {
    /// Waiting operations, with the bytes that each needed at the last look.
    queue: VecDeque<(u32, u32)>,
    /// Whether the queue is being looked at, so that memory may be taken.
    is_served: bool,
    /// During a look: whether no operation of the queue has asked for memory yet, so that the next one to ask
    /// is the first in the queue.
    is_first: bool,
    /// During a look: sizes of buffers that were refused, one bit for each power of two. These sizes are not
    /// tried again in this look.
    refused: u32,
    /// Time at which the claim was made or last moved.
    claimed_ns: u64,
}

impl Starved {
    pub(super) fn new(ops: usize) -> Starved {
        Starved {
            queue: VecDeque::with_capacity(ops),
            is_served: false,
            is_first: false,
            refused: 0,
            claimed_ns: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes memory for a batch of an operation. Returns `None` if the operation has been queued for it.
    #[inline(always)] // for its span: see `Span`
    pub(super) fn take(&mut self, pool: &mut Pool, now_ns: u64, index: u32, bytes: u32) -> Option<Span> {
        if !self.is_empty() && !self.is_served {
            self.queue.push_back((index, bytes));
            return None;
        }
        let is_first = std::mem::take(&mut self.is_first);
        if let Some(work) = pool.take(bytes) {
            if is_first {
                pool.give_up_claim();
            }
            return Some(work);
        }
        if is_first && let Some(work) = self.take_claimed(pool, now_ns, bytes) {
            return Some(work);
        }
        self.refused |= bytes.next_power_of_two();
        self.queue.push_back((index, bytes));
        None
    }

    /// Takes memory for the first in the queue from its claim. Returns `None` if the claim is not free yet.
    fn take_claimed(&mut self, pool: &mut Pool, now_ns: u64, bytes: u32) -> Option<Span> {
        let work = pool.take_claimed(bytes);
        if work.is_some() {
            return work;
        }
        if !pool.has_claim() {
            self.claimed_ns = now_ns;
            pool.claim();
        } else if now_ns >= self.claimed_ns + CLAIM_MOVES_AFTER_NS {
            self.claimed_ns = now_ns;
            pool.move_claim();
        }
        None
    }

    /// Begins a look at the queue. Returns the number of operations in it.
    pub(super) fn begin_look(&mut self) -> usize {
        (self.is_served, self.is_first, self.refused) = (true, true, 0);
        self.queue.len()
    }

    /// The next operation that may have memory now. An operation whose size was refused in this look is
    /// queued again, and `None` is returned.
    pub(super) fn next_served(&mut self) -> Option<u32> {
        let (index, bytes) = self.queue.pop_front().expect("counted");
        if !self.is_first && self.refused & bytes.next_power_of_two() != 0 {
            self.queue.push_back((index, bytes));
            return None;
        }
        Some(index)
    }

    /// Ends a look at the queue.
    pub(super) fn end_look(&mut self, pool: &mut Pool) {
        (self.is_served, self.is_first) = (false, false);
        if self.is_empty() {
            // The array has failed and the operation that had the claim may have ended without memory.
            pool.give_up_claim();
        }
    }
}
