//! The effect of each signal on a server.
//!
//! | signal | while the array is being started | while it is served |
//! |---|---|---|
//! | TERM, INT | the process ends as by a crash | the array is stopped (a) |
//! | HUP, USR1, USR2, ALRM, VTALRM, PROF, IO, PWR, STKFLT | ignored | ignored |
//! | real-time signals | ignored | ignored |
//! | TSTP, TTIN, TTOU | ignored | ignored |
//! | XFSZ, XCPU | ignored | ignored |
//! | PIPE | not delivered: Rust has it ignored | the same |
//! | QUIT and the signals of faults | the process ends as by a crash, perhaps with a core | the same |
//!
//! (a) Another one, 2 s later or more, ends the process at once.
//!
//! Hosts depend on a server for longer than the terminal from which it was started. So a lost session (HUP),
//! a tool that means "reopen your log" (HUP, USR1), or a key that suspends (TSTP) neither ends nor stops it.
//! A write beyond a limit of this process (XFSZ) fails with EFBIG, which is no fault of the member.
//!
//! A single wish to end may arrive as several signals within microseconds: `timeout` of GNU signals its child
//! and then the child's process group, and a shell or a service manager may signal a wrapper and the group.
//! Repeats within [`REPEAT_TIME`] of the first are therefore ignored; otherwise they would turn a clean stop
//! into a resync.

use std::ops::RangeInclusive;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::{Handle, Signals};

use crate::failure::{Context, Result};
use crate::log;

/// Signals that ask for an end.
const ENDS: [i32; 2] = [SIGTERM, SIGINT];
/// Signals of Linux that signal-hook has no names for.
const SIGPWR: i32 = 30;
const SIGSTKFLT: i32 = 16;
/// Signals that would end or halt the process; the server logs and ignores them.
const PASSED_OVER: [i32; 14] = [
    SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ,
    SIGXCPU, SIGPWR, SIGSTKFLT,
];
/// Real-time signals, except those that the C library reserves for its threads (32 and 33 in glibc, also 34
/// in musl).
fn real_time() -> RangeInclusive<i32> {
    libc::SIGRTMIN()..=libc::SIGRTMAX()
}
/// How long after the first signal that asks for an end further ones count as repeats of it.
const REPEAT_TIME: Duration = Duration::from_secs(2);

type Stop = Box<dyn Fn() + Send>;

/// The consequence of a signal that asks for an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Stop the array.
    Stop,
    /// Do nothing: the signal repeats the first.
    Repeat,
    /// End the process at once.
    AtOnce,
}

/// Decides by the time since the first signal that asked for an end.
fn end(since_first: Option<Duration>) -> End {
    match since_first {
        None => End::Stop,
        Some(since) if since < REPEAT_TIME => End::Repeat,
        Some(_) => End::AtOnce,
    }
}

/// The watched signals of this process, and the channel to the thread that takes them.
pub struct Watched {
    signals: Handle,
    stop: Sender<Stop>,
}

/// Begins to ignore some signals. The thread that receives them first calls `limit`.
pub fn watch(limit: impl FnOnce() + Send + 'static) -> Result<Watched> {
    let failed = || "cannot catch signals".to_string();
    let mut signals = Signals::new(PASSED_OVER.into_iter().chain(real_time())).context(failed)?;
    let handle = signals.handle();
    let (sender, stop) = channel::<Stop>();
    let watch = move || {
        limit();
        // Signals that ask for an end are caught only after `stop_by`, so a stop will come.
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            if !ENDS.contains(&signal) {
                let name = signal_hook::low_level::signal_name(signal)
                    .map_or_else(|| format!("signal {signal}"), String::from);
                tracing::info!("{name} is passed over: SIGTERM or a stop ends the server");
                continue;
            }
            match end(first.map(|first| first.elapsed())) {
                End::Stop => {
                    first = Some(Instant::now());
                    if let Ok(stop) = stop.recv() {
                        stop();
                    }
                }
                End::Repeat => {}
                End::AtOnce => {
                    log::say("second signal: ended without a clean stop; the next start resyncs");
                    log::settle();
                    signal_hook::low_level::exit(1);
                }
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).context(failed)?;
    Ok(Watched { signals: handle, stop: sender })
}

impl Watched {
    /// From here on, the first signal that asks for an end stops the array, and one that is not a repeat of
    /// it ends the process.
    pub fn stop_by(&self, stop: impl Fn() + Send + 'static) -> Result<()> {
        let _ = self.stop.send(Box::new(stop));
        ENDS.iter()
            .try_for_each(|&signal| self.signals.add_signal(signal))
            .context(|| "cannot catch signals".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_come_together_are_one_wish() {
        assert_eq!(end(None), End::Stop);
        assert_eq!(end(Some(Duration::from_micros(3))), End::Repeat);
        assert_eq!(end(Some(REPEAT_TIME)), End::AtOnce);
    }
}
