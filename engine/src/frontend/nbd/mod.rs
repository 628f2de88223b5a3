//! NBD: the array over a unix socket or TCP, for hosts without ublk and for every tool that speaks it.
//!
//! ```text
//!   server     threads that accept and shake hands           blocking, bounded in number and time
//!     listen      addresses and their sockets
//!     peer_user     whose a client of this machine is
//!     handshake   what is said, over anything that reads and writes
//!     encryption  TLS, which the program brings
//!     negotiation   its bytes, pure
//!     shaking     the handshakes in progress, and which is evicted
//!     single        one client without those threads
//!   visits     clients that come and go, for a log
//!   door       from those threads to a reactor                a queue and a bell
//!   frontend   one reactor's connections                      never blocks, never allocates
//!     connection  one client: commands, pieces, spans
//!       receive     bytes to requests
//!       outbox      replies to bytes
//!     map         what the array holds where, pure
//!     share       how much memory and work each connection has, pure
//!     stalls      which clients keep memory that others wait for, pure
//!     admission   what becomes of a command, pure
//!     protocol    the bytes of commands and replies, pure
//! ```
//!
//! Written from the protocol's specification: the baseline, structured replies, metadata contexts, size constraints, and the
//! commands READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS and DISC, with FUA, DF, REQ_ONE and FAST_ZERO, and
//! STARTTLS. Not here: extended headers, CACHE, resizing.
//!
//! Invariants:
//! - A span belongs to a piece, and a piece to the engine from request to reply; whatever the client does
//!   meanwhile, its bytes are not used for anything else.
//! - Every command that has wholly arrived is answered once, unless the client is gone.
//! - After the handshake nothing of a client blocks a thread or allocates, and no client has more of
//!   anything than `limits` says. While others are active it has no more than its share of memory, requests, turns (`share`) and
//!   long trims and zeroes (`frontend`); of places, each listener has its own (`door`).
//! - Once both directions of a client's socket are closed, what it had queued is dropped; only what the engine holds is carried out.
//! - Data is copied once, between the kernel and a span; small writes twice (see `receive`).

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

/// Why NBD cannot be served: what, where, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NbdError(pub String);

/// What clients are told of the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The name by which they may ask for it, at most 4096 bytes; the empty name finds it too.
    pub name: String,
    /// A line for people, at most 4096 bytes.
    pub description: String,
    /// The array's size; a multiple of the logical block.
    pub size_bytes: u64,
    /// The unit of requests: a power of two, at most 64 KiB.
    pub logical_block_bytes: u32,
    /// From this size and alignment on requests are efficient: the chunk, say. Told as a power of two of
    /// at least 4 KiB and the logical block.
    pub preferred_bytes: u32,
    /// Whether changes are refused.
    pub read_only: bool,
    /// The data of a stripe: long trims and zeroes are cut at multiples of it, so that no stripe is cut.
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

    /// What the protocol can say, or why it cannot.
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
