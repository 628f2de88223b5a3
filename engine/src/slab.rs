//! A fixed slab: values by index, allocated once, with a stack of the free indices.
//!
//! Operations, requests and member I/Os live in slabs and are named by their index. A full slab is
//! backpressure.
//!
//! Between two uses of a slot the parity kernels go through kilobytes of data, so each use reads the slot
//! from the second-level cache. Types of the data path are aligned to cache lines: a slot that straddles two
//! would be waited for twice.

/// An invalid index: the end of a list, or no value.
pub(crate) const NONE: u32 = u32::MAX;

/// A fixed set of values of one type, by index.
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// Makes a slab with room for `capacity` values.
    pub(crate) fn new(capacity: usize) -> Slab<T> {
        Slab {
            entries: (0..capacity).map(|_| None).collect(),
            free: (0..u32::try_from(capacity).expect("a slab is small")).rev().collect(),
        }
    }

    /// Number of values that still fit.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// Number of values in the slab.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Number of values that fit in all; every index is below it.
    pub(crate) fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }

    /// The value at this index, if there is one.
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.entries[index as usize].as_ref()
    }

    /// All values, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }

    /// Stores a value and returns its index. The caller has checked that there is room.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let index = self.free.pop().expect("the caller looked for room");
        self.entries[index as usize] = Some(value);
        index
    }

    /// Drops a value that is no longer wanted.
    pub(crate) fn free(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        assert!(entry.is_some(), "an index names a live value");
        *entry = None;
        self.free.push(index);
    }

    /// The stored values with their indices.
    pub(crate) fn live(&self) -> impl Iterator<Item = (u32, &T)> {
        let entries = (0..).zip(&self.entries);
        entries.filter_map(|(index, entry)| Some((index, entry.as_ref()?))).take(self.len())
    }

    /// Takes a value out and returns it.
    pub(crate) fn remove(&mut self, index: u32) -> T {
        let value = self.entries[index as usize].take().expect("an index names a live value");
        self.free.push(index);
        value
    }
}

/// Prints the stored values with their indices.
impl<T: std::fmt::Debug> std::fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.live()).finish()
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        self.entries[index as usize].as_ref().expect("an index names a live value")
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.entries[index as usize].as_mut().expect("an index names a live value")
    }
}
