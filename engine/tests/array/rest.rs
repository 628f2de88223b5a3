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
