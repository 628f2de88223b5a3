//! The messages of the control socket, one JSON object per line.
//!
//! ```text
//!     {"verb":"status"}                                          {"answer":"status","status":{...}}
//!     {"verb":"lost","from_stripe":0}                            {"answer":"lost","lost":{...}}
//!     {"verb":"fail","member":2}                                 {"answer":"done"}
//!     {"verb":"fail","member":"/dev/nvme2n1"}                    {"answer":"error","error":"..."}
//!     {"verb":"replace","slot":2,"path":"/dev/nvme5n1","force":false}
//!     {"verb":"stop"}                                            {"answer":"done","warnings":["..."]}
//! ```
//!
//! Unknown verbs and unknown fields are errors: the client may rely on a field that the server does not know.

use std::fmt;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::PathBuf;

use engine::status::{ArrayStatus, LostPieces};
use serde::{Deserialize, Serialize};

use super::LINE_BYTES_MAX;

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Ask for the status.
    Status {},
    /// Ask for lost pieces.
    Lost {
        /// The first stripe to list; the client knows those before it.
        from_stripe: u64,
    },
    /// Fail a member. The answer comes once it is on record.
    Fail {
        /// The member to fail.
        member: MemberId,
    },
    /// Put a device in a slot and rebuild. The answer comes once the rebuild has begun.
    Replace {
        /// The slot, or the path of the member in it.
        slot: MemberId,
        /// The new device, an absolute path.
        path: PathBuf,
        /// Whether to overwrite the device even if it carries another array or a file system.
        force: bool,
    },
    /// Stop cleanly. The answer comes once the array is marked clean.
    Stop {
        /// Whether to stop even if the block device is in use.
        #[serde(default)]
        force: bool,
    },
}

impl Request {
    /// The request in words, for one line of the log. Control characters in a path are replaced, so that no
    /// file name can end the line.
    pub fn in_words(&self) -> String {
        let forced = |force: bool| if force { ", with --force" } else { "" };
        let text = match self {
            Self::Status {} => "show the status".into(),
            Self::Lost { .. } => "list what is lost".into(),
            Self::Fail { member } => format!("fail {member}"),
            Self::Replace { slot, path, force } => {
                format!("replace {slot} by {}{}", path.display(), forced(*force))
            }
            Self::Stop { force } => format!("stop{}", forced(*force)),
        };
        text.replace(char::is_control, "?")
    }
}

/// A member, by slot or by path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MemberId {
    /// A member by its slot.
    Slot(usize),
    /// A member by the absolute path it was opened by, or by another path to the same file.
    Path(PathBuf),
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => write!(f, "slot {slot}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl MemberId {
    /// Parses a number as a slot and anything else as a path (`./2` for a file of that name).
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::Slot).map_err(|_| "the slot is too large".into());
        }
        std::path::absolute(text).map(Self::Path).map_err(|error| error.to_string())
    }
}

/// An answer of the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Answer to [`Request::Status`].
    Status {
        /// The status of the array.
        status: Box<ArrayStatus>,
    },
    /// Answer to [`Request::Lost`].
    Lost {
        /// The pieces that fit in one answer.
        lost: LostPieces,
    },
    /// The command was carried out.
    Done {
        /// Lines for the operator: what was left behind, and why.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
    /// The request failed, or was not understood.
    Error {
        /// A line for the operator: what happened, to which array or member, and what to do.
        error: String,
    },
}

impl Answer {
    /// The answer to a command, from its result: warnings, or an error.
    pub fn of(result: std::result::Result<Vec<String>, String>) -> Self {
        match result {
            Ok(warnings) => Self::Done { warnings },
            Err(error) => Self::Error { error },
        }
    }
}

/// Encodes a message as one line, newline included.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("a message of plain values has a JSON form");
    line.push(b'\n');
    line
}

/// Collects bytes of a stream into lines, and never keeps more than one line's worth of memory.
#[derive(Debug, Default)]
pub struct Lines {
    /// Bytes that arrived and were not yet taken.
    pending: Vec<u8>,
}

impl Lines {
    /// Reads until a line is complete, and returns it without its newline; `None` at the end of the stream.
    ///
    /// `before_read` is called before each read and may set the stream's time limit, or give up. A line
    /// longer than [`LINE_BYTES_MAX`] is the error `InvalidData`; a stream that ends within a line is
    /// `UnexpectedEof`.
    pub fn next<R: Read>(
        &mut self,
        stream: &mut R,
        mut before_read: impl FnMut(&mut R) -> Result<()>,
    ) -> Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.pending[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(Error::new(ErrorKind::InvalidData, "the line is longer than 64 KiB"));
            }
            searched = self.pending.len();
            before_read(stream)?;
            let mut piece = [0; 4096];
            let room = piece.len().min(LINE_BYTES_MAX + 1 - searched);
            match stream.read(&mut piece[..room]) {
                Ok(0) if searched == 0 => return Ok(None),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.pending.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_on_the_wire() {
        let cases = [
            (r#"{"verb":"status"}"#, Request::Status {}),
            (r#"{"verb":"fail","member":2}"#, Request::Fail { member: MemberId::Slot(2) }),
            (
                r#"{"verb":"fail","member":"/dev/x"}"#,
                Request::Fail { member: MemberId::Path("/dev/x".into()) },
            ),
            (
                r#"{"verb":"replace","slot":1,"path":"/dev/y","force":true}"#,
                Request::Replace { slot: MemberId::Slot(1), path: "/dev/y".into(), force: true },
            ),
            (r#"{"verb":"stop","force":true}"#, Request::Stop { force: true }),
        ];
        for (text, request) in cases {
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
            assert_eq!(encode(&request), format!("{text}\n").into_bytes());
        }
    }

    #[test]
    fn what_is_no_request() {
        for text in [
            "",
            "status",
            "{}",
            r#"{"verb":"format"}"#,
            r#"{"verb":"status","force":true}"#,
            r#"{"verb":"fail"}"#,
            r#"{"verb":"fail","member":-1}"#,
            r#"{"verb":"replace","slot":1,"path":"/dev/y"}"#,
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn slots_and_paths() {
        assert_eq!(MemberId::parse("31"), Ok(MemberId::Slot(31)));
        assert_eq!(MemberId::parse("/dev/x"), Ok(MemberId::Path("/dev/x".into())));
        assert!(matches!(MemberId::parse("./2"), Ok(MemberId::Path(_))));
        assert!(MemberId::parse("").is_err());
        assert!(MemberId::parse("99999999999999999999999").is_err());
    }

    /// A stream that returns its bytes in pieces of one length.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
            let count = self.0.len().min(self.1).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn long_lines_are_refused_and_the_longest_is_not() {
        for (len, fits) in [(LINE_BYTES_MAX, true), (LINE_BYTES_MAX + 1, false), (10 * LINE_BYTES_MAX, false)]
        {
            let mut bytes = vec![b'x'; len];
            bytes.push(b'\n');
            let mut lines = Lines::default();
            let result = lines.next(&mut Pieces(&bytes, 4096), |_| Ok(()));
            assert_eq!(result.is_ok(), fits, "{len}");
            assert!(lines.pending.capacity() <= 2 * LINE_BYTES_MAX + 4096);
        }
    }

    proptest! {
        #[test]
        fn lines_come_whole(lines in prop::collection::vec("[a-z]{0,20}", 0..20), piece in 1usize..50) {
            let bytes: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
            let (mut stream, mut reader) = (Pieces(&bytes, piece), Lines::default());
            for line in &lines {
                prop_assert_eq!(reader.next(&mut stream, |_| Ok(())).unwrap().unwrap(), line.as_bytes());
            }
            prop_assert!(reader.next(&mut stream, |_| Ok(())).unwrap().is_none());
        }
    }
}
