//! Many seeds on all cores, until enough histories are done.
//!
//! A seed also decides the scenario and the flavour, so one number repeats a run. Seeds are consecutive from
//! a base. Without a given base, the base is derived from the commit, so that each push explores new seeds.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::{Flavour, Knobs};
use crate::rng::mix;
use crate::runner::{Failure, attempt};
use crate::story::{Outcome, SELDOM_EVERY, Scenario};

/// The scenario and the flavour that a seed stands for.
#[must_use]
pub fn story_of(seed: u64) -> (Scenario, Flavour) {
    let drawn = mix(seed ^ 0x5712_1a7e);
    let from: &[Scenario] = match drawn >> 40 & (SELDOM_EVERY - 1) {
        0 => &Scenario::SELDOM,
        _ => &Scenario::MIX,
    };
    let scenario = from[(drawn % from.len() as u64) as usize];
    let flavour = match drawn >> 32 & 15 {
        0 => Flavour::Full,
        1..=4 => Flavour::Skewed,
        _ => Flavour::Small,
    };
    (scenario, flavour)
}

/// Targets and limits of a campaign.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The first seed.
    pub base: u64,
    /// Fewest power-cut histories.
    pub cuts: u64,
    /// Fewest member-death histories.
    pub deaths: u64,
    /// Time limit: the campaign stops then, whether or not the targets are reached.
    pub within: Duration,
    /// Whether the time limit counts processor time instead of elapsed time, for a machine that also does
    /// other work.
    pub processor_time: bool,
    /// Number of seeds that run at the same time.
    pub threads: usize,
    /// Whether to continue after a failure.
    pub keep_going: bool,
    /// The only scenario to run, if any.
    pub scenario: Option<Scenario>,
    /// The only flavour to run, if any.
    pub flavour: Option<Flavour>,
}

/// Results of a campaign.
#[derive(Default)]
pub struct Done {
    /// Number of runs and their summed outcomes, by scenario and flavour.
    pub by_story: BTreeMap<(&'static str, &'static str), (u64, Outcome)>,
    /// Number of runs that were done twice and left the same trace.
    pub repeated: u64,
    /// All failures, in the order in which they were found.
    pub failures: Vec<Failure>,
    /// Duration of the campaign, seconds.
    pub seconds: f64,
}

impl Done {
    /// Totals over all scenarios.
    #[must_use]
    pub fn total(&self) -> (u64, Outcome) {
        let mut total = (0, Outcome::default());
        for (runs, outcome) in self.by_story.values() {
            total.0 += runs;
            total.1.add(outcome);
        }
        total
    }
}

/// Interval of repeated runs: one in this many is done twice, to check that it leaves the same trace.
const REPEATED_EVERY: u64 = 64;

/// Runs a campaign.
#[must_use]
pub fn campaign(goal: &Goal) -> Done {
    let begun = Instant::now();
    let (next, cuts, deaths) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let done = Mutex::new(Done::default());
    let is_enough = || {
        cuts.load(Ordering::Relaxed) >= goal.cuts && deaths.load(Ordering::Relaxed) >= goal.deaths
            || if goal.processor_time {
                processor_time() >= goal.within
            } else {
                begun.elapsed() >= goal.within
            }
    };
    let work = || {
        while !is_enough() {
            let seed = goal.base.wrapping_add(next.fetch_add(1, Ordering::Relaxed));
            let (scenario, flavour) = story_of(seed);
            let (scenario, flavour) = (goal.scenario.unwrap_or(scenario), goal.flavour.unwrap_or(flavour));
            let knobs = Knobs::of(flavour);
            let result = attempt(seed, scenario, knobs, false);
            let repeated = result.is_ok() && seed % REPEATED_EVERY == 0;
            if repeated {
                let again = attempt(seed, scenario, knobs, false);
                let traces = [&result, &again].map(|run| run.as_ref().ok().map(|outcome| outcome.trace));
                assert_eq!(traces[0], traces[1], "DETERMINISM: seed {seed} does not repeat");
            }
            let mut done = done.lock().expect("no holder panics");
            done.repeated += u64::from(repeated);
            match result {
                Ok(outcome) => {
                    cuts.fetch_add(outcome.cuts, Ordering::Relaxed);
                    deaths.fetch_add(outcome.deaths, Ordering::Relaxed);
                    let entry = done.by_story.entry((scenario.name(), flavour.name())).or_default();
                    entry.0 += 1;
                    entry.1.add(&outcome);
                }
                Err(failure) => done.failures.push(failure),
            }
            if !done.failures.is_empty() && !goal.keep_going {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..goal.threads {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().expect("no holder panics");
    done.seconds = begun.elapsed().as_secs_f64();
    done
}

/// Runs that failed once (tests/sim/seeds.txt). They pass now, and are still run.
#[must_use]
pub fn stored_seeds() -> Vec<(u64, Scenario, Flavour)> {
    let stored = |line: &str| {
        let mut words = line.split_whitespace();
        let seed = words.next()?.parse().ok()?;
        Some((seed, Scenario::from_name(words.next()?)?, Flavour::from_name(words.next()?)?))
    };
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| stored(line).unwrap_or_else(|| panic!("no seed, scenario and flavour: {line}")))
        .collect()
}

/// Processor time that this process has used; zero if the system does not report it.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    // Fields 14 and 15 of proc(5), in ticks of 10 ms. Skips 11, because `after_name` begins at field 3.
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// A base seed derived from the commit that is checked out, or from nothing if there is none.
#[must_use]
pub fn base_of_commit() -> u64 {
    let head = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    let head = head.map(|output| output.stdout).unwrap_or_default();
    // Short enough to read and type; a campaign of a million seeds rarely overlaps another.
    head.iter().fold(0, |seed, &byte| mix(seed ^ u64::from(byte))) % 1_000_000_000_000
}
