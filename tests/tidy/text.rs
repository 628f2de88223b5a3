//! Simple readers of Rust, TOML and Markdown: only as much of each as the rules of tests/tidy.rs need.
//!
//! Rust is not parsed: comments, strings and character literals are blanked (the lines stay where they were),
//! and then words are searched in the rest.

use std::collections::{BTreeMap, BTreeSet};

/// Blanks comments, strings and character literals.
pub fn blank_text(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = text_end(bytes, at);
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole characters were blanked")
}

/// The end of the comment or literal that begins at `at`; `at` itself if none begins there.
pub fn text_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    if rest[0] == b'r' && !word_before {
        let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
            let body = at + 2 + hashes;
            let found = bytes[body..].windows(close.len()).position(|w| w == close);
            return found.map_or(bytes.len(), |i| body + i + close.len());
        }
    }
    match rest[0] {
        b'"' => quoted_end(bytes, at, b'"'),
        // A lifetime has no closing quote where a literal of one character has one.
        b'\'' if rest.get(1) == Some(&b'\\') => quoted_end(bytes, at, b'\''),
        b'\'' => {
            let close = rest.iter().skip(2).take(4).position(|b| *b == b'\'');
            match close {
                Some(i) if i == 0 || rest[1] >= 0x80 => at + 3 + i,
                _ => at,
            }
        }
        _ => at,
    }
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i < bytes.len() {
        match &bytes[i..bytes.len().min(i + 2)] {
            b"/*" => (depth, i) = (depth + 1, i + 2),
            b"*/" => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    bytes.len()
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut i = at + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b if b == quote => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// The code before an inline `#[cfg(test)] mod tests { ... }`, which comes last by custom.
pub fn without_inline_tests(code: &str) -> String {
    let mut at = 0;
    while let Some(found) = code[at..].find("#[cfg(test)]") {
        let start = at + found;
        let item = code[start + "#[cfg(test)]".len()..].trim_start();
        if item.starts_with("mod ") && item.find('{') < item.find(';') && item.contains('{') {
            return code[..start].to_string();
        }
        at = start + 1;
    }
    code.to_string()
}

/// The first line (from 1) that contains `path` as a whole path.
pub fn line_with(code: &str, path: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(path).find_map(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + path.len()..].chars().next();
        let whole = !before.is_some_and(|c| is_word(c) || c == '.') && !after.is_some_and(is_word);
        whole.then(|| code[..at].matches('\n').count() + 1)
    })
}

/// Modules named in `std::{a, b::c}`, with their lines.
pub fn std_groups(code: &str) -> Vec<(usize, String)> {
    groups_of(code, "std::{")
}

/// First names inside the braces that follow `prefix`, with the line of the prefix.
pub fn groups_of(code: &str, prefix: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let line = code[..at].matches('\n').count() + 1;
        let (mut depth, mut name) = (1, String::new());
        let mut in_name = true;
        for c in code[at + prefix.len()..].chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => in_name = true,
                c if depth == 1 && in_name && (c.is_alphanumeric() || c == '_') => name.push(c),
                c if c.is_whitespace() => continue,
                _ => in_name = false,
            }
            if !name.is_empty() && (depth == 0 || !in_name || c == ',') {
                found.push((line, std::mem::take(&mut name)));
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// Rooms of this crate that the code names by `crate::ROOM`, with the first line of each.
pub fn rooms_named(code: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for (at, prefix) in code.match_indices("crate::") {
        let name: String =
            code[at + prefix.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let line = code[..at].matches('\n').count() + 1;
        if name.starts_with(char::is_lowercase) && !code[..at].ends_with('$') {
            found.entry(name).or_insert(line);
        }
    }
    for (line, name) in groups_of(code, "crate::{") {
        if name.starts_with(char::is_lowercase) {
            found.entry(name).or_insert(line);
        }
    }
    found
}

/// The tables of a manifest: name and lines, without comments and blank lines.
pub fn tables(manifest: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut table = String::new();
    for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_matches(['[', ']']).to_string();
            found.entry(table.clone()).or_default();
        } else {
            found.entry(table.clone()).or_default().push(line.to_string());
        }
    }
    found
}

pub fn package_name(manifest: &str) -> Option<String> {
    let lines = tables(manifest).remove("package")?;
    let line = lines.iter().find(|line| line.starts_with("name"))?;
    Some(line.split('"').nth(1)?.to_string())
}

/// Names of rules and monitors at the beginning of string literals: `"A1: ...`, `"B11, ...`, `"READONLY:
/// ...`.
pub fn rules_named(source: &str) -> BTreeSet<String> {
    let is_rule = |name: &str| {
        let letters = name.bytes().take_while(u8::is_ascii_uppercase).count();
        let (letters, digits) = name.split_at(letters);
        match letters.len() {
            1 => (1..=2).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit()),
            count => count >= 4 && digits.is_empty(),
        }
    };
    let literals = source.split('"').skip(1);
    let heads = literals.filter_map(|text| Some(&text[..text.find([':', ','])?]));
    heads.filter(|head| is_rule(head)).map(String::from).collect()
}

/// The scenarios of the simulator: `Scenario::Deaths => "deaths"`.
pub fn scenarios_named(source: &str) -> Vec<String> {
    let arms = source.split("Scenario::").skip(1);
    let name = |arm: &str| {
        let (variant, rest) = arm.split_once(" => \"")?;
        let name = rest.split('"').next()?;
        variant.chars().all(char::is_alphanumeric).then(|| name.to_string())
    };
    arms.filter_map(name).collect()
}

/// Targets of `[text](target)` outside of code blocks, with lines from 1.
pub fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code || line.starts_with("    ") {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            if let Some(target) = line[at + 2..].split(')').next() {
                found.push((index + 1, target.split_whitespace().next().unwrap_or("").to_string()));
            }
        }
    }
    found
}

/// The anchors that the headings of a document make.
pub fn headings(text: &str) -> BTreeSet<String> {
    let titles =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |title: &str| {
        let title = title.to_lowercase().replace(' ', "-");
        title.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect::<String>()
    };
    titles.map(anchor).collect()
}

#[test]
fn comments_and_literals_are_blanked() {
    let check = |text: &str, code: &str| assert_eq!(blank_text(text), code, "of {text:?}");
    check("a // unsafe\nb", "a          \nb");
    check("a /* x /* y */ z */ b", "a                   b");
    check(r#"f("std::fs \" x") + 1"#, r#"f(              ) + 1"#);
    check("f(r#\"a\"b\"#, 'x')", "f(        ,    )");
    check("fn f<'a>(x: &'a str) { '\\'' }", "fn f<'a>(x: &'a str) {      }");
    assert_eq!(line_with("a\nuse std::fs::File;", "std::fs"), Some(2));
    assert_eq!(line_with("my_libc_thing", "libc"), None);
    let groups = groups_of("use std::{fmt, fs::File, io::{Read, Write}};", "std::{");
    assert_eq!(groups.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["fmt", "fs", "io"]);
}
