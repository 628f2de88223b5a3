//! The next need of an operation (the result of each of its verbs), and the waits that no completion ends.

use bitmap::Cell;

use crate::request::RequestError;
use crate::shared::Shared;

use super::op::StripeOp;

/// The next need of an operation. `Stripes::follow` carries it out.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) enum Step {
    /// Nothing now: the last completion of the op's I/O continues the op.
    Io,
    /// Memory for a batch, of the given size.
    Memory { bytes: u32 },
    /// A wait that no completion ends.
    Wait(Until),
    /// A flush of every member with a volatile cache.
    Flush,
    /// A delay before a piece of rows is read again.
    Rest { wait_ns: u32 },
    /// Nothing more: the op's current work has ended.
    Finished(Result<(), RequestError>),
}
// A step fits into one register. As a larger value it went through memory and was read back in wider pieces
// than it was stored in, for which the core waits.
const _: () = assert!(size_of::<Step>() <= 8);

/// The condition that ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The record says that members may be written (shared/rest.rs).
    Awake,
    /// The mark of the cell is durable.
    IntentDurable,
    /// The cell of a first write is durably Dirty.
    CellDurable,
    /// The cell is durably Unwritten.
    Discarded,
    /// A neighbour's mark of the cell is durable, so the stripe can be discarded.
    Unmarked,
    /// The list of lost rows can be edited, to add rows.
    ListTakesMore,
    /// The list is durable with the added rows, in the version of the op.
    Listed,
    /// The list of lost rows can be edited, to remove rows.
    ListTakesLess,
    /// The list is durable without the removed rows, in the version of the op.
    Unlisted,
    /// The record excludes every slot that the op skipped.
    OnRecord,
}

/// The result of checking a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The wait is over.
    Over,
    /// The wait can never end: the array has failed.
    Hopeless,
    /// The wait continues.
    Waiting,
}

impl Until {
    /// Checks whether the wait of an operation is over.
    pub(super) fn look(self, shared: &Shared, op: &StripeOp) -> Look {
        let stripe = op.stripe;
        let is_over = match self {
            // A failed array is not woken: its writes start, and are refused.
            Until::Awake => shared.steward.rest.is_over() || shared.failed(),
            Until::IntentDurable => shared.bitmap.intent_is_durable(stripe),
            // The cell may also be Aged by now: a sweep may have passed before this look.
            Until::CellDurable => shared.bitmap.cell(stripe) != Cell::First,
            Until::Discarded => shared.bitmap.is_durable(op.ticket.expect("a discard has its ticket")),
            Until::Unmarked => shared.bitmap.cell(stripe) != Cell::Marked,
            Until::ListTakesMore | Until::ListTakesLess => !shared.failed(),
            Until::Listed | Until::Unlisted => !shared.failed() && shared.lost.is_durable(op.listed),
            Until::OnRecord => shared.members.on_record(op.skipped, stripe),
        };
        match is_over {
            true => Look::Over,
            false if shared.failed() => Look::Hopeless,
            false => Look::Waiting,
        }
    }

    /// Whether the stripe's bitmap block must be written for the wait to end.
    pub(crate) const fn needs_block(self) -> bool {
        matches!(self, Until::IntentDurable | Until::CellDurable | Until::Discarded | Until::Unmarked)
    }
}
