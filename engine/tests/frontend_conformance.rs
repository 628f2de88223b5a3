//! The duties of every `Frontend`, whatever its protocol.
//!
//! Method: a front end is turned by the reactor of `support` over an array in RAM, which answers at once or
//! late and out of order, with a pool that is ample or scarce and room for many requests or for one; several
//! hosts use it at the same time. The oracle of the data is a copy that each host keeps of its part of the
//! array. The reactor itself checks that requests are well-formed, that tags and spans in flight are
//! distinct, that the front end wakes it when there is work, and that after `close` the front end drains and
//! returns every span.
//!
//! ublk takes part if STRIATE_FRONTEND_UBLK is set, because it needs root and a kernel with its driver
//! (tests/guest has one, and runs this suite there). A few things cannot be asked of a block device:
//!
//! - more reactors than CPUs: the driver gives a device at most one queue per CPU, so a ublk test uses as
//!   many reactors as it can;
//! - requests that are misaligned, beyond the end or writes to a read-only array: the kernel itself refuses
//!   them (this suite makes none; nbd_protocol does, for NBD);
//! - which error occurred: the kernel knows fewer errors, and the suite expects only EIO, the error that an
//!   array in service gives.
//!
//! A further front end joins by implementing [`Fixture`] and adding a line to the tests at the end.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands for the world outside of the engine: it waits, and tells the time"
)]

mod support;

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use engine::frontend::Frontend;
use engine::frontend::nbd::{Access, Address, NbdFrontend, NbdServer};
use engine::frontend::ublk::{
    Closed, Last, Ublk, UblkChoice, UblkFeature, UblkFrontend, UblkPlace, UblkPlan, UblkShape,
};
use engine::memory::{Memory, Pool};
use engine::ring::{Uring, UringConfig};
use support::block::BlockDevice;
use support::client::{Client, FLUSH, FUA, Setup, TRIM, WRITE, ZEROES, socket_path};
use support::{Opened, Pace, RamArray, Random, Reactor};

const MIB: usize = 1 << 20;
const SIZE_BYTES: usize = 32 * MIB;
const HOSTS: usize = 4;
const EIO: i32 = 5;

/// A front end and the way to reach it; the methods are in the order of its life.
trait Fixture: Sized {
    /// The reactor's share, from which its thread opens the front end.
    type Share: Send + 'static;
    type Frontend: Frontend;
    type Host: Host;

    /// Whether the device is read when it begins, before any host asks. Opening it during that waits until
    /// the read ends.
    fn is_read_first(&self) -> bool {
        false
    }

    /// The largest number of reactors that it can serve.
    fn reactors_max() -> usize {
        usize::MAX
    }

    /// Memory for each reactor's requests, in bytes, where `wanted` is what the conditions say.
    fn pool_bytes(&self, wanted: usize) -> usize {
        wanted
    }

    /// Creates a fixture of an array of `size_bytes`, with one share per reactor.
    fn start(size_bytes: usize, reactors: usize) -> (Self, Vec<Self::Share>);

    /// Opens the front end, on the reactor's thread.
    fn open(share: Self::Share, memory: &Arc<Memory>, pool: &mut Pool) -> Opened<Self::Frontend>;

    /// Lets hosts in, once the reactors turn.
    fn begin(&mut self) {}

    /// Whether reads may go into the pages of hosts' requests.
    fn is_zero_copy(&self) -> bool {
        false
    }

    /// Connects another host.
    fn connect(&self) -> Self::Host;

    /// Ends the export: hosts are gone, and the reactors still turn.
    fn close(&mut self) {}

    /// Removes everything, after the reactors have ended; `last` is a host that is still connected.
    fn end(self, last: Option<Self::Host>) {
        drop(last);
    }
}

/// The result that a host receives: an `errno` if the request failed.
type Outcome<T> = Result<T, i32>;

/// A host: what a user of the array can do. Every call returns when the array has answered.
trait Host: Send + 'static {
    /// Prepares the calling thread, which will use this host, the `index`th.
    fn settle(&mut self, _index: usize) {}

    fn read(&mut self, offset_bytes: u64, len_bytes: usize) -> Outcome<Vec<u8>>;
    fn write(&mut self, offset_bytes: u64, data: &[u8], fua: bool) -> Outcome<()>;
    fn discard(&mut self, offset_bytes: u64, len_bytes: usize) -> Outcome<()>;
    fn write_zeroes(&mut self, offset_bytes: u64, len_bytes: usize) -> Outcome<()>;
    fn flush(&mut self) -> Outcome<()>;
}

/// The conditions under which a front end is turned.
#[derive(Clone, Copy, Debug)]
struct Conditions {
    reactors: usize,
    pace: Pace,
    pool_bytes: usize,
    room: usize,
}

const CONDITIONS: [Conditions; 5] = [
    Conditions { reactors: 1, pace: Pace::Instant, pool_bytes: 32 * MIB, room: 256 },
    Conditions { reactors: 1, pace: Pace::Instant, pool_bytes: MIB, room: 1 },
    Conditions { reactors: 1, pace: Pace::Shuffled(1), pool_bytes: 32 * MIB, room: 64 },
    Conditions { reactors: 1, pace: Pace::Shuffled(2), pool_bytes: 2 * MIB, room: 3 },
    Conditions { reactors: 3, pace: Pace::Shuffled(3), pool_bytes: 4 * MIB, room: 16 },
];

/// Checks that every host reads back what it wrote to its part of the array, and that the front end drains.
fn check<F: Fixture>(conditions: Conditions) {
    let Conditions { pace, pool_bytes, room, .. } = conditions;
    let reactor_count = conditions.reactors.min(F::reactors_max());
    let (mut fixture, shares) = F::start(SIZE_BYTES, reactor_count);
    let array = RamArray::new(SIZE_BYTES);
    let pool_bytes = fixture.pool_bytes(pool_bytes);
    let reactors: Vec<Reactor> =
        shares.into_iter().map(|share| turn::<F>(share, &array, pace, pool_bytes, room)).collect();
    fixture.begin();
    let part_bytes = SIZE_BYTES / HOSTS;
    let hosts: Vec<_> = (0..HOSTS)
        .map(|index| {
            let host = fixture.connect();
            thread::spawn(move || live(host, index, part_bytes))
        })
        .collect();
    let copies: Vec<Vec<u8>> =
        hosts.into_iter().map(|host| host.join().expect("a host got what it put")).collect();
    assert!(
        copies.concat() == *array.bytes.lock().unwrap(),
        "the array holds what the hosts put, {conditions:?}"
    );
    check_errors(&fixture, &array);
    check_kinds(&array, reactor_count, fixture.is_zero_copy());
    fixture.close();
    reactors.into_iter().for_each(Reactor::stop);
    fixture.end(None);
}

/// Starts the reactor of a share.
fn turn<F: Fixture>(
    share: F::Share,
    array: &Arc<RamArray>,
    pace: Pace,
    pool_bytes: usize,
    room: usize,
) -> Reactor {
    let open = |memory: &Arc<Memory>, pool: &mut Pool| F::open(share, memory, pool);
    Reactor::start_with(open, Arc::clone(array), pace, pool_bytes, room)
}

/// Checks that every kind of request has reached the array as that kind, and through every reactor.
fn check_kinds(array: &RamArray, reactors: usize, zero_copy: bool) {
    let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    for (kind, count) in [
        ("flush", &array.flushes),
        ("durable write", &array.durable),
        ("discard", &array.discards),
        ("write-zeroes", &array.zeroes),
    ] {
        assert!(of(count) > 0, "no {kind} has come");
    }
    assert_eq!(of(&array.reactors), reactors as u64, "each reactor has its share of the hosts");
    assert_eq!(of(&array.direct) > 0, zero_copy, "reads into hosts' own pages, where there are such");
    assert_eq!(of(&array.sent_back) > 0, zero_copy, "and some that had to be asked again");
}

/// Performs a host's random operations on its part, checked against its copy, which is returned.
fn live(mut host: impl Host, index: usize, part_bytes: usize) -> Vec<u8> {
    let (start, seed) = ((index * part_bytes) as u64, index as u64 + 1);
    host.settle(index);
    let mut random = Random(seed);
    let mut copy = vec![0; part_bytes];
    for step in 0..150 {
        let len = match random.below(8) {
            0 => MIB + 4096 * random.below(256),
            1 | 2 => 4096 * (1 + random.below(64)),
            _ => 4096,
        };
        let at = 4096 * random.below((part_bytes - len) / 4096 + 1);
        let (offset, range) = (start + at as u64, at..at + len);
        match random.below(10) {
            0..=3 => {
                let data = random.bytes(len);
                host.write(offset, &data, random.below(4) == 0).unwrap();
                copy[range].copy_from_slice(&data);
            }
            4..=6 => assert!(host.read(offset, len).unwrap() == copy[range], "seed {seed}, step {step}"),
            7 => {
                host.discard(offset, len).unwrap();
                copy[range].fill(0);
            }
            8 => {
                host.write_zeroes(offset, len).unwrap();
                copy[range].fill(0);
            }
            _ => host.flush().unwrap(),
        }
    }
    copy
}

/// Checks that a request which the array cannot carry out is an error to the host, and that nothing else
/// suffers.
fn check_errors<F: Fixture>(fixture: &F, array: &RamArray) {
    let mut host = fixture.connect();
    *array.lost.lock().unwrap() = MIB as u64..MIB as u64 + 4096;
    assert_eq!(host.read(MIB as u64, 4096).err(), Some(EIO));
    assert_eq!(host.read(MIB as u64 / 2, MIB).err(), Some(EIO));
    assert_eq!(host.write(MIB as u64, &[1; 4096], false), Err(EIO));
    assert!(host.read(0, MIB).is_ok());
    *array.lost.lock().unwrap() = 0..0;
    host.write(MIB as u64, &[2; 4096], true).unwrap();
    assert!(host.read(MIB as u64, 4096).unwrap() == [2; 4096]);
}

/// Checks `close` with requests in the array: they are answered, and then nothing is left.
fn check_close_with_requests_in_flight<F: Fixture>() {
    let (mut fixture, mut shares) = F::start(SIZE_BYTES, 1);
    let array = RamArray::new(SIZE_BYTES);
    let reactor = turn::<F>(shares.remove(0), &array, Pace::Instant, 8 * MIB, 64);
    fixture.begin();
    // First wait until the kernel has looked for partitions. The reactor ends with no other behind it, so a
    // read of the kernel that arrived too late would wait until this process ends.
    if fixture.is_read_first() {
        support::eventually("the kernel looks for partitions", || array.requests.load(Ordering::Relaxed) > 0);
    }
    let mut host = fixture.connect();
    array.held.store(true, Ordering::Relaxed);
    let write = thread::spawn(move || (host.write(4096, &[7; 8192], false), host));
    support::eventually("the write has arrived", || array.writes.load(Ordering::Relaxed) == 1);
    reactor.close();
    thread::sleep(std::time::Duration::from_millis(50));
    assert!(!write.is_finished(), "not answered before the array did");
    array.held.store(false, Ordering::Relaxed);
    reactor.stop();
    let (written, host) = write.join().unwrap();
    assert_eq!(written, Ok(()), "answered before the end");
    assert!(array.bytes.lock().unwrap()[4096..4096 + 8192] == [7; 8192]);
    fixture.end(Some(host));
}

/// NBD over a unix socket, with structured or simple replies.
struct Nbd<const STRUCTURED: bool> {
    _server: NbdServer,
    path: std::path::PathBuf,
}

struct NbdHost(Client<UnixStream>);

impl<const STRUCTURED: bool> Fixture for Nbd<STRUCTURED> {
    type Share = NbdFrontend;
    type Frontend = NbdFrontend;
    type Host = NbdHost;

    fn start(size_bytes: usize, reactors: usize) -> (Self, Vec<NbdFrontend>) {
        let path = socket_path();
        let export = Setup { size_bytes, ..Setup::default() }.export();
        let listen = [Address::Unix(path.clone())];
        let (server, frontends) = NbdServer::start(&listen, Access::default(), export, reactors).unwrap();
        (Nbd { _server: server, path }, frontends)
    }

    fn open(share: NbdFrontend, _memory: &Arc<Memory>, _pool: &mut Pool) -> Opened<NbdFrontend> {
        (share, None)
    }

    fn connect(&self) -> NbdHost {
        let socket = UnixStream::connect(&self.path).unwrap();
        socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
        NbdHost(Client::go(socket, STRUCTURED))
    }
}

impl NbdHost {
    fn bare(&mut self, kind: u16, offset_bytes: u64, len_bytes: usize) -> Outcome<()> {
        self.0.call(kind, 0, offset_bytes, len_bytes as u32, &[]).map(drop).map_err(|error| error as i32)
    }
}

impl Host for NbdHost {
    fn read(&mut self, offset_bytes: u64, len_bytes: usize) -> Outcome<Vec<u8>> {
        self.0.read(offset_bytes, len_bytes as u32).map_err(|error| error as i32)
    }

    fn write(&mut self, offset_bytes: u64, data: &[u8], fua: bool) -> Outcome<()> {
        let flags = if fua { FUA } else { 0 };
        self.0
            .call(WRITE, flags, offset_bytes, data.len() as u32, data)
            .map(drop)
            .map_err(|error| error as i32)
    }

    fn discard(&mut self, offset_bytes: u64, len_bytes: usize) -> Outcome<()> {
        self.bare(TRIM, offset_bytes, len_bytes)
    }

    fn write_zeroes(&mut self, offset_bytes: u64, len_bytes: usize) -> Outcome<()> {
        self.bare(ZEROES, offset_bytes, len_bytes)
    }

    fn flush(&mut self) -> Outcome<()> {
        self.bare(FLUSH, 0, 0)
    }
}

/// A block device. Its requests come in batches if `BATCHES`, the driver has them, and there is more than one
/// queue.
struct Device<const BATCHES: bool> {
    ublk: Ublk,
    closed: bool,
}

struct DeviceHost {
    device: BlockDevice,
    path: String,
    zeroings: u32,
}

impl<const BATCHES: bool> Fixture for Device<BATCHES> {
    type Share = UblkPlace;
    type Frontend = UblkFrontend;
    type Host = DeviceHost;

    /// Whether the kernel looks for partitions: since Linux 7 it does so asynchronously, and holds the disk's
    /// `open_mutex` meanwhile. Older kernels look for none.
    fn is_read_first(&self) -> bool {
        !self.ublk.hides_partitions()
    }

    /// Where the driver copies (before Linux 6.5), each of 64 tags has 128 KiB from the start: the conditions
    /// are about the rest.
    fn pool_bytes(&self, wanted: usize) -> usize {
        if self.ublk.way().contains("copied by the driver") { 8 * MIB + wanted } else { wanted }
    }

    fn reactors_max() -> usize {
        let cpus = thread::available_parallelism().unwrap().get();
        assert!(cpus > 1, "with one CPU there is never more than one reactor");
        cpus
    }

    fn start(size_bytes: usize, reactors: usize) -> (Self, Vec<UblkPlace>) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Each fixture has a device of its own: a device with the same name and identity would be taken over.
        let identity = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let shape = UblkShape {
            size_bytes: size_bytes as u64,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            chunk_bytes: 64 << 10,
            stripe_bytes: 256 << 10,
            // With a volatile cache the kernel sends flushes and FUA.
            volatile_cache: true,
            read_only: false,
        };
        let without = if BATCHES { Vec::new() } else { vec![UblkFeature::BatchIo] };
        let plan = UblkPlan { choice: UblkChoice::Any, queues: reactors, without };
        let mut ublk = Ublk::open(&plan, "conformance", &identity, &shape, &mut |_| Ok(Last::Whole)).unwrap();
        let places = ublk.places();
        (Device { ublk, closed: false }, places)
    }

    fn open(place: UblkPlace, memory: &Arc<Memory>, pool: &mut Pool) -> Opened<UblkFrontend> {
        let config = UringConfig { host_buffers: place.host_buffers(), ..UringConfig::default() };
        let mut ring = Uring::new(Arc::clone(memory), &config).unwrap();
        let frontend = place.open(&mut ring, memory, pool).unwrap();
        (frontend, Some(ring))
    }

    fn begin(&mut self) {
        self.ublk.start().unwrap();
        eprintln!("block device: {}", self.ublk.way());
    }

    fn is_zero_copy(&self) -> bool {
        self.ublk.is_zero_copy()
    }

    fn connect(&self) -> DeviceHost {
        let path = self.ublk.path();
        DeviceHost { device: BlockDevice::open(&path).unwrap(), path, zeroings: 0 }
    }

    fn close(&mut self) {
        assert_eq!(self.ublk.close(false), Ok(Closed::Stopped), "nobody has it open any more");
        self.closed = true;
    }

    fn end(mut self, last: Option<DeviceHost>) {
        let path = self.ublk.path();
        // Close with force unless it was closed before: its server has ended, and requests that the kernel
        // still sends (since Linux 7 it reads partitions asynchronously) wait for another server. A host that
        // closed it first would wait for that read.
        let has_server = self.closed;
        assert_eq!(self.ublk.close(true), Ok(Closed::Stopped));
        drop(last);
        // If the server ended before the close, its commands are not returned until the process ends, and the
        // rest of the device stays until then.
        if has_server {
            self.ublk.remove().unwrap();
        }
        assert!(!fs::exists(path).unwrap(), "the device has gone away");
    }
}

/// The kernel's answer to a program, as an [`Outcome`].
fn outcome<T>(result: io::Result<T>) -> Outcome<T> {
    result.map_err(|error| error.raw_os_error().expect("of the kernel"))
}

impl Host for DeviceHost {
    /// Pins the host's thread to a CPU of one queue, so that every queue has hosts.
    fn settle(&mut self, index: usize) {
        let queues = format!("/sys/block/{}/mq", self.path.trim_start_matches("/dev/"));
        let queue = index % fs::read_dir(&queues).unwrap().count();
        let cpus = fs::read_to_string(format!("{queues}/{queue}/cpu_list")).unwrap();
        let first = cpus.split(',').next().unwrap().trim().parse().unwrap();
        assert!(core_affinity::set_for_current(core_affinity::CoreId { id: first }));
    }

    fn read(&mut self, offset_bytes: u64, len_bytes: usize) -> Outcome<Vec<u8>> {
        outcome(self.device.read(offset_bytes, len_bytes))
    }

    fn write(&mut self, offset_bytes: u64, data: &[u8], fua: bool) -> Outcome<()> {
        outcome(self.device.write(offset_bytes, data, fua))
    }

    fn discard(&mut self, offset_bytes: u64, len_bytes: usize) -> Outcome<()> {
        outcome(self.device.discard(offset_bytes, len_bytes as u64))
    }

    /// Writes zeroes, by the two ways in turn.
    fn write_zeroes(&mut self, offset_bytes: u64, len_bytes: usize) -> Outcome<()> {
        self.zeroings += 1;
        outcome(if self.zeroings.is_multiple_of(2) {
            self.device.write_zeroes_kept(offset_bytes, len_bytes as u64)
        } else {
            self.device.write_zeroes(offset_bytes, len_bytes as u64)
        })
    }

    fn flush(&mut self) -> Outcome<()> {
        outcome(self.device.flush())
    }
}

/// Whether the block device is to be tested. If it is and cannot be, the test fails.
fn is_ublk_wanted() -> bool {
    let wanted = std::env::var_os("STRIATE_FRONTEND_UBLK").is_some();
    if !wanted {
        eprintln!("SKIPPED: STRIATE_FRONTEND_UBLK is not set");
    }
    wanted
}

#[test]
fn ublk_device() {
    if is_ublk_wanted() {
        CONDITIONS.into_iter().for_each(check::<Device<true>>);
    }
}

#[test]
fn ublk_device_without_batches() {
    if is_ublk_wanted() {
        CONDITIONS.into_iter().for_each(check::<Device<false>>);
    }
}

#[test]
fn ublk_device_closes_with_requests_in_flight() {
    if is_ublk_wanted() {
        check_close_with_requests_in_flight::<Device<true>>();
        check_close_with_requests_in_flight::<Device<false>>();
    }
}

#[test]
fn nbd_with_simple_replies() {
    CONDITIONS.into_iter().for_each(check::<Nbd<false>>);
}

#[test]
fn nbd_with_structured_replies() {
    CONDITIONS.into_iter().for_each(check::<Nbd<true>>);
}

#[test]
fn nbd_closes_with_requests_in_flight() {
    check_close_with_requests_in_flight::<Nbd<false>>();
    check_close_with_requests_in_flight::<Nbd<true>>();
}
