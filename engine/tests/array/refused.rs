//! Operations that members do not carry out for no fault of their own: `ENOSPC` of a full file system, `EINVAL` of a request that
//! does not suit the device.
//!
//! Method: members answer so over a range of their bytes while there is load, then well again. Oracle: the model of the host, and
//! that no member is out, in memory or on record.

use bitmap::Cell;
use engine::array::Order;
use engine::format::Level;

use crate::world::restart::Serve;
use crate::world::{Config, Initial, World};

const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;

fn world(seed: u64, level: Level, members: usize, initial: Initial) -> World {
    World::new(Config {
        seed,
        level,
        members,
        chunk_bytes: 4 << 10,
        stripes: 40,
        initial,
        reactors: 1 + seed as usize % 2,
    })
}

fn assert_all_there(world: &World) {
    let all = world.geometry.slots();
    assert_eq!((world.shared.members.view().readable, world.shared.members.record().readable), (all, all));
}

/// One member, or all of them, refuse every write of a strip. What was refused is an error; nothing else is lost, and once
/// nothing is refused any more every stripe is consistent.
#[test]
fn refused_strips_cost_no_member() {
    for (seed, (errno, victims)) in (0..).zip([(ENOSPC, 1), (EINVAL, 1), (ENOSPC, 6), (EINVAL, 6)]) {
        for (level, members) in [(Level::Raid5, 4), (Level::Raid6, 6)] {
            let mut world = world(seed, level, members, Initial::Mixed);
            world.load(60);
            world.turn_until("a resync", |world| world.is_synced());
            let data = world.data_bytes();
            for disk in world.disks.borrow_mut().iter_mut().take(victims) {
                disk.refuses = Some((errno, data.clone()));
            }
            world.lossy.fill(true);
            world.load(80);
            world.settle();
            assert!(world.errors > 0, "nothing was refused");
            assert_all_there(&world);
            assert!((0..victims.min(members) as u8).all(|slot| world.shared.members.refusals(slot) > 0));
            world.disks.borrow_mut().iter_mut().for_each(|disk| disk.refuses = None);
            let from = world.now_ns();
            world.turn_until("a resync", |world| world.is_synced() && world.now_ns() > from + 11_000_000_000);
            world.lossy.fill(false);
            world.load(20);
            world.verify();
            assert_all_there(&world);
        }
    }
}

/// A member without room for what is written to it: stripes whose parity it holds can never be resynced, and it is failed all the
/// same, on order. Nothing is lost.
#[test]
fn a_member_that_refuses_writes_can_be_failed() {
    for (seed, level, members) in [(30, Level::Raid5, 4), (31, Level::Raid6, 6)] {
        let mut world = world(seed, level, members, Initial::All(Cell::Clean));
        let data = world.data_bytes();
        world.disks.borrow_mut()[1].refuses = Some((ENOSPC, data));
        world.lossy.fill(true);
        world.load(80);
        let unsynced = |world: &World, is_data: bool| {
            let unsynced = |stripe: &u64| world.shared.bitmap.cell(*stripe) == Cell::NeedSync;
            (0..40).filter(unsynced).any(|stripe| world.geometry.is_data(stripe, 1) == is_data)
        };
        let fail = |world: &mut World| {
            let answered = world.order(|answer| Order::Fail { slot: 1, answer });
            world.turn_until("an answer", |_| !answered.is_empty());
            answered.recv().expect("an answer")
        };
        if unsynced(&world, true) {
            assert!(
                fail(&mut world).expect_err("it holds what nobody else has").contains("still to be resynced")
            );
        }
        world.turn_until("a resync of what it holds data of", |world| !unsynced(world, true));
        assert!(unsynced(&world, false), "nothing was refused");
        assert_eq!(fail(&mut world), Ok(()));
        world.lossy.fill(false);
        world.verify();
        assert!(world.shared.members.record().readable.count() + 1 == members as u32);
    }
}

/// A member that refuses its metadata or a flush stops the array as a whole. Nothing waits, no member is failed on record,
/// and the next start finds every one of them.
#[test]
fn refused_metadata_stops_the_array() {
    for (seed, errno) in [(10, ENOSPC), (11, EINVAL)] {
        let mut world = world(seed, Level::Raid5, 4, Initial::All(Cell::Unwritten));
        world.load(40);
        world.turn_until("a resync", |world| world.is_synced());
        world.settle();
        // Slot 0 keeps a copy of the first block of the bitmap.
        let metadata = 0..world.data_bytes().start;
        world.disks.borrow_mut()[0].refuses = Some((errno, metadata));
        world.lossy.fill(true);
        // A sweep has blocks of the bitmap written, if a write has not.
        world.load(20);
        world.turn_until("a metadata write", |world| world.shared.failed());
        world.load(20);
        world.settle();
        assert!(
            world.shared.members.failure(0).is_some_and(|why| why.to_string().contains("stopped serving"))
        );
        assert_all_there(&world);
        world.disks.borrow_mut()[0].refuses = None;
        let mut world = world.restart(Serve::ReadWrite);
        assert_all_there(&world);
        world.turn_until("a resync", |world| world.is_synced());
        world.lossy.fill(false);
        world.verify();
    }
}

/// A device that is being filled and does not take its metadata is failed, also while stripes need a resync: the array needs
/// nothing of it.
#[test]
fn a_slot_that_is_being_filled_stops_no_array() {
    for (seed, errno) in [(20, ENOSPC), (21, EINVAL)] {
        let mut world = world(seed, Level::Raid6, 6, Initial::All(Cell::Clean));
        assert!(world.shared.members.fail(1, engine::members::Failure::Operator));
        world.turn_until("a record", |world| !world.shared.members.record().writable.has(1));
        let device = world.new_device();
        let answered = world.order_join(1, device);
        world.turn_until("a join", |_| !answered.is_empty());
        assert_eq!(answered.recv().expect("an answer"), Ok(()));
        // Another member is short of room too, so stripes stay torn.
        world.lossy.fill(true);
        let data = world.data_bytes();
        world.disks.borrow_mut()[0].refuses = Some((errno, data.clone()));
        world.turn_until("a torn stripe", |world| {
            world.ask_random();
            world.shared.bitmap.need_sync() > 0
        });
        world.disks.borrow_mut()[usize::from(device.0)].refuses = Some((errno, 0..data.start));
        world.turn_until("its failure", |world| {
            world.ask_random();
            world.shared.failed() || !world.shared.members.record().writable.has(1)
        });
        assert!(!world.shared.failed(), "the array has stopped for a device that it does not need");
        assert_eq!(world.shared.members.view().readable.count(), 5);
    }
}
