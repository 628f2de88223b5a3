//! The array as a whole, for a command line: create, start, look, command, stop.
//!
//! (Signatures only as yet; the rooms below are being built.)

use std::path::PathBuf;

use crate::status::ArrayStatus;

/// How many members may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// One: P.
    Raid5,
    /// Two: P and Q.
    Raid6,
}

/// How the stripes of a new array start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Zero where every member zeroes fast, lazy otherwise.
    Auto,
    /// Zero every member and start Clean.
    Zero,
    /// Start Unwritten.
    Lazy,
    /// Start NeedSync; the first server resyncs.
    Sync,
    /// Start Clean on the operator's word that parity already matches.
    AssumeClean,
}

/// What to create.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// 1..=64 bytes of letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// RAID-5 or RAID-6.
    pub level: Level,
    /// Power of two, 4 KiB..1 MiB.
    pub chunk_bytes: u32,
    /// Block devices or files, in slot order.
    pub members: Vec<PathBuf>,
    /// Files that do not exist are made with this size.
    pub file_bytes: Option<u64>,
    /// How stripes start.
    pub init: Init,
    /// Overwrite members that carry another array or a file system.
    pub force: bool,
}

/// What was created.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Created {
    /// The array's identity.
    pub uuid: String,
    /// What a host will see.
    pub size_bytes: u64,
    /// What `Init::Auto` came to, in a word (`zero`, `lazy`), or the init asked for.
    pub init: &'static str,
}

/// What to serve, and how.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Every candidate member; those of other arrays are an error.
    pub members: Vec<PathBuf>,
    /// How many reactors; 0 = one per NUMA-local core, at most 4.
    pub reactors: usize,
    /// Listen addresses: `unix:PATH` or `HOST:PORT`.
    pub nbd: Vec<String>,
    /// The array's name when `nbd` clients ask for an export by name.
    pub read_only: bool,
    /// Start though as many members are missing as leave no majority of them.
    pub run_degraded: bool,
    /// Answer reads of lost strips from untrusted parity.
    pub trust_parity: bool,
    /// Data memory of each reactor, bytes; 0 = 64 MiB.
    pub memory_bytes: usize,
}

/// Why a control step failed: what, which member, where, what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServerError(pub String);

/// Progress of a long control step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Creates an array on members that are not in use.
pub fn create(_options: &CreateOptions, _progress: &mut dyn FnMut(Progress)) -> Result<Created, ServerError> {
    Err(ServerError("not built yet".into()))
}

/// What a scrub of a stopped array found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct ScrubReport {
    /// Stripes read and compared.
    pub checked: u64,
    /// Stripes that are Unwritten, and so have no parity to compare.
    pub unwritten: u64,
    /// Stripes whose parity is not trusted (NeedSync), so not compared.
    pub need_sync: u64,
    /// Stripes whose parity does not match, the first few by index.
    pub mismatches: Vec<u64>,
    /// How many do not match.
    pub mismatch_count: u64,
}

/// Reads every stripe of a stopped array and compares parity. Changes nothing.
pub fn scrub_offline(
    _members: &[PathBuf],
    _progress: &mut dyn FnMut(Progress),
) -> Result<ScrubReport, ServerError> {
    Err(ServerError("not built yet".into()))
}

/// An assembled array being served.
pub struct Server {}

impl Server {
    /// Assembles the members, starts the reactors and the front ends. Returns once hosts can connect.
    pub fn start(_options: ServeOptions) -> Result<Server, ServerError> {
        Err(ServerError("not built yet".into()))
    }

    /// What is going on.
    #[must_use]
    pub fn status(&self) -> ArrayStatus {
        unreachable!("not built yet")
    }

    /// Fails a slot on the operator's word. Returns once it is on record.
    pub fn fail(&self, _slot: usize) -> Result<(), ServerError> {
        Err(ServerError("not built yet".into()))
    }

    /// Puts a new device in a slot and starts its rebuild.
    pub fn replace(&self, _slot: usize, _path: PathBuf, _force: bool) -> Result<(), ServerError> {
        Err(ServerError("not built yet".into()))
    }

    /// Drains the front ends, flushes, marks the array clean, and closes it.
    pub fn stop(self) -> Result<(), ServerError> {
        Err(ServerError("not built yet".into()))
    }
}
