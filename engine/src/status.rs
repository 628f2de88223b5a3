//! What an operator can see of an array: plain values, serialized as they are by `--json`.

use serde::{Deserialize, Serialize};

/// The state of a whole array.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArrayStatus {
    /// Its name, unique on a host.
    pub name: String,
    /// Its identity.
    pub uuid: String,
    /// 5 or 6.
    pub level: u8,
    /// Bytes placed on one member before moving on.
    pub chunk_bytes: u32,
    /// What a host sees.
    pub size_bytes: u64,
    /// The unit of host requests.
    pub logical_block_bytes: u32,
    /// How well it is.
    pub health: Health,
    /// Which incarnation this is; grows with each start and each change of membership.
    pub epoch: u64,
    /// One entry a slot.
    pub members: Vec<MemberStatus>,
    /// How many stripes are in which state.
    pub cells: CellCounts,
    /// What nobody can compute any more.
    #[serde(default)]
    pub lost_rows: LostRowsStatus,
    /// What goes on in the background.
    pub background: Vec<Background>,
    /// Where hosts reach it, as given on the command line (`unix:PATH`, `HOST:PORT`, `/dev/ublkbN`).
    pub exports: Vec<String>,
    /// The CPU that each reactor polls on; null where the scheduler chooses.
    pub reactors: Vec<Option<usize>>,
    /// What was counted since the start.
    pub counters: Counters,
}

/// How well an array is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every slot in sync.
    Optimal,
    /// Some slot is missing, failed or rebuilding; nothing is lost.
    Degraded,
    /// More is lost than the level bears.
    Failed,
}

/// The state of one slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its place.
    pub slot: usize,
    /// `in_sync`, `rebuilding`, `failed`, `missing`.
    pub state: MemberState,
    /// The path it was opened by, if it is there.
    pub path: Option<String>,
    /// Read errors that were repaired from parity.
    pub read_errors: u64,
    /// Writes that repaired what could not be read.
    #[serde(default)]
    pub repairs: u64,
    /// Operations that it did not carry out, and for which it was not failed: they were no fault of its own, or it was needed.
    #[serde(default)]
    pub refusals: u64,
    /// Why it failed, in words, if it did since the start.
    pub failure: Option<String>,
    /// How its I/O travels, if it is there.
    pub route: Option<MemberRoute>,
}

/// How a member's I/O travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRoute {
    /// `passthrough`, `block`, `file`.
    pub kind: RouteKind,
    /// Whether completions are polled for; otherwise interrupts announce them.
    pub polled: bool,
    /// By what, or why not by passthrough, in words.
    pub note: String,
}

/// See [`MemberRoute::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// By NVMe commands, around the block layer.
    Passthrough,
    /// As a block device.
    Block,
    /// As a file.
    File,
}

impl std::fmt::Display for MemberRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            RouteKind::Passthrough => "NVMe passthrough",
            RouteKind::Block => "block device",
            RouteKind::File => "file",
        };
        let polled = if self.polled { ", polled" } else { "" };
        let gap = if self.note.is_empty() { "" } else { ": " };
        write!(f, "{kind}{polled}{gap}{}", self.note)
    }
}

/// What a slot is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Holds what it should.
    InSync,
    /// Being filled from the others.
    Rebuilding,
    /// Failed, on record.
    Failed,
    /// Not there.
    Missing,
}

/// How many stripes are in which state (as they would be on disk).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellCounts {
    /// Never written, or discarded; reads as zeros.
    pub unwritten: u64,
    /// Parity matches, and stays so through an unclean stop.
    pub clean: u64,
    /// Parity matches unless there is an unclean stop.
    pub dirty: u64,
    /// Parity does not match.
    pub need_sync: u64,
    /// Of `need_sync`, stripes that a missing data strip makes unvouchable.
    pub lost: u64,
    /// Bitmap blocks that are newer in memory than on the members. After an unclean end the members' older blocks count, so an
    /// array is idle, and such an end costs nothing, once both this and `dirty` are 0.
    #[serde(default)]
    pub blocks_behind: u64,
}

/// Parts of the array that nobody can compute any more, as listed on the members. Reading them is an error until they are written,
/// or their stripe is discarded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRowsStatus {
    /// Bytes in all.
    pub bytes: u64,
    /// The first [`LOST_PIECES_SHOWN`] pieces, as a host addresses them: first byte and length.
    pub pieces: Vec<(u64, u64)>,
    /// The list has no room for more: a rebuild or resync that meets more of them does not go on.
    pub is_full: bool,
}

/// Pieces that a status names: enough to find the files, and a page to read.
pub const LOST_PIECES_SHOWN: usize = 100;

/// A long-running job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Background {
    /// `resync` or `rebuild`.
    pub kind: BackgroundKind,
    /// The slot that is filled, for a rebuild.
    pub slot: Option<usize>,
    /// Stripes done.
    pub done_stripes: u64,
    /// Stripes in all.
    pub total_stripes: u64,
    /// Member bytes a second, over the last few seconds.
    pub bytes_per_s: u64,
}

/// See [`Background::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackgroundKind {
    /// Make parity match data.
    Resync,
    /// Fill a slot from the others.
    Rebuild,
}

/// Counted since the start, over all reactors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Reads answered.
    pub reads: u64,
    /// Writes answered.
    pub writes: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Discards and write-zeroes answered.
    pub discards: u64,
    /// Bytes read by hosts.
    pub read_bytes: u64,
    /// Bytes written by hosts.
    pub write_bytes: u64,
    /// Member reads.
    pub member_reads: u64,
    /// Member writes, data and parity.
    pub member_writes: u64,
    /// Bitmap block writes, counted once per block, not per copy.
    pub intent_writes: u64,
    /// Stripe operations planned as read-modify-write.
    pub rmw: u64,
    /// Stripe operations planned as reconstruct-write.
    pub rcw: u64,
    /// Full-stripe writes.
    pub full_stripe: u64,
    /// Requests that were merged into another's stripe operation.
    pub merged: u64,
    /// Requests handed to another reactor.
    pub handed_over: u64,
    /// Reads answered by reconstruction.
    pub reconstructed: u64,
    /// Requests answered with an error.
    pub errors: u64,
}
