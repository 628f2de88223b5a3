//! Discards of whole stripes, and the advice that the devices get after them.
//!
//! ```text
//!   discard --> (Until::Unmarked) --> the cell is Unwritten in memory: Until::Discarded --> the same durably
//!           --> Deallocating, the stripe still owned --> every device has ended: the stripe is released
//! ```
//!
//! - A device is told of a stripe only after the stripe's cell is durably Unwritten. From then on the strips
//!   are not read, so the device may return anything for them, and power may fail at any time.
//! - The stripe stays owned until every device has ended: a deallocation carried out after the next write
//!   would destroy that write.
//! - No host read depends on a deallocation, so its errors have no consequence.
//!
//! **Runs.** The strips of neighbouring stripes are neighbours on every member, so a *run* of stripes needs
//! one deallocation per member. A run consists of operations of this reactor whose cells were found durable
//! in the same turn. No operation waits for a run to grow. Each stripe keeps its own operation, where later
//! work for the stripe waits. The stripes of a run are released together, when the slowest device has ended.
//!
//! **Batches.** A large discard is split into batches of 64 stripes (array/host.rs). The cells of a batch are
//! changed together and share the writes of their bitmap block, so a batch is usually one run. The next batch
//! begins when every device has ended with the previous one. The last 64 stripes are answered before their
//! deallocation, which may take a drive minutes. So one discard holds at most 64 operations and leaves the
//! others to writes; several discards at once may take them all. (Without this wait, one discard held all 160
//! operations of its reactor, and its parts took operations as they became free, so a batch that was split
//! once stayed split: 126 runs where 64 would do.)
//!
//! A discard of 1 GiB on five members with chunks of 64 KiB was once sent as 20,480 deallocations, one for
//! each strip. As runs it is 320. The ring handles a device's own limit: a longer deallocation goes through
//! the block layer, which splits it.

use std::sync::atomic::Ordering;

use bitmap::Cell;

use crate::part::PartKind;
use crate::ring::Ring;
use crate::slab::NONE;

use super::op::{Phase, StripeOp, Work};
use super::step::{Step, Until};
use super::{At, LOST, Stripes, Tools};

/// Maximum number of parts that one request has in flight (a batch), so that a giant discard leaves room for
/// others.
pub(crate) const PARTS_PER_REQUEST_MAX: u32 = 64;
/// Maximum number of stripes in a run. All of them are released in one turn. Example: with chunks of 1 MiB, a
/// deallocation covers up to 64 MiB.
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
            // A neighbour's write is marking this cell: wait until the mark is durable.
            Cell::Marked => Step::Wait(Until::Unmarked),
            Cell::First => unreachable!("it stays First only in an array that has failed"),
            Cell::Clean | Cell::Dirty | Cell::Aged | Cell::NeedSync => self.discard(at),
        }
    }

    /// Makes the cell Unwritten; the devices are told once that is durable.
    pub(super) fn discard<R>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.ticket = Some(at.shared.bitmap.discard(self.stripe));
        at.blocks.ask(at.shared.bitmap.block_of(self.stripe));
        Step::Wait(Until::Discarded)
    }

    /// The cell is durably Unwritten. The strips are deallocated at the end of this look at the waits.
    pub(super) fn discarded<R>(&mut self, at: &mut At<'_, '_, R>) -> Step {
        self.phase = Phase::Deallocating;
        // Rows that are listed as lost must be taken off the list before the answer.
        let part = self.active.first().expect("a discard has its part");
        let is_last = at.parts.list[part].kind == PartKind::Discard { is_last: true };
        if is_last && !at.shared.lost.touches(self.stripe) {
            self.answer_active(at.parts, Ok(()));
        }
        at.discarded.push(at.index);
        Step::Io
    }
}

impl Stripes {
    /// Deallocates the strips of every stripe that was found durably Unwritten in this look at the waits.
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

    /// Deallocates the strips of a run: ops whose stripes are consecutive.
    fn deallocate<R: Ring>(&mut self, tools: &mut Tools<'_, R>, run: &[u32]) {
        for pair in run.windows(2) {
            self.ops[pair[0]].run_next = pair[1];
        }
        let shared = tools.turn.shared;
        let offset = shared.layout.data_offset_bytes + shared.geometry.strip_offset(self.ops[run[0]].stripe);
        let len = u64::from(shared.geometry.chunk_bytes()) * run.len() as u64;
        // Release, before the devices are told: see `Shared::deallocations`.
        shared.deallocations.fetch_add(1, Ordering::Release);
        shared.steward.advice.fetch_add(1, Ordering::Relaxed);
        let slots = shared.members.view().writable;
        // One more than the number of devices, so that the call below also ends a run without devices.
        self.ops[run[0]].pending = slots.count() + 1;
        for slot in slots.iter() {
            tools.turn.push_deallocate(run[0], slot, offset, len);
        }
        self.deallocated(tools, run[0]);
    }

    /// A device has ended its deallocation, with any result, or is no longer waited for. `first` is the first
    /// op of the run.
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
