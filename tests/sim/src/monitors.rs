//! Invariants that are checked at the members: a violation shows there long before a host could see it.
//!
//! - I1: when a data or parity write is submitted, every copy of the cell's bitmap block that an assembly
//!   would read now says Dirty or `NeedSync` durably, or all of them say Unwritten. (Writes to a slot that
//!   would not be in sync, and repairs of sectors that could not be read, need no intent.)
//! - I2: when a block that newly says Clean becomes durable, no member in sync has a sector of that stripe in
//!   its cache, or a write to it in flight.
//! - G1: when strips are deallocated, every copy of their cells that an assembly would read now says
//!   Unwritten, durably.
//! - B11: when the first superblock is written to a device that joins, all other metadata on it is zeros,
//!   durably.
//! - C1, I3, I6 are called by the world, at acknowledgements and when the array is at rest.
//!
//! The product's own assembly decides which members would be in sync, from what is durable at that moment.

use std::collections::BTreeSet;

use engine::assembly::{AssemblyOptions, Candidate, SlotPlan, assemble};
use engine::format::bitmap_block::{self, Cells};
use engine::format::superblock::{Found, NoMember, Record, SlotState, choose};
use engine::format::zones::{PLACES_PER_BLOCK, copies};
use engine::format::{Shape, zones::Zones};
use engine::geometry::Geometry;
use engine::ring::MemberIo;
use uuid::Uuid;

use crate::bus::{Bus, InFlight};
use crate::disk::{Place, SECTOR, ZoneKind};

/// The codes of cells on disk.
pub mod code {
    #![expect(missing_docs, reason = "the names of the states")]
    pub const NEED_SYNC: u8 = 0;
    pub const UNWRITTEN: u8 = 1;
    pub const CLEAN: u8 = 2;
    pub const DIRTY: u8 = 3;
}

/// Facts about the array that the monitors need.
#[derive(Clone, Copy)]
pub struct Watched {
    /// UUID of the array.
    pub array: Uuid,
    /// Shape of the array.
    pub shape: Shape,
    /// Geometry of the array.
    pub geometry: Geometry,
    /// Zones of each member.
    pub zones: Zones,
}

/// State of the monitors; the invariants are at the top of this file.
#[derive(Default)]
pub struct Monitors {
    /// The watched array; `None` while it is created.
    pub watched: Option<Watched>,
    /// Whether the checks at writes are suspended: the power is off, or the array is being started.
    pub off: bool,
    /// Whether read errors happen. I2 is not checked then: a repair may be cached.
    pub repairs_happen: bool,
    /// Whether `believed` is out of date.
    pub superblocks_changed: bool,
    /// Disks that an order makes the array take in, until the first superblock is written to them.
    pub joining: BTreeSet<usize>,
    /// Disks with superblocks of another life of the array. A start does not see them until an order makes
    /// the array take them in.
    pub apart: BTreeSet<usize>,
    /// Whether the world should compare the members with what was acknowledged.
    pub look_at_members: bool,
    believed: Believed,
    /// Content of each disk's bitmap blocks at the last look.
    known: Vec<Vec<Option<Box<Cells>>>>,
}

/// The disks that an assembly would believe, by slot. Empty if the assembly would refuse.
#[derive(Clone, Default)]
pub struct Believed {
    /// For each slot, the disk and the first stripe for which it would not be believed.
    slots: Vec<Option<(usize, u64)>>,
}

impl Believed {
    /// The disk that would be believed to hold this slot's strip of a stripe: a disk in sync, or a disk whose
    /// rebuild has passed the stripe.
    #[must_use]
    pub fn disk(&self, slot: usize, stripe: u64) -> Option<usize> {
        self.slots.get(slot).copied().flatten().filter(|&(_, end)| stripe < end).map(|(disk, _)| disk)
    }
}

/// The cell of a stripe in its block.
#[must_use]
pub fn cell_in(cells: &Cells, stripe: u64) -> u8 {
    let index = (stripe % engine::format::zones::CELLS_PER_BLOCK) as usize;
    cells[index / 4] >> (index % 4 * 2) & 3
}

impl Monitors {
    /// Monitors for an array that they have not seen before.
    #[must_use]
    pub fn watching(watched: Option<Watched>) -> Monitors {
        Monitors { watched, superblocks_changed: true, ..Monitors::default() }
    }

    /// Resumes the checks after a power cut, and forgets everything known from before.
    pub fn power_on(&mut self) {
        self.off = false;
        self.superblocks_changed = true;
        self.joining.clear();
        self.known.clear();
    }

    /// The disks that an assembly would believe now.
    pub fn believed(bus: &mut Bus) -> Believed {
        if bus.monitors.superblocks_changed {
            bus.monitors.superblocks_changed = false;
            bus.monitors.believed = compute_believed(bus);
        }
        bus.monitors.believed.clone()
    }

    /// By slot, the disks that an assembly would take to be in sync. Empty if it would refuse.
    pub fn in_sync(bus: &mut Bus) -> Vec<Option<usize>> {
        let believed = Monitors::believed(bus);
        (0..believed.slots.len()).map(|slot| believed.disk(slot, u64::MAX - 1)).collect()
    }

    /// The newest durable content of a bitmap block on a disk.
    pub fn durable_block(bus: &mut Bus, disk: usize, block: u64) -> Option<Box<Cells>> {
        let places = Monitors::durable_places(bus, disk, block).into_iter().flatten();
        places.max_by_key(|(generation, _)| *generation).map(|(_, cells)| cells)
    }

    /// The durable contents of both places of a bitmap block on a disk, with their generations.
    pub fn durable_places(
        bus: &mut Bus,
        disk: usize,
        block: u64,
    ) -> [Option<(u64, Box<Cells>)>; PLACES_PER_BLOCK as usize] {
        let watched = bus.monitors.watched.expect("an array is watched");
        [0, 1].map(|place| {
            let place = bus.disks[disk].place(watched.zones.bitmap_block_offset_bytes(block, place), 4096);
            let mut bytes = [0; 4096];
            bus.disks[disk].read_metadata(place, &mut bytes);
            let (generation, cells) = bitmap_block::decode(&bytes, watched.array, block).ok()?;
            Some((generation, Box::new(*cells)))
        })
    }

    /// Slots and disks that keep copies of a block, restricted to those that an assembly would take to be in
    /// sync.
    pub fn keepers(bus: &mut Bus, block: u64) -> Vec<(usize, usize)> {
        let watched = bus.monitors.watched.expect("an array is watched");
        let in_sync = Monitors::in_sync(bus);
        let keepers = copies(block, &watched.shape);
        keepers.filter_map(|slot| Some((slot, in_sync.get(slot).copied().flatten()?))).collect()
    }

    /// By slot, the durable copies of a bitmap block that an assembly would read.
    pub fn stored_block(bus: &mut Bus, block: u64) -> Vec<(usize, Option<Box<Cells>>)> {
        let keepers = Monitors::keepers(bus, block).into_iter();
        keepers.map(|(slot, disk)| (slot, Monitors::durable_block(bus, disk, block))).collect()
    }

    /// By slot, the durable cell of a stripe in each copy that an assembly would read.
    pub fn stored_cells(bus: &mut Bus, stripe: u64) -> Vec<(usize, Option<u8>)> {
        let stored = Monitors::stored_block(bus, stripe / engine::format::zones::CELLS_PER_BLOCK);
        stored.into_iter().map(|(slot, cells)| (slot, cells.map(|cells| cell_in(&cells, stripe)))).collect()
    }

    /// B11: when the first superblock of a joining device is written, none of the device's old metadata is
    /// left.
    fn superblock_pushed(bus: &mut Bus, disk: usize, bytes: &[u8]) {
        if bytes.iter().all(|byte| *byte == 0) || !bus.monitors.joining.remove(&disk) {
            return;
        }
        if bus.aim.is_some_and(|aim| aim.hit.is_some() && aim.fault.is_a_lie()) {
            // The lie may concern the wipe: the old metadata may still be there although the device said that
            // it was wiped.
            return;
        }
        bus.monitors.apart.remove(&disk);
        let foreign = bus.disks[disk].foreign_metadata();
        // Strips are exempt: if a failed member joins again at once, writes of strips planned before it
        // failed may still be in flight to it.
        let is_wipe =
            |op: &InFlight| op.disk == disk && op.place.is_some_and(|place| place.zone != ZoneKind::Data);
        assert!(
            foreign.is_none() && !bus.in_flight().iter().any(is_wipe),
            "B11: disk {disk} is put on record as a member with what it held before: {}",
            foreign.unwrap_or("it is still being wiped".into())
        );
    }

    /// Checks an operation on these sectors when it is pushed.
    pub(crate) fn pushed(bus: &mut Bus, io: MemberIo, disk: usize, place: Place, bytes: &[u8]) {
        match io {
            MemberIo::Write(_) => Monitors::write_pushed(bus, disk, place, bytes),
            MemberIo::Deallocate => Monitors::deallocation_pushed(bus, disk, place),
            MemberIo::Read | MemberIo::Flush => {}
        }
    }

    /// Checks I1, and B11 for superblocks.
    fn write_pushed(bus: &mut Bus, disk: usize, place: Place, bytes: &[u8]) {
        let Some(watched) = bus.monitors.watched.filter(|_| !bus.monitors.off) else { return };
        if place.zone == ZoneKind::Superblock {
            Monitors::superblock_pushed(bus, disk, bytes);
        }
        if place.zone != ZoneKind::Data {
            return;
        }
        let stripe = place.offset_in_zone / u64::from(watched.geometry.chunk_bytes());
        let in_sync = Monitors::in_sync(bus);
        let repair = place.sectors().any(|sector| bus.disks[disk].failed_reads.contains(&sector));
        if repair || !in_sync.contains(&Some(disk)) || bus.disks[disk].dead {
            return;
        }
        let mut same = vec![0; bytes.len()];
        bus.disks[disk].read_durable(place, &mut same);
        if same == bytes {
            return;
        }
        let cells = Monitors::stored_cells(bus, stripe);
        let is_marked = |(_, cell): &(usize, Option<u8>)| matches!(cell, Some(code::DIRTY | code::NEED_SYNC));
        // A copy that lied about a write is one fault: the other copies must still say it.
        let lied = bus.aim.is_some_and(|aim| aim.hit.is_some() && aim.fault.is_a_lie());
        let marked = if lied { cells.iter().any(is_marked) } else { cells.iter().all(is_marked) };
        let is_unwritten = |(_, cell): &(usize, Option<u8>)| matches!(cell, Some(code::UNWRITTEN));
        let unwritten = if lied { cells.iter().any(is_unwritten) } else { cells.iter().all(is_unwritten) };
        assert!(
            marked || unwritten,
            "I1: disk {disk} is written in stripe {stripe}, and the copies of its cell that an assembly would read say \
             {cells:?} (0 NeedSync, 1 Unwritten, 2 Clean, 3 Dirty)"
        );
    }

    /// Checks G1.
    fn deallocation_pushed(bus: &mut Bus, disk: usize, place: Place) {
        let Some(watched) = bus.monitors.watched.filter(|_| !bus.monitors.off) else { return };
        let chunk_bytes = u64::from(watched.geometry.chunk_bytes());
        let (first, len) = (place.offset_in_zone / chunk_bytes, place.count * SECTOR as u64 / chunk_bytes);
        let lied = bus.aim.is_some_and(|aim| aim.hit.is_some() && aim.fault.is_a_lie());
        let is_unwritten = |(_, cell): &(usize, Option<u8>)| matches!(cell, Some(code::UNWRITTEN));
        for stripe in first..first + len {
            let cells = Monitors::stored_cells(bus, stripe);
            assert!(
                if lied { cells.iter().any(is_unwritten) } else { cells.iter().all(is_unwritten) },
                "G1: disk {disk} is told to forget its strips of {len} stripes from {first} on, and the copies of the cell of \
                 stripe {stripe} that an assembly would read say {cells:?} (0 NeedSync, 1 Unwritten, 2 Clean, 3 Dirty)"
            );
        }
    }

    /// Checks I2, and updates what the monitors know of the disk.
    pub(crate) fn write_completed(bus: &mut Bus, disk: usize, place: Place) {
        match place.zone {
            ZoneKind::Superblock => {
                bus.monitors.superblocks_changed = true;
                bus.monitors.look_at_members = true;
            }
            ZoneKind::Data => {
                for sector in place.sectors() {
                    bus.disks[disk].failed_reads.remove(&sector);
                }
            }
            ZoneKind::Log | ZoneKind::List | ZoneKind::Around => {}
            ZoneKind::Bitmap => {
                let Some(watched) = bus.monitors.watched.filter(|_| !bus.monitors.off) else { return };
                let (first, end) = (place.offset_in_zone, place.offset_in_zone + place.count * SECTOR as u64);
                let block_bytes = 4096 * PLACES_PER_BLOCK;
                for block in first / block_bytes..end.div_ceil(block_bytes) {
                    block_completed(bus, &watched, disk, block);
                }
            }
        }
    }

    /// C1: no member that an assembly would believe has anything in its cache that completed before `moment`.
    pub fn check_flushed(bus: &mut Bus, moment: u64) {
        for (slot, disk) in Monitors::in_sync(bus).into_iter().enumerate() {
            let Some(disk) = disk else { continue };
            let cached = bus.disks[disk].any_cached(moment);
            assert!(
                cached.is_none(),
                "C1: a flush is acknowledged, and slot {slot} (disk {disk}) would be believed and has sector {cached:?} in its cache"
            );
        }
    }

    /// I3: the parity of rows of a stripe matches the data on the members that an assembly would believe. Not
    /// checked if a data strip cannot be read.
    pub fn check_parity(bus: &mut Bus, stripe: u64, row: u64, len: u64, why: &str) {
        let watched = bus.monitors.watched.expect("an array is watched");
        let geometry = watched.geometry;
        let rotation = geometry.rotation(stripe);
        let in_sync = Monitors::in_sync(bus);
        let mut strips: Vec<Option<Vec<u8>>> = Vec::new();
        for strip in 0..geometry.members() {
            let disk = in_sync.get(usize::from(rotation.slot_of(strip))).copied().flatten();
            strips.push(disk.and_then(|disk| {
                let place = bus.disks[disk].place_in_data(geometry.strip_offset(stripe) + row, len);
                if place.sectors().any(|sector| bus.disks[disk].bad.contains(&sector)) {
                    return None;
                }
                let mut bytes = vec![0; len as usize];
                bus.disks[disk].read(place, &mut bytes);
                Some(bytes)
            }));
        }
        let data: Vec<(u8, &[u8])> = (0..geometry.data())
            .filter_map(|strip| Some((strip, strips[usize::from(strip)].as_deref()?)))
            .collect();
        if data.len() < usize::from(geometry.data()) {
            return;
        }
        let mut expected = vec![0; len as usize];
        if let Some(p) = &strips[usize::from(geometry.p())] {
            let plain: Vec<&[u8]> = data.iter().map(|(_, bytes)| *bytes).collect();
            parity_simd::xor_generate(&mut expected, &plain);
            assert!(
                *p == expected,
                "I3: P of stripe {stripe} rows {row}+{len} does not match its data ({why})"
            );
        }
        if geometry.parities() == 2
            && let Some(q) = &strips[usize::from(geometry.q())]
        {
            parity_simd::q_generate(&mut expected, &data);
            assert!(
                *q == expected,
                "I3: Q of stripe {stripe} rows {row}+{len} does not match its data ({why})"
            );
        }
    }
}

/// The candidates that the durable superblocks of all disks make for an assembly.
fn candidates(bus: &mut Bus) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (index, disk) in bus.disks.iter_mut().enumerate() {
        let (mut a, mut b) = ([0; 4096], [0; 4096]);
        let places = [disk.place(4096, 4096), disk.place(64 << 10, 4096)];
        disk.read_metadata(places[0], &mut a);
        disk.read_metadata(places[1], &mut b);
        let found = match bus.monitors.apart.contains(&index) {
            true => Err(NoMember::Unreadable),
            false => choose(&a, &b, disk.bytes()),
        };
        candidates.push(Candidate { label: index.to_string(), found });
    }
    candidates
}

/// How many of these disks may be left out of a start, in any combination. This is the minimum over the
/// newest record and those records that could decide if the newest is on few disks only: the previous
/// epoch's, and those of disks in sync.
pub fn spare_at_start(bus: &mut Bus, present: &[usize], in_sync: &[usize]) -> usize {
    let candidates = candidates(bus);
    let found: Vec<_> = present.iter().filter_map(|&disk| candidates[disk].found.as_ref().ok()).collect();
    let newest = found.iter().map(|found| found.superblock.record.epoch.name.number).max().unwrap_or(0);
    let spare = |record: &Record| {
        let is_in_sync = |found: &&&Found| {
            let entry = &record.slots[found.superblock.slot];
            entry.member == found.superblock.member && entry.state == SlotState::InSync
        };
        found.iter().filter(is_in_sync).count().saturating_sub(record.shape.data_strips())
    };
    // Two halves of such an array may have run without each other, and only the other half's record tells
    // that one did not. So every record counts.
    let halves = |record: &Record| 2 * record.shape.data_strips() == record.shape.members;
    let counts = |disk: usize, record: &Record| {
        halves(record) || in_sync.contains(&disk) || record.epoch.name.number + 1 >= newest
    };
    let records = present.iter().filter_map(|&disk| {
        let record = &candidates[disk].found.as_ref().ok()?.superblock.record;
        counts(disk, record).then_some(record)
    });
    records.map(spare).min().unwrap_or(0)
}

fn compute_believed(bus: &mut Bus) -> Believed {
    let candidates = candidates(bus);
    let options = AssemblyOptions { run_degraded: true, foreign_host_ok: true, ..AssemblyOptions::default() };
    let slots = assemble(&candidates, &options).map(|assembly| assembly.slots).unwrap_or_default();
    let believed = |plan: &SlotPlan| match *plan {
        SlotPlan::InSync { candidate } => Some((candidate, u64::MAX)),
        SlotPlan::Rebuilding { candidate, cursor } => Some((candidate, cursor)),
        _ => None,
    };
    Believed { slots: slots.iter().map(believed).collect() }
}

fn block_completed(bus: &mut Bus, watched: &Watched, disk: usize, block: u64) {
    let blocks = watched.zones.bitmap_blocks() as usize;
    while bus.monitors.known.len() < bus.disks.len() {
        bus.monitors.known.push((0..blocks).map(|_| None).collect());
    }
    let Some(cells) = Monitors::durable_block(bus, disk, block) else { return };
    let before = bus.monitors.known[disk][block as usize].take();
    // A start reads the blocks of members in sync only. Late writes of a device that has left do not count.
    let counts = !bus.monitors.repairs_happen && Monitors::in_sync(bus).contains(&Some(disk));
    if let (Some(before), true) = (before, counts) {
        let first = block * engine::format::zones::CELLS_PER_BLOCK;
        let changed = before.iter().zip(cells.iter()).enumerate().filter(|(_, (before, now))| before != now);
        for stripe in changed.flat_map(|(byte, _)| (first + byte as u64 * 4)..(first + byte as u64 * 4 + 4)) {
            if cell_in(&cells, stripe) == code::CLEAN && cell_in(&before, stripe) != code::CLEAN {
                check_swept(bus, watched, stripe);
            }
        }
    }
    bus.monitors.known[disk][block as usize] = Some(cells);
}

fn check_swept(bus: &mut Bus, watched: &Watched, stripe: u64) {
    let chunk = u64::from(watched.geometry.chunk_bytes());
    for disk in Monitors::in_sync(bus).into_iter().flatten() {
        let place = bus.disks[disk].place_in_data(watched.geometry.strip_offset(stripe), chunk);
        // A rewrite after a read error writes the old content again, so it may be cached.
        if bus.disks[disk].dead
            || place.sectors().any(|sector| bus.disks[disk].failed_reads.contains(&sector))
        {
            continue;
        }
        let cached = place.sectors().any(|sector| bus.disks[disk].is_cached(sector, u64::MAX));
        assert!(!cached, "I2: stripe {stripe} is durably Clean, and disk {disk} has some of it in its cache");
        assert!(
            !bus.is_being_written(disk, place),
            "I2: stripe {stripe} is durably Clean, and disk {disk} is writing it"
        );
    }
}
