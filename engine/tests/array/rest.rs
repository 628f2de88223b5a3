//! An array at rest: what wakes it.

use bitmap::Cell;
use engine::format::Level;
use engine::members::Failure;
use engine::request::RequestKind;

use crate::world::restart::Serve;
use crate::world::{Config, Initial, World};

/// With a member missing, reads own their stripes as writes do. They write nothing, so the array goes on resting: if it woke, a power
/// cut after mere reads would be an unclean stop.
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
    assert_eq!(world.failing_reads(4096), []);
    assert!(!world.shared.steward.rest.is_over(), "superblocks were written for a read");
    assert!(!world.fails(RequestKind::Write { fua: false }, 0, 4096));
    assert!(world.shared.steward.rest.is_over());
}

/// A drive dies while a stripe of which it holds data needs a resync, and no host writes. The reads of the resync fail and do not count
/// against it; but a resync that begins at rest has the superblocks written first, so within seconds the member is failed, and the
/// array does not stay whole in name with a stripe that is in doubt.
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
