//! What a host asks of the array, and what it is answered.
//!
//! A request names its data by a [`Span`] of the arenas that all reactors share, so it can be handed
//! from one reactor to another without a copy. Exactly one [`Reply`] answers each request; until
//! then its span belongs to the engine.

use crate::memory::Span;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Fill the span with the array's content.
    Read,
    /// Store the span's bytes. With `fua`, data, parity and intent are durable before the reply.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Everything acknowledged before this was submitted is durable before the reply. No range.
    Flush,
    /// The range's content is no longer needed; it reads back as zeros afterwards.
    Discard,
    /// The range reads back as zeros afterwards. With `fua`, durably so before the reply.
    WriteZeroes {
        /// Force unit access.
        fua: bool,
    },
}

/// One request of a host.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The front end's own name for it, returned in the reply.
    pub tag: u64,
    /// What is asked.
    pub kind: RequestKind,
    /// First byte in the array; a multiple of the array's logical block.
    pub offset_bytes: u64,
    /// Length; a multiple of the logical block, not zero except for a flush. Reads and writes are at
    /// most [`REQUEST_BYTES_MAX`](crate::limits::REQUEST_BYTES_MAX).
    pub len_bytes: u64,
    /// The data of a read or a write (`len_bytes` long); [`Span::EMPTY`] otherwise. A read's may be a host buffer
    /// ([`Memory::is_mapped`](crate::memory::Memory::is_mapped)).
    pub span: Span,
}

/// Why a request failed. Front ends map it to the error codes of their protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Not aligned to the logical block, or of a wrong length.
    Misaligned,
    /// Beyond the end of the array.
    OutOfRange,
    /// More members are lost than the level bears, or a strip cannot be vouched for.
    Lost,
    /// A member has no room for it: its file system, or the pool below it, is full. Nothing of the request is promised.
    NoSpace,
    /// A member did not take it, and not for a fault of its own: see [`blame`](crate::ring::blame). Nothing is promised.
    NotTaken,
    /// The array does not accept writes (read-only or stopping).
    ReadOnly,
    /// The read's bytes have to be touched (zeros, a reconstructed strip), and its span is a host buffer that only
    /// devices can fill: ask again with a span of an arena. No other span is answered so.
    NeedsMemory,
}

/// The answer to one request. For a read that succeeded, all `len_bytes` of its span are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request's tag.
    pub tag: u64,
    /// How it went.
    pub result: Result<(), RequestError>,
    /// The request's bytes. Another span of the same pool than the request came with where the kernel still holds that one
    /// (a member did not answer, and has left): the front end owns this one instead.
    pub span: Span,
}
