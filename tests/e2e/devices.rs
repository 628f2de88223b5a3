//! Members on other devices than those the array was made on: larger blocks, one storage under two names, and
//! members that another program has written to.
//!
//! Method: arrays on files and on loop devices over them. A loop device shows a file under a second name, and
//! with blocks of another size; a partition table is written byte by byte, where an installer would put it.
//! Oracle: a refusal names the member and the reason, and changes no byte of any file; served data reads as
//! it was written; a final scrub finds nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use engine::status::{Health, MemberState};

use crate::content::{assert_same, fingerprint, pattern};
use crate::lab::{Array, Lab, Shape, create_args, overwrite};

const SHAPE: Shape = Shape { members: 4, member_mib: 24, ..Shape::RAID5 };
const WRITTEN_BYTES: usize = 8 << 20;

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_string()
}

fn fingerprints(files: &[PathBuf]) -> Vec<u64> {
    files.iter().map(|file| fingerprint(file)).collect()
}

/// The words of a `serve` of these members, in this run directory.
fn serve_args(lab: &Lab, members: &[PathBuf], run_dir: &str) -> Vec<String> {
    let mut args = vec!["serve".to_string()];
    args.extend(members.iter().map(|member| text(member)));
    args.extend(["--nbd".to_string(), format!("unix:{}", text(&lab.path("second.sock")))]);
    args.extend(["--run-dir".to_string(), text(&lab.path(run_dir))]);
    args
}

/// An array of loop devices, with content, stopped; and the files below them.
fn written_on_loops<'lab>(lab: &'lab Lab, name: &str) -> (Array<'lab>, Vec<PathBuf>) {
    let files = lab.members(name, &SHAPE);
    let members: Vec<PathBuf> = files.iter().map(|file| lab.loop_device(file)).collect();
    let mut args = create_args(name, &SHAPE);
    args.extend(members.iter().map(|member| text(member)));
    lab.striate_ok(&args);
    let array = Array { lab, name: name.to_string(), shape: SHAPE, members };
    let server = array.serve(&[]);
    server.connect().write(0, &pattern(3, 0, WRITTEN_BYTES));
    server.stop();
    (array, files)
}

#[track_caller]
fn content_is_there(array: &Array, when: &str) {
    let server = array.serve(&[]);
    assert_same(when, 0, &server.connect().read(0, WRITTEN_BYTES), &pattern(3, 0, WRITTEN_BYTES));
    assert_eq!(server.status().health, Health::Optimal, "{when}");
    server.stop();
    array.scrub_is_clean(when);
}

/// The kernel's treatment of a drive that is pulled while idle: its capacity becomes 0, and the next write
/// fails as if there were no room.
#[test]
#[ignore = "needs root for loop devices"]
fn a_drive_that_is_pulled_at_rest_is_failed_and_service_goes_on() {
    let lab = Lab::new();
    let (array, files) = written_on_loops(&lab, "pulled");
    let server = array.serve(&[]);
    fs::File::options().write(true).open(&files[1]).and_then(|file| file.set_len(0)).expect("truncated");
    let loop_device = text(&array.members[1]);
    let status = Command::new("losetup").args(["-c", &loop_device]).status().expect("losetup runs");
    assert!(status.success(), "the loop device takes the new size of its file");
    let again = pattern(4, 0, WRITTEN_BYTES);
    server.connect().write(0, &again);
    let status = server.status();
    assert_eq!(status.members[1].state, MemberState::Failed, "{status:?}");
    assert_eq!(status.health, Health::NoRedundancy, "{status:?}");
    assert_same("without the drive", 0, &server.connect().read(0, WRITTEN_BYTES), &again);
    server.stop();
}

#[test]
#[ignore = "needs root for loop devices"]
fn larger_blocks_are_refused_and_nothing_changes() {
    let lab = Lab::new();
    let (mut array, files) = written_on_loops(&lab, "blocks");
    // First all members have larger blocks, then one of them.
    for larger in [0..4, 2..3] {
        for member in &array.members {
            lab.detach(member);
        }
        let block_bytes = |slot: usize| if larger.contains(&slot) { "4096" } else { "512" };
        let attach = |(slot, file): (usize, &PathBuf)| {
            lab.loop_device_of(file, &["--direct-io=on", "--sector-size", block_bytes(slot)])
        };
        array.members = files.iter().enumerate().map(attach).collect();
        let before = fingerprints(&files);
        for options in [&[][..], &["--read-only"]] {
            let mut args = serve_args(&lab, &array.members, "run");
            args.extend(options.iter().map(|option| option.to_string()));
            let stderr = lab.striate_refuses(&args);
            let member = text(&array.members[larger.start]);
            assert!(stderr.contains(&member), "does not name {member}: {stderr}");
            assert!(stderr.contains("4096") && stderr.contains("512"), "does not name both sizes: {stderr}");
        }
        assert_eq!(fingerprints(&files), before, "a refused start has changed a member");
    }
    for member in &array.members {
        lab.detach(member);
    }
    array.members = files.iter().map(|file| lab.loop_device(file)).collect();
    content_is_there(&array, "on blocks of 512 bytes again");
}

/// Makes a partition of a loop device, as a partition table would; it goes with the loop device when that is
/// detached.
fn partition(disk: &Path, number: u32, first_mib: u64, mib: u64) -> PathBuf {
    let sectors = |mib: u64| (mib * 2048).to_string();
    let status = Command::new("addpart")
        .args([text(disk), number.to_string(), sectors(first_mib), sectors(mib)])
        .status()
        .expect("addpart runs");
    assert!(status.success(), "addpart makes a partition of {}", disk.display());
    format!("{}p{number}", text(disk)).into()
}

#[test]
#[ignore = "needs root for loop devices"]
fn one_storage_under_two_names_is_refused_by_create() {
    let lab = Lab::new();
    let files = lab.members("m", &SHAPE);
    let once = lab.loop_device(&files[1]);
    let again = lab.loop_device(&files[1]);
    let over_loop = lab.loop_device(&once);
    let of_again = lab.loop_device_of(&again, &["--offset", "4194304", "--sizelimit", "8388608"]);
    let split = lab.loop_device_of(&files[2], &["--partscan"]);
    let part = partition(&split, 1, 1, 10);
    let over_part = lab.loop_device(&part);
    let before = fingerprints(&files);
    for (what, first, wrong) in [
        ("a loop device and its file", &once, &files[1]),
        ("two loop devices over one file", &once, &again),
        ("a loop device over a loop device, and the file", &over_loop, &files[1]),
        ("a loop device, and one over a part of another over the same file", &once, &of_again),
        ("a loop device over a loop device, and that one", &over_loop, &once),
        ("a partition of a loop device, and the file", &part, &files[2]),
        ("a loop device over a partition, and the file", &over_part, &files[2]),
        ("a loop device over a partition, and the disk", &over_part, &split),
    ] {
        let members = [&files[0], first, wrong, &files[3]];
        for force in [&[][..], &["--force"]] {
            let mut args = create_args("new", &SHAPE);
            args.extend(members.iter().map(|member| text(member)));
            args.extend(force.iter().map(|option| option.to_string()));
            let stderr = lab.striate_refuses(&args);
            assert!(stderr.contains(&text(wrong)), "{what}: does not name {}: {stderr}", wrong.display());
            assert!(stderr.contains(&text(first)), "{what}: does not name {}: {stderr}", first.display());
        }
        assert_eq!(fingerprints(&files), before, "{what}: a refused `create` has changed a member");
    }
}

/// Partitions of one disk, and loop devices over disjoint ranges of one file, are accepted as members.
#[test]
#[ignore = "needs root for loop devices"]
fn parts_of_one_storage_that_do_not_meet_are_members() {
    let lab = Lab::new();
    let file = lab.members("m", &Shape { member_mib: 200, ..SHAPE }).swap_remove(0);
    let disk = lab.loop_device_of(&file, &["--partscan", "--sizelimit", "104857600"]);
    let range = |offset: &str| lab.loop_device_of(&file, &["--offset", offset, "--sizelimit", "33554432"]);
    let over_part = lab.loop_device(&partition(&disk, 2, 40, 30));
    let members = vec![partition(&disk, 1, 1, 30), over_part, range("104857600"), range("146800640")];
    let mut args = create_args("parts", &SHAPE);
    args.extend(members.iter().map(|member| text(member)));
    lab.striate_ok(&args);
    let array = Array { lab: &lab, name: "parts".to_string(), shape: SHAPE, members };
    let server = array.serve(&[]);
    server.connect().write(0, &pattern(3, 0, WRITTEN_BYTES));
    server.stop();
    content_is_there(&array, "on parts of one file");
}

#[test]
#[ignore = "needs root for loop devices"]
fn a_second_server_over_other_names_of_the_members_is_refused() {
    let lab = Lab::new();
    let (mut array, files) = written_on_loops(&lab, "names");
    let loops = |files: &[PathBuf]| files.iter().map(|file| lab.loop_device(file)).collect::<Vec<_>>();
    let other_loops = loops(&files);
    let first_loops = std::mem::take(&mut array.members);
    let over_loops = loops(&first_loops);
    // The partition begins at the start of the file, so a member's first bytes, with its superblocks, are at
    // the same place on each of these.
    let partitions: Vec<PathBuf> = files
        .iter()
        .map(|file| partition(&lab.loop_device_of(file, &["--partscan"]), 1, 0, SHAPE.member_mib))
        .collect();
    std::fs::create_dir(lab.path("elsewhere")).expect("a directory");
    for (what, served, others) in [
        ("loop devices, then their files", &first_loops, &files),
        ("loop devices, then others over the same files", &first_loops, &other_loops),
        ("files, then loop devices over them", &files, &first_loops),
        ("files, then loop devices over loop devices over them", &files, &over_loops),
        ("loop devices over loop devices, then those", &over_loops, &first_loops),
        ("loop devices, then loop devices over them", &first_loops, &over_loops),
        ("files, then partitions of loop devices over them", &files, &partitions),
        ("partitions of loop devices, then the files", &partitions, &files),
    ] {
        array.members.clone_from(served);
        let mut server = array.serve(&[]);
        // The run directory is another one, so that only the members themselves can be in the way.
        for options in [&[][..], &["--read-only"]] {
            let mut args = serve_args(&lab, others, "elsewhere");
            args.extend(options.iter().map(|option| option.to_string()));
            let stderr = lab.striate_refuses(&args);
            assert!(others.iter().any(|member| stderr.contains(&text(member))), "{what}: {stderr}");
        }
        assert!(server.is_running(), "{what}");
        let found = server.connect().read(0, WRITTEN_BYTES);
        assert_same(what, 0, &found, &pattern(3, 0, WRITTEN_BYTES));
        server.stop();
    }
    array.members = files;
    content_is_there(&array, "after all second servers were refused");
}

const SECTOR_BYTES: usize = 512;
/// 128 partition entries of 128 bytes.
const GPT_ENTRIES_BYTES: usize = 128 * 128;

/// The parts of a partition table that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    /// The whole table, as an installer writes it.
    Whole,
    /// The copy at the end of the device.
    Copy,
}

/// Writes an empty GUID partition table over a member: the protective MBR, the header and the entries in the
/// first 17 KiB, and their copies in the last 16.5 KiB.
fn write_gpt(member: &Path, table: Table) {
    let sectors = std::fs::metadata(member).expect("a member").len() / SECTOR_BYTES as u64;
    let header = |own: u64, other: u64, entries: u64| {
        let mut header = vec![0; SECTOR_BYTES];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x0001_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        for (at, value) in [(24, own), (32, other), (40, 34), (48, sectors - 34), (72, entries)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header
    };
    let mut mbr = vec![0; SECTOR_BYTES];
    mbr[446 + 4] = 0xee;
    mbr[446 + 8] = 1;
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    let entries = vec![0; GPT_ENTRIES_BYTES];
    if table == Table::Whole {
        overwrite(member, 0, &[mbr, header(1, sectors - 1, 2), entries.clone()].concat());
    }
    let tail = [entries, header(sectors - 1, 1, sectors - 33)].concat();
    overwrite(member, sectors * SECTOR_BYTES as u64 - tail.len() as u64, &tail);
}

/// A stopped array of files in which every stripe is written, and its content.
fn full(lab: &Lab) -> (Array<'_>, Vec<u8>) {
    let array = lab.create("table", Shape { noise: true, ..SHAPE });
    let server = array.serve(&[]);
    let mut client = server.connect();
    let data = pattern(6, 0, client.size_bytes as usize);
    client.write(0, &data);
    drop(client);
    server.stop();
    (array, data)
}

#[test]
fn a_member_under_a_partition_table_is_left_out_and_replaced() {
    let lab = Lab::new();
    let (array, data) = full(&lab);
    write_gpt(&array.members[2], Table::Whole);
    let overwritten = fingerprint(&array.members[2]);
    let server = array.serve(&[]);
    let status = server.status();
    assert_ne!(status.members[2].state, MemberState::InSync, "{status:?}");
    assert_eq!(status.health, Health::NoRedundancy, "{status:?}");
    let log = server.log();
    let says_why =
        |line: &str| line.contains(&text(&array.members[2])) && line.contains("a GPT partition table");
    assert!(log.lines().any(says_why), "the log does not say why slot 2 is not in use:\n{log}");
    assert_same("without the member", 0, &server.connect().read(0, data.len()), &data);
    assert_eq!(fingerprint(&array.members[2]), overwritten, "a member that is left out is written to");
    // The device may now be someone's disk, so filling it again needs `--force`.
    let stderr = lab.striate_refuses(&["replace", "table", "2", &text(&array.members[2])]);
    assert!(stderr.contains("--force"), "{stderr}");
    lab.striate_ok(&["replace", "table", "2", &text(&array.members[2]), "--force"]);
    server.wait();
    assert_eq!(server.status().health, Health::Optimal);
    server.fail(0);
    assert_same("with the member filled anew", 0, &server.connect().read(0, data.len()), &data);
    server.stop();
}

#[test]
fn members_under_partition_tables_are_taken_when_the_operator_says_so() {
    let lab = Lab::new();
    let (array, data) = full(&lab);
    write_gpt(&array.members[1], Table::Whole);
    write_gpt(&array.members[2], Table::Whole);
    let before = fingerprints(&array.members);
    let stderr = lab.striate_refuses(&serve_args(&lab, &array.members, "run"));
    assert!(stderr.contains("--take-overwritten"), "{stderr}");
    for member in &array.members[1..3] {
        assert!(stderr.contains(&text(member)), "does not name {}: {stderr}", member.display());
    }
    assert_eq!(fingerprints(&array.members), before, "a refused start has changed a member");
    let server = array.serve(&["--take-overwritten"]);
    assert_eq!(server.status().health, Health::Optimal);
    assert_same("taken as they are", 0, &server.connect().read(0, data.len()), &data);
    server.stop();
    // No data lies where the table and its copy were written.
    array.scrub_is_clean("with members that were overwritten");
    // The start has rewritten both superblocks, so the next one needs no such option.
    let server = array.serve(&[]);
    assert_eq!(server.status().health, Health::Optimal);
    server.stop();
}

/// Signatures of programs in places that an array does not use: (name, byte offset on the member, content).
fn signatures(member: &Path) -> Vec<(&'static str, u64, Vec<u8>)> {
    let bytes = std::fs::metadata(member).expect("a member").len();
    let mut mbr = vec![0; SECTOR_BYTES];
    mbr[446 + 4] = 0x83;
    mbr[446 + 12] = 1;
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    let md = vec![0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0];
    vec![
        ("an MBR partition table", 0, mbr),
        ("a GPT partition table", 512, b"EFI PART".to_vec()),
        ("an md array member (1.0)", bytes / 4096 * 4096 - 8192, md),
    ]
}

#[test]
fn a_signature_beside_two_good_superblocks_leaves_a_member_out() {
    let lab = Lab::new();
    let (array, data) = full(&lab);
    for (what, offset, content) in signatures(&array.members[2]) {
        for overwritten in [2..3, 1..3] {
            for member in &array.members[overwritten.clone()] {
                overwrite(member, offset, &content);
            }
            let before = fingerprints(&array.members);
            let log = if overwritten.len() == 1 {
                let server = array.serve(&["--read-only"]);
                assert_eq!(server.status().health, Health::NoRedundancy, "{what}");
                assert_same(what, 0, &server.connect().read(0, data.len()), &data);
                let log = server.log();
                server.stop();
                log
            } else {
                lab.striate_refuses(&serve_args(&lab, &array.members, "run"))
            };
            for member in &array.members[overwritten] {
                let says_why = |line: &str| line.contains(&text(member)) && line.contains(what);
                assert!(log.lines().any(says_why), "{what}: no reason for {}:\n{log}", member.display());
            }
            assert!(log.contains("--take-overwritten"), "{what}: does not say how to go on:\n{log}");
            assert_eq!(fingerprints(&array.members), before, "{what}: a member has changed");
            // The advice works, and the next start needs no such option.
            for options in [&["--take-overwritten"][..], &[]] {
                let server = array.serve(options);
                assert_eq!(server.status().health, Health::Optimal, "{what} {options:?}");
                assert_same(what, 0, &server.connect().read(0, data.len()), &data);
                server.stop();
            }
        }
    }
    array.scrub_is_clean("with members that were overwritten");
}

/// A partition table behind the data counts like one in front of it, although no data lies there.
#[test]
fn a_table_at_the_end_of_a_member_leaves_it_out() {
    let lab = Lab::new();
    let (array, data) = full(&lab);
    let member = &array.members[1];
    write_gpt(member, Table::Copy);
    let before = fingerprint(member);
    let server = array.serve(&[]);
    assert_ne!(server.status().members[1].state, MemberState::InSync);
    let (log, what) = (server.log(), "a GPT partition table (the copy at the end)");
    let says_why = |line: &str| line.contains(&text(member)) && line.contains(what);
    assert!(log.lines().any(says_why), "the log does not say why:\n{log}");
    assert_same("without the member", 0, &server.connect().read(0, data.len()), &data);
    assert_eq!(fingerprint(member), before, "a member that is left out is written to");
    server.stop();
}

/// A stop writes both superblocks over the table that an installer has written while the array ran; but the
/// table's signature remains.
#[test]
fn a_member_that_gets_a_partition_table_while_it_is_served_is_left_out_by_the_next_start() {
    let lab = Lab::new();
    let (array, data) = full(&lab);
    let server = array.serve(&[]);
    server.connect().write(0, &data[..1 << 20]);
    write_gpt(&array.members[2], Table::Whole);
    server.stop();
    let server = array.serve(&[]);
    assert_eq!(server.status().health, Health::NoRedundancy);
    assert!(server.log().contains("a GPT partition table"), "{}", server.log());
    assert_same("without the member", 0, &server.connect().read(0, data.len()), &data);
    server.stop();
}
