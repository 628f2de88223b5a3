//! A turn does not allocate: the memory of a running array is taken when the array is made.
//!
//! Method: arrays over null members are driven as the reactor drives them, with every kind of request in
//! every size, whole and degraded, over stripes in every state, while a counting allocator watches. The array
//! is made before the count begins, and so are the first requests of each kind. Excluded are events that may
//! allocate: a member's failure, a change of the record and the begin of a rebuild.

use bitmap::Cell;
use engine::array::Array;
use engine::geometry::{Geometry, Slots};
use engine::memory::{Memory, Pool, Span};
use engine::request::{Request, RequestKind};
use engine::ring::{DeviceIndex, InstantDevice, InstantRing};

#[path = "support/shared.rs"]
mod shared;
use shared::Plain;

const MIB: usize = 1 << 20;
const CHUNK_BYTES: u32 = 16 << 10;
const STRIPES: u64 = 1 << 15;
const DATA_OFFSET_BYTES: u64 = 1 << 30;
/// Number of requests in flight.
const DEPTH: usize = 32;
/// Time of a turn: a second passes in 500 turns, so that the sweep works too.
const TURN_NS: u64 = 2_000_000;

struct Driven {
    array: Array,
    ring: InstantRing,
    size_bytes: u64,
    /// Memory of each request in flight, by its tag.
    spans: Vec<Span>,
    idle: Vec<usize>,
    dice: u64,
    now_ns: u64,
    answered: u64,
}

impl Driven {
    fn new(members: u8, parities: u8, lost: Slots, cell: Cell) -> Driven {
        let geometry = Geometry::new(members, parities, CHUNK_BYTES, STRIPES);
        let memory = Memory::new(&[32 * MIB, 2 * DEPTH * MIB]).expect("memory for a test");
        let mut ring = InstantRing::new(memory.clone());
        let size_bytes = DATA_OFFSET_BYTES + STRIPES * u64::from(CHUNK_BYTES);
        for slot in 0..members {
            ring.set_device(DeviceIndex(slot), Some(InstantDevice::Null { size_bytes }));
        }
        let shared = Plain {
            geometry,
            stripes: STRIPES,
            cell,
            present: geometry.slots().minus(lost),
            volatile: geometry.slots(),
            data_offset_bytes: DATA_OFFSET_BYTES,
        }
        .shared(&memory);
        let mut pool = Pool::new(&memory, 1);
        Driven {
            array: Array::new(0, shared, Pool::new(&memory, 0)),
            ring,
            size_bytes: geometry.size_bytes(),
            spans: (0..DEPTH).map(|_| pool.take(MIB as u32).expect("a fresh pool has room")).collect(),
            idle: (0..DEPTH).collect(),
            dice: 0x9e37_79b9_7f4a_7c15,
            now_ns: 0,
            answered: 0,
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % end
    }

    fn request(&mut self, tag: usize) -> Request {
        let fua = self.below(8) == 0;
        let kind = match self.below(16) {
            0..6 => RequestKind::Read,
            6..13 => RequestKind::Write { fua },
            13 => RequestKind::Flush,
            14 => RequestKind::Discard,
            _ => RequestKind::WriteZeroes { fua },
        };
        let blocks_max = [1, 8, 32, 256, 2048][self.below(5) as usize];
        let len_bytes = 512 * (1 + self.below(blocks_max));
        let offset_bytes = self.below((self.size_bytes - len_bytes) / 512) * 512;
        let has_data = matches!(kind, RequestKind::Read | RequestKind::Write { .. });
        let is_flush = kind == RequestKind::Flush;
        Request {
            tag: tag as u64,
            kind,
            offset_bytes: if is_flush { 0 } else { offset_bytes },
            len_bytes: if is_flush { 0 } else { len_bytes },
            span: if has_data { self.spans[tag].part(0, len_bytes as u32) } else { Span::EMPTY },
        }
    }

    fn turn(&mut self) {
        self.now_ns += TURN_NS;
        while let Some(tag) = self.idle.pop() {
            let request = self.request(tag);
            self.array.anticipate(&request);
            self.array.submit(&mut self.ring, self.now_ns, request);
        }
        self.array.turn(&mut self.ring, self.now_ns, 0);
        for reply in self.array.take_replies() {
            assert_eq!(reply.result, Ok(()));
            self.idle.push(reply.tag as usize);
            self.answered += 1;
        }
    }
}

#[test]
fn a_turn_does_not_allocate() {
    let seen = allocation_counter::measure(|| drop(std::hint::black_box(vec![0u8; 9])));
    assert_eq!(seen.count_total, 1, "the counter counts");
    for (members, parities, lost, cell) in [
        (5, 1, Slots::NONE, Cell::Clean),
        (5, 1, Slots::NONE, Cell::Unwritten),
        (5, 1, Slots::NONE, Cell::NeedSync),
        (5, 1, Slots::one(3), Cell::Dirty),
        (6, 2, Slots::NONE, Cell::Dirty),
        (6, 2, Slots::one(0).or(Slots::one(4)), Cell::Unwritten),
    ] {
        let mut driven = Driven::new(members, parities, lost, cell);
        (0..200).for_each(|_| driven.turn());
        let before = driven.answered;
        let counted = allocation_counter::measure(|| (0..5000).for_each(|_| driven.turn()));
        let case = format!("{members} members, {parities} parities, without {lost:?}, {cell:?}");
        assert!(driven.answered - before > 10_000, "{case}: {} answers", driven.answered - before);
        assert_eq!(counted.count_total, 0, "{case}: {counted:?}");
    }
}
