//! Slots that fail, go on record, are filled, and cannot be spared.

use super::*;

const DATA_4: Needs = Needs { data: 4, unsynced: false, torn: false };

fn five() -> Members {
    let all = MemberView { readable: Slots::first(5), writable: Slots::first(5) };
    Members::new(all, 0, &[0, 1, 2, 3, 4].map(DeviceIndex), Slots::NONE)
}

#[test]
fn a_failure_is_believed_once_it_is_on_record() {
    let members = five();
    assert!(members.fail(2, Failure::Write(5)));
    assert!(!members.fail(2, Failure::Write(5)), "a slot fails once");
    assert_eq!(members.view().readable, Slots(0b11011));
    assert!(!members.on_record(Slots::one(2), 0));
    members.set_record(members.view(), 0);
    assert!(members.on_record(Slots::one(2), 0));
    assert!(!members.on_record(Slots::one(1), 0));
}

/// A note against a device does not apply to the device that takes its slot, however far that one is filled:
/// once `excludes` is true it stays true. (A late error of a replaced device once held up flushes and marks
/// forever.)
#[test]
fn what_was_excluded_once_stays_so() {
    let members = five();
    let (view, mut missed) = members.missing_of(Slots::first(5));
    assert!(view.writable == Slots::first(5) && members.excludes(&missed));
    missed.add(2, members.device(2));
    assert!(!members.excludes(&missed));
    members.fail(2, Failure::Flush(5));
    assert!(!members.excludes(&missed), "not before it is on record");
    members.set_record(members.view(), 0);
    assert!(members.excludes(&missed));
    let (_, before) = members.missing_of(Slots::first(5));
    members.begin_rebuild(2, DeviceIndex(5), true);
    for cursor in [0, 10] {
        members.set_record(members.view(), cursor);
        assert!(members.excludes(&missed) && members.excludes(&before), "cursor {cursor}");
    }
    assert!(members.finish_rebuild(2, 4));
    members.set_record(members.view(), 10);
    assert!(members.excludes(&missed) && members.excludes(&before));
    // A note against the device that is there now counts.
    missed.add(2, members.device(2));
    assert!(!members.excludes(&missed));
}

#[test]
fn members_that_fall_silent_together_leave_together_or_not_at_all() {
    let members = five();
    assert!(!members.fail_all_if_spared(Slots(0b11), Failure::Silence(30), DATA_4));
    assert_eq!(members.view().writable, Slots::first(5));
    let needs = Needs { data: 3, ..DATA_4 };
    assert!(members.fail_all_if_spared(Slots(0b11), Failure::Silence(30), needs));
    assert_eq!(members.view().readable, Slots(0b11100));
    assert!([0, 1].into_iter().all(|slot| members.failure(slot) == Some(Failure::Silence(30))));
    assert_eq!(members.failure(2), None);
}

#[test]
fn a_cache_that_is_switched_on_is_flushed_from_then_on() {
    let members = five();
    assert!(!members.cache_switched_on(2, DeviceIndex(7), true), "another device has the slot");
    assert!(members.cache_switched_on(2, DeviceIndex(2), true));
    assert_eq!((members.volatile(), members.write_through()), (Slots::one(2), Slots::NONE));
    assert!(!members.cache_switched_on(2, DeviceIndex(2), true), "it is known");
    assert!(members.cache_switched_on(3, DeviceIndex(3), false));
    assert_eq!(members.write_through(), Slots::one(3));
}

#[test]
fn a_rebuild_is_readable_below_its_cursor() {
    let members = five();
    members.fail(2, Failure::Operator);
    members.set_record(members.view(), 0);
    members.begin_rebuild(2, DeviceIndex(5), true);
    assert_eq!(members.device(2), DeviceIndex(5));
    assert!(members.volatile().has(2));
    members.advance_cursor(10);
    let view = members.view();
    assert!(members.readable_at(view, 9, false).has(2) && !members.readable_at(view, 10, false).has(2));
    // The record says that the slot is rebuilding from 0, so skipping it anywhere is safe.
    members.set_record(view, 0);
    assert!(members.on_record(Slots::one(2), 9));
    members.set_record(view, 10);
    assert!(!members.on_record(Slots::one(2), 9) && members.on_record(Slots::one(2), 10));
    assert!(members.finish_rebuild(2, 4));
    assert_eq!(members.view().readable, Slots::first(5));
}

#[test]
fn an_array_that_has_failed_stays_failed() {
    let members = five();
    assert!(members.fail(2, Failure::Operator));
    members.begin_rebuild(2, DeviceIndex(9), false);
    assert!(members.fail(3, Failure::Operator));
    assert!(!members.finish_rebuild(2, 4), "three of four are left, and the fourth comes too late");
    assert_eq!(members.view().readable, Slots(0b10011));
}

#[test]
fn what_is_about_to_be_recorded_counts_as_recorded() {
    let members = five();
    members.fail(2, Failure::Operator);
    members.begin_rebuild(2, DeviceIndex(5), true);
    members.set_record(members.view(), 0);
    assert!(members.anticipate_record(2, Believed::Below(10)));
    assert!(!members.on_record(Slots::one(2), 9) && members.on_record(Slots::one(2), 10));
    assert!(members.anticipate_record(2, Believed::InSync));
    assert!(!members.on_record(Slots::one(2), 10));
    members.set_record(members.record().without_readable(2), 10);
    members.fail(2, Failure::Write(5));
    assert!(!members.anticipate_record(2, Believed::InSync), "it has failed meanwhile");
    assert!(members.on_record(Slots::one(2), 10), "and whoever relied on the record may go on");
}

#[test]
fn what_cannot_be_spared_is_kept() {
    let members = five();
    assert!(members.fail_if_spared(1, Failure::Silence(30), DATA_4));
    assert!(
        !members.fail_if_spared(2, Failure::Silence(30), DATA_4),
        "four hold the data, and three would be left"
    );
    for stripe in 0..u64::from(2 * READ_ERRORS_MAX) {
        members.count_read_error(3, stripe, 5, DATA_4);
    }
    assert!(members.view().readable.has(3));
    assert!(members.fail(2, Failure::Write(5)), "what was not written is not there");
}

/// If parity proves nothing, a member that reads badly is the only one that has its strips. After a write
/// error there is no choice: the member does not have what was not written.
#[test]
fn no_member_is_spared_while_stripes_are_unsynced() {
    let needs = Needs { unsynced: true, ..DATA_4 };
    let members = five();
    for stripe in 0..u64::from(2 * READ_ERRORS_MAX) {
        members.count_read_error(3, stripe, 5, needs);
    }
    assert!(!members.fail_if_spared(3, Failure::Silence(30), needs));
    assert_eq!(members.view().writable, Slots::first(5));
    assert!(members.fail(3, Failure::Write(5)));
    // A slot that is being filled holds nothing that counts in such a stripe, unless it was filled before the
    // stripe became unsynced.
    members.begin_rebuild(3, DeviceIndex(5), false);
    assert!(members.fail_if_spared(3, Failure::Operator, needs));
    let view = MemberView { readable: Slots(0b10111), writable: Slots::first(5) };
    let filled = Members::new(view, 7, &[0, 1, 2, 3, 4].map(DeviceIndex), Slots::NONE);
    assert!(!filled.fail_if_spared(3, Failure::Operator, needs));
    assert!(filled.fail_if_spared(3, Failure::Operator, DATA_4));
}

#[test]
fn a_rate_of_errors_fails_a_member_and_a_few_do_not() {
    let members = five();
    let errors = u64::from(READ_ERRORS_MAX);
    for stripe in 0..errors {
        members.count_read_error(1, stripe, 5, DATA_4);
    }
    assert!(members.view().readable.has(1));
    members.halve_read_errors();
    members.count_read_error(1, 0, 5, DATA_4);
    assert!(members.view().readable.has(1));
    for stripe in errors..2 * errors {
        members.count_read_error(1, stripe, 5, DATA_4);
    }
    assert!(!members.view().writable.has(1));
    assert_eq!(members.failure(1), Some(Failure::Reads(5)));
}

#[test]
fn one_bad_place_counts_once() {
    let members = five();
    for _ in 0..2 * READ_ERRORS_MAX {
        members.count_read_error(1, 7, 5, DATA_4);
        members.note_read_error(1);
    }
    assert!(members.view().readable.has(1));
    assert_eq!(members.read_errors(1), u64::from(4 * READ_ERRORS_MAX));
}

/// Errors of the old device do not count against a slot's new device.
#[test]
fn counts_are_of_the_device() {
    let in_sync = Slots(0b111);
    let view = MemberView { readable: in_sync, writable: in_sync };
    let members = Members::new(view, 0, &[DeviceIndex(0), DeviceIndex(1), DeviceIndex(2)], Slots::NONE);
    members.note_read_error(2);
    members.count_repair(2);
    members.count_refusal(2);
    members.count_repair(1);
    assert!(members.fail(2, Failure::Operator));
    members.begin_rebuild(2, DeviceIndex(5), false);
    assert_eq!((members.read_errors(2), members.repairs(2), members.refusals(2)), (0, 0, 0));
    assert_eq!(members.repairs(1), 1);
}
