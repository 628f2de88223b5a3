//! Compares the chosen kernels with ISA-L. The two run in turns, so that load on a shared machine affects
//! both alike, and the result is the median of the ratios of neighbouring runs.
//!
//! `cargo bench -p parity-simd --bench against_isal [-- --variant avx2] [--rounds 41]`. Prints one line for
//! each shape; a ratio above 1 is in our favour. Without the library it says so and exits 0.
//! `benches/record/` keeps results.
#![allow(unsafe_code, reason = "strips by address, to feed Rust and C alike")]

mod common;

use common::isal::Isal;
use common::{Arena, Shape, Stores, Stripes, Temperature, generate};
use std::time::Instant;

/// Number of source bytes per run: long against the clock's resolution, short against a time slice.
const RUN_BYTES_HOT: usize = 16 << 20;

/// Number of source bytes per run out of cache. A run leaves up to a cache full of modified lines, which the
/// next run has to write back: with runs of 32 MiB the library, whose turn came after our streamed stores,
/// looked a tenth faster than it is.
const RUN_BYTES_COLD: usize = 256 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let rounds: usize = option("--rounds").map_or(21, |text| text.parse().expect("--rounds takes a number"));
    let kernels = match option("--variant") {
        None => *parity_simd::kernels(),
        Some(name) => *parity_simd::kernels_available()
            .iter()
            .find(|kernels| kernels.name_q() == name)
            .expect("--variant names kernels that this CPU runs"),
    };
    let Some(isal) = Isal::load_or_say() else { return };
    let arena = Arena::new();
    println!("kernels: {kernels}; GB/s of source, medians of {rounds} rounds");
    println!(
        "ratio: ours to ISA-L's, above 1 we are faster; streamed: what is stored past the caches whatever its size"
    );
    println!(
        "{:<8} {:<5} {:>8} {:>8} {:>7} {:>9} {:>7}",
        "shape", "", "isa-l", "striate", "ratio", "streamed", "ratio"
    );
    for temperature in Temperature::ALL {
        for shape in Shape::all() {
            let run_bytes = match temperature {
                Temperature::Hot => RUN_BYTES_HOT,
                Temperature::Cold => RUN_BYTES_COLD,
            };
            let calls = run_bytes / shape.source_bytes();
            let mut stripes = arena.stripes(shape, temperature);
            let (mut chosen, mut streamed, mut theirs) = (Side::default(), Side::default(), Vec::new());
            for _ in 0..rounds {
                let their = seconds(calls, &mut stripes, |strips| isal.generate(shape, strips));
                theirs.push(their);
                for (side, stores) in [(&mut chosen, Stores::Chosen), (&mut streamed, Stores::Streamed)] {
                    let our =
                        seconds(calls, &mut stripes, |strips| generate(&kernels, shape, strips, stores));
                    side.seconds.push(our);
                    side.ratios.push(their / our);
                }
            }
            let rate = |times: &mut [f64]| (calls * shape.source_bytes()) as f64 / median(times) / 1e9;
            println!(
                "{:<8} {:<5} {:>8.1} {:>8.1} {:>7.2} {:>9.1} {:>7.2}",
                shape.name(),
                temperature.name(),
                rate(&mut theirs),
                rate(&mut chosen.seconds),
                median(&mut chosen.ratios),
                rate(&mut streamed.seconds),
                median(&mut streamed.ratios),
            );
        }
    }
}

/// Times of one way of storing, and their ratios to ISA-L's run just before.
#[derive(Default)]
struct Side {
    seconds: Vec<f64>,
    ratios: Vec<f64>,
}

fn seconds(calls: usize, stripes: &mut Stripes, call: impl Fn(&[*mut u8; 16])) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        call(&stripes.take());
    }
    start.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
