//! Front ends, which bring hosts' requests to the engine and carry the replies back. [`Frontend`] is the
//! second of the three traits through which the outside world reaches the engine.
//!
//! A front end lives on one reactor and owns that reactor's share of the host's connections or queues. It
//! takes the memory of its requests from its own [`Pool`], puts requests into `requests`, and receives
//! exactly one `reply` for each, in any order.

pub mod nbd;
pub mod ublk;

use crate::memory::{Memory, Pool};
use crate::request::{Reply, Request};

/// A source of requests.
pub trait Frontend {
    /// Appends new requests, at most `room` of them, and takes the buffers of reads and writes from `pool`.
    /// When the pool is empty, the front end keeps the rest for a later turn. Does not block, and ends after
    /// a bounded amount of work.
    fn gather(&mut self, memory: &Memory, pool: &mut Pool, room: usize, requests: &mut Vec<Request>);

    /// Takes the answer to one request, and gives its buffer back to `pool` once the bytes have been sent or
    /// copied out. The buffer is the one in the reply, which may differ from the one in the request.
    fn reply(&mut self, memory: &Memory, pool: &mut Pool, reply: Reply);

    /// The length of the span that the pool must supply for a request of `len_bytes` whose own memory cannot
    /// be used.
    fn span_bytes(&self, len_bytes: u32) -> u32 {
        len_bytes
    }

    /// Sends what the replies of this turn have produced. Called at the end of every turn, even if there were
    /// no replies. Does not block.
    fn settle(&mut self, memory: &Memory, pool: &mut Pool);

    /// Whether [`Frontend::gather`] would find something that arrived with the ring's last turn (see
    /// [`Lane`](crate::ring::Lane)). If so, the reactor takes another turn before it considers sleeping.
    fn has_arrivals(&self) -> bool {
        false
    }

    /// A file descriptor that polls readable when `gather` or `settle` would find work (an epoll descriptor
    /// over the front end's sockets, for example); `None` when the front end must be polled. A front end
    /// whose requests arrive through the reactor's ring returns the ring's descriptor. That descriptor does
    /// not signal work that `gather` already knows of and left for lack of room or memory, so a reactor
    /// sleeps only after a turn that gathered and answered nothing.
    fn wait_fd(&self) -> Option<std::os::fd::RawFd>;

    /// Stops taking new requests. The front end is drained when every request has been answered and
    /// [`Frontend::drained`] returns true.
    fn close(&mut self);

    /// Whether, after [`Frontend::close`], nothing is left to answer or send.
    fn drained(&self) -> bool;

    /// Like [`Frontend::drained`], except that the engine leaves `requests` requests without an answer. Only
    /// a front end whose memory is not ours has such requests; its driver keeps them.
    fn drained_but_for(&self, requests: usize) -> bool {
        requests == 0 && self.drained()
    }
}
