//! The count of repairs that an operator sees: one for each strip that could not be read and was then
//! rewritten, and no other.
//!
//! Method: one bad sector, on a member that takes the repair, refuses it, fails it, is served read-only, or
//! leaves meanwhile. Oracle: the counts of each slot.

use bitmap::Cell;
use engine::format::Level;
use engine::members::Failure;
use engine::request::RequestKind;

use crate::world::restart::Serve;
use crate::world::{Config, Initial, World};

const CHUNK: u32 = 64 << 10;
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;

fn world(seed: u64, level: Level, members: usize) -> World {
    let initial = Initial::All(Cell::Clean);
    World::new(Config { seed, level, members, chunk_bytes: CHUNK, stripes: 8, initial, reactors: 1 })
}

/// Repairs of each slot that has any.
fn repairs(world: &World) -> Vec<(u8, u64)> {
    let counts = (0..world.config.members as u8).map(|slot| (slot, world.shared.members.repairs(slot)));
    counts.filter(|count| count.1 > 0).collect()
}

/// Makes a sector bad in the second 4 KiB of D1 of stripe 3; returns its slot and the strip's address.
fn spoil(world: &mut World) -> (u8, u64) {
    world.spoil(3, 1, 4096);
    let at = 3 * u64::from(world.geometry.stripe_bytes()) + u64::from(CHUNK);
    (world.geometry.rotation(3).slot_of(1), at)
}

#[test]
fn what_is_written_anew_is_one_repair() {
    for (level, members) in [(Level::Raid5, 4), (Level::Raid6, 6)] {
        // Reads of the strip and more, and of the sector alone; writes of a part of the sector's row and of a
        // part that begins in it.
        let write = RequestKind::Write { fua: false };
        let chunk = u64::from(CHUNK);
        for (kind, row, len) in [
            (RequestKind::Read, 0, 2 * chunk),
            (RequestKind::Read, 4096, 512),
            (write, 0, 4608),
            (write, 4096, 512),
        ] {
            let mut world = world(1, level, members);
            let (slot, at) = spoil(&mut world);
            assert!(!world.fails(kind, at + row, len));
            assert_eq!(world.bad_sectors(), 0);
            assert_eq!(world.shared.members.read_errors(slot), 1, "{kind:?} of {len} at {row}");
            assert_eq!(repairs(&world), [(slot, 1)], "{kind:?} of {len} at {row}");
            // A strip that can be read is not repaired.
            assert!(!world.fails(kind, at + row, len));
            assert_eq!(repairs(&world), [(slot, 1)]);
        }
    }
}

/// If a repair is refused, the member stays and the read is answered; once there is room the next read
/// repairs the sector.
#[test]
fn a_repair_that_is_refused_is_none() {
    for errno in [EINVAL, ENOSPC] {
        let mut world = world(2, Level::Raid5, 4);
        let (slot, at) = spoil(&mut world);
        let data = world.data_bytes();
        world.disks.borrow_mut()[usize::from(slot)].refuses = Some((errno, data));
        assert!(!world.fails(RequestKind::Read, at, 8192));
        assert_eq!((world.bad_sectors(), world.shared.members.refusals(slot)), (1, 1));
        assert_eq!(repairs(&world), []);
        assert!(world.shared.members.view().readable.has(slot));
        world.disks.borrow_mut()[usize::from(slot)].refuses = None;
        assert!(!world.fails(RequestKind::Read, at, 8192));
        assert_eq!(repairs(&world), [(slot, 1)]);
    }
}

/// If a repair fails, the member stays: it merely has no spare sector left for this one.
#[test]
fn a_repair_that_fails_is_none() {
    let mut world = world(3, Level::Raid5, 4);
    let (slot, at) = spoil(&mut world);
    let data = world.data_bytes();
    world.disks.borrow_mut()[usize::from(slot)].refuses = Some((EIO, data));
    assert!(!world.fails(RequestKind::Read, at, 8192));
    assert_eq!((world.shared.members.failure(slot), world.shared.members.read_errors(slot)), (None, 1));
    assert_eq!(repairs(&world), []);
}

#[test]
fn a_read_only_array_repairs_nothing() {
    let mut world = world(4, Level::Raid5, 4);
    world.stop();
    let mut world = world.restart(Serve::ReadOnly);
    let (slot, at) = spoil(&mut world);
    assert!(!world.fails(RequestKind::Read, at, 8192));
    assert_eq!((world.bad_sectors(), world.shared.members.read_errors(slot)), (1, 1));
    assert_eq!(repairs(&world), []);
}

/// The repair is in flight when its member is failed, and succeeds later: a member that has left counts no
/// repairs.
#[test]
fn a_repair_of_a_member_that_has_left_is_none() {
    let mut world = world(5, Level::Raid5, 4);
    let (slot, at) = spoil(&mut world);
    assert!(world.ask(RequestKind::Read, at, 8192));
    world.turn_until("a read error", |world| world.shared.members.read_errors(slot) > 0);
    world.disks.borrow_mut()[usize::from(slot)].silent = true;
    world.pass(1);
    assert_eq!((world.bad_sectors(), world.outstanding()), (1, 1), "the repair is in flight");
    assert!(world.shared.members.fail(slot, Failure::Operator));
    world.settle();
    world.disks.borrow_mut()[usize::from(slot)].silent = false;
    world.turn_until("the end of its I/O", |world| world.io_is_quiet());
    assert_eq!(world.bad_sectors(), 0, "it was written");
    assert_eq!(repairs(&world), []);
}
