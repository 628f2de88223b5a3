//! A scope to explore: an array of two stripes, a few requests, and the events that may happen.

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

/// Number of stripes in every scope.
pub const STRIPES: u64 = 2;

/// A request of the host. Requests are submitted in order, each at any moment.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Kind of request.
    pub kind: RequestKind,
    /// First logical block (4 KiB).
    pub first: u64,
    /// Number of blocks.
    pub count: u64,
}

/// A metadata write that the ring carries out otherwise than asked. The checker must detect this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Durable writes of the bitmap stay in the cache.
    BitmapCached,
    /// Durable writes of superblocks stay in the cache.
    SuperblocksCached,
}

/// How finely turns are interleaved with completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turns {
    /// A reactor turns until it is at rest before the next completion arrives.
    Eager,
    /// Each event is a single turn; further turns are events of their own, before or after any other event.
    Single,
    /// Like `Single`, and several completions may arrive in one turn.
    Batched,
}

/// An array, its requests, and the events that may happen.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Name of the scope.
    pub name: String,
    /// Level, members and chunk size.
    pub shape: Shape,
    /// Whether every member has a volatile cache.
    pub volatile: bool,
    /// State of every cell at the beginning. With `NeedSync`, the data is whatever the members held.
    pub initial: Cell,
    /// Number of reactors; request `i` goes to reactor `i` modulo this number.
    pub reactors: usize,
    /// Requests of the host.
    pub asks: Vec<Ask>,
    /// Number of times that the clock may advance by a second, which lets a sweep pass.
    pub ticks: u8,
    /// Whether one member may die, at any moment.
    pub death: bool,
    /// Whether the power may go, at any moment.
    pub cuts: bool,
    /// Granularity of the interleaving of turns.
    pub turns: Turns,
    /// A lie of the ring, for the checker's own test.
    pub lie: Option<Lie>,
    /// Whether the monitors check the members. Without them, a violation shows only in what is read after a
    /// cut.
    pub monitors: bool,
    /// Whether exploring this scope takes only seconds.
    pub quick: bool,
}

/// A write of some blocks.
#[must_use]
pub const fn write(first: u64, count: u64) -> Ask {
    Ask { kind: RequestKind::Write { fua: false }, first, count }
}

/// A durable write (FUA) of some blocks.
#[must_use]
pub const fn write_fua(first: u64, count: u64) -> Ask {
    Ask { kind: RequestKind::Write { fua: true }, first, count }
}

/// A read of some blocks.
#[must_use]
pub const fn read(first: u64, count: u64) -> Ask {
    Ask { kind: RequestKind::Read, first, count }
}

/// A discard of some blocks.
#[must_use]
pub const fn discard(first: u64, count: u64) -> Ask {
    Ask { kind: RequestKind::Discard, first, count }
}

/// A flush of the array.
#[must_use]
pub const fn flush() -> Ask {
    Ask { kind: RequestKind::Flush, first: 0, count: 0 }
}

impl Scope {
    /// A scope with `members` slots with volatile caches, one reactor, and cuts; without death and sweep.
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
    /// The scope that the array belongs to.
    pub scope: Scope,
    /// Geometry of the array.
    pub geometry: Geometry,
    /// Facts that the monitors need.
    pub watched: Watched,
    /// The members, as created.
    pub disks: Vec<Disk>,
    /// State of the random numbers after the creation; runs continue from here.
    pub rng: Rng,
}

impl Template {
    /// Creates the array with the product's code.
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

/// Zones of the smallest device with exactly two stripes.
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
