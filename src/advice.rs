//! Commands in advice, as they can be typed: with the run directory, if it is not the default one.
//!
//! Texts name commands in backquotes (`` `striate wait media` ``), wherever they are made, in the engine too, which knows no command
//! line. The places that write texts for an operator (`log`, `output`, `commands/notices`) put the option in.

use std::borrow::Cow;
use std::path::Path;
use std::sync::OnceLock;

use engine::server::shell_path;

/// `--run-dir DIR`, where commands need it.
static OPTION: OnceLock<String> = OnceLock::new();

/// From here on, advice names this run directory.
pub fn name_run_dir(path: &Path) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let _first_counts = OPTION.set(format!("--run-dir {}", shell_path(&absolute)));
}

/// The text with the option in each command.
pub fn typed(text: &str) -> Cow<'_, str> {
    OPTION.get().map_or(Cow::Borrowed(text), |option| with_option(text, option))
}

fn with_option<'a>(text: &'a str, option: &str) -> Cow<'a, str> {
    const COMMAND: &str = "`striate ";
    if text.contains(COMMAND) {
        Cow::Owned(text.replace(COMMAND, &format!("{COMMAND}{option} ")))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_option() {
        assert_eq!(
            with_option("see `striate status`, or `striate stop a`; striate: ready", "--run-dir /r"),
            "see `striate --run-dir /r status`, or `striate --run-dir /r stop a`; striate: ready"
        );
    }
}
