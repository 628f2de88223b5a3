//! What a reactor is about, as text: for logs, and for checkers that ask whether two states are the same.
//!
//! Everything that decides what the reactor does next is in it; capacities, counters and memory's bytes are not.

use std::fmt::{Debug, Formatter, Result};

use super::{Array, NO_OP};

impl Debug for Array {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let owned = self.owned.iter().enumerate().filter(|(_, head)| **head != NO_OP).collect::<Vec<_>>();
        f.debug_struct("Array")
            .field("me", &self.me)
            .field("now_ns", &self.now_ns)
            .field("requests", &self.requests)
            .field("parts", &self.parts)
            .field("ops", &self.ops)
            .field("segments", &Batches(self))
            .field("ios", &self.ios)
            .field("owned", &owned)
            .field("again", &self.again)
            .field("stalled", &self.stalled)
            .field("parked", &self.parked)
            .field("unsent", &self.unsent)
            .field("fresh", &self.fresh)
            .field("starved", &self.starved)
            .field("polling", &self.polling)
            .field("flush", &self.flush)
            .field("blocks", &self.blocks)
            .field("steward", &self.steward)
            .finish_non_exhaustive()
    }
}

/// The batches of the ops that have I/O to do.
struct Batches<'a>(&'a Array);

impl Debug for Batches<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let at_work = self.0.ops.live().filter(|(_, op)| op.work != crate::memory::Span::EMPTY);
        f.debug_map()
            .entries(at_work.map(|(index, _)| {
                let segments = &self.0.segments[index as usize];
                (index, (0..segments.len()).map(|at| segments.get(at)).collect::<Vec<_>>())
            }))
            .finish()
    }
}
