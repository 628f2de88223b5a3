//! The array as one reactor runs it: events in, member operations and replies out.
//!
//! ```text
//! submit(request) --> host.rs: split by stripe --+-- healthy read --> member, no lock
//!                                                |
//!                                                +-- part --> own the stripe --> stripe op
//! advance() --> start the ops of this turn: all parts of a stripe that arrived together are one op
//!               write.rs: plan, read, parity, intent, write, acknowledge       read.rs: reconstruct
//! complete(completion) --> the I/O's owner goes on
//! ```
//!
//! `Array` does no I/O, reads no clock and rolls no dice: it pushes operations into a
//! [`Ring`], is told the time, and pushes replies into a vector. It never waits: what
//! cannot go on is in a list that [`Array::advance`] looks at each turn.
//!
//! **Ownership.** A stripe that is written, reconstructed, discarded, resynced or rebuilt is owned by
//! one reactor from the first read to the last write ([`bitmap::StripeLocks`]); parts that arrive meanwhile
//! queue behind the op and are merged into the next. A reactor that finds a stripe owned by another
//! posts the part to that reactor's mailbox; when the owner has let go meanwhile, it competes for the
//! lock like anyone. Nothing is hashed to cores, so the uncontended path stays on one.
//!
//! Invariants:
//! - a part is in exactly one list: parked, an op's `waiting`, an op's `active`, or at another reactor;
//! - an op exists exactly while this reactor owns its lock slot;
//! - memory of an op is taken before its first I/O and given back after its last completion.

use std::collections::VecDeque;
use std::sync::Arc;

use bitmap::{Cell, StripeLocks};

use crate::geometry::Strips;
use crate::mailbox::Message;
use crate::memory::{Pool, Span};
use crate::request::{Reply, Request, RequestError};
use crate::ring::{Completion, DeviceIndex, MemberIo, MemberOp, Ring};
use crate::slab::Slab;
use crate::tally::Tally;

mod background;
mod flush;
mod host;
mod intent;
mod keeper;
mod op;
mod parity;
mod read;
mod shared;
mod show;
mod sizes;
mod steward;
mod sweep;
mod wanted;
mod watch;
mod write;

use flush::FlushGate;
use host::{HostRead, HostRequest};
use intent::BlockWrites;
pub(crate) use op::{Part, PartKind};
use op::{Phase, Segments, StripeOp};
pub use shared::{Layout, Shared};
pub use sizes::Sizes;
use steward::Steward;
pub use steward::{Answer, Beginning, Order, StewardState};
use watch::Watch;

/// No index: the end of a list, or an empty lock slot.
pub(crate) const NONE: u32 = u32::MAX;

/// No op in a lock slot. The table has a byte a slot, so that it stays in a core's cache.
const NO_OP: u8 = u8::MAX;
const _: () = assert!(Sizes::FULL.ops < NO_OP as usize);

/// Requests of one reactor's host in flight.
pub const REQUESTS_MAX: usize = Sizes::FULL.requests;
/// Member I/Os that one stripe operation has in flight at most: one for each member.
const IOS_PER_OP_MAX: usize = crate::limits::MEMBERS_MAX;

/// For whom a member I/O is.
#[derive(Clone, Copy, Debug)]
enum IoFor {
    /// A healthy read, straight into the host's buffer; what is needed to reconstruct it instead, and the
    /// count of deallocations when it began.
    HostRead { request: u32, stripe: u64, start: u32, span: Span, deallocations: u32 },
    /// A stripe op's read of one strip.
    OpRead { op: u32, strip: u8 },
    /// A stripe op's write of one strip.
    OpWrite { op: u32, strip: u8 },
    /// A stripe op's advice to the device.
    OpDeallocate { op: u32 },
    /// A flush round.
    Flush,
    /// A copy of a bitmap block.
    Block { write: u32 },
    /// A superblock.
    Superblock,
}

/// One member I/O in flight.
#[derive(Clone, Copy, Debug)]
struct Io {
    what: IoFor,
    slot: u8,
    /// The device it went to: a slot may have another by the time it completes.
    device: DeviceIndex,
    /// When it was pushed, in beats of the watch.
    beat: u32,
}

/// One reactor's share of an array.
pub struct Array {
    me: u8,
    shared: Arc<Shared>,
    sizes: Sizes,
    /// Memory of stripe ops. The front end has its own, so ops always find some in the end.
    pool: Pool,
    requests: Slab<HostRequest>,
    parts: Slab<Part>,
    ops: Slab<StripeOp>,
    /// The batch of each op, by its index: beside the ops, which are made and dropped for each stripe.
    segments: Box<[Segments]>,
    ios: Slab<Io>,
    host_reads: usize,
    /// The first op of each lock slot that this reactor owns.
    owned: Box<[u8]>,
    /// Healthy reads that have to be done again under the stripe's ownership, and found no part free.
    again: VecDeque<(HostRead, Strips)>,
    /// Requests that are not split to the end yet.
    stalled: VecDeque<u32>,
    /// Parts that found no op free, or their owner's mailbox full.
    parked: VecDeque<u32>,
    /// Answers to other reactors whose mailbox was full.
    unsent: VecDeque<(u8, Message)>,
    /// Ops to start at the end of this turn.
    fresh: VecDeque<u32>,
    /// Ops that wait for memory.
    starved: VecDeque<u32>,
    /// Ops that wait for a cell, a ticket or the record; looked at each turn.
    polling: Vec<u32>,
    flush: FlushGate,
    blocks: BlockWrites,
    /// Reactor 0 has the steward.
    steward: Option<Box<Steward>>,
    watch: Watch,
    replies: Vec<Reply>,
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
        assert!(sizes.ops < usize::from(NO_OP) && sizes.ios() <= crate::limits::IO_IN_FLIGHT_MAX);
        let blocks = BlockWrites::new(&mut pool, &sizes, shared.bitmap.blocks());
        let steward = (me == 0).then(|| Box::new(Steward::new(&shared, &mut pool)));
        Array {
            me,
            pool,
            requests: Slab::new(sizes.requests),
            parts: Slab::new(sizes.parts),
            ops: Slab::new(sizes.ops),
            segments: vec![Segments::EMPTY; sizes.ops].into_boxed_slice(),
            ios: Slab::new(sizes.ios()),
            host_reads: 0,
            owned: vec![NO_OP; bitmap::LOCK_SLOTS].into_boxed_slice(),
            again: VecDeque::with_capacity(sizes.host_reads),
            stalled: VecDeque::with_capacity(sizes.requests),
            parked: VecDeque::with_capacity(sizes.parts),
            unsent: VecDeque::with_capacity(sizes.parts),
            fresh: VecDeque::with_capacity(sizes.ops),
            starved: VecDeque::with_capacity(sizes.ops),
            polling: Vec::with_capacity(sizes.ops),
            flush: FlushGate::new(&sizes),
            blocks,
            steward,
            watch: Watch::default(),
            replies: Vec::with_capacity(sizes.requests),
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

    /// Whether nothing is in flight here: no request, part, stripe or member I/O.
    #[must_use]
    pub fn quiet(&self) -> bool {
        self.requests.len() == 0
            && self.parts.len() == 0
            && self.ops.len() == 0
            && self.ios.len() == 0
            && self.unsent.is_empty()
    }

    /// Whether every request of this reactor's host is answered.
    #[must_use]
    pub fn host_is_quiet(&self) -> bool {
        self.requests.len() == 0
    }

    /// Whether no member I/O is in flight here.
    #[must_use]
    pub fn io_is_quiet(&self) -> bool {
        self.ios.len() == 0
    }

    /// Whether something waits for what no completion or mailbox will announce: another reactor's
    /// bitmap write, the record, memory. The reactor then keeps turning.
    #[must_use]
    pub fn must_turn(&self) -> bool {
        !(self.polling.is_empty()
            && self.parked.is_empty()
            && self.unsent.is_empty()
            && self.starved.is_empty()
            && self.again.is_empty()
            && self.stalled.is_empty()
            && self.flush.settled()
            && self.blocks.settled())
            || self.steward.as_ref().is_some_and(|steward| steward.must_turn(&self.shared))
    }

    /// When there is next something to do though nothing moves; `None` for never.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let steward = self.steward.as_ref().filter(|_| !self.shared.read_only);
        let steward = steward.and_then(|steward| steward.next_deadline_ns());
        let watch = (self.ios.len() > 0).then(|| self.watch.next_deadline_ns());
        [steward, watch].into_iter().flatten().min()
    }

    /// Touches what a request will need first: its stripe's cell, mostly a cache miss. Done for all requests
    /// of a turn before the first is taken, the misses overlap instead of adding up.
    pub fn anticipate(&self, request: &Request) {
        if request.offset_bytes < self.shared.geometry.size_bytes() {
            let (stripe, _) = self.shared.geometry.locate(request.offset_bytes);
            self.shared.bitmap.anticipate(stripe);
        }
    }

    /// Takes a request; its answer comes by [`Array::take_replies`]. The caller has looked for
    /// [`room`](Array::room).
    pub fn submit<R: Ring>(&mut self, ring: &mut R, request: Request) {
        self.take_request(ring, request);
    }

    /// Whether a message may be taken.
    #[must_use]
    pub fn has_room_for_mail(&self) -> bool {
        self.parts.room() > 0
    }

    /// Takes a message of another reactor; the caller has looked for
    /// [`room`](Array::has_room_for_mail).
    pub fn receive(&mut self, message: Message) {
        match message {
            // It has come home: the owner had let go, and found the stripe owned here. Its place was kept.
            Message::Part(part) if part.home == self.me => self.enqueue(part.home_part),
            Message::Part(part) => {
                let index = self.parts.insert(part);
                self.enqueue(index);
            }
            Message::Done { part, result } => {
                let part = self.parts.remove(part);
                self.answer_part(part.request, result);
            }
        }
    }

    /// Takes the end of a member operation.
    pub fn complete<R: Ring>(&mut self, ring: &mut R, completion: Completion) {
        let io = self.ios.remove(completion.tag);
        if self.shared.read_only {
            self.shared.members.heard(io.slot);
        }
        match io.what {
            IoFor::HostRead { request, stripe, start, span, deallocations } => {
                self.host_reads -= 1;
                let read = HostRead { request, stripe, start, span };
                self.host_read_done(read, deallocations, io, completion.result);
            }
            IoFor::OpRead { op, strip } => self.op_read_done(ring, op, strip, io, completion.result),
            IoFor::OpWrite { op, strip } => self.op_write_done(ring, op, strip, io, completion.result),
            IoFor::OpDeallocate { op } => self.op_deallocated(op),
            IoFor::Flush => self.flush_done(io, completion.result),
            IoFor::Block { write } => self.block_copy_done(write, io, completion.result),
            IoFor::Superblock => self.superblock_done(io, completion.result),
        }
    }

    /// Goes on with everything that can: starts this turn's stripe ops, polls what waits, does a bounded
    /// piece of background work.
    pub fn advance<R: Ring>(&mut self, ring: &mut R, now_ns: u64) {
        self.now_ns = now_ns;
        self.watch_advance();
        for _ in 0..self.unsent.len() {
            let (reactor, message) = self.unsent.pop_front().expect("counted");
            self.post(reactor, message);
        }
        for _ in 0..self.parked.len() {
            let part = self.parked.pop_front().expect("counted");
            self.enqueue(part);
        }
        for _ in 0..self.again.len() {
            let (read, suspects) = self.again.pop_front().expect("counted");
            self.read_again(read, suspects);
        }
        for _ in 0..self.stalled.len() {
            let request = self.stalled.pop_front().expect("counted");
            self.split(ring, request);
        }
        self.flush_advance(ring);
        self.blocks_advance();
        self.steward_advance(ring);
        for _ in 0..self.starved.len() {
            let op = self.starved.pop_front().expect("counted");
            self.replan(ring, op);
        }
        self.poll_ops(ring);
        while let Some(op) = self.fresh.pop_front() {
            self.start(ring, op);
        }
        self.begin_block_writes(ring);
    }

    /// The answers since the last call.
    pub fn take_replies(&mut self) -> std::vec::Drain<'_, Reply> {
        self.replies.drain(..)
    }

    /// Hands a part to the op of its stripe: here, or at the reactor that owns it.
    fn enqueue(&mut self, index: u32) {
        let stripe = self.parts[index].stripe;
        match self.own(stripe) {
            Ownership::Op(op) => {
                let StripeOp { waiting, phase, .. } = &mut self.ops[op];
                waiting.push(&mut self.parts, index);
                if !matches!(phase, Phase::Fresh) {
                    self.tally().merged.add(1);
                }
            }
            Ownership::NoRoom => self.parked.push_back(index),
            Ownership::Other(reactor) => {
                let part = self.parts[index];
                match self.shared.mailboxes.post(reactor, Message::Part(part)) {
                    Ok(()) => {
                        self.tally().handed_over.add(1);
                        if part.home != self.me {
                            // It was another reactor's in the first place, which hears from the new owner.
                            self.parts.remove(index);
                        }
                    }
                    Err(_) => self.parked.push_back(index),
                }
            }
        }
    }

    /// The op of a stripe that this reactor owns or now comes to own.
    fn own(&mut self, stripe: u64) -> Ownership {
        let slot = StripeLocks::slot_of(stripe);
        let head = self.owned[slot as usize];
        let mut op = head;
        while op != NO_OP {
            let index = u32::from(op);
            if self.ops[index].stripe == stripe {
                return Ownership::Op(index);
            }
            op = self.ops[index].chain;
        }
        if self.ops.room() == 0 {
            return Ownership::NoRoom;
        }
        if head == NO_OP
            && let Err(owner) = self.shared.locks.try_own(slot, self.me)
        {
            return Ownership::Other(owner);
        }
        let op = self.ops.insert(StripeOp::new(stripe, slot, head, self.shared.geometry.rotation(stripe)));
        self.owned[slot as usize] = op as u8;
        self.fresh.push_back(op);
        Ownership::Op(op)
    }

    /// Starts what waits at an op, or lets the stripe go.
    fn start<R: Ring>(&mut self, ring: &mut R, index: u32) {
        loop {
            let op = &mut self.ops[index];
            debug_assert!(op.active.is_empty() && op.work == Span::EMPTY && op.pending == 0);
            let Some(first) = op.waiting.first() else {
                match op.background.take() {
                    Some(job) => self.start_background(ring, index, job),
                    None => self.let_go(index),
                }
                return;
            };
            op.begin(&mut self.parts, &self.shared.geometry);
            let started = match self.parts[first].kind {
                PartKind::Write | PartKind::Zero => self.start_write(ring, index),
                PartKind::Read => self.start_read(ring, index),
                PartKind::Discard => self.start_discard(index),
            };
            if matches!(started, Started::Running) {
                return;
            }
        }
    }

    /// Ends the op's present work: answers its parts, gives its memory back, and queues the op to start
    /// what came meanwhile.
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
    fn answer_active(&mut self, index: u32, result: Result<(), RequestError>) {
        while let Some(index_of_part) = self.ops[index].active.pop(&mut self.parts) {
            let part = self.parts[index_of_part];
            self.parts.remove(index_of_part);
            if part.home == self.me {
                self.answer_part(part.request, result);
            } else {
                self.post(part.home, Message::Done { part: part.home_part, result });
            }
        }
    }

    fn give_work(&mut self, index: u32) {
        let work = std::mem::replace(&mut self.ops[index].work, Span::EMPTY);
        if work != Span::EMPTY {
            self.pool.give(work);
        }
    }

    fn let_go(&mut self, index: u32) {
        let StripeOp { chain, lock_slot, .. } = self.ops[index];
        self.ops.free(index);
        let head = &mut self.owned[lock_slot as usize];
        if u32::from(*head) == index {
            *head = chain;
        } else {
            let mut before = u32::from(*head);
            while u32::from(self.ops[before].chain) != index {
                before = self.ops[before].chain.into();
            }
            self.ops[before].chain = chain;
        }
        if self.owned[lock_slot as usize] == NO_OP {
            self.shared.locks.release(lock_slot, self.me);
        }
    }

    fn post(&mut self, reactor: u8, message: Message) {
        if let Err(message) = self.shared.mailboxes.post(reactor, message) {
            self.unsent.push_back((reactor, message));
        }
    }

    /// Looks at every op that waits for something nobody announces, the one that has waited longest first: it is the first to
    /// ask for its bitmap block.
    fn poll_ops<R: Ring>(&mut self, ring: &mut R) {
        let (count, mut kept) = (self.polling.len(), 0);
        for at in 0..count {
            let index = self.polling[at];
            if !self.poll_op(ring, index) {
                self.polling[kept] = index;
                kept += 1;
            }
        }
        // What began to wait in this pass comes behind, and is looked at in the next.
        self.polling.drain(kept..count);
    }

    /// Whether the op's wait is over; if so it has gone on.
    fn poll_op<R: Ring>(&mut self, ring: &mut R, index: u32) -> bool {
        let op = &self.ops[index];
        let (stripe, failed) = (op.stripe, self.shared.failed());
        let (skipped, ticket) = (op.skipped, op.ticket);
        match op.phase {
            Phase::AwaitingIntent => {
                if self.shared.bitmap.intent_is_durable(stripe) {
                    self.issue_writes(ring, index);
                } else if failed {
                    self.finish(index, Err(RequestError::Lost));
                } else {
                    self.write_block(self.shared.bitmap.block_of(stripe));
                    return false;
                }
            }
            Phase::AwaitingFirst => {
                // Dirty, or Aged: a sweep may have passed before this poll.
                if self.shared.bitmap.cell(stripe) != Cell::First {
                    self.finish(index, Ok(()));
                } else if failed {
                    self.finish(index, Err(RequestError::Lost));
                } else {
                    self.write_block(self.shared.bitmap.block_of(stripe));
                    return false;
                }
            }
            Phase::AwaitingTicket => {
                let ticket = ticket.expect("this phase has one");
                if self.shared.bitmap.is_durable(ticket) {
                    self.deallocate(ring, index);
                } else if failed {
                    self.finish(index, Err(RequestError::Lost));
                } else {
                    self.write_block(self.shared.bitmap.block_of(stripe));
                    return false;
                }
            }
            Phase::AwaitingUnmarked => {
                if self.shared.bitmap.cell(stripe) != Cell::Marked {
                    self.discard(index);
                    // It goes on polling, for its ticket.
                    return false;
                } else if failed {
                    self.finish(index, Err(RequestError::Lost));
                } else {
                    self.write_block(self.shared.bitmap.block_of(stripe));
                    return false;
                }
            }
            Phase::AwaitingRecord => {
                if self.shared.members.on_record(skipped, stripe) {
                    self.recorded(index);
                } else if failed {
                    self.finish(index, Err(RequestError::Lost));
                } else {
                    return false;
                }
            }
            _ => unreachable!("only waiting ops are polled: {:?}", op.phase),
        }
        true
    }

    /// Pushes one member I/O.
    fn push<R: Ring>(&mut self, ring: &mut R, what: IoFor, slot: u8, io: MemberIo, offset: u64, span: Span) {
        let device = self.shared.members.device(slot);
        self.push_to(ring, what, slot, device, io, offset, span);
    }

    /// Pushes one member I/O to a device that the slot may not have yet.
    #[expect(clippy::too_many_arguments, reason = "the fields of an operation, each named")]
    fn push_to<R: Ring>(
        &mut self,
        ring: &mut R,
        what: IoFor,
        slot: u8,
        device: DeviceIndex,
        io: MemberIo,
        offset_bytes: u64,
        span: Span,
    ) {
        let op = MemberOp { tag: 0, device, io, offset_bytes, len_bytes: u64::from(span.len_bytes), span };
        self.push_op(ring, what, slot, op);
    }

    /// The one place at which member I/O leaves for the ring; the operation gets its tag here. A read-only array only reads:
    /// a single write could overwrite what is being rescued.
    fn push_op<R: Ring>(&mut self, ring: &mut R, what: IoFor, slot: u8, op: MemberOp) {
        assert!(op.io == MemberIo::Read || !self.shared.read_only, "{:?} in a read-only array", op.io);
        let tag = self.ios.insert(Io { what, slot, device: op.device, beat: self.watch.beat() });
        ring.push(MemberOp { tag, ..op });
    }

    /// Advises a member that it may forget a range.
    fn push_deallocate<R: Ring>(
        &mut self,
        ring: &mut R,
        op_index: u32,
        slot: u8,
        offset_bytes: u64,
        len_bytes: u64,
    ) {
        let device = self.shared.members.device(slot);
        let io = MemberIo::Deallocate;
        let op = MemberOp { tag: 0, device, io, offset_bytes, len_bytes, span: Span::EMPTY };
        self.push_op(ring, IoFor::OpDeallocate { op: op_index }, slot, op);
    }

    /// Counts a failed read of a strip against its member.
    fn read_error(&self, io: &Io, stripe: u64, errno: i32) {
        if self.is_current(io) {
            let data = self.shared.geometry.data();
            self.shared.members.count_read_error(io.slot, stripe, errno, data.into());
        }
    }

    /// Whether an error on this I/O speaks of the device that the slot has now.
    fn is_current(&self, io: &Io) -> bool {
        self.shared.members.device(io.slot) == io.device
    }

    fn tally(&self) -> &Tally {
        &self.shared.tallies[usize::from(self.me)]
    }
}

/// Where a part's stripe is.
enum Ownership {
    /// Here, in this op.
    Op(u32),
    /// Here or free, but there is no op to be had.
    NoRoom,
    /// At that reactor.
    Other(u8),
}

/// Whether an op has gone to work.
enum Started {
    /// It has I/O in flight, or waits for something.
    Running,
    /// It was done at once; start what comes next.
    Done,
}
