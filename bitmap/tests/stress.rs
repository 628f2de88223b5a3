//! Reactors, block writes and the sweep, all at once on real threads. Covers what loom cannot reach: many
//! words, widening, many passes. Oracle: two monitors inside the simulated members. Data is written only
//! where the disk says Dirty or NeedSync (or, whole, where the stripe is Unwritten); and when Clean reaches
//! the disk, no write to that stripe is in a cache.

#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::SeqCst};
use stripe_bitmap::{
    Begun, Bitmap, BlockIndex, CELL_BYTES_PER_BLOCK, Cell, LoadMode, STRIPES_PER_BLOCK, StripeLocks,
};

const STRIPES: u64 = STRIPES_PER_BLOCK + 700;
const WRITES_PER_REACTOR: u64 = 60_000;
const REACTORS: u8 = 3;

struct World {
    bitmap: Bitmap,
    locks: StripeLocks,
    /// The code on disk, one byte per stripe.
    disk: Vec<AtomicU8>,
    /// Number of writes to a stripe that no flush has covered.
    cached: Vec<AtomicU32>,
    stopped: AtomicBool,
}

/// A random generator without a crate: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// 2014.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

impl World {
    fn new(initial: Cell) -> World {
        let world = World {
            bitmap: Bitmap::new(STRIPES, initial),
            locks: StripeLocks::new(),
            disk: (0..STRIPES).map(|_| AtomicU8::new(initial.disk_code())).collect(),
            cached: (0..STRIPES).map(|_| AtomicU32::new(0)).collect(),
            stopped: AtomicBool::new(false),
        };
        (0..world.bitmap.blocks()).for_each(|block| assert!(world.write_block(BlockIndex(block))));
        world
    }

    /// Writes a block, unless another thread is writing it. Occasionally the write fails.
    fn write_block(&self, block: BlockIndex) -> bool {
        let mut image = [0; CELL_BYTES_PER_BLOCK];
        let Some(write) = self.bitmap.try_begin_block_write(block, &mut image) else { return false };
        if write.generation % 17 == 16 {
            self.bitmap.abort_block_write(write);
            return false;
        }
        let start = u64::from(block.0) * STRIPES_PER_BLOCK;
        for stripe in start..(start + STRIPES_PER_BLOCK).min(STRIPES) {
            let nth = (stripe - start) as usize;
            let code = image[nth / 4] >> (nth % 4 * 2) & 3;
            if code == Cell::Clean.disk_code() {
                assert_eq!(
                    self.cached[stripe as usize].load(SeqCst),
                    0,
                    "stripe {stripe}: Clean before the flush"
                );
            }
            self.disk[stripe as usize].store(code, SeqCst);
        }
        self.bitmap.finish_block_write(write, &image);
        true
    }

    fn until(&self, stripe: u64, holds: impl Fn() -> bool) {
        let begun = std::time::Instant::now();
        while !holds() {
            assert!(
                begun.elapsed().as_secs() < 60,
                "stripe {stripe} waits for ever; did another thread fail?"
            );
            if !self.write_block(self.bitmap.block_of(stripe)) {
                std::thread::yield_now();
            }
        }
    }

    fn write_members(&self, stripe: u64) {
        let code = self.disk[stripe as usize].load(SeqCst);
        let pessimistic = [Cell::Dirty.disk_code(), Cell::NeedSync.disk_code()];
        assert!(pessimistic.contains(&code), "stripe {stripe}: data before its intent, the disk says {code}");
        self.cached[stripe as usize].fetch_add(1, SeqCst);
    }

    /// Serves one request, by the reactor that owns the stripe.
    fn serve(&self, stripe: u64, discards: bool) {
        if discards && self.bitmap.cell(stripe) != Cell::First {
            let ticket = self.bitmap.discard(stripe);
            self.until(stripe, || self.bitmap.is_durable(ticket));
            assert_eq!(
                self.disk[stripe as usize].load(SeqCst),
                Cell::Unwritten.disk_code(),
                "stripe {stripe}"
            );
            return;
        }
        match self.bitmap.begin_write(stripe) {
            Begun::Durable => self.write_members(stripe),
            Begun::Pending => {
                self.until(stripe, || self.bitmap.intent_is_durable(stripe));
                self.write_members(stripe);
            }
            Begun::NeedSync => {
                self.write_members(stripe);
                self.bitmap.resynced(stripe);
            }
            Begun::Unwritten => {
                self.bitmap.written_first(stripe);
                self.until(stripe, || self.bitmap.intent_is_durable(stripe));
            }
        }
    }

    fn react(&self, reactor: u8) {
        let mut random = SplitMix(u64::from(reactor));
        for nth in 0..WRITES_PER_REACTOR {
            // Half of the stripes are where other reactors write too, the rest anywhere.
            let stripe = match nth % 2 {
                0 => random.below(40),
                _ => random.below(STRIPES),
            };
            let slot = StripeLocks::slot_of(stripe);
            match self.locks.try_own(slot, reactor) {
                Ok(()) => {
                    self.serve(stripe, random.below(200) == 0);
                    self.locks.release(slot, reactor);
                }
                Err(owner) => assert!(owner < REACTORS && owner != reactor),
            }
        }
    }

    fn sweep_until_stopped(&self) -> u64 {
        let mut sweeper = self.bitmap.sweeper();
        let mut swept = 0;
        while !self.stopped.load(SeqCst) {
            for block in (0..self.bitmap.blocks()).map(BlockIndex) {
                let looked = self.bitmap.sweep_look(&mut sweeper, block, &self.locks);
                self.cached.iter().for_each(|cached| cached.store(0, SeqCst));
                swept += u64::from(self.bitmap.sweep_block(&mut sweeper, looked));
                self.bitmap.age_block(&mut sweeper, block);
                std::thread::yield_now();
                if self.bitmap.is_behind(block) {
                    self.write_block(block);
                }
            }
        }
        swept
    }
}

fn run(initial: Cell) {
    let world = World::new(initial);
    let swept = std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| world.sweep_until_stopped());
        let reactors: Vec<_> = (0..REACTORS)
            .map(|nth| {
                scope.spawn({
                    let world = &world;
                    move || world.react(nth)
                })
            })
            .collect();
        let outcomes: Vec<_> = reactors.into_iter().map(|reactor| reactor.join()).collect();
        world.stopped.store(true, SeqCst);
        outcomes.into_iter().for_each(|outcome| outcome.expect("a reactor met a broken rule"));
        sweeper.join().expect("the sweeper met a broken rule")
    });
    assert!(swept > 0, "a sweep that never swept was not tested");
    // A stop: every block that is behind is written, and loading it again yields the same cells.
    let reloaded = Bitmap::new(STRIPES, Cell::Unwritten);
    for block in (0..world.bitmap.blocks()).map(BlockIndex) {
        while world.bitmap.is_behind(block) {
            world.write_block(block);
        }
        let mut image = [0; CELL_BYTES_PER_BLOCK];
        let _ = world.bitmap.try_begin_block_write(block, &mut image);
        reloaded.load_block(block, &image, LoadMode::Clean);
    }
    assert_eq!(reloaded.count(), world.bitmap.count());
    for stripe in 0..STRIPES {
        let code = world.bitmap.cell(stripe).disk_code();
        assert_eq!(
            (world.disk[stripe as usize].load(SeqCst), reloaded.cell(stripe).disk_code()),
            (code, code)
        );
    }
}

#[test]
fn on_a_fresh_array() {
    run(Cell::Unwritten);
}

#[test]
fn on_a_clean_array() {
    run(Cell::Clean);
}

#[test]
fn on_an_array_that_resyncs() {
    run(Cell::NeedSync);
}
