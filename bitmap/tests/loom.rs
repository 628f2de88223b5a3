//! Loom models: loom runs each model with every interleaving, and with every value that the orderings allow a
//! load to return.
//!
//! ```text
//!   RUSTFLAGS="--cfg loom" cargo test -p stripe-bitmap --release --test loom
//! ```
//! Method: a bitmap of one or two stripes, a disk of one word, two or three threads of a few steps each. Some
//! models bound the preemptions (see the calls of `broken`). Oracle: the disk. A write to the members asserts
//! that the disk says Dirty (or NeedSync), a sweep asserts that a flush came after the last write, and a
//! deallocation asserts that the disk says Unwritten.
//!
//! A model that cannot fail proves nothing, so each main rule has a variant that breaks it by one edit, and
//! the model must detect the edit. A broken rule is noted, and the model runs on: a panic in one of loom's
//! threads before another has begun ends the process. (Loom's threads are coroutines of one thread, so a
//! thread-local takes the note.)
//!
//! Edits of the crate that were tried, and the models that detected them:
//! - no fence in `total_order`, or `Aged` taken for Durable: `sweep_and_one_write`
//! - `release` Relaxed: `waiter_against_release`, `look_against_release`
//! - a ticket from a plain load, `behind` set Relaxed, the snapshot taken before the turn:
//!   `what_is_not_behind_is_on_disk`, and for the first also `discard_waits_for_the_next_block_write`
//! - finish promotes what its snapshot did not hold, or clears `in flight` first:
//!   `finish_against_sweep_and_new_mark`
//! - abort promotes: `abort_against_new_mark`
//! - Marked taken for Durable: `a_second_writer_waits_for_durability`
//!
//! Not detected: `try_own` without Acquire, because the fence that replaces `SeqCst` (see `sync`) includes
//! one.

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use stripe_bitmap::{Begun, Bitmap, BlockIndex, CELL_BYTES_PER_BLOCK, Cell, StripeLocks, Ticket};

const BLOCK: BlockIndex = BlockIndex(0);

const INTENT_FIRST: &str = "the disk says Dirty before data is written";
const FLUSHED_FIRST: &str = "members are flushed after the last write before a stripe is Clean";
const UNWRITTEN_FIRST: &str = "the disk says Unwritten before members deallocate";
const PASSED_LAST: &str = "the disk says Unwritten before a rebuild passes a stripe for it";
const ONE_OWNER: &str = "a stripe has one owner, who sees what the one before did";
const RAM_IS_ON_DISK: &str = "a block that is not behind is on disk as it is in RAM";
/// Explores every interleaving.
const NO_BOUND: Option<usize> = None;
/// Bound for the two large models. They also hold without a bound, over 152,693 and 178,273 interleavings, in
/// half a minute and a whole minute. With five preemptions they take seconds, and still detect the edits
/// above.
const A_FEW: Option<usize> = Some(5);

thread_local! {
    static BROKEN: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

fn expect(holds: bool, rule: &'static str) {
    if !holds {
        BROKEN.set(Some(rule));
    }
}

/// Runs a model in all its interleavings, and returns the rule that one of them broke, if any.
fn broken(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) -> Option<&'static str> {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    BROKEN.set(None);
    builder.check(model);
    BROKEN.take()
}

/// The bitmap, its locks, and the content of the members: the block, and how often data was written. The
/// members are not memory: an access to them sees the latest content, so it is a read-modify-write, and
/// orders nothing, so it is relaxed.
struct World {
    bitmap: Bitmap,
    locks: StripeLocks,
    block: AtomicU32,
    data: AtomicU32,
}

impl World {
    fn new(stripes: u64, initial: Cell) -> World {
        let world = World {
            bitmap: Bitmap::new(stripes, initial),
            locks: StripeLocks::new(),
            block: AtomicU32::new(0),
            data: AtomicU32::new(0),
        };
        assert!(world.write_block());
        world
    }

    /// A world with one stripe, which is Dirty.
    fn dirty() -> World {
        let world = World::new(1, Cell::Clean);
        assert_eq!(world.bitmap.begin_write(0), Begun::Pending);
        assert!(world.write_block());
        world
    }

    /// Writes the block to the disk, unless another thread is writing it.
    fn write_block(&self) -> bool {
        let mut image = [0; CELL_BYTES_PER_BLOCK];
        let Some(write) = self.bitmap.try_begin_block_write(BLOCK, &mut image) else { return false };
        self.block.swap(u32::from_le_bytes(image[..4].try_into().unwrap()), Ordering::Relaxed);
        self.bitmap.finish_block_write(write, &image);
        true
    }

    /// Fails a [`World::write_block`] in such a way that the disk may or may not have the block.
    fn fail_to_write_block(&self) {
        let mut image = [0; CELL_BYTES_PER_BLOCK];
        if let Some(write) = self.bitmap.try_begin_block_write(BLOCK, &mut image) {
            self.bitmap.abort_block_write(write);
        }
    }

    fn on_disk(&self, stripe: u64) -> u8 {
        (self.block.fetch_add(0, Ordering::Relaxed) >> (stripe * 2)) as u8 & 3
    }

    fn until(&self, holds: impl Fn() -> bool) {
        while !holds() {
            if !self.write_block() {
                thread::yield_now();
            }
        }
    }

    fn own(&self, stripe: u64, reactor: u8) {
        while self.locks.try_own(StripeLocks::slot_of(stripe), reactor).is_err() {
            thread::yield_now();
        }
    }

    fn release(&self, stripe: u64, reactor: u8) {
        self.locks.release(StripeLocks::slot_of(stripe), reactor);
    }

    /// A whole write, as on the crate's page; `durable` tells whether the intent is durable.
    fn write(&self, stripe: u64, reactor: u8, durable: impl Fn(&Bitmap) -> bool) {
        self.own(stripe, reactor);
        match self.bitmap.begin_write(stripe) {
            Begun::Durable => {}
            Begun::Pending => self.until(|| durable(&self.bitmap)),
            Begun::Unwritten => {
                self.data.fetch_add(1, Ordering::Relaxed);
                self.bitmap.written_first(stripe);
                self.until(|| durable(&self.bitmap));
            }
            Begun::NeedSync => unreachable!("no model begins so"),
        }
        expect(self.on_disk(stripe) == Cell::Dirty.disk_code(), INTENT_FIRST);
        self.data.fetch_add(1, Ordering::Relaxed);
        self.release(stripe, reactor);
    }
}

/// The bitmap's own durability rule for `stripe`.
fn by_state(stripe: u64) -> impl Fn(&Bitmap) -> bool {
    move |bitmap| bitmap.intent_is_durable(stripe)
}

/// Runs one pass of the sweep, ageing first, with the locks that it looks at. Returns the number of data
/// writes that the flush covered.
fn sweep(world: &World, looked_at: &StripeLocks) -> u32 {
    let mut sweeper = world.bitmap.sweeper();
    world.bitmap.age_block(&mut sweeper, BLOCK);
    let looked = world.bitmap.sweep_look(&mut sweeper, BLOCK, looked_at);
    let flushed = world.data.fetch_add(0, Ordering::Relaxed);
    world.bitmap.sweep_block(&mut sweeper, looked);
    flushed
}

/// B4, B5: data under a cell that the sweep makes Clean was written before the flush. A stripe that is Clean
/// at the end was swept last.
fn writer_against_sweep(writes: u32, locks_of_another: bool) {
    let world = Arc::new(World::dirty());
    let writer = thread::spawn({
        let world = world.clone();
        move || (0..writes).for_each(|_| world.write(0, 0, by_state(0)))
    });
    let blind = StripeLocks::new();
    let flushed = sweep(&world, if locks_of_another { &blind } else { &world.locks });
    writer.join().unwrap();
    if world.bitmap.cell(0) == Cell::Clean {
        expect(world.data.load(Ordering::Relaxed) == flushed, FLUSHED_FIRST);
    }
}

#[test]
fn sweep_and_one_write() {
    assert_eq!(broken(NO_BOUND, || writer_against_sweep(1, false)), None);
}

#[test]
fn sweep_and_two_writes() {
    assert_eq!(broken(NO_BOUND, || writer_against_sweep(2, false)), None);
}

#[test]
fn broken_sweep_that_looks_at_no_lock() {
    assert_eq!(broken(NO_BOUND, || writer_against_sweep(1, true)), Some(FLUSHED_FIRST));
}

/// B1, B2: two writers in one region. Whichever marks, both wait until the disk has the mark.
fn second_writer(durable: impl Fn(&Bitmap, u64) -> bool + Copy + Send + 'static) {
    let world = Arc::new(World::new(2, Cell::Clean));
    let first = thread::spawn({
        let world = world.clone();
        move || world.write(0, 0, move |bitmap| durable(bitmap, 0))
    });
    world.write(1, 1, move |bitmap| durable(bitmap, 1));
    first.join().unwrap();
}

#[test]
fn a_second_writer_waits_for_durability() {
    assert_eq!(broken(A_FEW, || second_writer(|bitmap, stripe| bitmap.intent_is_durable(stripe))), None);
}

#[test]
fn broken_second_writer_that_waits_for_the_value() {
    assert_eq!(
        broken(NO_BOUND, || second_writer(|bitmap, stripe| bitmap.cell(stripe) != Cell::Clean)),
        Some(INTENT_FIRST)
    );
}

/// F1: one of two reactors owns the stripe, the other learns the owner's number, and the next owner sees the
/// first one's work.
#[test]
fn two_owners_for_one_stripe() {
    let model = || {
        let world = Arc::new(World::new(1, Cell::Clean));
        let reactor = |world: &World, me: u8| match world.locks.try_own(StripeLocks::slot_of(0), me) {
            Ok(()) => {
                let before = world.data.load(Ordering::Relaxed);
                thread::yield_now();
                world.data.store(before + 1, Ordering::Relaxed);
                world.release(0, me);
                1
            }
            Err(owner) => {
                expect(owner == 1 - me, ONE_OWNER);
                0
            }
        };
        let other = thread::spawn({
            let world = world.clone();
            move || reactor(&world, 1)
        });
        let owned = reactor(&world, 0) + other.join().unwrap();
        expect(world.data.load(Ordering::Relaxed) == owned, ONE_OWNER);
        expect(owned >= 1 && world.locks.is_free(0), ONE_OWNER);
    };
    assert_eq!(broken(NO_BOUND, model), None);
}

/// A reactor that was turned away retries until the owner releases the stripe; it then sees the owner's work.
#[test]
fn waiter_against_release() {
    let model = || {
        let world = Arc::new(World::new(1, Cell::Unwritten));
        world.own(0, 0);
        let waiter = thread::spawn({
            let world = world.clone();
            move || {
                world.own(0, 1);
                expect(world.data.load(Ordering::Relaxed) == 7, ONE_OWNER);
                expect(world.bitmap.cell(0) == Cell::First, ONE_OWNER);
                world.release(0, 1);
            }
        });
        world.data.store(7, Ordering::Relaxed);
        world.bitmap.written_first(0);
        world.release(0, 0);
        waiter.join().unwrap();
    };
    assert_eq!(broken(NO_BOUND, model), None);
}

/// A thread that sees a stripe free after it was owned also sees the owner's work. The sweep's look relies on
/// this.
#[test]
fn look_against_release() {
    let model = || {
        let world = Arc::new(World::new(1, Cell::Clean));
        world.own(0, 0);
        let looker = thread::spawn({
            let world = world.clone();
            move || {
                if world.locks.is_free(0) {
                    expect(world.data.load(Ordering::Relaxed) == 7, ONE_OWNER);
                }
            }
        });
        world.data.store(7, Ordering::Relaxed);
        world.release(0, 0);
        looker.join().unwrap();
    };
    assert_eq!(broken(NO_BOUND, model), None);
}

/// G1, G3: two reactors discard and write one stripe. Deallocation waits for Unwritten on the disk, and the
/// write that follows is a first write.
#[test]
fn discard_against_write_of_one_stripe() {
    let model = || {
        let world = Arc::new(World::new(1, Cell::Clean));
        let writer = thread::spawn({
            let world = world.clone();
            move || world.write(0, 0, by_state(0))
        });
        world.own(0, 1);
        let ticket = world.bitmap.discard(0);
        world.until(|| world.bitmap.is_durable(ticket));
        expect(world.on_disk(0) == Cell::Unwritten.disk_code(), UNWRITTEN_FIRST);
        world.release(0, 1);
        writer.join().unwrap();
        let cell = world.bitmap.cell(0);
        expect(
            matches!(cell, Cell::Unwritten | Cell::Dirty) && world.on_disk(0) == cell.disk_code(),
            RAM_IS_ON_DISK,
        );
    };
    assert_eq!(broken(NO_BOUND, model), None);
}

/// A6: a reader that skips a stripe because it is Unwritten, while another thread discards it, finds
/// Unwritten on the disk.
fn passing_against_discard(at_rest: impl Fn(&World) -> Option<Cell>) {
    let world = Arc::new(World::new(1, Cell::NeedSync));
    let discarder = thread::spawn({
        let world = world.clone();
        move || {
            world.own(0, 0);
            let ticket = world.bitmap.discard(0);
            world.until(|| world.bitmap.is_durable(ticket));
            world.release(0, 0);
        }
    });
    if at_rest(&world) == Some(Cell::Unwritten) {
        expect(world.on_disk(0) == Cell::Unwritten.disk_code(), PASSED_LAST);
    }
    discarder.join().unwrap();
}

#[test]
fn what_is_passed_is_unwritten_on_the_disk() {
    let at_rest = |world: &World| world.bitmap.cell_at_rest(0, &world.locks);
    assert_eq!(broken(NO_BOUND, move || passing_against_discard(at_rest)), None);
}

#[test]
fn broken_passing_that_looks_at_the_lock_first() {
    let at_rest = |world: &World| world.locks.is_free(0).then(|| world.bitmap.cell(0));
    assert_eq!(broken(NO_BOUND, move || passing_against_discard(at_rest)), Some(PASSED_LAST));
}

/// The ticket: a neighbour's block writes come and go, and only one that began after the discard counts.
fn discard_against_write_of_a_neighbour(earlier: u64) {
    let world = Arc::new(World::new(2, Cell::Clean));
    let writer = thread::spawn({
        let world = world.clone();
        move || world.write(1, 0, by_state(1))
    });
    let Ticket { block, generation, .. } = world.bitmap.discard(0);
    let ticket = Ticket { block, generation: generation - earlier };
    world.until(|| world.bitmap.is_durable(ticket));
    expect(world.on_disk(0) == Cell::Unwritten.disk_code(), UNWRITTEN_FIRST);
    writer.join().unwrap();
}

#[test]
fn discard_waits_for_the_next_block_write() {
    assert_eq!(broken(A_FEW, || discard_against_write_of_a_neighbour(0)), None);
}

#[test]
fn broken_discard_that_takes_the_write_in_flight() {
    assert_eq!(broken(NO_BOUND, || discard_against_write_of_a_neighbour(1)), Some(UNWRITTEN_FIRST));
}

/// A block write finishes while its cell is swept, another block write says Clean, and the cell is marked
/// again. The cell is Dirty afterwards only if the disk says so.
#[test]
fn finish_against_sweep_and_new_mark() {
    let model = || {
        let world = Arc::new(World::dirty());
        let block_writer = thread::spawn({
            let world = world.clone();
            move || world.write_block()
        });
        let writer = thread::spawn({
            let world = world.clone();
            move || world.write(0, 0, by_state(0))
        });
        sweep(&world, &world.locks);
        world.write_block();
        block_writer.join().unwrap();
        writer.join().unwrap();
    };
    assert_eq!(broken(Some(2), model), None);
}

/// B8: an aborted block write promises nothing.
#[test]
fn abort_against_new_mark() {
    let model = || {
        let world = Arc::new(World::new(1, Cell::Clean));
        let failing = thread::spawn({
            let world = world.clone();
            move || world.fail_to_write_block()
        });
        world.write(0, 0, by_state(0));
        failing.join().unwrap();
        expect(world.bitmap.cell(0) == Cell::Dirty, INTENT_FIRST);
    };
    assert_eq!(broken(NO_BOUND, model), None);
}

/// A block that is not behind has no change to write. A clean stop relies on this.
#[test]
fn what_is_not_behind_is_on_disk() {
    let model = || {
        let world = Arc::new(World::new(2, Cell::NeedSync));
        let resync = thread::spawn({
            let world = world.clone();
            move || world.bitmap.resynced(0)
        });
        let discard = thread::spawn({
            let world = world.clone();
            move || world.bitmap.discard(1)
        });
        world.write_block();
        resync.join().unwrap();
        let _ = discard.join().unwrap();
        if !world.bitmap.is_behind(BLOCK) {
            let on_disk = [0, 1].map(|stripe| world.on_disk(stripe));
            expect(on_disk == [Cell::Dirty, Cell::Unwritten].map(Cell::disk_code), RAM_IS_ON_DISK);
        }
    };
    assert_eq!(broken(Some(3), model), None);
}
