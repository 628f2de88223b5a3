//! Operations that members refuse through no fault of their own: `ENOSPC` from a full file system, `EINVAL`
//! for a request that does not suit the device.
//!
//! Method: members give these errors over a range of their bytes under load, then work again. Oracle: the
//! model of the host; and no member leaves, neither in memory nor on record.

use std::sync::atomic::Ordering;

use bitmap::{BlockIndex, Cell};
use engine::array::Order;
use engine::format::Level;
use engine::geometry::Slots;
use engine::request::RequestKind;
use engine::tally::Tally;

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

/// Whether another resync is due, after a pause; an operator waits for that one too.
fn is_due(world: &World) -> bool {
    world.shared.steward.resync_is_due.load(Ordering::Relaxed)
}

/// One member, or all of them, refuse every write of a strip. Refused requests fail; nothing else is lost,
/// and once nothing is refused any more every stripe becomes consistent.
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
            world.turn_until("a pause before a resync", |world| is_due(world));
            world.disks.borrow_mut().iter_mut().for_each(|disk| disk.refuses = None);
            let from = world.now_ns();
            world.turn_until("a resync", |world| world.is_synced() && world.now_ns() > from + 11_000_000_000);
            assert!(!is_due(&world), "it is over");
            world.lossy.fill(false);
            world.load(20);
            world.verify();
            assert_all_there(&world);
        }
    }
}

/// Stripes in which a member without room holds parity can never be resynced. An order can still fail that
/// member, and no data is lost.
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

/// A member that refuses its metadata or a flush stops the array as a whole. No request waits, no member is
/// failed on record, and the next start finds every member.
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
        // If no write has caused a write of a bitmap block, the sweep does.
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

/// A failed array begins no write of a bitmap block. The previous write may be incomplete, and the next would
/// go to the other place and overwrite the newest complete generation.
#[test]
fn a_failed_array_writes_no_block() {
    for (seed, errno) in (50..90).zip([ENOSPC, EINVAL].into_iter().cycle()) {
        let initial = Initial::All(Cell::Clean);
        let config = Config {
            seed,
            level: Level::Raid5,
            members: 4,
            chunk_bytes: 4096,
            stripes: 400,
            initial,
            reactors: 1,
        };
        let mut world = World::new(config);
        world.settle();
        // Slot 0 keeps a copy of the first block of the bitmap.
        let bitmap = world.shared.layout.bitmap_offset_bytes..world.data_bytes().start;
        world.disks.borrow_mut()[0].refuses = Some((errno, bitmap));
        world.lossy.fill(true);
        // Marks more regions than one write of the block can carry.
        let stripe_bytes = u64::from(world.geometry.stripe_bytes());
        let begun = |world: &World| Tally::sum(&world.shared.tallies).intent_writes;
        let mut stripe = 0;
        while !world.shared.failed() {
            world.ask(RequestKind::Write { fua: false }, stripe % 400 * stripe_bytes, 4096);
            stripe += 32;
            world.turn();
        }
        let before = begun(&world);
        world.settle();
        world.pass(5);
        assert_eq!(begun(&world), before, "a block was written after the array had failed");
    }
}

/// A failed array does no background work: the content of its members is left to the next start.
#[test]
fn a_failed_array_resyncs_nothing() {
    let initial = Initial::All(Cell::NeedSync);
    let (level, chunk_bytes) = (Level::Raid5, 4096);
    let config = Config { seed: 91, level, members: 4, chunk_bytes, stripes: 400, initial, reactors: 1 };
    let mut world = World::new(config);
    world.turn_until("a beginning", |world| world.shared.bitmap.need_sync() < 390);
    world.shared.members.stop_serving(0, ENOSPC);
    world.turn_until("the end of its I/O", |world| world.io_is_quiet());
    let (left, before) = (world.shared.bitmap.need_sync(), world.disk_contents());
    assert!(left > 0, "the resync has ended");
    world.pass(60);
    assert_eq!(world.shared.bitmap.need_sync(), left);
    assert!(world.disk_contents() == before, "a member was written to");
}

/// A device that is being filled and refuses its metadata is failed, even while stripes are unsynced: the
/// array does not need its content.
#[test]
fn a_slot_that_is_being_filled_stops_no_array() {
    for (seed, errno) in [(20, ENOSPC), (21, EINVAL)] {
        // The strips of slot 1 are lost in unsynced stripes, so these stay unsynced until the slot is filled.
        let mut world = world(seed, Level::Raid6, 6, Initial::All(Cell::NeedSync));
        world.lossy.fill(true);
        assert!(world.shared.members.fail(1, engine::members::Failure::Operator));
        world.turn_until("a record", |world| !world.shared.members.record().writable.has(1));
        let device = world.new_device();
        let answered = world.order_join(1, device);
        world.turn_until("a join", |_| !answered.is_empty());
        assert_eq!(answered.recv().expect("an answer"), Ok(()));
        let data = world.data_bytes();
        assert!(world.shared.bitmap.need_sync() > 0);
        world.disks.borrow_mut()[usize::from(device.0)].refuses = Some((errno, 0..data.start));
        world.turn_until("its failure", |world| {
            world.ask_random();
            world.shared.failed() || !world.shared.members.record().writable.has(1)
        });
        assert!(!world.shared.failed(), "the array has stopped for a device that it does not need");
        assert_eq!(world.shared.members.view().readable.count(), 5);
    }
}

/// After a stripe was filled and then torn, the slot that is being filled may hold the only copy of a strip.
/// A refused write does not fail that slot, and when there is room again all data reads right.
#[test]
fn what_only_a_slot_that_is_being_filled_holds_is_kept() {
    for (seed, level, members) in [(40, Level::Raid5, 4), (41, Level::Raid6, 6)] {
        let initial = Initial::All(Cell::Clean);
        let mut world = World::new(Config {
            seed,
            level,
            members,
            chunk_bytes: 4096,
            stripes: 400,
            initial,
            reactors: 1,
        });
        assert!(world.shared.members.fail(1, engine::members::Failure::Operator));
        world.turn_until("a record", |world| !world.shared.members.record().writable.has(1));
        let device = world.new_device();
        let answered = world.order_join(1, device);
        world.turn_until("a join", |_| !answered.is_empty());
        world.turn_until("stripes that are filled", |world| world.shared.members.cursor() > 40);
        let data = world.data_bytes();
        world.lossy.fill(true);
        let stripe_bytes = u64::from(world.geometry.stripe_bytes());
        for device in [0, usize::from(device.0)] {
            world.disks.borrow_mut()[device].refuses = Some((ENOSPC, data.clone()));
            for stripe in 0..40 {
                world.ask(RequestKind::Write { fua: false }, stripe * stripe_bytes, 4096);
            }
            world.turn_until("a refusal", |world| {
                world.shared.bitmap.need_sync() > 0 && world.outstanding() == 0
            });
        }
        world.pass(10);
        assert!(world.shared.members.refusals(1) > 0, "nothing was refused");
        assert!(world.shared.members.view().writable.has(1), "it was failed for a refusal");
        world.disks.borrow_mut().iter_mut().for_each(|disk| disk.refuses = None);
        world.turn_until("the end of the rebuild", |world| {
            world.is_synced() && world.shared.members.view().readable.has(1)
        });
        world.lossy.fill(false);
        world.verify();
        assert!(world.shared.lost.is_empty());
    }
}

/// A member refuses the bitmap block that carries the mark of a write, and a discard of another stripe waits
/// for the same mark: both requests fail, and no data is written without the mark.
#[test]
fn what_waits_for_a_refused_mark_is_answered() {
    let mut world = world(40, Level::Raid5, 4, Initial::All(Cell::Clean));
    assert!(!world.fails(RequestKind::Write { fua: false }, 0, 4096));
    world.turn_until("a sweep", |world| {
        let bitmap = &world.shared.bitmap;
        bitmap.is_settled(BlockIndex(0)) && (0..40).all(|stripe| bitmap.cell(stripe) == Cell::Clean)
    });
    assert!(world.shared.steward.rest.is_over());
    let data = world.data_bytes();
    world.disks.borrow_mut()[0].refuses = Some((ENOSPC, 0..data.start));
    let zones = |world: &World| -> Vec<Vec<u8>> {
        world.disk_contents().iter().map(|bytes| bytes[data.start as usize..].to_vec()).collect()
    };
    let before = zones(&world);
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    world.lossy.fill(true);
    assert!(world.ask(RequestKind::Write { fua: false }, 0, 4096));
    assert!(world.ask(RequestKind::Discard, 3 * stripe_bytes, stripe_bytes));
    world.settle();
    assert!(world.shared.failed() && world.errors == 2, "{} errors", world.errors);
    assert!(zones(&world) == before, "data was written without a durable mark");
}

/// A start finds a rebuild half done and one unsynced stripe. The slot cannot be spared: below the cursor it
/// may hold the only copy of a strip. Stripes whose strip the slot refuses keep their trusted parity, and are
/// filled once it takes writes again.
#[test]
fn a_refused_write_of_a_rebuild_tears_no_stripe() {
    let (level, members, initial) = (Level::Raid6, 6, Initial::All(Cell::Clean));
    let config =
        Config { seed: 41, level, members, chunk_bytes: 4 << 10, stripes: 200, initial, reactors: 1 };
    let mut world = World::new(config);
    assert!(world.shared.members.fail(2, engine::members::Failure::Operator));
    world.turn_until("a record", |world| !world.shared.members.record().writable.has(2));
    // The rebuild stays at stripe 20 while it reads the rows of two bad strips again and again.
    let rotation = world.geometry.rotation(20);
    for strip in (0..6).filter(|&strip| rotation.slot_of(strip) < 2) {
        world.spoil(20, strip, 0);
    }
    world.join(2, 0);
    world.turn_until("a cursor on record", |world| !world.shared.members.on_record(Slots::one(2), 0));
    let last = 199 * u64::from(world.geometry.stripe_bytes());
    assert!(!world.fails(RequestKind::Write { fua: false }, last, 4096));
    world.shared.bitmap.torn(199);
    let strip = (0..4).find(|&strip| world.geometry.rotation(199).slot_of(strip) != 2).expect("data");
    world.spoil(199, strip, 0);
    world.stop();
    let mut world = world.restart(Serve::ReadWrite);
    let (data, device) = (world.data_bytes(), usize::from(world.shared.members.device(2).0));
    world.disks.borrow_mut()[device].refuses = Some((ENOSPC, data));
    world.pass(10);
    assert!(world.shared.members.refusals(2) > 0 && world.shared.members.view().writable.has(2));
    assert_eq!(world.shared.bitmap.count().need_sync, 1);
    world.disks.borrow_mut()[device].refuses = None;
    world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(2) && world.is_synced());
    world.lossy.fill(true);
    for at in world.failing_reads(4096) {
        world.give_up(at, 4096);
    }
    world.verify();
}
