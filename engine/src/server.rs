//! The array as a whole, for a command line: create, start, look, command, stop.
//!
//! Control steps block, allocate and tell the time; they run on the caller's thread, never on a reactor's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::format::Level;
pub use crate::frontend::nbd::{Encryption, Session, Visit, Visits, Wire};
pub use crate::frontend::ublk::{Leftover, Quiesced, UblkChoice, UblkFeature};
use crate::threads::Threads;

pub(crate) mod bounded;
mod content_map;
mod create;
mod fit;
mod front;
mod grow;
mod locked;
mod note;
mod noter;
mod open;
mod patient;
mod placement;
mod random;
mod route;
mod running;
mod scrub;
mod this_host;
mod warnings;
mod words;

pub use bounded::each_within;
pub use create::create;
pub use grow::grow_offline;
pub use running::{Ended, Notice, NoticeKind, Notices, Server, Severity, Stop};
pub use scrub::scrub_offline;
use this_host::this_host;
pub use words::{shell_path, shell_word};

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
    /// How the members were reached, in slot order.
    pub routes: Vec<crate::status::MemberRoute>,
}

/// What to grow.
#[derive(Clone, Debug, Default)]
pub struct GrowOptions {
    /// Every member; those of other arrays are an error.
    pub members: Vec<PathBuf>,
    /// Take an array that another host created or served last.
    pub foreign_host_ok: bool,
    /// Where notes of block devices are that may wait for the array (server/note.rs).
    pub run_dir: Option<PathBuf>,
}

/// What growing came to.
#[derive(Clone, Debug, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Grown {
    /// The array's name.
    pub name: String,
    /// What a host saw.
    pub from_bytes: u64,
    /// What a host will see; the same, if there was nothing to gain.
    pub to_bytes: u64,
    /// The slot of the smallest member, which decides.
    pub smallest_slot: usize,
    /// Its path.
    pub smallest_path: PathBuf,
    /// Its size.
    pub smallest_bytes: u64,
    /// What is left unused of it.
    pub unused_bytes: u64,
    /// The place for the bitmap of this array holds no cells of more stripes.
    pub bitmap_is_full: bool,
    /// Slots that failed while it was put on record.
    pub failed_slots: Vec<u8>,
}

/// What to serve, and how.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Every candidate member; those of other arrays are an error.
    pub members: Vec<PathBuf>,
    /// How many reactors; 0 = half of the CPUs, at most 4. Not looked at where `cpus` says it.
    pub reactors: usize,
    /// The CPUs to run them on, one each; empty = chosen by the machine's topology and the members' NUMA nodes.
    pub cpus: Vec<usize>,
    /// Serve a block device of this machine, and no NBD.
    pub ublk: Option<UblkChoice>,
    /// Features of its driver that a new block device is not to use.
    pub ublk_without: Vec<UblkFeature>,
    /// Listen addresses: `unix:PATH` or `HOST:PORT`.
    pub nbd: Vec<String>,
    /// Serve NBD although a block device of the array waits for its server.
    pub despite_block_device: bool,
    /// Where the state of the array is noted for the next server of a block device. Without it a block device is never taken over.
    pub run_dir: Option<PathBuf>,
    /// Write nothing, not even metadata.
    pub read_only: bool,
    /// Take an array that was created on another host.
    pub foreign_host_ok: bool,
    /// Let NBD clients on other machines in.
    pub allow_remote: bool,
    /// Let NBD clients of other users of this machine in by TCP on loopback.
    pub allow_local_users: bool,
    /// Encryption for NBD: clients by TCP must use it, and others may.
    pub nbd_encryption: Option<Arc<dyn Encryption>>,
    /// The group whose users may connect to NBD's unix sockets.
    pub nbd_group: Option<u32>,
    /// Start though as many members are missing as leave no majority of them.
    pub run_degraded: bool,
    /// Take members that another program has written to.
    pub take_overwritten: bool,
    /// Answer reads of lost strips from untrusted parity.
    pub trust_parity: bool,
    /// How long a member may leave an I/O unanswered before it is failed, seconds; 0 = 30.
    pub member_timeout_s: u32,
    /// Data memory of each reactor, bytes; 0 = 64 MiB.
    pub memory_bytes: usize,
    /// How its lasting threads are limited.
    pub threads: Threads,
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

/// What a scrub of a stopped array found.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ScrubReport {
    /// The array's name.
    pub name: String,
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

impl From<crate::frontend::ublk::UblkError> for ServerError {
    fn from(error: crate::frontend::ublk::UblkError) -> ServerError {
        ServerError(error.to_string())
    }
}

impl From<crate::device::DeviceError> for ServerError {
    fn from(error: crate::device::DeviceError) -> ServerError {
        ServerError(error.to_string())
    }
}

/// Whether this process could make a block device: the kernel has ublk, and it may.
#[must_use]
pub fn can_make_block_devices() -> bool {
    crate::frontend::ublk::is_there()
}

/// Block devices of an array of this name whose server is gone.
pub fn leftovers(name: &str) -> Result<Vec<Leftover>, ServerError> {
    Ok(crate::frontend::ublk::leftovers(name)?)
}

/// Gives such a device up: what waits for it fails. Removes its note from the run directory, too.
pub fn remove_leftover(device: u32, run_dir: Option<&Path>) -> Result<(), ServerError> {
    // It knows which device it is of: the number may be another's by the time the note is removed.
    let note = run_dir.map(|run_dir| note::Note::of(run_dir, device, uuid::Uuid::nil()));
    crate::frontend::ublk::remove(device)?;
    note.iter().for_each(note::Note::remove);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a creation is stamped, by the control step that makes it")]
fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs())
}
