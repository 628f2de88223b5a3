//! The two superblock copies of a member; the newest valid one counts.

use super::super::bytes::u64_at;
use super::codec::{OFFSET_SEQUENCE, decode};
use super::{Copy, DecodeError, Superblock};

/// The conclusion drawn from a member's two copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The newest valid copy.
    pub superblock: Superblock,
    /// The copy that the next write goes to.
    pub overwrite: Copy,
    /// Whether the other copy was valid too. If not, it may have been newer: either its write tore, or it was
    /// complete and has decayed. These two cases cannot be told apart.
    pub both_valid: bool,
    /// Whether both copies are of one epoch. Then the epoch was committed, because second copies are written
    /// only after that.
    pub reinforced: bool,
    /// The moves within the epoch of `superblock` that every participant of that epoch has certainly held. A
    /// move is written to the second copies only when all first copies hold it, and the next move begins only
    /// after that. A second copy says by itself that it is one, because the next change is written over the
    /// first copy and may tear it. `None` if this member proves nothing: its epoch may have been broken off
    /// before all participants held it.
    pub proven_moves: Option<u64>,
}

/// Reasons why a device is not a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMember {
    /// No copy has the magic: the device is blank or belongs to something else.
    #[error("no Striate superblock: not a member of any array, or wiped")]
    Blank,
    /// The device could read neither copy.
    #[error(
        "its superblocks cannot be read: the kernel's log says why; if the device is failing, replace it"
    )]
    Unreadable,
    /// Another program has put a signature beside the data since the device became a member, or one
    /// superblock copy is damaged and the signature says which program did it.
    #[error(
        "another program has written to it: it holds {0}; replace it, or serve with --take-overwritten if its data is known to be good"
    )]
    WrittenOver(&'static str),
    /// The device was a member: at least one copy has the magic, but none is valid.
    #[error("both superblocks are damaged: {0}")]
    Damaged(DecodeError),
    /// The two copies are valid but of different members: another member, or an image of one, was copied over
    /// a part of the device.
    #[error(
        "its two superblocks are of different members: a part of another member has been copied over it; replace it"
    )]
    TwoMembers,
    /// The newest copy was written by a newer program; the other copy must not be used instead, even if it is
    /// valid.
    #[error(transparent)]
    Unsupported(DecodeError),
    /// The device is shorter than its superblock says: it was cut, or is another partition.
    #[error("the device has {device_bytes} bytes, and its superblock needs {needed_bytes}: was it shrunk?")]
    TooSmall {
        /// The given length.
        device_bytes: u64,
        /// End of the data zone.
        needed_bytes: u64,
    },
}

/// Reads both copies of a member of `device_bytes`, and returns the newest valid one.
pub fn choose(a: &[u8], b: &[u8], device_bytes: u64) -> Result<Found, NoMember> {
    let (from_a, from_b) = (decode(a, Copy::A), decode(b, Copy::B));
    let newest_unsupported = [(&from_a, a), (&from_b, b)]
        .into_iter()
        .filter_map(|(result, block)| {
            unsupported(result).map(|error| (u64_at(block, OFFSET_SEQUENCE), error))
        })
        .max_by_key(|&(sequence, _)| sequence);
    let both_valid = from_a.is_ok() && from_b.is_ok();
    let member = |found: &Result<Superblock, DecodeError>| {
        found.as_ref().ok().map(|one| (one.record.array, one.member))
    };
    if both_valid && member(&from_a) != member(&from_b) {
        return Err(NoMember::TwoMembers);
    }
    let epoch =
        |found: &Result<Superblock, DecodeError>| found.as_ref().ok().map(|one| one.record.epoch.name);
    let reinforced = both_valid && epoch(&from_a) == epoch(&from_b);
    let moves = |found: &Result<Superblock, DecodeError>| found.as_ref().ok().map(|one| one.record.moves);
    let same_moves = reinforced && moves(&from_a) == moves(&from_b);
    let (superblock, at) = match (from_a, from_b) {
        (Ok(in_a), Ok(in_b)) if in_b.sequence > in_a.sequence => (in_b, Copy::B),
        (Ok(in_a), _) => (in_a, Copy::A),
        (Err(_), Ok(in_b)) => (in_b, Copy::B),
        (Err(in_a), Err(in_b)) => return Err(no_member(in_a, in_b)),
    };
    if let Some((sequence, error)) = newest_unsupported
        && sequence > superblock.sequence
    {
        return Err(NoMember::Unsupported(error));
    }
    let needed_bytes = superblock.record.zones.end_bytes();
    if needed_bytes > device_bytes {
        return Err(NoMember::TooSmall { device_bytes, needed_bytes });
    }
    let moves = superblock.record.moves;
    let is_proven = same_moves || superblock.proven;
    let proven_moves = if is_proven { Some(moves) } else { moves.checked_sub(1) };
    Ok(Found { superblock, overwrite: at.other(), both_valid, reinforced, proven_moves })
}

fn unsupported(result: &Result<Superblock, DecodeError>) -> Option<DecodeError> {
    match result {
        Err(error @ (DecodeError::FutureVersion(_) | DecodeError::UnknownIncompat(_))) => Some(*error),
        Err(DecodeError::NotStriate | DecodeError::Torn { .. } | DecodeError::Invalid(_)) | Ok(_) => None,
    }
}

fn no_member(in_a: DecodeError, in_b: DecodeError) -> NoMember {
    let supported = |error| unsupported(&Err(error)).is_none();
    match (in_a, in_b) {
        (DecodeError::NotStriate, DecodeError::NotStriate) => NoMember::Blank,
        (error, _) if !supported(error) => NoMember::Unsupported(error),
        (_, error) if !supported(error) => NoMember::Unsupported(error),
        (DecodeError::NotStriate, error) | (error, _) => NoMember::Damaged(error),
    }
}
