//! What is enumerated: an array of two stripes, a few requests, and what may happen to it.

use bitmap::Cell;
use engine::assembly::NewArray;
use engine::format::host::Host;
use engine::format::label::Label;
use engine::format::zones::{Zones, zones};
use engine::format::{Level, Shape};
use engine::geometry::Geometry;
use engine::request::RequestKind;
use engine::start::{Bench, SCRATCH_BYTES, write_new};
use std::sync::Arc;
use uuid::Uuid;

use super::machine::{BLOCK_BYTES, Memories, SCRATCH_ARENA};
use crate::bus::Bus;
use crate::disk::Disk;
use crate::latency::Latency;
use crate::monitors::Watched;
use crate::ring::SimRing;
use crate::rng::Rng;

/// Stripes of every scope.
pub const STRIPES: u64 = 2;

/// A request of the host. Requests are submitted in their order, each at any moment.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// What.
    pub kind: RequestKind,
    /// First logical block (4 KiB).
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// A metadata write that is not what it says: the checker must find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Writes of the bitmap that are to be durable rest in the cache.
    BitmapCached,
    /// Superblocks that are to be durable rest in the cache.
    SuperblocksCached,
}

/// How finely turns are interleaved with completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turns {
    /// A reactor turns until it is at rest before the next completion arrives.
    Eager,
    /// One turn an event; further turns are events of their own, before or after any other.
    Single,
    /// As `Single`, and several completions may arrive in one turn.
    Batched,
}

/// What is enumerated.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its name.
    pub name: String,
    /// Level, members, chunk.
    pub shape: Shape,
    /// Every member has a volatile cache.
    pub volatile: bool,
    /// How cells begin. NeedSync: with whatever the members held.
    pub initial: Cell,
    /// Reactors; request `i` goes to reactor `i` modulo their number.
    pub reactors: usize,
    /// What is asked.
    pub asks: Vec<Ask>,
    /// How often the clock may be set forward by a second, which lets the sweep pass.
    pub ticks: u8,
    /// Whether one member may die, at any moment.
    pub death: bool,
    /// Whether the power may go, at any moment.
    pub cuts: bool,
    /// See there.
    pub turns: Turns,
    /// For the checker's own test.
    pub lie: Option<Lie>,
    /// Without the monitors in the members, violations are found by what is read after a cut.
    pub monitors: bool,
    /// It takes seconds.
    pub quick: bool,
}

/// A write of some blocks.
#[must_use]
pub const fn write(first: u64, count: u64) -> Ask {
    Ask { kind: RequestKind::Write { fua: false }, first, count }
}

/// A write that is to be durable.
#[must_use]
pub const fn write_fua(first: u64, count: u64) -> Ask {
    Ask { kind: RequestKind::Write { fua: true }, first, count }
}

/// A read.
#[must_use]
pub const fn read(first: u64, count: u64) -> Ask {
    Ask { kind: RequestKind::Read, first, count }
}

/// A discard.
#[must_use]
pub const fn discard(first: u64, count: u64) -> Ask {
    Ask { kind: RequestKind::Discard, first, count }
}

/// A flush.
#[must_use]
pub const fn flush() -> Ask {
    Ask { kind: RequestKind::Flush, first: 0, count: 0 }
}

impl Scope {
    /// An array of `members` slots with volatile caches, one reactor, cuts, no death and no sweep.
    #[must_use]
    pub fn new(name: impl Into<String>, level: Level, members: usize, initial: Cell, asks: &[Ask]) -> Scope {
        Scope {
            name: name.into(),
            shape: Shape { level, members, chunk_bytes: BLOCK_BYTES },
            volatile: true,
            initial,
            reactors: 1,
            asks: asks.to_vec(),
            ticks: 0,
            death: false,
            cuts: true,
            turns: Turns::Eager,
            lie: None,
            monitors: true,
            quick: true,
        }
    }
}

/// The array of a scope, created and not started.
pub struct Template {
    /// The scope.
    pub scope: Scope,
    /// Arithmetic.
    pub geometry: Geometry,
    /// For the monitors.
    pub watched: Watched,
    /// The members.
    pub disks: Vec<Disk>,
    /// Moments and chance go on from here.
    pub rng: Rng,
}

impl Template {
    /// Creates the array, with the product's code.
    #[must_use]
    pub fn new(scope: &Scope, memories: &Memories) -> Template {
        let shape = scope.shape;
        let mut rng = Rng::new(1);
        let zones = two_stripes(&shape);
        let geometry =
            Geometry::new(shape.members as u8, shape.level.parities() as u8, shape.chunk_bytes, STRIPES);
        let memory = &memories.main;
        let mut bus = Bus::new(Rng::new(2), Arc::clone(memory), Latency::even(1000), false);
        for slot in 0..shape.members {
            let mut disk = Disk::new(3 + slot as u64, zones, scope.volatile);
            disk.blank = scope.initial == Cell::Clean;
            disk.wipe_superblocks();
            bus.disks.push(disk);
        }
        bus.blocking = true;
        let bus = std::rc::Rc::new(std::cell::RefCell::new(bus));
        let mut ring = SimRing::new(&bus, 99, (0..shape.members).collect());
        let members: Vec<Uuid> =
            (0..shape.members).map(|_| Uuid::from_u64_pair(rng.next() | 1, rng.next())).collect();
        let array = Uuid::from_u64_pair(rng.next() | 1, rng.next());
        let new = NewArray {
            array,
            name: Label::new("scope").expect("a name"),
            host: Host::ANY,
            created_s: 1_700_000_000,
            shape,
            logical_block_bytes: BLOCK_BYTES,
            zones,
            members: &members,
            epoch_id: rng.next() | 1,
        };
        let scratch = memory.arena(SCRATCH_ARENA).part(0, SCRATCH_BYTES);
        let mut bench = Bench { ring: &mut ring, memory, scratch };
        write_new(&mut bench, &new, scope.initial, &mut |_, _| {}).expect("nothing is wrong yet");
        let disks = bus.borrow().disks.clone();
        Template {
            scope: scope.clone(),
            geometry,
            watched: Watched { array, shape, geometry, zones },
            disks,
            rng,
        }
    }
}

/// The zones of two stripes.
fn two_stripes(shape: &Shape) -> Zones {
    let chunk = u64::from(shape.chunk_bytes);
    let mut bytes = 1 << 20;
    loop {
        match zones(bytes, shape) {
            Ok(found) if found.stripes == STRIPES => return found,
            _ => bytes += chunk,
        }
    }
}
