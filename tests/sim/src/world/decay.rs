//! Metadata that becomes unreadable, or decays, while the array is down.

use engine::format::lost_rows::{LIST_BYTES, PLACE_OFFSETS_BYTES};
use engine::format::superblock::{Copy, decode};
use engine::format::zones::{CELLS_PER_BLOCK, PLACES_PER_BLOCK, copies};

use crate::disk::{PAGE, Place, SECTOR, SECTORS_PER_PAGE};
use crate::monitors::{Monitors, code};

use super::{StartOutcome, World};

/// Length of the second copy of a GPT at the end of a device: its entries and its header.
const GPT_COPY_BYTES: u64 = 33 * SECTOR as u64;

/// A block of metadata on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Index of the disk.
    pub disk: usize,
    /// The block on that disk.
    pub block: Block,
}

/// A block of metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// A copy of the superblock.
    Superblock(Copy),
    /// A place of a bitmap block.
    Bitmap {
        /// Index of the bitmap block.
        block: u64,
        /// Index of the place, 0 or 1.
        place: u64,
    },
    /// A place of the list of lost rows: several blocks with one checksum.
    List {
        /// Index of the place, 0 or 1.
        place: usize,
    },
}

/// Kind of damage to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// A sector of the block cannot be read until it is written again.
    OneSector,
    /// None of the block's sectors can be read until they are written again.
    AllSectors,
    /// A bit of the block is flipped.
    Flip,
    /// Foreign bytes replace the whole block.
    Overwritten,
}

/// For each stripe, the cell in each copy that a start would read, by slot.
pub type CellsBefore = Vec<Vec<(usize, Option<u8>)>>;

impl World {
    /// Every block of metadata that a start from these disks reads.
    #[must_use]
    pub fn metadata(&self, disks: &[usize]) -> Vec<Spot> {
        let in_sync = Monitors::in_sync(&mut self.bus.borrow_mut());
        let mut spots = Vec::new();
        for &disk in disks {
            spots.extend([Copy::A, Copy::B].map(|copy| Spot { disk, block: Block::Superblock(copy) }));
            if self.has_list(disk) {
                spots.extend([0, 1].map(|place| Spot { disk, block: Block::List { place } }));
            }
            let Some(slot) = in_sync.iter().position(|one| *one == Some(disk)) else { continue };
            for block in 0..self.zones.bitmap_blocks() {
                if copies(block, &self.config.shape).any(|keeper| keeper == slot) {
                    let places = 0..PLACES_PER_BLOCK;
                    spots.extend(places.map(|place| Spot { disk, block: Block::Bitmap { block, place } }));
                }
            }
        }
        spots
    }

    /// Whether the record on a disk says that there is a list of lost rows.
    fn has_list(&self, disk: usize) -> bool {
        [Copy::A, Copy::B].into_iter().any(|copy| {
            let mut bus = self.bus.borrow_mut();
            let place = bus.disks[disk].place(copy.offset_bytes(), PAGE as u64);
            let mut bytes = [0; PAGE];
            bus.disks[disk].read_metadata(place, &mut bytes);
            decode(&bytes, copy).is_ok_and(|superblock| superblock.record.lost_rows)
        })
    }

    fn place_of(&self, spot: Spot) -> Place {
        let (offset_bytes, len_bytes) = match spot.block {
            Block::Superblock(copy) => (copy.offset_bytes(), PAGE),
            Block::Bitmap { block, place } => (self.zones.bitmap_block_offset_bytes(block, place), PAGE),
            Block::List { place } => (PLACE_OFFSETS_BYTES[place], LIST_BYTES),
        };
        self.bus.borrow().disks[spot.disk].place(offset_bytes, len_bytes as u64)
    }

    /// Damages a block of metadata. The array is down.
    pub fn decay(&mut self, spot: Spot, decay: Decay) {
        self.idle.forget();
        let place = self.place_of(spot);
        let sector = place.first + self.rng.below(place.count);
        let mut bus = self.bus.borrow_mut();
        bus.note(20, || format!("DECAY {decay:?} of {spot:?}"));
        bus.monitors.superblocks_changed = true;
        let disk = &mut bus.disks[spot.disk];
        match decay {
            Decay::OneSector => disk.spoil(sector),
            Decay::AllSectors => disk.bad.extend(place.sectors()),
            Decay::Flip => disk.flip(sector, self.rng.below(4096)),
            Decay::Overwritten => {
                let byte = self.rng.pick(&[0, 0xff, 0x5a]);
                for page in place.sectors().step_by(SECTORS_PER_PAGE as usize) {
                    disk.put_page(page / SECTORS_PER_PAGE, &[byte; PAGE]);
                }
            }
        }
    }

    /// Writes a partition table, as an installer does: a GPT in the disk's first blocks, and its copy in the
    /// last ones. The array is down.
    pub fn partition(&mut self, disk: usize) -> Spot {
        self.idle.forget();
        let mut bus = self.bus.borrow_mut();
        bus.note(21, || format!("PARTITIONS on disk {disk}"));
        bus.monitors.superblocks_changed = true;
        let (disk_at, device) = (disk, &mut bus.disks[disk]);
        device.put_page(0, &[0x5a; PAGE]);
        let data = self.room.data;
        let from = (self.device_bytes - GPT_COPY_BYTES).max(data.offset_bytes);
        for offset in (from..data.offset_bytes + data.len_bytes).step_by(SECTOR) {
            let sector = device.place(offset, SECTOR as u64).first;
            device.put_sector(sector, &[0x5a; SECTOR]);
        }
        Spot { disk: disk_at, block: Block::Superblock(Copy::A) }
    }

    /// For each stripe, the cell in each copy that is in sync and on one of these disks.
    #[must_use]
    pub fn cells_stored_on(&self, disks: &[usize]) -> CellsBefore {
        let mut bus = self.bus.borrow_mut();
        bus.monitors.superblocks_changed = true;
        let in_sync = Monitors::in_sync(&mut bus);
        let is_there = |slot: usize| in_sync[slot].is_some_and(|disk| disks.contains(&disk));
        let stripes = 0..self.geometry.stripes();
        let stored = stripes.map(|stripe| {
            let mut cells = Monitors::stored_cells(&mut bus, stripe);
            cells.retain(|&(slot, _)| is_there(slot));
            cells
        });
        stored.collect()
    }

    /// Looks at the array that these disks make up, after every member in sync has lost its newest place of
    /// one bitmap block. OLDER: no cell goes back to an older state. The damage is undone afterwards. (A
    /// flipped bit is not tried: a damaged place looks like a write that the power cut interrupted. If no
    /// other member has that generation whole, the one before it counts.)
    pub fn look_without_newest(&mut self, disks: &[usize], in_sync: &[usize]) {
        let before = self.cells_stored_on(disks);
        let whole = self.bus.borrow().disks.clone();
        let damaged = self.damaged.clone();
        let lost = self.lose_newest(in_sync, 100);
        self.damaged.extend(lost);
        let _may_be_refused = self.look_for_older(disks, &before);
        self.damaged = damaged;
        let mut bus = self.bus.borrow_mut();
        (bus.disks, bus.monitors.superblocks_changed) = (whole, true);
    }

    /// Makes the newest place of one bitmap block unreadable, with a probability of `percent` for each of
    /// these disks that keeps the block. Returns the damaged places.
    pub fn lose_newest(&mut self, in_sync: &[usize], percent: u64) -> Vec<Spot> {
        let block = self.rng.below(self.zones.bitmap_blocks());
        let spots: Vec<Spot> = (self.metadata(in_sync).into_iter())
            .filter(|spot| matches!(spot.block, Block::Bitmap { block: of, .. } if of == block))
            .collect();
        let mut lost = Vec::new();
        for spot in spots {
            let Block::Bitmap { place, .. } = spot.block else { continue };
            let places = Monitors::durable_places(&mut self.bus.borrow_mut(), spot.disk, block);
            let newest = places.iter().flatten().map(|(generation, _)| *generation).max();
            let is_newest = newest.is_some_and(|newest| newest % PLACES_PER_BLOCK == place);
            if is_newest && self.rng.chance(percent) {
                let decay = self.rng.pick(&[Decay::OneSector, Decay::AllSectors]);
                self.decay(spot, decay);
                lost.push(spot);
            }
        }
        lost
    }

    /// Checks OLDER on the array that these disks make up.
    pub fn look_for_older(&mut self, disks: &[usize], before: &CellsBefore) -> StartOutcome {
        self.look_with(disks, |world| world.check_no_cell_older(before))
    }

    /// OLDER: after a power cut, each cell is what some copy said last, or needs a resync.
    fn check_no_cell_older(&self, before: &CellsBefore) {
        let bitmap = &self.running().bitmap;
        for (stripe, copies) in (0..).zip(before) {
            let cell = bitmap.cell(stripe);
            let said = |(_, code): &(usize, Option<u8>)| *code == Some(cell.disk_code());
            assert!(
                cell == bitmap::Cell::NeedSync || copies.iter().any(said),
                "OLDER: the newest places of a bitmap block cannot be read, and stripe {stripe} is {cell:?}; its copies said {copies:?}"
            );
        }
    }

    /// DECAY: every member in sync has two good copies of its superblock again.
    pub fn check_repaired(&self) {
        let mut bus = self.bus.borrow_mut();
        for slot in self.running().members.view().readable.iter() {
            let disk = self.disk_of(slot);
            for copy in [Copy::A, Copy::B] {
                let place = bus.disks[disk].place(copy.offset_bytes(), PAGE as u64);
                let mut bytes = [0; PAGE];
                bus.disks[disk].read_metadata(place, &mut bytes);
                assert!(
                    decode(&bytes, copy).is_ok(),
                    "DECAY: the array runs, and copy {copy:?} of the superblock of disk {disk} is as damaged as before"
                );
            }
        }
    }

    /// DECAY: a stripe needs a resync only if some copy of its cell said that it might, or if no copy of its
    /// block was left.
    pub fn check_no_cell_lost(&self, before: &CellsBefore, damaged: Spot) {
        let bitmap = &self.running().bitmap;
        for (stripe, cells) in (0..).zip(before) {
            let may_be_lost = matches!(damaged.block, Block::Bitmap { block, .. } if block == stripe / CELLS_PER_BLOCK)
                && cells.len() < 2;
            let marked = cells.iter().any(|(_, cell)| !matches!(cell, Some(code::CLEAN | code::UNWRITTEN)));
            assert!(
                bitmap.cell(stripe) != bitmap::Cell::NeedSync || marked || may_be_lost,
                "DECAY: {damaged:?} cost stripe {stripe} its cell, and its copies said {cells:?}"
            );
        }
    }
}
