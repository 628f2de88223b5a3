//! Standard output: whole texts, flushed, and no complaint when the reader has gone (`striate status | head`).

use std::io::{ErrorKind, Write};

use serde::Serialize;

use crate::advice;
use crate::documents::Document;
use crate::failure::{Context, Result};

/// Writes `text` for an operator and flushes, so that a reader of a pipe sees it now.
pub fn print(text: &str) -> Result<()> {
    print_to_reader(text).map(drop)
}

/// Writes `text` as [`print()`] does. Returns whether there is a reader still.
pub fn print_to_reader(text: &str) -> Result<bool> {
    write(&advice::typed(text))
}

/// Writes a document, with its version, as indented JSON and a newline.
pub fn print_json<T: Serialize>(content: &T) -> Result<()> {
    print_json_as_it_is(&Document::of(content))
}

/// Writes a document that has its version already.
pub fn print_json_as_it_is<T: Serialize>(document: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(document).context(|| "cannot write JSON".into())?;
    write(&(text + "\n")).map(drop)
}

/// A document, with its version, as one line of JSON: for verbs that go on after it.
pub fn json_line<T: Serialize>(content: &T) -> Result<String> {
    let text = serde_json::to_string(&Document::of(content)).context(|| "cannot write JSON".into())?;
    Ok(text + "\n")
}

fn write(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context(|| "cannot write to standard output".into()),
    }
}
