//! What all reactors of one array share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bitmap::{Bitmap, StripeLocks};

use crate::format::zones::Zones;
use crate::geometry::Geometry;
use crate::lost::LostRows;
use crate::mailbox::Mailboxes;
use crate::members::{Members, Needs};
use crate::memory::Memory;
use crate::tally::Tally;

mod noting;
mod orders;
mod rest;

pub use noting::{NoteOrder, NoteOrders, Noting, Position};
pub use orders::{Answer, Beginning, Order, StewardState};
pub use rest::Rest;

/// Where the zones of every member begin, and whose they are.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The array's uuid, as in every bitmap block.
    pub uuid: [u8; 16],
    /// First byte of bitmap block 0 on a member.
    pub bitmap_offset_bytes: u64,
    /// First byte of strip 0 on a member.
    pub data_offset_bytes: u64,
    /// The unit of host requests, bytes.
    pub logical_block_bytes: u32,
}

impl Layout {
    /// That of an array with these zones.
    #[must_use]
    pub const fn of(array: uuid::Uuid, zones: &Zones, logical_block_bytes: u32) -> Layout {
        Layout {
            uuid: *array.as_bytes(),
            bitmap_offset_bytes: zones.bitmap.offset_bytes,
            data_offset_bytes: zones.data.offset_bytes,
            logical_block_bytes,
        }
    }
}

/// What all reactors of one array share.
pub struct Shared {
    /// Shape and arithmetic.
    pub geometry: Geometry,
    /// Zones.
    pub layout: Layout,
    /// One cell a stripe.
    pub bitmap: Bitmap,
    /// Rows that nobody can compute any more.
    pub lost: LostRows,
    /// Who owns which stripe.
    pub locks: StripeLocks,
    /// The slots.
    pub members: Members,
    /// Data memory.
    pub memory: Arc<Memory>,
    /// One a reactor.
    pub mailboxes: Mailboxes,
    /// What was counted, one a reactor.
    pub tallies: Vec<Tally>,
    /// What the steward is asked, and what it says.
    pub steward: StewardState,
    /// Refuses writes and writes nothing, not even metadata.
    pub read_only: bool,
    /// Counts up before strips are given back to the devices. A read in flight meanwhile may have seen what
    /// no host wrote, and is done again. Written by the owner of a discarded stripe (Release, the cell is
    /// Unwritten before), read by readers before the cell (Acquire).
    pub deallocations: AtomicU32,
}

impl Shared {
    /// What must be left of the slots so that no data is lost. Counts what was NeedSync at this moment: a write that is refused at
    /// the same time may make one more.
    #[must_use]
    pub fn needs(&self) -> Needs {
        Needs {
            data: self.geometry.data().into(),
            unsynced: self.bitmap.need_sync() > 0,
            torn: self.steward.torn.load(Ordering::Acquire) > 0,
        }
    }

    /// Whether fewer slots are in sync than hold the data, or a member refused what nothing can be promised without. It stays so ([`Members::finish_rebuild`]), and nothing is put on
    /// record any more: the record knows no such array, also when the rebuild of another slot is nearly done.
    #[must_use]
    pub fn failed(&self) -> bool {
        let missing = self.geometry.slots().minus(self.members.view().readable);
        missing.count() > u32::from(self.geometry.parities()) || self.members.has_stopped_serving()
    }

    /// Calls the steward of an array that rests, unless it was called already.
    pub(crate) fn call_from_rest(&self) {
        if self.steward.rest.call() {
            self.mailboxes.wake(0);
        }
    }
}
