//! The bounds of the NBD front end, each with its reason and an example in numbers.

use std::time::Duration;

use crate::limits::{REACTORS_MAX, REQUEST_BYTES_MAX};

/// Connections of one reactor: one bit each in the front end's `u64` sets of ready connections. Example: 4
/// reactors serve 256 connections; `nbdcopy` opens 4, `qemu` one per disk.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Commands of one connection that are not answered yet, or whose answer is not sent yet. When they are used
/// up, the server stops reading from the client until the client reads its answers.
pub(super) const COMMANDS_MAX: usize = 256;

/// Engine requests of one connection that hold a slot: they are in the engine, or their data is not sent yet.
/// A small command is one piece, a command of 32 MiB is 32.
pub(super) const PIECES_MAX: usize = 256;

/// Memory that one connection may hold while no other is active; `share.rs` says how much it may hold beside
/// others. Example: a reactor of 64 MiB has 16 MiB for requests (half is for stripes, and half of the rest is
/// kept back), of which 4 MiB are for others. Larger reads are sent as they arrive (see `connection.rs`), and
/// if such a read fails, the connection ends. So the limit is no less than what clients request at once.
pub(super) const HELD_BYTES_MAX: u32 = 12 << 20;

/// Bytes of commands received at once: 2,300 reads, or 15 writes of 4 KiB.
pub(super) const RECEIVE_BYTES: usize = 64 << 10;

/// Smallest payload of a write that goes straight from the kernel to its buffer. Below this it is cheaper to
/// receive many commands at once and copy: copying 4 KiB costs about 100 ns, a system call 500 ns.
pub(super) const DIRECT_BYTES_MIN: u32 = 16 << 10;

/// Bytes of commands received at once while a client sends large writes: the next command's header and as
/// little as sensible of its payload, since that part would be copied twice.
pub(super) const DIRECT_WINDOW_BYTES: usize = 256;

/// Largest payload of a read or a write: the size that the protocol requires every server to accept.
pub(super) const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// Replies handed to the kernel by one system call. Each is at most two pieces of memory, and the kernel
/// takes 1024.
pub(super) const SEGMENTS_PER_SEND: usize = 64;

/// System calls per connection, turn and direction, so that one busy client does not hold up the others.
pub(super) const CALLS_PER_TURN: usize = 4;

/// Requests that one connection may add in a turn.
pub(super) const REQUESTS_PER_TURN: usize = 128;

/// Bytes per connection, turn and direction while others are active: copying 256 KiB takes 50 µs. A request
/// of 1 MiB is worth four turns.
pub(super) const TURN_BYTES: usize = 256 << 10;

/// Requests that a connection may always have in the engine, however few the others have; see `Loads` in
/// `share.rs`. A member with 75,000 reads/s answers eight in 0.1 ms, about the time of a single read; behind
/// 64, a read waits 0.9 ms.
pub(super) const IN_ENGINE_SHARED_MIN: u32 = 8;

/// Longest trim or zeroes that is not *long*. Long ones are cut, and a reactor takes pieces of each
/// connection's in turn.
pub(super) const SHORT_ZEROES_BYTES_MAX: u32 = REQUEST_BYTES_MAX;

/// Stripes in a piece of a long trim or zeroes: four batches of the engine, 64 MiB with stripes of 256 KiB.
pub(super) const LONG_PIECE_STRIPES: u64 = 256;

/// Stripe operations of a reactor's engine that pieces of long trims and zeroes may keep busy. A piece of 256
/// stripes keeps 64 busy, a piece of four stripes keeps four. Another 64, of earlier pieces, may still wait
/// for their devices. There are 160 in all, and the rest is for writes. So the engine has one large piece, or
/// 16 pieces of 1 MiB with stripes of 256 KiB.
pub(super) const LONG_OPERATIONS_MAX: u32 = 64;

/// In each turn, pieces of long trims and zeroes first get one in this many of the places for requests, and
/// then the places that other requests leave.
pub(super) const LONG_PLACES_OF_ROOM: usize = 4;

/// Most stripes examined for one BLOCK_STATUS answer. A connection also ends its turn once its answers have
/// examined this many.
pub(super) const MAP_STRIPES_MAX: u64 = 16_384;

/// Most runs of stripes combined in one answer. Each run is looked up in the list of lost rows, which has up
/// to 768 entries.
pub(super) const MAP_RUNS_MAX: u32 = 64;

/// Bytes that a BLOCK_STATUS answer counts for each stripe that it covers, while other connections are
/// active.
pub(super) const MAP_BYTES_PER_STRIPE: u64 = 16;

/// Negotiations of one listener at the same time, one thread each. Clients of one address cannot take those
/// of another.
pub(super) const HANDSHAKES_PER_LISTENER: usize = 32;

/// Longest silence of a client during its negotiation; after that the client is disconnected.
pub(super) const HANDSHAKE_SILENCE_MAX: Duration = Duration::from_secs(3);

/// Longest negotiation; after that the client is disconnected even if it is still sending.
pub(super) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Places of a reactor that only clients of unix sockets may take, if the server listens on one.
pub(super) const PLACES_FOR_UNIX: usize = 16;

/// Places of a reactor that only clients of TCP may take, if the server listens on TCP.
pub(super) const PLACES_FOR_TCP: usize = 8;

/// Time without any command since the negotiation after which a client loses its place, if another client
/// finds none.
pub(super) const UNUSED_TIME_MAX: Duration = Duration::from_secs(30);

/// Options in one negotiation. Example: `nbdinfo --list` of one export sends about ten.
pub(super) const OPTIONS_MAX: usize = 256;

/// Data of one option that is examined: a name of 4096 bytes and generous queries.
pub(super) const OPTION_BYTES_MAX: u32 = 16 << 10;

/// Data of an option that is read and discarded to stay in step with the client; a client that sends more is
/// disconnected.
pub(super) const OPTION_DRAIN_BYTES_MAX: u32 = 1 << 20;

/// Clients that have arrived or left and are not in the log yet. Example: the clients of two full reactors
/// arrive and leave at once.
pub(super) const VISITS_MAX: usize = 4 * CONNECTIONS_MAX;

/// Longest export name that the protocol allows.
pub(super) const NAME_BYTES_MAX: usize = 4096;

/// Time that a client has to read its answers after [`close`](crate::frontend::Frontend::close).
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a simple read of up to 1 MiB, or an unfragmented read, waits for memory in one piece.
pub(super) const WHOLE_READ_TIME_MAX: Duration = Duration::from_millis(500);

/// For this time after a read has waited `WHOLE_READ_TIME_MAX`, later reads do not wait as long. Then they do
/// again, since memory may be available by then.
pub(super) const PATIENCE_REST_TIME: Duration = Duration::from_secs(5);

/// How often the front end retries connections that wait for memory, even if none was freed.
pub(super) const LOOK_TIME: Duration = WHOLE_READ_TIME_MAX;

/// Number of such looks, 10 s in all, after which stalled clients are disconnected; see `stalls.rs`.
pub(super) const LOOKS_PER_STALL: u32 = 20;

/// Bytes that a client has to move during these looks if its connection keeps more than its base: 64 KiB/s.
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
