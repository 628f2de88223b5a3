//! Explores small scopes exhaustively: `exhaustive [--quick] [--scope NAME] [--minutes N] [--replay PATH]`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use sim::exhaustive::machine::Memories;
use sim::exhaustive::{explore, replay, scopes};

fn main() {
    let (mut quick, mut only, mut minutes, mut path) = (false, None, 60, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| usage());
        match arg.as_str() {
            "--quick" => quick = true,
            "--scope" => only = Some(value()),
            "--minutes" => minutes = value().parse().unwrap_or_else(|_| usage()),
            "--replay" => path = Some(value()),
            _ => usage(),
        }
    }
    let mut list = if quick { scopes::quick() } else { scopes::all() };
    if let Some(only) = only {
        list = scopes::all();
        list.extend(scopes::beyond());
        list.extend(scopes::lies());
        list.retain(|scope| scope.name.contains(&only));
    }
    if list.is_empty() {
        usage();
    }
    if let Some(path) = path {
        let path: Vec<u8> = path.split(',').filter_map(|nth| nth.parse().ok()).collect();
        replay(&list[0], &Memories::new(), &path);
        return;
    }
    let begun = Instant::now();
    let limit = Duration::from_secs(minutes * 60);
    let failed = Mutex::new(0);
    let sum = Mutex::new((0u64, 0u64, 0f64, 0u64, 0u64, 0u64));
    list.reverse();
    let list = Mutex::new(list);
    println!(
        "{:<46} {:>9} {:>10} {:>13} {:>7} {:>10} {:>8} {:>8} {:>8}",
        "scope", "states", "events", "interleavings", "longest", "cuts", "images", "starts", "seconds"
    );
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                let memories = Memories::new();
                loop {
                    let Some(scope) = list.lock().expect("nobody panics with it").pop() else { return };
                    let left = limit.saturating_sub(begun.elapsed());
                    match explore(&scope, &memories, left) {
                        Ok(Some(report)) => {
                            println!(
                                "{:<46} {:>9} {:>10} {:>13.4e} {:>7} {:>10} {:>8} {:>8} {:>8.1}",
                                scope.name, report.states, report.events, report.interleavings, report.longest,
                                report.cuts.subsets, report.cuts.images, report.cuts.starts, report.took.as_secs_f64()
                            );
                            let mut sum = sum.lock().expect("nobody panics with it");
                            sum.0 += report.states;
                            sum.1 += report.events;
                            sum.2 += report.interleavings;
                            sum.3 += report.cuts.subsets;
                            sum.4 += report.cuts.images;
                            sum.5 += report.cuts.starts;
                        }
                        Ok(None) => {
                            println!("{:<46} NOT COMPLETE: the time is over", scope.name);
                            *failed.lock().expect("nobody panics with it") += 1;
                        }
                        Err(violation) => {
                            let path: Vec<String> = violation.path.iter().map(u8::to_string).collect();
                            println!(
                                "{:<46} VIOLATION: {}\n  cargo run --profile sim -p sim --bin exhaustive -- --scope '{}' --replay {}",
                                scope.name, violation.what, scope.name, path.join(",")
                            );
                            *failed.lock().expect("nobody panics with it") += 1;
                        }
                    }
                }
            });
        }
    });
    let (states, events, interleavings, subsets, images, starts) =
        *sum.lock().expect("nobody panics with it");
    println!(
        "{states} states, {events} events, {interleavings:.3e} interleavings; {subsets} cuts, {images} images, {starts} \
         starts; {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    std::process::exit(i32::from(*failed.lock().expect("nobody panics with it") > 0));
}

fn usage() -> ! {
    eprintln!("exhaustive [--quick] [--scope NAME] [--minutes N] [--replay PATH]");
    for scope in scopes::all() {
        eprintln!("  {}", scope.name);
    }
    std::process::exit(2);
}
