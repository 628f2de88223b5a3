//! The note of a block device: the state in which its server left the array.
//!
//! A block device outlives its server and has hosts, often a mounted file system whose cached state relies on
//! every acknowledged byte. On members in another state (a copy, an older image, an array that was served
//! elsewhere meanwhile) that file system destroys itself. The device's mark says only which array it belongs
//! to, and a copy has the same name and UUID. So the server keeps a file in its run directory, `ublkbN.note`:
//!
//! ```text
//!   striate note 2
//!   boot 5f0c...            the boot id of the kernel
//!   device 0 1a7            its number, and what tells it from an earlier device with that number
//!   array 3f0a...           its UUID
//!   epoch 12 9c41...        number and id (hexadecimal) of the record's epoch
//!   moves 7                 the moves within it (docs/epochs.md)
//!   seeds 77b2... 09d1...   source of the ids of later epochs (`EpochName::next_id`), one seed
//!                           for each server that may have begun such an epoch
//!   end
//! ```
//!
//! When the note is written, and its content ("start" is the start of a server):
//!
//! | when | epoch and moves | seeds |
//! |---|---|---|
//! | device made; the start has written nothing | as found on the members | this server's |
//! | before a take-over; the start has written nothing | as noted, or later (1) | noted, and this server's |
//! | the start has written its epoch; no reactor runs | that epoch | this server's |
//! | the record changes in service (2) | the change | this server's |
//! | before `grow` writes | as noted | noted, and the growth's |
//!
//! (1) A later state is noted if all participants prove it. (2) The note is written before anything relies on
//! the change (shared/noting.rs). A read-only server begins no epoch and has no seed.
//!
//! [`Note::check`] makes the proof: the members must hold the noted epoch with at least as many moves, or an
//! epoch that descends from it through epochs whose ids are made from the noted seeds.
//!
//! - Older members hold fewer moves, or an earlier epoch. (An image that is younger than the last move cannot
//!   be recognised; see docs/epochs.md, "What is not proven".)
//! - Members that were served elsewhere hold an epoch that another server began. Its id is made from another
//!   random seed, and only the server that began an epoch makes moves within it.
//! - A server that is killed between a change of its record and the note of that change leaves the members
//!   ahead of the note. Nothing relied on that change. There may be several such changes: a change that loses
//!   a write is not noted, and another change follows. The same holds for a start or a growth that was
//!   interrupted or failed.
//! - A failed start may have found a change on a member that is missing at the next start. So the failed
//!   start's note repeats what the note before it said, not what was found.
//! - A note of an earlier boot or of an earlier device proves nothing.
//! - Without a note there is no proof: the run directory was cleaned or is another one, or the server's
//!   version had no notes.
//!
//! A note is written into the page cache and not flushed: the page cache lives as long as the kernel, and so
//! does the device. The note is written in place, into its only page, so that a full file system of the run
//! directory does not lose it. A write that fails before the array has changed leaves the earlier note, which
//! is still true.

mod noted;
mod taking;

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use noted::DeviceName;
pub(super) use noted::Noted;
pub(super) use taking::Taking;

use super::ServerError;
use super::bounded::each_within;
use crate::array::Position;
use crate::format::superblock::Record;
use crate::limits::NOTE_TIME_MAX_NS;

/// Path of the boot id, which differs for each boot of the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Directory in which the kernel lists the driver's character devices, from ADD_DEV to DEL_DEV.
const DEVICES: &str = "/sys/class/ublk-char";

/// The note of one device.
#[derive(Clone, Debug)]
pub(super) struct Note {
    path: PathBuf,
    /// Boot id; `None` if it cannot be read, and then no note can be proven to be of this boot.
    boot: Option<String>,
    device: DeviceName,
    array: Uuid,
}

/// Why members are not proven to be in the state in which the server of a block device left them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NotProven {
    /// No note says in which state the members were left.
    NoNote,
    /// The note is of an earlier boot, another device or another array.
    OtherNote,
    /// The members hold an older state than was noted.
    Older(Position),
    /// The members hold a state that the device's server did not write.
    Other(Position),
}

/// The content of a file that should be a note.
enum Content {
    Nothing,
    /// The file is no valid note: a torn one, or one of another version.
    Unknown,
    Note(Noted),
}

impl Note {
    /// The note of a device in a run directory; writes nothing yet.
    pub(super) fn of(run_dir: &Path, number: u32, array: Uuid) -> Note {
        let device = DeviceName { number, instance: instance(number) };
        Note { path: run_dir.join(format!("ublkb{number}.note")), boot: boot_id(), device, array }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn number(&self) -> u32 {
        self.device.number
    }

    /// The content of a note for this device.
    pub(super) fn noted(&self, position: Position, seeds: &[u64]) -> Noted {
        let boot = self.boot.clone().unwrap_or_default();
        Noted { boot, device: self.device, array: self.array, position, seeds: seeds.to_vec() }
    }

    /// Opens the note's file for writing, and creates it if it does not exist.
    pub(super) fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&self.path)
    }

    /// Writes the note before the array is changed. Waits for the file system for some seconds. If the write
    /// fails, the earlier note is kept.
    pub(super) fn write(&self, noted: &Noted) -> Result<(), ServerError> {
        let bytes = noted.encode();
        let written = self.within(move |note| note.open().and_then(|file| file.write_all_at(&bytes, 0)));
        written.map_err(|error| {
            ServerError(format!(
                "{}: cannot be written: {error}: nothing has been changed; without the note no later server could take /dev/ublkb{} over: \
                 see to the run directory, and serve again",
                self.path.display(),
                self.device.number
            ))
        })
    }

    /// Removes the note of a device that no longer exists, unless the note is by now that of a later device
    /// with the same number. Waits for the file system for some seconds.
    pub(super) fn remove(&self) {
        let act = |note: Note| match content(&note.path)? {
            Content::Note(noted) if !note.device.is(&noted.device) => Ok(()),
            Content::Note(_) | Content::Unknown | Content::Nothing => std::fs::remove_file(&note.path),
        };
        Taking::of(self).end();
        // Ignore an error: a note without its device proves nothing, since no later device has its instance.
        let _ = self.within(act);
    }

    /// Refuses members that are not in the state in which the device's server left them; returns the note's
    /// content.
    pub(super) fn check(&self, record: &Record) -> Result<Noted, ServerError> {
        let (device, name) = (self.device.number, record.name);
        let run_dir = self.path.parent().unwrap_or(&self.path).display();
        let waits = format!("/dev/ublkb{device} waits for this array");
        let give_up = format!(
            "give the device up with `striate stop --force {name}`, which fails its I/O, and serve again"
        );
        let content = self.within(|note| content(&note.path)).map_err(|error| {
            ServerError(format!(
                "{waits}, and {}: cannot be read: {error}: serve again when it can",
                self.path.display()
            ))
        })?;
        let noted = match content {
            Content::Note(noted) => Some(noted),
            Content::Nothing => None,
            Content::Unknown => {
                return Err(ServerError(format!(
                    "{waits}, and {} is not a note that this version understands: serve with the version that wrote it; or {give_up}",
                    self.path.display()
                )));
            }
        };
        let here = at(Position::of(record));
        match (self.prove(noted.as_ref(), record), noted) {
            (Ok(()), Some(noted)) => Ok(noted),
            (Err(NotProven::NoNote), _) | (Ok(()), None) => Err(ServerError(format!(
                "{waits}, and {run_dir} has no note of the state in which its server left the members: \
                 serve with the --run-dir of that server; if it was of a version before notes, serve with that version again, unmount \
                 and stop; or {give_up}"
            ))),
            (Err(NotProven::OtherNote), _) => Err(ServerError(format!(
                "{waits}, and {} is of another device, another array or an earlier boot: serve with the --run-dir of the device's server; \
                 or {give_up}",
                self.path.display()
            ))),
            (Err(NotProven::Older(left)), _) => Err(ServerError(format!(
                "{waits}, and its server left it at {}: these members are at {here}, which is older \
                 (a copy, a snapshot, or members that were set back), and would destroy what is mounted: serve the members that it \
                 had; or {give_up}",
                at(left)
            ))),
            (Err(NotProven::Other(left)), _) => Err(ServerError(format!(
                "{waits}, and its server left it at {}: these members are at {here}, which is not what \
                 that server wrote (they were served or changed without the device since, or are a copy that was), and would \
                 destroy what is mounted: serve the members that it had; or {give_up}",
                at(left)
            ))),
        }
    }

    fn prove(&self, noted: Option<&Noted>, record: &Record) -> Result<(), NotProven> {
        let noted = noted.ok_or(NotProven::NoNote)?;
        if !self.is_mine(noted) {
            return Err(NotProven::OtherNote);
        }
        let (here, left) = (record.epoch, noted.position);
        if here.name == left.epoch {
            return if record.moves >= left.moves { Ok(()) } else { Err(NotProven::Older(left)) };
        }
        // The ids of the epochs since the noted one, newest first.
        let line = std::iter::once(here.name.id).chain(here.line);
        let since: Vec<u64> = line.take_while(|id| *id != left.epoch.id && *id != 0).collect();
        let is_after_noted =
            (1..=here.line.len()).contains(&since.len()) && here.line[since.len() - 1] == left.epoch.id;
        if is_after_noted && since.iter().all(|id| noted.is_of_its_servers(*id, here.name.number)) {
            return Ok(());
        }
        Err(if here.name.number < left.epoch.number {
            NotProven::Older(left)
        } else {
            NotProven::Other(left)
        })
    }

    fn is_mine(&self, noted: &Noted) -> bool {
        self.boot.as_ref() == Some(&noted.boot) && self.device.is(&noted.device) && noted.array == self.array
    }

    /// Does something with the file on a helper thread; an error if that does not end in time.
    fn within<T: Send + 'static>(
        &self,
        act: impl Fn(Note) -> io::Result<T> + Clone + Send + 'static,
    ) -> io::Result<T> {
        let patience = Duration::from_nanos(NOTE_TIME_MAX_NS);
        let mut results = each_within(vec![self.clone()], patience, act);
        let late = || io::Error::new(ErrorKind::TimedOut, "the file system does not answer");
        results.pop().flatten().unwrap_or_else(|| Err(late()))
    }
}

/// Adds one more server, which is about to change the members, to the notes of devices that wait for exactly
/// the members of this record: the notes then prove its epochs too. Returns the numbers of these devices.
pub(super) fn announce(run_dir: Option<&Path>, record: &Record, seed: u64) -> Result<Vec<u32>, ServerError> {
    let Some(run_dir) = run_dir else { return Ok(Vec::new()) };
    let entries = match std::fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ServerError(format!("cannot list {}: {error}", run_dir.display()))),
    };
    let number = |name: &str| name.strip_prefix("ublkb")?.strip_suffix(".note")?.parse::<u32>().ok();
    let mut announced = Vec::new();
    for number in entries.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)) {
        let note = Note::of(run_dir, number, record.array);
        let content = note.within(|note| content(&note.path)).map_err(|error| {
            ServerError(format!("{}: cannot be read: {error}: nothing has been changed", note.path.display()))
        })?;
        if let Content::Note(noted) = content
            && note.prove(Some(&noted), record).is_ok()
        {
            note.write(&noted.and_by(seed))?;
            announced.push(number);
        }
    }
    Ok(announced)
}

/// Describes a position in words.
fn at(position: Position) -> String {
    let Position { epoch, moves } = position;
    format!("epoch {}, {} {}", epoch.number, moves, if moves == 1 { "move" } else { "moves" })
}

fn boot_id() -> Option<String> {
    std::fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_string()).filter(|id| !id.is_empty())
}

fn instance(number: u32) -> u64 {
    std::fs::metadata(format!("{DEVICES}/ublkc{number}")).map_or(0, |entry| entry.ino())
}

/// Reads the content of a file; an error if the file cannot be read.
fn content(path: &Path) -> io::Result<Content> {
    match std::fs::read(path) {
        // An empty file: the file system was full after the file was created and before anything was written.
        Ok(bytes) if bytes.is_empty() => Ok(Content::Nothing),
        Ok(bytes) => Ok(Noted::decode(&bytes).map_or(Content::Unknown, Content::Note)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Content::Nothing),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::noted::{NOTE_BYTES, SEEDS_MAX};
    use super::*;
    use crate::assembly::{NewArray, create};
    use crate::format::host::Host;
    use crate::format::label::Label;
    use crate::format::superblock::EpochName;
    use crate::format::zones::zones;
    use crate::format::{Level, Shape};

    /// Seeds of two servers, and the epoch that most tests note.
    const A: u64 = 0x77;
    const B: u64 = 0x88;
    const EPOCH: EpochName = EpochName { number: 5, id: 0x50 };

    fn record(number: u64, id: u64, line: &[u64], moves: u64) -> Record {
        let shape = Shape { level: Level::Raid5, members: 3, chunk_bytes: 4096 };
        let array = Uuid::from_u128(7);
        let members: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
        let new = NewArray {
            array,
            name: Label::new("t0").unwrap(),
            host: Host::ANY,
            created_s: 1,
            shape,
            zones: zones(64 << 20, &shape).unwrap(),
            logical_block_bytes: 512,
            members: &members,
            epoch_id: 1,
        };
        let mut record = create(&new)[0].superblock.record.clone();
        record.epoch.name = EpochName { number, id };
        record.epoch.line[..line.len()].copy_from_slice(line);
        record.moves = moves;
        record
    }

    /// The id of the epoch that the server with this seed begins after the epoch with this number.
    fn after(number: u64, seed: u64) -> u64 {
        EpochName { number, id: 0 }.next_id(seed)
    }

    fn temporary(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("striate-note-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn example() -> (Note, Noted) {
        let device = DeviceName { number: 4, instance: 40 };
        let note = Note { path: "n".into(), boot: Some("b".into()), device, array: Uuid::from_u128(7) };
        let noted = note.noted(Position { epoch: EPOCH, moves: 3 }, &[A]);
        (note, noted)
    }

    #[test]
    fn only_the_state_that_was_left_is_proven() {
        let (note, noted) = example();
        let (older, other) = (Err(NotProven::Older(noted.position)), Err(NotProven::Other(noted.position)));
        let (six, seven) = (after(5, A), after(6, A));
        for (what, found, expected) in [
            ("as it was left", record(5, 0x50, &[0x40], 3), Ok(())),
            ("a change that landed and was not noted", record(5, 0x50, &[0x40], 4), Ok(())),
            ("an epoch that landed and was not noted", record(6, six, &[0x50, 0x40], 0), Ok(())),
            ("an epoch that lost a write, and the next", record(7, seven, &[six, 0x50, 0x40], 2), Ok(())),
            ("an image from before the last move", record(5, 0x50, &[0x40], 2), older.clone()),
            ("an image from before the epoch", record(4, 0x40, &[0x30], 9), older.clone()),
            ("an older life, restored and served elsewhere", record(5, 0x51, &[0x40], 3), other.clone()),
            ("served by another since", record(6, 0x60, &[0x50], 0), other.clone()),
            ("served by another since, and again", record(7, 0x70, &[0x60, 0x50], 0), other.clone()),
            (
                "served by another since, then by its server",
                record(7, seven, &[0x60, 0x50], 0),
                other.clone(),
            ),
            ("the next epoch, of an image from before", record(6, six, &[0x40], 0), other.clone()),
            ("the next epoch, of no known parent", record(6, six, &[], 0), other.clone()),
            ("an epoch of its server of long ago", record(7, after(4, A), &[six, 0x50], 0), other.clone()),
        ] {
            assert_eq!(note.prove(Some(&noted), &found), expected, "{what}");
        }
        let left = record(5, 0x50, &[0x40], 3);
        let device = |number, instance| DeviceName { number, instance };
        for noted in [
            Noted { boot: "another".into(), ..noted.clone() },
            Noted { device: device(5, 40), ..noted.clone() },
            Noted { device: device(4, 41), ..noted.clone() },
            Noted { array: Uuid::from_u128(8), ..noted.clone() },
        ] {
            assert_eq!(note.prove(Some(&noted), &left), Err(NotProven::OtherNote), "{noted:?}");
        }
        assert_eq!(note.prove(None, &left), Err(NotProven::NoNote));
        // A read-only server begins no epoch.
        let read_only = Noted { seeds: Vec::new(), ..noted.clone() };
        assert_eq!(note.prove(Some(&read_only), &left), Ok(()));
        assert!(note.prove(Some(&read_only), &record(6, six, &[0x50], 0)).is_err());
        // Without sysfs the number alone decides; without a boot id nothing is proven.
        assert_eq!(note.prove(Some(&Noted { device: device(4, 0), ..noted.clone() }), &left), Ok(()));
        let unknown = Note { boot: None, ..note };
        assert!(unknown.prove(Some(&Noted { boot: String::new(), ..noted }), &left).is_err());
    }

    /// A server took the device over and died before its epoch was noted: the members are where the first
    /// server left them, or where either of the two servers brought them.
    #[test]
    fn a_start_that_failed_leaves_what_was_noted() {
        let (note, noted) = example();
        let noted = noted.and_by(B);
        let six_a = after(5, A);
        for (what, found) in [
            ("nothing was written", record(5, 0x50, &[0x40], 3)),
            ("the member with the last change of the first is gone", record(6, after(5, B), &[0x50], 0)),
            ("it was there", record(7, after(6, B), &[six_a, 0x50], 0)),
            ("and a member failed in the start", record(8, after(7, B), &[after(6, B), six_a, 0x50], 0)),
        ] {
            assert_eq!(note.prove(Some(&noted), &found), Ok(()), "{what}");
        }
        // Repeated starts: what each start wrote reached all members, and then the start failed.
        let (mut noted, mut found) = (noted, record(7, after(6, B), &[six_a, 0x50], 0));
        for seed in 1000..1100 {
            assert_eq!(note.prove(Some(&noted), &found), Ok(()), "start {seed}");
            noted = noted.up_to(&found, Some(0)).and_by(seed);
            assert_eq!(note.prove(Some(&noted), &found), Ok(()), "nothing was written by start {seed}");
            let EpochName { number, id } = found.epoch.name;
            let mut line = found.epoch.line;
            line.rotate_right(1);
            line[0] = id;
            found = record(number + 1, after(number, seed), &line, 0);
        }
        // Starts that wrote nothing: the change of the server before them was not noted, and still is proven.
        let (note, noted) = example();
        let noted = (0..20)
            .fold(noted, |noted, seed| noted.up_to(&record(5, 0x50, &[0x40], 3), Some(2)).and_by(seed));
        assert_eq!(noted.seeds.len(), SEEDS_MAX);
        assert_eq!(note.prove(Some(&noted), &record(6, six_a, &[0x50], 0)), Ok(()));
        assert!(
            note.prove(Some(&noted), &record(5, 0x50, &[0x40], 2)).is_err(),
            "what is proven is not ahead of the note"
        );
        let longest = Noted {
            boot: "5f0c2c1e-71d4-60aa-9bd3-5e0c6f3a4f0b".into(),
            device: DeviceName { number: u32::MAX, instance: u64::MAX },
            array: Uuid::from_u128(u128::MAX),
            position: Position { epoch: EpochName { number: u64::MAX, id: u64::MAX }, moves: u64::MAX },
            seeds: vec![u64::MAX; SEEDS_MAX],
        };
        assert_eq!(Noted::decode(&longest.encode()), Some(longest));
    }

    #[test]
    fn a_note_is_written_and_found_again() {
        let directory = temporary("found");
        let note = Note::of(&directory, 4, Uuid::from_u128(7));
        let found = record(5, 0x50, &[0x40], 3);
        let refused = note.check(&found).unwrap_err().0;
        assert!(refused.contains("/dev/ublkb4 waits") && refused.contains("has no note"), "{refused}");
        assert!(refused.contains("`striate stop --force t0`"), "{refused}");
        let long =
            note.noted(Position { epoch: EpochName { number: 1 << 60, id: 1 }, moves: 1 << 60 }, &[1; 8]);
        note.write(&long).unwrap();
        let noted = note.noted(Position::of(&found), &[A]);
        note.write(&noted).unwrap();
        assert_eq!(note.check(&found).unwrap(), noted);
        let refused = note.check(&record(5, 0x50, &[0x40], 2)).unwrap_err().0;
        assert!(
            refused.contains("left it at epoch 5, 3 moves: these members are at epoch 5, 2 moves"),
            "{refused}"
        );
        let path = directory.join("ublkb4.note");
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len(), NOTE_BYTES);
        // A part of a note is no note, and neither is any other content.
        let end = String::from_utf8(whole.clone()).unwrap().trim_end().len();
        for len in 0..end {
            assert_eq!(Noted::decode(&whole[..len]), None, "{len} bytes");
        }
        for other in
            [vec![0xff; 600], String::from_utf8(whole).unwrap().replace("note 2", "note 3").into_bytes()]
        {
            std::fs::write(&path, other).unwrap();
            assert!(note.check(&found).unwrap_err().0.contains("not a note that this version understands"));
        }
        note.remove();
        assert!(!path.exists());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// A growth begins an epoch that the device's server did not begin; the note allows for that in advance.
    #[test]
    fn a_growth_is_announced() {
        const GROWTH: u64 = 0x66;
        let directory = temporary("growth");
        let found = record(5, 0x50, &[0x40], 3);
        let grown = record(6, after(5, GROWTH), &[0x50], 0);
        let note = Note::of(&directory, 4, Uuid::from_u128(7));
        note.write(&note.noted(Position::of(&found), &[A])).unwrap();
        let copy = record(4, 0x40, &[0x30], 3);
        assert_eq!(announce(Some(&directory), &copy, GROWTH).unwrap(), [0u32; 0]);
        note.check(&grown).expect_err("an old copy that grows changes no note");
        assert_eq!(announce(Some(&directory), &found, GROWTH).unwrap(), [4]);
        for (what, found) in [
            ("it was carried out", grown),
            ("it was cut before it wrote", found),
            ("a member failed in it", record(7, after(6, GROWTH), &[after(5, GROWTH), 0x50], 0)),
            ("what the server had begun is on a member", record(6, after(5, A), &[0x50], 0)),
        ] {
            note.check(&found).expect(what);
        }
        assert_eq!(announce(None, &copy, GROWTH).unwrap(), [0u32; 0]);
        assert_eq!(announce(Some(&directory.join("none")), &copy, GROWTH).unwrap(), [0u32; 0]);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// An error of the file system does not destroy the proof, and is not reported as a missing note.
    #[test]
    fn a_write_that_fails_leaves_the_note() {
        let directory = temporary("failed");
        let found = record(5, 0x50, &[0x40], 3);
        let note = Note::of(&directory.join("none"), 4, Uuid::from_u128(7));
        let noted = note.noted(Position::of(&found), &[A]);
        let failed = note.write(&noted).unwrap_err().0;
        assert!(
            failed.contains("ublkb4.note: cannot be written") && failed.contains("nothing has been changed"),
            "{failed}"
        );
        // A symbolic link is neither followed nor removed.
        let note = Note::of(&directory, 4, Uuid::from_u128(7));
        std::os::unix::fs::symlink(directory.join("elsewhere"), note.path()).unwrap();
        note.write(&noted).unwrap_err();
        assert!(note.path().symlink_metadata().is_ok() && !directory.join("elsewhere").exists());
        std::fs::remove_file(note.path()).unwrap();
        // A file that cannot be read does not count as a missing one.
        std::fs::create_dir(note.path()).unwrap();
        let refused = note.check(&found).unwrap_err().0;
        assert!(refused.contains("cannot be read"), "{refused}");
        announce(Some(&directory), &found, A).unwrap_err();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// A device is removed, another device gets its number, and only then the note of the first is removed.
    #[test]
    fn the_note_of_a_later_device_stays() {
        let directory = temporary("later");
        let (mut note, _) = example();
        note.path = directory.join("ublkb0.note");
        let mut later = note.clone();
        (note.device.instance, later.device.instance) = (1, 2);
        let noted = later.noted(Position { epoch: EPOCH, moves: 1 }, &[A]);
        later.write(&noted).unwrap();
        note.remove();
        assert!(note.path.exists(), "it is of a later device");
        later.remove();
        assert!(!note.path.exists());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
