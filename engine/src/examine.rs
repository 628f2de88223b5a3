//! What the superblocks of a stopped array's members say, without assembling it.
//!
//! Each path gets an answer of its own: a member that cannot be read or decoded is an entry with an
//! `error`, not a failure of the whole. Nothing is written, and no member is held open.
//!
//! (Signature and values only as yet; the format's room decodes.)

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::server::ServerError;
use crate::status::MemberState;

/// One path, looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Examined {
    /// As it was given.
    pub path: PathBuf,
    /// What its newest valid superblock says; `None` if there is none.
    pub superblock: Option<ExaminedSuperblock>,
    /// Why it could not be read, in words; or, beside a superblock, what is wrong with its other copy.
    pub error: Option<String>,
}

/// The content of a superblock, in the words of `docs/format.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExaminedSuperblock {
    /// The array's name.
    pub name: String,
    /// The array's identity.
    pub array_uuid: String,
    /// This member's identity.
    pub member_uuid: String,
    /// The host that created the array or served it last.
    pub host: String,
    /// 5 or 6.
    pub level: u8,
    /// Bytes placed on one member before moving on.
    pub chunk_bytes: u32,
    /// What a host sees of the array.
    pub size_bytes: u64,
    /// Where on this member data begins.
    pub data_offset_bytes: u64,
    /// The place of this member.
    pub slot: usize,
    /// Which incarnation of the array wrote this.
    pub epoch: u64,
    /// Grows with each write of a superblock.
    pub sequence: u64,
    /// Whether the array was stopped cleanly after this was written.
    pub clean: bool,
    /// What this member knew of every slot, itself included; one entry a slot.
    pub slots: Vec<ExaminedSlot>,
}

/// A line of the per-slot table.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ExaminedSlot {
    /// The slot's state on record.
    pub state: MemberState,
    /// The epoch in which the slot last took part.
    pub epoch: u64,
    /// For a slot being rebuilt, the first stripe that is not filled yet.
    pub rebuild_cursor_stripes: Option<u64>,
}

/// Looks at every path. An error means that nothing could be looked at; see [`Examined::error`].
pub fn examine(_paths: &[PathBuf]) -> Result<Vec<Examined>, ServerError> {
    Err(ServerError("not built yet".into()))
}
