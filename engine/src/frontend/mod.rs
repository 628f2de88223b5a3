//! Requests and replies: the second of the three traits by which the world enters.
//!
//! A front end lives on one reactor and owns that reactor's share of the host's connections or
//! queues. It takes the memory of its requests from its own [`Pool`], puts
//! requests into `requests`, and hears of each exactly once by `reply`, in any order.

pub mod nbd;
pub mod ublk;

use crate::memory::{Memory, Pool};
use crate::request::{Reply, Request};

/// Where requests come from.
pub trait Frontend {
    /// Appends new requests, at most `room` of them, taking the buffers of reads and writes from
    /// `pool`. When the pool has none left the front end keeps the rest for a later turn. Does not
    /// block; gives up a turn after a bounded amount of work.
    fn gather(&mut self, memory: &Memory, pool: &mut Pool, room: usize, requests: &mut Vec<Request>);

    /// Takes the answer to one request, and gives its buffer back to `pool` once the bytes have been
    /// sent or copied out. The buffer is the one of the reply, which may be another than that of the request.
    fn reply(&mut self, memory: &Memory, pool: &mut Pool, reply: Reply);

    /// How long a span of the pool has to be that takes the place of a request's of `len_bytes`.
    fn span_bytes(&self, len_bytes: u32) -> u32 {
        len_bytes
    }

    /// Sends what the replies of this turn have produced. Called at the end of each turn, whether or not there
    /// were any. Does not block.
    fn settle(&mut self, memory: &Memory, pool: &mut Pool);

    /// Whether [`Frontend::gather`] would find something that came with the ring's last turn (see
    /// [`Lane`](crate::ring::Lane)), so that the reactor turns again before it thinks of sleep.
    fn has_arrivals(&self) -> bool {
        false
    }

    /// A file descriptor that polls readable when `gather` or `settle` would find work (an epoll
    /// descriptor over the front end's sockets, say); `None` when the front end must be polled. A front end whose
    /// requests come by the reactor's ring gives the ring's, which tells nothing of what `gather` has heard of and
    /// left for want of room or memory: so a reactor sleeps only after a turn that gathered and answered nothing.
    fn wait_fd(&self) -> Option<std::os::fd::RawFd>;

    /// Stops taking new requests. The front end is drained when every request has been answered
    /// and [`Frontend::drained`] says so.
    fn close(&mut self);

    /// Whether, after [`Frontend::close`], nothing is left to answer or to send.
    fn drained(&self) -> bool;

    /// The same, but for so many requests that the engine leaves without an answer. Only a front end with memory that is not ours
    /// has such requests, and its driver keeps them.
    fn drained_but_for(&self, requests: usize) -> bool {
        requests == 0 && self.drained()
    }
}
