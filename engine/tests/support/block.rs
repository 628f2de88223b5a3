//! A host of a block device: it acts like a program that has `/dev/...` open with direct I/O, which bypasses
//! the page cache.

#![expect(unsafe_code, reason = "discarding a block device is an ioctl that nothing wraps")]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{ReadWriteFlags, pwritev2};

/// BLKDISCARD from linux/fs.h: `_IO(0x12, 119)`, of an offset and a length.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// Alignment of memory that satisfies direct I/O on any device.
const ALIGNMENT: usize = 4096;

/// A block device that a host has opened.
pub struct BlockDevice {
    file: File,
}

impl BlockDevice {
    pub fn open(path: &str) -> io::Result<BlockDevice> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        Ok(BlockDevice { file })
    }

    pub fn read(&self, offset_bytes: u64, len_bytes: usize) -> io::Result<Vec<u8>> {
        let mut room = Aligned::new(len_bytes);
        self.file.read_exact_at(room.bytes(), offset_bytes)?;
        Ok(room.bytes().to_vec())
    }

    /// Writes; with `fua`, with RWF_DSYNC, which direct I/O turns into FUA.
    pub fn write(&self, offset_bytes: u64, data: &[u8], fua: bool) -> io::Result<()> {
        let mut room = Aligned::new(data.len());
        room.bytes().copy_from_slice(data);
        let flags = if fua { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let written = pwritev2(&self.file, &[IoSlice::new(room.bytes())], offset_bytes, flags)?;
        assert_eq!(written, data.len(), "a block device takes all or nothing");
        Ok(())
    }

    pub fn discard(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let range = [offset_bytes, len_bytes];
        // SAFETY: the kernel reads two numbers, which live until the call returns.
        let outcome = unsafe { libc::ioctl(self.file.as_fd().as_raw_fd(), BLKDISCARD, range.as_ptr()) };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Writes zeroes as a write-zeroes request; this call has no fallback to plain writes.
    pub fn write_zeroes(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, punch, offset_bytes, len_bytes)?)
    }

    /// Writes zeroes as a write-zeroes request that must not deallocate, with plain writes as the fallback.
    pub fn write_zeroes_kept(&self, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, zero, offset_bytes, len_bytes)?)
    }

    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Bytes at an address that direct I/O accepts.
struct Aligned {
    room: Vec<u8>,
    start: usize,
    len_bytes: usize,
}

impl Aligned {
    fn new(len_bytes: usize) -> Aligned {
        let room = vec![0; len_bytes + ALIGNMENT];
        let start = room.as_ptr().align_offset(ALIGNMENT);
        Aligned { room, start, len_bytes }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.len_bytes]
    }
}
