//! An older image of a member is put back: a restored copy, a clone, or a drive that was absent.
//!
//! Method: a member is copied while the array is stopped, the others run once or twice more, and the copy
//! takes the member's place. That member and the others differ in most stripes, while its superblock is whole
//! and was clean. Oracle: the slot is not in sync, the log says which member is left out and why, every byte
//! reads as it was written last, and a read-only start changes nothing.

use std::fs;

use engine::status::{Health, MemberState};

use crate::content::{assert_same, fingerprint, pattern};
use crate::lab::{Array, Lab, Shape};

const SLOT: usize = 2;
const WRITTEN_BYTES: usize = 16 << 20;

fn data(run: u64) -> Vec<u8> {
    pattern(run, 0, WRITTEN_BYTES)
}

/// Serves the array, writes, and stops it.
fn run_once(array: &Array, run: u64) {
    let server = array.serve(&[]);
    assert_eq!(server.status().health, Health::Optimal, "run {run}");
    server.connect().write(0, &data(run));
    server.stop();
}

#[track_caller]
fn is_left_out(array: &Array, newest: u64, options: &[&str], what: &str) {
    // Remove the log of the earlier runs, so that it has this start alone.
    fs::remove_file(array.lab.path(&format!("{}.log", array.name))).expect("a log of the runs before");
    let server = array.serve(options);
    let status = server.status();
    assert_eq!(status.health, array.shape.health_without(1), "{what}: {status:?}");
    assert_ne!(status.members[SLOT].state, MemberState::InSync, "{what}: {status:?}");
    assert_same(what, 0, &server.connect().read(0, WRITTEN_BYTES), &data(newest));
    let (log, path) = (server.log(), array.members[SLOT].display().to_string());
    let says_why = |line: &str| line.contains(&path) && line.contains("left out of slot 2: it ");
    assert!(log.lines().any(says_why), "{what}: the log does not say why slot {SLOT} is left out:\n{log}");
    server.stop();
}

fn an_older_image_is_left_out(shape: Shape) {
    for runs_behind in [1, 2] {
        let lab = Lab::new();
        let array = lab.create("past", shape);
        run_once(&array, 1);
        let (member, image) = (&array.members[SLOT], lab.path("image"));
        fs::copy(member, &image).expect("room");
        let newest = 1 + runs_behind;
        (2..=newest).for_each(|run| run_once(&array, run));
        fs::copy(&image, member).expect("room");
        let what = format!("RAID-{}, {runs_behind} runs behind", shape.level);
        let before: Vec<u64> = array.members.iter().map(|member| fingerprint(member)).collect();
        is_left_out(&array, newest, &["--read-only"], &format!("{what}, read-only"));
        let after: Vec<u64> = array.members.iter().map(|member| fingerprint(member)).collect();
        assert_eq!(after, before, "{what}: a read-only start has changed a member");
        is_left_out(&array, newest, &[], &what);
        // The member stays out until it has been rebuilt.
        is_left_out(&array, newest, &[], &format!("{what}, once more"));
        let server = array.serve(&[]);
        lab.striate_ok(&["replace", "past", "2", member.to_str().expect("UTF-8"), "--force"]);
        server.wait();
        assert_eq!(server.status().health, Health::Optimal, "{what}: filled anew");
        server.stop();
        array.scrub_is_clean(&what);
    }
}

#[test]
fn an_older_image_of_a_member_of_raid5_is_left_out() {
    an_older_image_is_left_out(Shape::RAID5);
}

#[test]
fn an_older_image_of_a_member_of_raid6_is_left_out() {
    an_older_image_is_left_out(Shape::RAID6);
}
