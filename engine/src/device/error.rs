//! Why a path cannot be a member; each error says what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Why a device could not be opened, created, read or written.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No device or file exists at the path.
    #[error("{path}: no such device or file; check the path", path = path.display())]
    Missing {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// The caller has no permission to open the device or file.
    #[error("{path}: permission denied; run as root, or as a user in the group of the device", path = path.display())]
    Forbidden {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// The user has permission, but the sandbox of this process does not allow access.
    #[error("{path}: out of reach of this server, whose sandbox has only the places that it knew when it started: serve with `--allow-path` and the directory of that file, or put it beneath /dev or in the directory of a member", path = path.display())]
    OutOfReach {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// The device or file, or the file system that it is on, is read-only.
    #[error("{path}: is read-only; make it writable (blockdev --setrw, or remount), or open it read-only", path = path.display())]
    ReadOnly {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// The path is a directory.
    #[error("{path}: is a directory; name a block device or a file in it", path = path.display())]
    Directory {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// The path is a character device, a pipe or a socket.
    #[error("{path}: is neither a block device nor a regular file; for NVMe name the namespace, as in /dev/nvme0n1", path = path.display())]
    NotADevice {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// A block device is claimed by another program or device.
    #[error("{path}: is in use ({by}); {advice}", path = path.display(), advice = by.advice())]
    Held {
        /// The path of the device or file.
        path: PathBuf,
        /// The holder, as far as can be told.
        by: Holder,
    },
    /// A file is locked by another server.
    #[error("{path}: is in use ({by}); {advice}", path = path.display(), advice = by.advice())]
    Locked {
        /// The path of the device or file.
        path: PathBuf,
        /// The process that holds the lock, as far as can be told.
        by: Holder,
    },
    /// A file is on a file system whose I/O depends on a server.
    #[error("{path}: is a file on {file_system}, whose server may leave a request without an answer for ever, and with it every member of the array; put it on a local file system, or attach it (losetup --find --show --direct-io=on {path}) and name the loop device", path = path.display())]
    Remote {
        /// The path of the device or file.
        path: PathBuf,
        /// The kind of file system.
        file_system: &'static str,
    },
    /// The device or file is too small for a single block.
    #[error("{path}: holds {size_bytes} bytes, which is not even one block; is a medium present, does the file have its size?", path = path.display())]
    Empty {
        /// The path of the device or file.
        path: PathBuf,
        /// Size of the device or file.
        size_bytes: u64,
    },
    /// A file to be created exists already.
    #[error("{path}: exists already; remove it, or name it without a size to use it as it is", path = path.display())]
    Exists {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// A file to be created does not fit its file system.
    #[error("{path}: a file of {size_bytes} bytes does not fit its file system; choose a smaller size or another place ({source})", path = path.display())]
    NoSpace {
        /// The path of the device or file.
        path: PathBuf,
        /// Size that was asked for.
        size_bytes: u64,
        /// Error that the kernel returned.
        source: io::Error,
    },
    /// A read, write or zeroing failed.
    #[error("{path}: cannot {verb} {len_bytes} bytes at byte {offset_bytes}: {source}; see the kernel log for the device", path = path.display())]
    Transfer {
        /// The path of the device or file.
        path: PathBuf,
        /// Verb for what was tried.
        verb: &'static str,
        /// Offset of the first byte.
        offset_bytes: u64,
        /// Length of the transfer.
        len_bytes: u64,
        /// Error that the kernel returned.
        source: io::Error,
    },
    /// Any other error.
    #[error("{path}: cannot {verb}: {source}", path = path.display())]
    Io {
        /// The path of the device or file.
        path: PathBuf,
        /// Verb for what was tried.
        verb: &'static str,
        /// Error that the kernel returned.
        source: io::Error,
    },
}

/// Holder of a claimed block device or a locked file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A mounted file system.
    Mount {
        /// The mount point.
        mount_point: String,
    },
    /// Swap space.
    Swap,
    /// Block devices that are made of this device.
    Devices {
        /// Names of these devices, such as `md0`.
        names: Vec<String>,
    },
    /// Our own process: a member that has failed stays open until the server ends.
    ThisServer,
    /// A process that has the device open.
    Process {
        /// Process id.
        pid: u32,
        /// Name of the process in the kernel.
        name: String,
    },
    /// Unknown holder: another server or another program.
    Unknown,
}

impl Holder {
    /// Advice on how to free the device.
    fn advice(&self) -> &'static str {
        match self {
            Holder::ThisServer => {
                "choose another device; one that has failed is free once the array is stopped"
            }
            Holder::Mount { .. } | Holder::Swap | Holder::Devices { .. } => {
                "release it first, or choose another device"
            }
            Holder::Process { .. } | Holder::Unknown => "stop that program first, or choose another device",
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Holder::Mount { mount_point } => write!(f, "mounted at {mount_point}"),
            Holder::Swap => write!(f, "used as swap"),
            Holder::Devices { names } => write!(f, "part of {}", names.join(", ")),
            Holder::ThisServer => {
                write!(f, "by this server: it is a member, or was one until it failed")
            }
            Holder::Process { pid, name } => write!(f, "by process {pid}, {name}"),
            Holder::Unknown => write!(f, "by another program, perhaps another server of the same array"),
        }
    }
}

impl DeviceError {
    /// The error for a failed `open` or `stat`.
    pub(super) fn from_open(path: &Path, source: io::Error) -> DeviceError {
        let path = path.to_path_buf();
        if is_out_of_reach(&path, &source) {
            return DeviceError::OutOfReach { path };
        }
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENXIO | libc::ENODEV) => DeviceError::Missing { path },
            Some(libc::EACCES | libc::EPERM) => DeviceError::Forbidden { path },
            Some(libc::EROFS | libc::ETXTBSY) => DeviceError::ReadOnly { path },
            _ => DeviceError::Io { path, verb: "open", source },
        }
    }

    /// The error for a failed creation of a file.
    pub(super) fn from_create(path: &Path, size_bytes: u64, source: io::Error) -> DeviceError {
        let path = path.to_path_buf();
        match source.raw_os_error() {
            Some(libc::EEXIST) => DeviceError::Exists { path },
            Some(libc::ENOSPC | libc::EFBIG | libc::EDQUOT) => {
                DeviceError::NoSpace { path, size_bytes, source }
            }
            _ => DeviceError::from_open(&path, source),
        }
    }
}

/// Whether Landlock made an `open` fail, as far as can be told: access(2) says that the file's permissions
/// allow the user to read and write (fs/open.c, do_faccessat), and Landlock has no hook there.
pub(super) fn is_out_of_reach(path: &Path, source: &io::Error) -> bool {
    source.raw_os_error() == Some(libc::EACCES)
        && accessat(CWD, path, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}
