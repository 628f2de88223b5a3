//! `sim [--runs N] [--seed S] [--scenario NAME] [--trace] [--keep-going]`

use std::collections::BTreeMap;
use std::time::Instant;

use sim::runner::{attempt, command};
use sim::scenario::Scenario;

fn main() {
    let (mut runs, mut seed, mut scenarios, mut verbose, mut keep_going) =
        (1, 1, Scenario::ALL.to_vec(), false, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| usage());
        match arg.as_str() {
            "--runs" => runs = value().parse().unwrap_or_else(|_| usage()),
            "--seed" => seed = value().parse().unwrap_or_else(|_| usage()),
            "--scenario" => scenarios = vec![Scenario::from_name(&value()).unwrap_or_else(|| usage())],
            "--trace" => verbose = true,
            "--keep-going" => keep_going = true,
            _ => usage(),
        }
    }
    let begun = Instant::now();
    let (mut done, mut failed) = (0u64, 0u64);
    let (mut answered, mut errors, mut operations, mut cuts, mut deaths) = (0, 0, 0, 0, 0);
    let mut slowest = (0.0, 0, Scenario::Mixed);
    let mut kinds: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for nth in 0..runs {
        for &scenario in &scenarios {
            done += 1;
            let run_begun = Instant::now();
            let result = attempt(seed + nth, scenario, verbose);
            let took = run_begun.elapsed().as_secs_f64();
            if took > slowest.0 {
                slowest = (took, seed + nth, scenario);
            }
            match result {
                Ok(outcome) => {
                    answered += outcome.answered;
                    errors += outcome.errors;
                    operations += outcome.operations;
                    cuts += outcome.cuts;
                    deaths += outcome.deaths;
                    if nth % 64 == 0 {
                        let again = attempt(seed + nth, scenario, false).map(|outcome| outcome.trace);
                        assert_eq!(
                            again.ok(),
                            Some(outcome.trace),
                            "DETERMINISM: seed {} {}",
                            seed + nth,
                            scenario.name()
                        );
                    }
                }
                Err(failure) => {
                    failed += 1;
                    if !keep_going {
                        println!("{}\n  {}", failure.what, command(&failure));
                        std::process::exit(1);
                    }
                    let kind = failure.what.rsplit('[').next().unwrap_or("").chars().take(80).collect();
                    let head: String = failure.what.chars().take(300).collect();
                    let entry = kinds
                        .entry(kind)
                        .or_insert_with(|| (0, format!("{head}\n      {}", command(&failure))));
                    entry.0 += 1;
                }
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    for (kind, (count, what)) in &kinds {
        println!("{count:>6} x [{kind}: {what}\n");
    }
    println!(
        "{done} runs in {seconds:.1} s ({:.0} runs/s): {failed} failed; {answered} requests ({errors} errors), \
         {operations} member operations, {cuts} power cuts, {deaths} members lost",
        done as f64 / seconds
    );
    println!("slowest: {:.2} s, seed {} {}", slowest.0, slowest.1, slowest.2.name());
    std::process::exit(i32::from(failed > 0));
}

fn usage() -> ! {
    let names: Vec<_> = Scenario::ALL.iter().map(|scenario| scenario.name()).collect();
    eprintln!("sim [--runs N] [--seed S] [--scenario {}] [--trace] [--keep-going]", names.join("|"));
    std::process::exit(2);
}
