//! TLS with pre-shared keys, by s2n-tls.
//!
//! The library is written in C. It reads and writes by callbacks, which here move bytes between the library
//! and two buffers in memory ([`Buffers`]). So it is a [`Channel`] like rustls, and has no socket.
//!
//! - TLS 1.3 with a Diffie-Hellman exchange (psk_dhe_ke) only: a key that leaks later does not decrypt what
//!   was recorded before. The hash of the keys is SHA-256, the only one that GnuTLS gives to keys of a file
//!   (RFC 8446, section 4.2.11), so AES-128-GCM or ChaCha20-Poly1305 encrypts.
//! - The server has no certificate, so the handshake of a client without a key of the file cannot succeed.
//! - No delay after an error. By default the library makes the thread of a bad client sleep for 10 to 30 s,
//!   against attacks on CBC padding (`s2n_connection_calculate_blinding`). TLS 1.3 has no CBC, and the sleep
//!   would occupy one of the places for handshakes.
//! - The library works inside the sandbox: its initialization, by the first key, prepares AWS-LC for that
//!   (CRYPTO_pre_sandbox_init), random numbers come from getrandom(2), its memory comes from the Rust
//!   allocator (no mlock), and nothing is registered with atexit(3).

#![expect(unsafe_code, reason = "the callbacks of a library in C, and their context")]

use std::ffi::{c_int, c_void};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use errno::{Errno, set_errno};
use s2n_tls::config::Config;
use s2n_tls::connection::Connection;
use s2n_tls::enums::{Mode, PskHmac, Version};
use s2n_tls::error::Error;
use s2n_tls::psk::Psk;
use s2n_tls::security::Policy;

use super::channel::Channel;
use super::files::{private, unusable};
use super::keys::{User, parse};
use super::piece::Piece;
use crate::failure::Result;

/// The library's security policy: TLS 1.3 with its three ciphers, and P-256, X25519 and P-384. Policies with
/// a date in their names do not change.
const POLICY: &str = "AWS-CRT-SDK-TLSv1.3-2023";

/// The names of two errors of the library: the client's key is not that of the user it names; and the
/// handshake would need a certificate, because the client has not named a user of the file.
const WRONG_KEY: &str = "S2N_ERR_BAD_PSK_BINDER";
const NO_KEY: &str = "S2N_ERR_NO_VALID_SIGNATURE_SCHEME";

/// The number of the extension by which a client offers keys (RFC 8446, section 4.2).
const PRE_SHARED_KEY: u16 = 41;

/// The keys of the users that may connect.
pub struct SharedKeys {
    config: Config,
    keys: Vec<Psk>,
}

impl SharedKeys {
    /// Reads a file of keys.
    pub fn read(path: &Path) -> Result<SharedKeys> {
        let users = parse(path, &private(path)?)?;
        SharedKeys::new(&users).map_err(unusable(path))
    }

    fn new(users: &[User]) -> std::result::Result<SharedKeys, Error> {
        let mut config = Config::builder();
        config.set_security_policy(&Policy::from_version(POLICY)?)?;
        config.set_max_blinding_delay(0)?;
        let keys = users.iter().map(|user| {
            let mut key = Psk::builder()?;
            key.set_identity(user.name.as_bytes())?.set_secret(&user.key)?.set_hmac(PskHmac::SHA256)?;
            key.build()
        });
        Ok(SharedKeys { keys: keys.collect::<std::result::Result<_, _>>()?, config: config.build()? })
    }

    /// How many users may connect.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// The channel of a new client.
    pub fn begin(&self) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(self.connect(Mode::Server)?))
    }

    fn connect(&self, mode: Mode) -> std::result::Result<Shared, Error> {
        let mut connection = Connection::new(mode);
        connection.set_config(self.config.clone())?.prefer_throughput()?;
        for key in &self.keys {
            connection.append_psk(key)?;
        }
        let buffers = Arc::new(Mutex::new(Buffers { heard: Piece::new(), sealed: Vec::new(), given: 0 }));
        let context = Arc::as_ptr(&buffers).cast_mut().cast::<c_void>();
        connection.set_receive_callback(Some(receive))?.set_send_callback(Some(send))?;
        // SAFETY: the context lives as long as the connection: `Shared` has both, and drops the connection
        // first.
        unsafe { connection.set_receive_context(context)? };
        // SAFETY: as above.
        unsafe { connection.set_send_context(context)? };
        Ok(Shared { connection, buffers })
    }
}

/// Bytes between the library and a client.
struct Buffers {
    /// Bytes of the client that the library has not read yet.
    heard: Piece,
    /// Bytes that the library has written for the client.
    sealed: Vec<u8>,
    /// How many bytes of `sealed` were given to the client.
    given: usize,
}

/// A connection of the library. The order of the fields matters: the connection is dropped first, because its
/// callbacks use the buffers.
struct Shared {
    connection: Connection,
    /// The buffers. They are locked for a callback, or between two calls of the library; both happen on the
    /// thread of the channel.
    buffers: Arc<Mutex<Buffers>>,
}

fn lock(buffers: &Mutex<Buffers>) -> MutexGuard<'_, Buffers> {
    buffers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Continues the handshake with the bytes heard so far.
    fn negotiate(&mut self) -> io::Result<()> {
        match self.connection.poll_negotiate() {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => {
                let why = self.explain(&error);
                self.say_farewell();
                return Err(io::Error::new(ErrorKind::InvalidData, why));
            }
        }
        // A second check: the policy and the lack of a certificate already leave no other way to get here. If
        // there were one, its client would have proven nothing.
        let has_key = self.connection.negotiated_psk_identity_length().is_ok_and(|length| length > 0);
        let is_new = self.connection.actual_protocol_version().is_ok_and(|it| it == Version::TLS13);
        if !(has_key && is_new) {
            return Err(io::Error::new(ErrorKind::InvalidData, "the library made a session without a key"));
        }
        Ok(())
    }

    /// Says for an operator why there is no session.
    fn explain(&self, error: &Error) -> String {
        match error.name() {
            WRONG_KEY => {
                let user = self.named().unwrap_or_default();
                format!("its key is not the one that keys.psk has for user {user}")
            }
            NO_KEY if self.offers_keys() => "keys.psk has no user of the name that it gives".into(),
            NO_KEY => "it offers no pre-shared key".into(),
            _ => error.message().into(),
        }
    }

    /// The user of the file that the client has named, whether or not the client has that user's key.
    fn named(&self) -> Option<String> {
        let length = self.connection.negotiated_psk_identity_length().ok().filter(|&length| length > 0)?;
        let mut name = vec![0; length];
        self.connection.negotiated_psk_identity(&mut name).ok()?;
        String::from_utf8(name).ok()
    }

    fn offers_keys(&self) -> bool {
        let hello = self.connection.client_hello().and_then(|hello| hello.raw_message());
        hello.is_ok_and(|hello| has_extension(&hello, PRE_SHARED_KEY).unwrap_or(false))
    }
}

/// Whether a ClientHello has an extension; `None` if the message ends early. The layout, without the header
/// of the message, is that of RFC 8446, section 4.1.2: `version:2 random:32 session:<1> ciphers:<2>
/// compression:<1> extensions:<2>`, an extension `type:2 data:<2>`.
fn has_extension(hello: &[u8], wanted: u16) -> Option<bool> {
    fn number(bytes: &mut &[u8], length: usize) -> Option<usize> {
        let (number, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(number.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }
    fn skip(bytes: &mut &[u8], length: usize) -> Option<()> {
        *bytes = bytes.split_at_checked(length)?.1;
        Some(())
    }
    let mut rest = hello;
    skip(&mut rest, 34)?;
    for size_of_length in [1, 2, 1] {
        let length = number(&mut rest, size_of_length)?;
        skip(&mut rest, length)?;
    }
    skip(&mut rest, 2)?;
    while !rest.is_empty() {
        if number(&mut rest, 2)? == usize::from(wanted) {
            return Some(true);
        }
        let length = number(&mut rest, 2)?;
        skip(&mut rest, length)?;
    }
    Some(false)
}

impl Channel for Shared {
    fn user(&self) -> Option<String> {
        self.named().filter(|_| !self.is_handshaking())
    }

    fn is_handshaking(&self) -> bool {
        !self.connection.handshake_complete()
    }

    fn hear(&mut self, wire: &mut dyn Read) -> io::Result<usize> {
        let mut buffers = lock(&self.buffers);
        if !buffers.heard.is_empty() {
            // The library waits for something other than these bytes, which never happens here.
            return Err(ErrorKind::InvalidData.into());
        }
        let count = buffers.heard.fill(|bytes| wire.read(bytes))?;
        drop(buffers);
        if count > 0 && self.is_handshaking() {
            self.negotiate()?;
        }
        Ok(count)
    }

    fn open(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut opened = 0;
        // Each call opens one record.
        while opened < into.len() {
            match self.connection.poll_recv(&mut into[opened..]) {
                Poll::Ready(Ok(0)) => return Ok(opened),
                Poll::Ready(Ok(count)) => opened += count,
                Poll::Ready(Err(error)) => {
                    self.say_farewell();
                    return Err(io::Error::new(ErrorKind::InvalidData, error));
                }
                Poll::Pending if opened == 0 => return Err(ErrorKind::WouldBlock.into()),
                Poll::Pending => return Ok(opened),
            }
        }
        Ok(opened)
    }

    fn seal(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.connection.poll_send(bytes) {
                Poll::Ready(sealed) => bytes = &bytes[sealed?..],
                // Cannot happen: the buffer takes everything.
                Poll::Pending => return Err(ErrorKind::WriteZero.into()),
            }
        }
        Ok(())
    }

    fn has_sealed(&self) -> bool {
        !lock(&self.buffers).sealed.is_empty()
    }

    fn give(&mut self, wire: &mut dyn Write) -> io::Result<usize> {
        let mut buffers = lock(&self.buffers);
        if buffers.sealed.is_empty() {
            return Ok(0);
        }
        let count = wire.write(&buffers.sealed[buffers.given..])?;
        buffers.given += count;
        if buffers.given == buffers.sealed.len() {
            buffers.sealed.clear();
            buffers.given = 0;
        }
        Ok(count)
    }

    fn say_farewell(&mut self) {
        // After an error of the client, this sends an alert instead.
        let _said_or_too_late = self.connection.poll_shutdown_send();
    }
}

/// Gives the library bytes that were heard, or returns -1 with EAGAIN if there are none.
///
/// # Safety
///
/// `context` points to a `Mutex<Buffers>`, and `into` to `len` bytes that may be written.
unsafe extern "C" fn receive(context: *mut c_void, into: *mut u8, len: u32) -> c_int {
    // SAFETY: `context` is valid by contract; the reference is shared, as are all others to it.
    let buffers = unsafe { &*context.cast::<Mutex<Buffers>>() };
    let mut buffers = lock(buffers);
    let heard = buffers.heard.left();
    let count = heard.len().min(len as usize).min(c_int::MAX as usize);
    if count == 0 {
        set_errno(Errno(libc::EAGAIN));
        return -1;
    }
    // SAFETY: `count` is at most the length of both; the library's memory is not part of our buffer.
    unsafe { std::ptr::copy_nonoverlapping(heard.as_ptr(), into, count) };
    buffers.heard.take(count);
    count as c_int
}

/// Takes all bytes that the library writes.
///
/// # Safety
///
/// `context` points to a `Mutex<Buffers>`, and `from` to `len` bytes.
unsafe extern "C" fn send(context: *mut c_void, from: *const u8, len: u32) -> c_int {
    // SAFETY: `context` is valid by contract; the reference is shared, as are all others to it.
    let buffers = unsafe { &*context.cast::<Mutex<Buffers>>() };
    let count = len.min(c_int::MAX as u32);
    // SAFETY: `from` has `len` bytes by contract, and `count` is at most `len`.
    let bytes = unsafe { std::slice::from_raw_parts(from, count as usize) };
    lock(buffers).sealed.extend_from_slice(bytes);
    count as c_int
}

#[cfg(test)]
pub(super) mod tests;
