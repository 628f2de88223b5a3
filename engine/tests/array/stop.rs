//! An orderly stop: what it waits for, what it does not wait for, and what the members hold when it is
//! answered.
//!
//! Method: a stop is ordered during deallocations, a flush, a resync or a rebuild, or right after writes.
//! Oracle: the time of the answer, the superblocks and bitmap blocks on the disks at that time, and the
//! content after the next start.

use bitmap::Cell;
use engine::array::Order;
use engine::format::Level;
use engine::format::superblock::{Copy, RunState};
use engine::members::Failure;
use engine::request::RequestKind;

use crate::world::restart::Serve;
use crate::world::{Answered, Config, Initial, World};

fn world(seed: u64, cell: Cell) -> World {
    let (level, initial) = (Level::Raid5, Initial::All(cell));
    World::new(Config { seed, level, members: 4, chunk_bytes: 4096, stripes: 400, initial, reactors: 1 })
}

fn order_stop(world: &World) -> Answered {
    world.order(|answer| Order::Stop { answer })
}

/// The stop succeeds, and when it is answered both copies of every superblock say Clean.
fn is_stopped(world: &mut World, stopped: &Answered) {
    world.turn_until("a stop", |_| !stopped.is_empty());
    assert_eq!(stopped.recv(), Ok(Ok(())));
    assert!(world.superblocks().iter().all(|copy| copy.record.state == RunState::Clean));
}

/// An image of a member from before the last write must be recognised as old, although no cell on the members
/// shows that write any more: the record moves on, in both copies of every superblock, before the first
/// bitmap block is written.
#[test]
fn a_stop_moves_the_record_before_it_takes_off_the_marks() {
    let mut world = world(1, Cell::Clean);
    assert!(!world.fails(RequestKind::Write { fua: false }, 0, 4096));
    world.turn_until("the end of its I/O", |world| world.io_is_quiet());
    assert_eq!(world.shared.bitmap.cell(0), Cell::Dirty);
    let moves = |world: &World| world.superblocks().iter().map(|copy| copy.record.moves).min();
    let (moves_before, blocks_before) = (moves(&world), world.bitmap_zones());
    let stopped = order_stop(&world);
    world.turn_until("a bitmap block", |world| world.bitmap_zones() != blocks_before);
    assert!(moves(&world) > moves_before, "a cell is Clean on a member, and the record has not moved on");
    is_stopped(&mut world, &stopped);
    let mut world = world.restart(Serve::ReadWrite);
    assert_eq!(world.shared.bitmap.cell(0), Cell::Clean);
    world.verify();
}

/// A copy of a superblock is damaged while the array is stopped: the next start rewrites both copies on every
/// member.
#[test]
fn a_start_repairs_a_damaged_superblock() {
    for copy in [Copy::A, Copy::B] {
        let mut world = world(6, Cell::Clean);
        world.stop();
        world.disks.borrow_mut()[1].bytes[copy.offset_bytes() as usize..][..512].fill(0x5a);
        let world = world.restart(Serve::ReadWrite);
        let epochs: Vec<_> = world.superblocks().iter().map(|copy| copy.record.epoch.name).collect();
        assert_eq!(epochs, vec![epochs[0]; 8]);
    }
}

/// An order that arrives after the stop was answered and before the reactors have ended is refused, and the
/// device is not touched.
#[test]
fn an_array_that_is_stopped_takes_no_device() {
    let mut world = world(5, Cell::Clean);
    assert!(world.shared.members.fail(1, Failure::Operator));
    world.turn_until("a record", |world| !world.shared.members.record().writable.has(1));
    let stopped = order_stop(&world);
    is_stopped(&mut world, &stopped);
    let device = world.new_device();
    let bytes = |world: &World| world.disks.borrow()[usize::from(device.0)].bytes.clone();
    let before = bytes(&world);
    let answered = world.order_join(1, device);
    world.turn_until("an answer", |_| !answered.is_empty());
    let why = answered.recv().expect("an answer").expect_err("the array is stopped");
    assert!(why.contains("being stopped"), "{why}");
    (0..100).for_each(|_| world.turn());
    assert!(before == bytes(&world), "a device that was refused is written to");
}

/// A discard is answered before the devices have carried it out. A stop waits for the devices: a late
/// deallocation would destroy what the next server writes. Other orders are refused meanwhile.
#[test]
fn a_stop_waits_for_deallocations() {
    let mut world = world(2, Cell::Clean);
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.slow_advice = true);
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    assert!(!world.fails(RequestKind::Discard, 0, 4 * stripe_bytes));
    let stopped = order_stop(&world);
    world.pass(5);
    assert!(stopped.is_empty(), "it was answered with deallocations in flight");
    let refused = world.order(|answer| Order::Fail { slot: 1, answer });
    world.turn_until("an answer", |_| !refused.is_empty());
    let why = refused.recv().expect("an answer").expect_err("it comes after the stop");
    assert!(why.contains("being stopped"), "{why}");
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.slow_advice = false);
    is_stopped(&mut world, &stopped);
}

/// A flush of the sweep is in flight when the stop needs a flush: the stop asks for its own afterwards.
#[test]
fn a_stop_during_a_flush_of_the_sweep_ends() {
    let mut world = world(3, Cell::Clean);
    let device = world.shared.members.device(1);
    let _or_it_has_one = world.shared.members.cache_switched_on(1, device, true);
    world.disks.borrow_mut()[1].slow_flushes = true;
    assert!(!world.fails(RequestKind::Write { fua: false }, 0, 4096));
    world.pass(4);
    let stopped = order_stop(&world);
    (0..50).for_each(|_| world.turn());
    assert!(stopped.is_empty(), "no flush was in flight");
    world.disks.borrow_mut()[1].slow_flushes = false;
    is_stopped(&mut world, &stopped);
}

/// A resync or a rebuild that takes hours does not delay a stop; it continues at the next start.
#[test]
fn a_stop_does_not_wait_for_background_work() {
    let mut world = world(4, Cell::NeedSync);
    world.request_blocks();
    world.turn();
    let stopped = order_stop(&world);
    is_stopped(&mut world, &stopped);
    assert!(!world.is_synced(), "the stop has waited for the resync");
    let mut world = world.restart(Serve::ReadWrite);
    world.turn_until("a resync", |world| world.is_synced());
    world.verify();

    let mut world = self::world(5, Cell::Clean);
    world.request_blocks();
    assert!(world.shared.members.fail(1, Failure::Operator));
    world.turn_until("a record", |world| !world.shared.members.record().writable.has(1));
    let device = world.new_device();
    let joined = world.order_join(1, device);
    world.turn_until("a join", |_| !joined.is_empty());
    let stopped = order_stop(&world);
    is_stopped(&mut world, &stopped);
    assert!(!world.shared.members.record().readable.has(1), "the stop has waited for the rebuild");
    let mut world = world.restart(Serve::ReadWrite);
    world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(1));
    world.verify();
}
