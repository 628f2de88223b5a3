//! What a reactor is about, as text: for logs, and for checkers that ask whether two states are the same.
//!
//! Everything that decides what the reactor does next is in it; capacities, counters and memory's bytes are not. Member
//! operations in flight are shown one by one, by the tag that their ring knows ([`Array::show_io`]).

use std::fmt::{Debug, Formatter, Result};

use super::{Array, NO_OP};

impl Array {
    /// For what a member operation in flight is.
    #[must_use]
    pub fn show_io(&self, tag: u32) -> impl Debug {
        self.ios.get(tag).expect("a tag of an operation in flight")
    }
}

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
            .field("ios", &self.ios.len())
            .field("owned", &owned)
            .field("again", &self.again)
            .field("stalled", &self.stalled)
            .field("parked", &self.parked)
            .field("guests", &self.guests)
            .field("short", &self.short)
            .field("fresh", &self.fresh)
            .field("starved", &self.starved)
            .field("polling", &self.polling)
            .field("rereads", &self.rereads)
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
