//! The sandbox of `serve`: what each of its threads may still do once the array is served.
//!
//! A server reads bytes that strangers wrote (superblocks, NBD clients), and as root it could do anything with the machine. A bug that such
//! bytes can reach should cost the array at most, and not the machine.
//!
//! The sandbox holds against a wrong path, a confused command, and a bug that makes a thread do a thing that its list does not have. It does not
//! hold against an intruder whose code runs in a thread: all threads share one memory, so each is worth the strongest of them. (Rings,
//! whose operations no filter sees, refuse what the engine does not ask of them: ring/uring/queue.rs, `restrict`.)
//!
//! ```text
//!   begin             first of all, no thread yet: no_new_privs, umask 077, RLIMIT_MEMLOCK, an empty bounding set, the
//!     |               capabilities that a start needs (capabilities::START)
//!     |--> log, signals                       confined at once
//!     |    members are opened, rings and sockets made, the block device started
//!     |--> reactors, listeners, note          each confined when it is set up, before it serves anything
//!     |--> notices, control                   the same
//!     v
//!   confine(Main)     the main thread, last
//! ```
//!
//! A thread confines itself: capabilities, Landlock domains and seccomp filters belong to threads, and a thread that is started inherits
//! those of its parent. (Landlock and seccomp have a TSYNC that reaches all threads at once, capabilities have none, and every thread
//! here needs a different set.) A helper thread that looked at a device before the array was served, and still waits for that device,
//! keeps the privileges of the start; it ends as soon as the device answers.
//!
//! | thread | capabilities | files that it can open (Landlock) | system calls (seccomp) |
//! |---|---|---|---|
//! | log, signals, notices | none | none | write, memory, time, waiting |
//! | reactor | SYS_ADMIN if a member is reached by NVMe passthrough | none | and io_uring, its sockets |
//! | listener | none | none | and accept, starting a thread |
//! | handshake, and TLS of its client | as its listener | as its listener | the sockets of its client |
//! | note | DAC_OVERRIDE if others own files | the run directory | and opening, writing, removing a file |
//! | control and its helpers, main | the same, and SYS_ADMIN with a block device or passthrough | [`paths`] | and files, devices, io_uring |
//!
//! With a block device, all of them have IPC_LOCK where the limit of locked memory could not be lifted. Why each capability: [`capabilities`].
//!
//! A system call that is not in the list of its thread fails with EPERM; it does not kill the process. A list may miss a call that some
//! later libc makes in some rare case. Killed for that, the server would leave its hosts waiting, with a resync to do; with an error it
//! goes on, and an intruder is refused all the same.
//!
//! A missing protection is told in one line, and the server goes on: old kernels have no Landlock, and containers may forbid seccomp.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

mod calls;
mod capabilities;
mod paths;

pub use capabilities::{Facts, has_lock_limit};
pub use paths::{Places, Reach};

/// A thread of the server, by its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Writes lines to a descriptor that is open: the log, notices.
    Log,
    /// Waits for signals.
    Signals,
    /// A reactor: one io_uring, and the hosts.
    Reactor,
    /// Accepts NBD clients.
    Listener,
    /// Shakes hands with one of them.
    Handshake,
    /// Writes the note of a block device.
    Note,
    /// Carries out commands of operators. Its helpers open new members.
    Control,
    /// Waits for the end, and stops the array.
    Main,
}

impl From<engine::threads::Thread> for Thread {
    fn from(thread: engine::threads::Thread) -> Thread {
        match thread {
            engine::threads::Thread::Reactor => Thread::Reactor,
            engine::threads::Thread::NbdListener => Thread::Listener,
            engine::threads::Thread::NbdHandshake => Thread::Handshake,
            engine::threads::Thread::Noter => Thread::Note,
        }
    }
}

/// Whether threads are confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Confine each thread, as the table above says.
    Confine,
    /// Each thread keeps what a start needs (`--no-sandbox`).
    Leave,
}

/// The sandbox of this process, for each thread to confine itself by.
#[derive(Clone)]
pub struct Sandbox {
    choice: Choice,
    /// Lines that were told, so that none is told by every thread.
    told: Arc<Mutex<BTreeSet<String>>>,
}

impl Sandbox {
    /// Gives up what no start needs. To be called before the first thread is started. Returns what the system does not let it give up, for
    /// the log, which is started after this.
    pub fn begin(choice: Choice) -> (Sandbox, Vec<String>) {
        let sandbox = Sandbox { choice, told: Arc::default() };
        (sandbox, capabilities::begin())
    }

    /// Confines the calling thread, and those that it starts later. `reach` is what a thread that opens files may open.
    pub fn confine(&self, thread: Thread, facts: Facts, reach: &Reach) {
        if self.choice == Choice::Leave {
            return;
        }
        // A handshake has the domain and the capabilities of its listener, whose filter lets it add a filter and nothing else.
        let is_inherited = thread == Thread::Handshake;
        let restricted = if is_inherited { Ok(()) } else { paths::restrict(reach.of(thread)) };
        let reduced =
            if is_inherited { Ok(()) } else { capabilities::keep(capabilities::kept(thread, facts)) };
        // Last: a filter of system calls keeps a thread from the other two.
        let outcomes = [restricted, reduced, calls::filter(thread)];
        outcomes.into_iter().filter_map(Result::err).for_each(|line| self.tell_once(line));
    }

    /// A function for a thread that is about to be started, to be called by it.
    pub fn limiter(&self, thread: Thread, facts: Facts, reach: &Reach) -> impl FnOnce() + Send + use<> {
        let (sandbox, reach) = (self.clone(), reach.clone());
        move || sandbox.confine(thread, facts, &reach)
    }

    fn tell_once(&self, line: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(line.clone()) {
            tracing::warn!("{line}");
        }
    }
}

#[cfg(test)]
mod tests;
