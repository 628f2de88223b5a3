//! A pool hands out pieces of one arena, from 4 KiB to 1 MiB, in constant time.
//!
//! ```text
//!   pool    | superblock 0 | superblock 1 | superblock 2 | ...        1 MiB each
//!   class     64 KiB         unassigned     4 KiB
//!             16 blocks                     256 blocks, each free or taken
//! ```
//!
//! A superblock belongs to a size class (4 KiB, 8 KiB, ... 1 MiB) while any of its blocks is taken; after
//! that any class may have it. So, unlike with a fixed partition, a burst of one size does not starve a later
//! burst of another, and nothing ever has to be moved.
//!
//! - Blocks are reused last in, first out, within a superblock and between them, because their bytes are most
//!   likely in the cache. Blocks that were never taken come last.
//! - The lists are links in arrays made at construction; taking and giving never allocate.
//! - Invariant: a superblock is on exactly one list (free, or open in its class), or on none if all of its
//!   blocks are taken or if it is claimed.
//! - A full pool is backpressure: `None`, and the caller tries again when something was given back.
//!
//! **The claim.** A taker of a large buffer needs a whole superblock, and could wait forever while others
//! take and give small buffers. So the taker that has waited longest may claim one ([`Pool::claim`]). Nothing
//! more is taken of the claimed superblock, and when its last block comes back the claimant gets it. All
//! others continue meanwhile. (Stopping all takers until the oldest has room would leave most memory unused.)
//!
//! **Parked blocks.** Blocks that the kernel may hold forever (an I/O of a device that does not answer) are
//! *parked*. A pool that [keeps back](Pool::keep_back) some superblocks can always replace them: of the
//! superblocks without parked blocks, a share is assigned only by [`Pool::take_kept_back`].
//!
//! - For the memory of hosts' requests this share is half. Of 32 superblocks at most 16 are in use; if all of
//!   them are parked, 16 are left, and 8 of these may be used. So everything in use when a device falls
//!   silent can be replaced at once; an owner may need all of its buffers before it gives back any (an NBD
//!   client's large read is answered as a whole).
//! - For the memory of stripe operations it is a quarter: their parked buffers are not replaced, only those
//!   of the array's superblocks, bitmap blocks and list of lost rows.

use std::sync::Arc;

use super::superblock::{
    BLOCKS_MAX, CLASS_SHIFT_MIN, CLASSES, NONE, SUPERBLOCK_SHIFT, Superblock, class_of, class_shift_of,
};
use super::{Memory, Span};
use crate::limits::{BLOCK_BYTES, BUFFER_BYTES_MAX};

/// Share for hosts' requests: a pool keeps back one in this many superblocks.
pub const KEPT_BACK_OF_REQUESTS: u16 = 2;
/// Share for stripe operations: a pool keeps back one in this many superblocks.
pub(crate) const KEPT_BACK_OF_OPERATIONS: u16 = 4;

/// An owner's pieces of one arena. Threads may pass a pool on, but only one uses it at a time.
pub struct Pool {
    /// The arenas; keeps them mapped, and keeps the claim on `extent`.
    memory: Arc<Memory>,
    /// The area that this pool hands out.
    extent: Span,
    /// A superblock for each whole MiB of `extent`.
    superblocks: Box<[Superblock]>,
    /// For each superblock: the free block below each free block on its stack.
    links: Box<[[u8; BLOCKS_MAX]]>,
    /// Superblocks without a class, most recently freed first, linked by `next`.
    free: u16,
    /// For each class: superblocks with a free block, most recently given to first, doubly linked.
    open: [u16; CLASSES],
    /// The superblock that is set aside for the taker that has waited longest, or `NONE`.
    claimed: u16,
    /// Bytes not taken, counted in whole blocks.
    available_bytes: u64,
    /// Superblocks without a class.
    free_count: u16,
    /// Superblocks with a parked block.
    parked_count: u16,
    /// Divisor of the superblocks kept to replace parked blocks (one in this many); 0 keeps none.
    kept_back_of: u16,
}

impl Pool {
    /// Makes a pool over a whole arena.
    #[must_use]
    pub fn new(memory: &Arc<Memory>, arena: u16) -> Pool {
        Pool::over(memory, memory.arena(arena))
    }

    /// Makes a pool over a part of an arena that begins on a 4 KiB boundary and shares no byte with another
    /// living pool. A remainder of less than 1 MiB at its end is not used.
    #[must_use]
    pub fn over(memory: &Arc<Memory>, extent: Span) -> Pool {
        assert_eq!(extent.offset_bytes as usize % BLOCK_BYTES, 0);
        assert!(extent.len_bytes >= BUFFER_BYTES_MAX, "a pool has at least one superblock of 1 MiB");
        let _in_bounds = memory.ptr(extent);
        memory.claim(extent);
        let count = extent.len_bytes >> SUPERBLOCK_SHIFT;
        let mut superblocks = vec![Superblock::UNASSIGNED; count as usize].into_boxed_slice();
        for (index, superblock) in superblocks.iter_mut().enumerate() {
            superblock.next = if index + 1 < count as usize { index as u16 + 1 } else { NONE };
        }
        Pool {
            memory: Arc::clone(memory),
            extent,
            superblocks,
            links: vec![[0; BLOCKS_MAX]; count as usize].into_boxed_slice(),
            free: 0,
            open: [NONE; CLASSES],
            claimed: NONE,
            available_bytes: u64::from(count) << SUPERBLOCK_SHIFT,
            free_count: count as u16,
            parked_count: 0,
            kept_back_of: 0,
        }
    }

    /// Keeps one in `of` superblocks back for [`Pool::take_kept_back`] from now on.
    pub fn keep_back(&mut self, of: u16) {
        self.kept_back_of = of;
    }

    /// Superblocks that [`Pool::take`] does not assign to a class.
    fn kept_back(&self) -> u16 {
        (self.superblocks.len() as u16 - self.parked_count).checked_div(self.kept_back_of).unwrap_or(0)
    }

    /// Takes a span of exactly `bytes` (1 to 1 MiB), aligned to 4 KiB; `None` if there is none of that size.
    /// The span still holds what its last holder left there.
    #[must_use]
    #[inline]
    pub fn take(&mut self, bytes: u32) -> Option<Span> {
        self.take_from(bytes, self.kept_back_of > 0)
    }

    /// Takes a span, also from superblocks kept back, in place of a parked one.
    #[must_use]
    pub fn take_kept_back(&mut self, bytes: u32) -> Option<Span> {
        self.take_from(bytes, false)
    }

    /// Takes a span. With `keeps_back`, the superblocks kept back are not used.
    #[inline(always)]
    fn take_from(&mut self, bytes: u32, keeps_back: bool) -> Option<Span> {
        assert!(bytes > 0 && bytes <= BUFFER_BYTES_MAX, "a buffer of {bytes} bytes");
        let class_shift = class_shift_of(bytes);
        let class = class_of(class_shift);
        if self.open[class] == NONE {
            if keeps_back && self.free_count <= self.kept_back() {
                return None;
            }
            self.open_superblock(class_shift)?;
        }
        let index = self.open[class];
        let superblock = &mut self.superblocks[index as usize];
        let block = superblock.take_block(&self.links[index as usize]);
        if superblock.is_full() {
            self.unlink(index);
        }
        self.available_bytes -= 1 << class_shift;
        let offset = (u32::from(index) << SUPERBLOCK_SHIFT) + (u32::from(block) << class_shift);
        Some(Span {
            arena: self.extent.arena,
            offset_bytes: self.extent.offset_bytes + offset,
            len_bytes: bytes,
        })
    }

    /// Takes a span of `bytes`, also from a block of a larger class; or else one of half the length, and so
    /// on down to `least_bytes`. So free blocks of other classes are used as well.
    #[must_use]
    pub fn take_any(&mut self, bytes: u32, least_bytes: u32) -> Option<Span> {
        let shift = class_shift_of(bytes);
        let larger = (shift + 1..=SUPERBLOCK_SHIFT).find(|&larger| self.open[class_of(larger)] != NONE);
        let smaller = (CLASS_SHIFT_MIN..shift).rev().map(|shift| 1 << shift);
        self.take(bytes)
            .or_else(|| Some(self.take(1 << larger?)?.part(0, bytes)))
            .or_else(|| smaller.take_while(|&bytes| bytes >= least_bytes).find_map(|bytes| self.take(bytes)))
    }

    /// Takes back a span from [`Pool::take`]. Only its start counts: a span whose length was trimmed is given
    /// back whole. Panics if the span is of another pool or is not taken.
    pub fn give(&mut self, span: Span) {
        assert_eq!(span.arena, self.extent.arena, "{span:?} is of another arena than this pool");
        let offset = span.offset_bytes.wrapping_sub(self.extent.offset_bytes);
        let index = (offset >> SUPERBLOCK_SHIFT) as u16;
        assert!(
            span.offset_bytes >= self.extent.offset_bytes && (index as usize) < self.superblocks.len(),
            "{span:?} is of another pool"
        );
        let superblock = &mut self.superblocks[index as usize];
        let class_shift = superblock.class_shift;
        assert!(class_shift != 0, "{span:?} was given twice");
        let in_superblock = offset & (BUFFER_BYTES_MAX - 1);
        let block = (in_superblock >> class_shift) as u8;
        assert_eq!(u32::from(block) << class_shift, in_superblock, "{span:?} is not the start of a buffer");
        assert!(span.len_bytes <= 1 << class_shift, "{span:?} is longer than what was taken");
        let was_full = superblock.is_full();
        superblock.give_block(block, &mut self.links[index as usize]);
        let is_empty = superblock.taken_count == 0;
        self.available_bytes += 1 << class_shift;
        if index == self.claimed {
            return;
        }
        let is_first = self.open[class_of(class_shift)] == index;
        if !was_full && (is_empty || !is_first) {
            self.unlink(index);
        }
        if is_empty {
            self.close_superblock(index);
        } else if !is_first {
            self.link(index);
        }
    }

    /// Sets aside the superblock with the fewest taken blocks, unless one is already claimed.
    pub fn claim(&mut self) {
        if self.claimed == NONE {
            let fewest = |index: &usize| self.superblocks[*index].taken_count;
            let chosen =
                (0..self.superblocks.len()).filter(|&index| self.can_be_claimed(index)).min_by_key(fewest);
            self.claim_this(chosen);
        }
    }

    /// Whether a superblock is claimed.
    #[must_use]
    pub fn has_claim(&self) -> bool {
        self.claimed != NONE
    }

    /// Claims the next superblock in turn, because the present one does not become free. (A device that does
    /// not answer may hold a block of it.)
    pub fn move_claim(&mut self) {
        if self.claimed != NONE {
            let (count, start) = (self.superblocks.len(), usize::from(self.claimed) + 1);
            self.give_up_claim();
            let chosen =
                (0..count).map(|nth| (start + nth) % count).find(|&index| self.can_be_claimed(index));
            self.claim_this(chosen);
        }
    }

    /// Takes a span once the claimed superblock is empty, which ends the claim; `None` while it continues.
    #[must_use]
    pub fn take_claimed(&mut self, bytes: u32) -> Option<Span> {
        if self.superblocks.get(usize::from(self.claimed))?.taken_count > 0 {
            return None;
        }
        self.give_up_claim();
        // The superblock was in use until now, so what is kept back stays untouched.
        self.take_from(bytes, false)
    }

    /// Gives up the claim, if there is one: the superblock serves all takers again.
    pub fn give_up_claim(&mut self) {
        let index = std::mem::replace(&mut self.claimed, NONE);
        let Some(superblock) = self.superblocks.get(usize::from(index)) else { return };
        if superblock.taken_count == 0 {
            self.close_superblock(index);
        } else if !superblock.is_full() {
            self.link(index);
        }
    }

    fn can_be_claimed(&self, index: usize) -> bool {
        let superblock = &self.superblocks[index];
        superblock.class_shift != 0 && !superblock.pinned && superblock.parked_count == 0
    }

    fn claim_this(&mut self, chosen: Option<usize>) {
        let Some(index) = chosen.map(|index| index as u16) else { return };
        if !self.superblocks[usize::from(index)].is_full() {
            self.unlink(index);
        }
        self.claimed = index;
    }

    /// Marks what is taken now as never to be given back, so that no claim waits for it.
    pub fn pin_taken(&mut self) {
        for superblock in &mut self.superblocks {
            superblock.pinned = superblock.taken_count > 0;
        }
    }

    /// Notes that the kernel holds a buffer, perhaps forever; it stays taken until [`Pool::give_parked`].
    pub fn park(&mut self, span: Span) {
        let index = self.superblock_of(span);
        let superblock = &mut self.superblocks[index];
        superblock.parked_count += 1;
        assert!(
            superblock.parked_count <= superblock.taken_count,
            "{span:?} is parked twice, or is not taken"
        );
        self.parked_count += u16::from(superblock.parked_count == 1);
    }

    /// Takes back a parked buffer.
    pub fn give_parked(&mut self, span: Span) {
        let index = self.superblock_of(span);
        let superblock = &mut self.superblocks[index];
        assert!(superblock.parked_count > 0, "{span:?} is not parked");
        superblock.parked_count -= 1;
        self.parked_count -= u16::from(superblock.parked_count == 0);
        self.give(span);
    }

    fn superblock_of(&self, span: Span) -> usize {
        assert_eq!(span.arena, self.extent.arena, "{span:?} is of another arena than this pool");
        (span.offset_bytes.wrapping_sub(self.extent.offset_bytes) >> SUPERBLOCK_SHIFT) as usize
    }

    /// Number of bytes that are not taken. A large buffer may be refused while many small ones are taken,
    /// whatever this sum.
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        self.available_bytes
    }

    /// Number of available bytes that [`Pool::take`] may hand out, without what is kept back.
    #[must_use]
    pub fn takeable_bytes(&self) -> u64 {
        self.available_bytes - (u64::from(self.free_count.min(self.kept_back())) << SUPERBLOCK_SHIFT)
    }

    /// Bytes that [`Pool::take`] may hand out when only superblocks with parked blocks are taken.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        let in_use = self.superblocks.len() as u16 - self.parked_count;
        u64::from(in_use - self.kept_back()) << SUPERBLOCK_SHIFT
    }

    /// The area over which this pool was made.
    #[must_use]
    pub fn extent(&self) -> Span {
        self.extent
    }

    /// Assigns a free superblock to a class and makes it the first of its open list.
    fn open_superblock(&mut self, class_shift: u32) -> Option<()> {
        let index = self.free;
        let superblock = self.superblocks.get_mut(index as usize)?;
        self.free = superblock.next;
        self.free_count -= 1;
        *superblock = Superblock { class_shift, ..Superblock::UNASSIGNED };
        self.link(index);
        Some(())
    }

    /// Takes the class from a superblock that is on no list, and puts the superblock first on the free list.
    fn close_superblock(&mut self, index: u16) {
        self.superblocks[index as usize] = Superblock { next: self.free, ..Superblock::UNASSIGNED };
        self.free = index;
        self.free_count += 1;
    }

    /// Puts a superblock first on the open list of its class.
    fn link(&mut self, index: u16) {
        let class = class_of(self.superblocks[index as usize].class_shift);
        let next = std::mem::replace(&mut self.open[class], index);
        if let Some(next) = self.superblocks.get_mut(next as usize) {
            next.previous = index;
        }
        let superblock = &mut self.superblocks[index as usize];
        (superblock.next, superblock.previous) = (next, NONE);
    }

    /// Takes a superblock from the open list of its class.
    fn unlink(&mut self, index: u16) {
        let Superblock { class_shift, next, previous, .. } = self.superblocks[index as usize];
        if let Some(next) = self.superblocks.get_mut(next as usize) {
            next.previous = previous;
        }
        match self.superblocks.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.open[class_of(class_shift)] = next,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.memory.unclaim(self.extent);
    }
}

#[cfg(test)]
mod tests {
    //! Method: random takes and gives against a model of the spans that are out. Oracle: these never overlap,
    //! are aligned and inside the pool; all else is available; `None` only if no superblock could serve.
    use super::*;

    const MIB: u32 = 1 << 20;

    fn memory(mib: usize) -> Arc<Memory> {
        Memory::new(&[mib << 20]).unwrap()
    }

    /// A xorshift generator, enough for the unit tests of a leaf room.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn block_bytes(span: Span) -> u64 {
        1 << class_shift_of(span.len_bytes)
    }

    /// Whether some superblock could hold one more block of this class, found by looking at all of them.
    fn could_serve(out: &[Span], pool: &Pool, bytes: u32) -> bool {
        let shift = class_shift_of(bytes);
        let base = pool.extent().offset_bytes;
        (0..pool.extent().len_bytes / MIB).any(|index| {
            let mut inside = out.iter().filter(|span| (span.offset_bytes - base) / MIB == index).peekable();
            match inside.peek() {
                None => true,
                Some(first) => {
                    class_shift_of(first.len_bytes) == shift
                        && inside.count() < 1 << (SUPERBLOCK_SHIFT - shift)
                }
            }
        })
    }

    fn check(seed: u64, extent: Span, memory: &Arc<Memory>) {
        let mut pool = Pool::over(memory, extent);
        let total = pool.available_bytes();
        let mut state = seed;
        let mut out: Vec<Span> = Vec::new();
        for step in 0..4000 {
            let fill = if (step / 500) % 2 == 0 { 70 } else { 30 };
            if random(&mut state) % 100 < fill || out.is_empty() {
                let shift = 12 + random(&mut state) as u32 % 9;
                let bytes = (1u32 << shift) - (random(&mut state) as u32 % (1 << (shift - 1)));
                match pool.take(bytes) {
                    Some(span) => {
                        assert_eq!((span.len_bytes, span.offset_bytes % 4096), (bytes, 0), "seed {seed}");
                        let end = u64::from(span.offset_bytes) + block_bytes(span);
                        assert!(span.offset_bytes >= extent.offset_bytes, "seed {seed}");
                        assert!(end <= u64::from(extent.offset_bytes + extent.len_bytes), "seed {seed}");
                        assert!(out.iter().all(|other| !other.overlaps(span)), "seed {seed} step {step}");
                        out.push(span);
                    }
                    None => assert!(!could_serve(&out, &pool, bytes), "seed {seed} step {step} {bytes}"),
                }
            } else {
                let at = random(&mut state) as usize % out.len();
                let span = out.swap_remove(at);
                pool.give(span.part(0, 1 + random(&mut state) as u32 % span.len_bytes));
            }
            let taken: u64 = out.iter().map(|span| block_bytes(*span)).sum();
            assert_eq!(pool.available_bytes(), total - taken, "seed {seed} step {step}");
        }
        out.drain(..).for_each(|span| pool.give(span));
        assert_eq!(pool.available_bytes(), total);
        let whole: Vec<_> = std::iter::from_fn(|| pool.take(MIB)).collect();
        assert_eq!(whole.len() as u64, total >> SUPERBLOCK_SHIFT, "every superblock came back");
    }

    /// All that may be in use is parked forever, repeatedly: as long as a superblock is left, there is
    /// memory.
    #[test]
    fn what_is_parked_can_be_replaced() {
        let memory = memory(8);
        let mut pool = Pool::new(&memory, 0);
        pool.keep_back(KEPT_BACK_OF_REQUESTS);
        let mut parked = Vec::new();
        for expected in [4, 2, 1, 1] {
            assert_eq!(pool.capacity_bytes(), u64::from(MIB) * expected as u64, "parked memory is no room");
            let taken: Vec<_> = std::iter::from_fn(|| pool.take(MIB)).collect();
            assert_eq!(taken.len(), expected);
            taken.iter().for_each(|span| pool.park(*span));
            parked.extend(taken);
        }
        assert!(pool.take_kept_back(MIB).is_none());
        pool.give_parked(parked.pop().expect("eight are"));
        let span = pool.take_kept_back(MIB).expect("one has come back");
        assert!(!parked.iter().any(|other| other.overlaps(span)));
        pool.give(span);
        parked.drain(..).for_each(|span| pool.give_parked(span));
        assert_eq!(std::iter::from_fn(|| pool.take(MIB)).count(), 4);
        assert_eq!(std::iter::from_fn(|| pool.take_kept_back(MIB)).count(), 4);
    }

    #[test]
    fn random_takes_and_gives_agree_with_the_model() {
        let memory = memory(8);
        for seed in 1..=12 {
            check(seed, memory.arena(0), &memory);
            check(seed, memory.arena(0).part(3 << 12, 5 * MIB + 12345), &memory);
        }
    }

    #[test]
    fn exhaustion_is_none_and_ends_with_a_give() {
        let memory = memory(2);
        let mut pool = Pool::new(&memory, 0);
        let all: Vec<_> = std::iter::from_fn(|| pool.take(4096)).collect();
        assert_eq!((all.len(), pool.available_bytes()), (512, 0));
        assert_eq!(pool.take(1), None);
        pool.give(all[77]);
        assert_eq!(pool.take(8192), None);
        assert_eq!(pool.take(4096), Some(all[77]));
    }

    /// Small buffers are out in every superblock, always; only a claim makes room for a large one.
    #[test]
    fn a_claimed_superblock_comes_free_while_others_take_and_give() {
        let memory = memory(4);
        let mut pool = Pool::new(&memory, 0);
        let pinned = pool.take(4096).unwrap();
        pool.pin_taken();
        let mut out: std::collections::VecDeque<Span> = std::iter::from_fn(|| pool.take(64 << 10)).collect();
        let mut state = 5;
        let mut go_round = |pool: &mut Pool, out: &mut std::collections::VecDeque<Span>| {
            let at = random(&mut state) as usize % out.len();
            pool.give(out.swap_remove_back(at).unwrap());
            out.extend(pool.take(64 << 10));
        };
        for _ in 0..2_000 {
            go_round(&mut pool, &mut out);
            assert_eq!(pool.take(256 << 10), None);
        }
        pool.claim();
        let mut turns = 0;
        let large = loop {
            pool.claim();
            match pool.take_claimed(256 << 10) {
                Some(large) => break large,
                None => go_round(&mut pool, &mut out),
            }
            turns += 1;
            assert!(turns < 1_000, "a claim does not come free");
        };
        assert!(out.len() >= 32, "the other superblocks went on serving");
        out.into_iter().chain([large, pinned]).for_each(|span| pool.give(span));
        assert_eq!(std::iter::from_fn(|| pool.take(MIB)).count(), 4, "every superblock came back");
    }

    /// A block in each superblock except the last never comes back, and claims move on.
    #[test]
    fn a_claim_moves_on_until_it_meets_a_superblock_that_comes_free() {
        let memory = memory(4);
        let mut pool = Pool::new(&memory, 0);
        let all: Vec<Span> = std::iter::from_fn(|| pool.take(512 << 10)).collect();
        let (held, given): (Vec<&Span>, Vec<&Span>) = all.iter().partition(|span| {
            let offset = span.offset_bytes - pool.extent().offset_bytes;
            offset.is_multiple_of(MIB) && offset < 3 * MIB
        });
        pool.claim();
        given.into_iter().for_each(|span| pool.give(*span));
        let found = (0..4).find_map(|_| {
            pool.move_claim();
            pool.take_claimed(MIB).or_else(|| pool.take(MIB))
        });
        assert_eq!(found.expect("the last one is free").offset_bytes - pool.extent().offset_bytes, 3 * MIB);
        pool.give_up_claim();
        held.into_iter().for_each(|span| pool.give(*span));
        pool.give(found.unwrap());
        assert_eq!(std::iter::from_fn(|| pool.take(MIB)).count(), 4);
    }

    #[test]
    fn the_warmest_buffer_goes_first() {
        let memory = memory(4);
        let mut pool = Pool::new(&memory, 0);
        let all: Vec<_> = (0..600).map(|_| pool.take(4096).unwrap()).collect();
        for &warm in [&all[3], &all[520], &all[300], &all[4]] {
            pool.give(warm);
            assert_eq!(pool.take(4000).unwrap().offset_bytes, warm.offset_bytes);
        }
    }

    #[test]
    fn pools_of_one_arena_are_apart() {
        let memory = memory(4);
        let mut one = Pool::over(&memory, memory.arena(0).part(0, 2 * MIB));
        let mut two = Pool::over(&memory, memory.arena(0).part(2 * MIB, 2 * MIB));
        let (a, b) = (one.take(MIB).unwrap(), two.take(MIB).unwrap());
        assert!(!a.overlaps(b));
        drop(one);
        let again = Pool::over(&memory, memory.arena(0).part(0, 2 * MIB));
        assert_eq!(again.available_bytes(), 2 * u64::from(MIB));
    }

    #[track_caller]
    fn panics(what: &str, body: impl FnOnce(&mut Pool, Span)) {
        let memory = memory(4);
        let mut pool = Pool::over(&memory, memory.arena(0).part(0, 2 * MIB));
        let span = pool.take(8192).unwrap();
        let _neighbour = pool.take(8192).unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&mut pool, span)));
        let text = *outcome.expect_err(what).downcast::<String>().unwrap();
        assert!(text.contains(what), "{text}");
    }

    #[test]
    fn what_was_not_taken_cannot_be_given() {
        panics("given twice", |pool, span| (pool.give(span), pool.give(span)).0);
        panics("given twice", |pool, span| pool.give(Span { offset_bytes: span.offset_bytes + MIB, ..span }));
        panics("another pool", |pool, span| pool.give(Span { offset_bytes: 3 * MIB, ..span }));
        panics("another arena", |pool, span| pool.give(Span { arena: 1, ..span }));
        panics("not the start", |pool, span| pool.give(span.part(4096, 4096)));
        panics("longer than", |pool, span| pool.give(Span { len_bytes: 8193, ..span }));
    }
}
