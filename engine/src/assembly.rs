//! Assembly: decides from their superblocks which devices make up the array and which must not.
//!
//! # Epochs
//!
//! Each start and each change of membership is an *epoch*: a new record of the array, named by a number and a
//! random id, written to every slot that takes part in it. The devices are written one by one, and a crash
//! may leave any subset of them written. One rule makes that harmless:
//!
//! > **The rule.** In an epoch, no bitmap block, data or parity is written, and nothing that relies on the
//! > change is acknowledged, before *all* its participants hold it ([`Roster::is_committed`]). And a new
//! > epoch does not begin before the outcome of every write of the last one is known.
//!
//! An epoch that all its participants hold is *committed*. So a device that was to take part and does not
//! hold the epoch proves that nothing was done in it. Beside the state of each slot, the record keeps the
//! epoch that the slot's device *held* when the record was made. Let H be the newest epoch, and E the epoch
//! that a device holds:
//!
//! | rule | H's record says of the device | E is | so the device is |
//! |---|---|---|---|
//! | | takes part | H | current |
//! | held | takes part | its held epoch | current: nothing was done in H |
//! | left | takes no part | its held epoch | stale: it left when the array says it left |
//! | on the line | takes no part | one that H came from | leftover: H's line goes through E |
//! | never committed | takes no part | one that others never held | leftover: broken off |
//! | passed by | takes no part, or not listed | one that others have left behind | leftover |
//! | contained | anything, or not listed | one that a known device left | leftover: broken off or outlived |
//! | | not listed | of a lower number than H | replaced |
//! | | anything else | | apart: each side may hold data that the other lacks |
//!
//! The conditions of the four rules for leftovers, in full. A *witness* is a device that was to be in sync in
//! E.
//!
//! - *On the line*: E is one of the last eight epochs that H came from, or H's record says that another slot
//!   held it.
//! - *Never committed*: two witnesses are still where they were before E, or came from there to H or to an
//!   epoch that H came from. One is enough if the device holds E in one copy only. Once a witness that is
//!   here came to H or its line, absent participants of H count too, by what the record says they held.
//! - *Passed by*: two witnesses are current, and their own records say that the device takes no part. One is
//!   enough if the device was to be in sync in E and holds E in one copy only.
//! - *Contained*: a witness with two valid copies holds an epoch other than E, and is itself current, stale
//!   or a leftover.
//!
//! A leftover holds nothing that the array lacks. If H's record does not list the device, it counts as
//! replaced. docs/epochs.md has a proof, a timeline and the tests for each rule.
//!
//! *Decay.* If one copy of a superblock is damaged, the other may be an epoch older, and then the newer epoch
//! seems never to have been written. So once an epoch is committed it is written to the other copies too
//! ([`Roster::reinforce`]). Until then a device with a damaged copy proves nothing: the others decide what it
//! is, but it neither makes another device a leftover nor an unclean array a clean one. (The witnesses of
//! "never committed" and "passed by" may have a damaged copy; therefore these rules ask for two.)
//!
//! *The newest epoch* is the one with the highest number among those that leave no device apart and have n -
//! parities members in sync here. Several epochs may qualify: those that were broken off are leftovers to the
//! others, and the highest of them may be held by a joining device alone. If none qualifies, too few members
//! are here. Or, if an epoch would have enough members but leaves a device apart, the members ran apart, and
//! assembly refuses to start.
//!
//! # Unclean
//!
//! A stop is clean from the first superblock that says so, because cells and data were durable before it was
//! written. Without such a superblock, an epoch that was committed, or may have been, was in use. An epoch
//! that was provably not committed leaves the array as it was *found* when the epoch was made, and the record
//! says how that was.

mod create;
mod epochs;
mod error;
mod plan;
mod roster;

pub use create::{NewArray, create};
pub use error::AssemblyError;
pub use plan::{LeftOut, LeftOutReason, SlotPlan, StaleReason};
pub use roster::{Change, ChangeRefused, Joiner, Roster, SuperblockWrite, WriteOutcome};

use uuid::Uuid;

use crate::format::host::Host;
use crate::format::label::Label;
use crate::format::superblock::{EpochName, Found, NoMember, Record, RunState};
use epochs::Present;

/// A device that may be a member.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// A label for the operator: the device's path.
    pub label: String,
    /// The conclusion drawn from its superblocks.
    pub found: Result<Found, NoMember>,
}

/// The operator's choices for assembly.
#[derive(Clone, Copy, Debug, Default)]
pub struct AssemblyOptions {
    /// Start even if not more than half of the members are here.
    pub run_degraded: bool,
    /// The present host; an array that belongs to another host is refused.
    pub host: Host,
    /// Take an array even if it belongs to another host.
    pub foreign_host_ok: bool,
    /// Accept only the array with this uuid.
    pub expected_array: Option<Uuid>,
    /// Accept only an array with this name.
    pub expected_name: Option<Label>,
}

/// An array that can be started.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// The array's record as of the newest epoch. Rebuild cursors are the lowest that its holders say.
    pub record: Record,
    /// The decision about each slot.
    pub slots: Vec<SlotPlan>,
    /// Candidates that got no slot, with the reasons.
    pub left_out: Vec<LeftOut>,
    /// The array was not stopped cleanly, so Dirty cells count as `NeedSync`.
    pub unclean: bool,
    /// A superblock uses a feature because of which this program may only read the array.
    pub read_only: bool,
    /// The highest epoch number on any device here; the next epoch's number is higher.
    epoch_number_max: u64,
    /// The moves within the record's epoch that absent devices hold too; `None` if the epoch may have been
    /// broken off.
    pub proven_moves: Option<u64>,
    /// The superblock state of the devices in InSync and Rebuilding slots, by slot.
    seats: Vec<Option<roster::Seat>>,
    /// Slots whose device here holds an epoch that the next record must name, so that the device is stale
    /// from then on: leftovers, and devices that went back to an older image.
    left_behind: Vec<(usize, EpochName)>,
}

/// Decides which candidates make up the array. The indices in the result are those of `candidates`.
pub fn assemble(candidates: &[Candidate], options: &AssemblyOptions) -> Result<Assembly, AssemblyError> {
    let (present, mut left_out) = plan::sort_out(candidates)?;
    plan::check_one_array(&present, options)?;
    let (present, old) = epochs::set_aside(present);
    let newest = plan::newest(candidates, &present, &old)?;
    let record = plan::merged_record(&present, newest)?;
    plan::check_owner(&record, options)?;
    let slots = plan::slots(&present, &old, &record, &mut left_out);
    plan::check_majority(&record, &slots, options)?;

    let current: Vec<&Present<'_>> = present.iter().filter(|member| member.is_current(&record)).collect();
    let mut seats = vec![None; record.shape.members];
    for member in &current {
        seats[member.slot()] = Some(roster::Seat::of_current(member.candidate, member.found));
    }
    let is_left_behind = |member: &&Present<'_>| match slots[member.slot()] {
        SlotPlan::Stale { candidate, reason: StaleReason::Leftover | StaleReason::RolledBack } => {
            candidate == member.candidate
        }
        _ => false,
    };
    let left_behind = present
        .iter()
        .chain(&old)
        .filter(is_left_behind)
        .map(|member| (member.slot(), member.epoch()))
        .collect();
    Ok(Assembly {
        unclean: is_unclean(&current, &record),
        read_only: present.iter().any(|member| member.found.superblock.read_only_required),
        epoch_number_max: present
            .iter()
            .chain(&old)
            .map(|member| member.epoch().number)
            .max()
            .unwrap_or_default(),
        proven_moves: epochs::proven_moves(&record, &present),
        record,
        slots,
        left_out,
        seats,
        left_behind,
    })
}

/// Whether the array was not stopped cleanly; see "Unclean" above.
fn is_unclean(current: &[&Present<'_>], record: &Record) -> bool {
    let newest: EpochName = record.epoch.name;
    let (holders, behind): (Vec<&Present<'_>>, Vec<&Present<'_>>) =
        current.iter().partition(|member| member.epoch() == newest);
    if holders.iter().any(|member| member.found.superblock.record.state == RunState::Clean) {
        return false;
    }
    let never_committed = behind.iter().any(|member| member.found.both_valid);
    !never_committed || record.found == RunState::Active
}
