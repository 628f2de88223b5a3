//! The first superblocks of an array.

use uuid::Uuid;

use super::roster::SuperblockWrite;
use crate::format::Shape;
use crate::format::host::Host;
use crate::format::label::Label;
use crate::format::superblock::{
    Copy, Epoch, EpochName, LINE_EPOCHS, Record, RunState, SlotRecord, SlotState, Superblock,
};
use crate::format::zones::Zones;
use crate::limits::MEMBERS_MAX;

/// The parameters of a new array.
#[derive(Clone, Debug)]
pub struct NewArray<'a> {
    /// The array's identity, random.
    pub array: Uuid,
    /// The array's name, not empty.
    pub name: Label,
    /// The host that owns the array; empty for any host.
    pub host: Host,
    /// Creation time, in seconds since 1970.
    pub created_s: u64,
    /// Level, number of members and chunk size.
    pub shape: Shape,
    /// The unit of host requests: a power of two, 512..=4096.
    pub logical_block_bytes: u32,
    /// Zones computed by [`zones`](crate::format::zones::zones) for the smallest member.
    pub zones: Zones,
    /// A random identity for each device, in slot order.
    pub members: &'a [Uuid],
    /// Random id of the first epoch, not zero.
    pub epoch_id: u64,
}

/// Makes the superblocks of a new array, both copies for each member; the device index equals the slot. They
/// are written last, after the bitmap blocks, to devices that were wiped around the data zone before.
///
/// # Panics
/// If the shape, zones, uuids or name are not valid.
#[must_use]
pub fn create(new: &NewArray<'_>) -> Vec<SuperblockWrite> {
    assert_eq!(new.members.len(), new.shape.members);
    let mut slots = [SlotRecord::EMPTY; MEMBERS_MAX];
    for (entry, &member) in slots.iter_mut().zip(new.members) {
        *entry =
            SlotRecord { member, state: SlotState::InSync, held: EpochName::NONE, held_moves: 0, cursor: 0 };
    }
    let record = Record {
        array: new.array,
        name: new.name,
        host: new.host,
        created_s: new.created_s,
        shape: new.shape,
        logical_block_bytes: new.logical_block_bytes,
        zones: new.zones,
        epoch: Epoch { name: EpochName { number: 1, id: new.epoch_id }, line: [0; LINE_EPOCHS] },
        moves: 0,
        state: RunState::Clean,
        settled: true,
        both_places: true,
        wiped: true,
        found: RunState::Clean,
        lost_rows: false,
        slots,
    };
    let write = |slot, (copy, sequence)| {
        let member = new.members[slot];
        let superblock = Superblock {
            sequence,
            member,
            slot,
            read_only_required: false,
            proven: false,
            record: record.clone(),
        };
        assert_eq!(superblock.check(), Ok(()));
        SuperblockWrite { slot, device: slot, copy, superblock }
    };
    (0..new.shape.members)
        .flat_map(|slot| [(Copy::A, 1), (Copy::B, 2)].map(|copy| write(slot, copy)))
        .collect()
}
