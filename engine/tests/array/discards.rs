//! Discards over many stripes: how few deallocations the members receive, and what happens to the stripes
//! between.
//!
//! Method: discards of many stripes, alone and beside writes and reads, with members that are slow to
//! deallocate or leave during a deallocation. Oracle: the number of deallocations and their bytes at each
//! member, the model of the host, and the content of the members at the end. A member deallocates into noise,
//! so a strip that is deallocated by mistake is noticed.

use bitmap::Cell;
use engine::format::Level;
use engine::members::Failure;
use engine::request::RequestKind;

use crate::world::{Config, Initial, World};

const CHUNK_BYTES: u64 = 4096;

fn world(seed: u64, level: Level, members: usize, stripes: u64, reactors: usize) -> World {
    let initial = Initial::All(Cell::Clean);
    let chunk_bytes = CHUNK_BYTES as u32;
    World::new(Config { seed, level, members, chunk_bytes, stripes, initial, reactors })
}

fn stripe_bytes(world: &World) -> u64 {
    world.geometry.stripe_bytes().into()
}

fn rest(world: &mut World) {
    world.turn_until("the end of its I/O", |world| world.outstanding() == 0 && world.io_is_quiet());
}

/// A discard of 4096 stripes, as many as 1 GiB covers on five members with chunks of 64 KiB. With one
/// deallocation for each strip it took 20,480.
#[test]
fn a_large_discard_is_few_deallocations() {
    for seed in 0..3 {
        let mut world = world(1 + seed, Level::Raid5, 5, 4096, 1);
        let stripes = world.geometry.stripes();
        assert!(!world.fails(RequestKind::Discard, 0, world.geometry.size_bytes()));
        rest(&mut world);
        let counts: Vec<_> = world.disks.borrow().iter().map(|disk| disk.counts).collect();
        let sent: u64 = counts.iter().map(|counts| counts.deallocations).sum();
        println!("{stripes} stripes of 5 members: {sent} deallocations");
        assert!(counts.iter().all(|counts| counts.deallocated_bytes == stripes * CHUNK_BYTES), "{counts:?}");
        assert!(sent <= 5 * stripes / 32, "{sent} deallocations for {stripes} stripes");
        world.verify();
    }
}

/// A discard of many stripes whose deallocations take minutes holds only a few stripes at a time: requests to
/// other stripes proceed.
#[test]
fn a_large_discard_leaves_room_for_others() {
    let mut world = world(5, Level::Raid5, 4, 300, 1);
    let stripe = stripe_bytes(&world);
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.slow_advice = true);
    assert!(world.ask(RequestKind::Discard, 0, 250 * stripe));
    world.pass(2);
    for at in 260..300 {
        assert!(world.ask(RequestKind::Write { fua: false }, at * stripe, stripe));
    }
    world.pass(2);
    assert_eq!(world.outstanding(), 1, "writes to other stripes wait for the advice");
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.slow_advice = false);
    rest(&mut world);
    world.verify();
}

/// Stripes that the discard does not cover, or that are already unwritten, end a run of stripes and keep
/// their content.
#[test]
fn a_run_ends_where_a_stripe_is_not_discarded() {
    let mut world = world(11, Level::Raid6, 6, 120, 1);
    let stripe = stripe_bytes(&world);
    for at in [7, 30, 31, 64] {
        assert!(!world.fails(RequestKind::Discard, at * stripe, stripe));
    }
    // The following discards happen in one turn, with gaps of one stripe between them.
    for (first, count) in [(0, 10), (11, 20), (32, 40), (73, 2), (76, 30)] {
        assert!(world.ask(RequestKind::Discard, first * stripe, count * stripe));
    }
    rest(&mut world);
    world.verify();
}

/// Discards of many stripes among writes and reads, on whole and degraded arrays of one and two reactors.
#[test]
fn discards_and_writes_meet() {
    for seed in 20..32 {
        let (level, members) = [(Level::Raid5, 4), (Level::Raid6, 5)][seed as usize % 2];
        let mut world = world(seed, level, members, 150, 1 + seed as usize % 2);
        let stripe = stripe_bytes(&world);
        for round in 0..40 {
            let first = world.rng.below(world.geometry.stripes());
            let count = 1 + world.rng.below((world.geometry.stripes() - first).min(100));
            world.ask(RequestKind::Discard, first * stripe, count * stripe);
            for _ in 0..8 {
                let at = CHUNK_BYTES * world.rng.below(world.geometry.size_bytes() / CHUNK_BYTES);
                let kind =
                    if world.rng.chance(30) { RequestKind::Read } else { RequestKind::Write { fua: false } };
                world.ask(kind, at, CHUNK_BYTES);
                world.turn();
            }
            if round == 20 {
                world.lose(1);
            }
        }
        world.verify();
    }
}

/// A write to any stripe of a run waits until every member has carried out the deallocation, which would
/// otherwise destroy the write.
#[test]
fn a_write_waits_for_the_whole_run() {
    for at in 0..8 {
        let mut world = world(40 + at, Level::Raid5, 4, 60, 1);
        let stripe = stripe_bytes(&world);
        world.disks.borrow_mut()[2].slow_advice = true;
        assert!(!world.fails(RequestKind::Discard, 0, 8 * stripe));
        assert!(world.ask(RequestKind::Write { fua: false }, at * stripe, stripe));
        assert!(world.ask(RequestKind::Write { fua: false }, 8 * stripe, stripe));
        world.pass(2);
        assert_eq!(world.outstanding(), 1, "the write to stripe {at}, and not the one behind the run");
        world.disks.borrow_mut()[2].slow_advice = false;
        rest(&mut world);
        world.verify();
    }
}

/// A member that leaves during a deallocation is not waited for: every stripe of the run is released.
#[test]
fn a_member_leaves_during_a_run() {
    let mut world = world(50, Level::Raid5, 4, 60, 1);
    let stripe = stripe_bytes(&world);
    world.disks.borrow_mut()[2].slow_advice = true;
    assert!(!world.fails(RequestKind::Discard, 0, 20 * stripe));
    assert!(world.ask(RequestKind::Write { fua: false }, 5 * stripe, 12 * stripe));
    world.pass(1);
    assert_eq!(world.outstanding(), 1);
    assert!(world.shared.members.fail(2, Failure::Operator));
    world.settle();
    world.verify();
}
