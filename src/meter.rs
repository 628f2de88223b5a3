//! Progress of a long step, on standard error: a bar with rate and time left on a terminal, a plain line
//! every few seconds elsewhere (a log, a pipe), and nothing if the step is short.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::log;
use crate::units::{about_rate, about_size, about_time, percent};

/// The least time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The progress of one step, in bytes.
pub struct Meter {
    /// The beginning of the line: what is being done.
    label: String,
    /// The time at which the step began.
    started: Instant,
    /// Bytes that were already done when the step began. The rate excludes them: a rebuild that starts half
    /// done has no rate yet.
    first_bytes: Option<u64>,
    /// How the progress is shown.
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Meter {
    /// A meter of a step that begins now.
    pub fn new(label: impl Into<String>) -> Self {
        let (label, now) = (label.into(), Instant::now());
        let shown = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
            bar.set_style(
                ProgressStyle::with_template("{prefix} [{bar:30}] {msg}")
                    .expect("the template is a constant")
                    .progress_chars("=> "),
            );
            bar.set_prefix(label.clone());
            Shown::Bar(bar)
        } else {
            Shown::Lines { last: now }
        };
        Self { label, started: now, first_bytes: None, shown }
    }

    /// Shows that `done` of `total` bytes are done.
    pub fn update(&mut self, done: u64, total: u64) {
        let first = *self.first_bytes.get_or_insert(done);
        let text = || describe(done, total, done.saturating_sub(first), self.started.elapsed());
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(text());
            }
            Shown::Lines { last } if last.elapsed() >= LINE_INTERVAL => {
                *last = Instant::now();
                log::say(&format!("{}: {}", self.label, text()));
            }
            Shown::Lines { .. } => {}
        }
    }
}

/// Clears the bar when the step is over, however it ended.
impl Drop for Meter {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// Describes the progress: `43.1 % of 1.20 TiB, 2.10 GiB/s, 5 min left`.
fn describe(done: u64, total: u64, since_start: u64, elapsed: Duration) -> String {
    let mut text = format!("{} of {}", percent(done, total), about_size(total));
    let rate = (since_start as f64 / elapsed.as_secs_f64().max(1e-3)) as u64;
    if rate > 0 {
        text += &format!(", {}", about_rate(rate));
        text += &format!(", {} left", about_time(time_left(total.saturating_sub(done), rate)));
    }
    text
}

/// How long `left_bytes` take at a rate that is not zero.
pub fn time_left(left_bytes: u64, bytes_per_s: u64) -> Duration {
    Duration::from_secs(left_bytes.div_ceil(bytes_per_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line() {
        let text = describe(3 << 30, 4 << 30, 2 << 30, Duration::from_secs(4));
        assert_eq!(text, "75.0 % of 4.00 GiB, 512 MiB/s, 2 s left");
        assert_eq!(describe(0, 4096, 0, Duration::ZERO), "0.0 % of 4.00 KiB");
        assert_eq!(describe(0, 0, 0, Duration::ZERO), "100.0 % of 0 B");
    }
}
