//! The transmission phase of the NBD protocol on the wire: constants, command headers, reply headers.
//!
//! This module is pure: it converts bytes to values and back. Everything is big-endian. Section names in
//! comments are those of the protocol's specification (`doc/proto.md` of the NBD project).
//!
//! ```text
//!   command    0        4       6      8         16         24       28
//!              | magic  | flags | type | cookie  | offset   | length |  payload of a write ...
//!   simple     | magic  | error        | cookie  |  payload of a read ...
//!   chunk      | magic  | flags | type | cookie  | length 4 |  length bytes ...
//! ```

use crate::request::RequestError;

/// First word of a command.
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a chunk of a structured reply.
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Length of a command without its payload.
pub(super) const HEADER_BYTES: usize = 28;

/// Transmission flags: the abilities that the server announces to the client.
pub(super) mod transmission {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Types of commands, and their flags.
pub(super) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISCONNECT: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;

    /// Delays the reply until the written data is durable. Valid, if pointless, with every command.
    pub(crate) const FLAG_FUA: u16 = 1 << 0;
    /// With write-zeroes: keeps the range provisioned.
    pub(crate) const FLAG_NO_HOLE: u16 = 1 << 1;
    /// With a read: requires one content chunk.
    pub(crate) const FLAG_DF: u16 = 1 << 2;
    /// With a block status: requires one extent, which does not go beyond the range.
    pub(crate) const FLAG_REQ_ONE: u16 = 1 << 3;
    /// With write-zeroes: requires an error if the command would be no faster than a write.
    pub(crate) const FLAG_FAST_ZERO: u16 = 1 << 4;
}

/// Chunk types of structured replies, and their one flag.
mod chunk {
    pub(super) const FLAG_DONE: u16 = 1 << 0;
    pub(super) const NONE: u16 = 0;
    pub(super) const OFFSET_DATA: u16 = 1;
    pub(super) const OFFSET_HOLE: u16 = 2;
    pub(super) const BLOCK_STATUS: u16 = 5;
    pub(super) const ERROR: u16 = (1 << 15) + 1;
    pub(super) const ERROR_OFFSET: u16 = (1 << 15) + 2;
}

/// The protocol's error values that this server uses ("Error values").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum ErrorCode {
    /// The export does not accept writes.
    NotPermitted = 1,
    /// The array could not carry out the command.
    Io = 5,
    /// The command violates the protocol or the export's limits.
    Invalid = 22,
    /// The write goes past the end.
    NoSpace = 28,
    /// The read may not be fragmented and is too long for that.
    Overflow = 75,
    /// The zeroes would not be fast.
    NotSupported = 95,
}

impl From<RequestError> for ErrorCode {
    fn from(error: RequestError) -> ErrorCode {
        match error {
            RequestError::Misaligned => ErrorCode::Invalid,
            RequestError::OutOfRange | RequestError::NoSpace => ErrorCode::NoSpace,
            RequestError::Lost | RequestError::NotTaken | RequestError::NeedsMemory => ErrorCode::Io,
            RequestError::ReadOnly => ErrorCode::NotPermitted,
        }
    }
}

/// A command as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The command's flags, `command::FLAG_*`.
    pub flags: u16,
    /// The command's type, `command::*`.
    pub kind: u16,
    /// The client's name for the command, returned in every reply.
    pub cookie: u64,
    /// First byte of the range.
    pub offset_bytes: u64,
    /// Length of the range; for a write, also of the payload that follows.
    pub len_bytes: u32,
}

/// Received bytes that are not a command: the stream is out of step and cannot be resynchronized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfStep;

impl Header {
    /// Reads a command's header.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Header, OutOfStep> {
        if u32_at(bytes, 0) != REQUEST_MAGIC {
            return Err(OutOfStep);
        }
        Ok(Header {
            flags: u16_at(bytes, 4),
            kind: u16_at(bytes, 6),
            cookie: u64_at(bytes, 8),
            offset_bytes: u64_at(bytes, 16),
            len_bytes: u32_at(bytes, 24),
        })
    }

    /// The length of the payload that follows the header.
    pub(super) fn payload_bytes(&self) -> u32 {
        if self.kind == command::WRITE { self.len_bytes } else { 0 }
    }
}

/// Longest header of a reply, that is, bytes before the data or alone: an error chunk with an offset.
const REPLY_BYTES_MAX: usize = 20 + 4 + 2 + 8;

/// The bytes of a reply without the data that may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyHeader {
    bytes: [u8; REPLY_BYTES_MAX],
    len: u8,
}

/// Whether a chunk is the last of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// More chunks follow.
    More,
    /// The chunk ends the reply.
    Last,
}

impl ReplyHeader {
    /// An empty header, before data that continues the previous segment.
    pub(super) const EMPTY: ReplyHeader = ReplyHeader { bytes: [0; REPLY_BYTES_MAX], len: 0 };

    /// A simple reply; after success, the data of a read follows.
    pub(super) fn simple(cookie: u64, error: Option<ErrorCode>) -> ReplyHeader {
        let code = error.map_or(0, |error| error as u32);
        ReplyHeader::EMPTY.u32(SIMPLE_REPLY_MAGIC).u32(code).u64(cookie)
    }

    /// A chunk of `data_bytes` of content that begins at `offset_bytes` of the export.
    pub(super) fn data(cookie: u64, place: Chunk, offset_bytes: u64, data_bytes: u32) -> ReplyHeader {
        ReplyHeader::chunk(cookie, place, chunk::OFFSET_DATA, 8 + data_bytes).u64(offset_bytes)
    }

    /// A chunk that declares `hole_bytes` of content from `offset_bytes` on to be zeros.
    pub(super) fn hole(cookie: u64, place: Chunk, offset_bytes: u64, hole_bytes: u32) -> ReplyHeader {
        ReplyHeader::chunk(cookie, place, chunk::OFFSET_HOLE, 12).u64(offset_bytes).u32(hole_bytes)
    }

    /// A chunk with one extent of a metadata context.
    pub(super) fn status(cookie: u64, place: Chunk, context: u32, (bytes, flags): (u32, u32)) -> ReplyHeader {
        ReplyHeader::chunk(cookie, place, chunk::BLOCK_STATUS, 12).u32(context).u32(bytes).u32(flags)
    }

    /// The end of a successful reply that has no content.
    pub(super) fn none(cookie: u64) -> ReplyHeader {
        ReplyHeader::chunk(cookie, Chunk::Last, chunk::NONE, 0)
    }

    /// The end of a reply to a command that was refused as a whole.
    pub(super) fn error(cookie: u64, error: ErrorCode) -> ReplyHeader {
        ReplyHeader::chunk(cookie, Chunk::Last, chunk::ERROR, 6).u32(error as u32).u16(0)
    }

    /// A chunk for content at `offset_bytes` that could not be read.
    pub(super) fn error_at(cookie: u64, place: Chunk, error: ErrorCode, offset_bytes: u64) -> ReplyHeader {
        ReplyHeader::chunk(cookie, place, chunk::ERROR_OFFSET, 14).u32(error as u32).u16(0).u64(offset_bytes)
    }

    fn chunk(cookie: u64, place: Chunk, kind: u16, len_bytes: u32) -> ReplyHeader {
        let flags = if place == Chunk::Last { chunk::FLAG_DONE } else { 0 };
        ReplyHeader::EMPTY.u32(STRUCTURED_REPLY_MAGIC).u16(flags).u16(kind).u64(cookie).u32(len_bytes)
    }

    /// The bytes to send.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    fn u16(self, value: u16) -> ReplyHeader {
        self.put(&value.to_be_bytes())
    }

    fn u32(self, value: u32) -> ReplyHeader {
        self.put(&value.to_be_bytes())
    }

    fn u64(self, value: u64) -> ReplyHeader {
        self.put(&value.to_be_bytes())
    }

    fn put(mut self, value: &[u8]) -> ReplyHeader {
        let start = self.len as usize;
        self.bytes[start..start + value.len()].copy_from_slice(value);
        self.len += value.len() as u8;
        self
    }
}

fn u16_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_drawn() {
        let mut bytes = [0; HEADER_BYTES];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = at as u8;
        }
        assert_eq!(Header::parse(&bytes), Err(OutOfStep));
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.flags, 0x0405);
        assert_eq!(header.kind, 0x0607);
        assert_eq!(header.cookie, 0x0809_0a0b_0c0d_0e0f);
        assert_eq!(header.offset_bytes, 0x1011_1213_1415_1617);
        assert_eq!(header.len_bytes, 0x1819_1a1b);
    }

    #[test]
    fn replies_have_the_lengths_that_they_declare() {
        let cookie = 0x0102_0304_0506_0708;
        for (reply, len, declared) in [
            (ReplyHeader::none(cookie), 20, 0),
            (ReplyHeader::error(cookie, ErrorCode::Io), 26, 6),
            (ReplyHeader::error_at(cookie, Chunk::More, ErrorCode::Io, 4096), 34, 14),
            (ReplyHeader::data(cookie, Chunk::Last, 4096, 512), 28, 8 + 512),
            (ReplyHeader::hole(cookie, Chunk::More, 4096, 512), 32, 12),
            (ReplyHeader::status(cookie, Chunk::Last, 1, (4096, 3)), 32, 12),
        ] {
            let bytes = reply.as_bytes();
            assert_eq!(bytes.len(), len);
            assert_eq!(bytes[..4], STRUCTURED_REPLY_MAGIC.to_be_bytes());
            assert_eq!(bytes[8..16], cookie.to_be_bytes());
            assert_eq!(bytes[16..20], u32::to_be_bytes(declared));
        }
        let simple = ReplyHeader::simple(cookie, Some(ErrorCode::NoSpace));
        assert_eq!(simple.as_bytes().len(), 16);
        assert_eq!(simple.as_bytes()[4..8], 28u32.to_be_bytes());
    }
}
