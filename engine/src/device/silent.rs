//! A device that does not answer, for tests, without root: a file with a write lease (`F_SETLEASE`). An
//! `open` of the file sleeps in the kernel until the lease is given back or `/proc/sys/fs/lease-break-time`
//! (45 s) is over.

#![allow(clippy::disallowed_methods, reason = "a test waits")]
#![expect(unsafe_code, reason = "a lease is taken by a fcntl that rustix does not wrap")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// A silent file; it answers again when this value is dropped.
pub(crate) struct Silent(#[expect(dead_code, reason = "its drop gives the lease back")] File);

impl Silent {
    /// Makes a file fall silent, as soon as nothing else has it open.
    pub(crate) fn file(path: &Path) -> Silent {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let set = |what, value: libc::c_int| {
            // SAFETY: the descriptor is open, and the commands below take a number.
            let outcome = unsafe { libc::fcntl(file.as_raw_fd(), what, value) };
            (outcome != 0).then(std::io::Error::last_os_error)
        };
        assert!(set(F_SETSIG, libc::SIGURG).is_none());
        let mut tries_left = 1000;
        while let Some(error) = set(libc::F_SETLEASE, libc::F_WRLCK) {
            assert!(error.kind() == std::io::ErrorKind::WouldBlock && tries_left > 0, "no lease: {error}");
            tries_left -= 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        Silent(file)
    }
}

/// `F_SETSIG` of linux/fcntl.h: sets the signal that is sent when the lease is wanted back. SIGURG is ignored
/// unless it is caught; the default, SIGIO, would end the test.
const F_SETSIG: libc::c_int = 10;
