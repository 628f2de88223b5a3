//! Repair of bitmap blocks at a start, before anything relies on them. If only some copies have a generation,
//! the next start could decide differently from this one; so all copies are made equal, and damaged ones are
//! rewritten.
//!
//! The power may fail during any of these writes, and the next start may find fewer members. That start takes
//! a torn place as proof that the generation in the other place is the newest complete one, G (see
//! [`bitmap_blocks`](super::bitmap_blocks)). So the rule is:
//!
//! > **A place that cannot be read is written only when the other place of the same member holds nothing
//! > older than what is loaded.** Such a place may hold G, and a torn write of ours would make the older
//! > generation beside it look proven.
//!
//! Three steps follow this rule. A slot that fails in a step leaves, on record, before the next step begins:
//! a later start from that slot and others must not find torn places of the next step beside what the failed
//! slot still holds. Here g is the newest generation that was read, p its place, q the other one, and e a
//! generation of this epoch, above all others.
//!
//! ```text
//!   step       proven: g is loaded                        stale: NeedSync is loaded; no q holds a block
//!   Newest     g to p, where p holds something else
//!              that can be read
//!   First      e to q, if any place is damaged            e to p
//!   Second     e + 1 to p, the same                       e + 1 to q
//! ```
//!
//! A power cut leaves the following in each step, on each member by itself (a proof of one member counts for
//! others only if none of them shows a newer generation, and every member that has ended a step shows what
//! the step wrote):
//! - *Newest*: p holds an older generation or a torn write, so this member never had g, and g was not
//!   complete. Then the content of q is G or newer, and a torn p proves just that. If p cannot be read this
//!   step does nothing: p may have held G.
//! - *First*, proven: a torn q beside g in p proves g, which is right. If p cannot be read, nothing valid is
//!   left beside a torn q, and an e in q, or an older generation still there, is not proven: the block is
//!   stale.
//! - *First*, stale: p is torn, or old, or e; q shows no block, and nothing is proven. (If q becomes readable
//!   again and holds G, a torn p proves G, and an e in p is newer and says `NeedSync`.)
//! - *Second*: every member holds e in its other place, and a torn place proves e.
//!
//! The argument assumes that an unreadable place stays unreadable until it is written. If G becomes readable
//! again after a cut tore the place beside it, an older generation may be proven; no order of the two writes
//! avoids that.
//!
//! After the steps both places of a damaged block hold the same. engine/tests/start_blocks tries every cut of
//! every start.

use bitmap::BlockIndex;

use crate::format::bitmap_block::{self, Cells, Header};
use crate::format::zones::{bitmap_place, copies};
use crate::geometry::Slots;
use crate::limits::BLOCK_BYTES;
use crate::ring::{Durability, MemberIo, Ring};

use super::{Bench, StartError, Started, hold_against_member, shape_of};

/// Repairs that a load of the bitmap found necessary.
#[derive(Default)]
pub(super) struct Disorder {
    /// Blocks that some slots do not have in the newest generation.
    pub(super) behind: Vec<Behind>,
    /// Blocks with a place that holds no valid block, or of which no copy is the newest for certain.
    pub(super) damaged: Vec<BlockIndex>,
}

/// A block that some slots do not have in its newest generation.
pub(super) struct Behind {
    pub(super) block: BlockIndex,
    pub(super) generation: u64,
    pub(super) cells: Box<Cells>,
    /// Slots whose place of that generation can be read and holds something else.
    pub(super) slots: Slots,
}

/// A step of the repair; see the top of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Newest,
    First,
    Second,
}

/// The steps in their order.
pub(super) const STEPS: [Step; 3] = [Step::Newest, Step::First, Step::Second];

/// Does one step for all blocks. Returns the slots where it failed: they must leave, on record, before the
/// next step.
pub(super) fn even_out<R: Ring>(
    bench: &mut Bench<'_, R>,
    started: &mut Started,
    disorder: &Disorder,
    step: Step,
) -> Result<Slots, StartError> {
    match step {
        Step::Newest => write_newest(bench, started, disorder),
        Step::First | Step::Second => write_damaged(bench, started, disorder),
    }
}

/// Writes the newest generation, unchanged and in its place, to the slots that are behind.
fn write_newest<R: Ring>(
    bench: &mut Bench<'_, R>,
    started: &Started,
    disorder: &Disorder,
) -> Result<Slots, StartError> {
    let mut failed = Slots::NONE;
    for Behind { block, generation, cells, slots } in &disorder.behind {
        let slots = slots.minus(failed);
        failed = failed.or(write_copies(bench, started, *block, *generation, cells, slots)?);
    }
    Ok(failed)
}

/// Writes each damaged block as it was loaded, in its next generation.
fn write_damaged<R: Ring>(
    bench: &mut Bench<'_, R>,
    started: &Started,
    disorder: &Disorder,
) -> Result<Slots, StartError> {
    let mut failed = Slots::NONE;
    let shape = shape_of(&started.geometry);
    let mut cells = Box::new([0; bitmap_block::CELL_BYTES]);
    for &block in &disorder.damaged {
        let write = started.bitmap.try_begin_block_write(block, &mut cells).expect("nobody else writes yet");
        let kept =
            copies(block.0.into(), &shape).fold(Slots::NONE, |kept, slot| kept.or(Slots::one(slot as u8)));
        let slots = kept.and(started.view.writable).minus(failed);
        failed = failed.or(write_copies(bench, started, block, write.generation, &cells, slots)?);
        started.bitmap.finish_block_write(write, &cells);
    }
    Ok(failed)
}

/// Writes a block to these slots; returns those where it failed.
fn write_copies<R: Ring>(
    bench: &mut Bench<'_, R>,
    started: &Started,
    block: BlockIndex,
    generation: u64,
    cells: &Cells,
    slots: Slots,
) -> Result<Slots, StartError> {
    let array = uuid::Uuid::from_bytes(started.layout.uuid);
    let header = Header { array, index: block.0.into(), generation };
    let span = bench.scratch.part(0, BLOCK_BYTES as u32);
    bench.memory.with_mut(span, |bytes| bitmap_block::encode(bytes, &header, cells));
    let offset = started.layout.bitmap_offset_bytes + bitmap_place(block.0.into(), generation);
    let durable = MemberIo::Write(Durability::Durable);
    let op = |slot| Bench::<R>::op(started.devices[usize::from(slot)], durable, offset, span);
    let ops: Vec<_> = slots.iter().map(op).collect();
    let mut failed = Slots::NONE;
    for (slot, result) in slots.iter().zip(bench.run(&ops)) {
        hold_against_member(slot, result)?;
        if result.is_err() {
            failed = failed.or(Slots::one(slot));
        }
    }
    Ok(failed)
}
