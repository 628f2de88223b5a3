//! The list of lost rows as all reactors see it: parts of data strips that nobody can compute any more.
//!
//! What is lost is *defined*: its strips hold zeros (or whatever is there), and parity matches that, so a stripe with lost rows is
//! as good as any other for everything below the host. The list says what the host must not be told: a read of listed rows is an
//! error until a host writes them, or discards their stripe. The life of an entry, all of it under ownership of the stripe:
//!
//! ```text
//!   add (reads are errors from here on) -> durable on all members, and on record -> zeros and parity are written
//!   data durable -> remove -> durable on all members -> the write is acknowledged
//! ```
//!
//! A crash between the first two steps leaves rows that are listed and were not computable: an error, as before. Were the zeros
//! first, a crash would leave zeros that are served as data. A crash between the data and the removal leaves an error for a
//! write that was never acknowledged. Were the removal first, old zeros would be served as data.
//!
//! Readers take no lock. The list has two halves; an editor writes the one that is not current, then makes it current. A reader
//! looks at the current half, and looks again if the version has moved meanwhile. Words are stored with Release and loaded with
//! Acquire: a reader that sees a word of an edit under way also sees the version of the edit before, and looks again. Editors are
//! rare, and take turns by `try_lock`: who finds another at work comes back next turn.

use std::sync::{Mutex, MutexGuard};

use crate::format::lost_rows::LostRange;
use crate::limits::{LOST_RANGES_ADDED_MAX, LOST_RANGES_MAX};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Why the list was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another reactor is changing it: try again next turn.
    Busy,
    /// There is no room.
    Full,
}

/// One range in three words.
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

/// See the top of this file.
pub struct LostRows {
    /// Ranges in the list. Written by editors; read on every request, Relaxed: a reader that comes late is found out by the count
    /// of deallocations, as for strips that were given back.
    count: AtomicU32,
    /// Grows with each edit; the half `version % 2` is current.
    version: AtomicU64,
    /// The version that is durable on every member. Written by the steward (Release), read by ops that wait (Acquire).
    durable: AtomicU64,
    /// The superblocks say that there is a list. Written by the steward.
    on_record: AtomicBool,
    halves: [Half; 2],
    editor: Mutex<Vec<LostRange>>,
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

impl Default for LostRows {
    fn default() -> LostRows {
        LostRows::new(0, &[], false)
    }
}

impl LostRows {
    /// The list as a start found it, durable in this version.
    #[must_use]
    pub fn new(version: u64, ranges: &[LostRange], on_record: bool) -> LostRows {
        let halves = [Half::new(), Half::new()];
        halves[(version % 2) as usize].store(ranges);
        let mut editor = Vec::with_capacity(LOST_RANGES_MAX + 2);
        editor.extend_from_slice(ranges);
        LostRows {
            count: AtomicU32::new(ranges.len() as u32),
            version: AtomicU64::new(version),
            durable: AtomicU64::new(version),
            on_record: AtomicBool::new(on_record),
            halves,
            editor: Mutex::new(editor),
        }
    }

    /// Whether nothing is lost: one load.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Looks at the list in one version of it.
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
                        && range.has(stripe)
                        && range.row < row + rows
                        && row < range.row + range.rows
                })
            })
    }

    /// Whether any row of a stripe is lost.
    #[must_use]
    pub fn touches(&self, stripe: u64) -> bool {
        !self.is_empty() && self.look(|half| half.ranges().any(|range| range.has(stripe)))
    }

    /// Everything that is listed.
    #[must_use]
    pub fn ranges(&self) -> Vec<LostRange> {
        self.look(|half| half.ranges().collect())
    }

    /// Everything that is listed, and in which version.
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

    /// Whether there is no room for more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) as usize >= LOST_RANGES_ADDED_MAX
    }

    /// The version of the list as it is now.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether the list as it was in this version, or later, is durable.
    #[must_use]
    pub fn is_durable(&self, version: u64) -> bool {
        self.durable.load(Ordering::Acquire) >= version
    }

    /// Whether the superblocks say that there is a list.
    #[must_use]
    pub fn is_on_record(&self) -> bool {
        self.on_record.load(Ordering::Acquire)
    }

    /// Steward: the superblocks say that there is a list, durably.
    pub fn set_on_record(&self) {
        self.on_record.store(true, Ordering::Release);
    }

    /// Steward: this version is durable.
    pub fn set_durable(&self, version: u64) {
        self.durable.store(version, Ordering::Release);
    }

    /// Lists rows. What adjoins a range of the same slot and rows makes that longer. The version to wait for.
    pub fn add(&self, added: LostRange) -> Result<u64, Refused> {
        let mut ranges = self.editor()?;
        if let Some(range) = ranges.iter_mut().find(|range| range.adjoins(&added)) {
            *range = range.with(&added);
        } else if ranges.len() >= LOST_RANGES_ADDED_MAX {
            return Err(Refused::Full);
        } else {
            ranges.push(added);
        }
        Ok(self.publish(&ranges))
    }

    /// Takes rows of a slot's strip off the list, for a host has written them. The version to wait for.
    pub fn remove(&self, stripe: u64, slot: u8, row: u32, rows: u32) -> Result<u64, Refused> {
        let mut ranges = self.editor()?;
        let mut is_changed = false;
        let gone = LostRange { stripe, stripes: 1, slot, row, rows };
        while let Some(at) = ranges.iter().position(|range| range.meets(&gone)) {
            let left = ranges[at].without(&gone).into_iter().filter(|rest| rest.stripes > 0 && rest.rows > 0);
            if ranges.len() - 1 + left.clone().count() > LOST_RANGES_MAX {
                return Err(Refused::Full);
            }
            is_changed = true;
            ranges.swap_remove(at);
            ranges.extend(left);
        }
        Ok(if is_changed { self.publish(&ranges) } else { self.version() })
    }

    /// A version that is not durable yet, of the same list: for members that have joined meanwhile.
    pub fn touch(&self) -> Result<u64, Refused> {
        let ranges = self.editor()?;
        Ok(self.publish(&ranges))
    }

    fn editor(&self) -> Result<MutexGuard<'_, Vec<LostRange>>, Refused> {
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

impl LostRange {
    const fn end(&self) -> u64 {
        self.stripe + self.stripes as u64
    }

    fn has(&self, stripe: u64) -> bool {
        (self.stripe..self.end()).contains(&stripe)
    }

    fn meets(&self, other: &LostRange) -> bool {
        self.slot == other.slot
            && self.stripe < other.end()
            && other.stripe < self.end()
            && self.row < other.row + other.rows
            && other.row < self.row + self.rows
    }

    /// Whether both make one range: rows that follow each other, or the same rows from the first on (whole strips, as a rule) in
    /// stripes that follow each other. Other rows stay apart by stripe: a stripe that is discarded would split every range
    /// that goes through it.
    fn adjoins(&self, other: &LostRange) -> bool {
        let same_rows = (self.row, self.rows) == (other.row, other.rows);
        let same_stripes = (self.stripe, self.stripes) == (other.stripe, other.stripes);
        self.slot == other.slot
            && ((same_rows && self.row == 0 && self.stripe <= other.end() && other.stripe <= self.end())
                || (same_stripes && self.row <= other.row + other.rows && other.row <= self.row + self.rows))
    }

    fn with(&self, other: &LostRange) -> LostRange {
        let (stripe, row) = (self.stripe.min(other.stripe), self.row.min(other.row));
        LostRange {
            stripe,
            stripes: (self.end().max(other.end()) - stripe) as u32,
            slot: self.slot,
            row,
            rows: (self.row + self.rows).max(other.row + other.rows) - row,
        }
    }

    /// What is left without rows of one stripe; some may be empty.
    fn without(&self, gone: &LostRange) -> [LostRange; 4] {
        let here = LostRange { stripe: gone.stripe, stripes: 1, ..*self };
        let (row, end) = (gone.row.max(self.row), (gone.row + gone.rows).min(self.row + self.rows));
        [
            LostRange { stripes: (gone.stripe - self.stripe) as u32, ..*self },
            LostRange { stripe: gone.stripe + 1, stripes: (self.end() - gone.stripe - 1) as u32, ..*self },
            LostRange { rows: row - self.row, ..here },
            LostRange { row: end, rows: self.row + self.rows - end, ..here },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u32 = 1 << 16;

    /// The list against a set of (stripe, slot, 512 bytes) that knows no ranges.
    #[test]
    fn it_holds_what_was_added_and_not_removed() {
        let list = LostRows::default();
        let mut model = std::collections::BTreeSet::new();
        let mut state = 7u64;
        let mut below = |end: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        for _ in 0..3000 {
            let (stripe, slot) = (below(12), below(3) as u8);
            let row = below(16) * 4096;
            let rows = ((1 + below(16)) * 4096).min(u64::from(CHUNK) - row);
            let sectors = (row / 512..(row + rows) / 512).map(|sector| (stripe, slot, sector));
            let (row, rows) = (row as u32, rows as u32);
            if below(3) == 0 {
                assert!(list.remove(stripe, slot, row, rows).is_ok());
                sectors.for_each(|sector| {
                    model.remove(&sector);
                });
            } else {
                assert!(list.add(LostRange { stripe, stripes: 1, slot, row, rows }).is_ok());
                model.extend(sectors);
            }
            for stripe in 0..12 {
                assert_eq!(list.touches(stripe), model.iter().any(|&(at, ..)| at == stripe));
            }
            let (stripe, slot, sector) = (below(12), below(3) as u8, below(128));
            assert_eq!(
                list.has(stripe, slot, sector as u32 * 512, 512),
                model.contains(&(stripe, slot, sector))
            );
            assert_eq!(list.is_empty(), model.is_empty());
        }
    }

    #[test]
    fn stripes_that_follow_each_other_are_one_range() {
        let list = LostRows::default();
        for stripe in 0..100_000 {
            assert!(list.add(LostRange { stripe, stripes: 1, slot: 2, row: 0, rows: CHUNK }).is_ok());
        }
        assert_eq!(list.ranges().len(), 1);
        let version = list.remove(50, 2, 0, CHUNK).expect("nobody else edits");
        assert!(!list.is_durable(version) && !list.touches(50) && list.touches(49) && list.touches(51));
        list.set_durable(version);
        assert!(list.is_durable(version));
    }

    #[test]
    fn a_list_that_was_split_to_its_end_can_be_emptied() {
        let list = LostRows::default();
        let ranges = LOST_RANGES_ADDED_MAX as u64;
        for nth in 0..ranges {
            let range = LostRange { stripe: 2 * nth, stripes: 1, slot: 1, row: 0, rows: CHUNK };
            assert!(list.add(range).is_ok());
        }
        let split = (0..ranges).filter(|nth| list.remove(2 * nth, 1, 8192, 512).is_ok()).count();
        assert_eq!(split, LOST_RANGES_MAX - LOST_RANGES_ADDED_MAX, "as many as there is room for");
        for nth in 0..ranges {
            assert!(
                list.remove(2 * nth, 1, 0, CHUNK).is_ok(),
                "what leaves less than there was is never refused"
            );
        }
        assert!(list.is_empty());
    }

    #[test]
    fn a_full_list_takes_no_more_and_can_be_emptied() {
        let list = LostRows::default();
        let range = |stripe| LostRange { stripe, stripes: 1, slot: 1, row: 4096, rows: 8192 };
        for nth in 0..LOST_RANGES_ADDED_MAX as u64 {
            assert!(list.add(range(2 * nth)).is_ok());
        }
        assert_eq!(list.add(range(1_000_000)), Err(Refused::Full));
        assert!(list.remove(0, 1, 8192, 512).is_ok(), "there is room to take a part away");
        for nth in 0..LOST_RANGES_ADDED_MAX as u64 {
            assert!(list.remove(2 * nth, 1, 0, CHUNK).is_ok());
        }
        assert!(list.is_empty());
    }
}
