//! Edits of what becomes of members: whose fault an error is, who is silent, which orders are taken, which
//! caches are flushed.

use super::{Edit, e};

const ARRIVAL: &str = "engine/src/steward/arrival.rs";
const REBUILD: &str = "engine/src/steward/rebuild.rs";
const BLAME: &str = "engine/src/ring/blame.rs";
const DEVICE: &str = "engine/src/device.rs";
const FIT: &str = "engine/src/server/fit.rs";
const HOST: &str = "engine/src/array/host.rs";
const KEEPER: &str = "engine/src/steward/keeper.rs";
const PARTS: &str = "engine/src/stripe/parts.rs";
const MEMBERS: &str = "engine/src/members.rs";
const NVME: &str = "engine/src/ring/nvme.rs";
const OPEN: &str = "engine/src/server/open.rs";
const PATIENT: &str = "engine/src/server/patient.rs";
const REPLACE: &str = "engine/src/server/running/replace.rs";
const SHARE: &str = "engine/src/steward/share.rs";
const SIGNATURES: &str = "engine/src/format/signatures.rs";
const RESYNC: &str = "engine/src/steward/resync.rs";
const STEWARD: &str = "engine/src/steward.rs";
const WATCH: &str = "engine/src/turn/watch.rs";
const WRITE: &str = "engine/src/stripe/write.rs";
const ZONES: &str = "engine/src/format/zones.rs";

pub(super) const EDITS: &[Edit] = &[
    // whose fault
    e(BLAME, "pub const fn blame(", "pub fn blame("),
    e(
        BLAME,
        "libc::ENOSPC | libc::EDQUOT =>",
        "libc::ENOSPC | libc::EDQUOT if !mutant!(SpaceBlamesDevice) =>",
    ),
    e(
        BLAME,
        "        libc::EINVAL\n",
        "        libc::EINVAL if mutant!(InvalidBlamesDevice) => Blame::Device,
        libc::EINVAL\n",
    ),
    e(
        WRITE,
        "if !(is_proven && self.job.is_some_and(Job::is_retry)) {",
        "if mutant!(RetryCounts) || !(is_proven && self.job.is_some_and(Job::is_retry)) {",
    ),
    e(
        MEMBERS,
        "if place.swap(stripe + 1, Ordering::Relaxed) == stripe + 1 {",
        "if place.swap(stripe + 1, Ordering::Relaxed) == stripe + 1 && !mutant!(PlaceCountsAgain) {",
    ),
    e(REBUILD, "const fn backoff_ns(", "fn backoff_ns("),
    e(REBUILD, "    first_ns << doublings", "    first_ns << if mutant!(NoBackoff) { 0 } else { doublings }"),
    e(MEMBERS, "let has_it_still = |slot: &u8|", "let has_it_still = |slot: &u8| mutant!(ExcludedBySlot) ||"),
    // silence
    e(
        PATIENT,
        "            self.refused.push(op.tag);\n",
        "            self.refused.push(op.tag);
            if mutant!(SilentGivenMore) {
                self.ring.push(op);
            }\n",
    ),
    e(
        WATCH,
        "heard.has(slot) || pulses.any != ear.pulses.any || is_new;",
        "(heard.has(slot) || pulses.any != ear.pulses.any) && !mutant!(SlowCommandFails) || is_new;",
    ),
    e(
        WATCH,
        "advised.has(slot) || pulses.advice != ear.pulses.advice || is_new;",
        "advised.has(slot)
                || pulses.advice != ear.pulses.advice && !mutant!(AdviceElsewhereUnheard)
                || is_new;",
    ),
    e(
        WATCH,
        "if ear.advice_beats > ADVICE_PATIENCES",
        "if !mutant!(AdviceWithoutEnd) && ear.advice_beats > ADVICE_PATIENCES",
    ),
    e(
        WATCH,
        "> UNSYNCED_PATIENCES * patience * BEATS_PER_S;",
        "> if mutant!(UnsyncedNotWaitedFor) { 1 } else { UNSYNCED_PATIENCES } * patience * BEATS_PER_S;",
    ),
    // orders
    e(
        ARRIVAL,
        "let is_busy = self.arrival.is_some() ||",
        "let is_busy = !mutant!(BusyTakesDevice) && self.arrival.is_some() ||",
    ),
    e(
        ARRIVAL,
        "} else if shared.members.view().writable.has(joining.slot) {",
        "} else if shared.members.view().writable.has(joining.slot) && !mutant!(UsedSlotTakesDevice) {",
    ),
    e(
        ARRIVAL,
        "        if shared.failed() {
            self.refuse_arrival(",
        "        if shared.failed() && mutant!(ArrivalWaitsInFailed) {
        } else if shared.failed() && !mutant!(FailedArrayTakesDevice) {
            self.refuse_arrival(",
    ),
    e(
        ARRIVAL,
        "left: [0..data_offset_bytes, tail..end]",
        "left: [
                0..if mutant!(BitmapNotWiped) {
                    crate::format::zones::BITMAP_OFFSET_BYTES
                } else if mutant!(LogNotWiped) {
                    data_offset_bytes - (1 << 20)
                } else {
                    data_offset_bytes
                },
                if mutant!(TailNotWiped) { end } else { tail }..end,
            ]",
    ),
    e(
        KEEPER,
        "            keeper.refuse_join(&has_failed(keeper.name()));",
        "            if !mutant!(JoinWaitsInFailed) {
                keeper.refuse_join(&has_failed(keeper.name()));
            }",
    ),
    e(
        KEEPER,
        "                    joined = Some(joining);",
        "                    if mutant!(JoinAnsweredEarly) {
                        joining.answer.send(Ok(()));
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    joined = Some(joining);",
    ),
    e(
        STEWARD,
        "            if shared.failed() {
                answer.send(Err(has_failed(keeper.name())));",
        "            if shared.failed() && !mutant!(FailWaitsInFailed) {
                answer.send(Err(has_failed(keeper.name())));",
    ),
    e(
        STEWARD,
        "        if shared.failed() {
            // What is still in flight may never end",
        "        if shared.failed() && !mutant!(StopWaitsInFailed) {
            // What is still in flight may never end",
    ),
    e(
        STEWARD,
        "self.stop.is_some() || self.keeper.stopped",
        "self.stop.is_some() || self.keeper.stopped && !mutant!(StoppedTakesDevice)",
    ),
    e(
        STEWARD,
        "Stop::Moving(ticket) if self.keeper.has_moved(ticket) =>",
        "Stop::Moving(ticket) if mutant!(StopBeforeMove) || self.keeper.has_moved(ticket) =>",
    ),
    e(
        REPLACE,
        "        let rings = self.reactors.len();",
        "        if mutant!(WipedBeforeAgreed) {
            super::super::open::wipe_metadata(&device, self.record.zones.data.offset_bytes)?;
        }
        let rings = self.reactors.len();",
    ),
    e(
        REPLACE,
        "                self.let_go(claim);",
        "                if !mutant!(RefusedNotLetGo) {
                    self.let_go(claim);
                }",
    ),
    // caches
    e(
        MEMBERS,
        "        self.volatile.fetch_or(one, Ordering::AcqRel);
        true",
        "        if !mutant!(CacheNotFlushed) {
            self.volatile.fetch_or(one, Ordering::AcqRel);
        }
        true",
    ),
    e(
        WRITE,
        "let durable = if self.fua { volatile } else { volatile.and(write_through) };",
        "let durable = if self.fua {
                volatile
            } else if mutant!(CacheNotWrittenThrough) {
                Slots::NONE
            } else {
                volatile.and(write_through)
            };",
    ),
    // a slot that is filled
    e(
        REBUILD,
        "generation: ticket.generation + 1, ..ticket };",
        "generation: ticket.generation + if mutant!(FilledInOnePlace) { 0 } else { 1 }, ..ticket };",
    ),
    // order, shares, bounded turns
    e(
        HOST,
        "        if self.short.parts || !self.stripes.parts.has_room() {
            self.short.parts = true;
            return false;",
        "        if self.short.parts && !mutant!(PartsOvertaken) || !self.stripes.parts.has_room() {
            self.short.parts = true;
            return false;",
    ),
    e(
        PARTS,
        "self.guests < self.guests_max",
        "self.guests < self.guests_max || mutant!(GuestsTakeAllParts) && self.list.room() > 0",
    ),
    e(
        SHARE,
        "(requests / REQUESTS_PER_JOB).clamp(JOBS_MIN, JOBS_MAX_IDLE)",
        "if mutant!(JobsTakeAll) {
                    JOBS_MAX_IDLE
                } else if mutant!(JobsGetLittle) {
                    JOBS_MIN
                } else {
                    (requests / REQUESTS_PER_JOB).clamp(JOBS_MIN, JOBS_MAX_IDLE)
                }",
    ),
    e(
        RESYNC,
        "let end = (from + CELLS_PER_TURN).min(stripes);",
        "let end = if mutant!(ResyncLooksAtAll) { stripes } else { (from + CELLS_PER_TURN).min(stripes) };",
    ),
    // reading only
    e(
        HOST,
        "if request.kind == RequestKind::Flush && self.shared.read_only {",
        "if request.kind == RequestKind::Flush && self.shared.read_only && !mutant!(RescueFlushes) {",
    ),
    // blocks, storage, what other programs have written
    e(FIT, "pub(super) const fn blocks_suit(", "pub(super) fn blocks_suit("),
    e(FIT, "    member_bytes <= array_bytes", "    member_bytes <= array_bytes || mutant!(LargerBlocksSuit)"),
    e(
        NVME,
        "        len_bytes > 0 && (offset_bytes",
        "        mutant!(HalfBlocksTaken) || len_bytes > 0 && (offset_bytes",
    ),
    e(
        NVME,
        "            self.takes(offset_bytes, len_bytes.into()),",
        "            self.takes(offset_bytes, len_bytes.into()) || mutant!(HalfBlocksSent),",
    ),
    e(DEVICE, "one.meets(two)", "one.meets(two) && !mutant!(TwoNamesAreTwo)"),
    e(OPEN, "        if take {\n", "        if take || mutant!(OverwrittenServed) {\n"),
    e(
        SIGNATURES,
        "    let in_head = foreign.into_iter().find(",
        "    let in_head = foreign.into_iter().filter(|_| !mutant!(ForeignHeadNotSeen)).find(",
    ),
    e(
        SIGNATURES,
        "        .or_else(|| detect_tail(tail, device_bytes))
}",
        "        .or_else(|| detect_tail(tail, device_bytes).filter(|_| !mutant!(ForeignTailNotSeen)))
}",
    ),
    e(
        ZONES,
        ".saturating_sub(TAIL_UNUSED_BYTES)\n",
        ".saturating_sub(if mutant!(DataAtTheEnd) { 0 } else { TAIL_UNUSED_BYTES })\n",
    ),
];
