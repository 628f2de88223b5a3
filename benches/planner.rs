//! The cost of a decision: `plan_write` or `plan_read` for typical stripes. It is paid once for each range of
//! rows, so it has to be negligible beside an I/O.
//!
//! `cargo bench --bench planner`

use criterion::{Criterion, criterion_group, criterion_main};
use engine::geometry::Strips;
use engine::plan::{Trust, Unsynced, View, plan_read, plan_rebuild, plan_write};
use std::hint::black_box;

/// A stripe of eight data strips and P and Q, without the strips `lost`.
fn view(trust: Trust, lost: Strips) -> View {
    let all = Strips::first(10);
    View {
        data: Strips::first(8),
        parity: all.minus(Strips::first(8)),
        trust,
        readable: all.minus(lost),
        writable: all.minus(lost),
    }
}

fn writes(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan_write");
    let (none, one, most) = (Strips::NONE, Strips::one(3), Strips::first(7));
    for (name, trust, lost, written) in [
        ("full", Trust::Trusted, none, Strips::first(8)),
        ("rmw", Trust::Trusted, none, one),
        ("rcw", Trust::Trusted, none, most),
        ("init", Trust::Unwritten, none, one),
        ("resync", Trust::NeedSync, none, one),
        ("degraded, rmw", Trust::Trusted, Strips::one(0), one),
        ("degraded, reconstruct", Trust::Trusted, Strips(0b1001), one),
    ] {
        let view = view(trust, lost);
        group.bench_function(name, |b| {
            b.iter(|| plan_write(black_box(&view), black_box(written), black_box(Unsynced::Heal)));
        });
    }
    group.finish();
}

fn reads(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan_read");
    for (name, lost) in [("direct", Strips::NONE), ("one lost", Strips(0b1000)), ("two lost", Strips(0b1001))]
    {
        let view = view(Trust::Trusted, lost);
        group.bench_function(name, |b| b.iter(|| plan_read(black_box(&view), black_box(Strips::one(3)))));
    }
    let view = view(Trust::Trusted, Strips::one(3));
    group.bench_function("rebuild", |b| b.iter(|| plan_rebuild(black_box(&view), black_box(3))));
    group.finish();
}

criterion_group!(benches, writes, reads);
criterion_main!(benches);
