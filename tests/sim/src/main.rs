//! `cargo sim`: one seed, a campaign, the mutants or the matrix. `cargo sim --help` lists all.

use std::path::Path;
use std::time::Duration;

use sim::campaign::{Goal, base_of_commit, campaign, stored_seeds, story_of};
use sim::config::{Flavour, Knobs};
use sim::mutants;
use sim::runner::attempt;
use sim::shrink::shrink;
use sim::story::Scenario;

const USAGE: &str = "\
cargo sim SEED [KNOBS]             one run, a line for each transition
cargo sim [OPTIONS]                a campaign, from a base seed made of the commit
cargo sim --matrix                 every fault at every operation in every state
cargo sim --mutants [NAME,NAME]    engines broken on purpose, each until it is seen
cargo sim --list                   the names of all scenarios, a line each

  --scenario NAME   deaths, cuts, rebuild, faults, stops, starts, absent, grow, seed, leaving, lost, rescue, mixed, and
                    one run in 16 filling, rollback, foreign, idle, earlier, silent, crowd, refused, decay,
                    bad: else the seed decides
  --flavour NAME    small, full, skewed; else the seed decides
options of a campaign:
  --histories N     power-cut histories (10,000)
  --deaths N        member-death histories (a quarter of that)
  --minutes N       at most (15)
  --time MINUTES    as many histories as fit into that time, in place of a number
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
    /// How long a campaign runs, in minutes; it runs as many histories as fit into that time.
    time: Option<f64>,
    threads: Option<usize>,
    scenario: Option<Scenario>,
    flavour: Option<Flavour>,
    knobs: Vec<(String, u64)>,
    keep_going: bool,
    quiet: bool,
    mutants: Option<String>,
    matrix: bool,
    cell: Option<u64>,
    attempt: u64,
    until_killed: Option<u64>,
}

fn main() {
    let options = parse();
    let base = options.base.unwrap_or_else(base_of_commit);
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    if options.matrix {
        std::process::exit(match options.cell {
            Some(cell) => sim::matrix::replay(cell, options.attempt, base),
            None => sim::matrix::run(base, options.threads.unwrap_or(cores)),
        });
    }
    let code = match (options.one, &options.mutants, options.until_killed) {
        (_, Some(only), _) => {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            let root = root.canonicalize().expect("the tree that this was built from is there");
            mutants::run::run(&root, only, base, options.threads.unwrap_or(cores))
        }
        (_, None, Some(seconds)) => until_killed(base, seconds, options.scenario),
        (Some(seed), None, None) => replay(seed, &options),
        (None, None, None) => volume(&options, base, cores),
    };
    std::process::exit(code);
}

fn parse() -> Options {
    let mut options = Options::default();
    let mut args = std::env::args().skip(1).peekable();
    while let Some(arg) = args.next() {
        if arg == "--mutants" {
            options.mutants = Some(args.next_if(|name| !name.starts_with('-')).unwrap_or_default());
            continue;
        }
        if arg == "--list" {
            let all = Scenario::all();
            all.for_each(|scenario| println!("{}", scenario.name()));
            std::process::exit(0);
        }
        if arg == "--matrix" {
            options.matrix = true;
            continue;
        }
        let mut value = || args.next().unwrap_or_else(|| usage());
        match arg.as_str() {
            "--until-killed" => options.until_killed = Some(number(&value())),
            "--seed" => options.base = Some(number(&value())),
            "--histories" => options.histories = Some(number(&value())),
            "--deaths" => options.deaths = Some(number(&value())),
            "--time" => options.time = Some(value().parse().unwrap_or_else(|_| usage())),
            "--minutes" => options.minutes = Some(value().parse().unwrap_or_else(|_| usage())),
            "--threads" => options.threads = Some(number(&value()) as usize),
            "--scenario" => {
                options.scenario = Some(Scenario::from_name(&value()).unwrap_or_else(|| usage()));
            }
            "--flavour" => options.flavour = Some(Flavour::from_name(&value()).unwrap_or_else(|| usage())),
            "--cell" => options.cell = Some(number(&value())),
            "--attempt" => options.attempt = number(&value()),
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

/// Runs one seed and prints each transition.
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

/// Runs on one core until something fails, or until the time is over. Used by `--mutants`. With a scenario,
/// the stored seeds that once failed in it run first: a bug that shows in one history of a million would
/// otherwise not show in the time available.
fn until_killed(base: u64, seconds: u64, scenario: Option<Scenario>) -> i32 {
    let stored = stored_seeds().into_iter().filter(|&(_, of, _)| scenario == Some(of));
    let failed_again = stored
        .filter_map(|(seed, scenario, flavour)| attempt(seed, scenario, Knobs::of(flavour), false).err())
        .next();
    let within = Duration::from_secs(seconds);
    let goal = Goal {
        base,
        cuts: u64::MAX,
        deaths: u64::MAX,
        within,
        processor_time: true,
        threads: 1,
        keep_going: false,
        scenario,
        flavour: None,
    };
    let failure = failed_again.or_else(|| campaign(&goal).failures.into_iter().next());
    if let Some(failure) = failure {
        let what: String = failure.what.chars().take(60).collect();
        println!(
            "KILLED {} {} {} seed {}: {}",
            failure.seen_by(),
            failure.scenario.name(),
            failure.knobs.flavour.name(),
            failure.seed,
            what.replace('\n', " ")
        );
        return 1;
    }
    0
}

fn volume(options: &Options, base: u64, cores: usize) -> i32 {
    let cuts = options.time.map_or(options.histories.unwrap_or(10_000), |_| u64::MAX);
    let minutes = options.time.or(options.minutes).unwrap_or(15.0);
    let goal = Goal {
        base,
        cuts,
        deaths: options.deaths.unwrap_or(cuts / 4),
        within: Duration::from_secs_f64(minutes * 60.0),
        processor_time: false,
        threads: options.threads.unwrap_or(cores),
        keep_going: options.keep_going,
        scenario: options.scenario,
        flavour: options.flavour,
    };
    println!("base seed {base} (--seed {base} repeats this campaign), {} threads", goal.threads);
    let done = campaign(&goal);
    println!(
        "{:>10} {:>6} {:>8} {:>12} {:>13} {:>10} {:>13}",
        "scenario", "", "runs", "power cuts", "member deaths", "requests", "member I/Os"
    );
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
    if options.time.is_some() {
        return 0;
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
