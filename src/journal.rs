//! Writes lines that have fields to the journal of systemd: one datagram each, in the native protocol,
//! without ever waiting.
//!
//! Source: systemd's "Native Journal Protocol" (systemd.io/JOURNAL_NATIVE_PROTOCOL). If the service manager
//! has connected standard error to the journal, JOURNAL_STREAM names that stream by device and inode. (The
//! crate tracing-journald sends the same datagrams from the thread that logs, and blocks that thread while
//! the journal does not take them.)

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Whether standard error is a stream to the journal. A line written there may begin with its priority
/// (sd-daemon(3)).
pub fn is_stderr() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(std::io::stderr().as_fd())
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// A connection to the journal.
pub struct Journal(UnixDatagram);

impl Journal {
    /// Connects to the journal, if standard error goes to one.
    pub fn of_this_process() -> Option<Journal> {
        is_stderr().then(|| Journal::at(Path::new(SOCKET)))?
    }

    fn at(path: &Path) -> Option<Journal> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        socket.connect(path).ok()?;
        Some(Journal(socket))
    }

    /// Sends an entry. Field names consist of capital letters and `_`. Returns whether the journal took the
    /// entry.
    pub fn send(&self, fields: &[(&str, &str)]) -> bool {
        let mut entry = Vec::new();
        for (name, value) in fields {
            entry.extend_from_slice(name.as_bytes());
            if value.contains('\n') {
                entry.push(b'\n');
                entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
            } else {
                entry.push(b'=');
            }
            entry.extend_from_slice(value.as_bytes());
            entry.push(b'\n');
        }
        self.0.send(&entry).is_ok_and(|sent| sent == entry.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_arrive_and_a_full_journal_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert!(Journal::at(&path).is_none());
        let server = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path).unwrap();
        assert!(journal.send(&[("MESSAGE", "slot 1: failed"), ("STRIATE_SLOT", "1"), ("TWO", "a\nb")]));
        let mut entry = [0; 200];
        let len = server.recv(&mut entry).unwrap();
        let expected = [
            b"MESSAGE=slot 1: failed\nSTRIATE_SLOT=1\nTWO\n".as_slice(),
            &[3, 0, 0, 0, 0, 0, 0, 0],
            b"a\nb\n",
        ];
        assert_eq!(entry[..len], expected.concat());
        let taken = (0..100_000).take_while(|_| journal.send(&[("MESSAGE", "again")])).count();
        assert!(taken < 100_000, "no entry was read");
    }
}
