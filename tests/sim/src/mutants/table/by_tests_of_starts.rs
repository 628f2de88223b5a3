//! Mutants of starts, records, notes and clients that tests of the engine detect.

use super::{Mutant, in_case, seen_by_test, seen_by_unit, seen_in_array};

/// The mutants, ordered by the rule that they break.
pub(super) const MUTANTS: &[Mutant] = &[
    in_case(
        "start_blocks",
        "cuts::no_cut_of_a_start_brings_an_older_generation_back",
        "UnreadableIsBehind",
        "B11: a place that cannot be read is written while an older generation is in the other place (once a bug here)",
    ),
    in_case(
        "start_blocks",
        "cuts::no_cut_of_a_start_brings_an_older_generation_back",
        "StepsTogether",
        "B11: a member that fails a step of the repair leaves only after the last",
    ),
    in_case(
        "start_blocks",
        "cases::a_place_that_was_written_over_proves_nothing",
        "WrittenOverIsNeverWritten",
        "B11: a place that something else has written over counts as never written",
    ),
    in_case(
        "start_blocks",
        "cases::a_place_that_was_never_written_costs_nothing",
        "NeverWrittenIsBad",
        "B11: a place that an older program never wrote costs the block (once a bug here)",
    ),
    in_case(
        "start_blocks",
        "cases::trusted_parity_makes_a_stale_block_dirty",
        "StaleIsNotTrusted",
        "B11: --trust-parity is not heard where a block is not known (once a bug here)",
    ),
    in_case(
        "start_blocks",
        "cases::an_array_that_grows_is_as_settled_as_it_was",
        "GrowSettles",
        "B11: a growth says that both places of a block are alike, and has not written them (once a bug here)",
    ),
    seen_by_test(
        "format_assembly",
        "AbsentUnheard",
        "D3: what the record says of who is absent does not count against a broken-off epoch (once a bug here)",
    ),
    seen_by_test(
        "format_assembly",
        "LeftLaterUnheard",
        "D3: who came on to an epoch of the line, and left later, is no witness against a broken-off epoch (once a bug here)",
    ),
    seen_by_test(
        "format_assembly",
        "CameOnUnknown",
        "D3: a device that others came on without is apart, where they are no longer where it found them (once a bug here)",
    ),
    seen_in_array(
        "rebuild::a_stop_flushes",
        "StopRecordsUnflushed",
        "D2: a stop records a cursor that its flush has not covered yet",
    ),
    seen_in_array(
        "rest::the_sweep_moves_the_record",
        "SweptBeforeMove",
        "D8: a cell becomes Clean before the record has moved on",
    ),
    seen_in_array(
        "stop::a_stop_moves_the_record",
        "StopBeforeMove",
        "D8: a stop takes off the marks before the record has moved on",
    ),
    seen_in_array(
        "rest::the_mark_of_a_refused_write",
        "MarksNotSwept",
        "B5: the mark of a write that was refused stays until something else is written (once a bug here)",
    ),
    seen_in_array(
        "arrival::a_device_is_wiped",
        "BitmapNotWiped",
        "B11: a device that joins keeps bitmap blocks of another life of the array (once a bug here)",
    ),
    seen_in_array(
        "arrival::a_device_is_wiped",
        "LogNotWiped",
        "B11: a device that joins keeps what lies where bitmap blocks go when the array grows",
    ),
    seen_in_array(
        "arrival::a_device_is_wiped",
        "TailNotWiped",
        "D11: a device that joins keeps a partition table at its end",
    ),
    seen_in_array(
        "rebuild::a_filled_slot_has_both_places",
        "FilledInOnePlace",
        "B11: a bitmap block is in one place on a slot that was filled (once a bug here)",
    ),
    seen_in_array(
        "rebuild::the_cursor_on_record",
        "CursorOfLaterFlush",
        "D2: the cursor on record is one that the flush before it did not cover (once a bug here)",
    ),
    seen_in_array(
        "stop::an_array_that_is_stopped",
        "StoppedTakesDevice",
        "D9: an array that is stopped takes a device, and writes to it",
    ),
    seen_in_array(
        "arrival::a_device_that_is_refused",
        "BusyTakesDevice",
        "D9: a device is wiped while another one arrives (once a bug here)",
    ),
    in_case(
        "format_assembly",
        "copies_of_different_members",
        "TwoMembersInOne",
        "D3: a device whose superblocks are of two members is taken for one of them",
    ),
    seen_by_unit(
        "replace::tests::of_two_at_once",
        "WipedBeforeAgreed",
        "D9: `replace` wipes a device before the array has taken it (once a bug here)",
    ),
    seen_by_unit(
        "replace::tests::a_refused_device",
        "RefusedNotLetGo",
        "D9: a device that was refused keeps its index and its descriptors (once a bug here)",
    ),
    seen_by_unit(
        "replace::tests::a_refused_device",
        "UsedSlotTakesDevice",
        "D9: a device is wiped for a slot that is in use",
    ),
    seen_by_unit(
        "smaller_blocks_suit",
        "LargerBlocksSuit",
        "D12: a member with larger blocks than the array's is served (once a bug here)",
    ),
    seen_by_unit(
        "a_drive_takes_whole_blocks",
        "HalfBlocksTaken",
        "D12: half a block goes to a drive as a command in whole blocks (once a bug here)",
    ),
    seen_by_unit("a_command_of_half_a_block", "HalfBlocksSent", "D12: a command of half a block is no bug"),
    seen_by_unit(
        "two_names_of_one_file",
        "TwoNamesAreTwo",
        "D12: one storage under two names is two members (once a bug here)",
    ),
    seen_by_unit(
        "a_member_under_a_partition_table",
        "OverwrittenServed",
        "D11: a member that another program has written to is served (once a bug here)",
    ),
    seen_by_unit(
        "a_partition_table_in_front",
        "ForeignHeadNotSeen",
        "D11: a partition table over the front of a member is not seen (once a bug here)",
    ),
    seen_by_unit(
        "only_what_is_behind_the_data",
        "ForeignTailNotSeen",
        "D11: the copy of a partition table at the end of a member is not seen (once a bug here)",
    ),
    in_case(
        "start_blocks",
        "generations_of_a_new_epoch",
        "GenerationsGoOn",
        "B11: generations of a new epoch go on from those of older ones (once a bug here)",
    ),
    seen_in_array(
        "stop::a_start_repairs",
        "StartInOneCopy",
        "D10: a start is on one copy of each superblock, and a damaged copy stays so (once a bug here)",
    ),
    in_case(
        "start_blocks",
        "refused::a_start_that_is_cut_leaves_the_good_place_of_the_list",
        "ListGoodPlaceFirst",
        "LOST: a start that is cut tears the only good place of the list of lost rows (once a bug here)",
    ),
    seen_in_array(
        "noting::a_write_waits",
        "NoteNotWaited",
        "N1: a change of the record is relied on before its note",
    ),
    seen_in_array(
        "noting::a_write_waits",
        "WakeNotNoted",
        "N1: the change that lets writes begin is not noted",
    ),
    seen_in_array(
        "noting::a_change_of_members",
        "LeaveNotNoted",
        "N1: the change that excludes a member is not noted",
    ),
    seen_in_array(
        "noting::a_change_that_loses",
        "LostChangeNoted",
        "N1: a change that lost a write is noted",
    ),
    seen_by_unit(
        "noter::tests::a_note_has_ended",
        "NoteEndsEarly",
        "N1: a note counts as written before it is",
    ),
    seen_in_array(
        "noting::a_note_that_does_not_end",
        "NoteForEver",
        "N2: a note that does not end holds hosts up for ever",
    ),
    seen_by_unit(
        "noting::tests::notes_that_do_not_end",
        "EachNoteHoldsUp",
        "N2: each change waits anew for a file system that hangs",
    ),
    seen_by_unit(
        "noting::tests::notes_that_do_not_end",
        "LateNoteDropped",
        "N2: behind a note that hangs the latest position is not noted (once a bug here)",
    ),
    seen_by_unit(
        "noter::tests::a_note_that_cannot_be_replaced",
        "FailedNoteKept",
        "N3: a note stays though the array went on",
    ),
    seen_by_unit(
        "note::tests::only_the_state",
        "NoteOfAnyBoot",
        "N3: a note of an earlier boot proves a state",
    ),
    seen_by_unit(
        "note::tests::only_the_state",
        "NoteOfAnyNumber",
        "N3: a note of another device proves a state",
    ),
    seen_by_unit(
        "note::tests::only_the_state",
        "NoteOfEarlierDevice",
        "N3: a note of an earlier device with the same number proves a state (once a bug here)",
    ),
    seen_by_unit(
        "note::tests::only_the_state",
        "NoteOfAnyArray",
        "N3: a note of another array proves a state",
    ),
    seen_by_unit(
        "note::tests::only_the_state",
        "NoteProvesOlder",
        "N3: members from before the last move are taken",
    ),
    seen_by_unit(
        "note::tests::only_the_state",
        "NoteProvesAnyParent",
        "N3: an epoch of another line is taken",
    ),
    seen_by_unit(
        "note::tests::only_the_state",
        "NoteProvesAnySeed",
        "N3: an epoch that another server began is taken",
    ),
    seen_by_unit("note::tests::a_growth", "GrowthNotedForCopies", "N3: a copy that grows changes the note"),
    seen_in_array(
        "chunks_of_4_kib",
        "WrittenIsHole",
        "M1: a client is told that a stripe is empty that holds acknowledged data",
    ),
    seen_in_array(
        "map::a_stripe_without_parity",
        "UnsyncedNeverLost",
        "M2: an unsynced stripe of a degraded array is told as readable",
    ),
    seen_in_array(
        "bad_sectors::a_rebuild_passes",
        "ListedIsNotLost",
        "M2: what the list of lost rows names is told as readable",
    ),
    seen_by_unit(
        "note::tests::a_start_that_failed",
        "NoteForgetsServer",
        "N3: starts that fail push out the server that ran last (once a bug here)",
    ),
    seen_by_unit(
        "note::tests::a_start_that_failed",
        "NoteStaysBehind",
        "N3: after nine starts that fail a good takeover is refused (once a bug here)",
    ),
    seen_by_unit(
        "handshake::tests::tls_is_started",
        "NothingBeforeTls",
        "M4: a client that must use TLS gets in without",
    ),
    seen_by_unit(
        "handshake::tests::tls_is_started",
        "OldWayBeforeTls",
        "M4: a client gets in without TLS by EXPORT_NAME",
    ),
];
