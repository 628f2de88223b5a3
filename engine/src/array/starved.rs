//! Operations that wait for memory, first come first served.
//!
//! While one waits, an operation that comes later waits behind it, even if it needs less: smaller ones once took for ever what a
//! larger one waited for (a write of 256 KiB among 200 of 64 KiB had no answer in 40 s). Each turn the queue is looked at in
//! order, and whoever can have memory takes it: 64 KiB that come free are of no use to an operation that needs 256. The first
//! of the queue *claims* a MiB of the pool (see `memory::pool`), so it waits no longer than those who hold blocks of that MiB now.

use std::collections::VecDeque;

use crate::ring::Ring;

use super::Array;

/// A claim that has not come free after this time moves on: a device that does not answer keeps memory of the MiB.
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
    /// During a look: the sizes of buffers that were refused, a bit for each power of two. They are not tried again in this look.
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
}

impl Array {
    /// Memory for a batch of an operation; false if the operation waits for it now.
    #[inline]
    pub(super) fn take_memory(&mut self, index: u32, bytes: u32) -> bool {
        if !self.starved.is_empty() && !self.starved.is_served {
            self.starved.queue.push_back((index, bytes));
            return false;
        }
        let is_first = std::mem::take(&mut self.starved.is_first);
        if let Some(work) = self.buffers.pool.take(bytes) {
            if is_first {
                self.buffers.pool.give_up_claim();
            }
            self.ops[index].work = work;
            return true;
        }
        if is_first && self.take_claimed(index, bytes) {
            return true;
        }
        self.starved.refused |= bytes.next_power_of_two();
        self.starved.queue.push_back((index, bytes));
        false
    }

    /// Memory for the first of the queue from what it has claimed; false if it has to wait for that.
    fn take_claimed(&mut self, index: u32, bytes: u32) -> bool {
        if let Some(work) = self.buffers.pool.take_claimed(bytes) {
            self.ops[index].work = work;
            return true;
        }
        if !self.buffers.pool.has_claim() {
            self.starved.claimed_ns = self.now_ns;
            self.buffers.pool.claim();
        } else if self.now_ns >= self.starved.claimed_ns + CLAIM_MOVES_AFTER_NS {
            self.starved.claimed_ns = self.now_ns;
            self.buffers.pool.move_claim();
        }
        false
    }

    /// Looks at the operations that wait for memory.
    pub(super) fn serve_starved<R: Ring>(&mut self, ring: &mut R) {
        if self.starved.is_empty() {
            return;
        }
        (self.starved.is_served, self.starved.is_first, self.starved.refused) = (true, true, 0);
        for _ in 0..self.starved.queue.len() {
            let (index, bytes) = self.starved.queue.pop_front().expect("counted");
            if !self.starved.is_first && self.starved.refused & bytes.next_power_of_two() != 0 {
                self.starved.queue.push_back((index, bytes));
                continue;
            }
            self.replan(ring, index);
        }
        (self.starved.is_served, self.starved.is_first) = (false, false);
        if self.starved.is_empty() {
            // Whoever had the claim may have ended without memory: the array has failed.
            self.buffers.pool.give_up_claim();
        }
    }
}
