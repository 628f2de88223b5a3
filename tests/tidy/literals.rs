//! The string literals of a Rust text, each with the calls that it is an argument of.

use crate::text::{blank_text, text_end};

/// A string literal of a program's text.
pub struct Literal {
    /// The value, escapes resolved.
    pub value: String,
    /// The functions and macros that it is an argument of, the nearest first.
    pub calls: Vec<String>,
    /// Whether the literal is the reason of a lint.
    pub is_reason: bool,
}

/// The string literals of a Rust text, in order.
pub fn literals(text: &str) -> Vec<Literal> {
    let (bytes, code) = (text.as_bytes(), blank_text(text));
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let end = text_end(bytes, at);
        let is_raw = bytes[at] == b'r';
        if end > at && (is_raw || bytes[at] == b'"') {
            let (first, last) = (text[at..end].find('"'), text[at..end].rfind('"'));
            let (first, last) = (first.expect("a quote"), last.expect("a quote"));
            let body = &text[at + first + 1..at + last];
            let value = if is_raw { body.to_string() } else { unescaped(body) };
            let is_reason = code[..at].trim_end().ends_with("reason =");
            found.push(Literal { value, calls: calls_around(&code[..at]), is_reason });
        }
        at = end.max(at + 1);
    }
    found
}

/// The value of a literal between its quotes. A backslash at the end of a line removes the white space after
/// it.
fn unescaped(body: &str) -> String {
    let (mut value, mut rest) = (String::new(), body);
    while let Some((before, after)) = rest.split_once('\\') {
        value += before;
        let mut letters = after.chars();
        match letters.next() {
            Some('n') => value.push('\n'),
            Some('\n') => letters = letters.as_str().trim_start().chars(),
            Some(letter) => value.push(letter),
            None => {}
        }
        rest = letters.as_str();
    }
    value + rest
}

/// The names before the parentheses that are open at the end of a blanked text, the innermost first.
fn calls_around(code: &str) -> Vec<String> {
    let (mut calls, mut closed) = (Vec::new(), 0);
    for (at, letter) in code.char_indices().rev() {
        match letter {
            ')' | ']' | '}' => closed += 1,
            '(' | '[' | '{' if closed > 0 => closed -= 1,
            '(' => {
                let before = code[..at].trim_end_matches('!');
                let name = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
                calls.extend(name.map(str::to_string));
            }
            _ => {}
        }
    }
    calls
}

#[test]
fn literals_have_their_calls() {
    let found = literals("// \"no\"\nfn f() { g(format!(\"a \\\n   b {}\", h(1)), r#\"c \"d\"\"#); \"e\" }");
    let found: Vec<_> = found.iter().map(|one| (one.value.as_str(), one.calls.join(" "))).collect();
    assert_eq!(found, [("a b {}", "format g".into()), ("c \"d\"", "g".into()), ("e", String::new())]);
}
