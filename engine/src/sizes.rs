//! How much one reactor of an array has room for. Everything is allocated when the array is made, so an array that
//! will never hold much (an embedded one, a simulated one) can say so and is made and dropped in microseconds: a full
//! one is 1.3 MB of tables, which took 0.2 ms of each restart in the simulator.

use crate::limits::{IO_IN_FLIGHT_MAX, MEMBERS_MAX, WIPES_MAX};

/// Room of one reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Requests of this reactor's host in flight.
    pub requests: usize,
    /// Parts of requests in one reactor: half of them of its own requests, half of other reactors' (guests). So neither can take
    /// all of them for ever, and two reactors that wait for each other always have room to go on.
    pub parts: usize,
    /// Stripe operations of one reactor.
    pub ops: usize,
    /// Member reads of healthy strips in flight.
    pub host_reads: usize,
    /// Block writes in flight.
    pub block_writes: usize,
}

impl Sizes {
    /// What `serve` and `bench` have.
    pub const FULL: Sizes =
        Sizes { requests: 1024, parts: 4096, ops: 160, host_reads: 2048, block_writes: 16 };

    /// For an array of a few stripes and requests.
    pub const SMALL: Sizes = Sizes { requests: 64, parts: 256, ops: 24, host_reads: 128, block_writes: 3 };

    /// Parts of a reactor's own requests at most.
    #[must_use]
    pub const fn own_parts(&self) -> usize {
        self.parts / 2
    }

    /// Parts of other reactors' requests at most.
    #[must_use]
    pub const fn guest_parts(&self) -> usize {
        self.parts - self.own_parts()
    }

    /// Member operations in flight at most: those of the stripe ops (one a member each), healthy reads, bitmap blocks
    /// (a copy on three members at most), superblocks, flushes, the list of lost rows and probes, and
    /// the wiping of a device that arrives.
    #[must_use]
    pub const fn ios(&self) -> usize {
        self.ops * MEMBERS_MAX + self.host_reads + 3 * self.block_writes + 4 * MEMBERS_MAX + WIPES_MAX
    }

    /// Member operations of members that have left, at most (see `parked`): nothing of the array waits for them. All that one member
    /// can have in flight: the healthy reads, which gather at the member that does not answer, and the batches of all stripe
    /// operations, of eight pieces a member.
    #[must_use]
    pub const fn parked(&self) -> usize {
        self.host_reads + 8 * self.ops
    }
}

const _: () = assert!(Sizes::FULL.ios() + Sizes::FULL.parked() <= IO_IN_FLIGHT_MAX);
