//! The life of members: lost, replaced, rebuilt, another one lost; and members that return with older
//! content.
//!
//! Method (mdadm's 01r5integ, 01raid6integ and 01replace): fill the array with a pattern; then, for every
//! slot in turn, fail it, compare, write some more, replace it, write while the rebuild runs, wait, compare.
//! The failure of the next slot shows whether the rebuilt ones are right. Oracle: a copy of the content in
//! memory, and a clean scrub at the end.

use engine::status::{Health, MemberState};

use crate::content::{Dice, assert_same, pattern};
use crate::lab::{Backing, Lab, Shape};
use crate::nbd_client::NbdClient;

#[test]
fn every_slot_of_raid5_is_replaced() {
    every_loss_is_replaced(Shape { member_mib: 24, ..Shape::RAID5 });
}

#[test]
fn every_pair_of_raid6_is_replaced() {
    every_loss_is_replaced(Shape { member_mib: 20, chunk: "16K", ..Shape::RAID6 });
}

#[test]
#[ignore = "needs root for loop devices"]
fn every_slot_of_raid5_on_loop_devices_is_replaced() {
    every_loss_is_replaced(Shape { member_mib: 24, backing: Backing::Loop, members: 4, ..Shape::RAID5 });
}

/// A copy of the content, kept beside the array.
struct Copy {
    bytes: Vec<u8>,
    value: u64,
}

impl Copy {
    fn write(&mut self, client: &mut NbdClient, dice: &mut Dice, writes: usize) {
        for _ in 0..writes {
            self.value += 1;
            let len = dice.pick(&[512, 4096, 20480, 65536, 300 << 10]);
            let offset = dice.below((self.bytes.len() - len) as u64 / 512) * 512;
            let data = pattern(self.value, offset, len);
            client.write(offset, &data);
            self.bytes[offset as usize..offset as usize + len].copy_from_slice(&data);
        }
    }

    #[track_caller]
    fn compare(&self, client: &mut NbdClient, when: &str) {
        assert_same(when, 0, &client.read(0, self.bytes.len()), &self.bytes);
    }
}

fn every_loss_is_replaced(shape: Shape) {
    let mut dice = Dice::new("rebuild");
    let lab = Lab::new();
    let mut array = lab.create("life", shape);
    let server = array.serve(&["--reactors", "2"]);
    let mut client = server.connect();
    // A part stays unwritten: it must be rebuilt as zeros without being read.
    let bytes = pattern(1, 0, (client.size_bytes / 8 * 5) as usize & !4095);
    client.write(0, &bytes);
    let mut copy = Copy { bytes, value: 1 };
    let mut replaced = array.members.clone();
    for (turn, slots) in shape.losses().iter().enumerate() {
        for slot in slots {
            server.fail(*slot);
            copy.compare(&mut client, &format!("without {slot} of {slots:?}"));
            copy.write(&mut client, &mut dice, 8);
        }
        assert_eq!(server.status().health, Health::NoRedundancy);
        for slot in slots {
            let fresh = lab.member(&format!("fresh.{turn}.{slot}"), &Shape { noise: true, ..shape });
            server.replace(*slot, &fresh);
            replaced[*slot] = fresh;
            copy.write(&mut client, &mut dice, 16);
            server.wait(); // one rebuild at a time
        }
        assert_eq!(server.status().health, Health::Optimal, "after the rebuild of {slots:?}");
        copy.compare(&mut client, &format!("{slots:?} rebuilt"));
    }
    drop(client);
    server.stop();
    array.members = replaced;
    array.scrub_is_clean("after every replacement");
    let server = array.serve(&[]);
    copy.compare(&mut server.connect(), "after a restart");
    server.stop();
}

#[test]
fn a_rebuild_goes_on_after_a_kill() {
    let lab = Lab::new();
    let mut array = lab.create("again", Shape { member_mib: 64, ..Shape::RAID5 });
    let server = array.serve(&[]);
    let mut client = server.connect();
    let bytes = pattern(5, 0, client.size_bytes as usize & !4095);
    client.write(0, &bytes);
    let copy = Copy { bytes, value: 5 };
    // Stripes that are Dirty when a degraded array is killed may be lost (kill.rs has that case). So all
    // cells are swept before the loss and nothing is written after it: the rebuild by itself must leave every
    // stripe certain.
    server.wait_until_idle();
    server.fail(2);
    let fresh = lab.member("fresh", &array.shape);
    server.replace(2, &fresh);
    drop(client);
    server.kill();
    array.members[2] = fresh;
    let server = array.serve(&[]);
    copy.compare(&mut server.connect(), "a killed rebuild");
    server.wait();
    assert_eq!(server.status().health, Health::Optimal, "the rebuild went on");
    server.fail(4);
    copy.compare(&mut server.connect(), "after the rebuild, without slot 4");
    server.stop();
}

#[test]
fn a_stale_member_does_not_join_silently() {
    let lab = Lab::new();
    let array = lab.create("stale", Shape::RAID5);
    let server = array.serve(&[]);
    let mut client = server.connect();
    client.write(0, &pattern(1, 0, 4 << 20));
    server.fail(1);
    let newer = pattern(2, 0, 4 << 20);
    client.write(0, &newer);
    drop(client);
    server.stop();
    // Slot 1 returns with the content of that time.
    let server = array.serve(&[]);
    let state = server.slot_state(1);
    assert_ne!(state, MemberState::InSync, "it missed writes");
    assert_same("beside a stale member", 0, &server.connect().read(0, newer.len()), &newer);
    server.stop();
}

#[test]
fn a_member_that_was_left_out_does_not_join_silently() {
    let lab = Lab::new();
    let array = lab.create("left", Shape::RAID6);
    let server = array.serve(&[]);
    server.connect().write(0, &pattern(1, 0, 4 << 20));
    server.stop();
    let server = array.serve_members(&array.members[1..], &[]);
    assert_eq!(server.slot_state(0), MemberState::Missing);
    let newer = pattern(2, 0, 4 << 20);
    server.connect().write(0, &newer);
    server.stop();
    let server = array.serve(&[]);
    assert_ne!(server.slot_state(0), MemberState::InSync, "it missed writes");
    assert_same("beside a member from the past", 0, &server.connect().read(0, newer.len()), &newer);
    // A rebuilt member counts again. The server knows the device as a member, but lets the operator use it.
    let path = array.members[0].to_str().expect("UTF-8");
    lab.striate_ok(&["replace", "left", "0", path, "--force"]);
    server.wait();
    assert_eq!(server.status().health, Health::Optimal, "the member from the past was filled anew");
    server.fail(3);
    assert_same("from the member that was filled", 0, &server.connect().read(0, newer.len()), &newer);
    server.stop();
}
