//! The engine without a front end: options and report of `striate bench`.
//!
//! On each reactor a generator takes the place of the front end, keeps `queue_depth` requests in flight, and
//! counts. The array is made for the run and then discarded. Its members are null members (which answer at
//! once, and show the engine's own limit), memory, or files and devices, which the bench overwrites.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitmap::{Bitmap, Cell, StripeLocks};
use crossbeam::channel::bounded;
use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::array::{Array, Beginning, Layout, REQUESTS_MAX, Shared, StewardState};
use crate::clock::{Clock, MonotonicClock};
use crate::device::{Access, Device, OpenMode, Sharing};
use crate::format::Shape;
use crate::format::zones::{Zones, zones};
use crate::geometry::{Geometry, Slots};
use crate::limits::{BLOCK_BYTES, REACTORS_MAX, REQUEST_BYTES_MAX};
use crate::mailbox::Mailboxes;
use crate::members::{MemberView, Members};
use crate::memory::{Memory, Pool};
use crate::reactor::{Bell, Reactor, ReactorOrder, ReactorPort};
use crate::ring::{DeviceIndex, InstantDevice, InstantRing, MemStorage, Ring, Uring, UringConfig};
use crate::server::{Level, ServerError};
use crate::tally::Tally;

pub use crate::frontend::ublk::UblkNull;
use generator::{Counted, Generator, Load};

mod ceilings;
mod generator;

/// Kind of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BenchMember {
    /// A member that stores nothing and answers at once.
    Null {
        /// Size that the member reports.
        bytes: u64,
    },
    /// A member in memory.
    Memory {
        /// Size of the member.
        bytes: u64,
    },
    /// A file or block device, whose content is lost.
    File {
        /// Path of the file or block device.
        path: PathBuf,
    },
}

/// Kind of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum BenchPattern {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Reads at random offsets.
    RandRead,
    /// Writes at random offsets.
    RandWrite,
    /// Reads and writes at random offsets; see [`BenchOptions::read_percent`].
    RandRw,
}

/// Options of a bench.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BenchOptions {
    /// RAID-5 or RAID-6; 5 or 6 in JSON.
    #[serde(serialize_with = "level_as_number")]
    #[cfg_attr(feature = "schema", schemars(with = "u8"))]
    pub level: Level,
    /// Members, in slot order.
    pub members: Vec<BenchMember>,
    /// Chunk size: a power of two, 4 KiB to 1 MiB.
    pub chunk_bytes: u32,
    /// Kind of the requests.
    pub pattern: BenchPattern,
    /// Percentage of reads among the requests of [`BenchPattern::RandRw`].
    pub read_percent: u8,
    /// Length of a request; a multiple of the logical block.
    pub block_bytes: u32,
    /// Requests in flight on each reactor.
    pub queue_depth: usize,
    /// Number of reactors, one per core.
    pub cores: usize,
    /// Duration of the measurement in seconds, after a warm-up.
    pub seconds: f64,
    /// A slot to leave empty, for a degraded array.
    pub degraded: Option<usize>,
    /// Whether written data is read back and compared (not on null members, which store nothing).
    pub verify: bool,
}

fn level_as_number<S: Serializer>(level: &Level, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(match level {
        Level::Raid5 => 5,
        Level::Raid6 => 6,
    })
}

/// Result of a bench.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BenchReport {
    /// Requests per second.
    pub iops: f64,
    /// Bytes of requests per second.
    pub bytes_per_s: f64,
    /// Latency from submission to reply.
    pub latency_ns: BenchLatency,
    /// Member reads and writes per request.
    pub member_ios_per_request: f64,
    /// CPU time of all reactors per request.
    pub cpu_ns_per_request: f64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes that were read back and matched, with [`BenchOptions::verify`].
    pub verified_bytes: u64,
    /// Upper limits of these figures, measured in the same run.
    pub ceilings: BenchCeilings,
    /// Options of the run.
    pub config: BenchOptions,
}

/// Latency from submission to reply, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BenchLatency {
    /// Latency that half of the requests did not exceed.
    pub p50: u64,
    /// Latency that 99 of 100 requests did not exceed.
    pub p99: u64,
    /// Latency that 999 of 1000 requests did not exceed.
    pub p999: u64,
    /// Longest latency.
    pub max: u64,
}

/// Upper limits on the same machine in the same run; `None` where a limit does not apply.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BenchCeilings {
    /// Requests per second of the generator alone, on all cores.
    pub generator_iops: Option<f64>,
    /// Requests per second that the raw members could serve at this load's mix of member I/O, without parity.
    pub members_iops: Option<f64>,
    /// Bytes per second that the raw members could serve.
    pub members_bytes_per_s: Option<f64>,
    /// Data bytes per second of the parity kernel on one core, in cache.
    pub parity_hot_bytes_per_s: Option<f64>,
    /// Data bytes per second of the parity kernel on one core, out of cache.
    pub parity_cold_bytes_per_s: Option<f64>,
    /// Requests per second that the workload's formula predicts from the raw members' figures.
    pub formula_iops: Option<f64>,
}

/// Makes the array, loads it, and measures.
pub fn run(options: &BenchOptions) -> Result<BenchReport, ServerError> {
    let files = options.members.iter().any(|member| matches!(member, BenchMember::File { .. }));
    let bench = Bench::prepare(options)?;
    if !files {
        return bench.run(|memory| {
            let mut ring = InstantRing::new(memory);
            for (index, device) in bench.instant.iter().enumerate() {
                ring.set_device(DeviceIndex(index as u8), Some(device.clone()));
            }
            Ok(ring)
        });
    }
    let passthrough = bench.devices.iter().any(Device::wants_passthrough);
    // Poll under the same condition as a server.
    let polled = bench.devices.iter().all(|device| device.facts().polled);
    let config =
        UringConfig { worker_cpus: bench.other_cpus(), passthrough, polled, ..UringConfig::default() };
    bench.run(|memory| {
        let mut ring = Uring::new(memory, &config)?;
        for (index, device) in bench.devices.iter().enumerate() {
            let device = device.for_ring(bench.options.cores).map_err(std::io::Error::other)?;
            ring.attach(DeviceIndex(index as u8), device)?;
        }
        Ok(ring)
    })
}

/// An array that is about to be measured.
struct Bench<'a> {
    options: &'a BenchOptions,
    geometry: Geometry,
    zones: Zones,
    logical_block_bytes: u32,
    instant: Vec<InstantDevice>,
    devices: Vec<Device>,
}

impl<'a> Bench<'a> {
    fn prepare(options: &'a BenchOptions) -> Result<Bench<'a>, ServerError> {
        let wrong = |what: String| Err(ServerError(what));
        let (mut instant, mut devices, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        let mut logical_block_bytes = 512;
        let failed =
            |error: std::io::Error| ServerError(format!("cannot allocate a member in memory: {error}"));
        for member in &options.members {
            match member {
                BenchMember::Null { bytes } => {
                    sizes.push(*bytes);
                    instant.push(InstantDevice::Null { size_bytes: *bytes });
                }
                BenchMember::Memory { bytes } => {
                    sizes.push(*bytes);
                    let storage = MemStorage::new(*bytes).map_err(failed)?;
                    // Fault the pages in now, so that page faults are not measured.
                    storage.populate();
                    instant.push(InstantDevice::Mem(storage));
                }
                BenchMember::File { path } => {
                    let mode = OpenMode { access: Access::ReadWrite, sharing: Sharing::Exclusive };
                    let device = Device::open(path, mode)?;
                    sizes.push(device.facts().size_bytes);
                    logical_block_bytes = device.facts().logical_block_bytes.max(logical_block_bytes);
                    devices.push(device);
                }
            }
        }
        if !instant.is_empty() && !devices.is_empty() {
            return wrong("members of one bench are all files and devices, or none is".into());
        }
        let shape =
            Shape { level: options.level, members: options.members.len(), chunk_bytes: options.chunk_bytes };
        shape.check().map_err(|error| ServerError(error.to_string()))?;
        let smallest = sizes.into_iter().min().expect("a shape has members");
        let zones = zones(smallest, &shape).map_err(|error| ServerError(error.to_string()))?;
        let members = options.members.len() as u8;
        let parities = options.level.parities() as u8;
        let geometry = Geometry::new(members, parities, options.chunk_bytes, zones.stripes);
        let block = options.block_bytes;
        if block == 0 || !block.is_multiple_of(logical_block_bytes) || block > REQUEST_BYTES_MAX {
            return wrong(format!(
                "requests of {block} bytes: a multiple of {logical_block_bytes} up to {REQUEST_BYTES_MAX} is possible"
            ));
        }
        if options.cores == 0 || options.cores > REACTORS_MAX {
            return wrong(format!("{} cores: from 1 to {REACTORS_MAX} are possible", options.cores));
        }
        if options.queue_depth == 0 || options.queue_depth > REQUESTS_MAX {
            return wrong(format!(
                "queue depth {}: from 1 to {REQUESTS_MAX} is possible",
                options.queue_depth
            ));
        }
        if geometry.size_bytes() / (options.cores as u64) < u64::from(block) * options.queue_depth as u64 {
            return wrong("the members are too small for so many requests in flight".into());
        }
        if let Some(slot) = options.degraded.filter(|&slot| slot >= options.members.len()) {
            return wrong(format!("there is no slot {slot} to run without"));
        }
        if !(options.seconds > 0.0 && options.seconds <= 3600.0) {
            return wrong(format!("{} seconds: from a moment to an hour is possible", options.seconds));
        }
        Ok(Bench { options, geometry, zones, logical_block_bytes, instant, devices })
    }

    fn load(&self, me: usize) -> Load {
        let options = self.options;
        let share = self.geometry.size_bytes() / options.cores as u64 / u64::from(options.block_bytes)
            * u64::from(options.block_bytes);
        Load {
            pattern: options.pattern,
            read_percent: options.read_percent,
            block_bytes: options.block_bytes,
            queue_depth: options.queue_depth,
            region: share * me as u64..share * (me as u64 + 1),
            seed: 0x5eed_0000 + me as u64,
            verify: options.verify,
            zeros_at_first: options.members.iter().all(|member| matches!(member, BenchMember::Memory { .. })),
        }
    }

    fn run<R: Ring>(
        &self,
        ring: impl Fn(Arc<Memory>) -> std::io::Result<R> + Sync,
    ) -> Result<BenchReport, ServerError> {
        let options = self.options;
        let failed = |error: std::io::Error| ServerError(format!("cannot set up the bench: {error}"));
        let requests_bytes = request_pool_bytes(options.block_bytes, options.queue_depth);
        let arenas = vec![requests_bytes + WORK_BYTES; options.cores];
        let memory = Memory::new(&arenas).map_err(failed)?;
        // Fault the pages in now, so that page faults are not measured.
        (0..arenas.len() as u16).for_each(|arena| memory.populate(arena));
        let pools = |me: usize| {
            let arena = memory.arena(me as u16);
            let requests = arena.part(0, requests_bytes as u32);
            let work = arena.part(requests_bytes as u32, WORK_BYTES as u32);
            (Pool::over(&memory, requests), Pool::over(&memory, work))
        };
        let (mut ceilings, member_rates) =
            self.ceilings(&memory, pools(0), ring(memory.clone()).map_err(failed)?);
        let bells = (0..options.cores).map(|_| Bell::new()).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let shared = Arc::new(self.shared(memory.clone(), &bells));
        let measuring = Arc::new(AtomicBool::new(false));
        let ports: Vec<Arc<ReactorPort<R>>> = bells.iter().map(|_| ReactorPort::new()).collect();
        let (counted, elapsed_ns, ios, cpu_ns) = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (me, (bell, port)) in bells.iter().zip(&ports).enumerate() {
                let (shared, measuring, ring, memory) =
                    (shared.clone(), measuring.clone(), &ring, memory.clone());
                let (bell, port, load, (requests, work)) =
                    (bell.clone(), port.clone(), self.load(me), pools(me));
                let cpu = self.cpu(me);
                threads.push(scope.spawn(move || {
                    if let Some(cpu) = cpu {
                        core_affinity::set_for_current(cpu);
                    }
                    let ring = ring(memory)?;
                    let array = Array::new(me as u8, shared.clone(), work);
                    let generator = Generator::new(load, measuring);
                    let reactor = Reactor::new(
                        me as u8,
                        array,
                        shared,
                        ring,
                        generator,
                        requests,
                        MonotonicClock,
                        port,
                        bell,
                    );
                    let (_ring, generator) = reactor.run();
                    Ok(generator.counted())
                }));
            }
            let pause = |seconds: f64| std::thread::park_timeout(Duration::from_secs_f64(seconds));
            pause((options.seconds / 4.0).clamp(0.1, 1.0));
            let (before, cpu_before) = (Tally::sum(&shared.tallies), cpu_time_ns());
            let begun = MonotonicClock.now_ns();
            measuring.store(true, Ordering::Relaxed);
            while MonotonicClock.now_ns() - begun < (options.seconds * 1e9) as u64 {
                pause(options.seconds - (MonotonicClock.now_ns() - begun) as f64 / 1e9);
            }
            measuring.store(false, Ordering::Relaxed);
            let elapsed_ns = MonotonicClock.now_ns() - begun;
            let (after, cpu_after) = (Tally::sum(&shared.tallies), cpu_time_ns());
            let drained: Vec<_> = ports
                .iter()
                .enumerate()
                .map(|(me, port)| {
                    let (done, drained) = bounded(1);
                    port.order(&shared, me as u8, ReactorOrder::Drain(done));
                    drained
                })
                .collect();
            // A reactor that could not be set up drops its sender; its error is reported below.
            for drained in &drained {
                let _told = drained.recv_timeout(Duration::from_secs(120));
            }
            for (me, port) in ports.iter().enumerate() {
                port.order(&shared, me as u8, ReactorOrder::Exit);
            }
            let counted: std::io::Result<Vec<Counted>> =
                threads.into_iter().map(|thread| thread.join().expect("a reactor does not panic")).collect();
            let reads = after.member_reads - before.member_reads;
            let writes = after.member_writes - before.member_writes;
            Ok::<_, ServerError>((
                counted.map_err(failed)?,
                elapsed_ns,
                reads + writes,
                cpu_after - cpu_before,
            ))
        })?;
        let mut latency = Histogram::<u64>::new(3).expect("three digits are valid");
        counted.iter().for_each(|one| latency.add(&one.latency).expect("histograms of one shape add up"));
        let sum = |field: fn(&Counted) -> u64| counted.iter().map(field).sum::<u64>();
        let mismatches = sum(|one| one.mismatches);
        if mismatches > 0 {
            return Err(ServerError(format!(
                "verification failed: {mismatches} blocks do not hold what was written"
            )));
        }
        let requests = sum(|one| one.requests);
        let each = requests.max(1) as f64;
        let iops = requests as f64 * 1e9 / elapsed_ns as f64;
        let ios_per_request = ios as f64 / each;
        if let Some(rate) = member_rates.filter(|_| ios > 0) {
            ceilings.members_iops = Some(rate / ios_per_request);
            ceilings.members_bytes_per_s = Some(rate / ios_per_request * f64::from(options.block_bytes));
            ceilings.formula_iops = Some(rate / self.formula_ios());
        }
        Ok(BenchReport {
            iops,
            bytes_per_s: iops * f64::from(options.block_bytes),
            latency_ns: BenchLatency {
                p50: latency.value_at_quantile(0.5),
                p99: latency.value_at_quantile(0.99),
                p999: latency.value_at_quantile(0.999),
                max: latency.max(),
            },
            member_ios_per_request: ios_per_request,
            cpu_ns_per_request: cpu_ns as f64 / each,
            errors: sum(|one| one.errors),
            verified_bytes: sum(|one| one.verified_bytes),
            ceilings,
            config: options.clone(),
        })
    }

    /// Member I/Os that one request costs by the arithmetic of the level: a small write reads and writes its
    /// strip and each parity; a request that covers whole strips costs one I/O per strip.
    fn formula_ios(&self) -> f64 {
        let (chunk, block) = (f64::from(self.options.chunk_bytes), f64::from(self.options.block_bytes));
        let (data, parities) = (f64::from(self.geometry.data()), f64::from(self.geometry.parities()));
        let reads = (block / chunk).ceil();
        let writes = if block >= data * chunk {
            block / chunk * (data + parities) / data
        } else {
            2.0 * (reads + parities)
        };
        let share = match self.options.pattern {
            BenchPattern::Read | BenchPattern::RandRead => 1.0,
            BenchPattern::Write | BenchPattern::RandWrite => 0.0,
            BenchPattern::RandRw => f64::from(self.options.read_percent) / 100.0,
        };
        share * reads + (1.0 - share) * writes
    }

    fn ceilings<R: Ring>(
        &self,
        memory: &Arc<Memory>,
        (mut requests, mut work): (Pool, Pool),
        mut ring: R,
    ) -> (BenchCeilings, Option<f64>) {
        let options = self.options;
        let generator = ceilings::generator(memory, &mut requests, &self.load(0));
        // A request is cut at chunks, so a member never sees more than one chunk.
        let io_bytes = options.block_bytes.min(options.chunk_bytes);
        let reads = match options.pattern {
            BenchPattern::Read | BenchPattern::RandRead => 100,
            BenchPattern::Write => 0,
            BenchPattern::RandWrite => 50,
            BenchPattern::RandRw => u64::from(options.read_percent) / 2 + 50,
        };
        let data = self.zones.data;
        let extent = data.offset_bytes..data.offset_bytes + data.len_bytes;
        let depth = options.queue_depth.min(64);
        let members = options.members.len() as u8;
        let rate = ceilings::members(&mut ring, &mut work, members, extent, io_bytes, depth, reads);
        let parity =
            |work: &mut Pool, stripes| ceilings::parity(memory, work, &self.geometry, io_bytes, stripes);
        let hot = parity(&mut work, 1);
        let cold = parity(&mut work, usize::MAX / 64);
        let cores = options.cores as f64;
        let ceilings = BenchCeilings {
            generator_iops: Some(generator * cores),
            parity_hot_bytes_per_s: hot,
            parity_cold_bytes_per_s: cold,
            ..BenchCeilings::default()
        };
        (ceilings, rate.map(|rate| rate * cores))
    }

    fn shared(&self, memory: Arc<Memory>, bells: &[Arc<Bell>]) -> Shared {
        let all = self.geometry.slots();
        let present = self.options.degraded.map_or(all, |slot| all.minus(Slots::one(slot as u8)));
        let view = MemberView { readable: present, writable: present };
        let devices: Vec<_> = (0..self.geometry.members()).map(DeviceIndex).collect();
        let volatile = self
            .devices
            .iter()
            .zip(0..)
            .filter(|(device, _)| device.facts().volatile_cache)
            .fold(Slots::NONE, |slots, (_, slot)| slots.or(Slots::one(slot)));
        let waker = |bell: &Arc<Bell>| -> crate::mailbox::Waker {
            let bell = bell.clone();
            Box::new(move || bell.ring())
        };
        Shared {
            geometry: self.geometry,
            layout: Layout {
                uuid: [0x5e; 16],
                bitmap_offset_bytes: self.zones.bitmap.offset_bytes,
                data_offset_bytes: self.zones.data.offset_bytes,
                logical_block_bytes: self.logical_block_bytes,
            },
            bitmap: Bitmap::new(self.geometry.stripes(), Cell::Clean),
            lost: crate::lost::LostRows::none(self.geometry),
            locks: StripeLocks::new(),
            members: Members::new(view, 0, &devices, volatile),
            memory,
            mailboxes: Mailboxes::new(bells.iter().map(waker).collect()),
            tallies: bells.iter().map(|_| Tally::default()).collect(),
            steward: StewardState::new(Beginning { roster: None, seed: 1, rebuilding: None }),
            read_only: false,
            deallocations: std::sync::atomic::AtomicU32::new(0),
        }
    }

    /// The cores without a reactor, for the kernel's workers, which do all member I/O on files. Empty if
    /// every core has a reactor.
    fn other_cpus(&self) -> Vec<usize> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let others = cores.len().saturating_sub(self.options.cores);
        cores[..others].iter().map(|core| core.id).collect()
    }

    /// The core of a reactor, if there are enough cores.
    fn cpu(&self, me: usize) -> Option<core_affinity::CoreId> {
        let cores = core_affinity::get_core_ids()?;
        (cores.len() >= self.options.cores).then(|| cores[cores.len() - 1 - me])
    }
}

/// Memory of one reactor's stripe operations.
const WORK_BYTES: usize = 64 << 20;

/// Memory of one reactor's requests: the pool hands out powers of two, from superblocks of 1 MiB.
fn request_pool_bytes(block_bytes: u32, queue_depth: usize) -> usize {
    let class = (block_bytes as usize).next_power_of_two().max(BLOCK_BYTES);
    (class * queue_depth).next_multiple_of(1 << 20) + (2 << 20)
}

/// CPU time that this process has used so far.
fn cpu_time_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
