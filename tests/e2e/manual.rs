//! The commands of docs/operating.md and the session of README.md, on files.
//!
//! Method for the manual: the lines of its code blocks that begin with `striate` are run in their order, as
//! they are, with a file for each path in /dev, and with the members instead of a name that would be searched
//! for on block devices. The test performs between them what the manual says in prose: a member fails, the
//! service is stopped, drives become larger. Oracle: each command succeeds, the prose's promises hold (the
//! array is optimal, larger, and its parity matches), and what a host wrote is read back.
//!
//! Method for the README: bash runs the lines of its session as they are printed, in an empty directory, with
//! the built program first in PATH. Oracle: each line succeeds, the session prints what its comments promise,
//! and another server of the same members returns the data that the session has copied in.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use engine::status::Health;

use crate::content::pattern;
use crate::lab::{Lab, Server, succeeded, timed};

const MEMBER_MIB: u64 = 24;

/// The commands of the code blocks, without comments and without the programs that they are piped into.
fn commands() -> Vec<Vec<String>> {
    let blocks = include_str!("../../docs/operating.md").split("\n```").skip(1).step_by(2);
    let lines = blocks.flat_map(|block| block.lines().skip(1));
    let line = |line: &str| {
        let line = line.trim_start_matches("$ ").split(" #").next().unwrap_or_default();
        let line = line.split(" | ").next().unwrap_or_default();
        line.split_whitespace().map(str::to_string).collect::<Vec<_>>()
    };
    lines.map(line).filter(|words| words.first().is_some_and(|word| word == "striate")).collect()
}

/// The file that stands for a device.
fn file_of(lab: &Lab, device: &str) -> PathBuf {
    lab.path(device.trim_start_matches("/dev/"))
}

fn lengthen(members: &[PathBuf]) {
    for member in members {
        let open = OpenOptions::new().write(true).open(member).expect("a member");
        open.set_len(MEMBER_MIB << 21).expect("a sparse file");
    }
}

#[test]
fn the_manual_is_played() {
    let lab = Lab::new();
    let (mut members, data) = (Vec::<PathBuf>::new(), pattern(1, 0, 4 << 20));
    let mut server: Option<Server<'_>> = None;
    let mut played = Vec::new();
    for words in commands() {
        let typed: Vec<String> = words[1..].to_vec();
        let verb = typed[0].clone();
        played.push(verb.clone());
        // Replaces a name that is searched for, and paths of devices.
        let is_served = server.is_some();
        let on_files = |members: &[PathBuf]| -> Vec<String> {
            let path = |path: &Path| path.to_string_lossy().into_owned();
            let is_searched = matches!(verb.as_str(), "scrub" | "grow") || verb == "detail" && !is_served;
            let word = |word: &String| match word.as_str() {
                "media" if is_searched => members.iter().map(|member| path(member)).collect(),
                device if device.starts_with("/dev/") => vec![path(&file_of(&lab, device))],
                _ => vec![word.clone()],
            };
            typed.iter().flat_map(word).collect()
        };
        match verb.as_str() {
            "create" => {
                let devices = typed.iter().filter(|word| word.starts_with("/dev/"));
                members = devices
                    .map(|device| lab.file(device.trim_start_matches("/dev/"), MEMBER_MIB << 20))
                    .collect();
                lab.striate_ok(&on_files(&members));
            }
            // Tested by tls.rs with its certificates, and by psk.rs with its keys.
            "serve" if typed.iter().any(|word| word == "--nbd-tls") => {}
            "serve" => {
                let started = Server::start(&lab, "media", &members, &[]);
                started.connect().write(0, &data);
                server = Some(started);
            }
            "replace" => {
                let slot: usize = typed[2].parse().expect("a slot");
                server.as_ref().expect("it is served").fail(slot);
                members[slot] = lab.file(typed[3].trim_start_matches("/dev/"), MEMBER_MIB << 20);
                lab.striate_ok(&on_files(&members));
            }
            "wait" => {
                lab.striate_ok(&on_files(&members));
                assert_eq!(server.as_ref().expect("it is served").status().health, Health::Optimal);
            }
            "grow" => {
                // `systemctl stop` is a signal, and `systemctl start` serves again.
                server.take().expect("it is served").terminate();
                lengthen(&members);
                let said = lab.striate_ok(&on_files(&members));
                assert!(said.starts_with("grown: media: from "), "{said}");
                server = Some(Server::start(&lab, "media", &members, &[]));
            }
            "stop" => {
                let served = server.take().expect("it is served");
                assert!(served.connect().read(0, data.len()) == data, "the data has changed");
                lab.striate_ok(&on_files(&members));
                served.ended();
            }
            "scrub" => {
                let said = lab.striate_ok(&on_files(&members));
                assert!(said.ends_with("every parity matches\n"), "{said}");
            }
            "status" | "detail" => {
                let said = lab.striate_ok(&on_files(&members));
                assert!(
                    said.starts_with(if typed.contains(&"--json".to_string()) { "{" } else { "NAME " }),
                    "{said}"
                );
            }
            other => panic!("the manual has a new command, {other}: play it here"),
        }
    }
    for verb in ["create", "serve", "status", "replace", "wait", "grow", "stop", "scrub"] {
        assert!(played.iter().any(|one| one == verb), "the manual does not say how to {verb}: {played:?}");
    }
}

/// The lines of the README's session: its only code block that sets a run directory.
fn session() -> Vec<&'static str> {
    let mut blocks = include_str!("../../README.md").split("\n```").skip(1).step_by(2);
    let block = blocks.find(|block| block.starts_with("sh\nexport STRIATE_RUN_DIR="));
    block.expect("the README has a session").lines().skip(1).collect()
}

/// A pasted session goes on after a line that fails, and its scrub would succeed nevertheless. Here it ends
/// with the number of the first line that fails.
#[test]
fn the_session_of_the_readme_is_run_as_printed() {
    let lab = Lab::new();
    let directory = lab.path("session");
    fs::create_dir(&directory).expect("a directory for the session");
    let lines = session();
    // The end of the shell ends a server that a failed session leaves.
    let mut script = "trap 'kill $(jobs -p) 2>/dev/null' EXIT\n".to_string();
    for (number, line) in (1..).zip(&lines) {
        script += &format!("{line}\n[ $? = 0 ] || exit {number}\n");
    }
    let program = Path::new(env!("CARGO_BIN_EXE_striate")).parent().expect("a directory");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = timed("bash");
    command.args(["-c", &script]).current_dir(&directory).env("PATH", path).env_remove("STRIATE_RUN_DIR");
    let output = command.output().expect("bash runs");
    let said = succeeded(&format!("the README's session (the exit status is its line):\n{script}"), &output);
    assert!(said.lines().any(|line| line.starts_with("ready: media nbd unix:")), "{said}");
    assert!(said.ends_with("every parity matches\n"), "{said}");
    for promised in ["ready: media nbd unix:", "every parity matches"] {
        let is_printed =
            |line: &&&str| line.split_once("# ").is_some_and(|(_, says)| says.starts_with(promised));
        assert!(lines.iter().any(|line| is_printed(&line)), "the README does not say {promised:?}");
    }

    let members = ["m0", "m1", "m5", "m3", "m4"].map(|name| directory.join(name));
    let server = Server::start(&lab, "media", &members, &[]);
    let data = fs::read(directory.join("data")).expect("the data of the session");
    assert_eq!(data.len(), 16 << 20, "the session copies 16 MiB");
    let mut client = server.connect();
    for at in (0..data.len()).step_by(1 << 20) {
        assert!(client.read(at as u64, 1 << 20) == data[at..at + (1 << 20)], "the data differs at {at}");
    }
}
