//! Edits of what is done about bad sectors, and of the list of lost rows.

use super::{Edit, e};

const REBUILD: &str = "engine/src/steward/rebuild.rs";
const JOB: &str = "engine/src/job.rs";
const LIST_AT_START: &str = "engine/src/start/lost.rs";
const LISTED: &str = "engine/src/lost/ranges.rs";
const LIST: &str = "engine/src/stripe/lost.rs";
const LIST_WRITES: &str = "engine/src/steward/lists.rs";
const SHAPE: &str = "engine/src/stripe/shape.rs";
const START: &str = "engine/src/start.rs";
const PIECES: &str = "engine/src/stripe/vain.rs";
const STRIPES: &str = "engine/src/stripe.rs";
const WRITE: &str = "engine/src/stripe/write.rs";

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
        "!shared.lost.is_empty() && lists(",
        "!shared.lost.is_empty() && !mutant!(LostRowsServed) && lists(",
    ),
    e(
        LIST,
        "self.await_list(at, Until::Listed, version)",
        "self.await_list(at, Until::Listed, if mutant!(ZerosBeforeList) { 0 } else { version })",
    ),
    e(
        LIST,
        "Ok(version) => self.await_list(at, Until::Unlisted, version),",
        "Ok(_) if mutant!(AcknowledgedWhileListed) => self.unlisted(at),
            Ok(version) => self.await_list(at, Until::Unlisted, version),",
    ),
    e(
        LIST_WRITES,
        "        } else if !shared.lost.is_on_record() {",
        "        } else if !shared.lost.is_on_record() && !mutant!(ListNotOnRecord) {",
    ),
    e(
        LIST,
        "at.shared.deallocations.fetch_add(1, Ordering::Release);",
        "if !mutant!(ReadsMissListing) {
            at.shared.deallocations.fetch_add(1, Ordering::Release);
        }",
    ),
    e(
        WRITE,
        "self.fua |= at.shared.lost.touches(self.stripe);",
        "self.fua |= at.shared.lost.touches(self.stripe) && !mutant!(UnlistedBeforeDurable);",
    ),
    e(
        LIST,
        "        if self.work_kind == Work::Write(Mode::First) {",
        "        if self.work_kind == Work::Write(Mode::First) && !mutant!(FirstStaysListed) {",
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
        LIST,
        "        match self.vain.wait_ns() {",
        "        match self.vain.wait_ns().filter(|_| !mutant!(OneReadGivesUp)) {",
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
        STRIPES,
        "shared.steward.is_stopping.load(Ordering::Relaxed);",
        "shared.steward.is_stopping.load(Ordering::Relaxed) && !mutant!(StopWaitsForPieces);",
    ),
    e(
        LIST,
        "        if is_job && at.shared.steward.is_stopping.load(Ordering::Relaxed) {",
        "        if is_job && !mutant!(StopWaitsForPieces) && at.shared.steward.is_stopping.load(Ordering::Relaxed) {",
    ),
    e(
        STRIPES,
        "                let end = op.row_next;
                self.act(tools, index, |op, at| op.pass_by(at, end));",
        "                let end = op.row_next;
                if mutant!(HasteGivesUp) {
                    op.suspects = Strips::NONE;
                    self.act(tools, index, StripeOp::replan);
                    continue;
                }
                self.act(tools, index, |op, at| op.pass_by(at, end));",
    ),
    e(
        STRIPES,
        "others_wait && op.job.is_none_or(|job| job.attempt() < vain::LATE)",
        "others_wait && (mutant!(HostsKeepHole) || op.job.is_none_or(|job| job.attempt() < vain::LATE))",
    ),
    e(
        LIST,
        "        if by_suspects && !self.careful {",
        "        if by_suspects && !self.careful && !mutant!(StripeRecoveredWhole) {",
    ),
];
