//! Discards of whole stripes, and the advice that the devices get after them.
//!
//! ```text
//!   discard --> (Until::Unmarked) --> the cell is Unwritten in memory: Until::Discarded --> the same durably
//!           --> Deallocating, the stripe still owned --> every device has ended: the stripe is let go
//! ```
//!
//! - A device hears of a stripe when its cell is durably Unwritten, and not before. From then on the strips
//!   are not read, so a device may make of them what it likes, and a power cut may come at any time.
//! - The stripe stays owned until every device has ended: a deallocation that comes after the next write
//!   destroys it.
//! - Advice is needed for nothing that a host reads: an error has no consequence.
//!
//! **Runs.** The strips of neighbouring stripes are neighbours on every member, so a *run* of stripes is one
//! deallocation for each member. A run is made of operations of this reactor whose cells turned out to be
//! durable in the same turn. Nothing waits for a run to grow, and each stripe has its own operation, in which
//! what comes next for it waits. The stripes of a run are let go together, when the slowest device has ended.
//!
//! **Batches.** A large discard is split into batches of 64 stripes (array/host.rs). A batch is marked at
//! once and shares the writes of its bitmap block, so as a rule it is one run. The next batch begins when
//! every device has ended with this one. The last 64 stripes are answered before the advice, which may take a
//! drive minutes. So one discard holds 64 operations at most, and leaves the others to writes; several at
//! once may take them all. (Without that wait one held all 160 operations of its reactor, and its parts took
//! operations as they came free, so a batch that was split once stayed so: 126 runs where 64 would do.)
//!
//! A discard of 1 GiB on five members with chunks of 64 KiB was sent as 20,480 deallocations, one for each
//! strip. As runs it is 320. A device's own limit is its ring's business: what is longer goes by the block
//! layer, which cuts it.

use std::sync::atomic::Ordering;

use bitmap::Cell;

use crate::part::PartKind;
use crate::ring::Ring;
use crate::slab::NONE;

use super::op::{Phase, StripeOp, Work};
use super::step::{Step, Until};
use super::{At, LOST, Stripes, Tools};

/// Parts that one request has in flight at most, so that a giant discard leaves room for others: a batch.
pub(crate) const PARTS_PER_REQUEST_MAX: u32 = 64;
/// Stripes of a run at most. They are let go in one turn. Example: with chunks of 1 MiB a deallocation is of
/// 64 MiB.
const RUN_STRIPES_MAX: usize = PARTS_PER_REQUEST_MAX as usize;

impl StripeOp {
    /// Starts the one discard that the op has taken.
    pub(super) fn start_discard<R>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        if at.shared.failed() {
            return LOST;
        }
        self.work_kind = Work::Discard;
        match at.shared.bitmap.cell(self.stripe) {
            Cell::Unwritten => Step::Finished(Ok(())),
            // A neighbour's write is marking it: the mark is let through first.
            Cell::Marked => Step::Wait(Until::Unmarked),
            Cell::First => unreachable!("it stays First only in an array that has failed"),
            Cell::Clean | Cell::Dirty | Cell::Aged | Cell::NeedSync => self.discard(at),
        }
    }

    /// Makes the stripe Unwritten; the devices hear of it once that is durable.
    pub(super) fn discard<R>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        let ticket = at.shared.bitmap.discard(self.stripe);
        at.blocks.ask(at.shared.bitmap.block_of(self.stripe));
        Step::Wait(Until::Discarded(ticket))
    }

    /// The cell is durably Unwritten: the strips are given back at the end of this look at the waits.
    pub(super) fn discarded<R>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.phase = Phase::Deallocating;
        // Rows that are listed as lost are taken off the list before the answer.
        let part = self.active.first().expect("a discard has its part");
        let is_last = at.parts.list[part].kind == PartKind::Discard { is_last: true };
        if is_last && !at.shared.lost.touches(self.stripe) {
            self.answer_active(at, Ok(()));
        }
        at.discarded.push(at.index);
        Step::Io
    }
}

impl Stripes {
    /// Gives back the strips of every stripe that was found durably Unwritten in this look at the waits.
    pub(super) fn deallocate_runs<R: Ring>(&mut self, tools: &mut Tools<'_, R>) {
        let mut discarded = std::mem::take(&mut self.discarded);
        discarded.sort_unstable_by_key(|&op| self.ops[op].stripe);
        let mut rest = &discarded[..];
        while let Some(&first) = rest.first() {
            let stripes = self.ops[first].stripe..;
            let pairs = rest.iter().zip(stripes).take(RUN_STRIPES_MAX);
            let len = pairs.take_while(|&(&op, stripe)| self.ops[op].stripe == stripe).count();
            let (run, others) = rest.split_at(len);
            self.deallocate(tools, run);
            rest = others;
        }
        discarded.clear();
        self.discarded = discarded;
    }

    /// Gives back the strips of a run: of ops whose stripes follow each other.
    fn deallocate<R: Ring>(&mut self, tools: &mut Tools<'_, R>, run: &[u32]) {
        for pair in run.windows(2) {
            self.ops[pair[0]].run_next = pair[1];
        }
        let shared = tools.turn.shared;
        let offset = shared.layout.data_offset_bytes + shared.geometry.strip_offset(self.ops[run[0]].stripe);
        let len = u64::from(shared.geometry.chunk_bytes()) * run.len() as u64;
        // Release, before the devices hear: see `Shared::deallocations`.
        shared.deallocations.fetch_add(1, Ordering::Release);
        shared.steward.advice.fetch_add(1, Ordering::Relaxed);
        let slots = shared.members.view().writable;
        // One more than there are devices, in case that there is none.
        self.ops[run[0]].pending = slots.count() + 1;
        for slot in slots.iter() {
            tools.turn.push_deallocate(run[0], slot, offset, len);
        }
        self.deallocated(tools, run[0]);
    }

    /// A device has ended, with whatever result, or is not waited for any more; `first` is the first op of
    /// the run.
    pub(crate) fn deallocated<R: Ring>(&mut self, tools: &mut Tools<'_, R>, first: u32) {
        self.ops[first].pending -= 1;
        if self.ops[first].pending > 0 {
            return;
        }
        tools.turn.shared.steward.advice.fetch_sub(1, Ordering::Relaxed);
        let mut next = first;
        while next != NONE {
            let index = next;
            next = std::mem::replace(&mut self.ops[index].run_next, NONE);
            self.act(tools, index, |op, at| op.finish_written(at));
        }
    }
}
