//! A member file on a FUSE file system is refused, because a FUSE server may leave a request unanswered for
//! ever. While an open of such a file is unanswered, it delays neither `status` nor the end of the server.
//!
//! Method: a minimal FUSE server, just enough for a `stat` and an `open`, in a thread of the test
//! (linux/fuse.h, protocol 7.22). It shows one directory with one file of zeros. Oracle: `create` and
//! `replace` name the file and the file system, the other members keep every byte, and a running array
//! continues; a server with an unanswered open stops in time.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::status::Health;

use crate::content::fingerprint;
use crate::lab::{Lab, Shape, assert_root, create_args, run, succeeded, timed};

const SHAPE: Shape = Shape { members: 4, member_mib: 16, ..Shape::RAID5 };
const FILE_BYTES: u64 = 16 << 20;

const ROOT_NODE: u64 = 1;
const FILE_NODE: u64 = 2;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ENOSYS: i32 = 38;

/// The bytes of a `struct fuse_attr`.
fn attributes(node: u64) -> Vec<u8> {
    let (size, mode): (u64, u32) = if node == ROOT_NODE { (0, 0o40_755) } else { (FILE_BYTES, 0o100_644) };
    let mut bytes: Vec<u8> =
        [node, size, size / 512, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
    // Nanoseconds of three times, mode, links, user, group, device, block size, padding.
    bytes.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].into_iter().flat_map(u32::to_ne_bytes));
    bytes
}

/// The answer to a request of the kernel; `None` if it needs none.
fn answer(opcode: u32, node: u64) -> Option<Result<Vec<u8>, i32>> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    Some(Ok(match opcode {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        // Version, read-ahead, flags, background requests, longest write.
        INIT => words(&[7, 22, 0, 0, 0, 4096]),
        // Node, generation, and an hour for which the kernel need not ask for name and attributes again.
        LOOKUP => {
            [words(&[FILE_NODE as u32, 0, 1, 0, 3600, 0, 3600, 0, 0, 0]), attributes(FILE_NODE)].concat()
        }
        GETATTR => [words(&[0; 4]), attributes(node)].concat(),
        OPEN => words(&[0; 4]),
        READ => vec![0; 4096],
        STATFS => words(&[0; 20]),
        FLUSH | RELEASE => Vec::new(),
        _ => return Some(Err(ENOSYS)),
    }))
}

/// Answers requests as long as the file system is mounted, or until a request of the kind `until` arrives.
/// That request stays unanswered as long as the returned device is open.
fn serve(mut device: File, until: Option<u32>) -> File {
    let mut request = vec![0; 1 << 17];
    loop {
        let Ok(len) = device.read(&mut request) else { return device };
        // Length, opcode, request, node; the rest of the header is not needed.
        let word = |at: usize| request[at..at + 4].try_into().expect("four bytes");
        let long = |at: usize| request[at..at + 8].try_into().expect("eight bytes");
        assert!(len >= 40, "a header of the kernel's");
        let (opcode, node) = (u32::from_ne_bytes(word(4)), u64::from_ne_bytes(long(16)));
        if Some(opcode) == until {
            return device;
        }
        let Some(answer) = answer(opcode, node) else { continue };
        let (error, body) = answer.map_or_else(|errno| (-errno, Vec::new()), |body| (0, body));
        let mut reply = (16 + body.len() as u32).to_ne_bytes().to_vec();
        reply.extend(error.to_ne_bytes());
        reply.extend_from_slice(&request[8..16]);
        reply.extend(body);
        // Refused only for a request that the kernel has given up.
        let _answered = device.write(&reply);
    }
}

/// Mounts the file system; returns its file, and the device by which the kernel asks.
fn mounted(lab: &Lab) -> (PathBuf, File) {
    assert_root("mounts");
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("a kernel with FUSE");
    let on = lab.mount_point("fuse");
    let mut mount = timed("mount");
    // Without mount.fuse, which would start a program to serve the file system.
    mount.args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0,max_read=4096", "test"]);
    mount.arg(&on).stdin(device.try_clone().expect("a descriptor"));
    succeeded("mount", &mount.output().expect("mount runs"));
    (on.join("member"), device)
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_string()
}

#[test]
#[ignore = "needs root for mounts"]
fn a_file_that_a_fuse_server_answers_for_is_no_member() {
    let lab = Lab::new();
    let (remote, device) = mounted(&lab);
    std::thread::spawn(move || serve(device, None));
    assert_eq!(std::fs::metadata(&remote).expect("it is served").len(), FILE_BYTES);
    let mut members = lab.members("m", &SHAPE);
    let before: Vec<u64> = members.iter().map(|member| fingerprint(member)).collect();
    let local = std::mem::replace(&mut members[2], remote.clone());
    let mut args = create_args("new", &SHAPE);
    args.extend(members.iter().map(|member| text(member)));
    let is_told = |stderr: &str| {
        assert!(stderr.contains(&text(&remote)) && stderr.contains("on FUSE"), "{stderr}");
        assert!(stderr.contains("losetup"), "does not say what to do: {stderr}");
    };
    is_told(&lab.striate_refuses(&args));
    members[2] = local;
    let after: Vec<u64> = members.iter().map(|member| fingerprint(member)).collect();
    assert_eq!(after, before, "a refused `create` has changed a member");

    let array = lab.create("local", SHAPE);
    let server = array.serve(&[]);
    server.fail(1);
    is_told(&lab.striate_refuses(&["replace", "local", "1", &text(&remote)]));
    assert_eq!(server.status().health, Health::NoRedundancy);
    server.connect().write(0, &[7; 4096]);
    server.stop();
}

/// Longest end on a busy machine. The server waits much longer for a new device: for the member timeout.
const END_MAX: Duration = Duration::from_secs(10);
const TIMEOUT_S: &str = "120";

#[test]
#[ignore = "needs root for mounts"]
fn a_server_ends_while_a_new_device_does_not_open() {
    for by_signal in [true, false] {
        let lab = Lab::new();
        let (remote, device) = mounted(&lab);
        let opening = std::thread::spawn(move || serve(device, Some(OPEN)));
        let array = lab.create("local", SHAPE);
        let server = array.serve(&["--member-timeout", TIMEOUT_S]);
        server.fail(1);
        let mut replacing = lab.start(&["replace", "local", "1", &text(&remote)]);
        let device = opening.join().expect("the server opens the file");
        let began = Instant::now();
        assert_eq!(server.status().health, Health::NoRedundancy);
        assert!(began.elapsed() < END_MAX, "status took {:?}", began.elapsed());
        let began = Instant::now();
        if by_signal {
            succeeded("kill", &run("kill", &["-TERM".to_string(), server.pid().to_string()]));
            while !server.log().contains("stopped local") {
                assert!(began.elapsed() < END_MAX, "not stopped in time\n{}", server.log());
                std::thread::sleep(Duration::from_millis(10));
            }
        } else {
            lab.striate_ok(&["stop", "local"]);
        }
        assert!(began.elapsed() < END_MAX, "the end took {:?}", began.elapsed());
        // The kernel does not let a process with such an open end until the file system is given up.
        drop(device);
        assert!(!replacing.wait().expect("it runs").success(), "a file of FUSE was taken");
        server.ended();
    }
}
