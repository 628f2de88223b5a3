//! Commands that messages recommend work as they are printed.
//!
//! Method: each check brings an array of files into the state in which a message is printed, takes the
//! command from the message, and gives it to a shell, unchanged except for words in capitals that stand for
//! something of the operator's (`DEVICE`, `NAME`). Oracle: the command succeeds, the problem is gone, and
//! what a host wrote before reads back. The run directory is not the default one, so the command must name it
//! to work. [`TRIED`] lists which check tries which message, and [`NOT_TRIED`] the messages with a command
//! that have no check, and why; together they are all messages with a command in tests/messages/all.txt.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Output;

use engine::status::{Health, MemberState};

use crate::content::pattern;
use crate::lab::{Array, Backing, Lab, Server, Shape, run, succeeded, timed};

const SMALL: Shape = Shape { member_mib: 24, ..Shape::RAID5 };
const SMALL6: Shape = Shape { member_mib: 24, ..Shape::RAID6 };
/// Large enough that a rebuild or a resync lasts while commands run.
const LARGE6: Shape = Shape { member_mib: 512, init: "assume-clean", ..Shape::RAID6 };

/// A piece of each message that is tried, and the check that tries it.
const TRIED: &[(&str, fn())] = &[
    ("to fill it anew: `striate replace", a_member_that_comes_back),
    ("to fill the slot: `striate replace", a_member_fails),
    ("to fill the slot with it again: `striate replace", a_replaced_member_takes_its_slot_again),
    ("and this server keeps it until it ends", a_member_that_failed_is_given_again),
    ("to take it out of service: `striate fail", a_slot_is_in_use),
    ("first: `striate replace", a_member_cannot_be_spared),
    ("wait for the rebuild (`striate wait", a_member_cannot_be_spared_during_a_rebuild),
    ("is being rebuilt: wait for it (`striate wait {name}`)", one_rebuild_at_a_time),
    ("shows progress", one_rebuild_at_a_time),
    ("wait for it (`striate wait {name}`), then fail slot", a_member_cannot_be_spared_during_a_resync),
    ("the members ran apart", halves_that_ran_apart),
    ("every member is longer", members_that_are_longer),
    ("lists them", lost_data),
    ("could not be made to match", lost_data),
    ("clear away its sockets", a_dead_server),
    ("says how to clear away what it left", a_dead_server),
    ("see `striate status`", names_that_mean_nothing),
    ("see `striate detail", names_that_mean_nothing),
    ("`striate detail NAME` shows it", a_uuid),
];

/// A piece of each message that is not tried, and the reason.
const NOT_TRIED: &[(&str, &str)] = &[
    (
        "does not let this server see requests",
        "only a version before this one leaves such a device, on Linux 6.12",
    ),
    ("which fails its I/O", "needs ublk: tests/guest gives devices up by these words"),
    ("which fails that I/O", "needs ublk, as above"),
    (
        "slot {0} is in use: to take its member out",
        "a race of two replacements; the command is that of `a_slot_is_in_use`",
    ),
    (
        "the array has failed: `striate detail",
        "takes two members that fail; `names_that_mean_nothing` tries `detail`",
    ),
    ("the list of lost rows is full", "takes 768 places that cannot be read"),
    ("meets more that is lost than can be listed", "as above"),
    ("rebuild has stood still at stripe", "takes members that cannot be read for a minute"),
    ("they could not be resynced so far: replace", "takes members that cannot be read, or have no room"),
    ("`striate {}` failed", "of the demo: what it ran, no advice"),
    ("`striate status --json` is", "of the demo, as above"),
];

/// The commands in a text that begin with the program's name.
fn commands(text: &str) -> Vec<String> {
    let codes = text.split('`').skip(1).step_by(2);
    codes.filter(|code| code.starts_with("striate ")).map(str::to_string).collect()
}

/// The command for `verb` in the last line that contains `part`.
#[track_caller]
fn recommended(lab: &Lab, text: &str, part: &str, verb: &str) -> String {
    let line = text.lines().rev().find(|line| line.contains(part));
    let line = line.unwrap_or_else(|| panic!("no line with {part:?} in:\n{text}"));
    let head = format!("striate --run-dir {} {verb}", lab.path("run").display());
    let found = commands(line).into_iter().find(|command| command.starts_with(&head));
    found.unwrap_or_else(|| panic!("no `{head}` in: {line}"))
}

/// Has a shell run a command as it is printed, in an unrelated directory and without the environment of these
/// checks.
fn typed(command: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_striate"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().expect("a directory").display());
    let mut shell = timed("sh");
    shell.args(["-c", command]).current_dir("/").env("PATH", path).env_remove("STRIATE_RUN_DIR");
    shell.output().expect("a shell")
}

#[track_caller]
fn typed_ok(command: &str) -> String {
    succeeded(command, &typed(command))
}

/// An array, and the data that a host has written to it.
struct Stage<'a> {
    array: Array<'a>,
    data: Vec<u8>,
}

impl<'a> Stage<'a> {
    fn new(lab: &'a Lab, shape: Shape) -> Self {
        Stage { array: lab.create("advised", shape), data: pattern(1, 0, 4 << 20) }
    }

    #[track_caller]
    fn serve(&self) -> Server<'_> {
        self.array.serve(&["--reactors", "1"])
    }

    /// Serves the array for the first time, and writes.
    #[track_caller]
    fn begin(&self) -> Server<'_> {
        let server = self.serve();
        server.connect().write(0, &self.data);
        server
    }

    /// Checks that the problem is gone, and ends the server.
    #[track_caller]
    fn is_well(&self, server: Server<'_>) {
        self.is_served_well(server);
        self.array.scrub_is_clean("after the advice");
    }

    #[track_caller]
    fn is_served_well(&self, server: Server<'_>) {
        server.wait();
        assert_eq!(server.status().health, Health::Optimal);
        assert!(server.connect().read(0, self.data.len()) == self.data, "the data has changed");
        server.stop();
    }
}

/// A member is out of service while the array is written, and is present again at the next start, under a
/// path that a shell would split.
#[test]
fn a_member_that_comes_back() {
    let lab = Lab::new();
    let mut stage = Stage::new(&lab, SMALL);
    let (odd, plain) = (lab.path("it's a member"), stage.array.members[1].clone());
    std::fs::rename(&plain, &odd).expect("renamed");
    stage.array.members[1] = odd;
    let server = stage.serve();
    server.fail(1);
    server.connect().write(0, &stage.data);
    server.stop();
    let server = stage.serve();
    let command = recommended(&lab, &server.log(), "left out of slot 1", "replace");
    typed_ok(&command);
    stage.is_well(server);
}

/// A drive is absent and returns, and drives are found by the name of the array. A drive that another program
/// holds is refused.
#[test]
#[ignore = "needs root for loop devices"]
fn a_drive_that_comes_back() {
    let lab = Lab::new();
    let name = format!("back-{}", std::process::id());
    let array = lab.create(&name, Shape { backing: Backing::Loop, ..SMALL });
    let by_name = || Server::start(&lab, &name, &[PathBuf::from(&name)], &["--wait", "1"]);
    let (away, file) = (array.members[1].clone(), lab.path(&format!("{name}.1")));
    let losetup = |args: &[&OsStr]| succeeded("losetup", &run("losetup", args));
    by_name().stop();
    losetup(&["--detach".as_ref(), away.as_ref()]);
    let server = by_name();
    let data = pattern(1, 0, 4 << 20);
    server.connect().write(0, &data);
    server.stop();
    losetup(&["--direct-io=on".as_ref(), away.as_ref(), file.as_ref()]);
    let server = by_name();
    let command =
        recommended(&lab, &server.log(), &format!("{}: left out of slot 1", away.display()), "replace");
    let taken = rustix::fs::open(
        &away,
        // CLOEXEC, so that the servers that other tests start meanwhile do not inherit it.
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::EXCL | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .expect("a server does not hold what it has left out");
    let refused = String::from_utf8_lossy(&typed(&command).stderr).into_owned();
    // The server has no right to see the files of other processes; a command run by root has.
    assert!(refused.contains("is in use (by another program"), "{refused}");
    let scrub = ["scrub".as_ref(), away.as_os_str()];
    let refused = lab.striate_refuses(&scrub);
    assert!(refused.contains(&format!("is in use (by process {}, ", std::process::id())), "{refused}");
    drop(taken);
    typed_ok(&command);
    server.wait();
    assert_eq!(server.status().health, Health::Optimal);
    assert!(server.connect().read(0, data.len()) == data, "the data has changed");
    server.stop();
    array.scrub_is_clean("after the advice");
}

/// A member fails, and its slot is filled by another device.
#[test]
fn a_member_fails() {
    let lab = Lab::new();
    let mut stage = Stage::new(&lab, SMALL);
    let server = stage.begin();
    server.fail(2);
    let fresh = lab.member("fresh", &SMALL);
    let command = recommended(&lab, &until_logged(&server, "member_failed"), "slot 2", "replace");
    typed_ok(&command.replace("DEVICE", &fresh.to_string_lossy()));
    server.wait();
    assert_eq!(server.slot_state(2), MemberState::InSync);
    server.stop();
    stage.array.members[2] = fresh;
    // Here a slot is empty from the start on.
    let without: Vec<PathBuf> = stage.array.members[1..].to_vec();
    let server = stage.array.serve_members(&without, &[]);
    let log = until_logged(&server, "member_missing");
    let command = recommended(&lab, &log, "slot 0: its member is missing", "replace");
    let fresh = lab.member("fresh too", &SMALL);
    typed_ok(&command.replace("DEVICE", &format!("'{}'", fresh.display())));
    server.wait();
    assert_eq!(server.slot_state(0), MemberState::InSync);
    server.stop();
}

/// The device that has replaced another is missing, and the replaced one is present.
#[test]
fn a_replaced_member_takes_its_slot_again() {
    let lab = Lab::new();
    let stage = Stage::new(&lab, SMALL);
    let server = stage.begin();
    server.fail(2);
    server.replace(2, &lab.member("fresh", &SMALL));
    server.wait();
    server.stop();
    let server = stage.serve();
    let command = recommended(&lab, &server.log(), "it was replaced in slot 2", "replace");
    typed_ok(&command);
    stage.is_well(server);
}

/// A failed member is given again to the server that still has it.
#[test]
fn a_member_that_failed_is_given_again() {
    let lab = Lab::new();
    let stage = Stage::new(&lab, SMALL);
    let server = stage.begin();
    server.fail(2);
    let path = stage.array.members[2].to_string_lossy().into_owned();
    let refused = lab.striate_refuses(&["replace", "advised", "2", &path, "--force"]);
    let command = recommended(&lab, &refused, "this server keeps it until it ends", "replace");
    server.stop();
    let server = stage.serve();
    typed_ok(&command);
    stage.is_well(server);
}

#[test]
fn a_slot_is_in_use() {
    let lab = Lab::new();
    let mut stage = Stage::new(&lab, SMALL);
    let server = stage.begin();
    let fresh = lab.member("fresh", &SMALL);
    let replace = ["replace", "advised", "3", fresh.to_str().expect("text")];
    let refused = lab.striate_refuses(&replace);
    typed_ok(&recommended(&lab, &refused, "slot 3 is in use by", "fail"));
    lab.striate_ok(&replace);
    server.wait();
    // No advice is given that would be refused.
    server.fail(0);
    let other = lab.member("other", &SMALL);
    let refused = lab.striate_refuses(&["replace", "advised", "2", other.to_str().expect("text")]);
    assert!(
        refused.contains("cannot be spared: slot 0 is not in sync") && commands(&refused).is_empty(),
        "{refused}"
    );
    server.replace(0, &other);
    stage.is_served_well(server);
    (stage.array.members[0], stage.array.members[3]) = (other, fresh);
    stage.array.scrub_is_clean("after the advice");
}

#[test]
fn a_member_cannot_be_spared() {
    let lab = Lab::new();
    let mut stage = Stage::new(&lab, SMALL);
    let server = stage.begin();
    server.fail(0);
    let refused = lab.striate_refuses(&["fail", "advised", "1"]);
    let command = recommended(&lab, &refused, "slot 1 cannot be spared", "replace");
    let fresh = lab.member("fresh", &SMALL);
    typed_ok(&command.replace("DEVICE", &fresh.to_string_lossy()));
    server.wait();
    lab.striate_ok(&["fail", "advised", "1"]);
    let last = lab.member("last", &SMALL);
    lab.striate_ok(&["replace", "advised", "1", last.to_str().expect("text")]);
    stage.is_served_well(server);
    stage.array.members.splice(..2, [fresh, last]);
    stage.array.scrub_is_clean("after the advice");
}

#[test]
fn a_member_cannot_be_spared_during_a_rebuild() {
    let lab = Lab::new();
    let shape = Shape { level: 5, ..LARGE6 };
    let stage = Stage::new(&lab, shape);
    let server = stage.begin();
    server.fail(0);
    server.replace(0, &lab.member("fresh", &shape));
    let refused = lab.striate_refuses(&["fail", "advised", "1"]);
    typed_ok(&recommended(&lab, &refused, "slot 1 cannot be spared", "wait"));
    server.fail(1);
    assert!(server.connect().read(0, stage.data.len()) == stage.data, "the data has changed");
    server.stop();
}

/// Two members are lost, and one of them is being replaced.
#[test]
fn one_rebuild_at_a_time() {
    let lab = Lab::new();
    let stage = Stage::new(&lab, LARGE6);
    let server = stage.begin();
    server.fail(0);
    server.fail(1);
    let [first, second] = ["first", "second"].map(|name| lab.member(name, &LARGE6));
    let replace = |slot: &str, path: &Path| {
        lab.striate(&["replace".as_ref(), "advised".as_ref(), OsStr::new(slot), path.as_os_str()])
    };
    let begun = succeeded("replace", &replace("0", &first));
    let shows = recommended(&lab, &begun, "rebuilding: advised", "wait");
    let refused = String::from_utf8_lossy(&replace("1", &second).stderr).into_owned();
    typed_ok(&recommended(&lab, &refused, "is being rebuilt", "wait"));
    succeeded("replace", &replace("1", &second));
    typed_ok(&shows);
    assert_eq!(server.status().health, Health::Optimal);
    assert!(server.connect().read(0, stage.data.len()) == stage.data, "the data has changed");
    server.stop();
}

#[test]
fn a_member_cannot_be_spared_during_a_resync() {
    let lab = Lab::new();
    let stage = Stage::new(&lab, Shape { level: 5, init: "sync", ..LARGE6 });
    let server = stage.begin();
    let refused = lab.striate_refuses(&["fail", "advised", "1"]);
    typed_ok(&recommended(&lab, &refused, "still to be resynced", "wait"));
    server.fail(1);
    assert!(server.connect().read(0, stage.data.len()) == stage.data, "the data has changed");
    server.stop();
}

/// Each half of a RAID-6 of four was served without the other.
#[test]
fn halves_that_ran_apart() {
    let lab = Lab::new();
    let stage = Stage::new(&lab, Shape { members: 4, ..SMALL6 });
    let members = &stage.array.members;
    stage.begin().stop();
    for half in [&members[..2], &members[2..]] {
        let server = stage.array.serve_members(half, &["--run-degraded"]);
        server.connect().write(0, &stage.data);
        server.stop();
    }
    let args = |members: &[PathBuf]| -> Vec<String> {
        std::iter::once("serve".into()).chain(members.iter().map(|one| one.display().to_string())).collect()
    };
    let refused = lab.striate_refuses(&args(members));
    let offered = commands(&refused);
    assert_eq!(offered.len(), 2, "{refused}");
    // The first half is kept: the command for a member of the other half is the right one.
    let server = stage.array.serve_members(&members[..2], &["--run-degraded"]);
    let of_other = |member: &PathBuf| offered.iter().find(|one| one.contains(&*member.to_string_lossy()));
    let (slot, command) =
        (2..4).find_map(|slot| Some((slot, of_other(&members[slot])?))).expect("one of them");
    typed_ok(command);
    server.wait();
    assert_eq!(server.slot_state(slot), MemberState::InSync);
    let left = 5 - slot;
    let path = members[left].to_string_lossy();
    lab.striate_ok(&["replace", "advised", &left.to_string(), &path, "--force"]);
    stage.is_well(server);
}

#[test]
fn members_that_are_longer() {
    let lab = Lab::new();
    let stage = Stage::new(&lab, SMALL);
    stage.begin().stop();
    for member in &stage.array.members {
        OpenOptions::new().write(true).open(member).and_then(|file| file.set_len(32 << 20)).expect("longer");
    }
    let server = stage.serve();
    let before = server.status().size_bytes;
    let command = recommended(&lab, &server.log(), "every member is longer", "grow");
    server.stop();
    typed_ok(&command);
    let server = stage.serve();
    assert!(server.status().size_bytes > before);
    stage.is_well(server);
}

/// The server of a degraded array is killed under load.
#[test]
fn lost_data() {
    let lab = Lab::new();
    let stage = Stage::new(&lab, SMALL);
    let server = stage.begin();
    server.fail(2);
    let mut client = server.connect();
    (0..64).for_each(|turn| client.write(turn * (128 << 10), &pattern(2, 0, 4096)));
    server.kill();
    let server = stage.serve();
    let command = recommended(&lab, &until_logged(&server, "data_lost"), "data was lost", "lost");
    // `lost` with a list means a problem, so its exit code is 1.
    let (listed, pieces) = pieces(&command);
    assert_eq!(listed.status.code(), Some(1));
    assert!(!pieces.is_empty());
    let command =
        recommended(&lab, &until_logged(&server, "resync_ended"), "could not be made to match", "detail");
    assert!(typed_ok(&command).contains("need sync"));
    // A rebuild makes the loss final, and `wait` reports it.
    server.replace(2, &lab.member("fresh", &SMALL));
    let waited = lab.striate(&["wait", "advised"]);
    assert_eq!(waited.status.code(), Some(1), "rows are lost, however quick the rebuild was");
    let said = String::from_utf8_lossy(&waited.stdout).into_owned();
    let command = recommended(&lab, &said, "could not be computed", "lost");
    let (_, pieces) = self::pieces(&command);
    let mut client = server.connect();
    let block = u64::from(server.status().logical_block_bytes);
    pieces.iter().for_each(|(at, len)| client.write(at * block, &pattern(3, 0, (len * block) as usize)));
    assert_eq!(server.status().lost_bytes, 0);
    typed_ok(&command);
    drop(client);
    server.stop();
}

/// The output of `striate lost`: first block and number of blocks of each piece.
fn pieces(command: &str) -> (Output, Vec<(u64, u64)>) {
    let output = typed(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let piece = |line: &str| {
        let (at, len) = line.split_once(|c: char| c.is_whitespace()).expect("two numbers");
        (at.trim().parse().expect("a block"), len.trim().parse().expect("a count"))
    };
    let pieces = lines.map(piece).collect();
    (output, pieces)
}

#[test]
fn a_dead_server() {
    let lab = Lab::new();
    let stage = Stage::new(&lab, SMALL);
    stage.begin().kill();
    let told = String::from_utf8_lossy(&lab.striate(&["status"]).stderr).into_owned();
    let how = typed(&recommended(&lab, &told, "server gone: advised", "stop"));
    let how = String::from_utf8_lossy(&how.stderr).into_owned();
    typed_ok(&recommended(&lab, &how, "clear away its sockets", "stop"));
    assert_eq!(lab.striate_ok(&["status"]), "no array is served\n");
    stage.is_well(stage.serve());
}

/// Recommended commands that only look: they succeed, and show the state.
#[test]
fn names_that_mean_nothing() {
    let lab = Lab::new();
    let stage = Stage::new(&lab, SMALL);
    let server = stage.begin();
    let serve: Vec<&OsStr> = std::iter::once("serve".as_ref())
        .chain(stage.array.members.iter().map(|member| member.as_os_str()))
        .collect();
    for (refused, part, verb) in [
        (lab.striate_refuses(&["stop", "advise"]), "not served", "status"),
        (lab.striate_refuses(&["detail", "advise"]), "neither served nor a file", "status"),
        (lab.striate_refuses(&["fail", "advised", "./none"]), "no member", "detail"),
        (lab.striate_refuses(&serve), "already served", "status"),
    ] {
        let shown = typed_ok(&recommended(&lab, &refused, part, verb));
        assert!(shown.contains("advised") && shown.contains("optimal"), "{verb}: {shown}");
    }
    let refused = lab.striate_refuses(&serve);
    typed_ok(&recommended(&lab, &refused, "already served", "stop"));
    server.ended();
    stage.is_well(stage.serve());
}

#[test]
fn a_uuid() {
    let lab = Lab::new();
    let stage = Stage::new(&lab, SMALL);
    let server = stage.begin();
    let refused = lab.striate_refuses(&["serve", "advised", "--uuid", "1"]);
    // Usage errors come from clap, which knows no run directory.
    let command = commands(&refused).pop().unwrap_or_else(|| panic!("{refused}"));
    let shown = lab.striate_ok(&command.replace("NAME", "advised").split(' ').skip(1).collect::<Vec<_>>());
    assert!(shown.contains(&server.status().uuid), "{shown}");
    server.stop();
}

/// The log, as soon as it has a notice of this kind.
#[track_caller]
fn until_logged(server: &Server<'_>, kind: &str) -> String {
    let began = std::time::Instant::now();
    loop {
        let log = server.log();
        if log.contains(&format!("kind=\"{kind}\"")) {
            return log;
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{kind}: {log}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn every_command_in_a_message_is_tried() {
    let list = include_str!("../messages/all.txt");
    let messages: Vec<&str> = list.lines().filter(|line| line.contains("`striate ")).collect();
    let known = || TRIED.iter().map(|(part, _)| *part).chain(NOT_TRIED.iter().map(|(part, _)| *part));
    for message in &messages {
        assert!(known().any(|part| message.contains(part)), "neither tried nor excused: {}", message.trim());
    }
    for part in known() {
        assert!(messages.iter().any(|message| message.contains(part)), "no message any more: {part}");
    }
}
