//! Why an array is not assembled: what, which member, and what the operator can do.

use std::fmt;

use uuid::Uuid;

use super::plan::LeftOutReason;
use crate::format::label::Label;
use crate::format::superblock::{EpochName, NoMember};

/// A member, as an operator can find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// Its path.
    pub path: String,
    /// The slot that its superblock names.
    pub slot: usize,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (slot {})", self.path, self.slot)
    }
}

/// Why an array is not assembled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// No candidate has a superblock.
    #[error("no member of an array was given: {}", join(listing, |(path, why)| format!("{path}: {why}")))]
    NoMembers {
        /// What was given, and why it is none.
        listing: Vec<(String, LeftOutReason)>,
    },
    /// A device that must not be used, and must not be ignored.
    #[error("{path}: {error}")]
    Unusable {
        /// Its path.
        path: String,
        /// Why.
        error: NoMember,
    },
    /// Members of more than one array.
    #[error(
        "the devices belong to more than one array; give those of one: {}",
        join(listing, |(path, name, array)| format!("{path}: {name} ({array})"))
    )]
    MixedArrays {
        /// Path, name and uuid.
        listing: Vec<(String, Label, Uuid)>,
    },
    /// Not the array that was asked for, by uuid.
    #[error("{path} belongs to array {found}, and {expected} was asked for")]
    OtherArray {
        /// A member of it.
        path: String,
        /// Its array.
        found: Uuid,
        /// The array asked for.
        expected: Uuid,
    },
    /// Not the array that was asked for, by name.
    #[error("the devices belong to array {found}, and {expected} was asked for")]
    OtherName {
        /// Its name.
        found: String,
        /// The name asked for.
        expected: String,
    },
    /// Another host's array.
    #[error(
        "array {name} belongs to host {owner}, and this is {host}. If it is not in use there, give \
         --foreign-host to take it"
    )]
    ForeignHost {
        /// Its name.
        name: String,
        /// Whose it is.
        owner: String,
        /// Where we are.
        host: String,
    },
    /// The same member twice.
    #[error(
        "{one} and {other} are the same member: one device under two paths, or a copy of it. Give one of them"
    )]
    Duplicate {
        /// One path.
        one: Whose,
        /// The other.
        other: Whose,
    },
    /// Superblocks that contradict each other, which no crash explains.
    #[error(
        "{one} and {other} disagree on {what}, which no crash explains: leave out the one that was damaged"
    )]
    Disagreement {
        /// On what.
        what: &'static str,
        /// One side.
        one: Whose,
        /// The other.
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
        /// The name of the array.
        name: String,
        /// A holder of the newest epoch.
        one: Whose,
        /// It.
        one_epoch: EpochName,
        /// A device that it does not explain.
        other: Whose,
        /// Its epoch.
        other_epoch: EpochName,
    },
    /// More is missing than the level bears.
    #[error(
        "array {name} cannot start: {in_sync} of {members} members are here and in sync, and it needs {needed}. \
         Attach what is missing: {}{}",
        join(listing, |(slot, why)| format!("slot {slot}: {why}")),
        left_out.iter().map(|(path, why)| format!("; {path}: left out: {why}")).collect::<String>()
    )]
    NotEnough {
        /// Its name.
        name: String,
        /// Members in sync.
        in_sync: usize,
        /// How many it takes.
        needed: usize,
        /// Slots of the array.
        members: usize,
        /// Slot, and what is the matter with it.
        listing: Vec<(usize, String)>,
        /// Devices that were given and are in no slot, and why.
        left_out: Vec<(String, NoMember)>,
    },
    /// Enough to run, and another half may be running elsewhere.
    #[error(
        "array {name} has {in_sync} of {members} members here, which is not more than half: the others might be in \
         use without these. If they are not, give --run-degraded to serve these"
    )]
    NoMajority {
        /// Its name.
        name: String,
        /// Members in sync.
        in_sync: usize,
        /// Slots of the array.
        members: usize,
    },
}

fn epoch(name: &EpochName) -> String {
    format!("{} ({:016x})", name.number, name.id)
}

fn join<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    items.iter().map(line).collect::<Vec<_>>().join("; ")
}
