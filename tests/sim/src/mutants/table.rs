//! The mutants, by the rule that they break: those that the simulator sees, and those that tests of the engine see.

mod by_simulator;
mod by_tests;
mod by_tests_of_starts;

/// A way to break the engine.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name, as in the edits.
    pub name: &'static str,
    /// The rule that it breaks, by its number in the list at the end of docs/testing.md, and the bug of another system or
    /// of this one that it is, where it is one.
    pub rule: &'static str,
    /// Who is to see it.
    pub seen_by: SeenBy,
}

/// Who is to see a mutant.
#[derive(Clone, Copy, Debug)]
pub enum SeenBy {
    /// The simulator, in all its scenarios.
    Simulator,
    /// This scenario, where a minute of all scenarios would not: a chance in many thousands.
    Scenario(&'static str),
    /// Cases of a test of the engine: the simulator has no measure for what they are about, or meets it too rarely.
    Test {
        /// The test, by its name below engine/tests; `unit` for the engine's unit tests.
        test: &'static str,
        /// What the names of the cases contain; empty for all.
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

/// Seen by cases of one test of the engine.
const fn in_case(test: &'static str, case: &'static str, name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule, seen_by: SeenBy::Test { test, case } }
}

/// Seen by cases of engine/tests/array.
const fn seen_in_array(case: &'static str, name: &'static str, rule: &'static str) -> Mutant {
    in_case("array", case, name, rule)
}

/// Seen by unit tests of the engine.
const fn seen_by_unit(case: &'static str, name: &'static str, rule: &'static str) -> Mutant {
    in_case("unit", case, name, rule)
}

/// One that breaks nothing: it must survive.
pub const CONTROL: &str = "Control";

/// Every mutant.
pub fn mutants() -> impl Iterator<Item = &'static Mutant> {
    by_simulator::MUTANTS.iter().chain(by_tests::MUTANTS).chain(by_tests_of_starts::MUTANTS)
}
