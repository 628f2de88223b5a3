//! Mutants of the running array that tests of the engine detect: the simulator has no measure for them, or
//! meets them too rarely.

use super::{Mutant, in_case, seen_by_test, seen_by_unit, seen_in_array};

/// The mutants, ordered by the rule that they break.
pub(super) const MUTANTS: &[Mutant] = &[
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
        "rest::reads_wake_no_array",
        "ReadsWake",
        "A9: a read makes the record say Active, and the next power cut is an unclean stop",
    ),
    seen_in_array(
        "midway::a_first_write_waits",
        "FlushOfView",
        "C2: the same where the members with a cache have just left the view (once a bug here)",
    ),
    seen_in_array(
        "silence::what_a_device_has_missed",
        "ExcludedBySlot",
        "E8: what a device has missed is held against the one that has its slot now (once a bug here)",
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
    seen_in_array(
        "rest::the_sleep_of_a_reactor",
        "TurnWithoutTime",
        "T4: a request that comes after a rest counts the rest as time of its member",
    ),
    seen_in_array(
        "bad_sectors::what_is_written_over_lost_rows",
        "UnlistedBeforeDurable",
        "LOST: rows are off the list before what was written there is durable",
    ),
    seen_in_array(
        "arrival::a_join_is_answered",
        "JoinAnsweredEarly",
        "T1: a program that waits for a rebuild after `replace` finds none, and goes on (once a bug here)",
    ),
    seen_in_array(
        "repairs::what_is_written_anew",
        "RepairNotCounted",
        "E10: a repair is not counted if another write of its operation is in flight",
    ),
];
