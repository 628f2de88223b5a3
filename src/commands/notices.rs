//! The notices of a running array, written to the log as they come: one line each, with the same fields for
//! every kind. If the log is the journal of systemd, these are fields of the entry: `journalctl
//! STRIATE_KIND=member_failed`.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use engine::server::{Notice, Notices, Severity};

use tracing::Level;
use tracing::level_filters::LevelFilter;

use crate::advice;
use crate::failure::{Context, Result};
use crate::journal::Journal;
use crate::names::ArrayName;

/// The pause between two checks for repairs and lost data, which cause no events.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the end waits for the last lines.
const END_TIME_MAX: Duration = Duration::from_secs(1);

/// A thread that writes the notices of an array to the log.
pub struct Writer {
    /// A channel that closes when all notices are written.
    writing: Receiver<()>,
}

/// Writes notices until the server has stopped, on a thread that calls `limit` once it has opened what it
/// needs.
pub fn write_down(
    mut notices: Notices,
    array: ArrayName,
    limit: impl FnOnce() + Send + 'static,
) -> Result<Writer> {
    let (written, writing) = channel();
    let write = move || {
        let _written = written;
        let journal = Journal::of_this_process();
        limit();
        while let Some(next) = notices.next(LOOK_EVERY) {
            next.iter().for_each(|notice| write_one(&array, notice, journal.as_ref()));
        }
    };
    std::thread::Builder::new()
        .name("notices".into())
        .spawn(write)
        .context(|| "cannot write notices".into())?;
    Ok(Writer { writing })
}

impl Writer {
    /// Waits for the last notices, after the server has stopped.
    pub fn end(self) {
        let _all_are_written = self.writing.recv_timeout(END_TIME_MAX);
    }
}

fn write_one(array: &ArrayName, notice: &Notice, journal: Option<&Journal>) {
    // `--log` limits the journal too.
    if level(notice.severity) > LevelFilter::current() {
        return;
    }
    let Notice { severity, kind, slot, path, serial, text } = notice;
    let kind = serde_json::to_value(kind).unwrap_or_default();
    let kind = kind.as_str().unwrap_or_default();
    let (path, serial) = (path.as_deref(), serial.as_deref());
    if journal.is_some_and(|journal| send(journal, array, notice, kind)) {
        return;
    }
    match severity {
        Severity::Info => tracing::info!(array = array.as_str(), kind, slot, path, serial, "{text}"),
        Severity::Warning => tracing::warn!(array = array.as_str(), kind, slot, path, serial, "{text}"),
        Severity::Alarm => tracing::error!(array = array.as_str(), kind, slot, path, serial, "{text}"),
    }
}

const fn level(severity: Severity) -> Level {
    match severity {
        Severity::Info => Level::INFO,
        Severity::Warning => Level::WARN,
        Severity::Alarm => Level::ERROR,
    }
}

/// Sends a notice as an entry of the journal. Returns whether the journal took it.
fn send(journal: &Journal, array: &ArrayName, notice: &Notice, kind: &str) -> bool {
    // Priorities of syslog: error, warning, informational.
    let priority = match notice.severity {
        Severity::Alarm => "3",
        Severity::Warning => "4",
        Severity::Info => "6",
    };
    let message = format!("{array}: {}", advice::typed(&notice.text));
    let slot = notice.slot.map(|slot| slot.to_string());
    let mut fields = vec![
        ("MESSAGE", message.as_str()),
        ("PRIORITY", priority),
        ("SYSLOG_IDENTIFIER", "striate"),
        ("STRIATE_ARRAY", array.as_str()),
        ("STRIATE_KIND", kind),
    ];
    let of_member =
        [("STRIATE_SLOT", &slot), ("STRIATE_PATH", &notice.path), ("STRIATE_SERIAL", &notice.serial)];
    fields.extend(of_member.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))));
    journal.send(&fields)
}
