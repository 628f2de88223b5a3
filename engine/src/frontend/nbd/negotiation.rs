//! The handshake phase on the wire: constants, parsing of options, encoding of replies.
//!
//! This module is pure and total: any bytes give a value or `None`, never a panic. Section names in comments
//! are those of the protocol's specification.
//!
//! ```text
//!   server     | NBDMAGIC | IHAVEOPT | flags 2 |
//!   client     | flags 4 |
//!   option     | IHAVEOPT | option 4 | length 4 | length bytes ...        any number of these,
//!   reply      | magic 8  | option 4 | type 4 | length 4 | length bytes   each answered by some of these
//! ```

use super::ExportInfo;
use super::limits::{NAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
use super::protocol::transmission;

/// First word of the server's greeting, `NBDMAGIC`.
pub(super) const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// First word of an option, `IHAVEOPT`.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of a reply to an option.
pub(super) const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flag of both sides: fixed newstyle is supported.
pub(super) const FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag of both sides: the padding after `EXPORT_NAME` may be left out.
pub(super) const NO_ZEROES: u16 = 1 << 1;

/// Bytes of an option before its data.
pub(super) const OPTION_HEADER_BYTES: usize = 16;
/// Zeros after the answer to `EXPORT_NAME`, for clients that did not ask for `NO_ZEROES`.
pub(super) const PADDING_BYTES: usize = 124;

/// Types of options.
pub(super) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const START_TLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

/// Types of replies; types with the top bit set are errors and carry a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum ReplyType {
    Ack = 1,
    Server = 2,
    Info = 3,
    MetaContext = 4,
    Unsupported = (1 << 31) + 1,
    Policy = (1 << 31) + 2,
    Invalid = (1 << 31) + 3,
    TlsRequired = (1 << 31) + 5,
    Unknown = (1 << 31) + 6,
    TooBig = (1 << 31) + 9,
}

/// Types of information in replies to `INFO` and `GO`.
mod info {
    pub(super) const EXPORT: u16 = 0;
    pub(super) const NAME: u16 = 1;
    pub(super) const DESCRIPTION: u16 = 2;
    pub(super) const BLOCK_SIZE: u16 = 3;
}

/// Reads an option's header: its type and the length of its data. `None` if the client is out of step.
pub(super) fn option_header(bytes: &[u8; OPTION_HEADER_BYTES]) -> Option<(u32, u32)> {
    let mut reader = Reader(bytes);
    let magic = reader.u64()?;
    Some((reader.u32()?, reader.u32()?)).filter(|_| magic == OPTION_MAGIC)
}

/// The data of `INFO` and `GO`: the information that the client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExportQuery<'a> {
    /// The name of the export; empty for the default export.
    pub name: &'a [u8],
    /// Whether the client requests the canonical name.
    pub wants_name: bool,
    /// Whether the client requests the description.
    pub wants_description: bool,
}

impl<'a> ExportQuery<'a> {
    /// Reads the data of `INFO` or `GO`.
    pub(super) fn parse(data: &'a [u8]) -> Option<ExportQuery<'a>> {
        let mut reader = Reader(data);
        let name = reader.string()?;
        let count = reader.u16()?;
        let mut query = ExportQuery { name, wants_name: false, wants_description: false };
        for _ in 0..count {
            match reader.u16()? {
                info::NAME => query.wants_name = true,
                info::DESCRIPTION => query.wants_description = true,
                _ => {} // export and block sizes are sent anyway; unknown types are ignored
            }
        }
        reader.0.is_empty().then_some(query)
    }
}

/// Reads the data of `LIST_META_CONTEXT` or `SET_META_CONTEXT`: the export's name, and the queries.
pub(super) fn meta_context_queries(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut reader = Reader(data);
    let name = reader.string()?;
    let mut queries = Vec::new();
    for _ in 0..reader.u32()? {
        queries.push(reader.string()?); // each takes 4 bytes at least, so a hostile count ends with the data
    }
    reader.0.is_empty().then_some((name, queries))
}

/// Appends a reply to `option`.
pub(super) fn push_reply(out: &mut Vec<u8>, option: u32, kind: ReplyType, data: &[&[u8]]) {
    let len: usize = data.iter().map(|part| part.len()).sum();
    out.extend(REPLY_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend((kind as u32).to_be_bytes());
    out.extend((len as u32).to_be_bytes());
    data.iter().for_each(|part| out.extend_from_slice(part));
}

/// Appends the answer to `INFO` and `GO`, except for the final acknowledgement.
pub(super) fn push_export(
    out: &mut Vec<u8>,
    option: u32,
    query: &ExportQuery<'_>,
    export: &ExportInfo,
    name: &str,
    flags: u16,
) {
    let size = export.size_bytes.to_be_bytes();
    push_reply(out, option, ReplyType::Info, &[&info::EXPORT.to_be_bytes(), &size, &flags.to_be_bytes()]);
    let [minimum, preferred, maximum] =
        [export.logical_block_bytes, export.preferred_bytes, PAYLOAD_BYTES_MAX].map(u32::to_be_bytes);
    let sizes: [&[u8]; 4] = [&info::BLOCK_SIZE.to_be_bytes(), &minimum, &preferred, &maximum];
    push_reply(out, option, ReplyType::Info, &sizes);
    if query.wants_name {
        push_reply(out, option, ReplyType::Info, &[&info::NAME.to_be_bytes(), name.as_bytes()]);
    }
    if query.wants_description {
        let description = export.description.as_bytes();
        push_reply(out, option, ReplyType::Info, &[&info::DESCRIPTION.to_be_bytes(), description]);
    }
}

/// The transmission flags of the export. A flush reaches the whole array, whichever connection it uses, so
/// several connections may share the export.
pub(super) fn transmission_flags(read_only: bool, structured: bool) -> u16 {
    use transmission::*;
    let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN;
    if read_only {
        flags |= READ_ONLY;
    } else {
        flags |= SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO;
    }
    if structured {
        flags |= SEND_DF;
    }
    flags
}

/// Takes values from the front of a slice; `None` if the slice is too short.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    /// Reads a length and that many bytes.
    fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (head, rest) = (len <= NAME_BYTES_MAX).then(|| self.0.split_at_checked(len))??;
        self.0 = rest;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_query_is_read_whole_or_not_at_all() {
        let good = [&[0, 0, 0, 2][..], b"r6", &[0, 2], &[0, 3], &[0, 1]].concat();
        let query = ExportQuery::parse(&good).unwrap();
        assert_eq!((query.name, query.wants_name, query.wants_description), (&b"r6"[..], true, false));
        for cut in 0..good.len() {
            assert_eq!(ExportQuery::parse(&good[..cut]), None, "cut to {cut}");
        }
        assert_eq!(ExportQuery::parse(&[&good[..], &[0]].concat()), None, "a byte too many");
        assert_eq!(ExportQuery::parse(&[0xff; 64]), None);
    }

    #[test]
    fn meta_context_queries_are_read_whole_or_not_at_all() {
        let good = [&[0, 0, 0, 1][..], b"a", &[0, 0, 0, 1], &[0, 0, 0, 5], b"base:"].concat();
        assert_eq!(meta_context_queries(&good), Some((&b"a"[..], vec![&b"base:"[..]])));
        for cut in 0..good.len() {
            assert_eq!(meta_context_queries(&good[..cut]), None, "cut to {cut}");
        }
        let hostile = [&[0, 0, 0, 0][..], &[0xff; 4]].concat();
        assert_eq!(meta_context_queries(&hostile), None);
    }

    #[test]
    fn an_option_needs_its_magic() {
        let mut bytes = [0; OPTION_HEADER_BYTES];
        assert_eq!(option_header(&bytes), None);
        bytes[..8].copy_from_slice(b"IHAVEOPT");
        bytes[11] = 7;
        bytes[15] = 9;
        assert_eq!(option_header(&bytes), Some((7, 9)));
    }
}
