//! Texts for messages: paths quoted for a shell, what a device holds, slots that are not in sync.

use std::path::Path;

use crate::assembly::{Assembly, SlotPlan};
use crate::device::Device;
use crate::format::superblock::{self, Copy, choose};
use crate::limits::BLOCK_BYTES;

/// Quotes a word for a shell, if necessary.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@%,=".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Quotes a path for a shell, if necessary.
#[must_use]
pub fn shell_path(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}

/// The array that a member belongs to, by the superblocks in the first bytes of a device: name, UUID and
/// date. `None` if neither copy is valid.
pub(super) fn member_held(head: &[u8], device_bytes: u64) -> Option<String> {
    let copy = |copy: Copy| head.get(copy.offset_bytes() as usize..)?.get(..BLOCK_BYTES);
    let found = choose(copy(Copy::A)?, copy(Copy::B)?, device_bytes).ok()?;
    let superblock::Superblock { record, slot, .. } = found.superblock;
    let (name, uuid, date) = (record.name.as_str(), record.array, date(record.created_s));
    Some(format!("the member of slot {slot} of the Striate array {name} (UUID {uuid}, created {date})"))
}

/// The date (UTC) of a time in seconds since 1970, as in `2026-12-01`.
fn date(since_1970_s: u64) -> String {
    // Count days since 1 March of year 0, in eras of 400 years: Hinnant, "chrono-compatible low-level date
    // algorithms".
    let days = since_1970_s / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The path of the device in a slot, if a device takes part there.
fn path_of<'a>(slot: usize, assembly: &Assembly, devices: &'a [Device]) -> Option<&'a Path> {
    match assembly.slots.get(slot)? {
        SlotPlan::InSync { candidate } | SlotPlan::Rebuilding { candidate, .. } => {
            Some(devices[*candidate].path())
        }
        SlotPlan::Stale { .. } | SlotPlan::Missing | SlotPlan::Failed | SlotPlan::Empty => None,
    }
}

/// An error about a slot, after the path of the slot's device.
pub(super) fn after_path(
    slot: Option<usize>,
    error: &dyn std::fmt::Display,
    assembly: &Assembly,
    devices: &[Device],
) -> String {
    match slot.and_then(|slot| path_of(slot, assembly, devices)) {
        Some(path) => format!("{}: {error}", path.display()),
        None => error.to_string(),
    }
}

/// The first slot that is not in sync, with its member by path and the reason; `None` if all are in sync.
pub(super) fn not_in_sync(assembly: &Assembly, devices: &[Device]) -> Option<String> {
    let path = |candidate: usize| devices[candidate].path().display();
    let (slot, plan) =
        assembly.slots.iter().enumerate().find(|(_, plan)| !matches!(plan, SlotPlan::InSync { .. }))?;
    let mut text = match plan {
        SlotPlan::Stale { candidate, reason } => {
            format!("slot {slot} is not in sync: {}: it {reason}", path(*candidate))
        }
        SlotPlan::Rebuilding { candidate, .. } => {
            format!("slot {slot} is not in sync: {}: it is not rebuilt yet", path(*candidate))
        }
        SlotPlan::InSync { .. } | SlotPlan::Missing | SlotPlan::Failed | SlotPlan::Empty => {
            format!("slot {slot} is missing")
        }
    };
    for out in &assembly.left_out {
        text += &format!("; {}: left out: {}", path(out.candidate), out.reason);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        for (since_1970_s, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_767_225_599, "2025-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date(since_1970_s), expected);
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(shell_word("/run/a"), "/run/a");
        assert_eq!(shell_word("/it's here"), r"'/it'\''s here'");
        assert_eq!(shell_word(""), "''");
    }
}
