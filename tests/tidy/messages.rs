//! Every message of the program in one list, so that a review shows a change of a message; and rules for all
//! messages.
//!
//! Method: collect the string literals of src and engine/src that have two words or more, except those that
//! only a bug shows (`assert`, `expect`) and the reasons of lints. These literals are the messages, or pieces
//! of messages. The list is tests/messages/all.txt; after an intended change, STRIATE_BLESS=1 rewrites it.
//! Oracle for the rules: the verbs and options in tests/help, which tests/cli.rs compares with the program.
//!
//! Rules: a verb or an option that a message names exists. No message has a doubled colon, a full stop at its
//! end, a Rust path, or the Debug form of a value. None begins with a capital, except for names. None advises
//! an action that no verb performs.

use std::collections::BTreeSet;

use crate::literals::{Literal, literals};
use crate::report;
use crate::text::without_inline_tests;
use crate::tree::{Source, files_with_extension, read, root, sources};

const LIST: &str = "tests/messages/all.txt";

/// Calls whose texts only a bug shows.
const OF_BUGS: &[&str] = &[
    "assert",
    "assert_eq",
    "assert_ne",
    "debug_assert",
    "debug_assert_eq",
    "debug_assert_ne",
    "expect",
    "expect_err",
    "panic",
    "unreachable",
];

/// Capitalised words at the beginning of a message that are names, or output for programs (`ready`,
/// KEY=value).
const NAMES: &[&str] = &[
    "CPU",
    "DATA",
    "EFI",
    "I/O",
    "ID_FS_TYPE",
    "Landlock",
    "Linux",
    "NBD",
    "NO",
    "NVMe",
    "STRIATE",
    "STRIATE_LOG",
    "TLS",
    "Striate",
    "WRONG",
];

/// Files whose sentences begin with a capital letter, and the reason.
const SENTENCES: &[(&str, &str)] = &[
    ("src/cli.rs", "the end of the help"),
    ("src/demo/mod.rs", "the story that the demo tells"),
    ("src/demo/seed.rs", "the level by its name"),
    ("src/demo/stage.rs", "the end of the demo"),
];

/// Options of other programs that messages name.
const FOREIGN_OPTIONS: &[(&str, &str)] =
    &[("--find", "losetup"), ("--show", "losetup"), ("--direct-io", "losetup"), ("--setrw", "blockdev")];

/// Files with Debug forms in messages, and the values concerned.
const DEBUG_FORMS: &[(&str, &str)] = &[
    ("engine/src/frontend/nbd/listen.rs", "an address as it was typed"),
    ("engine/src/lost.rs", "the Debug form itself, for developers"),
    ("engine/src/server/create.rs", "a name as it was typed"),
    ("src/cli.rs", "words as they were typed"),
    ("src/commands/serve.rs", "a name of a superblock, which may hold anything"),
    ("src/demo/mod.rs", "the demo's own failure"),
    ("src/demo/seed.rs", "the demo's own failure"),
];

/// Advice that no verb carries out, and words that do not help an operator.
const VAIN_ADVICE: &[&str] = &["wipe it", "add them again", "re-add", "please", "locked by another process"];

/// The messages of a file, in order.
fn messages(source: &Source) -> Vec<String> {
    let text = &source.text[..without_inline_tests(&source.code()).len()];
    let is_message = |one: &Literal| {
        let is_of_bug = one.is_reason || one.calls.iter().any(|call| OF_BUGS.contains(&call.as_str()));
        let words = without_places(&one.value);
        let words = words.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic));
        !is_of_bug && words.count() >= 2
    };
    literals(text).into_iter().filter(is_message).map(|one| one.value).collect()
}

/// A message without the parts in braces, which stand for values.
fn without_places(message: &str) -> String {
    let mut pieces = message.split('{');
    let first = pieces.next().unwrap_or_default().to_string();
    pieces.fold(first, |text, piece| text + piece.split_once('}').map_or("", |(_, after)| after))
}

/// All messages, by file.
fn all() -> Vec<(String, Vec<String>)> {
    let is_program = |path: &str| {
        (path.starts_with("src/") || path.starts_with("engine/src/")) && !path.ends_with("tests.rs")
    };
    let of_files = sources().into_iter().filter(|source| is_program(&source.path));
    of_files
        .map(|source| (source.path.clone(), messages(&source)))
        .filter(|(_, all)| !all.is_empty())
        .collect()
}

#[test]
fn messages_are_those_of_the_list() {
    let mut list = String::new();
    for (path, messages) in all() {
        list += &format!("{path}\n");
        messages.iter().for_each(|message| list += &format!("    {}\n", message.replace('\n', "\\n")));
    }
    if std::env::var_os("STRIATE_BLESS").is_some() {
        std::fs::write(root().join(LIST), &list).expect("the list can be written");
    }
    let known = read(LIST).unwrap_or_default();
    // A message that moved to another file is in both sets.
    let has_moved = (known != list).then(|| "the order, or the file of a message".to_string());
    let (known, now) = (known.lines().collect::<BTreeSet<_>>(), list.lines().collect::<BTreeSet<_>>());
    let gone = known.difference(&now).map(|line| format!("no more: {}", line.trim()));
    let new = now.difference(&known).map(|line| format!("new: {}", line.trim()));
    report(
        &format!("the messages are those of {LIST} (STRIATE_BLESS=1 if the change is meant)"),
        gone.chain(new).chain(has_moved),
    );
}

/// The options of a verb according to its help; of all verbs for an empty name.
fn options_of(verb: &str) -> BTreeSet<String> {
    let files = match verb {
        "" => {
            files_with_extension("txt").into_iter().filter(|path| path.starts_with("tests/help/")).collect()
        }
        _ => vec![format!("tests/help/{verb}.txt")],
    };
    let texts = files.iter().filter_map(|file| read(file));
    texts.flat_map(|text| options_named(&text)).collect()
}

/// The words of a text that begin with two dashes, up to a `=`.
fn options_named(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let words = text.split(|c: char| !is_part(c));
    let is_option = |word: &&str| {
        word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    words.filter(is_option).map(|word| word.trim_end_matches('-').to_string()).collect()
}

/// The commands that a message names: texts between backquotes that begin with the program's name.
fn commands(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("striate ")).collect()
}

#[test]
fn a_verb_and_an_option_that_a_message_names_exist() {
    let every = options_of("");
    assert!(every.contains("--force") && every.contains("--run-dir"), "the help is not there: {every:?}");
    let mut breaches = Vec::new();
    for (path, messages) in all() {
        for message in messages {
            for option in options_named(&without_places(&message)) {
                if !every.contains(&option) && !FOREIGN_OPTIONS.iter().any(|(foreign, _)| *foreign == option)
                {
                    breaches.push(format!("{path}: {option} is no option: {message}"));
                }
            }
            for command in commands(&message) {
                let verb = command.split([' ', '`']).next().unwrap_or_default();
                let options = options_of(verb);
                if options.is_empty() && verb != "{}" {
                    breaches.push(format!("{path}: {verb:?} is no verb: {message}"));
                }
                let of_another =
                    options_named(&without_places(command)).into_iter().filter(|one| !options.contains(one));
                breaches
                    .extend(of_another.map(|option| format!("{path}: {verb} has no {option}: {message}")));
            }
        }
    }
    report("verbs and options in messages are those of the command line", breaches);
}

#[test]
fn messages_are_written_by_the_rules() {
    let mut breaches = Vec::new();
    for (path, messages) in all() {
        let is_listed = |list: &[(&str, &str)]| list.iter().any(|(file, _)| *file == path);
        for message in messages {
            let mut breach = |what: &str| breaches.push(format!("{path}: {what}: {message}"));
            let text = without_places(&message);
            if message.contains("::") || message.contains(": :") {
                breach("a doubled colon or a Rust path");
            }
            if text.trim_end().ends_with('.') && !text.trim_end().ends_with("...") && !is_listed(SENTENCES) {
                breach("a full stop at the end");
            }
            if message.contains(":?}") && !is_listed(DEBUG_FORMS) {
                breach("a Debug form");
            }
            if VAIN_ADVICE.iter().any(|advice| text.contains(advice)) {
                breach("advice that no verb carries out, or a word that says nothing");
            }
            let first = message.trim_start().split([' ', ':', '=']).next().unwrap_or_default();
            if first.starts_with(char::is_uppercase) && !NAMES.contains(&first) && !is_listed(SENTENCES) {
                breach("it begins with a capital and is no name");
            }
        }
    }
    report("messages are short, plain and about something", breaches);
}
