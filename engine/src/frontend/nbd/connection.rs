//! A client's connection: its socket, its commands in flight, its buffers, and the replies still to be sent.
//!
//! ```text
//!   socket -> receive buffer -> command -> pieces -> engine -> pieces -> outbox -> socket
//!                                  |          one engine request of at most 1 MiB each
//!                                  +- one reply, when the last piece is answered
//! ```
//!
//! | state of a piece | from | until | its span is |
//! |---|---|---|---|
//! | `Filling` | it is the current piece of a write | its payload has arrived | received into |
//! | `InEngine` | its request is handed over | the engine replies | the engine's |
//! | `Answered` | the engine replied to a read | its data is sent | waiting, or being sent |
//!
//! - A structured read sends one chunk per piece, as each piece is answered; the last chunk carries DONE.
//! - A simple read has one header for all of its data, so it is held until all pieces are read, and an error
//!   can be reported until then. If the connection's share of memory (see `share`) is too small for all of
//!   it, the read is *streamed*: the header is sent, pieces follow in order, and after an error the server
//!   disconnects, as the protocol demands. Without streaming, two large reads that each hold half of the pool
//!   would wait for each other.
//! - A piece is 1 MiB, or shorter if memory is short. A simple read of up to 1 MiB is one piece, so that its
//!   error can be reported; if others hold the memory for long, it is streamed too. A read that must not be
//!   fragmented is always one piece; if others hold the memory for long, the answer is EOVERFLOW, which the
//!   protocol allows beyond 64 KiB.
//! - Commands are issued in the order of arrival, each completely before the next, so only the newest command
//!   can be short of buffers while it holds some. *Long* trims and zeroes are the exception: they wait in a
//!   queue, the front end asks for their pieces one by one, and the commands behind them proceed meanwhile.
//!   After an error the rest of a long command is not carried out.
//! - When a client is gone, its connection stays without a socket until the engine has replied to every
//!   piece: no span is given back while the engine may write to it.

mod receive;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::admission::{Limits, ReplyStyle, Terms};
use super::door::{Accepted, Seat};
use super::limits::{
    CALLS_PER_TURN, COMMANDS_MAX, PATIENCE_REST_TIME, PIECES_MAX, SHORT_ZEROES_BYTES_MAX, STALL_BYTES_MIN,
    TURN_BYTES, UNUSED_TIME_MAX, WHOLE_READ_TIME_MAX,
};
use super::map::Content;
use super::outbox::{Outbox, Segment, Sent};
use super::protocol::{Chunk, ErrorCode, ReplyHeader};
use super::share::{Grant, Meter, Share, TICK, Want, block_bytes};
use super::slots::Slots;
use super::visits::{Peer, Traffic};
use crate::limits::REQUEST_BYTES_MAX;
use crate::memory::{Memory, Pool, Span};
use crate::request::{Reply, Request, RequestKind};
use receive::{Receiver, Stage};

pub(super) use receive::Progress;

/// The memory of a turn, and what the turn finds out about it.
pub(super) struct Buffers<'a> {
    /// The memory in which spans lie.
    pub memory: &'a Memory,
    /// The pool from which spans are taken.
    pub pool: &'a mut Pool,
    /// The share of the memory that a connection may take.
    pub share: Share,
    /// The bitmap's view of the array; `None` before it is known.
    pub content: Option<Arc<dyn Content>>,
    /// Whether anything was freed for which a connection may have been waiting.
    pub freed: bool,
    /// Whether other connections hold memory that was this connection's share.
    pub starved: bool,
    /// Stripe operations of pieces of long commands that have ended in this turn.
    pub long_operations_ended: u32,
}

/// The next piece of a long command.
pub(super) enum LongPiece {
    /// A request for the engine, and the number of stripe operations that it keeps busy.
    Issued(Request, u32),
    /// The piece keeps more stripe operations busy than there is room for.
    NoRoom,
    /// The connection has no slot for the piece.
    NoSlot,
    /// No long command waits.
    None,
}

/// The connection is unusable: disconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// The result of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// Nothing is left to send.
    Empty,
    /// The turn's share is used up.
    More,
    /// The client has to read first.
    Full,
}

/// A command that is not yet answered, or whose answer is not yet sent.
#[derive(Clone, Copy, Debug)]
struct Command {
    cookie: u64,
    kind: RequestKind,
    offset_bytes: u64,
    len_bytes: u32,
    /// Bytes of the command that have been handed to the engine.
    issued_bytes: u32,
    /// Number of the command's pieces in the engine.
    open: u16,
    /// The first error of the command's pieces.
    error: Option<ErrorCode>,
    /// For a simple read: its pieces in order, linked by `next`, from the first whose data is not queued.
    first: Option<u16>,
    last: Option<u16>,
    /// For a simple read: whether the header is queued.
    header_queued: bool,
    /// The command is not answered: the client left before it was issued in full, or the server ends.
    abandoned: bool,
    /// Whether the command is a read that has to be answered in one chunk.
    is_unfragmented: bool,
}

impl Command {
    fn is_issued(&self) -> bool {
        self.issued_bytes == self.len_bytes
    }

    /// Whether the command's pieces are handed over one by one when the front end asks for them.
    fn is_long(&self) -> bool {
        let is_bare = matches!(self.kind, RequestKind::Discard | RequestKind::WriteZeroes { .. });
        is_bare && self.len_bytes > SHORT_ZEROES_BYTES_MAX
    }

    fn is_complete(&self) -> bool {
        self.is_issued() && self.open == 0
    }
}

/// A part of a command: one engine request.
#[derive(Clone, Copy, Debug)]
struct Piece {
    command: u16,
    offset_bytes: u64,
    span: Span,
    state: PieceState,
    next: Option<u16>,
    /// Stripe operations that the piece keeps busy, if it belongs to a long command.
    long_operations: u32,
}

/// The state of a piece; see the table in the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PieceState {
    Filling,
    InEngine,
    Answered,
}

/// A client's connection; see the module documentation.
pub(super) struct Connection {
    /// The client's socket; `None` once the client is gone.
    socket: Option<OwnedFd>,
    peer: Arc<Peer>,
    traffic: Traffic,
    /// The client's place among the reactor's connections. It is counted, and freed with the connection.
    seat: Seat,
    limits: Limits,
    terms: Terms,
    /// The upper bits of the tags of the connection's requests; the piece's index is added.
    tag_base: u64,
    receiver: Receiver,
    commands: Slots<Command>,
    pieces: Slots<Piece>,
    /// Pieces that are `InEngine`.
    in_engine: u32,
    /// Memory of the connection's pieces, in whole blocks of the pool.
    held_bytes: u32,
    /// Long commands with pieces left to issue, in the order of arrival.
    long: VecDeque<u16>,
    outbox: Outbox,
    /// Whether the front end watches the socket for room to send.
    pub(super) watches_room: bool,
    /// Counts the bytes that the client moves.
    meter: Meter,
    /// Bytes that were received or requested beyond the connection's part of the turns so far.
    debt_bytes: usize,
    /// The tick in which the client was seated, until it sends its first command.
    unused_since: Option<u64>,
    /// The tick since which reads that should be one piece have found no memory.
    denied_since: Option<u64>,
}

impl Connection {
    /// Makes a connection for a client whose handshake is done. All of its memory is allocated here.
    pub(super) fn new(accepted: Accepted, limits: Limits, tag_base: u64, tick: u64) -> Connection {
        Connection {
            socket: Some(accepted.socket),
            peer: accepted.peer,
            traffic: Traffic::default(),
            seat: accepted.seat,
            limits: Limits { read_only: limits.read_only || accepted.terms.read_only, ..limits },
            terms: accepted.terms,
            tag_base,
            receiver: Receiver::new(),
            commands: Slots::new(COMMANDS_MAX),
            pieces: Slots::new(PIECES_MAX),
            in_engine: 0,
            held_bytes: 0,
            long: VecDeque::with_capacity(COMMANDS_MAX),
            outbox: Outbox::new(),
            watches_room: false,
            meter: Meter::default(),
            debt_bytes: 0,
            unused_since: Some(tick),
            denied_since: None,
        }
    }

    /// The client's socket, while the client is there.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// The client of the connection, and the bytes that it has moved.
    pub(super) fn visitor(&self) -> (Arc<Peer>, Traffic) {
        (Arc::clone(&self.peer), self.traffic)
    }

    /// Whether the client has left, or was told to leave, and has received all of its answers.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.receiver.stage, Stage::Ended) && self.commands.is_empty() && !self.outbox.is_ready()
    }

    /// Whether the client is gone and the engine holds none of its pieces.
    pub(super) fn is_gone(&self) -> bool {
        self.socket.is_none() && self.in_engine == 0
    }

    /// Memory of the connection's pieces.
    pub(super) fn held_bytes(&self) -> u32 {
        self.held_bytes
    }

    /// Number of the connection's requests in the engine.
    pub(super) fn in_engine(&self) -> u32 {
        self.in_engine
    }

    /// Whether the connection counts as active: its client moves data, or the engine works for it.
    pub(super) fn is_active(&self, tick: u64) -> bool {
        self.in_engine > 0 || self.meter.moves(tick)
    }

    /// The tick in which the client was seated, if it has sent no command since and that is a long time ago.
    pub(super) fn unused_since(&self, tick: u64) -> Option<u64> {
        self.unused_since.filter(|since| tick >= since + ticks(UNUSED_TIME_MAX))
    }

    /// The index of the listener through which the client came.
    pub(super) fn listener(&self) -> usize {
        self.seat.listener()
    }

    /// Starts counting what the client moves, for `is_stalled`.
    pub(super) fn begin_watch(&mut self) {
        self.meter.watched_bytes = 0;
    }

    /// Whether more than the base is held in memory that only the client can free, and the client has moved
    /// next to nothing since the watch began.
    pub(super) fn is_stalled(&self, base_bytes: u32) -> bool {
        if self.meter.watched_bytes >= STALL_BYTES_MIN {
            return false;
        }
        let unsent_bytes: u32 = self.outbox.ready_spans().map(held_bytes).sum();
        unsent_bytes + self.receiver.filling_span().map_or(0, held_bytes) > base_bytes
    }

    /// Takes the engine's answer to a piece.
    pub(super) fn answer(
        &mut self,
        buffers: &mut Buffers<'_>,
        index: u16,
        reply: &Reply,
    ) -> Result<(), Broken> {
        let result = reply.result;
        let piece = self.pieces.get_mut(index);
        assert_eq!(piece.state, PieceState::InEngine, "a request is answered once");
        assert_eq!(
            piece.span.len_bytes, reply.span.len_bytes,
            "the engine may change the place of bytes only"
        );
        piece.span = reply.span;
        let piece = self.pieces.get(index);
        self.in_engine -= 1;
        buffers.freed = true;
        buffers.long_operations_ended += piece.long_operations;
        if self.socket.is_none() {
            self.free_piece(buffers, index);
            return Ok(());
        }
        let error = result.err().map(ErrorCode::from);
        let command = self.commands.get_mut(piece.command);
        command.open -= 1;
        command.error = command.error.or(error);
        if command.is_long() && command.error.is_some() && !command.is_issued() {
            // The client will be told that the command failed, so carrying out the rest would be wasted work.
            command.issued_bytes = command.len_bytes;
            self.long.retain(|&long| long != piece.command);
        }
        let command = *command;
        if command.abandoned {
            self.free_piece(buffers, index);
            if command.open == 0 {
                self.free_command(buffers, piece.command);
            }
            return Ok(());
        }
        match (command.kind, self.terms.style) {
            (RequestKind::Read, ReplyStyle::Structured) => self.answer_chunk(buffers, index, error),
            (RequestKind::Read, ReplyStyle::Simple) => return self.answer_in_order(buffers, index),
            _ => {
                self.free_piece(buffers, index);
                if command.is_complete() {
                    self.push_end(piece.command, ReplyHeader::simple(command.cookie, command.error));
                }
            }
        }
        Ok(())
    }

    /// Answers a piece of a structured read with a chunk of its own.
    fn answer_chunk(&mut self, buffers: &mut Buffers<'_>, index: u16, error: Option<ErrorCode>) {
        let piece = self.pieces.get(index);
        let command = self.commands.get(piece.command);
        let ends = command.is_complete();
        let place = if ends { Chunk::Last } else { Chunk::More };
        let (cookie, at) = (command.cookie, piece.offset_bytes);
        self.pieces.get_mut(index).state = PieceState::Answered;
        let header = match error {
            None => ReplyHeader::data(cookie, place, at, piece.span.len_bytes),
            Some(error) => {
                self.free_span(buffers, index);
                ReplyHeader::error_at(cookie, place, error, at)
            }
        };
        let span = self.pieces.get(index).span;
        self.outbox.push(Segment { header, span, piece: Some(index), command: piece.command, ends });
    }

    /// Answers a piece of a simple read: all data goes out in order after one header, or one error does.
    fn answer_in_order(&mut self, buffers: &mut Buffers<'_>, index: u16) -> Result<(), Broken> {
        let owner = self.pieces.get(index).command;
        let command = self.commands.get(owner);
        if let Some(error) = command.error {
            self.free_answered(buffers, owner);
            self.free_piece(buffers, index);
            if self.outbox.streamed() == Some(owner) {
                return Err(Broken);
            }
            if command.is_complete() {
                self.push_end(owner, ReplyHeader::simple(command.cookie, Some(error)));
            }
            return Ok(());
        }
        self.pieces.get_mut(index).state = PieceState::Answered;
        if command.is_complete() || self.outbox.streamed() == Some(owner) {
            self.push_in_order(owner);
        }
        Ok(())
    }

    /// Queues the answered pieces of a simple read up to the first that is not answered.
    fn push_in_order(&mut self, owner: u16) {
        let mut command = self.commands.get(owner);
        while let Some(index) = command.first {
            let piece = self.pieces.get(index);
            if piece.state != PieceState::Answered {
                break;
            }
            let header = if command.header_queued {
                ReplyHeader::EMPTY
            } else {
                ReplyHeader::simple(command.cookie, None)
            };
            command.header_queued = true;
            command.first = piece.next;
            let ends = command.is_issued() && piece.next.is_none();
            self.outbox.push(Segment { header, span: piece.span, piece: Some(index), command: owner, ends });
        }
        if command.first.is_none() {
            command.last = None;
        }
        *self.commands.get_mut(owner) = command;
    }

    /// Starts to send the simple read that is being issued, because there is no memory to hold it as a whole.
    fn stream(&mut self, owner: u16) {
        let command = self.commands.get(owner);
        // Other commands of this connection will free memory; then the read may still be held as a whole.
        let is_alone = self.held_bytes == command.issued_bytes;
        let may_stream = is_alone && command.issued_bytes > 0 && command.error.is_none();
        if self.terms.style == ReplyStyle::Simple && may_stream && self.outbox.streamed().is_none() {
            self.outbox.stream(owner);
            self.push_in_order(owner);
        }
    }

    /// Queues a reply without data that ends a command.
    fn push_end(&mut self, command: u16, header: ReplyHeader) {
        self.outbox.push(Segment { header, span: Span::EMPTY, piece: None, command, ends: true });
    }

    /// Sends what the socket takes, within the turn's share.
    pub(super) fn send(&mut self, buffers: &mut Buffers<'_>) -> Result<Outgoing, Broken> {
        let mut left_bytes = if buffers.share.is_crowded { TURN_BYTES } else { usize::MAX };
        for _ in 0..CALLS_PER_TURN {
            let Some(socket) = self.socket.as_ref().filter(|_| self.outbox.is_ready()) else {
                return Ok(Outgoing::Empty);
            };
            if left_bytes == 0 {
                break;
            }
            match self.outbox.send(socket.as_fd(), buffers.memory, left_bytes) {
                Sent::Full => return Ok(Outgoing::Full),
                Sent::Broken => return Err(Broken),
                Sent::Bytes(bytes) => {
                    self.meter.moved(buffers.share.tick, bytes);
                    self.traffic.sent_bytes += bytes as u64;
                    left_bytes -= bytes;
                }
            }
            while let Some(segment) = self.outbox.pop_sent() {
                if let Some(piece) = segment.piece {
                    self.free_piece(buffers, piece);
                }
                if segment.ends {
                    self.free_command(buffers, segment.command);
                }
            }
        }
        Ok(if self.outbox.is_ready() { Outgoing::More } else { Outgoing::Empty })
    }

    /// Disconnects the client. What the engine does not hold is given back now, the rest after its replies.
    pub(super) fn hang_up(&mut self, buffers: &mut Buffers<'_>) {
        self.socket = None;
        self.long.clear();
        self.outbox.clear();
        self.receiver.forget();
        for index in 0..self.pieces.count() {
            if self.pieces.peek(index).is_some_and(|piece| piece.state != PieceState::InEngine) {
                self.free_piece(buffers, index);
            }
        }
    }

    /// Takes a span within the connection's share: `wanted_bytes` long, or shorter, down to `least_bytes`.
    fn take_span(&mut self, buffers: &mut Buffers<'_>, wanted_bytes: u32, least_bytes: u32) -> Option<Span> {
        let earned_bytes = self.meter.earned_bytes(buffers.share.tick);
        let want = Want { held_bytes: self.held_bytes, earned_bytes, wanted_bytes, least_bytes };
        let span = match buffers.share.grant(&want, buffers.pool.takeable_bytes()) {
            Grant::Bytes(bytes) => buffers.pool.take_any(bytes, least_bytes),
            Grant::Starved => None,
            Grant::Later => return None,
        };
        buffers.starved |= span.is_none();
        self.held_bytes += span.map_or(0, held_bytes);
        span
    }

    /// Takes a span for a piece of a command.
    fn span_for(&mut self, buffers: &mut Buffers<'_>, command: &Command) -> Option<Span> {
        let wanted_bytes = (command.len_bytes - command.issued_bytes).min(REQUEST_BYTES_MAX);
        let least_bytes = wanted_bytes.min(buffers.share.base_bytes);
        if least_bytes == wanted_bytes || !self.has_to_be_whole(command) {
            return self.take_span(buffers, wanted_bytes, least_bytes);
        }
        let span = self.take_span(buffers, wanted_bytes, wanted_bytes);
        if span.is_some() {
            self.denied_since = None;
            return span;
        }
        self.denied_since.get_or_insert(buffers.share.tick);
        if command.is_unfragmented || !self.is_out_of_patience(buffers) {
            return None;
        }
        self.take_span(buffers, wanted_bytes, least_bytes)
    }

    /// Whether a read should be one piece, so that an error can be reported before its header is sent.
    fn has_to_be_whole(&self, command: &Command) -> bool {
        let is_simple_read = command.kind == RequestKind::Read && self.terms.style == ReplyStyle::Simple;
        command.is_unfragmented || is_simple_read && command.len_bytes <= REQUEST_BYTES_MAX
    }

    /// Whether reads that should be one piece have found no memory for a long time.
    fn is_out_of_patience(&self, buffers: &Buffers<'_>) -> bool {
        self.denied_since.is_some_and(|since| buffers.share.tick >= since + ticks(WHOLE_READ_TIME_MAX))
    }

    /// Makes reads wait for memory again, if it is long ago that reads found none.
    fn rest(&mut self, tick: u64) {
        self.denied_since = self.denied_since.filter(|since| tick < since + ticks(PATIENCE_REST_TIME));
    }

    /// Whether a long command waits for the engine to take its next piece.
    pub(super) fn has_long(&self) -> bool {
        !self.long.is_empty()
    }

    /// Takes the next piece of the first long command, if `operations_max` stripe operations suffice for it.
    pub(super) fn issue_long(&mut self, operations_max: u32) -> LongPiece {
        let Some(&owner) = self.long.front() else { return LongPiece::None };
        let command = self.commands.get(owner);
        let offset_bytes = command.offset_bytes + u64::from(command.issued_bytes);
        let len_bytes = self.limits.long_piece(offset_bytes, command.len_bytes - command.issued_bytes);
        let long_operations = self.limits.long_operations(offset_bytes, len_bytes);
        if long_operations > operations_max {
            return LongPiece::NoRoom;
        }
        let piece = Piece {
            command: owner,
            offset_bytes,
            span: Span::EMPTY,
            state: PieceState::InEngine,
            next: None,
            long_operations,
        };
        let Some(index) = self.pieces.take(piece) else { return LongPiece::NoSlot };
        let request = self.hand_over(index, len_bytes);
        if self.commands.get(owner).is_issued() {
            self.long.pop_front();
        }
        LongPiece::Issued(request, long_operations)
    }

    /// Abandons the rest of all long commands, because the server ends.
    pub(super) fn abandon_long(&mut self, buffers: &mut Buffers<'_>) {
        while let Some(owner) = self.long.pop_front() {
            self.abandon(buffers, owner);
        }
    }

    /// Abandons a command that was not handed over in full. It is not answered.
    fn abandon(&mut self, buffers: &mut Buffers<'_>, owner: u16) {
        self.commands.get_mut(owner).abandoned = true;
        if self.commands.get(owner).open == 0 {
            self.free_command(buffers, owner);
        }
    }

    /// Frees the answered pieces of a simple read that will not be sent; the others are freed when answered.
    fn free_answered(&mut self, buffers: &mut Buffers<'_>, owner: u16) {
        let command = self.commands.get_mut(owner);
        command.last = None;
        let mut next = command.first.take();
        while let Some(index) = next {
            let piece = self.pieces.get(index);
            next = piece.next;
            if piece.state == PieceState::Answered {
                self.free_piece(buffers, index);
            }
        }
    }

    fn free_piece(&mut self, buffers: &mut Buffers<'_>, index: u16) {
        self.free_span(buffers, index);
        self.pieces.free(index);
    }

    /// Gives back the span of a piece, which keeps its slot.
    fn free_span(&mut self, buffers: &mut Buffers<'_>, index: u16) {
        let span = std::mem::replace(&mut self.pieces.get_mut(index).span, Span::EMPTY);
        self.held_bytes -= held_bytes(span);
        if span.len_bytes > 0 {
            buffers.pool.give(span);
        }
        buffers.freed = true;
    }

    fn free_command(&mut self, buffers: &mut Buffers<'_>, index: u16) {
        self.commands.free(index);
        buffers.freed = true;
    }
}

/// Converts a time to ticks.
fn ticks(time: Duration) -> u64 {
    (time.as_millis() / TICK.as_millis()) as u64
}

/// The bytes that a span counts in its connection's share, which is its block of the pool.
fn held_bytes(span: Span) -> u32 {
    if span.len_bytes > 0 { block_bytes(span.len_bytes) } else { 0 }
}
