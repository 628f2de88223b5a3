//! The scenario that this project began with.
//!
//! A small write goes to one strip of a stripe with meaningless parity, then that very member is lost: the
//! strip must read as it was written, and the rest of the stripe as before. Method: in every stripe of a
//! small range, one strip gets one small write, so that over the range every (rotation, strip) pair is hit;
//! then a set of slots is failed (or was failed before the writes), and the whole range is read. This is done
//! for every slot of a RAID-5 and every pair of a RAID-6, on stripes that are unwritten (over members full of
//! noise), unsynced, or discarded. Oracle: the bytes that were written, over zeros, or over what the unsynced
//! array returned while it was whole.

use crate::content::{assert_same, pattern};
use crate::lab::{Lab, Shape};
use crate::nbd_client::Command;

/// The state of the stripes before the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Never written; the members hold noise.
    Unwritten,
    /// Parity is noise too, and a resync is pending.
    NeedSync,
    /// Overwritten, then trimmed.
    Discarded,
}

/// The time at which members are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    AfterTheWrites,
    BeforeTheWrites,
}

const RAID5: Shape = Shape { chunk: "16K", member_mib: 16, noise: true, ..Shape::RAID5 };
const RAID6: Shape = Shape { chunk: "16K", member_mib: 16, noise: true, ..Shape::RAID6 };

#[test]
fn raid5_unwritten() {
    every_loss(RAID5, Before::Unwritten, Lost::AfterTheWrites);
}

#[test]
fn raid5_unwritten_and_degraded() {
    every_loss(RAID5, Before::Unwritten, Lost::BeforeTheWrites);
}

#[test]
fn raid5_need_sync() {
    every_loss(RAID5, Before::NeedSync, Lost::AfterTheWrites);
}

#[test]
fn raid5_discarded() {
    every_loss(RAID5, Before::Discarded, Lost::AfterTheWrites);
}

#[test]
fn raid5_discarded_and_degraded() {
    every_loss(RAID5, Before::Discarded, Lost::BeforeTheWrites);
}

#[test]
fn raid6_unwritten() {
    every_loss(RAID6, Before::Unwritten, Lost::AfterTheWrites);
}

#[test]
fn raid6_unwritten_and_degraded() {
    every_loss(RAID6, Before::Unwritten, Lost::BeforeTheWrites);
}

#[test]
fn raid6_need_sync() {
    every_loss(RAID6, Before::NeedSync, Lost::AfterTheWrites);
}

#[test]
fn raid6_discarded() {
    every_loss(RAID6, Before::Discarded, Lost::AfterTheWrites);
}

#[test]
fn raid6_discarded_and_degraded() {
    every_loss(RAID6, Before::Discarded, Lost::BeforeTheWrites);
}

fn every_loss(shape: Shape, before: Before, lost: Lost) {
    let init = if before == Before::NeedSync { "sync" } else { "lazy" };
    for slots in shape.losses() {
        check(Shape { init, ..shape }, before, lost, &slots);
    }
}

fn check(shape: Shape, before: Before, lost: Lost, slots: &[usize]) {
    let what = format!("RAID-{} {before:?}, {lost:?}, slots {slots:?}", shape.level);
    let lab = Lab::new();
    let array = lab.create("seed", shape);
    let server = array.serve(&["--reactors", "1"]);
    let mut client = server.connect();
    // Every strip of a stripe, times every rotation.
    let stripes = (shape.members * (shape.members - shape.parities())) as u64;
    let range_bytes = stripes * shape.stripe_bytes();

    if before == Before::Discarded {
        client.write(0, &pattern(11, 0, range_bytes as usize));
        client.done(&Command::Flush);
        client.done(&Command::Trim { offset: 0, len: range_bytes as u32 });
        assert_same(
            &format!("{what}: trimmed"),
            0,
            &client.read(0, range_bytes as usize),
            &vec![0; range_bytes as usize],
        );
    }
    if lost == Lost::BeforeTheWrites {
        slots.iter().for_each(|slot| server.fail(*slot));
    }
    let writes = small_writes(&shape, stripes);
    for (offset, data) in &writes {
        client.write(*offset, data);
    }
    let expected = if before == Before::NeedSync {
        // By the operator's choice the noise of the members shows through here; it only has to stay the same.
        client.read(0, range_bytes as usize)
    } else {
        vec![0; range_bytes as usize]
    };
    let expected = overlay(expected, &writes);
    assert_same(&format!("{what}: as written"), 0, &client.read(0, range_bytes as usize), &expected);
    if lost == Lost::AfterTheWrites {
        slots.iter().for_each(|slot| server.fail_once_synced(*slot));
        assert_same(&format!("{what}: degraded"), 0, &client.read(0, range_bytes as usize), &expected);
    }
    // The strips could also be wrong after a second small write beside the first, with the member gone.
    let more: Vec<_> = writes.iter().map(|(offset, data)| (offset ^ 4096, data.clone())).collect();
    for (offset, data) in &more {
        client.write(*offset, data);
    }
    let expected = overlay(expected, &more);
    assert_same(&format!("{what}: written degraded"), 0, &client.read(0, range_bytes as usize), &expected);
    drop(client);
    server.stop();

    let server = array.serve(&[]);
    let found = server.connect().read(0, range_bytes as usize);
    assert_same(&format!("{what}: after a restart"), 0, &found, &expected);
    server.stop();
}

/// Makes one small write per stripe; the strip changes when all rotations have been hit.
fn small_writes(shape: &Shape, stripes: u64) -> Vec<(u64, Vec<u8>)> {
    let one = |stripe: u64| {
        let strip = stripe / shape.members as u64;
        let len = if stripe.is_multiple_of(3) { 512 } else { 4096 };
        let offset = stripe * shape.stripe_bytes() + strip * shape.chunk_bytes() + 4096 * (stripe % 4);
        (offset, pattern(23, offset, len))
    };
    (0..stripes).map(one).collect()
}

fn overlay(mut content: Vec<u8>, writes: &[(u64, Vec<u8>)]) -> Vec<u8> {
    for (offset, data) in writes {
        content[*offset as usize..*offset as usize + data.len()].copy_from_slice(data);
    }
    content
}
