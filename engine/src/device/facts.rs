//! Properties of a device, learned without writing to it: from statx, ioctl, sysfs, and from an NVMe drive
//! itself.
//!
//! Where the kernel does not report a property, the safe answer is assumed: a volatile cache, slow zeroing.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{AtFlags, FallocateFlags, StatxFlags};

use super::identify::Identified;
use super::{Access, DeviceKind, holder};
use crate::limits::BLOCK_BYTES;
use crate::ring::SECTOR_BYTES;

/// Longest transfer to any device: the kernel gives transfers of 1 MiB to its worker threads, and above 512
/// KiB large I/O gets no faster.
const TRANSFER_BYTES_MAX: u32 = 512 << 10;

/// Deepest queue on any device: more than this of an NVMe queue's 1023 tags is rarely useful.
const DEPTH_MAX: u32 = 1024;

/// Queue depth of a kernel layer that has no tags of its own and shares those of the devices below it.
const DEPTH_SHARED: u32 = 256;

/// Queue depth of a file, which shares its device with the rest of the file system. If the file system does
/// not answer, each operation holds a kernel thread (ring/uring/workers.rs).
const DEPTH_FILE: u32 = 64;

/// Depth that every ring may use at a device, whatever other rings use.
const DEPTH_SHALLOW: u32 = 32;

/// Whether zeroing a whole device takes only moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    /// A command or a hole zeroes the range.
    Fast,
    /// Zeros have to be written.
    Slow,
}

/// Sizes and properties of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Usable size, in whole blocks of 4 KiB.
    pub size_bytes: u64,
    /// Full size, in whole logical blocks; other programs put metadata at the very end.
    pub end_bytes: u64,
    /// Unit of offsets and lengths.
    pub logical_block_bytes: u32,
    /// Unit that the device writes without reading first.
    pub physical_block_bytes: u32,
    /// Whether a power cut before a flush may lose a completed write.
    pub volatile_cache: bool,
    /// Whether I/O bypasses the page cache. If not, the kernel's worker threads do the I/O, slowly.
    pub direct: bool,
    /// Whether the device is a rotating disk.
    pub rotational: bool,
    /// NUMA node that the device is attached to, if known.
    pub numa_node: Option<u32>,
    /// How fast the device zeroes.
    pub zeroing: Zeroing,
    /// Whether the device has a discard command, or the file can have holes.
    pub discards: bool,
    /// Whether the device's driver has poll queues.
    pub polled: bool,
    /// Useful number of simultaneous operations in one hardware queue.
    pub depth_max: u32,
    /// Number of hardware queues; 0 if the kernel does not report it.
    pub queues: u32,
    /// Longest transfer that the kernel does not split.
    pub transfer_bytes_max: u32,
    /// Longest write that a power cut leaves either wholly written or not at all, if the device reports it.
    pub atomic_bytes: Option<u64>,
}

impl Facts {
    /// Operations that each of `rings` rings may have in the kernel. Rings that share a hardware queue share
    /// its depth: each operation beyond it holds a kernel thread. A ring's share is at least
    /// [`DEPTH_SHALLOW`], since it may be the only busy ring.
    pub(super) fn depth_of_each(&self, rings: usize) -> u32 {
        if self.queues == 0 {
            return self.depth_max;
        }
        let all = u64::from(self.depth_max) * u64::from(self.queues);
        let least = self.depth_max.min(DEPTH_SHALLOW);
        (all / rings as u64).clamp(least.into(), self.depth_max.into()) as u32
    }

    /// Adds what the drive itself reports. `sysfs` is the directory of its disk.
    pub(super) fn refine(&mut self, identified: &Identified, sysfs: &Path) {
        // The kernel's setting stands if it says "no cache" (an operator may know of capacitors); a drive
        // without a cache is never given one.
        self.volatile_cache &= identified.volatile_cache;
        self.discards = identified.deallocates;
        if !identified.zeroes_by_deallocating {
            self.zeroing = Zeroing::Slow;
        }
        self.atomic_bytes = Some(identified.atomic_bytes);
        let queue = |name: &str| read::<u64>(&sysfs.join("queue").join(name)).unwrap_or(0);
        self.transfer_bytes_max = command_bytes_max(
            self.transfer_bytes_max,
            queue("max_hw_sectors_kb") << 10,
            queue("max_segments"),
            identified.transfer_bytes_max,
        );
    }
}

pub(super) fn of(
    file: &File,
    metadata: &Metadata,
    kind: DeviceKind,
    size: u64,
    direct: bool,
    access: Access,
) -> Facts {
    match kind {
        DeviceKind::Block => of_block(file, &holder::sysfs(metadata.rdev()), size),
        DeviceKind::File => of_file(file, metadata, size, direct, access),
    }
}

/// Rounds a size down to whole units.
const fn whole(size: u64, unit: u64) -> u64 {
    size - size % unit
}

fn of_block(file: &File, sysfs: &Path, size: u64) -> Facts {
    let disk = disk_of(sysfs);
    let queue = |name: &str| read::<u64>(&disk.join("queue").join(name)).unwrap_or(0);
    let logical_block_bytes = rustix::fs::ioctl_blksszget(file).unwrap_or(BLOCK_BYTES as u32);
    let transfer_bytes = (queue("max_sectors_kb") << 10).clamp(BLOCK_BYTES as u64, TRANSFER_BYTES_MAX.into());
    Facts {
        size_bytes: whole(size, BLOCK_BYTES as u64),
        end_bytes: whole(size, logical_block_bytes.into()),
        logical_block_bytes,
        physical_block_bytes: rustix::fs::ioctl_blkpbszget(file).unwrap_or(logical_block_bytes),
        volatile_cache: has_volatile_cache(sysfs),
        direct: true,
        rotational: queue("rotational") == 1,
        numa_node: numa_node(&disk),
        zeroing: if queue("write_zeroes_max_bytes") > 0 { Zeroing::Fast } else { Zeroing::Slow },
        discards: queue("discard_max_bytes") > 0,
        polled: queue("io_poll") == 1 && !is_device_mapper(&disk),
        depth_max: depth_max(read(&disk.join("queue/nr_requests"))),
        queues: std::fs::read_dir(disk.join("mq")).map_or(0, |queues| queues.count() as u32),
        transfer_bytes_max: transfer_bytes as u32 / BLOCK_BYTES as u32 * BLOCK_BYTES as u32,
        atomic_bytes: None,
    }
}

fn of_file(file: &File, metadata: &Metadata, size: u64, direct: bool, access: Access) -> Facts {
    let disk = disk_of(&holder::sysfs(metadata.dev()));
    let punches = access == Access::ReadWrite && punches_holes(file, metadata.size());
    let logical_block_bytes = if direct { direct_alignment(file) } else { SECTOR_BYTES };
    Facts {
        size_bytes: whole(size, BLOCK_BYTES as u64),
        end_bytes: whole(size, logical_block_bytes.into()),
        logical_block_bytes,
        physical_block_bytes: (metadata.blksize() as u32).clamp(logical_block_bytes, BLOCK_BYTES as u32),
        volatile_cache: true,
        direct,
        rotational: read::<u32>(&disk.join("queue/rotational")) == Some(1),
        numa_node: numa_node(&disk),
        zeroing: if punches { Zeroing::Fast } else { Zeroing::Slow },
        discards: punches,
        polled: false,
        depth_max: DEPTH_FILE,
        queues: 0,
        transfer_bytes_max: TRANSFER_BYTES_MAX,
        atomic_bytes: None,
    }
}

/// Most useful operations at a device with this many tags. For its own layers the kernel reports no number
/// (seen with 7.3): RAM disks, device mapper, md, and an NVMe drive that could have several paths. Reading
/// that as one tag made such members do one operation at a time.
fn depth_max(tags: Option<u32>) -> u32 {
    tags.map_or(DEPTH_SHARED, |tags| tags.clamp(1, DEPTH_MAX))
}

/// The disk of a partition; for anything else the device itself.
fn disk_of(sysfs: &Path) -> PathBuf {
    let parent = sysfs.parent().filter(|_| sysfs.join("partition").exists());
    parent.unwrap_or(sysfs).to_path_buf()
}

/// Whether this disk is a device-mapper device. Polled I/O is not used on these: Linux 7.3.4 dereferenced a
/// null pointer in `bdev_end_io_acct`, called by `dm_poll_bio`, two seconds into a write load, and the
/// reactor's thread died in the kernel.
fn is_device_mapper(disk: &Path) -> bool {
    disk.join("dm").exists()
}

/// Whether the kernel currently treats the disk as having a volatile cache.
pub(super) fn has_volatile_cache(sysfs: &Path) -> bool {
    text(&disk_of(sysfs).join("queue/write_cache")).is_none_or(|cache| cache != "write through")
}

/// The serial number of a disk in sysfs.
pub(super) fn serial(sysfs: &Path) -> Option<String> {
    let disk = disk_of(sysfs);
    let serial = text(&disk.join("device/serial")).or_else(|| text(&disk.join("serial")));
    serial.filter(|serial| !serial.is_empty())
}

/// The NUMA node of the nearest ancestor that names one; for an NVMe namespace that is its controller.
fn numa_node(disk: &Path) -> Option<u32> {
    let places = ["device/numa_node", "device/device/numa_node", "../../numa_node"];
    places.iter().find_map(|place| read::<i32>(&disk.join(place))).and_then(|node| u32::try_from(node).ok())
}

/// Whether holes can be punched: tried beyond the end of the file, where no data can be lost.
fn punches_holes(file: &File, size: u64) -> bool {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let beyond = size.next_multiple_of(BLOCK_BYTES as u64);
    rustix::fs::fallocate(file, mode, beyond, BLOCK_BYTES as u64).is_ok()
}

/// The unit of direct I/O on a file (statx, Linux 6.1); one page if the kernel does not report it.
fn direct_alignment(file: &File) -> u32 {
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    match stat {
        Ok(stat) if stat.stx_dio_offset_align > 0 => stat.stx_dio_offset_align.max(SECTOR_BYTES),
        _ => BLOCK_BYTES as u32,
    }
}

pub(super) fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

pub(super) fn read<T: FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

/// Longest passthrough command, which no layer below splits. It is limited by `wanted`, by the kernel, by the
/// drive (MDTS), and by the kernel's list of pages, where a span that does not begin on a page boundary needs
/// one page more. A multiple of 4 KiB, at least one block.
fn command_bytes_max(wanted: u32, kernel: u64, segments: u64, drive: Option<u64>) -> u32 {
    let block = BLOCK_BYTES as u64;
    let fits = kernel.min(segments.saturating_sub(1) * block).min(drive.unwrap_or(u64::MAX));
    (fits.clamp(block, wanted.into()) / block * block) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_does_not_tell_its_depth_is_no_shallow_one() {
        for (tags, expected) in
            [(None, DEPTH_SHARED), (Some(0), 1), (Some(2), 2), (Some(1023), 1023), (Some(4096), 1024)]
        {
            assert_eq!(depth_max(tags), expected, "{tags:?}");
        }
    }

    #[test]
    fn rings_share_the_queues_of_the_hardware() {
        let file = File::open("/proc/self/exe").unwrap();
        let metadata = file.metadata().unwrap();
        let facts = of_file(&file, &metadata, 1 << 20, true, Access::ReadOnly);
        for (queues, rings, expected) in [
            (0, 8, 256),
            (1, 1, 256),
            (1, 2, 128),
            (1, 254, 32),
            (4, 2, 256),
            (4, 8, 128),
            (64, 8, 256),
            (3, 2, 256),
        ] {
            let facts = Facts { depth_max: 256, queues, ..facts.clone() };
            assert_eq!(facts.depth_of_each(rings), expected, "{queues} queues, {rings} rings");
        }
    }

    #[test]
    fn commands_fit_the_kernel_and_the_drive() {
        const KIB: u64 = 1 << 10;
        for (kernel, segments, drive, expected) in [
            // QEMU's drive; a drive without a limit; a drive with 128 KiB; an old kernel with 127 segments.
            (512 * KIB, 129, Some(512 * KIB), 512 * KIB),
            (4096 * KIB, 1025, None, 512 * KIB),
            (4096 * KIB, 1025, Some(128 * KIB), 128 * KIB),
            (4096 * KIB, 127, Some(1024 * KIB), 504 * KIB),
            // Values that the kernel does not report, or that are not whole blocks.
            (0, 0, None, 4 * KIB),
            (6 * KIB, 129, None, 4 * KIB),
        ] {
            let is = command_bytes_max(TRANSFER_BYTES_MAX, kernel, segments, drive);
            assert_eq!(u64::from(is), expected, "{kernel} {segments} {drive:?}");
        }
    }
}
