//! Growing a stopped array into new space on its members, after all were replaced by longer ones or their
//! partitions were extended.
//!
//! 1. The bitmap blocks of the new stripes, all Unwritten, go to every member, durably. They lie in the zone
//!    that the record reserves for the log, in which nothing is written yet, so they mean nothing to the
//!    array as it is. (Cells beyond the last stripe are always Unwritten in the block that was the last.)
//! 2. An epoch with the new zones goes to every member. After a crash, a start that finds this epoch on some
//!    members also finds the blocks.
//!
//! So the new stripes exist at once and read as zeros, and their parity is never trusted. Every slot has to
//! be in sync: an absent member might be too short.

use bitmap::{Bitmap, Cell};

use crate::array::Layout;
use crate::assembly::{Assembly, Change, ChangeRefused, SlotPlan};
use crate::format::zones::Zones;
use crate::geometry::Slots;
use crate::ring::{DeviceIndex, Ring};

use super::{Bench, StartError, commit, write_blocks};

/// Reasons why an array was not grown.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// A member is missing or not in sync.
    #[error("slot {slot} is not in sync: an array is grown when every member is there and in sync")]
    NotInSync {
        /// The first such slot.
        slot: usize,
    },
    /// A member could not be written; the array is as it was.
    #[error(
        "slot {slot} cannot be written ({}); nothing has changed: replace it, and grow then",
        std::io::Error::from_raw_os_error(*.errno)
    )]
    Member {
        /// The member's slot.
        slot: usize,
        /// The error that the kernel reported.
        errno: i32,
    },
    /// The remaining members are too few, or must not be written.
    #[error(transparent)]
    Refused(#[from] StartError),
}

impl GrowError {
    /// The slot that the error is about, if any.
    #[must_use]
    pub const fn slot(&self) -> Option<usize> {
        match self {
            GrowError::NotInSync { slot } | GrowError::Member { slot, .. } => Some(*slot),
            GrowError::Refused(error) => error.slot(),
        }
    }
}

impl From<ChangeRefused> for GrowError {
    fn from(refused: ChangeRefused) -> GrowError {
        GrowError::Refused(refused.into())
    }
}

/// Gives a stopped array these zones, which are [grown](Zones::grown) from its own and end inside every
/// member. The array stays stopped, as clean as it was found. Returns the slots that failed meanwhile. `seed`
/// is random, not zero.
pub fn grow<R: Ring>(
    bench: &mut Bench<'_, R>,
    assembly: &Assembly,
    zones: Zones,
    seed: u64,
) -> Result<Slots, GrowError> {
    let record = &assembly.record;
    let in_sync = |(slot, plan): (usize, &SlotPlan)| match *plan {
        SlotPlan::InSync { candidate } => Ok(DeviceIndex(candidate as u8)),
        _ => Err(GrowError::NotInSync { slot }),
    };
    let devices = assembly.slots.iter().enumerate().map(in_sync).collect::<Result<Vec<_>, _>>()?;
    let mut roster = assembly.roster()?;
    let layout = Layout::of(record.array, &record.zones, record.logical_block_bytes);
    let bitmap = Bitmap::new(zones.stripes, Cell::Unwritten);
    let first = record.zones.bitmap_blocks() as u32;
    write_blocks(bench, &layout, &devices, &bitmap, first, &mut |_, _| {})
        .map_err(|(slot, errno)| GrowError::Member { slot, errno })?;
    let id = roster.record().epoch.name.next_id(seed);
    let writes = roster.begin(Change::Grow { zones }, id)?;
    // An epoch by itself keeps the state as found, and also whether both places of each block hold the same.
    Ok(commit(bench, &mut roster, writes, seed)?)
}
