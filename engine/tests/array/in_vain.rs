//! Rows that background work gives up: it gives up the pieces that it has read several times in vain, and no
//! others.
//!
//! Method: one sector of a strip stays bad, so every attempt at its stripe fails. Reads of another piece of
//! the strip fail now and then, or with an error that is not the device's. Oracle: the list of lost rows, and
//! the world's model of the bytes.

use bitmap::Cell;
use engine::array::Order;
use engine::format::Level;
use engine::members::Failure;
use engine::request::RequestKind;

use crate::disks::{ALWAYS, Lapse, SECTOR};
use crate::world::{Config, Initial, World};

const CHUNK: u32 = 64 << 10;
const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const ENOSPC: i32 = 28;
/// The row of a good piece, and a row behind it.
const GOOD: u32 = 16 << 10;
const BEHIND: u32 = 48 << 10;

fn array(seed: u64, cell: Cell) -> World {
    let (level, initial) = (Level::Raid5, Initial::All(cell));
    World::new(Config { seed, level, members: 4, chunk_bytes: CHUNK, stripes: 24, initial, reactors: 1 })
}

/// An array without slot 2, a stripe in which slots 0 and 2 both hold data, and slot 0's strip in it.
fn degraded(seed: u64) -> (World, u64, u8) {
    let mut world = array(seed, Cell::Clean);
    assert!(world.shared.members.fail(2, Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
    let both = |stripe: &u64| world.geometry.is_data(*stripe, 0) && world.geometry.is_data(*stripe, 2);
    let stripe = (3..24).find(both).expect("in turn");
    let strip = world.geometry.rotation(stripe).strip_on(0);
    (world, stripe, strip)
}

/// Makes reads of the good piece of a strip fail.
fn lapse(world: &World, stripe: u64, strip: u8, errno: i32, reads: u32) {
    let (disk, sector) = world.sector_of(stripe, strip);
    let sector = sector + u64::from(GOOD) / SECTOR;
    world.disks.borrow_mut()[disk].lapse = Some(Lapse { sector, errno, reads, left: 0 });
}

/// More failing reads than a test makes.
const PIECES_FAIL: u32 = ALWAYS - 1;

/// Makes reads of the good piece alone fail from now on.
fn fail_pieces(world: &World, stripe: u64, strip: u8) {
    lapse(world, stripe, strip, EIO, PIECES_FAIL);
    let (disk, _) = world.sector_of(stripe, strip);
    world.disks.borrow_mut()[disk].lapse.as_mut().expect("just set").left = PIECES_FAIL;
}

fn no_lapse(world: &World) {
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.lapse = None);
}

/// The rows listed as lost, as (slot, row, rows), in order.
fn listed(world: &World) -> Vec<(u8, u32, u32)> {
    let ranges = world.shared.lost.ranges();
    let mut listed: Vec<_> = ranges.iter().map(|range| (range.slot, range.row, range.rows)).collect();
    listed.sort_unstable();
    listed
}

/// Checks that everything except the rows at 0 of the strips of these slots is what the host has written.
fn only_lost(world: World, stripe: u64, slots: &[u8]) {
    only_lost_at(world, stripe, slots, 0);
}

/// Checks that everything except the rows at `row` of the strips of these slots is what the host has written.
fn only_lost_at(mut world: World, stripe: u64, slots: &[u8], row: u32) {
    let bad: Vec<_> = slots.iter().map(|&slot| (slot, row, 4096)).collect();
    assert_eq!(listed(&world), bad, "rows that can be read are given up");
    no_lapse(&world);
    world.lossy.fill(true);
    for at in world.failing_reads(4096) {
        assert_eq!(at / u64::from(world.geometry.stripe_bytes()), stripe);
        world.give_up(at, 4096);
    }
    world.verify();
}

/// In each attempt at the stripe some reads of a good piece fail, and the next read succeeds: none of the
/// piece is given up.
#[test]
fn a_few_failed_reads_cost_a_rebuild_no_rows() {
    for reads in [1, 3] {
        let (mut world, stripe, strip) = degraded(81);
        world.spoil(stripe, strip, 0);
        lapse(&world, stripe, strip, EIO, reads);
        world.replace(2, 0);
        only_lost(world, stripe, &[0, 2]);
    }
}

#[test]
fn a_few_failed_reads_cost_a_resync_no_rows() {
    for reads in [1, 3] {
        let mut world = array(82, Cell::NeedSync);
        let slot = world.geometry.rotation(4).slot_of(0);
        world.spoil(4, 0, 0);
        lapse(&world, 4, 0, EIO, reads);
        world.lossy[4] = true;
        world.turn_until("a resync", |world| world.is_synced());
        only_lost(world, 4, &[slot]);
    }
}

/// Errors that are not the device's (no memory, no space) say nothing about the sector. The stripe is not
/// filled as long as they last.
#[test]
fn errors_of_ours_cost_no_rows() {
    for errno in [ENOMEM, ENOSPC] {
        let (mut world, stripe, strip) = degraded(83);
        world.spoil(stripe, strip, 0);
        lapse(&world, stripe, strip, errno, ALWAYS);
        world.join(2, 0);
        world.pass(200);
        assert!(!world.shared.members.view().readable.has(2), "the rebuild has ended");
        no_lapse(&world);
        world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(2));
        only_lost(world, stripe, &[0, 2]);

        let mut world = array(84, Cell::NeedSync);
        let slot = world.geometry.rotation(4).slot_of(0);
        world.spoil(4, 0, 0);
        lapse(&world, 4, 0, errno, ALWAYS);
        world.lossy[4] = true;
        world.pass(600);
        assert!(!world.is_synced(), "the resync has ended");
        no_lapse(&world);
        world.turn_until("a resync", |world| world.is_synced());
        only_lost(world, 4, &[slot]);
    }
}

/// A host reads in the stripe all the time. During three minutes, reads of a good piece fail for 0.4 s
/// whenever background work reads it. No row is lost to that, and the rebuild ends.
#[test]
fn hosts_at_the_stripe_cost_no_rows() {
    let (mut world, stripe, strip) = degraded(86);
    // Behind the good piece: an attempt that is cut short looks at one piece only, so it would end at a bad
    // piece that came first.
    world.spoil(stripe, strip, BEHIND);
    world.join(2, 0);
    let missing = world.geometry.rotation(stripe).strip_on(2);
    // A row that can be computed from the other strips.
    let at = stripe * u64::from(world.geometry.stripe_bytes())
        + u64::from(missing) * u64::from(CHUNK)
        + (32 << 10);
    let until_ns = world.now_ns() + 900_000_000_000;
    let lapses_until_ns = world.now_ns() + 180_000_000_000;
    let (disk, _) = world.sector_of(stripe, strip);
    let mut failed_ns = None;
    fail_pieces(&world, stripe, strip);
    while !world.shared.members.record().readable.has(2) {
        assert!(world.now_ns() < until_ns, "the rebuild does not end");
        let has_failed = world.disks.borrow()[disk].lapse.is_some_and(|lapse| lapse.left < PIECES_FAIL);
        let since_ns = has_failed.then(|| world.now_ns() - *failed_ns.get_or_insert(world.now_ns()));
        match since_ns {
            Some(0..400_000_000) => {}
            Some(_) => no_lapse(&world),
            // The next lapse begins only after the last reread of this attempt.
            None if world.now_ns() < lapses_until_ns
                && failed_ns.is_some_and(|failed_ns| world.now_ns() - failed_ns > 5_000_000_000) =>
            {
                fail_pieces(&world, stripe, strip);
                failed_ns = None;
            }
            None => {}
        }
        if world.outstanding() < 2 {
            world.ask(RequestKind::Read, at, 4096);
        }
        world.turn();
    }
    world.settle();
    only_lost_at(world, stripe, &[0, 2], BEHIND);
}

/// A strip in which every row is bad is read for minutes before all of it is given up; a stop does not wait
/// for that.
#[test]
fn a_stop_does_not_wait_for_reads_in_vain() {
    let (mut world, stripe, strip) = degraded(85);
    for row in (0..CHUNK).step_by(4096) {
        world.spoil(stripe, strip, row);
    }
    world.join(2, 0);
    world.turn_until("the first rows", |world| !world.shared.lost.is_empty());
    let began_ns = world.now_ns();
    let stopped = world.order(|answer| Order::Stop { answer });
    world.turn_until("a stop", |_| !stopped.is_empty());
    assert_eq!(stopped.recv(), Ok(Ok(())));
    assert!(world.now_ns() - began_ns < 3_000_000_000, "it took {} ns", world.now_ns() - began_ns);
}
