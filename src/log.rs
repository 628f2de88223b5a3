//! Standard error: lines that never hold up the program, and never end it.
//!
//! ```text
//!     tracing, `say` --> a queue of [`LINES_MAX`] --> the thread `log` --> a copy of standard error
//! ```
//! A server outlives who reads its log: a pipe that nobody empties, a terminal that is gone, a full disk. Under a mounted file
//! system neither may stop it. So no thread but one writes, a line that finds the queue full or cannot be written is dropped, and
//! the next line that goes out is preceded by how many were. Commands that end soon have no such thread, and write at once.
//! (The writer without blocking that `tracing-appender` has waits without end, when it is closed, for whoever reads.)

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::level_filters::LevelFilter;

use crate::failure::{Context, Result};

/// Lines that wait to be written at most.
const LINES_MAX: usize = 1024;
/// How long anything waits until lines are written.
const SETTLE_TIME_MAX: Duration = Duration::from_millis(500);
/// A signal that comes at each attempt (a terminal that stops who writes to it) must not keep the thread busy.
const INTERRUPTIONS_MAX: usize = 8;

enum Message {
    Line(Vec<u8>),
    /// All that came before is written: answer.
    Settle(Sender<()>),
}

/// The queue of this process, once it serves.
static QUEUE: OnceLock<Queue> = OnceLock::new();

struct Queue {
    messages: Sender<Message>,
    /// Lines that were dropped since the last that was written. Relaxed: it guards nothing.
    lost: AtomicU64,
    /// Who waited did so in vain, and no line has been written since. Relaxed: the same.
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

/// Starts the thread, which first calls `limit`, and has `tracing` and panics go through it.
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
        .with_writer(|| ToQueue(queue_of_process))
        .log_internal_errors(false)
        .with_max_level(level)
        .with_ansi(is_terminal)
        .init();
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("{panic}\n{}", std::backtrace::Backtrace::capture()));
        settle();
    }));
    Ok(())
}

/// Writes a line for the operator, after the program's name.
pub fn say(line: &str) {
    let line = format!("striate: {line}\n").into_bytes();
    match QUEUE.get() {
        Some(queue) => queue.put(line),
        // Nobody reads it, or the disk is full: nothing is left to be done about that.
        None => drop(std::io::stderr().write_all(&line)),
    }
}

/// Waits until what was said is written: who is told something next may look into the log for more. Not for long, and not again
/// before a log that stalls goes on.
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

struct ToQueue(&'static Queue);

impl Write for ToQueue {
    /// `tracing` writes a whole line at once.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.put(line.to_vec());
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
                let before = queue.lost.swap(0, Ordering::Relaxed);
                let said = match before {
                    0 => Ok(()),
                    lines => {
                        let note = format!("striate: {lines} lines of the log were lost: nobody took them\n");
                        write_line(&mut out, note.as_bytes())
                    }
                };
                if said.and_then(|()| write_line(&mut out, &line)).is_err() {
                    queue.lost.fetch_add(before + 1, Ordering::Relaxed);
                }
                queue.is_stalled.store(false, Ordering::Relaxed);
            }
            Message::Settle(done) => drop(done.send(())),
        }
    }
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

    /// Takes what it is told to, and fails otherwise.
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
            // In pieces, as a pipe may.
            let count = bytes.len().div_ceil(2);
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_takes_are_counted() {
        let (sender, messages) = bounded(3);
        let queue = Queue::new(sender);
        for line in ["a\n", "b\n", "c\n", "d\n", "e\n"] {
            queue.put(line.into());
        }
        assert_eq!(queue.lost.load(Ordering::Relaxed), 2);
        // Neither the note that goes before `a` nor that before `b` finds room.
        let mut taken = Vec::new();
        let waiting: Vec<Message> = messages.try_iter().collect();
        let (sender, messages) = bounded(3);
        waiting.into_iter().for_each(|message| sender.send(message).unwrap());
        drop(sender);
        write_all(&messages, &queue, Reader { takes: &[false, false], taken: &mut taken });
        let text = String::from_utf8(taken).unwrap();
        assert_eq!(text, "striate: 4 lines of the log were lost: nobody took them\nc\n");
        assert_eq!(queue.lost.load(Ordering::Relaxed), 0);
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
