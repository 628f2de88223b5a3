//! Checks that the commands named in documents and messages can be typed.
//!
//! Method: parse as a command line each line of a code block, and each text in backquotes, that begins with
//! the program's name. Oracle: the definition of the command line. A text that only names a verb in running
//! text may lack its arguments; a line of a code block and a command in a message may not. Whether commands
//! do what the text says is tested by tests/e2e/advice.rs and manual.rs.

use clap::Parser;
use clap::error::ErrorKind;

use super::Cli;

const DOCUMENTS: &[(&str, &str)] = &[
    ("README.md", include_str!("../../README.md")),
    ("docs/operating.md", include_str!("../../docs/operating.md")),
    ("docs/performance.md", include_str!("../../docs/performance.md")),
    ("docs/testing.md", include_str!("../../docs/testing.md")),
    ("docs/findings.md", include_str!("../../docs/findings.md")),
    ("docs/format.md", include_str!("../../docs/format.md")),
];

/// The messages of the program, one per line.
const MESSAGES: &str = include_str!("../../tests/messages/all.txt");

/// The error of a command line, if it has one.
fn error_of(command: &str) -> Option<ErrorKind> {
    let words = command.split_whitespace().map(|word| word.trim_matches('\''));
    Cli::try_parse_from(words).err().map(|error| error.kind())
}

/// The commands of this program in the code blocks of a document.
fn typed(document: &str) -> Vec<String> {
    let blocks = document.split("\n```").skip(1).step_by(2);
    let lines = blocks.flat_map(|block| block.lines().skip(1));
    let line = |line: &str| line.split(" #").next().unwrap_or_default().trim_start_matches("$ ").to_string();
    let parts = lines
        .map(line)
        .flat_map(|line| line.split(['&', '|', ';']).map(|part| part.trim().to_string()).collect::<Vec<_>>());
    parts.filter(|part| part.starts_with("striate ")).collect()
}

/// The commands in backquotes.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').filter(|code| code.starts_with("striate ") && !code.contains('\n'))
}

#[test]
fn documents_name_commands_that_exist() {
    let mut count = 0;
    for (path, document) in DOCUMENTS {
        for command in typed(document) {
            assert_eq!(error_of(&command), None, "{path}: {command}");
            count += 1;
        }
        for command in named(document) {
            let error = error_of(command);
            let is_short = error == Some(ErrorKind::MissingRequiredArgument);
            assert!(error.is_none() || is_short, "{path}: {command}: {error:?}");
            count += 1;
        }
    }
    assert!(count > 30, "only {count} commands were found");
}

#[test]
fn messages_name_commands_that_can_be_typed() {
    let mut count = 0;
    for message in MESSAGES.lines() {
        // Skip the demo's own message, whose backquotes hold whatever command it ran.
        for command in named(message).filter(|command| *command != "striate {}") {
            // Fill in values: "1" is valid as a name and as a path.
            let mut pieces = command.split('{');
            let head = pieces.next().unwrap_or_default().to_string();
            let filled = pieces
                .fold(head, |text, piece| text + "1" + piece.split_once('}').map_or("", |(_, rest)| rest));
            assert_eq!(error_of(&filled), None, "{message}");
            count += 1;
        }
    }
    assert!(count > 20, "only {count} commands were found");
}
