//! Members that fail while a write is under way: the write continues with the remaining members, or fails.
//!
//! Method: one request on an otherwise idle array, and members that leave at a chosen point of it. Oracle:
//! whether and how the request is answered; the world's model of the bytes.

use bitmap::Cell;
use engine::format::Level;
use engine::format::lost_rows::LostRange;
use engine::members::Failure;
use engine::request::RequestKind;
use engine::tally::Tally;

use crate::world::{Config, Initial, World};

const WRITE: RequestKind = RequestKind::Write { fua: false };

fn array(seed: u64, chunk_bytes: u32) -> World {
    let (level, initial) = (Level::Raid5, Initial::All(Cell::Clean));
    World::new(Config { seed, level, members: 4, chunk_bytes, stripes: 6, initial, reactors: 1 })
}

/// Makes a stripe unsynced without a resync under way; returns the stripe's first byte.
fn torn(world: &mut World, stripe: u64) -> u64 {
    let at = stripe * u64::from(world.geometry.stripe_bytes());
    assert!(!world.fails(WRITE, at, 4096));
    world.shared.bitmap.torn(stripe);
    at
}

/// A write is stored without parity because another strip cannot be read, and the member it goes to fails:
/// its bytes are on no member, so the write fails.
#[test]
fn a_write_without_parity_needs_its_member() {
    let mut world = array(1, 64 << 10);
    let at = torn(&mut world, 3);
    world.spoil(3, 1, 0);
    let slot = world.geometry.rotation(3).slot_of(0);
    world.disks.borrow_mut()[usize::from(slot)].dead = true;
    world.lossy[3] = true;
    assert!(world.fails(WRITE, at, 4096));
    assert!(!world.shared.failed() && !world.shared.members.view().writable.has(slot));
}

/// A member fails after the first of several batches of a write that makes parity of its unsynced stripe
/// match. The write is then stored without parity, or still puts the stripe in sync if it covers the lost
/// strip whole.
#[test]
fn a_write_that_heals_outlives_a_member() {
    for (strip, len) in [(0, 4096), (2, 1 << 20)] {
        let mut world = array(2, 1 << 20);
        let at = torn(&mut world, 3) + strip * (1 << 20);
        let written = |world: &World| Tally::sum(&world.shared.tallies).member_writes;
        let before = written(&world);
        assert!(world.ask(WRITE, at, len));
        world.turn_until("the first batch", |world| written(world) > before);
        assert_eq!(world.outstanding(), 1, "it is not at its end");
        assert!(world.shared.members.fail(world.geometry.rotation(3).slot_of(2), Failure::Operator));
        world.settle();
        assert_eq!(world.shared.bitmap.cell(3) == Cell::NeedSync, strip == 0);
        assert!(!world.fails(RequestKind::Read, at, len));
        assert_eq!(world.errors, 0);
    }
}

/// The array fails while a write waits until the list of lost rows, without the rows just written, is
/// durable: the write fails.
#[test]
fn a_write_that_waits_for_the_list_is_answered() {
    let mut world = array(3, 64 << 10);
    let slot = world.geometry.rotation(3).slot_of(0);
    let listed = LostRange { stripe: 3, stripes: 1, slot, row: 0, rows: 4096 };
    assert!(world.shared.lost.add(listed).is_ok());
    assert!(world.ask(WRITE, 3 * u64::from(world.geometry.stripe_bytes()), 4096));
    world.turn_until("the end of the write", |world| world.shared.lost.is_empty());
    assert_eq!(world.outstanding(), 1, "the list is not durable without the rows");
    for slot in [0, 1] {
        assert!(world.shared.members.fail(slot, Failure::Operator));
    }
    world.settle();
    assert_eq!(world.errors, 1);
}

/// A slot is being filled, and below its cursor it could replace the member whose loss makes the array fail.
/// A write to such a stripe fails and reaches no member, although the strips could be read and the stripe's
/// mark is already durable.
#[test]
fn a_failed_array_writes_nothing() {
    for seed in 10..14 {
        let mut world = array(seed, 4 << 10);
        let stripe_bytes = u64::from(world.geometry.stripe_bytes());
        world.lossy.fill(true);
        assert!(world.shared.members.fail(1, Failure::Operator));
        world.turn_until("the record", |world| !world.shared.members.record().writable.has(1));
        // The last stripe cannot be filled, so the slot does not become in sync.
        let last = world.geometry.rotation(5);
        for strip in (0..4).filter(|&strip| last.slot_of(strip) == 0) {
            world.spoil(5, strip, 0);
        }
        world.join(1, 0);
        world.turn_until("the other stripes", |world| world.shared.members.cursor() == 5);
        // In these stripes slot 0 holds data that the writes do not touch.
        let written: Vec<u64> = (0..5).filter(|&stripe| world.geometry.is_data(stripe, 0)).collect();
        let at = |world: &World, stripe: u64| {
            let untouched = world.geometry.rotation(stripe).strip_on(0);
            stripe * stripe_bytes + if untouched == 0 { 4096 } else { 0 }
        };
        for &stripe in &written {
            assert!(!world.fails(WRITE, at(&world, stripe), 4096));
        }
        assert!(world.shared.members.fail(0, Failure::Operator));
        assert!(world.shared.failed());
        let data = world.data_bytes();
        let strips = |world: &World| -> Vec<Vec<u8>> {
            let disks = world.disk_contents();
            disks.iter().map(|bytes| bytes[data.start as usize..data.end as usize].to_vec()).collect()
        };
        world.turn_until("the end of its I/O", |world| world.io_is_quiet());
        let before = strips(&world);
        for &stripe in &written {
            assert!(world.fails(WRITE, at(&world, stripe), 4096), "stripe {stripe} was written");
        }
        assert!(strips(&world) == before, "a member was written to");
    }
}

/// The only member with a volatile cache fails after it has taken its part of a first write. That part may be
/// gone, so the cell stays Unwritten until the record excludes the member.
#[test]
fn a_first_write_waits_until_a_cache_that_was_lost_is_on_record() {
    let (level, initial) = (Level::Raid5, Initial::All(Cell::Unwritten));
    let (seed, chunk_bytes) = (20, 4 << 10);
    let mut world =
        World::new(Config { seed, level, members: 4, chunk_bytes, stripes: 6, initial, reactors: 1 });
    let cached = (0..4).find(|&slot| world.shared.members.volatile().has(slot));
    let cached = cached.unwrap_or(1);
    for slot in (0..4).filter(|&slot| slot != cached) {
        assert!(!world.shared.members.volatile().has(slot), "another seed is needed: one cache at most");
    }
    let _or_it_has_one =
        world.shared.members.cache_switched_on(cached, world.shared.members.device(cached), true);
    let other = (cached + 1) % 4;
    let (data, stripe_bytes) = (world.data_bytes(), u64::from(world.geometry.stripe_bytes()));
    // Hold the last write of the stripe, then every superblock.
    world.disks.borrow_mut()[usize::from(other)].holds = Some(data.clone());
    assert!(world.ask(WRITE, 0, stripe_bytes));
    world.pass(2);
    world.disks.borrow_mut()[usize::from(other)].holds = Some(0..128 << 10);
    assert!(world.shared.members.fail(cached, Failure::Operator));
    world.pass(2);
    assert_eq!(world.shared.bitmap.cell(0), Cell::Unwritten, "the cell came before the record");
    world.disks.borrow_mut()[usize::from(other)].holds = None;
    world.settle();
    assert!(!world.shared.members.record().writable.has(cached));
    world.verify();
}
