//! Bad sectors, one at a time and several in a stripe: what one costs is its own rows, and only where they cannot be computed.
//!
//! Method: sectors at chosen places of chosen strips cannot be read until they are written. Oracle: the world's model of the bytes,
//! and that no request fails outside of the stripes that a test has declared lossy.

use bitmap::Cell;
use engine::format::Level;
use engine::request::RequestKind;

use crate::world::{Config, Initial, World};

const CHUNK: u32 = 64 << 10;

fn array(seed: u64, level: Level, members: usize, cell: Cell) -> World {
    let initial = Initial::All(cell);
    World::new(Config { seed, level, members, chunk_bytes: CHUNK, stripes: 24, initial, reactors: 1 })
}

/// Reads of a whole strip whose rows can all be computed, though more of its stripe is bad than parity makes up for.
#[test]
fn a_read_is_recovered_row_by_row() {
    for (level, members, bad) in [(Level::Raid5, 4, 2), (Level::Raid5, 3, 2), (Level::Raid6, 6, 4)] {
        let mut world = array(45, level, members, Cell::Clean);
        for strip in 0..bad {
            world.spoil(0, strip % (members as u8 - 1), u32::from(strip) * (CHUNK / 4));
        }
        assert!(!world.fails(RequestKind::Read, 0, u64::from(CHUNK)), "{level:?}");
        let stripe_bytes = u64::from(world.geometry.stripe_bytes());
        assert!(!world.fails(RequestKind::Read, 0, stripe_bytes.min(1 << 20)), "{level:?}");
        assert_eq!(world.bad_sectors(), 0, "what was read is repaired");
    }
}

/// Writes that have to read what is bad in other rows, as rmw and as rcw.
#[test]
fn a_write_is_planned_row_by_row() {
    for strip in 0..3 {
        for other in (0..4).filter(|&other| other != strip) {
            let mut world = array(46, Level::Raid5, 4, Cell::Clean);
            world.spoil(0, strip, 0);
            world.spoil(0, other, CHUNK / 2);
            let at = u64::from(strip) * u64::from(CHUNK);
            assert!(!world.fails(RequestKind::Write { fua: false }, at + 512, u64::from(CHUNK) - 1024));
            world.verify();
        }
    }
}

/// A stripe that needs a resync, and whose every row is bad in one strip or another but for parity: a write of it all heals it.
#[test]
fn a_stripe_that_is_overwritten_heals() {
    let mut world = array(47, Level::Raid5, 4, Cell::NeedSync);
    for strip in 0..3 {
        world.spoil(3, strip, u32::from(strip) * 8192);
    }
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    assert!(!world.fails(RequestKind::Write { fua: true }, 3 * stripe_bytes, stripe_bytes));
    assert_eq!(world.shared.bitmap.cell(3), Cell::Dirty);
    world.verify();
}

/// Host data are stored in a stripe of which another row cannot be read, and parity cannot be made.
#[test]
fn a_write_beside_a_bad_row_of_an_unsynced_stripe_is_stored() {
    let mut world = array(48, Level::Raid5, 4, Cell::NeedSync);
    world.spoil(5, 1, 4096);
    let at = 5 * u64::from(world.geometry.stripe_bytes());
    for (strip, row) in [(0, 0), (0, 4096), (1, 0), (1, 8192), (1, 4096)] {
        let at = at + strip * u64::from(CHUNK) + row;
        assert!(!world.fails(RequestKind::Write { fua: false }, at, 4096), "D{strip} at {row}");
        assert!(!world.fails(RequestKind::Read, at, 4096), "D{strip} at {row}");
    }
    world.turn_until("a resync", |world| world.is_synced());
    world.verify();
}

/// Bad sectors that background work meets again and again cost no member.
#[test]
fn three_bad_sectors_cost_no_member() {
    let mut world = array(49, Level::Raid5, 4, Cell::NeedSync);
    for stripe in [4, 5, 6] {
        world.spoil(stripe, 0, 0);
    }
    world.lossy.fill(true);
    world.pass(600);
    assert_eq!(world.shared.members.view().readable.count(), 4);
    let errors: u64 = (0..4).map(|slot| world.shared.members.read_errors(slot)).sum();
    assert!(errors < 100, "{errors} read errors: the waits between attempts grow");
    // The good rows of those strips can be read all the while.
    let at = 4 * u64::from(world.geometry.stripe_bytes());
    assert!(!world.fails(RequestKind::Read, at + u64::from(CHUNK / 2), 4096));
}
