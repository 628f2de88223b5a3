//! Ownership of stripes: one byte per slot in a fixed table, free or a reactor's number.
//!
//! A stripe belongs to one reactor from the read of its old data to its last write. The first reactor to
//! compare-and-swap the byte owns the stripe. Any other reactor learns the owner's number and posts its
//! request there. No call waits.
//!
//! The table is fixed, so two stripes can share a slot: there are 65,536 slots for a few thousand stripes in
//! flight. Such stripes have one owner, which is harmless:
//! - an owner may hold both (it asks for the slot, and keeps its own account of the stripes that need it);
//! - another reactor is told an owner, which serves it as for any stripe;
//! - the sweep skips a stripe that is not busy itself, until the next pass.
//!
//! No reactor waits for a slot while it holds another, so there is no cycle to deadlock in.
//!
//! ```text
//!   stripe * 0x9E37_79B9_7F4A_7C15 (2^64 / golden ratio), top 16 bits = slot
//! ```
//! Multiplying by the golden ratio puts neighbours about 0.618 of the table apart, and stripes less than 400
//! apart never share a cache line (three-distance theorem; a test tries them). So reactors that write side by
//! side do not share a line.
//!
//! # Orderings
//! - `release` stores with Release, and [`StripeLocks::try_own`] swaps with (at least) Acquire: the next
//!   owner sees everything that the previous owner did, including its cells.
//! - [`StripeLocks::try_own`] and [`StripeLocks::is_free`] are `SeqCst` for the sweep: see "The race" in
//!   `sweep`.

use crate::sync::{AtomicU8, Ordering, total_order};

/// Number of slots of a table, one byte each. Example: 8 reactors with 256 stripe operations each hold 2048
/// slots, so a new operation meets a foreign slot in 3 of 100 cases, and only then crosses cores without
/// need.
#[cfg(not(loom))]
pub const LOCK_SLOTS: usize = 1 << SLOT_BITS;
/// Number of slots of a table in a loom model.
#[cfg(loom)]
pub const LOCK_SLOTS: usize = 1 << SLOT_BITS;

#[cfg(not(loom))]
const SLOT_BITS: u32 = 16;
#[cfg(loom)]
const SLOT_BITS: u32 = 2;

/// 2^64 divided by the golden ratio, odd (Knuth, The Art of Computer Programming, volume 3, section 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

const FREE: u8 = 0;

/// The table of owners of one array.
pub struct StripeLocks {
    /// Written by the reactor that takes or releases the slot; read by reactors that want it, and by the
    /// sweep.
    owners: Box<[AtomicU8]>,
}

impl StripeLocks {
    /// Creates a table with every slot free.
    #[must_use]
    pub fn new() -> StripeLocks {
        StripeLocks { owners: (0..LOCK_SLOTS).map(|_| AtomicU8::new(FREE)).collect() }
    }

    /// The slot of a stripe, below [`LOCK_SLOTS`].
    #[inline]
    #[must_use]
    pub const fn slot_of(stripe: u64) -> u32 {
        (stripe.wrapping_mul(GOLDEN) >> (u64::BITS - SLOT_BITS)) as u32
    }

    /// Takes a slot for `reactor` (0..=253), or returns the reactor that has it. That may be the same
    /// reactor, which knows for which of its stripes it holds the slot.
    #[inline]
    pub fn try_own(&self, slot: u32, reactor: u8) -> Result<(), u8> {
        let me = mark_of(reactor);
        // SeqCst: comes before `begin_write` reads the cell; see `sweep`. Its Acquire half pairs with
        // `release`.
        match self.owners[slot as usize].compare_exchange(FREE, me, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => {
                total_order();
                Ok(())
            }
            Err(owner) => Err(owner - 1),
        }
    }

    /// Releases a slot. Panics if `reactor` does not own it.
    #[inline]
    pub fn release(&self, slot: u32, reactor: u8) {
        let owner = &self.owners[slot as usize];
        // Relaxed: only the owner changes an owned slot, so it reads its own store.
        assert_eq!(
            owner.load(Ordering::Relaxed),
            mark_of(reactor),
            "a reactor released a slot it does not own"
        );
        // Release: pairs with the Acquire of the next `try_own`, and with the sweep's `is_free`, which then
        // knows that this owner's writes were over.
        owner.store(FREE, Ordering::Release);
    }

    /// Whether no reactor owns the stripe, or another stripe that shares its slot.
    #[inline]
    #[must_use]
    pub fn is_free(&self, stripe: u64) -> bool {
        self.owners[Self::slot_of(stripe) as usize].load(Ordering::SeqCst) == FREE
    }
}

impl Default for StripeLocks {
    fn default() -> StripeLocks {
        StripeLocks::new()
    }
}

/// The byte that stands for a reactor: its number plus one, since 0 means free.
#[inline]
fn mark_of(reactor: u8) -> u8 {
    assert!(reactor < u8::MAX - 1, "reactors are numbered 0..=253");
    reactor + 1
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_owner_until_it_lets_go() {
        let locks = StripeLocks::new();
        let slot = StripeLocks::slot_of(7);
        assert!(locks.is_free(7));
        assert_eq!(locks.try_own(slot, 0), Ok(()));
        assert!(!locks.is_free(7));
        assert_eq!(locks.try_own(slot, 253), Err(0));
        assert_eq!(locks.try_own(slot, 0), Err(0), "also when it is me");
        locks.release(slot, 0);
        assert_eq!(locks.try_own(slot, 253), Ok(()));
        assert_eq!(locks.try_own(slot, 1), Err(253));
    }

    #[test]
    #[should_panic(expected = "does not own")]
    fn only_the_owner_releases() {
        let locks = StripeLocks::new();
        locks.try_own(3, 1).unwrap();
        locks.release(3, 2);
    }

    #[test]
    fn neighbours_are_on_different_lines() {
        for stripe in (0..10_000).chain([1 << 40, u64::MAX - 400]) {
            let slot = StripeLocks::slot_of(stripe);
            assert!((slot as usize) < LOCK_SLOTS);
            for apart in 1..=400u64 {
                let other = StripeLocks::slot_of(stripe.wrapping_add(apart));
                assert_ne!(slot / 64, other / 64, "{stripe} and {apart} further");
            }
        }
    }

    #[test]
    fn stripes_spread_evenly() {
        let mut counts = vec![0u32; LOCK_SLOTS];
        (0..1 << 20).for_each(|stripe| counts[StripeLocks::slot_of(stripe) as usize] += 1);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least >= 12 && *most <= 20, "16 on average, {least}..{most}");
    }
}
