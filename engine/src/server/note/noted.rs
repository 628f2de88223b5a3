//! The content of a note, as text: which device waits for which array in which state.

use uuid::Uuid;

use crate::array::Position;
use crate::format::superblock::{EpochName, Record};

/// Fixed length of a note, so that writing one in place leaves nothing of a longer earlier note.
pub const NOTE_BYTES: usize = 512;
const HEAD: &str = "striate note 2";
/// Most servers that are noted as possible authors of epochs since the last one that ran. Beyond that the
/// oldest failed start is dropped, and the note proves less.
pub const SEEDS_MAX: usize = 8;
/// Largest distance between the noted epoch and the members' epoch, in epoch numbers.
const EPOCHS_AHEAD_MAX: u64 = 1024;

/// Name of a ublk block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceName {
    pub number: u32,
    /// Inode of the device's entry in sysfs, which no later device gets (`kernfs_ino` of 64 bits); 0 if sysfs
    /// cannot be read.
    pub instance: u64,
}

impl DeviceName {
    /// Whether the two names are of one device. If sysfs could not be read, the number alone decides.
    pub fn is(&self, other: &DeviceName) -> bool {
        let is_known = self.instance != 0 && other.instance != 0;
        self.number == other.number && (!is_known || self.instance == other.instance)
    }
}

/// The content of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub boot: String,
    pub device: DeviceName,
    pub array: Uuid,
    pub position: Position,
    pub seeds: Vec<u64>,
}

impl Noted {
    /// Moves this note on to the state that all members have for certain (`proven_moves`). Without this step
    /// a series of failed starts, each of which got its epoch onto the members, would move further from the
    /// noted epoch than a record lists its ancestors.
    pub fn up_to(mut self, record: &Record, proven_moves: Option<u64>) -> Noted {
        if let Some(moves) = proven_moves {
            let epoch = record.epoch.name;
            let is_ahead = epoch != self.position.epoch || moves > self.position.moves;
            self.position = if is_ahead { Position { epoch, moves } } else { self.position };
        }
        self
    }

    /// Adds one more server that may begin epochs from now on.
    pub fn and_by(mut self, seed: u64) -> Noted {
        // Keep the first seed: it belongs to the server that ran last, which may have made a change that is
        // not in the note.
        if self.seeds.len() == SEEDS_MAX {
            self.seeds.remove(1);
        }
        self.seeds.push(seed);
        self
    }

    /// Whether one of the noted servers gives this id to an epoch with a number up to `newest`.
    pub fn is_of_its_servers(&self, id: u64, newest: u64) -> bool {
        let first = self.position.epoch.number;
        let numbers = first..newest.min(first.saturating_add(EPOCHS_AHEAD_MAX));
        self.seeds
            .iter()
            .any(|seed| numbers.clone().any(|number| EpochName { number, id: 0 }.next_id(*seed) == id))
    }

    pub fn encode(&self) -> Vec<u8> {
        let Noted { boot, device, array, position: Position { epoch, moves }, seeds } = self;
        let seeds: String = seeds.iter().map(|seed| format!(" {seed:016x}")).collect();
        let text = format!(
            "{HEAD}\nboot {boot}\ndevice {} {:x}\narray {array}\nepoch {} {:016x}\nmoves {moves}\nseeds{seeds}\nend\n",
            device.number, device.instance, epoch.number, epoch.id
        );
        let mut bytes = text.into_bytes();
        assert!(bytes.len() <= NOTE_BYTES, "names and numbers of bounded length");
        bytes.resize(NOTE_BYTES, b'\n');
        bytes
    }

    /// Parses a note; `None` if the bytes are no note or only a part of one.
    pub fn decode(bytes: &[u8]) -> Option<Noted> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let mut value = |name: &str| lines.next()?.strip_prefix(name).map(str::trim_start);
        let (boot, device, array, epoch) =
            (value("boot")?, value("device")?, value("array")?, value("epoch")?);
        let (moves, seeds) = (value("moves")?, value("seeds")?);
        if !value("end")?.is_empty() {
            return None;
        }
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (number, id) = epoch.split_once(' ')?;
        let epoch = EpochName { number: number.parse().ok()?, id: hex(id)? };
        let (number, instance) = device.split_once(' ')?;
        let device = DeviceName { number: number.parse().ok()?, instance: hex(instance)? };
        let seeds: Vec<u64> = seeds.split_whitespace().map(hex).collect::<Option<_>>()?;
        let position = Position { epoch, moves: moves.parse().ok()? };
        Some(Noted { boot: boot.into(), device, array: array.parse().ok()?, position, seeds })
            .filter(|noted| noted.seeds.len() <= SEEDS_MAX)
    }
}
