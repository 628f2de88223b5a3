//! The engine without a front end: options and report of `striate bench`.
//!
//! A generator takes the place of the front end on each reactor, keeps `queue_depth` requests in
//! flight, and counts. The array is made for the run and thrown away: on null members (which answer
//! at once, for the engine's own ceiling), on memory, or on files and devices, which it overwrites.
//!
//! (Signature and values only as yet; the reactor's room runs it.)

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::server::{Level, ServerError};

/// What one member is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchMember {
    /// Stores nothing and answers at once.
    Null {
        /// How large it claims to be.
        bytes: u64,
    },
    /// Memory.
    Memory {
        /// How large it is.
        bytes: u64,
    },
    /// A file or block device, whose content is lost.
    File {
        /// Where it is.
        path: PathBuf,
    },
}

/// Which requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BenchPattern {
    /// Reads, one after the other.
    Read,
    /// Writes, one after the other.
    Write,
    /// Reads anywhere.
    RandRead,
    /// Writes anywhere.
    RandWrite,
    /// Reads and writes anywhere, see [`BenchOptions::read_percent`].
    RandRw,
}

/// What to measure.
#[derive(Clone, Debug, Serialize)]
pub struct BenchOptions {
    /// RAID-5 or RAID-6; 5 or 6 in JSON.
    #[serde(serialize_with = "level_as_number")]
    pub level: Level,
    /// In slot order.
    pub members: Vec<BenchMember>,
    /// Power of two, 4 KiB..1 MiB.
    pub chunk_bytes: u32,
    /// Which requests.
    pub pattern: BenchPattern,
    /// Of 100 requests of [`BenchPattern::RandRw`], how many are reads.
    pub read_percent: u8,
    /// Length of a request; a multiple of the logical block.
    pub block_bytes: u32,
    /// Requests in flight on each reactor.
    pub queue_depth: usize,
    /// How many reactors, one a core.
    pub cores: usize,
    /// How long to measure, after a warm-up.
    pub seconds: f64,
    /// Run without this slot.
    pub degraded: Option<usize>,
    /// Read back and compare what was written (not on null members, which keep nothing).
    pub verify: bool,
}

fn level_as_number<S: Serializer>(level: &Level, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(match level {
        Level::Raid5 => 5,
        Level::Raid6 => 6,
    })
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Requests a second.
    pub iops: f64,
    /// Bytes of requests a second.
    pub bytes_per_s: f64,
    /// From submission to reply.
    pub latency_ns: BenchLatency,
    /// Member reads and writes per request.
    pub member_ios_per_request: f64,
    /// Time of all reactors' cores per request.
    pub cpu_ns_per_request: f64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes read back and found right, with [`BenchOptions::verify`].
    pub verified_bytes: u64,
    /// What bounds these figures, measured in the same run.
    pub ceilings: BenchCeilings,
    /// What was asked for.
    pub config: BenchOptions,
}

/// Nanoseconds from submission to reply.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct BenchLatency {
    /// Half of the requests were quicker.
    pub p50: u64,
    /// 99 of 100 were.
    pub p99: u64,
    /// 999 of 1000 were.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

/// The ceilings of the same machine in the same run; `None` where one does not apply.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct BenchCeilings {
    /// Requests a second of the generator alone, on all cores.
    pub generator_iops: Option<f64>,
    /// Requests a second that the raw members answer at the member mix of this load, without parity.
    pub members_iops: Option<f64>,
    /// Bytes a second of the same.
    pub members_bytes_per_s: Option<f64>,
    /// Parity kernel, one core, in cache: data bytes a second.
    pub parity_hot_bytes_per_s: Option<f64>,
    /// Parity kernel, one core, out of cache: data bytes a second.
    pub parity_cold_bytes_per_s: Option<f64>,
    /// What the formula of the workload makes of the raw members' figures.
    pub formula_iops: Option<f64>,
}

/// Makes the array, loads it, measures.
pub fn run(_options: &BenchOptions) -> Result<BenchReport, ServerError> {
    Err(ServerError("not built yet".into()))
}
