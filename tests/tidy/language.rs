//! Rules for the language of comments: how a doc comment begins, that it is more than a word, and how wide it
//! is.
//!
//! Method: the lines of every Rust file whose first characters are a comment mark. A doc comment begins where
//! the line before has no such mark. Oracle: the lists below.

use std::collections::BTreeMap;

use super::report;
use super::tree::{Source, sources};

/// The longest line of a comment, indentation included.
const COMMENT_COLUMNS_MAX: usize = 110;

/// Words that make a first line hang on something that the reader has not seen.
const WORDS_WITHOUT_NOUN: &[&str] = &[
    "Also", "And", "As", "But", "Else", "He", "It", "Its", "Nor", "Or", "So", "Such", "That", "Their",
    "Them", "These", "They", "This", "Those", "Too", "What", "Where", "Which", "Who", "Whoever", "Whom",
    "Whose",
];

/// Of a hundred doc comments of a crate, so many may begin that way: sometimes the word is no pronoun.
const PERCENT_MAX: usize = 3;

/// The first lines of the doc comments of a file, with their numbers.
fn first_lines(source: &Source) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut before = "";
    for (index, line) in source.text.lines().enumerate() {
        let line = line.trim_start();
        for mark in ["///", "//!"] {
            if line.starts_with(mark) && !before.starts_with(mark) {
                found.push((index + 1, line[mark.len()..].trim()));
            }
        }
        before = line;
    }
    found
}

/// The crate of a file, by its directory.
fn crate_of(path: &str) -> &str {
    let crates = ["bitmap", "engine", "fuzz", "parity-simd", "tests/sim"];
    crates.into_iter().find(|name| path.starts_with(&format!("{name}/"))).unwrap_or("striate")
}

fn begins_without_noun(line: &str) -> bool {
    let word = line.split(|c: char| !c.is_alphabetic()).next().unwrap_or("");
    WORDS_WITHOUT_NOUN.contains(&word) || line.starts_with("The same ")
}

#[test]
fn docs_name_what_they_are_about() {
    let mut by_crate: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for source in sources() {
        let (docs, breaches) = by_crate.entry(crate_of(&source.path).to_string()).or_default();
        for (number, line) in first_lines(&source) {
            *docs += 1;
            if begins_without_noun(line) {
                breaches.push(format!("{}:{number}: {line}", source.path));
            }
        }
    }
    for (name, (docs, breaches)) in by_crate {
        let rule = format!("at most {PERCENT_MAX} of a hundred doc comments of {name} begin without a noun");
        if breaches.len() * 100 > docs * PERCENT_MAX {
            report(&rule, breaches);
        }
    }
}

#[test]
fn docs_are_more_than_a_word() {
    let breaches = sources().into_iter().flat_map(|source| {
        let lines = first_lines(&source).into_iter();
        let words = lines.filter(|(_, line)| line.ends_with('.') && !line.contains(' '));
        words.map(|(number, line)| format!("{}:{number}: {line}", source.path)).collect::<Vec<_>>()
    });
    report("a doc comment says more than its name does", breaches.collect::<Vec<_>>());
}

#[test]
fn comments_are_not_too_wide() {
    // A row of a table cannot be wrapped.
    let is_row = |line: &str| line.trim_start().trim_start_matches(['/', '!']).trim_start().starts_with('|');
    let is_wide = |line: &str| {
        line.trim_start().starts_with("//") && !is_row(line) && line.chars().count() > COMMENT_COLUMNS_MAX
    };
    let breaches = sources().into_iter().flat_map(|source| {
        let lines = (1..).zip(source.text.lines()).filter(|(_, line)| is_wide(line));
        let breach = |(number, line): (usize, &str)| {
            format!(
                "{}:{number}: {} columns, at most {COMMENT_COLUMNS_MAX}",
                source.path,
                line.chars().count()
            )
        };
        lines.map(breach).collect::<Vec<_>>()
    });
    report("comments are easy to read beside code", breaches.collect::<Vec<_>>());
}

#[test]
fn a_pronoun_is_seen() {
    assert!(begins_without_noun("Which of the two.") && begins_without_noun("The same with less room."));
    assert!(!begins_without_noun("The same-named file.") && !begins_without_noun("Whether it is."));
}
