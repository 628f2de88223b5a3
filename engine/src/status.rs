//! The state of an array as an operator sees it: plain values, which `--json` serializes unchanged.

use serde::{Deserialize, Serialize};

/// Version of the `--json` output; it grows with each change that could break a program that reads the
/// output.
pub const SCHEMA_VERSION: u32 = 4;

/// The state of a whole array.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ArrayStatus {
    /// [`SCHEMA_VERSION`] of the server.
    #[serde(default)]
    pub schema: u32,
    /// The server process.
    #[serde(default)]
    pub server: ServerStatus,
    /// Name of the array, unique on a host.
    pub name: String,
    /// UUID of the array.
    pub uuid: String,
    /// RAID level: 5 or 6.
    pub level: u8,
    /// Chunk size: bytes placed on one member before moving on.
    pub chunk_bytes: u32,
    /// Size of the array as hosts see it.
    pub size_bytes: u64,
    /// Unit of host requests.
    pub logical_block_bytes: u32,
    /// Health of the array.
    pub health: Health,
    /// Whether nothing is written, not even metadata.
    #[serde(default)]
    pub read_only: bool,
    /// Whether reads of lost strips are answered from parity that may not match: see `--trust-parity`.
    #[serde(default)]
    pub trusts_parity: bool,
    /// Upper bound of the bytes of hosts' data that cannot be computed: reading them is an error until they
    /// are written or discarded.
    #[serde(default)]
    pub lost_bytes: u64,
    /// Incarnation of the array; grows with each start and each change of membership.
    pub epoch: u64,
    /// State of each slot, one entry per slot.
    pub members: Vec<MemberStatus>,
    /// Number of stripes in each state.
    pub cells: CellCounts,
    /// Parts of the array that cannot be computed any more.
    #[serde(default)]
    pub lost_rows: LostRowsStatus,
    /// Background jobs that are running.
    pub background: Vec<Background>,
    /// Addresses of the array for hosts, as given on the command line (`unix:PATH`, `HOST:PORT`,
    /// `/dev/ublkbN`).
    pub exports: Vec<String>,
    /// CPU that each reactor polls on; null if the scheduler chooses.
    pub reactors: Vec<Option<usize>>,
    /// Counters since the start.
    pub counters: Counters,
}

/// The process that serves an array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServerStatus {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Start time of the array, seconds since 1970.
    pub started_s: u64,
    /// Number of connected NBD clients.
    pub clients: usize,
}

/// Health of an array, ordered from best to worst; the worst that applies is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every slot is in sync.
    Optimal,
    /// At least one slot is not in sync; one more member can be lost without loss of data.
    Degraded,
    /// No further member can be lost without loss of data.
    NoRedundancy,
    /// A part of the data is lost; the rest is served. See [`ArrayStatus::lost_bytes`].
    DataLost,
    /// More members are lost than the level tolerates: writes are refused, and so are reads of what the lost
    /// members held.
    Failed,
}

/// The state of one slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberStatus {
    /// Index of the slot.
    pub slot: usize,
    /// State of the slot: `in_sync`, `rebuilding`, `failed`, `missing`.
    pub state: MemberState,
    /// Path by which the device was opened, if there is a device.
    pub path: Option<String>,
    /// Read errors that were repaired from parity.
    pub read_errors: u64,
    /// Writes that repaired rows that could not be read.
    #[serde(default)]
    pub repairs: u64,
    /// Operations that the member refused without being failed for it: the refusal was not the member's
    /// fault, or the array needed the member.
    #[serde(default)]
    pub refusals: u64,
    /// Why the member failed, in words, if it failed since the start.
    pub failure: Option<String>,
    /// How I/O reaches the device, if there is a device.
    pub route: Option<MemberRoute>,
    /// Serial number of the device, if the kernel knew one when the device was opened. A file has none.
    #[serde(default)]
    pub serial: Option<String>,
    /// Counters of the device since it became a member or the array was started; none if there is no device.
    /// A device that replaces another starts at zero.
    #[serde(default)]
    pub io: Option<MemberCounters>,
}

/// Completed operations of one device.
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
    /// Deallocations (discards), whether or not the device followed this advice.
    pub deallocations: u64,
}

/// Completed reads or writes of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TransferCounters {
    /// Operations without an error.
    pub count: u64,
    /// Bytes of the operations without an error.
    pub bytes: u64,
    /// Operations that failed, for any reason.
    pub errors: u64,
    /// Latencies of the operations without an error; none if there were none.
    pub latency_ns: Option<LatencyNs>,
}

/// Latencies in nanoseconds, from the reactor's turn that asked for the operation to the turn that found it
/// completed. A percentile is at most a quarter above the exact one, and never below it; below 1 us it is
/// 1023. The maximum is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LatencyNs {
    /// Latency that half of the operations did not exceed.
    pub p50: u64,
    /// Latency that 90 of 100 operations did not exceed.
    pub p90: u64,
    /// Latency that 99 of 100 operations did not exceed.
    pub p99: u64,
    /// Latency that 999 of 1000 operations did not exceed.
    pub p999: u64,
    /// Longest latency.
    pub max: u64,
}

/// How I/O reaches a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberRoute {
    /// Kind of the route: `passthrough`, `block`, `file`.
    pub kind: RouteKind,
    /// Whether completions are polled; otherwise interrupts announce them.
    pub polled: bool,
    /// Details in words: the device used for passthrough, or why passthrough is not used.
    pub note: String,
}

/// Kind of a route; see [`MemberRoute::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// NVMe commands that bypass the block layer.
    Passthrough,
    /// Block device I/O.
    Block,
    /// File I/O.
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

/// State of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// The member holds all of its data.
    InSync,
    /// The member is being filled from the others.
    Rebuilding,
    /// The member has failed, on record.
    Failed,
    /// No member is in the slot.
    Missing,
}

/// Number of stripes in each state (as on disk).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CellCounts {
    /// Stripes never written, or discarded; they read as zeros.
    pub unwritten: u64,
    /// Stripes whose parity matches, even after an unclean stop.
    pub clean: u64,
    /// Stripes whose parity matches, unless there is an unclean stop.
    pub dirty: u64,
    /// Unsynced stripes: their parity does not match.
    pub need_sync: u64,
    /// Unsynced stripes with a missing data strip, whose content cannot be vouched for (a part of
    /// `need_sync`).
    pub lost: u64,
    /// Bitmap blocks that are newer in memory than on the members. After an unclean stop the members' older
    /// blocks count: an unclean stop costs nothing once both this and `dirty` are 0.
    #[serde(default)]
    pub blocks_behind: u64,
}

/// Parts of the array that cannot be computed any more, as listed on the members. Reading them is an error
/// until they are written or their stripe is discarded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LostRowsStatus {
    /// Total length of the pieces in bytes.
    pub bytes: u64,
    /// The first [`LOST_PIECES_SHOWN`] pieces, in host addresses: first byte and length.
    pub pieces: Vec<(u64, u64)>,
    /// Whether the list is full: a rebuild or resync that finds more lost rows does not continue.
    pub is_full: bool,
}

/// A section of the list of lost rows; see `lost` of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LostPieces {
    /// Pieces in host addresses, in order: first byte and length.
    pub pieces: Vec<(u64, u64)>,
    /// Stripe at which to continue; none at the end.
    pub next_stripe: Option<u64>,
}

/// Adds a piece (first byte, length) that begins no earlier than the last one. Pieces that touch are merged.
pub fn add_piece(pieces: &mut Vec<(u64, u64)>, (at, len): (u64, u64)) {
    match pieces.last_mut() {
        Some((begin, length)) if at <= *begin + *length => *length = (*length).max(at + len - *begin),
        _ => pieces.push((at, len)),
    }
}

/// Most pieces in a status: enough to find the affected files, and little enough to read.
pub const LOST_PIECES_SHOWN: usize = 100;

/// A long-running background job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Background {
    /// Kind of the job: `resync` or `rebuild`.
    pub kind: BackgroundKind,
    /// The slot that is filled; only for a rebuild.
    pub slot: Option<usize>,
    /// Stripes done.
    pub done_stripes: u64,
    /// Total stripes of the job.
    pub total_stripes: u64,
    /// Member bytes per second, over the last few seconds.
    pub bytes_per_s: u64,
}

/// Kind of a background job; see [`Background::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BackgroundKind {
    /// Make parity match data.
    Resync,
    /// Fill a slot from the others.
    Rebuild,
}

/// Counters since the start, summed over all reactors.
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
    /// Requests that were merged into the stripe operation of another request.
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
