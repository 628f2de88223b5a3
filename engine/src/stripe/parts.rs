//! The parts at a reactor: those of its own host's requests, and those of other reactors' requests (guests).

use std::collections::VecDeque;

use crate::part::Part;
use crate::request::RequestError;
use crate::sizes::Sizes;
use crate::slab::Slab;

/// A part that has ended, for the reactor that it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartEnd {
    pub(crate) home: u8,
    pub(crate) home_part: u32,
    pub(crate) request: u32,
    /// Number of parked I/Os for the part that still hold its bytes.
    pub(crate) held: u16,
    pub(crate) result: Result<(), RequestError>,
}

/// All parts at this reactor; see the top of this file.
pub(crate) struct Parts {
    me: u8,
    pub(super) list: Slab<Part>,
    /// Number of parts that belong to other reactors' requests.
    guests: usize,
    own_max: usize,
    guests_max: usize,
    ended: VecDeque<PartEnd>,
}

impl Parts {
    pub(super) fn new(me: u8, sizes: &Sizes) -> Parts {
        Parts {
            me,
            list: Slab::new(sizes.parts),
            guests: 0,
            own_max: sizes.own_parts(),
            guests_max: sizes.guest_parts(),
            ended: VecDeque::with_capacity(sizes.parts),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.len() == 0
    }

    /// Whether there is room for one more part of this reactor's own requests.
    pub(crate) fn has_room(&self) -> bool {
        self.list.len() - self.guests < self.own_max
    }

    /// Whether there is room for one more part of another reactor's request.
    pub(crate) fn has_room_for_guest(&self) -> bool {
        self.guests < self.guests_max
    }

    /// Takes a part of a request of this reactor's host.
    #[inline(always)] // for its span: see `Span`
    pub(super) fn insert_own(&mut self, part: Part) -> u32 {
        let index = self.list.insert(part);
        self.list[index].home_part = index;
        index
    }

    /// Takes a part of another reactor's request.
    pub(super) fn insert_guest(&mut self, part: Part) -> u32 {
        self.guests += 1;
        self.list.insert(part)
    }

    /// Removes a part that another reactor has worked for, or that moves on to another reactor.
    pub(crate) fn remove(&mut self, index: u32) -> Part {
        let part = self.list.remove(index);
        self.guests -= usize::from(part.home != self.me);
        part
    }

    /// Ends a part; see [`Parts::next_ended`].
    #[inline]
    pub(super) fn end(&mut self, index: u32, result: Result<(), RequestError>) {
        // Read where it lies: to take the part out would copy a cache line.
        let Part { home, home_part, request, held, .. } = self.list[index];
        self.guests -= usize::from(home != self.me);
        self.list.free(index);
        self.ended.push_back(PartEnd { home, home_part, request, held, result });
    }

    /// The next part that has ended and is not answered yet.
    #[inline]
    pub(crate) fn next_ended(&mut self) -> Option<PartEnd> {
        self.ended.pop_front()
    }

    /// How many parts a request of this reactor's host has.
    pub(crate) fn of_request(&self, request: u32) -> usize {
        self.list.live().filter(|(_, part)| part.home == self.me && part.request == request).count()
    }

    /// Asserts that guests are counted, and that every end was answered.
    pub(super) fn check(&self) {
        let guests = self.list.live().filter(|(_, part)| part.home != self.me).count();
        assert_eq!(guests, self.guests, "parts of other reactors");
        assert!(self.ended.is_empty(), "a part that has ended is not answered");
    }
}
