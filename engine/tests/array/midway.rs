//! Members that fail while a write is under way: the write goes on with those that are left, or fails.
//!
//! Method: one request on an array that is otherwise at rest, and members that leave at a chosen point of it. Oracle: whether the
//! request is answered, and how; the world's model of the bytes.

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

/// A stripe that needs a resync, without one under way; its first byte.
fn torn(world: &mut World, stripe: u64) -> u64 {
    let at = stripe * u64::from(world.geometry.stripe_bytes());
    assert!(!world.fails(WRITE, at, 4096));
    world.shared.bitmap.torn(stripe);
    at
}

/// A write is stored without parity because another strip cannot be read, and its own member fails: its bytes are on no member, so
/// the write fails.
#[test]
fn a_write_without_parity_needs_its_member() {
    let mut world = array(1, 64 << 10);
    let at = torn(&mut world, 3);
    world.spoil(3, 1, 0);
    let slot = world.geometry.rotation(3).slot_of(0);
    let data = world.data_bytes();
    world.disks.borrow_mut()[usize::from(slot)].refuses = Some((5, data));
    world.lossy[3] = true;
    assert!(world.fails(WRITE, at, 4096));
    assert!(!world.shared.failed() && !world.shared.members.view().writable.has(slot));
}

/// A member fails after the first of several batches of a write that heals its stripe. The write is stored without parity, or still
/// heals the stripe if it covers the lost strip whole.
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

/// The array fails while a write waits for the list of lost rows to be durable without the rows that it has written: the write fails.
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
