//! NBD: the array over a unix socket or TCP, for hosts without ublk and for every tool that supports NBD.
//!
//! ```text
//!   server     threads that accept and shake hands           blocking, bounded in number and time
//!     listen      addresses and their sockets
//!     peer_user     the user of a client on this machine
//!     handshake   the conversation, over anything that reads and writes
//!     encryption  TLS, which the program supplies
//!     negotiation   the bytes of the conversation, pure
//!     shaking     the handshakes in progress, and the choice of one to evict
//!     single        one client without those threads
//!   visits     clients that arrive and leave, for a log
//!   door       from those threads to a reactor                a queue and a bell
//!   frontend   one reactor's connections                      never blocks, never allocates
//!     connection  one client: commands, pieces, spans
//!       receive     bytes to requests
//!       outbox      replies to bytes
//!     map         what the array holds where, pure
//!     share       how much memory and work each connection gets, pure
//!     stalls      the clients that keep memory for which others wait, pure
//!     admission   the decision on a command, pure
//!     protocol    the bytes of commands and replies, pure
//! ```
//!
//! Written from the protocol's specification: the baseline, structured replies, metadata contexts, size
//! constraints, and the commands READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS and DISC, with FUA, DF,
//! REQ_ONE and FAST_ZERO, and STARTTLS. Not implemented: extended headers, CACHE, resizing.
//!
//! Invariants:
//! - A span belongs to a piece, and a piece belongs to the engine from request to reply. Whatever the client
//!   does meanwhile, the bytes of the span are used for nothing else.
//! - Every command that has arrived in full is answered once, unless the client is gone.
//! - After the handshake, nothing that a client does blocks a thread or allocates, and no client has more of
//!   anything than `limits` allows. While others are active, a client has no more than its share of memory,
//!   requests and turns (`share`) and of long trims and zeroes (`frontend`). Each listener has places of its
//!   own (`door`).
//! - Once both directions of a client's socket are closed, the commands that it had queued are dropped; only
//!   requests that the engine holds are carried out.
//! - Data is copied once, between the kernel and a span; small writes are copied twice (see `receive`).

mod admission;
mod connection;
mod door;
mod encryption;
mod frontend;
mod handshake;
mod limits;
mod listen;
mod map;
mod negotiation;
mod outbox;
mod peer_user;
mod protocol;
mod server;
mod shaking;
mod share;
mod single;
mod slots;
mod stalls;
mod visits;

pub(crate) use encryption::Relays;
pub use encryption::{Encryption, Session, Wire};
pub use frontend::NbdFrontend;
pub use listen::{Access, Address};
pub use map::{Content, Run, StripeState};
pub use server::NbdServer;
pub use single::seat_single;
pub use visits::{Farewell, Peer, Traffic, Visit, Visits};

/// Why NBD cannot be served: what happened, where, and what the operator can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NbdError(pub String);

/// The properties of the array that clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The name by which clients may request the export, at most 4096 bytes; the empty name selects it too.
    pub name: String,
    /// A line for people, at most 4096 bytes.
    pub description: String,
    /// The array's size; a multiple of the logical block.
    pub size_bytes: u64,
    /// The unit of requests: a power of two, at most 64 KiB.
    pub logical_block_bytes: u32,
    /// The size and alignment from which on requests are efficient, for example the chunk. Clients are told a
    /// power of two of at least 4 KiB and at least the logical block.
    pub preferred_bytes: u32,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Data bytes of a stripe. Long trims and zeroes are cut at multiples of it, so that no stripe is cut.
    pub stripe_bytes: u64,
}

impl ExportInfo {
    /// The limits that connections check commands against.
    fn limits(&self) -> admission::Limits {
        admission::Limits {
            size_bytes: self.size_bytes,
            logical_block_bytes: self.logical_block_bytes,
            read_only: self.read_only,
            stripe_bytes: self.stripe_bytes,
        }
    }

    /// Adjusts the values to what the protocol can express, or says why that is impossible.
    fn checked(mut self) -> Result<ExportInfo, NbdError> {
        let block_bytes = self.logical_block_bytes;
        if !block_bytes.is_power_of_two() || block_bytes > 1 << 16 {
            return Err(NbdError(format!(
                "an NBD export has blocks of a power of two up to 64 KiB, not of {block_bytes} bytes"
            )));
        }
        if !self.size_bytes.is_multiple_of(block_bytes.into()) {
            return Err(NbdError(format!(
                "an NBD export of {} bytes is not a whole number of blocks of {block_bytes}",
                self.size_bytes
            )));
        }
        if self.stripe_bytes == 0 || !self.stripe_bytes.is_multiple_of(block_bytes.into()) {
            return Err(NbdError(format!(
                "an NBD export with stripes of {} bytes and blocks of {block_bytes}",
                self.stripe_bytes
            )));
        }
        if self.name.len().max(self.description.len()) > limits::NAME_BYTES_MAX {
            return Err(NbdError("an NBD export's name or description is at most 4096 bytes long".into()));
        }
        let least = block_bytes.max(4096);
        self.preferred_bytes =
            self.preferred_bytes.clamp(least, limits::PAYLOAD_BYTES_MAX).next_power_of_two();
        Ok(self)
    }
}
