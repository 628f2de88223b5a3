//! The mutants, by the rule that they break. The simulator detects some of them, and tests of the engine the
//! others.

mod by_simulator;
mod by_tests;
mod by_tests_of_starts;

/// A way to break the engine.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Name of the mutant, as in the edits.
    pub name: &'static str,
    /// The rule that the mutant breaks, by its number in the list at the end of docs/testing.md. If it
    /// repeats a bug of this or another system, that bug too.
    pub rule: &'static str,
    /// The test or simulation that must detect the mutant.
    pub seen_by: SeenBy,
}

/// The tests or simulations that can detect a mutant.
#[derive(Clone, Copy, Debug)]
pub enum SeenBy {
    /// The simulator, in all its scenarios.
    Simulator,
    /// A single scenario, for a bug that a minute of all scenarios would not show: its chance is one in many
    /// thousands.
    Scenario(&'static str),
    /// Cases of an engine test: the simulator has no measure for their subject, or meets it too rarely.
    Test {
        /// Name of the test below engine/tests; `unit` for the engine's unit tests.
        test: &'static str,
        /// Part of the names of the cases; empty for all cases.
        case: &'static str,
    },
}

const fn m(name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule, seen_by: SeenBy::Simulator }
}

const fn shown_in(scenario: &'static str, name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule, seen_by: SeenBy::Scenario(scenario) }
}

const fn seen_by_test(test: &'static str, name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule, seen_by: SeenBy::Test { test, case: "" } }
}

/// A mutant that cases of one engine test detect.
const fn in_case(test: &'static str, case: &'static str, name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule, seen_by: SeenBy::Test { test, case } }
}

/// A mutant that cases of engine/tests/array detect.
const fn seen_in_array(case: &'static str, name: &'static str, rule: &'static str) -> Mutant {
    in_case("array", case, name, rule)
}

/// A mutant that unit tests of the engine detect.
const fn seen_by_unit(case: &'static str, name: &'static str, rule: &'static str) -> Mutant {
    in_case("unit", case, name, rule)
}

/// The mutant that breaks nothing: it must survive.
pub const CONTROL: &str = "Control";

/// Every mutant.
pub fn mutants() -> impl Iterator<Item = &'static Mutant> {
    by_simulator::MUTANTS.iter().chain(by_tests::MUTANTS).chain(by_tests_of_starts::MUTANTS)
}
