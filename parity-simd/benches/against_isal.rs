//! Are we on a par with ISA-L? The chosen kernels and the library in turns, so that a shared machine's moods hit
//! both alike, and the median of the ratios of neighbouring runs.
//!
//! `cargo bench -p parity-simd --bench against_isal [-- --variant avx2] [--rounds 101]`. One line for each shape, a
//! ratio above 1 is in our favour; without the library it says so and exits 0. `benches/record/` keeps results.
#![allow(unsafe_code, reason = "strips by address, to feed Rust and C alike")]

mod common;

use common::isal::Isal;
use common::{Arena, Shape, Stripes, Temperature, generate};
use std::time::Instant;

/// One run works through so many source bytes: long against the clock's resolution, short against a time slice.
const RUN_BYTES_HOT: usize = 16 << 20;
const RUN_BYTES_COLD: usize = 32 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let rounds: usize = option("--rounds").map_or(41, |text| text.parse().expect("--rounds takes a number"));
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
    println!("{:<8} {:<5} {:>8} {:>8} {:>7}", "shape", "", "striate", "isa-l", "ratio");
    for temperature in Temperature::ALL {
        for shape in Shape::all() {
            let run_bytes = match temperature {
                Temperature::Hot => RUN_BYTES_HOT,
                Temperature::Cold => RUN_BYTES_COLD,
            };
            let calls = run_bytes / shape.source_bytes();
            let mut stripes = arena.stripes(shape, temperature);
            let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                let our = seconds(calls, &mut stripes, |strips| generate(&kernels, shape, strips));
                let their = seconds(calls, &mut stripes, |strips| isal.generate(shape, strips));
                ours.push(our);
                theirs.push(their);
                ratios.push(their / our);
            }
            let rate = |times| (calls * shape.source_bytes()) as f64 / median(times) / 1e9;
            println!(
                "{:<8} {:<5} {:>8.1} {:>8.1} {:>7.2}",
                shape.name(),
                temperature.name(),
                rate(&mut ours),
                rate(&mut theirs),
                median(&mut ratios)
            );
        }
    }
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
