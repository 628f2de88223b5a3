//! Which devices make up the array, and which must not: a decision from what their superblocks say.
//!
//! # Epochs
//!
//! Each start and each change of membership is an *epoch*: a new record of the array, named by a number
//! and a random id, written to every slot that takes part in it. The devices are written one by one, and
//! a crash may leave any subset of them written. One rule makes that harmless:
//!
//! > **The rule.** In an epoch, no bitmap block, data or parity is written, and nothing that relies on
//! > the change is acknowledged, before *all* its participants hold it. (`Roster::is_committed`.) And a
//! > new epoch is not begun before the outcome of every write of the last one is known.
//!
//! An epoch whose participants all hold it is *committed*. A device that was to take part and does not
//! hold it is thus proof that nothing was done in it. The record keeps for each slot, beside its state,
//! the epoch that its device *held* when the new one was made. So of the newest epoch H, a device with
//! its own epoch E is
//!
//! | the record of H says of the device | E is | it is |
//! |---|---|---|
//! | takes part | H | current |
//! | takes part | its held epoch | current: H's writes stopped short of it, so nothing was done in H |
//! | takes no part | its held epoch | stale: it left when the array says it left |
//! | takes no part | one that H came from (of the last eight), or that another slot held | leftover: H's line goes through E, without it |
//! | takes no part | one that others were to be in sync in, and they are where they were before it, or came from there to H or to one that H came from | leftover: broken off |
//! | takes no part, or not there at all | one that others were to be in sync in, and they are current and say that it takes no part | leftover: passed by |
//! | anything, or not there at all | another than that of a current, stale or leftover device that was to be in sync in E | leftover: broken off, or outlived |
//! | not there at all | of a lower number than H | replaced |
//! | anything else | | apart: both sides may hold data that the other lacks |
//!
//! *Why a current device has all acknowledged data.* When H was made the device was current at the held
//! epoch, by induction. If it does not hold H, nothing was done in H. If something had been done since
//! in an epoch X without it, X was committed; then its participants hold X or a descendant, one of them
//! is among the n - parities devices here (two such sets share a member, except 2 and 2 of 4: hence the
//! operator's word), and that one is neither at H nor at its held epoch, so H does not explain it.
//!
//! *Why a leftover holds nothing that the array lacks.* Let E's record list q as in sync. Then q had all that
//! was ever acknowledged in E and before: when E was made, and as long as data was written in it. If q is now
//! current, stale or leftover (by another witness), in another epoch, then it has come into H's line (every
//! step of a device goes to a descendant, or, when one that was stale or leftover rejoins, to a line that
//! contains what it left). So H's line has it too. Only "in sync" counts: a q that was to be *rebuilt* in E had nothing yet. And that E was
//! broken off is not enough: what E came from may have run apart from H.
//!
//! *Why a leftover of the line holds nothing that the array lacks.* Every epoch of H's line was made from the one before by
//! devices that were current there, and so had all that was acknowledged in it and before; and so with each epoch that a slot
//! held when a record of H's line was made. Whatever this device took part in after E it would hold by now. (The record says
//! that the device held another epoch when its maker did not see it. The witnesses of the line above are gone when the power fails while H is being written into the other copies: each may be torn. Two or three cuts
//! during starts, some with members absent, then cost the array; the simulator found both.) The next record says what a leftover
//! holds, so that it is stale from then on, and need not be explained again when H is farther back than the line goes. (If
//! that was an epoch that was broken off or outlived, it holds nothing for a second device that holds it either.)
//!
//! *Why a leftover whose epoch others never held holds nothing that the array lacks.* Let q be in sync in E's record, there
//! and in H's with the same held epoch, and be at that, or at H: then it never held E, and E was not committed. Nor was
//! any epoch of E's line since the held one: without q it would have made q stale, and only a rebuild, which ends in an
//! epoch that q holds, makes it in sync again. So q has all that was acknowledged in E's line, and H's line has what q
//! had. A device that lost its copy of E to decay would lie: so there must be two of them, or the leftover holds E in one copy
//! only, for what is committed is soon in both. (Several starts broken off, with different members absent: every witness
//! of the line above is torn. The simulator found it.) If such a q is at H, then E was made before H was, and where H's
//! maker saw the others counts as well, be they here or not. Nor need q's held epoch be the same in both records: let H's line
//! go through the one in E's. E came after that one, and is none of the line, so H does not come from E; and where q has come
//! on by that line since, it never held E, wherever on the line it is now: it may have left again before H. (More starts, in which
//! who was missing stays away. The simulator found both, once in some million power cuts.)
//!
//! *Why a leftover that others went on without holds nothing that the array lacks.* Let q be in sync in E's record, be current,
//! and hold a record in which this device takes no part. Then q had all that was acknowledged in E and before, as above, and
//! has gone on to H. A copy of q that is torn changes nothing of that. One that decayed may hide an epoch, and this could be E
//! itself, but then only E's record first takes this device in again, to be rebuilt: to be in sync takes two epochs. So of a
//! device to be rebuilt two must say it. And where the device holds E twice, it takes two as well: a q that decayed before it
//! went on would not know of what was done in E. (It stays away for several starts, each of the others is made from one that it
//! has no part in, and the power fails while H is being written into the other copies. The simulator found it, as soon as it let
//! members stay away.)
//!
//! *Why "held" and not the parent's id.* Two starts may break off one after the other: the first writes
//! slot 0 (epoch A), the second, which found slot 0 at A and slot 1 at N, writes slot 0 again (epoch B,
//! parent A). Slot 1 is at N, which is not B's parent. Judged by the parent it would be stale, and two
//! power cuts during start would cost a rebuild, or the array.
//!
//! *Decay.* If a copy of a superblock is damaged, the other one may be an epoch older, and it would seem
//! that the newer was never written. So once an epoch is committed it is written to the other copies
//! too ([`Roster::reinforce`]), and until then a device with a damaged copy is proof of nothing: it is
//! judged by the rest, but neither makes another a leftover nor an unclean array a clean one.
//!
//! *The newest epoch* is, of those that leave no device apart and have n - parities members in sync here,
//! the one with the highest number. (Several may: those that were broken off are leftovers to the others,
//! and the highest of them may be held by a joining device alone.) If none is left, then too few are here;
//! or, if one would have enough and leaves a device apart, the members ran apart, and assembly refuses.
//! tests/format_assembly enumerates all of this: every subset of the writes of every change, runs two deep
//! (three when asked), times every subset of the devices present. It found the sentence in parentheses.
//!
//! # Unclean
//!
//! A stop is clean from the first superblock that says so (cells and data were durable before it was
//! written). Otherwise an epoch that was committed, or may have been, was in use. One that was provably
//! not committed leaves the array as it was *found* when it was made, and the record says how.

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
    /// How the operator knows it: its path.
    pub label: String,
    /// What its superblocks come to.
    pub found: Result<Found, NoMember>,
}

/// What the operator wants, and allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct AssemblyOptions {
    /// Start though not more than half of the members are there.
    pub run_degraded: bool,
    /// This host; an array that belongs to another is refused.
    pub host: Host,
    /// Take an array that belongs to another host.
    pub foreign_host_ok: bool,
    /// The array must be this one.
    pub expected_array: Option<Uuid>,
    /// The array must have this name.
    pub expected_name: Option<Label>,
}

/// An array that can be started.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// The array's record as of the newest epoch. Rebuild cursors are the least of what its holders say.
    pub record: Record,
    /// One entry a slot.
    pub slots: Vec<SlotPlan>,
    /// Candidates that have no place in any slot, and why.
    pub left_out: Vec<LeftOut>,
    /// It was not stopped cleanly: Dirty cells are NeedSync.
    pub unclean: bool,
    /// A superblock asks for a feature that this program can only read around.
    pub read_only: bool,
    /// The highest epoch number on any device here; the next epoch's is higher.
    epoch_number_max: u64,
    /// The moves within the record's epoch that absent devices hold too; `None` if the epoch may have been broken off.
    pub proven_moves: Option<u64>,
    /// What the devices of InSync and Rebuilding slots hold, by slot.
    seats: Vec<Option<roster::Seat>>,
    /// Slots whose device here holds an epoch that the next record must name, so that the device is stale from then on:
    /// leftovers, and devices that went back to an older image.
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

/// See "Unclean" above.
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
