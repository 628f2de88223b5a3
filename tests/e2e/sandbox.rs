//! The rights that a server keeps once it serves.
//!
//! Oracle: the kernel, which lists in /proc for each thread its capabilities and whether its system calls are
//! filtered; and the answer to an operator's command with a file out of the server's reach.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use engine::status::MemberState;

use crate::content::pattern;
use crate::lab::{Lab, Server, Shape};
use crate::nbd_client::NbdClient;

const SHAPE: Shape = Shape { member_mib: 24, ..Shape::RAID5 };

const NONE: &str = "0000000000000000";
/// CHOWN, DAC_OVERRIDE, IPC_LOCK, SYS_ADMIN and SYS_RESOURCE, from linux/capability.h.
const START: u64 = 1 << 0 | 1 << 1 | 1 << 14 | 1 << 21 | 1 << 24;

/// The lines of a thread's status in /proc, by name.
type Status = BTreeMap<String, String>;

/// Every thread of a server, with its name.
fn threads(server: &Server) -> Vec<(String, Status)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("it runs");
    let of = |task: &Path| {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let text = fs::read_to_string(task.join("status")).ok()?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let status = lines.map(|(name, value)| (name.into(), value.trim().into())).collect();
        Some((name.trim().to_string(), status))
    };
    // A thread that ends while we look does not matter.
    tasks.filter_map(|task| of(&task.expect("a directory").path())).collect()
}

/// With members in files and NBD, no thread keeps any capability, whichever user starts the server; and every
/// thread has a filter.
#[test]
fn every_thread_of_a_server_is_confined() {
    let lab = Lab::new();
    let array = lab.create("confined", SHAPE);
    let server = array.serve(&["--reactors", "2", "--nbd", "127.0.0.1:0"]);
    let mut client = server.connect();
    let data = pattern(1, 0, 1 << 20);
    client.write(0, &data);
    let threads = threads(&server);
    for name in
        ["striate", "log", "signals", "reactor-0", "reactor-1", "nbd-listen", "notices", "visits", "control"]
    {
        assert!(threads.iter().any(|(other, _)| other == name), "{name} is missing: {threads:?}");
    }
    let is_root = rustix::process::geteuid().is_root();
    for (name, status) in &threads {
        // The kernel's worker threads make no system calls.
        if name.starts_with("iou-") {
            continue;
        }
        let of = |field: &str| status.get(field).map_or("", String::as_str);
        assert_eq!(of("NoNewPrivs"), "1", "{name}");
        assert_eq!(of("Seccomp"), "2", "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(of(set), NONE, "{set} of {name}");
        }
        if is_root {
            assert_eq!(of("CapBnd"), NONE, "{name}");
        }
    }
    let log = server.log();
    assert!(!log.contains("Landlock") && !log.contains("seccomp") && !log.contains("capabilities"), "{log}");
    assert_eq!(client.read(0, data.len()), data);
    drop(client);
    server.terminate();
}

/// The server can reach the directories of its members, so a file beside a member may replace one. Files
/// elsewhere need `--allow-path`.
#[test]
fn a_replacement_out_of_reach_is_refused_with_what_to_do() {
    let lab = Lab::new();
    let array = lab.create("reach", SHAPE);
    // Files below the directory of a member are in reach, so this one is in another laboratory.
    let elsewhere = Lab::new();
    let spare = elsewhere.file("spare", 24 << 20);
    let spare_text = spare.to_str().expect("UTF-8");
    {
        let server = array.serve(&[]);
        server.fail(1);
        let refused = lab.striate_refuses(&["replace", "reach", "1", spare_text]);
        assert!(refused.contains(spare_text) && refused.contains("--allow-path"), "{refused}");
        assert_eq!(server.slot_state(1), MemberState::Failed);
        server.replace(1, &lab.file("beside", 24 << 20));
        server.wait();
        server.terminate();
    }
    let members = [&array.members[..1], &[lab.path("beside")], &array.members[2..]].concat();
    let allowed = elsewhere.path("");
    let server = array.serve_members(&members, &["--allow-path", allowed.to_str().expect("UTF-8")]);
    server.fail(1);
    server.replace(1, &spare);
    server.wait();
    assert_eq!(server.slot_state(1), MemberState::InSync);
    server.terminate();
}

#[test]
fn a_place_of_replacements_that_is_not_there_is_refused() {
    let lab = Lab::new();
    let array = lab.create("nowhere", SHAPE);
    let mut words = vec!["serve", "--allow-path", "/no/such/place"];
    words.extend(array.members.iter().map(|member| member.to_str().expect("UTF-8")));
    assert!(lab.striate_refuses(&words).contains("--allow-path /no/such/place"));
}

/// With `--no-sandbox` the server keeps what a start needs, and no more.
#[test]
fn the_sandbox_can_be_switched_off() {
    let lab = Lab::new();
    let array = lab.create("open", SHAPE);
    let elsewhere = Lab::new();
    let server = array.serve(&["--no-sandbox"]);
    for (name, status) in threads(&server) {
        let of = |field: &str| status.get(field).map_or("", String::as_str);
        assert_eq!((of("NoNewPrivs"), of("Seccomp")), ("1", "0"), "{name}");
        let kept = u64::from_str_radix(of("CapEff"), 16).expect("a set");
        assert_eq!(kept & !START, 0, "{name}");
    }
    server.fail(1);
    server.replace(1, &elsewhere.file("spare", 24 << 20));
    server.wait();
    server.terminate();
}

/// The sockets of NBD are made before the sandbox and removed inside it, whatever path was given for them.
#[test]
fn sockets_are_removed_at_the_end() {
    let lab = Lab::new();
    let array = lab.create("socket", SHAPE);
    fs::create_dir(lab.path("sockets")).expect("a directory");
    let second = lab.path("sockets/nbd");
    let server = array.serve(&["--nbd", &format!("unix:{}", second.display())]);
    let first = server.socket.clone();
    assert!(NbdClient::connect(&second, "").is_ok());
    assert!(first.exists() && second.exists());
    server.terminate();
    assert!(!first.exists() && !second.exists(), "a socket is left");
    assert!(!lab.path("run/socket.sock").exists(), "the control socket is left");
}
