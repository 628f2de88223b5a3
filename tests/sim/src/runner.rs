//! Runs seeds, catches violations, and says how to repeat them.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use engine::memory::Memory;

use crate::scenario::{Outcome, Scenario, run};
use crate::world::fresh_memory;

/// A seed that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The scenario.
    pub scenario: Scenario,
    /// What was violated, and where.
    pub what: String,
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static MEMORY: Arc<Memory> = fresh_memory();
}

/// Panics are remembered, not printed.
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

/// Runs one seed.
pub fn attempt(seed: u64, scenario: Scenario, verbose: bool) -> Result<Outcome, Failure> {
    quiet_panics();
    let memory = MEMORY.with(Arc::clone);
    catch_unwind(AssertUnwindSafe(|| run(seed, scenario, &memory, verbose))).map_err(|_| {
        let what = LAST_PANIC.with(|last| last.borrow().clone());
        Failure { seed, scenario, what }
    })
}

/// The command that repeats a failure.
#[must_use]
pub fn command(failure: &Failure) -> String {
    format!(
        "cargo run -p sim --profile sim -- --seed {} --scenario {} --trace",
        failure.seed,
        failure.scenario.name()
    )
}
