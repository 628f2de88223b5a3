//! Runs each mutant by name until it is killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::build::{CHOICE, build, run_of_test, target};
use super::table::{CONTROL, Mutant, SeenBy, mutants};

/// Time limit in seconds of one core: a mutant that lives longer has survived.
const WITHIN_S: u64 = 120;
/// Seconds for which the engine without a mutant must run without a failure.
const CONTROL_S: u64 = 20;
/// Oracles, monitors and tests that must each have killed a mutant. This proves that each of them works.
const WATCHERS: [&str; 14] =
    ["READ", "I1", "I2", "I3", "I6", "I8", "C1", "C2", "A4", "E2", "F6", "SWEPT", "FAIRNESS", "ARRAY"];

/// Result of one mutant.
struct Fate {
    mutant: Mutant,
    /// The reported failure: the check that failed, the scenario and the seed.
    killed: Option<Kill>,
    /// Whether the engine without the mutant fails there too.
    is_false: bool,
    seconds: f64,
}

impl Fate {
    fn is_killed(&self) -> bool {
        self.killed.is_some() && !self.is_false
    }
}

struct Kill {
    watcher: String,
    story: String,
}

/// Builds the mutants and runs those named in `only`, separated by commas (all, if empty). Returns the exit
/// code.
#[must_use]
pub fn run(root: &Path, only: &str, base: u64, threads: usize) -> i32 {
    let begun = Instant::now();
    let binary = match build(root) {
        Ok(binary) => binary,
        Err(error) => {
            println!("{error}");
            return 1;
        }
    };
    println!("built {} mutants in one binary, {:.0} s", mutants().count(), begun.elapsed().as_secs_f64());
    let chosen: Vec<Mutant> =
        std::iter::once(Mutant { name: CONTROL, rule: "none: it must survive", seen_by: SeenBy::Simulator })
            .chain(mutants().copied())
            .filter(|mutant| only.is_empty() || only.split(',').any(|name| mutant.name == name))
            .collect();
    let (next, fates) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&mutant) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let fate = try_to_kill(root, &binary, mutant, base);
                    tell(&fate);
                    fates.lock().expect("no holder panics").push(fate);
                }
            });
        }
    });
    let fates = fates.into_inner().expect("no holder panics");
    let code = judge(&fates, only.is_empty());
    println!("{:.0} s in all", begun.elapsed().as_secs_f64());
    code
}

fn try_to_kill(root: &Path, binary: &Path, mutant: Mutant, base: u64) -> Fate {
    let begun = Instant::now();
    let within = if mutant.name == CONTROL { CONTROL_S } else { WITHIN_S };
    let mut command = match mutant.seen_by {
        SeenBy::Test { test, case } => run_of_test(root, test, case),
        SeenBy::Simulator | SeenBy::Scenario(_) => {
            let mut simulator = Command::new(binary);
            simulator.args(["--until-killed", &within.to_string(), "--seed", &base.to_string()]);
            if let SeenBy::Scenario(scenario) = mutant.seen_by {
                simulator.args(["--scenario", scenario]);
            }
            simulator
        }
    };
    command.env(CHOICE, mutant.name).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("what was just built runs");
    // An oracle cannot kill a mutant that spins inside the engine. It is ended here, and counts as survived.
    let patience = Duration::from_secs(5 * within + 30);
    let output = loop {
        match child.try_wait() {
            Ok(Some(_)) => break child.wait_with_output().map(|output| output.stdout).unwrap_or_default(),
            _ if begun.elapsed() > patience => {
                let _gone = child.kill();
                break child.wait_with_output().map(|output| output.stdout).unwrap_or_default();
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let text = String::from_utf8_lossy(&output);
    let killed = match mutant.seen_by {
        SeenBy::Test { test, .. } => failed_test(&text).map(|name| Kill {
            watcher: test.to_uppercase(),
            story: format!("cargo test -p engine {} {name}", target(test).join(" ")),
        }),
        SeenBy::Simulator | SeenBy::Scenario(_) => {
            text.lines().find_map(|line| line.strip_prefix("KILLED ")).and_then(|line| {
                let (watcher, story) = line.split_once(' ')?;
                Some(Kill { watcher: watcher.into(), story: story.into() })
            })
        }
    };
    let is_false = killed.as_ref().is_some_and(|kill| fails_without(binary, &kill.story));
    Fate { mutant, killed, is_false, seconds: begun.elapsed().as_secs_f64() }
}

/// Whether the engine without a mutant also fails in this story (`SCENARIO FLAVOUR seed N: ...`). If so, the
/// story says nothing about the mutant. (An engine test needs no such run: it has passed without a mutant, or
/// the suite has failed.)
fn fails_without(binary: &Path, story: &str) -> bool {
    let mut words = story.split_whitespace();
    let (Some(scenario), Some(flavour), Some("seed"), Some(seed)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let seed = seed.trim_end_matches(':');
    let status = Command::new(binary)
        .args([seed, "--scenario", scenario, "--flavour", flavour, "--quiet"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    !status.is_ok_and(|status| status.success())
}

/// The first failed test in the output of `cargo test`.
fn failed_test(text: &str) -> Option<&str> {
    let (_, panic) = text.split_once("\n---- ")?;
    panic.split_once(" stdout ----").map(|(name, _)| name)
}

fn tell(fate: &Fate) {
    let Fate { mutant, killed, is_false, seconds } = fate;
    match killed {
        Some(Kill { story, .. }) if *is_false => {
            println!(
                "{:<24} {seconds:>5.1} s  NOT KILLED: without it {story} fails too  ({})",
                mutant.name, mutant.rule
            );
        }
        Some(Kill { watcher, story }) => {
            println!("{:<24} {seconds:>5.1} s  {watcher:<9} {story}  ({})", mutant.name, mutant.rule);
        }
        None => println!("{:<24} {seconds:>5.1} s  survives  ({})", mutant.name, mutant.rule),
    }
}

fn judge(fates: &[Fate], all: bool) -> i32 {
    let mut by_watcher: BTreeMap<&str, u32> = BTreeMap::new();
    let mut wrong = Vec::new();
    for fate in fates {
        let is_control = fate.mutant.name == CONTROL;
        if let Some(kill) = fate.killed.as_ref().filter(|_| !fate.is_false) {
            *by_watcher.entry(&kill.watcher).or_default() += 1;
        }
        if fate.is_killed() == is_control {
            wrong.push(fate.mutant.name);
        }
    }
    println!("killed by: {by_watcher:?}");
    if all {
        wrong.extend(WATCHERS.iter().filter(|watcher| !by_watcher.contains_key(**watcher)));
    }
    let killed = fates.iter().filter(|fate| fate.is_killed()).count();
    println!(
        "{killed} of {} mutants killed; wrong: {wrong:?}",
        fates.iter().filter(|fate| fate.mutant.name != CONTROL).count()
    );
    i32::from(!wrong.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_test_is_named() {
        let text = "running 2 tests\n.F\nfailures:\n\n---- a_name stdout ----\n\nthread 'a_name' panicked\n";
        assert_eq!(failed_test(text), Some("a_name"));
        assert_eq!(failed_test("running 2 tests\n..\ntest result: ok."), None);
    }
}
