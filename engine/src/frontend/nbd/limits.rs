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

/// Memory that one connection may hold while no other is active; `share.rs` says how much beside others. Example: a reactor of
/// 64 MiB has 16 MiB for requests (half is for stripes, and half of the rest is kept back), and 4 MiB of these are for others. Larger
/// reads are sent as they arrive (see `connection.rs`). One of them that fails ends the connection, so this is no less than what
/// clients ask for at once.
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

/// Bytes per connection and turn, each way, while others are active: copying 256 KiB takes 50 µs. A request of 1 MiB is worth four turns.
pub(super) const TURN_BYTES: usize = 256 << 10;

/// Requests that a connection may have in the engine whatever others have; see `Loads` in `share.rs`. A member with 75,000 reads/s
/// answers eight in 0.1 ms, which is about what one read alone takes; behind 64 it is 0.9 ms.
pub(super) const IN_ENGINE_SHARED_MIN: u32 = 8;

/// Trims and zeroes beyond this length are *long*: they are cut, and a reactor takes their pieces of each connection in turn.
pub(super) const SHORT_ZEROES_BYTES_MAX: u32 = REQUEST_BYTES_MAX;

/// Stripes of a piece of a long trim or zeroes: four batches of the engine, 64 MiB with stripes of 256 KiB.
pub(super) const LONG_PIECE_STRIPES: u64 = 256;

/// Stripe operations of a reactor's engine that pieces of long trims and zeroes may keep busy: a piece of 256 stripes keeps 64, one
/// of four keeps four. 64 of those before may still wait for their devices; there are 160, and the others are for writes. So one
/// large piece is in the engine, or 16 of 1 MiB with stripes of 256 KiB.
pub(super) const LONG_OPERATIONS_MAX: u32 = 64;

/// In a turn pieces of long trims and zeroes take one in so many of the places for requests first, and then what others leave.
pub(super) const LONG_PLACES_OF_ROOM: usize = 4;

/// Stripes that are examined for one BLOCK_STATUS answer at most. A connection also ends its turn once its answers have examined so many.
pub(super) const MAP_STRIPES_MAX: u64 = 16_384;

/// Runs of stripes that one answer puts together. Each looks through the list of lost rows, which has up to 768 places.
pub(super) const MAP_RUNS_MAX: u32 = 64;

/// Such an answer counts as this many bytes for each stripe that it covers, beside others.
pub(super) const MAP_BYTES_PER_STRIPE: u64 = 16;

/// Negotiations of one listener at the same time: a thread each. Clients of one address cannot take those of another.
pub(super) const HANDSHAKES_PER_LISTENER: usize = 32;

/// A client that says nothing for so long during its negotiation is disconnected.
pub(super) const HANDSHAKE_SILENCE_MAX: Duration = Duration::from_secs(3);

/// A client that has not finished its negotiation by then is disconnected, however busy it looks.
pub(super) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Places of a reactor that only clients of unix sockets may take, if one is listened on.
pub(super) const PLACES_FOR_UNIX: usize = 16;

/// Places of a reactor that only clients of TCP may take, if it is listened on.
pub(super) const PLACES_FOR_TCP: usize = 8;

/// A client that has sent no command for so long since its negotiation loses its place to one that finds none.
pub(super) const UNUSED_TIME_MAX: Duration = Duration::from_secs(30);

/// Options of one negotiation. Example: `nbdinfo --list` of one export sends about ten.
pub(super) const OPTIONS_MAX: usize = 256;

/// Data of one option that is looked at: a name of 4096 bytes and generous queries.
pub(super) const OPTION_BYTES_MAX: u32 = 16 << 10;

/// Data of an option that is read and dropped to stay in step; more is a reason to hang up.
pub(super) const OPTION_DRAIN_BYTES_MAX: u32 = 1 << 20;

/// Clients that have come or gone and are not yet in the log. Example: as many as have places at two reactors come and go at once.
pub(super) const VISITS_MAX: usize = 4 * CONNECTIONS_MAX;

/// Longest export name, by the protocol.
pub(super) const NAME_BYTES_MAX: usize = 4096;

/// After [`close`](crate::frontend::Frontend::close), how long a client may take to read its answers.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a simple read of up to 1 MiB, or an unfragmented one, waits for memory in one piece.
pub(super) const WHOLE_READ_TIME_MAX: Duration = Duration::from_millis(500);

/// After a read has waited that long, further ones do not wait for so long. Then they do again: what was short may be there.
pub(super) const PATIENCE_REST_TIME: Duration = Duration::from_secs(5);

/// How often connections that wait for memory are tried again, even if none was freed.
pub(super) const LOOK_TIME: Duration = WHOLE_READ_TIME_MAX;

/// After so many such looks, 10 s, clients that have stalled are hung up on; see `stalls.rs`.
pub(super) const LOOKS_PER_STALL: u32 = 20;

/// Bytes that a client has to move in that time if its connection keeps more than its base: 64 KiB/s.
pub(super) const STALL_BYTES_MIN: u64 = 640 << 10;

const _: () = assert!(CONNECTIONS_MAX <= u64::BITS as usize);
const _: () = assert!(COMMANDS_MAX < u16::MAX as usize);
const _: () = assert!(PIECES_MAX < u16::MAX as usize);
const _: () = assert!(PIECES_MAX as u32 > PAYLOAD_BYTES_MAX / REQUEST_BYTES_MAX);
const _: () = assert!(HELD_BYTES_MAX >= 2 * REQUEST_BYTES_MAX);
const _: () = assert!(IN_ENGINE_SHARED_MIN as usize <= PIECES_MAX);
const _: () = assert!(PLACES_FOR_UNIX + PLACES_FOR_TCP < CONNECTIONS_MAX);
const _: () = assert!(DIRECT_WINDOW_BYTES <= RECEIVE_BYTES && DIRECT_BYTES_MIN as usize <= RECEIVE_BYTES);
const _: () = assert!(2 * SEGMENTS_PER_SEND <= 1024);
const _: () = assert!(NAME_BYTES_MAX < OPTION_BYTES_MAX as usize);
const _: () = assert!(OPTION_BYTES_MAX <= OPTION_DRAIN_BYTES_MAX);
const _: () = assert!(REACTORS_MAX * CONNECTIONS_MAX < u32::MAX as usize);
