//! The bounds of the NBD front end, each with its reason and an example in numbers.

use std::time::Duration;

use crate::limits::{REACTORS_MAX, REQUEST_BYTES_MAX};

/// Connections of one reactor: one bit each in the front end's `u64` sets of who is ready.
/// Example: 4 reactors serve 256 connections; `nbdcopy` opens 4, `qemu` one a disk.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Commands of one connection that are not yet answered, or whose answer is not yet sent. A client
/// that does not read its answers stops being read when these are used up.
pub(super) const COMMANDS_MAX: usize = 256;

/// Engine requests of one connection that hold a slot: in the engine, or with data not yet sent.
/// A small command is one piece, a 32 MiB one is 32.
pub(super) const PIECES_MAX: usize = 256;

/// Buffers that one connection may hold. Example: a reactor of 64 MiB has 16 MiB for requests (half is for stripes, and half of the
/// rest is kept back), and one client that stopped reading keeps three quarters of them until it is told to go. Larger reads are sent as
/// they arrive (see `connection.rs`); one of them that fails ends the connection, so this is no less than what clients ask for at once.
pub(super) const HELD_BYTES_MAX: u32 = 12 << 20;

/// What is received at once of commands: 2,300 reads, or 15 writes of 4 KiB.
pub(super) const RECEIVE_BYTES: usize = 64 << 10;

/// From this payload on a write's data goes straight from the kernel to its buffer. Below, it is cheaper
/// to receive many commands at once and copy: 4 KiB copied costs about 100 ns, a system call 500 ns.
pub(super) const DIRECT_BYTES_MIN: u32 = 16 << 10;

/// What is received at once of commands while a client sends large writes: the next command's header
/// and as little as sensible of its payload, which would be copied twice.
pub(super) const DIRECT_WINDOW_BYTES: usize = 256;

/// Largest payload of a read or a write: what the protocol asks every server to bear.
pub(super) const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// Replies handed to the kernel by one system call (each is at most two pieces of memory, and the
/// kernel takes 1024).
pub(super) const SEGMENTS_PER_SEND: usize = 64;

/// System calls per connection and turn, each way, so that one busy client does not hold up the others.
pub(super) const CALLS_PER_TURN: usize = 4;

/// Requests that one connection may add in a turn.
pub(super) const REQUESTS_PER_TURN: usize = 128;

/// Negotiations at the same time: a thread each.
pub(super) const HANDSHAKES_MAX: usize = 64;

/// A client that has not finished its negotiation by then is disconnected, however busy it looks.
pub(super) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Options of one negotiation. Example: `nbdinfo --list` of one export sends about ten.
pub(super) const OPTIONS_MAX: usize = 256;

/// Data of one option that is looked at: a name of 4096 bytes and generous queries.
pub(super) const OPTION_BYTES_MAX: u32 = 16 << 10;

/// Data of an option that is read and dropped to stay in step; more is a reason to hang up.
pub(super) const OPTION_DRAIN_BYTES_MAX: u32 = 1 << 20;

/// Longest export name, by the protocol.
pub(super) const NAME_BYTES_MAX: usize = 4096;

/// After [`close`](crate::frontend::Frontend::close), how long a client may take to read its answers.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// When buffers have run out, how long a client may hold some without moving a byte.
pub(super) const STALL_TIME_MAX: Duration = Duration::from_secs(10);

const _: () = assert!(CONNECTIONS_MAX <= u64::BITS as usize);
const _: () = assert!(COMMANDS_MAX < u16::MAX as usize);
const _: () = assert!(PIECES_MAX < u16::MAX as usize);
const _: () = assert!(PIECES_MAX as u32 > PAYLOAD_BYTES_MAX / REQUEST_BYTES_MAX);
const _: () = assert!(HELD_BYTES_MAX >= 2 * REQUEST_BYTES_MAX);
const _: () = assert!(DIRECT_WINDOW_BYTES <= RECEIVE_BYTES && DIRECT_BYTES_MIN as usize <= RECEIVE_BYTES);
const _: () = assert!(2 * SEGMENTS_PER_SEND <= 1024);
const _: () = assert!(NAME_BYTES_MAX < OPTION_BYTES_MAX as usize);
const _: () = assert!(OPTION_BYTES_MAX <= OPTION_DRAIN_BYTES_MAX);
const _: () = assert!(REACTORS_MAX * CONNECTIONS_MAX < u32::MAX as usize);
