//! Sweeping: cells that have rested become Clean, so that a crash later costs little resync.
//!
//! ```text
//! Resting --(a pass is due, something has changed)--> Looking: block by block, a few a turn
//!   Looking: a block with candidates goes into the batch; a full batch, or the end --> Flushing
//!   Flushing --(all members flushed)--> sweep the batch, age its blocks, write them --> Looking
//!   Looking, past the last block --> Resting
//! ```
//!
//! A block that was in flight already when it was to be written, or for which there was no room, has nothing dirty and is
//! behind at the next pass: it is asked for again.
//!
//! While the array is degraded nothing is swept: a Dirty cell says where the missing member is behind.

use bitmap::{Bitmap, BlockIndex, Looked, Sweeper};

use crate::tally::Tally;

use super::Array;
use super::steward::FlushFor;

/// A cell becomes Clean after it has rested for one to two of these.
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
}

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Sweep {
    sweeper: Sweeper,
    phase: Phase,
    batch: Vec<Looked>,
    next_pass_ns: u64,
    /// Member writes, and stripes made consistent, when the last pass began: as many now, nothing is to be swept. The cell of a
    /// first write becomes dirty after its last write; a resync that finds parity right writes nothing.
    changes_seen: u64,
    /// The last pass met a dirty cell or a block that was behind, or did not come to its end.
    met_dirty: bool,
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
        }
    }

    pub(super) fn is_running(&self) -> bool {
        !matches!(self.phase, Phase::Resting | Phase::Flushing { .. })
    }

    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        Some(self.next_pass_ns)
    }
}

impl Array {
    pub(super) fn sweep_advance(&mut self) {
        let sweep = &self.steward().sweep;
        if matches!(sweep.phase, Phase::Resting) && self.now_ns < sweep.next_pass_ns {
            return;
        }
        let view = self.shared.members.view();
        let degraded = view.readable != self.shared.geometry.slots();
        let stopping = self.steward().is_stopping();
        let now = self.now_ns;
        let shared = self.shared.clone();
        let sweep = &mut self.steward_mut().sweep;
        match sweep.phase {
            Phase::Resting => {
                sweep.next_pass_ns = now + PASS_EVERY_NS;
                let writes: u64 = shared.tallies.iter().map(|tally: &Tally| tally.member_writes.get()).sum();
                let changes = writes + shared.bitmap.made_consistent();
                let idle = changes == sweep.changes_seen && !sweep.met_dirty;
                if !(idle || degraded || stopping) {
                    sweep.changes_seen = changes;
                    sweep.met_dirty = false;
                    sweep.phase = Phase::Looking { block: 0 };
                }
            }
            Phase::Looking { .. } if degraded || stopping => {
                sweep.batch.clear();
                sweep.met_dirty = true;
                sweep.phase = Phase::Resting;
            }
            Phase::Looking { block } => {
                let end = shared.bitmap.blocks();
                let mut next = block;
                let mut behind = [None; BLOCKS_PER_TURN as usize];
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
                    } else if shared.bitmap.is_behind(at) {
                        sweep.met_dirty = true;
                        behind[(next - block) as usize] = Some(at);
                    }
                    next += 1;
                }
                sweep.phase = Phase::Looking { block: next };
                if sweep.batch.len() == BATCH_MAX || (next == end && !sweep.batch.is_empty()) {
                    if self.steward_flush(FlushFor::Sweep) {
                        self.steward_mut().sweep.phase = Phase::Flushing { next };
                    }
                } else if next == end {
                    sweep.phase = Phase::Resting;
                }
                behind.into_iter().flatten().for_each(|block| self.write_block(block));
            }
            Phase::Flushing { .. } => {}
        }
    }

    /// Every member is flushed: what was looked at before, and rested since, is Clean.
    pub(super) fn sweep_flushed(&mut self, ok: bool) {
        let shared = self.shared.clone();
        let degraded = shared.members.view().readable != shared.geometry.slots();
        let Phase::Flushing { next } = self.steward().sweep.phase else { return };
        while let Some(looked) = self.steward_mut().sweep.batch.pop() {
            if ok && !degraded {
                let block = looked.block;
                let sweeper = &mut self.steward_mut().sweep.sweeper;
                if shared.bitmap.sweep_block(sweeper, looked) > 0 {
                    self.write_block(block);
                }
                shared.bitmap.age_block(&mut self.steward_mut().sweep.sweeper, block);
            }
        }
        self.steward_mut().sweep.phase = Phase::Looking { block: next };
    }
}
