//! Operations that wait for memory, first come first served.
//!
//! While one waits, an operation that comes later waits behind it, even if it needs less: smaller ones once
//! took for ever what a larger one waited for (a write of 256 KiB among 200 of 64 KiB had no answer in 40 s).
//! Each turn the queue is looked at in order, and whoever can have memory takes it: 64 KiB that come free are
//! of no use to an operation that needs 256. The first of the queue *claims* a MiB of the pool (see
//! `memory::pool`), so it waits no longer than those who hold blocks of that MiB now.

use std::collections::VecDeque;

use crate::memory::{Pool, Span};

/// A claim that has not come free after this time moves on: a device that does not answer keeps memory of the
/// MiB.
const CLAIM_MOVES_AFTER_NS: u64 = 1_000_000_000;

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Starved {
    /// Operations, and the bytes that each needed at the last look.
    queue: VecDeque<(u32, u32)>,
    /// The queue is being looked at: memory may be taken.
    is_served: bool,
    /// During a look: none of the queue has asked for memory yet, so the next that does is its first.
    is_first: bool,
    /// During a look: the sizes of buffers that were refused, a bit for each power of two. They are not tried
    /// again in this look.
    refused: u32,
    /// When the claim was made or moved.
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

    /// Memory for a batch of an operation; `None` if the operation waits for it now.
    #[inline]
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

    /// Memory for the first of the queue from what it has claimed; `None` if it has to wait for that.
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

    /// Begins a look at the queue. Says how many operations are in it.
    pub(super) fn begin_look(&mut self) -> usize {
        (self.is_served, self.is_first, self.refused) = (true, true, 0);
        self.queue.len()
    }

    /// The next operation that may have memory now; one whose size was refused in this look queues again
    /// instead.
    pub(super) fn next_served(&mut self) -> Option<u32> {
        let (index, bytes) = self.queue.pop_front().expect("counted");
        if !self.is_first && self.refused & bytes.next_power_of_two() != 0 {
            self.queue.push_back((index, bytes));
            return None;
        }
        Some(index)
    }

    /// Ends the look.
    pub(super) fn end_look(&mut self, pool: &mut Pool) {
        (self.is_served, self.is_first) = (false, false);
        if self.is_empty() {
            // The operation that had the claim may have ended without memory: the array has failed.
            pool.give_up_claim();
        }
    }
}
