//! The suite for every ring: RAM, null, io_uring over files with direct I/O, over tmpfs, over loop devices;
//! and over NVMe drives if the machine has some whose content may be lost.
//!
//! Method: a `Bench` is a ring with some devices of one size; each case is a function over any bench, and
//! `conforms` runs them all. Oracle: the contract at the top of ring/mod.rs, and a byte vector per device.
//! Random cases print their seed when they fail.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands for the world outside of the engine: it waits, and tells the time"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::device::{self, Device, OpenMode};
use engine::limits::IO_IN_FLIGHT_MAX;
use engine::memory::{Memory, Pool, Span};
use engine::ring::{
    Completion, DeviceIndex, Durability, InstantDevice, InstantRing, MemStorage, MemberIo, MemberOp, Ring,
    Uring, UringConfig, UringDevice, blocking,
};

const DEVICE_BYTES: u64 = 16 << 20;
const DEVICES: u8 = 3;
const MIB: u32 = 1 << 20;
const EBADF: i32 = 9;

/// A ring under test, with devices 0 to `DEVICES` - 1 of at least `DEVICE_BYTES` each.
struct Bench<R: Ring> {
    ring: R,
    memory: Arc<Memory>,
    pool: Pool,
    /// Whether written data can be read back.
    remembers: Remembers,
    /// Size of the devices; the suite's data stays below `DEVICE_BYTES`.
    end_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Remembers {
    Everything,
    Nothing,
}

fn memory() -> (Arc<Memory>, Pool) {
    let memory = Memory::new(&[64 << 20]).unwrap();
    let pool = Pool::new(&memory, 0);
    (memory, pool)
}

/// Runs the whole suite.
fn conforms<R: Ring>(mut bench: Bench<R>) {
    nothing_completes_before_a_turn(&mut bench);
    every_tag_completes_once_under_full_load(&mut bench);
    what_fails_fails_alone(&mut bench);
    flush_durable_write_and_deallocate_succeed(&mut bench);
    sleeping_on_the_descriptor_is_enough(&mut bench);
    if bench.remembers == Remembers::Everything {
        a_deallocation_leaves_its_neighbours(&mut bench);
        a_read_fills_its_span_and_no_more(&mut bench);
        the_zero_arena_can_be_written_from(&mut bench);
        for seed in 1..=3 {
            random_transfers_agree_with_the_model(&mut bench, seed);
        }
    }
    a_ring_may_be_dropped_with_operations_in_flight(bench);
}

impl<R: Ring> Bench<R> {
    fn take(&mut self, bytes: u32) -> Span {
        self.pool.take(bytes).expect("the suite takes less than the pool has")
    }

    /// Carries out an operation and waits for it.
    fn run(&mut self, op: MemberOp) -> Result<(), i32> {
        blocking::run(&mut self.ring, &[op])[0]
    }

    /// Turns until `count` operations have completed; no tag may complete twice.
    fn collect(&mut self, count: usize) -> HashMap<u32, Result<(), i32>> {
        let mut results = HashMap::new();
        let mut completions = Vec::with_capacity(IO_IN_FLIGHT_MAX);
        while results.len() < count {
            self.ring.turn(&mut completions);
            if completions.is_empty() {
                blocking::wait(&self.ring);
            }
            for Completion { tag, result } in completions.drain(..) {
                assert!(results.insert(tag, result).is_none(), "tag {tag} completed twice");
            }
        }
        self.ring.turn(&mut completions);
        assert!(completions.is_empty(), "more completions than operations");
        results
    }

    fn fill(&self, span: Span, byte: u8) {
        self.memory.with_mut(span, |bytes| bytes.fill(byte));
    }

    fn holds(&self, span: Span, byte: u8) -> bool {
        self.memory.with(span, |bytes| bytes.iter().all(|is| *is == byte))
    }
}

fn transfer(tag: u32, device: u8, io: MemberIo, offset_bytes: u64, span: Span) -> MemberOp {
    let device = DeviceIndex(device);
    MemberOp { tag, device, io, offset_bytes, len_bytes: span.len_bytes.into(), span }
}

fn write(tag: u32, device: u8, offset_bytes: u64, span: Span) -> MemberOp {
    transfer(tag, device, MemberIo::Write(Durability::Cached), offset_bytes, span)
}

fn read(tag: u32, device: u8, offset_bytes: u64, span: Span) -> MemberOp {
    transfer(tag, device, MemberIo::Read, offset_bytes, span)
}

fn flush(tag: u32, device: u8) -> MemberOp {
    transfer(tag, device, MemberIo::Flush, 0, Span::EMPTY)
}

fn deallocate(tag: u32, device: u8, offset_bytes: u64, len_bytes: u64) -> MemberOp {
    MemberOp { len_bytes, ..transfer(tag, device, MemberIo::Deallocate, offset_bytes, Span::EMPTY) }
}

fn nothing_completes_before_a_turn<R: Ring>(bench: &mut Bench<R>) {
    let span = bench.take(8192);
    let mut completions = Vec::new();
    bench.ring.turn(&mut completions);
    assert!(completions.is_empty(), "nothing was pushed");
    bench.ring.push(read(5, 0, 0, span));
    let results = bench.collect(1);
    assert_eq!(results[&5], Ok(()));
    bench.pool.give(span);
}

/// Pushes as many operations as the trait allows, on all devices, repeatedly, with a few turns between.
fn every_tag_completes_once_under_full_load<R: Ring>(bench: &mut Bench<R>) {
    let count = IO_IN_FLIGHT_MAX as u32 - 1;
    let spans: Vec<Span> = (0..count).map(|_| bench.take(4096)).collect();
    for round in 0..2 {
        for tag in 0..count {
            let offset = u64::from(tag) * 4096 % DEVICE_BYTES;
            bench.ring.push(read(tag, (tag % 3) as u8, offset, spans[tag as usize]));
        }
        let results = bench.collect(count as usize);
        assert!((0..count).all(|tag| results[&tag] == Ok(())), "round {round}");
    }
    spans.into_iter().for_each(|span| bench.pool.give(span));
}

fn what_fails_fails_alone<R: Ring>(bench: &mut Bench<R>) {
    let spans: Vec<Span> = (0..4).map(|_| bench.take(8192)).collect();
    bench.ring.push(read(0, 0, 0, spans[0]));
    bench.ring.push(read(1, DEVICES, 0, spans[1]));
    let end = bench.end_bytes;
    bench.ring.push(read(2, 1, end, spans[2]));
    bench.ring.push(read(3, 2, end - 8192, spans[3]));
    bench.ring.push(read(4, 1, end - 4096, spans[2]));
    bench.ring.push(flush(6, DEVICES + 1));
    let results = bench.collect(6);
    assert_eq!((results[&0], results[&3]), (Ok(()), Ok(())));
    assert_eq!((results[&1], results[&6]), (Err(EBADF), Err(EBADF)));
    assert!(results[&2].is_err(), "beyond the end");
    assert!(results[&4].is_err(), "half beyond the end");
    assert_eq!(bench.run(read(0, 0, 0, spans[0])), Ok(()), "and the ring goes on");
    spans.into_iter().for_each(|span| bench.pool.give(span));
}

fn flush_durable_write_and_deallocate_succeed<R: Ring>(bench: &mut Bench<R>) {
    let span = bench.take(65536);
    bench.fill(span, 3);
    let durable = transfer(0, 1, MemberIo::Write(Durability::Durable), 65536, span);
    assert_eq!(bench.run(durable), Ok(()));
    assert_eq!(bench.run(flush(0, 1)), Ok(()));
    assert_eq!(bench.run(deallocate(0, 1, 65536, 65536)), Ok(()));
    bench.ring.push(durable);
    bench.ring.push(flush(1, 0));
    bench.ring.push(deallocate(2, 2, 0, DEVICE_BYTES));
    bench.ring.push(flush(3, 1));
    assert!(bench.collect(4).values().all(|result| result.is_ok()));
    bench.pool.give(span);
}

/// A reactor that sleeps after every turn without completions is always woken. The failure is a hang: when
/// the ring's own descriptor was polled, a read of a file never woke it (kernel 6.18, DEFER_TASKRUN).
fn sleeping_on_the_descriptor_is_enough<R: Ring>(bench: &mut Bench<R>) {
    let span = bench.take(MIB);
    for offset in 0..16 {
        bench.ring.push(write(9, 0, u64::from(MIB) * offset, span));
        bench.ring.push(flush(10, 0));
        let results = bench.collect(2);
        assert_eq!((results[&9], results[&10]), (Ok(()), Ok(())));
    }
    bench.pool.give(span);
}

fn a_deallocation_leaves_its_neighbours<R: Ring>(bench: &mut Bench<R>) {
    let span = bench.take(65536);
    bench.fill(span, 0xa5);
    assert_eq!(bench.run(write(0, 2, 0, span)), Ok(()));
    assert_eq!(bench.run(deallocate(0, 2, 16384, 32768)), Ok(()));
    bench.fill(span, 0);
    assert_eq!(bench.run(read(0, 2, 0, span)), Ok(()));
    assert!(bench.holds(span.part(0, 16384), 0xa5) && bench.holds(span.part(49152, 16384), 0xa5));
    bench.pool.give(span);
}

fn a_read_fills_its_span_and_no_more<R: Ring>(bench: &mut Bench<R>) {
    let span = bench.take(MIB);
    bench.fill(span, 7);
    assert_eq!(bench.run(write(0, 0, 0, span)), Ok(()));
    for (offset, len) in [(4096, 4096), (4096, 65536), (8192, MIB - 16384)] {
        bench.fill(span, 9);
        assert_eq!(bench.run(read(0, 0, u64::from(offset), span.part(offset, len))), Ok(()));
        assert!(bench.holds(span.part(0, offset), 9), "before {offset}+{len}");
        assert!(bench.holds(span.part(offset, len), 7), "inside {offset}+{len}");
        assert!(bench.holds(span.part(offset + len, MIB - offset - len), 9), "behind {offset}+{len}");
    }
    bench.pool.give(span);
}

fn the_zero_arena_can_be_written_from<R: Ring>(bench: &mut Bench<R>) {
    let span = bench.take(MIB);
    bench.fill(span, 7);
    assert_eq!(bench.run(write(0, 0, 0, span)), Ok(()));
    assert_eq!(bench.run(write(0, 0, 0, bench.memory.zeros(MIB))), Ok(()));
    assert_eq!(bench.run(read(0, 0, 0, span)), Ok(()));
    assert!(bench.memory.is_zero(span));
    bench.pool.give(span);
}

/// Batches of random reads and writes that do not overlap within a batch, compared with a byte vector per
/// device.
fn random_transfers_agree_with_the_model<R: Ring>(bench: &mut Bench<R>, seed: u64) {
    let mut random = Random(seed);
    let whole = DEVICE_BYTES as usize;
    let mut model = vec![vec![0u8; whole]; DEVICES as usize];
    for device in 0..DEVICES {
        for offset in (0..DEVICE_BYTES).step_by(MIB as usize) {
            assert_eq!(bench.run(write(0, device, offset, bench.memory.zeros(MIB))), Ok(()));
        }
    }
    for batch in 0..16 {
        // Every device is cut at random places into pieces, which are the operations of the batch, so none
        // overlap.
        let mut ops = Vec::new();
        for device in 0..DEVICES {
            let mut at = random.below(64) * 4096;
            while at < DEVICE_BYTES && ops.len() < 60 * (device as usize + 1) / DEVICES as usize {
                let len_max = 1 << random.below(9);
                let len = ((1 + random.below(len_max)) * 4096).min(DEVICE_BYTES - at);
                let span = bench.take(len as u32);
                let tag = ops.len() as u32;
                if random.below(2) == 0 {
                    let byte = random.below(256) as u8;
                    bench.memory.with_mut(span, |bytes| {
                        bytes
                            .iter_mut()
                            .enumerate()
                            .for_each(|(i, b)| *b = byte.wrapping_add((i / 512) as u8));
                    });
                    let into = &mut model[device as usize][at as usize..(at + len) as usize];
                    bench.memory.read_from(span, into);
                    ops.push(write(tag, device, at, span));
                } else {
                    ops.push(read(tag, device, at, span));
                }
                at += len + random.below(256) * 4096;
            }
        }
        let results = blocking::run(&mut bench.ring, &ops);
        assert!(results.iter().all(Result::is_ok), "seed {seed} batch {batch}");
        for op in ops {
            let expected = &model[op.device.0 as usize][op.offset_bytes as usize..][..op.len_bytes as usize];
            let same = bench.memory.with(op.span, |bytes| bytes == expected);
            assert!(same, "seed {seed} batch {batch}: {op:?}");
            bench.pool.give(op.span);
        }
    }
}

fn a_ring_may_be_dropped_with_operations_in_flight<R: Ring>(mut bench: Bench<R>) {
    let spans: Vec<Span> = (0..32).map(|_| bench.take(MIB)).collect();
    for (tag, span) in (0..).zip(&spans) {
        bench.ring.push(write(tag, (tag % 3) as u8, 0, *span));
    }
    bench.ring.turn(&mut Vec::new());
    drop(bench.ring);
    drop(bench.memory);
}

/// Random numbers (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

// The rings.

fn instant(device: impl Fn() -> InstantDevice, remembers: Remembers) {
    let (memory, pool) = memory();
    let mut ring = InstantRing::new(Arc::clone(&memory));
    (0..DEVICES).for_each(|index| ring.set_device(DeviceIndex(index), Some(device())));
    conforms(Bench { ring, memory, pool, remembers, end_bytes: DEVICE_BYTES });
}

#[test]
fn ram_conforms() {
    instant(|| InstantDevice::Mem(MemStorage::new(DEVICE_BYTES).unwrap()), Remembers::Everything);
}

#[test]
fn null_conforms() {
    instant(|| InstantDevice::Null { size_bytes: DEVICE_BYTES }, Remembers::Nothing);
}

fn uring(paths: &[PathBuf], config: &UringConfig, adapt: impl Fn(&mut UringDevice)) {
    let (memory, pool) = memory();
    let mut ring = Uring::new(Arc::clone(&memory), config).unwrap();
    let mut end_bytes = DEVICE_BYTES;
    for (index, path) in (0..).zip(paths) {
        let device = Device::open(path, OpenMode::SERVE).unwrap();
        end_bytes = device.facts().size_bytes;
        let mut device = device.for_ring(1).unwrap();
        adapt(&mut device);
        ring.attach(DeviceIndex(index), device).unwrap();
    }
    conforms(Bench { ring, memory, pool, remembers: Remembers::Everything, end_bytes });
}

/// Files for one test, removed afterwards.
struct Files {
    directory: PathBuf,
    paths: Vec<PathBuf>,
}

impl Files {
    fn new(parent: &Path, name: &str) -> Files {
        let directory = parent.join(format!("striate-ring-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let paths: Vec<_> = (0..DEVICES).map(|index| directory.join(format!("member{index}"))).collect();
        paths.iter().for_each(|path| device::create_file(path, DEVICE_BYTES).unwrap());
        Files { directory, paths }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn uring_over_files_conforms() {
    let files = Files::new(&std::env::temp_dir(), "files");
    uring(&files.paths, &UringConfig::default(), |_| {});
}

#[test]
fn uring_that_cuts_and_queues_conforms() {
    let files = Files::new(&std::env::temp_dir(), "cut");
    uring(&files.paths, &UringConfig::default(), cut);
}

/// The ring has entries of the size that passthrough needs, but no operation needs them.
#[test]
fn a_wide_uring_over_files_conforms() {
    let files = Files::new(&std::env::temp_dir(), "wide");
    uring(&files.paths, &UringConfig { passthrough: true, ..UringConfig::default() }, |_| {});
}

/// A way to reach drives: its name, the ring's configuration, and a change to each device.
type DriveCase<'c> = (&'c str, &'c UringConfig, fn(&mut UringDevice));

/// Tests the three NVMe drives of one size that STRIATE_RING_DRIVES names, separated by blanks. Their content
/// is lost.
#[test]
fn uring_by_passthrough_conforms() {
    let Ok(names) = std::env::var("STRIATE_RING_DRIVES") else {
        eprintln!("SKIPPED: STRIATE_RING_DRIVES names no drives");
        return;
    };
    let paths: Vec<PathBuf> = names.split_whitespace().map(PathBuf::from).collect();
    assert_eq!(paths.len(), usize::from(DEVICES));
    let facts: Vec<_> = paths
        .iter()
        .map(|path| {
            let device = Device::open(path, OpenMode::SERVE).unwrap();
            assert!(device.wants_passthrough(), "{:?}", device.route());
            device.zero_range(0, DEVICE_BYTES, |_| {}).unwrap();
            device.flush().unwrap();
            device.facts().clone()
        })
        .collect();
    let blocks = UringConfig::default();
    let passthrough = UringConfig { passthrough: true, ..blocks.clone() };
    let polled = UringConfig { polled: true, ..passthrough.clone() };
    let cases: [DriveCase<'_>; 7] = [
        ("passthrough", &passthrough, |_| {}),
        ("passthrough, cut and queued", &passthrough, cut),
        // The kernel refuses this command, and the block device carries it out.
        ("passthrough, longer than the drive takes", &passthrough, |device| device.transfer_bytes_max = MIB),
        ("block devices", &blocks, |device| device.polled = false),
        ("passthrough, polled", &polled, |_| {}),
        ("passthrough, polled, cut and queued", &polled, cut),
        ("block devices, polled", &polled, |device| device.namespace = None),
    ];
    for (what, config, adapt) in cases {
        if config.polled && !facts.iter().all(|facts| facts.polled) {
            eprintln!("SKIPPED: {what}: the drives have no poll queues");
            continue;
        }
        eprintln!("drives by {what}");
        uring(&paths, config, adapt);
    }
}

/// Cuts operations into many pieces, of which two are in the kernel at a time.
fn cut(device: &mut UringDevice) {
    (device.depth_max, device.transfer_bytes_max) = (2, 4096 * 3);
}

#[test]
fn uring_over_tmpfs_conforms() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        eprintln!("SKIPPED: there is no /dev/shm");
        return;
    }
    let files = Files::new(shm, "tmpfs");
    uring(&files.paths, &UringConfig::default(), |_| {});
}

/// Loop devices over files, detached afterwards.
struct Loops(Vec<PathBuf>);

impl Loops {
    /// Makes the loop devices; `None` if the machine cannot.
    fn over(files: &Files) -> Option<Loops> {
        let mut loops = Loops(Vec::new());
        for path in &files.paths {
            let output = std::process::Command::new("losetup").args(["--find", "--show"]).arg(path).output();
            let output = output.ok().filter(|output| output.status.success())?;
            loops.0.push(String::from_utf8(output.stdout).unwrap().trim().into());
        }
        Some(loops)
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for path in &self.0 {
            let _best_effort = std::process::Command::new("losetup").arg("--detach").arg(path).status();
        }
    }
}

#[test]
fn uring_over_loop_devices_conforms() {
    let files = Files::new(&std::env::temp_dir(), "loop");
    let Some(loops) = Loops::over(&files) else {
        eprintln!("SKIPPED: no loop devices could be made (root and losetup are needed)");
        return;
    };
    uring(&loops.0, &UringConfig::default(), |_| {});
}

#[test]
fn a_member_is_replaced_while_others_work() {
    let files = Files::new(&std::env::temp_dir(), "replace");
    let (memory, mut pool) = memory();
    let mut ring = Uring::new(Arc::clone(&memory), &UringConfig::default()).unwrap();
    let open = |at: usize| Device::open(&files.paths[at], OpenMode::SERVE).unwrap().for_ring(1).unwrap();
    ring.attach(DeviceIndex(0), open(0)).unwrap();
    ring.attach(DeviceIndex(1), open(1)).unwrap();
    let span = pool.take(4096).unwrap();
    memory.with_mut(span, |bytes| bytes.fill(1));
    assert_eq!(blocking::run(&mut ring, &[write(0, 1, 0, span)]), [Ok(())]);
    ring.push(read(7, 0, 0, pool.take(4096).unwrap()));
    ring.detach(DeviceIndex(1)).unwrap();
    ring.attach(DeviceIndex(2), open(2)).unwrap();
    let mut completions = Vec::new();
    while completions.is_empty() {
        ring.turn(&mut completions);
    }
    assert_eq!(completions, [Completion { tag: 7, result: Ok(()) }]);
    let ops = [read(0, 1, 0, span), read(1, 2, 0, span)];
    assert_eq!(blocking::run(&mut ring, &ops), [Err(EBADF), Ok(())]);
    assert!(memory.is_zero(span), "the new device, not the old one");
    Device::open(&files.paths[1], OpenMode::SERVE).expect("detaching released the lock");
}
