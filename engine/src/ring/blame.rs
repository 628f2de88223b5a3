//! Whose fault a failed member operation is.
//!
//! The kernel answers an operation with one number, an `errno`, whether the medium is worn out, the file system is full, or
//! our own request was malformed. Only the first says anything about the member. An engine that fails a member for
//! the others destroys an array without a fault in any drive: on loop devices whose sectors had become 4096 bytes, every small
//! write was answered `EINVAL`, and one member after the other was failed on record.
//!
//! | operation | `Device` | `Space` | `Ours` |
//! |---|---|---|---|
//! | read of a strip | counted, reconstructed, repaired | reconstructed | reconstructed |
//! | write of a strip | the member is failed | the request fails, the stripe needs a resync | the same |
//! | bitmap block, superblock, flush | the member is failed | the array stops serving | the same |
//!
//! A write of strips that one member did not take leaves parity that does not match, with every member still there. So the
//! stripe becomes NeedSync: its parity is no input until a resync has made it match, and no member is lost. (Failing
//! the member instead would be right for one member; a full file system and a wrong block size hit all of them.)
//! A member that is only being filled is to blame for whatever it refuses: it can be spared, and what it did not take must cost the
//! others neither a stripe nor their service. (Exception: while stripes need a resync that were filled before, it may hold the only
//! copy of a strip. That is assumed below the cursor of a rebuild that a start found, and after a refused write in this run.) (A drive that was pulled is answered `ENOSPC` too: see
//! `UringDevice::ends_before`, which tells it apart.)
//!
//! Without its metadata an array can promise nothing. It then stops serving as a whole, in memory only: the record still
//! says that every member is in sync, and the next start resyncs what was marked.

/// The party at fault when an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The member's: its medium, its link, its driver, or a state that only it is in.
    Device,
    /// There is no room for it: a full file system under a sparse file, a full pool under a thin volume.
    Space,
    /// The request's or this process's: a malformed operation, a closed or wrongly opened descriptor, no memory, an operation that was
    /// not carried out.
    Ours,
}

/// The blame for this `errno`. One that is not listed is held against the device: a member that cannot be written must leave.
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
            // A drive, or the file system under a file, that has become read-only: the others have not.
            (libc::EROFS, Blame::Device),
            (libc::EPERM, Blame::Device),
            // The kernel's word for what a drive's firmware does not do.
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
