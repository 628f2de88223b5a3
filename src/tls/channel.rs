//! The TLS of one client as both libraries do it: sealed bytes in and out on one side, plain bytes on the other, and no socket.
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
//! The handshake ([`sealed`](super::sealed)) and the relay ([`relay`](super::relay)) know nothing else of a library.

use std::io::{self, Read, Write};

/// The server's side of TLS with one client.
pub trait Channel: Send {
    /// The user of a pre-shared key that the client has proven to be; `None` during the handshake, and with certificates.
    fn user(&self) -> Option<String>;

    /// Whether the handshake of TLS is not complete yet.
    fn is_handshaking(&self) -> bool;

    /// Reads sealed bytes of the client from `wire`, once, and continues the handshake with them; 0 at their end. Called when all that was
    /// heard before is used: `open` has returned `WouldBlock`, or the handshake needs more.
    ///
    /// An error of TLS ends the channel. There may then be an alert to [`give`](Channel::give), which tells the client.
    fn hear(&mut self, wire: &mut dyn Read) -> io::Result<usize>;

    /// Decrypts bytes of the client into `into`; 0 once the client has said the farewell of TLS; `WouldBlock` if more must be heard first.
    /// Other errors are as those of [`hear`](Channel::hear).
    fn open(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Encrypts all of `bytes` for the client. What is not given yet is kept, without a limit.
    fn seal(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Whether there are sealed bytes for the client.
    fn has_sealed(&self) -> bool;

    /// Writes sealed bytes to the client, once; how many.
    fn give(&mut self, wire: &mut dyn Write) -> io::Result<usize>;

    /// Ends what the client is told, by the farewell of TLS (close_notify).
    fn say_farewell(&mut self);
}
