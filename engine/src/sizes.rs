//! The capacity of one reactor of an array. Everything is allocated when the array is made. An array that
//! will never hold much (an embedded or simulated one) asks for little, and is made and dropped in
//! microseconds. A full-size one has 1.3 MB of tables, which took 0.2 ms of each restart in the simulator.

use crate::limits::{IO_IN_FLIGHT_MAX, MEMBERS_MAX, WIPES_MAX};

/// The capacity of one reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Most requests of this reactor's host in flight.
    pub requests: usize,
    /// Most parts of requests in one reactor: half for its own requests, half for those of other reactors
    /// (guests). So neither side can take all of them forever, and two reactors that wait for each other
    /// always have room to continue.
    pub parts: usize,
    /// Most stripe operations of one reactor.
    pub ops: usize,
    /// Most member reads of healthy strips in flight.
    pub host_reads: usize,
    /// Most block writes in flight.
    pub block_writes: usize,
}

impl Sizes {
    /// Sizes for `serve` and `bench`.
    pub const FULL: Sizes =
        Sizes { requests: 1024, parts: 4096, ops: 160, host_reads: 2048, block_writes: 16 };

    /// Sizes for an array of a few stripes and requests.
    pub const SMALL: Sizes = Sizes { requests: 64, parts: 256, ops: 24, host_reads: 128, block_writes: 3 };

    /// Most parts of a reactor's own requests.
    #[must_use]
    pub const fn own_parts(&self) -> usize {
        self.parts / 2
    }

    /// Most parts of other reactors' requests.
    #[must_use]
    pub const fn guest_parts(&self) -> usize {
        self.parts - self.own_parts()
    }

    /// Most member operations in flight: those of the stripe ops (one per member each), healthy reads, bitmap
    /// blocks (a copy on three members at most), superblocks, flushes, the list of lost rows and probes, and
    /// the wiping of an arriving device.
    #[must_use]
    pub const fn ios(&self) -> usize {
        self.ops * MEMBERS_MAX + self.host_reads + 3 * self.block_writes + 4 * MEMBERS_MAX + WIPES_MAX
    }

    /// Most operations of members that have left (see `parked`), for which nothing in the array waits. One
    /// member can have this many in flight: the healthy reads, which all gather at the member that does not
    /// answer, and the batches of all stripe operations, with eight pieces per member.
    #[must_use]
    pub const fn parked(&self) -> usize {
        self.host_reads + 8 * self.ops
    }
}

const _: () = assert!(Sizes::FULL.ios() + Sizes::FULL.parked() <= IO_IN_FLIGHT_MAX);
