//! The receiving half of a connection: turns bytes into commands, and commands into engine requests.
//!
//! ```text
//!            header read                     all pieces handed over
//!   Header ---------------> Issuing ------------------------------------> Header
//!      |   refused, or of no length                  payload dropped
//!      +------------------> Draining -----------------------------------> Header
//!      |   disconnect                          any  -- end of stream --> Ended
//!      +------------------> Ended
//! ```
//!
//! - One system call receives many commands into a 64 KiB buffer. The rest of a write's payload goes straight
//!   into its span, and what follows the payload goes into the buffer, with the same call (`readv`).
//! - While large writes arrive, little more than headers is received into the buffer, so that nearly all of
//!   their payload is copied once, by the kernel (see `DIRECT_BYTES_MIN`).
//! - The socket is read until a call returns fewer bytes than requested; then the edge-triggered poll reports
//!   when there is more. If the client has shut down its sending side, the socket is read to the end whatever
//!   the lengths, since the edge for that has already passed.
//! - Nothing is read while it could not be processed: this is the client's backpressure.

use std::io::IoSliceMut;
use std::os::fd::AsFd;

use rustix::io::{Errno, read, readv};

use super::super::admission::{Admission, ReplyStyle, admit};
use super::super::limits::{
    CALLS_PER_TURN, DIRECT_BYTES_MIN, DIRECT_WINDOW_BYTES, MAP_BYTES_PER_STRIPE, MAP_STRIPES_MAX,
    RECEIVE_BYTES, REQUESTS_PER_TURN, TURN_BYTES,
};
use super::super::map::{self, Extent};
use super::super::outbox::Segment;
use super::super::protocol::{Chunk, ErrorCode, HEADER_BYTES, Header, OutOfStep, ReplyHeader, command};
use super::{Broken, Buffers, Command, Connection, Piece, PieceState};
use crate::memory::Span;
use crate::request::{Request, RequestKind};

/// The protocol lets a server refuse an unfragmented read only beyond this length ("NBD_CMD_READ").
const UNFRAGMENTED_BYTES_MIN: u32 = 64 << 10;

/// The reason why a round of receiving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Progress {
    /// Everything that the client has sent is processed.
    Quiet,
    /// The turn's share is used up.
    Again,
    /// The connection waits for a buffer, for a slot, or for the client to read.
    Blocked,
}

/// The position in the client's stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// Between two commands.
    Header,
    /// The pieces of a command are handed over one by one.
    Issuing { command: u16 },
    /// A payload that is not needed is dropped; then the command is answered.
    Draining { command: u16, left_bytes: u32, result: Result<(), ErrorCode> },
    /// Nothing more is read.
    Ended,
}

/// The piece into which a write's payload is received.
#[derive(Clone, Copy, Debug)]
struct Filling {
    piece: u16,
    span: Span,
    filled_bytes: u32,
}

/// The reason why receiving cannot take another step now.
enum Stop {
    /// The step needs more bytes from the client.
    Starved,
    /// The turn has no room for another request.
    NoRoom,
    /// The step needs something to be freed first.
    Blocked,
    /// Nothing more is read.
    Ended,
    /// The command is refused; the next step answers it.
    Refused,
    /// The stream is out of step.
    Broken,
}

/// The state of the receiving half.
pub(super) struct Receiver {
    pub(super) stage: Stage,
    filling: Option<Filling>,
    /// Receive buffer; `buffer[start..end]` is received and not used yet.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Length of the part of the buffer that is used at present.
    window_bytes: usize,
    /// Whether the socket may have more to read.
    readable: bool,
    /// Whether the client has shut down its sending side.
    hung_up: bool,
    /// Stripes whose state was examined in this turn.
    looked_at: u64,
}

impl Receiver {
    pub(super) fn new() -> Receiver {
        Receiver {
            stage: Stage::Header,
            filling: None,
            buffer: vec![0; RECEIVE_BYTES].into(),
            start: 0,
            end: 0,
            window_bytes: RECEIVE_BYTES,
            readable: true,
            hung_up: false,
            looked_at: 0,
        }
    }

    /// Stops reading, and forgets the command in progress.
    pub(super) fn forget(&mut self) {
        self.stage = Stage::Ended;
        self.filling = None;
    }

    /// The span of a write of which only a part has arrived.
    pub(super) fn filling_span(&self) -> Option<Span> {
        self.filling.map(|filling| filling.span)
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

impl Connection {
    /// Records that the poll reports the socket readable, or (`hung_up`) that the client will send no more.
    pub(in super::super) fn note_readable(&mut self, hung_up: bool) {
        self.receiver.readable = true;
        self.receiver.hung_up |= hung_up;
    }

    /// Turns what the client has sent into requests, at most `room` of them.
    pub(in super::super) fn receive(
        &mut self,
        buffers: &mut Buffers<'_>,
        room: usize,
        requests: &mut Vec<Request>,
    ) -> Result<Progress, Broken> {
        let turn_bytes = if buffers.share.is_crowded { TURN_BYTES } else { usize::MAX };
        self.debt_bytes = self.debt_bytes.saturating_sub(turn_bytes);
        if self.debt_bytes > 0 {
            return Ok(Progress::Again);
        }
        let requests_max = requests.len() + room.min(REQUESTS_PER_TURN);
        self.receiver.looked_at = 0;
        let mut calls = 0;
        loop {
            if self.debt_bytes >= turn_bytes || self.receiver.looked_at >= MAP_STRIPES_MAX {
                return Ok(Progress::Again);
            }
            match self.step(buffers, requests, requests_max) {
                Ok(()) | Err(Stop::Refused) => {}
                Err(Stop::Starved) if !self.receiver.readable => return Ok(Progress::Quiet),
                Err(Stop::Starved) if calls == CALLS_PER_TURN => return Ok(Progress::Again),
                Err(Stop::Starved) => {
                    calls += 1;
                    self.fill(buffers)?;
                }
                Err(Stop::NoRoom) => return Ok(Progress::Again),
                Err(Stop::Blocked) => return Ok(Progress::Blocked),
                Err(Stop::Ended) => return Ok(Progress::Quiet),
                Err(Stop::Broken) => return Err(Broken),
            }
        }
    }

    /// Stops reading. A command that has not arrived or not been handed over in full is abandoned.
    pub(in super::super) fn end(&mut self, buffers: &mut Buffers<'_>) -> Result<(), Broken> {
        let stage = std::mem::replace(&mut self.receiver.stage, Stage::Ended);
        if let Some(filling) = self.receiver.filling.take() {
            self.free_piece(buffers, filling.piece);
        }
        match stage {
            Stage::Header | Stage::Ended => {}
            Stage::Draining { command, .. } => self.free_command(buffers, command),
            Stage::Issuing { command } if self.outbox.streamed() == Some(command) => return Err(Broken),
            Stage::Issuing { command } => {
                self.free_answered(buffers, command);
                self.abandon(buffers, command);
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        buffers: &mut Buffers<'_>,
        requests: &mut Vec<Request>,
        requests_max: usize,
    ) -> Result<(), Stop> {
        let stage = self.receiver.stage;
        match stage {
            Stage::Header => self.begin(buffers),
            Stage::Draining { command, left_bytes, result } => self.drain(command, left_bytes, result),
            Stage::Ended => Err(Stop::Ended),
            Stage::Issuing { command } if self.commands.get(command).is_long() => {
                self.long.push_back(command);
                self.receiver.stage = Stage::Header;
                Ok(())
            }
            Stage::Issuing { command } if self.answer_hole(buffers, command)? => {
                if self.commands.get(command).is_issued() {
                    self.receiver.stage = Stage::Header;
                }
                Ok(())
            }
            Stage::Issuing { command } => {
                if requests.len() == requests_max {
                    return Err(Stop::NoRoom);
                }
                if self.in_engine >= buffers.share.in_engine_max {
                    return Err(Stop::Blocked);
                }
                let request = match self.commands.get(command).kind {
                    RequestKind::Read => self.issue_read(buffers, command),
                    RequestKind::Write { .. } => self.issue_write(buffers, command),
                    RequestKind::Flush | RequestKind::Discard | RequestKind::WriteZeroes { .. } => {
                        self.issue_bare(command)
                    }
                }?;
                requests.push(request);
                if self.commands.get(command).is_issued() {
                    self.receiver.stage = Stage::Header;
                }
                Ok(())
            }
        }
    }

    /// Takes the next header from the buffer.
    fn begin(&mut self, buffers: &mut Buffers<'_>) -> Result<(), Stop> {
        let header = match self.receiver.bytes().first_chunk::<HEADER_BYTES>().map(Header::parse) {
            None => return Err(Stop::Starved),
            Some(Err(OutOfStep)) => return Err(Stop::Broken),
            Some(Ok(header)) => header,
        };
        let admission = admit(&self.limits, &self.terms, &header);
        let (kind, result) = match admission {
            Admission::Disconnect => {
                self.receiver.stage = Stage::Ended;
                return Ok(());
            }
            // A command that is answered in chunks must be refused in a chunk, so `Read` stands for the kinds
            // answered in chunks.
            Admission::Answer(result) if matches!(header.kind, command::READ | command::BLOCK_STATUS) => {
                (RequestKind::Read, Some(result))
            }
            Admission::Map => (RequestKind::Read, None),
            Admission::Answer(result) => (RequestKind::Flush, Some(result)),
            Admission::Run(kind) => (kind, None),
        };
        let command = Command {
            cookie: header.cookie,
            kind,
            offset_bytes: header.offset_bytes,
            len_bytes: header.len_bytes,
            issued_bytes: 0,
            open: 0,
            error: None,
            first: None,
            last: None,
            header_queued: false,
            abandoned: false,
            is_unfragmented: header.kind == command::READ && header.flags & command::FLAG_DF != 0,
        };
        let command = self.commands.take(command).ok_or(Stop::Blocked)?;
        self.unused_since = None;
        self.rest(buffers.share.tick);
        self.receiver.start += HEADER_BYTES;
        let payload_bytes = header.payload_bytes();
        self.receiver.window_bytes =
            if payload_bytes >= DIRECT_BYTES_MIN { DIRECT_WINDOW_BYTES } else { RECEIVE_BYTES };
        if admission == Admission::Map {
            self.answer_map(buffers, command);
            return Ok(());
        }
        self.receiver.stage = match result {
            Some(result) => Stage::Draining { command, left_bytes: payload_bytes, result },
            None => Stage::Issuing { command },
        };
        Ok(())
    }

    /// Drops a command's payload, then answers the command.
    fn drain(&mut self, command: u16, left_bytes: u32, result: Result<(), ErrorCode>) -> Result<(), Stop> {
        let dropped = self.receiver.bytes().len().min(left_bytes as usize);
        self.receiver.start += dropped;
        let left_bytes = left_bytes - dropped as u32;
        if left_bytes > 0 {
            self.receiver.stage = Stage::Draining { command, left_bytes, result };
            return Err(Stop::Starved);
        }
        self.receiver.stage = Stage::Header;
        let Command { kind, cookie, .. } = self.commands.get(command);
        let reply = match (kind, self.terms.style, result) {
            (RequestKind::Read, ReplyStyle::Structured, Ok(())) => ReplyHeader::none(cookie),
            (RequestKind::Read, ReplyStyle::Structured, Err(error)) => ReplyHeader::error(cookie, error),
            (_, _, result) => ReplyHeader::simple(cookie, result.err()),
        };
        self.push_end(command, reply);
        Ok(())
    }

    /// Answers a block status command: one extent for each context.
    fn answer_map(&mut self, buffers: &Buffers<'_>, owner: u16) {
        let Command { cookie, offset_bytes, len_bytes, .. } = self.commands.get(owner);
        let stripe_bytes = self.limits.stripe_bytes;
        let last = self.terms.contexts.iter().next_back();
        for context in self.terms.contexts.iter() {
            let unknown = Extent { bytes: len_bytes, flags: 0, looked: 0 };
            let extent = buffers.content.as_deref().map_or(unknown, |content| {
                map::extent(content, stripe_bytes, context, offset_bytes, len_bytes)
            });
            self.looked(extent.looked);
            let ends = Some(context) == last;
            let header = ReplyHeader::status(
                cookie,
                if ends { Chunk::Last } else { Chunk::More },
                context.id(),
                (extent.bytes, extent.flags),
            );
            self.outbox.push(Segment { header, span: Span::EMPTY, piece: None, command: owner, ends });
        }
    }

    /// Counts examined stripes as work of the turn.
    fn looked(&mut self, stripes: u64) {
        self.receiver.looked_at += stripes;
        self.debt_bytes = self.debt_bytes.saturating_add((stripes * MAP_BYTES_PER_STRIPE) as usize);
    }

    /// Answers the next part of a structured read with a hole, if that part is unwritten. Returns whether it
    /// did.
    fn answer_hole(&mut self, buffers: &Buffers<'_>, owner: u16) -> Result<bool, Stop> {
        let command = self.commands.get(owner);
        let in_chunks = command.kind == RequestKind::Read && self.terms.style == ReplyStyle::Structured;
        let Some(content) = buffers.content.as_deref().filter(|_| in_chunks) else { return Ok(false) };
        let offset_bytes = command.offset_bytes + u64::from(command.issued_bytes);
        let left_bytes = command.len_bytes - command.issued_bytes;
        let (hole_bytes, looked) = map::hole(content, self.limits.stripe_bytes, offset_bytes, left_bytes);
        self.looked(looked);
        if hole_bytes == 0 || command.is_unfragmented && hole_bytes < command.len_bytes {
            return Ok(false);
        }
        let piece = Piece {
            command: owner,
            offset_bytes,
            span: Span::EMPTY,
            state: PieceState::Answered,
            next: None,
            long_operations: 0,
        };
        let index = self.pieces.take(piece).ok_or(Stop::Blocked)?;
        self.commands.get_mut(owner).issued_bytes += hole_bytes;
        let ends = self.commands.get(owner).is_complete();
        let place = if ends { Chunk::Last } else { Chunk::More };
        let header = ReplyHeader::hole(command.cookie, place, offset_bytes, hole_bytes);
        self.outbox.push(Segment { header, span: Span::EMPTY, piece: Some(index), command: owner, ends });
        Ok(true)
    }

    /// Issues a command without data as one request.
    fn issue_bare(&mut self, owner: u16) -> Result<Request, Stop> {
        let Command { offset_bytes, len_bytes, .. } = self.commands.get(owner);
        let piece = Piece {
            command: owner,
            offset_bytes,
            span: Span::EMPTY,
            state: PieceState::InEngine,
            next: None,
            long_operations: 0,
        };
        let index = self.pieces.take(piece).ok_or(Stop::Blocked)?;
        Ok(self.hand_over(index, len_bytes))
    }

    /// Issues the next piece of a read.
    fn issue_read(&mut self, buffers: &mut Buffers<'_>, owner: u16) -> Result<Request, Stop> {
        let index = match self.make_piece(buffers, owner, PieceState::InEngine) {
            Some(index) => index,
            None if !self.pieces.is_full() && self.cannot_be_whole(buffers, owner) => {
                self.receiver.stage =
                    Stage::Draining { command: owner, left_bytes: 0, result: Err(ErrorCode::Overflow) };
                return Err(Stop::Refused);
            }
            None => {
                self.stream(owner);
                return Err(Stop::Blocked);
            }
        };
        self.debt_bytes = self.debt_bytes.saturating_add(self.pieces.get(index).span.len_bytes as usize);
        let command = self.commands.get_mut(owner);
        if self.terms.style == ReplyStyle::Simple && command.error.is_none() {
            match command.last.replace(index) {
                Some(last) => self.pieces.get_mut(last).next = Some(index),
                None => command.first = Some(index),
            }
        }
        let len_bytes = self.pieces.get(index).span.len_bytes;
        Ok(self.hand_over(index, len_bytes))
    }

    /// Whether a read must not be fragmented and its connection is not sure to get the memory for it beside
    /// others.
    fn cannot_be_whole(&self, buffers: &Buffers<'_>, owner: u16) -> bool {
        let command = self.commands.get(owner);
        command.is_unfragmented
            && self.is_out_of_patience(buffers)
            && self.held_bytes == 0
            && command.len_bytes > buffers.share.base_bytes.max(UNFRAGMENTED_BYTES_MIN)
    }

    /// Issues the next piece of a write, once its payload has arrived.
    fn issue_write(&mut self, buffers: &mut Buffers<'_>, owner: u16) -> Result<Request, Stop> {
        let mut filling = match self.receiver.filling {
            Some(filling) => filling,
            None => {
                let piece = self.make_piece(buffers, owner, PieceState::Filling).ok_or(Stop::Blocked)?;
                Filling { piece, span: self.pieces.get(piece).span, filled_bytes: 0 }
            }
        };
        let have = self.receiver.bytes();
        let wanted = (filling.span.len_bytes - filling.filled_bytes) as usize;
        let taken = have.len().min(wanted);
        if taken > 0 {
            let part = filling.span.part(filling.filled_bytes, taken as u32);
            buffers.memory.write_to(part, &have[..taken]);
            self.receiver.start += taken;
            filling.filled_bytes += taken as u32;
        }
        if taken < wanted {
            self.receiver.filling = Some(filling);
            return Err(Stop::Starved);
        }
        self.receiver.filling = None;
        self.pieces.get_mut(filling.piece).state = PieceState::InEngine;
        Ok(self.hand_over(filling.piece, filling.span.len_bytes))
    }

    /// Makes the next piece of a command, with a span for its data.
    fn make_piece(&mut self, buffers: &mut Buffers<'_>, owner: u16, state: PieceState) -> Option<u16> {
        if self.pieces.is_full() {
            return None;
        }
        let command = self.commands.get(owner);
        let span = self.span_for(buffers, &command)?;
        let offset_bytes = command.offset_bytes + u64::from(command.issued_bytes);
        self.pieces.take(Piece { command: owner, offset_bytes, span, state, next: None, long_operations: 0 })
    }

    /// Makes the request of a piece. From here on, its span belongs to the engine.
    pub(super) fn hand_over(&mut self, index: u16, len_bytes: u32) -> Request {
        let piece = self.pieces.get(index);
        let command = self.commands.get_mut(piece.command);
        command.open += 1;
        command.issued_bytes += len_bytes;
        self.in_engine += 1;
        Request {
            tag: self.tag_base | u64::from(index),
            kind: command.kind,
            offset_bytes: piece.offset_bytes,
            len_bytes: u64::from(len_bytes),
            span: piece.span,
        }
    }

    /// Receives from the socket, with one system call.
    fn fill(&mut self, buffers: &mut Buffers<'_>) -> Result<(), Broken> {
        let Some(socket) = self.socket.as_ref() else { return Err(Broken) };
        let receiver = &mut self.receiver;
        receiver.buffer.copy_within(receiver.start..receiver.end, 0);
        receiver.end -= receiver.start;
        receiver.start = 0;
        let window_bytes = match receiver.stage {
            Stage::Draining { .. } => RECEIVE_BYTES,
            Stage::Header | Stage::Issuing { .. } | Stage::Ended => receiver.window_bytes,
        };
        let window = &mut receiver.buffer[receiver.end..window_bytes.max(receiver.end)];
        let (asked, direct, outcome) = match receiver.filling {
            Some(filling) => {
                let rest_bytes = filling.span.len_bytes - filling.filled_bytes;
                let rest = filling.span.part(filling.filled_bytes, rest_bytes);
                let outcome = buffers.memory.with_mut(rest, |rest| {
                    readv(socket.as_fd(), &mut [IoSliceMut::new(rest), IoSliceMut::new(window)])
                });
                (rest_bytes as usize + window_bytes, rest_bytes as usize, outcome)
            }
            None => (window.len(), 0, read(socket.as_fd(), window)),
        };
        match outcome {
            Ok(0) => {
                receiver.readable = false;
                self.end(buffers)
            }
            Ok(bytes) => {
                self.meter.moved(buffers.share.tick, bytes);
                self.traffic.received_bytes += bytes as u64;
                self.debt_bytes = self.debt_bytes.saturating_add(bytes);
                if let Some(filling) = &mut receiver.filling {
                    filling.filled_bytes += bytes.min(direct) as u32;
                }
                receiver.end += bytes.saturating_sub(direct);
                receiver.readable = bytes == asked || receiver.hung_up;
                Ok(())
            }
            Err(Errno::AGAIN) => {
                receiver.readable = false;
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(_) => Err(Broken),
        }
    }
}
