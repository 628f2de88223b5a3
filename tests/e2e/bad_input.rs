//! Mistakes of operators.
//!
//! Method: each case prepares a laboratory and gives one command line that must be refused. Oracle: an exit
//! code that is neither zero nor that of a panic or a signal; an explanation on stderr that names the wrong
//! member or word; every file of the laboratory's members unchanged, byte for byte; and no new file.

use std::fs;
use std::path::{Path, PathBuf};

use engine::status::Health;

use crate::content::{assert_same, fingerprint, pattern};
use crate::lab::{Lab, Shape, assert_root, create_args, run, succeeded};

/// A command line that must be refused.
struct Attempt {
    args: Vec<String>,
    /// Text that the explanation must contain: the path of the member, or the invalid word.
    must_name: String,
    /// Files that must not change.
    untouched: Vec<PathBuf>,
}

const SHAPE: Shape = Shape { members: 4, member_mib: 16, ..Shape::RAID5 };

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_string()
}

/// A `create` on members.
fn create(members: &[PathBuf], wrong: &Path) -> Attempt {
    let mut args = create_args("new", &SHAPE);
    args.extend(members.iter().map(|member| text(member)));
    Attempt { args, must_name: text(wrong), untouched: members.to_vec() }
}

/// A `create` with the given words on four good members.
fn create_words(lab: &Lab, words: &[&str], wrong: &str) -> Attempt {
    let members = lab.members("m", &SHAPE);
    let mut args: Vec<String> = words.iter().map(|word| word.to_string()).collect();
    args.extend(members.iter().map(|member| text(member)));
    Attempt { args, must_name: wrong.to_string(), untouched: members }
}

/// A `serve` of members; the server would listen in the laboratory.
fn serve(lab: &Lab, members: &[PathBuf], must_name: &str) -> Attempt {
    let mut args = vec!["serve".to_string()];
    args.extend(members.iter().map(|member| text(member)));
    args.extend(["--nbd".to_string(), format!("unix:{}", text(&lab.path("refused.sock")))]);
    Attempt { args, must_name: must_name.to_string(), untouched: members.to_vec() }
}

/// Runs one attempt, and checks that nothing was changed or made.
#[track_caller]
fn refused(what: &str, lab: &Lab, attempt: &Attempt) {
    let prints = |paths: &[PathBuf]| -> Vec<Option<u64>> {
        paths.iter().map(|path| path.is_file().then(|| fingerprint(path))).collect()
    };
    let before = prints(&attempt.untouched);
    let listing = |lab: &Lab| -> Vec<_> {
        let mut names: Vec<_> =
            fs::read_dir(lab.path("")).expect("a directory").flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    let names = listing(lab);
    let stderr = lab.striate_refuses(&attempt.args);
    assert!(
        stderr.contains(&attempt.must_name),
        "{what}: the explanation does not name {}: {stderr}",
        attempt.must_name
    );
    assert_eq!(
        prints(&attempt.untouched),
        before,
        "{what}: a refused command has changed a member; it said: {stderr}"
    );
    assert_eq!(listing(lab), names, "{what}: a refused command has left something behind");
}

type Arrange = fn(&Lab) -> Attempt;

/// Cases of `create` that must be refused.
const CREATES: &[(&str, Arrange)] = &[
    ("a member too small", |lab| {
        let mut members = lab.members("m", &SHAPE);
        members[2] = lab.file("small", 512 << 10);
        create(&members, &members[2])
    }),
    ("an empty member", |lab| {
        let mut members = lab.members("m", &SHAPE);
        members[0] = lab.file("empty", 0);
        create(&members, &members[0])
    }),
    ("a member of another array", |lab| {
        let other = lab.create("other", SHAPE);
        let mut members = lab.members("m", &SHAPE);
        members[1] = other.members[3].clone();
        create(&members, &members[1])
    }),
    ("a member given twice", |lab| {
        let mut members = lab.members("m", &SHAPE);
        members[3] = members[0].clone();
        create(&members, &members[0])
    }),
    ("a member given twice by another name", |lab| {
        let mut members = lab.members("m", &SHAPE);
        let link = lab.path("link");
        std::os::unix::fs::symlink(&members[0], &link).expect("a symbolic link");
        members[3] = link;
        create(&members, &members[3])
    }),
    ("a member given twice by a hard link", |lab| {
        let mut members = lab.members("m", &SHAPE);
        let link = lab.path("link");
        fs::hard_link(&members[1], &link).expect("a hard link");
        members[2] = link;
        create(&members, &members[2])
    }),
    ("a member that is not there", |lab| {
        let mut members = lab.members("m", &SHAPE);
        members[2] = lab.path("nowhere");
        create(&members, &members[2])
    }),
    ("a member whose directory is not there, though files may be made", |lab| {
        let mut members = lab.members("m", &SHAPE);
        members[2] = lab.path("nowhere/member");
        let mut attempt = create(&members, &members[2]);
        attempt.args.extend(["--size".to_string(), "16M".to_string()]);
        attempt
    }),
    ("one bad member, the others to be made", |lab| {
        let small = lab.file("small", 4096);
        let members = [lab.path("a"), lab.path("b"), lab.path("c"), small];
        let mut attempt = create(&members, &members[3]);
        attempt.args.extend(["--size".to_string(), "16M".to_string()]);
        attempt
    }),
    ("a directory", |lab| {
        let mut members = lab.members("m", &SHAPE);
        members[1] = lab.path("directory");
        fs::create_dir(&members[1]).expect("a directory");
        create(&members, &members[1])
    }),
    ("a character device", |lab| {
        let mut members = lab.members("m", &SHAPE);
        members[1] = PathBuf::from("/dev/zero");
        create(&members, &members[1])
    }),
    ("a file system", |lab| {
        let members = lab.members("m", &SHAPE);
        succeeded("mke2fs", &run("mke2fs", &["-q".as_ref(), "-F".as_ref(), members[2].as_os_str()]));
        create(&members, &members[2])
    }),
    ("an md member", |lab| {
        let members = lab.members("m", &SHAPE);
        crate::lab::overwrite(&members[1], 4096, &0xa92b_4efc_u32.to_le_bytes());
        create(&members, &members[1])
    }),
    ("a level that is none", |lab| create_words(lab, &["create", "new", "--level", "7"], "7")),
    ("a chunk that is no power of two", |lab| {
        create_words(lab, &["create", "new", "--level", "5", "--chunk", "48K"], "chunk")
    }),
    ("a chunk that is too large", |lab| {
        create_words(lab, &["create", "new", "--level", "5", "--chunk", "2M"], "chunk")
    }),
    ("a name that is a path", |lab| create_words(lab, &["create", "../new", "--level", "5"], "../new")),
    ("a name that is empty", |lab| create_words(lab, &["create", "", "--level", "5"], "name")),
    ("a start that is none", |lab| {
        create_words(lab, &["create", "new", "--level", "5", "--init", "now"], "now")
    }),
    ("too few members", |lab| {
        let members = lab.members("m", &Shape { members: 2, ..SHAPE });
        Attempt { must_name: "3".to_string(), ..create(&members, &members[0]) }
    }),
    ("too many members", |lab| {
        let members = lab.members("m", &Shape { members: 33, member_mib: 8, ..SHAPE });
        Attempt { must_name: "32".to_string(), ..create(&members, &members[0]) }
    }),
];

/// Cases of `serve` that must be refused.
const SERVES: &[(&str, Arrange)] = &[
    ("a member of another array", |lab| {
        let array = lab.create("one", SHAPE);
        let other = lab.create("other", SHAPE);
        let mut members = array.members.clone();
        members[1] = other.members[1].clone();
        let must_name = text(&members[1]);
        serve(lab, &members, &must_name)
    }),
    ("no member at all", |lab| {
        let members = lab.members("m", &SHAPE);
        let must_name = text(&members[0]);
        serve(lab, &members, &must_name)
    }),
    ("a foreign superblock", |lab| {
        let array = lab.create("one", SHAPE);
        let mut members = array.members.clone();
        members[2] = lab.file("ext4", 16 << 20);
        succeeded("mke2fs", &run("mke2fs", &["-q".as_ref(), "-F".as_ref(), members[2].as_os_str()]));
        let must_name = text(&members[2]);
        serve(lab, &members, &must_name)
    }),
    ("a member twice", |lab| {
        let array = lab.create("one", SHAPE);
        let mut members = array.members.clone();
        members.push(members[1].clone());
        let must_name = text(&members[1]);
        serve(lab, &members, &must_name)
    }),
    ("a copy of a member beside it", |lab| {
        let array = lab.create("one", SHAPE);
        let mut members = array.members.clone();
        let copy = lab.path("copy");
        fs::copy(&members[1], &copy).expect("room");
        members.push(copy);
        let must_name = text(&members[4]);
        serve(lab, &members, &must_name)
    }),
    ("a member that is not there", |lab| {
        let array = lab.create("one", SHAPE);
        let mut members = array.members.clone();
        members[3] = lab.path("nowhere");
        let must_name = text(&members[3]);
        serve(lab, &members, &must_name)
    }),
    ("a directory", |lab| {
        let array = lab.create("one", SHAPE);
        let mut members = array.members.clone();
        members[3] = lab.path("run");
        let must_name = text(&members[3]);
        serve(lab, &members, &must_name)
    }),
    ("a member that was cut short", |lab| {
        let array = lab.create("one", SHAPE);
        let short = fs::OpenOptions::new().write(true).open(&array.members[2]).expect("a member");
        short.set_len(8 << 20).expect("shorter");
        let must_name = text(&array.members[2]);
        serve(lab, &array.members, &must_name)
    }),
    ("more lost than the level bears", |lab| {
        let array = lab.create("one", SHAPE);
        serve(lab, &array.members[2..], "one")
    }),
    ("half of the members, without the operator's word", |lab| {
        let array = lab.create("half", Shape { level: 6, ..SHAPE });
        serve(lab, &array.members[2..], "--run-degraded")
    }),
    ("an address that is none", |lab| {
        let array = lab.create("one", SHAPE);
        let mut attempt = serve(lab, &array.members, "nonsense");
        attempt.args.extend(["--nbd".to_string(), "nonsense".to_string()]);
        attempt
    }),
    ("a socket path where a file is", |lab| {
        let array = lab.create("one", SHAPE);
        let file = lab.path("precious");
        fs::write(&file, "do not remove").expect("room");
        let mut attempt = serve(lab, &array.members, &text(&file));
        attempt.args.extend(["--nbd".to_string(), format!("unix:{}", text(&file))]);
        attempt.untouched.push(file);
        attempt
    }),
];

#[test]
fn create_refuses_and_changes_nothing() {
    for (what, arrange) in CREATES {
        let lab = Lab::new();
        let attempt = arrange(&lab);
        refused(&format!("create: {what}"), &lab, &attempt);
    }
}

#[test]
fn serve_refuses_and_changes_nothing() {
    for (what, arrange) in SERVES {
        let lab = Lab::new();
        let attempt = arrange(&lab);
        refused(&format!("serve: {what}"), &lab, &attempt);
    }
}

#[test]
fn a_served_array_is_left_alone() {
    let lab = Lab::new();
    let array = lab.create("busy", SHAPE);
    let mut server = array.serve(&[]);
    let data = pattern(1, 0, 1 << 20);
    server.connect().write(0, &data);
    server.wait();
    // The running server may write its own marks meanwhile, so the files are not compared; only the refusals
    // are checked.
    let second = serve(&lab, &array.members, "");
    let stderr = lab.striate_refuses(&second.args);
    assert!(stderr.contains("busy") || array.members.iter().any(|m| stderr.contains(&text(m))), "{stderr}");
    let elsewhere = lab.path("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    let mut other_run_dir = second.args.clone();
    other_run_dir.extend(["--run-dir".to_string(), text(&elsewhere)]);
    let stderr = lab.striate_refuses(&other_run_dir);
    assert!(
        array.members.iter().any(|m| stderr.contains(&text(m))),
        "names the member that is in use: {stderr}"
    );
    for force in [&[][..], &["--force"][..]] {
        let mut args = create(&array.members, &array.members[0]).args;
        args.extend(force.iter().map(|word| word.to_string()));
        let stderr = lab.striate_refuses(&args);
        assert!(stderr.contains(&text(&array.members[0])), "{stderr}");
    }
    assert!(server.is_running());
    assert_same("untouched by the second server", 0, &server.connect().read(0, 1 << 20), &data);
    server.stop();
    array.scrub_is_clean("after a second server was refused");
}

#[test]
fn commands_to_what_is_not_there_are_refused() {
    let lab = Lab::new();
    let array = lab.create("here", SHAPE);
    let server = array.serve(&[]);
    let small = lab.file("small", 4096);
    let spare = lab.member("spare", &SHAPE);
    let member = text(&array.members[1]);
    let (small, spare) = (text(&small), text(&spare));
    let cases: &[(&[&str], &str)] = &[
        (&["status", "gone"], "gone"),
        (&["stop", "gone"], "gone"),
        (&["fail", "gone", "0"], "gone"),
        (&["wait", "gone"], "gone"),
        (&["fail", "here", "9"], "9"),
        (&["replace", "here", "9", &spare], "9"),
        (&["replace", "here", "1", &spare], "1"), // it is in sync
        (&["detail", "/nowhere/at/all"], "/nowhere/at/all"),
    ];
    for (args, must_name) in cases {
        let stderr = lab.striate_refuses(args);
        assert!(stderr.contains(must_name), "{args:?}: {stderr}");
    }
    server.fail(0);
    for path in [small.as_str(), member.as_str(), "/nowhere/at/all"] {
        let stderr = lab.striate_refuses(&["replace", "here", "0", path]);
        assert!(stderr.contains(path), "replace by {path}: {stderr}");
    }
    // Without another member the array would fail, so the order is refused: it must be a mistake.
    let stderr = lab.striate_refuses(&["fail", "here", "1"]);
    assert!(stderr.contains('1'), "{stderr}");
    assert_eq!(server.connect().read(0, 4096), [0; 4096]);
    server.stop();
}

/// A device that the array refuses is not written to, with or without `--force`: it may be a member under
/// another name.
#[test]
fn a_refused_replacement_is_left_as_it_was() {
    let lab = Lab::new();
    // Large enough that the rebuild of one slot lasts while another replacement is requested.
    let shape = Shape { level: 6, members: 5, init: "assume-clean", member_mib: 512, ..SHAPE };
    let array = lab.create("slots", shape);
    let spare = lab.member("spare", &shape);
    crate::lab::overwrite(&spare, 0, &pattern(8, 0, 1 << 20));
    let before = fingerprint(&spare);
    let refused = |slot: &str, why: &str| {
        let stderr = lab.striate_refuses(&["replace", "slots", slot, &text(&spare), "--force"]);
        assert!(stderr.contains(why), "{stderr}");
        assert_eq!(fingerprint(&spare), before, "refused, and written to: {stderr}");
    };
    let server = array.serve(&[]);
    refused("2", "in use");
    server.fail(0);
    server.fail(1);
    server.replace(0, &lab.member("fresh", &shape));
    refused("1", "being rebuilt");
    server.wait();
    server.stop();
    let server = array.serve_members(&array.members[1..], &["--read-only"]);
    refused("0", "read-only");
    server.stop();
}

#[test]
fn halves_that_ran_apart_are_refused() {
    let lab = Lab::new();
    let array = lab.create("fork", Shape { level: 6, ..SHAPE });
    let (left, right) = array.members.split_at(2);
    for (half, seed) in [(left, 1), (right, 2)] {
        let server = array.serve_members(half, &["--run-degraded"]);
        server.connect().write(0, &pattern(seed, 0, 1 << 20));
        server.stop();
    }
    refused("both halves", &lab, &serve(&lab, &array.members, "fork"));
    // Each half alone still holds its own content.
    let server = array.serve_members(right, &["--run-degraded"]);
    assert_same("the right half", 0, &server.connect().read(0, 1 << 20), &pattern(2, 0, 1 << 20));
    server.stop();
}

#[test]
#[ignore = "needs root for mounts"]
fn a_mounted_member_is_refused() {
    assert_root("mounts");
    let lab = Lab::new();
    let mut members = lab.members("m", &SHAPE);
    let device = lab.loop_device(&members[1]);
    succeeded("mke2fs", &run("mke2fs", &["-q".as_ref(), "-F".as_ref(), device.as_os_str()]));
    let on = lab.mount(&[], &device, "mounted");
    fs::write(on.join("file"), "in use").expect("room");
    succeeded("sync", &run("sync", &[] as &[&str]));
    let file = members[1].clone();
    members[1] = device;
    for force in [false, true] {
        let before = fingerprint(&file);
        let mut attempt = create(&members, &members[1]);
        attempt.untouched.remove(1);
        if force {
            attempt.args.push("--force".to_string());
        }
        refused(&format!("a mounted member, force {force}"), &lab, &attempt);
        assert_eq!(fingerprint(&file), before, "the mounted file system changed");
    }
    assert_eq!(fs::read_to_string(on.join("file")).expect("still there"), "in use");
}

#[test]
#[ignore = "needs root for mounts"]
fn a_full_disk_is_told_and_leaves_nothing() {
    let lab = Lab::new();
    let full = lab.mount(&["-t", "tmpfs", "-o", "size=1m"], Path::new("full"), "full");
    fs::write(full.join("filler"), vec![1; 2 << 20]).expect_err("a full disk");
    let members: Vec<PathBuf> = (0..4).map(|slot| full.join(format!("m.{slot}"))).collect();
    for init in ["lazy", "zero"] {
        let mut attempt = create(&members, &members[0]);
        let at = attempt.args.iter().position(|arg| arg == "lazy").expect("there");
        attempt.args[at] = init.to_string();
        attempt.args.extend(["--size".to_string(), "16M".to_string()]);
        attempt.untouched.clear();
        attempt.must_name = text(&full);
        refused(&format!("a full disk, --init {init}"), &lab, &attempt);
        let left: Vec<_> = fs::read_dir(&full).expect("there").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["filler"], "files that were made must go again");
    }
}

/// The NBD protocol's error for "no space".
const NBD_ENOSPC: u32 = 28;

/// A sparse member file on a file system that runs full: hosts get errors, no member is failed, and nothing
/// is lost.
#[test]
#[ignore = "needs root for mounts"]
fn a_file_system_that_runs_full_fails_no_member() {
    const PIECE_BYTES: u64 = 256 << 10;
    let lab = Lab::new();
    let small = lab.mount(&["-t", "tmpfs", "-o", "size=5m"], Path::new("small"), "small");
    let mut members = lab.members("m", &SHAPE);
    members[2] = small.join("member");
    fs::File::create(&members[2]).and_then(|file| file.set_len(16 << 20)).expect("a sparse file");
    let mut args = create_args("full", &SHAPE);
    args.extend(members.iter().map(|member| text(member)));
    lab.striate_ok(&args);
    let array = crate::lab::Array { lab: &lab, name: "full".to_string(), shape: SHAPE, members };
    let server = array.serve(&[]);
    let mut client = server.connect();

    // The small file system has room for some of these pieces. The others are refused, and no other request
    // is.
    let piece = |seed: u64, index: u64| pattern(seed, index * PIECE_BYTES, PIECE_BYTES as usize);
    let pieces = client.size_bytes / PIECE_BYTES;
    let mut refused = Vec::new();
    for index in 0..pieces {
        match client.try_write(index * PIECE_BYTES, &piece(1, index)) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error, NBD_ENOSPC, "piece {index}");
                refused.push(index);
            }
        }
    }
    assert!(
        !refused.is_empty() && (refused.len() as u64) < pieces,
        "{} of {pieces} pieces were refused, which shows nothing",
        refused.len()
    );
    let acknowledged: Vec<u64> = (0..pieces).filter(|index| !refused.contains(index)).collect();
    let mut compare = |seed: u64, indices: &[u64], when: &str| {
        for index in indices {
            let at = index * PIECE_BYTES;
            assert_same(when, at, &client.read(at, PIECE_BYTES as usize), &piece(seed, *index));
        }
    };
    compare(1, &acknowledged, "acknowledged before the file system was full");
    let status = server.status();
    assert_eq!(status.health, Health::Optimal, "{status:?}");
    assert!(status.members[2].refusals > 0, "refusals are counted: {status:?}");
    assert_eq!(status.lost_rows.bytes, 0, "{status:?}");

    // With more room the same writes succeed, without a restart.
    succeeded("mount", &run("mount", &["-o".as_ref(), "remount,size=64m".as_ref(), small.as_os_str()]));
    let mut writer = server.connect();
    for index in &refused {
        writer.write(index * PIECE_BYTES, &piece(1, *index));
    }
    let all: Vec<u64> = (0..pieces).collect();
    compare(1, &all, "after room was made");
    // Each stripe that a refused write left without parity is either written as a whole, or resynced.
    server.wait();
    assert_eq!(server.status().cells.need_sync, 0, "{:?}", server.status());
    server.fail(0);
    compare(1, &all, "from parity, without slot 0");
    drop((client, writer));
    server.stop();
}
