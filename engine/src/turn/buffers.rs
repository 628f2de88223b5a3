//! The reactor's own memory: buffers of stripe operations, bitmap blocks, superblocks and the list of lost
//! rows.
//!
//! The kernel may still write to the memory of an operation whose member has left. Such memory becomes a
//! *lot*: one span, and a count of the parked operations that hold it. When the owner is done with the span,
//! it takes fresh memory, and the lot returns to the pool with the last late completion. (See
//! array/parked.rs.)

use crate::memory::{Pool, Span};
use crate::slab::{NONE, Slab};

use super::Holds;

/// Memory that parked operations hold.
#[derive(Debug)]
struct Lot {
    span: Span,
    /// Number of parked operations that hold it.
    ios: u32,
    /// Whether its owner now uses other memory.
    is_left: bool,
}

/// The pool of a reactor, and the parts of it that parked operations hold.
pub(crate) struct Buffers {
    pub(crate) pool: Pool,
    lots: Slab<Lot>,
}

impl Buffers {
    /// Makes the buffers; at most `parked_max` operations are parked at a time.
    pub(crate) fn new(pool: Pool, parked_max: usize) -> Buffers {
        Buffers { pool, lots: Slab::new(parked_max) }
    }

    /// Counts one more parked operation that holds the owner's span. The owner has one lot for each span that
    /// it works in.
    pub(crate) fn hold(&mut self, lot: &mut u32, span: Span) -> Holds {
        if *lot == NONE {
            *lot = self.lots.insert(Lot { span, ios: 0, is_left: false });
        }
        self.lots[*lot].ios += 1;
        Holds::Lot(*lot)
    }

    /// Gives up the memory of a lot for its owner. The memory returns to the pool now, or with the last late
    /// completion.
    pub(crate) fn leave(&mut self, lot: u32) {
        let Lot { span, ios, .. } = self.lots[lot];
        if ios == 0 {
            self.lots.free(lot);
            self.pool.give(span);
        } else {
            self.lots[lot].is_left = true;
            self.pool.park(span);
        }
    }

    /// Counts a late completion: one parked operation fewer holds this lot.
    pub(crate) fn release(&mut self, lot: u32) {
        let Lot { span, ios, is_left } = &mut self.lots[lot];
        *ios -= 1;
        if *ios == 0 && *is_left {
            self.pool.give_parked(*span);
            self.lots.free(lot);
        }
    }
}
