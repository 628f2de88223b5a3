//! The lasting threads of a server, for a program that confines what each of them may do.
//!
//! A thread of a server does a few things for as long as it lives, and needs far less than the process needed
//! to start: a reactor opens no files, and a thread that speaks with clients makes no rings. The engine does
//! not know how the program confines its threads (capabilities, seccomp, Landlock), and the program does not
//! know when a thread has all it needs. So the program gives a function, and each thread calls it once: when
//! the thread is set up, and before it serves anything.
//!
//! A call affects the calling thread and the threads that it starts later. Two kinds of thread are not listed
//! below: helpers (server/bounded.rs), which inherit the limits of the thread that starts them, and the
//! caller of [`Server::start`](crate::server::Server::start), which limits itself.

use std::fmt;
use std::sync::Arc;

/// A lasting thread of a server, by its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Polls one io_uring and serves hosts. It opens no files.
    Reactor,
    /// Accepts NBD clients at one address and starts a thread for each handshake.
    NbdListener,
    /// Does the handshake with one NBD client. It inherits the limits of its listener.
    NbdHandshake,
    /// Writes the note of a block device into the run directory.
    Noter,
}

/// How the server reaches its members, and how hosts reach the server: the routes decide which privileges the
/// threads need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Whether hosts use a block device of this machine (ublk) instead of NBD.
    pub block_device: bool,
    /// Whether at least one member is reached by NVMe passthrough.
    pub passthrough: bool,
}

type Limit = dyn Fn(Thread, Routes) + Send + Sync;

/// The function that each lasting thread calls on itself. Without one, threads keep the privileges they
/// inherit.
#[derive(Clone, Default)]
pub struct Threads(Option<Arc<Limit>>);

impl Threads {
    /// Makes each thread call `limit` once, with the routes of the server.
    pub fn limited_by(limit: impl Fn(Thread, Routes) + Send + Sync + 'static) -> Threads {
        Threads(Some(Arc::new(limit)))
    }

    /// Returns a function that a thread, which is about to be started, calls once it is set up.
    pub(crate) fn limiter(&self, thread: Thread, routes: Routes) -> impl FnOnce() + Send + use<> {
        let threads = self.clone();
        move || threads.limit(thread, routes)
    }

    /// Limits the calling thread, which is set up.
    pub(crate) fn limit(&self, thread: Thread, routes: Routes) {
        self.0.iter().for_each(|limit| limit(thread, routes));
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Threads(limited)" } else { "Threads(unlimited)" })
    }
}
