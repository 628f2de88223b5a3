//! Mutants that tests of the engine see: the simulator has no measure for them, or meets them too rarely.

use super::{Mutant, in_case, seen_by_test, seen_by_unit, seen_in_array};

/// By the rule that they break.
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
        "refused::what_only_a_slot",
        "TornNotBelieved",
        "E7: a slot that is being filled is failed though it may hold the only copy of a strip of a torn stripe (once a bug here)",
    ),
    seen_in_array(
        "in_vain::a_few_failed_reads",
        "OneReadGivesUp",
        "E7: a piece of rows is given up after one failed read of it (once a bug here)",
    ),
    seen_in_array(
        "in_vain::errors_of_ours",
        "OwnErrorsGiveUp",
        "E7: rows are given up for errors that are not the device's (once a bug here)",
    ),
    seen_by_unit(
        "strips_have_to_fail_each_time",
        "OtherStripsGiveUp",
        "E7: a piece of rows is given up though each of its reads failed for another strip",
    ),
    seen_in_array(
        "in_vain::hosts_at_the_stripe",
        "HasteGivesUp",
        "E7: rows are given up after reads that come at once, because a host waits for the stripe (once a bug here)",
    ),
    seen_in_array(
        "in_vain::hosts_at_the_stripe",
        "HostsKeepHole",
        "F6: a stripe that hosts read all the time is never filled",
    ),
    seen_in_array(
        "silence::a_reactor_that_sleeps",
        "FreshMaySleep",
        "F1: a reactor sleeps though an operation is to be begun (once a bug here)",
    ),
    seen_in_array(
        "in_vain::a_stop_does_not_wait",
        "StopWaitsForPieces",
        "E10: a stop waits until every row of a bad strip is given up",
    ),
    seen_in_array(
        "worn::one_superblock_copy",
        "OneCopyAsked",
        "E7: a member that is needed is failed for a refused write and one superblock copy that cannot be read (once a bug here)",
    ),
    seen_in_array(
        "rebuild::a_stop_records",
        "StopForgetsCursor",
        "E7: a stop in order does not record the rebuild's cursor, and the only copy of a strip is given up (once a bug here)",
    ),
    seen_in_array(
        "rebuild::a_stop_flushes",
        "StopRecordsUnflushed",
        "D2: a stop records a cursor that its flush has not covered yet",
    ),
    seen_in_array(
        "worn::a_repair_that_fails",
        "RepairFailsMember",
        "E7: the repair of a bad sector fails, and costs a member (once a bug here)",
    ),
    seen_in_array(
        "worn::a_write_to_a_bad_sector",
        "NeededFailsByWrite",
        "E7: a failed write costs a member that the array needs (once a bug here)",
    ),
    seen_in_array(
        "worn::a_resync_passes",
        "UnhealedIsSynced",
        "A5: a resync that a member did not take leaves the stripe as if it were whole",
    ),
    seen_in_array(
        "worn::a_rebuild_passes",
        "UnhealedIsTrusted",
        "A1: parity stays trusted though a member did not take the zeros of rows that are listed as lost",
    ),
    seen_in_array(
        "silence::a_silence_of_all_fails_nobody",
        "SilenceOfAllFails",
        "E5: all are silent for a while, and some are failed (once a bug here)",
    ),
    seen_in_array(
        "silence::slow_advice_costs_no_member",
        "AdviceFails",
        "E5: a slow deallocation fails its member (once a bug here)",
    ),
    seen_in_array(
        "discards::a_large_discard_leaves_room_for_others",
        "BatchNotWaitedFor",
        "F6: a large discard holds all operations while its advice takes its time (once a bug here)",
    ),
    seen_by_test(
        "fairness",
        "BlocksLastComeFirst",
        "F6: of the bitmap blocks that wait to be written the youngest is next (once a bug here)",
    ),
    seen_by_test(
        "fairness",
        "JobNotHandedOver",
        "F6: a rebuild waits until another reactor leaves a stripe alone (once a bug here)",
    ),
    seen_by_test(
        "fairness",
        "JobNeverDue",
        "F6: a rebuild waits until no part waits for a stripe (once a bug here)",
    ),
    seen_by_test(
        "fairness",
        "BusyOpStays",
        "F6: a stripe that is never left alone keeps its op while others wait for one (once a bug here)",
    ),
    seen_by_test(
        "fairness",
        "MemoryOvertaken",
        "F6: an op that needs much memory is overtaken by those that need less (once a bug here)",
    ),
    seen_by_test(
        "fairness",
        "OpsOvertaken",
        "F6: an op that comes free goes to a newcomer (once a bug here)",
    ),
    seen_by_test(
        "fairness",
        "ReadsOvertaken",
        "F6: a read of many strips is overtaken by small ones (once a bug here)",
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
        "rest::reads_wake_no_array",
        "ReadsWake",
        "A9: a read makes the record say Active, and the next power cut is an unclean stop",
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
        "midway::a_first_write_waits",
        "FlushOfView",
        "C2: the same where the members with a cache have just left the view (once a bug here)",
    ),
    seen_in_array(
        "rebuild::the_cursor_on_record",
        "CursorOfLaterFlush",
        "D2: the cursor on record is one that the flush before it did not cover (once a bug here)",
    ),
    seen_in_array(
        "silence::what_a_device_has_missed",
        "ExcludedBySlot",
        "E8: what a device has missed is held against the one that has its slot now (once a bug here)",
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
    seen_in_array(
        "arrival::an_array_that_fails_answers_the_orders",
        "ArrivalWaitsInFailed",
        "E2: an array that has failed goes on wiping a device, and the order waits for ever",
    ),
    seen_in_array(
        "arrival::an_array_that_fails_answers_the_orders",
        "JoinWaitsInFailed",
        "E2: in an array that fails an order to take a device is not answered (once a bug here)",
    ),
    seen_in_array(
        "arrival::an_array_that_fails_answers_an_order",
        "FailWaitsInFailed",
        "E2: in an array that fails an order to fail a member is not answered (once a bug here)",
    ),
    seen_in_array(
        "arrival::a_failed_array_refuses",
        "StopWaitsInFailed",
        "E2: an array that has failed waits with a stop for what may never end",
    ),
    seen_in_array(
        "midway::a_failed_array_writes_nothing",
        "WriteInFailedArray",
        "E2: a write goes on in an array that has failed, over what was torn when it did (once a bug here)",
    ),
    seen_in_array(
        "silence::who_is_silent_together",
        "LeaveOneByOne",
        "E9: members that are silent together leave one at a time, and the record of each waits for the others (once a bug here)",
    ),
    seen_in_array(
        "silence::a_slow_flush",
        "SlowCommandFails",
        "E5: a member is failed for one slow command among others that complete (once a bug here)",
    ),
    seen_in_array(
        "spared::a_silent_member_is_waited_for",
        "UnsyncedNotWaitedFor",
        "E7: a pause of a minute fails a member that holds what cannot be computed",
    ),
    seen_in_array(
        "refused::refused_strips",
        "SpaceBlamesDevice",
        "E7: a member is failed for a full file system (once a bug here)",
    ),
    seen_in_array(
        "refused::refused_strips",
        "InvalidBlamesDevice",
        "E7: a member is failed for a malformed request (once a bug here)",
    ),
    seen_in_array(
        "repairs::",
        "RefusedRepairCounts",
        "E1: a repair counts though the member has refused it (once a bug here)",
    ),
    seen_in_array(
        "bad_sectors::retries_of_a_rebuild",
        "RetryCounts",
        "E7: what background work tries again counts as new errors (once a bug here)",
    ),
    seen_in_array(
        "bad_sectors::a_full_list_stops_a_resync",
        "NoBackoff",
        "E7: background work asks a bad sector again as often as it can (once a bug here)",
    ),
    seen_in_array(
        "caches::a_flush_reaches",
        "CacheNotFlushed",
        "C1: a cache that is switched on while the array runs is not flushed (once a bug here)",
    ),
    seen_in_array(
        "caches::writes_are_durable",
        "CacheNotWrittenThrough",
        "C2: a cache is switched on, hosts do not know and send no flush, and writes stay in it",
    ),
    seen_in_array(
        "rebuild::a_read_in_flight",
        "ReadsMissListing",
        "LOST: a read in flight while rows are listed returns zeros",
    ),
    seen_in_array(
        "rebuild::a_filled_slot_has_the_list",
        "FilledWithoutList",
        "LOST: a filled slot is believed, and does not have the list of lost rows",
    ),
    seen_in_array(
        "read_only::bad_sectors_are_passed_by",
        "RescueFailsMember",
        "R1: a read-only array fails a member for its read errors (once a bug here)",
    ),
    seen_in_array(
        "read_only::bad_sectors_are_passed_by",
        "RescueFlushes",
        "R1: a flush of a read-only array goes to the members (once a bug here)",
    ),
    in_case(
        "format_assembly",
        "copies_of_different_members",
        "TwoMembersInOne",
        "D3: a device whose superblocks are of two members is taken for one of them",
    ),
    seen_in_array(
        "silence::advice_that_moves_on",
        "AdviceElsewhereUnheard",
        "E8: a member is failed for a queue of advice though it works through it, for other reactors (once a bug here)",
    ),
    seen_in_array(
        "silence::advice_that_moves_on",
        "AdviceWithoutEnd",
        "E8: stripes stay locked for ever under advice that a member never ends",
    ),
    seen_in_array(
        "silence::all_memory_in_use",
        "LittleKeptBack",
        "E8: there is less memory than what a silent member may hold, and its owners need all of it (once a bug here)",
    ),
    seen_in_array(
        "silence::reads_into_pages_of_the_host",
        "LeftReadKeepsPlace",
        "E8: reads of a member that has left, into pages of the host, keep the places of all other reads (once a bug here)",
    ),
    seen_by_unit(
        "patient::tests::a_silent_device_ends_all",
        "SilentGivenMore",
        "E8: a control step gives more work to devices after one of them fell silent",
    ),
    seen_by_unit(
        "one_bad_place_counts_once",
        "PlaceCountsAgain",
        "E7: one bad place counts as often as it is asked for (once a bug here)",
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
        "fairness",
        "parts_are_first_come",
        "PartsOvertaken",
        "F6: a request of many parts is overtaken by small ones (once a bug here)",
    ),
    in_case(
        "fairness",
        "guests_leave_room",
        "GuestsTakeAllParts",
        "F6: requests of other reactors take all the parts of this one",
    ),
    seen_by_unit("jobs_follow_the_load", "JobsTakeAll", "F7: a rebuild takes as much beside hosts as alone"),
    in_case(
        "fairness",
        "a_thousand_clients",
        "JobsGetLittle",
        "F7: a rebuild gets a trifle of what many clients have",
    ),
    in_case(
        "fairness",
        "a_resync_looks_at",
        "ResyncLooksAtAll",
        "F7: the search for stripes that need a resync looks at all cells in one turn (once a bug here)",
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
    seen_in_array(
        "silence::a_read_into_pages",
        "StopWaitsForKernel",
        "E8: a reactor that is to end waits for reads into pages of the host, which only the kernel can end (once a bug here)",
    ),
    seen_in_array(
        "silence::a_read_into_pages",
        "StopLeavesAll",
        "I8: a reactor that is to end leaves a write without an answer beside a read that only the kernel can end",
    ),
    seen_in_array(
        "silence::the_list_of_lost_rows",
        "ListWaitsForSilent",
        "E8: the list of lost rows waits for a member that has left (once a bug here)",
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
