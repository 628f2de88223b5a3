//! Decides whether an array can be served as the block device that waits for it. Hosts were told the device's
//! properties and continue to rely on them.
//!
//! Only one property can change for a host in use: the size can grow, where the driver has UPDATE_SIZE (Linux
//! 6.16). Whether the members are in the state in which the previous server left them is a separate question,
//! answered by the caller of [`Ublk::open`](super::Ublk::open).

use super::abi::{DeviceInfo, Parameters, attribute, feature};
use super::control::{Control, failed};
use super::device::UblkChoice;
use super::{UblkError, UblkShape};

/// How the last takeover of a device ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// Every queue had fetched, or none.
    Whole,
    /// The server was killed between the first fetch and the last, or shortly before or after.
    MayBeHalfStarted,
}

/// Whether the driver must not be asked to begin a recovery. Before Linux 6.16, START_USER_RECOVERY of a
/// device of which only some queues have fetched makes the kernel dereference a null pointer
/// (ublk_queue_reinit of a queue without a daemon; seen on 6.12.95), and the driver's lock stays taken.
pub(super) fn is_beyond_recovery(control: &mut Control, info: &DeviceInfo, last: Last) -> bool {
    last == Last::MayBeHalfStarted
        && info.queues > 1
        && control.features().unwrap_or(0) & feature::PER_IO_DAEMON == 0
}

/// Returns the parameters that a waiting device told hosts, if the array can be served with them.
pub(super) fn fitting(
    control: &mut Control,
    choice: UblkChoice,
    info: &DeviceInfo,
    name: &str,
    shape: &UblkShape,
) -> Result<Parameters, UblkError> {
    let device = info.device;
    let told = control
        .parameters(device)
        .map_err(|error| failed(&format!("ask what /dev/ublkb{device} says of itself"), &error))?;
    let updates_size = control.features().unwrap_or(0) & feature::UPDATE_SIZE != 0;
    let wanted = shape.parameters(info.io_bytes_max);
    objection(choice, device, &told, &wanted, updates_size, name)
        .map_or(Ok(told), |why| Err(UblkError(format!("/dev/ublkb{device} waits for this array{why}"))))
}

/// Why a device that hosts know as `told` cannot be served as `wanted`, and what the operator can do.
fn objection(
    choice: UblkChoice,
    device: u32,
    told: &Parameters,
    wanted: &Parameters,
    updates_size: bool,
    name: &str,
) -> Option<String> {
    let give_up = format!(
        "give the device up with `striate stop --force {name}`, which fails its I/O, and serve again"
    );
    let has = |parameters: &Parameters, what: u32| parameters.attributes & what != 0;
    let grows = wanted.device_sectors > told.device_sectors;
    if matches!(choice, UblkChoice::Number(number) if number != device) {
        return Some(format!(": serve it there (--ublk={device}), or {give_up}"));
    }
    match (has(told, attribute::READ_ONLY), has(wanted, attribute::READ_ONLY)) {
        (false, true) => {
            return Some(format!(
                ", and hosts write to it: a read-only server would fail their writes; serve without --read-only, or {give_up}"
            ));
        }
        (true, false) => {
            return Some(format!(" as a read-only device: serve with --read-only, or {give_up}"));
        }
        (true, true) | (false, false) => {}
    }
    if grows && !updates_size {
        return Some(format!(
            ", which has grown since, and the ublk driver cannot tell hosts so (Linux before 6.16): {give_up}"
        ));
    }
    let is_another = wanted.device_sectors < told.device_sectors
        || told.logical_block_shift != wanted.logical_block_shift
        || has(wanted, attribute::VOLATILE_CACHE) && !has(told, attribute::VOLATILE_CACHE);
    is_another
        .then(|| format!(", which is not what it was (its size, its blocks, or a member's cache): {give_up}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_taken_over_as_what_hosts_were_told() {
        let shape = UblkShape {
            size_bytes: 1 << 30,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            chunk_bytes: 64 << 10,
            stripe_bytes: 256 << 10,
            volatile_cache: false,
            read_only: false,
        };
        let refusal = |told: &UblkShape, wanted: &UblkShape, choice, updates_size| {
            let (told, wanted) = (told.parameters(1 << 20), wanted.parameters(1 << 20));
            objection(choice, 3, &told, &wanted, updates_size, "t0")
        };
        let read_only = UblkShape { read_only: true, ..shape };
        let longer = UblkShape { size_bytes: 2 << 30, ..shape };
        let cached = UblkShape { volatile_cache: true, ..shape };
        let other_blocks = UblkShape { logical_block_bytes: 4096, ..shape };
        let any = UblkChoice::Any;
        for (told, wanted, choice, updates_size, expected) in [
            (shape, shape, any, false, None),
            (shape, shape, UblkChoice::Number(3), false, None),
            (shape, shape, UblkChoice::Number(4), false, Some("(--ublk=3)")),
            (shape, read_only, any, true, Some("serve without --read-only")),
            (read_only, shape, any, true, Some("serve with --read-only")),
            (read_only, read_only, any, true, None),
            (shape, longer, any, true, None),
            (shape, longer, any, false, Some("has grown since")),
            (longer, shape, any, true, Some("not what it was")),
            (shape, cached, any, true, Some("not what it was")),
            (cached, shape, any, true, None),
            (shape, other_blocks, any, true, Some("not what it was")),
        ] {
            let refused = refusal(&told, &wanted, choice, updates_size);
            match expected {
                None => assert_eq!(refused, None, "{told:?} as {wanted:?}"),
                Some(part) => {
                    let refused = refused.expect("it is refused");
                    assert!(
                        refused.contains(part) && refused.contains("`striate stop --force t0`"),
                        "{refused}"
                    );
                }
            }
        }
    }
}
