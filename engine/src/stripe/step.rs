//! What an operation needs next: the answer of each of its verbs, and the waits that no completion ends.

use bitmap::{Cell, Ticket};

use crate::geometry::Slots;
use crate::request::RequestError;
use crate::shared::Shared;

/// What an operation needs next. `Stripes::follow` sees to it.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) enum Step {
    /// Nothing: the last completion of its I/O goes on with it.
    Io,
    /// Memory for a batch, of so many bytes.
    Memory { bytes: u32 },
    /// A wait that no completion ends.
    Wait(Until),
    /// A flush of every member with a volatile cache.
    Flush,
    /// A while, before a piece of rows is read anew.
    Rest { wait_ns: u64 },
    /// Nothing more: its present work is over.
    Finished(Result<(), RequestError>),
}

/// When a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The record says that members may be written (shared/rest.rs).
    Awake,
    /// The mark of the cell is durable.
    IntentDurable,
    /// The cell of a first write is durably Dirty.
    CellDurable,
    /// The cell is durably Unwritten.
    Discarded(Ticket),
    /// A neighbour's mark of the cell is durable, so the stripe can be discarded.
    Unmarked,
    /// The list of lost rows takes changes: rows are to be put on it.
    ListTakesMore,
    /// The list is durable, in this version, with the rows.
    Listed(u64),
    /// The list of lost rows takes changes: rows are to be taken off it.
    ListTakesLess,
    /// The list is durable, in this version, without the rows.
    Unlisted(u64),
    /// The record excludes these slots.
    OnRecord(Slots),
}

/// What a look at a wait has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The wait is over.
    Over,
    /// It cannot end any more: the array has failed.
    Hopeless,
    /// It goes on.
    Waiting,
}

impl Until {
    /// Looks whether the wait of an operation on this stripe is over.
    pub(crate) fn look(self, shared: &Shared, stripe: u64) -> Look {
        let is_over = match self {
            // An array that has failed is not woken: its writes start, and are refused.
            Until::Awake => shared.steward.rest.is_over() || shared.failed(),
            Until::IntentDurable => shared.bitmap.intent_is_durable(stripe),
            // Dirty, or Aged: a sweep may have passed before this look.
            Until::CellDurable => shared.bitmap.cell(stripe) != Cell::First,
            Until::Discarded(ticket) => shared.bitmap.is_durable(ticket),
            Until::Unmarked => shared.bitmap.cell(stripe) != Cell::Marked,
            Until::ListTakesMore | Until::ListTakesLess => !shared.failed(),
            Until::Listed(version) | Until::Unlisted(version) => {
                !shared.failed() && shared.lost.is_durable(version)
            }
            Until::OnRecord(skipped) => shared.members.on_record(skipped, stripe),
        };
        match is_over {
            true => Look::Over,
            false if shared.failed() => Look::Hopeless,
            false => Look::Waiting,
        }
    }

    /// Whether the bitmap block of the stripe has to be written for the wait to end.
    pub(crate) const fn needs_block(self) -> bool {
        matches!(self, Until::IntentDurable | Until::CellDurable | Until::Discarded(_) | Until::Unmarked)
    }
}
