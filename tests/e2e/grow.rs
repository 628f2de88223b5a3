//! Growth of a stopped array into new space on its members.
//!
//! Method: members full of noise are filled, lengthened by more noise, and grown. The old content is
//! compared; the new part is read before anything is written to it, then written across the old end and to
//! the very end; and every set of members that the level may lose is failed. Oracle: the bytes that were
//! written, and zeros elsewhere. A refused growth changes nothing: the members are compared byte by byte.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::content::{assert_same, pattern};
use crate::lab::{Lab, Shape};

const RAID5: Shape = Shape { chunk: "16K", member_mib: 8, noise: true, ..Shape::RAID5 };
const RAID6: Shape = Shape { chunk: "16K", member_mib: 8, noise: true, ..Shape::RAID6 };

/// Appends more noise to a member.
fn lengthen(member: &Path, from_mib: u64, to_mib: u64) {
    let file = OpenOptions::new().write(true).open(member).expect("a member");
    for mib in from_mib..to_mib {
        file.write_all_at(&pattern(99, mib << 20, 1 << 20), mib << 20).expect("room for a member");
    }
}

fn grow_args(members: &[PathBuf]) -> Vec<String> {
    let words = members.iter().map(|member| member.to_string_lossy().into_owned());
    std::iter::once("grow".to_string()).chain(words).collect()
}

#[test]
fn what_raid5_holds_stays_and_the_rest_is_zeros() {
    what_it_holds_stays(RAID5);
}

#[test]
fn what_raid6_holds_stays_and_the_rest_is_zeros() {
    what_it_holds_stays(RAID6);
}

fn what_it_holds_stays(shape: Shape) {
    for slots in shape.losses() {
        let lab = Lab::new();
        let array = lab.create("tank", shape);
        let server = array.serve(&["--reactors", "1"]);
        let mut client = server.connect();
        let old_bytes = client.size_bytes as usize;
        client.write(0, &pattern(1, 0, old_bytes));
        drop(client);
        server.stop();

        array.members.iter().for_each(|member| lengthen(member, 8, 14));
        let said = lab.striate_ok(&grow_args(&array.members));
        assert!(said.starts_with("grown: tank: from "), "{said}");
        let said = lab.striate_ok(&grow_args(&array.members));
        assert!(said.starts_with("nothing to grow: tank: "), "{said}");

        let server = array.serve(&["--reactors", "1"]);
        let mut client = server.connect();
        let new_bytes = client.size_bytes as usize;
        assert_eq!((new_bytes - old_bytes) as u64, (6 << 20) * shape.stripe_bytes() / shape.chunk_bytes());
        assert_same("what was there", 0, &client.read(0, old_bytes), &pattern(1, 0, old_bytes));
        let zeros = vec![0; new_bytes - old_bytes];
        assert_same("what is new", old_bytes as u64, &client.read(old_bytes as u64, zeros.len()), &zeros);

        let mut expected = [pattern(1, 0, old_bytes), zeros].concat();
        for (at, len) in
            [(old_bytes - 8192, 16384), (new_bytes - 4096, 4096), (old_bytes + (3 << 20), 1 << 20)]
        {
            let bytes = pattern(2, at as u64, len);
            client.write(at as u64, &bytes);
            expected[at..at + len].copy_from_slice(&bytes);
        }
        slots.iter().for_each(|slot| server.fail(*slot));
        let what = format!("RAID-{} without {slots:?}", shape.level);
        assert_same(&what, 0, &client.read(0, new_bytes), &expected);
        drop(client);
        server.stop();
    }
}

/// Growth does not require an orderly stop, and unsynced stripes stay unsynced.
#[test]
fn a_killed_array_grows_and_is_resynced() {
    let lab = Lab::new();
    let array = lab.create("tank", RAID5);
    let server = array.serve(&["--reactors", "1"]);
    let mut client = server.connect();
    let bytes = pattern(1, 0, client.size_bytes as usize);
    client.write(0, &bytes);
    drop(client);
    server.kill();
    array.members.iter().for_each(|member| lengthen(member, 8, 12));
    array.serve(&["--reactors", "1"]).kill();
    let log = std::fs::read_to_string(lab.path("tank.log")).expect("a log");
    assert!(log.contains(&format!(" grow {}", array.members[0].display())), "the log does not say so: {log}");
    lab.striate_ok(&grow_args(&array.members));
    let in_doubt = array.scrub();
    assert!(in_doubt.need_sync > 0, "a grown array is taken for one that was stopped in order: {in_doubt:?}");
    let server = array.serve(&["--reactors", "1"]);
    server.wait();
    assert_same("after the resync", 0, &server.connect().read(0, bytes.len()), &bytes);
    server.stop();
    array.scrub_is_clean("grown and resynced");
}

#[test]
fn what_is_refused_changes_nothing() {
    let lab = Lab::new();
    let array = lab.create("tank", RAID5);
    let server = array.serve(&["--reactors", "1"]);
    let mut client = server.connect();
    client.write(0, &pattern(1, 0, client.size_bytes as usize));
    let refused = lab.striate_refuses(&grow_args(&array.members));
    assert!(
        refused.contains(&format!("is in use (by process {}, striate)", server.pid())),
        "while it is served: {refused}"
    );
    drop(client);
    server.stop();

    // The smallest member decides.
    array.members[1..].iter().for_each(|member| lengthen(member, 8, 12));
    let content = || -> Vec<Vec<u8>> {
        array.members.iter().map(|member| std::fs::read(member).expect("a member")).collect()
    };
    let before = content();
    let said = lab.striate_ok(&grow_args(&array.members));
    assert!(said.starts_with("nothing to grow: tank: ") && said.contains("slot 0 ("), "{said}");
    let refused = lab.striate_refuses(&grow_args(&array.members[..4]));
    assert!(refused.contains("slot 4 is missing: an array is grown when"), "a member short: {refused}");
    assert!(content() == before, "what was refused changed a member");
    lengthen(&array.members[0], 8, 12);
    lab.striate_ok(&grow_args(&array.members));

    // A device that is shorter than the grown array is refused as a replacement.
    let server = array.serve(&["--reactors", "1"]);
    server.fail(2);
    let short = lab.member("short", &RAID5);
    let refused = lab.striate_refuses(&["replace", "tank", "2", &short.to_string_lossy()]);
    assert!(
        refused.contains("too small") || refused.contains("smaller") || refused.contains("needs"),
        "{refused}"
    );
    server.stop();
}
