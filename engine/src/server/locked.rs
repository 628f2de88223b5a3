//! Memory that the kernel may not take away. A server of a block device must not wait for a page: of its program, a stack, a table. The
//! page may lie on a swap device or a file system on that very block device, and then nothing goes on any more.

use rustix::mm::{MlockAllFlags, mlockall};

use super::ServerError;

/// Locks what the process has in memory now, all of it, and what it maps later as soon as it is touched.
pub(super) fn lock_memory() -> Result<(), ServerError> {
    let locked = mlockall(MlockAllFlags::CURRENT)
        .and_then(|()| mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT));
    locked.map_err(|error| {
        ServerError(format!(
            "cannot lock the server's memory: {error}: a block device is not served from memory that may be swapped out, perhaps to \
             itself: allow it (root with CAP_IPC_LOCK, or LimitMEMLOCK=infinity in the unit), or give the reactors less (--memory)"
        ))
    })
}
