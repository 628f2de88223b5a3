//! Turns a plan into a segment: which strips lie in the op's memory, and which are written.

use crate::geometry::Strips;
use crate::limits::RECOVERY_BYTES;
use crate::plan::{self, Plan, ReadPlan, Unsynced, View};

use super::op::{Segment, Work};

/// The row after the small piece that contains `row`.
pub(crate) const fn piece_end(row: u32) -> u32 {
    (row / RECOVERY_BYTES + 1) * RECOVERY_BYTES
}

/// Makes a segment: its plan, and the strips that lie in memory for it. `None` if the plan is refused.
#[inline(always)]
pub(crate) fn shape(view: &View, work: Work, wanted: Strips, given_up: Strips) -> Option<Segment> {
    let mut segment = Segment::of(wanted);
    let parity = view.parity.and(view.writable);
    let lost = view.lost_data();
    if !given_up.is_empty() && !lost.is_empty() && lost.within(given_up) {
        // Write the lost strips as zeros, and make parity from the zeros and the other strips.
        (segment.wanted, segment.void) = (lost, true);
        segment.plan = plan::plan_write(view, lost, Unsynced::Heal);
        segment.made = parity;
        return match segment.plan {
            Plan::Full => Some(segment),
            Plan::Rcw { read } | Plan::Resync { read } => {
                segment.read = read;
                Some(segment)
            }
            Plan::Rmw { .. } | Plan::Init { .. } | Plan::Degraded { .. } | Plan::DataOnly | Plan::Refused => {
                None
            }
        };
    }
    match work {
        Work::Write(mode) => {
            segment.plan = plan::plan_write(view, wanted, mode.unsynced());
            match segment.plan {
                Plan::Full => segment.made = parity,
                Plan::Rcw { read } | Plan::Resync { read } => (segment.read, segment.made) = (read, parity),
                Plan::Rmw { read } => segment.read = read,
                // In rows where nothing is written parity is zeros too, so none is made.
                Plan::Init { .. } => segment.made = if wanted.is_empty() { Strips::NONE } else { parity },
                Plan::Degraded { read, recover } => {
                    // New parity replaces the old one in memory if the old one was read.
                    (segment.read, segment.made) = (read, recover.or(parity));
                }
                Plan::DataOnly => {}
                Plan::Refused => return None,
            }
        }
        Work::Rebuild { target } => {
            let Some(ReadPlan::Recover { read, recover }) = plan::plan_rebuild(view, target) else {
                return None;
            };
            segment.wanted = Strips::NONE;
            segment.plan = Plan::Degraded { read, recover };
            (segment.read, segment.made) = (read, recover.or(Strips::one(target)));
        }
        Work::Read => match plan::plan_read(view, wanted) {
            ReadPlan::Direct => {}
            ReadPlan::Recover { read, recover } => {
                segment.plan = Plan::Degraded { read, recover };
                segment.read = read.minus(wanted);
                segment.made = recover.minus(wanted);
            }
            ReadPlan::Zeros | ReadPlan::Lost => return None,
        },
        Work::Discard => unreachable!("a discard has no rows"),
    }
    Some(segment)
}

/// The strips that a segment writes, whether or not their members are present.
pub(crate) fn targets(data: Strips, parity: Strips, segment: &Segment, work: Work) -> Strips {
    if let Work::Rebuild { target } = work
        && !segment.void
    {
        return Strips::one(target);
    }
    match segment.plan {
        Plan::Full | Plan::Rcw { .. } | Plan::Rmw { .. } | Plan::Resync { .. } => segment.wanted.or(parity),
        Plan::Init { .. } => data.or(parity),
        // Reconstructed data is written back too: its member may have lost it to a bad block.
        Plan::Degraded { recover, .. } => segment.wanted.or(parity).or(recover),
        Plan::DataOnly => segment.wanted,
        Plan::Refused => Strips::NONE,
    }
}
