//! The ranges of the list of lost rows, and their one canonical form.
//!
//! Consecutive wholly lost strips of a slot form one range. (All strips of a missing member in stripes that
//! were in doubt are an example.) The slot holds parity in one or two stripes of each turn of the rotation.
//! Nothing is lost there, and a range continues across them: if each turn of the rotation were a range, a few
//! thousand stripes would fill the list. Pieces of a strip are one range for each stripe; otherwise a
//! discarded stripe would split every range that goes through it. So there is one way to list what is lost,
//! in whatever order it was added and removed:
//! - no two ranges overlap or could be joined;
//! - a range of several stripes has all rows, and the slot holds data in its first stripe and in its last.

use crate::format::lost_rows::LostRange;
use crate::geometry::Geometry;
use crate::limits::{LOST_RANGES_ADDED_MAX, LOST_RANGES_MAX};

use super::Refused;

/// The ranges of the list; see the top of this file.
#[derive(Debug)]
pub(super) struct Ranges {
    geometry: Geometry,
    list: Vec<LostRange>,
}

impl Ranges {
    /// Takes in the ranges that a start found. Each is added as if it were new: older programs began a range
    /// after each parity strip, and an array whose list they had filled has room again. (Pieces in several
    /// stripes, which they also listed, stay as they are.)
    pub(super) fn new(geometry: Geometry, found: &[LostRange]) -> Ranges {
        let mut ranges = Ranges { geometry, list: Vec::with_capacity(LOST_RANGES_MAX) };
        for range in found.iter().filter_map(|range| range.of_data(&geometry)) {
            ranges.put(range);
        }
        ranges
    }

    /// All ranges, in no particular order.
    pub(super) fn all(&self) -> &[LostRange] {
        &self.list
    }

    /// Adds rows of data strips, joined with the ranges that they adjoin.
    pub(super) fn add(&mut self, added: LostRange) -> Result<(), Refused> {
        assert!(added.of_data(&self.geometry) == Some(added), "no parity strip is lost: {added:?}");
        let is_new = !self.list.iter().any(|range| range.joins(&added, &self.geometry));
        if is_new && self.list.len() >= LOST_RANGES_ADDED_MAX {
            return Err(Refused::Full);
        }
        self.put(added);
        Ok(())
    }

    /// Removes rows of one stripe, and returns whether any were listed. Changes nothing if the list has no
    /// room for the rest of the ranges that this splits.
    pub(super) fn remove(&mut self, gone: &LostRange) -> Result<bool, Refused> {
        let geometry = self.geometry;
        let left = |range: &LostRange| {
            range.without(gone).into_iter().filter_map(move |rest| rest.of_data(&geometry))
        };
        let count: usize =
            self.list.iter().map(|range| if range.meets(gone) { left(range).count() } else { 1 }).sum();
        if count > LOST_RANGES_MAX {
            return Err(Refused::Full);
        }
        let mut is_changed = false;
        while let Some(at) = self.list.iter().position(|range| range.meets(gone)) {
            let range = self.list.swap_remove(at);
            self.list.extend(left(&range));
            is_changed = true;
        }
        Ok(is_changed)
    }

    /// Puts a range on the list, joined with all that it touches. Each time it has grown it may touch others.
    fn put(&mut self, added: LostRange) {
        let mut whole = added;
        while let Some(at) = self.list.iter().position(|range| range.joins(&whole, &self.geometry)) {
            whole = self.list.swap_remove(at).with(&whole);
        }
        self.list.push(whole);
    }
}

impl LostRange {
    /// The stripe after the last.
    pub(crate) const fn end(&self) -> u64 {
        self.stripe + self.stripes as u64
    }

    /// Whether this range lists the slot's strip of the stripe, or part of it.
    pub(super) fn has(&self, stripe: u64, geometry: &Geometry) -> bool {
        (self.stripe..self.end()).contains(&stripe) && geometry.is_data(stripe, self.slot)
    }

    fn meets(&self, other: &LostRange) -> bool {
        self.slot == other.slot
            && self.stripe < other.end()
            && other.stripe < self.end()
            && self.row < other.row + other.rows
            && other.row < self.row + self.rows
    }

    fn covers(&self, other: &LostRange) -> bool {
        self.slot == other.slot
            && self.stripe <= other.stripe
            && other.end() <= self.end()
            && self.row <= other.row
            && other.row + other.rows <= self.row + self.rows
    }

    /// Whether both ranges form one; see the top of this file.
    fn joins(&self, other: &LostRange, geometry: &Geometry) -> bool {
        let is_whole = |range: &LostRange| range.row == 0 && range.rows == geometry.chunk_bytes();
        let (first, last) = if self.stripe <= other.stripe { (self, other) } else { (other, self) };
        let is_parity = |stripe| !geometry.is_data(stripe, self.slot);
        let follows = || {
            is_whole(first)
                && is_whole(last)
                && (first.end()..last.stripe).all(is_parity)
                && last.end().max(first.end()) - first.stripe <= u64::from(u32::MAX)
        };
        let is_beside = || {
            (self.stripe, self.stripes) == (other.stripe, other.stripes)
                && self.row <= other.row + other.rows
                && other.row <= self.row + self.rows
        };
        self.slot == other.slot && (self.covers(other) || other.covers(self) || follows() || is_beside())
    }

    /// The range that covers both, and what lies between them.
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

    /// The range without stripes at its ends where the slot holds parity; `None` if no other stripe is left.
    fn of_data(&self, geometry: &Geometry) -> Option<LostRange> {
        let is_data = |stripe: &u64| geometry.is_data(*stripe, self.slot);
        let first = (self.stripe..self.end()).find(is_data)?;
        let last = (first..self.end()).rfind(is_data)?;
        let stripes = (last + 1 - first) as u32;
        (self.rows > 0).then_some(LostRange { stripe: first, stripes, ..*self })
    }

    /// The number of its stripes in which the slot holds data.
    pub(super) fn data_strips(&self, geometry: &Geometry) -> u64 {
        let members = u64::from(geometry.members());
        let turns = u64::from(self.stripes) / members;
        let rest = self.stripe + turns * members..self.end();
        let is_data = |stripe: &u64| geometry.is_data(*stripe, self.slot);
        turns * u64::from(geometry.data()) + rest.filter(is_data).count() as u64
    }

    /// The ranges that remain when rows of one stripe are removed; some may be empty.
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
