//! The note of a block device: in which state its server left the array.
//!
//! A block device outlives its server and has hosts, often a mounted file system whose memory counts on every byte that was
//! acknowledged. With members in another state (a copy of them, an image from before, the array after it was served elsewhere) that
//! file system destroys itself. The device's mark says only which array it belongs to, and a copy has the same name and UUID. So the
//! server keeps a file in its run directory, `ublkbN.note`:
//!
//! ```text
//!   striate note 1
//!   boot 5f0c...          the kernel's life, which is the device's too
//!   device 0
//!   array 3f0a...         its UUID
//!   epoch 12 9c41...      number and id (hexadecimal) of the record's epoch
//!   moves 7               the moves within it (docs/epochs.md)
//!   next 77b2...          the id that the next epoch has if this server begins it
//!   end
//! ```
//!
//! When it is written, and what it then says:
//!
//! | when | epoch and moves | next |
//! |---|---|---|
//! | a device is made, or is about to be taken over: before the start writes to a member | as found on the members | the start's own epoch |
//! | the start has written its epoch: before the reactors run | that epoch | of the running server |
//! | the record changes while the server runs: before anything relies on the change (array/noting.rs) | the change | of the running server |
//! | `grow`, before it writes | as found | the epoch of the growth |
//! | a read-only server makes or takes over a device | as found | none: 0 |
//!
//! [`check`] is the proof: the members hold the noted epoch with at least as many moves, or its child with the id `next`.
//!
//! - Older members hold fewer moves, or an earlier epoch. (Nothing tells an image that is younger than the last move; see
//!   docs/epochs.md, "What is not proven".)
//! - Newer members hold an epoch that some other server began. Its id is random, so it is not `next`, and the moves within an epoch are
//!   those of the one server that began it.
//! - A server killed between a change of its record and the note of it left the members one change ahead of the note: more moves, or
//!   the epoch `next`. Nothing relied on that change. The same holds for a start or a growth that was cut. A start that was cut after
//!   a member had failed during it is two epochs ahead, and is refused.
//! - A note of an earlier boot proves nothing: its device is gone, and the number may be another device's.
//! - Without a note there is no proof: the run directory was cleaned or is another one, or the server was of a version without notes.
//!
//! A note is written into the page cache and not flushed: the page cache lives as long as the kernel, and so does the device. It is
//! written in place, into the one page that it has, so that a run directory without room for a new file does not lose it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam::channel::bounded;
use uuid::Uuid;

use super::ServerError;
use crate::array::{Noting, Position};
use crate::assembly::Roster;
use crate::clock::{Clock, MonotonicClock};
use crate::format::superblock::{EpochName, Record};
use crate::limits::NOTE_TIME_MAX_NS;

/// A note has this length, filled up with newlines: what was longer before leaves nothing behind.
const NOTE_BYTES: usize = 512;
const HEAD: &str = "striate note 1";
/// A file that has another content in each life of the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The note of one device.
pub(super) struct Note {
    path: PathBuf,
    boot: String,
    device: u32,
    array: Uuid,
}

/// The content of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Noted {
    boot: String,
    device: u32,
    array: Uuid,
    position: Position,
}

/// Why members are not in the state in which the server of a block device left them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NotProven {
    /// Nothing says in which state they were left.
    NoNote,
    /// They hold less than was noted.
    Older(Position),
    /// They hold what the server of the device did not write.
    Other(Position),
}

impl Note {
    /// The note of a device in a run directory; nothing is written yet.
    pub(super) fn of(run_dir: &Path, device: u32, array: Uuid) -> Note {
        Note { path: run_dir.join(format!("ublkb{device}.note")), boot: boot_id(), device, array }
    }

    /// Writes the note. If that fails, no note is left, so that none proves what is not so.
    pub(super) fn write(&self, position: Position) -> Result<(), ServerError> {
        let noted = Noted { boot: self.boot.clone(), device: self.device, array: self.array, position };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let written = options.open(&self.path).and_then(|file| file.write_all_at(&noted.encode(), 0));
        written.map_err(|error| {
            self.remove();
            ServerError(format!(
                "{}: cannot be written: {error}: without it no later server can take /dev/ublkb{} over: make room in the run directory",
                self.path.display(),
                self.device
            ))
        })
    }

    /// A warning about a note that took too long.
    fn too_late(&self, took_ns: u64) -> Option<String> {
        (took_ns >= NOTE_TIME_MAX_NS).then(|| {
            format!(
                "{}: took {} s to write, and the array did not wait so long: a server that took /dev/ublkb{} over meanwhile could not \
                 have told these members from older ones; keep the run directory in memory (tmpfs)",
                self.path.display(),
                took_ns / 1_000_000_000,
                self.device
            )
        })
    }

    /// Removes the note of a device that has gone.
    pub(super) fn remove(&self) {
        // A note without a device says nothing to anyone.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Refuses members that are not in the state in which the device's server left them.
    pub(super) fn check(&self, record: &Record) -> Result<(), ServerError> {
        let noted = std::fs::read(&self.path).ok().and_then(|bytes| Noted::decode(&bytes));
        self.prove(noted.as_ref(), record).map_err(|why| {
            let (device, name, run_dir) = (self.device, record.name, self.path.parent().unwrap_or(&self.path).display());
            let give_up = format!("give the device up with `striate stop --force {name}`, which fails its I/O, and serve again");
            let here = at(record.epoch.name, record.moves);
            ServerError(match why {
                NotProven::NoNote => format!(
                    "/dev/ublkb{device} waits for this array, and {run_dir} has no note of the state in which its server left the members: \
                     serve with the --run-dir of that server; if it was of a version before notes, serve with that version again, unmount \
                     and stop; or {give_up}"
                ),
                NotProven::Older(left) => format!(
                    "/dev/ublkb{device} waits for this array, and its server left it at {}: these members are at {here}, which is older \
                     (a copy, a snapshot, or members that were set back), and would destroy what is mounted: serve the members that it \
                     had; or {give_up}",
                    at(left.epoch, left.moves)
                ),
                NotProven::Other(left) => format!(
                    "/dev/ublkb{device} waits for this array, and its server left it at {}: these members are at {here}, which is not what \
                     that server wrote (they were served or changed without the device since, or are a copy that was), and would \
                     destroy what is mounted: serve the members that it had; or {give_up}",
                    at(left.epoch, left.moves)
                ),
            })
        })
    }

    fn prove(&self, noted: Option<&Noted>, record: &Record) -> Result<(), NotProven> {
        let is_mine = |noted: &&Noted| {
            noted.boot == self.boot && noted.device == self.device && noted.array == self.array
        };
        let left = noted.filter(is_mine).ok_or(NotProven::NoNote)?.position;
        let here = record.epoch;
        if here.name == left.epoch {
            return if record.moves >= left.moves { Ok(()) } else { Err(NotProven::Older(left)) };
        }
        if here.name.id == left.next_id && here.line[0] == left.epoch.id {
            return Ok(());
        }
        Err(if here.name.number < left.epoch.number {
            NotProven::Older(left)
        } else {
            NotProven::Other(left)
        })
    }
}

/// Lets the notes of devices that wait for exactly the members of this record prove one epoch more, which has the id `next_id` and is
/// about to be written.
pub(super) fn announce(run_dir: Option<&Path>, record: &Record, next_id: u64) -> Result<(), ServerError> {
    let Some(entries) = run_dir.and_then(|run_dir| std::fs::read_dir(run_dir).ok()) else { return Ok(()) };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let noted =
            path.extension().filter(|extension| *extension == "note").and_then(|_| std::fs::read(&path).ok());
        let Some(noted) = noted.and_then(|bytes| Noted::decode(&bytes)) else { continue };
        let note = Note { path, boot: boot_id(), device: noted.device, array: record.array };
        if note.prove(Some(&noted), record).is_ok() {
            note.write(as_found(record, next_id))?;
        }
    }
    Ok(())
}

/// The position of a record that was found, before an epoch with the id `next_id` is begun; 0 if none will be.
pub(super) const fn as_found(record: &Record, next_id: u64) -> Position {
    Position { epoch: record.epoch.name, moves: record.moves, next_id }
}

/// A position in words.
fn at(epoch: EpochName, moves: u64) -> String {
    format!("epoch {}, {} {}", epoch.number, moves, if moves == 1 { "move" } else { "moves" })
}

fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).map_or_else(|_| "unknown".into(), |id| id.trim().to_string())
}

impl Noted {
    fn encode(&self) -> Vec<u8> {
        let Noted { boot, device, array, position: Position { epoch, moves, next_id } } = self;
        let text = format!(
            "{HEAD}\nboot {boot}\ndevice {device}\narray {array}\nepoch {} {:016x}\nmoves {moves}\nnext {next_id:016x}\nend\n",
            epoch.number, epoch.id
        );
        let mut bytes = text.into_bytes();
        assert!(bytes.len() <= NOTE_BYTES, "names and numbers of bounded length");
        bytes.resize(NOTE_BYTES, b'\n');
        bytes
    }

    /// `None` for what is no note, or not a whole one.
    fn decode(bytes: &[u8]) -> Option<Noted> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::to_string);
        if value("striate")? != HEAD.strip_prefix("striate ")? {
            return None;
        }
        let (boot, device, array, epoch) =
            (value("boot")?, value("device")?, value("array")?, value("epoch")?);
        let (moves, next_id) = (value("moves")?, value("next")?);
        let (number, id) = epoch.split_once(' ')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let epoch = EpochName { number: number.parse().ok()?, id: hex(id)? };
        let position = Position { epoch, moves: moves.parse().ok()?, next_id: hex(&next_id)? };
        let noted = Noted { boot, device: device.parse().ok()?, array: array.parse().ok()?, position };
        (lines.next()? == "end").then_some(noted)
    }
}

/// Writes the notes of a running server, on a thread of its own: the steward must not wait for a file system.
pub(super) struct Noter {
    note: Arc<Note>,
    /// Why the last note was not written, until somebody is told.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Noter {
    /// Notes the record as the start has left it (`None`: a read-only start has left it as it was found), and starts the thread, which
    /// first calls `limit`, and ends when the array's half is dropped.
    pub(super) fn start(
        note: Note,
        roster: Option<&Roster>,
        seed: u64,
        limit: impl FnOnce() + Send + 'static,
    ) -> Result<(Noter, Noting), ServerError> {
        roster.iter().try_for_each(|roster| note.write(Position::of(roster.record(), seed)))?;
        let noter = Noter { note: Arc::new(note), trouble: Arc::default() };
        let (to, positions) = bounded::<Position>(1);
        let ended = Arc::new(AtomicU64::new(0));
        let noting = Noting::to(to, Arc::clone(&ended));
        let (note, trouble) = (Arc::clone(&noter.note), Arc::clone(&noter.trouble));
        let write = move || {
            limit();
            for position in positions {
                let began_ns = MonotonicClock.now_ns();
                let written = note.write(position);
                let took_ns = MonotonicClock.now_ns() - began_ns;
                let found = written.err().map(|error| error.0).or_else(|| note.too_late(took_ns));
                if found.is_some() {
                    *trouble.lock().expect("no holder panics") = found;
                }
                // Release: the file is written before the steward goes on.
                ended.fetch_add(1, Ordering::Release);
            }
        };
        let spawned = std::thread::Builder::new().name("note".into()).spawn(write);
        spawned.map_err(|error: io::Error| ServerError(format!("cannot start a thread: {error}")))?;
        Ok((noter, noting))
    }

    /// Why a note was not written, once.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().expect("no holder panics").take()
    }

    /// Removes the note of a device that has been stopped.
    pub(super) fn remove(&self) {
        self.note.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assembly::{NewArray, create};
    use crate::format::label::Label;
    use crate::format::zones::zones;
    use crate::format::{Level, Shape};

    const NEXT: u64 = 0x77;

    fn record(number: u64, id: u64, parent: u64, moves: u64) -> Record {
        let shape = Shape { level: Level::Raid5, members: 3, chunk_bytes: 4096 };
        let array = Uuid::from_u128(7);
        let members: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
        let new = NewArray {
            array,
            name: Label::new("t0").unwrap(),
            host: Label::EMPTY,
            created_s: 1,
            shape,
            zones: zones(64 << 20, &shape).unwrap(),
            logical_block_bytes: 512,
            members: &members,
            epoch_id: 1,
        };
        let mut record = create(&new)[0].superblock.record.clone();
        record.epoch.name = EpochName { number, id };
        record.epoch.line[0] = parent;
        record.moves = moves;
        record
    }

    fn temporary(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("striate-note-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// Members against a note of epoch 5 (id 0x50) with 3 moves, whose server begins an epoch with the id 0x77 next.
    #[test]
    fn only_the_state_that_was_left_is_proven() {
        let note = Note { path: "n".into(), boot: "b".into(), device: 4, array: Uuid::from_u128(7) };
        let position = Position { epoch: EpochName { number: 5, id: 0x50 }, moves: 3, next_id: NEXT };
        let noted = Noted { boot: "b".into(), device: 4, array: Uuid::from_u128(7), position };
        let (older, other) = (Err(NotProven::Older(position)), Err(NotProven::Other(position)));
        for (what, found, expected) in [
            ("as it was left", record(5, 0x50, 0x40, 3), Ok(())),
            ("a change that landed and was not noted", record(5, 0x50, 0x40, 4), Ok(())),
            ("an epoch that landed and was not noted", record(6, NEXT, 0x50, 0), Ok(())),
            ("an image from before the last move", record(5, 0x50, 0x40, 2), older.clone()),
            ("an image from before the epoch", record(4, 0x40, 0x30, 9), older.clone()),
            ("an older life, restored and served elsewhere", record(5, 0x51, 0x40, 3), other.clone()),
            ("served by another since", record(6, 0x60, 0x50, 0), other.clone()),
            ("served by another since, and again", record(7, 0x70, 0x60, 0), other.clone()),
            ("the next epoch, of an image from before", record(6, NEXT, 0x40, 0), other.clone()),
        ] {
            assert_eq!(note.prove(Some(&noted), &found), expected, "{what}");
        }
        let left = record(5, 0x50, 0x40, 3);
        for noted in [
            Noted { boot: "another".into(), ..noted.clone() },
            Noted { device: 5, ..noted.clone() },
            Noted { array: Uuid::from_u128(8), ..noted.clone() },
        ] {
            assert_eq!(note.prove(Some(&noted), &left), Err(NotProven::NoNote), "{noted:?}");
        }
        assert_eq!(note.prove(None, &left), Err(NotProven::NoNote));
        // A read-only server begins no epoch, and no epoch has the id 0.
        let read_only = Noted { position: Position { next_id: 0, ..position }, ..noted };
        assert_eq!(note.prove(Some(&read_only), &left), Ok(()));
        assert!(note.prove(Some(&read_only), &record(6, NEXT, 0x50, 0)).is_err());
    }

    #[test]
    fn a_note_is_written_and_found_again() {
        let directory = temporary("found");
        let note = Note::of(&directory, 4, Uuid::from_u128(7));
        let found = record(5, 0x50, 0x40, 3);
        let refused = note.check(&found).unwrap_err().0;
        assert!(refused.contains("/dev/ublkb4 waits") && refused.contains("has no note"), "{refused}");
        assert!(refused.contains("`striate stop --force t0`"), "{refused}");
        note.write(as_found(&record(1 << 60, 0x50, 0x40, 1 << 60), u64::MAX)).unwrap();
        note.write(as_found(&found, NEXT)).unwrap();
        note.check(&found).unwrap();
        let refused = note.check(&record(5, 0x50, 0x40, 2)).unwrap_err().0;
        assert!(
            refused.contains("left it at epoch 5, 3 moves: these members are at epoch 5, 2 moves"),
            "{refused}"
        );
        let path = directory.join("ublkb4.note");
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len(), NOTE_BYTES);
        // A part of it is no note, and nor is anything else.
        let text_bytes = whole.iter().position(|&byte| byte == 0).unwrap_or(NOTE_BYTES);
        let end = String::from_utf8(whole[..text_bytes].to_vec()).unwrap().trim_end().len();
        for len in 0..end {
            assert_eq!(Noted::decode(&whole[..len]), None, "{len} bytes");
        }
        std::fs::write(&path, [0xff; 600]).unwrap();
        assert!(note.check(&found).unwrap_err().0.contains("has no note"));
        note.remove();
        assert!(!path.exists());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// A growth begins an epoch that the device's server did not begin; the note says beforehand that it may.
    #[test]
    fn a_growth_is_announced() {
        let directory = temporary("growth");
        let (found, grown) = (record(5, 0x50, 0x40, 3), record(6, 0x66, 0x50, 0));
        let note = Note::of(&directory, 4, Uuid::from_u128(7));
        note.write(as_found(&found, NEXT)).unwrap();
        let copy = record(4, 0x40, 0x30, 3);
        announce(Some(&directory), &copy, 0x66).unwrap();
        note.check(&record(6, NEXT, 0x50, 0)).expect("an old copy that grows changes no note");
        announce(Some(&directory), &found, 0x66).unwrap();
        note.check(&grown).unwrap();
        note.check(&found).expect("the growth may have been cut before it wrote");
        assert!(note.check(&record(6, NEXT, 0x50, 0)).is_err());
        announce(None, &found, 0x66).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_note_that_cannot_be_written_is_told() {
        let directory = temporary("failed");
        let note = Note::of(&directory.join("none"), 4, Uuid::from_u128(7));
        let failed = note.write(as_found(&record(5, 0x50, 0x40, 3), NEXT)).unwrap_err().0;
        assert!(failed.contains("ublkb4.note: cannot be written"), "{failed}");
        assert_eq!(note.too_late(NOTE_TIME_MAX_NS - 1), None);
        assert!(note.too_late(7_900_000_000).unwrap().contains("ublkb4.note: took 7 s"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
