//! File systems whose files cannot be members: their I/O depends on a server, which may never answer.
//!
//! Reads and writes of such a file could be left to the kernel's worker threads, but other steps could not.
//! The kernel asks the server for the attributes of a file, and calls it when the file is closed
//! (`FUSE_GETATTR`, `FUSE_FLUSH`, the write-back at an NFS close). Both happen on a reactor's thread, so a
//! server that hangs would stop the reactor and every member with it. A hung worker cannot be killed either,
//! so the process would not end.
//!
//! A loop device over such a file is accepted: the kernel's loop threads do what may block, and a loop device
//! that does not answer is a silent member like any other.

use std::fs::File;
use std::path::Path;

use super::{DeviceError, Sharing, io_error};

/// Magic numbers (`f_type` of statfs) of such file systems, from linux/magic.h and the file systems' own
/// sources; virtiofs has the number of FUSE. Cluster file systems on shared disks (GFS2, OCFS2) do their I/O
/// in the kernel and are accepted.
const REMOTE: [(u32, &str); 8] = [
    (0x6573_5546, "FUSE"),
    (0x0000_6969, "NFS"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB"),
    (0x0000_517B, "SMB"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
];

/// Refuses to serve a file whose I/O depends on a server instead of a disk of this machine. Looking at such a
/// file is allowed: then only the command that looks can hang.
pub(super) fn refuse_remote(path: &Path, file: &File, sharing: Sharing) -> Result<(), DeviceError> {
    if sharing == Sharing::Shared {
        return Ok(());
    }
    let stat = rustix::fs::fstatfs(file).map_err(|errno| io_error(path, "statfs", errno.into()))?;
    // The magic number is the low 32 bits on every architecture; some architectures sign-extend it.
    match remote(stat.f_type as u32) {
        Some(file_system) => Err(DeviceError::Remote { path: path.into(), file_system }),
        None => Ok(()),
    }
}

/// The name of the file system with this magic number, if its files depend on a server.
fn remote(magic: u32) -> Option<&'static str> {
    REMOTE.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_with_a_server_are_told_from_those_with_a_disk() {
        assert_eq!(remote(0x6573_5546), Some("FUSE"));
        assert_eq!(remote(0x6969), Some("NFS"));
        assert_eq!(remote(0xFF53_4D42_u32), Some("CIFS"));
        // ext4, xfs, btrfs, f2fs, tmpfs, overlayfs, zfs.
        for magic in [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x0102_1994, 0x794C_7630, 0x2FC1_2FC1] {
            assert_eq!(remote(magic), None, "{magic:#x}");
        }
    }
}
