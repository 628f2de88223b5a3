//! The exhaustive checker is complete on what it says is complete, and finds what it has to find.
//!
//! Oracle: on honest members no scope has a violation; on members that complete a metadata write before it is
//! durable every scope has one, whether the monitors look or only the host, after a cut.

use std::time::Duration;

use sim::exhaustive::explore;
use sim::exhaustive::machine::Memories;
use sim::exhaustive::scopes::{all, lies};

const LONG: Duration = Duration::from_secs(600);

#[test]
fn one_write_goes_right_in_every_order_and_after_every_cut() {
    let memories = Memories::new();
    for scope in all().iter().filter(|scope| scope.asks.len() == 1 && scope.ticks == 0 && !scope.death) {
        let report = explore(scope, &memories, LONG)
            .unwrap_or_else(|violation| panic!("{}: {violation:?}", scope.name));
        let report = report.unwrap_or_else(|| panic!("{}: not complete", scope.name));
        assert!(report.ends > 0 && report.interleavings >= report.ends as f64, "{}: {report:?}", scope.name);
        assert!(report.cuts.starts > report.cuts.images, "{}: {report:?}", scope.name);
    }
}

/// Three operations in flight at first: two copies of the bitmap block and one read; then two writes.
/// Whatever the order: 3! * 2! ways.
#[test]
fn the_count_of_interleavings_is_that_of_arithmetic() {
    let memories = Memories::new();
    let scopes = all();
    let scope = scopes.iter().find(|scope| scope.name == "5x3 clean: write").expect("there is one");
    let report = explore(scope, &memories, LONG).expect("nothing is broken").expect("it is complete");
    assert_eq!(report.interleavings, 12.0);
}

#[test]
fn a_member_that_lies_about_durability_is_found_out() {
    let memories = Memories::new();
    for scope in lies() {
        let violation = explore(&scope, &memories, LONG).expect_err(&scope.name);
        if scope.monitors {
            assert!(
                violation.what.starts_with("I1") || violation.what.starts_with("C1"),
                "{}",
                violation.what
            );
        } else {
            assert!(violation.what.starts_with("READ"), "{}", violation.what);
        }
    }
}
