//! kill -9 of a degraded array that is idle: no stripe is lost.
//!
//! While a member is missing, a stripe that is still marked on the members at an unclean end is lost: its
//! parity may not match, and the missing strip can only be computed from parity. So marks must be few and
//! short-lived. Method: an array of large sparse files loses as many members as a case says, random blocks of
//! 4 KiB are written all over it, and the server is killed as soon as `status` says that nothing is marked
//! (no dirty stripe, no bitmap block that is newer in memory than on the members). The next server counts
//! what is lost. Oracle: that count, which must be 0, and every byte of every stripe that was written to.
//!
//! Counter-check: the same array, killed during its writes, does lose stripes, and the status says how many.
//!
//! Each case is printed as a row of the table in docs/testing.md: `cargo test --test e2e idle_kill --
//! --nocapture --test-threads 1`

use std::collections::BTreeSet;
use std::time::Duration;

use engine::status::ArrayStatus;

use crate::content::{Dice, assert_same, pattern};
use crate::lab::{Array, Lab, Server, Shape};
use crate::nbd_client::Command;

const BLOCK_BYTES: u64 = 4096;
const IN_FLIGHT_MAX: usize = 16;
/// Number of random writes, by row.
const WRITES: [usize; 4] = [1, 16, 64, 2000];

/// Sparse members, which take no space until they are written; parity matches everywhere from the beginning,
/// as after a sweep.
const RAID5: Shape = Shape { members: 4, init: "zero", member_mib: 10 << 10, ..Shape::RAID5 };
const RAID6: Shape = Shape { level: 6, members: 5, ..RAID5 };

#[test]
fn an_idle_raid5_without_a_member_loses_nothing() {
    every_row(RAID5, &[1]);
}

#[test]
fn an_idle_raid6_without_a_member_loses_nothing() {
    every_row(RAID6, &[1]);
}

#[test]
fn an_idle_raid6_without_two_members_loses_nothing() {
    every_row(RAID6, &[1, 3]);
}

fn every_row(shape: Shape, lost_slots: &[usize]) {
    for writes in WRITES {
        let row = idle(shape, lost_slots, writes);
        println!(
            "| RAID-{} of {} | {} | {writes} | {} | {:.1} s | {} |",
            shape.level,
            shape.members,
            lost_slots.len(),
            row.stripes,
            row.idle_after.as_secs_f64(),
            row.lost
        );
        assert_eq!(row.lost, 0, "stripes lost by a kill of an idle array: {shape:?} {lost_slots:?} {writes}");
    }
}

/// A row of the table.
struct Row {
    stripes: u64,
    idle_after: Duration,
    lost: u64,
}

/// The indices of the blocks that were written; the content of each follows from its index.
type Written = BTreeSet<u64>;

fn idle(shape: Shape, lost_slots: &[usize], writes: usize) -> Row {
    let mut dice = Dice::new("idle kill");
    let lab = Lab::new();
    let array = lab.create("idle", shape);
    let server = array.serve(&[]);
    for slot in lost_slots {
        server.fail(*slot);
    }
    let mut written = Written::new();
    write_random_blocks(&server, &mut dice, writes, &mut written);
    let idle_after = server.wait_until_idle();
    server.kill();

    let server = array.serve(&[]);
    let status = server.status();
    if status.lost_bytes == 0 {
        assert_eq!(status.health, shape.health_without(lost_slots.len()), "{status:?}");
    }
    let (stripes, lost) = (stripes(&status), status.cells.lost + status.lost_rows.bytes);
    if lost == 0 {
        compare(&array, &server, &written, "after the kill");
    }
    server.stop();
    Row { stripes, idle_after, lost }
}

#[test]
fn a_degraded_array_that_is_only_started_loses_nothing() {
    for (shape, lost_slots) in [(RAID5, &[2][..]), (RAID6, &[0, 4][..])] {
        let lab = Lab::new();
        let array = lab.create("started", shape);
        let server = array.serve(&[]);
        let mut written = Written::new();
        for slot in lost_slots {
            server.fail(*slot);
        }
        write_random_blocks(&server, &mut Dice::new("started"), 64, &mut written);
        server.stop();
        // Neither a start nor reads mark any stripe.
        let server = array.serve(&[]);
        compare(&array, &server, &written, "before the kill");
        server.kill();
        let server = array.serve(&[]);
        let status = server.status();
        assert_eq!((status.cells.lost, status.lost_rows.bytes), (0, 0), "{status:?}");
        compare(&array, &server, &written, "after the kill");
        server.stop();
    }
}

/// Shows that the checks above can see losses: a kill during writes leaves marks, and those stripes are lost.
#[test]
fn a_degraded_array_that_is_killed_while_writing_counts_what_it_lost() {
    let mut dice = Dice::new("killed while writing");
    let lab = Lab::new();
    let array = lab.create("busy", RAID5);
    let server = array.serve(&[]);
    server.fail(1);
    write_random_blocks(&server, &mut dice, 64, &mut Written::new());
    let mut client = server.connect();
    for _ in 0..IN_FLIGHT_MAX {
        let (_, command) = random_write(client.size_bytes, &mut dice);
        client.send(&command).expect("the server lives");
    }
    client.receive().expect("an answer").1.expect("written");
    server.kill();
    let server = array.serve(&[]);
    let cells = server.status().cells;
    println!("killed while writing: {} stripes lost", cells.lost);
    assert!(cells.lost > 0, "marks were there at the kill: {cells:?}");
    server.stop();
}

fn content(block: u64) -> Vec<u8> {
    pattern(1, block * BLOCK_BYTES, BLOCK_BYTES as usize)
}

/// A write of a random block of an array of `size_bytes`, and the block's index.
fn random_write(size_bytes: u64, dice: &mut Dice) -> (u64, Command) {
    let block = dice.below(size_bytes / BLOCK_BYTES);
    (block, Command::Write { offset: block * BLOCK_BYTES, data: content(block), fua: false })
}

/// Writes random blocks with several commands in flight; all are answered at the end.
fn write_random_blocks(server: &Server, dice: &mut Dice, writes: usize, written: &mut Written) {
    let mut client = server.connect();
    let mut in_flight = 0;
    for _ in 0..writes {
        if in_flight == IN_FLIGHT_MAX {
            client.receive().expect("an answer").1.expect("written");
            in_flight -= 1;
        }
        let (block, command) = random_write(client.size_bytes, dice);
        written.insert(block);
        client.send(&command).expect("the server lives");
        in_flight += 1;
    }
    for _ in 0..in_flight {
        client.receive().expect("an answer").1.expect("written");
    }
}

/// Reads every stripe that was written to: the written blocks hold what was written, all others zeros.
#[track_caller]
fn compare(array: &Array, server: &Server, written: &Written, when: &str) {
    let stripe_bytes = array.shape.stripe_bytes();
    let mut stripes: Vec<u64> = written.iter().map(|block| block * BLOCK_BYTES / stripe_bytes).collect();
    stripes.dedup();
    let mut client = server.connect();
    for stripe in stripes {
        let start = stripe * stripe_bytes;
        let mut expected = vec![0; stripe_bytes as usize];
        for block in written.range(start / BLOCK_BYTES..(start + stripe_bytes) / BLOCK_BYTES) {
            let at = (block * BLOCK_BYTES - start) as usize;
            expected[at..at + BLOCK_BYTES as usize].copy_from_slice(&content(*block));
        }
        assert_same(when, start, &client.read(start, stripe_bytes as usize), &expected);
    }
}

fn stripes(status: &ArrayStatus) -> u64 {
    let cells = status.cells;
    cells.unwritten + cells.clean + cells.dirty + cells.need_sync
}
