//! The `Shared` of an array that a test drives by hand: a synced array of any shape, with one reactor and no
//! record.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bitmap::{Bitmap, Cell, StripeLocks};
use engine::array::{Beginning, Layout, Shared, StewardState};
use engine::geometry::{Geometry, Slots};
use engine::lost::LostRows;
use engine::mailbox::Mailboxes;
use engine::members::{MemberView, Members};
use engine::memory::Memory;
use engine::ring::DeviceIndex;
use engine::tally::Tally;

/// The shape and members of such an array. The device of each slot has the slot's number.
pub struct Plain {
    pub geometry: Geometry,
    pub stripes: u64,
    /// The state of every stripe.
    pub cell: Cell,
    /// Slots with a member.
    pub present: Slots,
    /// Slots whose member has a volatile cache.
    pub volatile: Slots,
    pub data_offset_bytes: u64,
}

impl Plain {
    pub fn shared(&self, memory: &Arc<Memory>) -> Arc<Shared> {
        let geometry = self.geometry;
        let devices: Vec<DeviceIndex> = geometry.slots().iter().map(DeviceIndex).collect();
        let view = MemberView { readable: self.present, writable: self.present };
        Arc::new(Shared {
            geometry,
            layout: Layout {
                uuid: [1; 16],
                bitmap_offset_bytes: 1 << 20,
                data_offset_bytes: self.data_offset_bytes,
                logical_block_bytes: 512,
            },
            bitmap: Bitmap::new(self.stripes, self.cell),
            lost: LostRows::none(geometry),
            locks: StripeLocks::new(),
            members: Members::new(view, 0, &devices, self.volatile),
            memory: Arc::clone(memory),
            mailboxes: Mailboxes::new(vec![Box::new(|| {})]),
            tallies: vec![Tally::default()],
            steward: StewardState::new(Beginning { roster: None, seed: 1, rebuilding: None }),
            read_only: false,
            deallocations: AtomicU32::new(0),
        })
    }
}
