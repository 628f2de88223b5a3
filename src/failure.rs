//! Why a command failed, as one line for an operator, and the exit code of the program.
//!
//! ```text
//!     0   done, and no problem was found
//!     1   the operation failed (a `Failure`), or found a problem (`Outcome::Problem`)
//!     2   the command line makes no sense: clap says so before any command runs, or a command does
//!         where options do not fit each other (`Failure::usage`)
//!     `status --check` ends with 0 to 3, as monitoring plugins do (a `Verdict`)
//! ```
//!
//! A line reads `striate: WHAT: WHICH: WHAT TO DO`, so that the logs of many machines can be split at `: `.

use engine::server::ServerError;

/// How a command that did its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command is done and found no problem.
    Fine,
    /// The command is done, but something it found or left behind needs an operator: exit code 1.
    Problem,
    /// The command was a check for a monitoring system, with exit codes of its own.
    Checked(Verdict),
}

/// The words and exit codes of monitoring plugins (Nagios, Icinga, Sensu, checkmk).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Ok => "OK",
            Verdict::Warning => "WARNING",
            Verdict::Critical => "CRITICAL",
            Verdict::Unknown => "UNKNOWN",
        })
    }
}

/// The reason why a command could not do its work.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    text: String,
    /// Whether the command line itself makes no sense, in any state of the machine.
    is_usage: bool,
}

/// The result of every command.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure in words: what happened, to which array or member, what to do.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_usage: false }
    }

    /// A command line that makes no sense, in words.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_usage: true }
    }

    /// The exit code of the program.
    pub fn exit_code(&self) -> u8 {
        if self.is_usage { 2 } else { 1 }
    }

    /// The line without the program's name. Line breaks in the text are joined, so this is always one line.
    pub fn line(&self) -> String {
        let parts = self.text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty());
        parts.fold(String::new(), |line, part| match line.as_str() {
            "" => part.to_string(),
            // A list follows its heading.
            head if head.ends_with(':') => format!("{head} {part}"),
            _ => format!("{line}: {part}"),
        })
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::new(error.to_string())
    }
}

/// Adds to an error of the system what the program was doing.
pub trait Context<T> {
    /// Turns an error into a failure whose line is `what`, followed by the error.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::new(format!("{}: {error}", what())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::new("cannot open\n  /dev/x\r\nno such file\n");
        assert_eq!(failure.line(), "cannot open: /dev/x: no such file");
        let failure = Failure::new("give one of:\n  /dev/x");
        assert_eq!(failure.line(), "give one of: /dev/x");
    }
}
