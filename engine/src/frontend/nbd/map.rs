//! Extents of the array by content, for NBD_CMD_BLOCK_STATUS and for reads of unwritten stripes.
//!
//! | context | flag | meaning for an extent |
//! |---|---|---|
//! | `base:allocation` | 1 hole, 2 zero (both or none) | never written, or discarded since: reads as zeros |
//! | `striate:state` | 1 lost | part cannot be read until rewritten; `striate lost` lists the exact places |
//! | | 2 unsynced | its parity does not match yet: a member's failure would lose data |
//!
//! A reply has one extent per context; clients ask again for what follows. So a reply needs no memory, and
//! its work is bounded.

use super::limits::{MAP_RUNS_MAX, MAP_STRIPES_MAX};

/// A source of the state of stripes, from which these answers are made.
pub trait Content: Send + Sync {
    /// The run of stripes in the same state that begins at `stripe`. Examines no stripe from `end` on; `end`
    /// is above `stripe`.
    fn run(&self, stripe: u64, end: u64) -> Run;
}

/// Consecutive stripes in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The stripe after the last one of the run.
    pub end: u64,
    /// The state of each stripe in the run.
    pub state: StripeState,
}

/// The state of a stripe, as far as clients may know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StripeState {
    /// The stripe was never written, or was discarded since: it reads as zeros.
    pub unwritten: bool,
    /// Rows of the stripe are lost.
    pub lost: bool,
    /// The parity of the stripe does not match.
    pub unsynced: bool,
}

/// A metadata context: one kind of answer about the content of the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Context {
    Allocation,
    State,
}

/// Every context, in the order of their chunks.
pub(super) const CONTEXTS: [Context; 2] = [Context::Allocation, Context::State];

impl Context {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Context::Allocation => "base:allocation",
            Context::State => "striate:state",
        }
    }

    /// The number by which replies name the context.
    pub(super) const fn id(self) -> u32 {
        match self {
            Context::Allocation => 1,
            Context::State => 2,
        }
    }

    /// Whether a client's list query selects this context: by the context's name, or by its namespace and a
    /// colon.
    pub(super) fn answers(self, query: &[u8]) -> bool {
        let name = self.name();
        let namespace = name.find(':').map_or(name, |colon| &name[..=colon]);
        query == name.as_bytes() || query == namespace.as_bytes()
    }

    const fn flags(self, state: StripeState) -> u32 {
        const HOLE: u32 = 1 << 0;
        const ZERO: u32 = 1 << 1;
        const LOST: u32 = 1 << 0;
        const UNSYNCED: u32 = 1 << 1;
        match self {
            Context::Allocation => {
                if state.unwritten {
                    HOLE | ZERO
                } else {
                    0
                }
            }
            Context::State => {
                (if state.lost { LOST } else { 0 }) | (if state.unsynced { UNSYNCED } else { 0 })
            }
        }
    }
}

/// The contexts that a client has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Contexts(u8);

impl Contexts {
    pub(super) const NONE: Contexts = Contexts(0);

    pub(super) fn add(&mut self, context: Context) {
        self.0 |= 1 << context.id();
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn iter(self) -> impl DoubleEndedIterator<Item = Context> {
        CONTEXTS.into_iter().filter(move |context| self.0 & (1 << context.id()) != 0)
    }
}

/// The extent at the beginning of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Length with the same flags, at most that of the range.
    pub bytes: u32,
    /// The extent's flags in its context.
    pub flags: u32,
    /// Stripes that were examined to find the extent.
    pub looked: u64,
}

/// Finds the extent at the beginning of a range in a context.
pub(super) fn extent(
    content: &dyn Content,
    stripe_bytes: u64,
    context: Context,
    offset_bytes: u64,
    len_bytes: u32,
) -> Extent {
    let first = offset_bytes / stripe_bytes;
    let range_end = offset_bytes + u64::from(len_bytes);
    let end_max = range_end.div_ceil(stripe_bytes).min(first + MAP_STRIPES_MAX);
    let flags_at = |stripe| context.flags(content.run(stripe, stripe + 1).state);
    let flags = flags_at(first);
    let (mut end, mut looked, mut runs) = (first, 1, 0);
    // Only runs that belong to the extent are examined in full. Runs that differ only in the other context
    // are one extent in this one.
    while end < end_max && runs < MAP_RUNS_MAX && flags_at(end) == flags {
        let run = content.run(end, end_max);
        (looked, runs) = (looked + 1 + run.end - end, runs + 1);
        end = run.end;
    }
    let bytes = (end * stripe_bytes).min(range_end) - offset_bytes;
    Extent { bytes: bytes as u32, flags, looked }
}

/// The number of unwritten bytes at the beginning of a range (0 if it begins with written ones), and the
/// stripes examined.
pub(super) fn hole(
    content: &dyn Content,
    stripe_bytes: u64,
    offset_bytes: u64,
    len_bytes: u32,
) -> (u32, u64) {
    let first = offset_bytes / stripe_bytes;
    if !content.run(first, first + 1).state.unwritten {
        return (0, 1);
    }
    let extent = extent(content, stripe_bytes, Context::Allocation, offset_bytes, len_bytes);
    (extent.bytes, extent.looked)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A picture of stripes by letters: `.` unwritten, `w` written, `u` unsynced, `l` lost and unsynced.
    /// Counts the stripes that are examined.
    struct Picture(&'static [u8], AtomicU64);

    impl Picture {
        fn of(stripes: &'static [u8]) -> Picture {
            Picture(stripes, AtomicU64::new(0))
        }
    }

    impl Content for Picture {
        fn run(&self, stripe: u64, end: u64) -> Run {
            let letter = self.0[stripe as usize];
            let differs = |stripe: &u64| self.0[*stripe as usize] != letter;
            let state = StripeState {
                unwritten: letter == b'.',
                lost: letter == b'l',
                unsynced: matches!(letter, b'u' | b'l'),
            };
            let run = Run { end: (stripe..end).find(differs).unwrap_or(end), state };
            self.1.fetch_add(run.end - stripe, Ordering::Relaxed);
            run
        }
    }

    #[test]
    fn an_extent_ends_where_its_context_changes() {
        let picture = Picture::of(b"..wul..w");
        let stripe = 4096;
        for (context, offset, len, expected) in [
            (Context::Allocation, 0, 8 * 4096, (2 * 4096, 3)),
            (Context::Allocation, 512, 8 * 4096 - 512, (2 * 4096 - 512, 3)),
            (Context::Allocation, 2 * 4096, 6 * 4096, (3 * 4096, 0)),
            (Context::Allocation, 0, 512, (512, 3)),
            (Context::Allocation, 4096, 4096 + 512, (4096, 3)),
            (Context::State, 0, 8 * 4096, (3 * 4096, 0)),
            (Context::State, 3 * 4096, 5 * 4096, (4096, 2)),
            (Context::State, 4 * 4096, 4 * 4096, (4096, 3)),
            (Context::State, 5 * 4096, 3 * 4096, (3 * 4096, 0)),
        ] {
            let found = extent(&picture, stripe, context, offset, len);
            assert_eq!((found.bytes, found.flags), expected, "{context:?} {offset} {len}");
        }
        assert_eq!(hole(&picture, stripe, 4096 + 512, 4096).0, 4096 - 512);
        assert_eq!(hole(&picture, stripe, 2 * 4096, 6 * 4096), (0, 1));
    }

    /// After a short extent the client asks again, and the reactor is not held up.
    #[test]
    fn the_work_of_an_answer_is_bounded() {
        let stripes = 2 * MAP_STRIPES_MAX as usize;
        let written: &'static [u8] = vec![b'w'; stripes].leak();
        // `behind` begins with a hole of one stripe. In `chequered`, each stripe is a run that differs only
        // in the other context.
        let behind: &'static [u8] = [b".", written].concat().leak();
        let chequered: &'static [u8] = b"wu".repeat(MAP_RUNS_MAX as usize).leak();
        for (stripes, covered) in [(written, MAP_STRIPES_MAX), (behind, 1), (chequered, MAP_RUNS_MAX.into())]
        {
            let picture = Picture::of(stripes);
            let found = extent(&picture, 512, Context::Allocation, 0, 512 * (stripes.len() as u32 - 1));
            assert_eq!(u64::from(found.bytes), covered * 512);
            let looked = picture.1.load(Ordering::Relaxed);
            assert!(
                looked <= 2 * found.looked && found.looked <= 2 * covered + 1,
                "{looked} stripes: {found:?}"
            );
        }
    }

    #[test]
    fn queries_name_a_context_or_its_namespace() {
        for (query, allocation, state) in [
            ("base:", true, false),
            ("base:allocation", true, false),
            ("striate:", false, true),
            ("striate:state", false, true),
            ("base", false, false),
            ("base:allocation2", false, false),
            ("", false, false),
        ] {
            assert_eq!(Context::Allocation.answers(query.as_bytes()), allocation, "{query}");
            assert_eq!(Context::State.answers(query.as_bytes()), state, "{query}");
        }
    }
}
