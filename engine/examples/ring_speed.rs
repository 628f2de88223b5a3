//! Measures the speed of a ring alone: random transfers at a fixed depth, one core, no engine above.
//!
//! `ring_speed TARGET [read|write] [BLOCK_BYTES] [DEPTH] [SECONDS] [spin|sleep]`, TARGET being `null`,
//! `mem:MIB` or a path.
//!
//! Compare with: `fio --ioengine=io_uring --fixedbufs --registerfiles --direct=1 --rw=randread --bs=4k
//! --iodepth=64 --iodepth_batch_submit=16 --iodepth_batch_complete_min=1 --iodepth_batch_complete_max=64`.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test stands for the world outside of the engine: it waits, and tells the time"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::device::{Device, OpenMode};
use engine::limits::IO_IN_FLIGHT_MAX;
use engine::memory::{Memory, Pool, Span};
use engine::ring::{
    DeviceIndex, Durability, InstantDevice, InstantRing, MemStorage, MemberIo, MemberOp, Ring, Uring,
    UringConfig, blocking,
};
use engine::topology;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).map_or(default, |text| text.parse().unwrap());
    let target = arguments.first().expect("a target: null, mem:MIB or a path").as_str();
    let io = match arguments.get(1).map(String::as_str) {
        Some("write") => MemberIo::Write(Durability::Cached),
        _ => MemberIo::Read,
    };
    let load = Load {
        io,
        block_bytes: number(2, 4096) as u32,
        depth: number(3, 64) as u32,
        seconds: number(4, 3),
        sleeps: arguments.get(5).is_some_and(|idle| idle == "sleep"),
    };
    let machine = topology::topology();
    let cores = topology::choose_cores(&machine, 1, &[]);
    assert!(topology::pin(cores[0]));
    let memory = Memory::new(&[256 << 20]).unwrap();
    memory.populate(0);
    if target == "null" || target.starts_with("mem:") {
        let device = match target.strip_prefix("mem:") {
            Some(mib) => InstantDevice::Mem(MemStorage::new(mib.parse::<u64>().unwrap() << 20).unwrap()),
            None => InstantDevice::Null { size_bytes: 1 << 40 },
        };
        let size_bytes = device.size_bytes();
        let mut ring = InstantRing::new(Arc::clone(&memory));
        let is_ram = matches!(device, InstantDevice::Mem(_));
        ring.set_device(DeviceIndex(0), Some(device));
        if is_ram {
            touch(&mut ring, &memory, size_bytes);
        }
        load.run(ring, &memory, size_bytes);
    } else {
        let device = Device::open(target, OpenMode::SERVE).unwrap();
        println!("{:?}", device.facts());
        let config = UringConfig {
            worker_cpus: topology::other_cores(&machine, &cores),
            polled: device.facts().polled,
            passthrough: device.wants_passthrough(),
            host_buffers: 0,
        };
        let mut ring = Uring::new(Arc::clone(&memory), &config).unwrap();
        println!("fixed buffers: {}", ring.buffers_are_fixed());
        ring.attach(DeviceIndex(0), device.for_ring(1).unwrap()).unwrap();
        load.run(ring, &memory, device.facts().size_bytes);
    }
}

/// Writes all of a RAM member once: memory that was never written is a single page of zeros, and so too fast.
fn touch(ring: &mut InstantRing, memory: &Memory, size_bytes: u64) {
    let span = memory.zeros(1 << 20);
    let write = MemberOp {
        tag: 0,
        device: DeviceIndex(0),
        io: MemberIo::Write(Durability::Cached),
        offset_bytes: 0,
        len_bytes: 1 << 20,
        span,
    };
    for offset_bytes in (0..size_bytes).step_by(1 << 20) {
        assert_eq!(blocking::run(ring, &[MemberOp { offset_bytes, ..write }]), [Ok(())]);
    }
}

struct Load {
    io: MemberIo,
    block_bytes: u32,
    depth: u32,
    seconds: u64,
    /// Whether to sleep when there is nothing to do.
    sleeps: bool,
}

impl Load {
    fn run<R: Ring>(&self, mut ring: R, memory: &Arc<Memory>, size_bytes: u64) {
        let mut pool = Pool::new(memory, 0);
        let spans: Vec<Span> = (0..self.depth).map(|_| pool.take(self.block_bytes).unwrap()).collect();
        let blocks = size_bytes / u64::from(self.block_bytes);
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut push = |ring: &mut R, tag: u32| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let block = ((u128::from(random) * u128::from(blocks)) >> 64) as u64;
            let offset_bytes = block * u64::from(self.block_bytes);
            let (io, span, device) = (self.io, spans[tag as usize], DeviceIndex(0));
            ring.push(MemberOp { tag, device, io, offset_bytes, len_bytes: self.block_bytes.into(), span });
        };
        (0..self.depth).for_each(|tag| push(&mut ring, tag));
        let mut completions = Vec::with_capacity(IO_IN_FLIGHT_MAX);
        let (mut operations, mut turns) = (0u64, 0u64);
        let (begin, busy_before) = (Instant::now(), busy_seconds());
        while turns % 1024 != 0 || begin.elapsed() < Duration::from_secs(self.seconds) {
            ring.turn(&mut completions);
            turns += 1;
            operations += completions.len() as u64;
            if self.sleeps && completions.is_empty() {
                blocking::wait(&ring);
            }
            for completion in completions.drain(..) {
                completion.result.unwrap();
                push(&mut ring, completion.tag);
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        let rate = operations as f64 / seconds;
        let busy_rate = operations as f64 / (busy_seconds() - busy_before);
        let bytes = rate * f64::from(self.block_bytes) / f64::from(1 << 20);
        let per_turn = operations as f64 / turns as f64;
        println!(
            "{rate:.0} ops/s, {bytes:.0} MiB/s, {per_turn:.1} a turn, {busy_rate:.0} ops per second on a CPU"
        );
    }
}

/// Time that this thread was on a CPU, which is a fairer measure on a busy machine.
fn busy_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}
