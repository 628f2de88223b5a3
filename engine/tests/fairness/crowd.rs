//! A crowd: clients that each keep one request in flight, reactors that are short of some resource, and
//! members that answer late.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bitmap::{Bitmap, BlockIndex, CELL_BYTES_PER_BLOCK, Cell, LoadMode, STRIPES_PER_BLOCK, StripeLocks};
use engine::array::{Array, Beginning, Layout, Shared, Sizes, StewardState};
use engine::geometry::{Geometry, Slots};
use engine::mailbox::Mailboxes;
use engine::members::{MemberView, Members};
use engine::memory::{Memory, Pool, Span};
use engine::request::{Request, RequestKind};
use engine::ring::{Completion, DeviceIndex, MemberIo, MemberOp, Ring};
use engine::tally::Tally;

const MIB: usize = 1 << 20;
/// Length of a turn on the engine's clock.
const TURN_NS: u64 = 100_000;

/// Random numbers (xorshift).
pub struct Dice(u64);

impl Dice {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// The number of turns that a member's operation takes.
#[derive(Clone, Copy)]
pub enum Late {
    /// A random number between these two.
    Between(u64, u64),
    /// The given number of operations per turn and member, in order of arrival.
    PerTurn(usize),
}

/// Members without content that answer late.
struct LateRing {
    late: Late,
    turn: u64,
    dice: Dice,
    due: BinaryHeap<Reverse<(u64, u32)>>,
    /// Operations in order, by device, for [`Late::PerTurn`].
    queues: Vec<VecDeque<u32>>,
    /// Data writes, by device.
    written: Vec<u64>,
}

impl Ring for LateRing {
    fn push(&mut self, op: MemberOp) {
        let device = usize::from(op.device.0);
        self.written[device] += u64::from(matches!(op.io, MemberIo::Write(_)));
        match self.late {
            Late::Between(least, most) => {
                let due = self.turn + least + self.dice.below(most - least + 1);
                self.due.push(Reverse((due, op.tag)));
            }
            Late::PerTurn(_) => self.queues[device].push_back(op.tag),
        }
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        self.turn += 1;
        let mut complete = |tag| completions.push(Completion { tag, result: Ok(()) });
        while self.due.peek().is_some_and(|due| due.0.0 <= self.turn) {
            complete(self.due.pop().expect("looked at").0.1);
        }
        if let Late::PerTurn(count) = self.late {
            for queue in &mut self.queues {
                let count = count.min(queue.len());
                queue.drain(..count).for_each(&mut complete);
            }
        }
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

/// The shape of an array, and what it is short of.
#[derive(Clone, Copy)]
pub struct Shape {
    pub members: u8,
    pub parities: u8,
    pub chunk_bytes: u32,
    pub stripes: u64,
    pub cell: Cell,
    pub reactors: usize,
    pub sizes: Sizes,
    /// Memory for a reactor's operations.
    pub op_memory_mib: usize,
    /// A slot that is being filled.
    pub filling: Option<u8>,
    /// Whether the last stripe is `NeedSync`.
    pub last_is_unsynced: bool,
    pub late: Late,
}

impl Shape {
    /// An array that is short of nothing.
    pub const AMPLE: Shape = Shape {
        members: 4,
        parities: 1,
        chunk_bytes: 64 << 10,
        stripes: 16_128,
        cell: Cell::Dirty,
        reactors: 1,
        sizes: Sizes::FULL,
        op_memory_mib: 32,
        filling: None,
        last_is_unsynced: false,
        late: Late::Between(5, 45),
    };
}

/// A client that submits its next request as soon as the last one is answered.
pub struct Client {
    pub reactor: usize,
    pub kind: RequestKind,
    pub len_bytes: u64,
    /// The bytes of the array in which its requests lie.
    pub range: Range<u64>,
    span: Span,
    asked: Option<u64>,
    pub answers: u64,
    /// The longest wait of a request, including the one in flight, in turns.
    pub longest: u64,
}

/// An array and its clients.
pub struct Crowd {
    pub shared: Arc<Shared>,
    reactors: Vec<(Array, LateRing)>,
    spans: Pool,
    pub clients: Vec<Client>,
    dice: Dice,
    pub turn: u64,
}

impl Crowd {
    pub fn new(shape: Shape) -> Crowd {
        let Shape { members, parities, chunk_bytes, stripes, cell, reactors, sizes, .. } = shape;
        let geometry = Geometry::new(members, parities, chunk_bytes, stripes);
        let mut arenas = vec![shape.op_memory_mib * MIB; reactors];
        arenas.push(512 * MIB);
        let memory = Memory::new(&arenas).expect("memory for a test");
        let devices: Vec<DeviceIndex> = (0..members).map(DeviceIndex).collect();
        let filling = shape.filling.map_or(Slots::NONE, Slots::one);
        let bitmap = Bitmap::new(stripes, cell);
        if shape.last_is_unsynced {
            let mut codes = [0x55 * cell.disk_code(); CELL_BYTES_PER_BLOCK];
            let last = (stripes - 1) % STRIPES_PER_BLOCK;
            codes[last as usize / 4] &= !(3 << (last % 4 * 2));
            codes[last as usize / 4] |= Cell::NeedSync.disk_code() << (last % 4 * 2);
            bitmap.load_block(BlockIndex(bitmap.blocks() - 1), &codes, LoadMode::Clean);
        }
        let view = MemberView { readable: geometry.slots().minus(filling), writable: geometry.slots() };
        let shared = Arc::new(Shared {
            geometry,
            layout: Layout {
                uuid: [1; 16],
                bitmap_offset_bytes: 1 << 20,
                data_offset_bytes: 1 << 40,
                logical_block_bytes: 512,
            },
            bitmap,
            lost: engine::lost::LostRows::none(geometry),
            locks: StripeLocks::new(),
            members: Members::new(view, 0, &devices, Slots::NONE),
            memory: memory.clone(),
            mailboxes: Mailboxes::new((0..reactors).map(|_| Box::new(|| {}) as _).collect()),
            tallies: (0..reactors).map(|_| Tally::default()).collect(),
            steward: StewardState::new(Beginning { roster: None, seed: 1, rebuilding: shape.filling }),
            read_only: false,
            deallocations: AtomicU32::new(0),
        });
        let reactor = |me: usize| {
            let pool = Pool::new(&memory, me as u16);
            let array = Array::with_sizes(me as u8, Arc::clone(&shared), pool, sizes);
            let ring = LateRing {
                late: shape.late,
                turn: 0,
                dice: Dice(77 + me as u64),
                due: BinaryHeap::new(),
                queues: vec![VecDeque::new(); usize::from(members)],
                written: vec![0; usize::from(members)],
            };
            (array, ring)
        };
        Crowd {
            reactors: (0..reactors).map(reactor).collect(),
            spans: Pool::new(&memory, reactors as u16),
            shared,
            clients: Vec::new(),
            dice: Dice(0x9e37_79b9_7f4a_7c15),
            turn: 0,
        }
    }

    /// Adds `count` clients of a reactor whose requests have this length, anywhere in a range of the array.
    pub fn join(
        &mut self,
        count: usize,
        reactor: usize,
        kind: RequestKind,
        len_bytes: u64,
        range: Range<u64>,
    ) {
        for _ in 0..count {
            let has_data = matches!(kind, RequestKind::Read | RequestKind::Write { .. });
            let span = if has_data {
                self.spans.take(len_bytes as u32).expect("memory for a client")
            } else {
                Span::EMPTY
            };
            let range = range.clone();
            let client =
                Client { reactor, kind, len_bytes, range, span, asked: None, answers: 0, longest: 0 };
            self.clients.push(client);
        }
    }

    /// The bytes of these stripes.
    pub fn bytes_of(&self, stripes: Range<u64>) -> Range<u64> {
        let stripe_bytes = u64::from(self.shared.geometry.stripe_bytes());
        stripes.start * stripe_bytes..stripes.end * stripe_bytes
    }

    /// All bytes of the array.
    pub fn anywhere(&self) -> Range<u64> {
        0..self.shared.geometry.size_bytes()
    }

    /// Performs `count` turns of every reactor.
    pub fn turns(&mut self, count: u64) {
        (0..count).for_each(|_| self.turn());
    }

    fn turn(&mut self) {
        self.turn += 1;
        for at in 0..self.clients.len() {
            self.ask(at);
        }
        for me in 0..self.reactors.len() {
            let (array, ring) = &mut self.reactors[me];
            array.turn(ring, self.turn * TURN_NS, 256);
            for reply in array.take_replies() {
                assert_eq!(reply.result, Ok(()));
                let client = &mut self.clients[reply.tag as usize];
                let asked = client.asked.take().expect("an answer to a request");
                client.longest = client.longest.max(self.turn - asked);
                client.answers += 1;
            }
        }
        for client in &mut self.clients {
            client.longest = client.longest.max(client.asked.map_or(0, |asked| self.turn - asked));
        }
    }

    fn ask(&mut self, at: usize) {
        let Client { reactor, kind, len_bytes, ref range, span, asked, .. } = self.clients[at];
        if asked.is_some() || self.reactors[reactor].0.room() == 0 {
            return;
        }
        let unit = len_bytes.min(4096);
        let places = (range.end - range.start - len_bytes) / unit + 1;
        let offset_bytes = range.start + self.dice.below(places) * unit;
        self.clients[at].asked = Some(self.turn);
        let (array, ring) = &mut self.reactors[reactor];
        array.submit(
            ring,
            self.turn * TURN_NS,
            Request { tag: at as u64, kind, offset_bytes, len_bytes, span },
        );
    }

    /// The longest wait of these clients, in turns.
    pub fn longest(&self, clients: Range<usize>) -> u64 {
        self.clients[clients].iter().map(|client| client.longest).max().expect("some clients")
    }

    /// Number of answers that these clients received.
    pub fn answers(&self, clients: Range<usize>) -> u64 {
        self.clients[clients].iter().map(|client| client.answers).sum()
    }

    /// Number of writes that reached a member, as a measure of background work.
    pub fn written(&self, slot: u8) -> u64 {
        self.reactors.iter().map(|(_, ring)| ring.written[usize::from(slot)]).sum()
    }
}
