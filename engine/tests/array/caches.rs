//! Volatile caches that are switched on while the array runs.
//!
//! Method: a member without a cache is reported to have one now, as the server does when it notices that;
//! then hosts write and flush. Oracle: the operations that its device received: flushes, and writes that need
//! not be durable when they complete.

use bitmap::Cell;
use engine::format::Level;
use engine::request::RequestKind;

use crate::disks::Counts;
use crate::world::{Config, Initial, World};

/// An array, the slot of a member without a cache, and that member's device.
fn without_cache(seed: u64) -> (World, u8, usize) {
    let (level, initial) = (Level::Raid5, Initial::All(Cell::Clean));
    let world =
        World::new(Config { seed, level, members: 4, chunk_bytes: 4096, stripes: 40, initial, reactors: 1 });
    let volatile = world.shared.members.volatile();
    let slot = (0..4).find(|&slot| !volatile.has(slot)).expect("another seed: each has a cache");
    let device = usize::from(world.shared.members.device(slot).0);
    (world, slot, device)
}

/// Writes a stripe or flushes; returns what the device was asked for by that.
fn asked(world: &mut World, device: usize, kind: RequestKind) -> Counts {
    world.settle();
    let before = world.disks.borrow()[device].counts;
    let len = if kind == RequestKind::Flush { 0 } else { u64::from(world.geometry.stripe_bytes()) };
    assert!(!world.fails(kind, 0, len));
    let after = world.disks.borrow()[device].counts;
    Counts {
        flushes: after.flushes - before.flushes,
        cached: after.cached - before.cached,
        ..Counts::default()
    }
}

const WRITE: RequestKind = RequestKind::Write { fua: false };

/// Hosts were told that there may be a cache: the next flush goes to this member too.
#[test]
fn a_flush_reaches_a_cache_that_was_switched_on() {
    let (mut world, slot, device) = without_cache(1);
    assert_eq!(asked(&mut world, device, WRITE).cached, 1);
    assert_eq!(asked(&mut world, device, RequestKind::Flush).flushes, 0);
    let index = world.shared.members.device(slot);
    assert!(world.shared.members.cache_switched_on(slot, index, true));
    assert_eq!(asked(&mut world, device, WRITE).cached, 1);
    assert_eq!(asked(&mut world, device, RequestKind::Flush).flushes, 1);
}

/// Hosts were told that there is no cache and send no flushes, so each write must be durable when it
/// completes.
#[test]
fn writes_are_durable_where_hosts_send_no_flush() {
    let (mut world, slot, device) = without_cache(2);
    assert_eq!(asked(&mut world, device, WRITE).cached, 1);
    let index = world.shared.members.device(slot);
    assert!(world.shared.members.cache_switched_on(slot, index, false));
    assert_eq!(asked(&mut world, device, WRITE).cached, 0);
}
