//! Moves bytes between a TLS client and a reactor, in both directions, on one thread.
//!
//! ```text
//!   client --recv--> sealed --TLS--> opened --send--> plain
//!   client <--send-- TLS <--------------------recv--- plain
//! ```
//!
//! - Each direction holds one piece of bounded length, and takes the next when that is gone. A side that does
//!   not take its bytes therefore stops the side that sends them, as without TLS, and the reactor detects a
//!   stalled client in the same way.
//! - If the client closes its direction, the relay closes it for the reactor too; the client still gets its
//!   replies.
//! - If the reactor closes the plain socket, the client gets the remaining bytes, a farewell of TLS, and the
//!   end, within [`FAREWELL_TIME_MAX`].
//! - If both directions of the client's socket are closed, or the client sends bytes that are not TLS, both
//!   sockets are shut down.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown};

use super::channel::Channel;
use super::piece::{PIECE_BYTES, Piece};

/// How long a client may take to receive the remaining bytes after the reactor has closed its connection.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(5);

/// The two sockets of a client, and the bytes between them.
pub struct Relay<'a> {
    tls: Box<dyn Channel>,
    client: BorrowedFd<'a>,
    plain: BorrowedFd<'a>,
    /// Bytes of the client that are still sealed.
    sealed: Piece,
    /// Bytes of the client for the reactor.
    opened: Piece,
    /// Bytes of the reactor, on their way into the session.
    reply: Box<[u8]>,
    /// Whether the client sends nothing more, and all that it sent is opened.
    client_is_done: bool,
    /// Whether the reactor has been told that the client is done.
    is_told: bool,
    /// Whether the reactor sends nothing more, and all that it sent is in the session.
    plain_is_done: bool,
    /// The deadline for the client to take the remaining bytes; set once the reactor has closed its
    /// connection.
    end: Option<Instant>,
}

/// The sign that the relay is over.
struct Over;

impl<'a> Relay<'a> {
    pub fn new(tls: Box<dyn Channel>, client: &'a OwnedFd, plain: &'a OwnedFd) -> Relay<'a> {
        let reply = vec![0; PIECE_BYTES].into();
        let (client, plain) = (client.as_fd(), plain.as_fd());
        let (sealed, opened) = (Piece::new(), Piece::new());
        let (client_is_done, is_told, plain_is_done, end) = (false, false, false, None);
        Relay { tls, client, plain, sealed, opened, reply, client_is_done, is_told, plain_is_done, end }
    }

    /// Relays until one side has closed and the other has received the remaining bytes.
    pub fn run(mut self) {
        while self.turn().is_ok() {}
        let _gone_or_not = shutdown(self.plain, Shutdown::Both);
        if self.plain_is_done && !self.tls.has_sealed() && shutdown(self.client, Shutdown::Write).is_ok() {
            self.hear_out();
        }
        let _gone_or_not = shutdown(self.client, Shutdown::Both);
    }

    /// Reads and drops what the client still sends, until the client closes or the time is over. Without
    /// this, the kernel would reset a TCP socket that has unread bytes when it is closed, and the client
    /// would lose the last replies.
    fn hear_out(&mut self) {
        let end = self.end.unwrap_or_else(now);
        loop {
            let left = end.saturating_duration_since(now());
            let mut wait = [PollFd::from_borrowed_fd(self.client, PollFlags::IN)];
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
            let is_over = left.is_zero() || poll(&mut wait, Some(&timeout)).is_err();
            match recv(self.client, &mut self.reply[..], RecvFlags::DONTWAIT) {
                Ok((_, count)) if count > 0 && !is_over => {}
                Err(Errno::AGAIN | Errno::INTR) if !is_over => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Moves all bytes that can move now, then waits for more.
    fn turn(&mut self) -> Result<(), Over> {
        while self.pass_replies()? | self.pass_requests()? {}
        if self.plain_is_done && !self.tls.has_sealed() {
            return Err(Over);
        }
        self.wait()
    }

    /// Moves a piece of the replies on. Returns whether anything moved.
    fn pass_replies(&mut self) -> Result<bool, Over> {
        let mut moved = false;
        if !self.plain_is_done && !self.tls.has_sealed() {
            match recv(self.plain, &mut self.reply[..], RecvFlags::DONTWAIT) {
                Ok((_, count)) if count > 0 => {
                    self.tls.seal(&self.reply[..count]).map_err(|_| Over)?;
                    moved = true;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(_) | Err(_) => {
                    self.plain_is_done = true;
                    self.end.get_or_insert_with(|| now() + FAREWELL_TIME_MAX);
                    self.tls.say_farewell();
                }
            }
        }
        while self.tls.has_sealed() {
            match self.tls.give(&mut Sending(self.client)) {
                Ok(_) => moved = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
        Ok(moved)
    }

    /// Moves a piece of the client's bytes on. Returns whether anything moved.
    fn pass_requests(&mut self) -> Result<bool, Over> {
        if self.end.is_some() {
            return Ok(false);
        }
        let mut moved = false;
        while self.opened.is_empty() && !self.client_is_done {
            // Decrypted bytes first: the session may still hold some that arrived with the handshake.
            match self.opened.fill(|bytes| self.tls.open(bytes)) {
                Ok(0) => self.client_is_done = true,
                Ok(_) => moved = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.hear()? {
                        break;
                    }
                }
                Err(_) => return Err(self.refuse()),
            }
        }
        if !self.opened.is_empty() {
            match send(self.plain, self.opened.left(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.opened.take(count);
                    moved = true;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The reactor has closed its socket: drop these bytes, and go on to pass its last replies to
                // the client.
                Err(_) => self.opened.take(self.opened.left().len()),
            }
        }
        if self.client_is_done && self.opened.is_empty() && !self.is_told {
            let _gone_or_not = shutdown(self.plain, Shutdown::Write);
            self.is_told = true;
        }
        Ok(moved)
    }

    /// Gives the session sealed bytes of the client. Returns whether there were any.
    fn hear(&mut self) -> Result<bool, Over> {
        if self.sealed.is_empty() {
            let client = self.client;
            match self.sealed.fill(|bytes| recv(client, bytes, RecvFlags::DONTWAIT).map(|(_, count)| count)) {
                // A client that closes without the farewell of TLS counts as done too. That is safe: NBD
                // states the length of everything it sends, so a cut is noticed.
                Ok(0) => self.client_is_done = true,
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                Err(_) => return Err(Over),
            }
        }
        let mut left = self.sealed.left();
        if !left.is_empty() {
            let Ok(count) = self.tls.hear(&mut left) else { return Err(self.refuse()) };
            self.sealed.take(count);
            // Bytes behind the farewell of TLS are ignored.
            self.client_is_done |= count == 0;
        }
        Ok(true)
    }

    /// Ends the relay because of what the client sent. An alert tells the client why, if it still reads.
    fn refuse(&mut self) -> Over {
        let _heard_or_not = self.tls.give(&mut Sending(self.client));
        Over
    }

    /// Waits until one of the sockets can go on. Returns `Over` if the client is gone, or its time is over.
    fn wait(&mut self) -> Result<(), Over> {
        let left = self.end.map(|end| end.saturating_duration_since(now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Over);
        }
        let mut of_client = PollFlags::empty();
        let wants_client = !self.client_is_done && self.opened.is_empty();
        of_client.set(PollFlags::IN, wants_client && self.end.is_none());
        of_client.set(PollFlags::OUT, self.tls.has_sealed());
        let mut of_plain = PollFlags::empty();
        of_plain.set(PollFlags::IN, !self.tls.has_sealed());
        of_plain.set(PollFlags::OUT, !self.opened.is_empty());
        let mut both = [
            PollFd::from_borrowed_fd(self.client, of_client),
            PollFd::from_borrowed_fd(self.plain, of_plain),
        ];
        // After the reactor has closed, the plain socket would report HUP at every poll, and the loop would
        // spin. Its remaining bytes can be read without waiting.
        let waits = if self.end.is_some() { &mut both[..1] } else { &mut both[..] };
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(waits, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return Err(Over),
        }
        let is_gone = |wait: &PollFd<'_>| wait.revents().intersects(PollFlags::HUP | PollFlags::ERR);
        if is_gone(&waits[0]) {
            return Err(Over);
        }
        if waits.get(1).is_some_and(is_gone) {
            self.end = Some(now() + FAREWELL_TIME_MAX);
        }
        Ok(())
    }
}

/// The socket of a client, as a writer that takes what fits without blocking.
struct Sending<'a>(BorrowedFd<'a>);

impl Write for Sending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(sendmsg(self.0, pieces, &mut SendAncillaryBuffer::default(), flags)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The clock for farewells.
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
pub(super) mod tests;
