//! The cost of a request in the engine: nanoseconds of one core for each, over null members, which answer at
//! once. The array is driven as the reactor drives it, a batch of requests per turn, without a front end.
//!
//! `cargo bench --bench stripe`; the time shown is that of a turn, the rate that of its requests.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bitmap::{Bitmap, Cell, StripeLocks};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::array::{Array, Beginning, Layout, Shared, StewardState};
use engine::geometry::{Geometry, Slots};
use engine::mailbox::Mailboxes;
use engine::members::{MemberView, Members};
use engine::memory::{Memory, Pool, Span};
use engine::request::{Request, RequestKind};
use engine::ring::{DeviceIndex, InstantDevice, InstantRing};
use engine::tally::Tally;

const MIB: usize = 1 << 20;
const CHUNK_BYTES: u32 = 64 << 10;
/// 64 bitmap blocks of cells: more than a first-level cache.
const STRIPES: u64 = 1 << 20;
/// Number of requests in a turn.
const BATCH: usize = 32;

/// An array and its ring, without reactor and front end.
struct Bench {
    array: Array,
    ring: InstantRing,
    size_bytes: u64,
    spans: Vec<Span>,
    random: u64,
}

impl Bench {
    fn new(members: u8, parities: u8, lost: Slots) -> Bench {
        let geometry = Geometry::new(members, parities, CHUNK_BYTES, STRIPES);
        let memory = Memory::new(&[64 * MIB, 2 * BATCH * MIB]).expect("memory for a bench");
        let present = geometry.slots().minus(lost);
        let view = MemberView { readable: present, writable: present };
        let devices: Vec<DeviceIndex> = (0..members).map(DeviceIndex).collect();
        let mut ring = InstantRing::new(memory.clone());
        let size_bytes = (1 << 30) + STRIPES * u64::from(CHUNK_BYTES);
        for device in &devices {
            ring.set_device(*device, Some(InstantDevice::Null { size_bytes }));
        }
        let layout = Layout {
            uuid: [0x5e; 16],
            bitmap_offset_bytes: 1 << 20,
            data_offset_bytes: 1 << 30,
            logical_block_bytes: 512,
        };
        let shared = Arc::new(Shared {
            geometry,
            layout,
            // Dirty, as under a random load before long: the cost of marks is measured by bitmap's own bench.
            bitmap: Bitmap::new(STRIPES, Cell::Dirty),
            lost: engine::lost::LostRows::none(geometry),
            locks: StripeLocks::new(),
            members: Members::new(view, 0, &devices, Slots::NONE),
            memory: memory.clone(),
            mailboxes: Mailboxes::new(vec![Box::new(|| {})]),
            deallocations: AtomicU32::new(0),
            tallies: vec![Tally::default()],
            steward: StewardState::new(Beginning { roster: None, seed: 1, rebuilding: None }),
            read_only: false,
        });
        let mut pool = Pool::new(&memory, 1);
        let spans = (0..BATCH).map(|_| pool.take(MIB as u32).expect("a fresh pool has room")).collect();
        Bench {
            array: Array::new(0, shared, Pool::new(&memory, 0)),
            ring,
            size_bytes: geometry.size_bytes(),
            spans,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// A random offset, aligned to the length of a request.
    fn offset(&mut self, len_bytes: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((u128::from(self.random) * u128::from(self.size_bytes / len_bytes)) >> 64) as u64 * len_bytes
    }

    /// Submits a batch of requests, and turns until all are answered. The clock stands still, so nothing is
    /// swept.
    fn turn(&mut self, kind: RequestKind, len_bytes: u32) {
        for nth in 0..BATCH {
            let offset_bytes = self.offset(len_bytes.into());
            let span = self.spans[nth].part(0, len_bytes);
            let request = Request { tag: nth as u64, kind, offset_bytes, len_bytes: len_bytes.into(), span };
            self.array.submit(&mut self.ring, 1, request);
        }
        let mut answered = 0;
        while answered < BATCH {
            self.array.turn(&mut self.ring, 1, 0);
            for reply in self.array.take_replies() {
                assert_eq!(reply.result, Ok(()));
                answered += 1;
            }
        }
    }
}

/// The kind of request and its length; `None` for a whole stripe.
const LOADS: [(&str, RequestKind, Option<u32>); 3] = [
    ("read 4K", RequestKind::Read, Some(4096)),
    ("write 4K, rmw", RequestKind::Write { fua: false }, Some(4096)),
    ("write full stripe", RequestKind::Write { fua: false }, None),
];

fn requests(c: &mut Criterion) {
    for (name, kind, len_bytes) in LOADS {
        let mut group = c.benchmark_group(name);
        for (shape, members, parities, lost) in
            [("4+1", 5, 1, Slots::NONE), ("8+2", 10, 2, Slots::NONE), ("4+1 degraded", 5, 1, Slots::one(2))]
        {
            let mut bench = Bench::new(members, parities, lost);
            let stripe_bytes = u32::from(members - parities) * CHUNK_BYTES;
            let len_bytes = len_bytes.unwrap_or(stripe_bytes);
            group.throughput(match kind {
                RequestKind::Write { .. } if len_bytes == stripe_bytes => {
                    Throughput::Bytes(BATCH as u64 * u64::from(len_bytes))
                }
                _ => Throughput::Elements(BATCH as u64),
            });
            let id = BenchmarkId::from_parameter(shape);
            group.bench_function(id, |b| b.iter(|| bench.turn(kind, len_bytes)));
        }
        group.finish();
    }
}

criterion_group!(benches, requests);
criterion_main!(benches);
