//! Operations that wait for what no completion announces: a cell, a ticket, the record, the list of lost rows, the end of a rest. Each
//! turn looks at all of them.

use bitmap::Cell;

use crate::request::RequestError;
use crate::ring::Ring;
use crate::stripe::op::Phase;

use super::Array;

impl Array {
    /// Looks at every op that waits for something nobody announces, the one that has waited longest first: it is the first to
    /// ask for its bitmap block.
    pub(super) fn poll_ops<R: Ring>(&mut self, ring: &mut R) {
        let (count, mut kept) = (self.polling.len(), 0);
        for at in 0..count {
            let index = self.polling[at];
            if !self.poll_op(ring, index) {
                self.polling[kept] = index;
                kept += 1;
            }
        }
        // What began to wait in this pass comes behind, and is looked at in the next.
        self.polling.drain(kept..count);
        self.deallocate_runs(ring);
    }

    /// Whether the op's wait is over; if so it has gone on.
    fn poll_op<R: Ring>(&mut self, ring: &mut R, index: u32) -> bool {
        let op = &self.ops[index];
        let (stripe, failed) = (op.stripe, self.shared.failed());
        let (skipped, ticket) = (op.skipped, op.ticket);
        match op.phase {
            Phase::AwaitingWake => return self.has_woken(index, failed),
            Phase::AwaitingIntent => {
                if self.shared.bitmap.intent_is_durable(stripe) {
                    self.issue_writes(ring, index);
                } else if failed {
                    self.finish(index, Err(RequestError::Lost));
                } else {
                    self.blocks.ask(self.shared.bitmap.block_of(stripe));
                    return false;
                }
            }
            Phase::AwaitingFirst => {
                // Dirty, or Aged: a sweep may have passed before this poll.
                if self.shared.bitmap.cell(stripe) != Cell::First {
                    self.finish_written(index);
                } else if failed {
                    self.finish(index, Err(RequestError::Lost));
                } else {
                    self.blocks.ask(self.shared.bitmap.block_of(stripe));
                    return false;
                }
            }
            Phase::AwaitingTicket => {
                let ticket = ticket.expect("this phase has one");
                if self.shared.bitmap.is_durable(ticket) {
                    self.discarded(index);
                } else if failed {
                    self.finish(index, Err(RequestError::Lost));
                } else {
                    self.blocks.ask(self.shared.bitmap.block_of(stripe));
                    return false;
                }
            }
            Phase::AwaitingUnmarked => {
                if self.shared.bitmap.cell(stripe) != Cell::Marked {
                    self.discard(index);
                    // It goes on polling, for its ticket.
                    return false;
                } else if failed {
                    self.finish(index, Err(RequestError::Lost));
                } else {
                    self.blocks.ask(self.shared.bitmap.block_of(stripe));
                    return false;
                }
            }
            Phase::Listing | Phase::AwaitingList | Phase::Unlisting | Phase::AwaitingUnlisted if failed => {
                self.finish(index, Err(RequestError::Lost));
            }
            Phase::Listing => self.list_rows(index),
            // A first write, before its cell says so, or any write at its end.
            Phase::Unlisting => {
                if !self.awaits_unlisted(index) {
                    self.unlisted(index);
                }
            }
            Phase::AwaitingList | Phase::AwaitingUnlisted if !self.shared.lost.is_durable(op.listed) => {
                return false;
            }
            Phase::AwaitingList => self.listed(ring, index),
            Phase::AwaitingUnlisted => self.unlisted(index),
            Phase::AwaitingRecord => {
                if self.shared.members.on_record(skipped, stripe) {
                    self.recorded(index);
                } else if failed {
                    self.finish(index, Err(RequestError::Lost));
                } else {
                    return false;
                }
            }
            _ => unreachable!("only waiting ops are polled: {:?}", op.phase),
        }
        true
    }

    /// Has an op wait until the record says that members may be written; see shared/rest.rs.
    pub(super) fn await_wake(&mut self, index: u32) {
        self.ops[index].phase = Phase::AwaitingWake;
        self.polling.push(index);
        self.call_from_rest();
    }

    /// Whether the wait of an op is over; if so it is to start.
    fn has_woken(&mut self, index: u32, failed: bool) -> bool {
        if !self.shared.steward.rest.is_over() && !failed {
            self.call_from_rest();
            return false;
        }
        self.ops[index].phase = Phase::Fresh;
        self.fresh.push_back(index);
        true
    }

    /// Calls the steward, unless it was called already.
    fn call_from_rest(&self) {
        if self.shared.steward.rest.call() {
            self.shared.mailboxes.wake(0);
        }
    }
}
