//! The choice of the kernels that serve the free functions of this crate: made once, at the first call.
//!
//! CPU flags alone do not decide. AVX-512 halves the number of instructions, but some CPUs split its
//! registers or lower their clock for it, and there AVX2 generates P+Q faster. So the candidates run against
//! each other for at most 2 ms, on the two shapes that matter (P alone; P with Q), in cache. A less preferred
//! candidate must win by [`MARGIN_PERCENT`], so that noise does not make two starts of one machine differ.
//! Tests, benches and operators can choose themselves ([`select`]) or use kernels directly
//! ([`kernels_available`]).

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::arch::{TABLES, Table};
use crate::kernels::Kernels;

/// Strip length of the measurement. Four data strips and two of parity are 48 KiB, about a first-level cache.
const STRIP_BYTES: usize = 8 << 10;

/// Number of data strips in the measurement.
const DATA_STRIPS: usize = 4;

/// Number of rounds. In each round every candidate runs once, and a candidate's best round counts. One run
/// takes 0.3 to 1 us, so four candidates take at most 4 * 2 * 100 * 1 us = 0.8 ms, within the budget of 2 ms.
const ROUNDS: usize = 100;

/// Percentage by which a less preferred candidate must be faster.
const MARGIN_PERCENT: u128 = 5;

static SELECTED: OnceLock<Kernels> = OnceLock::new();

/// The kernels behind the free functions: those that [`select`] named, or the fastest, measured at the first
/// call.
///
/// ```
/// println!("parity by {}", parity_simd::kernels()); // for example: avx2-gfni
/// ```
#[inline]
pub fn kernels() -> &'static Kernels {
    SELECTED.get_or_init(fastest)
}

/// Returns every set of kernels that this CPU can run, in order of expected speed: the fastest first,
/// `portable` last.
///
/// ```
/// for kernels in parity_simd::kernels_available() {
///     let mut p = [0; 32];
///     kernels.xor_generate(&mut p, &[&[1; 32], &[2; 32]]);
///     assert_eq!(p, [3; 32], "{kernels}");
/// }
/// ```
pub fn kernels_available() -> Vec<Kernels> {
    runnable().map(|table| Kernels::new(table, table)).collect()
}

/// Reasons for which [`select`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectError {
    /// No kernels of this name run on this CPU; [`kernels_available`] lists those that do.
    Unavailable,
    /// An earlier `select`, or the first call of a free function, has already chosen.
    TooLate,
}

impl std::fmt::Display for SelectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SelectError::Unavailable => {
                write!(f, "no parity kernels of this name run on this CPU; available:")?;
                runnable().try_for_each(|table| write!(f, " {}", table.name))
            }
            SelectError::TooLate => {
                write!(f, "parity kernels are already in use: select before the first use")
            }
        }
    }
}

impl std::error::Error for SelectError {}

/// Makes the kernels called `name` serve the free functions.
///
/// ```standalone_crate
/// parity_simd::select("portable").expect("runs everywhere, and nothing was called yet");
/// assert_eq!(parity_simd::kernels().name_q(), "portable");
/// assert!(parity_simd::select("portable").is_err(), "the choice is made once");
/// ```
///
/// # Errors
/// [`SelectError::Unavailable`] if this CPU cannot run them, [`SelectError::TooLate`] after the first use.
pub fn select(name: &str) -> Result<(), SelectError> {
    let table = runnable().find(|table| table.name == name).ok_or(SelectError::Unavailable)?;
    SELECTED.set(Kernels::new(table, table)).map_err(|_| SelectError::TooLate)
}

fn runnable() -> impl Iterator<Item = &'static Table> {
    TABLES.iter().copied().filter(|table| (table.runs_here)())
}

/// Measures and chooses. Portable is used only if no other table runs: it never wins.
fn fastest() -> Kernels {
    let all: Vec<&'static Table> = runnable().collect();
    let candidates = &all[..(all.len() - 1).max(1)];
    if let [only] = candidates {
        return Kernels::new(only, only);
    }
    let buffer = vec![0x5a; STRIP_BYTES * DATA_STRIPS];
    let strips: Vec<&[u8]> = buffer.chunks_exact(STRIP_BYTES).collect();
    let sources: Vec<(u8, &[u8])> = (0..).zip(strips.iter().copied()).collect();
    let (mut p, mut q) = (vec![0; STRIP_BYTES], vec![0; STRIP_BYTES]);
    let xor = preferred(candidates, |kernels| kernels.xor_generate(&mut p, &strips));
    let pq = preferred(candidates, |kernels| kernels.pq_generate(&mut p, &mut q, &sources));
    black_box((p, q));
    Kernels::new(candidates[xor], candidates[pq])
}

/// Returns the index of the candidate to prefer for `work`.
fn preferred(candidates: &[&'static Table], mut work: impl FnMut(&Kernels)) -> usize {
    let mut best = vec![Duration::MAX; candidates.len()];
    for _ in 0..ROUNDS {
        for (table, best) in candidates.iter().zip(&mut best) {
            let start = Instant::now();
            work(&Kernels::new(table, table));
            *best = start.elapsed().min(*best);
        }
    }
    first_within_margin(&best)
}

/// Returns the first candidate whose time no other undercuts by more than the margin.
fn first_within_margin(times: &[Duration]) -> usize {
    let shortest = times.iter().min().map_or(0, Duration::as_nanos);
    let bound = shortest * (100 + MARGIN_PERCENT) / 100;
    times.iter().position(|time| time.as_nanos() <= bound).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margin_favours_the_earlier_candidate() {
        let times = |nanos: &[u64]| nanos.iter().copied().map(Duration::from_nanos).collect::<Vec<_>>();
        assert_eq!(first_within_margin(&times(&[103, 100, 99])), 0);
        assert_eq!(first_within_margin(&times(&[120, 100, 99])), 1);
        assert_eq!(first_within_margin(&times(&[200, 150, 99])), 2);
        assert_eq!(first_within_margin(&times(&[0, 0])), 0);
    }

    #[test]
    fn choice_is_made_once() {
        assert_eq!(select("abacus"), Err(SelectError::Unavailable));
        let chosen = kernels();
        assert!(kernels_available().iter().any(|available| available.name_q() == chosen.name_q()));
        assert_eq!(select("portable"), Err(SelectError::TooLate));
    }
}
