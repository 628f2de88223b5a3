//! Where the bytes of a device really are, as far as this machine can tell: a loop device's are in a file.
//!
//! Two loop devices over one file, or a loop device and its file, are one storage under two names. An array of them would
//! have fewer members than it thinks, and two servers of them would overwrite each other. So members are compared by
//! storage, and a file's range is locked for as long as a member is in use: `flock` keeps two servers of the file apart, a
//! lock of the open file description on the range (`F_OFD_SETLK`) those of its loop devices too.
//!
//! What cannot be learned (a file that is deleted, or in another mount namespace) is not compared. `create` reads the
//! superblocks back for what is left, such as two device-mapper targets over one disk.

use std::fs::{File, Metadata, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Access;

/// `LOOP_GET_STATUS64` of linux/loop.h, and the head of its answer, `struct loop_info64`.
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;

#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    /// `lo_number` and what follows: 232 bytes in all.
    rest: [u64; 24],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);

/// A range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    file_system: u64,
    inode: u64,
    start: u64,
    /// Past the last byte; `u64::MAX` for all there is.
    end: u64,
}

impl Storage {
    /// All of a regular file.
    pub(super) fn of_file(metadata: &Metadata) -> Storage {
        Storage { file_system: metadata.dev(), inode: metadata.ino(), start: 0, end: u64::MAX }
    }

    /// The range below a loop device, and the path of its file; `None` for other devices.
    pub(super) fn of_loop(device: &File, sysfs: &Path) -> Option<(Storage, PathBuf)> {
        let path = std::fs::read_to_string(sysfs.join("loop/backing_file")).ok()?;
        let mut info = LoopInfo { device: 0, inode: 0, rdevice: 0, offset: 0, size_limit: 0, rest: [0; 24] };
        // SAFETY: the descriptor is open for as long as `device` is borrowed, and the ioctl writes one `struct loop_info64`, which
        // `LoopInfo` has the length of, into memory that nobody else uses until it returns.
        let outcome = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
        let end = match info.size_limit {
            0 => u64::MAX,
            limit => info.offset.saturating_add(limit),
        };
        let storage = Storage { file_system: info.device, inode: info.inode, start: info.offset, end };
        (outcome == 0).then(|| (storage, PathBuf::from(path.trim_end_matches('\n'))))
    }

    /// Whether some byte is in both.
    #[must_use]
    pub fn meets(&self, other: &Storage) -> bool {
        (self.file_system, self.inode) == (other.file_system, other.inode)
            && self.start < other.end
            && other.start < self.end
    }

    /// Opens the file below a loop device, if it is the one that the kernel names.
    pub(super) fn open(&self, path: &Path, access: Access) -> Option<File> {
        let file = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        ((metadata.dev(), metadata.ino()) == (self.file_system, self.inode)).then_some(file)
    }

    /// Locks the range until the last descriptor made from `file` is closed; false where another has it. Readers share.
    pub(super) fn lock(&self, file: &File, access: Access) -> std::io::Result<bool> {
        let kind = if access == Access::ReadWrite { libc::F_WRLCK } else { libc::F_RDLCK };
        let offset = |at: u64| libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX);
        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: offset(self.start),
            // To the end of all there can be.
            l_len: if self.end == u64::MAX { 0 } else { offset(self.end - self.start) },
            l_pid: 0,
        };
        // SAFETY: the descriptor is open for as long as `file` is borrowed, and F_OFD_SETLK reads one `struct flock`.
        let outcome = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        match outcome {
            0 => Ok(true),
            _ => match std::io::Error::last_os_error() {
                error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
                error => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet_where_they_share_a_byte() {
        let of = |inode, start, end| Storage { file_system: 1, inode, start, end };
        let whole = of(7, 0, u64::MAX);
        assert!(whole.meets(&of(7, 4096, 8192)) && of(7, 4096, 8192).meets(&whole));
        assert!(!of(7, 0, 4096).meets(&of(7, 4096, 8192)));
        assert!(!whole.meets(&of(8, 0, u64::MAX)));
    }

    #[test]
    fn a_locked_range_is_not_locked_again() {
        let path = std::env::temp_dir().join(format!("striate-storage-{}", std::process::id()));
        std::fs::write(&path, [0; 64]).unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (first, second) = (open(), open());
        let metadata = first.metadata().unwrap();
        let whole = Storage::of_file(&metadata);
        let part = Storage { start: 4096, end: 8192, ..whole };
        assert!(part.lock(&first, Access::ReadWrite).unwrap());
        assert!(!whole.lock(&second, Access::ReadWrite).unwrap());
        assert!(!whole.lock(&second, Access::ReadOnly).unwrap());
        let other = Storage { start: 8192, end: 12288, ..whole };
        assert!(other.lock(&second, Access::ReadWrite).unwrap());
        drop(first);
        assert!(whole.lock(&second, Access::ReadWrite).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
