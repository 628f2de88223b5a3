//! How the connections of one reactor share its memory and its turns.
//!
//! **Memory.** `C` is what the pool hands out to requests, 16 MiB in a reactor of 64 MiB. A connection gets:
//!
//! | amount | example | granted |
//! |---|---|---|
//! | *base*, C / 256 | 64 KiB | if a block is free; memory for the unused bases is kept free |
//! | *start*, C / 64 | 256 KiB | while it holds no more than what is left for others |
//! | *earned*, a quarter of what its client moved in a tick | 2.5 MiB at 100 MB/s | as for *start* |
//! | all but the bases of others | 12 MiB | while no other connection is active |
//!
//! - A client that sends a write byte by byte, or does not read its answers, earns nothing: 33 such clients
//!   hold 8 MiB, and the others proceed. Before this rule, 16 of them held all memory.
//! - A piece that cannot be granted in full is granted in part, down to a base. So a write or a fragmented
//!   read waits only for memory that its own connection holds, and the wait ends when its own client moves
//!   data.
//! - A read that has to be *whole*, in one piece, is granted up to 1 MiB if its connection holds nothing and
//!   as much is left for others. The connection waits for that no longer than `WHOLE_READ_TIME_MAX`.
//! - The memory that is kept free for a base may be in blocks of other sizes, when 1 MiB is cut into blocks
//!   of which all but a few are in use. Then a connection within its base waits until a block of a suitable
//!   size is given back, however long that takes.
//! - The memory of a client that moved data fast and then stops cannot be taken back. While another
//!   connection waits for memory within its own share, the front end disconnects clients that keep more than
//!   their base and move too little (see `stalls`). A client that keeps no more than its base is never
//!   disconnected for being slow: 64 such clients hold 4 MiB.
//!
//! **Requests in the engine.** Members serve requests in the order of arrival, so a connection with many in
//! flight delays all others. A connection has at most twice as many in the engine as the least busy of the
//! others had in the last tick, but always at least eight. Two busy clients thus double each other's limit
//! from tick to tick, and a client with a single request in flight waits behind eight of another. Clients
//! that send a request only now and then do not count.
//!
//! **Turns.** Connections are served in a circle that continues where the last turn ended. While two or more
//! are active, each has a part of a turn's requests and bytes, so that a turn stays short for those that wait
//! for it. A request larger than that part is a debt: its connection sits out as many turns as the request
//! was worth.

use std::time::Duration;

use super::limits::{CONNECTIONS_MAX, HELD_BYTES_MAX, IN_ENGINE_SHARED_MIN, PIECES_MAX};
use crate::limits::BLOCK_BYTES;
use crate::memory::Pool;

/// Unit of time in which activity is measured.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Number of bases in the capacity: a connection's base is the capacity divided by this.
const BASES_OF_CAPACITY: u64 = 4 * CONNECTIONS_MAX as u64;
/// Number of starts in the capacity: before its client has moved anything, a connection may hold the capacity
/// divided by this.
const STARTS_OF_CAPACITY: u64 = CONNECTIONS_MAX as u64;
/// Divisor of the bytes that a client moved in a tick: its connection may hold the quotient.
const EARNED_OF_MOVED: u64 = 4;

/// The terms of one turn, for all connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// The present tick.
    pub tick: u64,
    /// Whether a connection other than the one being served is active.
    pub is_crowded: bool,
    /// Requests that the connection being served may have in the engine.
    pub in_engine_max: u32,
    /// Bytes that the pool hands out to requests when all of it is free.
    capacity_bytes: u64,
    /// Memory that a connection may always hold.
    pub base_bytes: u32,
    /// Sum of the bases of connections and empty places, as far as they are not in use.
    unused_bases_bytes: u64,
}

/// The memory that a connection holds, and the memory that it asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    /// Memory that the connection holds.
    pub held_bytes: u32,
    /// Memory that the connection may hold because its client moved data: see [`Meter::earned_bytes`].
    pub earned_bytes: u32,
    /// Length that the connection would like to take.
    pub wanted_bytes: u32,
    /// Least length that is of use to the connection.
    pub least_bytes: u32,
}

/// The answer to a [`Want`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// Grants this many bytes.
    Bytes(u32),
    /// Grants nothing: the connection holds enough, and continues when that is freed.
    Later,
    /// Grants nothing although the connection holds next to nothing: others have to free memory first.
    Starved,
}

impl Share {
    /// Computes the shares at the beginning of a turn; `held_bytes` lists what each existing connection
    /// holds.
    pub(super) fn new(
        tick: u64,
        pool: &Pool,
        logical_block_bytes: u32,
        held_bytes: impl Iterator<Item = u32>,
    ) -> Share {
        let capacity_bytes = pool.capacity_bytes();
        let least = u64::from(logical_block_bytes).max(BLOCK_BYTES as u64);
        // A power of two, so that pieces of this size or larger ones stay whole blocks.
        let base_bytes = 1 << (capacity_bytes / BASES_OF_CAPACITY).max(least).ilog2();
        let used: u64 = held_bytes.map(|held| u64::from(held.min(base_bytes))).sum();
        let unused_bases_bytes = (CONNECTIONS_MAX as u64 * u64::from(base_bytes)).saturating_sub(used);
        Share {
            tick,
            is_crowded: false,
            in_engine_max: PIECES_MAX as u32,
            capacity_bytes,
            base_bytes,
            unused_bases_bytes,
        }
    }

    /// Grants part of `free_bytes`: the wanted length, or the largest power of two that is of use.
    pub(super) fn grant(&self, want: &Want, free_bytes: u64) -> Grant {
        if self.allows(want, want.wanted_bytes, free_bytes) {
            return Grant::Bytes(want.wanted_bytes);
        }
        let mut bytes = block_bytes(want.wanted_bytes) / 2;
        while bytes >= want.least_bytes {
            if self.allows(want, bytes, free_bytes) {
                return Grant::Bytes(bytes);
            }
            bytes /= 2;
        }
        let holds_little =
            want.held_bytes == 0 || want.held_bytes + block_bytes(want.least_bytes) <= self.start();
        if holds_little { Grant::Starved } else { Grant::Later }
    }

    fn allows(&self, want: &Want, bytes: u32, free_bytes: u64) -> bool {
        let block = block_bytes(bytes);
        let held = want.held_bytes + block;
        if held <= self.base_bytes {
            return true;
        }
        if held > self.allowance(want) {
            return false;
        }
        if free_bytes >= self.capacity_bytes {
            return true; // all is free: allows a read of 1 MiB in one chunk from a pool of 1 MiB
        }
        // A part of the unused bases is this connection's own.
        let own_base = u64::from(self.base_bytes.saturating_sub(want.held_bytes));
        let others_bases = self.unused_bases_bytes.saturating_sub(own_base);
        let Some(left) = free_bytes.checked_sub(u64::from(block) + others_bases) else { return false };
        !self.is_crowded || u64::from(held) <= left
    }

    /// The most that a connection may hold, if memory is free.
    fn allowance(&self, want: &Want) -> u32 {
        let is_whole = want.least_bytes == want.wanted_bytes && want.held_bytes == 0;
        if !self.is_crowded || is_whole {
            return HELD_BYTES_MAX;
        }
        self.start().saturating_add(want.earned_bytes).min(HELD_BYTES_MAX)
    }

    /// Memory that a connection may hold before its client has moved anything.
    fn start(&self) -> u32 {
        (self.capacity_bytes / STARTS_OF_CAPACITY).max(self.base_bytes.into()) as u32
    }
}

/// The amount of pool memory that a span of `bytes` takes.
pub(super) fn block_bytes(bytes: u32) -> u32 {
    bytes.next_power_of_two().max(BLOCK_BYTES as u32)
}

/// Counts the bytes that one client moves, in either direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    tick: u64,
    /// Bytes moved in `tick`.
    now_bytes: u64,
    /// Bytes moved in the tick before.
    before_bytes: u64,
    /// Bytes moved since the front end began to watch for stalled clients.
    pub watched_bytes: u64,
}

impl Meter {
    /// Counts bytes that were sent or received.
    pub(super) fn moved(&mut self, tick: u64, bytes: usize) {
        if tick != self.tick {
            self.before_bytes = if tick == self.tick + 1 { self.now_bytes } else { 0 };
            (self.tick, self.now_bytes) = (tick, 0);
        }
        self.now_bytes += bytes as u64;
        self.watched_bytes += bytes as u64;
    }

    /// Memory that the connection may hold because its client moved data recently.
    pub(super) fn earned_bytes(&self, tick: u64) -> u32 {
        let best = match tick - self.tick {
            0 => self.now_bytes.max(self.before_bytes),
            1 => self.now_bytes,
            _ => 0,
        };
        u32::try_from(best / EARNED_OF_MOVED).unwrap_or(u32::MAX)
    }

    /// Whether anything was moved in this tick.
    pub(super) fn moves(&self, tick: u64) -> bool {
        tick == self.tick && self.now_bytes > 0
    }
}

/// How many requests connections have in the engine: averages over the turns of a tick, in eighths. A
/// connection with less than an eighth does not count, since its client sends requests only now and then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loads {
    tick: u64,
    turns: u32,
    sums: [u32; CONNECTIONS_MAX],
    /// The least load that counts with its place, and the least load of the other places, in the last tick.
    least: Option<(u32, usize)>,
    second: Option<u32>,
}

impl Loads {
    pub(super) fn new() -> Loads {
        Loads { tick: 0, turns: 0, sums: [0; CONNECTIONS_MAX], least: None, second: None }
    }

    /// Begins a turn. In a new tick, computes the averages of the last one.
    pub(super) fn begin_turn(&mut self, tick: u64) {
        if tick != self.tick {
            (self.least, self.second) = (None, None);
            if tick == self.tick + 1 {
                self.take_averages();
            }
            (self.tick, self.turns, self.sums) = (tick, 0, [0; CONNECTIONS_MAX]);
        }
        self.turns += 1;
    }

    /// Records how many requests a connection has in the engine in this turn.
    pub(super) fn note(&mut self, place: usize, in_engine: u32) {
        self.sums[place] = self.sums[place].saturating_add(in_engine);
    }

    fn take_averages(&mut self) {
        for (place, &sum) in self.sums.iter().enumerate() {
            let load = (u64::from(sum) * 8 / u64::from(self.turns.max(1))) as u32;
            match self.least {
                _ if load == 0 => {}
                Some((least, _)) if least <= load => {
                    self.second = Some(self.second.map_or(load, |second| second.min(load)));
                }
                _ => {
                    self.second = self.least.map(|(least, _)| least);
                    self.least = Some((load, place));
                }
            }
        }
    }

    /// Requests that the connection at a place may have in the engine.
    pub(super) fn in_engine_max(&self, place: usize) -> u32 {
        let others = match self.least {
            Some((_, least_place)) if least_place == place => self.second,
            least => least.map(|(load, _)| load),
        };
        others.map_or(PIECES_MAX as u32, |load| load.div_ceil(4).max(IN_ENGINE_SHARED_MIN))
    }
}

/// The order in which connections are served, and which of them are active.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    /// The place after the one that was served last.
    next: u32,
    tick: u64,
    /// Places that were active in `tick`, and in the tick before.
    now: u64,
    before: u64,
}

impl Turns {
    /// Advances to the current tick.
    pub(super) fn tick(&mut self, tick: u64) {
        if tick != self.tick {
            self.before = if tick == self.tick + 1 { self.now } else { 0 };
            (self.tick, self.now) = (tick, 0);
        }
    }

    /// Marks the connection at a place as active.
    pub(super) fn mark(&mut self, place: usize) {
        self.now |= 1 << place;
    }

    /// Marks the connections at these places as active.
    pub(super) fn mark_all(&mut self, places: u64) {
        self.now |= places;
    }

    /// The number of active connections.
    pub(super) fn active_count(&self) -> usize {
        (self.now | self.before).count_ones() as usize
    }

    /// Whether another place has an active connection.
    pub(super) fn others_active(&self, place: usize) -> bool {
        (self.now | self.before) & !(1 << place) != 0
    }

    /// Takes the next place in the circle out of `waiting`, which is not empty.
    pub(super) fn next_of(&mut self, waiting: u64) -> usize {
        let place = self.first_of(waiting);
        self.pass(place);
        place
    }

    /// Finds the next place in the circle; it stays the next one until [`Turns::pass`].
    pub(super) fn first_of(&self, waiting: u64) -> usize {
        ((waiting.rotate_right(self.next).trailing_zeros() + self.next) % u64::BITS) as usize
    }

    /// Continues the circle after a place.
    pub(super) fn pass(&mut self, place: usize) {
        self.next = (place as u32 + 1) % u64::BITS;
    }

    /// The number of requests that one connection may add in a turn with room for `room`.
    pub(super) fn requests_max(&self, room: usize) -> usize {
        match self.active_count() {
            0 | 1 => room,
            // At most a quarter, even with few connections: the turn stays short for a connection that has a
            // single request.
            count => (room / count.max(4)).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u32 = 1 << 10;
    const MIB: u32 = 1 << 20;
    const CAPACITY: u64 = 16 << 20;

    fn share(is_crowded: bool, unused_bases: u64) -> Share {
        let unused_bases_bytes = unused_bases * 64 * u64::from(KIB);
        Share {
            tick: 5,
            is_crowded,
            in_engine_max: 256,
            capacity_bytes: CAPACITY,
            base_bytes: 64 * KIB,
            unused_bases_bytes,
        }
    }

    fn want(held_bytes: u32, earned_bytes: u32, wanted_bytes: u32) -> Want {
        Want { held_bytes, earned_bytes, wanted_bytes, least_bytes: wanted_bytes.min(64 * KIB) }
    }

    #[test]
    fn a_share_of_memory_is_a_base_a_start_and_what_was_earned() {
        use Grant::{Bytes, Later, Starved};
        let mib = u64::from(MIB);
        for (is_crowded, unused_bases, want, free_bytes, expected) in [
            // Alone: 12 MiB, and the bases of 63 places are left.
            (false, 64, want(0, 0, MIB), CAPACITY, Bytes(MIB)),
            (false, 63, want(11 * MIB, 0, MIB), 5 * mib, Bytes(MIB)),
            (false, 63, want(12 * MIB, 0, MIB), 4 * mib, Later),
            // In a crowd: first the start, and then what the client has earned.
            (true, 64, want(0, 0, MIB), CAPACITY - mib, Bytes(256 * KIB)),
            (true, 63, want(256 * KIB, 0, MIB), CAPACITY - mib, Later),
            (true, 63, want(256 * KIB, MIB, MIB), 10 * mib, Bytes(MIB)),
            // At most as much as is left for others.
            (true, 63, want(3 * MIB, 9 * MIB, MIB), 8 * mib, Bytes(512 * KIB)),
            (true, 63, want(3 * MIB, 9 * MIB, MIB), 7 * mib, Later),
            // A read in one piece: its connection holds nothing, and as much is left for others.
            (true, 64, Want { least_bytes: MIB, ..want(0, 0, MIB) }, 6 * mib, Bytes(MIB)),
            (true, 64, Want { least_bytes: MIB, ..want(0, 0, MIB) }, 5 * mib, Starved),
            (true, 64, Want { least_bytes: MIB, ..want(4 * KIB, 0, MIB) }, 6 * mib, Later),
            // Others have everything but the bases: the connection gets a part of its own base, and no more.
            (true, 64, want(0, 0, MIB), 4 * mib, Bytes(64 * KIB)),
            (true, 64, want(0, 0, 4 * KIB), 4 * mib, Bytes(4 * KIB)),
            (true, 63, want(64 * KIB, 0, 4 * KIB), 63 * 64 * u64::from(KIB), Starved),
        ] {
            let grant = share(is_crowded, unused_bases).grant(&want, free_bytes);
            assert_eq!(grant, expected, "{want:?} of {free_bytes}");
        }
    }

    /// Even if many connections take all they can, each of the 64 can have its base.
    #[test]
    fn the_greedy_leave_every_base() {
        let mut held = [0u32; CONNECTIONS_MAX];
        for round in 0..2000 {
            let place = (round * 5) % (CONNECTIONS_MAX - 1);
            let used: u64 = held.iter().map(|&held| u64::from(held.min(64 * KIB))).sum();
            let free = CAPACITY - held.iter().map(|&held| u64::from(held)).sum::<u64>();
            let share = Share { unused_bases_bytes: 4 * u64::from(MIB) - used, ..share(round > 100, 0) };
            if let Grant::Bytes(bytes) = share.grant(&want(held[place], 12 * MIB, MIB), free) {
                held[place] += block_bytes(bytes);
            }
        }
        let free = CAPACITY - held.iter().map(|&held| u64::from(held)).sum::<u64>();
        assert!(free >= 64 * u64::from(KIB), "{free} bytes are left: {held:?}");
        assert!(held[..63].iter().all(|&held| held >= 64 * KIB), "each has its base: {held:?}");
    }

    /// If no block of the best class is free, a block of a larger class is used, or else a shorter one.
    #[test]
    fn free_blocks_of_any_class_are_of_use() {
        let memory = crate::memory::Memory::new(&[2 << 20]).unwrap();
        let mut pool = Pool::new(&memory, 0);
        let taken = [pool.take(4 * KIB), pool.take(256 * KIB)].map(|span| span.expect("all was free"));
        let larger = pool.take_any(64 * KIB, 64 * KIB).expect("a block of 256 KiB is free");
        assert_eq!((larger.len_bytes, pool.available_bytes()), (64 * KIB, (2 << 20) - 516 * 1024));
        let shorter = pool.take_any(512 * KIB, 4 * KIB).expect("256 KiB are free");
        assert_eq!(shorter.len_bytes, 256 * KIB);
        assert!(pool.take_any(MIB, 512 * KIB).is_none(), "that would be too short");
        taken.into_iter().chain([larger, shorter]).for_each(|span| pool.give(span));
        assert_eq!(pool.available_bytes(), pool.capacity_bytes());
    }

    #[test]
    fn what_was_moved_is_forgotten_two_ticks_later() {
        let mut meter = Meter::default();
        meter.moved(1, 4000);
        meter.moved(2, 400);
        assert_eq!((meter.earned_bytes(2), meter.earned_bytes(3), meter.earned_bytes(4)), (1000, 100, 0));
        assert!(meter.moves(2) && !meter.moves(3));
        meter.moved(9, 8);
        assert_eq!((meter.earned_bytes(9), meter.watched_bytes), (2, 4408));
    }

    /// A connection with a single request in flight limits a busy one to eight. Two busy ones double each
    /// other's limit from tick to tick. A client that sends a request in one turn of a hundred limits no
    /// other.
    #[test]
    fn a_busy_connection_has_twice_what_the_least_busy_has() {
        let mut loads = Loads::new();
        let mut tick = |now: u64, counts: [u32; 3]| {
            for turn in 0..100 {
                loads.begin_turn(now);
                for (place, count) in counts.into_iter().enumerate() {
                    loads.note(place, if count > 0 || turn > 0 { count } else { 1 });
                }
            }
            loads.begin_turn(now + 1);
            [0, 1, 2].map(|place| loads.in_engine_max(place))
        };
        assert_eq!(tick(10, [200, 0, 0]), [256, 400, 400], "alone");
        assert_eq!(tick(20, [200, 1, 0]), [8, 400, 8]);
        assert_eq!(tick(30, [8, 8, 0]), [16, 16, 16]);
        assert_eq!(tick(40, [16, 16, 0]), [32, 32, 32]);
        assert_eq!(tick(50, [200, 100, 1]), [8, 8, 200], "the least busy of the others counts");
        loads.begin_turn(99);
        assert_eq!(loads.in_engine_max(0), 256, "after a rest");
    }

    /// The circle continues where it ended: with room for one request per turn, each waiting place gets its
    /// turn.
    #[test]
    fn every_place_is_served_in_a_circle() {
        let waiting = 1 | 1 << 1 | 1 << 17 | 1 << 63;
        let mut turns = Turns::default();
        let served: Vec<usize> = (0..8).map(|_| turns.next_of(waiting)).collect();
        assert_eq!(served, [0, 1, 17, 63, 0, 1, 17, 63]);
    }

    #[test]
    fn one_that_is_active_alone_has_the_whole_turn() {
        let mut turns = Turns::default();
        turns.tick(1);
        turns.mark(3);
        assert_eq!(
            (turns.requests_max(32), turns.others_active(3), turns.others_active(4)),
            (32, false, true)
        );
        turns.tick(2);
        turns.mark(4);
        assert_eq!((turns.requests_max(32), turns.others_active(3)), (8, true));
        (5..55).for_each(|place| turns.mark(place));
        assert_eq!(turns.requests_max(32), 1);
        turns.tick(4);
        assert_eq!(turns.requests_max(32), 32, "after two ticks none is active");
    }
}
