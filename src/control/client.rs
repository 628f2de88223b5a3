//! The commands' side of the control socket.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::status::{ArrayStatus, add_piece};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::LINE_TIME_MAX;
use super::message::{Answer, Lines, Request, encode};
use crate::failure::{Context, Failure, Result};
use crate::names::ArrayName;
use crate::rundir::{LockState, RunDir};

/// A connection to the server of one array.
#[derive(Debug)]
pub struct Client {
    /// The array whose server this is, for messages.
    name: ArrayName,
    /// The connection to the control socket.
    stream: UnixStream,
    /// Bytes that arrived and are not yet a whole line.
    lines: Lines,
}

/// The reason why there is no connection.
#[derive(Debug)]
pub enum Unreachable {
    /// No server has this name.
    NotServed,
    /// A server had this name and died: its socket is still there.
    Dead,
    /// Any other reason, as a failure for the operator.
    Failed(Failure),
}

impl Client {
    /// Connects, or says why not.
    pub fn try_connect(run_dir: &RunDir, name: &ArrayName) -> std::result::Result<Self, Unreachable> {
        let path = run_dir.control_socket(name).map_err(Unreachable::Failed)?;
        let stream = connect_within(&path, LINE_TIME_MAX).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => match run_dir.lock_state(name) {
                LockState::Held => Unreachable::Failed(busy(name)),
                // Lock and socket are there, but nothing holds or serves them: the server that had both has
                // died.
                LockState::Free if error.kind() == ErrorKind::ConnectionRefused => Unreachable::Dead,
                LockState::Free | LockState::None => Unreachable::NotServed,
            },
            ErrorKind::TimedOut => Unreachable::Failed(Failure::new(format!(
                "no answer: {name}: its server takes no connection; see its log"
            ))),
            _ => Unreachable::Failed(Failure::new(format!("cannot connect to {}: {error}", path.display()))),
        })?;
        stream
            .set_write_timeout(Some(LINE_TIME_MAX))
            .context(|| format!("cannot use {}", path.display()))
            .map_err(Unreachable::Failed)?;
        Ok(Self { name: name.clone(), stream, lines: Lines::default() })
    }

    /// Connects. A server that is not there is a failure.
    pub fn connect(run_dir: Option<&RunDir>, name: &ArrayName) -> Result<Self> {
        let Some(run_dir) = run_dir else { return Err(not_served(name, None)) };
        Self::try_connect(run_dir, name).map_err(|reason| match reason {
            Unreachable::NotServed => not_served(name, Some(run_dir)),
            Unreachable::Dead => server_gone(name),
            Unreachable::Failed(failure) => failure,
        })
    }

    /// Asks for the status. A server that does not answer in time is a failure.
    pub fn status(&mut self) -> Result<ArrayStatus> {
        self.stream.set_read_timeout(Some(LINE_TIME_MAX)).context(|| self.name.to_string())?;
        match self.ask(&Request::Status {})? {
            Answer::Status { status } => Ok(*status),
            Answer::Error { error } => Err(Failure::new(error)),
            Answer::Done { .. } | Answer::Lost { .. } => Err(self.unexpected()),
        }
    }

    /// Asks for the whole list of lost pieces.
    pub fn lost(&mut self) -> Result<Vec<(u64, u64)>> {
        self.stream.set_read_timeout(Some(LINE_TIME_MAX)).context(|| self.name.to_string())?;
        let (mut pieces, mut from) = (Vec::new(), Some(0));
        while let Some(from_stripe) = from {
            match self.ask(&Request::Lost { from_stripe })? {
                Answer::Lost { lost } => {
                    lost.pieces.into_iter().for_each(|piece| add_piece(&mut pieces, piece));
                    // Stop if the server does not advance; otherwise it would be asked for ever.
                    from = lost.next_stripe.filter(|next| *next > from_stripe);
                }
                Answer::Error { error } => return Err(Failure::new(error)),
                Answer::Done { .. } | Answer::Status { .. } => return Err(self.unexpected()),
            }
        }
        Ok(pieces)
    }

    fn unexpected(&self) -> Failure {
        Failure::new(format!(
            "not understood: {}: another answer than was asked for: is its server of another version?",
            self.name
        ))
    }

    /// Has the server carry out a command, and returns warnings. There is no time limit: a stop drains, a
    /// replacement is examined. A server that dies meanwhile ends the connection.
    pub fn command(&mut self, request: &Request) -> Result<Vec<String>> {
        self.stream.set_read_timeout(None).context(|| self.name.to_string())?;
        match self.ask(request)? {
            Answer::Done { warnings } => Ok(warnings),
            Answer::Error { error } => Err(Failure::new(error)),
            Answer::Status { .. } | Answer::Lost { .. } => Err(self.unexpected()),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Answer> {
        // A server that refuses a client answers and closes at once: the write may fail although the answer
        // says why, so the answer is read in either case.
        let written = self.stream.write_all(&encode(request));
        let line = self.lines.next(&mut self.stream, |_| Ok(())).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Failure::new(format!("no answer: {}: its server is busy or stuck; see its log", self.name))
            }
            _ => self.is_lost(&error),
        })?;
        match (line, written) {
            (Some(line), _) => serde_json::from_slice(&line)
                .context(|| format!("not understood: {}: is its server of another version?", self.name)),
            (None, Err(error)) => Err(self.is_lost(&error)),
            (None, Ok(())) => Err(self.is_lost(&ErrorKind::UnexpectedEof.into())),
        }
    }

    fn is_lost(&self, error: &std::io::Error) -> Failure {
        Failure::new(format!("connection lost: {}: {error}; see the log of its server", self.name))
    }
}

/// Connects to a socket within `limit`, or returns the error `TimedOut`. A plain `connect` would hang for
/// ever on a server that accepts no more clients (one that was stopped by a signal, say), once its queue is
/// full.
pub fn connect_within(path: &Path, limit: Duration) -> std::io::Result<UnixStream> {
    const PAUSE: Duration = Duration::from_millis(20);
    let address = SocketAddrUnix::new(path)?;
    let until = Instant::now() + limit;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {
                let stream = UnixStream::from(socket);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(Errno::AGAIN) if Instant::now() < until => std::thread::sleep(PAUSE),
            Err(Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The failure when a server holds the lock of its name but its socket does not answer.
fn busy(name: &ArrayName) -> Failure {
    Failure::new(format!(
        "busy: {name}: its server is being started or ended: try again when it is ready or gone"
    ))
}

/// The failure when a server has died.
pub fn server_gone(name: &ArrayName) -> Failure {
    Failure::new(format!(
        "server gone: {name}: it ended without a stop; serve the members again, resync follows; or, if there is to be no next server, `striate stop {name}` says how to clear away what it left"
    ))
}

/// The failure when no server has this name.
pub fn not_served(name: &ArrayName, run_dir: Option<&RunDir>) -> Failure {
    let place = run_dir.map_or(String::new(), |run_dir| format!(" in {}", run_dir.path().display()));
    Failure::new(format!(
        "not served: {name}: no such server{place}; see `striate status`, or give its --run-dir"
    ))
}
