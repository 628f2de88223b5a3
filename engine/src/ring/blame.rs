//! The party to blame for a failed member operation.
//!
//! The kernel answers an operation with one number, an `errno`, whether the medium is worn out, the file
//! system is full, or our own request was malformed. Only the first says anything about the member. An engine
//! that fails a member for the other causes destroys an array without a fault in any drive: on loop devices
//! whose sectors had become 4096 bytes, every small write was answered with `EINVAL`, and one member after
//! the other was failed on record.
//!
//! | operation | `Device` | `Space` | `Ours` |
//! |---|---|---|---|
//! | read of a strip | counted, reconstructed, repaired | reconstructed | reconstructed |
//! | write of a strip | the member is failed | the request fails, the stripe needs a resync | as `Space` |
//! | bitmap block, superblock, flush | the member is failed | the array stops serving | as `Space` |
//!
//! If one member did not take a write of strips, the parity no longer matches although every member is
//! present. So the stripe becomes unsynced (`NeedSync`): its parity is not used as an input until a resync
//! has made it match, and no member is lost. (Failing the member instead would be right for one member, but a
//! full file system and a wrong block size affect all of them.)
//!
//! A member that is only being filled is blamed for whatever it refuses. The array can spare it, and its
//! refusal must cost the others neither a stripe nor their service. (Exception: while stripes that were
//! filled before need a resync, this member may hold the only copy of a strip. That is assumed below the
//! cursor of a rebuild that a start found, and after a refused write in this run.)
//!
//! A drive that was pulled is answered with `ENOSPC` too: `UringDevice::ends_before` tells it apart.
//!
//! Without its metadata an array can promise nothing. It then stops serving as a whole, in memory only: the
//! record still says that every member is in sync, and the next start resyncs the marked stripes.

/// The party at fault for a failed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The member is at fault: its medium, its link, its driver, or a state that only it is in.
    Device,
    /// Space has run out: a full file system under a sparse file, or a full pool under a thin volume.
    Space,
    /// The request or this process is at fault: a malformed operation, a closed or wrongly opened descriptor,
    /// no memory, or an operation that was not carried out.
    Ours,
}

/// Determines the blame for an `errno`. An unlisted errno is blamed on the device: a member that cannot be
/// written must leave.
#[must_use]
pub const fn blame(errno: i32) -> Blame {
    match errno {
        libc::ENOSPC | libc::EDQUOT => Blame::Space,
        libc::EINVAL
        | libc::EBADF
        | libc::EFAULT
        | libc::ENOMEM
        | libc::EMFILE
        | libc::ENFILE
        | libc::E2BIG
        | libc::EFBIG
        | libc::EOVERFLOW
        | libc::ECANCELED
        | libc::ENOSYS => Blame::Ours,
        _ => Blame::Device,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_is_blamed_for_its_own() {
        for (errno, expected) in [
            (libc::EIO, Blame::Device),
            (libc::ENODATA, Blame::Device),
            (libc::EILSEQ, Blame::Device),
            (libc::ETIMEDOUT, Blame::Device),
            (libc::ENODEV, Blame::Device),
            (libc::ENXIO, Blame::Device),
            (libc::EREMOTEIO, Blame::Device),
            (libc::ENOLINK, Blame::Device),
            // A drive, or the file system under a file, has become read-only; the other members have not.
            (libc::EROFS, Blame::Device),
            (libc::EPERM, Blame::Device),
            // The kernel's errno for a command that a drive's firmware does not support.
            (libc::EOPNOTSUPP, Blame::Device),
            (libc::ENOSPC, Blame::Space),
            (libc::EDQUOT, Blame::Space),
            (libc::EINVAL, Blame::Ours),
            (libc::EBADF, Blame::Ours),
            (libc::EMFILE, Blame::Ours),
            (libc::ENOMEM, Blame::Ours),
            (libc::EFBIG, Blame::Ours),
            (libc::ECANCELED, Blame::Ours),
        ] {
            assert_eq!(blame(errno), expected, "{}", std::io::Error::from_raw_os_error(errno));
        }
    }
}
