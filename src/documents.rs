//! The documents that verbs print with `--json`, one type for each.
//!
//! - Standard output holds one JSON object, whether the verb succeeds or fails. `serve` and `bench
//!   --ublk-null` keep running after it: they print it as one line, followed by an [`ErrorDocument`] if they
//!   do not end well.
//! - Every document has `schema`, the version of all of them: [`SCHEMA_VERSION`].
//! - A verb that fails, or a command line that makes no sense, prints an [`ErrorDocument`] in place of its
//!   own document. The line on standard error and the exit code are the same as without `--json`.
//!
//! Errors go to standard output because standard error also carries progress, notices and advice, so a
//! program could not parse it. (nvme-cli and terraform do the same; gh and zpool leave errors as text, and
//! scripts that use them compare texts.)
//!
//! docs/schema has a JSON schema for each document, which the tests below generate from these types,
//! descriptions included. The engine defines the content of `grow.json`, `scrub.json` and `bench.json`:
//! `Grown`, `ScrubReport`, `BenchReport`.

use std::path::Path;

use engine::examine::Examined;
use engine::status::{ArrayStatus, MemberRoute, SCHEMA_VERSION};
use serde::Serialize;

use crate::control::message::MemberId;

#[cfg(test)]
mod tests;

/// A document, with its version in front.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Document<T> {
    /// The version of the documents.
    schema: u32,
    #[serde(flatten)]
    content: T,
}

impl<T> Document<T> {
    /// A document of this version of the program.
    pub const fn of(content: T) -> Document<T> {
        Document { schema: SCHEMA_VERSION, content }
    }
}

/// `error.json`: the answer of any verb that failed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ErrorDocument {
    pub error: ErrorReport,
}

/// Why a verb failed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ErrorReport {
    /// Whether the command line made no sense, or the operation failed.
    pub kind: ErrorKind,
    /// The reason in words: what, to which array or device, and what to do about it.
    pub message: String,
    /// Commands that the message advises, as they can be typed; without those in which something is to be
    /// filled in (`DEVICE`).
    pub commands: Vec<String>,
}

/// How a verb failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The command line makes no sense (exit code 2).
    Usage,
    /// The operation failed (exit code 1).
    Failed,
}

impl ErrorDocument {
    /// Makes the document of a message that has commands in backquotes.
    pub fn new(kind: ErrorKind, message: String) -> ErrorDocument {
        // If the number of backquotes is odd, one is part of a path, and nothing says where a command begins.
        let is_paired = message.matches('`').count().is_multiple_of(2);
        let quoted = message.split('`').skip(1).step_by(2).filter(|_| is_paired);
        let is_place = |word: &str| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase());
        let is_command = |text: &&str| text.starts_with("striate ") && !text.split(' ').any(is_place);
        let commands = quoted.filter(is_command).map(String::from).collect();
        ErrorDocument { error: ErrorReport { kind, message, commands } }
    }
}

/// `create.json`: the array that was made.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Created<'a> {
    /// The array's name.
    pub name: &'a str,
    /// The array's identity.
    pub uuid: &'a str,
    /// 5 or 6.
    pub level: u8,
    /// Bytes placed on one member before moving on to the next.
    pub chunk_bytes: u32,
    /// How many members there are.
    pub members: usize,
    /// The size that hosts will see.
    pub size_bytes: u64,
    /// How the stripes start: `zero`, `lazy`, `sync` or `assume-clean`.
    pub init: &'a str,
    /// How the I/O of each member travels, in slot order.
    pub routes: &'a [MemberRoute],
}

/// `serve.json`: hosts can use the array. Printed once, as one line; the log goes on on standard error.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Ready<'a> {
    /// Always `ready`.
    pub event: &'static str,
    /// The array's name.
    pub name: &'a str,
    /// `ublk` or `nbd`.
    pub kind: &'a str,
    /// Addresses at which hosts reach it: a device, `unix:PATH` or `HOST:PORT`.
    pub exports: &'a [String],
    /// The server's process.
    pub pid: u32,
    /// The version of the program.
    pub version: &'static str,
}

/// `status.json`: the arrays of a run directory.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Arrays<'a> {
    pub arrays: Vec<StatusEntry<'a>>,
}

/// The whole status of an array that is served, or a few words about any other.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum StatusEntry<'a> {
    Served(&'a ArrayStatus),
    Unserved(Unserved<'a>),
}

/// An array whose server is not there, or does not say how the array is.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Unserved<'a> {
    /// The version of the documents.
    pub schema: u32,
    /// The array's name.
    pub name: &'a str,
    pub health: UnservedHealth,
    /// Block devices that wait for a server.
    pub block_devices: Vec<String>,
    /// The reason, in words.
    pub error: String,
}

/// The health of an array that is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum UnservedHealth {
    /// The server has died.
    ServerGone,
    /// The server has ended, and a block device waits for the next one.
    Waiting,
    /// The server does not answer, or cannot be asked.
    Unknown,
}

/// `members.json`: what `detail` says of paths.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExaminedMembers<'a> {
    /// An entry for each path, in the order given.
    pub members: &'a [Examined],
}

/// `lost.json`: data that cannot be computed. Reading it is an error until it is written or discarded.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Lost<'a> {
    /// The array's name.
    pub name: &'a str,
    /// The array's identity.
    pub uuid: &'a str,
    /// The unit of the blocks below.
    pub logical_block_bytes: u32,
    /// The length of all pieces.
    pub lost_bytes: u64,
    /// The pieces as a host addresses them, in order.
    pub pieces: Vec<LostPiece>,
}

/// A piece of the array that is lost.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LostPiece {
    /// The first byte.
    pub offset_bytes: u64,
    /// The length.
    pub len_bytes: u64,
    /// The first byte, in logical blocks.
    pub first_block: u64,
    /// The length in logical blocks.
    pub blocks: u64,
}

/// `fail.json`: a member was taken out of service, and that is on record.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Failed<'a> {
    /// The array's name.
    pub name: &'a str,
    /// The slot, or the absolute path, as given.
    #[cfg_attr(test, schemars(with = "tests::MemberSchema"))]
    pub member: &'a MemberId,
}

/// `replace.json`: the rebuild of a slot has begun.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Replaced<'a> {
    /// The array's name.
    pub name: &'a str,
    /// The slot, or the absolute path of the member that it had, as given.
    #[cfg_attr(test, schemars(with = "tests::MemberSchema"))]
    pub member: &'a MemberId,
    /// The new device, by its absolute path.
    pub path: &'a Path,
}

/// `stop.json`: the array was stopped, or what a dead server left was cleared away.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stopped<'a> {
    /// The array's name.
    pub name: &'a str,
    pub outcome: StopOutcome,
    /// Lines for the operator about what stays, and why.
    pub warnings: Vec<String>,
}

/// The outcome of `stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StopOutcome {
    /// The array was stopped cleanly.
    Stopped,
    /// The server had died, and what it left is gone.
    Cleared,
}

/// `wait.json`: no resync or rebuild is going on any more.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Waited<'a> {
    /// Whether all that was waited for has ended well; otherwise the exit code is 1.
    pub ended_well: bool,
    /// The array at the end.
    pub array: &'a ArrayStatus,
}

/// `bench-device.json`: a block device that stores nothing is there until a signal. Printed as one line.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NullDevice<'a> {
    /// Always `ready`.
    pub event: &'static str,
    /// The device.
    pub path: &'a str,
}

/// `demo.json`: the whole story went well.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Told {
    /// The seed of the writes.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
}
