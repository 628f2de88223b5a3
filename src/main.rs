//! The command line and daemon of Striate.
//!
//! ```text
//!     cli        what can be typed               names, units, members   the words in it
//!     commands   one file for each verb          output, log, journal, meter, failure, advice
//!                                                                        what the operator sees
//!     control    commands to a running server    rundir                  its files
//!     sandbox    what each thread may still do   tls                     encryption of NBD clients
//!     demo       the whole story, and nbd_client documents               what verbs print with --json
//!     engine     everything that touches members
//! ```
//! This package is the control plane. No byte of a host's data passes through it, except for clients that
//! use TLS, and for the demo.

#![deny(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "both panic where nobody reads: see `log` and `output`"
)]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::documents::{ErrorDocument, ErrorKind};
use crate::failure::{Failure, Outcome};

mod advice;
mod cli;
mod commands;
mod control;
mod demo;
mod documents;
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

/// How long a server that failed waits for the reader of standard output.
const ERROR_TIME_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli.with_environment(),
        Err(error) => return usage(&error),
    };
    if let Some(run_dir) = cli.run_dir.as_deref().filter(|given| !rundir::is_default(given)) {
        advice::name_run_dir(run_dir);
    }
    let code = match commands::run(&cli) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Problem) => ExitCode::FAILURE,
        Ok(Outcome::Checked(verdict)) => ExitCode::from(verdict as u8),
        Err(failure) => {
            log::say(&failure.line());
            if cli.verb.json() {
                let kind = if failure.exit_code() == 2 { ErrorKind::Usage } else { ErrorKind::Failed };
                match cli.verb {
                    // The reader of `serve` may stop reading after `ready`, but a server that failed must
                    // still end.
                    cli::Verb::Serve(_) => print_error_in_time(kind, &failure),
                    _ => print_error(kind, &failure),
                }
            }
            ExitCode::from(failure.exit_code())
        }
    };
    log::settle();
    code
}

/// Ends the program if clap does not accept the command line, or if it asks for help.
fn usage(error: &clap::Error) -> ExitCode {
    let words: Vec<_> = std::env::args_os().take_while(|word| word != "--").collect();
    if error.use_stderr() && words.iter().any(|word| word == "--json") {
        let text = error.render().to_string();
        // The reason comes first; an empty line, usage and advice follow.
        let reason = text.split("\n\n").next().unwrap_or_default();
        print_error(ErrorKind::Usage, &Failure::new(reason.trim_start_matches("error: ")));
    }
    // If the reader has gone, there is nothing left to do.
    let _ = error.print();
    ExitCode::from(error.exit_code() as u8)
}

/// Prints the document of a failure. The exit code and the line on standard error say the same, so a write
/// that fails is ignored.
fn print_error(kind: ErrorKind, failure: &Failure) {
    let _ = output::print_json(&error_document(kind, failure));
}

/// Prints the document of a failure as one line, like `ready` before it, and waits at most [`ERROR_TIME_MAX`]
/// for the reader.
fn print_error_in_time(kind: ErrorKind, failure: &Failure) {
    let Ok(line) = output::json_line(&error_document(kind, failure)) else { return };
    let (done, printed) = std::sync::mpsc::channel();
    let print = move || drop(done.send(output::print(&line)));
    if std::thread::Builder::new().name("ready".into()).spawn(print).is_ok() {
        let _in_time_or_not = printed.recv_timeout(ERROR_TIME_MAX);
    }
}

fn error_document(kind: ErrorKind, failure: &Failure) -> ErrorDocument {
    ErrorDocument::new(kind, advice::typed(&failure.line()).into_owned())
}
