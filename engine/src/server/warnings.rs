//! Warnings of a successful start.

use crate::assembly::{Assembly, Candidate, LeftOutReason, SlotPlan};
use crate::device::Device;
use crate::start::Started;

use super::words::{after_path, shell_word};

/// Warnings about the assembly: members left out and why, damaged superblocks, an unclean stop.
pub(super) fn of_assembly(assembly: &Assembly, candidates: &[Candidate]) -> Vec<String> {
    let mut warnings = Vec::new();
    let name = assembly.record.name.as_str();
    let label = |candidate: usize| &candidates[candidate].label;
    for left_out in &assembly.left_out {
        let path = label(left_out.candidate);
        let advice = match left_out.reason {
            LeftOutReason::Replaced { slot } => match assembly.slots[slot] {
                SlotPlan::InSync { .. } | SlotPlan::Rebuilding { .. } => {
                    "; another device has its slot now, and this one is free for other use".into()
                }
                _ => {
                    let path = shell_word(path);
                    format!(
                        "; to fill the slot with it again: `striate replace {name} {slot} {path} --force`"
                    )
                }
            },
            LeftOutReason::NoMember(_) => String::new(),
        };
        warnings.push(format!("{path}: left out: {}{advice}", left_out.reason));
    }
    for (slot, plan) in assembly.slots.iter().enumerate() {
        match plan {
            SlotPlan::Stale { candidate, reason } => warnings.push(format!(
                "{}: left out of slot {slot}: it {reason}; to fill it anew: `striate replace {name} {slot} {} --force`",
                label(*candidate),
                shell_word(label(*candidate))
            )),
            // The first notices report these slots: see `running/notices`.
            SlotPlan::Missing | SlotPlan::Failed | SlotPlan::Empty => {}
            SlotPlan::InSync { candidate } | SlotPlan::Rebuilding { candidate, .. } => {
                let is_damaged = candidates[*candidate].found.as_ref().is_ok_and(|found| !found.both_valid);
                if is_damaged {
                    warnings.push(format!(
                        "{}: slot {slot}: one of its two superblocks was damaged or could not be read; a start that may write \
                         repairs it",
                        label(*candidate)
                    ));
                }
            }
        }
    }
    if assembly.unclean {
        warnings
            .push("the array was not stopped cleanly: stripes that were being written are resynced".into());
    }
    warnings
}

/// Warnings about loading the bitmap.
pub(super) fn of_start(started: &Started, assembly: &Assembly, devices: &[Device]) -> Vec<String> {
    let mut warnings = Vec::new();
    for slot in started.bad_places.iter() {
        let text = format!(
            "slot {slot}: a part of its bitmap was damaged or could not be read: copies on other members are used"
        );
        warnings.push(after_path(Some(slot.into()), &text, assembly, devices));
    }
    if started.stale_blocks > 0 {
        let what = if started.parity_trusted {
            "their parity is trusted, as you said, and stripes that were never written read as what the members held before"
        } else {
            "they are resynced, and with a member missing its strips there are lost"
        };
        warnings.push(format!(
            "{} bitmap blocks: no member here shows the newest state of their stripes for certain; {what}",
            started.stale_blocks
        ));
    }
    warnings
}
