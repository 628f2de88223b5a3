//! Finds where the bytes of a device really are, as far as this machine can tell: which range of which file
//! or block device.
//!
//! Two loop devices over one file are the same storage under two names; so are a file and a partition of a
//! loop device over it, and a disk and a loop device over it. An array on such a pair would have fewer
//! members than it believes, and two servers would overwrite each other's data. So members are compared by
//! storage, in every layer (device/layers.rs), and each layer's range is locked while a member is in use.
//! `flock` keeps two servers of a file apart; a lock of the open file description on the range
//! (`F_OFD_SETLK`) also keeps apart servers that reach the range by other names.
//!
//! | how the device reaches the layer | its range | its lock |
//! |---|---|---|
//! | it is the layer, or a loop device over it | exact | writer's; reader's for a read-only array |
//! | it is a partition of the layer | exact | reader's: the kernel keeps others off the disk |
//! | it is a dm or md device made of the layer | inexact: some bytes | reader's: other volumes may be there |
//!
//! (A partition's disk gets no writer's lock: that needs a descriptor for writing, and udev probes a disk
//! again each time such a descriptor is closed.)
//!
//! Two ranges of which neither is exact are not compared: they may be volumes of one disk. `create` reads the
//! superblocks back to find an overlap there, and for layers that cannot be identified (a deleted file, or a
//! file in another mount namespace).

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::is_out_of_reach;
use super::{Access, DeviceError, Identity};

/// A range of a file or a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    identity: Identity,
    /// Path by which the file or block device is opened.
    path: PathBuf,
    start: u64,
    /// End of the range, exclusive; `u64::MAX` for a range without a known end.
    end: u64,
    /// Whether the device has every byte of the range. Otherwise it has some of them, and which is unknown.
    is_exact: bool,
    /// Whether the kernel keeps away other claims on this layer.
    is_claimed: bool,
}

impl Storage {
    /// The whole of a file or a block device.
    pub(super) fn whole(identity: Identity, path: &Path) -> Storage {
        let path = path.to_path_buf();
        Storage { identity, path, start: 0, end: u64::MAX, is_exact: true, is_claimed: false }
    }

    /// Translates the range to the layer below, where this layer begins at `first_byte` and is `len_bytes`
    /// long.
    pub(super) fn placed(&self, identity: Identity, path: &Path, first_byte: u64, len_bytes: u64) -> Storage {
        Storage {
            identity,
            path: path.to_path_buf(),
            start: first_byte.saturating_add(self.start),
            end: first_byte.saturating_add(self.end.min(len_bytes)),
            is_exact: self.is_exact,
            is_claimed: false,
        }
    }

    /// Marks the range as inexact: the device has some of its bytes, and which is unknown.
    pub(super) fn somewhere(self) -> Storage {
        Storage { is_exact: false, ..self }
    }

    /// Marks the layer as claimed: the kernel keeps away other claims on it.
    pub(super) fn claimed(self) -> Storage {
        Storage { is_claimed: true, ..self }
    }

    /// The file or block device that contains the range.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// The path by which the file or block device is opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the two ranges share a byte, as far as is known.
    pub(super) fn meets(&self, other: &Storage) -> bool {
        self.identity == other.identity
            && self.start < other.end
            && other.start < self.end
            && (self.is_exact || other.is_exact)
    }

    /// Opens the layer for locking; `None` if it cannot be opened or the path leads to something else. A
    /// layer that is unreachable only because of this process's sandbox is an error: without its lock another
    /// server could use the same bytes under another name.
    pub(super) fn open(&self, access: Access) -> Result<Option<File>, DeviceError> {
        let access = self.lock_access(access);
        match OpenOptions::new().read(true).write(access == Access::ReadWrite).open(&self.path) {
            Ok(file) => Ok(self.is_named(&file).then_some(file)),
            Err(error) if is_out_of_reach(&self.path, &error) => {
                Err(DeviceError::OutOfReach { path: self.path.clone() })
            }
            Err(_) => Ok(None),
        }
    }

    /// Whether an open file has the identity that the kernel named.
    fn is_named(&self, file: &File) -> bool {
        let Ok(metadata) = file.metadata() else { return false };
        let found = if metadata.file_type().is_block_device() {
            Identity::Block { number: metadata.rdev() }
        } else {
            Identity::File { file_system: metadata.dev(), inode: metadata.ino() }
        };
        found == self.identity
    }

    /// The kind of lock on the range: a writer's lock excludes all others, readers' locks are shared.
    fn lock_access(&self, access: Access) -> Access {
        if self.is_exact && !self.is_claimed { access } else { Access::ReadOnly }
    }

    /// Locks the range until the last descriptor made from `file` is closed; false if another process has
    /// locked it.
    pub(super) fn lock(&self, file: &File, access: Access) -> std::io::Result<bool> {
        let kind = if self.lock_access(access) == Access::ReadWrite { libc::F_WRLCK } else { libc::F_RDLCK };
        let offset = |at: u64| libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX);
        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: offset(self.start),
            // A length of 0 locks to the end of the file, however long it becomes.
            l_len: if self.end == u64::MAX { 0 } else { offset(self.end - self.start) },
            l_pid: 0,
        };
        // SAFETY: the descriptor is open for as long as `file` is borrowed, and F_OFD_SETLK reads one `struct
        // flock`.
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
        let file = |inode| Storage::whole(Identity::File { file_system: 1, inode }, Path::new(""));
        let of = |inode, start, end| Storage { start, end, ..file(inode) };
        let whole = of(7, 0, u64::MAX);
        assert!(whole.meets(&of(7, 4096, 8192)) && of(7, 4096, 8192).meets(&whole));
        assert!(!of(7, 0, 4096).meets(&of(7, 4096, 8192)));
        assert!(!whole.meets(&of(8, 0, u64::MAX)));
        let (some, other) = (of(7, 4096, 8192).somewhere(), of(7, 0, 8192).somewhere());
        assert!(!some.meets(&other) && some.meets(&whole) && !some.meets(&of(7, 0, 4096)));
    }

    #[test]
    fn a_locked_range_is_not_locked_again() {
        let path = std::env::temp_dir().join(format!("striate-storage-{}", std::process::id()));
        std::fs::write(&path, [0; 64]).unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (first, second) = (open(), open());
        let metadata = first.metadata().unwrap();
        let identity = Identity::File { file_system: metadata.dev(), inode: metadata.ino() };
        let whole = Storage::whole(identity, &path);
        let part = whole.placed(identity, &path, 4096, 4096);
        assert!(part.lock(&first, Access::ReadWrite).unwrap());
        assert!(!whole.lock(&second, Access::ReadWrite).unwrap());
        assert!(!whole.lock(&second, Access::ReadOnly).unwrap());
        let other = whole.placed(identity, &path, 8192, 4096);
        assert!(other.lock(&second, Access::ReadWrite).unwrap());
        let volume = || whole.clone().somewhere();
        assert!(!volume().lock(&open(), Access::ReadWrite).unwrap());
        drop(first);
        let (third, fourth) = (open(), open());
        drop(second);
        assert!(volume().lock(&third, Access::ReadWrite).unwrap());
        assert!(volume().lock(&fourth, Access::ReadWrite).unwrap());
        let second = open();
        assert!(!whole.lock(&second, Access::ReadWrite).unwrap());
        drop((third, fourth));
        assert!(whole.lock(&second, Access::ReadWrite).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
