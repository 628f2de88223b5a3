//! A slot that is being filled: what the record says of it meanwhile, and what its device holds when the slot
//! counts as in sync.
//!
//! Method: unreadable sectors of other members hold a rebuild at a chosen stripe, and a disk holds back
//! chosen operations. Oracle: the record, the bytes on the disks, and the model of the host.

use bitmap::Cell;
use engine::array::Order;
use engine::format::Level;
use engine::format::lost_rows::{LIST_BYTES, PLACE_OFFSETS_BYTES};
use engine::geometry::Slots;
use engine::limits::BLOCK_BYTES;
use engine::members::Failure;
use engine::request::RequestKind;

use crate::world::restart::Serve;
use crate::world::{Config, Initial, World};

const CHUNK: u32 = 4 << 10;

/// A RAID-5 of four members without slot 2.
fn degraded(seed: u64) -> World {
    let (level, initial) = (Level::Raid5, Initial::All(Cell::Clean));
    let mut world = World::new(Config {
        seed,
        level,
        members: 4,
        chunk_bytes: CHUNK,
        stripes: 400,
        initial,
        reactors: 1,
    });
    fail(&mut world, 2);
    world
}

fn fail(world: &mut World, slot: u8) {
    assert!(world.shared.members.fail(slot, Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(slot));
}

/// The strip of slot 0 in a stripe.
fn strip_on_0(world: &World, stripe: u64) -> u8 {
    world.geometry.rotation(stripe).strip_on(0)
}

/// A flush takes longer than the interval at which the cursor is recorded. When the flush ends, the recorded
/// cursor is the one from before the flush: stripes that were filled meanwhile may still be in the cache of
/// the device.
#[test]
fn the_cursor_on_record_is_one_that_was_flushed() {
    let mut world = degraded(1);
    world.lossy.fill(true);
    for stripe in [20, 300] {
        let strip = strip_on_0(&world, stripe);
        world.spoil(stripe, strip, 0);
    }
    world.join(2, 0);
    let device = world.shared.members.device(2);
    let _or_it_has_one = world.shared.members.cache_switched_on(2, device, true);
    world.disks.borrow_mut()[usize::from(device.0)].slow_flushes = true;
    world.pass(7);
    assert_eq!(world.shared.members.cursor(), 20);
    // Make the sector readable again: the cursor proceeds to the next bad one.
    let (disk, sector) = world.sector_of(20, strip_on_0(&world, 20));
    world.disks.borrow_mut()[disk].bad.remove(&sector);
    world.turn_until("the next stripe", |world| world.shared.members.cursor() == 300);
    // By the next attempt at that stripe, the next record of the cursor is due too.
    world.pass(9);
    assert!(world.shared.members.cursor() >= 300);
    world.disks.borrow_mut()[usize::from(device.0)].slow_flushes = false;
    let is_below = |world: &World, stripe| world.shared.members.on_record(Slots::one(2), stripe);
    world.turn_until("a cursor on record", |world| !is_below(world, 0));
    assert!(is_below(&world, 20), "the record has a cursor that no flush has covered");
}

/// A member that joins receives the list of lost rows, in both places, before it counts as in sync: later it
/// may be one of few members that hold a list.
#[test]
fn a_filled_slot_has_the_list_of_lost_rows() {
    let mut world = degraded(2);
    world.lossy.fill(true);
    let strip = strip_on_0(&world, 20);
    world.spoil(20, strip, 0);
    world.replace(2, 0);
    assert!(!world.shared.lost.is_empty(), "the row is lost");
    fail(&mut world, 1);
    world.join(1, 0);
    let device = usize::from(world.shared.members.device(1).0);
    world.disks.borrow_mut()[device].holds = Some(PLACE_OFFSETS_BYTES[0]..PLACE_OFFSETS_BYTES[0] + 1);
    world.pass(10);
    assert_eq!(world.shared.members.cursor(), world.geometry.stripes());
    assert!(!world.shared.members.record().readable.has(1), "it counts as in sync, and has no list");
    world.disks.borrow_mut()[device].holds = None;
    world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(1));
    let list = |slot: u8, place: u64| {
        let device = usize::from(world.shared.members.device(slot).0);
        world.disks.borrow()[device].bytes[place as usize..][..LIST_BYTES].to_vec()
    };
    for place in PLACE_OFFSETS_BYTES {
        assert!(list(1, place).iter().any(|byte| *byte != 0), "it has no list at {place}");
        assert!(list(1, place) == list(0, place), "it has another list than the others at {place}");
    }
}

/// A member that joins receives both places of the bitmap blocks that it keeps before it counts as in sync,
/// whether or not a sweep writes them. A start could not tell a place that was never written from one that
/// cannot be read.
#[test]
fn a_filled_slot_has_both_places_of_its_blocks() {
    let mut world = degraded(4);
    world.replace(2, 0);
    // Slot 1 keeps block 0.
    fail(&mut world, 1);
    world.replace(1, 0);
    let device = usize::from(world.shared.members.device(1).0);
    let zone = &world.bitmap_zones()[device];
    for place in 0..2 {
        let block = &zone[place * BLOCK_BYTES..][..BLOCK_BYTES];
        assert!(block.iter().any(|byte| *byte != 0), "place {place} of its bitmap block was not written");
    }
}

/// A read of a bad sector is in the kernel while a rebuild gives up its row. The read is carried out after
/// zeros were written over the sector; zeros are not the host's data, so the read must fail.
#[test]
fn a_read_in_flight_does_not_return_rows_that_are_given_up() {
    let mut world = degraded(3);
    world.lossy.fill(true);
    let stripe = (20..30).find(|&stripe| world.geometry.is_data(stripe, 0)).expect("in turn");
    let strip = strip_on_0(&world, stripe);
    world.spoil(stripe, strip, 0);
    world.spoil(stripe, strip, 512);
    world.join(2, 0);
    world.pass(10);
    assert!(world.shared.lost.is_empty(), "it was given up too soon for this test");
    let (disk, sector) = world.sector_of(stripe, strip);
    // The rebuild reads whole blocks, the host only the second sector of one, so only the host's read is
    // held.
    let held = (sector + 1) * 512;
    world.disks.borrow_mut()[disk].holds = Some(held..held + 512);
    let at = stripe * u64::from(world.geometry.stripe_bytes()) + u64::from(strip) * u64::from(CHUNK) + 512;
    assert!(world.ask(RequestKind::Read, at, 512));
    world.turn_until("the end of the rebuild", |world| world.shared.members.record().readable.has(2));
    assert!(world.shared.lost.touches(stripe));
    assert_eq!((world.outstanding(), world.bad_sectors(), world.errors), (1, 0, 0));
    world.disks.borrow_mut()[disk].holds = None;
    world.settle();
    assert_eq!(world.errors, 1, "the row is lost, and was read");
}

/// An array whose rebuild of slot 2 stands at stripe 60, with no cursor on record yet.
fn standing_at_60(seed: u64) -> World {
    let mut world = degraded(seed);
    let strip = strip_on_0(&world, 60);
    world.spoil(60, strip, 0);
    world.join(2, 0);
    world.turn_until("stripe 60", |world| world.shared.members.cursor() == 60);
    assert!(is_outside(&world, 0), "the cursor is on record already");
    world
}

/// Whether the record does not count slot 2 as filled in this stripe.
fn is_outside(world: &World, stripe: u64) -> bool {
    world.shared.members.on_record(Slots::one(2), stripe)
}

/// Stripes were filled, and then a refused write tore them: now only the slot that is being filled holds its
/// strips of them. After an orderly stop the next server reads the slot there, and nothing is lost.
#[test]
fn a_stop_records_how_far_a_slot_is_filled() {
    let mut world = standing_at_60(5);
    let (stripe_bytes, data) = (u64::from(world.geometry.stripe_bytes()), world.data_bytes());
    world.disks.borrow_mut()[0].refuses = Some((28, data));
    world.lossy.fill(true);
    for stripe in 0..60 {
        // Slot 0 refuses both its data and its parity.
        world.ask(RequestKind::Write { fua: false }, stripe * stripe_bytes, 4096);
    }
    world.settle();
    world.lossy.fill(false);
    let torn = world.shared.bitmap.need_sync();
    assert!(torn > 20, "only {torn} stripes were torn");
    world.disks.borrow_mut()[0].refuses = None;
    assert!(is_outside(&world, 0), "the cursor is on record already");
    world.stop();
    world.disks.borrow_mut().iter_mut().for_each(|disk| disk.bad.clear());
    let mut world = world.restart(Serve::ReadWrite);
    world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(2) && world.is_synced());
    assert!(world.shared.lost.is_empty(), "{:?}", world.shared.lost.ranges());
    world.verify();
}

/// The cursor goes on record in a stop, but only after the flush of the stop: until then filled strips may be
/// in the cache of the device.
#[test]
fn a_stop_flushes_before_it_records_how_far_a_slot_is_filled() {
    let mut world = standing_at_60(6);
    let device = world.shared.members.device(2);
    let _or_it_has_one = world.shared.members.cache_switched_on(2, device, true);
    world.disks.borrow_mut()[usize::from(device.0)].slow_flushes = true;
    let stopped = world.order(|answer| Order::Stop { answer });
    world.pass(7);
    assert!(stopped.is_empty() && is_outside(&world, 0), "the record has a cursor that no flush has covered");
    world.disks.borrow_mut()[usize::from(device.0)].slow_flushes = false;
    world.turn_until("a stop", |_| !stopped.is_empty());
    assert_eq!(stopped.recv(), Ok(Ok(())));
    assert!(!is_outside(&world, 59) && is_outside(&world, 60), "the record has another cursor than 60");
}
