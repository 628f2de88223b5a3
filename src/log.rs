//! Standard error: log lines that never block the program and never end it.
//!
//! ```text
//!     tracing, `say` --> a queue of [`LINES_MAX`] --> the thread `log` --> a copy of standard error
//! ```
//! A server outlives the readers of its log: a full pipe, a closed terminal, a full disk. None of them may
//! stop a server below a mounted file system. So a single thread writes. A line that finds the queue full, or
//! that cannot be written, is dropped; the number of dropped lines is written before the next line, or at the
//! end of the log. Commands that end soon have no such thread and write directly. (The non-blocking writer of
//! `tracing-appender` waits for its reader without a limit when it is closed.)
//!
//! If standard error is the journal, each line begins with its priority, `<3>` to `<7>`, which the journal
//! removes.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::failure::{Context, Result};
use crate::{advice, journal, output};

/// The most lines that wait to be written.
const LINES_MAX: usize = 1024;
/// How long a caller waits until lines are written.
const SETTLE_TIME_MAX: Duration = Duration::from_millis(500);
/// How often one write may be interrupted. A signal at each attempt (a terminal that stops its writers) must
/// not keep the thread busy.
const INTERRUPTIONS_MAX: usize = 8;

enum Message {
    Line(Vec<u8>),
    /// Asks for an answer once every line before this message is written.
    Settle(Sender<()>),
}

/// The queue of this process; set once it serves.
static QUEUE: OnceLock<Queue> = OnceLock::new();

struct Queue {
    messages: Sender<Message>,
    /// How many lines were dropped since the last line that was written. Relaxed: no other memory depends on
    /// it.
    lost: AtomicU64,
    /// Whether a wait timed out and no line has been written since. Relaxed: no other memory depends on it.
    is_stalled: AtomicBool,
}

impl Queue {
    fn new(messages: Sender<Message>) -> Queue {
        Queue { messages, lost: AtomicU64::new(0), is_stalled: AtomicBool::new(false) }
    }

    fn put(&self, line: Vec<u8>) {
        if self.messages.try_send(Message::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Starts the log thread, which first calls `limit`, and directs `tracing` and panics to it.
pub fn start(level: LevelFilter, limit: impl FnOnce() + Send + 'static) -> Result<()> {
    let failed = || "cannot start the log".to_string();
    let (is_terminal, file) = {
        let stderr = std::io::stderr();
        let copy = stderr.as_fd().try_clone_to_owned().context(failed)?;
        (std::io::IsTerminal::is_terminal(&stderr), File::from(copy))
    };
    let (messages, queue) = bounded(LINES_MAX);
    let queue_of_process = QUEUE.get_or_init(|| Queue::new(messages));
    let write = move || {
        limit();
        write_all(&queue, queue_of_process, file);
    };
    std::thread::Builder::new().name("log".into()).spawn(write).context(failed)?;
    tracing_subscriber::fmt()
        .with_writer(ToQueue(queue_of_process))
        .log_internal_errors(false)
        .with_max_level(level)
        .with_ansi(is_terminal && output::may_colour())
        // The module that writes a line is of interest only to developers.
        .with_target(level > LevelFilter::INFO)
        .init();
    // Asked now, because confined threads can no longer ask.
    LazyLock::force(&HAS_PRIORITIES);
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("{panic}\n{}", std::backtrace::Backtrace::capture()));
        settle();
    }));
    Ok(())
}

/// Whether lines begin with their priority.
static HAS_PRIORITIES: LazyLock<bool> = LazyLock::new(journal::is_stderr);

/// Priorities of syslog.
const ERROR: u8 = 3;
const fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => ERROR,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Makes the bytes of a text of one or more lines.
fn lines(text: &str, priority: u8, has_priorities: bool) -> Vec<u8> {
    let text = advice::typed(text);
    if !has_priorities {
        return text.into_owned().into_bytes();
    }
    text.lines().map(|line| format!("<{priority}>{line}\n")).collect::<String>().into_bytes()
}

/// Writes a line for the operator, after the program's name.
pub fn say(line: &str) {
    let line = lines(&format!("striate: {line}\n"), ERROR, *HAS_PRIORITIES);
    match QUEUE.get() {
        Some(queue) => queue.put(line),
        // If the reader is gone or the disk is full, there is nothing left to do.
        None => drop(std::io::stderr().write_all(&line)),
    }
}

/// Waits until every line so far is written, so that the log is complete before a client gets its answer. The
/// wait has a limit, and once it has timed out, callers do not wait again until the log writes a line.
pub fn settle() {
    let Some(queue) = QUEUE.get() else { return };
    if queue.is_stalled.load(Ordering::Relaxed) {
        return;
    }
    let (done, written) = bounded(1);
    let sent = queue.messages.send_timeout(Message::Settle(done), SETTLE_TIME_MAX);
    if sent.is_err() || written.recv_timeout(SETTLE_TIME_MAX).is_err() {
        queue.is_stalled.store(true, Ordering::Relaxed);
    }
}

/// Makes a writer for each line of `tracing`.
struct ToQueue(&'static Queue);

impl<'a> MakeWriter<'a> for ToQueue {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { queue: self.0, priority: ERROR }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { queue: self.0, priority: priority(metadata.level()) }
    }
}

struct Line {
    queue: &'static Queue,
    priority: u8,
}

impl Write for Line {
    /// Takes a complete line: `tracing` writes each line with one call.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.queue.put(lines(&String::from_utf8_lossy(line), self.priority, *HAS_PRIORITIES));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write_all(messages: &Receiver<Message>, queue: &Queue, mut out: impl Write) {
    for message in messages {
        match message {
            Message::Line(line) => {
                // A line that cannot be written is counted as lost, like those before it.
                let is_written = write_lost(queue, &mut out) && write_line(&mut out, &line).is_ok();
                if !is_written {
                    queue.lost.fetch_add(1, Ordering::Relaxed);
                }
                queue.is_stalled.store(false, Ordering::Relaxed);
            }
            Message::Settle(done) => {
                // The log may end here, and then no later line would report how many were dropped.
                write_lost(queue, &mut out);
                let _waiter_may_be_gone = done.send(());
            }
        }
    }
}

/// Writes how many lines were dropped, if any. Returns whether that was written.
fn write_lost(queue: &Queue, out: &mut impl Write) -> bool {
    let lost = queue.lost.swap(0, Ordering::Relaxed);
    if lost == 0 {
        return true;
    }
    let note = format!("striate: {lost} lines of the log were lost: they could not be written\n");
    let is_written = write_line(out, &lines(&note, ERROR, *HAS_PRIORITIES)).is_ok();
    if !is_written {
        queue.lost.fetch_add(lost, Ordering::Relaxed);
    }
    is_written
}

fn write_line(out: &mut impl Write, mut line: &[u8]) -> std::io::Result<()> {
    let mut interruptions = 0;
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => line = &line[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted && interruptions < INTERRUPTIONS_MAX => {
                interruptions += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that takes or refuses each write as `takes` says.
    struct Reader<'a> {
        takes: &'a [bool],
        taken: &'a mut Vec<u8>,
    }

    impl Write for Reader<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let (takes, rest) = self.takes.split_first().unwrap_or((&true, &[]));
            self.takes = rest;
            if !takes {
                return Err(ErrorKind::StorageFull.into());
            }
            // Takes a write in pieces, as a pipe may.
            let count = bytes.len().div_ceil(2);
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_are_not_taken_are_counted() {
        let (sender, messages) = bounded(3);
        let queue = Queue::new(sender);
        for line in ["a\n", "b\n", "c\n", "d\n", "e\n"] {
            queue.put(line.into());
        }
        assert_eq!(queue.lost.load(Ordering::Relaxed), 2);
        // The note about lost lines can be written neither before `a` nor before `b`.
        let mut taken = Vec::new();
        let waiting: Vec<Message> = messages.try_iter().collect();
        let (sender, messages) = bounded(3);
        waiting.into_iter().for_each(|message| sender.send(message).unwrap());
        drop(sender);
        write_all(&messages, &queue, Reader { takes: &[false, false], taken: &mut taken });
        let text = String::from_utf8(taken).unwrap();
        assert_eq!(text, "striate: 4 lines of the log were lost: they could not be written\nc\n");
        assert_eq!(queue.lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn lines_that_are_dropped_at_the_end_are_counted_out() {
        let (sender, messages) = bounded(2);
        let queue = Queue::new(sender.clone());
        for line in ["a\n", "b\n", "c\n"] {
            queue.put(line.into());
        }
        let (done, settled) = bounded(1);
        let waiting: Vec<Message> = messages.try_iter().chain([Message::Settle(done)]).collect();
        let (sender, messages) = bounded(3);
        waiting.into_iter().for_each(|message| sender.send(message).unwrap());
        drop(sender);
        queue.lost.store(0, Ordering::Relaxed);
        // The pipe is full from the first line on, until the end.
        let mut taken = Vec::new();
        write_all(&messages, &queue, Reader { takes: &[false, false], taken: &mut taken });
        settled.recv().unwrap();
        let text = String::from_utf8(taken).unwrap();
        assert_eq!(text, "striate: 2 lines of the log were lost: they could not be written\n");
    }

    #[test]
    fn lines_for_the_journal_have_their_priority() {
        assert_eq!(lines("one\ntwo\n", 4, true), b"<4>one\n<4>two\n");
        assert_eq!(lines("one\n", 4, false), b"one\n");
    }

    #[test]
    fn a_writer_that_is_interrupted_for_ever_is_given_up() {
        struct Interrupted(usize);
        impl Write for Interrupted {
            fn write(&mut self, _bytes: &[u8]) -> std::io::Result<usize> {
                self.0 += 1;
                Err(ErrorKind::Interrupted.into())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut out = Interrupted(0);
        assert!(write_line(&mut out, b"line").is_err());
        assert_eq!(out.0, INTERRUPTIONS_MAX + 1);
    }
}
