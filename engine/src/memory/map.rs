//! An anonymous mapping: pages of the huge page pool if it has enough, otherwise ordinary pages with a
//! request for transparent huge pages.
//!
//! Huge pages matter twice: registering 1 GiB with io_uring pins 512 pages instead of 262,144 (and the kernel
//! coalesces them into few bio vectors), and random access misses the TLB less often.

#![expect(unsafe_code, reason = "maps and unmaps memory")]

use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Size of a huge page on x86-64, and on aarch64 with 4 KiB pages. Elsewhere the attempt with huge pages
/// fails, which does no harm.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed, readable and writable memory that stays where it is until it is dropped.
pub(crate) struct Mapping {
    /// The first usable byte.
    start: NonNull<u8>,
    /// The number of usable bytes.
    len: usize,
    /// The address that `mmap` returned; `start` is aligned to a huge page inside it.
    mapped: NonNull<u8>,
    /// The number of bytes requested from `mmap`.
    mapped_len: usize,
}

// SAFETY: a mapping is an address range of the process, not of a thread; unmapping is allowed from any.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives out an address and a length only; the protocol of the module above says which code
// may use the bytes behind them.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes (not zero) of zeros that begin on a huge page boundary. Pages are touched lazily.
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        assert!(len > 0);
        if len >= HUGE_PAGE_BYTES
            && let Ok(mapping) = Mapping::of_huge_pages(len)
        {
            return Ok(mapping);
        }
        Mapping::of_pages(len, MapFlags::empty())
    }

    /// Maps `len` bytes that may never all be touched: storage larger than memory. Nothing is reserved, so
    /// the huge page pool is not used.
    pub(crate) fn sparse(len: usize) -> io::Result<Mapping> {
        assert!(len > 0);
        Mapping::of_pages(len, MapFlags::NORESERVE)
    }

    /// Maps from the huge page pool. The pages are reserved now: a mapping that succeeds never faults later.
    fn of_huge_pages(len: usize) -> io::Result<Mapping> {
        let (mapped, mapped_len) = map(len.next_multiple_of(HUGE_PAGE_BYTES), MapFlags::HUGETLB)?;
        Ok(Mapping { start: mapped, len, mapped, mapped_len })
    }

    /// Maps ordinary memory, aligned so that the kernel can back it with huge pages.
    fn of_pages(len: usize, flags: MapFlags) -> io::Result<Mapping> {
        let slack = if len >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { 0 };
        let (mapped, mapped_len) = map(len + slack, flags)?;
        let skip = if slack == 0 { 0 } else { mapped.as_ptr().addr().wrapping_neg() % HUGE_PAGE_BYTES };
        // SAFETY: `skip` is below HUGE_PAGE_BYTES, and the mapping is that much longer than `len`.
        let start = unsafe { mapped.add(skip) };
        let mapping = Mapping { start, len, mapped, mapped_len };
        if slack != 0 {
            mapping.advise(0, len, Advice::LinuxHugepage);
        }
        Ok(mapping)
    }

    /// The address of the first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The number of usable bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes every page present and writable, from the calling thread's NUMA node if there is room.
    pub(crate) fn populate(&self) {
        self.advise(0, self.len, Advice::LinuxPopulateWrite);
    }

    /// Drops the pages of a range, whose ends are multiples of the page size. The range reads as zeros again.
    pub(crate) fn discard(&self, offset: usize, len: usize) {
        self.advise(offset, len, Advice::LinuxDontNeed);
    }

    /// Gives advice to the kernel, as best effort: an old kernel or full memory leaves things as they are.
    fn advise(&self, offset: usize, len: usize, advice: Advice) {
        assert!(offset <= self.len && len <= self.len - offset);
        let start = self.start().wrapping_add(offset).cast();
        // SAFETY: the range was checked to lie in this mapping. HUGEPAGE and POPULATE_WRITE leave the
        // content as it is; DONTNEED zeroes it, which `discard` promises and its callers hold the
        // right to, as for any write.
        let _best_effort = unsafe { madvise(start, len, advice) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `mmap` returned, unmapped once; slices of it cannot outlive
        // the borrow of the owner, and rings keep the owner alive by an `Arc`.
        let unmapped = unsafe { munmap(self.mapped.as_ptr().cast(), self.mapped_len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Makes an anonymous private mapping of `len` bytes at an address that the kernel chooses.
fn map(len: usize, flags: MapFlags) -> io::Result<(NonNull<u8>, usize)> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: no address is asked for, so no existing mapping is replaced.
    let mapped = unsafe { mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE | flags) }?;
    Ok((NonNull::new(mapped.cast()).expect("mmap does not return null"), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_mappings_begin_on_a_huge_page() {
        let mapping = Mapping::anonymous(HUGE_PAGE_BYTES + 4096).unwrap();
        assert_eq!(mapping.start().addr() % HUGE_PAGE_BYTES, 0);
        assert_eq!(mapping.len(), HUGE_PAGE_BYTES + 4096);
        mapping.populate();
    }

    #[test]
    fn sparse_mappings_may_exceed_memory() {
        let mapping = Mapping::sparse(1 << 42).unwrap();
        mapping.discard(1 << 41, 1 << 20);
    }
}
