//! A part: the piece of a request that lies in one stripe. Parts are cut from requests in `host`, wait at a stripe's op, and are
//! worked for together (see `op`).

use crate::geometry::{Geometry, Strips};
use crate::memory::{Memory, Span};
use crate::slab::{NONE, Slab};

/// What a part asks of its stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// Fill the span.
    Read,
    /// Store the span.
    Write,
    /// Store zeros.
    Zero,
    /// Forget the whole stripe. One of a request's last batch is answered before the devices have heard of it.
    Discard { is_last: bool },
}

/// The piece of a request that lies in one stripe.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))] // a cache line: see `slab`
pub(crate) struct Part {
    pub(crate) kind: PartKind,
    pub(crate) stripe: u64,
    /// First byte, and the byte past the last, within the stripe's host bytes.
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) span: Span,
    pub(crate) fua: bool,
    /// A strip whose member has just failed a read of this range.
    pub(crate) suspects: Strips,
    /// The reactor that it came from, and its index there.
    pub(crate) home: u8,
    pub(crate) home_part: u32,
    /// Its request, at home.
    pub(crate) request: u32,
    /// I/Os for it that are parked, and still hold its bytes.
    pub(crate) held: u16,
    /// The next in its list.
    pub(crate) next: u32,
}
const _: () = assert!(size_of::<Option<Part>>() == 64);

impl Part {
    /// The rows of a strip that it covers, from the first to before the last.
    pub(crate) const fn rows_of(&self, geometry: &Geometry, strip: u8) -> (u32, u32) {
        let corners = self.corners(geometry);
        if strip < corners.first || strip > corners.last {
            (0, 0)
        } else {
            corners.rows(strip, geometry.chunk_bytes())
        }
    }

    /// The rows of each strip that it covers, as a rectangle with two corners cut: from `first_row` of
    /// `first` to before `end_row` of `last`, everything between.
    pub(crate) const fn corners(&self, geometry: &Geometry) -> Corners {
        let (first, first_row) = geometry.strip_of(self.start);
        let (last, last_row) = geometry.strip_of(self.end - 1);
        Corners { first, first_row, last, end_row: last_row + 1 }
    }

    /// Its bytes for some rows of a strip, all of which it covers.
    #[inline]
    pub(crate) fn span_of(
        &self,
        geometry: &Geometry,
        memory: &Memory,
        strip: u8,
        row: u32,
        len: u32,
    ) -> Span {
        match self.kind {
            PartKind::Zero => memory.zeros(len),
            _ => self.span.part(u32::from(strip) * geometry.chunk_bytes() + row - self.start, len),
        }
    }
}

/// The rows and strips that a part covers: a rectangle with two corners cut.
pub(crate) struct Corners {
    pub(crate) first: u8,
    first_row: u32,
    pub(crate) last: u8,
    end_row: u32,
}

impl Corners {
    /// The strips covered in one row.
    pub(crate) const fn at(&self, row: u32) -> Strips {
        let mut strips = Strips::first(self.last + 1).minus(Strips::first(self.first));
        if row < self.first_row {
            strips = strips.minus(Strips::one(self.first));
        }
        if row >= self.end_row {
            strips = strips.minus(Strips::one(self.last));
        }
        strips
    }

    /// The first row after `row` in which something may change.
    pub(crate) const fn next_edge(&self, row: u32, end: u32) -> u32 {
        let mut edge = end;
        if self.first_row > row && self.first_row < edge {
            edge = self.first_row;
        }
        if self.end_row > row && self.end_row < edge {
            edge = self.end_row;
        }
        edge
    }

    /// From the first row that it may touch to before the last; all between where it is in several strips.
    pub(crate) const fn touched(&self, chunk: u32) -> Rows {
        if self.first == self.last {
            Rows { first: self.first_row, end: self.end_row }
        } else {
            Rows { first: 0, end: chunk }
        }
    }

    /// The rows of one strip that are covered.
    pub(crate) const fn rows(&self, strip: u8, chunk: u32) -> (u32, u32) {
        (
            if strip == self.first { self.first_row } else { 0 },
            if strip == self.last { self.end_row } else { chunk },
        )
    }
}

/// A range of rows; `end` is past the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) first: u32,
    pub(crate) end: u32,
}

impl Rows {
    pub(crate) const NONE: Rows = Rows { first: u32::MAX, end: 0 };

    /// The range that both lie in.
    pub(crate) fn with(self, other: Rows) -> Rows {
        Rows { first: self.first.min(other.first), end: self.end.max(other.end) }
    }
}

/// A list of parts, threaded through their `next`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartList {
    head: u32,
    tail: u32,
}

impl PartList {
    pub(crate) const EMPTY: PartList = PartList { head: NONE, tail: NONE };

    pub(crate) const fn is_empty(&self) -> bool {
        self.head == NONE
    }

    /// Whether its first part is its last.
    pub(crate) const fn is_one(&self) -> bool {
        self.head == self.tail
    }

    /// The one part of a list that has no other.
    pub(crate) fn only(&self) -> Option<u32> {
        self.is_one().then(|| self.first()).flatten()
    }

    pub(crate) fn first(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(crate) fn push(&mut self, parts: &mut Slab<Part>, index: u32) {
        parts[index].next = NONE;
        if self.head == NONE {
            self.head = index;
        } else {
            parts[self.tail].next = index;
        }
        self.tail = index;
    }

    pub(crate) fn pop(&mut self, parts: &mut Slab<Part>) -> Option<u32> {
        let index = self.first()?;
        self.head = parts[index].next;
        Some(index)
    }

    pub(crate) fn iter<'a>(&self, parts: &'a Slab<Part>) -> impl Iterator<Item = &'a Part> + use<'a> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let part = (at != NONE).then(|| &parts[at])?;
            at = part.next;
            Some(part)
        })
    }
}
