//! One client: its socket, its commands in flight, its buffers and what it has yet to be sent.
//!
//! ```text
//!   socket -> receive buffer -> command -> pieces -> engine -> pieces -> outbox -> socket
//!                                  |          one engine request of at most 1 MiB each
//!                                  +- one reply, when the last piece is answered
//! ```
//!
//! | a piece is | from | until | its span is |
//! |---|---|---|---|
//! | `Filling` | it is the current one of a write | its payload has arrived | received into |
//! | `InEngine` | its request is handed over | the engine replies | the engine's |
//! | `Answered` | the engine replied to a read | its data is sent | waiting, or being sent |
//!
//! - A structured read sends a chunk per piece as it is answered; the last one carries DONE.
//! - A simple read has one header for all of its data, so it is held until all pieces are read and an
//!   error can still be said. When there is no buffer for all of it (the pool is empty, or the read alone
//!   exceeds [`HELD_BYTES_MAX`]) it is *streamed*: the header goes out, pieces follow in order, and an
//!   error after that is a reason to hang up, as the protocol demands. Without that, two large reads that
//!   each hold half of the pool would wait for each other.
//! - Commands are issued in the order in which they came, each wholly before the next, so only the
//!   newest can be short of buffers while it holds some.
//! - A client that is gone leaves a connection without a socket, which stays until the engine has replied
//!   to every piece: no span is given back while somebody may write it.

mod receive;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::admission::{Limits, ReplyStyle};
use super::door::{Accepted, Seat};
use super::limits::{CALLS_PER_TURN, COMMANDS_MAX, HELD_BYTES_MAX, PIECES_MAX};
use super::outbox::{Outbox, Segment, Sent};
use super::protocol::{Chunk, ErrorCode, ReplyHeader};
use super::slots::Slots;
use crate::memory::{Memory, Pool, Span};
use crate::request::{Reply, RequestError, RequestKind};
use receive::{Receiver, Stage};

pub(super) use receive::Progress;

/// The memory of a turn, and what the turn found out about it.
pub(super) struct Buffers<'a> {
    /// Where spans lie.
    pub memory: &'a Memory,
    /// Where they come from.
    pub pool: &'a mut Pool,
    /// Whether anything was freed that a connection may have been waiting for.
    pub freed: bool,
    /// Whether the pool had nothing for somebody.
    pub starved: bool,
}

/// The connection is of no more use: hang up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// How sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// Nothing is left.
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
    /// How much of it has been handed to the engine.
    issued_bytes: u32,
    /// Pieces in the engine.
    open: u16,
    /// The first error.
    error: Option<ErrorCode>,
    /// Of a simple read: its pieces in order, linked by `next`, from the first whose data is not queued.
    first: Option<u16>,
    last: Option<u16>,
    /// Of a simple read: whether the header is queued.
    header_queued: bool,
    /// The client hung up in the middle of it: nothing is answered.
    abandoned: bool,
}

impl Command {
    fn is_issued(&self) -> bool {
        self.issued_bytes == self.len_bytes
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
}

/// See the table of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PieceState {
    Filling,
    InEngine,
    Answered,
}

/// See the module.
pub(super) struct Connection {
    /// None once the client is gone.
    socket: Option<OwnedFd>,
    /// Its place among the reactor's connections, counted; freed with the connection.
    _seat: Seat,
    limits: Limits,
    style: ReplyStyle,
    /// What the tags of its requests begin with; the piece's index is added.
    tag_base: u64,
    receiver: Receiver,
    commands: Slots<Command>,
    pieces: Slots<Piece>,
    /// Pieces that are `InEngine`.
    in_engine: u32,
    /// Bytes of spans taken from the pool.
    held_bytes: u32,
    outbox: Outbox,
    /// Whether the front end watches for room to send.
    pub(super) watches_room: bool,
    /// Whether a byte went either way since somebody last looked.
    moved: bool,
}

impl Connection {
    /// A connection whose handshake is done. All of its memory is allocated here.
    pub(super) fn new(accepted: Accepted, limits: Limits, tag_base: u64) -> Connection {
        Connection {
            socket: Some(accepted.socket),
            _seat: accepted.seat,
            limits,
            style: accepted.style,
            tag_base,
            receiver: Receiver::new(),
            commands: Slots::new(COMMANDS_MAX),
            pieces: Slots::new(PIECES_MAX),
            in_engine: 0,
            held_bytes: 0,
            outbox: Outbox::new(),
            watches_room: false,
            moved: true,
        }
    }

    /// Its socket, while the client is there.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Whether the client has left, or was told to, and has got all of its answers.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.receiver.stage, Stage::Ended) && self.commands.is_empty() && !self.outbox.is_ready()
    }

    /// Whether the client is gone and the engine holds nothing of it.
    pub(super) fn is_gone(&self) -> bool {
        self.socket.is_none() && self.in_engine == 0
    }

    /// Whether it kept buffers that only the client could move, and moved none since the last look.
    pub(super) fn is_stalled(&mut self) -> bool {
        let moved = std::mem::replace(&mut self.moved, false);
        !moved && self.in_engine == 0 && self.held_bytes > 0
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
        if self.socket.is_none() {
            self.free_piece(buffers, index);
            return Ok(());
        }
        let error = result.err().map(error_code);
        let command = self.commands.get_mut(piece.command);
        command.open -= 1;
        command.error = command.error.or(error);
        let command = *command;
        if command.abandoned {
            self.free_piece(buffers, index);
            if command.open == 0 {
                self.free_command(buffers, piece.command);
            }
            return Ok(());
        }
        match (command.kind, self.style) {
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

    /// A structured read: every piece is a chunk of its own.
    fn answer_chunk(&mut self, buffers: &mut Buffers<'_>, index: u16, error: Option<ErrorCode>) {
        let piece = self.pieces.get(index);
        let command = self.commands.get(piece.command);
        let ends = command.is_complete();
        let place = if ends { Chunk::Last } else { Chunk::More };
        let (cookie, at) = (command.cookie, piece.offset_bytes);
        let mut segment = Segment {
            header: ReplyHeader::EMPTY,
            span: Span::EMPTY,
            piece: None,
            command: piece.command,
            ends,
        };
        match error {
            None => {
                self.pieces.get_mut(index).state = PieceState::Answered;
                segment.header = ReplyHeader::data(cookie, place, at, piece.span.len_bytes);
                segment.span = piece.span;
                segment.piece = Some(index);
            }
            Some(error) => {
                self.free_piece(buffers, index);
                segment.header = ReplyHeader::error_at(cookie, place, error, at);
            }
        }
        self.outbox.push(segment);
    }

    /// A simple read: all data in order behind one header, or one error.
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

    /// Queues the pieces of a simple read that are answered and have only queued ones before them.
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

    /// Starts to send the simple read that is being issued, for want of buffers to hold it.
    fn stream(&mut self, owner: u16) {
        let command = self.commands.get(owner);
        let may_stream = command.issued_bytes > 0 && command.error.is_none();
        if self.style == ReplyStyle::Simple && may_stream && self.outbox.streamed().is_none() {
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
        for _ in 0..CALLS_PER_TURN {
            let Some(socket) = self.socket.as_ref().filter(|_| self.outbox.is_ready()) else {
                return Ok(Outgoing::Empty);
            };
            match self.outbox.send(socket.as_fd(), buffers.memory) {
                Sent::Full => return Ok(Outgoing::Full),
                Sent::Broken => return Err(Broken),
                Sent::Bytes(bytes) => self.moved |= bytes > 0,
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

    /// Hangs up. What the engine does not hold is given back now, the rest as it replies.
    pub(super) fn hang_up(&mut self, buffers: &mut Buffers<'_>) {
        self.socket = None;
        self.outbox.clear();
        self.receiver.forget();
        for index in 0..self.pieces.count() {
            if self.pieces.peek(index).is_some_and(|piece| piece.state != PieceState::InEngine) {
                self.free_piece(buffers, index);
            }
        }
    }

    /// Takes a span for a piece, within the connection's share.
    fn take_span(&mut self, buffers: &mut Buffers<'_>, len_bytes: u32) -> Option<Span> {
        if self.held_bytes + len_bytes > HELD_BYTES_MAX {
            return None;
        }
        let span = buffers.pool.take(len_bytes);
        buffers.starved |= span.is_none();
        self.held_bytes += span.map_or(0, |span| span.len_bytes);
        span
    }

    /// Frees the answered pieces of a simple read that will not be sent; the others are on their own.
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
        let piece = self.pieces.free(index);
        if piece.span.len_bytes > 0 {
            self.held_bytes -= piece.span.len_bytes;
            buffers.pool.give(piece.span);
        }
        buffers.freed = true;
    }

    fn free_command(&mut self, buffers: &mut Buffers<'_>, index: u16) {
        self.commands.free(index);
        buffers.freed = true;
    }
}

/// The protocol's word for an engine's error.
fn error_code(error: RequestError) -> ErrorCode {
    match error {
        RequestError::Misaligned => ErrorCode::Invalid,
        RequestError::OutOfRange | RequestError::NoSpace => ErrorCode::NoSpace,
        RequestError::Lost | RequestError::NotTaken | RequestError::NeedsMemory => ErrorCode::Io,
        RequestError::ReadOnly => ErrorCode::NotPermitted,
    }
}
