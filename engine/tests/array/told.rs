//! Events for an operator: each change is reported once, in order.
//!
//! Method: changes are caused one after the other. Oracle: the complete list of events.

use bitmap::Cell;
use crossbeam::channel::Receiver;
use engine::events::Event;
use engine::format::Level;
use engine::members::Failure;

use crate::world::{Config, Initial, World};

const CHUNK: u32 = 4 << 10;

fn array(level: Level, cell: Cell) -> (World, Receiver<Event>) {
    let initial = Initial::All(cell);
    let world = World::new(Config {
        seed: 1,
        level,
        members: 5,
        chunk_bytes: CHUNK,
        stripes: 40,
        initial,
        reactors: 1,
    });
    let events = world.shared.steward.events.listen(64);
    (world, events)
}

/// All events since the last call.
fn told(world: &mut World, events: &Receiver<Event>) -> Vec<Event> {
    world.turn();
    world.turn();
    events.try_iter().collect()
}

#[test]
fn members_that_leave_and_are_replaced() {
    let (mut world, events) = array(Level::Raid6, Cell::Clean);
    let first = world.shared.members.device(1);
    assert!(world.shared.members.fail(1, Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(1));
    let left = Event::MemberLeft { slot: 1, device: first, why: Failure::Operator, array_has_failed: false };
    assert_eq!(told(&mut world, &events), [left, Event::Redundancy { spare: Some(1), missing: 1 }]);
    assert_eq!(told(&mut world, &events), []);

    world.replace(1, 0);
    let device = world.shared.members.device(1);
    assert_eq!(
        told(&mut world, &events),
        [
            Event::RebuildBegun { slot: 1, device, from_stripe: 0 },
            Event::RebuildEnded { slot: 1, device },
            Event::Redundancy { spare: Some(2), missing: 0 },
        ]
    );
}

#[test]
fn an_array_that_fails() {
    let (mut world, events) = array(Level::Raid5, Cell::Clean);
    for slot in [0, 3] {
        assert!(world.shared.members.fail(slot, Failure::Write(5)));
        world.turn();
    }
    let left = |slot: u8| Event::MemberLeft {
        slot,
        device: world.shared.members.device(slot),
        why: Failure::Write(5),
        array_has_failed: slot == 3,
    };
    let expected = [
        left(0),
        Event::Redundancy { spare: Some(0), missing: 1 },
        left(3),
        Event::Redundancy { spare: None, missing: 2 },
    ];
    assert_eq!(told(&mut world, &events), expected);
}

#[test]
fn a_resync_and_a_rebuild_that_is_broken_off() {
    let (mut world, events) = array(Level::Raid6, Cell::NeedSync);
    world.turn_until("a resync", |world| world.is_synced());
    assert_eq!(
        told(&mut world, &events),
        [Event::ResyncBegun { stripes: 40 }, Event::ResyncEnded { left: 0 }]
    );

    assert!(world.shared.members.fail(2, Failure::Silence(30)));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
    // An unreadable sector of two other members in one stripe holds the rebuild.
    let strip = world.geometry.rotation(20).strip_on(0);
    world.lossy.fill(true);
    world.spoil(20, strip, 0);
    let strip = world.geometry.rotation(20).strip_on(1);
    world.spoil(20, strip, 0);
    world.join(2, 0);
    let device = world.shared.members.device(2);
    assert!(world.shared.members.fail(2, Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
    let told = told(&mut world, &events);
    let begun = Event::RebuildBegun { slot: 2, device, from_stripe: 0 };
    let left = Event::MemberLeft { slot: 2, device, why: Failure::Operator, array_has_failed: false };
    // No redundancy event comes here: redundancy is as before, since nothing was filled.
    let broken_off = Event::RebuildBrokenOff { slot: 2, device, at_stripe: 0 };
    assert_eq!(told[2..], [begun, left, broken_off], "{told:?}");
    assert!(matches!(told[0], Event::MemberLeft { slot: 2, why: Failure::Silence(30), .. }), "{told:?}");
}

/// A full member refuses metadata, and stays a member. The event names the slot and the error.
#[test]
fn an_array_that_stops_serving() {
    let (mut world, events) = array(Level::Raid5, Cell::Clean);
    let (slot, errno) = (2, 28);
    world.shared.members.stop_serving(slot, errno);
    world.shared.members.stop_serving(0, 5);
    let device = world.shared.members.device(slot);
    assert_eq!(
        told(&mut world, &events),
        [Event::ServingStopped { slot, device, errno }, Event::Redundancy { spare: None, missing: 0 }]
    );
}

/// Without a listener, or with a slow one, nothing waits; events that nothing received are counted.
#[test]
fn a_listener_that_does_not_listen() {
    let (mut world, _) = array(Level::Raid6, Cell::Clean);
    assert!(world.shared.members.fail(1, Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(1));
    assert_eq!(world.shared.steward.events.unheard(), 2);
}
