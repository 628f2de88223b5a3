//! A member file on a file system that does not answer: `fsfreeze` blocks every write to it in the kernel for
//! as long as the test wants, while files on other file systems work.
//!
//! Method: one member of four is on a file system of its own, which is frozen under load. Oracle: every
//! request that was in flight, and a flush after it, is answered soon after the member timeout; other stripes
//! are served; `stop` returns. After the thaw the content is what was acknowledged, and a scrub finds
//! nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::status::{Health, MemberState};

use crate::content::{assert_same, pattern};
use crate::lab::{Array, Lab, Server, Shape, create_args, run, succeeded};
use crate::nbd_client::Command;

const SHAPE: Shape = Shape { members: 4, member_mib: 24, ..Shape::RAID5 };
const SLOT: usize = 2;
const TIMEOUT_S: u64 = 2;
/// Longest time to an answer once the file system is frozen: the member timeout, a second, and seven more for
/// a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(TIMEOUT_S + 1 + 7);

/// Longest time of a stop then: the reactors have eight seconds to end.
const STOP_MAX: Duration = Duration::from_secs(ANSWER_MAX.as_secs() + 8);

/// A frozen file system, which is thawed when the test ends, whatever the outcome.
struct Frozen(PathBuf);

impl Frozen {
    fn freeze(on: &Path) -> Frozen {
        succeeded("fsfreeze", &run("fsfreeze", &["--freeze".as_ref(), on.as_os_str()]));
        Frozen(on.to_path_buf())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _thawed = run("fsfreeze", &["--unfreeze".as_ref(), self.0.as_os_str()]);
    }
}

/// An array whose slot [`SLOT`] is on a file system of its own, and the mount point of that.
fn array(lab: &Lab) -> (Array<'_>, PathBuf) {
    let disk = lab.file("disk", 64 << 20);
    succeeded("mke2fs", &run("mke2fs", &["-q".as_ref(), "-F".as_ref(), disk.as_os_str()]));
    let on = lab.mount(&["-o", "loop"], &disk, "mounted");
    let mut members = lab.members("m", &SHAPE);
    members[SLOT] = on.join("member");
    fs::File::create(&members[SLOT])
        .and_then(|file| file.set_len(SHAPE.member_mib << 20))
        .expect("a sparse file");
    let mut args = create_args("cold", &SHAPE);
    args.extend(members.iter().map(|member| member.to_str().expect("UTF-8").to_string()));
    lab.striate_ok(&args);
    (Array { lab, name: "cold".to_string(), shape: SHAPE, members }, on)
}

/// Sends every command at once and waits for all answers; returns the time of the last answer.
fn all_answered(server: &Server, commands: &[Command]) -> Duration {
    let began = Instant::now();
    let mut client = server.connect();
    for command in commands {
        client.send(command).expect("the server lives");
    }
    for _ in commands {
        client.receive().expect("an answer").1.expect("no error");
    }
    began.elapsed()
}

#[test]
#[ignore = "needs root for mounts"]
fn a_frozen_file_system_under_one_member_stops_nothing() {
    // First the member file has all its blocks, then it gets them as it is written: the kernel's worker
    // threads do that.
    for written_before in [true, false] {
        let lab = Lab::new();
        let (array, on) = array(&lab);
        let server = array.serve(&["--member-timeout", &TIMEOUT_S.to_string(), "--reactors", "1"]);
        let bytes = 12 << 20;
        if written_before {
            server.connect().write(0, &pattern(1, 0, bytes));
        }
        let frozen = Frozen::freeze(&on);
        let data = pattern(2, 0, bytes);
        let writes: Vec<Command> = (0..bytes as u64)
            .step_by(64 << 10)
            .map(|offset| {
                let at = offset as usize;
                Command::Write { offset, data: data[at..at + (64 << 10)].to_vec(), fua: false }
            })
            .collect();
        let took = all_answered(&server, &writes);
        let flushed = all_answered(&server, &[Command::Flush]);
        println!("written before: {written_before}: writes {took:?}, then a flush {flushed:?}");
        assert!(took < ANSWER_MAX && flushed < ANSWER_MAX, "writes took {took:?}, a flush {flushed:?}");
        let status = server.status();
        assert_eq!((status.health, status.members[SLOT].state), (Health::NoRedundancy, MemberState::Failed));
        assert_same("while it is frozen", 0, &server.connect().read(0, bytes), &data);
        drop(frozen);
        server.stop();
        // The kernel has written to the member after the member had left; the rebuild overwrites that.
        let server = array.serve(&[]);
        assert_same("after a restart", 0, &server.connect().read(0, bytes), &data);
        let member = array.members[SLOT].to_str().expect("UTF-8");
        lab.striate_ok(&["replace", "cold", "2", member, "--force"]);
        server.wait();
        server.stop();
        array.scrub_is_clean("after the thaw");
    }
}

#[test]
#[ignore = "needs root for mounts"]
fn a_server_is_stopped_while_a_file_system_is_frozen() {
    let lab = Lab::new();
    let (array, on) = array(&lab);
    let server = array.serve(&["--member-timeout", &TIMEOUT_S.to_string(), "--reactors", "1"]);
    let frozen = Frozen::freeze(&on);
    let write = Command::Write { offset: 0, data: pattern(3, 0, 1 << 20), fua: false };
    assert!(all_answered(&server, &[write]) < ANSWER_MAX);
    let began = Instant::now();
    let stopped = lab.striate(&["stop", "cold"]);
    println!("stopped in {:?}", began.elapsed());
    assert!(began.elapsed() < STOP_MAX, "the stop took {:?}", began.elapsed());
    succeeded("stop", &stopped);
    // The operator and the log are told of this member, and of no other.
    let (told, log) = (String::from_utf8_lossy(&stopped.stderr), server.log());
    let said =
        format!("{}: does not answer, and the kernel keeps a request to it", array.members[SLOT].display());
    assert!(told.contains(&said) && told.lines().count() == 1, "{told}");
    assert!(log.contains(&said), "{log}");
    drop(frozen);
    server.ended();
}

/// A file on the frozen file system can be opened and read, but never flushed: the start proceeds without it,
/// as without a silent device.
#[test]
#[ignore = "needs root for mounts"]
fn a_start_does_not_wait_for_a_frozen_file_system() {
    let lab = Lab::new();
    let (array, on) = array(&lab);
    let frozen = Frozen::freeze(&on);
    let began = Instant::now();
    let server = array.serve(&["--member-timeout", "1"]);
    println!("served after {:?}", began.elapsed());
    let status = server.status();
    assert_eq!((status.health, status.members[SLOT].state), (Health::NoRedundancy, MemberState::Missing));
    let member = array.members[SLOT].to_str().expect("UTF-8");
    assert!(server.log().contains(&format!("{member}: does not answer")), "{}", server.log());
    drop(frozen);
    server.stop();
}
