//! The sandbox of `serve`: what each of its threads may still do once the array is served.
//!
//! A server reads bytes that strangers wrote (superblocks, messages of NBD clients), and as root it could do
//! anything to the machine. A bug that such bytes can reach should cost at most the array, never the machine.
//!
//! The sandbox contains a wrong path, a confused command, and a bug that makes a thread do something its list
//! does not allow. It does not contain an intruder who runs code in a thread: all threads share one memory,
//! so such an intruder has the privileges of the most privileged thread. (No filter sees the operations of an
//! io_uring; the rings therefore refuse every operation that the engine does not use: ring/uring/queue.rs,
//! `restrict`.)
//!
//! ```text
//!   begin             first of all, before any thread: no_new_privs, umask 077, RLIMIT_MEMLOCK, an empty
//!     |               bounding set, and only the capabilities that a start needs (capabilities::START)
//!     |--> log, signals                       confined at once
//!     |    members are opened, rings and sockets made, the block device started
//!     |--> reactors, listeners, note          each confined when it is set up, before it serves anything
//!     |--> notices, control                   confined in the same way
//!     v
//!   confine(Main)     the main thread, last
//! ```
//!
//! A thread confines itself: capabilities, Landlock domains and seccomp filters belong to threads, and a new
//! thread inherits them from its parent. (Landlock and seccomp have a TSYNC flag that reaches all threads at
//! once, but capabilities have none, and every thread here needs a different set.) A helper thread that
//! looked at a device before the array was served, and still waits for that device, keeps the privileges of
//! the start; it ends as soon as the device answers.
//!
//! | thread | capabilities | files that it can open (Landlock) | system calls (seccomp) |
//! |---|---|---|---|
//! | log, signals, notices | none | none | write, memory, time, waiting |
//! | reactor | SYS_ADMIN if a member uses NVMe passthrough | none | and io_uring, its sockets |
//! | listener | none | none | and accept, starting a thread |
//! | handshake, TLS of its client | those of its listener | those of its listener | sockets of its client |
//! | note | DAC_OVERRIDE if others own files | the run directory | and opening, writing, removing a file |
//! | control and its helpers, main | (a) | [`paths`] | and files, devices, io_uring |
//!
//! (a) DAC_OVERRIDE if others own files, and SYS_ADMIN with a block device or passthrough. "And" in the last
//! column means: in addition to the calls of the first row.
//!
//! With a block device, every thread also has IPC_LOCK if the limit of locked memory could not be raised.
//! [`capabilities`] says what each capability is for.
//!
//! A system call that is not in its thread's list fails with EPERM; it does not kill the process. A list may
//! miss a call that a later libc makes in a rare case. Killed for such a call, the server would leave its
//! hosts waiting and a resync to do; with an error it continues, and an intruder is refused all the same.
//!
//! A protection that the system does not offer is logged in one line, and the server continues without it:
//! old kernels have no Landlock, and containers may forbid seccomp.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

mod calls;
mod capabilities;
mod paths;

pub use capabilities::{Facts, has_lock_limit};
pub use paths::{Places, Reach};

/// A thread of the server, named by its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// The log and the notices: write lines to a descriptor that is already open.
    Log,
    /// The thread that waits for signals.
    Signals,
    /// A reactor: serves hosts, with one io_uring.
    Reactor,
    /// The thread that accepts NBD clients.
    Listener,
    /// The thread that does the handshake with one NBD client.
    Handshake,
    /// The thread that writes the note of a block device.
    Note,
    /// The threads that carry out commands of operators; their helpers open new members.
    Control,
    /// The main thread: waits for the end, and stops the array.
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
    /// Confine each thread as the table in the module documentation says.
    Confine,
    /// Leave each thread the privileges of a start (`--no-sandbox`).
    Leave,
}

/// The sandbox of this process. Each thread uses it to confine itself.
#[derive(Clone)]
pub struct Sandbox {
    choice: Choice,
    /// Lines already logged. Without it every thread would repeat the same warning.
    told: Arc<Mutex<BTreeSet<String>>>,
}

impl Sandbox {
    /// Gives up every privilege that a start does not need. Must be called before the first thread is
    /// started. Returns a line for each privilege that the system does not let go; the caller logs them,
    /// because the log starts only after this.
    pub fn begin(choice: Choice) -> (Sandbox, Vec<String>) {
        let sandbox = Sandbox { choice, told: Arc::default() };
        (sandbox, capabilities::begin())
    }

    /// Confines the calling thread and all threads that it starts later. `reach` lists the files that threads
    /// may open.
    pub fn confine(&self, thread: Thread, facts: Facts, reach: &Reach) {
        if self.choice == Choice::Leave {
            return;
        }
        // A handshake inherits the domain and the capabilities of its listener, whose filter only allows it
        // to add a filter.
        let is_inherited = thread == Thread::Handshake;
        let restricted = if is_inherited { Ok(()) } else { paths::restrict(reach.of(thread)) };
        let reduced =
            if is_inherited { Ok(()) } else { capabilities::keep(capabilities::kept(thread, facts)) };
        // The filter of system calls comes last: it forbids the calls that the other two need.
        let outcomes = [restricted, reduced, calls::filter(thread)];
        outcomes.into_iter().filter_map(Result::err).for_each(|line| self.tell_once(line));
    }

    /// Returns a function that a thread calls, when it starts, to confine itself.
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
