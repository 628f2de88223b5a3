//! The cost of the cells on the write path: nanoseconds that every write pays, and those that only few writes
//! pay.
//!
//! ```text
//!   cargo bench -p stripe-bitmap
//! ```
//! Contended runs give each of two threads half of the iterations; the time is that of the slower thread.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use stripe_bitmap::{
    Begun, Bitmap, BlockIndex, CELL_BYTES_PER_BLOCK, Cell, LoadMode, STRIPES_PER_BLOCK, STRIPES_PER_REGION,
    StripeLocks,
};

const BLOCK: BlockIndex = BlockIndex(0);
/// 64 blocks: 512 KiB of words, more than a first-level cache and less than a second.
const STRIPES: u64 = 64 * STRIPES_PER_BLOCK;

fn dirty() -> Bitmap {
    Bitmap::new(STRIPES, Cell::Dirty)
}

/// Visits all stripes in an order that no prefetcher guesses; the factor is odd, so no stripe is missed.
fn scattered(nth: u64) -> u64 {
    nth.wrapping_mul(0x9e37_79b9) % STRIPES
}

fn every_write(c: &mut Criterion) {
    let mut group = c.benchmark_group("every_write");
    let (bitmap, locks) = (dirty(), StripeLocks::new());
    let mut nth = 0;
    group.bench_function("cell", |b| {
        b.iter(|| {
            nth += 1;
            bitmap.cell(scattered(nth))
        });
    });
    group.bench_function("begin_write/dirty", |b| {
        b.iter(|| {
            nth += 1;
            bitmap.begin_write(scattered(nth))
        });
    });
    group.bench_function("own, begin_write/dirty, release", |b| {
        b.iter(|| {
            nth += 1;
            let slot = StripeLocks::slot_of(scattered(nth));
            locks.try_own(slot, 0).expect("nobody else is here");
            let begun = bitmap.begin_write(scattered(nth));
            locks.release(slot, 0);
            begun
        });
    });
    group.finish();
}

/// Runs half of the iterations on each of two threads, on neighbouring stripes. Returns the time of the
/// slower thread.
fn two_threads(iterations: u64, write: impl Fn(u64) + Sync) -> Duration {
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|thread| {
            let (write, barrier) = (&write, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let begun = Instant::now();
                (0..iterations / 2).for_each(|nth| write(2 * nth + thread));
                begun.elapsed()
            })
        });
        threads.map(|thread| thread.join().expect("no panic")).into_iter().max().expect("two threads")
    })
}

fn contended(c: &mut Criterion) {
    let mut group = c.benchmark_group("two_threads_side_by_side");
    let (bitmap, locks) = (dirty(), StripeLocks::new());
    group.bench_function("begin_write/dirty", |b| {
        b.iter_custom(|iterations| {
            two_threads(iterations, |nth| {
                let _ = black_box(bitmap.begin_write(nth % STRIPES));
            })
        });
    });
    group.bench_function("own, begin_write/dirty, release", |b| {
        b.iter_custom(|iterations| {
            two_threads(iterations, |nth| {
                let slot = StripeLocks::slot_of(nth % STRIPES);
                while locks.try_own(slot, (nth % 2) as u8).is_err() {
                    std::hint::spin_loop();
                }
                let _ = black_box(bitmap.begin_write(nth % STRIPES));
                locks.release(slot, (nth % 2) as u8);
            })
        });
    });
    group.finish();
}

/// A bitmap of one block whose cells are all Clean, not yet marked.
fn one_clean_block() -> Bitmap {
    Bitmap::new(STRIPES_PER_BLOCK, Cell::Clean)
}

fn few_writes(c: &mut Criterion) {
    let mut group = c.benchmark_group("few_writes");
    group.bench_function("begin_write/clean, marks a region", |b| {
        b.iter_batched_ref(one_clean_block, |bitmap| bitmap.begin_write(100), BatchSize::LargeInput);
    });
    let fifth = || {
        let bitmap = one_clean_block();
        (0..4).for_each(|region| assert_eq!(bitmap.begin_write(region * STRIPES_PER_REGION), Begun::Pending));
        bitmap
    };
    group.bench_function("begin_write/clean, marks a block", |b| {
        b.iter_batched_ref(fifth, |bitmap| bitmap.begin_write(STRIPES_PER_BLOCK - 1), BatchSize::LargeInput);
    });
    let marked = || {
        let bitmap = fifth();
        assert_eq!(bitmap.begin_write(STRIPES_PER_BLOCK - 1), Begun::Pending);
        bitmap
    };
    let mut image = [0; CELL_BYTES_PER_BLOCK];
    group.bench_function("block write, nothing to promote", |b| {
        let bitmap = one_clean_block();
        b.iter(|| {
            let write = bitmap.try_begin_block_write(BLOCK, &mut image).expect("none in flight");
            bitmap.finish_block_write(write, &image);
        });
    });
    group.bench_function("block write, promotes a block", |b| {
        b.iter_batched_ref(
            marked,
            |bitmap| {
                let write = bitmap.try_begin_block_write(BLOCK, &mut image).expect("none in flight");
                bitmap.finish_block_write(write, &image);
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn background(c: &mut Criterion) {
    let mut group = c.benchmark_group("background");
    group.throughput(Throughput::Elements(STRIPES));
    let bitmap = dirty();
    group.bench_function("next_need_sync, none", |b| b.iter(|| bitmap.next_need_sync(0)));
    group.bench_function("count", |b| b.iter(|| bitmap.count()));
    group.throughput(Throughput::Elements(STRIPES_PER_BLOCK));
    let (bitmap, locks) = (Bitmap::new(STRIPES_PER_BLOCK, Cell::Dirty), StripeLocks::new());
    let mut sweeper = bitmap.sweeper();
    group.bench_function("look at an aged block", |b| {
        bitmap.age_block(&mut sweeper, BLOCK);
        b.iter(|| bitmap.sweep_look(&mut sweeper, BLOCK, &locks).candidates);
    });
    let dirty_image = [0xff; CELL_BYTES_PER_BLOCK];
    group.bench_function("load, age, look, sweep a block", |b| {
        b.iter(|| {
            bitmap.load_block(BLOCK, &dirty_image, LoadMode::Clean);
            bitmap.age_block(&mut sweeper, BLOCK);
            let looked = bitmap.sweep_look(&mut sweeper, BLOCK, &locks);
            bitmap.sweep_block(&mut sweeper, looked)
        });
    });
    group.finish();
    let mut group = c.benchmark_group("start");
    group.sample_size(10);
    group.bench_function("new, 15.36 TB members in 64 KiB chunks", |b| {
        b.iter(|| Bitmap::new(234_375_000, Cell::Unwritten).memory_bytes());
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = every_write, contended, few_writes, background
}
criterion_main!(benches);
