//! The mutants, by the rule that they break.

/// A way to break the engine.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name, as in the edits.
    pub name: &'static str,
    /// The rule that it breaks, by its number in the list at the end of docs/testing.md, and the bug of another system or
    /// of this one that it is, where it is one.
    pub rule: &'static str,
    /// Who is to see it.
    pub seen_by: SeenBy,
}

/// Who is to see a mutant.
#[derive(Clone, Copy, Debug)]
pub enum SeenBy {
    /// The simulator, in all its scenarios.
    Simulator,
    /// This scenario, where a minute of all scenarios would not: a chance in many thousands.
    Scenario(&'static str),
    /// This test of the engine: the simulator has no measure for what it is about.
    Test(&'static str),
}

const fn m(name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule, seen_by: SeenBy::Simulator }
}

const fn shown_in(scenario: &'static str, name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule, seen_by: SeenBy::Scenario(scenario) }
}

const fn seen_by_test(test: &'static str, name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule, seen_by: SeenBy::Test(test) }
}

/// One that breaks nothing: it must survive.
pub const CONTROL: &str = "Control";

/// Mutants that the suite does not kill within their two minutes, as of 2026-11-30. They are built, and tried where they are
/// named, and are no part of a run of all. Why each lives has not been found out: another rule may cover it, or its scenario may
/// be too weak. Until that is known the rule of each counts as untested by the simulator.
pub const LIVING: &[&str] = &[
    "SweptBeforeMove",
    "CursorOfLaterFlush",
    "TornNotBelieved",
    "FlushOfView",
    "NeedSyncBelowCursor",
    "WriteInFailedArray",
    "RescueFailsMember",
    "ReadsMissListing",
    "FilledWithoutList",
    "SilenceOfAllFails",
    "AdviceFails",
];

/// Every mutant.
pub const MUTANTS: &[Mutant] = &[
    m("RmwOnUnwritten", "A1: rmw on an Unwritten stripe (the bug that this project began with, first form)"),
    m("RmwOnNeedSync", "A1: rmw on a NeedSync stripe (second form)"),
    m("ReconstructFromNeedSync", "A2: a strip of a NeedSync stripe is reconstructed (third form)"),
    m("HealTouchedRowsOnly", "A3: a write makes only its own rows consistent, and the cell leaves NeedSync"),
    m("HealDataOnly", "A3: a write to a NeedSync stripe leaves its parity, and the cell leaves NeedSync"),
    m("ResyncNotBegun", "A4: nothing is resynced after an unclean start"),
    shown_in(
        "faults",
        "ResyncNotAgain",
        "A4: a resync does not come back to what it could not read (once a bug here)",
    ),
    m("DataOnlySynced", "A5: a cell leaves NeedSync with a strip lost (md dbd21b489ac1)"),
    shown_in("idle", "DegradedNotSwept", "A9: a degraded array keeps its marks at rest (once a bug here)"),
    shown_in("idle", "MarksWidenDegraded", "A9: a degraded array marks whole blocks (once a bug here)"),
    shown_in("idle", "StopLeavesMarks", "A9: a stop in order leaves marks on disk (once a bug here)"),
    m("WriteBeforeWake", "B10: members are written before the record says Active"),
    shown_in(
        "rollback",
        "OldImageCounts",
        "D8: a member that went back to an older image counts (once a bug here)",
    ),
    shown_in("rollback", "MovesNotCounted", "D8: an image of the same epoch counts"),
    shown_in(
        "rollback",
        "ProofNeedsBothCopies",
        "D8: what a member proves is gone when a start that was cut has torn its first copy (once a bug here)",
    ),
    shown_in("rollback", "MovesProveNothing", "D8: what is in both copies of a member proves nothing"),
    shown_in("rollback", "SweptBeforeMove", "D8: a cell becomes Clean before the record has moved on"),
    shown_in("decay", "StopInOneCopy", "D10: a stop is on one copy of each superblock (once a bug here)"),
    shown_in(
        "decay",
        "OlderBlockCounts",
        "B11: a generation counts though a newer one may not be readable (once a bug here)",
    ),
    shown_in(
        "decay",
        "StaleRepairedOtherFirst",
        "B11: of a stale block the place that cannot be read is written first, and the generation beside it is proven by a cut (once a bug here)",
    ),
    seen_by_test(
        "start_blocks",
        "UnreadableIsBehind",
        "B11: a place that cannot be read is written while an older generation is in the other place (once a bug here)",
    ),
    seen_by_test(
        "start_blocks",
        "StepsTogether",
        "B11: a member that fails a step of the repair leaves only after the last",
    ),
    seen_by_test(
        "start_blocks",
        "WrittenOverIsNeverWritten",
        "B11: a place that something else has written over counts as never written",
    ),
    seen_by_test(
        "start_blocks",
        "NeverWrittenIsBad",
        "B11: a place that an older program never wrote costs the block (once a bug here)",
    ),
    seen_by_test(
        "start_blocks",
        "StaleIsNotTrusted",
        "B11: --trust-parity is not heard where a block is not known (once a bug here)",
    ),
    seen_by_test(
        "start_blocks",
        "GrowSettles",
        "B11: a growth says that both places of a block are alike, and has not written them (once a bug here)",
    ),
    shown_in(
        "earlier",
        "JoinerNotWiped",
        "B11: a device that joins keeps what it held of metadata in another life of the array (once a bug here)",
    ),
    shown_in("earlier", "JoinsWhileWiped", "B11: a device is put on record while it is still being wiped"),
    m("LostParityCounts", "A7: the lost parity is not among the erasures (bcachefs f590a079a)"),
    m("QNotUpdated", "A7: an rmw leaves Q as it was"),
    m("DataBeforeIntent", "B1: data is written before its mark is durable"),
    m("IntentOnOneCopy", "B1: the mark is on one copy only"),
    m("IntentCached", "B1: the mark stays in the cache of the member"),
    m("MarkOfAnother", "B2: a mark counts as durable with a block write that began before it"),
    m("FirstBeforeDurable", "B1: a first write is acknowledged before its cell is durable"),
    m("FirstWaitsForDirty", "B2: a first write waits for Dirty, which may be Aged by then (once a bug here)"),
    m("CleanBeforeFlush", "B4: Clean is durable before the members are flushed"),
    m("SweepIgnoresOwner", "B5: a stripe is swept that is being written (md ef4ca3d4bf09)"),
    shown_in(
        "stops",
        "SweepAfterWritesOnly",
        "B4: a stripe that was made consistent without a write, or after its last, is never swept (once a bug here)",
    ),
    shown_in(
        "idle",
        "SweptBlockForgotten",
        "B4: a swept block that could not be written at once is never written (once a bug here)",
    ),
    m("AgedNotTakenBack", "B5: a write that began since the look does not take its cell back"),
    m("TailIsWhole", "B6: a piece that is a block short of a stripe counts as the stripe (md 17ea021ae749)"),
    m("BitmapOutside", "B7: a bitmap write lies outside of the bitmap zone (md ab99a87542f1)"),
    m("IntentPassesBy", "B8: a block counts as written though the record believes a copy that was not"),
    m("CopyFailureForgiven", "B8: a copy that could not be written does not fail its member"),
    m("OldestBlockCounts", "B9: the oldest valid copy of a bitmap block counts (md 7701e68b5072)"),
    m(
        "OnePlacePerBlock",
        "B9: a bitmap block has one place on a member, and may be torn there (once a bug here)",
    ),
    m("NotEvenedOut", "B9: copies of different generations are left so by a start"),
    m("NoBlocksForRebuilt", "B9: a rebuilt slot is believed before it has its copies of the bitmap"),
    m("UncleanIsClean", "B10: after an unclean stop Dirty is believed"),
    m(
        "FlushPassesBy",
        "C1: a flush does not wait until a member that it passed by is on record (once a bug here)",
    ),
    m("FlushSkipsOne", "C1: a flush goes to all members with a cache but one"),
    m("FlushJoinsRunning", "C1: a flush shares a round that began before it"),
    m("FuaForgotten", "C2: FUA is not passed on"),
    m("FuaDataOnly", "C2: FUA is passed on for data and not for parity"),
    m("FlushErrorIgnored", "C4: a failed flush is acknowledged"),
    m("NoFlushBeforeFirst", "C2: a first write is not flushed before its cell says so"),
    shown_in(
        "leaving",
        "FlushOfView",
        "C2: the same where the members with a cache have just left the view (once a bug here)",
    ),
    m("RebuildReadTooEarly", "D1: a slot that is being filled is read above the cursor"),
    m("CursorOfBefore", "D1: a rebuild begins at the cursor of the one before"),
    shown_in(
        "filling",
        "SureCursorOfBefore",
        "D1: of stripes that need a resync, those below the cursor on record of the rebuild before are believed",
    ),
    m("NeedSyncBelowCursor", "D1: a NeedSync stripe below the cursor is taken for filled"),
    m("AckBeforeRecord", "D2: a write that skipped a member is acknowledged before that is on record"),
    m("SkippedNotNoted", "D2: a write does not know that it skipped a member"),
    shown_in(
        "filling",
        "CursorNotOnRecord",
        "D2: a write that skipped a slot below its cursor on record is acknowledged at once",
    ),
    m("WriteErrorForgiven", "D2: a failed write does not fail its member"),
    shown_in(
        "rebuild",
        "RecordNotAnticipated",
        "D2: the record does not count what is being written of it (once a bug here)",
    ),
    shown_in(
        "filling",
        "CursorOfLaterFlush",
        "D2: the cursor on record is one that the flush before it did not cover (once a bug here)",
    ),
    m("StaleMemberCounts", "D1: a member that left is taken for current (SPDK #3497)"),
    shown_in("leaving", "CommitTooEarly", "D3: an epoch counts before all its participants hold it"),
    m("OneSuperblockCopy", "D4: both copies of a superblock are one, and may be torn"),
    m("SuperblockUnsalted", "D4: two torn superblocks make a whole one (once a bug here)"),
    shown_in(
        "absent",
        "ParentUnknown",
        "D3: a device at the parent epoch is taken for one that ran apart (once a bug here)",
    ),
    shown_in(
        "absent",
        "LineIsParent",
        "D3: a device two epochs back in the line is taken for one that ran apart (once a bug here)",
    ),
    shown_in(
        "absent",
        "BrokenOffUnknown",
        "D3: a device whose epoch others never held ran apart (once a bug here)",
    ),
    seen_by_test(
        "format_assembly",
        "AbsentUnheard",
        "D3: what the record says of who is absent does not count against a broken-off epoch (once a bug here)",
    ),
    seen_by_test(
        "format_assembly",
        "CameOnUnknown",
        "D3: a device that others came on without is apart, where they are no longer where it found them (once a bug here)",
    ),
    shown_in(
        "absent",
        "PassedByUnknown",
        "D3: a device that the others went on without ran apart (once a bug here)",
    ),
    shown_in(
        "grow",
        "GrowWithoutBlocks",
        "B1: the array grows on record, and nobody has the bitmap of what is new",
    ),
    shown_in(
        "grow",
        "GrowWithoutFlush",
        "C1: the bitmap of what is new is in caches when the record says that it is there",
    ),
    shown_in(
        "grow",
        "GrowMarksClean",
        "D7: an array that was not stopped in order is Clean once it has grown",
    ),
    m("StopLeavesBlocks", "D7: a stop in order leaves blocks of the bitmap behind what is known"),
    m("StopWithoutFlush", "D7: a stop in order does not flush"),
    m("ReadErrorAnswered", "E1: a failed read is answered as if it had not"),
    m("ReconstructFromFailed", "E1: a reconstruction uses a strip that could not be read"),
    m("FailedArrayGoesOn", "E2: an array that has lost too much does not know (once a bug here)"),
    shown_in(
        "rebuild",
        "FailedArrayComesBack",
        "E2: an array that has failed gets a member back from a rebuild (once a bug here)",
    ),
    m(
        "BlockInFailedArray",
        "E2: a failed array begins another write of a bitmap block, over the newest complete generation (once a bug here)",
    ),
    m("FirstInFailedArray", "E2: a first write goes on in an array that has failed (once a bug here)"),
    shown_in(
        "faults",
        "WriteInFailedArray",
        "E2: a write goes on in an array that has failed, over what was torn when it did (once a bug here)",
    ),
    m("PlanOfBefore", "E3: a batch is planned with the members of before (SPDK a67085538b)"),
    m("MemoryGivenEarly", "E4: memory is given back before its last write has ended"),
    shown_in("silent", "SilenceBorne", "E5: a member that does not answer is waited for"),
    shown_in("faults", "LastMemberFailed", "E5: a silent member is failed though the array needs it"),
    shown_in(
        "refused",
        "RefusalFailsMember",
        "E7: a member is failed for a full file system or a malformed request (once a bug here)",
    ),
    shown_in(
        "refused",
        "RefusedStaysTrusted",
        "E7: the parity of a stripe of which a write was refused counts as matching",
    ),
    shown_in("refused", "TornNotResynced", "A4: a stripe of which a write was refused is not resynced"),
    shown_in(
        "lost",
        "SparedWithData",
        "E7: a slot is failed on order though it holds data of a stripe that needs a resync",
    ),
    shown_in(
        "refused",
        "TornNotBelieved",
        "E7: a slot that is being filled is failed though it may hold the only copy of a strip of a torn stripe (once a bug here)",
    ),
    shown_in(
        "lost",
        "SparedByNumbers",
        "E7: a member is failed by an order while stripes need a resync, and what it held of them is lost (once a bug here)",
    ),
    shown_in(
        "rescue",
        "RescueRepairs",
        "R1: a read-only array repairs what it could not read (once a bug here)",
    ),
    shown_in(
        "rescue",
        "RescueFailsMember",
        "R1: a read-only array fails a member for its read errors (once a bug here)",
    ),
    shown_in(
        "silent",
        "SilenceOfAllFails",
        "E5: all are silent for a while, and some are failed (once a bug here)",
    ),
    shown_in("silent", "AdviceFails", "E5: a slow deallocation fails its member (once a bug here)"),
    shown_in(
        "silent",
        "NobodyProbed",
        "E5: one is failed, and the others were not asked whether they answer",
    ),
    shown_in(
        "silent",
        "RecordWaitsForSilent",
        "E9: the record waits for a member that is leaving (once a bug here)",
    ),
    shown_in(
        "silent",
        "FlushWaitsForSilent",
        "E8: flushes wait for a member that has left (once a bug here)",
    ),
    shown_in(
        "silent",
        "BlockWaitsForSilent",
        "E8: a mark waits for a member that has left (once a bug here)",
    ),
    shown_in("silent", "OpWaitsForSilent", "E8: a stripe waits for a member that has left (once a bug here)"),
    shown_in("silent", "ParkedMemoryUsed", "E4: memory is used again that a silent member still has"),
    shown_in(
        "silent",
        "HeldSpanAnswered",
        "E4: a read is answered from memory that a silent member still has",
    ),
    m("PartLeftBehind", "F1: a part that comes home leaves its place behind (once a bug here)"),
    m("DegradedParityLeft", "F3: a write that reconstructs leaves the parity as it was"),
    m("DeallocateBeforeDurable", "G1: strips are given back before the cell is durably Unwritten"),
    m("ReadOverDeallocation", "G1: a read during which strips were given back is believed (once a bug here)"),
    m("FirstWithoutZeros", "S1: a first write leaves what the members held in the rest of the stripe"),
    m("RebuildSkipsWrites", "A6: writes do not go to a slot that is being filled"),
    m("RebuildPassesUnfilled", "A6: a rebuild passes stripes of which a read failed (once a bug here)"),
    shown_in("lost", "RebuildPassesOwned", "A6: a rebuild passes an Unwritten stripe that is being written"),
    shown_in("bad", "LostRowsServed", "LOST: lost rows are read as the zeros that stand for them"),
    shown_in("bad", "ZerosBeforeList", "LOST: zeros are written before the list of lost rows is durable"),
    shown_in(
        "bad",
        "AcknowledgedWhileListed",
        "LOST: a write of lost rows is acknowledged before they are off the list",
    ),
    shown_in(
        "lost",
        "FirstStaysListed",
        "LOST: a discarded stripe that is still listed is written, and its other rows are errors (once a bug here)",
    ),
    shown_in(
        "bad",
        "UnlistedBeforeDurable",
        "LOST: rows are off the list before what was written there is durable",
    ),
    shown_in(
        "bad",
        "ListNotOnRecord",
        "LOST: the first list is relied upon before the record says that there is one",
    ),
    shown_in("bad", "ListNotRead", "LOST: a start does not read the list of lost rows"),
    shown_in("bad", "ReadsMissListing", "LOST: a read in flight while rows are listed returns zeros"),
    shown_in(
        "bad",
        "FilledWithoutList",
        "LOST: a filled slot is believed, and does not have the list of lost rows",
    ),
    shown_in(
        "lost",
        "ListBreaksAtParity",
        "LOST: the slot's parity ends a range of lost strips, and a long one fills the list (once a bug here)",
    ),
    shown_in(
        "lost",
        "ListDoesNotBridge",
        "LOST: a strip between two ranges leaves two, and the order of the stripes decides how long the list is (once a bug here)",
    ),
    shown_in("lost", "ParityListed", "LOST: ranges of nothing but parity are left when strips are written"),
    shown_in("bad", "NeverGivesUp", "LOST: one bad sector makes a rebuild endless (once a bug here)"),
    shown_in(
        "bad",
        "StripeRecoveredWhole",
        "E10: bad sectors in different rows end a whole read (once a bug here)",
    ),
    shown_in(
        "bad",
        "RefusalShared",
        "E10: a row that cannot be had fails the requests beside it (once a bug here)",
    ),
    m("RebuildWithoutFlush", "C1: a filled slot is on record before it is flushed"),
    m("StartGivesUp", "D2: a start ends with one failed write of the bitmap (once a bug here)"),
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
    m("AnsweredTwice", "I8: a request is answered twice"),
    m("NeverOnRecord", "I8: a failure never comes on record"),
];
