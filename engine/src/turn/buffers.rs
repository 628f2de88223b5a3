//! The reactor's own memory: of stripe operations, bitmap blocks, superblocks and the list of lost rows.
//!
//! The kernel may still write to memory of an operation whose member has left. Such memory becomes a *lot*: one span, and how many parked
//! operations hold it. The owner takes fresh memory when it is done with the span, and the lot returns to the pool with the last late
//! completion. (See array/parked.rs.)

use crate::memory::{Pool, Span};
use crate::slab::{NONE, Slab};

use super::Holds;

/// Memory that parked operations hold.
#[derive(Debug)]
struct Lot {
    span: Span,
    /// Parked operations that hold it.
    ios: u32,
    /// Whether its owner has gone on to other memory.
    is_left: bool,
}

/// The pool of a reactor, and what parked operations hold of it.
pub(crate) struct Buffers {
    pub(crate) pool: Pool,
    lots: Slab<Lot>,
}

impl Buffers {
    /// A pool of which at most so many operations are parked.
    pub(crate) fn new(pool: Pool, parked_max: usize) -> Buffers {
        Buffers { pool, lots: Slab::new(parked_max) }
    }

    /// One parked operation more holds the span of an owner, which has one lot for each span that it works in.
    pub(crate) fn hold(&mut self, lot: &mut u32, span: Span) -> Holds {
        if *lot == NONE {
            *lot = self.lots.insert(Lot { span, ios: 0, is_left: false });
        }
        self.lots[*lot].ios += 1;
        Holds::Lot(*lot)
    }

    /// The owner of a lot is done with its memory, which goes back to the pool now or with the last late completion.
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

    /// A late completion: one parked operation fewer holds this lot.
    pub(crate) fn release(&mut self, lot: u32) {
        let Lot { span, ios, is_left } = &mut self.lots[lot];
        *ios -= 1;
        if *ios == 0 && *is_left {
            self.pool.give_parked(*span);
            self.lots.free(lot);
        }
    }
}
