//! The list of lost rows as all reactors see it: parts of data strips that can no longer be computed.
//!
//! Lost rows still have *defined* content: the strips hold zeros (or whatever is there), and parity matches
//! that. So below the host, a stripe with lost rows is as good as any other. The list says what must not be
//! returned to the host: a read of listed rows is an error until a host writes them or discards their stripe.
//! The life of an entry, all of it under ownership of the stripe:
//!
//! ```text
//!   add (reads are errors from here on) -> durable on all members, and on record
//!       -> zeros and parity are written
//!   data durable -> remove -> durable on all members -> the write is acknowledged
//! ```
//!
//! A crash between the first two steps leaves rows that are listed and were not computable: an error, as
//! before. If the zeros were written first, a crash could leave zeros that are served as data. A crash
//! between the data and the removal leaves an error for a write that was never acknowledged. If the removal
//! came first, old zeros could be served as data.
//!
//! Readers take no lock. The list has two halves; an editor writes the half that is not current, then makes
//! it current. A reader looks at the current half, and looks again if the version has changed meanwhile.
//! Words are stored with Release and loaded with Acquire: a reader that sees a word of an edit under way also
//! sees the version of the edit before, and looks again. Edits are rare. Editors take turns by `try_lock`; an
//! editor that finds the lock taken tries again in its next turn.

use std::sync::{Mutex, MutexGuard};

use crate::format::lost_rows::LostRange;
use crate::geometry::Geometry;
use crate::limits::{LOST_RANGES_ADDED_MAX, LOST_RANGES_MAX};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

mod ranges;

use ranges::Ranges;

/// Reasons why the list was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another reactor is changing the list: try again in the next turn.
    Busy,
    /// The list has no room.
    Full,
}

/// A range, packed into three words.
type Words = [AtomicU64; 3];

struct Half {
    count: AtomicU32,
    words: Box<[Words]>,
}

impl Half {
    fn new() -> Half {
        let words = (0..LOST_RANGES_MAX).map(|_| [const { AtomicU64::new(0) }; 3]).collect();
        Half { count: AtomicU32::new(0), words }
    }

    fn store(&self, ranges: &[LostRange]) {
        for (words, range) in self.words.iter().zip(ranges) {
            words[0].store(range.stripe, Ordering::Release);
            words[1].store(u64::from(range.stripes) << 8 | u64::from(range.slot), Ordering::Release);
            words[2].store(u64::from(range.row) << 32 | u64::from(range.rows), Ordering::Release);
        }
        self.count.store(ranges.len() as u32, Ordering::Release);
    }

    fn ranges(&self) -> impl Iterator<Item = LostRange> + '_ {
        let count = self.count.load(Ordering::Acquire) as usize;
        self.words[..count].iter().map(|words| {
            let [stripe, place, rows] = [0, 1, 2].map(|nth| words[nth].load(Ordering::Acquire));
            LostRange {
                stripe,
                stripes: (place >> 8) as u32,
                slot: place as u8,
                row: (rows >> 32) as u32,
                rows: rows as u32,
            }
        })
    }
}

/// The list of lost rows; see the top of this file.
pub struct LostRows {
    /// The array's geometry, which says where slots hold parity.
    geometry: Geometry,
    /// Number of ranges. Written by editors; read on every request, Relaxed: a reader that sees it late is
    /// caught by the count of deallocations, as for strips that were given back.
    count: AtomicU32,
    /// Version of the list, which grows with each edit; the half `version % 2` is current.
    version: AtomicU64,
    /// The version that is durable on every member. Written by the steward (Release), read by ops that wait
    /// (Acquire).
    durable: AtomicU64,
    /// Whether the superblocks say that there is a list. Written by the steward.
    on_record: AtomicBool,
    halves: [Half; 2],
    editor: Mutex<Ranges>,
}

impl std::fmt::Debug for LostRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} of version {}, durable {}",
            self.ranges(),
            self.version(),
            self.durable.load(Ordering::Acquire)
        )
    }
}

impl LostRows {
    /// Makes the list of an array that has lost nothing.
    #[must_use]
    pub fn none(geometry: Geometry) -> LostRows {
        LostRows::new(geometry, 0, &[], false)
    }

    /// Makes the list that a start found, durable in this version.
    #[must_use]
    pub fn new(geometry: Geometry, version: u64, found: &[LostRange], on_record: bool) -> LostRows {
        let ranges = Ranges::new(geometry, found);
        let halves = [Half::new(), Half::new()];
        halves[(version % 2) as usize].store(ranges.all());
        LostRows {
            geometry,
            count: AtomicU32::new(ranges.all().len() as u32),
            version: AtomicU64::new(version),
            durable: AtomicU64::new(version),
            on_record: AtomicBool::new(on_record),
            halves,
            editor: Mutex::new(ranges),
        }
    }

    /// Whether nothing is lost; costs one load.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Calls `at` for the half of one version, until the version did not change meanwhile.
    fn look<T>(&self, mut at: impl FnMut(&Half) -> T) -> T {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let seen = at(&self.halves[(version % 2) as usize]);
            if self.version.load(Ordering::Acquire) == version {
                return seen;
            }
        }
    }

    /// Whether any of these rows of a slot's strip is lost.
    #[must_use]
    pub fn has(&self, stripe: u64, slot: u8, row: u32, rows: u32) -> bool {
        !self.is_empty()
            && self.look(|half| {
                half.ranges().any(|range| {
                    range.slot == slot
                        && range.has(stripe, &self.geometry)
                        && range.row < row + rows
                        && row < range.row + range.rows
                })
            })
    }

    /// Whether any row of a stripe is lost.
    #[must_use]
    #[inline]
    pub fn touches(&self, stripe: u64) -> bool {
        !self.is_empty() && self.lists(stripe)
    }

    fn lists(&self, stripe: u64) -> bool {
        self.look(|half| half.ranges().any(|range| range.has(stripe, &self.geometry)))
    }

    /// All listed ranges.
    #[must_use]
    pub fn ranges(&self) -> Vec<LostRange> {
        self.look(|half| half.ranges().collect())
    }

    /// The version of the list, and all its ranges.
    #[must_use]
    pub fn snapshot(&self) -> (u64, Vec<LostRange>) {
        loop {
            let version = self.version();
            let ranges = self.ranges();
            if self.version() == version {
                return (version, ranges);
            }
        }
    }

    /// Number of lost bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = |range: LostRange| u64::from(range.rows) * range.data_strips(&self.geometry);
        self.look(|half| half.ranges().map(bytes).sum())
    }

    /// The first `count` lost pieces as a host addresses them: first byte and length.
    #[must_use]
    pub fn pieces(&self, count: usize) -> Vec<(u64, u64)> {
        let geometry = &self.geometry;
        let stripes = |range: LostRange| (range.stripe..range.end()).map(move |stripe| (stripe, range));
        let pieces = self.ranges().into_iter().flat_map(stripes);
        let lost = pieces.filter(|(stripe, range)| geometry.is_data(*stripe, range.slot));
        let address = |(stripe, range): (u64, LostRange)| {
            let strip = geometry.rotation(stripe).strip_on(range.slot);
            let at = stripe * u64::from(geometry.stripe_bytes())
                + u64::from(strip) * u64::from(geometry.chunk_bytes())
                + u64::from(range.row);
            (at, range.rows.into())
        };
        lost.take(count).map(address).collect()
    }

    /// The first stripe at or after `from` in which data is listed.
    #[must_use]
    pub fn next_stripe(&self, from: u64) -> Option<u64> {
        let first_of_data = |range: LostRange| {
            (range.stripe.max(from)..range.end()).find(|stripe| self.geometry.is_data(*stripe, range.slot))
        };
        self.look(|half| half.ranges().filter_map(first_of_data).min())
    }

    /// Whether the list accepts no further ranges.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) as usize >= LOST_RANGES_ADDED_MAX
    }

    /// The present version of the list.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether this version of the list, or a later one, is durable.
    #[must_use]
    pub fn is_durable(&self, version: u64) -> bool {
        self.durable.load(Ordering::Acquire) >= version
    }

    /// Whether the superblocks say that there is a list.
    #[must_use]
    pub fn is_on_record(&self) -> bool {
        self.on_record.load(Ordering::Acquire)
    }

    /// Notes that the superblocks durably say that there is a list. For the steward only.
    pub fn set_on_record(&self) {
        self.on_record.store(true, Ordering::Release);
    }

    /// Notes that this version is durable. For the steward only.
    pub fn set_durable(&self, version: u64) {
        self.durable.store(version, Ordering::Release);
    }

    /// Lists rows of data strips. Returns the version to wait for.
    pub fn add(&self, added: LostRange) -> Result<u64, Refused> {
        let mut ranges = self.editor()?;
        ranges.add(added)?;
        Ok(self.publish(ranges.all()))
    }

    /// Takes rows of a slot's strip off the list, because a host has written them. Returns the version to
    /// wait for.
    pub fn remove(&self, stripe: u64, slot: u8, row: u32, rows: u32) -> Result<u64, Refused> {
        let mut ranges = self.editor()?;
        let is_changed = ranges.remove(&LostRange { stripe, stripes: 1, slot, row, rows })?;
        Ok(if is_changed { self.publish(ranges.all()) } else { self.version() })
    }

    /// Makes a new, not yet durable version of the same list, so that members that have joined get it too.
    pub fn touch(&self) -> Result<u64, Refused> {
        let ranges = self.editor()?;
        Ok(self.publish(ranges.all()))
    }

    fn editor(&self) -> Result<MutexGuard<'_, Ranges>, Refused> {
        self.editor.try_lock().map_err(|_| Refused::Busy)
    }

    fn publish(&self, ranges: &[LostRange]) -> u64 {
        let version = self.version.load(Ordering::Relaxed) + 1;
        self.halves[(version % 2) as usize].store(ranges);
        self.version.store(version, Ordering::Release);
        self.count.store(ranges.len() as u32, Ordering::Release);
        version
    }
}

#[cfg(test)]
mod tests {
    //! The list, compared with a set of rows that knows no ranges, for all rotations.

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const CHUNK: u32 = 16 << 10;
    const SECTOR: u32 = 4 << 10;
    const STRIPES: u64 = 40;

    fn geometry() -> impl Strategy<Value = Geometry> {
        (1..=2u8).prop_flat_map(|parities| {
            (parities + 2..9).prop_map(move |members| Geometry::new(members, parities, CHUNK, STRIPES))
        })
    }

    /// Rows of one strip: all of them or a part.
    fn piece() -> impl Strategy<Value = (u64, u8, u32, u32)> {
        let rows = prop_oneof![
            Just((0, CHUNK)),
            (0..4u32, 1..=4u32).prop_map(|(first, count)| (first * SECTOR, count.min(4 - first) * SECTOR))
        ];
        (0..STRIPES, 0..8u8, rows).prop_map(|(stripe, slot, (row, rows))| (stripe, slot, row, rows))
    }

    /// The lost sectors, each as (stripe, slot, sector).
    type Model = BTreeSet<(u64, u8, u32)>;

    /// Computes the ranges from the lost sectors alone: runs of sectors in each stripe, and runs of whole
    /// strips.
    fn fewest(geometry: &Geometry, model: &Model) -> Vec<LostRange> {
        let sectors = CHUNK / SECTOR;
        let is_lost = |stripe, slot, sector| model.contains(&(stripe, slot, sector));
        let mut ranges: Vec<LostRange> = Vec::new();
        for slot in 0..geometry.members() {
            // The range that whole strips could continue.
            let mut before = None;
            for stripe in (0..STRIPES).filter(|&stripe| geometry.is_data(stripe, slot)) {
                if (0..sectors).all(|sector| is_lost(stripe, slot, sector)) {
                    match before {
                        Some(nth) => {
                            let range: &mut LostRange = &mut ranges[nth];
                            range.stripes = (stripe + 1 - range.stripe) as u32;
                        }
                        None => {
                            before = Some(ranges.len());
                            ranges.push(LostRange { stripe, stripes: 1, slot, row: 0, rows: CHUNK });
                        }
                    }
                    continue;
                }
                before = None;
                let mut run = 0;
                for sector in 0..=sectors {
                    if is_lost(stripe, slot, sector) {
                        run += 1;
                    } else if run > 0 {
                        let (row, rows) = ((sector - run) * SECTOR, run * SECTOR);
                        ranges.push(LostRange { stripe, stripes: 1, slot, row, rows });
                        run = 0;
                    }
                }
            }
        }
        ranges
    }

    fn check(list: &LostRows, geometry: &Geometry, model: &Model) {
        let mut ranges = list.ranges();
        ranges.sort_unstable();
        let mut expected = fewest(geometry, model);
        expected.sort_unstable();
        assert_eq!(ranges, expected);
        assert_eq!(list.is_empty(), model.is_empty());
        assert_eq!(list.bytes(), model.len() as u64 * u64::from(SECTOR));
        for stripe in 0..STRIPES {
            assert_eq!(list.touches(stripe), model.iter().any(|&(at, ..)| at == stripe));
            for slot in 0..geometry.members() {
                for sector in 0..CHUNK / SECTOR {
                    let has = list.has(stripe, slot, sector * SECTOR, SECTOR);
                    assert_eq!(has, model.contains(&(stripe, slot, sector)));
                }
            }
        }
        let pieces = list.pieces(usize::MAX);
        let mut addresses: Vec<u64> =
            pieces.iter().flat_map(|&(at, bytes)| (at..at + bytes).step_by(SECTOR as usize)).collect();
        addresses.sort_unstable();
        let address = |&(stripe, slot, sector): &(u64, u8, u32)| {
            let strip = geometry.rotation(stripe).strip_on(slot);
            (stripe * u64::from(geometry.data()) + u64::from(strip)) * u64::from(CHUNK)
                + u64::from(sector * SECTOR)
        };
        let mut lost: Vec<u64> = model.iter().map(address).collect();
        lost.sort_unstable();
        assert_eq!(addresses, lost);
    }

    proptest! {
        /// Rows added and removed in any order are listed in as few ranges as possible, and a list that is
        /// read back is the same.
        #[test]
        fn it_holds_what_was_added_and_not_removed(
            geometry in geometry(),
            steps in proptest::collection::vec((0..4u8, piece()), 1..200),
        ) {
            let list = LostRows::none(geometry);
            let mut model = Model::new();
            for (verb, (stripe, slot, row, rows)) in steps {
                let slot = slot % geometry.members();
                if !geometry.is_data(stripe, slot) {
                    continue;
                }
                let sectors = (row / SECTOR..(row + rows) / SECTOR).map(|sector| (stripe, slot, sector));
                if verb == 0 {
                    prop_assert!(list.remove(stripe, slot, row, rows).is_ok());
                    sectors.for_each(|sector| {
                        model.remove(&sector);
                    });
                } else {
                    let added = list.add(LostRange { stripe, stripes: 1, slot, row, rows });
                    prop_assert!(added.is_ok());
                    model.extend(sectors);
                }
                prop_assert_eq!(list.ranges().len(), fewest(&geometry, &model).len());
            }
            check(&list, &geometry, &model);
            check(&LostRows::new(geometry, 7, &list.ranges(), true), &geometry, &model);
        }

        /// Whole strips of consecutive stripes end as one range, in whatever order the stripes are given up.
        #[test]
        fn whole_strips_in_any_order_are_one_range(
            geometry in geometry(),
            slot in 0..8u8,
            order in Just((0..STRIPES).collect::<Vec<u64>>()).prop_shuffle(),
        ) {
            let slot = slot % geometry.members();
            let list = LostRows::none(geometry);
            for &stripe in order.iter().filter(|&&stripe| geometry.is_data(stripe, slot)) {
                let added = list.add(LostRange { stripe, stripes: 1, slot, row: 0, rows: CHUNK });
                prop_assert!(added.is_ok());
            }
            prop_assert_eq!(list.ranges().len(), 1);
        }
    }

    const RAID5: (u8, u8) = (4, 1);

    fn list_of(stripes: u64) -> LostRows {
        LostRows::none(Geometry::new(RAID5.0, RAID5.1, CHUNK, stripes))
    }

    /// A slot's whole strip in the `nth` stripe (from 0) in which the slot holds data.
    fn strip(nth: u64) -> LostRange {
        // Slot 3 holds parity in every fourth stripe, beginning with stripe 0.
        LostRange { stripe: nth / 3 * 4 + nth % 3 + 1, stripes: 1, slot: 3, row: 0, rows: CHUNK }
    }

    #[test]
    fn stripes_that_follow_each_other_are_one_range() {
        let list = list_of(200_000);
        for nth in 0..100_000 {
            assert!(list.add(strip(nth)).is_ok());
        }
        assert_eq!(list.ranges().len(), 1);
        assert_eq!(list.bytes(), 100_000 * u64::from(CHUNK));
        let version = list.remove(50, 3, 0, CHUNK).expect("nobody else edits");
        assert!(!list.is_durable(version) && !list.touches(50) && list.touches(49) && list.touches(51));
        list.set_durable(version);
        assert!(list.is_durable(version));
    }

    /// Older programs began a new range after each parity strip.
    #[test]
    fn a_list_that_was_full_of_short_ranges_has_room() {
        let geometry = Geometry::new(RAID5.0, RAID5.1, CHUNK, 1 << 20);
        let range = |turn| LostRange { stripes: 3, ..strip(3 * turn) };
        let ranges: Vec<LostRange> = (0..LOST_RANGES_ADDED_MAX as u64).map(range).collect();
        let list = LostRows::new(geometry, 9, &ranges, true);
        assert_eq!((list.ranges().len(), list.is_full()), (1, false));
        let parity = LostRange { stripe: 0, ..strip(0) };
        assert!(LostRows::new(geometry, 9, &[parity], true).is_empty());
    }

    /// Two pieces of the same stripes, as older programs listed them, and room to split only one: a refused
    /// removal leaves both.
    #[test]
    fn a_removal_that_is_refused_changes_nothing() {
        let geometry = Geometry::new(RAID5.0, RAID5.1, CHUNK, 1 << 20);
        let piece = |row| LostRange { stripe: 1, stripes: 3, slot: 3, row, rows: 4096 };
        let mut ranges = vec![piece(0), piece(8192)];
        ranges.extend((1..LOST_RANGES_MAX as u64 - 2).map(|nth| strip(6 * nth)));
        let list = LostRows::new(geometry, 9, &ranges, true);
        let before = list.ranges();
        assert_eq!(before.len(), LOST_RANGES_MAX - 1);
        assert_eq!(list.remove(2, 3, 0, CHUNK), Err(Refused::Full));
        assert!(list.touch().is_ok());
        assert_eq!(list.ranges(), before);
    }

    /// Chunks of 4 KiB on members of 32 TB lead to such counts.
    #[test]
    fn more_stripes_than_a_range_can_count_are_two() {
        let geometry = Geometry::new(RAID5.0, RAID5.1, CHUNK, 1 << 33);
        let half = LostRange { stripes: 3 << 30, ..strip(0) };
        let ranges = [half, LostRange { stripe: half.end(), ..half }];
        let list = LostRows::new(geometry, 0, &ranges, true);
        assert_eq!(list.ranges().len(), 2);
        assert_eq!(list.bytes(), (6 << 30) / 4 * 3 * u64::from(CHUNK));
    }

    #[test]
    fn a_list_that_was_split_to_its_end_can_be_emptied() {
        let list = list_of(1 << 20);
        let ranges = LOST_RANGES_ADDED_MAX as u64;
        for nth in 0..ranges {
            assert!(list.add(strip(2 * nth)).is_ok());
        }
        let split =
            (0..ranges).filter(|nth| list.remove(strip(2 * nth).stripe, 3, 8192, 512).is_ok()).count();
        assert_eq!(split, LOST_RANGES_MAX - LOST_RANGES_ADDED_MAX, "as many as there is room for");
        for nth in 0..ranges {
            assert!(
                list.remove(strip(2 * nth).stripe, 3, 0, CHUNK).is_ok(),
                "what leaves less than there was is never refused"
            );
        }
        assert!(list.is_empty());
    }

    #[test]
    fn a_full_list_takes_no_more_and_can_be_emptied() {
        let list = list_of(1 << 20);
        let range = |nth| LostRange { row: 4096, rows: 8192, ..strip(nth) };
        for nth in 0..LOST_RANGES_ADDED_MAX as u64 {
            assert!(list.add(range(nth)).is_ok());
        }
        assert_eq!(list.add(range(1 << 18)), Err(Refused::Full));
        assert!(list.add(LostRange { row: 0, ..range(0) }).is_ok(), "a range that grows needs no room");
        assert!(list.remove(strip(0).stripe, 3, 8192, 512).is_ok(), "there is room to take a part away");
        for nth in 0..LOST_RANGES_ADDED_MAX as u64 {
            assert!(list.remove(strip(nth).stripe, 3, 0, CHUNK).is_ok());
        }
        assert!(list.is_empty());
    }
}
