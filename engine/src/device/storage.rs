//! Where the bytes of a device really are, as far as this machine can tell: which range of which file or block device.
//!
//! Two loop devices over one file, a partition of a loop device and the file, or a loop device over a disk and the disk are one
//! storage under two names. An array of them would have fewer members than it thinks, and two servers of them would overwrite
//! each other. So members are compared by storage, in every layer (device/layers.rs), and each layer's range is locked for as
//! long as a member is in use. `flock` keeps two servers of a file apart; a lock of the open file description on the range
//! (`F_OFD_SETLK`) keeps those apart that reach it by other names too.
//!
//! | the layer is reached by | its range | its lock |
//! |---|---|---|
//! | being the device itself, or a loop device over it | exact | of a writer, or of a reader for a read-only array |
//! | a partition on it | exact | of a reader: the kernel keeps away others who claim the disk |
//! | a device-mapper or md device made of it | some bytes, not known which | of a reader: there may be other volumes on it |
//!
//! (A writer's lock needs a descriptor for writing, and udev probes a disk anew when one of those is closed: not worth it for
//! each partition.)
//!
//! Two ranges of which neither is exact are not compared: volumes of one disk. `create` reads the superblocks back for those, and
//! for what cannot be learned (a file that is deleted, or in another mount namespace).

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
    /// The path by which it is opened.
    path: PathBuf,
    start: u64,
    /// Past the last byte; `u64::MAX` for all there is.
    end: u64,
    /// Whether the device has every byte of the range. If not, it has some, and which ones is not known.
    is_exact: bool,
    /// Whether the kernel keeps away others who claim this layer.
    is_claimed: bool,
}

impl Storage {
    /// All of a file or a block device.
    pub(super) fn whole(identity: Identity, path: &Path) -> Storage {
        let path = path.to_path_buf();
        Storage { identity, path, start: 0, end: u64::MAX, is_exact: true, is_claimed: false }
    }

    /// The same bytes one layer down, where this layer is `len_bytes` from `first_byte` on.
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

    /// Some bytes of it, and which ones is not known.
    pub(super) fn somewhere(self) -> Storage {
        Storage { is_exact: false, ..self }
    }

    /// The kernel keeps away others who claim it.
    pub(super) fn claimed(self) -> Storage {
        Storage { is_claimed: true, ..self }
    }

    /// The file or block device that the range is in.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// The path by which it is opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether some byte is in both, as far as is known.
    pub(super) fn meets(&self, other: &Storage) -> bool {
        self.identity == other.identity
            && self.start < other.end
            && other.start < self.end
            && (self.is_exact || other.is_exact)
    }

    /// Opens it to be locked, if it is what the kernel names and can be opened. A layer that only the sandbox of this process keeps out
    /// of reach is an error: without its lock another server could have the same bytes under another name.
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

    /// Whether an open file is the one that the kernel names.
    fn is_named(&self, file: &File) -> bool {
        let Ok(metadata) = file.metadata() else { return false };
        let found = if metadata.file_type().is_block_device() {
            Identity::Block { number: metadata.rdev() }
        } else {
            Identity::File { file_system: metadata.dev(), inode: metadata.ino() }
        };
        found == self.identity
    }

    /// The kind of lock on the range: a writer's lock excludes all others, readers share.
    fn lock_access(&self, access: Access) -> Access {
        if self.is_exact && !self.is_claimed { access } else { Access::ReadOnly }
    }

    /// Locks the range until the last descriptor made from `file` is closed; false where another has it.
    pub(super) fn lock(&self, file: &File, access: Access) -> std::io::Result<bool> {
        let kind = if self.lock_access(access) == Access::ReadWrite { libc::F_WRLCK } else { libc::F_RDLCK };
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
