//! Refusals of assembly and roster, and devices that they leave out, each with the words that an operator
//! needs.
//!
//! Method: take a good array, spoil one thing, look at the answer. Oracle: the rule, by hand.

use engine::assembly::{
    AssemblyOptions, Candidate, Change, ChangeRefused, Joiner, LeftOutReason, NewArray, SlotPlan,
    StaleReason, SuperblockWrite, WriteOutcome, assemble, create,
};
use engine::format::host::Host;
use engine::format::label::Label;
use engine::format::superblock::{Found, NoMember, RunState, SlotState, Superblock, choose};
use engine::format::zones::zones;
use engine::format::{Level, Shape};
use engine::geometry::Slots;
use uuid::Uuid;

use super::world::{DEVICE_BYTES, World};

const SHAPE: Shape = Shape { level: Level::Raid6, members: 4, chunk_bytes: 64 << 10 };

/// The superblocks of a RAID-6 of 4 that belongs to host `here`, two for each member.
fn written(seed: u128, name: &str) -> Vec<SuperblockWrite> {
    let members: Vec<Uuid> = (1..=4).map(|slot| Uuid::from_u128(seed << 64 | slot)).collect();
    create(&NewArray {
        array: Uuid::from_u128(seed),
        name: Label::new(name).unwrap(),
        host: Host { id: Uuid::from_u128(0x600d), name: Label::new("here").unwrap() },
        created_s: 1_764_000_000,
        shape: SHAPE,
        logical_block_bytes: 4096,
        zones: zones(DEVICE_BYTES, &SHAPE).unwrap(),
        members: &members,
        epoch_id: 5,
    })
}

/// The devices of such an array, as a start finds them.
fn array(seed: u128, name: &str) -> Vec<Candidate> {
    let writes = written(seed, name);
    let read = |pair: &[SuperblockWrite]| choose(&pair[0].encode(), &pair[1].encode(), DEVICE_BYTES);
    let candidate = |(slot, pair)| Candidate { label: format!("/dev/{name}{slot}"), found: read(pair) };
    writes.chunks(2).enumerate().map(candidate).collect()
}

/// A device has one superblock of one member and one of another, because a part of that member was copied
/// over it.
#[test]
fn copies_of_different_members_are_no_member() {
    let writes = written(1, "tank");
    for (a, b) in [(2, 1), (1, 2)] {
        let mixed = choose(&writes[2 * a].encode(), &writes[2 * b + 1].encode(), DEVICE_BYTES);
        assert_eq!(mixed, Err(NoMember::TwoMembers));
        let mut devices = array(1, "tank");
        devices[1].found = mixed;
        let assembly = assemble(&devices, &here()).unwrap();
        assert_eq!(assembly.slots[1], SlotPlan::Missing);
        assert_eq!(assembly.left_out[0].reason, LeftOutReason::NoMember(NoMember::TwoMembers));
    }
}

fn here() -> AssemblyOptions {
    AssemblyOptions {
        host: Host { id: Uuid::from_u128(0x600d), name: Label::new("here").unwrap() },
        ..AssemblyOptions::default()
    }
}

fn found(candidate: &mut Candidate) -> &mut Superblock {
    &mut candidate.found.as_mut().unwrap().superblock
}

/// A function that spoils an array, and the words that the refusal must contain.
type Case = (fn(&mut Vec<Candidate>, &mut AssemblyOptions), &'static [&'static str]);

const CASES: &[Case] = &[
    (|devices, _| devices.clear(), &["no member"]),
    (
        |devices, _| devices.extend(array(2, "pond")),
        &["more than one array", "/dev/tank0: tank", "/dev/pond3: pond"],
    ),
    (|_, options| options.expected_array = Some(Uuid::from_u128(9)), &["/dev/tank0", "was asked for"]),
    (|_, options| options.expected_name = Label::new("pond").ok(), &["array tank", "pond was asked for"]),
    (|_, options| options.host = Host::ANY, &["belongs to host 'here'"]),
    // A host of the same name, with another machine id.
    (|_, options| options.host.id = Uuid::from_u128(0xbad), &["belongs to host 'here' (machine 00000000)"]),
    (|devices, _| devices.push(devices[2].clone()), &["/dev/tank2 (slot 2)", "same member", "Give one"]),
    (|devices, _| found(&mut devices[3]).record.shape.chunk_bytes *= 2, &["/dev/tank3 (slot 3)", "chunk"]),
    (
        |devices, _| found(&mut devices[1]).record.zones.data.offset_bytes += 1 << 20,
        &["/dev/tank1 (slot 1)", "zones"],
    ),
    (|devices, _| found(&mut devices[1]).record.zones.stripes -= 1, &["same epoch", "/dev/tank1"]),
    (|devices, _| found(&mut devices[1]).record.logical_block_bytes = 512, &["/dev/tank1", "logical block"]),
    (
        |devices, _| found(&mut devices[1]).record.created_s += 1,
        &["/dev/tank1", "when the array was created"],
    ),
    (
        |devices, _| found(&mut devices[1]).record.slots[3].state = SlotState::Failed,
        &["same epoch", "/dev/tank1"],
    ),
    (
        |devices, _| devices[0].found = Err(NoMember::TooSmall { device_bytes: 1, needed_bytes: 2 }),
        &["/dev/tank0", "shrunk"],
    ),
    (
        |devices, _| {
            use engine::format::superblock::DecodeError::UnknownIncompat;
            devices[0].found = Err(NoMember::Unsupported(UnknownIncompat(4)));
        },
        &["/dev/tank0", "0x4", "newer"],
    ),
    (
        |devices, _| drop(devices.split_off(1)),
        &["1 of 4 members", "needs 2", "slot 3: its device is not here"],
    ),
    (|devices, _| drop(devices.split_off(2)), &["2 of 4", "not more than half", "degraded"]),
];

#[test]
fn each_is_refused_with_the_words_that_help() {
    assert!(assemble(&array(1, "tank"), &here()).is_ok());
    for (index, (spoil, words)) in CASES.iter().enumerate() {
        let (mut devices, mut options) = (array(1, "tank"), here());
        spoil(&mut devices, &mut options);
        let text = assemble(&devices, &options).expect_err("spoiled").to_string();
        for word in *words {
            assert!(text.contains(word), "case {index}: '{word}' is not in: {text}");
        }
    }
}

#[test]
fn the_operator_may_allow_some() {
    let degraded = AssemblyOptions { run_degraded: true, ..here() };
    assert!(assemble(&array(1, "tank")[..2], &degraded).is_ok());
    let foreign = AssemblyOptions { foreign_host_ok: true, ..AssemblyOptions::default() };
    assert!(assemble(&array(1, "tank"), &foreign).is_ok());
}

#[test]
fn the_array_that_was_asked_for_is_taken() {
    let expected_name = Some(Label::new("tank").unwrap());
    let expected_array = Some(Uuid::from_u128(1));
    assert!(
        assemble(&array(1, "tank"), &AssemblyOptions { expected_array, expected_name, ..here() }).is_ok()
    );
}

#[test]
fn an_array_without_a_host_is_anyones() {
    let mut devices = array(1, "tank");
    devices.iter_mut().for_each(|device| found(device).record.host = Host::ANY);
    assert!(assemble(&devices, &here()).is_ok());
}

#[test]
fn a_wiped_device_is_left_out_and_its_slot_is_missing() {
    let mut devices = array(1, "tank");
    devices[1].found = Err(NoMember::Blank);
    let assembly = assemble(&devices, &here()).unwrap();
    assert_eq!(assembly.slots[1], SlotPlan::Missing);
    assert_eq!(assembly.left_out.len(), 1);
    assert_eq!(assembly.left_out[0].reason, LeftOutReason::NoMember(NoMember::Blank));
}

#[test]
fn an_unknown_ro_compat_feature_makes_it_read_only() {
    let mut devices = array(1, "tank");
    found(&mut devices[1]).read_only_required = true;
    let assembly = assemble(&devices, &here()).unwrap();
    assert!(assembly.read_only);
    assert_eq!(assembly.roster().unwrap_err(), ChangeRefused::ReadOnly);
}

/// Starts the devices that are present, and makes one more change.
fn start_and(world: &mut World, present: u32, change: Option<Change>) {
    let mut roster = world.assemble(present).unwrap().roster().unwrap();
    for change in [Some(Change::Start { host: Host::ANY }), change].into_iter().flatten() {
        let writes = world.begin(&mut roster, change).unwrap();
        world.complete(&mut roster, &writes, "change");
    }
    let writes = roster.reinforce().unwrap();
    world.complete(&mut roster, &writes, "reinforce");
}

#[test]
fn a_failed_member_stays_out_when_it_is_back() {
    let mut world = World::new(Level::Raid5, 3);
    start_and(&mut world, 0b111, Some(Change::Fail { slots: Slots::one(2) }));
    let assembly = world.assemble(0b111).unwrap();
    assert_eq!(assembly.slots[2], SlotPlan::Stale { candidate: 2, reason: StaleReason::LeftInSync });
    let text = world.assemble(0b101).unwrap_err().to_string();
    assert!(text.contains("slot 2: dev2 is stale: it left the array earlier"), "{text}");
}

#[test]
fn a_replaced_member_is_left_out_when_it_is_back() {
    let mut world = World::new(Level::Raid5, 3);
    start_and(&mut world, 0b111, Some(Change::Fail { slots: Slots::one(2) }));
    let joiner = world.joiner(SlotPlan::Failed);
    start_and(&mut world, 0b011, Some(Change::Join { slot: 2, joiner }));
    let assembly = world.assemble(0b1111).unwrap();
    assert_eq!(assembly.slots[2], SlotPlan::Rebuilding { candidate: 3, cursor: 0 });
    assert_eq!(assembly.left_out[0].candidate, 2);
    assert_eq!(assembly.left_out[0].reason, LeftOutReason::Replaced { slot: 2 });
}

#[test]
fn halves_that_ran_apart_are_refused_with_both_named() {
    let mut world = World::new(Level::Raid6, 4);
    start_and(&mut world, 0b0011, None);
    start_and(&mut world, 0b1100, None);
    for present in [0b1111, 0b0111, 0b1011, 0b1110, 0b1101] {
        let text = world.assemble(present).unwrap_err().to_string();
        assert!(
            text.contains("ran apart") && text.contains("(slot 0)") | text.contains("(slot 1)"),
            "{text}"
        );
        assert!(
            text.contains("`striate replace ") && text.contains("is overwritten"),
            "says what to do: {text}"
        );
    }
    assert!(world.assemble(0b0011).is_ok() && world.assemble(0b1100).is_ok());
    // One member of each half: neither half could start, and the absent members might explain its epoch.
    let text = world.assemble(0b0101).unwrap_err().to_string();
    assert!(text.contains("cannot start: 1 of 4"), "{text}");
    assert!(
        text.contains("slot 0: dev0 is stale: it holds an epoch that the others here do not explain"),
        "{text}"
    );
}

/// Slot 2's device returns to an image from before the second start. It is left out with that reason; if its
/// slot was given to another device meanwhile, it has no place at all. The record still tells what the
/// departed device held after the second start.
#[test]
fn an_older_image_is_left_out_with_the_reason() {
    let mut world = World::new(Level::Raid6, 4);
    start_and(&mut world, 0b1111, None);
    let image = world.devices[2].clone();
    start_and(&mut world, 0b1111, None);
    start_and(&mut world, 0b1111, None);
    let mut rolled_back = world.clone();
    rolled_back.devices[2] = image.clone();
    let assembly = rolled_back.assemble(0b1111).unwrap();
    assert_eq!(assembly.slots[2], SlotPlan::Stale { candidate: 2, reason: StaleReason::RolledBack });
    assert_eq!(assembly.left_out, []);

    start_and(&mut world, 0b0111, Some(Change::Fail { slots: Slots::one(2) }));
    let joiner = world.joiner(SlotPlan::Failed);
    start_and(&mut world, 0b0011, Some(Change::Join { slot: 2, joiner }));
    world.devices[2] = image;
    let assembly = world.assemble(0b11111).unwrap();
    assert_eq!(assembly.slots[2], SlotPlan::Rebuilding { candidate: 4, cursor: 0 });
    let left_out: Vec<_> = assembly.left_out.iter().map(|out| (out.candidate, out.reason)).collect();
    assert_eq!(left_out, [(2, LeftOutReason::Replaced { slot: 2 })]);
}

/// A stop reached the superblock of one member only: the start finds the record of that stop, whichever
/// member has it.
#[test]
fn a_stop_that_one_superblock_says_is_the_records() {
    for landed in [0b001, 0b010, 0b100] {
        let mut world = World::new(Level::Raid5, 3);
        let mut roster = world.assemble(0b111).unwrap().roster().unwrap();
        for what in ["start", "wake"] {
            let writes = match what {
                "start" => world.begin(&mut roster, Change::Start { host: Host::ANY }).unwrap(),
                _ => roster.wake().unwrap(),
            };
            world.complete(&mut roster, &writes, what);
            let writes = roster.reinforce().unwrap();
            world.complete(&mut roster, &writes, "reinforce");
        }
        let writes = roster.stop_clean().unwrap();
        let assembly = world.cut(&writes, landed, "stop").assemble(0b111).unwrap();
        let record = &assembly.record;
        assert!(!assembly.unclean && record.state == RunState::Clean && record.settled);
    }
}

/// Starts leave a slot that takes no part in the record as it was when it left; a slot that was given up
/// stays empty.
#[test]
fn a_start_leaves_slots_that_take_no_part_as_they_are() {
    let mut world = World::new(Level::Raid6, 4);
    start_and(&mut world, 0b1111, Some(Change::Fail { slots: Slots::one(1) }));
    start_and(&mut world, 0b1101, Some(Change::Fail { slots: Slots::one(3) }));
    start_and(&mut world, 0b0101, Some(Change::Remove { slot: 1 }));
    let before = world.assemble(0b0101).unwrap().record;
    start_and(&mut world, 0b0101, None);
    let after = world.assemble(0b0101).unwrap().record;
    assert_ne!(before.epoch, after.epoch);
    for slot in [1, 3] {
        assert_eq!(after.slots[slot], before.slots[slot]);
    }
    assert_eq!((after.slots[1].state, after.slots[3].state), (SlotState::Empty, SlotState::Failed));
}

#[test]
fn a_rebuild_goes_on_from_the_least_cursor_on_record() {
    let mut world = World::new(Level::Raid5, 3);
    start_and(&mut world, 0b011, None);
    let mut roster = world.assemble(0b111).unwrap().roster().unwrap();
    let joiner = Joiner::returning(2, world.devices[2].found.as_ref().unwrap());
    for change in [Change::Start { host: Host::ANY }, Change::Join { slot: 2, joiner }] {
        let writes = world.begin(&mut roster, change).unwrap();
        world.complete(&mut roster, &writes, "change");
    }
    for (cursor, landed) in [(30, 0b111), (60, 0b011)] {
        let writes = roster.rebuild_progress(2, cursor).unwrap();
        for write in &writes {
            roster.settle(write.slot, WriteOutcome::Landed);
        }
        world = world.cut(&writes, landed, "progress");
    }
    let plan = world.assemble(0b111).unwrap().slots[2];
    assert_eq!(plan, SlotPlan::Rebuilding { candidate: 2, cursor: 30 });
}

#[test]
fn changes_that_cannot_be() {
    let world = World::new(Level::Raid5, 3);
    let mut roster = world.assemble(0b011).unwrap().roster().unwrap();
    let settle_all = |roster: &mut engine::assembly::Roster, writes: Vec<SuperblockWrite>| {
        writes.iter().for_each(|write| roster.settle(write.slot, WriteOutcome::Landed));
    };
    assert!(!roster.is_committed());
    let writes = roster.begin(Change::Start { host: Host::ANY }, 2).unwrap();
    assert!(!roster.is_committed());
    settle_all(&mut roster, writes);
    assert!(roster.is_committed());

    let first: &Found = world.devices[0].found.as_ref().unwrap();
    let twice = Change::Join { slot: 2, joiner: Joiner::returning(0, first) };
    assert_eq!(roster.begin(twice, 3).unwrap_err(), ChangeRefused::AlreadyMember { slot: 0 });
    let too_few = ChangeRefused::TooFew { in_sync: 1, needed: 2 };
    assert_eq!(roster.begin(Change::Fail { slots: Slots::one(1) }, 3).unwrap_err(), too_few);
    for (change, state) in [
        (Change::Fail { slots: Slots::one(2) }, SlotState::Failed),
        (Change::Filled { slot: 0 }, SlotState::InSync),
        (Change::Remove { slot: 0 }, SlotState::InSync),
    ] {
        let refused = roster.begin(change, 3).unwrap_err();
        assert!(
            matches!(refused, ChangeRefused::WrongState { state: found, .. } if found == state),
            "{refused}"
        );
    }
    let grow = Change::Grow { zones: roster.record().zones };
    assert!(
        matches!(roster.begin(grow, 3), Err(ChangeRefused::WrongState { slot: 2, .. })),
        "one is missing"
    );
    let nowhere = ChangeRefused::NoSuchSlot { slot: 3, members: 3 };
    assert_eq!(roster.begin(Change::Fail { slots: Slots::one(3) }, 3).unwrap_err(), nowhere);

    let writes = roster.begin(Change::Remove { slot: 2 }, 3).expect("what was refused left no trace");
    assert_eq!(writes.len(), 2);
    settle_all(&mut roster, writes);
    assert_eq!(roster.record().slots[2].state, SlotState::Empty);
}

#[test]
#[should_panic(expected = "settled")]
fn no_change_begins_before_the_last_is_settled() {
    let mut roster = World::new(Level::Raid5, 3).assemble(0b111).unwrap().roster().unwrap();
    roster.begin(Change::Start { host: Host::ANY }, 2).unwrap();
    let _ = roster.begin(Change::Fail { slots: Slots::one(0) }, 3);
}
