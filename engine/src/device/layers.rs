//! The layers below a block device: a partition's bytes are on its disk, a loop device's in its file, and
//! those of a device-mapper or md device somewhere on the devices that it is made of.
//!
//! ```text
//!   /dev/loop1p2              the whole device
//!   `- /dev/loop1             partition: the range is known (sysfs: start, size)
//!      `- /dev/dm-0           loop: the range is known (offset, size limit)
//!         `- /dev/sda3        made of it: some bytes; which, only the target's table says
//!            `- /dev/sda      partition: somewhere in the range of sda3
//! ```
//!
//! Every layer counts, not only the lowest: two loop devices over one device-mapper device overlap there,
//! although it is unknown where that is on the disk. The descent ends at a layer that cannot be identified: a
//! deleted file, a device without a node in /dev.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::storage::Storage;
use super::{Identity, facts, holder};

/// `LOOP_GET_STATUS64` of linux/loop.h; `LoopInfo` is the head of its answer, `struct loop_info64`.
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;

/// Unit of `start` and `size` in sysfs, independent of the device's block size.
const SYSFS_SECTOR_BYTES: u64 = 512;

/// Most layers that are looked at. A logical volume over 16 disks, thin and encrypted, has some 70.
const LAYERS_MAX: usize = 256;

#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    /// Fields from `lo_number` on, which are not used; they make the struct 232 bytes long.
    rest: [u64; 24],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);

/// A block device or file below another, and the path by which it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    identity: Identity,
    path: PathBuf,
}

/// The layer directly below a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Below {
    /// No layer below, or none that is known.
    Nothing,
    /// The device is a partition.
    Partition { disk: Node, first_byte: u64, len_bytes: u64 },
    /// The device is a loop device; `len_bytes` is `u64::MAX` if the loop extends to the end of the file.
    Loop { file: Node, first_byte: u64, len_bytes: u64 },
    /// The device is made of these: each has some of its bytes.
    MadeOf(Vec<Node>),
}

/// All storage of a block device: the device itself first, then the layers below it.
pub(super) fn of_block(device: &File, number: u64, path: &Path) -> Vec<Storage> {
    let own = Storage::whole(Identity::Block { number }, path);
    let mut layers = Vec::new();
    descend(own, &|below| look(below, (below == number).then_some(device)), &mut layers);
    layers
}

fn descend(storage: Storage, look: &impl Fn(u64) -> Below, layers: &mut Vec<Storage>) {
    if layers.len() >= LAYERS_MAX || layers.contains(&storage) {
        return;
    }
    layers.push(storage.clone());
    let Identity::Block { number } = storage.identity() else { return };
    match look(number) {
        Below::Nothing => {}
        Below::Partition { disk, first_byte, len_bytes } => {
            let on_disk = storage.placed(disk.identity, &disk.path, first_byte, len_bytes).claimed();
            descend(on_disk, look, layers);
        }
        Below::Loop { file, first_byte, len_bytes } => {
            descend(storage.placed(file.identity, &file.path, first_byte, len_bytes), look, layers);
        }
        Below::MadeOf(nodes) => {
            for node in nodes {
                descend(Storage::whole(node.identity, &node.path).somewhere().claimed(), look, layers);
            }
        }
    }
}

/// Finds the layer below by asking sysfs and, for a loop device, the device itself (through `device` if it is
/// open already).
fn look(number: u64, device: Option<&File>) -> Below {
    let sysfs = holder::sysfs(number);
    if sysfs.join("partition").exists() {
        return sysfs.parent().map_or(Below::Nothing, |disk| partition(&sysfs, disk));
    }
    if let Some(path) = facts::text(&sysfs.join("loop/backing_file")) {
        let opened = if device.is_none() { File::open(node(&sysfs).path).ok() } else { None };
        return device
            .or(opened.as_ref())
            .and_then(|device| loop_file(device, path))
            .unwrap_or(Below::Nothing);
    }
    let slaves = fs::read_dir(sysfs.join("slaves")).into_iter().flatten().flatten();
    Below::MadeOf(slaves.map(|slave| node(&slave.path())).collect())
}

fn partition(sysfs: &Path, disk: &Path) -> Below {
    let bytes = |name: &str| {
        facts::read::<u64>(&sysfs.join(name)).map(|sectors| sectors.saturating_mul(SYSFS_SECTOR_BYTES))
    };
    let disk = node(disk);
    match (bytes("start"), bytes("size")) {
        (Some(first_byte), Some(len_bytes)) => Below::Partition { disk, first_byte, len_bytes },
        _ => Below::MadeOf(vec![disk]),
    }
}

fn loop_file(device: &File, path: String) -> Option<Below> {
    let mut info = LoopInfo { device: 0, inode: 0, rdevice: 0, offset: 0, size_limit: 0, rest: [0; 24] };
    // SAFETY: the descriptor is open for as long as `device` is borrowed. The ioctl writes one `struct
    // loop_info64`, whose length `LoopInfo` has, into memory that nothing else uses until the call returns. A
    // device of another driver refuses the ioctl.
    let outcome = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    if outcome != 0 {
        return None;
    }
    let path = PathBuf::from(path);
    // The path may belong to another mount namespace, so it counts only if it leads to the file that the
    // kernel names.
    let is_named = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino()) == (info.device, info.inode);
    let identity = match fs::metadata(&path).ok().filter(is_named) {
        Some(metadata) if metadata.file_type().is_block_device() => {
            Identity::Block { number: metadata.rdev() }
        }
        _ => Identity::File { file_system: info.device, inode: info.inode },
    };
    let len_bytes = if info.size_limit == 0 { u64::MAX } else { info.size_limit };
    Some(Below::Loop { file: Node { identity, path }, first_byte: info.offset, len_bytes })
}

/// The block device that a sysfs directory describes.
fn node(sysfs: &Path) -> Node {
    let uevent = facts::text(&sysfs.join("uevent")).unwrap_or_default();
    let field = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let number = |key: &str| field(key).and_then(|number| number.parse().ok()).unwrap_or(0);
    let identity = Identity::Block { number: rustix::fs::makedev(number("MAJOR"), number("MINOR")) };
    Node { identity, path: Path::new("/dev").join(field("DEVNAME").unwrap_or_default()) }
}

#[cfg(test)]
mod tests {
    //! Method: machines as tables (block device number, what is below it), and which of their devices share
    //! bytes.
    use super::*;

    const MIB: u64 = 1 << 20;

    fn block(number: u64) -> Node {
        Node { identity: Identity::Block { number }, path: format!("/dev/{number}").into() }
    }

    fn file(inode: u64) -> Node {
        Node { identity: Identity::File { file_system: 1, inode }, path: format!("/{inode}").into() }
    }

    fn partition_of(disk: u64, first_mib: u64, mib: u64) -> Below {
        Below::Partition { disk: block(disk), first_byte: first_mib * MIB, len_bytes: mib * MIB }
    }

    fn loop_over(file: Node) -> Below {
        Below::Loop { file, first_byte: 0, len_bytes: u64::MAX }
    }

    fn loop_over_part(file: Node, first_mib: u64, mib: u64) -> Below {
        Below::Loop { file, first_byte: first_mib * MIB, len_bytes: mib * MIB }
    }

    fn made_of(numbers: &[u64]) -> Below {
        Below::MadeOf(numbers.iter().map(|&number| block(number)).collect())
    }

    fn layers(machine: &[(u64, Below)], node: &Node) -> Vec<Storage> {
        let look = |number| {
            machine
                .iter()
                .find(|(known, _)| *known == number)
                .map_or(Below::Nothing, |(_, below)| below.clone())
        };
        let mut layers = Vec::new();
        descend(Storage::whole(node.identity, &node.path), &look, &mut layers);
        layers
    }

    #[track_caller]
    fn check(machine: &[(u64, Below)], one: Node, other: Node, expected: bool) {
        let (one, other) = (layers(machine, &one), layers(machine, &other));
        for (one, other) in [(&one, &other), (&other, &one)] {
            let meet = one.iter().any(|one| other.iter().any(|other| one.meets(other)));
            assert_eq!(meet, expected, "{one:?} and {other:?}");
        }
    }

    #[test]
    fn partitions_of_a_disk() {
        let machine = [(1, partition_of(9, 1, 10)), (2, partition_of(9, 11, 10))];
        check(&machine, block(1), block(2), false);
        check(&machine, block(1), block(9), true);
        check(&machine, block(1), block(8), false);
    }

    #[test]
    fn partitions_of_a_loop_device() {
        // The file, loop 7 over it, partitions 1 and 2 of loop 7, and a second loop device over the range of
        // partition 2.
        let machine = [
            (7, loop_over(file(5))),
            (1, partition_of(7, 1, 10)),
            (2, partition_of(7, 11, 10)),
            (8, loop_over_part(file(5), 11, 10)),
        ];
        check(&machine, block(1), file(5), true);
        check(&machine, block(1), block(2), false);
        check(&machine, block(2), block(8), true);
        check(&machine, block(1), block(8), false);
        check(&machine, block(1), file(6), false);
    }

    #[test]
    fn loop_devices_over_loop_devices_and_disks() {
        let machine = [
            (7, loop_over_part(file(5), 100, 50)),
            (8, loop_over_part(block(7), 10, 20)),
            (6, loop_over_part(file(5), 130, 5)),
            (4, loop_over(block(9))),
            (3, partition_of(9, 1, 10)),
        ];
        check(&machine, block(8), file(5), true);
        check(&machine, block(8), block(7), true);
        check(&machine, block(8), block(6), false);
        check(&machine, block(4), block(9), true);
        check(&machine, block(4), block(3), true);
        let on_file = layers(&machine, &block(8)).pop().expect("a file");
        let expected = Storage::whole(block(8).identity, &block(8).path);
        let expected = expected.placed(file(5).identity, &file(5).path, 110 * MIB, 20 * MIB);
        assert_eq!(on_file, expected);
    }

    /// A volume has some bytes of its disk, and which is unknown: two volumes do not count as overlapping, a
    /// volume and its disk do.
    #[test]
    fn volumes_of_a_disk() {
        let machine = [
            (1, made_of(&[9])),
            (2, made_of(&[9])),
            (3, made_of(&[7])),
            (7, loop_over(file(5))),
            (4, loop_over(block(1))),
            (6, loop_over(block(1))),
            (12, partition_of(9, 1, 10)),
            (13, partition_of(9, 11, 10)),
            (14, made_of(&[12])),
        ];
        check(&machine, block(1), block(2), false);
        check(&machine, block(1), block(9), true);
        check(&machine, block(3), file(5), true);
        check(&machine, block(3), block(1), false);
        check(&machine, block(4), block(6), true);
        check(&machine, block(4), block(2), false);
        check(&machine, block(14), block(13), false);
        check(&machine, block(14), block(12), true);
    }

    /// The descent ends even if a device is below itself, by a mistake of ours or of the kernel.
    #[test]
    fn a_circle_ends() {
        let machine = [(1, loop_over_part(block(1), 1, 10)), (2, made_of(&[3, 3])), (3, made_of(&[2, 2]))];
        assert!(layers(&machine, &block(1)).len() <= LAYERS_MAX);
        assert!(layers(&machine, &block(2)).len() <= 3);
    }
}
