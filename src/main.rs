//! The command line and daemon of Striate.
//!
//! ```text
//!     cli        what can be typed                 names, units, members   the words in it
//!     commands   a verb each                       output, log, journal, meter, failure, advice  what the operator sees
//!     control    commands to a running server      rundir                  where that is found
//!     sandbox    what each thread may still do     tls                     encryption of NBD clients
//!     demo       the whole story, with nbd_client  engine                  all that touches members
//! ```
//! This package is the control plane: no byte of a host's data passes through it, but for those of clients that use TLS, and the demo's.

#![deny(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "both panic where nobody reads: see `log` and `output`"
)]

use std::process::ExitCode;

use clap::Parser;

use crate::failure::Outcome;

mod advice;
mod cli;
mod commands;
mod control;
mod demo;
mod failure;
mod journal;
mod log;
mod members;
mod meter;
mod names;
mod nbd_client;
mod output;
mod rundir;
mod sandbox;
mod tls;
mod units;

fn main() -> ExitCode {
    let cli = cli::Cli::parse().with_environment();
    if let Some(run_dir) = cli.run_dir.as_deref().filter(|given| !rundir::is_default(given)) {
        advice::name_run_dir(run_dir);
    }
    let code = match commands::run(&cli) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Problem) => ExitCode::FAILURE,
        Ok(Outcome::Checked(verdict)) => ExitCode::from(verdict as u8),
        Err(failure) => {
            log::say(&failure.line());
            ExitCode::from(failure.exit_code())
        }
    };
    log::settle();
    code
}
