//! The memory of a lane's commands in batches: their arguments, and the buffers in which the kernel leaves
//! deliveries.
//!
//! ```text
//!   page 0   [ ring of provided buffers: 4 entries ][ slot 0 ] ... [ slot 3 ]   kernel writes slots
//!   page 1   [ block 0 ][ block 1 ] ...                                         we write blocks
//! ```
//!
//! A *block* is the argument of one command: filled, pushed with the command, and not touched until the
//! command has ended. A *slot* is a provided buffer: a multishot command takes the next slot for each
//! delivery of up to [`SLOT_ITEMS`] numbers of 16 bits. A slot is given back before the next exchange with
//! the kernel, so one exchange delivers at most [`ITEMS_PER_EXCHANGE`] items. When no slot is left, the
//! kernel ends the command with `ENOBUFS`, and undelivered items wait for this ring's next command, or for a
//! command of another ring that waits at the same queue.

#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::lane::BlockIndex;
use super::queue::Queue;
use crate::memory::map::Mapping;

/// Number of provided buffers; a power of two.
const SLOTS: u16 = 4;
/// Number of items in one slot.
const SLOT_ITEMS: usize = 8;
/// Most items per exchange: as many as a reactor begins in one turn (`REQUESTS_PER_TURN`). More items are
/// better left to other reactors that wait for them.
const ITEMS_PER_EXCHANGE: usize = SLOTS as usize * SLOT_ITEMS;
/// The group of provided buffers.
pub(super) const GROUP: u16 = 0;

const ITEM_BYTES: usize = 2;
const SLOT_BYTES: usize = SLOT_ITEMS * ITEM_BYTES;
const SLOTS_AT: usize = SLOTS as usize * size_of::<BufRingEntry>();

const _: () = assert!(SLOTS.is_power_of_two() && ITEMS_PER_EXCHANGE == 32);

/// The memory of a batch lane; see the module documentation.
pub(super) struct BatchMemory {
    mapping: Mapping,
    blocks_at: usize,
    block_bytes: usize,
    /// The name of the command that holds each block, by block.
    holders: RefCell<Box<[Option<u32>]>>,
    /// A bit per slot, set after the kernel has filled it and until it is given back.
    filled: Cell<u16>,
    /// Number of entries ever put into the ring of provided buffers, modulo 2^16.
    provided: Cell<u16>,
}

impl BatchMemory {
    /// Allocates `blocks` blocks, and registers the slots with `queue`.
    pub(super) fn new(queue: &Queue, blocks: usize, block_bytes: usize) -> io::Result<BatchMemory> {
        let blocks_at = rustix::param::page_size();
        assert!(SLOTS_AT + usize::from(SLOTS) * SLOT_BYTES <= blocks_at);
        let mapping = Mapping::anonymous(blocks_at + blocks * block_bytes)?;
        mapping.populate();
        // SAFETY: the mapping begins with a page whose first entries are used for nothing else, and neither
        // are the slots after them. The mapping is dropped with the lane, after the queue (`Uring`).
        unsafe { queue.provide_buffers(mapping.start(), SLOTS, GROUP) }?;
        let memory = BatchMemory {
            mapping,
            blocks_at,
            block_bytes,
            holders: RefCell::new(vec![None; blocks].into()),
            filled: Cell::new((1 << SLOTS) - 1),
            provided: Cell::new(0),
        };
        memory.give_slots_back();
        Ok(memory)
    }

    /// The address of a block.
    pub(super) fn block_address(&self, block: BlockIndex) -> u64 {
        self.block_start(block, 0, self.block_bytes).expose_provenance() as u64
    }

    fn block_start(&self, block: BlockIndex, offset: usize, len: usize) -> *mut u8 {
        assert!(usize::from(block.0) < self.holders.borrow().len());
        assert!(offset + len <= self.block_bytes);
        self.mapping.start().wrapping_add(self.blocks_at + usize::from(block.0) * self.block_bytes + offset)
    }

    /// Writes into a block that no command holds.
    pub(super) fn write(&self, block: BlockIndex, offset: usize, bytes: &[u8]) {
        debug_assert!(!self.is_held(block));
        let start = self.block_start(block, offset, bytes.len());
        // SAFETY: inside the blocks (asserted above), to which no reference is ever made, on the one thread
        // of the ring; the kernel reads a block only while a command holds it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len()) };
    }

    /// Reads from a block.
    pub(super) fn read(&self, block: BlockIndex, offset: usize, into: &mut [u8]) {
        let start = self.block_start(block, offset, into.len());
        // SAFETY: as in `write`; the kernel never writes a block.
        unsafe { std::ptr::copy_nonoverlapping(start, into.as_mut_ptr(), into.len()) };
    }

    /// Gives a block to a command.
    pub(super) fn hold(&self, block: BlockIndex, name: u32) {
        let holder = &mut self.holders.borrow_mut()[usize::from(block.0)];
        assert_eq!(*holder, None, "block {block:?} is in flight already");
        *holder = Some(name);
    }

    /// Frees the block of a command that has ended, if it had one.
    pub(super) fn release(&self, name: u32) {
        self.holders
            .borrow_mut()
            .iter_mut()
            .filter(|holder| **holder == Some(name))
            .for_each(|holder| *holder = None);
    }

    fn is_held(&self, block: BlockIndex) -> bool {
        self.holders.borrow()[usize::from(block.0)].is_some()
    }

    /// Whether any command holds a block.
    pub(super) fn holds_any(&self) -> bool {
        self.holders.borrow().iter().any(Option::is_some)
    }

    /// The items that the kernel has left in a slot.
    pub(super) fn delivered(&self, slot: u16, len_bytes: usize) -> impl Iterator<Item = u16> {
        assert!(slot < SLOTS && len_bytes <= SLOT_BYTES);
        self.filled.set(self.filled.get() | 1 << slot);
        let start = self.slot_start(slot);
        let mut items = [0u16; SLOT_ITEMS];
        // SAFETY: the bytes of a slot, which the kernel wrote before it posted the completion, and does not
        // write again before the slot is given back.
        unsafe { std::ptr::copy_nonoverlapping(start, items.as_mut_ptr().cast(), SLOT_BYTES) };
        items.into_iter().take(len_bytes / ITEM_BYTES)
    }

    fn slot_start(&self, slot: u16) -> *mut u8 {
        self.mapping.start().wrapping_add(SLOTS_AT + usize::from(slot) * SLOT_BYTES)
    }

    /// Gives the slots that were read back to the kernel.
    pub(super) fn give_slots_back(&self) {
        let mut filled = self.filled.replace(0);
        if filled == 0 {
            return;
        }
        let ring = self.mapping.start().cast::<BufRingEntry>();
        let mut provided = self.provided.get();
        while filled != 0 {
            let slot = filled.trailing_zeros() as u16;
            filled &= filled - 1;
            let at = ring.wrapping_add(usize::from(provided % SLOTS));
            // SAFETY: one of the SLOTS entries at the beginning of the mapping, aligned as the page is. The
            // kernel does not look at an entry before the tail has passed it, and there are as many entries
            // as slots.
            let entry = unsafe { &mut *at };
            entry.set_addr(self.slot_start(slot).expose_provenance() as u64);
            entry.set_len(SLOT_BYTES as u32);
            entry.set_bid(slot);
            provided = provided.wrapping_add(1);
        }
        self.provided.set(provided);
        // SAFETY: the tail lies in a field of the ring's first entry that is not part of the entry's own
        // data.
        let tail = unsafe { BufRingEntry::tail(ring) };
        // SAFETY: aligned, in the mapping; written by this thread only, and read by the kernel as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the kernel reads (with acquire) a tail that is past the entries before it reads them.
        tail.store(provided, Ordering::Release);
    }
}
