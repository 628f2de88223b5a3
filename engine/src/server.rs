//! A whole array, as the command line uses it: create, start, inspect, command, stop.
//!
//! Control steps block, allocate and read the clock. They run on the caller's thread, never on a reactor's.

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

/// Initial state of the stripes of a new array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// `Zero` if every member zeroes fast, `Lazy` otherwise.
    Auto,
    /// Zero every member; all stripes start Clean.
    Zero,
    /// All stripes start Unwritten.
    Lazy,
    /// All stripes start NeedSync; the first server resyncs them.
    Sync,
    /// All stripes start Clean: the operator asserts that parity already matches.
    AssumeClean,
}

/// The array that [`create()`] is to make.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Name of the array: 1..=64 bytes of letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// Whether the array is RAID-5 or RAID-6.
    pub level: Level,
    /// Chunk size: a power of two, 4 KiB to 1 MiB.
    pub chunk_bytes: u32,
    /// Block devices or files, in slot order.
    pub members: Vec<PathBuf>,
    /// Size of member files to make where the path does not exist; `None`: every path must exist.
    pub file_bytes: Option<u64>,
    /// Initial state of the stripes.
    pub init: Init,
    /// Whether members that hold another array or a file system are overwritten.
    pub force: bool,
}

/// Result of [`create()`].
#[derive(Clone, Debug, serde::Serialize)]
pub struct Created {
    /// UUID of the array.
    pub uuid: String,
    /// Size of the array as hosts see it.
    pub size_bytes: u64,
    /// The init that was used: the one asked for, or what `Init::Auto` chose (`zero`, `lazy`).
    pub init: &'static str,
    /// How each member was reached, in slot order.
    pub routes: Vec<crate::status::MemberRoute>,
}

/// The array that [`grow_offline`] is to grow.
#[derive(Clone, Debug, Default)]
pub struct GrowOptions {
    /// Paths of all members; a member of another array is an error.
    pub members: Vec<PathBuf>,
    /// Whether an array that another host created or served last may be grown.
    pub foreign_host_ok: bool,
    /// Directory with the notes of block devices that may be waiting for this array (server/note.rs).
    pub run_dir: Option<PathBuf>,
}

/// Result of growing an array.
#[derive(Clone, Debug, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Grown {
    /// Name of the array.
    pub name: String,
    /// Array size before, as hosts saw it.
    pub from_bytes: u64,
    /// Array size after, as hosts will see it; equal to `from_bytes` if there was nothing to gain.
    pub to_bytes: u64,
    /// Slot of the smallest member, which limits the array's size.
    pub smallest_slot: usize,
    /// Path of the smallest member.
    pub smallest_path: PathBuf,
    /// Size of the smallest member.
    pub smallest_bytes: u64,
    /// Bytes of the smallest member that stay unused.
    pub unused_bytes: u64,
    /// Whether the array cannot grow further because its bitmap zone has no room for the cells of more
    /// stripes.
    pub bitmap_is_full: bool,
    /// Slots that failed while the growth was put on record.
    pub failed_slots: Vec<u8>,
}

/// The array to serve, and how.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Paths of all candidate members; a member of another array is an error.
    pub members: Vec<PathBuf>,
    /// Number of reactors; 0 = half of the CPUs, at most 4. Ignored if `cpus` is not empty.
    pub reactors: usize,
    /// CPUs for the reactors, one reactor per CPU; empty = chosen by the machine's topology and the members'
    /// NUMA nodes.
    pub cpus: Vec<usize>,
    /// Serve a block device of this machine instead of NBD.
    pub ublk: Option<UblkChoice>,
    /// Features of the ublk driver that a new block device must not use.
    pub ublk_without: Vec<UblkFeature>,
    /// NBD listen addresses: `unix:PATH` or `HOST:PORT`.
    pub nbd: Vec<String>,
    /// Whether to serve NBD even though a block device of the array waits for its server.
    pub despite_block_device: bool,
    /// Directory for the note that the next server of a block device needs. Without the note a block device
    /// is never taken over.
    pub run_dir: Option<PathBuf>,
    /// Whether nothing may be written, not even metadata.
    pub read_only: bool,
    /// Whether an array that was created on another host may be served.
    pub foreign_host_ok: bool,
    /// Whether NBD clients on other machines may connect.
    pub allow_remote: bool,
    /// Whether NBD clients of other users of this machine may connect by TCP on loopback.
    pub allow_local_users: bool,
    /// Encryption for NBD: TCP clients must use it, other clients may.
    pub nbd_encryption: Option<Arc<dyn Encryption>>,
    /// Group (gid) whose users may connect to NBD's unix sockets.
    pub nbd_group: Option<u32>,
    /// Whether to start even if so many members are missing that the rest are no majority.
    pub run_degraded: bool,
    /// Whether to accept members that another program has written to.
    pub take_overwritten: bool,
    /// Whether reads of lost strips are answered from untrusted parity.
    pub trust_parity: bool,
    /// Seconds that a member may leave an I/O unanswered before it is failed; 0 = 30.
    pub member_timeout_s: u32,
    /// Data memory of each reactor in bytes; 0 = 64 MiB.
    pub memory_bytes: usize,
    /// How the server's lasting threads are confined.
    pub threads: Threads,
}

/// Why a control step failed: what happened, to which member, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServerError(pub String);

/// Progress of a long control step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Total bytes.
    pub total_bytes: u64,
}

/// Result of a scrub of a stopped array.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ScrubReport {
    /// Name of the array.
    pub name: String,
    /// Stripes read and compared.
    pub checked: u64,
    /// Unwritten stripes, which have no parity to compare.
    pub unwritten: u64,
    /// Unsynced stripes (`NeedSync`), which were not compared because their parity is not trusted.
    pub need_sync: u64,
    /// The first few stripes whose parity does not match, by index.
    pub mismatches: Vec<u64>,
    /// Number of stripes whose parity does not match.
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

/// Whether this process can make a block device: the kernel has ublk and permits its use.
#[must_use]
pub fn can_make_block_devices() -> bool {
    crate::frontend::ublk::is_there()
}

/// Frees the members of an array that an old ublk driver keeps for a server that was killed (Linux before
/// 6.7; takes up to 5 s there). The caller has made sure that no other server of the array is being started.
pub fn free_members(name: &str, array_uuid: &str) -> Result<(), ServerError> {
    Ok(crate::frontend::ublk::free(name, array_uuid)?)
}

/// Lists the block devices of arrays with this name whose server is gone.
pub fn leftovers(name: &str) -> Result<Vec<Leftover>, ServerError> {
    Ok(crate::frontend::ublk::leftovers(name)?)
}

/// Removes a block device whose server is gone, and its note from the run directory. Requests that wait at
/// the device fail.
pub fn remove_leftover(device: u32, run_dir: Option<&Path>) -> Result<(), ServerError> {
    // The note is opened first, by device: once the device is removed, its number may be given to another.
    let note = run_dir.map(|run_dir| note::Note::of(run_dir, device, uuid::Uuid::nil()));
    crate::frontend::ublk::remove(device)?;
    note.iter().for_each(note::Note::remove);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a creation is stamped, by the control step that makes it")]
fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs())
}
