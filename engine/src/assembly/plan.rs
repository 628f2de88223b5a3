//! The steps of assembly: sort the candidates, check that they form one array, and give each slot its device.

use super::epochs::{self, Newest, Present, Standing, standings};
use super::error::AssemblyError;
use super::{AssemblyOptions, Candidate};
use crate::format::superblock::{NoMember, Record, RunState, SlotState};

/// The decision about one slot. Candidates are named by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotPlan {
    /// In sync: the device holds what it should.
    InSync {
        /// The device.
        candidate: usize,
    },
    /// To be filled from the cursor on.
    Rebuilding {
        /// The device.
        candidate: usize,
        /// Stripes below this are filled.
        cursor: u64,
    },
    /// Left out until it is taken in again, which rebuilds it: the device is here but outdated.
    Stale {
        /// The device.
        candidate: usize,
        /// The reason why it is outdated.
        reason: StaleReason,
    },
    /// Missing: the record counts on the device, but it is not here.
    Missing,
    /// Out of the array on record, with no device here.
    Failed,
    /// Empty: no device belongs here.
    Empty,
}

/// Reasons why a device is outdated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// The device was in sync and left when the array says it left: a rebuild needs only the Dirty and
    /// `NeedSync` stripes.
    LeftInSync,
    /// The device left while it was being filled.
    LeftUnfilled,
    /// The device holds an epoch that was broken off.
    Leftover,
    /// The device holds less than it is proven to have held: an older image of itself.
    RolledBack,
    /// Nothing here says how the device's epoch is related to the array's. Used only in the text of an error:
    /// if enough members are here to start, this is a fork.
    Unexplained,
}

/// A candidate that got no slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Index of the candidate.
    pub candidate: usize,
    /// Reason why it got no slot.
    pub reason: LeftOutReason,
}

/// Reasons why a candidate got no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeftOutReason {
    /// The device has no superblock, or both copies are damaged.
    #[error(transparent)]
    NoMember(NoMember),
    /// The device's slot was given to another device.
    #[error("it was replaced in slot {slot}")]
    Replaced {
        /// The slot that the device had.
        slot: usize,
    },
}

/// Selects the candidates that have a superblock. A device without one is left out; it may be one of the
/// missing members. A device that a newer program wrote, or that was cut, stops the assembly.
pub(super) fn sort_out(candidates: &[Candidate]) -> Result<(Vec<Present<'_>>, Vec<LeftOut>), AssemblyError> {
    let (mut present, mut left_out) = (Vec::new(), Vec::new());
    for (candidate, Candidate { label, found }) in candidates.iter().enumerate() {
        match found {
            Ok(found) => present.push(Present { candidate, label, found }),
            Err(error @ (NoMember::Unsupported(_) | NoMember::TooSmall { .. })) => {
                return Err(AssemblyError::Unusable { path: label.clone(), error: *error });
            }
            Err(
                error @ (NoMember::Blank
                | NoMember::Unreadable
                | NoMember::WrittenOver(_)
                | NoMember::TwoMembers
                | NoMember::Damaged(_)),
            ) => {
                left_out.push(LeftOut { candidate, reason: LeftOutReason::NoMember(*error) });
            }
        }
    }
    if present.is_empty() {
        let listing =
            left_out.iter().map(|out| (candidates[out.candidate].label.clone(), out.reason)).collect();
        return Err(AssemblyError::NoMembers { listing });
    }
    Ok((present, left_out))
}

/// Checks that the devices are of one array, that each is there once, and that all agree on the geometry.
pub(super) fn check_one_array(
    present: &[Present<'_>],
    options: &AssemblyOptions,
) -> Result<(), AssemblyError> {
    let first = present[0];
    let array_of = |member: &Present<'_>| member.record().array;
    if present.iter().any(|member| array_of(member) != array_of(&first)) {
        let line = |member: &Present<'_>| (member.label.to_owned(), member.record().name, array_of(member));
        return Err(AssemblyError::MixedArrays { listing: present.iter().map(line).collect() });
    }
    if let Some(expected) = options.expected_array
        && expected != array_of(&first)
    {
        return Err(AssemblyError::OtherArray {
            path: first.label.to_owned(),
            found: array_of(&first),
            expected,
        });
    }
    for (index, member) in present.iter().enumerate() {
        let same = |other: &&Present<'_>| other.found.superblock.member == member.found.superblock.member;
        if let Some(twin) = present[..index].iter().find(same) {
            return Err(AssemblyError::Duplicate { one: twin.whose(), other: member.whose() });
        }
        if let Some(what) = disagreement(first.record(), member.record()) {
            return Err(AssemblyError::Disagreement { what, one: first.whose(), other: member.whose() });
        }
    }
    Ok(())
}

/// Compares what no change of an array alters; returns the first difference.
fn disagreement(one: &Record, other: &Record) -> Option<&'static str> {
    if one.shape != other.shape {
        Some("level, members or chunk")
    } else if (one.zones.bitmap.offset_bytes, one.zones.data.offset_bytes)
        != (other.zones.bitmap.offset_bytes, other.zones.data.offset_bytes)
    {
        // The ends of the zones belong to the epoch, because an array can grow.
        Some("where the zones begin")
    } else if one.logical_block_bytes != other.logical_block_bytes {
        Some("the logical block")
    } else if one.created_s != other.created_s {
        Some("when the array was created")
    } else {
        None
    }
}

/// Finds the newest epoch; returns the index in `present` of one of its holders. Devices that are apart are a
/// fork only if some side of it could start; otherwise the missing devices might explain them.
pub(super) fn newest(
    candidates: &[Candidate],
    present: &[Present<'_>],
    old: &[Present<'_>],
) -> Result<usize, AssemblyError> {
    let could_start = |side: &Present<'_>| {
        epochs::in_sync_count(side.record(), present) >= side.record().shape.data_strips()
    };
    match epochs::newest(present) {
        Newest::Epoch { holder } => Ok(holder),
        Newest::Apart { holder, other } if present.iter().any(could_start) => Err(AssemblyError::Fork {
            name: present[holder].record().name.to_string(),
            one: present[holder].whose(),
            one_epoch: present[holder].epoch(),
            other: present[other].whose(),
            other_epoch: present[other].epoch(),
        }),
        Newest::TooFew { holder } | Newest::Apart { holder, .. } => {
            let record = present[holder].record();
            Err(not_enough(candidates, record, &slots(present, old, record, &mut Vec::new())))
        }
    }
}

/// Merges the records of the newest epoch, of which `newest` is a holder. Its holders may differ only in what
/// is written within an epoch: the moves, the state, cursors, whether there is a list of lost rows, and
/// whether both places of bitmap blocks were written. (For these last two, one holder that says so is enough,
/// because what it says was durable on all members before.)
pub(super) fn merged_record(present: &[Present<'_>], newest: usize) -> Result<Record, AssemblyError> {
    let mut merged = present[newest].record().clone();
    for holder in present.iter().filter(|member| member.epoch() == merged.epoch.name) {
        let mut theirs = holder.record().clone();
        for (mine, theirs) in merged.slots.iter_mut().zip(&mut theirs.slots) {
            mine.cursor = mine.cursor.min(theirs.cursor);
            theirs.cursor = mine.cursor;
        }
        if theirs.state == RunState::Clean {
            (merged.state, merged.settled) = (RunState::Clean, theirs.settled);
        }
        merged.lost_rows |= theirs.lost_rows;
        theirs.lost_rows = merged.lost_rows;
        merged.both_places |= theirs.both_places;
        theirs.both_places = merged.both_places;
        merged.wiped &= theirs.wiped;
        theirs.wiped = merged.wiped;
        merged.moves = merged.moves.max(theirs.moves);
        (theirs.state, theirs.settled, theirs.moves) = (merged.state, merged.settled, merged.moves);
        if theirs != merged {
            let (one, other) = (present[newest].whose(), holder.whose());
            return Err(AssemblyError::Disagreement { what: "the record of the same epoch", one, other });
        }
    }
    Ok(merged)
}

/// Checks the array's name and owner.
pub(super) fn check_owner(record: &Record, options: &AssemblyOptions) -> Result<(), AssemblyError> {
    if let Some(expected) = options.expected_name
        && expected != record.name
    {
        return Err(AssemblyError::OtherName {
            found: record.name.to_string(),
            expected: expected.to_string(),
        });
    }
    if !record.host.is(&options.host) && !options.foreign_host_ok {
        return Err(AssemblyError::ForeignHost {
            name: record.name.to_string(),
            owner: record.host.to_string(),
            host: options.host.to_string(),
        });
    }
    Ok(())
}

/// Gives each slot its device. `old` are the devices that are older images of themselves.
pub(super) fn slots(
    present: &[Present<'_>],
    old: &[Present<'_>],
    record: &Record,
    left_out: &mut Vec<LeftOut>,
) -> Vec<SlotPlan> {
    let absent = |state| match state {
        SlotState::Empty => SlotPlan::Empty,
        SlotState::Failed => SlotPlan::Failed,
        SlotState::InSync | SlotState::Rebuilding => SlotPlan::Missing,
    };
    let used = &record.slots[..record.shape.members];
    let mut slots: Vec<SlotPlan> = used.iter().map(|entry| absent(entry.state)).collect();
    for member in old {
        let (candidate, slot) = (member.candidate, member.slot());
        if member.entry_in(record).is_some() {
            slots[slot] = SlotPlan::Stale { candidate, reason: StaleReason::RolledBack };
        } else {
            left_out.push(LeftOut { candidate, reason: LeftOutReason::Replaced { slot } });
        }
    }
    for (member, standing) in present.iter().zip(standings(record, present)) {
        let candidate = member.candidate;
        let slot = member.slot();
        match standing {
            Standing::Current => slots[slot] = current(candidate, record, slot),
            Standing::Stale => slots[slot] = SlotPlan::Stale { candidate, reason: left(member) },
            Standing::Leftover => {
                slots[slot] = SlotPlan::Stale { candidate, reason: StaleReason::Leftover };
            }
            Standing::Replaced => {
                left_out.push(LeftOut { candidate, reason: LeftOutReason::Replaced { slot } });
            }
            Standing::Apart => slots[slot] = SlotPlan::Stale { candidate, reason: StaleReason::Unexplained },
        }
    }
    slots
}

fn current(candidate: usize, record: &Record, slot: usize) -> SlotPlan {
    let entry = &record.slots[slot];
    if entry.state == SlotState::InSync {
        SlotPlan::InSync { candidate }
    } else {
        SlotPlan::Rebuilding { candidate, cursor: entry.cursor }
    }
}

fn left(member: &Present<'_>) -> StaleReason {
    match member.entry_in(member.record()).map(|entry| entry.state) {
        Some(SlotState::InSync) => StaleReason::LeftInSync,
        _ => StaleReason::LeftUnfilled,
    }
}

/// Requires more than half of the members to be in sync, unless the operator allows less. (The choice of the
/// newest epoch already ensured n - parities.)
pub(super) fn check_majority(
    record: &Record,
    slots: &[SlotPlan],
    options: &AssemblyOptions,
) -> Result<(), AssemblyError> {
    let (in_sync, members) = (in_sync_count(slots), record.shape.members);
    assert!(in_sync >= record.shape.data_strips());
    if in_sync * 2 <= members && !options.run_degraded {
        return Err(AssemblyError::NoMajority { name: record.name.to_string(), in_sync, members });
    }
    Ok(())
}

fn in_sync_count(slots: &[SlotPlan]) -> usize {
    slots.iter().filter(|plan| matches!(plan, SlotPlan::InSync { .. })).count()
}

fn not_enough(candidates: &[Candidate], record: &Record, slots: &[SlotPlan]) -> AssemblyError {
    let not_there = |(slot, plan): (usize, &SlotPlan)| Some((slot, why_not_there(candidates, *plan)?));
    let left_out = |candidate: &Candidate| Some((candidate.label.clone(), *candidate.found.as_ref().err()?));
    AssemblyError::NotEnough {
        name: record.name.to_string(),
        in_sync: in_sync_count(slots),
        needed: record.shape.data_strips(),
        members: record.shape.members,
        listing: slots.iter().enumerate().filter_map(not_there).collect(),
        left_out: candidates.iter().filter_map(left_out).collect(),
    }
}

fn why_not_there(candidates: &[Candidate], plan: SlotPlan) -> Option<String> {
    let label = |candidate: usize| &candidates[candidate].label;
    match plan {
        SlotPlan::InSync { .. } => None,
        SlotPlan::Rebuilding { candidate, .. } => Some(format!("{} is being rebuilt", label(candidate))),
        SlotPlan::Stale { candidate, reason } => Some(format!("{} is stale: it {reason}", label(candidate))),
        SlotPlan::Missing => Some("its device is not here".into()),
        SlotPlan::Failed => Some("failed earlier".into()),
        SlotPlan::Empty => Some("has no device".into()),
    }
}

impl std::fmt::Display for StaleReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            StaleReason::LeftInSync => "left the array earlier",
            StaleReason::LeftUnfilled => "left the array while it was being filled",
            StaleReason::Unexplained => "holds an epoch that the others here do not explain",
            StaleReason::Leftover => "holds a start that was broken off",
            StaleReason::RolledBack => {
                "went back in time: it holds an older state than the other members prove that it had (a restored copy or \
                 snapshot, or a device that lost what it had stored)"
            }
        })
    }
}
