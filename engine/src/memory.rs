//! Memory for data: arenas that every reactor and every ring can address, and pools that hand out pieces of
//! them.
//!
//! ```text
//!   Memory   arena 0            arena 1            ...  arena n = zeros
//!            [ pool | pool ]    [ pool | pool ]         [ 1 MiB of zeros, never written ]
//!                  Span{arena: 0, offset_bytes, len_bytes}: plain coordinates, valid on every thread
//! ```
//!
//! Arenas are mapped once, before the first reactor starts, and never move. So rings register them with the
//! kernel as fixed buffers, and a request can be handed from reactor to reactor as three integers. The price
//! is that the borrow checker cannot see which thread may touch which bytes. A protocol takes its place:
//!
//! 1. A [`Span`] comes from one [`Pool`] and has one *holder* at a time. The holder is the code that took it,
//!    until it gives the span back or passes it on (in a request, a mailbox message, a member operation).
//! 2. Only the holder reads or writes the bytes. While a member operation on a span is in flight the holder
//!    is the ring: the engine does not look at the bytes until it has taken the completion.
//! 3. A read-only span may have many holders. Only the zero arena is always read-only; every write below
//!    asserts that its target is not the zero arena.
//! 4. A span is handed over through a channel with release/acquire semantics (the mailboxes) or through the
//!    kernel, so all writes of the old holder happen before the first read of the new one.
//!
//! Under this protocol there is no data race: two accesses to one byte come either from the same holder,
//! which is one thread, or from two holders in turn, ordered by rule 4. Pools never overlap (asserted when
//! they are made, for as long as they live), and a pool never hands out a byte twice (asserted by its taken
//! bits), so any two taken spans are disjoint. The closures of [`Memory::with`] and [`Memory::with_mut`] see
//! ordinary slices; a closure must not access an overlapping span.
//!
//! So the operations here are safe functions: bounds, lengths and overlap of operands are checked in every
//! build, and the caller makes sure that it holds the span. The alternative, an owning handle for each
//! buffer, was rejected: a stripe operation would carry 32 of them with drop glue, and the ring's half of
//! rule 2 would still be only a promise.

#![expect(unsafe_code, reason = "slices are made of mapped memory, from coordinates")]

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{ARENA_BYTES_MAX, ARENAS_MAX, BUFFER_BYTES_MAX};
use map::Mapping;

pub(crate) mod map;
mod parity;
mod pool;
mod superblock;

pub use parity::Indexed;
pub(crate) use pool::KEPT_BACK_OF_OPERATIONS;
pub use pool::{KEPT_BACK_OF_REQUESTS, Pool};

/// A piece of an arena: plain coordinates, no ownership.
///
/// A span is three fields in twelve bytes, so a function that is not inlined receives its address. If that
/// function copies the span, one load reads eight bytes that two stores have just written, and the core waits
/// until both stores have reached the cache: some 5 ns. Functions that copy the span of every write are
/// therefore inlined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the arena.
    pub arena: u16,
    /// Offset of the first byte in the arena.
    pub offset_bytes: u32,
    /// Length in bytes.
    pub len_bytes: u32,
}

impl Span {
    /// A span without bytes.
    pub const EMPTY: Span = Span { arena: 0, offset_bytes: 0, len_bytes: 0 };

    /// The piece of `len_bytes` that begins `offset_bytes` into this span. Panics if it does not fit.
    #[must_use]
    pub fn part(self, offset_bytes: u32, len_bytes: u32) -> Span {
        assert!(offset_bytes as u64 + len_bytes as u64 <= self.len_bytes as u64);
        Span { arena: self.arena, offset_bytes: self.offset_bytes + offset_bytes, len_bytes }
    }

    /// Whether the two spans have a byte in common.
    #[must_use]
    pub fn overlaps(self, other: Span) -> bool {
        let (a, b) = (self.offset_bytes as u64, other.offset_bytes as u64);
        let (a_end, b_end) = (a + self.len_bytes as u64, b + other.len_bytes as u64);
        self.arena == other.arena && a.max(b) < a_end.min(b_end)
    }
}

/// All arenas of a server, fixed at construction and shared by all its threads.
pub struct Memory {
    /// The arenas in order, the zero arena last.
    arenas: Box<[Mapping]>,
    /// Areas of the living pools; touched only when a pool is made or dropped.
    claims: Mutex<Vec<Span>>,
}

impl Memory {
    /// Maps one arena of each size, at most [`ARENA_BYTES_MAX`] long, and the zero arena after them. The
    /// pages come from the huge page pool if it has enough, otherwise from ordinary memory with a request for
    /// transparent huge pages. They are touched lazily (see [`Memory::populate`]).
    pub fn new(arena_bytes: &[usize]) -> io::Result<Arc<Memory>> {
        assert!(arena_bytes.len() < ARENAS_MAX, "one of the {ARENAS_MAX} arenas is the zero arena");
        let mut arenas = Vec::with_capacity(arena_bytes.len() + 1);
        for &bytes in arena_bytes {
            assert!(bytes <= ARENA_BYTES_MAX, "an arena is a fixed buffer of io_uring: at most 1 GiB");
            arenas.push(Mapping::anonymous(bytes)?);
        }
        arenas.push(Mapping::anonymous(BUFFER_BYTES_MAX as usize)?);
        Ok(Arc::new(Memory { arenas: arenas.into(), claims: Mutex::new(Vec::new()) }))
    }

    /// Number of arenas, including the zero arena.
    #[must_use]
    pub fn arena_count(&self) -> usize {
        self.arenas.len()
    }

    /// Whether a span lies in an arena. Other spans are host buffers: pages of a host's request, which only a
    /// ring knows, by a number. They are numbered like arenas, after the last one.
    #[must_use]
    pub fn is_mapped(&self, span: Span) -> bool {
        usize::from(span.arena) < self.arenas.len()
    }

    /// A whole arena as one span.
    #[must_use]
    pub fn arena(&self, arena: u16) -> Span {
        let len_bytes = u32::try_from(self.arenas[arena as usize].len()).expect("at most ARENA_BYTES_MAX");
        Span { arena, offset_bytes: 0, len_bytes }
    }

    /// A span of zeros, at most [`BUFFER_BYTES_MAX`] long. It may be read but never written.
    #[must_use]
    pub fn zeros(&self, len_bytes: u32) -> Span {
        assert!(len_bytes <= BUFFER_BYTES_MAX);
        Span { arena: self.zero_arena(), offset_bytes: 0, len_bytes }
    }

    /// Touches every page of an arena from the calling thread, so that the pages come from that thread's NUMA
    /// node and no page fault is left for the data path. Best called on the reactor that owns the arena,
    /// before its ring is made (registering an arena pins all of its pages, wherever they are then).
    pub fn populate(&self, arena: u16) {
        self.arenas[arena as usize].populate();
    }

    /// Copies the bytes of a span to `into`, which must have the same length.
    pub fn read_from(&self, span: Span, into: &mut [u8]) {
        self.with(span, |bytes| into.copy_from_slice(bytes));
    }

    /// Copies bytes into a span of the same length.
    pub fn write_to(&self, span: Span, from: &[u8]) {
        self.with_mut(span, |bytes| bytes.copy_from_slice(from));
    }

    /// Copies one span to another of equal length that does not overlap it.
    pub fn copy(&self, from: Span, to: Span) {
        assert!(!from.overlaps(to), "a copy of overlapping spans: {from:?} to {to:?}");
        self.with(from, |from| self.write_to(to, from));
    }

    /// Fills a span with zeros.
    pub fn zero(&self, span: Span) {
        self.with_mut(span, |bytes| bytes.fill(0));
    }

    /// Whether two spans of equal length hold the same bytes.
    #[must_use]
    pub fn equal(&self, a: Span, b: Span) -> bool {
        assert_eq!(a.len_bytes, b.len_bytes);
        self.with(a, |a| self.with(b, |b| a == b))
    }

    /// Whether a span holds nothing but zeros.
    #[must_use]
    pub fn is_zero(&self, span: Span) -> bool {
        // One block at a time: the OR of 4 KiB vectorizes, and a non-zero block ends the search.
        self.with(span, |bytes| {
            bytes.chunks(4096).all(|block| block.iter().fold(0, |or, byte| or | byte) == 0)
        })
    }

    /// Lets `look` read a span that the caller holds.
    pub fn with<R>(&self, span: Span, look: impl FnOnce(&[u8]) -> R) -> R {
        look(self.slice(span))
    }

    /// Lets `change` write a span that the caller holds. `change` must not access an overlapping span.
    pub fn with_mut<R>(&self, span: Span, change: impl FnOnce(&mut [u8]) -> R) -> R {
        self.assert_writable(span);
        let start = self.ptr(span);
        // SAFETY: `ptr` checked that the span lies in a live mapping, which is initialized from the
        // start (zeroed by the kernel) and outlives `self`'s borrow; by rule 1 and 2 of the module
        // the caller is the only holder, so nothing else refers to these bytes while `change` runs.
        change(unsafe { std::slice::from_raw_parts_mut(start, span.len_bytes as usize) })
    }

    /// The address of a span, for rings and system calls. Asserts that the span lies in its arena.
    #[must_use]
    pub fn ptr(&self, span: Span) -> *mut u8 {
        let arena = &self.arenas[span.arena as usize];
        let end_bytes = span.offset_bytes as usize + span.len_bytes as usize;
        assert!(end_bytes <= arena.len(), "{span:?} is beyond its arena of {} bytes", arena.len());
        arena.start().wrapping_add(span.offset_bytes as usize)
    }

    /// Asserts that a span may be written at all: the zero arena must not be, not even by a ring.
    pub fn assert_writable(&self, span: Span) {
        assert!(
            span.arena != self.zero_arena() || span.len_bytes == 0,
            "the zero arena is not to be written"
        );
    }

    /// The slice of a span, valid as long as its holder keeps the span.
    fn slice(&self, span: Span) -> &[u8] {
        let start = self.ptr(span);
        // SAFETY: `ptr` checked that the span lies in a live, initialized mapping that `self` owns; by rules
        // 1 to 3 of the module nothing writes these bytes while the caller holds the span.
        unsafe { std::slice::from_raw_parts(start, span.len_bytes as usize) }
    }

    fn zero_arena(&self) -> u16 {
        u16::try_from(self.arenas.len() - 1).expect("at most ARENAS_MAX")
    }

    /// Records that a pool now covers `span`, and asserts that no other living pool has a byte of it.
    fn claim(&self, span: Span) {
        self.assert_writable(span);
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let other = claims.iter().find(|claim| claim.overlaps(span));
        assert!(other.is_none(), "two pools over the same bytes: {span:?} and {other:?}");
        claims.push(span);
    }

    /// Removes the claim of a dropped pool.
    fn unclaim(&self, span: Span) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).retain(|claim| *claim != span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u32 = 1 << 10;

    fn span(arena: u16, offset_bytes: u32, len_bytes: u32) -> Span {
        Span { arena, offset_bytes, len_bytes }
    }

    #[test]
    fn bytes_come_back_as_they_were_put() {
        let memory = Memory::new(&[1 << 20, 64 << 10]).unwrap();
        let (a, b) = (span(0, 4 * KIB, 8 * KIB), span(1, 0, 8 * KIB));
        let data: Vec<u8> = (0..8 * KIB).map(|i| (i * 7 % 251) as u8).collect();
        memory.write_to(a, &data);
        memory.copy(a, b);
        let mut back = vec![0; data.len()];
        memory.read_from(b, &mut back);
        assert_eq!(back, data);
        assert!(memory.equal(a, b) && !memory.is_zero(b));
        memory.with_mut(b, |bytes| bytes[8191] ^= 1);
        assert!(!memory.equal(a, b));
        memory.zero(b);
        assert!(memory.is_zero(b) && memory.is_zero(span(1, 0, 64 * KIB)));
        assert!(memory.is_zero(memory.zeros(1 << 20)));
        memory.populate(0);
        assert_eq!(memory.arena_count(), 3);
        assert_eq!(memory.arena(1), span(1, 0, 64 * KIB));
    }

    #[test]
    fn a_single_byte_is_found_wherever_it_is() {
        let memory = Memory::new(&[64 << 10]).unwrap();
        let all = span(0, 0, 12 * KIB);
        for at in [0, 1, 4095, 4096, 8191, 12287] {
            memory.with_mut(all, |bytes| bytes[at] = 0x80);
            assert!(!memory.is_zero(all), "{at}");
            memory.zero(all);
        }
    }

    #[test]
    fn overlap_is_by_bytes() {
        let a = span(0, 4096, 4096);
        for (other, expected) in [
            (a, true),
            (span(1, 4096, 4096), false),
            (span(0, 0, 4096), false),
            (span(0, 0, 4097), true),
            (span(0, 8191, 1), true),
            (span(0, 8192, 4096), false),
            (span(0, 5000, 0), false),
        ] {
            assert_eq!(a.overlaps(other), expected, "{other:?}");
            assert_eq!(other.overlaps(a), expected, "{other:?}");
        }
    }

    #[test]
    #[should_panic(expected = "beyond its arena")]
    fn a_span_beyond_its_arena_is_refused() {
        let _ = Memory::new(&[64 << 10]).unwrap().is_zero(span(0, 60 * KIB, 4 * KIB + 1));
    }

    #[test]
    #[should_panic(expected = "not to be written")]
    fn the_zero_arena_is_not_written() {
        let memory = Memory::new(&[64 << 10]).unwrap();
        memory.write_to(memory.zeros(1), &[1]);
    }

    #[test]
    #[should_panic(expected = "overlapping spans")]
    fn a_copy_onto_itself_is_refused() {
        Memory::new(&[64 << 10]).unwrap().copy(span(0, 0, 4096), span(0, 4095, 4096));
    }

    #[test]
    #[should_panic(expected = "two pools")]
    fn pools_do_not_overlap() {
        let memory = Memory::new(&[4 << 20]).unwrap();
        let _one = Pool::over(&memory, span(0, 0, 2 << 20));
        let _two = Pool::over(&memory, span(0, 1 << 20, 2 << 20));
    }
}
