//! Parity generation by every variant that this CPU runs, and by ISA-L if it is installed, on 4+1, 8+1, 4+2
//! and 8+2 at 4 KiB and 64 KiB, in cache and out of it. Throughput counts source bytes, as ISA-L's own tests
//! do.
//!
//! `cargo bench -p parity-simd --bench parity [-- FILTER]`, for example `-- '4.2 64K/cold'`.
#![allow(unsafe_code, reason = "strips by address, to feed Rust and C alike")]

mod common;

use common::isal::Isal;
use common::{Arena, Shape, Stores, Temperature, generate};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;

fn parity(criterion: &mut Criterion) {
    let arena = Arena::new();
    let isal = Isal::load_or_say();
    for shape in Shape::all() {
        let mut group = criterion.benchmark_group(shape.name());
        group.throughput(Throughput::Bytes(shape.source_bytes() as u64));
        for temperature in Temperature::ALL {
            for kernels in parity_simd::kernels_available() {
                for (stores, suffix) in [(Stores::Chosen, ""), (Stores::Streamed, "-streamed")] {
                    let mut stripes = arena.stripes(shape, temperature);
                    let name = format!("{kernels}{suffix}");
                    group.bench_function(BenchmarkId::new(temperature.name(), name), |bencher| {
                        bencher.iter(|| generate(&kernels, shape, &stripes.take(), stores));
                    });
                }
            }
            if let Some(isal) = isal {
                let mut stripes = arena.stripes(shape, temperature);
                group.bench_function(BenchmarkId::new(temperature.name(), "isa-l"), |bencher| {
                    bencher.iter(|| isal.generate(shape, &stripes.take()));
                });
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = parity
}
criterion_main!(benches);
