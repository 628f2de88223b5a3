//! Reads the superblocks of a stopped array's members, without assembling the array.
//!
//! Each path gets its own answer: a member that cannot be read or decoded is an entry with an `error`, and
//! does not fail the whole call. Nothing is written, and no member is held open.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::device::{Access, Device, OpenMode, Sharing};
use crate::format::superblock::{Copy, RunState, SlotRecord, SlotState, Superblock, choose};
use crate::limits::BLOCK_BYTES;
use crate::server::ServerError;
use crate::server::bounded::{each_within, no_answer, patience};
use crate::status::MemberState;

/// Result of examining one path.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Examined {
    /// The path as it was given.
    pub path: PathBuf,
    /// Content of the newest valid superblock; `None` if there is none.
    pub superblock: Option<ExaminedSuperblock>,
    /// Why the superblock could not be read, in words; beside a superblock, what is wrong with its other
    /// copy.
    pub error: Option<String>,
    /// Whether the device did not answer, so that its content is unknown.
    pub silent: bool,
    /// Whether the device could not be opened or read: its content is unknown, and another attempt may
    /// succeed.
    #[serde(default)]
    pub unread: bool,
}

/// The content of a superblock, in the words of `docs/format.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExaminedSuperblock {
    /// Name of the array.
    pub name: String,
    /// UUID of the array.
    pub array_uuid: String,
    /// UUID of this member.
    pub member_uuid: String,
    /// Name of the host that created the array or served it last.
    pub host: String,
    /// Id of that host, made from its machine id; empty if an old version, which knew only names, wrote the
    /// superblock.
    #[serde(default)]
    pub host_id: String,
    /// RAID level: 5 or 6.
    pub level: u8,
    /// Chunk size: bytes placed on one member before moving on.
    pub chunk_bytes: u32,
    /// Size of the array as hosts see it.
    pub size_bytes: u64,
    /// Offset on this member at which data begins.
    pub data_offset_bytes: u64,
    /// Slot of this member.
    pub slot: usize,
    /// Incarnation of the array that wrote this superblock.
    pub epoch: u64,
    /// Sequence number; grows with each write of a superblock.
    pub sequence: u64,
    /// Whether the array was stopped cleanly after this superblock was written.
    pub clean: bool,
    /// State of every slot as this member knew it, itself included; one entry per slot.
    pub slots: Vec<ExaminedSlot>,
}

/// State of one slot in a superblock.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExaminedSlot {
    /// State of the slot on record.
    pub state: MemberState,
    /// Epoch in which the slot last took part.
    pub epoch: u64,
    /// First stripe that is not filled yet, for a slot that is being rebuilt.
    pub rebuild_cursor_stripes: Option<u64>,
}

/// Looks at all paths at the same time. Each device may take the member timeout to answer (seconds; 0 = 30).
/// An error means that nothing could be looked at; for errors of single paths see [`Examined::error`].
pub fn examine(paths: &[PathBuf], member_timeout_s: u32) -> Result<Vec<Examined>, ServerError> {
    if paths.is_empty() {
        return Err(ServerError("no member is given".into()));
    }
    let patience = patience(member_timeout_s);
    let looked_at = each_within(paths.to_vec(), patience, |path: PathBuf| look(&path));
    let silent = |path: &PathBuf| Examined {
        path: path.clone(),
        superblock: None,
        error: Some(no_answer(path, patience).0),
        silent: true,
        unread: false,
    };
    Ok(paths.iter().zip(looked_at).map(|(path, found)| found.unwrap_or_else(|| silent(path))).collect())
}

/// Looks at one path, and waits for the device without a timeout.
#[must_use]
pub fn look(path: &Path) -> Examined {
    let failed = |error: String, unread: bool| {
        let (path, error) = (path.into(), Some(error));
        Examined { path, superblock: None, error, silent: false, unread }
    };
    let mode = OpenMode { access: Access::ReadOnly, sharing: Sharing::Shared };
    let device = match Device::open(path, mode) {
        Ok(device) => device,
        Err(error) => return failed(error.to_string(), true),
    };
    let mut blocks = [[0; BLOCK_BYTES]; 2];
    for (block, copy) in blocks.iter_mut().zip([Copy::A, Copy::B]) {
        let is_inside = copy.offset_bytes() + BLOCK_BYTES as u64 <= device.facts().size_bytes;
        if let Some(Err(error)) = is_inside.then(|| device.read_at(copy.offset_bytes(), block)) {
            return failed(error.to_string(), true);
        }
    }
    match choose(&blocks[0], &blocks[1], device.facts().size_bytes) {
        Ok(found) => Examined {
            path: path.into(),
            superblock: Some(describe(&found.superblock)),
            error: (!found.both_valid).then(|| "the other copy of the superblock is damaged".into()),
            silent: false,
            unread: false,
        },
        Err(error) => failed(format!("{}: {error}", path.display()), false),
    }
}

fn describe(superblock: &Superblock) -> ExaminedSuperblock {
    let record = &superblock.record;
    let slot = |entry: &SlotRecord| ExaminedSlot {
        state: match entry.state {
            SlotState::Empty => MemberState::Missing,
            SlotState::InSync => MemberState::InSync,
            SlotState::Rebuilding => MemberState::Rebuilding,
            SlotState::Failed => MemberState::Failed,
        },
        epoch: if entry.state.takes_part() { record.epoch.name.number } else { entry.held.number },
        rebuild_cursor_stripes: (entry.state == SlotState::Rebuilding).then_some(entry.cursor),
    };
    ExaminedSuperblock {
        name: record.name.as_str().into(),
        array_uuid: record.array.to_string(),
        member_uuid: superblock.member.to_string(),
        host: record.host.name.as_str().into(),
        host_id: if record.host.id.is_nil() { String::new() } else { record.host.id.to_string() },
        level: record.shape.level.number(),
        chunk_bytes: record.shape.chunk_bytes,
        size_bytes: record.zones.stripes
            * record.shape.data_strips() as u64
            * u64::from(record.shape.chunk_bytes),
        data_offset_bytes: record.zones.data.offset_bytes,
        slot: superblock.slot,
        epoch: record.epoch.name.number,
        sequence: superblock.sequence,
        clean: record.state == RunState::Clean,
        slots: record.slots[..record.shape.members].iter().map(slot).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::create_file;
    use crate::device::silent::Silent;

    #[test]
    fn a_device_that_does_not_answer_is_told_from_one_without_a_superblock() {
        let directory = std::env::temp_dir().join(format!("striate-examine-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let paths = ["blank", "silent"].map(|name| directory.join(name));
        paths.iter().for_each(|path| create_file(path, 1 << 20).unwrap());
        let _silent = Silent::file(&paths[1]);
        let [blank, silent] = examine(&paths, 1).unwrap().try_into().unwrap();
        assert!(!blank.silent && !blank.unread && blank.error.is_some(), "{blank:?}");
        assert!(silent.error.unwrap().contains("silent: does not answer"));
        assert!(silent.silent);
        assert!(look(&directory.join("none")).unread);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
