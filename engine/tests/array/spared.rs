//! Members that cannot be spared although enough others are present: their strips of unsynced stripes cannot
//! be computed.
//!
//! Method: arrays with no stripe in sync, or some, lose members by an order, by read errors, by silence and
//! by a write error. Oracle: which of these fails the member, what the operator is told, and that a cause
//! that leaves a choice loses nothing that was readable before.

use bitmap::Cell;
use engine::array::Order;
use engine::format::Level;
use engine::geometry::Slots;
use engine::members::{Failure, MEMBER_PATIENCE_S};
use engine::request::RequestKind;

use crate::world::{Config, Initial, World};

fn unsynced(seed: u64, level: Level, members: usize) -> World {
    let (initial, chunk_bytes) = (Initial::All(Cell::NeedSync), 4096);
    World::new(Config { seed, level, members, chunk_bytes, stripes: 400, initial, reactors: 1 })
}

fn order_fail(world: &mut World, slot: u8) -> Result<(), String> {
    let answered = world.order(|answer| Order::Fail { slot, answer });
    world.turn_until("an answer", |_| !answered.is_empty());
    let outcome = answered.recv().expect("an answer");
    assert!(outcome.is_err() || !world.shared.members.record().writable.has(slot), "it is not on record");
    outcome
}

fn silence(world: &World, slot: u8, silent: bool) {
    let device = usize::from(world.shared.members.device(slot).0);
    world.disks.borrow_mut()[device].silent = silent;
}

/// The order is refused as long as a stripe needs the member, with the number of these stripes and with
/// advice; then it is carried out, and everything reads as before.
#[test]
fn an_order_waits_for_the_resync() {
    for (seed, level, members) in [(1, Level::Raid5, 4), (2, Level::Raid6, 6)] {
        let mut world = unsynced(seed, level, members);
        let mut refused = 0;
        while !world.is_synced() {
            let left = world.shared.bitmap.count().need_sync;
            assert_eq!(world.shared.bitmap.need_sync(), left);
            let outcome = order_fail(&mut world, 1);
            let holds_data = |world: &World| {
                let unsynced = |stripe: &u64| world.shared.bitmap.cell(*stripe) == Cell::NeedSync;
                (0..400).filter(unsynced).any(|stripe| world.geometry.is_data(stripe, 1))
            };
            if let Err(why) = outcome {
                let count =
                    why.split_whitespace().find_map(|word| word.parse::<u64>().ok().filter(|&n| n != 1));
                assert!(why.contains("stripes are still to be resynced"), "{why}");
                assert!(why.contains("`striate wait ") && why.contains("then fail slot 1"), "{why}");
                assert!(count.is_none_or(|count| count <= left), "{why}, of {left}");
                refused += 1;
            } else {
                assert!(!holds_data(&world), "it was failed with data left that nobody else has");
                break;
            }
            world.turn();
        }
        assert!(refused > 0);
        if world.shared.members.view().writable.has(1) {
            assert_eq!(order_fail(&mut world, 1), Ok(()));
        }
        world.load(40);
        world.verify();
        assert_eq!(world.errors, 0);
    }
}

/// The refusal of an order names its reason, which tells the operator whether to wait or to replace a member.
#[test]
fn a_refusal_says_why() {
    let initial = Initial::All(Cell::Clean);
    let (level, members, chunk_bytes) = (Level::Raid5, 4, 4096);
    let mut world =
        World::new(Config { seed: 7, level, members, chunk_bytes, stripes: 40, initial, reactors: 1 });
    assert_eq!(order_fail(&mut world, 1), Ok(()));
    for (slot, reason) in [(1, "is not in use"), (2, "would lose data")] {
        let why = order_fail(&mut world, slot).expect_err("it cannot be failed");
        assert!(why.contains(reason), "{why}");
    }
    // Unsynced stripes in which a missing member holds data stay as they are: there is no resync to wait for.
    let mut world = unsynced(8, Level::Raid6, 6);
    assert!(world.shared.members.fail(2, Failure::Operator));
    world.pass(60);
    let why = order_fail(&mut world, 1).expect_err("it holds what nobody else has");
    assert!(why.contains("could not be resynced so far"), "{why}");
}

/// Bad sectors that appear over a long time cost no member: they are repaired, and the count of errors is
/// halved every minute.
#[test]
fn old_read_errors_are_forgotten() {
    let initial = Initial::All(Cell::Clean);
    let (level, members, chunk_bytes) = (Level::Raid5, 4, 4096);
    let mut world =
        World::new(Config { seed: 9, level, members, chunk_bytes, stripes: 120, initial, reactors: 1 });
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    let held: Vec<u64> = (0..120).filter(|&stripe| world.geometry.is_data(stripe, 0)).collect();
    for stripes in held[..80].chunks(40) {
        for &stripe in stripes {
            let strip = world.geometry.rotation(stripe).strip_on(0);
            world.spoil(stripe, strip, 0);
            assert!(!world.fails(RequestKind::Read, stripe * stripe_bytes, stripe_bytes));
        }
        world.pass(130);
    }
    assert_eq!(world.shared.members.read_errors(0), 80);
    assert!(world.shared.members.view().readable.has(0), "it was failed for errors of minutes ago");
}

/// A member with read errors is not failed while it is the only one that has its strips.
#[test]
fn read_errors_fail_no_member_that_is_needed() {
    let mut world = unsynced(3, Level::Raid6, 6);
    let device = usize::from(world.shared.members.device(2).0);
    world.disks.borrow_mut()[device].unreadable = true;
    world.lossy.fill(true);
    for _ in 0..20 {
        (0..40).for_each(|_| world.ask_random());
        world.settle();
    }
    assert!(world.shared.members.read_errors(2) > 64 && !world.is_synced());
    assert_eq!(world.shared.members.view().readable, world.geometry.slots());
    // Once every stripe is consistent without it, the member is failed for the errors that it still has.
    world.disks.borrow_mut()[device].unreadable = false;
    world.turn_until("a resync", |world| world.is_synced());
    world.disks.borrow_mut()[device].unreadable = true;
    world.turn_until("its failure", |world| {
        world.ask_random();
        !world.shared.members.view().writable.has(2)
    });
    assert!(matches!(world.shared.members.failure(2), Some(Failure::Reads(_))));
}

/// While stripes are unsynced, a silence of twice the patience costs no member and no data; a silence without
/// end does not stop the array for ever.
#[test]
fn a_silent_member_is_waited_for_longer() {
    const SECOND: u64 = 1_000_000_000;
    let patience_s = u64::from(MEMBER_PATIENCE_S);
    let mut world = unsynced(4, Level::Raid5, 4);
    world.turn();
    silence(&world, 1, true);
    world.pass(2 * patience_s);
    assert_eq!(world.shared.members.view().writable, world.geometry.slots());
    silence(&world, 1, false);
    world.turn_until("a resync", |world| world.is_synced());
    world.verify();
    assert_eq!(world.errors, 0);

    let mut world = unsynced(5, Level::Raid5, 4);
    world.turn();
    silence(&world, 1, true);
    world.lossy.fill(true);
    let began_ns = world.now_ns();
    world.turn_until("its failure", |world| !world.shared.members.view().writable.has(1));
    let took_s = (world.now_ns() - began_ns) / SECOND;
    assert!((10 * patience_s..11 * patience_s).contains(&took_s), "after {took_s} s");
}

/// A member that has missed a write is failed, whatever is lost with it.
#[test]
fn a_write_error_has_no_choice() {
    let mut world = unsynced(6, Level::Raid6, 6);
    world.turn();
    let device = usize::from(world.shared.members.device(3).0);
    world.disks.borrow_mut()[device].dead = true;
    world.lossy.fill(true);
    let stripe = u64::from(world.geometry.stripe_bytes());
    world.turn_until("its failure", |world| {
        world.ask(RequestKind::Write { fua: false }, 399 * stripe, stripe);
        world.shared.members.record().writable.and(Slots::one(3)).is_empty()
    });
    world.settle();
}

/// Writes that read old bytes for the parity count failed reads as host reads do: writes alone fail a member
/// of which no read succeeds.
#[test]
fn read_errors_of_writes_fail_a_member() {
    let (initial, chunk_bytes) = (Initial::All(Cell::Clean), 4096);
    let (level, members, stripes) = (Level::Raid5, 4, 100);
    let mut world =
        World::new(Config { seed: 7, level, members, chunk_bytes, stripes, initial, reactors: 1 });
    world.disks.borrow_mut()[1].unreadable = true;
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    for stripe in 0..100 {
        let strip = world.geometry.rotation(stripe).strip_on(1);
        let at = if strip < 3 { u64::from(strip) * 4096 } else { 0 };
        assert!(!world.fails(RequestKind::Write { fua: false }, stripe * stripe_bytes + at, 512));
    }
    assert!(matches!(world.shared.members.failure(1), Some(Failure::Reads(_))));
    world.verify();
}

/// An unsynced stripe that lacks the member of a data strip stays as it is: if that member returns, its strip
/// can be read again. Meanwhile writes to the other strips are stored.
#[test]
fn a_resync_without_a_member_gives_nothing_up() {
    let mut world = unsynced(8, Level::Raid5, 4);
    assert!(world.shared.members.fail(2, Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
    world.pass(60);
    assert!(world.shared.lost.is_empty());
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    for stripe in 0..400 {
        let is_data = world.geometry.is_data(stripe, 2);
        assert_eq!(world.shared.bitmap.cell(stripe) == Cell::NeedSync, is_data, "stripe {stripe}");
        let rotation = world.geometry.rotation(stripe);
        for strip in (0..3).filter(|&strip| rotation.slot_of(strip) != 2 && stripe % 10 == 0) {
            let at = stripe * stripe_bytes + u64::from(strip) * 4096;
            assert!(!world.fails(RequestKind::Write { fua: false }, at, 4096), "D{strip} of {stripe}");
            assert!(!world.fails(RequestKind::Read, at, 4096), "D{strip} of {stripe}");
        }
    }
}
