//! fio over NBD with checksums.
//!
//! Method: random writes of mixed sizes, 512 B to 1 MiB at any sector, 32 in flight; each block is read back
//! and checked by its crc32c while others are still being written, and once more at the end. Cases: one and
//! two reactors, both levels, files and loop devices, whole and with members failed half-way (as many as the
//! level tolerates). Oracle: fio's own checksums; afterwards the offline scrub.

use std::process::Stdio;
use std::time::{Duration, Instant};

use engine::status::Health;

use crate::lab::{Backing, Lab, Server, Shape, number, succeeded, timed};

/// Evenly distributed sizes of 512 B to 1 MiB are mostly large; `SIZES_SMALL` are mostly small, to need
/// read-modify-write.
const SIZES_EVEN: &str = "--bsrange=512-1m";
const SIZES_SMALL: &str = "--bssplit=512/15:1k/10:4k/30:12k/10:16k/10:64k/15:192k/5:1m/5";

struct Case {
    shape: Shape,
    reactors: &'static str,
    sizes: &'static str,
    /// Slots that are failed during the run.
    fail: &'static [usize],
}

const RAID5: Shape = Shape { member_mib: 64, ..Shape::RAID5 };
const RAID6: Shape = Shape { member_mib: 64, ..Shape::RAID6 };
const RAID5_LOOP: Shape = Shape { backing: Backing::Loop, members: 4, ..RAID5 };
const RAID6_LOOP: Shape = Shape { backing: Backing::Loop, chunk: "32K", ..RAID6 };

#[test]
fn raid5_one_reactor() {
    check(&Case { shape: RAID5, reactors: "1", sizes: SIZES_EVEN, fail: &[] });
}

#[test]
fn raid5_two_reactors_and_a_failure() {
    check(&Case { shape: RAID5, reactors: "2", sizes: SIZES_SMALL, fail: &[3] });
}

#[test]
fn raid6_two_reactors_and_two_failures() {
    check(&Case { shape: RAID6, reactors: "2", sizes: SIZES_SMALL, fail: &[0, 4] });
}

#[test]
#[ignore = "long"]
fn every_other_case_on_files() {
    for (shape, fail) in [(RAID5, &[1][..]), (RAID6, &[2, 3][..])] {
        for reactors in ["1", "2"] {
            for (sizes, fail) in
                [(SIZES_EVEN, &[][..]), (SIZES_SMALL, &[][..]), (SIZES_EVEN, fail), (SIZES_SMALL, fail)]
            {
                check(&Case { shape, reactors, sizes, fail });
            }
        }
    }
}

#[test]
#[ignore = "needs root for loop devices"]
fn every_case_on_loop_devices() {
    for (shape, fail) in [(RAID5_LOOP, &[2][..]), (RAID6_LOOP, &[1, 4][..])] {
        for reactors in ["1", "2"] {
            for (sizes, fail) in [(SIZES_EVEN, &[][..]), (SIZES_SMALL, fail)] {
                check(&Case { shape, reactors, sizes, fail });
            }
        }
    }
}

fn check(case: &Case) {
    let what = format!("{:?}, {} reactors, {}, fail {:?}", case.shape, case.reactors, case.sizes, case.fail);
    println!("{what}");
    let lab = Lab::new();
    let mut array = lab.create("fio", case.shape);
    let server = array.serve(&["--reactors", case.reactors]);
    let mib = number("STRIATE_E2E_MIB", 96);
    let fio = timed("fio")
        .args([
            "--name=verify",
            "--ioengine=nbd",
            "--rw=randwrite",
            "--iodepth=32",
            "--numjobs=1",
            "--group_reporting",
        ])
        .args([
            case.sizes,
            "--blockalign=512",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--verify_backlog=256",
        ])
        .args(["--verify_backlog_batch=64", "--end_fsync=1", "--fsync=500"])
        .args([format!("--uri={}", server.uri()), format!("--size={mib}m")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio is installed by scripts/setup test");
    for (index, slot) in case.fail.iter().enumerate() {
        let part = (index as u64 + 1) * (mib << 20) / (case.fail.len() as u64 + 1);
        wait_for_writes(&server, part);
        server.fail(*slot);
    }
    let output = fio.wait_with_output().expect("fio ends");
    let text = succeeded(&what, &output) + &String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("verify: bad"), "{what}: {text}");
    let status = server.status();
    let expected = case.shape.health_without(case.fail.len());
    assert_eq!(status.health, expected, "{what}");
    assert_eq!(status.counters.errors, 0, "{what}: requests answered with an error");
    let mut replaced = Vec::new();
    for slot in case.fail {
        let fresh = lab.member(&format!("fresh.{slot}"), &case.shape);
        server.replace(*slot, &fresh);
        replaced.push((*slot, fresh));
        server.wait(); // one rebuild at a time: a second `replace` is refused until the first is over
    }
    assert_eq!(server.status().health, Health::Optimal, "{what}: rebuilt");
    server.terminate();
    for (slot, fresh) in replaced {
        array.members[slot] = fresh;
    }
    array.scrub_is_clean(&what);
}

/// Waits until hosts have written this many bytes.
fn wait_for_writes(server: &Server, bytes: u64) {
    let began = Instant::now();
    while server.status().counters.write_bytes < bytes {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "fio writes nothing more: {:?}",
            server.status().counters
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
