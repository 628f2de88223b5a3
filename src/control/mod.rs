//! The control socket: how commands reach a running server.
//!
//! `RUN_DIR/NAME.sock` is a unix stream socket. A request is one line of JSON, and so is its answer; a client
//! may send several, one after the other. [`message`] defines the messages, [`server`] is the listening side,
//! [`client`] the commands' side.
//!
//! Invariants (S4 of the reliability rules):
//! - The socket has mode 0600. In addition, each peer's user id is checked: it must be the server's own, or
//!   root.
//! - A line is at most [`LINE_BYTES_MAX`] long and arrives complete within [`LINE_TIME_MAX`]; so does an
//!   answer.
//! - At most [`CLIENTS_MAX`] clients are connected; the next client is told so and closed.
//! - Nothing here runs on a reactor's core or holds what a reactor waits for.

use std::time::Duration;

pub mod client;
pub mod message;
pub mod server;
#[cfg(test)]
pub mod tests;

/// The longest line, newline excluded. A status of 32 members is about 8 KiB; a path is up to 4 KiB.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// How long a line may take to arrive or to be taken, and how long a client may be silent.
pub const LINE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long the end of a server waits for answers that are under way.
pub const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

/// How many clients may be connected at a time: a few `wait` and `status --watch` of an operator, and a
/// monitor.
pub const CLIENTS_MAX: usize = 16;
