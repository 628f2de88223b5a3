//! The state that all reactors of one array share.

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

/// The start of each zone on every member, and the array that they belong to.
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
    /// Makes the layout of an array with these zones.
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

/// The state that all reactors of one array share.
pub struct Shared {
    /// The array's shape and its arithmetic.
    pub geometry: Geometry,
    /// The positions of the zones.
    pub layout: Layout,
    /// The array's cells, one per stripe.
    pub bitmap: Bitmap,
    /// Rows that can no longer be computed.
    pub lost: LostRows,
    /// The owner of each stripe.
    pub locks: StripeLocks,
    /// The state of the slots.
    pub members: Members,
    /// The memory for data.
    pub memory: Arc<Memory>,
    /// Mail between reactors, a mailbox for each.
    pub mailboxes: Mailboxes,
    /// Counters, one set for each reactor.
    pub tallies: Vec<Tally>,
    /// Orders to the steward, and what it publishes.
    pub steward: StewardState,
    /// Whether the array refuses writes and writes nothing, not even metadata.
    pub read_only: bool,
    /// A counter that grows before strips are given back to the devices. A read in flight at that time may
    /// have seen data that no host wrote, and is repeated. Written by the owner of a discarded stripe
    /// (Release; the cell is Unwritten before), read by readers before the cell (Acquire).
    pub deallocations: AtomicU32,
}

impl Shared {
    /// The conditions under which slots may leave without a loss of data. Unsynced stripes are counted as of
    /// now: a write that is refused at the same time may add one.
    #[must_use]
    pub fn needs(&self) -> Needs {
        Needs {
            data: self.geometry.data().into(),
            unsynced: self.bitmap.need_sync() > 0,
            torn: self.steward.torn.load(Ordering::Acquire) > 0,
        }
    }

    /// Whether the array has failed: fewer slots are in sync than the data needs, or a member refused
    /// something without which nothing can be promised. A failed array stays failed
    /// ([`Members::finish_rebuild`]), and nothing more is put on record: the record knows no such array, even
    /// if the rebuild of another slot is nearly done.
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
