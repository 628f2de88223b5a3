//! The character device of an NVMe namespace: found, checked, and opened beside its block device.
//!
//! - The block device stays open exclusively, which keeps file systems and other servers away. The character
//!   device has no such protection and obeys every process that may open it.
//! - The pair is matched by sysfs, where both devices are below one controller. Their names do not tell: with
//!   `nvme_core.multipath` a disk is numbered by its subsystem and the character device by its controller
//!   (drivers/nvme/host/core.c, `nvme_alloc_ns` and `nvme_add_ns_cdev`), so nvme1n1 and ng1n1 may be two
//!   drives. Both devices are also asked for their identity before anything is written.
//! - Pages of the block device that the kernel has cached (udev reads every disk) become stale when
//!   passthrough writes the drive, and a dirty page would overwrite newer data. They are dropped before the
//!   first command and after the last.
//!
//! An unmet condition is not an error: the block device is used instead, and the operator is told the reason.

#![expect(unsafe_code, reason = "ioctls that rustix does not wrap")]

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::identify::{IDENTIFY_BYTES, Identified, Structure, is_one_drive};
use super::{Access, holder, options};
use crate::ring::nvme::{Command, Namespace};

/// Numbers from linux/nvme_ioctl.h: `_IO('N', 0x40)`, `_IOWR('N', 0x41, struct nvme_admin_cmd)`.
const NVME_IOCTL_ID: libc::Ioctl = 0x4E40;
const NVME_IOCTL_ADMIN_CMD: libc::Ioctl = 0xC048_4E41_u32 as libc::Ioctl;
/// Number from linux/fs.h: `_IO(0x12, 97)`.
const BLKFLSBUF: libc::Ioctl = 0x1261;

/// A namespace that can be reached by passthrough, bypassing the block layer.
pub(super) struct Found {
    pub(super) namespace: Namespace,
    pub(super) identified: Identified,
    /// Path of the character device.
    pub(super) path: String,
}

/// Finds the character device of the block device `block`, whose number and size in bytes are given; the
/// error says why there is none.
pub(super) fn find(block: &File, number: u64, size_bytes: u64, access: Access) -> Result<Found, String> {
    let sysfs = holder::sysfs(number);
    let name = sibling(&sysfs)?;
    let path = format!("/dev/{name}");
    let metadata = fs::metadata(&path).map_err(|error| format!("{path}: {error}"))?;
    let known = fs::read_to_string(sysfs.with_file_name(&name).join("dev")).unwrap_or_default();
    if !metadata.file_type().is_char_device() || holder::number_text(metadata.rdev()) != known.trim() {
        return Err(format!("{path}: is not the device that the kernel calls so"));
    }
    let file = options(access).open(&path).map_err(|error| format!("{path}: {error}"))?;
    let (id, controller, structure) = ask(&file).map_err(|error| format!("{path}: {error}"))?;
    let (block_id, block_controller, block_structure) = ask(block).map_err(|error| error.to_string())?;
    if id != block_id || structure != block_structure || !is_one_drive(&controller, &block_controller) {
        return Err(format!("{path}: is another namespace"));
    }
    let identified = Identified::parse(&controller, &structure)?;
    if identified.blocks.checked_mul(identified.block_bytes.into()) != Some(size_bytes) {
        return Err("the drive and the kernel differ about its size".into());
    }
    let block_shift = identified.block_bytes.ilog2() as u8;
    let discard_max = fs::read_to_string(sysfs.join("queue/discard_max_bytes")).unwrap_or_default();
    let deallocation_bytes_max = discard_max.trim().parse().unwrap_or(0);
    let namespace = Namespace { file, number: id, block_shift, deallocation_bytes_max };
    Ok(Found { namespace, identified, path })
}

/// Writes out and drops the pages that the kernel has cached of a block device.
pub(super) fn forget_pages(block: &File) -> std::io::Result<()> {
    // SAFETY: the descriptor is open for as long as `block` is borrowed, and BLKFLSBUF takes no argument.
    let outcome = unsafe { libc::ioctl(block.as_fd().as_raw_fd(), BLKFLSBUF, 0) };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The name of the character device that belongs to a disk, found by its place in sysfs.
fn sibling(sysfs: &Path) -> Result<String, String> {
    if sysfs.join("partition").exists() {
        return Err("a partition: passthrough knows whole namespaces only".into());
    }
    let instance = sysfs.file_name().and_then(|name| instance("nvme", name.to_str()?));
    let (Some(instance), Some(parent)) = (instance, sysfs.parent()) else {
        return Err("not an NVMe namespace".into());
    };
    let zoned = fs::read_to_string(sysfs.join("queue/zoned")).unwrap_or_default();
    if !["none", ""].contains(&zoned.trim()) {
        return Err("a zoned namespace".into());
    }
    let names = |place: &Path| -> Vec<String> {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    // A disk with several paths is below its subsystem in sysfs, beside links to its controllers.
    let is_subsystem =
        parent.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"nvme-subsys"));
    let controllers = names(parent).iter().filter(|name| is_numbered("nvme", name)).count();
    if is_subsystem && controllers > 1 {
        return Err(format!("{controllers} paths lead to it, and the block layer knows to choose"));
    }
    let beside =
        names(parent).into_iter().find(|name| self::instance("ng", name).as_ref() == Some(&instance));
    beside.ok_or_else(|| "the kernel has no character device for it".into())
}

/// The Y of a name of the form `PREFIXXnY`.
fn instance(prefix: &str, name: &str) -> Option<String> {
    let (controller, instance) = name.strip_prefix(prefix)?.split_once('n')?;
    (is_numbered("", controller) && is_numbered("", instance)).then(|| instance.to_owned())
}

/// Whether a name is the prefix followed by a number.
fn is_numbered(prefix: &str, name: &str) -> bool {
    let number = name.strip_prefix(prefix).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Asks for a namespace's number, its controller's Identify structure, and its own.
fn ask(file: &File) -> std::io::Result<(u32, Box<Structure>, Box<Structure>)> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and NVME_IOCTL_ID takes no argument.
    let id = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NVME_IOCTL_ID, 0) };
    let id = u32::try_from(id).map_err(|_| std::io::Error::last_os_error())?;
    Ok((id, identify(file, 1, 0)?, identify(file, 0, id)?))
}

fn identify(file: &File, structure: u8, namespace: u32) -> std::io::Result<Box<Structure>> {
    let mut bytes = Box::new([0; IDENTIFY_BYTES]);
    let address = bytes.as_mut_ptr().expose_provenance() as u64;
    let mut command = Command::identify(structure, namespace, address);
    // SAFETY: the descriptor is open for as long as `file` is borrowed; NVME_IOCTL_ADMIN_CMD reads and writes
    // one `struct nvme_admin_cmd`, which `Command` mirrors; and the drive writes 4096 bytes to the address in
    // the command, which is `bytes`, and nothing else touches `bytes` until the call returns.
    let status = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NVME_IOCTL_ADMIN_CMD, &raw mut command) };
    match status {
        0 => Ok(bytes),
        status if status > 0 => {
            Err(std::io::Error::other(format!("the drive refuses to identify itself ({status:#x})")))
        }
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(instance("nvme", "nvme0n1").as_deref(), Some("1"));
        assert_eq!(instance("ng", "ng12n34").as_deref(), Some("34"));
        for other in ["nvme0", "nvme0n1p2", "nvme0c0n1", "nvmen1", "sda", "ng0n", "ng0n1"] {
            assert_eq!(instance("nvme", other), None, "{other}");
        }
        assert!(
            is_numbered("nvme", "nvme10") && !is_numbered("nvme", "nvme") && !is_numbered("nvme", "nvme0n1")
        );
    }

    /// Sysfs of a machine that numbers disks by subsystem: the character device of nvme1n1 is ng0n1.
    #[test]
    fn the_character_device_is_found_by_place_not_by_number() {
        let root = std::env::temp_dir().join(format!("striate-nvme-{}", std::process::id()));
        let make = |path: &str| fs::create_dir_all(root.join(path)).unwrap();
        for path in [
            "nvme0/nvme1n1/nvme1n1p1/partition",
            "nvme0/nvme1n2",
            "nvme0/ng0n1",
            "nvme1/nvme0n1",
            "nvme1/ng1n2",
            "nvme-subsys2/nvme2n1",
            "nvme-subsys2/ng2n1",
            "nvme-subsys2/nvme2",
            "block/sda",
        ] {
            make(path);
        }
        let find = |path: &str| sibling(&root.join(path));
        assert_eq!(find("nvme0/nvme1n1"), Ok("ng0n1".into()));
        assert!(find("nvme0/nvme1n1/nvme1n1p1").unwrap_err().contains("partition"));
        assert!(find("nvme0/nvme1n2").unwrap_err().contains("no character device"));
        assert!(find("nvme1/nvme0n1").unwrap_err().contains("no character device"));
        assert!(find("block/sda").unwrap_err().contains("not an NVMe namespace"));
        assert_eq!(find("nvme-subsys2/nvme2n1"), Ok("ng2n1".into()));
        make("nvme-subsys2/nvme3");
        assert!(find("nvme-subsys2/nvme2n1").unwrap_err().contains("2 paths"));
        make("nvme1/nvme0n1/queue");
        fs::write(root.join("nvme1/nvme0n1/queue/zoned"), "host-managed\n").unwrap();
        assert!(find("nvme1/nvme0n1").unwrap_err().contains("zoned"));
        fs::remove_dir_all(&root).unwrap();
    }
}
