//! A smaller run that fails alike: knobs are turned down one by one, and stay down where the failure stays.
//!
//! A turned knob makes another run of the seed, so a few seeds beside it are tried as well. What is compared is the
//! kind of the failure: which check at which line.

use std::time::{Duration, Instant};

use crate::config::Knobs;
use crate::runner::{Failure, attempt};

/// How long it tries.
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
