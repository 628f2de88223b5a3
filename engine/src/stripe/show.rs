//! The operations of a reactor as text: all state that decides what they do next.

use std::fmt::{Debug, Formatter, Result};

use crate::memory::Span;

use super::Stripes;
use super::ownership::NO_OP;

impl Debug for Stripes {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let owned = self.owned.iter().enumerate().filter(|(_, head)| **head != NO_OP).collect::<Vec<_>>();
        f.debug_struct("Stripes")
            .field("parts", &self.parts.list)
            .field("ops", &self.ops)
            .field("segments", &Batches(self))
            .field("owned", &owned)
            .field("parked", &self.parked)
            .field("short", &self.short)
            .field("fresh", &self.fresh)
            .field("starved", &self.starved)
            .field("waits", &self.waits)
            .field("rereads", &self.rereads)
            .finish_non_exhaustive()
    }
}

/// The batches of the ops that hold memory.
struct Batches<'a>(&'a Stripes);

impl Debug for Batches<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let at_work = self.0.ops.live().filter(|(_, op)| op.work != Span::EMPTY);
        f.debug_map()
            .entries(at_work.map(|(index, _)| {
                let segments = &self.0.segments[index as usize];
                (index, (0..segments.len()).map(|at| segments.get(at)).collect::<Vec<_>>())
            }))
            .finish()
    }
}
