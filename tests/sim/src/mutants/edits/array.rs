//! Edits of the array as it serves requests: plans, stripe operations, flushes.

use super::{Edit, e};

const ARRAY: &str = "engine/src/array/mod.rs";
const ARRIVAL: &str = "engine/src/steward/arrival.rs";
const BLOCKS: &str = "engine/src/durable/blocks.rs";
const BUFFERS: &str = "engine/src/turn/buffers.rs";
const RESYNC: &str = "engine/src/steward/resync.rs";
const FLUSH: &str = "engine/src/durable/flush.rs";
const HOST: &str = "engine/src/array/host.rs";
const STEP: &str = "engine/src/stripe/step.rs";
const OWNERSHIP: &str = "engine/src/stripe/ownership.rs";
const STARVED: &str = "engine/src/stripe/starved.rs";
const WANTED: &str = "engine/src/durable/wanted.rs";
const STRIPES: &str = "engine/src/stripe.rs";
const MAIL: &str = "engine/src/array/mail.rs";
const OP: &str = "engine/src/stripe/op.rs";
const WATCH: &str = "engine/src/turn/watch.rs";
const READ: &str = "engine/src/stripe/read.rs";
const SHAPE: &str = "engine/src/stripe/shape.rs";
const WRITE: &str = "engine/src/stripe/write.rs";
const MEMBERS: &str = "engine/src/members.rs";
const SHARED: &str = "engine/src/shared.rs";
const PARKED: &str = "engine/src/array/parked.rs";
const PLAN: &str = "engine/src/plan.rs";
const DISCARD: &str = "engine/src/stripe/discard.rs";
const CONTENT: &str = "engine/src/stripe/content.rs";
const POOL: &str = "engine/src/memory/pool.rs";
const IO: &str = "engine/src/turn/io.rs";
const ASKED: &str = "engine/src/stripe/asked.rs";

pub(super) const EDITS: &[Edit] = &[
    e(
        ASKED,
        "                if copy == Copy::A {",
        "                if copy == Copy::A && !mutant!(OneCopyAsked) {",
    ),
    e(
        BLOCKS,
        "            if shared.failed() {
                // The previous write",
        "            if shared.failed() && !mutant!(BlockInFailedArray) {
                // The previous write",
    ),
    e(
        ARRAY,
        "        self.now_ns = now_ns;
        self.take_request(ring, request);",
        "        if !mutant!(TurnWithoutTime) {
            self.now_ns = now_ns;
        }
        self.take_request(ring, request);",
    ),
    // order
    e(
        WANTED,
        "            self.queue.push_back(block);",
        "            if mutant!(BlocksLastComeFirst) {
                self.queue.push_front(block);
            } else {
                self.queue.push_back(block);
            }",
    ),
    e(
        STARVED,
        "if !self.is_empty() && !self.is_served {",
        "if !self.is_empty() && !self.is_served && !mutant!(MemoryOvertaken) {",
    ),
    e(
        STARVED,
        "            pool.claim();",
        "            if !mutant!(MemoryOvertaken) {
                pool.claim();
            }",
    ),
    e(
        OWNERSHIP,
        "if !self.post(shared, reactor, Ask::Job(ask)) {",
        "if mutant!(JobNotHandedOver) || !self.post(shared, reactor, Ask::Job(ask)) {",
    ),
    e(
        STRIPES,
        "if (first.is_none() || op.job_is_due)",
        "if (first.is_none() || op.job_is_due && !mutant!(JobNeverDue))",
    ),
    e(
        OWNERSHIP,
        "if self.short.ops || self.ops.room() == 0 {",
        "if self.short.ops && !mutant!(OpsOvertaken) || self.ops.room() == 0 {",
    ),
    e(
        STRIPES,
        "if op.has_worked && self.short.ops {",
        "if op.has_worked && self.short.ops && !mutant!(BusyOpStays) {",
    ),
    e(
        ARRAY,
        "let request = self.stalled.pop_front().expect(\"counted\");",
        "let request = if mutant!(StalledLastFirst) {
                self.stalled.pop_back().expect(\"counted\")
            } else {
                self.stalled.pop_front().expect(\"counted\")
            };",
    ),
    e(
        OWNERSHIP,
        "match self.parked.pop_front().expect(\"counted\") {",
        "let parked =
                if mutant!(ParkedLastFirst) { self.parked.pop_back() } else { self.parked.pop_front() };
            match parked.expect(\"counted\") {",
    ),
    e(HOST, "if self.short.reads ||", "if self.short.reads && !mutant!(ReadsOvertaken) ||"),
    // arrival
    e(
        ARRIVAL,
        "        if shared.failed() {
            joining.answer.send(Err(has_failed(name)));",
        "        if mutant!(JoinerNotWiped) {
            self.keeper.wishes.join = Some(joining);
        } else if shared.failed() && !mutant!(FailedArrayTakesDevice) {
            joining.answer.send(Err(has_failed(name)));",
    ),
    e(
        ARRIVAL,
        "                if arrival.in_flight == 0 {",
        "                if arrival.in_flight == 0 || mutant!(JoinsWhileWiped) {",
    ),
    e(
        SHARED,
        "unsynced: self.bitmap.need_sync() > 0,",
        "unsynced: self.bitmap.need_sync() > 0 && !mutant!(SparedByNumbers),",
    ),
    // watch
    e(WATCH, "        if silent.is_empty() {", "        if mutant!(SilenceBorne) || silent.is_empty() {"),
    e(
        WATCH,
        "    if quiet.and(readable).count() > spare {",
        "    if !mutant!(SilenceOfAllFails) && quiet.and(readable).count() > spare {",
    ),
    e(
        WATCH,
        "let is_advice = matches!(io.what, IoFor::OpDeallocate { .. });",
        "let is_advice = !mutant!(AdviceFails) && matches!(io.what, IoFor::OpDeallocate { .. });",
    ),
    e(
        WATCH,
        "        if !view.writable.iter().any(is_doubted) {",
        "        if mutant!(NobodyProbed) || !view.writable.iter().any(is_doubted) {",
    ),
    e(
        STRIPES,
        "!(self.fresh.is_empty()",
        "!((mutant!(FreshMaySleep) || self.fresh.is_empty())",
    ),
    // parked
    e(
        POOL,
        "        self.kept_back_of = of;",
        "        self.kept_back_of = if mutant!(LittleKeptBack) { 4 } else { of };",
    ),
    e(
        PARKED,
        "                self.host_reads -= 1;\n                return;",
        "                if !mutant!(LeftReadKeepsPlace) {
                    self.host_reads -= 1;
                }
                return;",
    ),
    e(
        PARKED,
        "            IoFor::LeftRead { .. } => true,",
        "            _ if mutant!(StopWaitsForKernel) => false,
            IoFor::LeftRead { .. } => true,",
    ),
    e(
        PARKED,
        "        (pending == self.ios.iter()",
        "        (mutant!(StopLeavesAll) || pending == self.ios.iter()",
    ),
    e(
        PARKED,
        "            IoFor::Parked(_) | IoFor::LeftRead { .. } => false,
            // The record",
        "            IoFor::Parked(_) | IoFor::LeftRead { .. } => false,
            IoFor::Superblock if mutant!(RecordWaitsForSilent) => false,
            IoFor::Flush if mutant!(FlushWaitsForSilent) => false,
            IoFor::Block { .. } if mutant!(BlockWaitsForSilent) => false,
            IoFor::List if mutant!(ListWaitsForSilent) => false,
            IoFor::OpRead { .. } | IoFor::OpWrite { .. } if mutant!(OpWaitsForSilent) => false,
            // The record",
    ),
    e(BUFFERS, "        if ios == 0 {", "        if mutant!(ParkedMemoryUsed) || ios == 0 {"),
    e(
        MEMBERS,
        "|members, view| members.spares(view, slots, needs)",
        "|members, view| mutant!(LastMemberFailed) || members.spares(view, slots, needs)",
    ),
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
        "Unsynced::Heal if untouched.within(view.readable) => Plan::Resync { read: untouched },",
        "Unsynced::Heal if mutant!(HealDataOnly) => Plan::DataOnly,
                Unsynced::Heal if untouched.within(view.readable) => Plan::Resync { read: untouched },",
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
        "        if at.shared.failed() {
            return LOST;",
        "        let goes_on = match trust {
            Trust::Unwritten => mutant!(FirstInFailedArray),
            Trust::Trusted => mutant!(WriteInFailedArray),
            Trust::NeedSync => false,
        };
        if at.shared.failed() && !goes_on {
            return LOST;",
    ),
    e(
        WRITE,
        "        if trusted && at.shared.bitmap.cell(self.stripe) == Cell::Marked {",
        "        if trusted
            && at.shared.bitmap.cell(self.stripe) == Cell::Marked
            && !mutant!(DataBeforeIntent)
        {",
    ),
    e(
        WRITE,
        "        let resyncs = self.work_kind == Work::Write(Mode::Heal);
        self.look(at);",
        "        let resyncs = self.work_kind == Work::Write(Mode::Heal);
        if !mutant!(PlanOfBefore) {
            self.look(at);
        }",
    ),
    e(
        WRITE,
        "            self.read_failed = true;",
        "            self.read_failed = !mutant!(ReconstructFromFailed);",
    ),
    e(
        CONTENT,
        "(Some(p), Some(q)) => memory.pq_delta(p, q, strip, old, new),",
        "(Some(p), Some(_)) if mutant!(QNotUpdated) => memory.xor_delta(p, old, new),
                        (Some(p), Some(q)) => memory.pq_delta(p, q, strip, old, new),",
    ),
    e(
        WRITE,
        "                self.skipped = self.skipped.or(rotation.slots_of(missed));",
        "                if !mutant!(SkippedNotNoted) {
                    self.skipped = self.skipped.or(rotation.slots_of(missed));
                }",
    ),
    e(
        WRITE,
        "            for strip in targets.and(writable).iter() {",
        "            let filled = rotation.strips_on(shared.members.view().rebuilding());
            let writable = if mutant!(RebuildSkipsWrites) && !matches!(self.work_kind, Work::Rebuild { .. }) {
                writable.minus(filled)
            } else {
                writable
            };
            for strip in targets.and(writable).iter() {",
    ),
    e(
        WRITE,
        "let durability = if durable.has(strip) {",
        "let durability = if durable.has(strip) && (!mutant!(FuaDataOnly) || segment.wanted.has(strip)) {",
    ),
    e(
        WRITE,
        "            Err(errno) => match io.blame(at.shared, errno) {
                // A repair",
        "            Err(_) if mutant!(WriteErrorForgiven) => {}
            Err(_) if mutant!(RefusedRepairCounts) && self.suspects.has(strip) => {
                at.shared.members.count_repair(io.slot);
            }
            Err(errno) => match io.blame(at.shared, errno) {
                // A repair",
    ),
    e(
        WRITE,
        "Blame::Device if self.work_kind == Work::Read => {}",
        "Blame::Device if self.work_kind == Work::Read && !mutant!(RepairFailsMember) => {}",
    ),
    e(
        WRITE,
        "Blame::Device if self.is_kept(at, io) => {",
        "Blame::Device if self.is_kept(at, io) && !mutant!(NeededFailsByWrite) => {",
    ),
    e(
        WRITE,
        "Work::Write(Mode::Heal) if self.unhealed => {}",
        "Work::Write(Mode::Heal) if self.unhealed && !mutant!(UnhealedIsSynced) => {}",
    ),
    e(
        WRITE,
        "Work::Rebuild { .. } if self.unhealed => self.tear(at),",
        "Work::Rebuild { .. } if self.unhealed && !mutant!(UnhealedIsTrusted) => self.tear(at),",
    ),
    e(
        STRIPES,
        "op.pending > 1 && !op.suspects.has(strip);",
        "op.pending > 1
            && (!op.suspects.has(strip) || mutant!(RepairNotCounted))
            && !mutant!(MemoryGivenEarly);",
    ),
    e(
        WRITE,
        "        self.pending -= 1;
        if self.pending == 0 { self.writes_done(at)",
        "        self.pending -= 1;
        if mutant!(MemoryGivenEarly) {
            self.give_work(at.turn.buffers);
        }
        if self.pending == 0 { self.writes_done(at)",
    ),
    e(
        WRITE,
        "if self.work_kind == Work::Write(Mode::First) && !at.shared.members.volatile().is_empty() {",
        "let volatile = if mutant!(FlushOfView) {
            at.shared.members.volatile().and(at.shared.members.view().writable)
        } else {
            at.shared.members.volatile()
        };
        if self.work_kind == Work::Write(Mode::First)
            && !volatile.is_empty()
            && !mutant!(NoFlushBeforeFirst)
        {",
    ),
    e(
        WRITE,
        "        } else if at.shared.members.on_record(self.skipped, self.stripe) {
            self.recorded(at)",
        "        } else if at.shared.members.on_record(self.skipped, self.stripe) || mutant!(AckBeforeRecord) {
            self.recorded(at)",
    ),
    e(
        WRITE,
        "        Step::Wait(Until::CellDurable)",
        "        if mutant!(FirstBeforeDurable) {
            self.answer_active(at.parts, Ok(()));
        }
        Step::Wait(Until::CellDurable)",
    ),
    e(
        WRITE,
        "            Work::Write(Mode::Trusted | Mode::DataOnly) => {}",
        "            Work::Write(Mode::DataOnly) if mutant!(DataOnlySynced) => {
                at.shared.bitmap.resynced(self.stripe);
            }
            Work::Write(Mode::Trusted | Mode::DataOnly) => {}",
    ),
    e(
        SHAPE,
        "        Plan::Init { .. } => data.or(parity),",
        "        Plan::Init { .. } if mutant!(FirstWithoutZeros) => segment.wanted.or(parity),
        Plan::Init { .. } => data.or(parity),",
    ),
    e(
        SHAPE,
        "        Plan::Degraded { recover, .. } => segment.wanted.or(parity).or(recover),",
        "        Plan::Degraded { recover, .. } if mutant!(DegradedParityLeft) => segment.wanted.or(recover),
        Plan::Degraded { recover, .. } => segment.wanted.or(parity).or(recover),",
    ),
    e(
        OP,
        "    pub(crate) const fn every_row(self) -> bool {
        matches!(self, Mode::First | Mode::Heal)",
        "    pub(crate) fn every_row(self) -> bool {
        matches!(self, Mode::First | Mode::Heal) && !(self == Mode::Heal && mutant!(HealTouchedRowsOnly))",
    ),
    e(OP, "        self.fua |= part.fua;", "        self.fua |= part.fua && !mutant!(FuaForgotten);"),
    // ownership, polling
    e(
        STRIPES,
        "            || self.ops.live().any(|(_, op)| op.job.is_none() && !matches!(op.phase, Phase::Fresh))",
        "            || !mutant!(StopPassesAdvice)
                && self.ops.live().any(|(_, op)| op.job.is_none() && !matches!(op.phase, Phase::Fresh))",
    ),
    e(
        SHARED,
        "        missing.count() > u32::from(self.geometry.parities())",
        "        !mutant!(FailedArrayGoesOn) && missing.count() > u32::from(self.geometry.parities())",
    ),
    e(
        MAIL,
        "Some((_, Ask::Part(part))) if part.home == self.me =>",
        "Some((_, Ask::Part(part))) if part.home == self.me && !mutant!(PartLeftBehind) =>",
    ),
    e(
        STEP,
        "Until::CellDurable => shared.bitmap.cell(stripe) != Cell::First,",
        "Until::CellDurable if mutant!(FirstWaitsForDirty) => shared.bitmap.cell(stripe) == Cell::Dirty,
            Until::CellDurable => shared.bitmap.cell(stripe) != Cell::First,",
    ),
    e(
        STEP,
        "Until::Discarded => shared.bitmap.is_durable(op.ticket.expect(\"a discard has its ticket\")),",
        "Until::Discarded if mutant!(DeallocateBeforeDurable) => true,
            Until::Discarded => shared.bitmap.is_durable(op.ticket.expect(\"a discard has its ticket\")),",
    ),
    // discard
    e(
        DISCARD,
        "take_while(|&(&op, stripe)| self.ops[op].stripe == stripe).count();",
        "take_while(|&(&op, stripe)| self.ops[op].stripe == stripe || mutant!(RunHasGaps)).count();",
    ),
    e(
        DISCARD,
        "* run.len() as u64;",
        "* (run.len() as u64 + u64::from(mutant!(RunReachesOver) && run.len() > 1));",
    ),
    e(
        DISCARD,
        "            self.ops[pair[0]].run_next = pair[1];",
        "            if mutant!(RunLetGoEarly) {
                self.act(tools, pair[1], |op, at| op.finish_written(at));
                continue;
            }
            self.ops[pair[0]].run_next = pair[1];",
    ),
    e(
        DISCARD,
        "is_last && !at.shared.lost",
        "(is_last || mutant!(BatchNotWaitedFor)) && !at.shared.lost",
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
        "        } else if undisturbed {",
        "        } else if undisturbed || mutant!(ReadOverDeallocation) {",
    ),
    e(
        HOST,
        "        }
        self.replies.push(Reply { tag: request.tag, result, span: request.span });",
        "        }
        self.replies.push(Reply { tag: request.tag, result, span: request.span });
        if mutant!(AnsweredTwice) {
            self.replies.push(Reply { tag: request.tag, result, span: request.span });
        }",
    ),
    e(
        HOST,
        "        if self.requests[index].is_held {",
        "        if !mutant!(HeldSpanAnswered) && self.requests[index].is_held {",
    ),
    // intent
    e(
        BLOCKS,
        "let kept = 0..=u32::from(geometry.parities());",
        "let kept = 0..=if mutant!(IntentOnOneCopy) { 0 } else { u32::from(geometry.parities()) };",
    ),
    e(
        BLOCKS,
        "crate::format::zones::bitmap_place(block.0.into(), header.generation);",
        "crate::format::zones::bitmap_place(
                block.0.into(),
                if mutant!(OnePlacePerBlock) { 0 } else { header.generation },
            );",
    ),
    e(
        BLOCKS,
        "let offset = shared.layout.bitmap_offset_bytes + place;",
        "let offset = shared.layout.bitmap_offset_bytes + place
                + if mutant!(BitmapOutside) { u64::from(shared.bitmap.blocks()) * 8192 } else { 0 };",
    ),
    e(
        BLOCKS,
        "turn.push(what, slot, MemberIo::Write(Durability::Durable), offset, span);",
        "let durability = if mutant!(IntentCached) { Durability::Cached } else { Durability::Durable };
                turn.push(what, slot, MemberIo::Write(durability), offset, span);",
    ),
    e(
        BLOCKS,
        "        if let Err(errno) = result {",
        "        let result = if mutant!(CopyFailureForgiven) { Ok(()) } else { result };
        if let Err(errno) = result {",
    ),
    e(
        BLOCKS,
        "let on_record = shared.members.excludes(&writing.missed);",
        "let on_record = shared.members.excludes(&writing.missed) || mutant!(IntentPassesBy);",
    ),
    // flush
    e(
        FLUSH,
        "        self.next.push(waiter);",
        "        if mutant!(FlushJoinsRunning) && self.in_flight > 0 {
            self.running.push(waiter);
            return;
        }
        self.next.push(waiter);",
    ),
    e(
        FLUSH,
        "        for slot in view.writable.and(turn.shared.members.volatile()).iter() {",
        "        for slot in
            view.writable.and(turn.shared.members.volatile()).iter().skip(usize::from(mutant!(FlushSkipsOne)))
        {",
    ),
    e(
        FLUSH,
        "    pub(crate) fn done(&mut self, shared: &Shared, io: &Io, result: Result<(), i32>) {",
        "    pub(crate) fn done(&mut self, shared: &Shared, io: &Io, result: Result<(), i32>) {
        let result = if mutant!(FlushErrorIgnored) { Ok(()) } else { result };",
    ),
    e(
        FLUSH,
        "if !has_failed && !shared.members.excludes(&self.missed) {",
        "if !has_failed
            && !shared.members.excludes(&self.missed)
            && !mutant!(FlushPassesBy)
        {",
    ),
    // faults that are nobody's, arrays that are only read
    e(
        IO,
        "        if counts { blame(errno) } else { Blame::Device }",
        "        if counts && !mutant!(RefusalFailsMember) { blame(errno) } else { Blame::Device }",
    ),
    e(
        WRITE,
        "                self.tear(at);",
        "                if !mutant!(RefusedStaysTrusted) {
                    self.tear(at);
                }",
    ),
    e(
        RESYNC,
        "        if torn != resync.torn_seen {",
        "        if torn != resync.torn_seen && !mutant!(TornNotResynced) {",
    ),
    e(
        READ,
        "if at.shared.read_only { Strips::NONE }",
        "if at.shared.read_only && !mutant!(RescueRepairs) { Strips::NONE }",
    ),
    e(
        MEMBERS,
        "        if self.read_only && !matches!(why, Failure::Silence(_)) {",
        "        if self.read_only && !matches!(why, Failure::Silence(_)) && !mutant!(RescueFailsMember) {",
    ),
];
