//! Edits of what is done about bad sectors, and of the list of lost rows.

use super::{Edit, e};

const REBUILD: &str = "engine/src/steward/rebuild.rs";
const JOB: &str = "engine/src/job.rs";
const LIST_AT_START: &str = "engine/src/start/lost.rs";
const LISTED: &str = "engine/src/lost/ranges.rs";
const LIST: &str = "engine/src/array/lost.rs";
const LIST_WRITES: &str = "engine/src/steward/lists.rs";
const SHAPE: &str = "engine/src/stripe/shape.rs";
const START: &str = "engine/src/start.rs";
const PIECES: &str = "engine/src/stripe/vain.rs";
const VAIN: &str = "engine/src/array/vain.rs";
const WRITE: &str = "engine/src/array/write.rs";

pub(super) const EDITS: &[Edit] = &[
    e(
        LIST_AT_START,
        "newest.ok_or(StartError::LostRowsUnreadable)?;",
        "newest
        .or_else(|| mutant!(ListUnreadableIsEmpty).then(|| (0, Vec::new())))
        .ok_or(StartError::LostRowsUnreadable)?;",
    ),
    e(
        LIST_AT_START,
        "let order = if valid[1] < valid[0] {",
        "let order = if !mutant!(ListGoodPlaceFirst) && valid[1] < valid[0] {",
    ),
    e(
        SHAPE,
        "pub(crate) const fn piece_end(row: u32) -> u32 {",
        "pub(crate) fn piece_end(row: u32) -> u32 {
    if mutant!(PiecesOfSectors) {
        return (row / 512 + 1) * 512;
    }",
    ),
    e(
        LIST,
        "} else if by_suspects && self.answer_refused(",
        "} else if by_suspects && !mutant!(RefusalShared) && self.answer_refused(",
    ),
    e(
        LIST,
        "!self.shared.lost.is_empty() && self.lists(",
        "!self.shared.lost.is_empty() && !mutant!(LostRowsServed) && self.lists(",
    ),
    e(
        LIST,
        "self.await_list(index, version, Phase::AwaitingList);",
        "self.await_list(index, if mutant!(ZerosBeforeList) { 0 } else { version }, Phase::AwaitingList);",
    ),
    e(
        LIST,
        "Ok(version) => self.await_list(index, version, Phase::AwaitingUnlisted),",
        "Ok(_) if mutant!(AcknowledgedWhileListed) => self.unlisted(index),
            Ok(version) => self.await_list(index, version, Phase::AwaitingUnlisted),",
    ),
    e(
        LIST_WRITES,
        "        } else if !shared.lost.is_on_record() {",
        "        } else if !shared.lost.is_on_record() && !mutant!(ListNotOnRecord) {",
    ),
    e(
        LIST,
        "self.shared.deallocations.fetch_add(1, Ordering::Release);",
        "if !mutant!(ReadsMissListing) {
            self.shared.deallocations.fetch_add(1, Ordering::Release);
        }",
    ),
    e(
        WRITE,
        "self.ops[index].fua |= self.shared.lost.touches(stripe);",
        "self.ops[index].fua |= self.shared.lost.touches(stripe) && !mutant!(UnlistedBeforeDurable);",
    ),
    e(
        LIST,
        "        if op.work_kind == Work::Write(Mode::First) {",
        "        if op.work_kind == Work::Write(Mode::First) && !mutant!(FirstStaysListed) {",
    ),
    e(
        LISTED,
        "(first.end()..last.stripe).all(is_parity)",
        "(first.end()..last.stripe).all(|stripe| is_parity(stripe) && !mutant!(ListBreaksAtParity))",
    ),
    e(
        LISTED,
        "            whole = self.list.swap_remove(at).with(&whole);",
        "            whole = self.list.swap_remove(at).with(&whole);
        if mutant!(ListDoesNotBridge) {
            break;
        }",
    ),
    e(
        LISTED,
        "        let is_data = |stripe: &u64| geometry.is_data(*stripe, self.slot);
        let first",
        "        let is_data = |stripe: &u64| mutant!(ParityListed) || geometry.is_data(*stripe, self.slot);
        let first",
    ),
    e(START, "    if record.lost_rows {", "    if record.lost_rows && !mutant!(ListNotRead) {"),
    e(
        REBUILD,
        "            None => !shared.lost.is_on_record(),",
        "            None => !shared.lost.is_on_record() || mutant!(FilledWithoutList),",
    ),
    e(
        REBUILD,
        "            rebuild.listed = shared.lost.touch().ok();",
        "            rebuild.listed = shared.lost.touch().ok().filter(|_| !mutant!(FilledWithoutList));",
    ),
    e(
        JOB,
        "        self.attempt() >= GIVE_UP_AFTER",
        "        self.attempt() >= GIVE_UP_AFTER && !mutant!(NeverGivesUp)",
    ),
    e(JOB, "    pub(crate) const fn gives_up(self) -> bool {", "    pub(crate) fn gives_up(self) -> bool {"),
    e(
        VAIN,
        "        match self.ops[index].vain.wait_ns() {",
        "        match self.ops[index].vain.wait_ns().filter(|_| !mutant!(OneReadGivesUp)) {",
    ),
    e(WRITE, "            if !is_proven {", "            if !is_proven && !mutant!(OwnErrorsGiveUp) {"),
    e(
        PIECES,
        "    pub(crate) const fn note_read(&mut self, failed: Strips) -> bool {",
        "    pub(crate) fn note_read(&mut self, failed: Strips) -> bool {",
    ),
    e(
        PIECES,
        "let same = is_first || failed.within(self.strips);",
        "let same = is_first || failed.within(self.strips) || mutant!(OtherStripsGiveUp);",
    ),
    e(
        VAIN,
        "self.shared.steward.is_stopping.load(Ordering::Relaxed);",
        "self.shared.steward.is_stopping.load(Ordering::Relaxed) && !mutant!(StopWaitsForPieces);",
    ),
    e(
        LIST,
        "        if is_job && self.shared.steward.is_stopping.load(Ordering::Relaxed) {",
        "        if is_job && !mutant!(StopWaitsForPieces) && self.shared.steward.is_stopping.load(Ordering::Relaxed) {",
    ),
    e(
        VAIN,
        "                let end = op.row_next;
                self.pass_by(ring, index, end);",
        "                let end = op.row_next;
                if mutant!(HasteGivesUp) {
                    op.suspects = Strips::NONE;
                    self.replan(ring, index);
                    continue;
                }
                self.pass_by(ring, index, end);",
    ),
    e(
        VAIN,
        "others_wait && op.job.is_none_or(|job| job.attempt() < LATE)",
        "others_wait && (mutant!(HostsKeepHole) || op.job.is_none_or(|job| job.attempt() < LATE))",
    ),
    e(
        LIST,
        "        if by_suspects && !op.careful {",
        "        if by_suspects && !op.careful && !mutant!(StripeRecoveredWhole) {",
    ),
];
