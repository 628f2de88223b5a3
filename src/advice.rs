//! Commands in advice, in a form that can be typed: with the run directory, if it is not the default one.
//!
//! Texts name commands in backquotes (`` `striate wait media` ``). The engine writes such texts too and knows
//! no command line. So the places that print texts for an operator (`log`, `output`, `commands/notices`)
//! insert the option.

use std::borrow::Cow;
use std::path::Path;
use std::sync::OnceLock;

use engine::server::shell_path;

/// The text `--run-dir DIR`, if commands need it.
static OPTION: OnceLock<String> = OnceLock::new();

/// Makes all advice from here on name this run directory.
pub fn name_run_dir(path: &Path) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let _first_counts = OPTION.set(format!("--run-dir {}", shell_path(&absolute)));
}

/// Inserts the option in each command of a text.
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
