//! Devices that are to join the array: they are wiped before they are recorded as members, and some orders
//! are refused.
//!
//! Method: orders to arrays that are whole, failing, stopping or stuck, with devices that work, refuse their
//! metadata or do not answer. Oracle: the answer and its time; the devices, which check at the write of their
//! first superblock that their old content is gone (`disks::Disk::joins`); and the content of the array
//! afterwards.

use std::sync::atomic::Ordering;

use bitmap::Cell;
use engine::array::Order;
use engine::format::Level;
use engine::members::{Failure, MEMBER_PATIENCE_S};
use engine::ring::DeviceIndex;
use engine::status::MemberCounters;
use engine::tally::DeviceTallies;

use crate::world::{Answered, Config, Initial, World};

const SECOND: u64 = 1_000_000_000;
/// Time within which an order that needs no member is answered.
const AT_ONCE_NS: u64 = SECOND / 10;

fn world(seed: u64, level: Level, members: usize) -> World {
    let (initial, chunk_bytes) = (Initial::All(Cell::Clean), 4096);
    World::new(Config { seed, level, members, chunk_bytes, stripes: 40, initial, reactors: 1 })
}

/// Counters of the device in the slot.
fn counters(world: &World, slot: u8) -> MemberCounters {
    DeviceTallies::sum(&world.shared.tallies, world.shared.members.device(slot))
}

/// Waits for the answer to an order; returns it and the time it took.
fn answer(world: &mut World, answered: &Answered) -> (Result<(), String>, u64) {
    let asked_ns = world.now_ns();
    world.turn_until("an answer", |_| !answered.is_empty());
    (answered.recv().expect("an answer"), world.now_ns() - asked_ns)
}

fn fail_and_record(world: &mut World, slot: u8) {
    assert!(world.shared.members.fail(slot, Failure::Operator));
    world.turn_until("a record", |world| !world.shared.members.record().writable.has(slot));
}

fn is_refused_at_once(world: &mut World, answered: &Answered, why: &str) {
    let (outcome, took_ns) = answer(world, answered);
    let said = outcome.expect_err("an order that cannot be carried out");
    assert!(said.contains(why), "{said}");
    assert!(took_ns <= AT_ONCE_NS, "refused after {took_ns} ns");
}

/// A program that gives an order and looks at the array as soon as it has the answer, as `replace` followed
/// by `wait` does, finds the rebuild.
#[test]
fn a_join_is_answered_when_its_rebuild_has_begun() {
    let mut world = world(40, Level::Raid5, 4);
    fail_and_record(&mut world, 1);
    let device = world.new_device();
    let answered = world.order_join(1, device);
    let shared = std::sync::Arc::clone(&world.shared);
    let program = std::thread::spawn(move || {
        assert_eq!(answered.recv(), Ok(Ok(())));
        let rebuilds = shared.steward.rebuild_slot.load(Ordering::Relaxed) > 0;
        rebuilds || shared.members.view().readable.has(1)
    });
    world.turn_until("the program", |_| {
        std::thread::yield_now();
        program.is_finished()
    });
    assert!(program.join().expect("it does not panic"), "it found an array without a rebuild");
}

/// Puts another device at the index that the refused device has left, and lets it join.
fn the_index_is_used_again(world: &mut World, slot: u8, device: DeviceIndex) {
    let fresh = world.new_device();
    let last = world.disks.borrow_mut().pop().expect("it was made just now");
    assert_eq!(usize::from(fresh.0), world.disks.borrow().len());
    world.disks.borrow_mut()[usize::from(device.0)] = last;
    let answered = world.order_join(slot, device);
    assert_eq!(answer(world, &answered).0, Ok(()));
    world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(slot));
    world.load(40);
    world.verify();
    assert_eq!((world.shared.members.device(slot), world.errors), (device, 0));
}

/// Nothing of a device's old content may be left when its first superblock is written: the check is in
/// `disks`. Arrays of four members at both levels and one reactor here; other suites have two reactors.
#[test]
fn a_device_is_wiped_before_it_is_on_record() {
    for seed in 0..4 {
        let level = [Level::Raid5, Level::Raid6][seed as usize % 2];
        let mut world = world(seed, level, 4);
        world.load(60);
        fail_and_record(&mut world, 1);
        let old = counters(&world, 1);
        assert!(old.reads.count > 0 && old.writes.count > 0, "{old:?}");
        let device = world.new_device();
        let answered = world.order_join(1, device);
        // Counters belong to a device and begin when it becomes a member: they do not count the wiping
        // (MiBs).
        world.turn_until("a member", |world| world.shared.members.device(1) == device);
        let fresh = counters(&world, 1);
        assert!(fresh.reads.count == 0 && fresh.writes.bytes < 64 << 10, "{fresh:?}");
        // Hosts are served during the join; by its end the check of the old content has run.
        world.load(60);
        assert_eq!(answer(&mut world, &answered).0, Ok(()));
        assert_eq!(world.disks.borrow()[usize::from(device.0)].joins, None);
        world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(1));
        world.verify();
        let rebuilt = counters(&world, 1);
        assert!(rebuilt.reads.count > 0 && rebuilt.writes.bytes > fresh.writes.bytes, "{rebuilt:?}");
    }
}

#[test]
fn a_device_that_does_not_take_its_metadata_is_refused_and_let_go() {
    for (seed, offset) in [4096, 64 << 10, 72 << 10, 200 << 10, 1 << 20].into_iter().enumerate() {
        let mut world = world(10 + seed as u64, Level::Raid5, 4);
        fail_and_record(&mut world, 2);
        let device = world.new_device();
        world.disks.borrow_mut()[usize::from(device.0)].refuses = Some((5, offset..4 << 20));
        let (epoch, view) = (epoch(&world), world.shared.members.view());
        let answered = world.order_join(2, device);
        let why = answer(&mut world, &answered).0.expect_err("it cannot be written");
        assert!(why.contains("does not take its metadata"), "{why}");
        assert_eq!((self::epoch(&world), world.shared.members.view()), (epoch, view), "nothing has happened");
        world.turn_until("the end of its I/O", |world| world.io_is_quiet());
        the_index_is_used_again(&mut world, 2, device);
    }
}

/// A device that does not answer delays only its own order, and for no longer than a member's patience.
#[test]
fn a_silent_device_is_refused_in_time() {
    let mut world = world(20, Level::Raid5, 4);
    fail_and_record(&mut world, 2);
    let device = world.new_device();
    world.disks.borrow_mut()[usize::from(device.0)].silent = true;
    let answered = world.order_join(2, device);
    world.load(40);
    let (outcome, took_ns) = answer(&mut world, &answered);
    assert!(outcome.expect_err("it is silent").contains("has not answered for"));
    assert!(took_ns < (u64::from(MEMBER_PATIENCE_S) + 2) * SECOND, "{took_ns}");
    // Another device takes the slot while the kernel still holds the I/O of the first.
    let other = world.new_device();
    let answered = world.order_join(2, other);
    assert_eq!(answer(&mut world, &answered).0, Ok(()));
    world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(2));
    world.disks.borrow_mut()[usize::from(device.0)].silent = false;
    world.load(40);
    world.verify();
    assert_eq!((world.shared.members.device(2), world.errors), (other, 0));
    world.turn_until("the end of its I/O", |world| world.io_is_quiet());
}

/// A device that answers now and then is slow, not silent: it joins, however long that takes in total.
#[test]
fn a_slow_device_is_waited_for() {
    let mut world = world(25, Level::Raid5, 4);
    fail_and_record(&mut world, 2);
    let device = world.new_device();
    let index = usize::from(device.0);
    let began_ns = world.now_ns();
    let answered = world.order_join(2, device);
    for _ in 0..4 {
        world.disks.borrow_mut()[index].silent = true;
        world.pass(u64::from(MEMBER_PATIENCE_S) - 5);
        world.disks.borrow_mut()[index].silent = false;
        (0..2).for_each(|_| world.turn());
    }
    assert!(answered.is_empty(), "it has been wiped too soon for this test, or was refused");
    assert_eq!(answer(&mut world, &answered).0, Ok(()));
    assert!(world.now_ns() - began_ns > 3 * u64::from(MEMBER_PATIENCE_S) * SECOND);
    world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(2));
    world.verify();
}

/// Nothing is written to a device whose order is refused, whatever else is under way.
#[test]
fn a_device_that_is_refused_is_left_as_it_was() {
    let mut world = world(26, Level::Raid6, 6);
    for slot in [1, 2] {
        fail_and_record(&mut world, slot);
    }
    let (first, second) = (world.new_device(), world.new_device());
    let before = world.disks.borrow()[usize::from(second.0)].bytes.clone();
    let taken = world.order_join(1, first);
    for slot in [1, 2] {
        let answered = world.order_join(slot, second);
        is_refused_at_once(&mut world, &answered, "being rebuilt");
    }
    assert_eq!(answer(&mut world, &taken).0, Ok(()));
    let answered = world.order_join(1, second);
    is_refused_at_once(&mut world, &answered, "");
    world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(1));
    assert!(world.disks.borrow()[usize::from(second.0)].bytes == before, "it was written to");
}

/// A former member comes back under another name, with the superblocks of this array. On a failed array, and
/// while another slot is being filled, the order is refused and not one byte of the device changes: the next
/// start may need it.
#[test]
fn a_former_member_that_is_refused_is_left_as_it_was() {
    for has_failed in [false, true] {
        let mut world = world(27, Level::Raid6, 6);
        world.load(20);
        for slot in [1, 2] {
            fail_and_record(&mut world, slot);
        }
        world.turn_until("the end of its I/O", |world| world.io_is_quiet());
        let superblocks = world.superblocks();
        let former = DeviceIndex(2);
        assert_eq!(world.shared.members.device(2), former);
        assert!(superblocks.chunks(2).all(|copies| copies[0].record.array == superblocks[0].record.array));
        let before = world.disks.borrow()[2].bytes.clone();
        let why = if has_failed {
            world.shared.members.fail(0, Failure::Operator);
            "has failed"
        } else {
            let device = world.new_device();
            let taken = world.order_join(1, device);
            assert_eq!(answer(&mut world, &taken).0, Ok(()));
            assert!(!world.shared.members.view().readable.has(1), "the rebuild has ended");
            "being rebuilt"
        };
        for slot in [1, 2] {
            let answered = world.order_join(slot, former);
            is_refused_at_once(&mut world, &answered, why);
        }
        world.pass(60);
        assert!(world.disks.borrow()[2].bytes == before, "it was written to");
    }
}

/// A failed array refuses every order at once, although it writes no record any more and its members may be
/// silent.
#[test]
fn a_failed_array_refuses_every_order_at_once() {
    for is_silent in [false, true] {
        let mut world = world(30, Level::Raid5, 4);
        world.load(20);
        world.settle();
        // A stop of this array would flush slot 2, which has not failed.
        let _or_it_has_one = world.shared.members.cache_switched_on(2, DeviceIndex(2), true);
        for slot in [0, 1] {
            world.shared.members.fail(slot, Failure::Operator);
        }
        if is_silent {
            world.disks.borrow_mut().iter_mut().for_each(|disk| disk.silent = true);
        }
        let device = world.new_device();
        let answered = world.order_join(0, device);
        is_refused_at_once(&mut world, &answered, "has failed");
        let answered = world.order(|answer| Order::Fail { slot: 2, answer });
        is_refused_at_once(&mut world, &answered, "has failed");
        let answered = world.order(|answer| Order::Stop { answer });
        is_refused_at_once(&mut world, &answered, "has failed");
    }
}

/// An order taken while the array was well is answered when the array fails, however far the order has
/// progressed.
#[test]
fn an_array_that_fails_answers_the_orders_that_it_has_taken() {
    for turns in [1, 2, 3, 5, 8, 13] {
        let mut world = world(40 + turns, Level::Raid5, 4);
        fail_and_record(&mut world, 1);
        let device = world.new_device();
        let answered = world.order_join(1, device);
        (0..turns).for_each(|_| world.turn());
        world.shared.members.fail(0, Failure::Operator);
        if answered.is_empty() {
            world.disks.borrow_mut()[usize::from(device.0)].silent = turns % 2 == 0;
            let (outcome, took_ns) = answer(&mut world, &answered);
            let is_in_time = took_ns <= AT_ONCE_NS || outcome.is_ok();
            assert!(is_in_time, "{outcome:?} after {took_ns} ns, {turns} turns");
        }
    }
}

/// An order to fail a member is answered too, although a failed array never puts the failure on record.
#[test]
fn an_array_that_fails_answers_an_order_to_fail() {
    let mut world = world(60, Level::Raid5, 4);
    let answered = world.order(|answer| Order::Fail { slot: 1, answer });
    world.turn();
    assert!(!world.shared.members.view().writable.has(1) && answered.is_empty());
    world.shared.members.fail(0, Failure::Operator);
    is_refused_at_once(&mut world, &answered, "has failed");
}

#[test]
fn a_stop_refuses_a_device_that_is_being_wiped() {
    let mut world = world(50, Level::Raid5, 4);
    fail_and_record(&mut world, 1);
    let device = world.new_device();
    world.disks.borrow_mut()[usize::from(device.0)].silent = true;
    let answered = world.order_join(1, device);
    world.turn();
    let stopped = world.order(|answer| Order::Stop { answer });
    is_refused_at_once(&mut world, &answered, "being stopped");
    assert_eq!(answer(&mut world, &stopped).0, Ok(()));
}

fn epoch(world: &World) -> u64 {
    world.shared.steward.epoch.load(std::sync::atomic::Ordering::Relaxed)
}
