//! An array at rest: what wakes it, and what must be on record before the sweep lets it rest.

use bitmap::Cell;
use engine::format::Level;
use engine::members::Failure;
use engine::request::RequestKind;
use engine::tally::DeviceTallies;

use crate::world::restart::Serve;
use crate::world::{Config, Initial, World};

/// With a member missing, reads own their stripes as writes do. They write nothing, so the array stays at
/// rest: if it woke, a power cut after mere reads would be an unclean stop.
#[test]
fn reads_wake_no_array() {
    let (level, initial) = (Level::Raid5, Initial::All(Cell::Clean));
    let (seed, chunk_bytes) = (1, 4 << 10);
    let config = Config { seed, level, members: 4, chunk_bytes, stripes: 40, initial, reactors: 1 };
    let mut world = World::new(config);
    assert!(world.shared.members.fail(2, Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
    world.stop();
    let mut world = world.restart(Serve::ReadWrite);
    assert!(!world.shared.members.view().readable.has(2));
    assert_eq!(world.failing_reads(4096), [0u64; 0]);
    assert!(!world.shared.steward.rest.is_over(), "superblocks were written for a read");
    assert!(!world.fails(RequestKind::Write { fua: false }, 0, 4096));
    assert!(world.shared.steward.rest.is_over());
}

/// A sleeping reactor does not learn the time. The time it slept must not count as latency of the member that
/// the first request afterwards reads.
#[test]
fn the_sleep_of_a_reactor_is_no_latency_of_a_member() {
    let (level, initial) = (Level::Raid5, Initial::All(Cell::Clean));
    let config =
        Config { seed: 4, level, members: 4, chunk_bytes: 4 << 10, stripes: 40, initial, reactors: 1 };
    let mut world = World::new(config);
    world.pass(1);
    world.sleep(60);
    assert!(world.ask(RequestKind::Read, 0, 4096));
    world.settle();
    let device = world.shared.members.device(world.geometry.rotation(0).slot_of(0));
    let reads = DeviceTallies::sum(&world.shared.tallies, device).reads;
    assert_eq!(reads.count, 1, "the read of the host and no other");
    let longest_ns = reads.latency_ns.expect("it has ended").max;
    assert!(longest_ns < 10_000_000_000, "{longest_ns} ns");
}

/// A drive dies while a stripe in which it holds data is unsynced, and no host writes. The failed reads of
/// the resync do not count against the drive. But a resync that begins at rest has the superblocks written
/// first, so the drive is failed within seconds, and the array does not count as whole with a stripe that
/// cannot be resynced.
#[test]
fn a_resync_finds_a_drive_that_died() {
    for dies_at_rest in [true, false] {
        let (level, initial) = (Level::Raid5, Initial::All(Cell::NeedSync));
        let (seed, chunk_bytes) = (2, 4 << 10);
        let config = Config { seed, level, members: 4, chunk_bytes, stripes: 1, initial, reactors: 1 };
        let mut world = World::new(config);
        world.stop();
        let mut world = world.restart(Serve::ReadWrite);
        assert!(!world.is_synced() && !world.shared.steward.rest.is_over());
        let slot = world.geometry.rotation(0).slot_of(0);
        if !dies_at_rest {
            world.turn_until("the wake", |world| world.shared.steward.rest.is_over());
        }
        world.disks.borrow_mut()[usize::from(slot)].dead = true;
        world.pass(8);
        assert!(!world.is_synced(), "it was resynced before the drive died");
        assert!(world.shared.members.failure(slot).is_some(), "dies at rest: {dies_at_rest}");
        assert!(!world.shared.members.record().readable.has(slot));
    }
}

/// The sweep makes a cell Clean on the members only after the record has moved on, in both copies of every
/// superblock: an image of a member from before the write is then known to be old. (`stop` has the same test
/// for a stop.)
#[test]
fn the_sweep_moves_the_record_before_it_takes_off_a_mark() {
    let (level, initial) = (Level::Raid5, Initial::All(Cell::Clean));
    let config =
        Config { seed: 2, level, members: 4, chunk_bytes: 4 << 10, stripes: 40, initial, reactors: 1 };
    let mut world = World::new(config);
    assert!(!world.fails(RequestKind::Write { fua: false }, 0, 4096));
    world.turn_until("the end of its I/O", |world| world.io_is_quiet());
    assert_eq!(world.shared.bitmap.cell(0), Cell::Dirty);
    // Slots 0 and 1 keep block 0, each in two places.
    let first = world.shared.layout.bitmap_offset_bytes as usize;
    let block = |world: &World| [0, 1].map(|slot| world.disks.borrow()[slot].bytes[first..][..8192].to_vec());
    let moves = |world: &World| world.superblocks().iter().map(|copy| copy.record.moves).min();
    let (moves_before, block_before) = (moves(&world), block(&world));
    // One superblock is held back, so the record cannot move on.
    world.disks.borrow_mut()[2].holds = Some(0..128 << 10);
    world.pass(5);
    assert!(block(&world) == block_before, "a cell is Clean on a member, and the record has not moved on");
    world.disks.borrow_mut()[2].holds = None;
    world.turn_until("a bitmap block", |world| block(world) != block_before);
    assert!(moves(&world) > moves_before, "a cell is Clean on a member, and the record has not moved on");
}

/// A write marks its stripe and is then refused, because a row that it needs cannot be computed. No member
/// was written, and the sweep still clears the mark: otherwise the next power cut would be followed by a
/// resync of the stripe.
#[test]
fn the_mark_of_a_refused_write_is_swept() {
    let (level, initial) = (Level::Raid5, Initial::All(Cell::Clean));
    let config =
        Config { seed: 3, level, members: 4, chunk_bytes: 4 << 10, stripes: 40, initial, reactors: 1 };
    let mut world = World::new(config);
    world.pass(10);
    for strip in [0, 1] {
        world.spoil(9, strip, 0);
    }
    world.lossy[9] = true;
    let at = 9 * u64::from(world.geometry.stripe_bytes());
    assert!(world.fails(RequestKind::Write { fua: false }, at, 512));
    assert_eq!(world.shared.bitmap.cell(9), Cell::Dirty);
    world.pass(5);
    assert_eq!(world.shared.bitmap.cell(9), Cell::Clean);
}
