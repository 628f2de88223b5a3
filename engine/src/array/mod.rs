//! The array as one reactor runs it: events in, member operations and replies out.
//!
//! ```text
//! submit(request) --> host.rs: split by stripe --+-- healthy read --> member, no lock
//!                                                |
//!                                                +-- part --> own the stripe --> stripe op
//! turn() = take_mail(), advance(), the ring's turn, complete(completion)...
//! advance() --> start the ops of this turn: all parts of a stripe that arrived together are one op
//!               write.rs: plan, read, parity, intent, write, acknowledge       read.rs: reconstruct
//! complete(completion) --> the I/O's owner goes on
//! ```
//!
//! `Array` does no I/O, reads no clock and rolls no dice: it pushes operations into a
//! [`Ring`], is told the time, and pushes replies into a vector. It never waits: what
//! cannot go on is in a list that [`Array::advance`] looks at each turn.
//!
//! A stripe that is written, reconstructed, discarded, resynced or rebuilt is owned by one reactor: see `ownership`.
//!
//! **Order.** Everything that can be short has a queue, and every queue is first come first served: what comes later does not take
//! what something older waits for, however little it needs. `short` keeps newcomers behind the queue between two looks at it.
//!
//! | short | queue | why nothing in it is overtaken for ever |
//! |---|---|---|
//! | parts of this reactor's requests; reads in flight | `again`, then `stalled` | oldest first; a newcomer that needs the same waits behind (`short`). A request that has 64 parts in flight waits for those, and holds up no other. Half of the parts are this reactor's, half are guests, so neither side can take all |
//! | ops | `parked` | oldest first, parts and jobs alike; an op that has done a round gives way (`ownership`) while something is parked |
//! | a stripe | an op's `waiting` | in order; up to 64 writes in a row are one round, and a read or a discard ends the row. A job waits for one round (`jobs`) |
//! | a stripe of another reactor | `parked`, the owner's mailbox, its op's `waiting` | each poster has places of its own in a mailbox (`mailbox`). A part that comes too late goes on to the next owner; it is late again only if the stripe came to rest and was taken anew within that one hop |
//! | memory of ops | `starved` | oldest first; the first claims a MiB of the pool (`starved`) |
//! | block writes | `wanted` | oldest first; a block keeps its place while it is being written (`wanted`) |
//! | flushes | `flush` | all that asked before a round began end with it, so nothing waits for more than two |
//! | answers to other reactors | the mailbox's answers | never full |
//! | the record, cells, tickets | `polling` | nothing is short; all are looked at each turn, oldest first |
//!
//! Requests, member I/Os and segments have room for the most that there can be.
//!
//! Invariants:
//! - a part is in exactly one list: `parked`, an op's `waiting`, an op's `active`, or at another reactor;
//! - an op exists exactly while this reactor owns its lock slot;
//! - memory of an op is taken before its first I/O and given back after its last completion.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::durable::{BlockWrites, FlushGate, FlushWaiter, Over};
use crate::geometry::Strips;
use crate::job::JOBS_MAX;
use crate::mailbox::Answer as Ended;
use crate::memory::{KEPT_BACK_OF_OPERATIONS, Pool, Span};
use crate::part::{Part, PartKind};
use crate::request::{Reply, Request, RequestError};
use crate::ring::{Completion, Ring};
use crate::slab::{NONE, Slab};
use crate::steward::{Load, Steward};
use crate::stripe::op::{Phase, Segments, StripeOp};
use crate::tally::Tally;
use crate::turn::{Buffers, Io, IoFor, MemberIos};

/// What a component may use of this reactor during one call. (A macro, so that the borrow leaves the other fields free.)
macro_rules! turn {
    ($array:ident, $ring:ident) => {
        crate::turn::Turn {
            me: $array.me,
            ring: &mut *$ring,
            shared: &$array.shared,
            ios: &mut $array.ios,
            buffers: &mut $array.buffers,
            now_ns: $array.now_ns,
        }
    };
}
mod asked;
mod content;
mod discard;
mod host;
mod jobs;
mod lost;
mod mail;
mod ownership;
mod parked;
mod polling;
mod read;
mod short;
mod show;
mod starved;
mod vain;
mod write;

use asked::Question;
use host::{HostRead, HostRequest};
use ownership::{Ownership, Parked};
use parked::Parking;
use short::Short;
use starved::Starved;
use vain::Reread;

pub use crate::shared::{
    Answer, Beginning, Layout, NoteOrder, NoteOrders, Noting, Order, Position, Rest, Shared, StewardState,
};
pub use crate::sizes::Sizes;

/// No op in a lock slot. The table has a byte a slot, so that it stays in a core's cache.
const NO_OP: u8 = u8::MAX;
const _: () = assert!(Sizes::FULL.ops < NO_OP as usize);

/// Requests of one reactor's host in flight.
pub const REQUESTS_MAX: usize = Sizes::FULL.requests;

/// One reactor's share of an array.
pub struct Array {
    me: u8,
    shared: Arc<Shared>,
    sizes: Sizes,
    /// Memory of stripe ops. The front end has its own, so ops always find some in the end.
    buffers: Buffers,
    ios: MemberIos,
    requests: Slab<HostRequest>,
    parts: Slab<Part>,
    /// Of the parts, those of other reactors' requests.
    guests: usize,
    ops: Slab<StripeOp>,
    /// The batch of each op, by its index: beside the ops, which are made and dropped for each stripe.
    segments: Box<[Segments]>,
    host_reads: usize,
    /// The first op of each lock slot that this reactor owns.
    owned: Box<[u8]>,
    /// What something in these queues waits for.
    short: Short,
    /// What the other reactors were told of this one's load.
    told_load: u32,
    /// Healthy reads that have to be done again under the stripe's ownership, and found no part free.
    again: VecDeque<(HostRead, Strips)>,
    /// Requests that are not split to the end yet.
    stalled: VecDeque<u32>,
    /// Parts and jobs that found no op free, or no place in their owner's mailbox.
    parked: VecDeque<Parked>,
    /// Ops to start at the end of this turn.
    fresh: VecDeque<u32>,
    /// Ops that wait for memory.
    starved: Starved,
    /// Ops that wait for a cell, a ticket or the record; looked at each turn.
    polling: Vec<u32>,
    /// Ops that wait before they read a piece of rows anew.
    rereads: VecDeque<Reread>,
    /// Discards found durable in this look at the polling ops; their devices hear of them at its end.
    discarded: Vec<u32>,
    flush: FlushGate,
    blocks: BlockWrites,
    /// Reactor 0 has the steward.
    steward: Option<Box<Steward>>,
    parking: Parking,
    replies: Vec<Reply>,
    /// Empty between turns.
    completions: Vec<Completion>,
    now_ns: u64,
}

impl Array {
    /// The share of reactor `me`, with `pool` for its stripe operations (at least 4 MiB).
    #[must_use]
    pub fn new(me: u8, shared: Arc<Shared>, pool: Pool) -> Array {
        Array::with_sizes(me, shared, pool, Sizes::FULL)
    }

    /// The same with less room: requests beyond it wait longer, and nothing else changes.
    #[must_use]
    pub fn with_sizes(me: u8, shared: Arc<Shared>, mut pool: Pool, sizes: Sizes) -> Array {
        assert!(
            sizes.ops < usize::from(NO_OP) && sizes.ios() + sizes.parked() <= crate::limits::IO_IN_FLIGHT_MAX
        );
        assert!(sizes.host_reads >= usize::from(shared.geometry.data()), "a read of one stripe has room");
        pool.keep_back(KEPT_BACK_OF_OPERATIONS);
        let mut buffers = Buffers::new(pool, sizes.parked());
        let ios = MemberIos::new(me, &shared, &sizes, &mut buffers);
        let pool = &mut buffers.pool;
        let blocks = BlockWrites::new(pool, &sizes, shared.bitmap.blocks());
        let steward = (me == 0).then(|| Box::new(Steward::new(&shared, pool)));
        pool.pin_taken();
        Array {
            me,
            buffers,
            ios,
            requests: Slab::new(sizes.requests),
            parts: Slab::new(sizes.parts),
            guests: 0,
            ops: Slab::new(sizes.ops),
            segments: vec![Segments::EMPTY; sizes.ops].into_boxed_slice(),
            host_reads: 0,
            owned: vec![NO_OP; bitmap::LOCK_SLOTS].into_boxed_slice(),
            short: Short::default(),
            told_load: 0,
            again: VecDeque::with_capacity(sizes.host_reads),
            stalled: VecDeque::with_capacity(sizes.requests),
            parked: VecDeque::with_capacity(sizes.parts + JOBS_MAX as usize),
            fresh: VecDeque::with_capacity(sizes.ops),
            starved: Starved::new(sizes.ops),
            polling: Vec::with_capacity(sizes.ops),
            rereads: VecDeque::with_capacity(sizes.ops),
            discarded: Vec::with_capacity(sizes.ops),
            flush: FlushGate::new(&sizes),
            blocks,
            steward,
            parking: Parking::new(sizes.requests),
            replies: Vec::with_capacity(sizes.requests),
            completions: Vec::with_capacity(sizes.ios() + sizes.parked()),
            now_ns: 0,
            shared,
            sizes,
        }
    }

    /// How many more requests it takes.
    #[must_use]
    pub fn room(&self) -> usize {
        self.requests.room()
    }

    /// Whether nothing is in flight here that anything waits for: no request, part, stripe or member I/O.
    #[must_use]
    pub fn quiet(&self) -> bool {
        self.requests.len() == 0
            && self.parts.len() == 0
            && self.ops.len() == 0
            && self.ios.is_quiet()
            && self.parked.is_empty()
    }

    /// Whether an op works for what hosts have asked for: it may do so after the answer (a repair, advice). Looks at every op.
    #[must_use]
    pub fn works_for_hosts(&self) -> bool {
        self.parts.len() > 0
            || self.ops.live().any(|(_, op)| op.job.is_none() && !matches!(op.phase, Phase::Fresh))
    }

    /// Whether no member I/O is in flight here, not even such as nothing waits for.
    #[must_use]
    pub fn io_is_quiet(&self) -> bool {
        self.ios.is_empty()
    }

    /// Whether something waits for what no completion or mailbox will announce: another reactor's
    /// bitmap write, the record, memory. The reactor then keeps turning.
    #[must_use]
    pub fn must_turn(&self) -> bool {
        !(self.fresh.is_empty()
            && self.polling.is_empty()
            && self.parked.is_empty()
            && self.starved.is_empty()
            && self.again.is_empty()
            && self.stalled.is_empty()
            && self.flush.settled()
            && !self.ios.is_looked_at_again()
            && self.parking.is_settled()
            && self.blocks.settled())
            || self.steward.as_ref().is_some_and(|steward| steward.must_turn(&self.shared))
    }

    /// When there is next something to do though nothing moves; `None` for never.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let steward = self.steward.as_ref().filter(|_| !self.shared.read_only);
        let steward = steward.and_then(|steward| steward.next_deadline_ns());
        let watch = self.ios.next_beat_ns();
        let reread = self.rereads.iter().map(|reread| reread.due_ns).min();
        [steward, watch, reread].into_iter().flatten().min()
    }

    /// Touches what a request will need first: its stripe's cell, mostly a cache miss. Done for all requests
    /// of a turn before the first is taken, the misses overlap instead of adding up.
    pub fn anticipate(&self, request: &Request) {
        if request.offset_bytes < self.shared.geometry.size_bytes() {
            let (stripe, _) = self.shared.geometry.locate(request.offset_bytes);
            self.shared.bitmap.anticipate(stripe);
        }
    }

    /// Takes a request at this time; its answer comes by [`Array::take_replies`]. The caller has looked for
    /// [`room`](Array::room). (The time is that of the turn that follows: before a request is taken the reactor may have slept.)
    pub fn submit<R: Ring>(&mut self, ring: &mut R, now_ns: u64, request: Request) {
        self.now_ns = now_ns;
        self.take_request(ring, request);
    }

    /// A turn, without requests and answers: mail, what waits, submission, completions. The order is part of what is correct: completions
    /// come last, so that the time for which a member is silent never counts what has arrived already (`watch`). Says whether anything
    /// has come. [`Array::exchange_spans`] and [`Array::take_replies`] follow.
    pub fn turn<R: Ring>(&mut self, ring: &mut R, now_ns: u64, messages_max: usize) -> bool {
        let mut has_come = self.take_mail(messages_max);
        self.advance(ring, now_ns);
        let mut completions = std::mem::take(&mut self.completions);
        ring.turn(&mut completions);
        has_come |= !completions.is_empty();
        for completion in completions.drain(..) {
            self.complete(ring, completion);
        }
        self.completions = completions;
        has_come
    }

    /// Takes the end of a member operation. A step of [`Array::turn`].
    pub fn complete<R: Ring>(&mut self, ring: &mut R, completion: Completion) {
        let Completion { tag, result } = completion;
        let io = self.ios.complete(tag, result, &self.shared, self.now_ns);
        if self.shared.read_only {
            self.shared.members.heard(io.slot);
        }
        match io.what {
            IoFor::Parked(holds) => self.unpark(holds),
            IoFor::HostRead { request, stripe, start, deallocations }
            | IoFor::LeftRead { request, stripe, start, deallocations } => {
                if matches!(io.what, IoFor::HostRead { .. }) {
                    self.host_reads -= 1;
                }
                let read = HostRead { request, stripe, start, span: io.span };
                self.host_read_done(read, deallocations, &io, result);
            }
            IoFor::OpRead { op, strip } => self.op_read_done(ring, op, strip, &io, result),
            IoFor::OpWrite { op, strip } => self.op_write_done(ring, op, strip, &io, result),
            IoFor::OpAsk { op, strip, errno, copy } => {
                let question = Question { index: op, strip, errno, copy };
                self.op_asked(ring, question, &io, result);
            }
            IoFor::OpDeallocate { op } => self.op_deallocated(op),
            IoFor::Flush => {
                self.flush.done(&self.shared, &io, result);
                self.end_flushes();
            }
            IoFor::Block { write } => self.blocks.copy_done(&mut turn!(self, ring), write, &io, result),
            IoFor::Superblock | IoFor::List | IoFor::Wipe => self.steward_io_done(ring, &io, result),
            IoFor::Probe => self.ios.probe_ended(io.slot),
        }
    }

    /// Goes on with everything that can: starts this turn's stripe ops, polls what waits, does a bounded
    /// piece of background work. A step of [`Array::turn`], public for checkers that put other steps between.
    pub fn advance<R: Ring>(&mut self, ring: &mut R, now_ns: u64) {
        self.now_ns = now_ns;
        turn!(self, ring).watch();
        self.park_advance(ring);
        self.tell_load();
        self.short.forget_parked();
        for _ in 0..self.parked.len() {
            match self.parked.pop_front().expect("counted") {
                Parked::Part(part) => self.enqueue(part),
                Parked::Job(ask) => self.enqueue_job(ask),
            }
        }
        self.short.forget_stalled();
        for _ in 0..self.again.len() {
            let (read, suspects) = self.again.pop_front().expect("counted");
            self.read_again(read, suspects);
        }
        for _ in 0..self.stalled.len() {
            let request = self.stalled.pop_front().expect("counted");
            self.split(ring, request);
        }
        self.end_flushes();
        self.flush.begin(&mut turn!(self, ring));
        self.end_flushes();
        self.blocks.advance(&mut turn!(self, ring));
        self.steward_advance(ring);
        self.serve_starved(ring);
        self.reread_pieces(ring);
        self.poll_ops(ring);
        while let Some(op) = self.fresh.pop_front() {
            self.start(ring, op);
        }
        self.blocks.begin(&mut turn!(self, ring));
    }

    /// Lets those go on that waited for a flush that is over.
    fn end_flushes(&mut self) {
        while let Some(Over { waiter, result, missed }) = self.flush.next_over(&self.shared) {
            match waiter {
                FlushWaiter::Request(request) => self.answer_flush(request, result),
                FlushWaiter::Op(op) => {
                    self.ops[op].skipped = self.ops[op].skipped.or(missed);
                    self.acknowledge(op);
                }
                FlushWaiter::Steward => {
                    let steward = self.steward.as_mut().expect("the steward waited");
                    steward.flushed(result.is_ok());
                }
            }
        }
    }

    /// A turn of the steward, if it lives here, and what it has to have done.
    fn steward_advance<R: Ring>(&mut self, ring: &mut R) {
        let Some(steward) = &mut self.steward else { return };
        let load = Load { requests: self.requests.len() as u32, has_ops: self.ops.len() > 0 };
        steward.turn(&mut turn!(self, ring), &mut self.blocks, &mut self.flush, load);
        while let Some(ask) = self.steward.as_mut().and_then(|steward| steward.next_job()) {
            self.enqueue_job(ask);
        }
    }

    /// An operation of the steward has ended.
    fn steward_io_done<R: Ring>(&mut self, ring: &mut R, io: &Io, result: Result<(), i32>) {
        let steward = self.steward.as_mut().expect("only the steward asks for these");
        match io.what {
            IoFor::Superblock => steward.superblock_written(&self.shared, self.now_ns, io, result),
            IoFor::List => steward.lists().written(&self.shared, io, result),
            _ => steward.wiped(&mut turn!(self, ring), io, result),
        }
    }

    /// The answers since the last call.
    pub fn take_replies(&mut self) -> std::vec::Drain<'_, Reply> {
        self.replies.drain(..)
    }

    /// Starts what waits at an op, or lets the stripe go.
    fn start<R: Ring>(&mut self, ring: &mut R, index: u32) {
        loop {
            let op = &mut self.ops[index];
            if op.has_worked && self.short.ops {
                self.give_way(index);
                return;
            }
            debug_assert!(op.active.is_empty() && op.work == Span::EMPTY && op.pending == 0);
            if op.writes_next(&self.parts) && !self.shared.steward.rest.is_over() && !self.shared.failed() {
                self.await_wake(index);
                return;
            }
            let op = &mut self.ops[index];
            op.has_worked = true;
            let first = op.waiting.first();
            // A job has waited for the round that was under way when it came, or for one that began since.
            if (first.is_none() || op.job_is_due)
                && let Some(job) = op.background.take()
            {
                op.job_is_due = false;
                self.start_job(ring, index, job);
                return;
            }
            let Some(first) = first else {
                self.let_go(index);
                return;
            };
            op.job_is_due = op.background.is_some();
            op.begin(&mut self.parts, &self.shared.geometry);
            let started = match self.parts[first].kind {
                PartKind::Write | PartKind::Zero => self.start_write(ring, index),
                PartKind::Read => self.start_read(ring, index),
                PartKind::Discard { .. } => self.start_discard(index),
            };
            if matches!(started, Started::Running) {
                return;
            }
        }
    }

    /// Ends the op's present work: answers its parts, gives its memory back, and queues the op to start
    /// what came meanwhile.
    #[inline]
    fn finish(&mut self, index: u32, result: Result<(), RequestError>) {
        self.give_work(index);
        self.answer_active(index, result);
        self.job_done(index, result);
        let op = &mut self.ops[index];
        debug_assert_eq!(op.pending, 0);
        op.phase = Phase::Fresh;
        self.fresh.push_back(index);
    }

    /// Answers the parts that an op has worked for.
    #[inline]
    fn answer_active(&mut self, index: u32, result: Result<(), RequestError>) {
        while let Some(part) = self.ops[index].active.pop(&mut self.parts) {
            self.part_ended(part, result);
        }
    }

    /// A part is answered, here or to the reactor that it came from.
    #[inline]
    fn part_ended(&mut self, index: u32, result: Result<(), RequestError>) {
        let part = self.parts.remove(index);
        if part.home == self.me {
            self.answer_held(part.request, result, part.held);
        } else {
            self.guests -= 1;
            let ended = Ended::Part { part: part.home_part, result, held: part.held };
            self.shared.mailboxes.answer(part.home, ended);
        }
    }

    /// Gives an op's memory back, if it has any.
    #[inline]
    fn give_work(&mut self, index: u32) {
        let op = &mut self.ops[index];
        let (work, lot) =
            (std::mem::replace(&mut op.work, Span::EMPTY), std::mem::replace(&mut op.lot, NONE));
        if lot != NONE {
            self.buffers.leave(lot);
        } else if work != Span::EMPTY {
            self.buffers.pool.give(work);
        }
    }

    fn tally(&self) -> &Tally {
        &self.shared.tallies[usize::from(self.me)]
    }
}

/// Whether an op has gone to work.
enum Started {
    /// It has I/O in flight, or waits for something.
    Running,
    /// It was done at once; start what comes next.
    Done,
}
