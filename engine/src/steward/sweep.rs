//! Sweep: cells that have rested become Clean, so that a later crash leaves few stripes to resync. With a
//! member missing, a stripe that needs a resync at the next start is lost, so there a sweep saves data.
//!
//! ```text
//! Resting --(a pass is due, something has changed)--> Looking: block by block, a few per turn
//!   Looking: a block with candidates goes into the batch; a full batch, or the end --> Flushing
//!   Flushing --(all members flushed)--> Moving
//!   Moving --(the record has moved on)--> sweep the batch, age its blocks, write them --> Looking
//!   Looking, past the last block --> Resting
//! ```
//!
//! The record moves on before any cell becomes Clean on a member. A member image from before the write of
//! such a stripe is then known to be old, although the cell no longer says that anything was written. A pass
//! that found writes and swept nothing (a stripe that is written again and again) moves the record on too, so
//! an image is known to be old after two passes at most.
//!
//! A block whose write could not begin, because a write of it was under way or there was no room, is still
//! behind at the next pass and is requested again. A block without dirty cells is written a second time, so
//! that both its places hold the same and one bad sector costs nothing.
//!
//! A degraded array is swept like a whole one: a cell says whether parity matches the data, and nothing about
//! the missing member.

use bitmap::{Bitmap, BlockIndex, Looked, Sweeper};

use crate::durable::{BlockWrites, FlushGate};
use crate::shared::Shared;
use crate::tally::Tally;

use super::keeper::MoveTicket;
use super::{FlushFor, Steward};

/// Time between two passes. A cell becomes Clean after it has rested for one to two of these.
const PASS_EVERY_NS: u64 = 1_000_000_000;
/// Blocks looked at in one turn: 4 x 8 KiB of cells.
const BLOCKS_PER_TURN: u32 = 4;
/// Blocks that share one flush.
const BATCH_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Resting,
    Looking { block: u32 },
    Flushing { next: u32 },
    Moving { next: u32, ticket: MoveTicket },
}

/// The state of the sweep; see the top of this file.
#[derive(Debug)]
pub(super) struct Sweep {
    sweeper: Sweeper,
    phase: Phase,
    batch: Vec<Looked>,
    next_pass_ns: u64,
    /// The value of [`changes`] when the last pass began. If it is still the same, there is nothing to sweep.
    changes_seen: u64,
    /// The last pass met a dirty cell or a block that was behind, or did not reach its end.
    met_dirty: bool,
    /// Writes happened before the last pass began, and the record has not moved on since.
    unmoved: bool,
}

impl Sweep {
    pub(super) fn new(bitmap: &Bitmap) -> Sweep {
        Sweep {
            sweeper: bitmap.sweeper(),
            phase: Phase::Resting,
            batch: Vec::with_capacity(BATCH_MAX),
            next_pass_ns: 0,
            changes_seen: 0,
            met_dirty: true,
            unmoved: false,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        !matches!(self.phase, Phase::Resting | Phase::Flushing { .. } | Phase::Moving { .. })
    }

    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        Some(self.next_pass_ns)
    }

    /// Makes every dirty cell of a block Clean. The caller guarantees that no operation is in flight and that
    /// every member was flushed since the last one. (A Marked cell first waits for its block to be written.)
    pub(super) fn settle(&mut self, shared: &Shared, block: BlockIndex) {
        shared.bitmap.age_block(&mut self.sweeper, block);
        let looked = shared.bitmap.sweep_look(&mut self.sweeper, block, &shared.locks);
        shared.bitmap.sweep_block(&mut self.sweeper, looked);
    }

    fn drop_batch(&mut self) {
        self.batch.clear();
        self.met_dirty = true;
        self.phase = Phase::Resting;
    }

    /// Makes cells Clean that were looked at before the flush and have rested since.
    fn settle_batch(&mut self, shared: &Shared, blocks: &mut BlockWrites, next: u32) {
        while let Some(looked) = self.batch.pop() {
            let block = looked.block;
            if shared.bitmap.sweep_block(&mut self.sweeper, looked) > 0 {
                blocks.ask(block);
            }
            shared.bitmap.age_block(&mut self.sweeper, block);
        }
        self.phase = Phase::Looking { block: next };
    }
}

impl Steward {
    pub(super) fn sweep_turn(
        &mut self,
        shared: &Shared,
        now_ns: u64,
        blocks: &mut BlockWrites,
        flush: &mut FlushGate,
    ) {
        let sweep = &self.sweep;
        if matches!(sweep.phase, Phase::Resting) && now_ns < sweep.next_pass_ns {
            return;
        }
        let given_up = shared.failed() || self.is_stopping();
        match sweep.phase {
            Phase::Resting => self.begin_pass(shared, now_ns, given_up),
            Phase::Looking { .. } if given_up => self.sweep.drop_batch(),
            Phase::Looking { block } => self.look_at_blocks(shared, blocks, flush, block),
            Phase::Flushing { .. } => {}
            Phase::Moving { .. } if given_up => self.sweep.drop_batch(),
            Phase::Moving { next, ticket } => {
                if self.keeper.has_moved(ticket) {
                    self.sweep.settle_batch(shared, blocks, next);
                }
            }
        }
    }

    /// Begins a pass if something has changed since the last one, or lets the array rest.
    fn begin_pass(&mut self, shared: &Shared, now_ns: u64, given_up: bool) {
        let changes = changes(shared);
        let sweep = &mut self.sweep;
        sweep.next_pass_ns = now_ns + PASS_EVERY_NS;
        if given_up {
            return;
        }
        let changed = changes != sweep.changes_seen;
        if std::mem::replace(&mut sweep.unmoved, changed) {
            // The members were written before the last pass, and that pass swept nothing.
            let _nobody_waits = self.keeper.ask_to_move();
        }
        if changed || sweep.met_dirty {
            sweep.changes_seen = changes;
            sweep.met_dirty = false;
            sweep.phase = Phase::Looking { block: 0 };
            shared.steward.rest.put_off();
        } else if self.keeper.has_record() && self.keeper.is_at_rest() {
            shared.steward.rest.approach();
        }
    }

    /// Does one turn's share of a pass, from this block on.
    fn look_at_blocks(
        &mut self,
        shared: &Shared,
        blocks: &mut BlockWrites,
        flush: &mut FlushGate,
        block: u32,
    ) {
        let sweep = &mut self.sweep;
        let end = shared.bitmap.blocks();
        let mut next = block;
        let mut unsettled = [None; BLOCKS_PER_TURN as usize];
        while next < end && next < block + BLOCKS_PER_TURN && sweep.batch.len() < BATCH_MAX {
            let at = BlockIndex(next);
            if shared.bitmap.has_dirty(at) {
                sweep.met_dirty = true;
                let looked = shared.bitmap.sweep_look(&mut sweep.sweeper, at, &shared.locks);
                if looked.candidates > 0 {
                    sweep.batch.push(looked);
                } else {
                    shared.bitmap.age_block(&mut sweep.sweeper, at);
                }
            } else if !shared.bitmap.is_settled(at) {
                sweep.met_dirty = true;
                unsettled[(next - block) as usize] = Some(at);
            }
            next += 1;
        }
        sweep.phase = Phase::Looking { block: next };
        if sweep.batch.len() == BATCH_MAX || (next == end && !sweep.batch.is_empty()) {
            if self.join_flush(flush, FlushFor::Sweep) {
                self.sweep.phase = Phase::Flushing { next };
            }
        } else if next == end {
            sweep.phase = Phase::Resting;
        }
        unsettled.into_iter().flatten().for_each(|block| blocks.repeat(shared, block));
    }

    /// Asks for a move of the record, now that every member is flushed.
    pub(super) fn sweep_flushed(&mut self, ok: bool) {
        let Phase::Flushing { next } = self.sweep.phase else { return };
        if ok {
            let ticket = self.keeper.ask_to_move();
            self.sweep.unmoved = false;
            self.sweep.phase = Phase::Moving { next, ticket };
        } else {
            self.sweep.drop_batch();
        }
    }
}

/// Counts everything that may leave a cell dirty or make an image of a member old: marks (a write that is
/// refused after its mark writes nothing), writes of members, stripes made consistent (the cell of a first
/// write becomes dirty after its last write; a resync that finds parity right writes nothing), and discards.
fn changes(shared: &Shared) -> u64 {
    let writes_of = |tally: &Tally| tally.marks.get() + tally.member_writes.get();
    let writes: u64 = shared.tallies.iter().map(writes_of).sum();
    let discards = shared.deallocations.load(std::sync::atomic::Ordering::Relaxed);
    writes + shared.bitmap.made_consistent() + u64::from(discards)
}
