//! A running array: its reactors, its front ends, and the operator's access to both.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bitmap::BlockIndex;
use crossbeam::channel::{Receiver, bounded};

use crate::array::{Array, Beginning, Order, Position, Shared, StewardState};
use crate::assembly::{Assembly, AssemblyOptions, SlotPlan, assemble};
use crate::clock::{Clock, MonotonicClock};
use crate::device::{Access, Device};
use crate::events::Event;
use crate::format::superblock::Record;
use crate::geometry::Slots;
use crate::mailbox::Mailboxes;
use crate::memory::{KEPT_BACK_OF_REQUESTS, Memory, Pool};
use crate::reactor::{Bell, Reactor, ReactorPort};
use crate::ring::{DeviceIndex, Uring, UringConfig};
use crate::start::{StartOptions, start};
use crate::status::{
    ArrayStatus, Background, BackgroundKind, CellCounts, MemberState, SCHEMA_VERSION, ServerStatus,
};
use crate::tally::Tally;
use crate::threads::{Routes, Thread};

use super::bounded::{each_within, patience};
use super::fit::check_blocks;
use super::front::{Front, MemberTraits, Share, shape_of};
use super::grow::could_grow;
use super::locked::lock_memory;
use super::note::Taking;
use super::noter::Noter;
use super::open::{ControlRing, Opened, candidates, leave_out_overwritten, open_within, wipe_unused};
use super::placement::{Placement, Seat, take_seat};
use super::{ServeOptions, ServerError, random, seconds_since_1970, warnings};

mod answers;
mod cache_looks;
mod devices;
mod lost;
mod member;
mod notices;
mod privileges;
mod replace;
#[cfg(test)]
mod silence;
mod stop;

use answers::{LOOK_EVERY, order};
use cache_looks::CacheLooks;
use devices::Devices;
pub use notices::{Notice, NoticeKind, Notices, Severity};
use privileges::routes_of;
pub use stop::{Ended, Stop};

/// Data memory of a reactor if no size is given.
const MEMORY_BYTES_DEFAULT: usize = 64 << 20;
/// Least memory that a reactor can work with: half for requests, half for stripe operations.
const MEMORY_BYTES_MIN: usize = 32 << 20;
/// Least size that is accepted, since earlier versions worked with it; sizes from here on are rounded up to
/// the minimum.
const MEMORY_BYTES_ASKED_MIN: usize = 16 << 20;
/// Most memory: one arena of fixed buffers.
const MEMORY_BYTES_MAX: usize = 1 << 30;

/// Most events that wait to be written down. A member that leaves causes two or three.
const EVENTS_MAX: usize = 1024;

/// An assembled array that is being served.
pub struct Server {
    shared: Arc<Shared>,
    record: Record,
    /// State of each slot that was failed or missing at the start.
    absent: Vec<Option<MemberState>>,
    reactors: Vec<Running>,
    placement: Placement,
    front: Front,
    /// The devices, kept open as long as the array runs.
    devices: Arc<Devices>,
    /// Events from the engine. (The server keeps this receiver while it stops.)
    events: Receiver<Event>,
    /// Whether a stop has begun, so that no new order begins. Set once by the stop (AcqRel), read by orders
    /// (Acquire).
    is_stopping: AtomicBool,
    /// Whether a stop has ended, so that no reactor is left to answer. Set once by the stop (Release), read
    /// by waiting calls (Acquire).
    is_over: AtomicBool,
    /// Number of replacements in progress, each of which may be waiting for its device. AcqRel: it guards no
    /// other data.
    replacements: AtomicU32,
    /// Configuration of the reactors' rings, without what the front end adds.
    rings: UringConfig,
    routes: Routes,
    read_only: bool,
    trusts_parity: bool,
    /// Start time, seconds since 1970.
    started_s: u64,
    cache_looks: CacheLooks,
    /// For a block device: writes the note of the state in which a later server must find the array.
    noter: Option<Noter>,
    pace: Mutex<Pace>,
    /// Warnings of this start for the operator.
    pub warnings: Vec<String>,
}

struct Running {
    port: Arc<ReactorPort<Uring>>,
    /// Receives, once the ring is closed, the devices from which the kernel has not returned all I/O.
    /// Disconnected if the reactor panics.
    closed: Receiver<Vec<DeviceIndex>>,
    /// The reactor's thread; taken by the stop.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Progress of background work at the last look, to compute its rate.
#[derive(Default)]
struct Pace {
    at_ns: u64,
    done: u64,
    per_s: u64,
}

impl Server {
    /// Assembles the members, and starts the reactors and the front ends. Returns once hosts can connect.
    pub fn start(options: ServeOptions) -> Result<Server, ServerError> {
        let access = if options.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let patience = patience(options.member_timeout_s);
        let Opened { devices, ends, silent } = open_within(&options.members, access, patience)?;
        let mut warnings: Vec<String> =
            silent.iter().map(|error| format!("{error}: the array starts without it")).collect();
        let mut control = ControlRing::new(&devices, patience)?;
        let mut candidates = candidates(&mut control.bench(), &devices);
        let overwritten = leave_out_overwritten(&mut candidates, &devices, &ends, options.take_overwritten);
        drop(ends);
        let host = super::this_host();
        let assembly = assemble(
            &candidates,
            &AssemblyOptions {
                run_degraded: options.run_degraded,
                host,
                foreign_host_ok: options.foreign_host_ok,
                ..AssemblyOptions::default()
            },
        )
        .map_err(|error| {
            let silent = silent.into_iter().map(|error| error.0);
            std::iter::once(error.to_string()).chain(silent).collect::<Vec<_>>().join("; ")
        });
        let assembly = control.outcome(&devices, assembly)?;
        check_blocks(&assembly, &devices)?;
        warnings.extend(warnings::of_assembly(&assembly, &candidates));
        warnings.extend(overwritten.warnings);
        warnings.extend(could_grow(&assembly, &devices));
        let seed = random::number();
        let read_only = options.read_only || assembly.read_only;
        let record = assembly.record.clone();
        let nodes: Vec<u32> = devices.iter().filter_map(|device| device.facts().numa_node).collect();
        let mut placement = Placement::choose(&options.cpus, options.reactors, &nodes)?;
        // Make every check that can refuse before `start`, which writes to the members. A client that
        // connects in between waits at the door of the front end.
        let reactors = placement.seats.len();
        let shape = shape_of(&record, traits(&devices), read_only);
        warnings.extend(Front::refuse_beside_block_device(&options, &record, &shape)?);
        let seed_of_epochs = (!read_only).then_some(seed);
        let block_device =
            Front::block_device(&options, &record, &shape, reactors, seed_of_epochs, assembly.proven_moves)?;
        let (block_device, note) = block_device.unzip();
        let note = note.flatten();
        let is_takeover = block_device.as_ref().is_some_and(|ublk| ublk.is_recovered());
        let taking = note.as_ref().filter(|_| is_takeover).map(Taking::of);
        if let Some(ublk) = block_device.as_ref().filter(|ublk| ublk.queues() != reactors) {
            warnings.push(format!("{} reactors, as {} has queues", ublk.queues(), ublk.path()));
            // Release the claims of the first choice: they would block the second.
            drop(placement);
            placement = Placement::choose(&[], ublk.queues(), &nodes)?;
        }
        let count = placement.seats.len();
        if let Some(ublk) = block_device.as_ref().filter(|ublk| ublk.is_recovered()) {
            warnings.push(format!(
                "{} is taken over from the server before: what waits there goes on{}",
                ublk.path(),
                if ublk.grows() { ", and hosts see that it has grown" } else { "" }
            ));
        }
        let memory_bytes = memory_bytes(options.memory_bytes)?;
        if (1..memory_bytes).contains(&options.memory_bytes) && memory_bytes == MEMORY_BYTES_MIN {
            warnings.push(format!(
                "each reactor has {} MiB of memory: it cannot work with less",
                MEMORY_BYTES_MIN >> 20
            ));
        }
        let memory = Memory::new(&vec![memory_bytes; count]).map_err(|error| {
            ServerError(format!("cannot allocate {count} x {memory_bytes} bytes (--memory): {error}"))
        })?;
        placement.populate(&memory);
        let no_bell = |error| ServerError(format!("cannot make an eventfd: {error}"));
        let bells: Vec<Arc<Bell>> =
            (0..count).map(|_| Bell::new()).collect::<Result<_, _>>().map_err(no_bell)?;
        let (front, shares) = Front::open(block_device, &options, &record, read_only, count)?;
        let start_options = StartOptions { host, read_only, trust_parity: options.trust_parity, seed };
        let started = start(&mut control.bench(), &assembly, &start_options)
            .map_err(|error| super::words::after_path(error.slot(), &error, &assembly, &devices));
        let started = control.outcome(&devices, started)?;
        drop(control);

        let position = started.roster.as_ref().map(|roster| Position::of(roster.record()));
        let routes = routes_of(&front, &devices);
        let limit = |thread| options.threads.limiter(thread, routes);
        let begin = |note| Noter::start(note, position, seed, limit(Thread::Noter));
        let noter = note.map(begin).transpose()?;
        let (noter, noting) = noter.unzip();
        warnings.extend(warnings::of_start(&started, &assembly, &devices));
        if !read_only {
            for taken in overwritten.taken {
                wipe_unused(&devices[taken], &record.zones)?;
            }
        }
        let volatile = volatile(&devices, &started.devices, started.view.writable);
        let devices = let_go_of_others(devices, &assembly);
        let in_use = || devices.iter().flatten();
        let mut members = started.members(volatile);
        if options.member_timeout_s > 0 {
            members = members.patient_for(options.member_timeout_s);
        }
        let waker = |bell: &Arc<Bell>| -> crate::mailbox::Waker {
            let bell = bell.clone();
            Box::new(move || bell.ring())
        };
        let rebuilding = started.rebuilding.map(|(slot, _)| slot);
        let shared = Arc::new(Shared {
            geometry: started.geometry,
            layout: started.layout,
            bitmap: started.bitmap,
            lost: started.lost,
            locks: bitmap::StripeLocks::new(),
            members,
            memory,
            mailboxes: Mailboxes::new(bells.iter().map(waker).collect()),
            tallies: (0..count).map(|_| Tally::default()).collect(),
            steward: StewardState::new(Beginning { roster: started.roster, seed, rebuilding })
                .noted_by(noting.unwrap_or_default()),
            read_only,
            deallocations: std::sync::atomic::AtomicU32::new(0),
        });
        let events = shared.steward.events.listen(EVENTS_MAX);
        let config = UringConfig {
            worker_cpus: placement.workers.clone(),
            polled: in_use().all(|device| device.facts().polled),
            passthrough: in_use().any(Device::wants_passthrough),
            ..UringConfig::default()
        };
        let mut reactors = Vec::new();
        taking.iter().try_for_each(Taking::begin)?;
        for (me, (share, bell)) in shares.into_iter().zip(bells).enumerate() {
            let config = UringConfig { host_buffers: share.host_buffers(), ..config.clone() };
            let seat = placement.seats[me];
            reactors.push(launch(
                me as u8,
                &shared,
                &devices,
                share,
                bell,
                seat,
                config,
                limit(Thread::Reactor),
            )?);
        }
        taking.iter().for_each(Taking::end);
        if front.is_block_device() {
            lock_memory()?;
        }
        front.start()?;
        // Reactors that share a block device's queues join them now that the device is live.
        (0..count).for_each(|me| shared.mailboxes.wake(me as u8));
        Ok(Server {
            absent: assembly.slots.iter().map(absence).collect(),
            shared,
            record,
            reactors,
            placement,
            front,
            devices: Arc::new(Devices::new(devices)),
            events,
            is_stopping: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            replacements: AtomicU32::new(0),
            rings: config,
            routes,
            read_only,
            trusts_parity: options.trust_parity,
            started_s: seconds_since_1970(),
            cache_looks: CacheLooks::default(),
            noter,
            pace: Mutex::new(Pace::default()),
            warnings,
        })
    }

    /// How the ublk driver serves the block device, for the log.
    #[must_use]
    pub fn block_device_way(&self) -> Option<String> {
        self.front.way()
    }

    /// Why the last change of the record is not noted for a later server of the block device; reported once.
    #[must_use]
    pub fn note_trouble(&self) -> Option<String> {
        self.noter.as_ref().and_then(Noter::trouble)
    }

    /// The state of the array for an operator.
    #[must_use]
    pub fn status(&self) -> ArrayStatus {
        let shared = &self.shared;
        let cells = shared.bitmap.count();
        let view = shared.members.view();
        let (lost, lost_rows) = (lost::lost_stripes(shared, &view), self.lost_rows());
        let lost_bytes = lost.bytes + lost_rows.bytes;
        ArrayStatus {
            schema: SCHEMA_VERSION,
            server: ServerStatus {
                version: env!("CARGO_PKG_VERSION").to_string(),
                pid: std::process::id(),
                started_s: self.started_s,
                clients: self.front.clients(),
            },
            name: self.record.name.as_str().to_string(),
            uuid: self.record.array.to_string(),
            level: self.record.shape.level.number(),
            chunk_bytes: shared.geometry.chunk_bytes(),
            size_bytes: shared.geometry.size_bytes(),
            logical_block_bytes: shared.layout.logical_block_bytes,
            health: self.health(&view, lost_bytes),
            read_only: self.read_only,
            trusts_parity: self.trusts_parity,
            lost_bytes,
            epoch: shared.steward.epoch.load(Ordering::Relaxed).max(self.record.epoch.name.number),
            members: (0..shared.geometry.members()).map(|slot| self.member_status(slot, &view)).collect(),
            cells: CellCounts {
                unwritten: cells.unwritten,
                clean: cells.clean,
                dirty: cells.dirty,
                need_sync: cells.need_sync,
                lost: lost.stripes,
                blocks_behind: self.blocks_behind(),
            },
            lost_rows,
            // The two numbers were counted at two moments: the first may be the smaller one.
            background: self.background(cells.need_sync.saturating_sub(lost.stripes)),
            exports: self.front.exports(),
            reactors: self.placement.seats.clone(),
            counters: Tally::sum(&shared.tallies),
        }
    }

    /// Bitmap blocks with changes that are not durable on the members.
    fn blocks_behind(&self) -> u64 {
        let bitmap = &self.shared.bitmap;
        let blocks = (0..bitmap.blocks()).map(BlockIndex);
        blocks.filter(|block| bitmap.is_behind(*block) || bitmap.is_writing(*block)).count() as u64
    }

    /// Checks the caches of members that had none, and from now on flushes a member whose cache was switched
    /// on. If hosts were told that there is no cache (a block device), each write to such a member is made
    /// durable instead. Returns the findings in words.
    pub fn look_at_caches(&self) -> Vec<String> {
        let members = &self.shared.members;
        let hosts_flush = self.front.admits_volatile_cache();
        let look = |slot: u8| {
            let index = members.device(slot);
            let device = self.devices.get(index)?;
            let look = device.look_at_cache()?;
            let look_is_over = self.cache_looks.begin(index)?;
            let look = move || {
                let _look_is_over = look_is_over;
                look()
            };
            Some(((slot, index, device), look))
        };
        let (looked_at, looks): (Vec<_>, Vec<_>) = members.view().writable.iter().filter_map(look).unzip();
        let are_on = each_within(looks, LOOK_EVERY, |look| look());
        let mut found = Vec::new();
        for ((slot, index, device), is_on) in looked_at.into_iter().zip(are_on) {
            let is_on = is_on == Some(true);
            if is_on && members.cache_switched_on(slot, index, hosts_flush) {
                let now = if hosts_flush {
                    "it is flushed from now on"
                } else {
                    "each write to it is made durable from now on"
                };
                found.push(format!("{}: its volatile cache was switched on: {now}", device.path().display()));
            }
        }
        found
    }

    /// The resync or rebuild that is running or due; `unsynced` stripes need a resync and can be resynced.
    fn background(&self, unsynced: u64) -> Vec<Background> {
        let shared = &self.shared;
        let (kind, slot, done, total) = match shared.steward.rebuild_slot.load(Ordering::Relaxed) {
            // Between two attempts, all remaining stripes are still to be done.
            0 if shared.steward.resync_is_due.load(Ordering::Relaxed) => {
                (BackgroundKind::Resync, None, 0, unsynced)
            }
            0 => {
                let total = shared.steward.resync_total.load(Ordering::Relaxed);
                (BackgroundKind::Resync, None, shared.steward.resync_done.load(Ordering::Relaxed), total)
            }
            slot => {
                let total = shared.geometry.stripes();
                (BackgroundKind::Rebuild, Some(slot as usize - 1), shared.members.cursor(), total)
            }
        };
        // A read-only server knows of the work but does not do it; neither does a failed array.
        if total == 0 || self.read_only || shared.failed() {
            return Vec::new();
        }
        let now = MonotonicClock.now_ns();
        let mut pace = self.pace.lock().expect("no holder panics");
        let elapsed = now.saturating_sub(pace.at_ns);
        if elapsed > 500_000_000 {
            let stripe = u64::from(shared.geometry.chunk_bytes());
            let more = if pace.at_ns == 0 { 0 } else { done.saturating_sub(pace.done) };
            pace.per_s = (u128::from(more * stripe) * 1_000_000_000 / u128::from(elapsed)) as u64;
            (pace.at_ns, pace.done) = (now, done);
        }
        vec![Background { kind, slot, done_stripes: done, total_stripes: total, bytes_per_s: pace.per_s }]
    }

    /// Fails a slot by order of the operator. Returns once the failure is on record.
    pub fn fail(&self, slot: usize) -> Result<(), ServerError> {
        let slot = self.checked(slot)?;
        Ok(order(&self.shared, |answer| Order::Fail { slot, answer })?)
    }

    fn checked(&self, slot: usize) -> Result<u8, ServerError> {
        let members = self.shared.geometry.members();
        if self.read_only {
            return Err(ServerError("the array is served read-only".into()));
        }
        match u8::try_from(slot) {
            Ok(slot) if slot < members => Ok(slot),
            _ => Err(ServerError(format!("there is no slot {slot}: the array has 0 to {}", members - 1))),
        }
    }
}

/// Closes the devices that are in no slot, so that the operator can replace a member by one of them: a stale
/// member, or one that another program has written to. The other devices keep their indices.
fn let_go_of_others(devices: Vec<Device>, assembly: &Assembly) -> Vec<Option<Device>> {
    let in_use = |device: usize| {
        assembly.slots.iter().any(|plan| match *plan {
            SlotPlan::InSync { candidate } | SlotPlan::Rebuilding { candidate, .. } => candidate == device,
            SlotPlan::Missing | SlotPlan::Failed | SlotPlan::Empty | SlotPlan::Stale { .. } => false,
        })
    };
    devices.into_iter().enumerate().map(|(index, device)| in_use(index).then_some(device)).collect()
}

/// The properties of the members that hosts are told.
fn traits(devices: &[Device]) -> MemberTraits {
    let facts = || devices.iter().map(Device::facts);
    MemberTraits {
        physical_block_bytes: facts().map(|facts| facts.physical_block_bytes).max().unwrap_or(0),
        volatile_cache: facts().any(|facts| facts.volatile_cache),
    }
}

/// Starts one reactor on its own thread, and waits until its ring is set up and the thread has called
/// `limit`.
#[expect(clippy::too_many_arguments, reason = "the parts of a reactor, each named at its one caller")]
fn launch(
    me: u8,
    shared: &Arc<Shared>,
    devices: &[Option<Device>],
    share: Share,
    bell: Arc<Bell>,
    seat: Seat,
    config: UringConfig,
    limit: impl FnOnce() + Send + 'static,
) -> Result<Running, ServerError> {
    let port = ReactorPort::new();
    let rings = shared.tallies.len();
    let for_ring = |device: &Option<Device>| device.as_ref().map(|device| device.for_ring(rings)).transpose();
    let attached: Vec<_> = devices.iter().map(for_ring).collect::<Result<_, _>>()?;
    let (ready, is_ready) = bounded(1);
    let (closing, closed) = bounded(1);
    let body = {
        let (shared, port) = (shared.clone(), port.clone());
        move || {
            take_seat(seat);
            let memory = shared.memory.clone();
            let arena = memory.arena(u16::from(me));
            let half = arena.len_bytes / 2;
            let mut requests = Pool::over(&memory, arena.part(0, half));
            requests.keep_back(KEPT_BACK_OF_REQUESTS);
            let work = Pool::over(&memory, arena.part(half, half));
            let ring = Uring::new(memory.clone(), &config).and_then(|mut ring| {
                for (index, device) in attached.into_iter().enumerate() {
                    let Some(device) = device else { continue };
                    ring.attach(DeviceIndex(index as u8), device)?;
                }
                let frontend = share.open(&mut ring, &memory, &mut requests, &shared)?;
                Ok((ring, frontend))
            });
            let (ring, frontend) = match ring {
                Ok(made) => made,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let array = Array::new(me, shared.clone(), work);
            let reactor =
                Reactor::new(me, array, shared, ring, frontend, requests, MonotonicClock, port, bell);
            // Give up privileges: every step that needs more than a reactor may have is done.
            limit();
            let _ = ready.send(Ok(()));
            let (mut ring, frontend) = reactor.run();
            let kept = ring.close();
            drop((ring, frontend));
            let _ = closing.send(kept);
        }
    };
    let thread = std::thread::Builder::new()
        .name(format!("reactor-{me}"))
        .spawn(body)
        .map_err(|error| ServerError(format!("cannot start a thread: {error}")))?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(Running { port, closed, thread: Mutex::new(Some(thread)) }),
        Ok(Err(error)) => Err(ServerError(format!("cannot start reactor {me}: {error}"))),
        Err(_) => Err(ServerError(format!("reactor {me} died at its start"))),
    }
}

fn memory_bytes(asked: usize) -> Result<usize, ServerError> {
    match asked {
        0 => Ok(MEMORY_BYTES_DEFAULT),
        bytes if (MEMORY_BYTES_ASKED_MIN..=MEMORY_BYTES_MAX).contains(&bytes) => {
            Ok((bytes >> 21 << 21).max(MEMORY_BYTES_MIN))
        }
        bytes => Err(ServerError(format!(
            "--memory {bytes}: from {MEMORY_BYTES_MIN} to {MEMORY_BYTES_MAX} bytes for each reactor are possible"
        ))),
    }
}

fn volatile(devices: &[Device], by_slot: &[DeviceIndex], present: Slots) -> Slots {
    let is_volatile = |slot: &u8| devices[usize::from(by_slot[usize::from(*slot)].0)].facts().volatile_cache;
    present.iter().filter(is_volatile).fold(Slots::NONE, |slots, slot| slots.or(Slots::one(slot)))
}

const fn absence(plan: &SlotPlan) -> Option<MemberState> {
    match plan {
        SlotPlan::InSync { .. } | SlotPlan::Rebuilding { .. } => None,
        SlotPlan::Missing | SlotPlan::Empty | SlotPlan::Stale { .. } => Some(MemberState::Missing),
        SlotPlan::Failed => Some(MemberState::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reactor_has_the_memory_that_it_needs() {
        let mib = |bytes: Result<usize, ServerError>| bytes.map(|bytes| bytes >> 20).ok();
        for (asked, expected) in [
            (0, Some(64)),
            (15, None),
            (16, Some(32)),
            (31, Some(32)),
            (32, Some(32)),
            (33, Some(32)),
            (34, Some(34)),
            (1024, Some(1024)),
            (1025, None),
        ] {
            assert_eq!(mib(memory_bytes(asked << 20)), expected, "{asked} MiB");
        }
    }
}
