//! The record of an array that is served as a block device: nothing relies on a change of the record before
//! the change is noted.
//!
//! Method: the test plays the thread that writes notes, and delays them. Oracle: the superblocks on the disks
//! at the time a note is asked for, and the answers that hosts and operators have by then.

use std::sync::atomic::Ordering;

use bitmap::Cell;
use engine::array::{NoteOrder, NoteOrders, Noting, Order, Position};
use engine::format::Level;
use engine::limits::NOTE_TIME_MAX_NS;
use engine::request::RequestKind;

use crate::world::restart::Serve;
use crate::world::{Config, Initial, World};

/// Turns of 5 ms on average, so together shorter than the longest wait for a note.
const TURNS: u32 = 300;

/// An array at rest, and the orders for the thread that writes its notes.
fn noted(seed: u64) -> (World, NoteOrders) {
    noted_at(Level::Raid5, seed)
}

fn noted_at(level: Level, seed: u64) -> (World, NoteOrders) {
    let initial = Initial::All(Cell::Clean);
    let config = Config { seed, level, members: 4, chunk_bytes: 4 << 10, stripes: 40, initial, reactors: 1 };
    let mut world = World::new(config);
    world.stop();
    let (noting, notes) = Noting::new();
    world.noting = noting;
    (world.restart(Serve::ReadWrite), notes)
}

/// Reports a note as written, as the thread would.
fn is_written(notes: &NoteOrders) {
    notes.ended.fetch_add(1, Ordering::Release);
}

/// Turns until a note is asked for, then some more. Checks that every member in use holds the noted record in
/// one copy and that no copy is ahead of it.
fn next_note(world: &mut World, notes: &NoteOrders) -> Position {
    world.turn_until("the order of a note", |_| !notes.orders.is_empty());
    (0..TURNS).for_each(|_| world.turn());
    let NoteOrder { position: note, .. } = notes.orders.try_recv().expect("it was ordered");
    let positions: Vec<_> =
        world.superblocks().iter().map(|copy| (copy.record.epoch.name, copy.record.moves)).collect();
    let in_use = world.shared.members.view().writable;
    for copies in
        (0..).zip(positions.chunks(2)).filter(|(slot, _)| in_use.has(*slot)).map(|(_, copies)| copies)
    {
        assert!(copies.contains(&(note.epoch, note.moves)), "{note:?} is not on every disk: {positions:?}");
        let (left, right) = (copies[0], copies[1]);
        let newest = if (left.0.number, left.1) > (right.0.number, right.1) { left } else { right };
        assert_eq!(newest, (note.epoch, note.moves), "the record went on before {note:?} was written");
    }
    note
}

#[test]
fn a_write_waits_for_the_note() {
    let (mut world, notes) = noted(1);
    let data = |world: &World| {
        world
            .disk_contents()
            .into_iter()
            .map(|disk| disk[world.data_bytes().start as usize..].to_vec())
            .collect::<Vec<_>>()
    };
    let before = data(&world);
    assert!(world.ask(RequestKind::Write { fua: false }, 0, 4096));
    let wake = next_note(&mut world, &notes);
    assert_eq!(world.outstanding(), 1, "a write was acknowledged on a record that is not noted");
    assert!(data(&world) == before, "a member was written on a record that is not noted");
    is_written(&notes);
    world.settle();
    // The record moves once more before the sweep writes on any member that the stripe is clean.
    let sweep = next_note(&mut world, &notes);
    assert_eq!((sweep.epoch, sweep.moves), (wake.epoch, wake.moves + 1));
    assert_ne!(world.shared.bitmap.cell(0), Cell::Clean);
    is_written(&notes);
    world.turn_until("the sweep", |world| world.shared.bitmap.cell(0) == Cell::Clean);
}

#[test]
fn a_change_of_members_waits_for_the_note() {
    let (mut world, notes) = noted(2);
    let failed = world.order(|answer| Order::Fail { slot: 1, answer });
    let note = next_note(&mut world, &notes);
    assert!(failed.is_empty(), "an operator was told of a change that is not noted");
    assert!(world.shared.members.record().writable.has(1));
    is_written(&notes);
    world.turn_until("the order", |_| !failed.is_empty());
    assert_eq!(failed.recv(), Ok(Ok(())));
    // A note of the state before would have announced this epoch as the next one: only this server can have
    // begun it.
    let record = world
        .superblocks()
        .into_iter()
        .map(|copy| copy.record)
        .max_by_key(|record| record.epoch.name.number)
        .unwrap();
    assert_eq!(note.epoch, record.epoch.name);
    let again = world.order(|answer| Order::Fail { slot: 2, answer });
    world.turn_until("the answer", |_| !again.is_empty());
    assert!(matches!(again.recv(), Ok(Err(_))), "one member too few");
}

/// A change that loses a write is not noted, since nothing relies on it. The next change, which excludes that
/// member too, is noted.
#[test]
fn a_change_that_loses_a_write_is_not_noted() {
    let (mut world, notes) = noted_at(Level::Raid6, 3);
    let begun = world.shared.members.record();
    let failed = world.order(|answer| Order::Fail { slot: 1, answer });
    world.kill(2);
    let NoteOrder { number, position } = {
        world.turn_until("the order of a note", |_| !notes.orders.is_empty());
        notes.orders.try_recv().unwrap()
    };
    assert!(failed.is_empty() && world.shared.members.record() == begun);
    let noted = world
        .superblocks()
        .into_iter()
        .map(|copy| copy.record)
        .find(|record| (record.epoch.name, record.moves) == (position.epoch, position.moves));
    let noted = noted.expect("it is on the members");
    assert!(!noted.slots[1].state.takes_part() && !noted.slots[2].state.takes_part(), "{noted:?}");
    assert_eq!(number, 1);
    is_written(&notes);
    world.turn_until("the order", |_| !failed.is_empty());
}

/// A file system that hangs delays hosts by some seconds, not for ever.
#[test]
fn a_note_that_does_not_end_is_waited_for_some_seconds() {
    let (mut world, notes) = noted(4);
    let began_ns = world.now_ns();
    assert!(!world.fails(RequestKind::Write { fua: false }, 0, 4096));
    let took_ns = world.now_ns() - began_ns;
    assert!((NOTE_TIME_MAX_NS..2 * NOTE_TIME_MAX_NS).contains(&took_ns), "{took_ns} ns");
    assert_eq!(notes.orders.len(), 1);
    assert!(!world.fails(RequestKind::Write { fua: false }, 8 << 10, 4096));
    assert!(world.now_ns() - began_ns < 2 * NOTE_TIME_MAX_NS, "the second write waits again");
}
