//! Finds a smaller run that fails in the same way: knobs are turned down one by one, and stay down if the
//! failure remains.
//!
//! A turned knob makes another run of the seed, so a few neighbouring seeds are tried as well. Two failures
//! are the same if their kinds are equal: the source line of the check that failed.

use std::time::{Duration, Instant};

use crate::config::Knobs;
use crate::runner::{Failure, attempt};

/// Time limit for one search.
const WITHIN: Duration = Duration::from_secs(20);
/// Seeds tried for each turn of a knob.
const SEEDS: u64 = 12;

type Turn = fn(&mut Knobs, u64);

/// Tries to make a failure smaller.
#[must_use]
pub fn shrink(failure: &Failure) -> Failure {
    let begun = Instant::now();
    let mut best = failure.clone();
    let turns: [(Turn, &[u64]); 5] = [
        (|knobs, value| knobs.reactors = value, &[1]),
        (|knobs, value| knobs.members = value, &[3, 4, 5]),
        (|knobs, value| knobs.stripes = value, &[1, 2, 4]),
        (|knobs, value| knobs.depth = value, &[1, 2, 8]),
        (|knobs, value| knobs.load = value, &[5, 15, 40]),
    ];
    for (turn, values) in turns {
        'values: for &value in values {
            for nth in 0..SEEDS {
                if begun.elapsed() > WITHIN {
                    return best;
                }
                let mut knobs = Knobs { only: None, ..best.knobs };
                turn(&mut knobs, value);
                let seed = best.seed.wrapping_add(nth << 48);
                if let Err(found) = attempt(seed, best.scenario, knobs, false)
                    && found.kind() == failure.kind()
                {
                    best = found;
                    break 'values;
                }
            }
        }
    }
    best
}
