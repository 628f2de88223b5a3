//! `cargo sim`: one seed, a campaign, the mutants or the matrix. `cargo sim --help` lists all.

use std::time::Duration;

use sim::campaign::{Goal, base_of_commit, campaign, story_of};
use sim::config::{Flavour, Knobs};
use sim::runner::attempt;
use sim::shrink::shrink;
use sim::story::Scenario;

const USAGE: &str = "\
cargo sim SEED [KNOBS]             one run, a line for each transition
cargo sim [OPTIONS]                a campaign, from a base seed made of the commit

  --scenario NAME   deaths, cuts, rebuild, faults, stops, seed, mixed; else the seed decides
  --flavour NAME    small, full; else the seed decides
options of a campaign:
  --histories N     power-cut histories (10,000)
  --deaths N        member-death histories (a quarter of that)
  --minutes N       at most (15)
  --seed BASE       the first seed
  --threads N       (as many as there are cores)
  --keep-going      after a failure
knobs, upper bounds of what the seed draws:
  --members N  --stripes N  --depth N  --load PERCENT  --reactors N
  --branch N        only this branch
  --quiet           no lines";

#[derive(Default)]
struct Options {
    one: Option<u64>,
    base: Option<u64>,
    histories: Option<u64>,
    deaths: Option<u64>,
    minutes: Option<f64>,
    threads: Option<usize>,
    scenario: Option<Scenario>,
    flavour: Option<Flavour>,
    knobs: Vec<(String, u64)>,
    keep_going: bool,
    quiet: bool,
}

fn main() {
    let options = parse();
    let code = match options.one {
        Some(seed) => replay(seed, &options),
        None => volume(&options),
    };
    std::process::exit(code);
}

fn parse() -> Options {
    let mut options = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| usage());
        match arg.as_str() {
            "--seed" => options.base = Some(number(&value())),
            "--histories" => options.histories = Some(number(&value())),
            "--deaths" => options.deaths = Some(number(&value())),
            "--minutes" => options.minutes = Some(value().parse().unwrap_or_else(|_| usage())),
            "--threads" => options.threads = Some(number(&value()) as usize),
            "--scenario" => {
                options.scenario = Some(Scenario::from_name(&value()).unwrap_or_else(|| usage()));
            }
            "--flavour" => options.flavour = Some(Flavour::from_name(&value()).unwrap_or_else(|| usage())),
            "--keep-going" => options.keep_going = true,
            "--quiet" => options.quiet = true,
            "--members" | "--stripes" | "--depth" | "--load" | "--reactors" | "--branch" => {
                options.knobs.push((arg, number(&value())));
            }
            seed => options.one = Some(number(seed)),
        }
    }
    options
}

fn number(text: &str) -> u64 {
    text.replace([',', '_'], "").parse().unwrap_or_else(|_| usage())
}

/// One seed, told line by line.
fn replay(seed: u64, options: &Options) -> i32 {
    let (scenario, flavour) = story_of(seed);
    let (scenario, flavour) = (options.scenario.unwrap_or(scenario), options.flavour.unwrap_or(flavour));
    let mut knobs = Knobs::of(flavour);
    for (name, value) in &options.knobs {
        match name.as_str() {
            "--members" => knobs.members = *value,
            "--stripes" => knobs.stripes = *value,
            "--depth" => knobs.depth = *value,
            "--load" => knobs.load = *value,
            "--reactors" => knobs.reactors = *value,
            _ => knobs.only = Some(*value as u32),
        }
    }
    println!("seed {seed}, scenario {}, {knobs:?}", scenario.name());
    match attempt(seed, scenario, knobs, !options.quiet) {
        Ok(outcome) => {
            println!("{outcome:?}");
            0
        }
        Err(failure) => {
            println!("FAILED: {}\n  {}", failure.what, failure.command());
            1
        }
    }
}

fn volume(options: &Options) -> i32 {
    let base = options.base.unwrap_or_else(base_of_commit);
    let cuts = options.histories.unwrap_or(10_000);
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let goal = Goal {
        base,
        cuts,
        deaths: options.deaths.unwrap_or(cuts / 4),
        within: Duration::from_secs_f64(options.minutes.unwrap_or(15.0) * 60.0),
        threads: options.threads.unwrap_or(cores),
        keep_going: options.keep_going,
        scenario: options.scenario,
        flavour: options.flavour,
    };
    println!("base seed {base} (--seed {base} repeats this campaign), {} threads", goal.threads);
    let done = campaign(&goal);
    println!("{:>10} {:>6} {:>8} {:>12} {:>13} {:>10} {:>13}", "scenario", "", "runs", "power cuts", "member deaths", "requests", "member I/Os");
    let line = |name: &str, flavour: &str, runs: u64, outcome: &sim::story::Outcome| {
        println!(
            "{name:>10} {flavour:>6} {runs:>8} {:>12} {:>13} {:>10} {:>13}",
            outcome.cuts, outcome.deaths, outcome.answered, outcome.operations
        );
    };
    for ((name, flavour), (runs, outcome)) in &done.by_story {
        line(name, flavour, *runs, outcome);
    }
    let (runs, total) = done.total();
    line("all", "", runs, &total);
    println!(
        "{:.1} s, {:.0} histories/s ({:.0} a second and thread); {} runs were repeated and left the same trace",
        done.seconds,
        (total.cuts + total.deaths) as f64 / done.seconds,
        (total.cuts + total.deaths) as f64 / done.seconds / goal.threads as f64,
        done.repeated
    );
    let mut kinds: Vec<&str> = Vec::new();
    for failure in &done.failures {
        if kinds.contains(&failure.kind()) {
            continue;
        }
        kinds.push(failure.kind());
        let alike = done.failures.iter().filter(|other| other.kind() == failure.kind()).count();
        println!("FAILED ({alike} alike): {}\n  {}", failure.what, failure.command());
        println!("  smaller: {}", shrink(failure).command());
    }
    if !done.failures.is_empty() {
        return 1;
    }
    if total.cuts < goal.cuts || total.deaths < goal.deaths {
        println!("FAILED: the time is over, and the goal is not reached");
        return 1;
    }
    0
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2);
}
