//! The command line and daemon of Striate.
//!
//! ```text
//!     cli        what can be typed                 names, units, members   the words in it
//!     commands   a verb each                       output, log, journal, meter, failure, advice  what the operator sees
//!     control    commands to a running server      rundir                  where that is found
//!     sandbox    what each thread may still do     tls                     encryption of NBD clients
//!     demo       the whole story, with nbd_client  documents               what verbs print with --json
//!     engine     all that touches members
//! ```
//! This package is the control plane: no byte of a host's data passes through it, but for those of clients that use TLS, and the demo's.

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
                    // Its reader may have had `ready` and never read again, and a server that has failed must still end.
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

/// Ends a command line that clap does not accept, or that asks for help.
fn usage(error: &clap::Error) -> ExitCode {
    let words: Vec<_> = std::env::args_os().take_while(|word| word != "--").collect();
    if error.use_stderr() && words.iter().any(|word| word == "--json") {
        let text = error.render().to_string();
        // The reason comes first; an empty line, usage and advice follow.
        let reason = text.split("\n\n").next().unwrap_or_default();
        print_error(ErrorKind::Usage, &Failure::new(reason.trim_start_matches("error: ")));
    }
    // A reader that has gone is told nothing.
    let _ = error.print();
    ExitCode::from(error.exit_code() as u8)
}

/// Prints the document of a failure. The exit code and the line on standard error say the same, so a reader that has gone misses nothing.
fn print_error(kind: ErrorKind, failure: &Failure) {
    let _ = output::print_json(&error_document(kind, failure));
}

/// The same as one line, after the line that said `ready`, and without waiting long for the reader.
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
