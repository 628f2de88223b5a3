//! An opened member: its kind and properties, the guarantee of exclusive use, and blocking I/O for control
//! steps.
//!
//! The data path does not go through this file: a ring gets a [`UringDevice`] from [`Device::for_ring`] and
//! does its own reads and writes. Everything here may block: probing, superblocks, zeroing at creation.
//!
//! Exclusive use, as far as the kernel can enforce it:
//! - A block device is opened with `O_EXCL`. That fails while the device, a partition of it, or the disk it
//!   is a partition of is mounted, used as swap, or claimed by md, dm or another `O_EXCL`.
//! - A file is locked with `flock`, which keeps two servers apart but no other program.
//!
//! The guarantee lasts until the last descriptor made from this one is closed, including a ring's.
//!
//! A ring reaches the member by one of three ways ([`Route`]): a file, a block device, or, if one is found
//! fit, an NVMe namespace's character device beside its block device (device/nvme.rs). Control steps use the
//! file or the block device, with O_DIRECT wherever possible, so that both ways see the same content.

#![expect(unsafe_code, reason = "one ioctl that rustix does not wrap")]

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};

use crate::limits::BLOCK_BYTES;
use crate::ring::nvme::Namespace;
use crate::ring::{Deallocate, UringDevice};
use bounce::Bounce;
pub use error::{DeviceError, Holder};
pub use facts::{Facts, Zeroing};
use storage::Storage;

mod bounce;
mod error;
mod facts;
mod file_system;
mod holder;
mod identify;
mod layers;
mod nvme;
#[cfg(test)]
pub(crate) mod silent;
mod storage;

/// How long, and how often, opening a taken device is tried again; see [`patiently`].
const TAKEN_TIME_MAX: Duration = Duration::from_secs(2);
const TAKEN_PAUSE: Duration = Duration::from_millis(10);

/// Purpose for which a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Opened only to look at.
    ReadOnly,
    /// Opened to be served.
    ReadWrite,
}

/// Whether other programs may have the device open too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// No other user: required before anything is written.
    Exclusive,
    /// Any other users: for examining a device that may be in use.
    Shared,
}

/// How a device is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// Whether the device is written.
    pub access: Access,
    /// Whether others may use the device at the same time.
    pub sharing: Sharing,
}

impl OpenMode {
    /// Mode of a member in service: read and written by one server.
    pub const SERVE: OpenMode = OpenMode { access: Access::ReadWrite, sharing: Sharing::Exclusive };
    /// Mode for looking at a device that may be in use.
    pub const EXAMINE: OpenMode = OpenMode { access: Access::ReadOnly, sharing: Sharing::Shared };
}

/// Kinds of devices that can be members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A disk, a partition, a loop device.
    Block,
    /// A regular file.
    File,
}

/// Tells devices apart: two paths of equal identity are one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// Identity of a block device.
    Block {
        /// Device number (`st_rdev`).
        number: u64,
    },
    /// Identity of a file.
    File {
        /// Device number of the file system (`st_dev`).
        file_system: u64,
        /// Inode number in that file system.
        inode: u64,
    },
}

/// How a ring reaches a device, and why this way.
#[derive(Debug)]
pub enum Route {
    /// File I/O.
    File,
    /// Block device I/O.
    Block {
        /// Why NVMe passthrough is not used.
        reason: String,
    },
    /// NVMe passthrough: the drive's own commands.
    Passthrough {
        /// The drive's character device.
        namespace: Namespace,
        /// Path of the character device.
        path: String,
    },
}

/// An open device.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    file: File,
    mode: OpenMode,
    kind: DeviceKind,
    identity: Identity,
    facts: Facts,
    /// Serial number, read once: for some disks (virtio-blk) the kernel asks the device at each read, without
    /// a timeout.
    serial: Option<String>,
    route: Route,
    /// Storage that holds the device's bytes: the device itself, then each known layer below it.
    storage: Vec<Storage>,
    /// The layers below the device, kept open because they are locked.
    _below: Vec<File>,
}

/// Bytes zeroed in one step of [`Device::zero_range`], between two reports of progress.
const ZERO_STEP_BYTES: u64 = 1 << 30;

/// Most bytes moved by one system call of [`Device::read_at`] and [`Device::write_at`].
const COPY_STEP_BYTES: usize = 1 << 20;

impl Device {
    /// Opens a block device or a regular file, claims it as `mode` says, and learns its properties.
    pub fn open(path: impl AsRef<Path>, mode: OpenMode) -> Result<Device, DeviceError> {
        let path = path.as_ref();
        let metadata = std::fs::metadata(path).map_err(|error| DeviceError::from_open(path, error))?;
        let file_type = metadata.file_type();
        let (kind, identity) = if file_type.is_block_device() {
            (DeviceKind::Block, Identity::Block { number: metadata.rdev() })
        } else if file_type.is_file() {
            (DeviceKind::File, Identity::File { file_system: metadata.dev(), inode: metadata.ino() })
        } else if file_type.is_dir() {
            return Err(DeviceError::Directory { path: path.into() });
        } else {
            return Err(DeviceError::NotADevice { path: path.into() });
        };
        let (mut file, direct) = match kind {
            DeviceKind::Block => (open_block(path, mode, metadata.rdev())?, true),
            DeviceKind::File => open_file(path, mode)?,
        };
        leave_access_time(&file);
        let storage = match identity {
            Identity::File { .. } => vec![Storage::whole(identity, path)],
            Identity::Block { number } => layers::of_block(&file, number, path),
        };
        let below = match mode.sharing {
            Sharing::Exclusive => lock_storage(path, &file, &storage, mode.access)?,
            Sharing::Shared => Vec::new(),
        };
        // The size is where a seek to the end arrives: the metadata of a block device has no size.
        let size = file.seek(SeekFrom::End(0)).map_err(|source| io_error(path, "size", source))?;
        let mut facts = facts::of(&file, &metadata, kind, size, direct, mode.access);
        if facts.size_bytes < BLOCK_BYTES as u64 {
            return Err(DeviceError::Empty { path: path.into(), size_bytes: size });
        }
        let route = match identity {
            Identity::File { .. } => Route::File,
            Identity::Block { number } => block_route(&file, number, size, mode, &mut facts),
        };
        let serial = match identity {
            Identity::File { .. } => None,
            Identity::Block { number } => facts::serial(&holder::sysfs(number)),
        };
        let path = path.into();
        Ok(Device { path, file, mode, kind, identity, facts, serial, route, storage, _below: below })
    }

    /// The path by which the device was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is a block device or a file.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// The identity, different from that of every other device.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the two devices have some byte in common, as far as can be told.
    #[must_use]
    pub fn shares_storage_with(&self, other: &Device) -> bool {
        self.storage.iter().any(|one| other.storage.iter().any(|two| one.meets(two)))
    }

    /// The paths by which the device's bytes are opened, one for each known layer; the device's own path
    /// first.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        self.storage.iter().map(Storage::path)
    }

    /// Returns a call that says whether the device has a volatile cache now; `None` if it had one when it was
    /// opened or cannot get one. A drive's cache can be switched on at any time, and the kernel shows that
    /// only in the `write_cache` attribute of the drive's queue. Reading the attribute waits while the queue
    /// is being reconfigured.
    #[must_use]
    pub fn look_at_cache(&self) -> Option<impl Fn() -> bool + Send + use<>> {
        match self.identity {
            Identity::Block { number } if !self.facts.volatile_cache => {
                Some(move || facts::has_volatile_cache(&holder::sysfs(number)))
            }
            Identity::Block { .. } | Identity::File { .. } => None,
        }
    }

    /// The serial number of a disk, if the kernel knew one when the device was opened.
    #[must_use]
    pub fn serial(&self) -> Option<&str> {
        self.serial.as_deref()
    }

    /// Name of the device in messages: the path, and the serial number if known.
    #[must_use]
    pub fn name(&self) -> String {
        let serial = self.serial().map_or(String::new(), |serial| format!(" (serial {serial})"));
        format!("{}{serial}", self.path.display())
    }

    /// Sizes and properties at the time of opening.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How a ring reaches the device.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Whether a ring needs wide entries for this device (see
    /// [`UringConfig::passthrough`](crate::ring::UringConfig::passthrough)).
    #[must_use]
    pub fn wants_passthrough(&self) -> bool {
        matches!(self.route, Route::Passthrough { .. })
    }

    /// Fills `into` with the bytes from `offset_bytes` on; any offset, any length. Blocks.
    pub fn read_at(&self, offset_bytes: u64, into: &mut [u8]) -> Result<(), DeviceError> {
        let len = into.len();
        let fail = |source| self.transfer_error("read", offset_bytes, len, source);
        let block = self.facts.logical_block_bytes as usize;
        let mut bounce = Bounce::new((COPY_STEP_BYTES + 2 * block).min(into.len() + 2 * block));
        let mut done = 0;
        while done < into.len() {
            // Direct I/O needs whole blocks: read those that hold the next step.
            let at = offset_bytes + done as u64;
            let skip = (at % block as u64) as usize;
            let step = (into.len() - done).min(COPY_STEP_BYTES);
            let blocks = bounce.bytes((skip + step).next_multiple_of(block));
            self.file.read_exact_at(blocks, at - skip as u64).map_err(fail)?;
            into[done..done + step].copy_from_slice(&blocks[skip..skip + step]);
            done += step;
        }
        Ok(())
    }

    /// Stores `from` at `offset_bytes`; both offset and length are multiples of the logical block. Blocks.
    /// The data is durable after [`Device::flush`]; until then it may be in a volatile cache.
    pub fn write_at(&self, offset_bytes: u64, from: &[u8]) -> Result<(), DeviceError> {
        let fail = |source| self.transfer_error("write", offset_bytes, from.len(), source);
        let block = u64::from(self.facts.logical_block_bytes);
        assert!((offset_bytes | from.len() as u64).is_multiple_of(block), "a write of whole blocks");
        let mut bounce = Bounce::new(COPY_STEP_BYTES.min(from.len()));
        let mut at = offset_bytes;
        for step in from.chunks(COPY_STEP_BYTES) {
            let blocks = bounce.bytes(step.len());
            blocks.copy_from_slice(step);
            self.file.write_all_at(blocks, at).map_err(fail)?;
            at += step.len() as u64;
        }
        Ok(())
    }

    /// Makes all completed writes durable.
    pub fn flush(&self) -> Result<(), DeviceError> {
        self.file.sync_data().map_err(|source| io_error(&self.path, "flush", source))
    }

    /// Makes a range (whole 4 KiB blocks) read as zeros, as fast as the device can, and reports the bytes
    /// done after each step of at most 1 GiB. Durable after [`Device::flush`].
    pub fn zero_range(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        mut progress: impl FnMut(u64),
    ) -> Result<(), DeviceError> {
        assert!((offset_bytes | len_bytes).is_multiple_of(BLOCK_BYTES as u64), "whole blocks");
        let mut done = 0;
        while done < len_bytes {
            let step = (len_bytes - done).min(ZERO_STEP_BYTES);
            self.zero_step(offset_bytes + done, step)
                .map_err(|source| self.transfer_error("zero", offset_bytes + done, step as usize, source))?;
            done += step;
            progress(done);
        }
        Ok(())
    }

    /// Duplicates the descriptor; the duplicate shares the lock.
    pub fn try_clone_file(&self) -> Result<File, DeviceError> {
        self.file.try_clone().map_err(|source| io_error(&self.path, "duplicate", source))
    }

    /// The device as each of `rings` rings gets it.
    pub fn for_ring(&self, rings: usize) -> Result<UringDevice, DeviceError> {
        let deallocate = match (self.mode.access, self.kind) {
            (Access::ReadOnly, _) => Deallocate::Ignore,
            (Access::ReadWrite, DeviceKind::File) => Deallocate::PunchHole,
            (Access::ReadWrite, DeviceKind::Block) if self.facts.discards => Deallocate::Discard,
            (Access::ReadWrite, DeviceKind::Block) => Deallocate::Ignore,
        };
        Ok(UringDevice {
            file: self.file_for_ring()?,
            namespace: self.try_clone_namespace()?,
            deallocate,
            polled: self.facts.polled,
            depth_max: self.facts.depth_of_each(rings),
            transfer_bytes_max: self.facts.transfer_bytes_max,
        })
    }

    /// A descriptor for a ring: a duplicate for direct I/O, an own open file description for a buffered file.
    /// The kernel reports an error of write-back once to each open file description (errseq_t), so with a
    /// shared one the flush of one reactor would take the error away from the flush of another.
    fn file_for_ring(&self) -> Result<File, DeviceError> {
        if self.facts.direct {
            return self.try_clone_file();
        }
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        options(self.mode.access)
            .open(path)
            .map_err(|source| io_error(&self.path, "open a second time", source))
    }

    fn try_clone_namespace(&self) -> Result<Option<Namespace>, DeviceError> {
        let Route::Passthrough { namespace, .. } = &self.route else { return Ok(None) };
        let file = namespace.file.try_clone();
        let file = file.map_err(|source| io_error(&self.path, "duplicate", source))?;
        Ok(Some(Namespace { file, ..*namespace }))
    }

    fn zero_step(&self, offset: u64, len: u64) -> io::Result<()> {
        // On a block device this zeroes by deallocating if possible: NVMe Write Zeroes with DEAC, if the
        // drive promises that deallocated blocks read as zeros. BLKZEROOUT forbids deallocation, and a drive
        // then writes every zero.
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match (rustix::fs::fallocate(&self.file, mode, offset, len), self.kind) {
            (Err(rustix::io::Errno::OPNOTSUPP), DeviceKind::Block) => blkzeroout(&self.file, offset, len),
            (Err(rustix::io::Errno::OPNOTSUPP), DeviceKind::File) => self.write_zeros(offset, len),
            (outcome, _) => Ok(outcome?),
        }
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut bounce = Bounce::new(COPY_STEP_BYTES);
        let mut done = 0;
        while done < len {
            let step = (len - done).min(COPY_STEP_BYTES as u64);
            self.file.write_all_at(bounce.bytes(step as usize), offset + done)?;
            done += step;
        }
        Ok(())
    }

    fn transfer_error(&self, verb: &'static str, offset: u64, len: usize, source: io::Error) -> DeviceError {
        DeviceError::Transfer {
            path: self.path.clone(),
            verb,
            offset_bytes: offset,
            len_bytes: len as u64,
            source,
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let (Route::Passthrough { .. }, Access::ReadWrite) = (&self.route, self.mode.access) {
            // Drop the kernel's cached pages: another process that has the block device open would keep
            // reading the old content. Best effort: an error means that the drive is gone or has no such
            // reader, and the kernel drops the pages with the last descriptor anyway.
            let _forgotten = nvme::forget_pages(&self.file);
        }
    }
}

/// Creates a sparse file of `size_bytes` for use as a member. The path must not exist.
pub fn create_file(path: impl AsRef<Path>, size_bytes: u64) -> Result<(), DeviceError> {
    let path = path.as_ref();
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = created.map_err(|error| DeviceError::from_create(path, size_bytes, error))?;
    file.set_len(size_bytes).map_err(|error| {
        // Best effort: a leftover empty file would make the next attempt fail.
        let _removed = std::fs::remove_file(path);
        DeviceError::from_create(path, size_bytes, error)
    })
}

fn options(access: Access) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::ReadWrite);
    options
}

fn open_block(path: &Path, mode: OpenMode, number: u64) -> Result<File, DeviceError> {
    let exclusive = if mode.sharing == Sharing::Exclusive { libc::O_EXCL } else { 0 };
    let opened = patiently(|| {
        options(mode.access).custom_flags(libc::O_DIRECT | exclusive).open(path).map_err(|error| match error
            .raw_os_error()
        {
            Some(libc::EBUSY) => DeviceError::Held { path: path.into(), by: Holder::Unknown },
            _ => DeviceError::from_open(path, error),
        })
    });
    // Look for the holder only once, after the last attempt.
    opened.map_err(|error| match error {
        DeviceError::Held { path, .. } => DeviceError::Held { path, by: holder::of(number) },
        other => other,
    })
}

/// Tells the kernel not to update the access time on reads: the check costs 180 of the 4,300 instructions of
/// a RAM disk read by io_uring, and nothing uses the time. Only the owner and root may set the flag; without
/// it reads are only slower.
fn leave_access_time(file: &File) {
    let _left_or_not = rustix::fs::fcntl_getfl(file)
        .and_then(|flags| rustix::fs::fcntl_setfl(file, flags | OFlags::NOATIME));
}

/// Locks the range of each layer, so that no other server uses the same bytes under another name, and returns
/// the files that were opened for the locks. A layer that cannot be opened stays unlocked, and so does a file
/// on a file system without locks.
fn lock_storage(
    path: &Path,
    device: &File,
    storage: &[Storage],
    access: Access,
) -> Result<Vec<File>, DeviceError> {
    let lock = |layer: &Storage, file: &File| {
        patiently(|| match layer.lock(file, access) {
            Ok(true) | Err(_) => Ok(()),
            Ok(false) => Err(DeviceError::Locked { path: path.into(), by: Holder::Unknown }),
        })
        .map_err(|error| with_lock_owner(error, file))
    };
    let (own, below) = storage.split_first().expect("a device is its own first layer");
    lock(own, device)?;
    let mut files = Vec::new();
    for layer in below {
        if let Some(file) = layer.open(access)? {
            lock(layer, &file)?;
            files.push(file);
        }
    }
    Ok(files)
}

/// Chooses passthrough if possible, and then replaces `facts` by those of the drive.
fn block_route(file: &File, number: u64, size: u64, mode: OpenMode, facts: &mut Facts) -> Route {
    if mode.sharing == Sharing::Shared {
        return Route::Block { reason: "only looked at".into() };
    }
    let found = nvme::find(file, number, size, mode.access).and_then(|found| {
        // Dirty pages of another program are not on the drive yet: drop the cache even if we only read.
        nvme::forget_pages(file).map_err(|error| format!("cached pages cannot be dropped: {error}"))?;
        Ok(found)
    });
    match found {
        Ok(nvme::Found { namespace, identified, path }) => {
            facts.refine(&identified, &holder::sysfs(number));
            Route::Passthrough { namespace, path }
        }
        Err(reason) => Route::Block { reason },
    }
}

/// Retries for a while if a device is taken. After a process that had it in an io_uring has ended or was
/// killed, `waitpid` can return before the kernel has released the ring's files: a kernel thread does that
/// later (io_uring/io_uring.c, `io_ring_exit_work`). Without the retries `create` directly followed by
/// `serve` failed.
#[expect(clippy::disallowed_methods, reason = "a control step may wait; nothing but the lock tells its end")]
fn patiently<T>(mut open: impl FnMut() -> Result<T, DeviceError>) -> Result<T, DeviceError> {
    let mut tries_left = TAKEN_TIME_MAX.as_millis() / TAKEN_PAUSE.as_millis();
    loop {
        match open() {
            Err(DeviceError::Locked { .. } | DeviceError::Held { .. }) if tries_left > 0 => tries_left -= 1,
            outcome => return outcome,
        }
        std::thread::sleep(TAKEN_PAUSE);
    }
}

/// Opens a file; the bool says whether the file supports O_DIRECT.
fn open_file(path: &Path, mode: OpenMode) -> Result<(File, bool), DeviceError> {
    let opened = match options(mode.access).custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            options(mode.access).open(path).map(|file| (file, false))
        }
        opened => opened.map(|file| (file, true)),
    };
    let (file, direct) = opened.map_err(|error| DeviceError::from_open(path, error))?;
    file_system::refuse_remote(path, &file, mode.sharing)?;
    if mode.sharing == Sharing::Exclusive {
        patiently(|| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
                rustix::io::Errno::WOULDBLOCK => {
                    DeviceError::Locked { path: path.into(), by: Holder::Unknown }
                }
                errno => io_error(path, "lock", errno.into()),
            })
        })
        .map_err(|error| with_lock_owner(error, &file))?;
    }
    Ok((file, direct))
}

/// Adds to a lock error the process that holds the lock, looked for once, after the last attempt.
fn with_lock_owner(error: DeviceError, file: &File) -> DeviceError {
    match error {
        DeviceError::Locked { path, .. } => DeviceError::Locked { path, by: holder::of_lock(file) },
        other => other,
    }
}

/// `BLKZEROOUT` of linux/fs.h: zeroes a range by the device's own command if there is one, otherwise by
/// writing.
fn blkzeroout(file: &File, offset: u64, len: u64) -> io::Result<()> {
    const BLKZEROOUT: libc::Ioctl = (0x12 << 8) | 127;
    let range: [u64; 2] = [offset, len];
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and BLKZEROOUT reads two u64, which
    // `range` holds.
    let outcome = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), BLKZEROOUT, range.as_ptr()) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn io_error(path: &Path, verb: &'static str, source: io::Error) -> DeviceError {
    DeviceError::Io { path: path.into(), verb, source }
}

#[cfg(test)]
mod tests;
