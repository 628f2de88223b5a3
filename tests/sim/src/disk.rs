//! A simulated member: its content, the durable part of it, and its faults.
//!
//! ```text
//!   write completed --> volatile cache (every version of a sector) --flush, FUA--> durable
//!   power cut: each cached sector keeps its durable content or any of its versions, independently
//! ```
//!
//! Media that was never written holds random bytes derived from the seed, so a stale read shows. Zones are
//! typed: an access that crosses zones, or lies outside of all zones, is a bug of the engine and ends the
//! run. The only exception is zeros over the old content of a device that joins (see `ring`). Only the zones
//! are stored, page by page, and a page is created at its first access.
//!
//! A clone shares its pages and cached versions until one side writes, so a snapshot of a world costs
//! microseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use engine::format::lost_rows::{LIST_BYTES, PLACE_OFFSETS_BYTES};
use engine::format::zones::{SUPERBLOCK_A_OFFSET_BYTES, SUPERBLOCK_B_OFFSET_BYTES, Zones};
use engine::ring::MemberOp;

use crate::rng::{Rng, mix};

/// The unit in which content is written and named. Faults act on the disk's logical block, one sector or
/// eight: a block is torn, cached or lost as a whole.
pub const SECTOR: usize = 512;
/// The unit in which content is stored.
pub const PAGE: usize = 4096;
/// Sectors of a page.
pub const SECTORS_PER_PAGE: u64 = (PAGE / SECTOR) as u64;

/// Bytes of both places of the list of lost rows.
const LIST_ZONE_BYTES: u64 = (PLACE_OFFSETS_BYTES.len() * LIST_BYTES) as u64;

/// The bytes of a sector.
pub type Sector = [u8; SECTOR];

/// The part of a member that an access is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneKind {
    /// Either copy of the superblock.
    Superblock,
    /// The bitmap blocks.
    Bitmap,
    /// The strips.
    Data,
    /// The zone that is reserved for a log.
    Log,
    /// The list of lost rows.
    List,
    /// The space between the zones and behind them. The engine writes nothing but zeros there.
    Around,
}

/// Location of an access: its zone, and its sectors in the disk's compact numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The zone of the access.
    pub zone: ZoneKind,
    /// First byte within the zone (for superblocks: 0 for A, 4096 for B).
    pub offset_in_zone: u64,
    /// First sector, in the disk's compact numbering.
    pub first: u64,
    /// Number of sectors.
    pub count: u64,
}

impl Place {
    /// The sectors of the access.
    #[must_use]
    pub fn sectors(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.count
    }
}

/// A sector with newer content in the volatile cache.
#[derive(Clone)]
pub struct Cached {
    /// The content that a power cut may restore.
    pub durable: Rc<Sector>,
    /// Every newer version, with the moment at which its write completed.
    pub versions: Vec<(u64, Rc<Sector>)>,
}

/// Operations that a disk refuses although it is not broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error that is returned.
    pub errno: i32,
    /// Percentage of operations that are refused.
    pub percent: u64,
    /// Whether metadata writes and flushes are refused, rather than operations on strips.
    pub metadata: bool,
}

/// A simulated member.
#[derive(Clone)]
pub struct Disk {
    seed: u64,
    zones: Zones,
    /// Sectors in a logical block: the unit of accesses, and of what is torn, lost with the cache, or
    /// unreadable.
    pub block_sectors: u64,
    /// Whether the disk has a volatile cache.
    pub volatile: bool,
    /// Whether all I/O fails.
    pub dead: bool,
    /// Whether media that was never written reads as zeros instead of random bytes.
    pub blank: bool,
    pages: Vec<Option<Rc<[u8; PAGE]>>>,
    cache: BTreeMap<u64, Cached>,
    /// Sectors that cannot be read until they are rewritten.
    pub bad: BTreeSet<u64>,
    /// Sectors for which a read has failed: a write to them may be a repair.
    pub failed_reads: BTreeSet<u64>,
    /// Sectors that were unreadable until they were healed. An operation of the engine that met them before
    /// may still end with an error.
    pub was_bad: BTreeSet<u64>,
    /// Whether bad sectors survive [`Disk::heal`] and stay bad until they are written.
    pub lasting: bool,
    /// Number of upcoming reads of data that fail although the sectors are good.
    pub transient_reads: u32,
    /// Number of upcoming writes that fail; some of their blocks may land.
    pub failing_writes: u32,
    /// Number of writes to carry out before one fails.
    pub write_fails_after: Option<u32>,
    /// Number of upcoming writes of strips that fail.
    pub failing_data_writes: u32,
    /// Whether the next write of a strip fails once a superblock write was pushed to any disk.
    pub armed: bool,
    /// Number of upcoming flushes that fail.
    pub failing_flushes: u32,
    /// Operations that the disk refuses, if any.
    pub refusal: Option<Refusal>,
}

impl Disk {
    /// A disk of random bytes.
    #[must_use]
    pub fn new(seed: u64, zones: Zones, volatile: bool) -> Disk {
        let pages = 2 + (zones.bitmap.len_bytes + zones.data.len_bytes) as usize / PAGE;
        Disk {
            seed,
            zones,
            block_sectors: 1,
            volatile,
            dead: false,
            blank: false,
            pages: (0..pages).map(|_| None).collect(),
            cache: BTreeMap::new(),
            bad: BTreeSet::new(),
            failed_reads: BTreeSet::new(),
            was_bad: BTreeSet::new(),
            lasting: false,
            transient_reads: 0,
            failing_writes: 0,
            write_fails_after: None,
            failing_data_writes: 0,
            armed: false,
            failing_flushes: 0,
            refusal: None,
        }
    }

    /// Maps `len` bytes from `offset` to their zone and sectors. Panics if they are not in one zone.
    #[must_use]
    pub fn place(&self, offset: u64, len: u64) -> Place {
        let within = |start: u64, bytes: u64| offset >= start && offset + len <= start + bytes;
        let (zone, page, offset_in_zone) = if within(SUPERBLOCK_A_OFFSET_BYTES, PAGE as u64) {
            (ZoneKind::Superblock, 0, 0)
        } else if within(SUPERBLOCK_B_OFFSET_BYTES, PAGE as u64) {
            (ZoneKind::Superblock, 1, PAGE as u64)
        } else if within(self.zones.bitmap.offset_bytes, self.zones.bitmap.len_bytes) {
            let inside = offset - self.zones.bitmap.offset_bytes;
            (ZoneKind::Bitmap, 2 + inside / PAGE as u64, inside)
        } else if within(self.zones.data.offset_bytes, self.zones.data.len_bytes) {
            let inside = offset - self.zones.data.offset_bytes;
            let before = 2 + self.zones.bitmap.len_bytes / PAGE as u64;
            (ZoneKind::Data, before + inside / PAGE as u64, inside)
        } else if within(self.log_offset(), self.zones.data.offset_bytes - self.log_offset()) {
            // The log's pages come behind the data, so that a disk whose log is never touched has no pages
            // for it.
            let inside = offset - self.log_offset();
            (ZoneKind::Log, self.log_page() + inside / PAGE as u64, inside)
        } else if within(PLACE_OFFSETS_BYTES[0], LIST_ZONE_BYTES) {
            let inside = offset - PLACE_OFFSETS_BYTES[0];
            (ZoneKind::List, self.list_page() + inside / PAGE as u64, inside)
        } else if self.is_around(offset, len) {
            // Only zeros are written around the zones and nothing is read, so the space needs no sectors.
            return Place { zone: ZoneKind::Around, offset_in_zone: offset, first: 0, count: 0 };
        } else {
            panic!("ZONES: an access of {len} bytes at {offset} crosses zones");
        };
        assert!(
            offset.is_multiple_of(SECTOR as u64) && len.is_multiple_of(SECTOR as u64),
            "ZONES: misaligned"
        );
        let first = page * SECTORS_PER_PAGE + offset % PAGE as u64 / SECTOR as u64;
        Place { zone, offset_in_zone, first, count: len / SECTOR as u64 }
    }

    const fn log_offset(&self) -> u64 {
        self.zones.bitmap.offset_bytes + self.zones.bitmap.len_bytes
    }

    /// The first page of the log in the compact numbering.
    const fn log_page(&self) -> u64 {
        2 + (self.zones.bitmap.len_bytes + self.zones.data.len_bytes) / PAGE as u64
    }

    /// The first page of the list of lost rows: behind the log.
    const fn list_page(&self) -> u64 {
        self.log_page() + (self.zones.data.offset_bytes - self.log_offset()) / PAGE as u64
    }

    /// Cuts a range of bytes where zones begin and end: each piece lies in one zone, or between zones.
    #[must_use]
    pub fn pieces(&self, offset: u64, len: u64) -> Vec<(u64, u64)> {
        let page = PAGE as u64;
        let bounds = [
            SUPERBLOCK_A_OFFSET_BYTES,
            SUPERBLOCK_A_OFFSET_BYTES + page,
            SUPERBLOCK_B_OFFSET_BYTES,
            SUPERBLOCK_B_OFFSET_BYTES + page,
            PLACE_OFFSETS_BYTES[0],
            PLACE_OFFSETS_BYTES[0] + LIST_ZONE_BYTES,
            self.zones.bitmap.offset_bytes,
            self.log_offset(),
        ];
        let end = offset + len;
        let cuts = bounds.into_iter().filter(|bound| offset < *bound && *bound < end);
        let mut starts: Vec<u64> = std::iter::once(offset).chain(cuts).collect();
        // The list of lost rows ends where the bitmap begins, so that bound occurs twice.
        starts.dedup();
        let ends = starts.iter().copied().skip(1).chain([end]);
        starts.iter().copied().zip(ends).map(|(start, end)| (start, end - start)).collect()
    }

    fn is_around(&self, offset: u64, len: u64) -> bool {
        let is_in_one_piece = self.pieces(offset, len).len() == 1;
        let is_before_bitmap = offset + len <= self.zones.bitmap.offset_bytes && is_in_one_piece;
        is_before_bitmap || offset >= self.zones.data.offset_bytes + self.zones.data.len_bytes
    }

    /// Describes the first page of the bitmap, the log or the list of lost rows that durably holds anything
    /// but zeros.
    #[must_use]
    pub fn foreign_metadata(&mut self) -> Option<String> {
        let bitmap = 2..2 + self.zones.bitmap.len_bytes / PAGE as u64;
        let behind = self.log_page()..self.list_page() + LIST_ZONE_BYTES / PAGE as u64;
        let mut sectors =
            bitmap.chain(behind).flat_map(|page| page * SECTORS_PER_PAGE..(page + 1) * SECTORS_PER_PAGE);
        let sector = sectors.find(|&sector| self.durable_sector(sector).iter().any(|byte| *byte != 0))?;
        let page = sector / SECTORS_PER_PAGE;
        let zone = match page {
            _ if page < self.log_page() => "the bitmap",
            _ if page < self.list_page() => "the log",
            _ => "the list of lost rows",
        };
        Some(format!("page {page}, in {zone}"))
    }

    /// Maps rows of a strip to their place, from an offset in the data zone.
    #[must_use]
    pub fn place_in_data(&self, offset: u64, len: u64) -> Place {
        self.place(self.zones.data.offset_bytes + offset, len)
    }

    fn page(&mut self, page: u64) -> &mut Rc<[u8; PAGE]> {
        let (seed, blank) = (self.seed, self.blank);
        if page as usize >= self.pages.len() {
            self.pages.resize(page as usize + 1, None);
        }
        self.pages[page as usize].get_or_insert_with(|| {
            let mut bytes = [0; PAGE];
            if !blank {
                for (nth, word) in bytes.chunks_exact_mut(8).enumerate() {
                    word.copy_from_slice(&mix(seed ^ page << 20 ^ nth as u64).to_le_bytes());
                }
            }
            Rc::new(bytes)
        })
    }

    /// The content that a read of a sector returns.
    pub fn sector(&mut self, sector: u64) -> &Sector {
        let at = (sector % SECTORS_PER_PAGE) as usize * SECTOR;
        self.page(sector / SECTORS_PER_PAGE)[at..at + SECTOR].try_into().expect("a sector")
    }

    fn sector_mut(&mut self, sector: u64) -> &mut Sector {
        let at = (sector % SECTORS_PER_PAGE) as usize * SECTOR;
        let page = Rc::make_mut(self.page(sector / SECTORS_PER_PAGE));
        (&mut page[at..at + SECTOR]).try_into().expect("a sector")
    }

    /// The content of a sector after a power cut that keeps nothing of the cache.
    pub fn durable_sector(&mut self, sector: u64) -> &Sector {
        if self.cache.contains_key(&sector) { &self.cache[&sector].durable } else { self.sector(sector) }
    }

    /// Whether a power cut would find anything in the cache.
    #[must_use]
    pub fn has_cached(&self) -> bool {
        !self.cache.is_empty()
    }

    /// Reads the current content, including the cache.
    pub fn read(&mut self, place: Place, into: &mut [u8]) {
        for (sector, bytes) in place.sectors().zip(into.chunks_exact_mut(SECTOR)) {
            bytes.copy_from_slice(self.sector(sector));
        }
    }

    /// Reads the durable content.
    pub fn read_durable(&mut self, place: Place, into: &mut [u8]) {
        for (sector, bytes) in place.sectors().zip(into.chunks_exact_mut(SECTOR)) {
            bytes.copy_from_slice(self.durable_sector(sector));
        }
    }

    /// Reads the durable content of a metadata block, or zeros if any of its sectors is unreadable.
    pub fn read_metadata(&mut self, place: Place, into: &mut [u8]) {
        if place.sectors().any(|sector| self.bad.contains(&sector)) {
            into.fill(0);
        } else {
            self.read_durable(place, into);
        }
    }

    /// Writes a sector at the given moment: into the cache, if the disk has one.
    pub fn write_sector(&mut self, sector: u64, bytes: &Sector, moment: u64) {
        self.bad.remove(&sector);
        self.was_bad.remove(&sector);
        if self.volatile {
            let before = if self.cache.contains_key(&sector) { None } else { Some(*self.sector(sector)) };
            let fresh = || Cached { durable: Rc::new(before.expect("looked up")), versions: Vec::new() };
            let cached = self.cache.entry(sector).or_insert_with(fresh);
            cached.versions.push((moment, Rc::new(*bytes)));
        }
        *self.sector_mut(sector) = *bytes;
    }

    /// Writes content that is durable when the write completes.
    pub fn write_durable(&mut self, place: Place, bytes: &[u8]) {
        let is_pages = (place.first | place.count).is_multiple_of(SECTORS_PER_PAGE);
        if place.zone == ZoneKind::Log && is_pages && bytes.iter().all(|byte| *byte == 0) {
            // All pages share one page of zeros, so that wiping a log takes no memory.
            let (first, zeros) = (place.first / SECTORS_PER_PAGE, Rc::new([0; PAGE]));
            for page in first..first + place.count / SECTORS_PER_PAGE {
                *self.page(page) = Rc::clone(&zeros);
            }
        } else {
            for (sector, bytes) in place.sectors().zip(bytes.chunks_exact(SECTOR)) {
                *self.sector_mut(sector) = bytes.try_into().expect("a sector");
            }
        }
        let sectors = place.sectors();
        self.bad.retain(|sector| !sectors.contains(sector));
        self.was_bad.retain(|sector| !sectors.contains(sector));
        self.force(place);
    }

    /// Makes the current content of some sectors durable (FUA).
    pub fn force(&mut self, place: Place) {
        if !self.cache.is_empty() {
            place.sectors().for_each(|sector| drop(self.cache.remove(&sector)));
        }
    }

    /// Makes everything durable that completed before `moment`.
    pub fn flush(&mut self, moment: u64) {
        self.cache.retain(|_, cached| {
            let covered = cached.versions.iter().take_while(|version| version.0 < moment).count();
            if covered > 0 {
                cached.durable = Rc::clone(&cached.versions[covered - 1].1);
                cached.versions.drain(..covered);
            }
            !cached.versions.is_empty()
        });
    }

    /// Whether the newest content of a sector is only in the cache, from a write that completed before
    /// `moment`.
    #[must_use]
    pub fn is_cached(&self, sector: u64, moment: u64) -> bool {
        self.cache.get(&sector).is_some_and(|cached| cached.versions[0].0 < moment)
    }

    /// A sector behind the superblocks whose newest content is only in the cache, from a write that completed
    /// before `moment`.
    #[must_use]
    pub fn any_cached(&self, moment: u64) -> Option<u64> {
        let behind_superblocks = self.cache.range(2 * SECTORS_PER_PAGE..);
        behind_superblocks
            .into_iter()
            .find(|(_, cached)| cached.versions[0].0 < moment)
            .map(|(sector, _)| *sector)
    }

    /// Cuts the power: each cached sector keeps one of its contents.
    pub fn lose_power(&mut self, rng: &mut Rng) {
        // Some cuts lose the whole cache and some lose nothing: the extremes find more bugs than mixtures.
        let style = rng.below(3);
        let mut of_block = (None, 0);
        for (sector, cached) in std::mem::take(&mut self.cache) {
            let choices = cached.versions.len() as u64 + 1;
            let block = Some(sector / self.block_sectors);
            let choice = match style {
                0 => 0,
                1 => choices - 1,
                _ if of_block.0 == block => of_block.1.min(choices - 1),
                _ => rng.below(choices),
            };
            of_block = (block, choice);
            if choice < choices - 1 {
                let bytes =
                    if choice == 0 { &cached.durable } else { &cached.versions[choice as usize - 1].1 };
                *self.sector_mut(sector) = **bytes;
            }
        }
    }

    /// Whether an operation covers whole logical blocks.
    #[must_use]
    pub const fn has_whole_blocks(&self, op: &MemberOp) -> bool {
        let block_bytes = self.block_sectors * SECTOR as u64;
        op.offset_bytes.is_multiple_of(block_bytes) && op.len_bytes.is_multiple_of(block_bytes)
    }

    /// Makes the block of a sector unreadable until it is written.
    pub fn spoil(&mut self, sector: u64) {
        let first = sector / self.block_sectors * self.block_sectors;
        self.bad.extend(first..first + self.block_sectors);
    }

    /// Flips one bit durably; no operation reports it.
    pub fn flip(&mut self, sector: u64, bit: u64) {
        self.sector_mut(sector)[bit as usize / 8] ^= 1 << (bit % 8);
    }

    /// All sectors in the cache.
    pub fn cached(&self) -> impl Iterator<Item = (u64, &Cached)> {
        self.cache.iter().map(|(sector, cached)| (*sector, cached))
    }

    /// Number of 4 KiB pages: two superblocks, the bitmap, the data, and the log as far as it was ever
    /// touched.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// The content that a read of a page returns.
    pub fn page_now(&mut self, page: u64) -> &[u8; PAGE] {
        self.page(page)
    }

    /// Sets the durable content of a page.
    pub fn put_page(&mut self, page: u64, bytes: &[u8]) {
        (page * SECTORS_PER_PAGE..(page + 1) * SECTORS_PER_PAGE).for_each(|sector| {
            self.cache.remove(&sector);
        });
        Rc::make_mut(self.page(page)).copy_from_slice(bytes);
    }

    /// Sets the durable content of a sector.
    pub fn put_sector(&mut self, sector: u64, bytes: &Sector) {
        self.cache.remove(&sector);
        self.bad.remove(&sector);
        *self.sector_mut(sector) = *bytes;
    }

    /// Zeroes both superblocks durably.
    pub fn wipe_superblocks(&mut self) {
        for sector in 0..2 * SECTORS_PER_PAGE {
            self.cache.remove(&sector);
            *self.sector_mut(sector) = [0; SECTOR];
        }
    }

    /// A copy of the disk as made now: of what a reader sees, or of what a power cut would leave.
    #[must_use]
    pub fn image(&self, as_read: bool) -> Disk {
        let mut image = self.clone();
        for (sector, cached) in std::mem::take(&mut image.cache) {
            if !as_read {
                *image.sector_mut(sector) = *cached.durable;
            }
        }
        image.heal();
        image.failed_reads.clear();
        image.dead = false;
        image
    }

    /// Clears all faults except death; with `lasting`, bad sectors remain.
    pub fn heal(&mut self) {
        if !self.lasting {
            self.was_bad.append(&mut self.bad);
        }
        self.transient_reads = 0;
        self.failing_writes = 0;
        self.write_fails_after = None;
        self.failing_data_writes = 0;
        self.armed = false;
        self.failing_flushes = 0;
        self.refusal = None;
    }

    /// Length of the device in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.zones.end_bytes()
    }
}

/// The name of a sector's content: a hash, or 0 for zeros.
#[must_use]
pub fn name_of(bytes: &[u8]) -> u64 {
    // Four lanes, because each multiplication of a lane waits for the one before.
    let mut lanes = [1u64, 2, 3, 4];
    let mut any = 0;
    for words in bytes.chunks_exact(32) {
        for (lane, word) in lanes.iter_mut().zip(words.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            any |= word;
            *lane = (lane.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
    if any == 0 {
        return 0;
    }
    lanes.into_iter().fold(1, |hash: u64, lane| mix(hash ^ lane)) | 1
}
