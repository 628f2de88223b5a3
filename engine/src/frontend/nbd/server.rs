//! The threads that admit clients: one per address, and a short-lived one per handshake.
//!
//! ```text
//!   listener thread --- accept ---> handshake thread --- shaken ---> door of a reactor
//!     until `stop`                    at most 32, 10 s each           (see `door.rs`)
//! ```
//!
//! If the client uses TLS, its handshake thread stays after the handshake and carries the client's bytes
//! (`encryption`).
//!
//! Each listener has its own 32 handshakes, so silent clients of one address do not keep out those of
//! another. A client that sends nothing for 3 s is disconnected, and when all 32 are in use a new client
//! evicts one (`shaking`).
//!
//! This module does not stop the front ends: the reactors do so by
//! [`Frontend::close`](crate::frontend::Frontend::close).

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, accept_with, recv, send,
    shutdown, socketpair,
};

use super::door::{Accepted, Door, Origin, Reception};
use super::encryption::{Encryption, Relays, Sealed, Security};
use super::frontend::NbdFrontend;
use super::handshake::{Greeted, Outcome, greet, negotiate};
use super::limits::{HANDSHAKE_SILENCE_MAX, HANDSHAKE_TIME_MAX};
use super::listen::{Access, Address, Listening, widen};
use super::peer_user::PeerUsers;
use super::shaking::{Place, Shaking, Source};
use super::visits::{Peer, Visit, Visits};
use super::{ExportInfo, NbdError};
use crate::threads::{Routes, Thread, Threads};

/// How long a listener pauses when the system has no descriptor or thread for a client.
const SCARCITY_PAUSE: Duration = Duration::from_millis(50);

/// Refusals that are logged each minute. Further refusals are only counted, so that an attacker cannot flood
/// the log.
const REFUSALS_PER_MINUTE: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);

/// Listeners and handshakes never reach a member, and an NBD server has no block device.
const ROUTES: Routes = Routes { block_device: false, passthrough: false };

/// Stack of a handshake thread: small, since there may be many.
const HANDSHAKE_STACK_BYTES: usize = 256 << 10;

/// The listening side of an NBD server. Dropping it stops it.
pub struct NbdServer {
    shared: Arc<Shared>,
    /// A thread for each address. The sockets are kept here too: dropping the last reference removes the
    /// socket's file, which must happen on a thread that may remove files.
    listeners: Vec<(JoinHandle<()>, Arc<Listening>)>,
    addresses: Vec<Address>,
    visits: Visits,
}

/// State shared by listeners and handshakes.
struct Shared {
    export: ExportInfo,
    access: Access,
    users: PeerUsers,
    threads: Threads,
    encryption: Option<Arc<dyn Encryption>>,
    relays: Relays,
    reception: Reception,
    /// Set once, by `stop`. Listeners see it after the bell's ring, handshakes through the lock of
    /// `handshakes`.
    stopping: AtomicBool,
    bell: OwnedFd,
    handshakes: Mutex<Shaking>,
    refusals: Mutex<Refusals>,
    /// Notified when a handshake ends.
    ended: Condvar,
}

impl NbdServer {
    /// Listens on every address of `listen`, and returns with a front end for each of `reactors`. Clients can
    /// connect from now on, and are served as soon as the reactors turn.
    pub fn start(
        listen: &[Address],
        access: Access,
        export: ExportInfo,
        reactors: usize,
    ) -> Result<(NbdServer, Vec<NbdFrontend>), NbdError> {
        NbdServer::start_limited(listen, access, export, reactors, Threads::default(), None)
    }

    /// Like [`NbdServer::start`], with threads that are restricted by `threads`. If there is an encryption,
    /// clients by TCP must use it; if it authenticates them, the checks of `access` do not apply to them.
    pub fn start_limited(
        listen: &[Address],
        access: Access,
        export: ExportInfo,
        reactors: usize,
        threads: Threads,
        encryption: Option<Arc<dyn Encryption>>,
    ) -> Result<(NbdServer, Vec<NbdFrontend>), NbdError> {
        let proven = encryption.as_ref().is_some_and(|encryption| encryption.proves_clients());
        let access = Access { proven, ..access };
        assert!(reactors > 0, "an export is served by one reactor at least");
        let export = export.checked()?;
        let limits = export.limits();
        let failed = |error: io::Error| NbdError(format!("cannot start to serve NBD: {error}"));
        let mut sockets = Vec::new();
        for address in listen {
            sockets.extend(Listening::on(address, access)?);
        }
        let origins: Vec<Origin> = sockets.iter().map(Listening::origin).collect();
        let (doors, visits) = Door::all(reactors, sockets.len()).map_err(failed)?;
        let doors: Vec<Arc<Door>> = doors.into_iter().map(Arc::new).collect();
        let frontends: Vec<NbdFrontend> = doors
            .iter()
            .map(|door| NbdFrontend::new(Arc::clone(door), limits))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let shared = Arc::new(Shared {
            export,
            access,
            users: PeerUsers::open(),
            threads,
            encryption,
            relays: Relays::default(),
            reception: Reception::new(doors.into(), &origins),
            stopping: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?,
            handshakes: Mutex::default(),
            refusals: Mutex::default(),
            ended: Condvar::new(),
        });
        let mut server = NbdServer { shared, listeners: Vec::new(), addresses: Vec::new(), visits };
        for (index, socket) in sockets.into_iter().enumerate() {
            server.addresses.push(socket.address.clone());
            let shared = Arc::clone(&server.shared);
            let thread = thread::Builder::new().name("nbd-listen".into());
            let socket = Arc::new(socket);
            let listening = Arc::clone(&socket);
            let accepting = thread.spawn(move || accept_all(&shared, &listening, index)).map_err(failed)?;
            server.listeners.push((accepting, socket));
        }
        Ok((server, frontends))
    }

    /// The addresses on which the server listens, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The number of connected clients, without those that are still shaking hands.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.shared.reception.seated()
    }

    /// The clients that arrive and leave, for one listener.
    #[must_use]
    pub fn visits(&self) -> Visits {
        self.visits.clone()
    }

    /// The threads that carry the bytes of clients that use TLS.
    pub(crate) fn relays(&self) -> Relays {
        self.shared.relays.clone()
    }

    /// Stops listening, removes the socket files, and disconnects clients that are still shaking hands.
    /// Connections are not touched: they belong to the front ends.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // The bell's counter is never read, so the bell stays readable for every listener.
        let _rung = rustix::io::write(&self.shared.bell, &1u64.to_ne_bytes());
        for (listener, _socket) in self.listeners.drain(..) {
            let _panicked_or_not = listener.join();
        }
        let mut handshakes = self.shared.handshakes();
        while !handshakes.is_empty() {
            for socket in handshakes.sockets() {
                let _gone_or_not = shutdown(socket, Shutdown::Both);
            }
            handshakes = self.shared.ended.wait(handshakes).unwrap_or_else(PoisonError::into_inner);
        }
        drop(handshakes);
        let mut refusals = self.shared.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.suppressed > 0 {
            self.shared.reception.tell(Visit::MoreRefused(std::mem::take(&mut refusals.suppressed)));
        }
    }
}

impl Shared {
    fn handshakes(&self) -> MutexGuard<'_, Shaking> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a client that was refused, unless there are too many refusals to log.
    fn refuse(&self, visit: Visit) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        match refusals.admit(now()) {
            Some(0) => self.reception.tell(visit),
            Some(suppressed) => {
                self.reception.tell(Visit::MoreRefused(suppressed));
                self.reception.tell(visit);
            }
            None => {}
        }
    }

    /// Registers a handshake of a listener. If all its places are taken, another handshake is evicted.
    fn begin(
        self: &Arc<Shared>,
        listener: usize,
        origin: Origin,
        socket: OwnedFd,
        peer: Arc<Peer>,
    ) -> Option<Handshake> {
        let socket = Arc::new(socket);
        match self.handshakes().enter(listener, Source::of(&peer.name), Arc::clone(&socket)) {
            Place::Free => {}
            Place::Taken(other) => {
                let _gone_or_not = shutdown(other, Shutdown::Both);
            }
            Place::None => return None,
        }
        let security = match (&self.encryption, origin) {
            (None, Origin::Unix | Origin::Tcp) => Security::NotOffered,
            (Some(_), Origin::Unix) => Security::Offered,
            (Some(_), Origin::Tcp) => Security::Required,
        };
        Some(Handshake { shared: Arc::clone(self), listener, security, socket, peer })
    }
}

/// The body of a listener thread.
fn accept_all(shared: &Arc<Shared>, listening: &Listening, listener: usize) {
    shared.threads.limit(Thread::NbdListener, ROUTES);
    loop {
        let mut waits =
            [PollFd::new(&listening.socket, PollFlags::IN), PollFd::new(&shared.bell, PollFlags::IN)];
        let _interrupted_or_not = poll(&mut waits, None);
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        match accept_with(&listening.socket, SocketFlags::CLOEXEC) {
            Ok(client) => welcome(shared, listening, listener, client),
            Err(error) if is_scarcity(error) => pause(),
            Err(_) => {} // the client is gone already, or another thread was faster
        }
    }
}

/// Starts a client's handshake. If that fails, the client is disconnected.
fn welcome(shared: &Arc<Shared>, listening: &Listening, listener: usize, client: OwnedFd) {
    if listening.tune(&client).is_err() {
        return;
    }
    let peer = Arc::new(listening.peer(&client));
    // The kernel's table of sockets may be long. It is read once per client, and only this thread waits for
    // that.
    if let Some(user) = listening.refuses(shared.access, &shared.users, &client) {
        return shared.refuse(Visit::Refused { peer, user });
    }
    if let Some(handshake) = shared.begin(listener, listening.origin(), client, peer) {
        let thread = thread::Builder::new().name("nbd-handshake".into()).stack_size(HANDSHAKE_STACK_BYTES);
        if thread.spawn(move || handshake.run()).is_err() {
            pause();
        }
    }
}

/// Waits a moment, so that others give back what is scarce.
#[expect(
    clippy::disallowed_methods,
    reason = "a listener thread may wait; nothing tells that descriptors are free"
)]
fn pause() {
    thread::sleep(SCARCITY_PAUSE);
}

/// The clock for the handshakes' deadlines.
#[expect(
    clippy::disallowed_methods,
    reason = "handshakes are outside of the engine, on threads of their own"
)]
fn now() -> Instant {
    Instant::now()
}

fn is_scarcity(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&error)
}

/// The recent refusals of clients.
#[derive(Default)]
struct Refusals {
    /// The beginning of the current minute, and the refusals logged in it.
    minute: Option<(Instant, u32)>,
    /// Refusals that were not logged.
    suppressed: u32,
}

impl Refusals {
    /// Records a refusal. If it is to be logged, returns the number of refusals suppressed since the last
    /// logged one.
    fn admit(&mut self, now: Instant) -> Option<u32> {
        let (began, logged) = self
            .minute
            .filter(|(began, _)| now.saturating_duration_since(*began) < MINUTE)
            .unwrap_or((now, 0));
        let is_logged = logged < REFUSALS_PER_MINUTE;
        self.minute = Some((began, logged + u32::from(is_logged)));
        if is_logged {
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed = self.suppressed.saturating_add(1);
        None
    }
}

/// A handshake in progress; it counts against its listener's limit.
struct Handshake {
    shared: Arc<Shared>,
    /// The index of the listener through which the client came.
    listener: usize,
    security: Security,
    socket: Arc<OwnedFd>,
    peer: Arc<Peer>,
}

impl Handshake {
    fn run(self) {
        self.shared.threads.limit(Thread::NbdHandshake, ROUTES);
        let deadline = now() + HANDSHAKE_TIME_MAX;
        let mut wire = Wire { socket: Arc::clone(&self.socket), deadline };
        let Ok(Some(client)) = greet(&mut wire) else { return };
        match self.negotiate(&mut wire, client, self.security) {
            Ok(Outcome::Welcome(seat, terms)) if self.shared.handshakes().accept(&self.socket) => {
                // The connection gets a descriptor of its own, since this one is shared with `stop`.
                if let Ok(socket) = self.socket.try_clone() {
                    let peer = Arc::clone(&self.peer);
                    self.shared.reception.enter(Accepted { socket, peer, terms, seat });
                }
            }
            Ok(Outcome::Encrypt) => self.encrypt(&mut wire, client),
            Ok(Outcome::Welcome(..) | Outcome::Goodbye) | Err(_) => {}
        }
    }

    /// Makes a session with a client that was told to begin TLS, and serves the client until it is gone.
    fn encrypt(self, wire: &mut Wire, client: Greeted) {
        let encryption = self.shared.encryption.as_ref().expect("the client was told to begin");
        let mut session = match encryption.accept(wire) {
            Ok(session) => session,
            Err(error) => {
                let is_late = matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock);
                let why = match error.kind() {
                    _ if is_late => "it did not answer in time".into(),
                    ErrorKind::UnexpectedEof => "it left, or another client needed its place".into(),
                    _ => error.to_string(),
                };
                if !self.shared.stopping.load(Ordering::Acquire) {
                    self.shared.refuse(Visit::NotTrusted { peer: Arc::clone(&self.peer), why });
                }
                return;
            }
        };
        let mut sealed = Sealed { wire, session: session.as_mut() };
        let outcome = self.negotiate(&mut sealed, client, Security::InUse);
        let Ok(Outcome::Welcome(seat, terms)) = outcome else { return };
        if !self.shared.handshakes().accept(&self.socket) {
            return;
        }
        let flags = SocketFlags::CLOEXEC;
        let Ok((ours, reactors)) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None) else {
            return;
        };
        if [&ours, &reactors].into_iter().any(|socket| widen(socket).is_err()) {
            return;
        }
        // The limit allows a thread for each seat, and for connections that have closed but still send their
        // last replies.
        let Some(_counted) = self.shared.relays.begin(self.shared.reception.relays_max()) else { return };
        let user = session.user().map(|user| format!(" as {user}")).unwrap_or_default();
        let peer = Peer { name: format!("{} by TLS{user}", self.peer.name), at: self.peer.at.clone() };
        self.shared.reception.enter(Accepted { socket: reactors, peer: Arc::new(peer), terms, seat });
        let socket = Arc::clone(&self.socket);
        drop(self);
        session.relay(&socket, ours);
    }

    fn negotiate<W: Read + Write>(
        &self,
        wire: &mut W,
        client: Greeted,
        security: Security,
    ) -> io::Result<Outcome> {
        let seat = || self.shared.reception.seat(self.listener);
        negotiate(wire, client, security, &self.shared.export, &seat)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.shared.handshakes().leave(&self.socket);
        self.shared.ended.notify_all();
    }
}

/// A blocking socket with one deadline for the whole handshake, and a shorter timeout for each step.
struct Wire {
    socket: Arc<OwnedFd>,
    deadline: Instant,
}

impl Wire {
    /// Limits the next operation to the remaining time or the time for one step, whichever is shorter.
    fn limit(&self, timeout: Timeout) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(set_socket_timeout(&self.socket, timeout, Some(left.min(HANDSHAKE_SILENCE_MAX)))?)
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.limit(Timeout::Recv)?;
        Ok(recv(&self.socket, into, RecvFlags::empty())?.0)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit(Timeout::Send)?;
        Ok(send(&self.socket, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_clients_do_not_fill_a_log() {
        let (began, mut refusals) = (now(), Refusals::default());
        let told = (0..100).filter(|_| refusals.admit(began) == Some(0)).count();
        assert_eq!(told, REFUSALS_PER_MINUTE as usize);
        assert_eq!(refusals.admit(began + MINUTE), Some(100 - REFUSALS_PER_MINUTE), "the others are counted");
        assert_eq!(refusals.admit(began + MINUTE), Some(0));
    }
}
