//! Decides on a command, by one pure function of the export's limits and the command's header.
//!
//! | refused because | error |
//! |---|---|
//! | unknown command, unknown flag, flag of another command | EINVAL |
//! | a change to a read-only export | EPERM |
//! | beyond the end: write, write-zeroes / read, trim | ENOSPC / EINVAL |
//! | offset or length not a multiple of the logical block | EINVAL |
//! | payload of more than 32 MiB | EINVAL |
//! | a flush with a range | EINVAL |
//! | an unfragmented read longer than one request | EOVERFLOW |
//! | a block status of no length, or without a metadata context | EINVAL |
//! | fast zeroes that are not whole stripes | ENOTSUP |
//!
//! A length of zero is unspecified by the protocol. Here such a command succeeds without reaching the engine,
//! as a `write(2)` of nothing does, provided that everything else about it is in order.
//!
//! Two mappings need an explanation. A trim with FUA becomes a write-zeroes with FUA: its effect has to be
//! durable, and here a trimmed range reads back as zeros anyway. The flag NO_HOLE is accepted and has no
//! effect: an array owns its members, so no later write to a deallocated range runs out of space. Zeroes of
//! whole stripes are fast, since the stripes are marked as unwritten. Parts of stripes are written.

use super::limits::{LONG_OPERATIONS_MAX, LONG_PIECE_STRIPES, PAYLOAD_BYTES_MAX};
use super::map::Contexts;
use super::protocol::{ErrorCode, Header, command};
use crate::limits::REQUEST_BYTES_MAX;
use crate::request::RequestKind;

/// The export's properties that a connection checks commands against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The export's size.
    pub size_bytes: u64,
    /// The unit of offsets and lengths; a power of two.
    pub logical_block_bytes: u32,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Data bytes of a stripe.
    pub stripe_bytes: u64,
}

impl Limits {
    /// The length of the piece of a long command that begins at `offset_bytes`, with `left_bytes` left to do.
    pub(super) fn long_piece(&self, offset_bytes: u64, left_bytes: u32) -> u32 {
        let cut_bytes = self.stripe_bytes * LONG_PIECE_STRIPES;
        u64::from(left_bytes).min(cut_bytes - offset_bytes % cut_bytes) as u32
    }

    /// The number of the engine's stripe operations that a piece of a long command keeps busy.
    pub(super) fn long_operations(&self, offset_bytes: u64, len_bytes: u32) -> u32 {
        let end = (offset_bytes + u64::from(len_bytes)).div_ceil(self.stripe_bytes);
        (end - offset_bytes / self.stripe_bytes).min(LONG_OPERATIONS_MAX.into()) as u32
    }
}

/// The format of a client's replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyStyle {
    /// A reply is a header and, for a read, all of its data.
    Simple,
    /// Reads are answered in chunks.
    Structured,
}

/// The result of a client's negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// The format of replies.
    pub style: ReplyStyle,
    /// The metadata contexts that the client has chosen.
    pub contexts: Contexts,
    /// Whether the client has chosen the read-only export.
    pub read_only: bool,
}

impl Terms {
    /// The terms before anything is negotiated.
    pub(super) const FIRST: Terms =
        Terms { style: ReplyStyle::Simple, contexts: Contexts::NONE, read_only: false };
}

/// The decision on a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// The client leaves.
    Disconnect,
    /// The command is answered without the engine, after its payload was received.
    Answer(Result<(), ErrorCode>),
    /// The command asks what the array holds in a range. The answer comes from the bitmap, without the
    /// engine.
    Map,
    /// The command goes to the engine.
    Run(RequestKind),
}

/// Decides whether a command is answered, mapped, or run by the engine.
pub(super) fn admit(limits: &Limits, terms: &Terms, header: &Header) -> Admission {
    if header.kind == command::DISCONNECT {
        return Admission::Disconnect;
    }
    if header.kind == command::BLOCK_STATUS {
        return check_map(limits, terms, header)
            .map_or_else(|error| Admission::Answer(Err(error)), |()| Admission::Map);
    }
    match check(limits, terms.style, header) {
        Err(error) => Admission::Answer(Err(error)),
        Ok(RequestKind::Flush) => Admission::Run(RequestKind::Flush),
        Ok(_) if header.len_bytes == 0 => Admission::Answer(Ok(())),
        Ok(kind) => Admission::Run(kind),
    }
}

/// Checks whether a block status command can be answered.
fn check_map(limits: &Limits, terms: &Terms, header: &Header) -> Result<(), ErrorCode> {
    let known = command::FLAG_REQ_ONE | command::FLAG_FUA;
    if header.flags & !known != 0 || header.len_bytes == 0 || terms.contexts.is_empty() {
        return Err(ErrorCode::Invalid);
    }
    check_range(limits, header)
}

/// Converts a command to a request, or says why it is refused.
fn check(limits: &Limits, style: ReplyStyle, header: &Header) -> Result<RequestKind, ErrorCode> {
    let fua = header.flags & command::FLAG_FUA != 0;
    let (kind, flags) = match header.kind {
        command::READ if style == ReplyStyle::Structured => (RequestKind::Read, command::FLAG_DF),
        command::READ => (RequestKind::Read, 0),
        command::WRITE => (RequestKind::Write { fua }, 0),
        command::FLUSH => (RequestKind::Flush, 0),
        command::TRIM if fua => (RequestKind::WriteZeroes { fua }, 0),
        command::TRIM => (RequestKind::Discard, 0),
        command::WRITE_ZEROES => {
            (RequestKind::WriteZeroes { fua }, command::FLAG_NO_HOLE | command::FLAG_FAST_ZERO)
        }
        _ => return Err(ErrorCode::Invalid),
    };
    if header.flags & !(flags | command::FLAG_FUA) != 0 {
        return Err(ErrorCode::Invalid);
    }
    let reads = matches!(kind, RequestKind::Read | RequestKind::Flush);
    if limits.read_only && !reads {
        return Err(ErrorCode::NotPermitted);
    }
    if kind == RequestKind::Flush {
        let rangeless = header.offset_bytes == 0 && header.len_bytes == 0;
        return if rangeless { Ok(kind) } else { Err(ErrorCode::Invalid) };
    }
    check_range(limits, header)?;
    if header.flags & command::FLAG_DF != 0 && header.len_bytes > REQUEST_BYTES_MAX {
        return Err(ErrorCode::Overflow);
    }
    let is_whole = |at: u64| at.is_multiple_of(limits.stripe_bytes);
    let is_fast = is_whole(header.offset_bytes) && is_whole(header.len_bytes.into());
    if header.kind == command::WRITE_ZEROES && header.flags & command::FLAG_FAST_ZERO != 0 && !is_fast {
        return Err(ErrorCode::NotSupported);
    }
    Ok(kind)
}

/// Checks whether a command may touch its range.
fn check_range(limits: &Limits, header: &Header) -> Result<(), ErrorCode> {
    let end_bytes = header.offset_bytes.checked_add(u64::from(header.len_bytes));
    if end_bytes.is_none_or(|end| end > limits.size_bytes) {
        let grows = matches!(header.kind, command::WRITE | command::WRITE_ZEROES);
        return Err(if grows { ErrorCode::NoSpace } else { ErrorCode::Invalid });
    }
    let misaligned_mask = u64::from(limits.logical_block_bytes) - 1;
    if (header.offset_bytes | u64::from(header.len_bytes)) & misaligned_mask != 0 {
        return Err(ErrorCode::Invalid);
    }
    let carries_data = matches!(header.kind, command::READ | command::WRITE);
    if carries_data && header.len_bytes > PAYLOAD_BYTES_MAX {
        return Err(ErrorCode::Invalid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::map::Context;
    use super::*;
    use Admission::{Answer, Disconnect, Run};
    use ErrorCode::{Invalid, NoSpace, NotPermitted, NotSupported, Overflow};
    use ReplyStyle::{Simple, Structured};

    const MIB: u32 = 1 << 20;
    const SIZE: u64 = 1 << 30;

    fn check(
        read_only: bool,
        style: ReplyStyle,
        kind: u16,
        flags: u16,
        range: (u64, u32),
        expected: Admission,
    ) {
        let limits = Limits { size_bytes: SIZE, logical_block_bytes: 512, read_only, stripe_bytes: 1 << 18 };
        let header = Header { flags, kind, cookie: 7, offset_bytes: range.0, len_bytes: range.1 };
        let terms = Terms { style, ..Terms::FIRST };
        assert_eq!(admit(&limits, &terms, &header), expected, "{header:?} {style:?} read_only={read_only}");
    }

    #[test]
    fn a_long_command_is_cut_at_256_stripes_and_keeps_64_operations() {
        let stripe_bytes = u64::from(MIB / 4);
        let limits = Limits { size_bytes: SIZE, logical_block_bytes: 512, read_only: false, stripe_bytes };
        for (offset_bytes, left_bytes, piece_bytes, operations) in [
            (0, 1 << 30, 64 * MIB, 64),
            (512, 1 << 30, 64 * MIB - 512, 64),
            (64 * u64::from(MIB) - 512, 1 << 30, 512, 1),
            (512, MIB + 512, MIB + 512, 5),
            (stripe_bytes, 2 * MIB, 2 * MIB, 8),
        ] {
            assert_eq!(limits.long_piece(offset_bytes, left_bytes), piece_bytes);
            assert_eq!(limits.long_operations(offset_bytes, piece_bytes), operations, "{offset_bytes}");
        }
    }

    #[test]
    fn each_command_is_run_or_refused_with_its_error() {
        let (read, write, zeroes) = (command::READ, command::WRITE, command::WRITE_ZEROES);
        let (fua, df) = (command::FLAG_FUA, command::FLAG_DF);
        let durable = RequestKind::WriteZeroes { fua: true };
        for (read_only, style, kind, flags, range, expected) in [
            (false, Simple, read, 0, (512, 1024), Run(RequestKind::Read)),
            (false, Simple, read, fua, (512, 1024), Run(RequestKind::Read)),
            (false, Simple, read, df, (512, 1024), Answer(Err(Invalid))),
            (false, Structured, read, df, (0, MIB), Run(RequestKind::Read)),
            (false, Structured, read, df, (0, MIB + 512), Answer(Err(Overflow))),
            (false, Structured, read, 0, (0, 32 * MIB), Run(RequestKind::Read)),
            (false, Structured, read, 0, (0, 32 * MIB + 512), Answer(Err(Invalid))),
            (true, Simple, read, 0, (SIZE - 512, 512), Run(RequestKind::Read)),
            (false, Simple, read, 0, (SIZE - 512, 1024), Answer(Err(Invalid))),
            (false, Simple, read, 0, (SIZE, 0), Answer(Ok(()))),
            (false, Simple, read, 0, (SIZE + 512, 0), Answer(Err(Invalid))),
            (false, Simple, read, 0, (u64::MAX - 511, 1024), Answer(Err(Invalid))),
            (false, Simple, read, 0, (1, 512), Answer(Err(Invalid))),
            (false, Simple, write, 0, (0, 511), Answer(Err(Invalid))),
            (false, Simple, write, 0, (0, 0), Answer(Ok(()))),
            (false, Simple, write, fua, (0, 512), Run(RequestKind::Write { fua: true })),
            (false, Simple, write, df, (0, 512), Answer(Err(Invalid))),
            (false, Simple, write, 0, (SIZE, 512), Answer(Err(NoSpace))),
            (true, Simple, write, 0, (0, 512), Answer(Err(NotPermitted))),
            (false, Simple, zeroes, command::FLAG_NO_HOLE, (0, u32::MAX - 511), Answer(Err(NoSpace))),
            (false, Simple, zeroes, command::FLAG_NO_HOLE | fua, (0, 1 << 30), Run(durable)),
            (false, Simple, zeroes, command::FLAG_FAST_ZERO, (0, 512), Answer(Err(NotSupported))),
            (
                false,
                Simple,
                zeroes,
                command::FLAG_FAST_ZERO,
                (1 << 18, 1 << 19),
                Run(RequestKind::WriteZeroes { fua: false }),
            ),
            (false, Simple, write, command::FLAG_FAST_ZERO, (0, 512), Answer(Err(Invalid))),
            (true, Simple, command::TRIM, 0, (0, 512), Answer(Err(NotPermitted))),
            (false, Simple, command::TRIM, 0, (0, 512), Run(RequestKind::Discard)),
            (false, Simple, command::TRIM, fua, (0, 512), Run(durable)),
            (false, Simple, command::TRIM, 0, (SIZE, 512), Answer(Err(Invalid))),
            (true, Simple, command::FLUSH, fua, (0, 0), Run(RequestKind::Flush)),
            (false, Simple, command::FLUSH, 0, (0, 512), Answer(Err(Invalid))),
            (false, Simple, 5, 0, (0, 512), Answer(Err(Invalid))),
            (false, Structured, 7, 0, (0, 512), Answer(Err(Invalid))),
            (false, Simple, 999, 0, (0, 512), Answer(Err(Invalid))),
            (false, Simple, command::DISCONNECT, 0, (0, 0), Disconnect),
        ] {
            check(read_only, style, kind, flags, range, expected);
        }
    }

    #[test]
    fn what_the_array_holds_is_told_to_those_who_have_chosen_a_context() {
        let limits =
            Limits { size_bytes: SIZE, logical_block_bytes: 512, read_only: true, stripe_bytes: 1 << 18 };
        let mut terms = Terms { style: Structured, ..Terms::FIRST };
        let asked = |terms: &Terms, flags, (offset_bytes, len_bytes)| {
            let header = Header { flags, kind: command::BLOCK_STATUS, cookie: 7, offset_bytes, len_bytes };
            admit(&limits, terms, &header)
        };
        assert_eq!(asked(&terms, 0, (0, 512)), Answer(Err(Invalid)));
        terms.contexts.add(Context::Allocation);
        assert_eq!(asked(&terms, 0, (0, 512)), Admission::Map);
        assert_eq!(asked(&terms, command::FLAG_REQ_ONE, (512, 1 << 29)), Admission::Map);
        assert_eq!(asked(&terms, command::FLAG_DF, (0, 512)), Answer(Err(Invalid)));
        for range in [(0, 0), (0, 511), (1, 512), (SIZE, 512), (512, 1 << 30)] {
            assert_eq!(asked(&terms, 0, range), Answer(Err(Invalid)), "{range:?}");
        }
    }
}
