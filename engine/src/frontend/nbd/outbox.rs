//! The data that a connection has to send: reply headers, and data where it lies in the pool.
//!
//! ```text
//!   ready     | header+span | header | header+span | span | ...     sent from the left, many at a time
//!   deferred  | header | header+span | ...                          behind a streamed reply
//! ```
//!
//! - One `sendmsg` takes up to [`SEGMENTS_PER_SEND`] segments. If the socket takes only a part, sending
//!   resumes at the next byte.
//! - A simple reply is a header and all of its data with nothing in between. While a reply is *streamed* (its
//!   end is not read yet), replies to other commands wait in `deferred`.
//! - Room: a segment has a piece of its own, or ends a command, or is the first of two that answer a block
//!   status. All of these are counted, so the queues made at accept never grow. (For this reason a piece that
//!   failed keeps its slot until its error is sent.)

#![expect(unsafe_code, reason = "an iovec of many spans: `Memory::with` lends one at a time")]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::limits::{COMMANDS_MAX, PIECES_MAX, SEGMENTS_PER_SEND};
use super::map::CONTEXTS;
use super::protocol::ReplyHeader;
use crate::memory::{Memory, Span};

/// Most segments of one connection.
const ROOM: usize = CONTEXTS.len() * COMMANDS_MAX + PIECES_MAX;

/// A part of a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// The header, sent first; may be empty.
    pub header: ReplyHeader,
    /// The data that follows; may be empty.
    pub span: Span,
    /// The piece that holds the span until it is sent.
    pub piece: Option<u16>,
    /// The command to which the segment belongs.
    pub command: u16,
    /// Whether this segment completes the answer to the command.
    pub ends: bool,
}

impl Segment {
    fn len_bytes(&self) -> usize {
        self.header.as_bytes().len() + self.span.len_bytes as usize
    }
}

/// The result of a round of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The socket took this many bytes, and may have room for more.
    Bytes(usize),
    /// The socket takes no more for now.
    Full,
    /// The client has closed the connection, or it is broken.
    Broken,
}

/// The outgoing segments of a connection; see the module documentation.
pub(super) struct Outbox {
    ready: VecDeque<Segment>,
    deferred: VecDeque<Segment>,
    /// Bytes of the first ready segment that have been sent.
    sent_bytes: usize,
    /// The command whose reply may not be interrupted.
    streamed: Option<u16>,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox {
            ready: VecDeque::with_capacity(ROOM),
            deferred: VecDeque::with_capacity(ROOM),
            sent_bytes: 0,
            streamed: None,
        }
    }

    /// The command whose reply is being streamed.
    pub(super) fn streamed(&self) -> Option<u16> {
        self.streamed
    }

    /// Starts a streamed reply: until the segment that ends `command`, nothing else is sent.
    pub(super) fn stream(&mut self, command: u16) {
        assert!(self.streamed.is_none(), "one streamed reply at a time");
        self.streamed = Some(command);
    }

    /// The spans that are ready to be sent, including a span of which a part was sent. Only the client can
    /// free them.
    pub(super) fn ready_spans(&self) -> impl Iterator<Item = Span> {
        self.ready.iter().map(|segment| segment.span)
    }

    /// Adds a segment.
    pub(super) fn push(&mut self, segment: Segment) {
        assert!(self.ready.len() + self.deferred.len() < ROOM, "see the module");
        match self.streamed {
            Some(command) if command != segment.command => self.deferred.push_back(segment),
            Some(_) if segment.ends => {
                self.ready.push_back(segment);
                self.ready.append(&mut self.deferred);
                self.streamed = None;
            }
            _ => self.ready.push_back(segment),
        }
    }

    /// Whether any segment can be sent now.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Hands the kernel what it takes in one call, at most `bytes_max`. Afterwards [`Outbox::pop_sent`]
    /// returns the segments that are done.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, memory: &Memory, bytes_max: usize) -> Sent {
        let mut slices = [IoSlice::new(&[]); 2 * SEGMENTS_PER_SEND];
        let mut count = 0;
        let mut skip_bytes = self.sent_bytes;
        let mut left_bytes = bytes_max;
        for segment in self.ready.iter().take(SEGMENTS_PER_SEND) {
            for part in [segment.header.as_bytes(), bytes_of(memory, segment.span)] {
                let skipped = skip_bytes.min(part.len());
                skip_bytes -= skipped;
                let part = &part[skipped..];
                let part = &part[..part.len().min(left_bytes)];
                left_bytes -= part.len();
                if !part.is_empty() {
                    slices[count] = IoSlice::new(part);
                    count += 1;
                }
            }
        }
        assert!(count > 0, "sending needs something to send");
        let mut no_control = SendAncillaryBuffer::default();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(socket, &slices[..count], &mut no_control, flags) {
            Ok(bytes) => {
                self.sent_bytes += bytes;
                Sent::Bytes(bytes)
            }
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Sent::Full,
            Err(Errno::INTR) => Sent::Bytes(0),
            Err(_) => Sent::Broken,
        }
    }

    /// Takes the next segment that has been sent in full.
    pub(super) fn pop_sent(&mut self) -> Option<Segment> {
        let len_bytes = self.ready.front()?.len_bytes();
        if self.sent_bytes < len_bytes {
            return None;
        }
        self.sent_bytes -= len_bytes;
        self.ready.pop_front()
    }

    /// Discards everything that has not been sent.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.deferred.clear();
        self.sent_bytes = 0;
        self.streamed = None;
    }
}

/// The bytes of a span that a segment holds.
fn bytes_of(memory: &Memory, span: Span) -> &[u8] {
    let start = memory.ptr(span);
    // SAFETY: `ptr` checked that the span lies in a live, initialized mapping that `memory` owns. The
    // segment's piece holds the span from the engine's reply until it is sent (rules 1 and 2 of `memory`),
    // and this thread, the piece's only user, is busy sending while the slice lives.
    unsafe { std::slice::from_raw_parts(start, span.len_bytes as usize) }
}
