//! The memory of a lane's commands in batches: what they point at, and where the kernel leaves what it delivers.
//!
//! ```text
//!   page 0   [ ring of provided buffers: 4 entries ][ slot 0 ][ slot 1 ][ slot 2 ][ slot 3 ]     the kernel writes slots
//!   page 1   [ block 0 ][ block 1 ] ...                                                          we write blocks
//! ```
//!
//! A *block* is the argument of one command: filled, pushed with it, and not touched until that command has ended. A *slot*
//! is a provided buffer: a multishot command takes the next for each delivery, up to [`SLOT_ITEMS`] numbers of 16 bits. A
//! slot is given back before the next exchange with the kernel, so one exchange delivers [`ITEMS_PER_EXCHANGE`] items at
//! most. When there is no slot left the kernel ends the command with `ENOBUFS`, and what is not delivered waits: for
//! this ring's next command, or for that of another ring that waits for the same.

#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::lane::BlockIndex;
use super::queue::Queue;
use crate::memory::map::Mapping;

/// Provided buffers; a power of two.
const SLOTS: u16 = 4;
/// Items of one.
const SLOT_ITEMS: usize = 8;
/// What a reactor begins in one turn (`REQUESTS_PER_TURN`): more is better left to others that wait for it.
const ITEMS_PER_EXCHANGE: usize = SLOTS as usize * SLOT_ITEMS;
/// The group of provided buffers.
pub(super) const GROUP: u16 = 0;

const ITEM_BYTES: usize = 2;
const SLOT_BYTES: usize = SLOT_ITEMS * ITEM_BYTES;
const SLOTS_AT: usize = SLOTS as usize * size_of::<BufRingEntry>();

const _: () = assert!(SLOTS.is_power_of_two() && ITEMS_PER_EXCHANGE == 32);

/// See the module.
pub(super) struct BatchMemory {
    mapping: Mapping,
    blocks_at: usize,
    block_bytes: usize,
    /// The name of the command that has a block.
    holders: RefCell<Box<[Option<u32>]>>,
    /// Bit per slot: the kernel has filled it, and it was not given back.
    filled: Cell<u16>,
    /// Entries ever put into the ring of provided buffers.
    provided: Cell<u16>,
}

impl BatchMemory {
    /// Memory for `blocks` blocks, its slots registered with `queue`.
    pub(super) fn new(queue: &Queue, blocks: usize, block_bytes: usize) -> io::Result<BatchMemory> {
        let blocks_at = rustix::param::page_size();
        assert!(SLOTS_AT + usize::from(SLOTS) * SLOT_BYTES <= blocks_at);
        let mapping = Mapping::anonymous(blocks_at + blocks * block_bytes)?;
        mapping.populate();
        // SAFETY: the mapping begins with a page of which the first entries are for nothing else, and the slots behind
        // them neither; it is dropped with the lane, after the queue (`Uring`).
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

    /// Writes into a block that no command has.
    pub(super) fn write(&self, block: BlockIndex, offset: usize, bytes: &[u8]) {
        debug_assert!(!self.is_held(block));
        let start = self.block_start(block, offset, bytes.len());
        // SAFETY: inside the blocks (asserted above), of which no reference is ever made, on the one thread of the ring;
        // the kernel reads it only while a command has it.
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

    /// A command has ended: its block, if it had one, is free.
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

    /// Whether any command has a block.
    pub(super) fn holds_any(&self) -> bool {
        self.holders.borrow().iter().any(Option::is_some)
    }

    /// The items that the kernel has left in a slot.
    pub(super) fn delivered(&self, slot: u16, len_bytes: usize) -> impl Iterator<Item = u16> {
        assert!(slot < SLOTS && len_bytes <= SLOT_BYTES);
        self.filled.set(self.filled.get() | 1 << slot);
        let start = self.slot_start(slot);
        let mut items = [0u16; SLOT_ITEMS];
        // SAFETY: a slot's bytes, which the kernel wrote before it posted the completion and does not write again before
        // the slot is given back.
        unsafe { std::ptr::copy_nonoverlapping(start, items.as_mut_ptr().cast(), SLOT_BYTES) };
        items.into_iter().take(len_bytes / ITEM_BYTES)
    }

    fn slot_start(&self, slot: u16) -> *mut u8 {
        self.mapping.start().wrapping_add(SLOTS_AT + usize::from(slot) * SLOT_BYTES)
    }

    /// Gives slots that were read back to the kernel.
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
            // SAFETY: one of the SLOTS entries at the beginning of the mapping, aligned as the page is. The kernel does not
            // look at an entry before the tail has passed it, and there are as many entries as slots.
            let entry = unsafe { &mut *at };
            entry.set_addr(self.slot_start(slot).expose_provenance() as u64);
            entry.set_len(SLOT_BYTES as u32);
            entry.set_bid(slot);
            provided = provided.wrapping_add(1);
        }
        self.provided.set(provided);
        // SAFETY: the tail is a part of the ring's first entry that is no entry's own.
        let tail = unsafe { BufRingEntry::tail(ring) };
        // SAFETY: aligned, in the mapping; written by this thread only, and read by the kernel as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the kernel reads the entries after it has read (with acquire) a tail that is past them.
        tail.store(provided, Ordering::Release);
    }
}
