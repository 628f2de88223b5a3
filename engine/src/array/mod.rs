//! One reactor's share of an array: events in, member operations and replies out.
//!
//! ```text
//! submit(request) --> host.rs: split by stripe --+-- healthy read --> member, no lock
//!                                                |
//!                                                +-- part --> stripe: the op of its stripe
//! turn() = take_mail(), advance(), the ring's turn, complete(completion)...
//! advance() --> starts the ops of this turn: all parts of a stripe that arrived together are one op
//! complete(completion) --> the owner of the I/O: a request, an op, a flush, a block write, the steward
//! ```
//!
//! `Array` routes: each room below it owns its state and verbs, and says what it wants done (`stripe`,
//! `durable`, `steward`, `turn`). What is left here are the requests of the host (host.rs), the mail of other
//! reactors (mail.rs), and the I/O of members that have left (parked.rs).
//!
//! `Array` does no I/O, reads no clock and rolls no dice: it pushes operations into a [`Ring`], is told the
//! time, and pushes replies into a vector. It never waits: work that cannot go on is in a list that
//! [`Array::advance`] looks at each turn.
//!
//! **Order.** Every resource that can be short has a queue, and every queue is first come first served: newer
//! work does not take what older work waits for, however little it needs. `Short` keeps newcomers behind the
//! queue between two looks at it.
//!
//! | short | queue | why nothing in it is overtaken for ever |
//! |---|---|---|
//! | parts of this reactor's requests; reads in flight | `again`, then `stalled` | oldest first. A request with 64 parts in flight waits for those. Half of the parts are for guests |
//! | ops | `parked` of `stripe` | oldest first, parts and jobs alike. An op that has done a round gives way while something is parked |
//! | a stripe | an op's `waiting` | in order. Up to 64 writes in a row are one round; a read or a discard ends the row. A job waits for one round |
//! | a stripe of another reactor | `parked`, the owner's mailbox, its op's `waiting` | each poster has places of its own in a mailbox. A part that arrives after the owner has let go moves on to the next owner |
//! | memory of ops | `starved` | oldest first; the first claims a MiB of the pool |
//! | block writes | `wanted` of `durable` | oldest first; a block keeps its place while it is being written |
//! | flushes | `next` of the flush gate | all that asked before a round began end with it, so nothing waits for more than two |
//! | answers to other reactors | the mailbox's answers | never full |
//! | the record, cells, tickets | `waits` of `stripe` | nothing is short; all are checked each turn, oldest first |
//!
//! Requests, member I/Os and segments have room for the most that there can be.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::durable::{BlockWrites, FlushGate, FlushWaiter, Over};
use crate::geometry::Strips;
use crate::mailbox::Answer as Ended;
use crate::memory::{KEPT_BACK_OF_OPERATIONS, Pool};
use crate::request::{Reply, Request};
use crate::ring::{Completion, Ring};
use crate::slab::Slab;
use crate::steward::{Load, Steward};
use crate::stripe::{PartEnd, Stripes};
use crate::tally::Tally;
use crate::turn::{Buffers, Io, IoFor, MemberIos};

/// The parts of this reactor that a component may use during one call. (A macro, so that the borrow leaves
/// the other fields free.)
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

/// The parts of this reactor that operations on stripes use during one call.
macro_rules! tools {
    ($array:ident, $ring:ident) => {
        crate::stripe::Tools {
            turn: turn!($array, $ring),
            blocks: &mut $array.blocks,
            flush: &mut $array.flush,
        }
    };
}

mod check;
mod host;
mod mail;
mod parked;
mod short;
mod show;

use host::{HostRead, HostRequest};
use parked::Parking;
use short::Short;

pub use crate::shared::{
    Answer, Beginning, Layout, NoteOrder, NoteOrders, Noting, Order, Position, Rest, Shared, StewardState,
};
pub use crate::sizes::Sizes;

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
    stripes: Stripes,
    host_reads: usize,
    /// What something in these queues waits for.
    short: Short,
    /// What the other reactors were told of this one's load.
    told_load: u32,
    /// Healthy reads that have to be done again under the stripe's ownership, and found no part free.
    again: VecDeque<(HostRead, Strips)>,
    /// Requests that are not split to the end yet.
    stalled: VecDeque<u32>,
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
        assert!(sizes.ios() + sizes.parked() <= crate::limits::IO_IN_FLIGHT_MAX);
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
            stripes: Stripes::new(me, &sizes),
            host_reads: 0,
            short: Short::default(),
            told_load: 0,
            again: VecDeque::with_capacity(sizes.host_reads),
            stalled: VecDeque::with_capacity(sizes.requests),
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
        self.requests.len() == 0 && self.stripes.is_empty() && self.ios.is_quiet()
    }

    /// Whether an op works for what hosts have asked for: it may do so after the answer (a repair, advice).
    /// Looks at every op.
    #[must_use]
    pub fn works_for_hosts(&self) -> bool {
        self.stripes.works_for_hosts()
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
        !(!self.stripes.must_turn()
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
        let reread = self.stripes.next_deadline_ns();
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
    /// [`room`](Array::room). (The time is that of the turn that follows: before a request is taken the
    /// reactor may have slept.)
    pub fn submit<R: Ring>(&mut self, ring: &mut R, now_ns: u64, request: Request) {
        self.now_ns = now_ns;
        self.take_request(ring, request);
    }

    /// A turn, without requests and answers: mail, what waits, submission, completions. The order is part of
    /// what is correct: completions come last, so that the time for which a member is silent never counts
    /// what has arrived already (`watch`). Says whether anything has come. [`Array::exchange_spans`] and
    /// [`Array::take_replies`] follow.
    pub fn turn<R: Ring>(&mut self, ring: &mut R, now_ns: u64, messages_max: usize) -> bool {
        self.now_ns = now_ns;
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
            IoFor::Parked(holds) => return self.unpark(holds),
            IoFor::HostRead { request, stripe, start, deallocations }
            | IoFor::LeftRead { request, stripe, start, deallocations } => {
                if matches!(io.what, IoFor::HostRead { .. }) {
                    self.host_reads -= 1;
                } else {
                    self.ios.unpark();
                }
                let read = HostRead { request, stripe, start, span: io.span };
                return self.host_read_done(read, deallocations, &io, result);
            }
            IoFor::OpRead { op, strip } | IoFor::OpWrite { op, strip }
                if result.is_ok() && self.stripes.is_one_of_several(op, strip) =>
            {
                return;
            }
            IoFor::OpRead { .. } | IoFor::OpWrite { .. } | IoFor::OpAsk { .. } => {
                self.stripes.io_done(&mut tools!(self, ring), &io, result);
            }
            IoFor::OpDeallocate { .. } => {
                self.ios.hear_advice(&io, &self.shared);
                self.stripes.io_done(&mut tools!(self, ring), &io, result);
            }
            IoFor::Flush => {
                self.flush.done(&self.shared, &io, result);
                self.end_flushes(ring);
            }
            IoFor::Block { write } => self.blocks.copy_done(&mut turn!(self, ring), write, &io, result),
            IoFor::Superblock | IoFor::List | IoFor::Wipe => self.steward_io_done(ring, &io, result),
            IoFor::Probe => self.ios.probe_ended(io.slot),
        }
        self.answer_ended();
    }

    /// Goes on with everything that can: starts this turn's stripe ops, polls what waits, does a bounded
    /// piece of background work. A step of [`Array::turn`], public for checkers that put other steps between.
    pub fn advance<R: Ring>(&mut self, ring: &mut R, now_ns: u64) {
        self.now_ns = now_ns;
        turn!(self, ring).watch();
        self.park_advance(ring);
        self.tell_load();
        self.stripes.retry_parked(&self.shared);
        self.short = Short::default();
        for _ in 0..self.again.len() {
            let (read, suspects) = self.again.pop_front().expect("counted");
            self.read_again(read, suspects);
        }
        for _ in 0..self.stalled.len() {
            let request = self.stalled.pop_front().expect("counted");
            self.split(ring, request);
        }
        self.end_flushes(ring);
        self.flush.begin(&mut turn!(self, ring));
        self.end_flushes(ring);
        self.blocks.advance(&mut turn!(self, ring));
        self.steward_advance(ring);
        self.stripes.turn(&mut tools!(self, ring));
        self.answer_ended();
        self.blocks.begin(&mut turn!(self, ring));
    }

    /// Lets those go on that waited for a flush that is over.
    fn end_flushes<R: Ring>(&mut self, ring: &mut R) {
        while let Some(Over { waiter, result, missed }) = self.flush.next_over(&self.shared) {
            match waiter {
                FlushWaiter::Request(request) => self.answer_flush(request, result),
                FlushWaiter::Op(op) => self.stripes.flushed(&mut tools!(self, ring), op, missed),
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
        let load = Load { requests: self.requests.len() as u32, has_ops: self.stripes.has_ops() };
        steward.turn(&mut turn!(self, ring), &mut self.blocks, &mut self.flush, load);
        while let Some(ask) = self.steward.as_mut().and_then(|steward| steward.next_job()) {
            self.stripes.enqueue_job(&self.shared, ask);
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

    /// Answers the parts and jobs that have ended: here, or to the reactors that they came from.
    #[inline(always)]
    fn answer_ended(&mut self) {
        while let Some(PartEnd { home, home_part, request, held, result }) = self.stripes.parts.next_ended() {
            if home == self.me {
                self.answer_held(request, result, held);
            } else {
                self.shared.mailboxes.answer(home, Ended::Part { part: home_part, result, held });
            }
        }
        while let Some(end) = self.stripes.next_job_ended() {
            match &mut self.steward {
                Some(steward) => steward.job_ended(&self.shared, self.now_ns, end),
                None => self.shared.mailboxes.answer(0, Ended::Job(end)),
            }
        }
    }

    fn tally(&self) -> &Tally {
        &self.shared.tallies[usize::from(self.me)]
    }
}
