//! The log for an operator: one line for each change, with the member by slot and path, and advice.

use std::time::{Duration, Instant};

use engine::status::Health;

use crate::content::pattern;
use crate::lab::{Lab, Server, Shape, timed};

const SHAPE: Shape = Shape { member_mib: 24, ..Shape::RAID6 };

/// The kinds of the notices in a log, in order.
fn kinds(log: &str) -> Vec<&str> {
    log.lines()
        .filter_map(|line| line.split_once("kind=\"")?.1.split_once('"'))
        .map(|(kind, _)| kind)
        .collect()
}

/// Waits until the log has these notices after its first `from` ones; returns the number of notices.
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
        format!("`striate --run-dir {} replace told 1 DEVICE`", lab.path("run").display()),
    ] {
        assert!(line.contains(&part), "{part}: {line}");
    }
    server.stop();
    array.members[1] = fresh;

    // A member that is missing from the start on is reported too.
    let server = array.serve(&[]);
    assert_eq!(until_told(&server, told, &["member_missing", "degraded"]), told + 2);
    server.connect().write(0, &pattern(2, 0, 4 << 20));
    server.kill();
    let server = array.serve(&[]);
    server.wait();
    let log = server.log();
    let told = &kinds(&log)[told + 2..];
    assert_eq!(told[..2], ["member_missing", "degraded"], "{log}");
    assert!(told.contains(&"resync_begun") && told.contains(&"resync_ended"), "{log}");
    server.stop();
}

/// A degraded array is killed under load. Every report shows what is lost; reading it is an error; after it
/// is written again, both end.
#[test]
fn what_is_lost_is_told_and_can_be_restored() {
    let lab = Lab::new();
    let array = lab.create("torn", Shape { member_mib: 24, ..Shape::RAID5 });
    let server = array.serve(&[]);
    let mut client = server.connect();
    client.write(0, &pattern(1, 0, 8 << 20));
    server.fail(2);
    let health = |server: &Server<'_>| server.status().health;
    assert_eq!(health(&server), Health::NoRedundancy);
    for turn in 0..64 {
        client.write(turn * (128 << 10), &pattern(2, 0, 4096));
    }
    server.kill();

    let server = array.serve(&[]);
    let status = server.status();
    assert_eq!(status.health, Health::DataLost, "{status:?}");
    let check = lab.striate(&["status", "--check"]);
    let text = String::from_utf8_lossy(&check.stdout);
    assert!(
        check.status.code() == Some(2) && text.starts_with("STRIATE CRITICAL: torn DATA LOST ("),
        "{text}"
    );
    let lost = |server: &Server<'_>| -> Vec<(u64, u64)> {
        let _it_is_served = server.status();
        let output = lab.striate(&["lost", "torn", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let pieces = report["pieces"].as_array().expect("a list").iter();
        let number = |piece: &serde_json::Value, name: &str| piece[name].as_u64().expect("a number");
        let pieces: Vec<_> =
            pieces.map(|piece| (number(piece, "offset_bytes"), number(piece, "len_bytes"))).collect();
        assert_eq!(output.status.code(), Some(if pieces.is_empty() { 0 } else { 1 }));
        assert_eq!(
            pieces.iter().map(|piece| piece.1).sum::<u64>(),
            report["lost_bytes"].as_u64().expect("a sum")
        );
        pieces
    };
    let pieces = lost(&server);
    assert_eq!(pieces.iter().map(|piece| piece.1).sum::<u64>(), status.lost_bytes, "{status:?}");
    let mut client = server.connect();
    for &(at, len) in &pieces {
        assert!(client.try_read(at, 4096).is_err(), "a lost piece at {at} was read");
        client.write(at, &pattern(3, at, len as usize));
    }
    assert_eq!(lost(&server), []);
    assert_eq!(health(&server), Health::NoRedundancy);
    for &(at, len) in &pieces {
        assert_eq!(client.read(at, len as usize), pattern(3, at, len as usize));
    }
    drop(client);
    // Checks for lost data are a second apart.
    let until = |kind: &str| {
        let began = Instant::now();
        while !kinds(&server.log()).contains(&kind) {
            assert!(began.elapsed() < Duration::from_secs(60), "{kind}: {}", server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    ["data_lost", "data_restored"].into_iter().for_each(until);
    server.stop();
}

/// The log says how to take back a member that a start leaves out, and the command works as printed.
#[test]
fn advice_works_as_printed() {
    let lab = Lab::new();
    let array = lab.create("advised", SHAPE);
    let server = array.serve(&[]);
    server.fail(1);
    server.stop();
    let server = array.serve(&[]);
    let log = server.log();
    let path = array.members[1].display().to_string();
    let line = log.lines().rev().find(|line| line.contains("left out of slot 1") && line.contains(&path));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    let command = line.split('`').nth(1).unwrap_or_else(|| panic!("no command: {line}"));
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[0], "striate", "{command}");
    lab.striate_ok(&words[1..]);
    server.wait();
    assert_eq!(server.status().health, Health::Optimal);
    // A member that has left may be named by its former path.
    server.fail(3);
    let fresh = lab.member("fresh", &array.shape);
    lab.striate_ok(&[
        "replace".as_ref(),
        "advised".as_ref(),
        array.members[3].as_os_str(),
        fresh.as_os_str(),
    ]);
    server.wait();
    assert_eq!(server.status().health, Health::Optimal);
    server.stop();
}

/// Runs a command on a terminal of 50 columns, by script(1), and returns its output.
fn on_a_terminal(lab: &Lab, command: &str, no_color: &str) -> String {
    let program = env!("CARGO_BIN_EXE_striate");
    let shown = format!("stty cols 50; {program} {command}");
    let mut script = timed("script");
    script.args(["--quiet", "--command", &shown, "/dev/null"]);
    script.env("STRIATE_RUN_DIR", lab.path("run")).env("NO_COLOR", no_color);
    String::from_utf8_lossy(&script.output().expect("script(1)").stdout).into_owned()
}

/// A terminal shows colours unless NO_COLOR forbids them; a pipe does not. On a narrow terminal no word of a
/// table is broken.
#[test]
fn colours_are_for_terminals() {
    let lab = Lab::new();
    let array = lab.create("coloured", Shape { member_mib: 24, ..Shape::RAID5 });
    let server = array.serve(&[]);
    server.fail(1);
    let (escape, red) = ("\u{1b}[", "\u{1b}[31mNO REDUNDANCY\u{1b}[0m");
    let status = on_a_terminal(&lab, "status", "");
    assert!(status.contains(red), "{status:?}");
    let plain = on_a_terminal(&lab, "status", "1");
    assert!(!plain.contains(escape), "{plain:?}");
    assert_eq!(plain.replace('\r', ""), status.replace('\r', "").replace(red, "NO REDUNDANCY"));
    let piped = lab.striate_ok(&["status"]);
    assert_eq!(plain.replace('\r', ""), piped, "a table is the same at 50 columns");
    // The log of a server that is refused after it has said that it waits.
    let serve = "serve --wait 1 /dev/striate-none";
    let log = on_a_terminal(&lab, serve, "");
    assert!(log.contains("not there yet") && log.contains(escape), "{log:?}");
    let log = on_a_terminal(&lab, serve, "1");
    assert!(log.contains("not there yet") && !log.contains(escape), "{log:?}");
    // Lines of the log name no module, and show commands in words.
    let log = server.log();
    assert!(!log.contains(escape) && !log.contains("::") && !log.contains('{'), "{log}");
    assert!(log.contains("command: fail slot 1"), "{log}");
    server.stop();
}

/// Refusals are compared as a whole: what happened, to which member, and what to do.
#[test]
fn refusals_are_plain() {
    let lab = Lab::new();
    let array = lab.create("plain", Shape { members: 3, member_mib: 24, ..Shape::RAID5 });
    let path = |name: &str| lab.path(name).display().to_string();
    let [m0, m1, m2] = ["plain.0", "plain.1", "plain.2"].map(path);
    let (none, blank, short) = (path("none"), path("blank"), path("short"));
    lab.file("blank", 24 << 20);
    lab.file("short", 4 << 20);
    let check = |args: &[&str], expected: &str| {
        let said = lab.striate_refuses(args);
        assert_eq!(said, format!("striate: {expected}\n"), "{args:?}");
    };
    let missing = "array plain cannot start: 1 of 3 members are here and in sync, and it needs 2. Attach what is missing: \
                   slot 0: its device is not here; slot 2: its device is not here";
    check(&["serve", &m1], missing);
    check(&["scrub", &m1], missing);
    check(
        &["serve", &m0, &none],
        &format!(
            "no member: {none}: no such device or file; check the path; or leave it out, to serve without it"
        ),
    );
    check(
        &["scrub", &m0, &m2],
        "plain: slot 1 is missing: parity is compared when every member is there and in sync: serve the array, fill the slot, wait \
         for its rebuild, stop the array, and scrub it then",
    );
    check(
        &["create", "other", "--level", "5", &blank, &none, &m0],
        &format!("{none}: no such device or file; check the path, or give --size to make a file there"),
    );
    let server = array.serve(&[]);
    let uuid = server.status().uuid;
    check(
        &["scrub", &m0, &m1, &m2],
        &format!(
            "{m0}: is in use (by process {}, striate); stop that program first, or choose another device",
            server.pid()
        ),
    );
    check(
        &["replace", "plain", "1", &m2],
        &format!("{m2}: is the member of slot 2 of plain: give a device that is in no array"),
    );
    server.fail(1);
    check(
        &["replace", "plain", "1", &short],
        &format!(
            "{short}: has 4194304 bytes, and a member of this array needs {}: give a larger device",
            needed(&lab, &m0)
        ),
    );
    server.stop();
    // A member is identified by its array, its UUID and its date.
    let refused = lab.striate_refuses(&["create", "other", "--level", "5", &blank, &m1, &m0]);
    let holds = format!(
        "striate: {m1}: holds the member of slot 1 of the Striate array plain (UUID {uuid}, created 20"
    );
    assert!(refused.starts_with(&holds), "{refused}");
    assert!(refused.ends_with("): give --force to overwrite it, or another device\n"), "{refused}");
}

/// The size that a member of this array must have: up to the end of its data.
fn needed(lab: &Lab, member: &str) -> u64 {
    let text = lab.striate_ok(&["detail", "--json", member]);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let number = |field: &str| {
        json["members"][0]["superblock"][field].as_u64().unwrap_or_else(|| panic!("{field}: {text}"))
    };
    // Two data members hold the content that hosts see.
    number("data_offset_bytes") + number("size_bytes") / 2
}
