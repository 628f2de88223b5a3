//! Standard output: complete texts, flushed, and no error when the reader has gone (`striate status | head`).

use std::io::{ErrorKind, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use crate::advice;
use crate::documents::Document;
use crate::failure::{Context, Result};

/// Whether a terminal may be shown colours. A NO_COLOR that is not empty forbids them
/// (<https://no-color.org>).
pub fn may_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Waits for `time`, or until standard output has no reader. Returns whether there still is one.
pub fn wait_with_reader(time: Duration) -> Result<bool> {
    let limit = Timespec::try_from(time).context(|| "cannot wait".into())?;
    let stdout = std::io::stdout();
    // A pipe without a reader reports an error even if no event is asked for.
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    match poll(&mut polled, Some(&limit)) {
        Ok(0) | Err(Errno::INTR) => Ok(true),
        polled => polled.map(|_| false).context(|| "cannot wait".into()),
    }
}

/// Writes `text` for an operator and flushes, so that the reader of a pipe sees it now.
pub fn print(text: &str) -> Result<()> {
    print_to_reader(text).map(drop)
}

/// Writes `text` as [`print()`] does. Returns whether there still is a reader.
pub fn print_to_reader(text: &str) -> Result<bool> {
    write(&advice::typed(text))
}

/// Writes a document, with its version, as indented JSON and a newline.
pub fn print_json<T: Serialize>(content: &T) -> Result<()> {
    print_json_as_it_is(&Document::of(content))
}

/// Writes a document that already contains its version.
pub fn print_json_as_it_is<T: Serialize>(document: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(document).context(|| "cannot write JSON".into())?;
    write(&(text + "\n")).map(drop)
}

/// A document, with its version, as one line of JSON: for verbs that print more after it.
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
