//! Sectors that can neither be read nor written, as on a drive that has no spare sectors left: they cost
//! their own rows, but no member that the array needs.
//!
//! Method: sectors at chosen places fail each read and each write. Oracle: the world's model of the bytes,
//! and which members are in use.

use std::sync::atomic::Ordering;

use bitmap::Cell;
use engine::format::Level;
use engine::format::superblock::Copy;
use engine::members::Failure;
use engine::request::RequestKind;

use crate::disks::SECTOR;
use crate::world::restart::Serve;
use crate::world::{Config, Initial, World};

const CHUNK: u32 = 64 << 10;

fn array(seed: u64, level: Level, members: usize, cell: Cell) -> World {
    let initial = Initial::All(cell);
    let world =
        World::new(Config { seed, level, members, chunk_bytes: CHUNK, stripes: 24, initial, reactors: 1 });
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.is_worn = true);
    world
}

/// The host's address of a row of a data strip.
fn at(world: &World, stripe: u64, strip: u8, row: u32) -> u64 {
    let strip = u64::from(strip) * u64::from(CHUNK);
    stripe * u64::from(world.geometry.stripe_bytes()) + strip + u64::from(row)
}

fn in_sync(world: &World) -> u32 {
    world.shared.members.view().readable.count()
}

/// The repair of a bad sector is refused each time: the host still gets its bytes, and each member stays in
/// use to reconstruct the bad rows of the others.
#[test]
fn a_repair_that_fails_costs_no_member() {
    let mut world = array(71, Level::Raid5, 4, Cell::Clean);
    for strip in 0..3 {
        world.spoil(5, strip, u32::from(strip) * (CHUNK / 4));
    }
    for _ in 0..3 {
        for strip in 0..3 {
            let at = at(&world, 5, strip, 0);
            assert!(!world.fails(RequestKind::Read, at, u64::from(CHUNK)));
        }
    }
    assert_eq!((in_sync(&world), world.bad_sectors()), (4, 3));
    world.verify();
}

/// Unsynced stripes, for which no member can be spared: the resync ends, and only the rows of the bad sector
/// are lost.
#[test]
fn a_resync_passes_what_takes_no_zeros() {
    let mut world = array(72, Level::Raid5, 4, Cell::NeedSync);
    world.spoil(4, 0, 8192);
    let lost = at(&world, 4, 0, 8192);
    world.lossy.fill(true);
    world.pass(900);
    assert_eq!(in_sync(&world), 4, "it holds what cannot be computed from the others");
    let steward = &world.shared.steward;
    assert_eq!(steward.resync_total.load(Ordering::Relaxed), 0);
    assert!(!steward.resync_is_due.load(Ordering::Relaxed), "all that can be done is done");
    let unsynced: Vec<u64> =
        (0..24).filter(|&stripe| world.shared.bitmap.cell(stripe) == Cell::NeedSync).collect();
    assert_eq!(unsynced, [4]);
    assert_eq!(world.failing_reads(4096), [lost]);
    // Stripe 4 stays unsynced, so without slot 1 it may lose more; the parity of all other stripes matches.
    world.give_up(lost, 4096);
    world.lose(1);
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    let failing = world.failing_reads(4096);
    assert!(failing.iter().all(|at| at / stripe_bytes == 4), "{failing:?}");
}

/// A slot is filled from members with such sectors: the rebuild ends with the rows of the bad strips and of
/// the slot listed, and the array is whole.
#[test]
fn a_rebuild_passes_what_takes_no_zeros() {
    for (level, members) in [(Level::Raid5, 4), (Level::Raid6, 5)] {
        let mut world = array(73, level, members, Cell::Clean);
        let parities = members as u8 - world.geometry.data();
        // As many members as the level has parities are bad in one row of a stripe in which slot 2 holds
        // data.
        let bad: Vec<u8> = (0..members as u8).filter(|&slot| slot != 2).take(parities.into()).collect();
        let rotation = world.geometry.rotation(7);
        for &slot in &bad {
            world.spoil(7, rotation.strip_on(slot), 4096);
        }
        assert!(world.shared.members.fail(2, Failure::Operator));
        world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
        world.replace(2, 0);
        assert_eq!(in_sync(&world), members as u32, "{level:?}");
        world.lossy.fill(true);
        let is_data = |slot: &u8| world.geometry.data_strips().has(rotation.strip_on(*slot));
        let mut lost: Vec<u64> = bad
            .iter()
            .chain(&[2])
            .filter(|slot| is_data(slot))
            .map(|&slot| at(&world, 7, rotation.strip_on(slot), 4096))
            .collect();
        lost.sort_unstable();
        assert_eq!(world.failing_reads(4096), lost, "{level:?}");
        assert_eq!(world.shared.bitmap.cell(7), Cell::NeedSync, "what could not be written is in no parity");
        // The sectors become readable again with their old content. The start still knows which rows are
        // lost, and which parity may not be an input.
        world.disks.borrow_mut().iter_mut().for_each(|disk| disk.bad.clear());
        let mut world = world.restart(Serve::ReadWrite);
        world.lossy.fill(true);
        assert_eq!(world.failing_reads(4096), lost, "{level:?}");
        for &at in &lost {
            world.give_up(at, 4096);
        }
        world.turn_until("a resync", |world| world.is_synced());
        world.lose(1);
        assert_eq!(world.failing_reads(4096), lost, "{level:?}");
    }
}

/// A host writes to such a sector. A member that can be spared is failed for it; a member that is needed
/// stays, and the write fails.
#[test]
fn a_write_to_a_bad_sector_costs_no_member_that_is_needed() {
    let mut world = array(74, Level::Raid6, 5, Cell::Clean);
    let write = RequestKind::Write { fua: false };
    // The writes cover whole stripes: a smaller one would read the bad sector first, and fail there.
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    for (strip, others) in [(0, 4), (1, 3), (2, 3)] {
        world.spoil(9, strip, 0);
        world.lossy[9] = others == 3 && strip == 2;
        assert_eq!(world.fails(write, 9 * stripe_bytes, stripe_bytes), strip == 2, "strip {strip}");
        assert_eq!(in_sync(&world), others, "after strip {strip}");
    }
    let size = world.geometry.size_bytes();
    assert!(!world.fails(write, size - 4096, 4096), "the array serves");
    assert!(!world.shared.failed());
}

/// A dead member is failed at its first error even if it is needed; writes that other members can hold
/// succeed.
#[test]
fn a_dead_member_is_failed_though_it_is_needed() {
    let mut world = array(75, Level::Raid5, 4, Cell::NeedSync);
    world.disks.borrow_mut()[0].dead = true;
    world.lossy.fill(true);
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    assert!(!world.fails(RequestKind::Write { fua: false }, 20 * stripe_bytes, stripe_bytes));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(0));
    assert_eq!(in_sync(&world), 3);
}

/// A needed member refuses a write, and a copy of its superblock cannot be read: the other copy shows that
/// the member is alive. With both copies unreadable it counts as dead.
#[test]
fn one_superblock_copy_shows_that_a_member_is_there() {
    let mut world = array(76, Level::Raid5, 4, Cell::Clean);
    world.disks.borrow_mut()[0].is_worn = false;
    assert!(world.shared.members.fail(3, Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(3));
    let (write, data) = (RequestKind::Write { fua: false }, world.data_bytes());
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    world.lossy.fill(true);
    for (nth, copies) in [&[Copy::A][..], &[Copy::B], &[Copy::A, Copy::B]].into_iter().enumerate() {
        // This write wakes the array, so the superblocks are not written again for a while.
        assert!(!world.fails(write, 0, stripe_bytes));
        {
            let disk = &mut world.disks.borrow_mut()[0];
            disk.bad.extend(copies.iter().map(|copy| copy.offset_bytes() / SECTOR));
            disk.refuses = Some((5, data.clone()));
        }
        assert!(world.fails(write, (10 + nth as u64) * stripe_bytes, stripe_bytes));
        assert_eq!(in_sync(&world), if nth < 2 { 3 } else { 2 }, "{copies:?}");
        let disk = &mut world.disks.borrow_mut()[0];
        (disk.refuses, disk.bad) = (None, std::collections::BTreeSet::new());
    }
}
