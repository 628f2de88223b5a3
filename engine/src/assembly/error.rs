//! Errors of assembly. Each names what is wrong, on which member, and what the operator can do.

use std::fmt;

use uuid::Uuid;

use super::plan::LeftOutReason;
use crate::format::label::Label;
use crate::format::superblock::{EpochName, NoMember};

/// A member as an operator can find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The device's path.
    pub path: String,
    /// The slot that its superblock names.
    pub slot: usize,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (slot {})", self.path, self.slot)
    }
}

/// Reasons why an array is not assembled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// No candidate has a superblock.
    #[error("no member of an array was given: {}", join(listing, |(path, why)| format!("{path}: {why}")))]
    NoMembers {
        /// The given devices, each with the reason why it is not a member.
        listing: Vec<(String, LeftOutReason)>,
    },
    /// A device must neither be used nor be ignored.
    #[error("{path}: {error}")]
    Unusable {
        /// The device's path.
        path: String,
        /// The reason.
        error: NoMember,
    },
    /// The devices belong to more than one array.
    #[error(
        "the devices belong to more than one array; give those of one: {}",
        join(listing, |(path, name, array)| format!("{path}: {name} ({array})"))
    )]
    MixedArrays {
        /// Path, array name and array uuid of each device.
        listing: Vec<(String, Label, Uuid)>,
    },
    /// The array is not the one that was asked for by uuid.
    #[error("{path} belongs to array {found}, and {expected} was asked for")]
    OtherArray {
        /// Path of a member of the found array.
        path: String,
        /// The uuid found.
        found: Uuid,
        /// The uuid asked for.
        expected: Uuid,
    },
    /// The array is not the one that was asked for by name.
    #[error("the devices belong to array {found}, and {expected} was asked for")]
    OtherName {
        /// The name found.
        found: String,
        /// The name asked for.
        expected: String,
    },
    /// The array belongs to another host.
    #[error(
        "array {name} belongs to host {owner}, and this is {host}. If it is not in use there, give \
         --foreign-host to take it"
    )]
    ForeignHost {
        /// The array's name.
        name: String,
        /// The host that owns the array.
        owner: String,
        /// The present host.
        host: String,
    },
    /// Two of the given devices are the same member.
    #[error(
        "{one} and {other} are the same member: one device under two paths, or a copy of it. Give one of them"
    )]
    Duplicate {
        /// Path and slot of the first.
        one: Whose,
        /// Path and slot of the second.
        other: Whose,
    },
    /// Superblocks contradict each other in a way that no crash explains.
    #[error(
        "{one} and {other} disagree on {what}, which no crash explains: leave out the one that was damaged"
    )]
    Disagreement {
        /// The subject of the contradiction.
        what: &'static str,
        /// A member on one side.
        one: Whose,
        /// A member on the other side.
        other: Whose,
    },
    /// Two sides were in use without each other.
    #[error(
        "the members ran apart: {one} is at epoch {}, {other} at epoch {}, and neither follows the other. \
         Each side may hold data that the other lacks. Start with the members of the side to keep, look at the \
         data, then fill each of the others anew (what it holds is overwritten): \
         `striate replace {name} {} {} --force`, or for the other side `striate replace {name} {} {} --force`",
        epoch(one_epoch),
        epoch(other_epoch),
        other.slot,
        other.path,
        one.slot,
        one.path
    )]
    Fork {
        /// The array's name.
        name: String,
        /// A holder of the newest epoch.
        one: Whose,
        /// The newest epoch.
        one_epoch: EpochName,
        /// A device that the newest epoch does not explain.
        other: Whose,
        /// The epoch of that device.
        other_epoch: EpochName,
    },
    /// More members are missing than the level tolerates.
    #[error(
        "array {name} cannot start: {in_sync} of {members} members are here and in sync, and it needs {needed}. \
         Attach what is missing: {}{}",
        join(listing, |(slot, why)| format!("slot {slot}: {why}")),
        left_out.iter().map(|(path, why)| format!("; {path}: left out: {why}")).collect::<String>()
    )]
    NotEnough {
        /// The array's name.
        name: String,
        /// Number of members in sync.
        in_sync: usize,
        /// Number of members in sync that the array needs.
        needed: usize,
        /// Number of slots of the array.
        members: usize,
        /// Slots that are not in sync, each with the reason.
        listing: Vec<(usize, String)>,
        /// Devices that were given but are in no slot, each with the reason.
        left_out: Vec<(String, NoMember)>,
    },
    /// Enough members are here to run, but another half might be running elsewhere.
    #[error(
        "array {name} has {in_sync} of {members} members here, which is not more than half: the others might be in \
         use without these. If they are not, give --run-degraded to serve these"
    )]
    NoMajority {
        /// The array's name.
        name: String,
        /// Number of members in sync.
        in_sync: usize,
        /// Number of slots of the array.
        members: usize,
    },
}

fn epoch(name: &EpochName) -> String {
    format!("{} ({:016x})", name.number, name.id)
}

fn join<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    items.iter().map(line).collect::<Vec<_>>().join("; ")
}
