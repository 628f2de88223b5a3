//! The content of a running array, for NBD clients that ask for it.

use bitmap::Cell;

use crate::array::Shared;
use crate::frontend::nbd::{Content, Run, StripeState};
use crate::members::MemberView;

/// The bitmap and the list of lost rows, as a front end sees them. An answer is true of a moment between
/// question and answer: a cell changes before a write is acknowledged.
impl Content for Shared {
    fn run(&self, stripe: u64, end: u64) -> Run {
        let view = self.members.view();
        // Look up the next listed stripe once, so that the list is searched only once per run.
        let listed = if self.lost.is_empty() { None } else { self.lost.next_stripe(stripe) };
        let of = |stripe: u64| state(self, &view, stripe, listed == Some(stripe));
        let first = of(stripe);
        // The stripe after a listed one may be listed too, so it begins its own run.
        let end_max = listed.map_or(end, |listed| end.min(listed + 1));
        let end = (stripe + 1..end_max).find(|next| of(*next) != first).unwrap_or(end_max);
        Run { end, state: first }
    }
}

fn state(shared: &Shared, view: &MemberView, stripe: u64, is_listed: bool) -> StripeState {
    let cell = shared.bitmap.cell(stripe);
    match cell {
        Cell::Unwritten => StripeState { unwritten: true, ..StripeState::default() },
        Cell::NeedSync => {
            let lost = is_listed || !shared.lost_strips(view, stripe).is_empty();
            StripeState { unsynced: true, lost, ..StripeState::default() }
        }
        Cell::First | Cell::Clean | Cell::Marked | Cell::Dirty | Cell::Aged => {
            StripeState { lost: is_listed, ..StripeState::default() }
        }
    }
}
