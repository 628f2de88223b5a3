//! The listening side of the control socket: one thread that accepts, and one for each client.
//!
//! ```text
//!     Claim::take     the lock is held, no live server has this name; the socket of a dead server stays,
//!        |            as a sign of the crash (meanwhile the array is assembled: a process without the
//!        |            lock opens no member)
//!     listen          the dead socket is removed, a new one bound, mode 0600; clients are served
//!        |
//!     close           no new clients; answers under way are finished (except a command that waits for a
//!                     device); the socket is removed
//! ```
//!
//! The lock, not the socket, tells whether a server is alive: two servers that start at the same moment both
//! see a stale socket, but only one of them gets the lock. The kernel drops the lock with the process.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Result as IoResult, Write};
use std::net::Shutdown;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::status::{ArrayStatus, LostPieces};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::client::connect_within;
use super::message::{Answer, Lines, MemberId, Request, encode};
use super::{CLIENTS_MAX, CLOSE_TIME_MAX, LINE_TIME_MAX};
use crate::failure::{Context, Failure, Result};
use crate::log;
use crate::names::ArrayName;
use crate::rundir::RunDir;

/// The array that commands act upon. Several threads call it at once; an `Err` is a line for the operator.
pub trait Backend: Send + Sync + 'static {
    /// Returns the status.
    fn status(&self) -> std::result::Result<ArrayStatus, String>;
    /// Returns lost pieces, from a stripe on.
    fn lost(&self, from_stripe: u64) -> std::result::Result<LostPieces, String>;
    /// Fails a member; returns once it is on record.
    fn fail(&self, member: &MemberId) -> std::result::Result<(), String>;
    /// Puts a device in a slot; returns once the rebuild has begun.
    fn replace(&self, slot: &MemberId, path: &Path, force: bool) -> std::result::Result<(), String>;
    /// Stops the array; returns once it is marked clean. Warnings say what the operator should still know.
    fn stop(&self, force: bool) -> std::result::Result<Vec<String>, String>;
}

/// Whether a peer may command a server that runs as `own_uid`: only the same user and root may.
pub fn peer_allowed(peer_uid: u32, own_uid: u32) -> bool {
    peer_uid == own_uid || peer_uid == 0
}

/// The right to serve a name in a run directory, held as long as this value lives.
#[derive(Debug)]
pub struct Claim {
    /// The path of the control socket.
    path: PathBuf,
    /// The locked file. Closing it releases the lock.
    _lock: File,
}

impl Claim {
    /// Takes the name, unless a live server has it. The socket of a dead server stays: if this start fails,
    /// `status` still reports the crash.
    pub fn take(run_dir: &RunDir, name: &ArrayName) -> Result<Self> {
        let lock_path = run_dir.lock(name);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .context(|| format!("cannot open {}", lock_path.display()))?;
        match lock_or_wait(&lock) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(served_already(name)),
            Err(error) => return Err(error).context(|| format!("cannot lock {}", lock_path.display())),
        }
        let path = run_dir.control_socket(name)?;
        match connect_within(&path, LINE_TIME_MAX) {
            // A program that does not use the lock listens on the socket.
            Ok(_) => return Err(served_already(name)),
            Err(error) if error.kind() == ErrorKind::TimedOut => return Err(served_already(name)),
            Err(_) => {}
        }
        Ok(Self { path, _lock: lock })
    }

    /// Removes the socket of a dead server, if there is one.
    pub fn remove_dead_socket(&self) -> Result<()> {
        remove_if_there(&self.path)
    }

    /// Binds the socket and serves clients whose user id `allowed` admits. The thread that accepts them first
    /// calls `limit`; the threads of clients inherit its effect.
    pub fn listen(
        self,
        backend: Arc<dyn Backend>,
        allowed: impl Fn(u32) -> bool + Send + 'static,
        limit: impl FnOnce() + Send + 'static,
    ) -> Result<ControlServer> {
        let what = || format!("cannot listen on {}", self.path.display());
        self.remove_dead_socket()?;
        let listener = UnixListener::bind(&self.path).context(what)?;
        std::fs::set_permissions(&self.path, Permissions::from_mode(0o600)).context(what)?;
        let accepting = listener.try_clone().context(what)?;
        let acceptor = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                limit();
                accept(&accepting, &backend, &allowed);
            })
            .context(|| "cannot start the control thread".into())?;
        Ok(ControlServer { claim: self, listener, acceptor })
    }
}

/// Takes the lock of a name. A client that looks at the lock (`RunDir::lock_state`) holds it for a moment, so
/// a single refusal does not prove that there is a server.
fn lock_or_wait(lock: &File) -> std::result::Result<(), Errno> {
    const TRIES: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 1..TRIES {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            taken => return taken,
        }
    }
    flock(lock, FlockOperation::NonBlockingLockExclusive)
}

fn served_already(name: &ArrayName) -> Failure {
    Failure::new(format!(
        "already served: {name}: see `striate status`, or stop it with `striate stop {name}`"
    ))
}

/// Removes a file of a dead server, if there is one.
fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(|| format!("cannot remove the stale {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A control socket in service.
#[derive(Debug)]
pub struct ControlServer {
    /// The claim on the name, held until the end.
    claim: Claim,
    /// A second handle of the socket that the acceptor waits on, to shut it down.
    listener: UnixListener,
    /// The accepting thread. It ends when the listener is shut down, and ends its clients.
    acceptor: JoinHandle<()>,
}

impl ControlServer {
    /// Ends the service. An answer that is under way (to `stop`, above all) is still delivered, unless it
    /// takes longer than [`CLOSE_TIME_MAX`]: a command may wait for a device that never answers.
    pub fn close(self) {
        // On Linux, the shutdown makes a blocked accept(2) return EINVAL (net/unix/af_unix.c, unix_accept).
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let _ = self.acceptor.join();
        let _ = std::fs::remove_file(&self.claim.path);
    }
}

/// A connected client: its thread, and a handle that ends its reads.
struct Client {
    thread: JoinHandle<()>,
    stream: UnixStream,
}

fn accept(listener: &UnixListener, backend: &Arc<dyn Backend>, allowed: &dyn Fn(u32) -> bool) {
    let mut clients: Vec<Client> = Vec::with_capacity(CLIENTS_MAX);
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                clients.retain(|client| !client.thread.is_finished());
                admit(stream, backend, allowed, &mut clients);
            }
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => break,
            Err(error) => {
                // Out of descriptors, for example: this passes, and retrying at once would only spin.
                tracing::warn!("control socket: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
    for client in &clients {
        let _ = client.stream.shutdown(Shutdown::Read);
    }
    let until = Instant::now() + CLOSE_TIME_MAX;
    while clients.iter().any(|client| !client.thread.is_finished()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn admit(
    mut stream: UnixStream,
    backend: &Arc<dyn Backend>,
    allowed: &dyn Fn(u32) -> bool,
    clients: &mut Vec<Client>,
) {
    let refusal = match rustix::net::sockopt::socket_peercred(&stream) {
        Err(error) => Some(format!("cannot tell who you are: {error}")),
        Ok(peer) if !allowed(peer.uid.as_raw()) => {
            Some("refused: another user serves this array: give the command as that user or as root".into())
        }
        Ok(_) if clients.len() >= CLIENTS_MAX => Some(format!("busy: {CLIENTS_MAX} clients are connected")),
        Ok(_) => None,
    };
    if let Some(error) = refusal {
        tracing::warn!("control socket: client refused: {error}");
        let _ = stream.set_nonblocking(true);
        let _ = stream.write(&encode(&Answer::Error { error }));
        return;
    }
    let Ok(handle) = stream.try_clone() else { return };
    let backend = Arc::clone(backend);
    let conversation = move || {
        converse(&mut stream, &*backend);
        // Shut down, not only drop: the acceptor keeps a second handle until its next client, so a drop would
        // not close the connection.
        let _ = stream.shutdown(Shutdown::Both);
    };
    let spawned = std::thread::Builder::new().name("control-client".into()).spawn(conversation);
    if let Ok(thread) = spawned {
        clients.push(Client { thread, stream: handle });
    }
}

/// Answers one client until it leaves, is silent for too long, or breaks the rules.
fn converse(stream: &mut UnixStream, backend: &dyn Backend) {
    let mut lines = Lines::default();
    if stream.set_write_timeout(Some(LINE_TIME_MAX)).is_err() {
        return;
    }
    loop {
        let deadline = Instant::now() + LINE_TIME_MAX;
        let answer = match lines.next(stream, |stream| limit_read(stream, deadline)) {
            Ok(None) => return,
            Ok(Some(line)) => answer(&line, backend),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                let _ = stream.write_all(&encode(&Answer::Error { error: error.to_string() }));
                return;
            }
            Err(_) => return,
        };
        if stream.write_all(&encode(&answer)).is_err() {
            return;
        }
    }
}

/// Limits the next read to the time left until `deadline`.
fn limit_read(stream: &UnixStream, deadline: Instant) -> IoResult<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))
}

fn answer(line: &[u8], backend: &dyn Backend) -> Answer {
    let request = match serde_json::from_slice::<Request>(line) {
        Ok(request) => request,
        Err(error) => return Answer::Error { error: format!("not understood: {error}") },
    };
    let changes = !matches!(request, Request::Status {} | Request::Lost { .. });
    if changes {
        tracing::info!("command: {}", request.in_words());
    }
    let answer = match request {
        Request::Status {} => match backend.status() {
            Ok(status) => Answer::Status { status: Box::new(status) },
            Err(error) => Answer::Error { error },
        },
        Request::Lost { from_stripe } => match backend.lost(from_stripe) {
            Ok(lost) => Answer::Lost { lost },
            Err(error) => Answer::Error { error },
        },
        Request::Fail { member } => Answer::of(backend.fail(&member).map(|()| Vec::new())),
        Request::Replace { slot, path, force } => {
            Answer::of(backend.replace(&slot, &path, force).map(|()| Vec::new()))
        }
        Request::Stop { force } => Answer::of(backend.stop(force)),
    };
    if let (true, Answer::Error { error }) = (changes, &answer) {
        tracing::warn!("command refused: {error}");
    }
    if changes {
        log::settle();
    }
    answer
}
