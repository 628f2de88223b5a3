//! The TLS of one client, in the same form for both libraries: sealed bytes in and out on one side, plain
//! bytes on the other, and no socket.
//!
//! ```text
//!   the client's socket --hear--> |         | --open--> plain bytes of the client
//!                                 | Channel |
//!   the client's socket <--give-- |         | <--seal-- plain bytes for the client
//! ```
//!
//! - rustls, for certificates: [`certificates`](super::certificates).
//! - s2n-tls, for pre-shared keys: [`shared_keys`](super::shared_keys).
//!
//! The handshake ([`sealed`](super::sealed)) and the relay ([`relay`](super::relay)) use the libraries only
//! through this trait.

use std::io::{self, Read, Write};

/// The server's side of TLS with one client.
pub trait Channel: Send {
    /// The user whose pre-shared key the client has proven to have; `None` during the handshake, and with
    /// certificates.
    fn user(&self) -> Option<String>;

    /// Whether the TLS handshake is not complete yet.
    fn is_handshaking(&self) -> bool;

    /// Reads sealed bytes of the client from `wire`, once, and continues the handshake with them. Returns 0
    /// at the end of the bytes. Called when all bytes heard before are used: `open` has returned
    /// `WouldBlock`, or the handshake needs more.
    ///
    /// An error of TLS ends the channel. There may then be an alert to [`give`](Channel::give), which tells
    /// the client why.
    fn hear(&mut self, wire: &mut dyn Read) -> io::Result<usize>;

    /// Decrypts bytes of the client into `into`. Returns 0 once the client has sent the farewell of TLS, and
    /// `WouldBlock` if more bytes must be heard first. Other errors end the channel like those of
    /// [`hear`](Channel::hear).
    fn open(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Encrypts all of `bytes` for the client. Sealed bytes are kept until they are given, without a limit.
    fn seal(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Whether there are sealed bytes for the client.
    fn has_sealed(&self) -> bool;

    /// Writes sealed bytes to the client, once, and returns how many.
    fn give(&mut self, wire: &mut dyn Write) -> io::Result<usize>;

    /// Ends the bytes for the client with the farewell of TLS (close_notify).
    fn say_farewell(&mut self);
}
