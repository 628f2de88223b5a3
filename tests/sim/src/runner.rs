//! Runs seeds, catches violations, and prints the command that repeats them.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::config::Knobs;
use crate::story::{BRANCH, Memories, Outcome, Scenario, matrix, run};

/// A seed that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed that failed.
    pub seed: u64,
    /// Scenario of the run.
    pub scenario: Scenario,
    /// Bounds within which the run was drawn; `only` names the branch that failed.
    pub knobs: Knobs,
    /// The violated check, and its place in the source.
    pub what: String,
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static MEMORIES: Memories = Memories::fresh();
}

/// Installs a panic hook that remembers the message instead of printing it.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map_or(String::new(), ToString::to_string);
            let text = info.payload_as_str().unwrap_or("?").to_owned();
            let mut trace = String::new();
            if std::env::var_os("SIM_BACKTRACE").is_some() {
                trace = format!("\n{}", std::backtrace::Backtrace::force_capture());
            }
            LAST_PANIC.with(|last| *last.borrow_mut() = format!("{text} [{place}]{trace}"));
        }));
    });
}

/// Runs a function, and returns the panic message if it panicked.
pub fn caught<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    quiet_panics();
    catch_unwind(AssertUnwindSafe(act)).map_err(|_| LAST_PANIC.with(|last| last.borrow().clone()))
}

/// Runs one seed.
pub fn attempt(seed: u64, scenario: Scenario, knobs: Knobs, verbose: bool) -> Result<Outcome, Failure> {
    quiet_panics();
    let memories = MEMORIES.with(Memories::clone);
    catch_unwind(AssertUnwindSafe(|| run(seed, scenario, knobs, &memories, verbose))).map_err(|_| {
        let what = LAST_PANIC.with(|last| last.borrow().clone());
        Failure { seed, scenario, knobs: Knobs { only: BRANCH.get().or(knobs.only), ..knobs }, what }
    })
}

/// Runs one attempt at a cell of the matrix. Returns the message if a check is violated.
pub fn attempt_cell(
    place: &matrix::Place,
    seed: u64,
    verbose: bool,
) -> Result<Option<matrix::Place>, String> {
    quiet_panics();
    let memories = MEMORIES.with(Memories::clone);
    catch_unwind(AssertUnwindSafe(|| matrix::run_cell(place, seed, &memories, verbose)))
        .map_err(|_| LAST_PANIC.with(|last| last.borrow().clone()))
}

impl Failure {
    /// The kind of a failure: the source line of the check that failed.
    #[must_use]
    pub fn kind(&self) -> &str {
        let place = self.what.rsplit('[').next().unwrap_or_default();
        place.split(']').next().unwrap_or_default()
    }

    /// The detector of the failure: the tag of an oracle or a monitor, or the engine's own assertions.
    #[must_use]
    pub fn seen_by(&self) -> &str {
        let tag = self.what.split(':').next().unwrap_or_default();
        let is_tag = !tag.is_empty()
            && tag.len() <= 12
            && tag.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        if is_tag { tag } else { "assertion" }
    }

    /// The command that repeats the failure.
    #[must_use]
    pub fn command(&self) -> String {
        let Knobs { flavour, members, stripes, depth, load, reactors, only } = self.knobs;
        let all = Knobs::of(flavour);
        let mut command = format!(
            "cargo sim {} --scenario {} --flavour {}",
            self.seed,
            self.scenario.name(),
            flavour.name()
        );
        for (name, value, full) in [
            ("members", members, all.members),
            ("stripes", stripes, all.stripes),
            ("depth", depth, all.depth),
            ("load", load, all.load),
            ("reactors", reactors, all.reactors),
        ] {
            if value != full {
                command += &format!(" --{name} {value}");
            }
        }
        only.map_or(command.clone(), |branch| format!("{command} --branch {branch}"))
    }
}
