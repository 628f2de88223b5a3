//! Locks the memory of a server with a block device. Such a server must never wait for a page of its program,
//! a stack or a table: the page may be on a swap device or a file system on that very block device, and then
//! the server waits for itself for ever.
//!
//! All memory that is present is locked, and memory that is touched later is locked page by page: most of
//! what is reserved is never used. The whole program is read into memory first, since code for an emergency
//! may never have run before.

#![expect(unsafe_code, reason = "the kernel is told ranges of addresses")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, MlockAllFlags, ProtFlags, madvise, mlock, mlockall, mmap, munmap};

use super::ServerError;

/// Locks the memory of the process, now and in future.
pub(super) fn lock_memory() -> Result<(), ServerError> {
    bring_program_in();
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(flags).map_err(|error| {
        ServerError(format!(
            "cannot lock the server's memory: {error}: a block device is not served from memory that may be swapped out, perhaps to \
             itself: allow it (root with CAP_IPC_LOCK, or LimitMEMLOCK=infinity in the unit), or give the reactors less (--memory)"
        ))
    })
}

/// Pages of a file that stay in memory as long as this value lives.
pub(super) struct KeptInMemory {
    first: NonNull<c_void>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and nothing reads or writes this one.
unsafe impl Send for KeptInMemory {}

/// Keeps the first `len` bytes of a file in memory, so that no reader waits for a device.
pub(super) fn keep_in_memory(file: &File, len: usize) -> io::Result<KeptInMemory> {
    // SAFETY: no address is asked for, so no existing mapping is replaced.
    let first = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
    let kept = KeptInMemory { first: NonNull::new(first).expect("mmap does not return null"), len };
    // SAFETY: the range that was just mapped; it is only locked.
    unsafe { mlock(first, len) }?;
    Ok(kept)
}

impl Drop for KeptInMemory {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `mmap` returned, unmapped once; no reference into it exists.
        let unmapped = unsafe { munmap(self.first.as_ptr(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Reads the pages of the program and its libraries into memory, as far as the kernel supports it (Linux 5.14
/// or newer).
fn bring_program_in() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (first, len) in maps.lines().filter_map(program_range) {
        let first = std::ptr::with_exposed_provenance_mut(first);
        // SAFETY: reading pages in changes no memory, whatever is mapped there by now.
        let _as_far_as_it_goes = unsafe { madvise(first, len, Advice::LinuxPopulateRead) };
    }
}

/// First address and length of a readable mapping of a file, from its line in /proc/self/maps.
fn program_range(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (range, rights, path) = (words.next()?, words.next()?, words.nth(3)?);
    let (first, end) = range.split_once('-')?;
    let (first, end) = (usize::from_str_radix(first, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    // Skip device memory and rings, which also appear as files.
    let is_program = rights.starts_with('r') && path.starts_with('/') && !path.starts_with("/dev/");
    is_program.then_some((first, end - first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_brought_in() {
        for (line, range) in [
            ("55d000-55e000 r-xp 00001000 08:01 42 /usr/bin/striate", Some((0x55d000, 0x1000))),
            ("55d000-55e000 ---p 00001000 08:01 42 /usr/lib/libc.so.6", None),
            ("7f0000-7f1000 rw-s 00000000 00:0e 1024 /dev/ublkc0", None),
            ("7f0000-7f1000 rw-p 00000000 00:00 0", None),
            ("7f0000-7f1000 rw-p 00000000 00:00 0 [stack]", None),
            ("7f0000-7f1000 rw-s 00000000 00:0e 1 anon_inode:[io_uring]", None),
            ("", None),
        ] {
            assert_eq!(program_range(line), range, "{line}");
        }
        bring_program_in();
    }
}
