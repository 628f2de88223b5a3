//! Growing a stopped array into room that its members have got: all have been replaced by longer ones, or their partitions
//! were extended.
//!
//! 1. The bitmap blocks of the stripes to be, all Unwritten, go to every member, durably. They lie where the record keeps the
//!    log, of which nothing is written yet: to the array as it is they mean nothing. (Cells beyond the last stripe are
//!    Unwritten in the last block that there was, always.)
//! 2. An epoch with the new zones, on every member. Whoever finds it on some of them, after a crash, finds the blocks too.
//!
//! So the new stripes are there at once, read as zeros, and no parity of theirs is believed. Every slot has to be in sync: a
//! member that is not here might be too short.

use bitmap::{Bitmap, Cell};

use crate::array::Layout;
use crate::assembly::{Assembly, Change, ChangeRefused, SlotPlan};
use crate::format::zones::Zones;
use crate::geometry::Slots;
use crate::ring::{DeviceIndex, Ring};

use super::{Bench, StartError, commit, write_blocks};

/// Why an array was not grown.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// A member is missing, or is not in sync.
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
        /// Which.
        slot: usize,
        /// Why.
        errno: i32,
    },
    /// The members that are left are too few, or must not be written.
    #[error(transparent)]
    Refused(#[from] StartError),
}

impl GrowError {
    /// The slot that the error is about, if it is about one.
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

/// Gives an array that is not running these zones, which are [grown](Zones::grown) from its own and end inside every member.
/// It is left stopped, as clean as it was found. The slots that failed meanwhile. `seed` is random, not zero.
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
    // An epoch by itself leaves the state as it was found, and whether both places of each block say the same.
    Ok(commit(bench, &mut roster, writes, seed)?)
}
