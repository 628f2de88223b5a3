//! A fixed number of places, each empty or taken, for what a connection has in flight.
//!
//! Taking and freeing take constant time and never allocate; a full table is backpressure (`None`).

/// A table of places. Indices are `u16` because they are part of request tags.
pub(super) struct Slots<T> {
    items: Box<[Option<T>]>,
    /// Empty places, the most recently freed last.
    free: Vec<u16>,
}

impl<T: Copy> Slots<T> {
    /// Makes `count` empty places.
    pub(super) fn new(count: usize) -> Slots<T> {
        let last = u16::try_from(count).expect("places are numbered by u16");
        Slots { items: vec![None; count].into(), free: (0..last).rev().collect() }
    }

    /// Takes a place, if there is one.
    pub(super) fn take(&mut self, item: T) -> Option<u16> {
        let index = self.free.pop()?;
        self.items[index as usize] = Some(item);
        Some(index)
    }

    /// Empties a place that is taken.
    pub(super) fn free(&mut self, index: u16) -> T {
        let item = self.items[index as usize].take().expect("freed once");
        self.free.push(index);
        item
    }

    /// The item in a taken place.
    pub(super) fn get(&self, index: u16) -> T {
        self.items[index as usize].expect("a taken place")
    }

    /// A mutable reference to the item in a taken place.
    pub(super) fn get_mut(&mut self, index: u16) -> &mut T {
        self.items[index as usize].as_mut().expect("a taken place")
    }

    /// Whether every place is taken.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Whether no place is taken.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.items.len()
    }

    /// The number of places, taken or not.
    pub(super) fn count(&self) -> u16 {
        self.items.len() as u16
    }

    /// The item in a place; `None` if the place is empty.
    pub(super) fn peek(&self, index: u16) -> Option<T> {
        self.items[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_and_freed() {
        let mut slots = Slots::new(2);
        let (a, b) = (slots.take('a').unwrap(), slots.take('b').unwrap());
        assert!(slots.is_full() && slots.take('c').is_none());
        *slots.get_mut(a) = 'd';
        assert_eq!((slots.free(a), slots.get(b), slots.peek(a)), ('d', 'b', None));
        assert_eq!(slots.take('e'), Some(a));
        assert!(!slots.is_empty() && slots.count() == 2);
    }

    #[test]
    #[should_panic(expected = "freed once")]
    fn a_place_is_freed_once() {
        let mut slots = Slots::new(1);
        let place = slots.take(0).unwrap();
        slots.free(place);
        slots.free(place);
    }
}
