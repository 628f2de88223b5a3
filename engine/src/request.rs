//! Requests of hosts to the array, and the replies.
//!
//! A request names its data by a [`Span`] of the arenas that all reactors share, so it can be handed from one
//! reactor to another without a copy. Exactly one [`Reply`] answers each request; until then its span belongs
//! to the engine.

use crate::memory::Span;

/// Kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Fill the span with the array's content.
    Read,
    /// Store the span's bytes. With `fua`, data, parity and intent are durable before the reply.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Make everything durable that was acknowledged before the flush was submitted. No range.
    Flush,
    /// Forget the range's content; it reads back as zeros afterwards.
    Discard,
    /// Make the range read back as zeros. With `fua`, durably so before the reply.
    WriteZeroes {
        /// Force unit access.
        fua: bool,
    },
}

/// A request of a host.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The front end's own name for the request, returned in the reply.
    pub tag: u64,
    /// Kind of the request.
    pub kind: RequestKind,
    /// First byte in the array; a multiple of the array's logical block.
    pub offset_bytes: u64,
    /// Length; a multiple of the logical block, and not zero except for a flush. At most
    /// [`REQUEST_BYTES_MAX`](crate::limits::REQUEST_BYTES_MAX) for reads and writes.
    pub len_bytes: u64,
    /// The data of a read or a write (`len_bytes` long); [`Span::EMPTY`] otherwise. For a read it may be a
    /// host buffer ([`Memory::is_mapped`](crate::memory::Memory::is_mapped)).
    pub span: Span,
}

/// Why a request failed. Front ends map it to the error codes of their protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The request is not aligned to the logical block, or has a wrong length.
    Misaligned,
    /// The request extends beyond the end of the array.
    OutOfRange,
    /// More members are lost than the level tolerates, or a strip cannot be vouched for.
    Lost,
    /// A member has no room: its file system, or the storage pool below it, is full. Any part of the request
    /// may or may not be done.
    NoSpace,
    /// A member refused the request through no fault of its own: see [`blame`](crate::ring::blame). Any part
    /// of the request may or may not be done.
    NotTaken,
    /// The array does not accept writes (read-only or stopping).
    ReadOnly,
    /// The read's bytes must be touched by the CPU (zeros, a reconstructed strip), but its span is a host
    /// buffer that only devices can fill: ask again with a span of an arena. No other span is answered so.
    NeedsMemory,
}

/// The answer to one request. For a read that succeeded, all `len_bytes` of its span are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request's tag.
    pub tag: u64,
    /// Success, or why the request failed.
    pub result: Result<(), RequestError>,
    /// The request's span. If the kernel still holds that span (a member did not answer, and has left), this
    /// is another span of the same pool, and the front end owns it instead.
    pub span: Span,
}
