//! A bounded number of runs of every scenario, and every seed that failed once.
//!
//! Oracle: what is in `sim`: the first violation ends a run with a panic, and this test with the command that
//! repeats it. `SIM_RUNS` sets the number of small runs a scenario (12), `SIM_SEED` the first seed (1).

use sim::campaign::stored_seeds;
use sim::config::{Flavour, Knobs};
use sim::runner::attempt;
use sim::story::Scenario;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn run(seed: u64, scenario: Scenario, flavour: Flavour) {
    if let Err(failure) = attempt(seed, scenario, Knobs::of(flavour), false) {
        panic!("{}\n  {}", failure.what, failure.command());
    }
}

fn check(scenario: Scenario) {
    let (first, runs) = (setting("SIM_SEED", 1), setting("SIM_RUNS", 12));
    for seed in first..first + runs {
        run(seed, scenario, Flavour::Small);
    }
    for seed in first..first + runs / 6 {
        run(seed, scenario, Flavour::Full);
    }
}

#[test]
fn deaths() {
    check(Scenario::Deaths);
}

#[test]
fn cuts() {
    check(Scenario::Cuts);
}

#[test]
fn rebuild() {
    check(Scenario::Rebuild);
}

#[test]
fn faults() {
    check(Scenario::Faults);
}

#[test]
fn stops() {
    check(Scenario::Stops);
}

#[test]
fn starts() {
    check(Scenario::Starts);
}

#[test]
fn absent() {
    check(Scenario::Absent);
}

#[test]
fn seed() {
    check(Scenario::Seed);
}

#[test]
fn leaving() {
    check(Scenario::Leaving);
}

#[test]
fn mixed() {
    check(Scenario::Mixed);
}

#[test]
fn crowd() {
    check(Scenario::Crowd);
}

#[test]
fn seeds_that_failed_once() {
    for (seed, scenario, flavour) in stored_seeds() {
        run(seed, scenario, flavour);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for scenario in Scenario::all() {
        let traces =
            [0, 1].map(|_| attempt(7, scenario, Knobs::of(Flavour::Small), false).map(|run| run.trace).ok());
        assert!(traces[0].is_some() && traces[0] == traces[1], "{}", scenario.name());
    }
}
