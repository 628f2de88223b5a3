//! Operations on stripes: one for each stripe that this reactor owns.
//!
//! ```text
//!   part, job --> ownership: the op of its stripe --> start --> verb of the op --> Step
//!                                                                 ^                  |
//!                                                                 `---- follow <-----'
//! ```
//!
//! [`StripeOp`] is the state of one operation. Its verbs (write.rs, read.rs, discard.rs, lost.rs, asked.rs)
//! are everything that an op does. A verb works for one op, knows no other op, and returns a [`Step`]: what
//! the op needs next. [`Stripes`] owns all ops of the reactor and carries out their steps; `follow` shows the
//! whole life of an operation. Parts and jobs that have ended wait in [`Parts::next_ended`] and
//! [`Stripes::next_job_ended`] for the array, which answers hosts and other reactors.
//!
//! Invariants:
//! - a part is in exactly one list: `parked`, an op's `waiting`, an op's `active`, or at another reactor;
//! - an op exists exactly as long as this reactor owns the op's lock slot;
//! - an op takes its memory before its first I/O and gives it back after its last completion.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use bitmap::Cell;

use crate::durable::{BlockWrites, FlushGate, FlushWaiter};
use crate::geometry::{Slots, Strips};
use crate::job::{JOBS_MAX, Job, JobEnd};
use crate::memory::Span;
use crate::part::PartKind;
use crate::request::RequestError;
use crate::ring::Ring;
use crate::shared::Shared;
use crate::sizes::Sizes;
use crate::slab::{NONE, Slab};
use crate::turn::{Buffers, Holds, Io, IoFor, Turn};

mod asked;
mod check;
mod content;
mod discard;
mod lost;
pub(crate) mod op;
mod ownership;
mod parity;
mod parts;
mod read;
mod shape;
mod show;
mod starved;
mod step;
mod vain;
mod write;

use asked::Question;
pub(crate) use discard::PARTS_PER_REQUEST_MAX;
pub(crate) use lost::is_lost;
use op::{Phase, Segments, StripeOp, Work};
use ownership::{NO_OP, Parked, Short};
pub(crate) use parts::{PartEnd, Parts};
use starved::Starved;
use step::{Look, Step, Until};

/// The result of an op whose bytes cannot be read or computed, or can no longer be made durable.
const LOST: Step = Step::Finished(Err(RequestError::Lost));

/// The parts of the reactor that operations use during one call.
pub(crate) struct Tools<'a, R> {
    pub(crate) turn: Turn<'a, R>,
    pub(crate) blocks: &'a mut BlockWrites,
    pub(crate) flush: &'a mut FlushGate,
}

/// The surroundings of a verb: the op's index, and what the verb may use.
struct At<'a, 't, R> {
    /// Index of the op; the tags of its I/Os carry this number, so completions find the op.
    index: u32,
    shared: &'t Shared,
    turn: &'a mut Turn<'t, R>,
    blocks: &'a mut BlockWrites,
    parts: &'a mut Parts,
    /// Segments of the op's current batch.
    segments: &'a mut Segments,
    /// Discards found durable during this look at the waits. Their devices are told at the end of the look.
    discarded: &'a mut Vec<u32>,
}

/// An operation that waits before it reads a piece of rows again.
#[derive(Clone, Copy, Debug)]
struct Reread {
    due_ns: u64,
    op: u32,
}

/// All operations of one reactor; see the top of this file.
pub(crate) struct Stripes {
    me: u8,
    pub(crate) parts: Parts,
    ops: Slab<StripeOp>,
    /// The batch of each op, by the op's index. Kept beside the ops because ops are created and dropped for
    /// each stripe.
    segments: Box<[Segments]>,
    /// The first op of each lock slot that this reactor owns.
    owned: Box<[u8]>,
    short: Short,
    /// Parts and jobs that found no free op, or no place in the mailbox of the stripe's owner.
    parked: VecDeque<Parked>,
    /// Ops to start at the end of this turn.
    fresh: VecDeque<u32>,
    /// Ops that wait for memory.
    starved: Starved,
    /// Ops that wait for an event that no completion announces; checked each turn.
    waits: Vec<u32>,
    rereads: VecDeque<Reread>,
    /// Empty except during a look at the waits.
    discarded: Vec<u32>,
    /// Jobs that have ended, for the steward.
    jobs_ended: VecDeque<JobEnd>,
}

impl Stripes {
    /// Allocates everything, in the sizes that `sizes` gives.
    pub(crate) fn new(me: u8, sizes: &Sizes) -> Stripes {
        assert!(sizes.ops < usize::from(NO_OP), "an op's index is a byte of the table of owners");
        Stripes {
            me,
            parts: Parts::new(me, sizes),
            ops: Slab::new(sizes.ops),
            segments: vec![Segments::EMPTY; sizes.ops].into_boxed_slice(),
            owned: vec![NO_OP; bitmap::LOCK_SLOTS].into_boxed_slice(),
            short: Short::default(),
            parked: VecDeque::with_capacity(sizes.parts + JOBS_MAX as usize),
            fresh: VecDeque::with_capacity(sizes.ops),
            starved: Starved::new(sizes.ops),
            waits: Vec::with_capacity(sizes.ops),
            rereads: VecDeque::with_capacity(sizes.ops),
            discarded: Vec::with_capacity(sizes.ops),
            jobs_ended: VecDeque::with_capacity(JOBS_MAX as usize),
        }
    }

    /// Whether there is no part, no op and nothing parked.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.ops.len() == 0 && self.parked.is_empty()
    }

    /// Whether any op is in progress, for a host or in the background.
    pub(crate) fn has_ops(&self) -> bool {
        self.ops.len() > 0
    }

    /// Whether an op works for a host's request; an op may do so even after the answer (a repair, a
    /// deallocation). Looks at every op.
    pub(crate) fn works_for_hosts(&self) -> bool {
        !self.parts.is_empty()
            || self.ops.live().any(|(_, op)| op.job.is_none() && !matches!(op.phase, Phase::Fresh))
    }

    /// Whether the next turn must not be delayed: an op is ready to start, or something waits for an event
    /// that no completion announces.
    pub(crate) fn must_turn(&self) -> bool {
        !(self.fresh.is_empty() && self.waits.is_empty() && self.parked.is_empty() && self.starved.is_empty())
    }

    /// The earliest time at which a piece of rows is to be read again.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.rereads.iter().map(|reread| reread.due_ns).min()
    }

    /// The next job that has ended and that the steward has not heard of yet.
    pub(crate) fn next_job_ended(&mut self) -> Option<JobEnd> {
        self.jobs_ended.pop_front()
    }

    // ---- a turn ---------------------------------------------------------------------------------

    /// Continues every op that can continue: first the ops that wait for memory, for a time to pass, or for
    /// an event that no completion announces, then the ops that are to start.
    pub(crate) fn turn<R: Ring>(&mut self, tools: &mut Tools<'_, R>) {
        self.serve_starved(tools);
        self.reread_pieces(tools);
        self.look_at_waits(tools);
        while let Some(op) = self.fresh.pop_front() {
            self.start(tools, op);
        }
    }

    /// Serves the operations that wait for memory, first come first served.
    fn serve_starved<R: Ring>(&mut self, tools: &mut Tools<'_, R>) {
        if self.starved.is_empty() {
            return;
        }
        for _ in 0..self.starved.begin_look() {
            if let Some(index) = self.starved.next_served() {
                self.act(tools, index, StripeOp::replan);
            }
        }
        self.starved.end_look(&mut tools.turn.buffers.pool);
    }

    /// Reads again the pieces whose wait is over. Reasons why an attempt ends early: see vain.rs.
    fn reread_pieces<R: Ring>(&mut self, tools: &mut Tools<'_, R>) {
        let shared = tools.turn.shared;
        let ends = shared.failed() || shared.steward.is_stopping.load(Ordering::Relaxed);
        for _ in 0..self.rereads.len() {
            let reread = self.rereads.pop_front().expect("counted");
            let index = reread.op;
            let op = &mut self.ops[index];
            let others_wait = self.short.ops || !op.waiting.is_empty();
            if others_wait {
                op.pieces_left = 0;
            }
            if ends {
                self.follow(tools, index, LOST);
            } else if others_wait && op.job.is_none_or(|job| job.attempt() < vain::LATE) {
                let end = op.row_next;
                self.act(tools, index, |op, at| op.pass_by(at, end));
            } else if tools.turn.now_ns < reread.due_ns {
                self.rereads.push_back(reread);
            } else {
                op.suspects = Strips::NONE;
                self.act(tools, index, StripeOp::replan);
            }
        }
    }

    /// Looks at every op that waits for an event that no completion announces. The op that has waited longest
    /// comes first, so it is also the first to ask for its bitmap block.
    fn look_at_waits<R: Ring>(&mut self, tools: &mut Tools<'_, R>) {
        let (count, mut kept) = (self.waits.len(), 0);
        for nth in 0..count {
            let index = self.waits[nth];
            if self.still_waits(tools, index) {
                self.waits[kept] = index;
                kept += 1;
            }
        }
        // Ops that began to wait during this pass stay behind the others and are looked at in the next pass.
        self.waits.drain(kept..count);
        self.deallocate_runs(tools);
    }

    /// Checks the wait of an op. Returns true if the op still waits; otherwise the op has been continued.
    fn still_waits<R: Ring>(&mut self, tools: &mut Tools<'_, R>, index: u32) -> bool {
        let shared = tools.turn.shared;
        let op = &mut self.ops[index];
        let Phase::Waiting(until) = op.phase else { unreachable!("no wait: {:?}", op.phase) };
        match until.look(shared, op) {
            Look::Waiting => {
                if until.needs_block() {
                    tools.blocks.ask(shared.bitmap.block_of(op.stripe));
                } else if until == Until::Awake {
                    shared.call_from_rest();
                }
                return true;
            }
            Look::Hopeless => self.follow(tools, index, LOST),
            Look::Over if until == Until::Awake => {
                op.phase = Phase::Fresh;
                self.fresh.push_back(index);
            }
            Look::Over => {
                let step = self.verb(tools, index, |op, at| op.go_on(at, until));
                if let (Until::Unmarked, Step::Wait(next)) = (until, step) {
                    // The op keeps its place in the queue.
                    self.ops[index].phase = Phase::Waiting(next);
                    return true;
                }
                self.follow(tools, index, step);
            }
        }
        false
    }

    /// Starts the work that waits at an op, or releases the stripe if there is none.
    fn start<R: Ring>(&mut self, tools: &mut Tools<'_, R>, index: u32) {
        let shared = tools.turn.shared;
        loop {
            let op = &mut self.ops[index];
            if op.has_worked && self.short.ops {
                self.give_way(shared, index);
                return;
            }
            debug_assert!(op.active.is_empty() && op.work == Span::EMPTY && op.pending == 0);
            if op.writes_next(&self.parts.list) && !shared.steward.rest.is_over() && !shared.failed() {
                self.follow(tools, index, Step::Wait(Until::Awake));
                return;
            }
            op.has_worked = true;
            let first = op.waiting.first();
            // A job waits for one round of parts only: the round in progress when the job came, or the next
            // one.
            if (first.is_none() || op.job_is_due)
                && let Some(job) = op.background.take()
            {
                op.job_is_due = false;
                self.act(tools, index, |op, at| op.start_job(at, job));
                return;
            }
            let Some(first) = first else {
                self.let_go(shared, index);
                return;
            };
            op.job_is_due = op.background.is_some();
            op.begin(&mut self.parts.list, &shared.geometry);
            let kind = self.parts.list[first].kind;
            let step = self.verb(tools, index, |op, at| match kind {
                PartKind::Write | PartKind::Zero => op.start_write(at),
                PartKind::Read => op.start_read(at),
                PartKind::Discard { .. } => op.start_discard(at),
            });
            let Step::Finished(result) = step else {
                self.follow(tools, index, step);
                return;
            };
            self.end(tools, index, result);
        }
    }

    // ---- the life of an operation ---------------------------------------------------------------

    /// Runs a verb of an op and carries out the step that the verb returns.
    #[inline(always)]
    fn act<R: Ring>(
        &mut self,
        tools: &mut Tools<'_, R>,
        index: u32,
        verb: impl FnOnce(&mut StripeOp, &mut At<'_, '_, R>) -> Step,
    ) {
        let step = self.verb(tools, index, verb);
        self.follow(tools, index, step);
    }

    #[inline(always)]
    fn verb<R: Ring>(
        &mut self,
        tools: &mut Tools<'_, R>,
        index: u32,
        verb: impl FnOnce(&mut StripeOp, &mut At<'_, '_, R>) -> Step,
    ) -> Step {
        let mut at = At {
            index,
            shared: tools.turn.shared,
            turn: &mut tools.turn,
            blocks: tools.blocks,
            parts: &mut self.parts,
            segments: &mut self.segments[index as usize],
            discarded: &mut self.discarded,
        };
        verb(&mut self.ops[index], &mut at)
    }

    /// Carries out the step that an op needs next.
    #[inline(always)]
    fn follow<R: Ring>(&mut self, tools: &mut Tools<'_, R>, index: u32, step: Step) {
        // Fast path: most completions are not the last ones of their batch.
        if !matches!(step, Step::Io) {
            self.follow_on(tools, index, step);
        }
    }

    fn follow_on<R: Ring>(&mut self, tools: &mut Tools<'_, R>, index: u32, mut step: Step) {
        while let Step::Memory { bytes } = step {
            let pool = &mut tools.turn.buffers.pool;
            let Some(work) = self.starved.take(pool, tools.turn.now_ns, index, bytes) else {
                // Undo the planning: `replan` plans this batch again when memory is free.
                let op = &mut self.ops[index];
                (op.phase, op.row_next) = (Phase::Starved, op.row);
                return;
            };
            self.ops[index].work = work;
            step = self.verb(tools, index, StripeOp::issue_reads);
        }
        match step {
            Step::Io => {}
            Step::Memory { .. } => unreachable!("a batch has its memory"),
            Step::Wait(until) => {
                self.ops[index].phase = Phase::Waiting(until);
                self.waits.push(index);
                if until == Until::Awake {
                    tools.turn.shared.call_from_rest();
                }
            }
            Step::Flush => tools.flush.join(FlushWaiter::Op(index)),
            Step::Rest { wait_ns } => {
                self.ops[index].phase = Phase::AwaitingReread;
                self.rereads.push_back(Reread { due_ns: tools.turn.now_ns + u64::from(wait_ns), op: index });
            }
            Step::Finished(result) => {
                self.end(tools, index, result);
                self.ops[index].phase = Phase::Fresh;
                self.fresh.push_back(index);
            }
        }
    }

    /// Ends the op's current work: gives its memory back, answers its parts, and tells the steward of its
    /// job.
    #[inline]
    fn end<R: Ring>(&mut self, tools: &mut Tools<'_, R>, index: u32, result: Result<(), RequestError>) {
        let op = &mut self.ops[index];
        debug_assert_eq!(op.pending, 0);
        op.give_work(tools.turn.buffers);
        op.answer_active(&mut self.parts, result);
        if let Some(job) = op.job.take() {
            let (stripe, unhealed) = (op.stripe, op.unhealed);
            let need_sync = tools.turn.shared.bitmap.cell(stripe) == Cell::NeedSync;
            self.jobs_ended.push_back(JobEnd { stripe, job, need_sync, unhealed, result });
        }
    }

    // ---- what comes from outside ----------------------------------------------------------------

    /// Takes the success of an I/O of an op that has others in flight, on a strip without a failed read: it
    /// is counted, and nothing else follows from it. False if more has to be done.
    #[inline(always)]
    pub(crate) fn is_one_of_several(&mut self, index: u32, strip: u8) -> bool {
        let op = &mut self.ops[index];
        let is_one_of_several = op.pending > 1 && !op.suspects.has(strip);
        op.pending -= u32::from(is_one_of_several);
        is_one_of_several
    }

    /// An I/O of an op has completed.
    pub(crate) fn io_done<R: Ring>(&mut self, tools: &mut Tools<'_, R>, io: &Io, result: Result<(), i32>) {
        match io.what {
            IoFor::OpRead { op, strip } => {
                self.act(tools, op, |op, at| op.read_done(at, strip, io, result));
            }
            IoFor::OpWrite { op, strip } => {
                self.act(tools, op, |op, at| op.write_done(at, strip, io, result));
            }
            IoFor::OpAsk { op, strip, errno, copy } => {
                let question = Question { strip, errno, copy };
                self.act(tools, op, |op, at| op.asked(at, question, io, result));
            }
            IoFor::OpDeallocate { op } => self.deallocated(tools, op),
            _ => unreachable!("not an op's: {:?}", io.what),
        }
    }

    /// An I/O of an op was parked: the op no longer waits for it.
    pub(crate) fn io_parked<R: Ring>(&mut self, tools: &mut Tools<'_, R>, io: &Io) {
        match io.what {
            IoFor::OpRead { op, .. } => self.act(tools, op, |op, at| {
                op.read_failed = true;
                op.read_ended(at)
            }),
            IoFor::OpWrite { op, strip } | IoFor::OpAsk { op, strip, .. } => {
                self.act(tools, op, |op, at| op.write_missed(at, strip, io.slot));
            }
            IoFor::OpDeallocate { op } => self.deallocated(tools, op),
            _ => unreachable!("not an op's: {:?}", io.what),
        }
    }

    /// The flush that an op asked for has ended. The slots in `missed` were not flushed.
    pub(crate) fn flushed<R: Ring>(&mut self, tools: &mut Tools<'_, R>, index: u32, missed: Slots) {
        self.act(tools, index, |op, at| {
            op.skipped = op.skipped.or(missed);
            op.acknowledge(at)
        });
    }

    /// Finds the memory that an I/O of an op uses, the op's own or a host's, and notes that it is held.
    pub(crate) fn held_by(&mut self, index: u32, span: Span, buffers: &mut Buffers) -> Holds {
        let op = &mut self.ops[index];
        if op.work.overlaps(span) {
            return buffers.hold(&mut op.lot, op.work);
        }
        let mut next = op.active.first();
        while let Some(at) = next {
            let part = &mut self.parts.list[at];
            if part.span.overlaps(span) {
                part.held += 1;
                return Holds::Host { home: part.home, span };
            }
            next = (part.next != NONE).then_some(part.next);
        }
        // The span is in the zero arena, which is never written.
        Holds::Nothing
    }
}

impl StripeOp {
    /// Continues the op after the wait `until` is over.
    fn go_on<R: Ring>(&mut self, at: &mut At<'_, '_, R>, until: Until) -> Step {
        match until {
            Until::Awake => unreachable!("an op that was woken starts"),
            Until::IntentDurable => self.issue_writes(at),
            Until::CellDurable => self.finish_written(at),
            Until::Unmarked => self.discard(at),
            Until::Discarded => self.discarded(at),
            Until::ListTakesMore => self.list_rows(at),
            Until::Listed => self.listed(at),
            Until::ListTakesLess => self.unlist_or(at, StripeOp::unlisted),
            Until::Unlisted => self.unlisted(at),
            Until::OnRecord => self.recorded(at),
        }
    }

    /// Starts background work. A stripe that needs no rebuild of the slot may still need a resync.
    fn start_job<R: Ring>(&mut self, at: &mut At<'_, '_, R>, job: Job) -> Step {
        self.reset();
        self.job = Some(job);
        let rebuilds = match job {
            Job::Resync { .. } => None,
            Job::Rebuild { slot, .. } => self.start_rebuild(at, slot),
        };
        rebuilds.unwrap_or_else(|| self.start_resync(at))
    }

    /// Gives the op's memory back, if it has any.
    #[inline]
    fn give_work(&mut self, buffers: &mut Buffers) {
        let work = std::mem::replace(&mut self.work, Span::EMPTY);
        let lot = std::mem::replace(&mut self.lot, NONE);
        if lot != NONE {
            buffers.leave(lot);
        } else if work != Span::EMPTY {
            buffers.pool.give(work);
        }
    }

    /// Answers the parts that the op has worked for.
    #[inline]
    fn answer_active(&mut self, parts: &mut Parts, result: Result<(), RequestError>) {
        while let Some(part) = self.active.pop(&mut parts.list) {
            parts.end(part, result);
        }
    }

    /// Whether a read operation has parked I/O that may still write to the host's memory. The request must
    /// then be read again into other memory.
    #[inline]
    fn is_held<R>(&self, at: &At<'_, '_, R>) -> bool {
        self.work_kind == Work::Read && self.active.iter(&at.parts.list).any(|part| part.held > 0)
    }
}
