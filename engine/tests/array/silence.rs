//! Members that do not answer: which of them are failed, and what continues without them.
//!
//! Method: members fall silent under a load of all kinds of requests: alone, several together, or all. They
//! answer later, never, or after their slot has another device. Oracle: times of answers, the model of the
//! host, the content of the members at the end, and the rings, which check that no memory is reused while an
//! I/O in flight still has it (`disks`).

use bitmap::Cell;
use crossbeam::channel::bounded;
use engine::array::{Answer, Order};
use engine::format::Level;
use engine::format::lost_rows::LostRange;
use engine::geometry::Slots;
use engine::members::{Failure, MEMBER_PATIENCE_S};
use engine::request::RequestKind;

use crate::world::{Config, Initial, World};

const SECOND: u64 = 1_000_000_000;
const PATIENCE_NS: u64 = MEMBER_PATIENCE_S as u64 * SECOND;

fn world(seed: u64, level: Level, members: usize, chunk_bytes: u32, reactors: usize) -> World {
    let stripes = if chunk_bytes > 4096 { 12 } else { 60 };
    world_of(seed, level, members, chunk_bytes, stripes, reactors)
}

fn world_of(
    seed: u64,
    level: Level,
    members: usize,
    chunk_bytes: u32,
    stripes: u64,
    reactors: usize,
) -> World {
    let initial = Initial::All(Cell::Clean);
    World::new(Config { seed, level, members, chunk_bytes, stripes, initial, reactors })
}

fn silence(world: &World, slots: &[u8], silent: bool) {
    for &slot in slots {
        let device = world.shared.members.device(slot).0;
        world.disks.borrow_mut()[usize::from(device)].silent = silent;
    }
}

fn rest(world: &mut World, ns: u64) {
    let until = world.now_ns() + ns;
    world.turn_until("some rest", |world| world.now_ns() >= until);
}

/// Waits for all outstanding requests: each must be answered within the member timeout plus a second.
fn is_answered_in_time(world: &mut World) {
    let asked_ns = world.now_ns();
    world.turn_until("every answer", |world| world.outstanding() == 0);
    let took_ns = world.now_ns() - asked_ns;
    assert!(took_ns < PATIENCE_NS + SECOND, "answered after {took_ns} ns: {:?}", world.config);
}

/// Gives the slot a fresh device; the old device keeps its index and its I/O.
fn refill(world: &mut World, slot: u8) {
    let device = world.new_device();
    let answered = world.order_join(slot, device);
    world.turn_until("a join", |_| !answered.is_empty());
    assert_eq!(answered.recv(), Ok(Ok(())));
}

fn wait_for_sync(world: &mut World, slot: u8) {
    world.turn_until("a rebuild", |world| {
        let is_idle = world.shared.steward.rebuild_slot.load(std::sync::atomic::Ordering::Relaxed) == 0;
        is_idle && world.shared.members.record().readable.has(slot)
    });
}

/// As many members as the level can spare fall silent together, for ever. They leave in one epoch, every
/// request in flight is answered in time, and so is every later request. Then their slots are filled, and
/// only after that the old devices carry out their queued operations, or fail them.
#[test]
fn silence_without_end_costs_no_service() {
    for seed in 0..6 {
        let (level, members) = if seed % 2 == 0 { (Level::Raid6, 6) } else { (Level::Raid5, 4) };
        let chunk_bytes = if seed % 3 == 0 { 64 << 10 } else { 4 << 10 };
        let mut world = world(100 + seed, level, members, chunk_bytes, 1 + seed as usize % 2);
        world.load(60);
        world.settle();
        rest(&mut world, 5 * SECOND);
        let silent: Vec<u8> =
            (0..level.parities() as u8).map(|nth| (nth + seed as u8) % members as u8).collect();
        let set = silent.iter().fold(Slots::NONE, |set, &slot| set.or(Slots::one(slot)));
        silence(&world, &silent, true);
        (0..200).for_each(|_| world.ask_random());
        let size = world.geometry.size_bytes();
        for at in (0..size.min(12 << 20)).step_by(1 << 20) {
            world.ask(RequestKind::Read, at, (size - at).min(1 << 20));
        }
        is_answered_in_time(&mut world);
        assert!(world.shared.members.record().writable.and(set).is_empty());
        // Epoch 1 is the creation, epoch 2 the start.
        let epoch = world.shared.steward.epoch.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(epoch, 3, "{set:?} did not leave in one epoch: {:?}", world.config);
        assert!(silent.iter().all(|&slot| world.shared.members.failure(slot).is_some()));
        world.load(100);
        world.settle();
        let old: Vec<u8> = silent.iter().map(|&slot| world.shared.members.device(slot).0).collect();
        for &slot in &silent {
            refill(&mut world, slot);
            world.load(40);
            wait_for_sync(&mut world, slot);
        }
        // The kernel gives back the operations of the old devices, done or failed.
        for &device in &old {
            let dead = world.rng.chance(50);
            let disk = &mut world.disks.borrow_mut()[usize::from(device)];
            (disk.silent, disk.dead) = (false, dead);
        }
        world.load(100);
        world.verify();
        assert_eq!(world.shared.members.view().readable, world.geometry.slots());
        assert_eq!(world.errors, 0);
    }
}

/// Two members fall silent under reads alone, which do not change the record: no round of superblocks is in
/// flight to either when they are failed, so the epoch that each holds says nothing about the other. They
/// still leave in one epoch.
#[test]
fn who_is_silent_together_leaves_together() {
    for seed in 120..124 {
        let mut world = world(seed, Level::Raid6, 6, 4 << 10, 1);
        world.load(60);
        world.settle();
        rest(&mut world, 5 * SECOND);
        silence(&world, &[1, 4], true);
        let size = world.geometry.size_bytes();
        for at in (0..size).step_by(64 << 10) {
            assert!(world.ask(RequestKind::Read, at, (size - at).min(64 << 10)));
        }
        is_answered_in_time(&mut world);
        assert_eq!(world.shared.members.record().writable, Slots::first(6).minus(Slots(0b1_0010)));
        let epoch = world.shared.steward.epoch.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(epoch, 3, "they left one after the other");
        silence(&world, &[1, 4], false);
        world.verify();
    }
}

/// A second member is silent too, and its patience runs out while the record that excludes the first is being
/// written to it.
#[test]
fn a_record_does_not_wait_for_a_silent_member() {
    for seed in 0..4 {
        let mut world = world(200 + seed, Level::Raid6, 6, 4 << 10, 1);
        world.load(40);
        world.settle();
        silence(&world, &[0, 1], true);
        // The operator fails one of the two; the record of that is written to the other.
        let (answer, answered) = bounded(1);
        assert!(
            world.shared.steward.orders.push(Order::Fail { slot: 0, answer: Answer::to(answer) }).is_ok()
        );
        (0..40).for_each(|_| world.ask_random());
        is_answered_in_time(&mut world);
        world.turn_until("the order", |_| !answered.is_empty());
        assert_eq!(answered.recv(), Ok(Ok(())));
        assert_eq!(world.shared.members.record().writable, world.geometry.slots().minus(Slots(3)));
        world.load(60);
        silence(&world, &[0, 1], false);
        world.verify();
    }
}

/// A late error of a replaced device, from a flush or a bitmap block, is not counted against the device that
/// replaced it.
#[test]
fn a_late_error_of_a_replaced_device_changes_nothing() {
    for (seed, kind) in [(301, RequestKind::Flush), (302, RequestKind::Write { fua: true })] {
        let mut world = world(seed, Level::Raid5, 4, 4 << 10, 2);
        rest(&mut world, 3 * SECOND);
        let cached = world.shared.members.volatile();
        let slot = cached.iter().next().unwrap_or(0);
        let old = world.shared.members.device(slot).0;
        silence(&world, &[slot], true);
        let stripe_bytes = u64::from(world.geometry.stripe_bytes());
        for stripe in 0..8 {
            let (at, len) =
                if kind == RequestKind::Flush { (0, 0) } else { (stripe * stripe_bytes, stripe_bytes) };
            world.ask(kind, at, len);
            world.ask(RequestKind::Write { fua: false }, (20 + stripe) * stripe_bytes, 4096);
        }
        is_answered_in_time(&mut world);
        refill(&mut world, slot);
        wait_for_sync(&mut world, slot);
        {
            let disk = &mut world.disks.borrow_mut()[usize::from(old)];
            (disk.silent, disk.dead) = (false, true);
        }
        rest(&mut world, SECOND);
        assert_eq!(world.shared.members.view().readable, world.geometry.slots());
        for _ in 0..10 {
            assert!(world.ask(RequestKind::Flush, 0, 0));
            (0..10).for_each(|_| world.ask_random());
            world.settle();
        }
        world.verify();
    }
}

/// A member falls silent while the list of lost rows is being written: once the record excludes the member,
/// the list is durable without it.
#[test]
fn the_list_of_lost_rows_does_not_wait_for_a_silent_member() {
    let mut world = world(304, Level::Raid5, 4, 4 << 10, 1);
    silence(&world, &[3], true);
    let stripe = (0..4).find(|&stripe| world.geometry.is_data(stripe, 0)).expect("in turn");
    let listed = LostRange { stripe, stripes: 1, slot: 0, row: 0, rows: 512 };
    assert!(world.shared.lost.add(listed).is_ok());
    let is_durable = |world: &mut World| world.shared.lost.is_durable(world.shared.lost.version());
    rest(&mut world, SECOND);
    assert!(!is_durable(&mut world));
    assert!(world.shared.members.fail(3, Failure::Operator));
    world.turn_until("the list", is_durable);
}

/// A bitmap block is being written when one of its two keepers leaves, and the write to the other keeper is
/// slow. By the time that write ends, the slot of the first has another device, which is being rebuilt and
/// whose cursor is already on record. The block counts as written: the device that missed it is excluded.
#[test]
fn what_a_device_has_missed_is_not_held_against_the_next_one() {
    let mut world = world(303, Level::Raid5, 4, 4 << 10, 1);
    assert!(!world.fails(RequestKind::Write { fua: false }, 0, 4096));
    let bitmap = world.shared.layout.bitmap_offset_bytes..world.data_bytes().start;
    // Slots 0 and 1 keep block 0. The last stripe is in another region of cells than the first, so its write
    // needs a mark.
    silence(&world, &[1], true);
    world.disks.borrow_mut()[0].holds = Some(bitmap);
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    assert!(world.ask(RequestKind::Write { fua: false }, 59 * stripe_bytes, stripe_bytes));
    rest(&mut world, SECOND);
    assert_eq!(world.outstanding(), 1, "the mark is durable");
    assert!(world.shared.members.fail(1, Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(1));
    refill(&mut world, 1);
    // The rebuild waits for the write of the last stripe.
    world.turn_until("a cursor on record", |world| !world.shared.members.on_record(Slots::one(1), 0));
    world.disks.borrow_mut()[0].holds = None;
    world.settle();
    wait_for_sync(&mut world, 1);
    world.verify();
}

/// All members are silent for longer than the patience, as when a cable or an adapter is reset, and then
/// answer one after the other: none is failed. The same holds if only one of them had an operation to answer.
#[test]
fn a_silence_of_all_fails_nobody() {
    for (seed, requests) in [(401, 60), (402, 1), (403, 2)] {
        for level in [Level::Raid5, Level::Raid6] {
            let mut world = world(seed, level, 6, 4 << 10, 1);
            rest(&mut world, 3 * SECOND);
            let all: Vec<u8> = (0..6).collect();
            silence(&world, &all, true);
            for _ in 0..requests {
                let at = 4096 * world.rng.below(world.geometry.size_bytes() / 4096);
                world.ask(RequestKind::Read, at, 4096);
            }
            rest(&mut world, PATIENCE_NS + 3 * SECOND);
            for &slot in &all {
                silence(&world, &[slot], false);
                rest(&mut world, SECOND / 3);
            }
            world.load(40);
            rest(&mut world, 2 * PATIENCE_NS);
            assert_eq!(world.shared.members.view().readable, world.geometry.slots(), "seed {seed} {level:?}");
            world.verify();
        }
    }
}

/// One more member is silent than the level can spare: none is failed while that lasts. When all but one
/// answer again, that one is failed.
#[test]
fn one_too_many_is_nobodys_fault() {
    let mut world = world(501, Level::Raid5, 5, 4 << 10, 1);
    rest(&mut world, 3 * SECOND);
    silence(&world, &[1, 3], true);
    (0..60).for_each(|_| world.ask_random());
    rest(&mut world, 3 * PATIENCE_NS);
    assert_eq!(world.shared.members.view().readable, world.geometry.slots());
    silence(&world, &[1], false);
    world.turn_until("the patience with the other", |world| world.outstanding() == 0);
    assert_eq!(world.shared.members.view().readable, world.geometry.slots().minus(Slots::one(3)));
    assert_eq!(world.shared.members.failure(3), Some(Failure::Silence(MEMBER_PATIENCE_S)));
    world.verify();
}

/// Members that take minutes over deallocations and do everything else at once are not failed.
#[test]
fn slow_advice_costs_no_member() {
    let mut world = world(601, Level::Raid6, 6, 4 << 10, 1);
    world.load(60);
    world.settle();
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.slow_advice = true);
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    assert!(world.ask(RequestKind::Discard, 0, 20 * stripe_bytes));
    rest(&mut world, SECOND);
    assert_eq!(world.outstanding(), 0, "the host waits for advice");
    let until = world.now_ns() + 4 * PATIENCE_NS;
    while world.now_ns() < until {
        let at = 30 * stripe_bytes + 4096 * world.rng.below(40);
        world.ask(RequestKind::Write { fua: false }, at, 4096);
        (0..50).for_each(|_| world.turn());
    }
    assert_eq!(world.shared.members.view().readable, world.geometry.slots());
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.slow_advice = false);
    world.verify();
    // One member alone is slow, and has nothing but deallocations in flight.
    world.disks.borrow_mut()[2].slow_advice = true;
    assert!(!world.fails(RequestKind::Write { fua: false }, 20 * stripe_bytes, 10 * stripe_bytes));
    assert!(!world.fails(RequestKind::Discard, 20 * stripe_bytes, 10 * stripe_bytes));
    rest(&mut world, 4 * PATIENCE_NS);
    assert!(!world.io_is_quiet(), "no deallocation was in flight");
    assert_eq!(world.shared.members.view().readable, world.geometry.slots());
    world.disks.borrow_mut()[2].slow_advice = false;
    world.verify();
}

/// Deallocations that a member does one by one are waited for, in every reactor, however many there are. If
/// they stop ending, the member is failed, because their stripes are locked.
#[test]
fn advice_that_moves_on_costs_no_member() {
    let mut world = world(603, Level::Raid5, 4, 4 << 10, 2);
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    world.disks.borrow_mut()[1].slow_advice = true;
    for stripe in (0..40).step_by(2) {
        while !world.ask(RequestKind::Discard, stripe * stripe_bytes, stripe_bytes) {
            world.turn();
        }
    }
    rest(&mut world, SECOND);
    assert_eq!(world.outstanding(), 0, "the host waits for advice");
    // The first reactor's deallocations end first, so the other reactor waits for longer than ten times the
    // patience.
    for _ in 0..16 {
        world.disks.borrow_mut()[1].advice_left = 1;
        world.pass(3 * PATIENCE_NS / SECOND);
        assert_eq!(world.disks.borrow()[1].advice_left, 0, "no deallocation was in flight");
    }
    assert!(!world.io_is_quiet(), "no deallocation was left");
    assert_eq!(world.shared.members.view().readable, world.geometry.slots());
    world.pass(6 * PATIENCE_NS / SECOND);
    assert_eq!(world.shared.members.view().readable, world.geometry.slots());
    world.pass(3 * PATIENCE_NS / SECOND);
    assert_eq!(world.shared.members.view().readable, world.geometry.slots().minus(Slots::one(1)));
    world.disks.borrow_mut()[1].slow_advice = false;
    world.verify();
}

/// A member that takes a minute over a flush and answers everything else in time is not failed: each answer
/// counts as a sign of life.
#[test]
fn a_slow_flush_costs_no_member() {
    let mut world = world(602, Level::Raid5, 4, 4 << 10, 1);
    world.load(60);
    world.settle();
    let device = world.shared.members.device(1);
    // False if the member has a cache already.
    let _is_new = world.shared.members.cache_switched_on(1, device, true);
    world.disks.borrow_mut()[usize::from(device.0)].slow_flushes = true;
    assert!(world.ask(RequestKind::Flush, 0, 0));
    let until = world.now_ns() + 2 * PATIENCE_NS;
    while world.now_ns() < until {
        let at = 4096 * world.rng.below(world.geometry.size_bytes() / 4096);
        let kind = if world.rng.chance(50) { RequestKind::Read } else { RequestKind::Write { fua: false } };
        world.ask(kind, at, 4096);
        (0..20).for_each(|_| world.turn());
    }
    assert_eq!(world.shared.members.view().readable, world.geometry.slots());
    world.disks.borrow_mut()[usize::from(device.0)].slow_flushes = false;
    world.verify();
}

/// More reads into pages of the host are in flight to a failed member than a reactor has room for. These
/// reads wait for the kernel; other reads do not wait.
#[test]
fn reads_into_pages_of_the_host_hold_up_no_others() {
    let mut world = world_of(901, Level::Raid5, 4, 4 << 10, 300, 1);
    silence(&world, &[1], true);
    for nth in 0..50 {
        world.ask_into_host_pages((nth % 2) << 20, 1 << 20);
    }
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(1));
    for nth in 0..20 {
        assert!(world.ask(RequestKind::Read, nth << 16, 64 << 10));
    }
    world.turn_until("other reads", |world| world.outstanding() == 0);
    assert!(world.left_to_kernel().is_some_and(|requests| requests > 0), "no read waits for the kernel");
    silence(&world, &[1], false);
    world.turn_until("the kernel", |world| world.left_to_kernel() == Some(0));
    world.verify();
}

/// All memory for hosts is held by reads in flight to a member that falls silent, and none of it is released
/// before all these reads are answered. The reserve is large enough to repeat all of them.
#[test]
fn all_memory_in_use_can_be_replaced_at_once() {
    let mut world = world_of(902, Level::Raid5, 4, 4 << 10, 300, 1);
    world.keep_answers();
    silence(&world, &[2], true);
    while world.ask(RequestKind::Read, (world.outstanding() as u64 % 3) << 20, 1 << 20) {}
    assert!(world.outstanding() > 8, "only {} reads fit", world.outstanding());
    is_answered_in_time(&mut world);
    silence(&world, &[2], false);
    world.verify();
}

/// Reactors sleep when nothing wakes them. A read that was in flight to a failed member is repeated
/// nevertheless. (Reactor 0 woke for the sweep each second; on any other reactor such a read waited until
/// something else arrived.)
#[test]
fn a_reactor_that_sleeps_does_a_read_again() {
    for seed in 910..914 {
        let mut world = world(seed, Level::Raid5, 4, 4 << 10, 2);
        let slot = world.geometry.rotation(0).slot_of(0);
        silence(&world, &[slot], true);
        for stripe in 0..40 {
            let strip = world.geometry.rotation(stripe).strip_on(slot);
            if world.geometry.is_data(stripe, slot) {
                let at = stripe * u64::from(world.geometry.stripe_bytes()) + (u64::from(strip) << 12);
                assert!(world.ask(RequestKind::Read, at, 4096));
            }
        }
        world.turn();
        let until_ns = world.now_ns() + PATIENCE_NS + 2 * SECOND;
        while world.outstanding() > 0 {
            world.turn_who_is_awake();
            assert!(world.now_ns() < until_ns, "{} reads have no answer", world.outstanding());
        }
        silence(&world, &[slot], false);
        world.verify();
    }
}

/// A read into pages of the host is in flight to a failed member, and only the kernel can end it. A reactor
/// that is told to end leaves such a read behind, but no other request. (A server that was told to end waited
/// a minute for it, and did not stop cleanly.)
#[test]
fn a_read_into_pages_of_the_host_is_left_to_the_kernel() {
    let mut world = world(900, Level::Raid5, 4, 4 << 10, 1);
    let slot = world.geometry.rotation(0).slot_of(0);
    silence(&world, &[slot], true);
    assert_eq!(world.left_to_kernel(), Some(0));
    world.ask_into_host_pages(0, 4096);
    assert_eq!(world.left_to_kernel(), None, "its member may answer");
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(slot));
    assert_eq!(world.left_to_kernel(), Some(1));
    let write = RequestKind::Write { fua: false };
    assert!(world.ask(write, 3 * 4096, 4096) && world.ask(RequestKind::Flush, 0, 0));
    assert_eq!(world.left_to_kernel(), None, "a write is to be answered");
    world.turn_until("every answer", |world| world.outstanding() == 0);
    assert_eq!(world.left_to_kernel(), Some(1));
}
