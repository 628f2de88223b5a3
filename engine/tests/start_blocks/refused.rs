//! Members that do not take their superblock or their list of lost rows at a start: see the top of main.rs.

use std::ops::Range;

use engine::assembly::{SlotPlan, StaleReason};
use engine::format::Level;
use engine::format::lost_rows::{LostRange, PLACE_OFFSETS_BYTES};
use engine::start::{StartError, StartOptions, Started};

use crate::devices::{LISTS, Members, Trouble};

const ALL: [usize; 3] = [0, 1, 2];
const SUPERBLOCKS: Range<u64> = 0..PLACE_OFFSETS_BYTES[0];
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Starts all members while device 1 refuses writes in this range.
fn start_refused(array: &mut Members, errno: i32, bytes: Range<u64>) -> Result<Started, StartError> {
    let trouble = Trouble { refuses: Some((1, errno, bytes)), ..Trouble::default() };
    array.start(&ALL, StartOptions::default(), trouble).result
}

fn start(array: &mut Members, present: &[usize]) -> Started {
    array.start(present, StartOptions::default(), Trouble::default()).result.expect("enough members are well")
}

/// A member that fails the superblock write of a start leaves, and the record says that it held the epoch
/// before. The other members hold the new epoch in both copies; if they held it in one copy only, decay of
/// that copy would set a member back by an epoch.
#[test]
fn a_member_that_fails_its_superblock_leaves() {
    let mut array = Members::in_use(Level::Raid5, 3);
    let before = array.epochs(1);
    let started = start_refused(&mut array, EIO, SUPERBLOCKS).expect("two members are well");
    assert!(!started.view.writable.has(1));
    let roster = started.roster.expect("it may be written");
    assert_eq!(array.epochs(1), before);
    for device in [0, 2] {
        assert_eq!(array.epochs(device), [roster.record().epoch.name; 2], "of device {device}");
    }
    let slots = array.assembly(&ALL).slots;
    assert_eq!(slots[1], SlotPlan::Stale { candidate: 1, reason: StaleReason::LeftInSync });
}

/// A full file system is no fault of the member: the start is refused, no member leaves, and the next start
/// finds all of them.
#[test]
fn a_member_without_room_stops_the_start() {
    let mut array = Members::in_use(Level::Raid5, 3);
    let refused = start_refused(&mut array, ENOSPC, SUPERBLOCKS).err();
    assert!(matches!(refused, Some(StartError::NotTaken { slot: 1, errno: ENOSPC })), "{refused:?}");
    assert_eq!(array.in_sync(&ALL), ALL);
    assert_eq!(start(&mut array, &ALL).view.writable.count(), 3);
}

/// An array with a list of lost rows on record, and the list.
fn with_list() -> (Members, Vec<LostRange>) {
    let mut array = Members::in_use(Level::Raid5, 3);
    array.rewrite_records(|record| record.lost_rows = true);
    let list = vec![LostRange { stripe: 0, stripes: 1, slot: 1, row: 0, rows: 512 }];
    ALL.iter().for_each(|&device| array.put_list(device, 5, &list));
    (array, list)
}

/// The power went while a list was written, and one member alone holds it. A start that believes this list
/// writes it to the others, so that the next start, without that member, believes it too.
#[test]
fn a_list_that_one_member_has_is_given_to_all() {
    let (mut array, mut list) = with_list();
    list.push(LostRange { row: 1024, ..list[0] });
    array.put_list(0, 6, &list);
    for present in [&ALL[..], &ALL[1..]] {
        assert_eq!(start(&mut array, present).lost.ranges(), list, "of {present:?}");
    }
}

/// A member that fails the write of the list leaves: a later start from its old list would serve lost rows as
/// zeros.
#[test]
fn a_member_that_fails_its_list_leaves() {
    let (mut array, list) = with_list();
    let started = start_refused(&mut array, EIO, LISTS).expect("two members are well");
    assert_eq!(started.lost.ranges(), list);
    assert!(!started.view.writable.has(1));
    assert_eq!(array.in_sync(&ALL), [0, 2]);
}

/// The list cannot be read on the two members that are present, so the start is refused. It must not record
/// that the third member is missing: that member has the list, and the next start, with it, finds all three
/// in sync.
#[test]
fn a_start_without_the_list_leaves_no_member_out() {
    let (mut array, list) = with_list();
    for (device, place) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        array.spoil_list(device, place);
    }
    let refused = array.start(&[0, 1], StartOptions::default(), Trouble::default()).result.err();
    assert!(matches!(refused, Some(StartError::LostRowsUnreadable)), "{refused:?}");
    assert_eq!(array.in_sync(&ALL), ALL);
    assert_eq!(start(&mut array, &ALL).lost.ranges(), list);
}

/// A place of the list is unreadable on every member, and the power goes while the start writes the list:
/// the copies in the other place remain.
#[test]
fn a_start_that_is_cut_leaves_the_good_place_of_the_list() {
    for bad in [0, 1] {
        let (mut array, list) = with_list();
        ALL.iter().for_each(|&device| array.spoil_list(device, bad));
        let trouble = Trouble { tears_list: true, ..Trouble::default() };
        let cut = array.start(&ALL, StartOptions::default(), trouble).result;
        assert!(cut.is_err(), "the power has gone");
        assert_eq!(start(&mut array, &ALL).lost.ranges(), list, "place {bad} was bad");
    }
}
