//! Encryption of clients' connections (TLS). The program supplies it; the engine has none of its own.
//!
//! ```text
//!   client ==sealed==> handshake thread: session.relay <--plain--> socket pair <-- a reactor
//! ```
//!
//! A reactor serves an encrypted client like any other, through a unix socket. The thread that shook hands
//! with the client stays, and carries the bytes between the two sockets. So a reactor never encrypts, and
//! never waits for the rest of a TLS record.
//!
//! Once the program has supplied an encryption, clients by TCP must use it, and clients by unix sockets may
//! ([`Security`]).

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A client's socket during the handshake; each read and write ends within a time limit.
pub trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

/// A kind of encryption, with the keys of the server.
pub trait Encryption: Debug + Send + Sync {
    /// Whether sessions are made only with clients that prove that they may connect.
    fn proves_clients(&self) -> bool;

    /// Makes a session with a client that has requested TLS and has sent nothing of it yet. An error says why
    /// there is no session.
    fn accept(&self, wire: &mut dyn Wire) -> io::Result<Box<dyn Session>>;
}

/// The encrypted connection of one client.
pub trait Session: Send {
    /// The name that the client has proven, for the log; `None` if its proof has no name.
    fn user(&self) -> Option<String>;

    /// Reads what the client sent, at least one byte; 0 at the end.
    fn read(&mut self, wire: &mut dyn Wire, into: &mut [u8]) -> io::Result<usize>;

    /// Sends all of `bytes` to the client.
    fn write_all(&mut self, wire: &mut dyn Wire, bytes: &[u8]) -> io::Result<()>;

    /// Carries bytes between the client's socket and the plain one, in both directions, until either side is
    /// gone and the other has received the rest. Waits without a limit while both are there: the sockets and
    /// the reactor have their own limits for idle clients.
    fn relay(self: Box<Self>, client: &OwnedFd, plain: OwnedFd);
}

/// The role of encryption in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// The server has no TLS.
    NotOffered,
    /// The client may request TLS.
    Offered,
    /// Every option but STARTTLS and ABORT is refused until TLS is started.
    Required,
    /// Everything is sent encrypted.
    InUse,
}

/// A wire together with the session on it.
pub(super) struct Sealed<'a, W> {
    pub wire: &'a mut W,
    pub session: &'a mut dyn Session,
}

impl<W: Read + Write> Read for Sealed<'_, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.session.read(self.wire, into)
    }
}

impl<W: Read + Write> Write for Sealed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.session.write_all(self.wire, bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts the running relays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relays(Arc<(Mutex<usize>, Condvar)>);

/// Counts one running relay until it is dropped.
pub(super) struct Counted(Relays);

impl Relays {
    /// Counts one more relay, if fewer than `most` are running.
    pub(super) fn begin(&self, most: usize) -> Option<Counted> {
        let mut count = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_room = *count < most;
        *count += usize::from(is_room);
        is_room.then(|| Counted(self.clone()))
    }

    /// Waits up to `patience` until all relays have ended, so that clients receive their last replies.
    pub(crate) fn wait(&self, patience: Duration) {
        let (count, ended) = &*self.0;
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let _all_or_not = ended.wait_timeout_while(count, patience, |count| *count > 0);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let (count, ended) = &*self.0.0;
        *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ended.notify_all();
    }
}
