//! A mark in the run directory while the reactors of a server that takes a block device over begin to fetch.
//!
//! The ublk driver of a kernel before Linux 6.16 crashes if it is told to begin a recovery of a device of
//! which only some queues have fetched, which is what a server leaves that is killed in that moment. Nothing
//! that the driver tells shows it. So the server leaves a mark, `ublkbN.taking`, from before the first fetch
//! until after the last; the next server then knows. A mark is of one device and one boot, like the note.

use std::io;
use std::path::PathBuf;

use super::{Note, ServerError};

/// The mark of one device.
#[derive(Clone, Debug)]
pub(in super::super) struct Taking {
    note: Note,
    path: PathBuf,
}

impl Taking {
    /// The mark beside a note; writes nothing yet.
    pub(in super::super) fn of(note: &Note) -> Taking {
        Taking { note: note.clone(), path: note.path.with_extension("taking") }
    }

    /// The text of the mark, which no other device has.
    fn text(&self) -> String {
        let Note { boot, device, .. } = &self.note;
        format!("{} {} {}\n", boot.as_deref().unwrap_or_default(), device.number, device.instance)
    }

    /// Makes the mark, before the first fetch.
    pub(in super::super) fn begin(&self) -> Result<(), ServerError> {
        let (path, text) = (self.path.clone(), self.text());
        let written = self.note.within(move |_| std::fs::write(&path, &text));
        written.map_err(|error| {
            ServerError(format!(
                "{}: cannot be written: {error}: without it a server that is killed in its start could leave a block device that crashes the kernel: \
                 see to the run directory, and serve again",
                self.path.display()
            ))
        })
    }

    /// Removes the mark, after the last fetch or with the device.
    pub(in super::super) fn end(&self) {
        let path = self.path.clone();
        // An error has no consequence but a takeover that is refused later, with what to do.
        let _ = self.note.within(move |_| std::fs::remove_file(&path));
    }

    /// Whether the mark of this device is there.
    pub(in super::super) fn is_there(&self) -> bool {
        let path = self.path.clone();
        let read: io::Result<String> = self.note.within(move |_| std::fs::read_to_string(&path));
        read.is_ok_and(|text| text == self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_device() {
        let directory = std::env::temp_dir().join(format!("striate-taking-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let note = Note::of(&directory, 4, uuid::Uuid::from_u128(7));
        let taking = Taking::of(&note);
        assert!(!taking.is_there());
        taking.begin().expect("a directory of ours");
        assert!(taking.is_there() && Taking::of(&note).is_there());
        let mut later = note.clone();
        later.device.instance += 1;
        assert!(!Taking::of(&later).is_there(), "a later device of the same number");
        let rebooted = Note { boot: Some("another".into()), ..note.clone() };
        assert!(!Taking::of(&rebooted).is_there(), "the same number after a reboot");
        taking.end();
        assert!(!taking.is_there());
        taking.end();
        std::fs::remove_dir(&directory).expect("nothing is left in it");
    }
}
