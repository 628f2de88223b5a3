//! Writes the notes of a running server on its own thread, since the steward must not wait for a file system.
//!
//! The thread keeps the note's file open, so that its file system cannot be made read-only. It also locks the
//! file's page in memory, since the machine may swap to the very device that the note belongs to. A note that
//! cannot be written is tried again every second. Meanwhile the array goes on, and the old note is removed:
//! it would prove a state that hosts have moved on from.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, bounded};

use super::ServerError;
use super::locked::{KeptInMemory, keep_in_memory};
use super::note::Note;
use crate::array::{NoteOrder, NoteOrders, Noting, Position};
use crate::clock::{Clock, MonotonicClock};
use crate::frontend::ublk::flush_for_others;
use crate::limits::NOTE_TIME_MAX_NS;

/// Time between attempts after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The server's half.
pub(super) struct Noter {
    note: Note,
    common: Arc<Common>,
}

/// State that the server's half and the thread share.
#[derive(Default)]
struct Common {
    /// A warning that the server has not reported yet.
    trouble: Mutex<Option<String>>,
    /// Start time of the write in progress; 0 if there is none. Relaxed: the thread stores it, the server
    /// reads it, and nothing else depends on it.
    writing_since_ns: AtomicU64,
    /// Set by the server when the device is gone: nothing is written from then on (Release; the thread reads
    /// it with Acquire).
    is_over: AtomicBool,
}

impl Noter {
    /// Starts the thread, which calls `limit` when it is set up and ends when the array's half is dropped.
    /// `first`: the position after the start, which is noted before this function returns; `None` for a
    /// read-only start, which leaves the note as it is. `seed`: the seed of the server's epochs.
    pub(super) fn start(
        note: Note,
        first: Option<Position>,
        seed: u64,
        limit: impl FnOnce() + Send + 'static,
    ) -> Result<(Noter, Noting), ServerError> {
        let (noting, array) = Noting::new();
        let common = Arc::new(Common::default());
        let (done, first_written) = bounded(1);
        let mut writer = Writer { note: note.clone(), seed, file: None };
        let of_thread = Arc::clone(&common);
        let run = move || {
            flush_for_others();
            let written = first.map_or(Ok(()), |position| writer.write(position));
            limit();
            let is_well = written.is_ok();
            let _ = done.send(written);
            if is_well {
                writer.run(&array, &of_thread);
            }
        };
        let spawned = std::thread::Builder::new().name("note".into()).spawn(run);
        spawned.map_err(|error| ServerError(format!("cannot start a thread: {error}")))?;
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the file system does not answer");
        let written = first_written.recv_timeout(Duration::from_nanos(NOTE_TIME_MAX_NS));
        written.unwrap_or_else(|_| Err(late())).map_err(|error| {
            // The note from before the start is kept: it also proves the epoch of the start.
            ServerError(format!(
                "{}: cannot be written: {error}: see to the run directory, and serve again",
                note.path().display()
            ))
        })?;
        Ok((Noter { note, common }, noting))
    }

    /// Returns why the last note was not written, once; or, at each call, that a write has been hanging for a
    /// long time.
    pub(super) fn trouble(&self) -> Option<String> {
        let told = self.common.trouble.lock().expect("no holder panics").take();
        told.or_else(|| self.common.hangs(&self.note, MonotonicClock.now_ns()))
    }

    /// Removes the note of a device that has been stopped.
    pub(super) fn remove(&self) {
        self.common.is_over.store(true, Ordering::Release);
        self.note.remove();
    }
}

impl Common {
    /// A warning about a write that does not end in time.
    fn hangs(&self, note: &Note, now_ns: u64) -> Option<String> {
        let since_ns = self.writing_since_ns.load(Ordering::Relaxed);
        let took_ns = now_ns.saturating_sub(since_ns);
        (since_ns != 0 && took_ns >= NOTE_TIME_MAX_NS).then(|| {
            format!(
                "{}: is being written for {} s, and the array does not wait so long: a server that took /dev/ublkb{} over now could not \
                 tell these members from older ones: see to the file system of the run directory",
                note.path().display(),
                took_ns / 1_000_000_000,
                note.number()
            )
        })
    }
}

/// The thread's half.
struct Writer {
    note: Note,
    seed: u64,
    file: Option<(File, Option<KeptInMemory>)>,
}

impl Writer {
    /// Carries out the orders, until the array is gone.
    fn run(&mut self, array: &NoteOrders, common: &Common) {
        let mut failed: Option<NoteOrder> = None;
        loop {
            let order = match (array.orders.recv_timeout(RETRY), failed) {
                (Ok(order), _) => order,
                (Err(RecvTimeoutError::Timeout), Some(order)) => order,
                (Err(RecvTimeoutError::Timeout), None) => continue,
                (Err(RecvTimeoutError::Disconnected), _) => return,
            };
            if common.is_over.load(Ordering::Acquire) {
                return;
            }
            let began_ns = MonotonicClock.now_ns();
            common.writing_since_ns.store(began_ns, Ordering::Relaxed);
            let written = self.write(order.position);
            common.writing_since_ns.store(0, Ordering::Relaxed);
            let took_ns = MonotonicClock.now_ns() - began_ns;
            let found = match &written {
                // Report a failure once, not every second.
                Err(error) => failed.is_none().then(|| self.give_up(error)),
                Ok(()) if failed.is_some() => {
                    Some(format!("{}: is written again", self.note.path().display()))
                }
                Ok(()) => self.too_late(took_ns),
            };
            failed = written.is_err().then_some(order);
            if found.is_some() {
                *common.trouble.lock().expect("no holder panics") = found;
            }
            // Release: the file is written before the steward, which loads this with Acquire, goes on.
            array.ended.store(order.number, Ordering::Release);
        }
    }

    fn write(&mut self, position: Position) -> io::Result<()> {
        // Keep the open file only if it still has a name: a removed file is no note any more.
        let is_there =
            |(file, _): &mut (File, Option<KeptInMemory>)| file.metadata().is_ok_and(|file| file.nlink() > 0);
        let kept = self.file.take_if(is_there);
        let (file, page) = match kept {
            Some(kept) => kept,
            None => (self.note.open()?, None),
        };
        let bytes = self.note.noted(position, &[self.seed]).encode();
        file.write_all_at(&bytes, 0)?;
        // If the page cannot be locked, the next server may have to read it in; the note is valid all the
        // same.
        let page = page.or_else(|| keep_in_memory(&file, bytes.len()).ok());
        self.file = Some((file, page));
        Ok(())
    }

    /// Removes the old note, since the array goes on without a current one. Returns a warning.
    fn give_up(&mut self, error: &io::Error) -> String {
        self.file = None;
        let (path, device) = (self.note.path().display(), self.note.number());
        let removed = std::fs::remove_file(self.note.path());
        let consequence = match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => format!(
                "and cannot be removed ({error}): a server that took /dev/ublkb{device} over could not tell these members from older ones"
            ),
            Ok(()) | Err(_) => format!("no later server could take /dev/ublkb{device} over"),
        };
        format!(
            "{path}: cannot be written: {error}: {consequence}, until it is written, which is tried again each second: see to the run directory"
        )
    }

    /// A warning about a note that took too long to write.
    fn too_late(&self, took_ns: u64) -> Option<String> {
        (took_ns >= NOTE_TIME_MAX_NS).then(|| {
            format!(
                "{}: took {} s to write, and the array did not wait so long: a server that took /dev/ublkb{} over meanwhile could not \
                 have told these members from older ones; keep the run directory in memory (tmpfs)",
                self.note.path().display(),
                took_ns / 1_000_000_000,
                self.note.number()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use uuid::Uuid;

    use super::*;
    use crate::format::superblock::EpochName;

    const SEED: u64 = 0x77;

    fn position(moves: u64) -> Position {
        Position { epoch: EpochName { number: 5, id: 0x50 }, moves }
    }

    fn note(name: &str) -> (PathBuf, Note) {
        let directory = std::env::temp_dir().join(format!("striate-noter-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let note = Note::of(&directory, 4, Uuid::from_u128(7));
        (directory, note)
    }

    fn says(note: &Note, position: Position) -> bool {
        std::fs::read(note.path()).is_ok_and(|bytes| bytes == note.noted(position, &[SEED]).encode())
    }

    /// Waits until another thread makes a condition true; fails after 20 s.
    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let clock = MonotonicClock;
        let began_ns = clock.now_ns();
        while !is_so() {
            assert!(clock.now_ns() - began_ns < 20_000_000_000, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_note_has_ended_when_it_is_in_the_file() {
        let (directory, note) = note("ended");
        let (noter, noting) = Noter::start(note.clone(), Some(position(1)), SEED, || ()).unwrap();
        assert!(says(&note, position(1)), "it is noted before the reactors run");
        for moves in 2..200 {
            noting.order(position(moves), 0);
            until("the note", || noting.is_over(0));
            assert!(says(&note, position(moves)), "{moves}");
        }
        assert_eq!(noter.trouble(), None);
        // A cleaner of old files may remove the note: the next one creates the file again.
        std::fs::remove_file(note.path()).unwrap();
        noting.order(position(200), 0);
        until("the note", || noting.is_over(0));
        assert!(says(&note, position(200)));
        noter.remove();
        noting.order(position(201), 0);
        let began_ns = MonotonicClock.now_ns();
        until("time enough to write", || MonotonicClock.now_ns() - began_ns > 50_000_000);
        assert!(!note.path().exists(), "a note is written of a device that has gone");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// The run directory is missing for a while.
    #[test]
    fn a_note_that_cannot_be_written_is_told_once_and_tried_again() {
        let (directory, note) = note("again");
        let (noter, noting) = Noter::start(note.clone(), Some(position(1)), SEED, || ()).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        for moves in [2, 3] {
            noting.order(position(moves), 0);
            until("the end of a note that fails", || noting.is_over(0));
        }
        let trouble = noter.trouble().unwrap();
        assert!(
            trouble.contains("ublkb4.note: cannot be written") && trouble.contains("no later server"),
            "{trouble}"
        );
        assert_eq!(noter.trouble(), None);
        std::fs::create_dir(&directory).unwrap();
        until("another try", || says(&note, position(3)));
        until("word of it", || noter.trouble().is_some_and(|trouble| trouble.contains("is written again")));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_start_whose_position_cannot_be_noted_fails_and_leaves_the_note() {
        let (directory, note) = note("start");
        let before = note.noted(position(1), &[1, SEED]);
        note.write(&before).unwrap();
        std::fs::rename(note.path(), directory.join("kept")).unwrap();
        std::fs::create_dir(note.path()).unwrap();
        let refused = Noter::start(note.clone(), Some(position(2)), SEED, || ()).map(drop).unwrap_err().0;
        assert!(refused.contains("cannot be written") && refused.contains("serve again"), "{refused}");
        assert!(note.path().is_dir());
        // A read-only start writes nothing.
        let (_noter, noting) = Noter::start(note.clone(), None, SEED, || ()).unwrap();
        drop(noting);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// The write fails: the old note, which would prove a state that the array has left, is removed.
    #[test]
    fn a_note_that_cannot_be_replaced_is_removed() {
        let (directory, note) = note("replaced");
        let mut writer = Writer { note: note.clone(), seed: SEED, file: None };
        std::os::unix::fs::symlink("elsewhere", note.path()).unwrap();
        let error = writer.write(position(1)).unwrap_err();
        let trouble = writer.give_up(&error);
        assert!(trouble.contains("no later server could take /dev/ublkb4 over"), "{trouble}");
        assert!(note.path().symlink_metadata().is_err());
        writer.write(position(1)).unwrap();
        std::fs::remove_file(note.path()).unwrap();
        std::fs::create_dir(note.path()).unwrap();
        let trouble = writer.give_up(&error);
        assert!(trouble.contains("cannot be removed"), "{trouble}");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_late_note_is_told() {
        let (directory, note) = note("late");
        let writer = Writer { note: note.clone(), seed: SEED, file: None };
        assert_eq!(writer.too_late(NOTE_TIME_MAX_NS - 1), None);
        assert!(writer.too_late(7_900_000_000).unwrap().contains("ublkb4.note: took 7 s"));
        let common = Common::default();
        assert_eq!(common.hangs(&note, 1 << 40), None);
        common.writing_since_ns.store(1, Ordering::Relaxed);
        assert_eq!(common.hangs(&note, NOTE_TIME_MAX_NS), None);
        assert!(
            common.hangs(&note, NOTE_TIME_MAX_NS + 1).is_some_and(|told| told.contains("is being written"))
        );
        // The note is readable only by the server's user.
        note.write(&note.noted(position(1), &[])).unwrap();
        assert_eq!(note.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
