//! What keeps a path from being a member, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Why a device could not be opened, created, read or written.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Nothing is there.
    #[error("{path}: no such device or file; check the path", path = path.display())]
    Missing {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// The caller may not.
    #[error("{path}: permission denied; run as root, or as a user in the group of the device", path = path.display())]
    Forbidden {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// The user may, and the sandbox of this process does not let it.
    #[error("{path}: out of reach of this server, whose sandbox has only the places that it knew when it started: serve with `--allow-path` and the directory of that file, or put it beneath /dev or in the directory of a member", path = path.display())]
    OutOfReach {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// It, or the file system that it is on, is read-only.
    #[error("{path}: is read-only; make it writable (blockdev --setrw, or remount), or open it read-only", path = path.display())]
    ReadOnly {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// A directory.
    #[error("{path}: is a directory; name a block device or a file in it", path = path.display())]
    Directory {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// A character device, a pipe, a socket.
    #[error("{path}: is neither a block device nor a regular file; for NVMe name the namespace, as in /dev/nvme0n1", path = path.display())]
    NotADevice {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// A block device that something else has claimed.
    #[error("{path}: is in use ({by}); {advice}", path = path.display(), advice = by.advice())]
    Held {
        /// The path of the device or file.
        path: PathBuf,
        /// Who has it, as far as can be told.
        by: Holder,
    },
    /// A file that a server has locked.
    #[error("{path}: is in use ({by}); {advice}", path = path.display(), advice = by.advice())]
    Locked {
        /// The path of the device or file.
        path: PathBuf,
        /// The process that has it, as far as can be told.
        by: Holder,
    },
    /// A file that a server answers for.
    #[error("{path}: is a file on {file_system}, whose server may leave a request without an answer for ever, and with it every member of the array; put it on a local file system, or attach it (losetup --find --show --direct-io=on {path}) and name the loop device", path = path.display())]
    Remote {
        /// The path of the device or file.
        path: PathBuf,
        /// The kind of file system.
        file_system: &'static str,
    },
    /// Too small to hold a single block.
    #[error("{path}: holds {size_bytes} bytes, which is not even one block; is a medium present, does the file have its size?", path = path.display())]
    Empty {
        /// The path of the device or file.
        path: PathBuf,
        /// What it holds.
        size_bytes: u64,
    },
    /// A file to be created is there already.
    #[error("{path}: exists already; remove it, or name it without a size to use it as it is", path = path.display())]
    Exists {
        /// The path of the device or file.
        path: PathBuf,
    },
    /// A file to be created does not fit.
    #[error("{path}: a file of {size_bytes} bytes does not fit its file system; choose a smaller size or another place ({source})", path = path.display())]
    NoSpace {
        /// The path of the device or file.
        path: PathBuf,
        /// What was asked for.
        size_bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// A transfer failed.
    #[error("{path}: cannot {verb} {len_bytes} bytes at byte {offset_bytes}: {source}; see the kernel log for the device", path = path.display())]
    Transfer {
        /// The path of the device or file.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// First byte.
        offset_bytes: u64,
        /// Length.
        len_bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("{path}: cannot {verb}: {source}", path = path.display())]
    Io {
        /// The path of the device or file.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Who has claimed a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A file system that is mounted.
    Mount {
        /// The mount point.
        mount_point: String,
    },
    /// It is swapped to.
    Swap,
    /// Other block devices are made of it.
    Devices {
        /// Their names, as in `md0`.
        names: Vec<String>,
    },
    /// This very process: a member that has failed stays open until the server ends.
    ThisServer,
    /// A process that has it open.
    Process {
        /// The number of the process.
        pid: u32,
        /// The name of the process, as the kernel has it.
        name: String,
    },
    /// It cannot be told: another server, another program.
    Unknown,
}

impl Holder {
    /// Words for what to do.
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
    /// An error of `open` or `stat`.
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

    /// An error of creating a file.
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

/// Whether an `open` failed by Landlock, as far as can be told: by its permissions the user may read and write the file, which access(2)
/// tells (fs/open.c, do_faccessat). Landlock has no hook there.
pub(super) fn is_out_of_reach(path: &Path, source: &io::Error) -> bool {
    source.raw_os_error() == Some(libc::EACCES)
        && accessat(CWD, path, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}
