//! Checks that members suit an array, before anything is written.
//!
//! An array is made for one block size, the largest of its members'. A device with larger blocks cannot read
//! or write parts of them: through the block device every small request fails with `EINVAL`, and the drive's
//! own commands would count in blocks that do not exist. A member's block size changes by a copy to a drive
//! with another format, by `nvme format`, by a USB bridge, or by `losetup --sector-size`.

use crate::assembly::{Assembly, SlotPlan};
use crate::device::{Device, DeviceKind};

use super::ServerError;

/// Refuses a start with a member whose blocks are larger than the array's.
pub(super) fn check_blocks(assembly: &Assembly, devices: &[Device]) -> Result<(), ServerError> {
    let array = assembly.record.logical_block_bytes;
    for plan in &assembly.slots {
        let (SlotPlan::InSync { candidate } | SlotPlan::Rebuilding { candidate, .. }) = *plan else {
            continue;
        };
        let device = &devices[candidate];
        let member = device.facts().logical_block_bytes;
        if !blocks_suit(array, member) {
            return Err(too_large(device, member, array));
        }
    }
    Ok(())
}

/// Whether every request of an array with blocks of `array_bytes` consists of whole blocks of `member_bytes`.
/// Both are powers of two.
pub(super) const fn blocks_suit(array_bytes: u32, member_bytes: u32) -> bool {
    member_bytes <= array_bytes
}

/// Error text with the device, the reason, and what to do.
pub(super) fn too_large(device: &Device, member_bytes: u32, array_bytes: u32) -> ServerError {
    let of = match device.kind() {
        DeviceKind::Block => "has blocks of",
        DeviceKind::File => "lies on a file system whose direct I/O is in blocks of",
    };
    ServerError(format!(
        "{}: {of} {member_bytes} bytes, and the array is made for blocks of {array_bytes}: attach it as it was when the array was made, or leave it out and replace it by a device with blocks of at most {array_bytes} bytes",
        device.name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_blocks_suit_and_larger_do_not() {
        for (array, member, suits) in
            [(512, 512, true), (4096, 512, true), (4096, 4096, true), (512, 4096, false)]
        {
            assert_eq!(blocks_suit(array, member), suits, "{array} {member}");
        }
    }
}
