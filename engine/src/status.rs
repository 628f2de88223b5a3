//! What an operator can see of an array: plain values, serialized as they are by `--json`.

use serde::{Deserialize, Serialize};

/// The version of what `--json` says: it grows with each change that a program could stumble over.
pub const SCHEMA_VERSION: u32 = 4;

/// The state of a whole array.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ArrayStatus {
    /// [`SCHEMA_VERSION`] of the server.
    #[serde(default)]
    pub schema: u32,
    /// The server.
    #[serde(default)]
    pub server: ServerStatus,
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
    /// Nothing is written, not even metadata.
    #[serde(default)]
    pub read_only: bool,
    /// Reads of what was lost are answered from parity that may not match: see `--trust-parity`.
    #[serde(default)]
    pub trusts_parity: bool,
    /// Bytes of hosts' data that nobody can compute, at most: reading them is an error until they are written or discarded.
    #[serde(default)]
    pub lost_bytes: u64,
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

/// The process that serves an array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServerStatus {
    /// The version of the program.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// When the array was started, seconds since 1970.
    pub started_s: u64,
    /// Clients that are connected by NBD.
    pub clients: usize,
}

/// How well an array is. The worst that is true counts, and the order is from well to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every slot in sync.
    Optimal,
    /// Some slot is not in sync, and one more can be lost without loss of data.
    Degraded,
    /// The loss of one more member loses data.
    NoRedundancy,
    /// Some data is lost, and the rest is served: see [`ArrayStatus::lost_bytes`].
    DataLost,
    /// More members are lost than the level bears: writes are refused, and reads of what they held.
    Failed,
}

/// The state of one slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// The serial number of its device, where the kernel knew one when the device was opened. A file has none.
    #[serde(default)]
    pub serial: Option<String>,
    /// Counters of its device since it became a member or the array was started; none if there is no device. A device that
    /// replaces another begins at zero.
    #[serde(default)]
    pub io: Option<MemberCounters>,
}

/// Operations of one device that have completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberCounters {
    /// Reads: data, parity and metadata.
    pub reads: TransferCounters,
    /// Writes: data, parity and metadata.
    pub writes: TransferCounters,
    /// Flushes without an error.
    pub flushes: u64,
    /// Flushes that failed.
    pub flush_errors: u64,
    /// Deallocations (discards), whether the device took the advice or not.
    pub deallocations: u64,
}

/// Reads or writes of one device that have completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TransferCounters {
    /// Operations without an error.
    pub count: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Operations that failed, for whatever reason.
    pub errors: u64,
    /// How long operations without an error took; none if there were none.
    pub latency_ns: Option<LatencyNs>,
}

/// Latencies in nanoseconds, from the turn of the reactor in which an operation was asked for to the turn that found it completed.
/// A percentile is at most a quarter above the exact one, and never below it; below 1 us it is 1023. The maximum is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LatencyNs {
    /// Half of the operations took no longer.
    pub p50: u64,
    /// 90 of 100 took no longer.
    pub p90: u64,
    /// 99 of 100 took no longer.
    pub p99: u64,
    /// 999 of 1000 took no longer.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

/// How a member's I/O travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LostRowsStatus {
    /// Bytes in all.
    pub bytes: u64,
    /// The first [`LOST_PIECES_SHOWN`] pieces, as a host addresses them: first byte and length.
    pub pieces: Vec<(u64, u64)>,
    /// The list has no room for more: a rebuild or resync that meets more of them does not go on.
    pub is_full: bool,
}

/// A part of the list of what is lost: see `lost` of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LostPieces {
    /// As a host addresses them, in order: first byte and length.
    pub pieces: Vec<(u64, u64)>,
    /// The stripe to go on from; none at the end.
    pub next_stripe: Option<u64>,
}

/// Adds a piece, first byte and length, that begins no earlier than the last one. Pieces that touch are one.
pub fn add_piece(pieces: &mut Vec<(u64, u64)>, (at, len): (u64, u64)) {
    match pieces.last_mut() {
        Some((begin, length)) if at <= *begin + *length => *length = (*length).max(at + len - *begin),
        _ => pieces.push((at, len)),
    }
}

/// Pieces that a status names: enough to find the files, and a page to read.
pub const LOST_PIECES_SHOWN: usize = 100;

/// A long-running job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BackgroundKind {
    /// Make parity match data.
    Resync,
    /// Fill a slot from the others.
    Rebuild,
}

/// Counted since the start, over all reactors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_touch_are_one() {
        let mut pieces = Vec::new();
        for piece in [(0, 4), (2, 1), (4, 4), (9, 1), (9, 3), (20, 1)] {
            add_piece(&mut pieces, piece);
        }
        assert_eq!(pieces, [(0, 8), (9, 3), (20, 1)]);
    }
}
