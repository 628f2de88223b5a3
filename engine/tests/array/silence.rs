//! Members that do not answer: who is failed for it, and what goes on without them.
//!
//! Method: members fall silent under a load of all kinds of requests, alone, several together or all, and answer later, never,
//! or after their slot has another device. Oracle: times of answers, the model of the host, what lies on the members in the
//! end, and the rings, which see to it that no memory is used again that an I/O in flight still has (`disks`).

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

/// Requests of every size and kind, each as long as the member timeout and a second.
fn is_answered_in_time(world: &mut World) {
    let asked_ns = world.now_ns();
    world.turn_until("every answer", |world| world.outstanding() == 0);
    let took_ns = world.now_ns() - asked_ns;
    assert!(took_ns < PATIENCE_NS + SECOND, "answered after {took_ns} ns: {:?}", world.config);
}

/// A fresh device takes the slot; the old one keeps its index, and its I/O.
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

/// As many members as the level can spare fall silent together, for ever: they leave in one epoch, every request in flight
/// is answered in time, and so is all that comes after. Then their slots are filled, and only then the old devices
/// carry out what they were asked, or fail it.
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
        // Created in the first epoch, started in the second.
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
        // The kernel gives back what it had, done or failed.
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

/// Two members fall silent under reads alone, which change nothing on record: no round of superblocks is in flight to either when they
/// are failed, so what they hold of the record says nothing of the other. They leave in one epoch all the same.
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

/// The patience of a second silent member runs out while the record of the first is being written to it.
#[test]
fn a_record_does_not_wait_for_a_silent_member() {
    for seed in 0..4 {
        let mut world = world(200 + seed, Level::Raid6, 6, 4 << 10, 1);
        world.load(40);
        world.settle();
        silence(&world, &[0, 1], true);
        // The operator fails one of them; the other has to hear of it.
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

/// An error of a device that has been replaced, of a flush or of a bitmap block, says nothing of the one that came after it.
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

/// The list of lost rows is being written when a member falls silent: once the member is out on record, the list is durable without it.
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

/// A bitmap block is being written when one of its keepers leaves, and the write to the other keeper is slow. By the time it ends the slot
/// of the first has another device, which is being filled and in part on record: the block counts as written, since the device that
/// missed it is out.
#[test]
fn what_a_device_has_missed_is_not_held_against_the_next_one() {
    let mut world = world(303, Level::Raid5, 4, 4 << 10, 1);
    assert!(!world.fails(RequestKind::Write { fua: false }, 0, 4096));
    let bitmap = world.shared.layout.bitmap_offset_bytes..world.data_bytes().start;
    // Slots 0 and 1 keep block 0; the last stripe is of another region of cells than the first.
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

/// All members are silent for longer than the patience, as when a cable or an adapter is reset, and answer one after the other:
/// nobody has failed. The same where only one of them had been asked for something.
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

/// One more is silent than can be spared: nobody is failed while it is so; when all but one answer again, that one is.
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

/// Members that take minutes over deallocations and do everything else at once are well.
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
    // One member takes its time, and is asked for nothing else meanwhile.
    world.disks.borrow_mut()[2].slow_advice = true;
    assert!(!world.fails(RequestKind::Write { fua: false }, 20 * stripe_bytes, 10 * stripe_bytes));
    assert!(!world.fails(RequestKind::Discard, 20 * stripe_bytes, 10 * stripe_bytes));
    rest(&mut world, 4 * PATIENCE_NS);
    assert!(!world.io_is_quiet(), "no deallocation was in flight");
    assert_eq!(world.shared.members.view().readable, world.geometry.slots());
    world.disks.borrow_mut()[2].slow_advice = false;
    world.verify();
}

/// Deallocations that a member does one by one are waited for, in every reactor, however many there are. If none ends any more,
/// the member leaves: their stripes are locked.
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
    // Whichever reactor is first has its own done first, so the other one waits for longer than ten times the patience.
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

/// A member that takes a minute over a flush and answers everything else in time is well: each answer counts as a sign of life.
#[test]
fn a_slow_flush_costs_no_member() {
    let mut world = world(602, Level::Raid5, 4, 4 << 10, 1);
    world.load(60);
    world.settle();
    let device = world.shared.members.device(1);
    // False where it has a cache already.
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

/// More reads into pages of the host than a reactor has places for are in flight to a member that is failed. They wait for the kernel;
/// whatever else is read meanwhile does not.
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

/// All the memory that hosts may use holds reads in flight to a member that falls silent, and none is given back before all of them are
/// answered: there is as much in its stead.
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

/// Reactors sleep when nothing tells them to turn. A read that was in flight to a member that is failed is done again all the same.
/// (Reactor 0 woke for the sweep each second; at any other reactor such a read waited until something else came.)
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

/// A read into pages of the host is in flight to a member that is failed, and only the kernel can end it. A reactor that is told to end
/// leaves such a read, and no other request. (A server that was told to end waited a minute for it, and was not stopped cleanly.)
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
