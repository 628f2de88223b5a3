//! Discards of whole stripes, and the advice that the devices get after them.
//!
//! ```text
//!   discard --> (AwaitingUnmarked) --> the cell is Unwritten in memory: AwaitingTicket --> the same durably
//!           --> Deallocating, the stripe still owned --> every device has ended: the stripe is let go
//! ```
//!
//! - A device hears of a stripe when its cell is durably Unwritten, and not before. From then on the strips are not read, so a device
//!   may make of them what it likes, and a power cut may come at any time.
//! - The stripe stays owned until every device has ended: a deallocation that comes after the next write destroys it.
//! - Advice is needed for nothing that a host reads: an error has no consequence.
//!
//! **Runs.** The strips of neighbouring stripes are neighbours on every member, so a *run* of stripes is one deallocation for each
//! member. A run is made of operations of this reactor whose cells turned out to be durable in the same turn. Nothing waits for a
//! run to grow, and each stripe has its own operation, in which what comes next for it waits. The stripes of a run are let go
//! together, when the slowest device has ended.
//!
//! **Batches.** A large discard is split into batches of 64 stripes (`host`). A batch is marked at once and shares the writes of
//! its bitmap block, so as a rule it is one run. The next batch begins when every device has ended with this one. The last 64 stripes are
//! answered before the advice, which may take a drive minutes. So one discard holds 64 operations at most, and leaves the others to
//! writes; several at once may take them all. (Without that wait one held all 160 operations of its reactor, and its parts took
//! operations as they came free, so a batch that was split once stayed so: 126 runs where 64 would do.)
//!
//! A discard of 1 GiB on five members with chunks of 64 KiB was sent as 20,480 deallocations, one for each strip. As runs it is 320.
//! A device's own limit is its ring's business: what is longer goes by the block layer, which cuts it.

use std::sync::atomic::Ordering;

use bitmap::Cell;

use crate::request::RequestError;
use crate::ring::Ring;

use super::host::PARTS_PER_REQUEST_MAX;
use crate::part::PartKind;
use crate::slab::NONE;
use crate::stripe::op::{Phase, Work};

use super::{Array, Started};

/// Stripes of a run at most. They are let go in one turn. Example: with chunks of 1 MiB a deallocation is of 64 MiB.
const RUN_STRIPES_MAX: usize = PARTS_PER_REQUEST_MAX as usize;

impl Array {
    /// Starts the one discard that an op has taken.
    pub(super) fn start_discard(&mut self, index: u32) -> Started {
        match self.shared.bitmap.cell(self.ops[index].stripe) {
            _ if self.shared.failed() => {
                self.answer_active(index, Err(RequestError::Lost));
                return Started::Done;
            }
            Cell::Unwritten => {
                self.answer_active(index, Ok(()));
                return Started::Done;
            }
            // A neighbour's write is marking it: the mark is let through first.
            Cell::Marked => self.ops[index].phase = Phase::AwaitingUnmarked,
            Cell::First => unreachable!("it stays First only in an array that has failed"),
            Cell::Clean | Cell::Dirty | Cell::Aged | Cell::NeedSync => self.discard(index),
        }
        self.ops[index].work_kind = Work::Discard;
        self.polling.push(index);
        Started::Running
    }

    /// Makes the stripe Unwritten; the devices hear of it once that is durable.
    pub(super) fn discard(&mut self, index: u32) {
        let op = &mut self.ops[index];
        op.ticket = Some(self.shared.bitmap.discard(op.stripe));
        op.phase = Phase::AwaitingTicket;
        self.blocks.ask(self.shared.bitmap.block_of(self.ops[index].stripe));
    }

    /// The cell is durably Unwritten: the strips are given back at the end of this look at the ops.
    pub(super) fn discarded(&mut self, index: u32) {
        self.ops[index].phase = Phase::Deallocating;
        // Rows that are listed as lost are taken off the list before the answer.
        let part = self.ops[index].active.first().expect("a discard has its part");
        let is_last = self.parts[part].kind == PartKind::Discard { is_last: true };
        if is_last && !self.shared.lost.touches(self.ops[index].stripe) {
            self.answer_active(index, Ok(()));
        }
        self.discarded.push(index);
    }

    /// Gives back the strips of every stripe that was found durably Unwritten in this look at the ops.
    pub(super) fn deallocate_runs<R: Ring>(&mut self, ring: &mut R) {
        let mut discarded = std::mem::take(&mut self.discarded);
        discarded.sort_unstable_by_key(|&op| self.ops[op].stripe);
        let mut rest = &discarded[..];
        while let Some(&first) = rest.first() {
            let stripes = self.ops[first].stripe..;
            let pairs = rest.iter().zip(stripes).take(RUN_STRIPES_MAX);
            let len = pairs.take_while(|&(&op, stripe)| self.ops[op].stripe == stripe).count();
            let (run, others) = rest.split_at(len);
            self.deallocate(ring, run);
            rest = others;
        }
        discarded.clear();
        self.discarded = discarded;
    }

    /// Gives back the strips of a run: of ops whose stripes follow each other.
    fn deallocate<R: Ring>(&mut self, ring: &mut R, run: &[u32]) {
        for pair in run.windows(2) {
            self.ops[pair[0]].run_next = pair[1];
        }
        let geometry = self.shared.geometry;
        let offset = self.shared.layout.data_offset_bytes + geometry.strip_offset(self.ops[run[0]].stripe);
        let len = u64::from(geometry.chunk_bytes()) * run.len() as u64;
        // Release, before the devices hear: see `Shared::deallocations`.
        self.shared.deallocations.fetch_add(1, Ordering::Release);
        self.shared.steward.advice.fetch_add(1, Ordering::Relaxed);
        let slots = self.shared.members.view().writable;
        // One more than there are devices, in case that there is none.
        self.ops[run[0]].pending = slots.count() + 1;
        for slot in slots.iter() {
            turn!(self, ring).push_deallocate(run[0], slot, offset, len);
        }
        self.op_deallocated(run[0]);
    }

    /// A device has ended, with whatever result, or is not waited for any more; `first` is the first op of the run.
    pub(super) fn op_deallocated(&mut self, first: u32) {
        self.ops[first].pending -= 1;
        if self.ops[first].pending > 0 {
            return;
        }
        self.shared.steward.advice.fetch_sub(1, Ordering::Relaxed);
        let mut next = first;
        while next != NONE {
            let index = next;
            next = std::mem::replace(&mut self.ops[index].run_next, NONE);
            self.finish_written(index);
        }
    }
}
