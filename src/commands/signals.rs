//! What a signal means to a server.
//!
//! | signal | while the array is being started | while it is served |
//! |---|---|---|
//! | TERM, INT | the process ends as by a crash | the array is stopped; a second one ends the process at once |
//! | HUP, USR1, USR2, ALRM, VTALRM, PROF, IO | passed over | passed over |
//! | TSTP, TTIN, TTOU | passed over | passed over |
//! | XFSZ, XCPU | passed over | passed over |
//! | PIPE | not delivered: Rust has it ignored | the same |
//! | QUIT and what stands for a fault | the process ends as by a crash, perhaps with a core | the same |
//!
//! Hosts depend on a server longer than the terminal that it was started from: a session that is lost (HUP), a tool that means "open
//! your log again" (HUP, USR1), or a key that suspends (TSTP) neither ends nor halts it. A write beyond a limit of
//! this process (XFSZ) fails with EFBIG, which is no fault of the member.

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::{Handle, Signals};
use std::sync::mpsc::{Sender, channel};

use crate::failure::{Context, Result};
use crate::log;

/// They ask for an end.
const ENDS: [i32; 2] = [SIGTERM, SIGINT];
/// They would end or halt the process, and are passed over.
const PASSED_OVER: [i32; 12] = [
    SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ, SIGXCPU,
];

type Stop = Box<dyn Fn() + Send>;

/// The signals of this process, looked at by a thread.
pub struct Watched {
    signals: Handle,
    stop: Sender<Stop>,
}

/// From here on some signals are passed over. The thread that looks at them first calls `limit`.
pub fn watch(limit: impl FnOnce() + Send + 'static) -> Result<Watched> {
    let failed = || "cannot catch signals".to_string();
    let mut signals = Signals::new(PASSED_OVER).context(failed)?;
    let handle = signals.handle();
    let (sender, stop) = channel::<Stop>();
    let watch = move || {
        limit();
        // Ends are caught only once there is a stop.
        let mut is_ending = false;
        for signal in signals.forever() {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            if !ENDS.contains(&signal) {
                tracing::info!("{name} is passed over: SIGTERM or `striate stop` ends the server");
                continue;
            }
            if is_ending {
                log::say("second signal: ended without a clean stop; the next start resyncs");
                log::settle();
                signal_hook::low_level::exit(1);
            }
            is_ending = true;
            if let Ok(stop) = stop.recv() {
                stop();
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).context(failed)?;
    Ok(Watched { signals: handle, stop: sender })
}

impl Watched {
    /// From here on the first signal that asks for an end stops the array, and the second one ends the process.
    pub fn stop_by(&self, stop: impl Fn() + Send + 'static) -> Result<()> {
        let _ = self.stop.send(Box::new(stop));
        ENDS.iter()
            .try_for_each(|&signal| self.signals.add_signal(signal))
            .context(|| "cannot catch signals".into())
    }
}
