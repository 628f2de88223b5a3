//! LOST: the rows that the present members cannot compute, and the rows that the array lists as lost.
//!
//! The truth is looked up below the engine: the unreadable sectors of each disk, the slots that are not in
//! sync, and the stripes that are `NeedSync`. A piece of rows of a data strip is *not computable* if its
//! strip is not readable there and the readable parity cannot replace everything that is missing. Only such a
//! piece may be answered with an error, and only such a piece may be listed. Listed rows stay an error until
//! they are overwritten, for the oracle too. The list is bounded, and a full list stops a rebuild for good.
//! Worlds here are too small to fill it, so the check is instead that no shorter list would do.

use std::collections::BTreeSet;

use bitmap::{Cell, STRIPES_PER_BLOCK};
use engine::limits::RECOVERY_BYTES;
use engine::request::RequestKind;

use crate::disk::SECTOR;
use crate::host::Asked;

use super::{Block, Spot, World};

/// Number of sectors that the engine gives up together.
const PIECE_SECTORS: u64 = RECOVERY_BYTES as u64 / SECTOR as u64;

impl World {
    /// Whether an error is excused: some of these sectors cannot be computed now, or are listed as lost. A
    /// write may also meet another lost strip in the same rows.
    pub(super) fn is_lost(&self, first: u64, count: u64, is_read: bool) -> bool {
        if self.oracle.lost.range(first..first + count).next().is_some() {
            return true;
        }
        let is_bad = |disk: &crate::disk::Disk| !disk.bad.is_empty() || !disk.was_bad.is_empty();
        if !self.bus.borrow().disks.iter().any(is_bad) {
            return false;
        }
        let mut pieces = first / PIECE_SECTORS..(first + count).div_ceil(PIECE_SECTORS);
        pieces.any(|piece| {
            let (wanted, all) = self.is_computable(piece * PIECE_SECTORS);
            !(wanted && (is_read || all))
        })
    }

    /// Marks requests in flight as excused if their rows cannot be computed now. An error may answer them
    /// even if the sectors are repaired before the answer.
    pub(super) fn note_errors_to_come(&mut self) {
        if !self.bus.borrow().lasting {
            return;
        }
        for at in 0..self.asked.len() {
            let Asked { first, count, kind, excused, .. } = self.asked[at];
            if !excused && self.is_lost(first, count.max(1), kind == RequestKind::Read) {
                self.asked[at].excused = true;
            }
        }
    }

    /// Whether the piece of rows that contains this sector can be computed from what is readable, and whether
    /// those rows can be computed for every data strip.
    fn is_computable(&self, sector: u64) -> (bool, bool) {
        let (stripe, within) = self.geometry.locate(sector * SECTOR as u64);
        let (wanted, row) = self.geometry.strip_of(within);
        let row = u64::from(row / RECOVERY_BYTES * RECOVERY_BYTES);
        let shared = self.running();
        let need_sync = shared.bitmap.cell(stripe) == Cell::NeedSync;
        let rotation = self.geometry.rotation(stripe);
        let readable = shared.members.readable_at(shared.members.view(), stripe, need_sync);
        let bus = self.bus.borrow();
        let is_there = |strip: u8| {
            let slot = rotation.slot_of(strip);
            let disk = &bus.disks[self.disk_of(slot)];
            let offset = self.geometry.strip_offset(stripe) + row;
            let mut sectors = disk.place_in_data(offset, u64::from(RECOVERY_BYTES)).sectors();
            readable.has(slot)
                && !disk.dead
                && !sectors.any(|sector| disk.bad.contains(&sector) || disk.was_bad.contains(&sector))
        };
        let missing = self.geometry.data_strips().iter().filter(|&strip| !is_there(strip)).count();
        let parity = self.geometry.parity_strips().iter().filter(|&strip| is_there(strip)).count();
        let all = missing == 0 || (!need_sync && missing <= parity);
        (is_there(wanted) || all, all)
    }

    /// LOST: rows that the array has newly listed are not computable.
    pub(super) fn check_listed(&mut self) {
        let version = self.running().lost.version();
        if version == self.listed_version {
            return;
        }
        self.listed_version = version;
        self.check_ranges();
        let listed = self.listed();
        for &sector in listed.difference(&self.oracle.lost) {
            assert!(
                self.beyond_level
                    || self.lossy.contains(&(sector / self.stripe_sectors()))
                    || !self.is_computable(sector).0,
                "LOST: sector {sector} is listed as lost, and can be computed: its stripe is {:?}, {:?}, cursor {}",
                self.running().bitmap.cell(self.geometry.locate(sector * SECTOR as u64).0),
                self.running().members.view(),
                self.running().members.cursor()
            );
        }
        self.oracle.lost.extend(listed);
    }

    /// LOST: no list with fewer ranges would say the same. A range is either rows of one strip, or whole
    /// strips of a slot with nothing but the slot's parity between them.
    fn check_ranges(&self) {
        let ranges = self.running().lost.ranges();
        let strip_sectors = self.geometry.chunk_bytes() / SECTOR as u32;
        let mut fewest = 0;
        for slot in 0..self.geometry.members() {
            let of_slot: Vec<_> = ranges.iter().filter(|range| range.slot == slot).collect();
            let mut goes_on = false;
            for stripe in 0..self.geometry.stripes() {
                if !self.geometry.data_strips().has(self.geometry.rotation(stripe).strip_on(slot)) {
                    continue;
                }
                let here = of_slot
                    .iter()
                    .filter(|range| range.stripe <= stripe && stripe - range.stripe < range.stripes.into());
                let sectors: BTreeSet<u32> = here
                    .flat_map(|range| (range.row..range.row + range.rows).step_by(SECTOR))
                    .map(|row| row / SECTOR as u32)
                    .collect();
                let is_whole = sectors.len() as u32 == strip_sectors;
                if !(is_whole && goes_on) {
                    fewest += sectors.iter().filter(|&&at| at == 0 || !sectors.contains(&(at - 1))).count();
                }
                goes_on = is_whole;
            }
        }
        assert!(
            ranges.len() == fewest,
            "LOST: {} ranges are listed, and {fewest} would do: {ranges:?}",
            ranges.len()
        );
    }

    /// LOST: a start lists nothing that was not listed before, and nothing that was written since. (A discard
    /// is in the bitmap first and may reach the list later. If no copy of the bitmap block that records the
    /// discard is left, the stripe needs a resync, and what the list still says of it counts.)
    pub(super) fn check_list_at_start(&mut self) {
        let listed = self.listed();
        let is_forgotten = |sector: u64| {
            let (stripe, _) = self.geometry.locate(sector * SECTOR as u64);
            let is_its_block = |spot: &Spot| matches!(spot.block, Block::Bitmap { block, .. } if block == stripe / STRIPES_PER_BLOCK);
            self.running().bitmap.cell(stripe) == Cell::NeedSync && self.damaged.iter().any(is_its_block)
        };
        let extra = listed.difference(&self.oracle.lost).find(|sector| !is_forgotten(**sector));
        assert!(
            extra.is_none(),
            "LOST: sector {extra:?} is listed as lost by a start, and was written, or never lost"
        );
        self.oracle.lost.extend(listed);
    }

    /// The sectors that the array lists as lost, except in stripes that read as zeros anyway.
    fn listed(&self) -> BTreeSet<u64> {
        let mut listed = BTreeSet::new();
        let shared = self.running();
        for range in shared.lost.ranges() {
            for stripe in range.stripe..range.stripe + u64::from(range.stripes) {
                let strip = self.geometry.rotation(stripe).strip_on(range.slot);
                let cell = shared.bitmap.cell(stripe);
                if !self.geometry.data_strips().has(strip) || matches!(cell, Cell::Unwritten | Cell::First) {
                    continue;
                }
                let at = stripe * u64::from(self.geometry.stripe_bytes())
                    + u64::from(strip) * u64::from(self.geometry.chunk_bytes())
                    + u64::from(range.row);
                let first = at / SECTOR as u64;
                listed.extend(first..first + u64::from(range.rows) / SECTOR as u64);
            }
        }
        listed
    }

    /// Notes that these sectors were read. A sector that was lost and is no longer listed must not be lost
    /// again: a stripe whose discard was finished after a power cut reads as zeros, and must continue to.
    /// (During a discard or an overwrite it also reads like that, but a power cut may undo it, so such
    /// sectors are skipped. Write-zeroes of a whole stripe count as a discard.)
    pub(super) fn note_readable(&mut self, first: u64, count: u64) {
        // (In a failed array, a discard that was given up may be undone in the same way.)
        if self.running().failed() || self.oracle.lost.range(first..first + count).next().is_none() {
            return;
        }
        let listed = self.listed();
        let stripe_sectors = self.stripe_sectors();
        let is_changing = |sector: u64| {
            let stripe = sector / stripe_sectors * stripe_sectors;
            self.asked.iter().any(|asked| match asked.kind {
                RequestKind::Read | RequestKind::Flush => false,
                RequestKind::Write { .. } => (asked.first..asked.first + asked.count).contains(&sector),
                RequestKind::WriteZeroes { .. } | RequestKind::Discard => {
                    asked.first < stripe + stripe_sectors && asked.first + asked.count > stripe
                }
            })
        };
        let readable: Vec<u64> = (first..first + count)
            .filter(|sector| !listed.contains(sector) && !is_changing(*sector))
            .collect();
        for sector in readable {
            self.oracle.lost.remove(&sector);
        }
    }

    /// Makes sectors of several members unreadable until they are written: one sector in each of a few
    /// stripes, or several in one stripe.
    pub fn spoil(&mut self) {
        let stripes = self.geometry.stripes().min(40);
        let mut stripe = self.rng.below(stripes);
        for _ in 0..self.rng.between(1, 6) {
            if self.rng.chance(50) {
                stripe = self.rng.below(stripes);
            }
            let slot = self.random_slot();
            let disk = self.disk_of(slot);
            self.damage(disk, stripe, 1);
        }
    }

    /// Whether a strip of this stripe has a worn sector. A resync cannot write there, and may leave the
    /// stripe `NeedSync`.
    #[must_use]
    pub fn is_worn(&self, stripe: u64) -> bool {
        let bus = self.bus.borrow();
        let chunk_bytes = u64::from(self.geometry.chunk_bytes());
        let has_bad = |slot: u8| {
            let disk = &bus.disks[self.disk_of(slot)];
            let place = disk.place_in_data(self.geometry.strip_offset(stripe), chunk_bytes);
            disk.bad.range(place.sectors()).next().is_some()
        };
        bus.worn && self.geometry.slots().iter().any(has_bad)
    }

    /// Whether any stripe has a worn sector.
    #[must_use]
    pub fn has_worn(&self) -> bool {
        self.bus.borrow().worn && (0..self.geometry.stripes()).any(|stripe| self.is_worn(stripe))
    }

    /// The first stripe that needs a resync and has no worn sector that would prevent it.
    #[must_use]
    pub fn left_unsynced(&self) -> Option<u64> {
        let bitmap = &self.running().bitmap;
        let stripes = self.geometry.stripes();
        let from = |stripe: u64| (stripe < stripes).then(|| bitmap.next_need_sync(stripe)).flatten();
        std::iter::successors(from(0), |stripe| from(stripe + 1)).find(|&stripe| !self.is_worn(stripe))
    }

    /// Whether every slot is in sync.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.is_off() && self.running().members.view().readable == self.geometry.slots()
    }

    /// After a long rest, every slot that has a device is filled. If the array is whole, no stripe is
    /// `NeedSync` unless it has a worn sector.
    pub fn check_ended(&self) {
        if self.is_off() || self.running().failed() {
            return;
        }
        let shared = self.running();
        let filled = shared.members.view().rebuilding();
        assert!(filled.is_empty(), "LOST: a rebuild of {filled:?} does not end");
        let whole = shared.members.view().readable == self.geometry.slots();
        let unsynced = self.left_unsynced();
        assert!(!whole || unsynced.is_none(), "LOST: a resync does not end: {unsynced:?}");
    }
}
