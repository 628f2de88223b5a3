//! Members without a device: RAM (`mem:SIZE`) and null (`null:SIZE`).
//!
//! They show the engine's cost when member I/O is free, and give tests and demonstrations an array without
//! drives. An operation is carried out when it is pushed, and reported by the next turn. Nothing is allocated
//! after construction, and nothing sleeps: there is no `wait_fd`.
//!
//! - A RAM member is one lazily touched mapping, shared by the rings of all reactors. It reads as zeros where
//!   nothing was written. Deallocation gives whole pages back and zeroes the rest, so the range reads as
//!   zeros again. Nothing is durable: a RAM member has neither a volatile cache nor a stable medium.
//! - A null member leaves the buffer of a read unchanged, and discards what is written.
//! - As with the kernel, an absent device gives `EBADF`, and a range that is misaligned or beyond the end
//!   gives `EINVAL`; nothing else can fail.

#![expect(unsafe_code, reason = "copies between arenas and the storage of RAM members")]

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::shared_bytes;
use super::{Completion, DeviceIndex, MemberIo, MemberOp, Ring};
use crate::limits::{BLOCK_BYTES, DEVICES_MAX, IO_IN_FLIGHT_MAX};
use crate::memory::Memory;
use crate::memory::map::Mapping;

/// The logical block of RAM and null members.
pub const INSTANT_BLOCK_BYTES: u64 = super::SECTOR_BYTES as u64;

/// The content of a RAM member.
pub struct MemStorage {
    mapping: Mapping,
}

impl MemStorage {
    /// Makes storage of `bytes` (a multiple of 4 KiB, not zero), all zeros. It may be larger than memory as
    /// long as what is written fits. The kernel may back it with huge pages of 2 MiB.
    pub fn new(bytes: u64) -> io::Result<Arc<MemStorage>> {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES as u64), "{bytes} bytes of RAM member");
        let len = usize::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Arc::new(MemStorage { mapping: Mapping::sparse(len)? }))
    }

    /// Takes the pages from the system now, instead of at the first write of each.
    pub fn populate(&self) {
        self.mapping.populate();
    }

    /// Size of the storage.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// The address of a range, if the range is aligned to the logical block and inside the storage.
    fn range(&self, offset_bytes: u64, len_bytes: u64) -> Option<*mut u8> {
        let aligned = (offset_bytes | len_bytes).is_multiple_of(INSTANT_BLOCK_BYTES);
        let inside = offset_bytes.checked_add(len_bytes)? <= self.size_bytes();
        (aligned && inside).then(|| self.mapping.start().wrapping_add(offset_bytes as usize))
    }

    /// Zeroes a range: whole pages are dropped, and the rest at both ends is overwritten.
    fn deallocate(&self, memory: &Memory, offset_bytes: u64, len_bytes: u64) -> Option<()> {
        self.range(offset_bytes, len_bytes)?;
        let end = offset_bytes + len_bytes;
        let page = BLOCK_BYTES as u64;
        let (first, last) = (offset_bytes.next_multiple_of(page), end - end % page);
        if first < last {
            self.mapping.discard(first as usize, (last - first) as usize);
        }
        self.store_zeros(memory, offset_bytes, end.min(first));
        self.store_zeros(memory, last.max(offset_bytes).max(end.min(first)), end);
        Some(())
    }

    /// Writes zeros from `start` to `end`, which are less than a page apart.
    fn store_zeros(&self, memory: &Memory, start: u64, end: u64) {
        let zeros = memory.zeros((end - start) as u32);
        let target = self.range(start, end - start).expect("inside what the caller checked");
        // SAFETY: `range` checked the target: inside a page-aligned mapping, at a multiple of 512. The zero
        // arena is as long and belongs to another mapping.
        unsafe { shared_bytes::store(memory.ptr(zeros), target, zeros.len_bytes as usize) };
    }
}

/// A device of an [`InstantRing`].
#[derive(Clone)]
pub enum InstantDevice {
    /// A member in RAM.
    Mem(Arc<MemStorage>),
    /// A member that stores nothing.
    Null {
        /// The size that the member pretends to have.
        size_bytes: u64,
    },
}

impl InstantDevice {
    /// Size of the device.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        match self {
            InstantDevice::Mem(storage) => storage.size_bytes(),
            InstantDevice::Null { size_bytes } => *size_bytes,
        }
    }
}

/// The ring of RAM and null members.
pub struct InstantRing {
    memory: Arc<Memory>,
    devices: Box<[Option<InstantDevice>]>,
    /// Operations pushed since the last turn, with their results.
    done: Vec<Completion>,
}

impl InstantRing {
    /// Makes a ring without devices.
    #[must_use]
    pub fn new(memory: Arc<Memory>) -> InstantRing {
        let devices = vec![None; DEVICES_MAX].into_boxed_slice();
        InstantRing { memory, devices, done: Vec::with_capacity(IO_IN_FLIGHT_MAX) }
    }

    /// Puts a device into the table, or removes it with `None`.
    pub fn set_device(&mut self, index: DeviceIndex, device: Option<InstantDevice>) {
        self.devices[index.0 as usize] = device;
    }

    /// Carries out one operation.
    #[inline]
    fn perform(&self, op: &MemberOp) -> Result<(), i32> {
        match &self.devices[op.device.0 as usize] {
            None => Err(libc::EBADF),
            Some(InstantDevice::Null { size_bytes }) => {
                let inside = op.offset_bytes.checked_add(op.len_bytes).is_some_and(|end| end <= *size_bytes);
                if inside { Ok(()) } else { Err(libc::EINVAL) }
            }
            Some(InstantDevice::Mem(storage)) => self.perform_mem(storage, op).ok_or(libc::EINVAL),
        }
    }

    /// Carries out one operation on RAM; `None` if its range is not inside the storage.
    #[inline(never)] // the cost of a call is negligible beside the copy
    fn perform_mem(&self, storage: &MemStorage, op: &MemberOp) -> Option<()> {
        let len = op.span.len_bytes as usize;
        match op.io {
            MemberIo::Read => {
                let from = storage.range(op.offset_bytes, op.len_bytes)?;
                self.memory.assert_writable(op.span);
                let to = self.memory.ptr(op.span);
                // SAFETY: `range` and `ptr` checked `len` bytes on both sides, which are different mappings
                // at multiples of 512; the ring holds the span until the operation completes.
                unsafe { shared_bytes::load(from, to, len) };
            }
            MemberIo::Write(_) => {
                let to = storage.range(op.offset_bytes, op.len_bytes)?;
                let from = self.memory.ptr(op.span);
                // SAFETY: as for a read.
                unsafe { shared_bytes::store(from, to, len) };
            }
            MemberIo::Flush => {}
            MemberIo::Deallocate => storage.deallocate(&self.memory, op.offset_bytes, op.len_bytes)?,
        }
        Some(())
    }
}

impl Ring for InstantRing {
    #[inline(always)] // the caller knows whether the operation reads or writes
    fn push(&mut self, op: MemberOp) {
        assert!(self.done.len() < IO_IN_FLIGHT_MAX, "more than IO_IN_FLIGHT_MAX operations in flight");
        super::assert_well_formed(&op);
        let result = self.perform(&op);
        self.done.push(Completion { tag: op.tag, result });
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.done);
    }

    fn wait_fd(&self) -> Option<RawFd> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Span;

    #[test]
    fn deallocated_ranges_read_as_zeros_and_nothing_else_does() {
        let memory = Memory::new(&[64 << 10]).unwrap();
        let storage = MemStorage::new(32 << 10).unwrap();
        let mut ring = InstantRing::new(Arc::clone(&memory));
        ring.set_device(DeviceIndex(0), Some(InstantDevice::Mem(storage)));
        let span = Span { arena: 0, offset_bytes: 0, len_bytes: 32 << 10 };
        let whole = MemberOp {
            tag: 1,
            device: DeviceIndex(0),
            io: MemberIo::Read,
            offset_bytes: 0,
            len_bytes: 32 << 10,
            span,
        };
        for (offset, len) in
            [(0, 32 << 10), (4096, 4096), (512, 512), (512, 3584), (512, 4096), (3584, 8192), (3584, 9216)]
        {
            memory.with_mut(span, |bytes| bytes.fill(0xa5));
            ring.push(MemberOp { io: MemberIo::Write(super::super::Durability::Cached), ..whole });
            ring.push(MemberOp {
                io: MemberIo::Deallocate,
                offset_bytes: offset as u64,
                len_bytes: len as u64,
                span: Span::EMPTY,
                ..whole
            });
            ring.push(whole);
            memory.with(span, |bytes| {
                for (at, byte) in bytes.iter().enumerate() {
                    let inside = (offset..offset + len).contains(&at);
                    assert_eq!(*byte, if inside { 0 } else { 0xa5 }, "{offset}+{len} at {at}");
                }
            });
            let mut completions = Vec::new();
            ring.turn(&mut completions);
            assert_eq!(completions.len(), 3);
            assert!(completions.iter().all(|completion| completion.result.is_ok()));
        }
    }
}
