//! I/O of members that have left, and the memory that such I/O still holds.
//!
//! A member that does not answer may never give an I/O back, and until it does the kernel may write to the
//! I/O's memory or read from it. So once a slot is out on record nothing waits for its device any more: the
//! owner of each I/O goes on as if the I/O had failed, and the I/O stays behind, *parked*, with its memory:
//!
//! ```text
//!   in flight --(its member is out on record)--> parked --(the late completion)--> its memory is free
//!       |                                           `-- the owner goes on without the member
//!       `--(completion)--> the owner goes on
//! ```
//!
//! - A late completion frees memory and changes nothing else, whatever its result.
//! - Memory of stripe operations, bitmap blocks and superblocks becomes a *lot*: one span, and how many
//!   parked I/Os hold it. The owner takes fresh memory when it is done with the span.
//! - A host's memory belongs to its front end, which gives it back to a pool after the answer. A request
//!   whose memory is held is therefore given a fresh span before it is answered ([`Array::exchange_spans`]):
//!   a write is then answered, a read is done again without the member. The old span goes back to the pool
//!   with the last late completion.
//! - Memory that is not ours cannot be exchanged: pages of a request of ublk that the kernel has put into the
//!   ring's table ([`Memory::is_mapped`](crate::memory::Memory::is_mapped)). Such a read waits for the
//!   kernel, and no other request waits for it: it gives up its place among the reads of this reactor. A
//!   member that has been quiet for a while is therefore not read into such pages (see turn/watch.rs). A
//!   reactor that is told to end leaves such a read to the next server ([`Array::left_to_kernel`]): the
//!   driver keeps the request.
//!
//! Bounds: a reactor parks at most [`Sizes::parked`](super::Sizes::parked) I/Os. What would be one more waits
//! for its member, as everything does whose member cannot be spared. A pool keeps back half of what is not
//! parked, so that all that had to be parked can be replaced at once ([`Pool::keep_back`]).

use std::collections::VecDeque;

use crate::memory::{Pool, Span};
use crate::ring::Ring;
use crate::slab::NONE;
use crate::turn::{Holds, Io, IoFor, Seen};

use super::Array;
use super::host::Moved;

/// A request's span that parked I/Os hold, here or in other reactors.
#[derive(Debug)]
struct HostLot {
    span: Span,
    /// Parked I/Os that hold it. Below zero for a moment where another reactor's late completion is heard of
    /// before the end of the part that it was for.
    ios: i32,
    /// Whether the request has been given another span.
    is_left: bool,
}

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Parking {
    hosts: Vec<HostLot>,
    /// Requests that wait for another span, oldest first.
    exchanging: VecDeque<u32>,
    /// Pieces of spans of other reactors' hosts that could not be given back yet: a mailbox was full.
    unsent: VecDeque<(u8, Span)>,
    /// Spans of hosts that are free again.
    returned: Vec<Span>,
}

impl Parking {
    pub(super) fn new(requests: usize) -> Parking {
        Parking {
            hosts: Vec::with_capacity(requests),
            exchanging: VecDeque::with_capacity(requests),
            unsent: VecDeque::new(),
            returned: Vec::with_capacity(requests),
        }
    }

    /// Whether something is to be done in the next turn.
    pub(super) fn is_settled(&self) -> bool {
        self.unsent.is_empty() && self.exchanging.is_empty() && self.returned.is_empty()
    }

    /// So many more parked I/Os hold a request's span, or so many fewer.
    fn count_host(&mut self, whole: Span, more: i32) {
        let at = self.hosts.iter().position(|lot| lot.span.overlaps(whole));
        let at = at.unwrap_or_else(|| {
            self.hosts.push(HostLot { span: whole, ios: 0, is_left: false });
            self.hosts.len() - 1
        });
        let lot = &mut self.hosts[at];
        lot.ios += more;
        if lot.ios == 0 {
            let lot = self.hosts.swap_remove(at);
            if lot.is_left {
                self.returned.push(lot.span);
            }
        }
    }
}

impl Array {
    /// Whether nothing waits for the device of this I/O any more: its slot is out on record, or has another
    /// device by now, which it only gets when the one before is out on record. Where nothing is put on record
    /// any more, it is enough that the slot is out of the view.
    fn has_left(&self, io: &Io, seen: Seen) -> bool {
        let is_out = !seen.view.writable.has(io.slot);
        let nothing_is_recorded = self.shared.failed() || self.shared.read_only;
        match io.what {
            IoFor::Parked(_) | IoFor::LeftRead { .. } => false,
            // The record itself: waiting for it would be waiting for the member. One that merely fails, or
            // that the operator fails, has a moment to answer, so that a change under way need not be made
            // again. A device that joins has its time too.
            IoFor::Superblock if io.is_current(&self.shared) => is_out && self.ios.is_late(io),
            IoFor::Superblock => is_out && self.ios.is_overdue_since(io.beat, &self.shared),
            IoFor::Wipe => self.steward.as_ref().and_then(|steward| steward.arriving()) != Some(io.device),
            _ if !io.is_current(&self.shared) => true,
            _ => is_out && (nothing_is_recorded || !seen.record.writable.has(io.slot)),
        }
    }

    /// How many requests of hosts only the kernel can end: all that is left of them are reads of members that
    /// have left, into memory that is not ours. `None` as long as there are others. For a reactor that is to
    /// end, since it looks at every I/O.
    #[must_use]
    pub fn left_to_kernel(&self) -> Option<usize> {
        let members = &self.shared.members;
        let seen = Seen { view: members.view(), record: members.record() };
        let is_left = |io: &&Io| match io.what {
            IoFor::LeftRead { .. } => true,
            IoFor::HostRead { .. } => !self.shared.memory.is_mapped(io.span) && self.has_left(io, seen),
            _ => false,
        };
        let mut pending = 0;
        for request in self.requests.iter() {
            let of_request = request.pending();
            if of_request == 0 {
                return None;
            }
            pending += of_request;
        }
        // Every read that is left is of some request, so equal sums say that nothing else is pending.
        (pending == self.ios.iter().filter(is_left).count()).then_some(self.requests.len())
    }

    /// Parks the I/Os of members that have left.
    pub(super) fn park_advance<R: Ring>(&mut self, ring: &mut R) {
        for _ in 0..self.parking.unsent.len() {
            let (home, span) = self.parking.unsent.pop_front().expect("counted");
            self.give_back(home, span);
        }
        let members = &self.shared.members;
        let seen = Seen { view: members.view(), record: members.record() };
        let Some(seen) = self.ios.look(seen) else { return };
        for tag in 0..self.ios.tags() {
            if let Some(io) = self.ios.get(tag)
                && self.has_left(&io, seen)
                && self.ios.may_park()
            {
                self.park(ring, tag, io);
            }
        }
    }

    /// Parks one I/O, and has its owner go on.
    fn park<R: Ring>(&mut self, ring: &mut R, tag: u32, io: Io) {
        let me = self.me;
        let holds = match io.what {
            IoFor::HostRead { request, stripe, start, deallocations }
                if !self.shared.memory.is_mapped(io.span) =>
            {
                self.ios.park(tag, IoFor::LeftRead { request, stripe, start, deallocations });
                self.host_reads -= 1;
                return;
            }
            IoFor::Parked(_) | IoFor::LeftRead { .. } => return,
            IoFor::Flush | IoFor::OpDeallocate { .. } | IoFor::OpAsk { .. } | IoFor::Probe | IoFor::Wipe => {
                Holds::Nothing
            }
            IoFor::HostRead { .. } => Holds::Host { home: me, span: io.span },
            IoFor::OpRead { op, .. } | IoFor::OpWrite { op, .. } => {
                self.stripes.held_by(op, io.span, &mut self.buffers)
            }
            IoFor::Block { write } => self.blocks.hold(write, &mut self.buffers),
            IoFor::List => {
                let steward = self.steward.as_mut().expect("the steward writes the list");
                steward.lists().hold(&mut self.buffers)
            }
            IoFor::Superblock => {
                let mut lot = NONE;
                let holds = self.buffers.hold(&mut lot, io.span);
                self.buffers.leave(lot);
                holds
            }
        };
        self.ios.park(tag, IoFor::Parked(holds));
        match io.what {
            IoFor::HostRead { request, .. } => {
                self.host_reads -= 1;
                self.answer_held(request, Ok(()), 1);
            }
            IoFor::OpRead { .. }
            | IoFor::OpWrite { .. }
            | IoFor::OpAsk { .. }
            | IoFor::OpDeallocate { .. } => self.stripes.io_parked(&mut tools!(self, ring), &io),
            IoFor::Flush => {
                self.flush.ended(&io, false);
                self.end_flushes(ring);
            }
            IoFor::Block { write } => self.blocks.copy_ended(&mut turn!(self, ring), write, &io, false),
            IoFor::Superblock => {
                let steward = self.steward.as_mut().expect("the steward writes superblocks");
                steward.superblock_lost(&self.shared, self.now_ns, &io);
            }
            IoFor::List => {
                let steward = self.steward.as_mut().expect("the steward writes the list");
                steward.lists().write_ended(&io, false);
            }
            IoFor::Probe => self.ios.probe_ended(io.slot),
            IoFor::Wipe => {}
            IoFor::Parked(_) | IoFor::LeftRead { .. } => unreachable!("looked at above"),
        }
        self.answer_ended();
    }

    /// The kernel gives back what nothing has waited for.
    pub(super) fn unpark(&mut self, holds: Holds) {
        self.ios.unpark();
        match holds {
            Holds::Nothing => {}
            Holds::Lot(lot) => self.buffers.release(lot),
            Holds::Host { home, span } if home == self.me => self.host_span_returned(span),
            Holds::Host { home, span } => self.give_back(home, span),
        }
    }

    fn give_back(&mut self, home: u8, span: Span) {
        if !self.shared.mailboxes.give_back(home, span) {
            self.parking.unsent.push_back((home, span));
        }
    }

    /// One parked I/O fewer holds a piece of the span of a request of this reactor's host.
    pub(super) fn host_span_returned(&mut self, span: Span) {
        // Its request still has it where its end is not heard of yet.
        let request = self.requests.iter().find(|request| request.span().overlaps(span));
        let whole = request.map_or(span, |request| request.span());
        self.parking.count_host(whole, -1);
    }

    /// So many parked I/Os hold the span of a request of this reactor's host.
    pub(super) fn host_span_held(&mut self, span: Span, ios: u16) {
        self.parking.count_host(span, ios.into());
    }

    /// A request is over but for its span, which parked I/Os hold.
    pub(super) fn exchange(&mut self, request: u32) {
        self.parking.exchanging.push_back(request);
    }

    /// Gives requests whose memory the kernel holds another span of the host's pool, and gives back to it
    /// what the kernel has given back. `span_bytes` says how long a span the front end wants for a request of
    /// so many bytes. Called once a turn.
    pub fn exchange_spans<R: Ring>(
        &mut self,
        ring: &mut R,
        pool: &mut Pool,
        span_bytes: impl Fn(u32) -> u32,
    ) {
        while let Some(span) = self.parking.returned.pop() {
            pool.give_parked(span);
        }
        while let Some(&index) = self.parking.exchanging.front() {
            let old = self.requests[index].span();
            let Some(fresh) = pool.take_kept_back(span_bytes(old.len_bytes)) else { return };
            self.parking.exchanging.pop_front();
            match self.parking.hosts.iter_mut().find(|lot| lot.span.overlaps(old)) {
                Some(lot) => {
                    lot.is_left = true;
                    pool.park(old);
                }
                None => pool.give(old),
            }
            match self.requests[index].move_to(fresh.part(0, old.len_bytes)) {
                Moved::Again => self.split(ring, index),
                Moved::Done => self.answer(index),
            }
        }
    }
}
