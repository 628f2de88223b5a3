//! The state of a stripe operation (op): what the owner of a stripe is doing, and for which parts of
//! requests.
//!
//! A part is the piece of a request that lies in one stripe. An op takes all writes that wait for its stripe
//! at once and overlays them. Rows in which the same strips are written form a segment, which is planned as a
//! unit. The op works through the rows in batches that fit into its memory.
//!
//! ```text
//!             D0      D1      D2      D3
//!  row 0    +-------+-------+-------+-------+
//!           |       |       |XXXXXXX|       |   segment: written {D2}
//!  row r1   |       |  +----|XXXXXXX|       |
//!           |       |XXXXXXX|XXXXXXX|       |   segment: written {D1, D2}
//!  row r2   |       |XXXXXXX|       |       |
//!           |       |XXXXXXX|       |       |   segment: written {D1}
//!  chunk    +-------+-------+-------+-------+      (one contiguous write: at most three)
//! ```
//!
//! The life of a write, as `Phase`:
//!
//! ```text
//! Fresh -> (Awake) -> Reading -> IntentDurable -> Writing -> (next batch: Reading) -> finished, by trust:
//!            trusted, data only, unsynced              -> OnRecord -> acknowledged
//!            unwritten: Flushing -> OnRecord -> CellDurable        -> acknowledged
//! ```

use std::mem::offset_of;

use bitmap::Ticket;

use crate::geometry::{Geometry, Rotation, Slots, Strips};
use crate::job::Job;
use crate::limits::MEMBERS_MAX;
use crate::memory::{Memory, Span};
use crate::part::{Part, PartKind, PartList, Rows};
use crate::plan::{Plan, Unsynced, View};
use crate::request::RequestError;
use crate::slab::{NONE, Slab};

use super::step::Until;
use super::vain::{self, Vain};

/// Maximum number of parts merged into one op; bounds the time for which one op holds its stripe.
const PARTS_PER_OP_MAX: usize = 64;
/// Maximum number of segments in a batch. In wide arrays the bound on I/Os allows fewer.
const SEGMENTS_MAX: usize = 8;
/// Maximum number of member I/Os that one stripe operation has in flight: one for each member.
const IOS_PER_OP_MAX: usize = MEMBERS_MAX;

/// The state of an op: what it does or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Queued to start.
    Fresh,
    /// Queued for memory.
    Starved,
    /// Reading the strips that the plans need.
    Reading,
    /// Writing data and parity.
    Writing,
    /// Waiting until the members' caches are flushed (first write only).
    Flushing,
    /// Reading another block of each member that could not read some rows; see vain.rs.
    Probing,
    /// Waiting a while before some rows are read again.
    AwaitingReread,
    /// Waiting for an event that no completion announces.
    Waiting(Until),
    /// Deallocating on the devices, in a run with neighbouring stripes: see `discard`.
    Deallocating,
}

/// The kind of work that an op is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Writing, in the given mode.
    Write(Mode),
    /// Reading in a way that needs ownership of the stripe.
    Read,
    /// Discarding the stripe.
    Discard,
    /// Rebuilding one strip of a trusted stripe.
    Rebuild { target: u8 },
}

/// How a write treats its stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Parity is trusted: only touched rows are written.
    Trusted,
    /// The stripe is unwritten: every row is written, with zeros where the host writes nothing.
    First,
    /// The stripe is unsynced (`NeedSync`): every row is made consistent.
    Heal,
    /// The stripe is unsynced and has a lost strip: only touched rows are written, and parity is left alone.
    DataOnly,
}

impl Mode {
    /// Whether the op also works on rows that no part touches.
    pub(crate) const fn every_row(self) -> bool {
        matches!(self, Mode::First | Mode::Heal)
    }

    pub(crate) const fn unsynced(self) -> Unsynced {
        match self {
            Mode::Heal => Unsynced::Heal,
            Mode::DataOnly => Unsynced::DataOnly,
            Mode::Trusted | Mode::First => Unsynced::Refused,
        }
    }
}

/// A range of rows in which the same strips are wanted, with its plan.
///
/// The op's memory holds, for each segment, `len` bytes for each strip of `gathered`, `read` and `made`, in
/// this order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) row: u32,
    pub(crate) len: u32,
    /// Strips to be written (or, for a read, to be returned).
    pub(crate) wanted: Strips,
    pub(crate) plan: Plan,
    /// Whether the wanted strips are given up as lost, and are written as zeros.
    pub(crate) void: bool,
    /// Written strips whose new bytes come from several parts and are copied together.
    pub(crate) gathered: Strips,
    /// Strips read into the op's memory.
    pub(crate) read: Strips,
    /// Strips computed into the op's memory: parity and reconstructed data.
    pub(crate) made: Strips,
    /// Offset in the op's memory at which the `gathered` strips begin; the next two fields say the same of
    /// `read` and `made`.
    gathered_bytes: u32,
    read_bytes: u32,
    made_bytes: u32,
}

impl Segment {
    /// A segment in which these strips are wanted; the caller plans it.
    pub(crate) const fn of(wanted: Strips) -> Segment {
        Segment {
            row: 0,
            len: 0,
            wanted,
            plan: Plan::Full,
            void: false,
            gathered: Strips::NONE,
            read: Strips::NONE,
            made: Strips::NONE,
            gathered_bytes: 0,
            read_bytes: 0,
            made_bytes: 0,
        }
    }

    /// Number of strips in the op's memory.
    pub(crate) const fn strips_in_memory(&self) -> u32 {
        self.gathered.count() + self.read.count() + self.made.count()
    }

    /// Assigns the segment's place in the op's memory, from `at_bytes` on, for all its `strips`.
    pub(crate) const fn place(&mut self, at_bytes: u32, strips: u32) {
        self.gathered_bytes = at_bytes;
        self.read_bytes = at_bytes + self.gathered.count() * self.len;
        self.made_bytes = at_bytes + (strips - self.made.count()) * self.len;
    }

    fn piece(&self, work: Span, begin_bytes: u32, strips: Strips, strip: u8) -> Span {
        debug_assert!(strips.has(strip));
        work.part(begin_bytes + strips.rank(strip) * self.len, self.len)
    }

    pub(crate) fn gathered_span(&self, work: Span, strip: u8) -> Span {
        self.piece(work, self.gathered_bytes, self.gathered, strip)
    }

    pub(crate) fn read_span(&self, work: Span, strip: u8) -> Span {
        self.piece(work, self.read_bytes, self.read, strip)
    }

    pub(crate) fn made_span(&self, work: Span, strip: u8) -> Span {
        self.piece(work, self.made_bytes, self.made, strip)
    }
}

/// The segments of one batch.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))] // the count and the first segment, mostly the only one, in one cache line
pub(crate) struct Segments {
    count: usize,
    list: [Segment; SEGMENTS_MAX],
}
const _: () = assert!(offset_of!(Segments, list) + size_of::<Segment>() <= 64);

impl Segments {
    pub(crate) const EMPTY: Segments = Segments { count: 0, list: [Segment::of(Strips::NONE); SEGMENTS_MAX] };

    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    /// Whether one more segment would exceed the bound on segments or on I/Os (one per member and segment).
    pub(crate) fn is_full(&self, members: u8) -> bool {
        self.count == SEGMENTS_MAX || (self.count + 1) * usize::from(members) > IOS_PER_OP_MAX
    }

    pub(crate) fn push(&mut self, segment: Segment) {
        self.list[self.count] = segment;
        self.count += 1;
    }

    pub(crate) fn get(&self, at: usize) -> Segment {
        self.list[..self.count][at]
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }
}

/// An operation: what the owner of a stripe is doing.
#[derive(Debug)]
#[repr(align(64))] // three cache lines: see `slab`
pub(crate) struct StripeOp {
    pub(crate) stripe: u64,
    pub(crate) lock_slot: u32,
    /// The next op of this reactor in the same lock slot.
    pub(crate) chain: u8,
    pub(crate) rotation: Rotation,
    /// Parts that arrived while the op was busy.
    pub(crate) waiting: PartList,
    /// Parts that the op is working for.
    pub(crate) active: PartList,
    /// Background work to do when no part waits, or after a round of parts.
    pub(crate) background: Option<Job>,
    /// Whether a round of parts has begun since the background work arrived; the background work is then
    /// next.
    pub(crate) job_is_due: bool,
    /// Whether the op has begun a round, so that it may give way to others.
    pub(crate) has_worked: bool,
    /// Background work in progress.
    pub(crate) job: Option<Job>,
    pub(crate) phase: Phase,
    pub(crate) work_kind: Work,
    pub(crate) view: View,
    /// Strips whose read has failed: still writable, but not used for reading.
    pub(crate) suspects: Strips,
    /// Whether rows are processed in small pieces, each with its own suspects, because several strips could
    /// not be read, perhaps in different rows.
    pub(crate) careful: bool,
    /// Whether background work has skipped rows that it could not compute.
    pub(crate) incomplete: bool,
    /// Failed reads of the piece that background work may have to give up.
    pub(crate) vain: Vain,
    /// Number of pieces that this attempt may still read repeatedly; see vain.rs.
    pub(crate) pieces_left: u8,
    /// Data strips given up in this batch's rows: listed as lost, and zeros from now on.
    pub(crate) given_up: Strips,
    /// Data strips given up in all rows of the stripe.
    pub(crate) given_up_whole: Strips,
    /// Whether the batch must be written once more, because a member that stays refused a write.
    pub(crate) once_more: bool,
    /// Whether a batch of this op was already written once more.
    pub(crate) was_repeated: bool,
    /// Whether a member that stays refused what background work wrote. The stripe then remains or becomes
    /// unsynced (`NeedSync`).
    pub(crate) unhealed: bool,
    /// The version of the list of lost rows that the op waits for.
    pub(crate) listed: u64,
    /// The durability that a discard waits for.
    pub(crate) ticket: Option<Ticket>,
    /// Range from the first row that a part touches to the last: where to look for segments.
    pub(crate) rows: Rows,
    /// First row of the batch. `row_next` is the first row of the next one.
    pub(crate) row: u32,
    pub(crate) row_next: u32,
    pub(crate) work: Span,
    /// The lot of `work` if parked I/Os hold that memory, otherwise `NONE`.
    pub(crate) lot: u32,
    /// Number of member I/Os in flight. The deallocations of a run are counted at the run's first op.
    pub(crate) pending: u32,
    /// The next op in the same run of discards.
    pub(crate) run_next: u32,
    /// Whether a read of this batch has failed, so that the batch must be planned again.
    pub(crate) read_failed: bool,
    /// Slots that missed a write of this op; the record must exclude them.
    pub(crate) skipped: Slots,
    /// Written data strips that did not reach their member.
    pub(crate) missed_data: Strips,
    /// The error for the op's parts, if a member that stays refused a write.
    pub(crate) refused: Option<RequestError>,
    /// Whether data, parity and cell must be durable before the answer.
    pub(crate) fua: bool,
}
const _: () = assert!(size_of::<Option<StripeOp>>() == 3 * 64);

impl StripeOp {
    pub(crate) fn new(stripe: u64, lock_slot: u32, chain: u8, rotation: Rotation) -> StripeOp {
        StripeOp {
            stripe,
            lock_slot,
            chain,
            rotation,
            waiting: PartList::EMPTY,
            active: PartList::EMPTY,
            background: None,
            job_is_due: false,
            has_worked: false,
            job: None,
            phase: Phase::Fresh,
            work_kind: Work::Read,
            view: View {
                data: Strips::NONE,
                parity: Strips::NONE,
                trust: crate::plan::Trust::NeedSync,
                readable: Strips::NONE,
                writable: Strips::NONE,
            },
            suspects: Strips::NONE,
            careful: false,
            incomplete: false,
            vain: Vain::NONE,
            pieces_left: vain::PIECES,
            once_more: false,
            was_repeated: false,
            unhealed: false,
            given_up: Strips::NONE,
            given_up_whole: Strips::NONE,
            listed: 0,
            ticket: None,
            rows: Rows::NONE,
            row: 0,
            row_next: 0,
            work: Span::EMPTY,
            lot: NONE,
            pending: 0,
            run_next: NONE,
            read_failed: false,
            skipped: Slots::NONE,
            missed_data: Strips::NONE,
            refused: None,
            fua: false,
        }
    }

    /// Takes the next work from `waiting`: one read, one discard, or all consecutive writes.
    #[inline]
    pub(crate) fn begin(&mut self, parts: &mut Slab<Part>, geometry: &Geometry) {
        self.reset();
        let Some(first) = self.waiting.pop(parts) else { return };
        let is_write = |kind| matches!(kind, PartKind::Write | PartKind::Zero);
        let kind = parts[first].kind;
        self.take(parts, first, geometry);
        let mut taken = 1;
        while is_write(kind)
            && taken < PARTS_PER_OP_MAX
            && let Some(next) = self.waiting.first()
            && is_write(parts[next].kind)
        {
            self.waiting.pop(parts);
            self.take(parts, next, geometry);
            taken += 1;
        }
    }

    /// Whether the op's next work writes to members, that is, anything except a read.
    pub(crate) fn writes_next(&self, parts: &Slab<Part>) -> bool {
        let job = self.background.is_some();
        match self.waiting.first() {
            Some(first) if !(job && self.job_is_due) => parts[first].kind != PartKind::Read,
            Some(_) | None => job,
        }
    }

    /// Clears the state of the previous work.
    pub(crate) fn reset(&mut self) {
        self.suspects = Strips::NONE;
        self.careful = false;
        self.incomplete = false;
        self.vain = Vain::NONE;
        self.pieces_left = vain::PIECES;
        self.once_more = false;
        self.was_repeated = false;
        self.unhealed = false;
        self.given_up = Strips::NONE;
        self.given_up_whole = Strips::NONE;
        self.rows = Rows::NONE;
        self.row = 0;
        self.row_next = 0;
        self.read_failed = false;
        self.skipped = Slots::NONE;
        self.missed_data = Strips::NONE;
        self.refused = None;
        self.fua = false;
        self.ticket = None;
    }

    fn take(&mut self, parts: &mut Slab<Part>, index: u32, geometry: &Geometry) {
        let part = &parts[index];
        self.fua |= part.fua;
        self.suspects = self.suspects.or(part.suspects);
        self.rows = self.rows.with(part.corners(geometry).touched(geometry.chunk_bytes()));
        self.active.push(parts, index);
    }

    /// The strips that the op's parts cover in `row`, and the row at which this coverage changes. That row is
    /// at most `end` (the end of the chunk, or of the rows that the parts touch).
    pub(crate) fn coverage(
        &self,
        parts: &Slab<Part>,
        geometry: &Geometry,
        row: u32,
        end: u32,
    ) -> (Strips, u32) {
        let at = |row: u32| {
            let mut strips = Strips::NONE;
            let mut edge = end;
            for part in self.active.iter(parts) {
                let corners = part.corners(geometry);
                strips = strips.or(corners.at(row));
                edge = corners.next_edge(row, edge);
            }
            (strips, edge)
        };
        let (strips, mut edge) = at(row);
        while edge < end {
            let (next, next_edge) = at(edge);
            if next != strips {
                break;
            }
            edge = next_edge;
        }
        (strips, edge)
    }

    /// The strips of `wanted` for which more than one part has bytes in these rows.
    pub(crate) fn gathered(
        &self,
        parts: &Slab<Part>,
        geometry: &Geometry,
        wanted: Strips,
        row: u32,
        len: u32,
    ) -> Strips {
        if self.active.is_one() {
            return Strips::NONE;
        }
        let mut gathered = Strips::NONE;
        for strip in wanted.iter() {
            let sharers = self.active.iter(parts).filter(|part| {
                let corners = part.corners(geometry);
                let (from, to) = corners.rows(strip, geometry.chunk_bytes());
                (corners.first..=corners.last).contains(&strip) && from < row + len && to > row
            });
            if sharers.count() > 1 {
                gathered = gathered.or(Strips::one(strip));
            }
        }
        gathered
    }

    /// The part that has all new bytes of a strip in the rows from `row` on.
    #[inline(always)]
    pub(crate) fn writer_of<'a>(
        &self,
        parts: &'a Slab<Part>,
        geometry: &Geometry,
        row: u32,
        strip: u8,
    ) -> &'a Part {
        match self.active.only() {
            Some(only) => &parts[only],
            None => self
                .active
                .iter(parts)
                .find(|part| part.corners(geometry).at(row).has(strip))
                .expect("a wanted strip is covered by a part"),
        }
    }

    /// Every piece of a strip's new bytes in a segment, in the order in which the parts arrived: the part's
    /// bytes, and the row where they belong.
    pub(crate) fn pieces<'a>(
        &self,
        parts: &'a Slab<Part>,
        geometry: &'a Geometry,
        memory: &'a Memory,
        segment: &'a Segment,
        strip: u8,
    ) -> impl Iterator<Item = (Span, u32)> + use<'a> {
        self.active.iter(parts).filter_map(move |part| {
            let corners = part.corners(geometry);
            let (from, to) = corners.rows(strip, geometry.chunk_bytes());
            let (from, to) = (from.max(segment.row), to.min(segment.row + segment.len));
            ((corners.first..=corners.last).contains(&strip) && from < to)
                .then(|| (part.span_of(geometry, memory, strip, from, to - from), from))
        })
    }

    /// The strips that the op's parts touch, and the strips that they cover completely.
    pub(crate) fn touched(&self, parts: &Slab<Part>, geometry: &Geometry) -> (Strips, Strips) {
        let (mut touched, mut whole) = (Strips::NONE, geometry.data_strips());
        let mut row = 0;
        while row < geometry.chunk_bytes() {
            let (strips, next) = self.coverage(parts, geometry, row, geometry.chunk_bytes());
            touched = touched.or(strips);
            whole = whole.and(strips);
            row = next;
        }
        (touched, whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: PartKind) -> Part {
        Part {
            kind,
            stripe: 0,
            start: 0,
            end: 4096,
            span: Span::EMPTY,
            fua: false,
            suspects: Strips::NONE,
            home: 0,
            home_part: 0,
            request: 0,
            held: 0,
            next: NONE,
        }
    }

    /// Case: (whether a job waits, whether the job is due, the part that waits) -> whether the next work
    /// writes to members, so that an array at rest must be woken first.
    #[test]
    fn what_writes_next() {
        let geometry = Geometry::new(4, 1, 4096, 8);
        for (has_job, job_is_due, waiting, expected) in [
            (false, false, None, false),
            (false, false, Some(PartKind::Read), false),
            (false, false, Some(PartKind::Write), true),
            (false, false, Some(PartKind::Discard { is_last: true }), true),
            (true, false, None, true),
            (true, false, Some(PartKind::Read), false),
            (true, false, Some(PartKind::Write), true),
            (true, true, Some(PartKind::Read), true),
            (true, true, Some(PartKind::Write), true),
        ] {
            let mut parts = Slab::new(1);
            let mut op = StripeOp::new(0, 0, 0, geometry.rotation(0));
            op.background = has_job.then_some(Job::Resync { attempt: 0 });
            op.job_is_due = job_is_due;
            if let Some(kind) = waiting {
                let index = parts.insert(part(kind));
                op.waiting.push(&mut parts, index);
            }
            assert_eq!(op.writes_next(&parts), expected, "{has_job}, {job_is_due}, {waiting:?}");
        }
    }
}
