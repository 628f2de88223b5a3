//! What a reactor is about, as text: for logs, and for checkers that ask whether two states are the same.
//!
//! Everything that decides what the reactor does next is in it; capacities, counters and memory's bytes are
//! not. Member operations in flight are shown one by one, by the tag that their ring knows
//! ([`Array::show_io`]).

use std::fmt::{Debug, Formatter, Result};

use super::Array;

impl Array {
    /// For what a member operation in flight is.
    #[must_use]
    pub fn show_io(&self, tag: u32) -> impl Debug {
        self.ios.get(tag).expect("a tag of an operation in flight")
    }
}

impl Debug for Array {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Array")
            .field("me", &self.me)
            .field("now_ns", &self.now_ns)
            .field("requests", &self.requests)
            .field("stripes", &self.stripes)
            .field("ios", &self.ios.len())
            .field("again", &self.again)
            .field("stalled", &self.stalled)
            .field("short", &self.short)
            .field("flush", &self.flush)
            .field("blocks", &self.blocks)
            .field("steward", &self.steward)
            .finish_non_exhaustive()
    }
}
