//! The mutants, by the rule that they break, and their edits.

/// A way to break the engine.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name, as in the edits.
    pub name: &'static str,
    /// The rule that it breaks, by its number in the list at the top of docs/testing.md, and the bug of another system or
    /// of this one that it is, where it is one.
    pub rule: &'static str,
}

/// One place of the source, broken where `mutant!(NAME)` says so.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    /// Which file.
    pub file: &'static str,
    /// A text that occurs there exactly once.
    pub from: &'static str,
    /// What replaces it.
    pub to: &'static str,
}

const fn m(name: &'static str, rule: &'static str) -> Mutant {
    Mutant { name, rule }
}

const fn e(file: &'static str, from: &'static str, to: &'static str) -> Edit {
    Edit { file, from, to }
}

/// One that breaks nothing: it must survive.
pub const CONTROL: &str = "Control";

/// Every mutant.
pub const MUTANTS: &[Mutant] = &[
    m("RmwOnUnwritten", "A1: rmw on an Unwritten stripe (the bug that this project began with, first form)"),
    m("RmwOnNeedSync", "A1: rmw on a NeedSync stripe (second form)"),
    m("ReconstructFromNeedSync", "A2: a strip of a NeedSync stripe is reconstructed (third form)"),
    m("HealTouchedRowsOnly", "A3: a write makes only its own rows consistent, and the cell leaves NeedSync"),
    m("HealDataOnly", "A3: a write to a NeedSync stripe leaves its parity, and the cell leaves NeedSync"),
    m("ResyncNotBegun", "A4: nothing is resynced after an unclean start"),
    m("ResyncNotAgain", "A4: a resync does not come back to what it could not read (once a bug here)"),
    m("DataOnlySynced", "A5: a cell leaves NeedSync with a strip lost (md dbd21b489ac1)"),
    m("SweepWhileDegraded", "A6: a cell becomes Clean while degraded"),
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
    m("FlushOfView", "C2: the same where the members with a cache have just left the view (once a bug here)"),
    m("RebuildReadTooEarly", "D1: a slot that is being filled is read above the cursor"),
    m("CursorOfBefore", "D1: a rebuild begins at the cursor of the one before"),
    m("NeedSyncBelowCursor", "D1: a NeedSync stripe below the cursor is taken for filled"),
    m("AckBeforeRecord", "D2: a write that skipped a member is acknowledged before that is on record"),
    m("SkippedNotNoted", "D2: a write does not know that it skipped a member"),
    m("WriteErrorForgiven", "D2: a failed write does not fail its member"),
    m("RecordNotAnticipated", "D2: the record does not count what is being written of it (once a bug here)"),
    m("StaleMemberCounts", "D1: a member that left is taken for current (SPDK #3497)"),
    m("CommitTooEarly", "D3: an epoch counts before all its participants hold it"),
    m("OneSuperblockCopy", "D4: both copies of a superblock are one, and may be torn"),
    m("SuperblockUnsalted", "D4: two torn superblocks make a whole one (once a bug here)"),
    m("ParentUnknown", "D3: a device at the parent epoch is taken for one that ran apart (once a bug here)"),
    m("StopWithoutFlush", "D7: a stop in order does not flush"),
    m("ReadErrorAnswered", "E1: a failed read is answered as if it had not"),
    m("ReconstructFromFailed", "E1: a reconstruction uses a strip that could not be read"),
    m("FailedArrayGoesOn", "E2: an array that has lost too much does not know (once a bug here)"),
    m("FirstInFailedArray", "E2: a first write goes on in an array that has failed (once a bug here)"),
    m("PlanOfBefore", "E3: a batch is planned with the members of before (SPDK a67085538b)"),
    m("MemoryGivenEarly", "E4: memory is given back before its last write has ended"),
    m("PartLeftBehind", "F1: a part that comes home leaves its place behind (once a bug here)"),
    m("DegradedParityLeft", "F3: a write that reconstructs leaves the parity as it was"),
    m("DeallocateBeforeDurable", "G1: strips are given back before the cell is durably Unwritten"),
    m("ReadOverDeallocation", "G1: a read during which strips were given back is believed (once a bug here)"),
    m("FirstWithoutZeros", "S1: a first write leaves what the members held in the rest of the stripe"),
    m("RebuildSkipsWrites", "A6: writes do not go to a slot that is being filled"),
    m("RebuildPassesUnfilled", "A6: a rebuild passes stripes of which a read failed (once a bug here)"),
    m("RebuildPassesOwned", "A6: a rebuild passes an Unwritten stripe that is being written"),
    m("RebuildForgetsLost", "A2: a rebuild passes stripes that nobody can vouch for"),
    m("RebuildWithoutFlush", "C1: a filled slot is on record before it is flushed"),
    m("StartGivesUp", "D2: a start ends with one failed write of the bitmap (once a bug here)"),
    m("AnsweredTwice", "I8: a request is answered twice"),
    m("NeverOnRecord", "I8: a failure never comes on record"),
];

const ARRAY: &str = "engine/src/array/mod.rs";
const BACKGROUND: &str = "engine/src/array/background.rs";
const FLUSH: &str = "engine/src/array/flush.rs";
const HOST: &str = "engine/src/array/host.rs";
const INTENT: &str = "engine/src/array/intent.rs";
const KEEPER: &str = "engine/src/array/keeper.rs";
const OP: &str = "engine/src/array/op.rs";
const STEWARD: &str = "engine/src/array/steward.rs";
const SWEEP: &str = "engine/src/array/sweep.rs";
const WRITE: &str = "engine/src/array/write.rs";
const EPOCHS: &str = "engine/src/assembly/epochs.rs";
const ASSEMBLY_PLAN: &str = "engine/src/assembly/plan.rs";
const ROSTER: &str = "engine/src/assembly/roster.rs";
const CODEC: &str = "engine/src/format/superblock/codec.rs";
const MEMBERS: &str = "engine/src/members.rs";
const PLAN: &str = "engine/src/plan.rs";
const START: &str = "engine/src/start.rs";
const BITMAP: &str = "bitmap/src/bitmap.rs";
const BLOCK: &str = "bitmap/src/block.rs";
const BITMAP_SWEEP: &str = "bitmap/src/sweep.rs";

/// Every edit. Some only make room for others: a `const fn` cannot ask which mutant runs.
pub const EDITS: &[Edit] = &[
    // plan
    e(PLAN, "    const fn recovery(&self)", "    fn recovery(&self)"),
    e(PLAN, "pub const fn plan_write(", "pub fn plan_write("),
    e(PLAN, "pub const fn plan_read(", "pub fn plan_read("),
    e(PLAN, "pub const fn plan_rebuild(", "pub fn plan_rebuild("),
    e(
        PLAN,
        "let parity = self.parity.and(self.readable);",
        "let parity = if mutant!(LostParityCounts) { self.parity } else { self.parity.and(self.readable) };",
    ),
    e(
        PLAN,
        "if !matches!(self.trust, Trust::Trusted) || lost > parity.count()",
        "if !(mutant!(ReconstructFromNeedSync) || matches!(self.trust, Trust::Trusted)) || lost > parity.count()",
    ),
    e(
        PLAN,
        "Unsynced::Heal => Plan::Resync { read: untouched },",
        "Unsynced::Heal if mutant!(HealDataOnly) => Plan::DataOnly,
                Unsynced::Heal => Plan::Resync { read: untouched },",
    ),
    // write
    e(
        WRITE,
        "            Cell::Unwritten | Cell::First => Trust::Unwritten,",
        "            Cell::Unwritten if mutant!(RmwOnUnwritten) => Trust::Trusted,
            Cell::Unwritten | Cell::First => Trust::Unwritten,",
    ),
    e(
        WRITE,
        "            Cell::NeedSync => Trust::NeedSync,",
        "            Cell::NeedSync if mutant!(RmwOnNeedSync) => Trust::Trusted,
            Cell::NeedSync => Trust::NeedSync,",
    ),
    e(
        WRITE,
        "            Trust::Unwritten if self.shared.failed() => {",
        "            Trust::Unwritten if self.shared.failed() && !mutant!(FirstInFailedArray) => {",
    ),
    e(
        WRITE,
        "        if trusted && self.shared.bitmap.cell(self.ops[index].stripe) == Cell::Marked {",
        "        if trusted
            && self.shared.bitmap.cell(self.ops[index].stripe) == Cell::Marked
            && !mutant!(DataBeforeIntent)
        {",
    ),
    e(
        WRITE,
        "        let healing = op.work_kind == Work::Write(Mode::Heal);
        self.look(index);",
        "        let healing = op.work_kind == Work::Write(Mode::Heal);
        if !mutant!(PlanOfBefore) {
            self.look(index);
        }",
    ),
    e(
        WRITE,
        "            op.read_failed = true;",
        "            op.read_failed = !mutant!(ReconstructFromFailed);",
    ),
    e(
        WRITE,
        "(Some(p), Some(q)) => memory.pq_delta(p, q, strip, old, new),",
        "(Some(p), Some(_)) if mutant!(QNotUpdated) => memory.xor_delta(p, old, new),
                        (Some(p), Some(q)) => memory.pq_delta(p, q, strip, old, new),",
    ),
    e(
        WRITE,
        "            op.skipped = op.skipped.or(rotation.slots_of(missed));",
        "            if !mutant!(SkippedNotNoted) {
                op.skipped = op.skipped.or(rotation.slots_of(missed));
            }",
    ),
    e(
        WRITE,
        "            for strip in targets.and(writable).iter() {",
        "            let filled = rotation.strips_on(shared.members.view().rebuilding());
            let writable = if mutant!(RebuildSkipsWrites) && !matches!(op.work_kind, Work::Rebuild { .. }) {
                writable.minus(filled)
            } else {
                writable
            };
            for strip in targets.and(writable).iter() {",
    ),
    e(
        WRITE,
        "let durable = fua && volatile.has(rotation.slot_of(strip));",
        "let durable = fua
                    && volatile.has(rotation.slot_of(strip))
                    && (!mutant!(FuaDataOnly) || segment.wanted.has(strip));",
    ),
    e(
        WRITE,
        "        if let Err(errno) = result {
            if self.is_current(&io) {
                self.shared.members.fail(io.slot, crate::members::Failure::Write(errno));",
        "        if let Err(errno) = result
            && !mutant!(WriteErrorForgiven)
        {
            if self.is_current(&io) {
                self.shared.members.fail(io.slot, crate::members::Failure::Write(errno));",
    ),
    e(
        WRITE,
        "        self.ops[index].pending -= 1;
        if self.ops[index].pending == 0 {
            self.writes_done(ring, index);",
        "        self.ops[index].pending -= 1;
        if mutant!(MemoryGivenEarly) {
            self.give_work(index);
        }
        if self.ops[index].pending == 0 {
            self.writes_done(ring, index);",
    ),
    e(
        WRITE,
        "if op.work_kind == Work::Write(Mode::First) && !self.shared.members.volatile().is_empty() {",
        "let volatile = if mutant!(FlushOfView) {
            self.shared.members.volatile().and(self.shared.members.view().writable)
        } else {
            self.shared.members.volatile()
        };
        if op.work_kind == Work::Write(Mode::First)
            && !volatile.is_empty()
            && !mutant!(NoFlushBeforeFirst)
        {",
    ),
    e(
        WRITE,
        "        } else if self.shared.members.on_record(op.skipped, op.stripe) {
            self.recorded(index);",
        "        } else if self.shared.members.on_record(op.skipped, op.stripe) || mutant!(AckBeforeRecord) {
            self.recorded(index);",
    ),
    e(
        WRITE,
        "                op.phase = Phase::AwaitingFirst;",
        "                if mutant!(FirstBeforeDurable) {
                    self.answer_active(index, Ok(()));
                }
                let op = &mut self.ops[index];
                op.phase = Phase::AwaitingFirst;",
    ),
    e(
        WRITE,
        "            Work::Write(Mode::Trusted | Mode::DataOnly) => {}",
        "            Work::Write(Mode::DataOnly) if mutant!(DataOnlySynced) => {
                self.shared.bitmap.resynced(op.stripe);
            }
            Work::Write(Mode::Trusted | Mode::DataOnly) => {}",
    ),
    e(
        WRITE,
        "        Plan::Init { .. } => data.or(parity),",
        "        Plan::Init { .. } if mutant!(FirstWithoutZeros) => segment.wanted.or(parity),
        Plan::Init { .. } => data.or(parity),",
    ),
    e(
        WRITE,
        "        Plan::Degraded { recover, .. } => segment.wanted.or(parity).or(recover),",
        "        Plan::Degraded { recover, .. } if mutant!(DegradedParityLeft) => segment.wanted.or(recover),
        Plan::Degraded { recover, .. } => segment.wanted.or(parity).or(recover),",
    ),
    e(
        OP,
        "    pub(super) const fn every_row(self) -> bool {
        matches!(self, Mode::First | Mode::Heal)",
        "    pub(super) fn every_row(self) -> bool {
        matches!(self, Mode::First | Mode::Heal) && !(self == Mode::Heal && mutant!(HealTouchedRowsOnly))",
    ),
    e(
        OP,
        "        self.fua |= parts[index].fua;",
        "        self.fua |= parts[index].fua && !mutant!(FuaForgotten);",
    ),
    // ownership, polling
    e(
        ARRAY,
        "        self.members.view().readable.count() < u32::from(self.geometry.data())",
        "        !mutant!(FailedArrayGoesOn)
            && self.members.view().readable.count() < u32::from(self.geometry.data())",
    ),
    e(
        ARRAY,
        "Message::Part(part) if part.home == self.me => self.enqueue(part.home_part),",
        "Message::Part(part) if part.home == self.me && !mutant!(PartLeftBehind) => {
                self.enqueue(part.home_part)
            }",
    ),
    e(
        ARRAY,
        "if self.shared.bitmap.cell(stripe) != Cell::First {",
        "let cell = self.shared.bitmap.cell(stripe);
                if if mutant!(FirstWaitsForDirty) { cell == Cell::Dirty } else { cell != Cell::First } {",
    ),
    e(
        ARRAY,
        "                if self.shared.bitmap.is_durable(ticket) {",
        "                if self.shared.bitmap.is_durable(ticket) || mutant!(DeallocateBeforeDurable) {",
    ),
    // host
    e(
        HOST,
        "let whole = len == geometry.stripe_bytes();",
        "let whole = len + if mutant!(TailIsWhole) { 4096 } else { 0 } >= geometry.stripe_bytes();",
    ),
    e(
        HOST,
        "            self.read_again(read, Strips::one(strip));",
        "            if mutant!(ReadErrorAnswered) {
                self.answer_part(read.request, Ok(()));
                return;
            }
            self.read_again(read, Strips::one(strip));",
    ),
    e(
        HOST,
        "self.shared.deallocations.load(Ordering::Acquire) == deallocations {",
        "self.shared.deallocations.load(Ordering::Acquire) == deallocations
            || mutant!(ReadOverDeallocation)
        {",
    ),
    e(
        HOST,
        "        self.replies.push(Reply { tag: request.tag, result });",
        "        self.replies.push(Reply { tag: request.tag, result });
        if mutant!(AnsweredTwice) {
            self.replies.push(Reply { tag: request.tag, result });
        }",
    ),
    // intent
    e(
        INTENT,
        "let kept = 0..=u32::from(self.shared.geometry.parities());",
        "let kept = 0..=if mutant!(IntentOnOneCopy) { 0 } else { u32::from(self.shared.geometry.parities()) };",
    ),
    e(
        INTENT,
        "crate::format::zones::bitmap_place(block.0.into(), header.generation);",
        "crate::format::zones::bitmap_place(
                block.0.into(),
                if mutant!(OnePlacePerBlock) { 0 } else { header.generation },
            );",
    ),
    e(
        INTENT,
        "let offset = shared.layout.bitmap_offset_bytes + place;",
        "let offset = shared.layout.bitmap_offset_bytes + place
                + if mutant!(BitmapOutside) { u64::from(shared.bitmap.blocks()) * 8192 } else { 0 };",
    ),
    e(
        INTENT,
        "self.push(ring, what, slot, MemberIo::Write(Durability::Durable), offset, span);",
        "let durability = if mutant!(IntentCached) { Durability::Cached } else { Durability::Durable };
                self.push(ring, what, slot, MemberIo::Write(durability), offset, span);",
    ),
    e(
        INTENT,
        "        if let Err(errno) = result
            && self.is_current(&io)",
        "        let result = if mutant!(CopyFailureForgiven) { Ok(()) } else { result };
        if let Err(errno) = result
            && self.is_current(&io)",
    ),
    e(
        INTENT,
        "let on_record = self.shared.members.on_record(writing.failed, 0);",
        "let on_record = self.shared.members.on_record(writing.failed, 0) || mutant!(IntentPassesBy);",
    ),
    // flush
    e(
        FLUSH,
        "        self.flush.next.push(waiter);",
        "        if mutant!(FlushJoinsRunning) && self.flush.in_flight > 0 {
            self.flush.running.push(waiter);
            return;
        }
        self.flush.next.push(waiter);",
    ),
    e(
        FLUSH,
        "        for slot in writable.and(self.shared.members.volatile()).iter() {",
        "        for slot in
            writable.and(self.shared.members.volatile()).iter().skip(usize::from(mutant!(FlushSkipsOne)))
        {",
    ),
    e(
        FLUSH,
        "        if let Err(errno) = result {
            if self.is_current(&io) {
                self.shared.members.fail(io.slot, Failure::Flush(errno));",
        "        if let Err(errno) = result
            && !mutant!(FlushErrorIgnored)
        {
            if self.is_current(&io) {
                self.shared.members.fail(io.slot, Failure::Flush(errno));",
    ),
    e(
        FLUSH,
        "if !failed && !self.shared.members.on_record(self.flush.failed, 0) {",
        "if !failed
            && !self.shared.members.on_record(self.flush.failed, 0)
            && !mutant!(FlushPassesBy)
        {",
    ),
    // steward, keeper, sweep, background
    e(
        STEWARD,
        "                    || !self.steward_flush(FlushFor::Stop)",
        "                    || !(mutant!(StopWithoutFlush) || self.steward_flush(FlushFor::Stop))",
    ),
    e(
        STEWARD,
        "                Stop::Flushing
            }",
        "                if mutant!(StopWithoutFlush) { Stop::Blocks(0) } else { Stop::Flushing }
            }",
    ),
    e(
        KEEPER,
        "let left = keeper.on_record().writable.minus(view.writable);",
        "let left = if mutant!(NeverOnRecord) {
            Slots::NONE
        } else {
            keeper.on_record().writable.minus(view.writable)
        };",
    ),
    e(
        SWEEP,
        "        let view = self.shared.members.view();
        let degraded = view.readable != self.shared.geometry.slots();",
        "        let view = self.shared.members.view();
        let degraded = view.readable != self.shared.geometry.slots() && !mutant!(SweepWhileDegraded);",
    ),
    e(
        SWEEP,
        "let degraded = shared.members.view().readable != shared.geometry.slots();",
        "let degraded =
            shared.members.view().readable != shared.geometry.slots() && !mutant!(SweepWhileDegraded);",
    ),
    e(
        SWEEP,
        "                    if self.steward_flush(FlushFor::Sweep) {",
        "                    if mutant!(CleanBeforeFlush) {
                        sweep.phase = Phase::Flushing { next };
                        self.sweep_flushed(true);
                    } else if self.steward_flush(FlushFor::Sweep) {",
    ),
    e(
        BACKGROUND,
        "            from: (total > 0).then_some(0),",
        "            from: (total > 0 && !mutant!(ResyncNotBegun)).then_some(0),",
    ),
    e(
        BACKGROUND,
        "let is_due = resync.unread > 0 && self.now_ns >= resync.again_at_ns;",
        "let is_due =
                resync.unread > 0 && self.now_ns >= resync.again_at_ns && !mutant!(ResyncNotAgain);",
    ),
    e(
        BACKGROUND,
        "                    rebuild.lost.push(stripe);",
        "                    if !mutant!(RebuildForgetsLost) {
                        rebuild.lost.push(stripe);
                    }",
    ),
    e(
        BACKGROUND,
        "                } else if result.is_err() {
                    rebuild.unfilled.push(stripe);",
        "                } else if result.is_err() && !mutant!(RebuildPassesUnfilled) {
                    rebuild.unfilled.push(stripe);",
    ),
    e(
        BACKGROUND,
        "let passed_by = shared.locks.is_free(stripe) && shared.bitmap.cell(stripe) == Cell::Unwritten;",
        "let passed_by = (shared.locks.is_free(stripe) || mutant!(RebuildPassesOwned))
                && shared.bitmap.cell(stripe) == Cell::Unwritten;",
    ),
    e(
        BACKGROUND,
        "        let mut block = from;",
        "        let mut block = if mutant!(NoBlocksForRebuilt) { blocks } else { from };",
    ),
    e(
        BACKGROUND,
        "        let flush = block >= blocks && self.steward_flush(FlushFor::Rebuild);",
        "        if mutant!(RebuildWithoutFlush) && block >= blocks {
            let steward = self.steward_mut();
            steward.rebuild.as_mut().expect(\"looked at by the caller\").filling = Filling::Finishing;
            steward.keeper.wishes.filled = Some(slot);
            return;
        }
        let flush = block >= blocks && self.steward_flush(FlushFor::Rebuild);",
    ),
    // members
    e(
        MEMBERS,
        "let cursor = if need_sync { &self.sure_cursor } else { &self.cursor };",
        "let cursor =
            if need_sync && !mutant!(NeedSyncBelowCursor) { &self.sure_cursor } else { &self.cursor };",
    ),
    e(
        MEMBERS,
        "|| stripe >= cursor.load(Ordering::Acquire) {",
        "|| stripe >= cursor.load(Ordering::Acquire) && !mutant!(RebuildReadTooEarly) {",
    ),
    e(
        MEMBERS,
        "        self.cursor.store(0, Ordering::Release);",
        "        if !mutant!(CursorOfBefore) {
            self.cursor.store(0, Ordering::Release);
        }",
    ),
    e(
        MEMBERS,
        "            Believed::Below(stripe) => self.set_record",
        "            _ if mutant!(RecordNotAnticipated) => {}
            Believed::Below(stripe) => self.set_record",
    ),
    // assembly, format, start
    e(
        EPOCHS,
        "            entry.state.takes_part() && (self.epoch() == record.epoch.name || self.epoch() == entry.held)",
        "            mutant!(StaleMemberCounts)
                || entry.state.takes_part()
                    && (self.epoch() == record.epoch.name || self.epoch() == entry.held)",
    ),
    e(
        EPOCHS,
        "if !entry.state.takes_part() && is_parent(member.epoch(), record) =>",
        "if !entry.state.takes_part()
            && is_parent(member.epoch(), record)
            && !mutant!(ParentUnknown) =>",
    ),
    e(
        ASSEMBLY_PLAN,
        "    if entry.state == SlotState::InSync {",
        "    if entry.state == SlotState::InSync || mutant!(StaleMemberCounts) {",
    ),
    e(
        ROSTER,
        "self.begun && self.seats.iter()",
        "self.begun && (mutant!(CommitTooEarly) || self.seats.iter()",
    ),
    e(
        ROSTER,
        "all(|seat| seat.holds == self.record.epoch.name)",
        "all(|seat| seat.holds == self.record.epoch.name))",
    ),
    e(
        ROSTER,
        "                seat.overwrite = seat.overwrite.other();",
        "                if !mutant!(OneSuperblockCopy) {
                    seat.overwrite = seat.overwrite.other();
                }",
    ),
    e(
        CODEC,
        "        entry[SLOT_OFFSET_SALT..].copy_from_slice(&salt);",
        "        if !mutant!(SuperblockUnsalted) {
            entry[SLOT_OFFSET_SALT..].copy_from_slice(&salt);
        }",
    ),
    e(
        START,
        ".find(|&slot| lost.has(slot as u8));",
        ".find(|&slot| lost.has(slot as u8) && !mutant!(CommitTooEarly));",
    ),
    e(
        START,
        "let mode = if assembly.unclean && !guess {",
        "let mode = if assembly.unclean && !guess && !mutant!(UncleanIsClean) {",
    ),
    e(
        START,
        "        let failed = even_out(bench, &mut started, &disorder);",
        "        let failed = if mutant!(NotEvenedOut) {
            Slots::NONE
        } else {
            even_out(bench, &mut started, &disorder)
        };
        if mutant!(StartGivesUp) && !failed.is_empty() {
            return Err(StartError::Refused(ChangeRefused::ReadOnly));
        }",
    ),
    e(
        START,
        "if newest.as_ref().is_none_or(|(known, _)| generation > *known) {",
        "if newest
                        .as_ref()
                        .is_none_or(|(known, _)| (generation > *known) != mutant!(OldestBlockCounts))
                    {",
    ),
    // bitmap
    e(
        BITMAP,
        "                Cell::Clean => self.mark_around(stripe),",
        "                Cell::Aged if mutant!(AgedNotTakenBack) => return Begun::Durable,
                Cell::Clean => self.mark_around(stripe),",
    ),
    e(
        BLOCK,
        "let dirty = word::dirty_on_disk(word::from_disk(*image));",
        "let dirty = if mutant!(MarkOfAnother) {
                word::ALL
            } else {
                word::dirty_on_disk(word::from_disk(*image))
            };",
    ),
    e(
        BITMAP_SWEEP,
        "            if !locks.is_free(index as u64 * LANES + u64::from(lane)) {",
        "            if !locks.is_free(index as u64 * LANES + u64::from(lane)) && !mutant!(SweepIgnoresOwner) {",
    ),
];
