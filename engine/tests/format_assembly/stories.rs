//! Histories that once led assembly astray, or would if one condition of it were dropped. Each was found by
//! the deep enumeration, or by removing the condition and looking for a history that then goes wrong.

use engine::assembly::{AssemblyError, Change, LeftOutReason, Roster, SlotPlan, StaleReason, WriteOutcome};
use engine::format::Level;
use engine::format::host::Host;
use engine::format::superblock::SlotState;
use engine::geometry::Slots;

use super::world::World;

const START: Change = Change::Start { host: Host::ANY };

/// Performs a start that all participants hold, and acknowledges data.
pub fn start(world: &mut World, present: u32) -> Roster {
    let mut roster = world.assemble(present).unwrap().roster().unwrap();
    let writes = world.begin(&mut roster, START).unwrap();
    world.complete(&mut roster, &writes, "start");
    roster
}

pub fn reinforce(world: &mut World, roster: &mut Roster) {
    let writes = roster.reinforce().unwrap();
    world.complete(roster, &writes, "reinforce");
}

/// Makes a change of which only the writes to `devices` land.
pub fn cut_change(world: &World, roster: &Roster, change: Change, devices: &[usize]) -> World {
    let (mut world, mut roster) = (world.clone(), roster.clone());
    let writes = world.begin(&mut roster, change).unwrap();
    let landed = writes.iter().enumerate().filter(|(_, write)| devices.contains(&write.device));
    let mask = landed.fold(0, |mask, (index, _)| mask | 1 << index);
    world.cut(&writes, mask, "cut")
}

/// Starts the members that are present, but the start reaches only `devices`.
pub fn broken_start(world: &World, present: u32, devices: &[usize]) -> World {
    let roster = world.assemble(present).unwrap().roster().unwrap();
    cut_change(world, &roster, START, devices)
}

/// A world in which all members have run and hold the epoch twice.
pub fn settled(level: Level, members: usize) -> World {
    let mut world = World::new(level, members);
    let mut roster = start(&mut world, (1 << members) - 1);
    reinforce(&mut world, &mut roster);
    world
}

/// Checks that the array starts with all members present, with one given slot stale and another in sync.
fn assert_starts(world: &World, stale: usize, in_sync: usize) {
    let assembly = world.assemble((1 << world.shape.members) - 1).unwrap();
    assert!(matches!(assembly.slots[stale], SlotPlan::Stale { candidate, .. } if candidate == stale));
    assert_eq!(assembly.slots[in_sync], SlotPlan::InSync { candidate: in_sync });
}

/// Tears the older copy of each of these slots.
pub fn tear(world: &mut World, slots: &[usize]) {
    for &slot in slots {
        let older = world.devices[slot].found.as_ref().unwrap().overwrite;
        world.devices[slot].damage(older);
    }
}

/// Both halves of a RAID-6 of 4 ran, and each then began to replace a member of the other, on one superblock.
/// Those last epochs were broken off, but the epochs before them ran apart: a replaced device is not a
/// witness.
#[test]
fn broken_off_is_not_contained() {
    let mut world = World::new(Level::Raid6, 4);
    for (present, slot, device) in [(0b0011, 2, 0), (0b1100, 0, 3)] {
        let mut roster = start(&mut world, present);
        reinforce(&mut world, &mut roster);
        let joiner = world.joiner(SlotPlan::Failed);
        world = cut_change(&world, &roster, Change::Join { slot, joiner }, &[device]);
    }
    assert!(matches!(world.assemble(0b1111), Err(AssemblyError::Fork { .. })));
}

/// Slot 0 holds a start that was broken off. Slot 1 could be the witness of that, but holds a broken-off
/// start of its own.
#[test]
fn a_leftover_bears_witness_for_another() {
    let mut world = World::new(Level::Raid6, 4);
    world = broken_start(&world, 0b0011, &[0]);
    let mut roster = world.assemble(0b1110).unwrap().roster().unwrap();
    for write in world.begin(&mut roster, START).unwrap() {
        world.land(&write);
        let outcome = if write.slot == 1 { WriteOutcome::Lost } else { WriteOutcome::Landed };
        roster.settle(write.slot, outcome);
    }
    let writes = world.begin(&mut roster, Change::Fail { slots: Slots::one(1) }).unwrap();
    world.complete(&mut roster, &writes, "fail slot 1");
    let assembly = world.assemble(0b1111).unwrap();
    for slot in 0..2 {
        let leftover = SlotPlan::Stale { candidate: slot, reason: StaleReason::Leftover };
        assert_eq!(assembly.slots[slot], leftover);
    }
    assert_eq!(assembly.slots[2..], [SlotPlan::InSync { candidate: 2 }, SlotPlan::InSync { candidate: 3 }]);
}

/// 1. A start reached all but slot 0.
/// 2. A start without slots 0 and 3 followed; it knew of slot 3 only what it held before the first start.
/// 3. A power cut tore the older copies of all slots, so no witness is left.
#[test]
fn a_leftover_of_the_parent_needs_no_witness() {
    let mut world = World::new(Level::Raid6, 6);
    world = broken_start(&world, 0b111111, &[1, 2, 3, 4]);
    start(&mut world, 0b110110);
    tear(&mut world, &[0, 1, 2, 3, 4, 5]);
    assert_starts(&world, 3, 1);
}

/// The previous history with one more start without slots 0 and 3 before the copies tear: the newest record
/// is two epochs away from what slot 3 holds.
#[test]
fn a_leftover_of_the_line_needs_no_witness() {
    let mut world = World::new(Level::Raid6, 6);
    world = broken_start(&world, 0b111111, &[1, 2, 3, 4]);
    start(&mut world, 0b110110);
    start(&mut world, 0b110110);
    tear(&mut world, &[0, 1, 2, 3, 4, 5]);
    assert_starts(&world, 3, 1);
}

/// A start did not reach slot 1. The next start, without slot 1, could not know that, and recorded what slot
/// 1 held before. A power cut then tore the older copies of the others, so no witness is left.
#[test]
fn an_absent_member_held_what_is_known_of_it() {
    let mut world = settled(Level::Raid5, 3);
    world = broken_start(&world, 0b111, &[0, 2]);
    start(&mut world, 0b101);
    tear(&mut world, &[0, 2]);
    assert_starts(&world, 1, 0);
}

/// A start without slot 1 reached slot 2 alone. The next, without slot 2, reached all its participants, and a
/// power cut then tore their older copies. Slots 0 and 3 moved to it directly from where the first start
/// found them, which shows that the first start was broken off.
#[test]
fn an_epoch_that_others_passed_by_was_broken_off() {
    let mut world = settled(Level::Raid5, 4);
    world = broken_start(&world, 0b1101, &[2]);
    start(&mut world, 0b1011);
    tear(&mut world, &[0, 1, 3]);
    assert_starts(&world, 2, 1);
}

/// Two starts were broken off: the first reached slot 1 alone, the second, without slot 1, slot 0 alone. All
/// older copies are torn. Slots 2 and 3 are where they were before both, and slot 1 holds the first.
#[test]
fn an_epoch_that_others_never_came_to_was_broken_off() {
    let mut world = settled(Level::Raid5, 4);
    world = broken_start(&world, 0b1111, &[1]);
    world = broken_start(&world, 0b1101, &[0]);
    tear(&mut world, &[0, 1, 2, 3]);
    assert!(world.assemble(0b1111).is_ok());
}

/// Two starts reached slot 2 alone, the second based on the first; the third, without slot 2, knows of
/// neither.
#[test]
fn a_line_of_broken_off_epochs_was_broken_off() {
    let mut world = settled(Level::Raid5, 4);
    for _ in 0..2 {
        world = broken_start(&world, 0b1111, &[2]);
    }
    start(&mut world, 0b1011);
    tear(&mut world, &[0, 1, 3]);
    assert_starts(&world, 2, 1);
}

/// A start without slot 3 reached slot 0 alone; then slots 1, 2 and 3 started, and then slots 2 and 3. The
/// older copies of slots 0 to 2 are torn. Slot 1 takes part no longer, but it moved to the second start, as
/// slot 2 did.
#[test]
fn who_left_later_shows_that_an_epoch_was_broken_off() {
    let mut world = settled(Level::Raid6, 4);
    world = broken_start(&world, 0b0111, &[0]);
    start(&mut world, 0b1110);
    start(&mut world, 0b1100);
    tear(&mut world, &[0, 1, 2]);
    assert_starts(&world, 0, 2);
}

/// A start reached slot 2 alone. Slots 0 and 1 knew nothing of it and started twice without slot 2, and a
/// power cut then tore the older copies. Slot 2's epoch is not in their line, and the epoch that slot 2 held
/// before is not there any more either.
#[test]
fn a_member_that_others_went_on_without_needs_no_whole_witness() {
    let mut world = settled(Level::Raid5, 3);
    world = broken_start(&world, 0b111, &[2]);
    start(&mut world, 0b011);
    start(&mut world, 0b011);
    tear(&mut world, &[0, 1, 2]);
    assert_starts(&world, 2, 0);
}

/// A new device was to be filled, in an epoch as high as that of the others, which continued without it.
#[test]
fn a_joiner_that_others_went_on_without_is_replaced() {
    let mut world = settled(Level::Raid5, 3);
    let mut roster = start(&mut world, 0b011);
    reinforce(&mut world, &mut roster);
    let joiner = world.joiner(SlotPlan::Failed);
    world = cut_change(&world, &roster, Change::Join { slot: 2, joiner }, &[3]);
    start(&mut world, 0b0011);
    tear(&mut world, &[0, 1]);
    assert!(world.assemble(0b1111).is_ok());
}

/// 1. A first device was to be filled, and several starts reached it alone, so its epoch is the highest.
/// 2. Slots 0 and 1, which know nothing of that, filled a second device, and then slot 1 left.
///
/// Slot 0 shows that the first device holds nothing that the array lacks. The second device keeps the
/// slot, although the first comes after it in the list of devices.
#[test]
fn a_joiner_that_was_replaced_leaves_the_slot_alone() {
    let mut world = settled(Level::Raid5, 3);
    let mut roster = start(&mut world, 0b011);
    reinforce(&mut world, &mut roster);
    let first = world.joiner(SlotPlan::Failed);
    world = cut_change(&world, &roster, Change::Join { slot: 2, joiner: first }, &[3]);
    for _ in 0..8 {
        world = broken_start(&world, 0b1011, &[3]);
    }
    let mut roster = start(&mut world, 0b0011);
    let second = world.joiner(SlotPlan::Failed);
    let writes = world.begin(&mut roster, Change::Join { slot: 2, joiner: second }).unwrap();
    world.complete(&mut roster, &writes, "join");
    world.fill(&roster, 2);
    let writes = world.begin(&mut roster, Change::Filled { slot: 2 }).unwrap();
    world.complete(&mut roster, &writes, "filled");
    start(&mut world, 0b10001);
    world.devices.swap(3, 4);
    let assembly = world.assemble(0b11011).unwrap();
    assert_eq!(assembly.slots[2], SlotPlan::InSync { candidate: 3 });
    let replaced: Vec<_> =
        assembly.left_out.iter().filter(|out| out.reason == LeftOutReason::Replaced { slot: 2 }).collect();
    assert_eq!(replaced.iter().map(|out| out.candidate).collect::<Vec<_>>(), [4]);
}

/// A start without slot 3 reached slot 1 alone. Then a start without slot 1 reached slots 0 and 3. The older
/// copies of slots 0, 1 and 3 are torn. With slot 2 absent, only slot 0 can show where it was before; but it
/// moved from there, and its record says where slot 2 was.
#[test]
fn one_who_is_absent_bears_witness_by_the_record() {
    let mut world = settled(Level::Raid6, 4);
    world = broken_start(&world, 0b0111, &[1]);
    world = broken_start(&world, 0b1101, &[0, 3]);
    tear(&mut world, &[0, 1, 3]);
    assert!(world.assemble(0b1011).is_ok());
}

/// A start without slot 1 reached slot 0 alone. One to four starts without slot 0 followed, and the older
/// copies of slots 0, 1 and 3 are torn. With slot 2 absent, only slot 3 has moved on from where the first
/// start found it; that slot 2 has moved on too follows from the record.
#[test]
fn one_who_is_absent_came_on_by_the_record() {
    for starts in 1..=4 {
        let mut world = settled(Level::Raid6, 4);
        world = broken_start(&world, 0b1101, &[0]);
        for _ in 0..starts {
            start(&mut world, 0b1110);
        }
        tear(&mut world, &[0, 1, 3]);
        assert!(world.assemble(0b1011).is_ok(), "{starts} starts");
    }
}

/// Slots 0 and 2 ran without slot 1, and slot 2 holds that epoch twice, so data was written. Then slot 0's
/// copy of it decayed, and slot 0 ran with slot 1. Slot 0 alone does not prove that it never held the epoch.
#[test]
fn one_witness_does_not_outweigh_an_epoch_that_is_held_twice() {
    let mut world = settled(Level::Raid5, 3);
    let mut roster = start(&mut world, 0b101);
    let writes = roster.reinforce().unwrap();
    writes.iter().filter(|write| write.slot == 2).for_each(|write| world.land(write));
    let newest = world.devices[0].found.as_ref().unwrap().overwrite.other();
    world.devices[0].damage(newest);
    for _ in 0..3 {
        start(&mut world, 0b011);
        let mut torn = world.clone();
        tear(&mut torn, &[0, 1]);
        assert!(matches!(torn.assemble(0b111), Err(AssemblyError::Fork { .. })));
    }
}

/// Slots 0 and 1 ran without slots 2 and 3, and then began to take slot 2 back in, which that change did not
/// reach. That slot 2 lacks the last epoch says nothing about the one before.
#[test]
fn a_device_to_be_rebuilt_is_no_witness() {
    let mut world = World::new(Level::Raid6, 4);
    let mut roster = start(&mut world, 0b0011);
    reinforce(&mut world, &mut roster);
    let stale = world.assemble(0b0111).unwrap().slots[2];
    let joiner = world.joiner(stale);
    let world = cut_change(&world, &roster, Change::Join { slot: 2, joiner }, &[0, 1]);
    assert!(matches!(world.assemble(0b1101), Err(AssemblyError::NotEnough { .. })));
    assert!(world.assemble(0b1111).is_ok());
}

/// Slot 2's only copy of the newest epoch has decayed, so it looks as if it had never held it.
#[test]
fn a_decayed_device_is_no_witness() {
    let mut world = World::new(Level::Raid6, 5);
    start(&mut world, 0b00111);
    let newest = world.devices[2].found.as_ref().unwrap().overwrite.other();
    world.devices[2].damage(newest);
    assert!(matches!(world.assemble(0b11101), Err(AssemblyError::NotEnough { .. })));
    assert!(world.assemble(0b11111).is_ok());
}

/// The highest epoch may be held by a joining device alone and have too few members in sync, while a lower
/// epoch has enough.
#[test]
fn the_highest_epoch_is_not_always_the_one() {
    let mut world = World::new(Level::Raid5, 3);
    let mut roster = start(&mut world, 0b011);
    reinforce(&mut world, &mut roster);
    let joiner = world.joiner(SlotPlan::Failed);
    world = cut_change(&world, &roster, Change::Join { slot: 2, joiner }, &[3]);
    world = broken_start(&world, 0b1011, &[3]);
    world = broken_start(&world, 0b0011, &[0]);
    assert!(world.assemble(0b1111).is_ok());
}

/// A start reached slot 2 alone, and the others started without it: slot 2 holds a leftover. The record of
/// the next start, made with slot 2 present, names what slot 2 holds; from then on it is stale and needs no
/// explanation.
#[test]
fn a_leftover_is_explained_once() {
    let mut world = settled(Level::Raid5, 3);
    world = broken_start(&world, 0b111, &[2]);
    start(&mut world, 0b011);
    let reason = |world: &World| match world.assemble(0b111).unwrap().slots[2] {
        SlotPlan::Stale { reason, .. } => reason,
        plan => panic!("{plan:?}"),
    };
    assert_eq!(reason(&world), StaleReason::Leftover);
    let roster = start(&mut world, 0b111);
    let holds = world.devices[2].found.as_ref().unwrap().superblock.record.epoch.name;
    assert_eq!(roster.record().slots[2].held, holds);
    assert_eq!(reason(&world), StaleReason::LeftInSync);
}

/// A slot whose write was lost leaves with the next change, whatever that change is.
#[test]
fn a_lost_write_takes_its_slot_out() {
    let mut world = World::new(Level::Raid6, 4);
    let mut roster = world.assemble(0b1111).unwrap().roster().unwrap();
    for write in world.begin(&mut roster, START).unwrap() {
        let outcome = if write.slot == 1 { WriteOutcome::Lost } else { WriteOutcome::Landed };
        roster.settle(write.slot, outcome);
    }
    assert!(!roster.is_committed());
    let writes = world.begin(&mut roster, Change::Fail { slots: Slots::one(2) }).unwrap();
    assert_eq!(writes.iter().map(|write| write.slot).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(roster.record().slots[1].state, SlotState::Failed);
}
