//! Upper limits of a bench, measured in the same run: the generator alone, the raw members, the parity
//! kernels.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::generator::{Generator, Load};
use crate::clock::{Clock, MonotonicClock};
use crate::frontend::Frontend;
use crate::geometry::Geometry;
use crate::memory::{Memory, Pool, Span};
use crate::request::Reply;
use crate::ring::{DeviceIndex, Durability, MemberIo, MemberOp, Ring};

/// Duration of the measurement of each limit.
const MEASURE_NS: u64 = 300_000_000;

/// Requests per second of the generator alone, on one core.
pub(super) fn generator(memory: &Arc<Memory>, pool: &mut Pool, load: &Load) -> f64 {
    let load = Load { verify: false, ..load.clone() };
    let mut generator = Generator::new(load, Arc::new(AtomicBool::new(true)));
    let mut requests = Vec::with_capacity(256);
    let begun = MonotonicClock.now_ns();
    let mut done = 0u64;
    while MonotonicClock.now_ns() - begun < MEASURE_NS {
        for _ in 0..16 {
            generator.gather(memory, pool, 256, &mut requests);
            for request in requests.drain(..) {
                generator.reply(memory, pool, Reply { tag: request.tag, result: Ok(()), span: request.span });
                done += 1;
            }
            generator.settle(memory, pool);
        }
    }
    let rate = per_second(done, begun);
    generator.give_back(pool);
    rate
}

/// Member I/Os per second of the raw members on one core; `reads` of every 100 are reads.
pub(super) fn members<R: Ring>(
    ring: &mut R,
    pool: &mut Pool,
    devices: u8,
    extent: std::ops::Range<u64>,
    block_bytes: u32,
    depth: usize,
    reads: u64,
) -> Option<f64> {
    let spans: Vec<Span> = (0..depth).map_while(|_| pool.take(block_bytes)).collect();
    let blocks = (extent.end - extent.start) / u64::from(block_bytes);
    let (mut completions, mut random) = (Vec::with_capacity(depth), 0x9e37_79b9_7f4a_7c15u64);
    let mut push = |ring: &mut R, tag: u32| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let block = ((u128::from(random) * u128::from(blocks)) >> 64) as u64;
        let io = if random % 100 < reads { MemberIo::Read } else { MemberIo::Write(Durability::Cached) };
        ring.push(MemberOp {
            tag,
            device: DeviceIndex((random >> 8) as u8 % devices),
            io,
            offset_bytes: extent.start + block * u64::from(block_bytes),
            len_bytes: block_bytes.into(),
            span: spans[tag as usize],
        });
    };
    let begun = MonotonicClock.now_ns();
    (0..spans.len() as u32).for_each(|tag| push(ring, tag));
    let (mut done, mut in_flight, mut over, mut failed) = (0u64, spans.len(), false, false);
    while in_flight > 0 {
        completions.clear();
        ring.turn(&mut completions);
        over |= MonotonicClock.now_ns() - begun > MEASURE_NS;
        for completion in &completions {
            failed |= completion.result.is_err();
            done += 1;
            if over {
                in_flight -= 1;
            } else {
                push(ring, completion.tag);
            }
        }
    }
    let rate = per_second(done, begun);
    spans.into_iter().for_each(|span| pool.give(span));
    (!failed).then_some(rate)
}

/// Data bytes per second of parity generation from strips of `strip_bytes`, over `stripes` different stripes
/// in turn: a single stripe stays in cache, many do not.
pub(super) fn parity(
    memory: &Memory,
    pool: &mut Pool,
    geometry: &Geometry,
    strip_bytes: u32,
    stripes: usize,
) -> Option<f64> {
    let data = usize::from(geometry.data());
    let strips = data + usize::from(geometry.parities());
    let spans: Vec<Span> = (0..strips * stripes).map_while(|_| pool.take(strip_bytes)).collect();
    let rate = (spans.len() >= strips).then(|| {
        let begun = MonotonicClock.now_ns();
        let mut done = 0u64;
        while MonotonicClock.now_ns() - begun < MEASURE_NS / 2 {
            for stripe in spans.chunks_exact(strips) {
                if geometry.parities() == 1 {
                    memory.xor_generate(stripe[data], &stripe[..data]);
                } else {
                    let mut numbered = [(0, Span::EMPTY); crate::limits::MEMBERS_MAX];
                    for (place, span) in
                        numbered.iter_mut().zip(stripe).enumerate().map(|(i, (n, s))| ((n, i), s))
                    {
                        *place.0 = (place.1 as u8, *span);
                    }
                    memory.pq_generate(stripe[data], stripe[data + 1], &numbered[..data]);
                }
                done += u64::from(strip_bytes) * data as u64;
            }
        }
        per_second(done, begun)
    });
    spans.into_iter().for_each(|span| pool.give(span));
    rate
}

fn per_second(done: u64, begun_ns: u64) -> f64 {
    done as f64 * 1e9 / (MonotonicClock.now_ns() - begun_ns) as f64
}
