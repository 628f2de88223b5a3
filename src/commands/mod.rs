//! The verbs, one file for each group.
//!
//! Each verb takes its parsed options and returns an [`Outcome`] or a `Failure`. No verb exits, prints its
//! error, or touches a member except through the engine.

use std::path::Path;

use crate::cli::{Cli, Verb};
use crate::failure::{Outcome, Result};
use crate::rundir::RunDir;

mod bench;
mod change;
mod confine;
mod create;
mod detail;
mod grow;
mod lost;
mod member_io;
mod notices;
pub mod scan;
mod scrub;
mod serve;
mod signals;
mod status;
mod visits;
mod wait;

/// Runs the verb of the command line.
pub fn run(cli: &Cli) -> Result<Outcome> {
    let run_dir: Option<&Path> = cli.run_dir.as_deref();
    match &cli.verb {
        Verb::Create(options) => create::create(options),
        Verb::Serve(options) => serve::serve(options, run_dir),
        Verb::Status(options) => status::status(options, RunDir::find(run_dir)),
        Verb::Detail(options) => detail::detail(options, run_dir),
        Verb::Lost(options) => lost::lost(options, RunDir::find(run_dir)?.as_ref()),
        Verb::Fail(options) => change::fail(options, RunDir::find(run_dir)?.as_ref()),
        Verb::Replace(options) => change::replace(options, RunDir::find(run_dir)?.as_ref()),
        Verb::Stop(options) => change::stop(options, RunDir::find(run_dir)?.as_ref()),
        Verb::Wait(options) => wait::wait(options, RunDir::find(run_dir)?.as_ref()),
        Verb::Grow(options) => grow::grow(options, run_dir),
        Verb::Scrub(options) => scrub::scrub(options),
        Verb::Bench(options) => bench::bench(options),
        Verb::Demo(options) => crate::demo::run(options),
    }
}
