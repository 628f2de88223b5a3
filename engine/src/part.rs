//! A part: the piece of a request that lies in one stripe. `host` cuts parts from requests; they wait at a
//! stripe's op, which works on several together (see `op`).

use crate::geometry::{Geometry, Strips};
use crate::memory::{Memory, Span};
use crate::slab::{NONE, Slab};

/// The work that a part asks of its stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// Fill the span with data.
    Read,
    /// Store the span's data.
    Write,
    /// Store zeros.
    Zero,
    /// Discard the whole stripe. A part in a request's last batch is answered before the devices have been
    /// told.
    Discard { is_last: bool },
}

/// The piece of a request that lies in one stripe.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))] // a cache line: see `slab`
pub(crate) struct Part {
    pub(crate) kind: PartKind,
    pub(crate) stripe: u64,
    /// First byte within the stripe's host bytes, and the byte after the last.
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) span: Span,
    pub(crate) fua: bool,
    /// Strips whose members have just failed a read of this range.
    pub(crate) suspects: Strips,
    /// The reactor that the part came from, and its index there.
    pub(crate) home: u8,
    pub(crate) home_part: u32,
    /// Index of its request at the home reactor.
    pub(crate) request: u32,
    /// Number of its I/Os that are parked and still hold its bytes.
    pub(crate) held: u16,
    /// The next part in the same list.
    pub(crate) next: u32,
}
const _: () = assert!(size_of::<Option<Part>>() == 64);

impl Part {
    /// The rows of a strip that this part covers: the first, and the one after the last.
    pub(crate) const fn rows_of(&self, geometry: &Geometry, strip: u8) -> (u32, u32) {
        let corners = self.corners(geometry);
        if strip < corners.first || strip > corners.last {
            (0, 0)
        } else {
            corners.rows(strip, geometry.chunk_bytes())
        }
    }

    /// The rows of each strip that this part covers, as a rectangle with two corners cut off: from
    /// `first_row` of `first` to before `end_row` of `last`, and everything between.
    pub(crate) const fn corners(&self, geometry: &Geometry) -> Corners {
        let (first, first_row) = geometry.strip_of(self.start);
        let (last, last_row) = geometry.strip_of(self.end - 1);
        Corners { first, first_row, last, end_row: last_row + 1 }
    }

    /// The part's bytes for some rows of a strip; the part must cover all of these rows.
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

/// The rows and strips that a part covers: a rectangle with two corners cut off.
pub(crate) struct Corners {
    pub(crate) first: u8,
    first_row: u32,
    pub(crate) last: u8,
    end_row: u32,
}

impl Corners {
    /// The strips that are covered in one row.
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

    /// The first row after `row` at which the set of covered strips may change.
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

    /// The rows that may be covered in some strip; all rows if the part spans several strips.
    pub(crate) const fn touched(&self, chunk: u32) -> Rows {
        if self.first == self.last {
            Rows { first: self.first_row, end: self.end_row }
        } else {
            Rows { first: 0, end: chunk }
        }
    }

    /// The covered rows of one strip.
    pub(crate) const fn rows(&self, strip: u8, chunk: u32) -> (u32, u32) {
        (
            if strip == self.first { self.first_row } else { 0 },
            if strip == self.last { self.end_row } else { chunk },
        )
    }
}

/// A range of rows; `end` is after the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) first: u32,
    pub(crate) end: u32,
}

impl Rows {
    pub(crate) const NONE: Rows = Rows { first: u32::MAX, end: 0 };

    /// The smallest range that contains both.
    pub(crate) fn with(self, other: Rows) -> Rows {
        Rows { first: self.first.min(other.first), end: self.end.max(other.end) }
    }
}

/// A list of parts, linked through their `next`.
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

    /// Whether the list has at most one part.
    pub(crate) const fn is_one(&self) -> bool {
        self.head == self.tail
    }

    /// The only part of a list with exactly one.
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

    /// The parts of the list, by index.
    pub(crate) fn indices<'a>(&self, parts: &'a Slab<Part>) -> impl Iterator<Item = u32> + use<'a> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let index = (at != NONE).then_some(at)?;
            at = parts[index].next;
            Some(index)
        })
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
