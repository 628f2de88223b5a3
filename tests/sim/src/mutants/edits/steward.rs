//! Edits of the steward, of its background work, and of who may be read.

use super::{Edit, e};

const STRIPES: &str = "engine/src/stripe.rs";
const REBUILD: &str = "engine/src/steward/rebuild.rs";
const RESYNC: &str = "engine/src/steward/resync.rs";
const KEEPER: &str = "engine/src/steward/keeper.rs";
const STEWARD: &str = "engine/src/steward.rs";
const TELL: &str = "engine/src/steward/tell.rs";
const SWEEP: &str = "engine/src/steward/sweep.rs";
const MEMBERS: &str = "engine/src/members.rs";
const MAP: &str = "engine/src/server/content_map.rs";
const NOTING: &str = "engine/src/shared/noting.rs";
const NOTE: &str = "engine/src/server/note.rs";
const NOTED: &str = "engine/src/server/note/noted.rs";
const NOTER: &str = "engine/src/server/noter.rs";
const HANDSHAKE: &str = "engine/src/frontend/nbd/handshake.rs";

pub(super) const EDITS: &[Edit] = &[
    e(
        HANDSHAKE,
        "            _ if self.security == Security::Required => {",
        "            _ if self.security == Security::Required && !mutant!(NothingBeforeTls) => {",
    ),
    e(
        HANDSHAKE,
        "            option::EXPORT_NAME if self.security == Security::Required => return",
        "            option::EXPORT_NAME if self.security == Security::Required && !mutant!(OldWayBeforeTls) => return",
    ),
    e(
        MAP,
        "        Cell::Unwritten => StripeState {",
        "        Cell::Unwritten | Cell::First | Cell::Marked | Cell::Dirty
            if cell == Cell::Unwritten || mutant!(WrittenIsHole) =>
        {
            StripeState { unwritten: true, ..StripeState::default() }
        }
        Cell::Unwritten => StripeState {",
    ),
    e(
        MAP,
        "is_listed || !shared.lost_strips(view, stripe).is_empty()",
        "is_listed || !shared.lost_strips(view, stripe).is_empty() && !mutant!(UnsyncedNeverLost)",
    ),
    e(MAP, "if self.lost.is_empty() {", "if self.lost.is_empty() || mutant!(ListedIsNotLost) {"),
    e(
        NOTING,
        "        self.ended.load(Ordering::Acquire) == self.ordered.load(Ordering::Relaxed)",
        "        mutant!(NoteNotWaited)
            || self.ended.load(Ordering::Acquire) == self.ordered.load(Ordering::Relaxed)",
    ),
    e(NOTING, ">= NOTE_TIME_MAX_NS\n    }", ">= NOTE_TIME_MAX_NS && !mutant!(NoteForEver)\n    }"),
    e(
        NOTING,
        "if self.ended.load(Ordering::Acquire) == ordered {",
        "if self.ended.load(Ordering::Acquire) == ordered || mutant!(EachNoteHoldsUp) {",
    ),
    e(
        NOTING,
        "            let _older = taken_back.try_recv();",
        "            if mutant!(LateNoteDropped) {
                break;
            }
            let _older = taken_back.try_recv();",
    ),
    e(
        KEEPER,
        "let is_change = !matches!(self.round, Some((Purpose::Reinforce, _)));",
        "let is_change = !matches!(self.round, Some((Purpose::Reinforce, _)))
            && !(mutant!(WakeNotNoted) && matches!(self.round, Some((Purpose::Wake, _))))
            && !(mutant!(LeaveNotNoted) && matches!(self.round, Some((Purpose::Leave, _))));",
    ),
    e(
        KEEPER,
        "if is_change && self.roster.as_ref().is_some_and(Roster::has_landed) {",
        "if is_change && self.roster.as_ref().is_some_and(|roster| roster.has_landed() || mutant!(LostChangeNoted)) {",
    ),
    e(
        NOTED,
        "        self.number == other.number && ",
        "        (self.number == other.number || mutant!(NoteOfAnyNumber)) && ",
    ),
    e(
        NOTED,
        "(!is_known || self.instance == other.instance)",
        "(!is_known || self.instance == other.instance || mutant!(NoteOfEarlierDevice))",
    ),
    e(
        NOTE,
        "        self.boot.as_ref() == Some(&noted.boot) && self.device.is(&noted.device) && noted.array == self.array",
        "        (self.boot.as_ref() == Some(&noted.boot) || mutant!(NoteOfAnyBoot))
            && self.device.is(&noted.device)
            && (noted.array == self.array || mutant!(NoteOfAnyArray))",
    ),
    e(
        NOTE,
        "return if record.moves >= left.moves {",
        "return if record.moves >= left.moves || mutant!(NoteProvesOlder) {",
    ),
    e(NOTE, "        if is_after_noted", "        if (is_after_noted || mutant!(NoteProvesAnyParent))"),
    e(
        NOTED,
        "        self.seeds\n            .iter()\n            .any(|seed| numbers",
        "        mutant!(NoteProvesAnySeed)\n            || self.seeds.iter().any(|seed| numbers",
    ),
    e(
        NOTE,
        "            && note.prove(Some(&noted), record).is_ok()",
        "            && (note.prove(Some(&noted), record).is_ok() || mutant!(GrowthNotedForCopies))",
    ),
    e(
        NOTED,
        "            self.seeds.remove(1);",
        "            self.seeds.remove(if mutant!(NoteForgetsServer) { 0 } else { 1 });",
    ),
    e(
        NOTED,
        "        if let Some(moves) = proven_moves {",
        "        if let Some(moves) = proven_moves.filter(|_| !mutant!(NoteStaysBehind)) {",
    ),
    e(
        NOTER,
        "            let began_ns = MonotonicClock.now_ns();",
        "            if mutant!(NoteEndsEarly) {
                array.ended.store(order.number, Ordering::Release);
            }
            let began_ns = MonotonicClock.now_ns();",
    ),
    e(
        NOTER,
        "        let removed = std::fs::remove_file(self.note.path());",
        "        let removed = if mutant!(FailedNoteKept) { Ok(()) } else { std::fs::remove_file(self.note.path()) };",
    ),
    e(
        TELL,
        "Some(why) => events.tell(",
        "Some(_) if mutant!(LeavingUntold) => {}\n                Some(why) => events.tell(",
    ),
    e(
        TELL,
        "        shared.steward.events.tell(Event::RebuildBegun { slot, device, from_stripe });",
        "        if !mutant!(ArrivalUntold) {
            shared.steward.events.tell(Event::RebuildBegun { slot, device, from_stripe });
        }",
    ),
    e(
        TELL,
        "        (told.view, told.has_failed) = (view, has_failed);",
        "        if !mutant!(ToldAgain) {
            told.view.readable = view.readable;
            told.has_failed = has_failed;
        }
        told.view.writable = view.writable;",
    ),
    e(
        STEWARD,
        "        if shared.steward.orders.is_empty() {\n            return;",
        "        if shared.steward.orders.is_empty() || mutant!(FailedArrayKeepsOrders) && shared.failed() {
            return;",
    ),
    e(
        STEWARD,
        "} else if self.is_stopping() {",
        "} else if self.is_stopping() && !mutant!(StoppedArrayFails) {",
    ),
    e(MEMBERS, "Acquire) > 0 || needs.torn;", "Acquire) > 0 || needs.torn && !mutant!(TornNotBelieved);"),
    e(
        STEWARD,
        "let needed = |stripe: &u64| shared.geometry.is_data(*stripe, slot);",
        "let needed = |stripe: &u64| !mutant!(SparedWithData) && shared.geometry.is_data(*stripe, slot);",
    ),
    e(
        REBUILD,
        "            if !first && self.join_flush(flush, FlushFor::Rebuild) {",
        "            if mutant!(CursorOfLaterFlush) {
                rebuild.flushing_cursor = passed;
            }
            if !first && self.join_flush(flush, FlushFor::Rebuild) {",
    ),
    e(
        STEWARD,
        "                if ok {\n                    self.record_cursor_of_stop();",
        "                if ok && !mutant!(StopForgetsCursor) {\n                    self.record_cursor_of_stop();",
    ),
    e(
        STEWARD,
        "                self.note_cursor_of_stop(shared);",
        "                self.note_cursor_of_stop(shared);
                if mutant!(StopRecordsUnflushed) {
                    self.record_cursor_of_stop();
                }",
    ),
    // steward, keeper, sweep, background
    e(
        STEWARD,
        "                    || !self.join_flush(flush, FlushFor::Stop)",
        "                    || !(mutant!(StopWithoutFlush) || self.join_flush(flush, FlushFor::Stop))",
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
        };
        let left = if mutant!(LeaveOneByOne) {
            left.iter().next().map_or(Slots::NONE, Slots::one)
        } else {
            left
        };",
    ),
    e(
        SWEEP,
        "        let given_up = shared.failed() ||",
        "        let whole = shared.members.view().readable == shared.geometry.slots();
        let given_up = (mutant!(DegradedNotSwept) && !whole) || shared.failed() ||",
    ),
    e(
        SWEEP,
        "if self.keeper.has_moved(ticket) {",
        "if mutant!(SweptBeforeMove) || self.keeper.has_moved(ticket) {",
    ),
    e(
        SWEEP,
        "    writes + shared.bitmap.made_consistent() +",
        "    writes + if mutant!(SweepAfterWritesOnly) { 0 } else { shared.bitmap.made_consistent() } +",
    ),
    e(
        SWEEP,
        "tally.marks.get() + tally.member_writes.get();",
        "if mutant!(MarksNotSwept) { 0 } else { tally.marks.get() } + tally.member_writes.get();",
    ),
    e(
        SWEEP,
        "} else if !shared.bitmap.is_settled(at) {",
        "} else if !mutant!(SweptBlockForgotten) && !shared.bitmap.is_settled(at) {",
    ),
    e(
        STEWARD,
        "            if shared.bitmap.has_dirty(at) || !shared.bitmap.is_settled(at) {",
        "            let has_marks = shared.bitmap.has_dirty(at) && !mutant!(StopLeavesMarks);
            if !mutant!(StopLeavesBlocks) && (has_marks || !shared.bitmap.is_settled(at)) {",
    ),
    e(
        STEWARD,
        "            if shared.bitmap.has_dirty(at) {
                self.sweep.settle",
        "            if shared.bitmap.has_dirty(at) && !mutant!(StopLeavesMarks) {
                self.sweep.settle",
    ),
    e(
        STEWARD,
        "shared.bitmap.mark_precisely(degraded);",
        "shared.bitmap.mark_precisely(degraded && !mutant!(MarksWidenDegraded));",
    ),
    e(
        STRIPES,
        "if op.writes_next(&self.parts.list) && !shared.steward.rest.is_over()",
        "if !mutant!(WriteBeforeWake)
                && (op.writes_next(&self.parts.list) || mutant!(ReadsWake))
                && !shared.steward.rest.is_over()",
    ),
    e(
        KEEPER,
        "            Purpose::Leave | Purpose::Progress | Purpose::Wake",
        "            Purpose::Stop if mutant!(StopInOneCopy) => self.stopped = true,
            Purpose::Leave | Purpose::Progress | Purpose::Wake",
    ),
    e(
        SWEEP,
        "            if self.join_flush(flush, FlushFor::Sweep) {",
        "            if mutant!(CleanBeforeFlush) {
                sweep.phase = Phase::Flushing { next };
                self.sweep_flushed(true);
            } else if self.join_flush(flush, FlushFor::Sweep) {",
    ),
    e(
        RESYNC,
        "            from: (total > 0).then_some(0),",
        "            from: (total > 0 && !mutant!(ResyncNotBegun)).then_some(0),",
    ),
    e(
        RESYNC,
        "let is_due = resync.unread > 0 && now_ns >= resync.again_at_ns;",
        "let is_due =
                resync.unread > 0 && now_ns >= resync.again_at_ns && !mutant!(ResyncNotAgain);",
    ),
    e(
        RESYNC,
        "let is_filled = result.is_ok() &&",
        "let is_filled = mutant!(RebuildPassesUnfilled) || result.is_ok() &&",
    ),
    e(
        REBUILD,
        "let passed_by = shared.locks.is_free(stripe)
                && shared.bitmap.cell_at_rest(stripe, &shared.locks) == Some(Cell::Unwritten);",
        "let passed_by = shared.locks.is_free(stripe)
                && shared.bitmap.cell_at_rest(stripe, &shared.locks) == Some(Cell::Unwritten)
                || mutant!(RebuildPassesOwned) && shared.bitmap.cell(stripe) == Cell::Unwritten;",
    ),
    e(
        REBUILD,
        "(shared.bitmap.blocks(), from);",
        "(shared.bitmap.blocks(), if mutant!(NoBlocksForRebuilt) { shared.bitmap.blocks() } else { from });",
    ),
    e(
        REBUILD,
        "        let is_flushing = block >= end && self.join_flush(flush, FlushFor::Rebuild);",
        "        if mutant!(RebuildWithoutFlush) && block >= end {
            self.rebuild.as_mut().expect(\"looked at by the caller\").filling = Filling::Finishing;
            self.keeper.wishes.filled = Some(slot);
            return;
        }
        let is_flushing = block >= end && self.join_flush(flush, FlushFor::Rebuild);",
    ),
    // members
    e(
        MEMBERS,
        "(view.writable.has(slot) && view.readable.count() >= data).then(|| {",
        "let enough = mutant!(FailedArrayComesBack) || view.readable.count() >= data;
                (view.writable.has(slot) && enough).then(|| {",
    ),
    e(
        MEMBERS,
        "|| stripe >= cursor.load(Ordering::Acquire) {",
        "|| stripe >= cursor.load(Ordering::Acquire) && !mutant!(RebuildReadTooEarly) {",
    ),
    e(
        MEMBERS,
        "        self.sure_cursor.store(0, Ordering::Release);",
        "        if !mutant!(SureCursorOfBefore) {
            self.sure_cursor.store(0, Ordering::Release);
        }",
    ),
    e(
        MEMBERS,
        "skipped.and(record.rebuilding()).is_empty()",
        "mutant!(CursorNotOnRecord) || skipped.and(record.rebuilding()).is_empty()",
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
];
