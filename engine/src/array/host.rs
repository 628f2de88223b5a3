//! Requests of this reactor's host: checked, split by stripe, read where nothing is wrong, answered.
//!
//! A healthy read takes no lock: it goes straight from the member into the host's buffer. Everything else
//! becomes parts, one a stripe. A request is split only as far as there is room; the rest of it waits in
//! `stalled`, so a discard of the whole array is one request and not a flood. Those that are there go on in
//! the order in which they came, and a new request that needs what one of them waits for queues behind it.

use std::sync::atomic::Ordering;

use bitmap::Cell;

use crate::geometry::Strips;
use crate::limits::REQUEST_BYTES_MAX;
use crate::memory::Span;
use crate::request::{Reply, Request, RequestError, RequestKind};
use crate::ring::{MemberIo, Ring};
use crate::stripe::{PARTS_PER_REQUEST_MAX, is_lost};

use crate::durable::FlushWaiter;
use crate::part::{Part, PartKind};
use crate::slab::NONE;
use crate::turn::{Io, IoFor};

use super::Array;

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostRequest {
    request: Request,
    /// The first byte that is not split off yet.
    cursor: u64,
    /// Parts and member reads in flight.
    pending: u32,
    /// Parked I/Os hold its span: it gets another one before it is answered.
    is_held: bool,
    result: Result<(), RequestError>,
}

/// A piece of one strip that is read for a request, without the stripe's ownership.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostRead {
    pub(super) request: u32,
    pub(super) stripe: u64,
    /// First byte within the stripe.
    pub(super) start: u32,
    pub(super) span: Span,
}

/// The next step of a request that was given other memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Be read again.
    Again,
    /// Be answered.
    Done,
}

impl HostRequest {
    const fn end(&self) -> u64 {
        self.request.offset_bytes + self.request.len_bytes
    }

    /// Parts and reads that are in flight, and one more for each step that is to come.
    pub(super) fn pending(&self) -> usize {
        self.pending as usize + usize::from(self.cursor < self.end()) + usize::from(self.is_held)
    }

    pub(super) const fn kind(&self) -> RequestKind {
        self.request.kind
    }

    /// Parts and member reads in flight; of a flush, the flush.
    pub(super) const fn pieces(&self) -> usize {
        self.pending as usize
    }

    /// The memory of the request.
    pub(super) const fn span(&self) -> Span {
        self.request.span
    }

    /// Gives it other memory. A read that has not failed begins anew there.
    pub(super) fn move_to(&mut self, span: Span) -> Moved {
        (self.request.span, self.is_held) = (span, false);
        if self.request.kind == RequestKind::Read && self.result.is_ok() {
            self.cursor = self.request.offset_bytes;
            return Moved::Again;
        }
        Moved::Done
    }
}

impl Array {
    pub(super) fn take_request<R: Ring>(&mut self, ring: &mut R, request: Request) {
        if let Err(error) = self.check(&request) {
            self.tally().errors.add(1);
            self.replies.push(Reply { tag: request.tag, result: Err(error), span: request.span });
            return;
        }
        if request.kind == RequestKind::Flush && self.shared.read_only {
            // Nothing was written since the start, which flushed every member before it read its superblocks.
            self.tally().flushes.add(1);
            self.replies.push(Reply { tag: request.tag, result: Ok(()), span: request.span });
            return;
        }
        let cursor = request.offset_bytes;
        let index =
            self.requests.insert(HostRequest { request, cursor, pending: 0, is_held: false, result: Ok(()) });
        if request.kind == RequestKind::Flush {
            self.requests[index].pending = 1;
            self.flush.join(FlushWaiter::Request(index));
        } else {
            self.split(ring, index);
        }
    }

    fn check(&self, request: &Request) -> Result<(), RequestError> {
        let Request { kind, offset_bytes, len_bytes, span, .. } = *request;
        if kind == RequestKind::Flush {
            return Ok(());
        }
        // A power of two.
        let within_block = u64::from(self.shared.layout.logical_block_bytes) - 1;
        let has_data = matches!(kind, RequestKind::Read | RequestKind::Write { .. });
        if len_bytes == 0
            || (offset_bytes | len_bytes) & within_block != 0
            || (has_data
                && (len_bytes > u64::from(REQUEST_BYTES_MAX) || u64::from(span.len_bytes) != len_bytes))
        {
            return Err(RequestError::Misaligned);
        }
        let size = self.shared.geometry.size_bytes();
        if offset_bytes > size || len_bytes > size - offset_bytes {
            return Err(RequestError::OutOfRange);
        }
        if self.shared.read_only && kind != RequestKind::Read {
            return Err(RequestError::ReadOnly);
        }
        Ok(())
    }

    /// Splits off as many stripes as there is room for; answers a request that is done.
    pub(super) fn split<R: Ring>(&mut self, ring: &mut R, index: u32) {
        let geometry = self.shared.geometry;
        let HostRequest { request, mut cursor, .. } = self.requests[index];
        let end = request.offset_bytes + request.len_bytes;
        let is_new_batch = self.requests[index].pending == 0;
        while cursor < end {
            let (stripe, start) = geometry.locate(cursor);
            let len = (end - cursor).min(u64::from(geometry.stripe_bytes() - start)) as u32;
            let taken = match request.kind {
                RequestKind::Read => {
                    let span = request.span.part((cursor - request.offset_bytes) as u32, len);
                    self.read_stripe(ring, index, stripe, start, span)
                }
                RequestKind::Write { fua } => {
                    let span = request.span.part((cursor - request.offset_bytes) as u32, len);
                    self.split_part(index, PartKind::Write, stripe, (start, start + len), span, fua)
                }
                RequestKind::Discard | RequestKind::WriteZeroes { .. } => {
                    let whole = len == geometry.stripe_bytes();
                    let batch_bytes = u64::from(PARTS_PER_REQUEST_MAX) * u64::from(len);
                    let discard = PartKind::Discard { is_last: end - cursor <= batch_bytes };
                    let kind = if whole { discard } else { PartKind::Zero };
                    let fua = matches!(request.kind, RequestKind::WriteZeroes { fua: true });
                    (!whole || is_new_batch)
                        && self.split_part(index, kind, stripe, (start, start + len), Span::EMPTY, fua)
                }
                RequestKind::Flush => unreachable!("a flush has no range"),
            };
            if !taken {
                break;
            }
            cursor += u64::from(len);
        }
        self.requests[index].cursor = cursor;
        if cursor < end {
            self.stalled.push_back(index);
        } else if self.requests[index].pending == 0 {
            self.end(index);
        }
    }

    #[inline(always)] // for its span: see `Span`
    fn split_part(
        &mut self,
        request: u32,
        kind: PartKind,
        stripe: u64,
        (start, end): (u32, u32),
        span: Span,
        fua: bool,
    ) -> bool {
        if self.requests[request].pending >= PARTS_PER_REQUEST_MAX {
            return false;
        }
        if self.short.parts || !self.stripes.parts.has_room() {
            self.short.parts = true;
            return false;
        }
        self.requests[request].pending += 1;
        self.insert_part(request, kind, stripe, (start, end), span, fua, Strips::NONE);
        true
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a part, named at the two callers")]
    #[inline(always)] // for its span: see `Span`
    fn insert_part(
        &mut self,
        request: u32,
        kind: PartKind,
        stripe: u64,
        (start, end): (u32, u32),
        span: Span,
        fua: bool,
        suspects: Strips,
    ) {
        let home = self.me;
        let part = Part {
            kind,
            stripe,
            start,
            end,
            span,
            fua,
            suspects,
            home,
            home_part: NONE,
            request,
            held: 0,
            next: NONE,
        };
        self.stripes.take_own(&self.shared, part);
    }

    /// Reads a piece of one stripe: zeros, or straight from the members, or as a part that owns the
    /// stripe where a strip is not there. False when there is no room now.
    fn read_stripe<R: Ring>(
        &mut self,
        ring: &mut R,
        request: u32,
        stripe: u64,
        start: u32,
        span: Span,
    ) -> bool {
        let shared = &*self.shared;
        let geometry = shared.geometry;
        // Acquire, before the cell: a deallocation that is counted already has made the cell Unwritten
        // before.
        let deallocations = shared.deallocations.load(Ordering::Acquire);
        let cell = shared.bitmap.cell(stripe);
        let is_mapped = shared.memory.is_mapped(span);
        if matches!(cell, Cell::Unwritten | Cell::First) {
            if is_mapped {
                shared.memory.zero(span);
            } else {
                self.needs_memory(request);
            }
            return true;
        }
        if is_lost(&self.shared, stripe, start, span.len_bytes) {
            self.requests[request].result = Err(RequestError::Lost);
            return true;
        }
        let shared = &*self.shared;
        let (first, first_row) = geometry.strip_of(start);
        let (last, _) = geometry.strip_of(start + span.len_bytes - 1);
        let rotation = geometry.rotation(stripe);
        let need_sync = cell == Cell::NeedSync;
        let readable = shared.members.readable_at(shared.members.view(), stripe, need_sync);
        let is_there = (first..last + 1).all(|strip| readable.has(rotation.slot_of(strip)));
        // What is read into memory that is not ours has to be waited for, whatever becomes of its member.
        let slow = self.ios.slow();
        let is_slow = || (first..last + 1).any(|strip| slow.has(rotation.slot_of(strip)));
        if !is_mapped && (!is_there || is_slow()) {
            self.needs_memory(request);
            return true;
        }
        if !is_there {
            return self.split_part(
                request,
                PartKind::Read,
                stripe,
                (start, start + span.len_bytes),
                span,
                false,
            );
        }
        let wanted = last - first + 1;
        if self.short.reads || self.host_reads + usize::from(wanted) > self.sizes.host_reads {
            self.short.reads = true;
            return false;
        }
        let data = shared.layout.data_offset_bytes + geometry.strip_offset(stripe);
        let (mut row, mut at) = (first_row, 0);
        for strip in first..last + 1 {
            let len = (geometry.chunk_bytes() - row).min(span.len_bytes - at);
            let piece = span.part(at, len);
            let what = IoFor::HostRead { request, stripe, start: start + at, deallocations };
            turn!(self, ring).push(
                what,
                rotation.slot_of(strip),
                MemberIo::Read,
                data + u64::from(row),
                piece,
            );
            (row, at) = (0, at + len);
        }
        self.host_reads += usize::from(wanted);
        self.requests[request].pending += u32::from(wanted);
        self.tally().member_reads.add(u64::from(wanted));
        true
    }

    /// A healthy read has ended. One that failed becomes a part: read the stripe without that strip,
    /// reconstruct, rewrite. So does one during which strips were deallocated, perhaps these: it may have
    /// seen what no host wrote.
    #[inline]
    pub(super) fn host_read_done(
        &mut self,
        read: HostRead,
        deallocations: u32,
        io: &Io,
        result: Result<(), i32>,
    ) {
        let undisturbed = self.shared.deallocations.load(Ordering::Acquire) == deallocations;
        let is_right = result.is_ok() && undisturbed;
        if !is_right && !self.shared.memory.is_mapped(read.span) {
            // Not counted against the member: a host's pages may lie so that the device cannot fill them.
            self.answer_part(read.request, Err(RequestError::NeedsMemory));
        } else if let Err(errno) = result {
            io.count_read_error(&self.shared, read.stripe, errno);
            let (strip, _) = self.shared.geometry.strip_of(read.start);
            self.read_again(read, Strips::one(strip));
        } else if undisturbed {
            self.answer_part(read.request, Ok(()));
        } else {
            self.read_again(read, Strips::NONE);
        }
    }

    /// Does a read again as a part that owns its stripe.
    pub(super) fn read_again(&mut self, read: HostRead, suspects: Strips) {
        if self.short.parts || !self.stripes.parts.has_room() {
            self.short.parts = true;
            self.again.push_back((read, suspects));
            return;
        }
        let HostRead { request, stripe, start, span } = read;
        self.insert_part(
            request,
            PartKind::Read,
            stripe,
            (start, start + span.len_bytes),
            span,
            false,
            suspects,
        );
    }

    /// A piece of a request in a host buffer cannot be read without touching its bytes.
    fn needs_memory(&mut self, request: u32) {
        self.requests[request].result = Err(RequestError::NeedsMemory);
    }

    /// Notes that a part of a request has ended, with `held` of its I/Os parked.
    #[inline]
    pub(super) fn answer_held(&mut self, index: u32, result: Result<(), RequestError>, held: u16) {
        if held > 0 {
            self.requests[index].is_held = true;
            self.host_span_held(self.requests[index].span(), held);
        }
        self.answer_part(index, result);
    }

    /// Notes that a piece of a request has ended.
    #[inline]
    pub(super) fn answer_part(&mut self, index: u32, result: Result<(), RequestError>) {
        let request = &mut self.requests[index];
        request.pending -= 1;
        if request.result.is_ok() {
            request.result = result;
        }
        if request.pending == 0 && request.cursor == request.end() {
            self.end(index);
        }
    }

    /// Everything that was asked of members for a request has ended, or is parked.
    #[inline]
    fn end(&mut self, index: u32) {
        if self.requests[index].is_held {
            self.exchange(index);
        } else {
            self.answer(index);
        }
    }

    pub(super) fn answer(&mut self, index: u32) {
        let HostRequest { request, result, .. } = self.requests.remove(index);
        if result == Err(RequestError::NeedsMemory) {
            // It comes again, and counts then.
            self.replies.push(Reply { tag: request.tag, result, span: request.span });
            return;
        }
        let tally = self.tally();
        match request.kind {
            RequestKind::Read => {
                tally.reads.add(1);
                tally.read_bytes.add(request.len_bytes);
            }
            RequestKind::Write { .. } => {
                tally.writes.add(1);
                tally.write_bytes.add(request.len_bytes);
            }
            RequestKind::Flush => tally.flushes.add(1),
            RequestKind::Discard | RequestKind::WriteZeroes { .. } => tally.discards.add(1),
        }
        if result.is_err() {
            tally.errors.add(1);
        }
        self.replies.push(Reply { tag: request.tag, result, span: request.span });
    }

    /// A flush has ended.
    pub(super) fn answer_flush(&mut self, index: u32, result: Result<(), RequestError>) {
        self.requests[index].cursor = self.requests[index].end();
        self.answer_part(index, result);
    }
}
