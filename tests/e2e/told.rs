//! What the log tells an operator: one line for each change, with the member by slot and path, and what to do.

use std::time::{Duration, Instant};

use crate::content::pattern;
use crate::lab::{Lab, Server, Shape};

const SHAPE: Shape = Shape { member_mib: 24, ..Shape::RAID6 };

/// The kinds of the notices in a log, in order.
fn kinds(log: &str) -> Vec<&str> {
    log.lines()
        .filter_map(|line| line.split_once("kind=\"")?.1.split_once('"'))
        .map(|(kind, _)| kind)
        .collect()
}

/// Waits until the log ends with these notices since `from` of them.
#[track_caller]
fn until_told(server: &Server<'_>, from: usize, expected: &[&str]) -> usize {
    let began = Instant::now();
    loop {
        let log = server.log();
        let told = kinds(&log);
        if told.len() >= from + expected.len() {
            assert_eq!(told[from..], *expected, "{log}");
            return told.len();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "told: {:?}, of {expected:?}", &told[from..]);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_change_is_one_line() {
    let lab = Lab::new();
    let mut array = lab.create("told", SHAPE);
    let server = array.serve(&[]);
    server.connect().write(0, &pattern(1, 0, 1 << 20));
    assert_eq!(kinds(&server.log()), [""; 0], "an array that is well tells nothing");

    server.fail(1);
    let told = until_told(&server, 0, &["member_failed", "degraded"]);
    server.fail(3);
    let told = until_told(&server, told, &["member_failed", "no_redundancy"]);
    let fresh = lab.member("fresh", &array.shape);
    server.replace(1, &fresh);
    server.wait();
    let told = until_told(&server, told, &["rebuild_begun", "rebuild_ended", "degraded"]);

    let log = server.log();
    let line = log.lines().find(|line| line.contains("member_failed")).expect("told above");
    let path = array.members[1].display();
    for part in [
        format!("slot 1: {path}: taken out of service by the operator"),
        "array=\"told\"".into(),
        "slot=1".into(),
        format!("path=\"{path}\""),
        "`striate replace told 1 DEVICE`".into(),
    ] {
        assert!(line.contains(&part), "{part}: {line}");
    }
    server.stop();
    array.members[1] = fresh;

    // What it lacks from the start on is told too.
    let server = array.serve(&[]);
    assert_eq!(until_told(&server, told, &["degraded"]), told + 1);
    server.connect().write(0, &pattern(2, 0, 4 << 20));
    server.kill();
    let server = array.serve(&[]);
    server.wait();
    let log = server.log();
    let told = &kinds(&log)[told + 1..];
    assert_eq!(told[0], "degraded", "{log}");
    assert!(told.contains(&"resync_begun") && told.contains(&"resync_ended"), "{log}");
    server.stop();
}
