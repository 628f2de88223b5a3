//! Histories that are longer than the line of epochs in a record, and forks with members replaced on one
//! side. Each is decided by a single condition of the rules.
//!
//! Method: as in `stories`. Oracle: which device has which acknowledged data, worked out by hand. A device
//! that may hold data that the others lack makes a fork; a device that cannot is stale or replaced, and the
//! array starts.

use engine::assembly::{AssemblyError, Change, LeftOutReason, Roster, SlotPlan, StaleReason};
use engine::format::Level;
use engine::format::superblock::LINE_EPOCHS;

use super::stories::{broken_start, cut_change, reinforce, settled, start, tear};
use super::world::World;

/// Performs more starts than a record's line has epochs.
fn many_starts(world: &mut World, present: u32) {
    for _ in 0..=LINE_EPOCHS {
        start(world, present);
    }
}

/// Starts the members that are present, acknowledges data, and puts everything on both copies of each.
fn run(world: &mut World, present: u32) -> Roster {
    let mut roster = start(world, present);
    reinforce(world, &mut roster);
    let writes = roster.wake().unwrap();
    world.complete(&mut roster, &writes, "wake");
    reinforce(world, &mut roster);
    roster
}

/// Replaces the device of a slot by a new one and fills it; returns the index of the new device.
fn replace(world: &mut World, roster: &mut Roster, slot: usize) -> usize {
    let joiner = world.joiner(SlotPlan::Failed);
    for change in [Change::Join { slot, joiner }, Change::Filled { slot }] {
        let writes = world.begin(roster, change).unwrap();
        world.complete(roster, &writes, "replace");
        reinforce(world, roster);
        world.fill(roster, slot);
    }
    world.devices.len() - 1
}

fn is_fork(world: &World, present: u32) -> bool {
    matches!(world.assemble(present), Err(AssemblyError::Fork { .. }))
}

/// The devices that are left out as replaced.
fn replaced(world: &World, present: u32) -> Vec<usize> {
    let assembly = world.assemble(present).unwrap();
    let is_replaced = |out: &&engine::assembly::LeftOut| matches!(out.reason, LeftOutReason::Replaced { .. });
    assembly.left_out.iter().filter(is_replaced).map(|out| out.candidate).collect()
}

/// Slots 0 and 1 of a RAID-6 of 4 ran without the others, and replaced and filled both. Slots 2 and 3 ran
/// too, to higher epochs. Neither side has a slot left for the devices of the other, and both have
/// acknowledged data.
#[test]
fn a_fork_is_not_hidden_by_replacements() {
    let mut world = World::new(Level::Raid6, 4);
    let mut roster = run(&mut world, 0b0011);
    for slot in [2, 3] {
        replace(&mut world, &mut roster, slot);
    }
    for _ in 0..12 {
        run(&mut world, 0b1100);
    }
    assert!(is_fork(&world, 0b111111));
    assert!(world.assemble(0b110100).is_err(), "the replacements, and one of the other side");
}

/// Both sides ran, and the side that replaced the members of the other has the higher epochs. Its operator
/// has decided: the replaced devices do not count.
#[test]
fn a_side_that_was_replaced_does_not_count() {
    let mut world = World::new(Level::Raid6, 4);
    run(&mut world, 0b1100);
    let mut roster = run(&mut world, 0b0011);
    for slot in [2, 3] {
        replace(&mut world, &mut roster, slot);
    }
    assert_eq!(replaced(&world, 0b111111), [2, 3]);
}

/// A start of slots 2 and 3 reached slot 3 alone. Slots 0 and 1 then replaced the device of slot 2: the new
/// device says nothing about what the old one held.
#[test]
fn a_device_that_replaced_a_witness_is_none() {
    let world = broken_start(&World::new(Level::Raid6, 4), 0b1100, &[3]);
    let mut world = world;
    let mut roster = run(&mut world, 0b0011);
    replace(&mut world, &mut roster, 2);
    assert!(is_fork(&world, 0b11011));
}

/// The leftover is the first epoch, whose record names no epoch before it. A start of slots 0 and 2 found
/// their other copies torn (by a start of all), so it could not know that slot 3 holds the first epoch, and
/// recorded that slot 3 holds nothing. Slot 2 alone saw both epochs, and its other copy is torn; the device
/// of slot 1 is new.
#[test]
fn a_leftover_of_the_first_epoch_is_explained_by_the_line() {
    let mut world = World::new(Level::Raid6, 4);
    tear(&mut world, &[0, 2]);
    let mut roster = start(&mut world, 0b0101);
    reinforce(&mut world, &mut roster);
    replace(&mut world, &mut roster, 1);
    tear(&mut world, &[0, 2, 4]);
    let assembly = world.assemble(0b11100).unwrap();
    assert_eq!(assembly.slots[3], SlotPlan::Stale { candidate: 3, reason: StaleReason::Leftover });
}

/// A start reached slot 2 alone. Slots 0 and 1 have since started without it so often that their lines no
/// longer reach back to slot 2's epoch. The other copies are torn, but both slots show that they continued
/// without slot 2.
#[test]
fn two_that_went_on_beyond_their_line_explain_a_leftover() {
    let mut world = broken_start(&settled(Level::Raid5, 3), 0b111, &[2]);
    many_starts(&mut world, 0b011);
    tear(&mut world, &[0, 1, 2]);
    let assembly = world.assemble(0b111).unwrap();
    assert_eq!(assembly.slots[2], SlotPlan::Stale { candidate: 2, reason: StaleReason::Leftover });
}

/// A start of slots 0 and 3 reached slot 3 alone, on one copy. Slot 0, the only other participant, has
/// continued without slot 3 beyond its line. This single witness is enough, since a committed epoch is soon
/// held twice.
#[test]
fn one_that_went_on_beyond_its_line_explains_what_is_held_once() {
    let mut world = broken_start(&settled(Level::Raid6, 4), 0b1001, &[3]);
    many_starts(&mut world, 0b0111);
    tear(&mut world, &[0, 1, 2]);
    let assembly = world.assemble(0b1111).unwrap();
    assert_eq!(assembly.slots[3], SlotPlan::Stale { candidate: 3, reason: StaleReason::Leftover });
    // With the other copy of slot 3 torn, the epoch may have been held twice.
    tear(&mut world, &[3]);
    assert!(is_fork(&world, 0b1111));
}

/// Slots 0 and 1 ran, and began to take slot 3 back in; that epoch reached slot 3 alone. The copy in which
/// slot 0 held the epoch that it ran with slot 1 decayed, and slot 0 continued with slot 2. Slot 0 as the
/// only witness does not outweigh a member that was to be filled.
#[test]
fn one_that_decayed_does_not_outweigh_a_joiner() {
    let mut world = settled(Level::Raid6, 4);
    let mut roster = start(&mut world, 0b0011);
    let stale = world.assemble(0b1011).unwrap().slots[3];
    let joiner = world.joiner(stale);
    world = cut_change(&world, &roster, Change::Join { slot: 3, joiner }, &[3]);
    let newest = world.devices[0].found.as_ref().unwrap().overwrite.other();
    world.devices[0].damage(newest);
    roster = start(&mut world, 0b0101);
    assert!(roster.is_committed());
    many_starts(&mut world, 0b0101);
    tear(&mut world, &[0, 2]);
    assert!(is_fork(&world, 0b1101));
}

/// A start reached slot 1 alone; then the other copy of slot 0 was torn; then a start of slots 0 and 2
/// reached slot 2 alone. Each of the two epochs is held by one device, once, so one witness is enough.
#[test]
fn one_witness_is_enough_against_what_is_held_once() {
    let mut world = World::new(Level::Raid5, 3);
    world = broken_start(&world, 0b011, &[1]);
    tear(&mut world, &[0]);
    world = broken_start(&world, 0b101, &[2]);
    assert!(world.assemble(0b111).is_ok());
}

/// A start of slots 0 and 3 reached slot 3 alone, and slots 0, 1 and 2 started after that. Without slot 0
/// nothing shows that the first start was broken off: slots 1 and 2 had no part in it.
#[test]
fn an_absent_witness_needs_another_that_came_later() {
    let mut world = broken_start(&World::new(Level::Raid6, 4), 0b1001, &[3]);
    start(&mut world, 0b0111);
    assert!(is_fork(&world, 0b1110));
    assert!(world.assemble(0b1111).is_ok());
}

/// A start without slot 1 reached slot 0 alone. The next two starts are without slot 0: the first reached all
/// others, the second slot 1 alone. Then the other copies of slots 0, 1 and 3 are torn. Slot 3 moved on to
/// the start before the last one, and that is enough to count slot 2 by the record.
#[test]
fn a_witness_that_came_on_may_lack_the_last_epoch() {
    let mut world = settled(Level::Raid6, 4);
    world = broken_start(&world, 0b1101, &[0]);
    start(&mut world, 0b1110);
    world = broken_start(&world, 0b1110, &[1]);
    tear(&mut world, &[0, 1, 3]);
    assert!(world.assemble(0b1011).is_ok());
}

/// A start of all reached slot 1 alone, and the other copies are torn. Too few members are present. Slot 2,
/// which continued without slot 1, shows that slot 1 holds a start that was broken off, and the operator is
/// told that.
#[test]
fn where_too_few_are_here_a_leftover_is_named() {
    let mut world = settled(Level::Raid5, 3);
    world = broken_start(&world, 0b111, &[1]);
    start(&mut world, 0b101);
    tear(&mut world, &[0, 2]);
    let text = world.assemble(0b110).unwrap_err().to_string();
    assert!(text.contains("slot 1: dev1 is stale: it holds a start that was broken off"), "{text}");
}
