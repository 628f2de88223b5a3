//! Extents of the array by content, for NBD_CMD_BLOCK_STATUS, and for reads of stripes that were never written.
//!
//! | context | flag | of an extent says |
//! |---|---|---|
//! | `base:allocation` | 1 hole, 2 zero (both or none) | never written, or discarded since: it reads as zeros |
//! | `striate:state` | 1 lost | some of it cannot be read until it is written again; `striate lost` has the exact places |
//! | | 2 unsynced | its parity does not match yet: the loss of a member would cost it |
//!
//! A reply has one extent for each context: clients ask again behind it. So a reply needs no memory, and its work is bounded.

use super::limits::{MAP_RUNS_MAX, MAP_STRIPES_MAX};

/// The view of an array that these answers come from.
pub trait Content: Send + Sync {
    /// The run of stripes with the same state that begins at a stripe. Looks at no stripe from `end` on, which is above `stripe`.
    fn run(&self, stripe: u64, end: u64) -> Run;
}

/// Stripes of which the same holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The stripe behind the last of them.
    pub end: u64,
    /// The state of each of them.
    pub state: StripeState,
}

/// The state of a stripe as clients may know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StripeState {
    /// The stripe was never written, or discarded since: it reads as zeros.
    pub unwritten: bool,
    /// Some of the stripe is lost.
    pub lost: bool,
    /// The parity of the stripe does not match.
    pub unsynced: bool,
}

/// A kind of answer to the question what the array holds.
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

    /// The number by which replies name it.
    pub(super) const fn id(self) -> u32 {
        match self {
            Context::Allocation => 1,
            Context::State => 2,
        }
    }

    /// Whether a client that asks for a list with this query wants to hear of the context: its name, or its namespace and a colon.
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

/// Contexts that a client has chosen.
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

/// The beginning of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes with the same flags, at most those of the range.
    pub bytes: u32,
    /// The flags in a context.
    pub flags: u32,
    /// Stripes that were looked at to find that out.
    pub looked: u64,
}

/// The extent at the beginning of a range in a context.
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
    // Only a run that belongs to the extent is looked through. Runs that differ only in the other context are one extent in this one.
    while end < end_max && runs < MAP_RUNS_MAX && flags_at(end) == flags {
        let run = content.run(end, end_max);
        (looked, runs) = (looked + 1 + run.end - end, runs + 1);
        end = run.end;
    }
    let bytes = (end * stripe_bytes).min(range_end) - offset_bytes;
    Extent { bytes: bytes as u32, flags, looked }
}

/// The bytes from the beginning of a range on that were never written (0 if it begins with some that were), and the stripes looked at.
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

    /// By letters: `.` unwritten, `w` written, `u` unsynced, `l` lost and unsynced. Counts the stripes that are looked at.
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

    /// The client asks again behind a short extent; the reactor is not held up.
    #[test]
    fn the_work_of_an_answer_is_bounded() {
        let stripes = 2 * MAP_STRIPES_MAX as usize;
        let written: &'static [u8] = vec![b'w'; stripes].leak();
        // Behind a hole of one stripe; and each stripe a run of its own, which differs only in what another context tells.
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
