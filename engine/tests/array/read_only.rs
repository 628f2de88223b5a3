//! An array that is served read-only: the mode in which data is rescued from members that are failing.
//!
//! Method: an array is filled and stopped, and started read-only over members that refuse every write.
//! Oracle: the model of the host, and the members' bytes before and after.

use bitmap::Cell;
use engine::format::Level;
use engine::geometry::Slots;
use engine::members::{MEMBER_PATIENCE_S, READ_ERRORS_MAX};
use engine::request::RequestKind;

use crate::world::restart::Serve;
use crate::world::{Config, Initial, World};

/// Few stripes with long strips, or many stripes with short ones.
#[derive(Clone, Copy)]
struct Strips {
    chunk_bytes: u32,
    stripes: u64,
}

const LONG: Strips = Strips { chunk_bytes: 64 << 10, stripes: 8 };
const MANY: Strips = Strips { chunk_bytes: 4 << 10, stripes: 600 };

fn filled(seed: u64, level: Level, members: usize, reactors: usize, strips: Strips) -> World {
    let initial = Initial::All(Cell::Clean);
    let Strips { chunk_bytes, stripes } = strips;
    let mut world = World::new(Config { seed, level, members, chunk_bytes, stripes, initial, reactors });
    world.load(60);
    world.stop();
    let world = world.restart(Serve::ReadOnly);
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.read_only = true);
    world
}

/// Bad sectors on as many members as the level tolerates, in far more strips than it takes to fail a member
/// of a writable array: every read is answered, no member leaves, nothing is written, and a flush ends at
/// once.
#[test]
fn bad_sectors_are_passed_by() {
    for (seed, level, members, reactors) in [(1, Level::Raid5, 4, 1), (2, Level::Raid6, 5, 2)] {
        let mut world = filled(seed, level, members, reactors, MANY);
        let before = world.disk_contents();
        let all = world.geometry.slots();
        for stripe in 0..MANY.stripes {
            for strip in 0..level.parities() as u8 {
                let (device, first) = world.sector_of(stripe, strip);
                world.disks.borrow_mut()[device].bad.insert(first);
            }
        }
        for round in 0..2 {
            for offset in (0..world.geometry.size_bytes()).step_by(4096) {
                while !world.ask(RequestKind::Read, offset, 4096) {
                    world.turn();
                }
            }
            world.settle();
            assert!(world.ask(RequestKind::Flush, 0, 0));
            assert_eq!(world.outstanding(), 0, "round {round}: a flush waits, though nothing was written");
        }
        let is_bad = |slot: &u8| world.shared.members.read_errors(*slot) > 3 * u64::from(READ_ERRORS_MAX);
        assert!((0..members as u8).filter(is_bad).count() > level.parities(), "too few reads have failed");
        assert_eq!(world.shared.members.view().readable, all);
        assert!((0..members as u8).all(|slot| world.shared.members.failure(slot).is_none()));
        assert_eq!(world.errors, 0);
        assert!(world.disk_contents() == before, "a member was written to");
        // The last operation is released in the turn after its answer.
        (0..2).for_each(|_| world.turn());
        assert!(!world.must_turn(), "a reactor turns though nothing is to be done");
        world.disks.borrow_mut().iter_mut().for_each(|disk| disk.read_only = false);
        world.heal_bad_sectors();
        let mut world = world.restart(Serve::ReadWrite);
        world.load(20);
        world.verify();
    }
}

/// Unsynced stripes and lost members keep no reactor of a read-only array awake: the resync that they need
/// never comes.
#[test]
fn unsynced_stripes_are_left_as_they_are() {
    let initial = Initial::All(Cell::NeedSync);
    let config = Config {
        seed: 4,
        level: Level::Raid5,
        members: 4,
        chunk_bytes: 4 << 10,
        stripes: 40,
        initial,
        reactors: 1,
    };
    let world = World::new(config);
    // None of these cells is on disk yet: the start finds the cells that the creation wrote, and the loop
    // below makes all stripes unsynced again.
    let mut world = world.restart(Serve::ReadOnly);
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.read_only = true);
    (0..world.shared.bitmap.blocks())
        .for_each(|block| world.shared.bitmap.load_stale(bitmap::BlockIndex(block)));
    world.lossy.fill(true);
    (0..2_000).for_each(|_| world.turn());
    assert!(!world.is_synced());
    assert!(!world.must_turn(), "a resync is waited for that never comes");
}

/// A silent member is not read as long as it is silent, and is read again as soon as it answers.
#[test]
fn silence_is_no_failure_on_record() {
    let mut world = filled(3, Level::Raid5, 4, 1, LONG);
    let all = world.geometry.slots();
    let before = world.disk_contents();
    world.disks.borrow_mut()[2].silent = true;
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    assert!(
        world.ask(RequestKind::Read, 0, stripe_bytes)
            && world.ask(RequestKind::Read, stripe_bytes, stripe_bytes)
    );
    world.turn_until("its patience", |world| world.shared.members.view().readable != all);
    assert!(world.now_ns() > u64::from(MEMBER_PATIENCE_S) * 1_000_000_000);
    assert_eq!(world.shared.members.view().readable, all.minus(Slots::one(2)));
    assert!(world.ask(RequestKind::Flush, 0, 0));
    for stripe in 4..8 {
        assert!(world.ask(RequestKind::Read, stripe * stripe_bytes, stripe_bytes));
    }
    // No request waits for the member, not even those that it was asked for before.
    world.settle();
    world.disks.borrow_mut()[2].silent = false;
    world.turn_until("an answer", |world| world.shared.members.view().readable == all);
    assert_eq!(world.shared.members.view().readable, all);
    assert!(world.shared.members.failure(2).is_none());
    assert_eq!(world.errors, 0);
    assert!(world.disk_contents() == before, "a member was written to");
}
