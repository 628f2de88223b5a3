//! Resync and rebuild: stripe by stripe, through the same ownership and the same ops as a host's write.
//!
//! A few stripes are in flight at a time, fewer while hosts have requests. Each comes to its turn, whoever owns it and however
//! busy it is: see `jobs`. A turn looks at a bounded number of cells; a search of a large bitmap takes several.
//!
//! **Rebuild.** The cursor says how far the slot may be read; it passes a stripe only under the steward's own
//! look at it after it was rebuilt. Host writes go to the slot from the start, wherever the cursor is, so a
//! stripe that was rebuilt stays right while the cursor is still behind it. An Unwritten stripe is passed
//! by when no one owns it: a write that began before the slot joined would still own it.
//!
//! **Lost stripes.** The strip of a NeedSync stripe that is on the slot being filled cannot be computed: it is listed as lost, the
//! stripe is healed over the others, and the rebuild goes on (lost.rs).
//!
//! **Unfilled stripes.** A stripe of which another member could not be read is filled but for those rows. The error may
//! pass (a bad block is rewritten, or had some trouble in passing), so it is tried again, after longer and longer waits; meanwhile
//! the cursor stays before it, and reads go on reconstructing there. In the end such rows are listed as lost too. Where the list
//! has no room left the stripe stays unfilled, and is looked at once a minute. Behind [`UNFILLED_MAX`] unfilled stripes the rebuild
//! stops, and goes on as some of them are filled.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use bitmap::{BlockIndex, Cell, Ticket};

use super::jobs::Job;
use super::steward::FlushFor;
use super::{Array, JOBS_MAX, JobEnd, Shared};

/// Background stripes in flight while no host asks for anything; see `share` for how many while one does.
pub(super) const JOBS_MAX_IDLE: u32 = JOBS_MAX;
/// Stripes looked at in one turn.
const LOOKS_PER_TURN: u32 = 4096;
/// How often the rebuild's cursor is put on record.
const PROGRESS_EVERY_NS: u64 = 5_000_000_000;
/// Cells that the search for NeedSync stripes looks at in one turn: 32 KiB of memory, some microseconds. (All 234 million of 59 MB
/// on disk at once took 20 ms, in which the reactor served nobody.)
pub(super) const CELLS_PER_TURN: u64 = 1 << 16;
/// How long after a resync that could not read some stripe another begins.
const RESYNC_AGAIN_NS: u64 = 5_000_000_000;
/// How long a rebuild waits before it first tries again a stripe that could not be read.
const REBUILD_AGAIN_NS: u64 = 1_000_000_000;
/// The waits above double with each attempt, so many times at most: what is bad stays bad, and each look at it may cost the
/// drive seconds. 5 s become 5 min, 1 s becomes one.
const DOUBLINGS_MAX: u32 = 6;

/// How long to wait after attempt `attempt` (0 for the first) where the first wait is `first_ns`.
const fn backoff_ns(first_ns: u64, attempt: u32) -> u64 {
    let doublings = if attempt < DOUBLINGS_MAX { attempt } else { DOUBLINGS_MAX };
    first_ns << doublings
}

/// The search for NeedSync stripes.
#[derive(Debug)]
pub(super) struct Resync {
    /// Where the search goes on; `None` when none is under way.
    from: Option<u64>,
    /// Stripes that could not be made consistent, in this pass.
    lost: u64,
    /// Of those, stripes of which a read failed: that may pass, so another pass is due some time later.
    unread: u64,
    again_at_ns: u64,
    /// How many passes before this could not read some stripe.
    attempt: u32,
    /// [`StewardState::torn`](super::StewardState::torn) as it was looked at last.
    torn_seen: u64,
    /// The slots that were readable when the pass began: with others, another pass may help.
    readable: u32,
}

impl Resync {
    /// The first search, as the array is made: no turn waits while every cell is counted.
    pub(super) fn begin(shared: &Shared) -> Resync {
        Resync::of(shared, shared.bitmap.count().need_sync)
    }

    /// Another search for what this one has left. No stripe becomes NeedSync while an array runs, so there are no more than
    /// those, and nothing need be counted.
    fn again(&self, shared: &Shared) -> Resync {
        let attempt = if self.unread > 0 { self.attempt + 1 } else { 0 };
        Resync { attempt, ..Resync::of(shared, self.lost.max(self.unread)) }
    }

    fn of(shared: &Shared, total: u64) -> Resync {
        shared.steward.resync_total.store(total, Ordering::Relaxed);
        shared.steward.resync_done.store(0, Ordering::Relaxed);
        shared.steward.resync_is_due.store(false, Ordering::Relaxed);
        Resync {
            from: (total > 0).then_some(0),
            lost: 0,
            unread: 0,
            again_at_ns: 0,
            attempt: 0,
            torn_seen: shared.steward.torn.load(Ordering::Acquire),
            readable: shared.members.view().readable.0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.from.is_some()
    }

    /// When the next pass is due, if some stripe could not be read.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        (self.from.is_none() && self.unread > 0).then_some(self.again_at_ns)
    }
}

/// Unfilled stripes of a rebuild. Each turn looks at all of them for the first, which takes some microseconds.
const UNFILLED_MAX: usize = 4096;

/// A stripe that could not be filled, because a read failed or the list of lost rows is full.
#[derive(Clone, Copy, Debug)]
struct Unfilled {
    stripe: u64,
    /// How many attempts before the last one failed.
    attempt: u32,
    /// When the next attempt is due. Each stripe has a time of its own: a stripe that fails for the first time is tried again
    /// soon, and those that have failed often keep their long waits.
    due_ns: u64,
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filling {
    /// Stripe by stripe.
    Stripes,
    /// The slot's copies of bitmap blocks, this one next.
    Blocks(u32),
    /// A last flush.
    Flushing,
    /// The record is being changed.
    Finishing,
}

/// The filling of one slot.
#[derive(Debug)]
pub(super) struct Rebuild {
    pub(super) slot: u8,
    filling: Filling,
    /// The next stripe to look at.
    next: u64,
    /// Stripes in flight, and whether each is done.
    window: VecDeque<(u64, bool)>,
    /// The version of the list of lost rows that this slot has too.
    listed: Option<u64>,
    /// Stripes that wait for another attempt.
    unfilled: Vec<Unfilled>,
    /// Stripes due for another attempt now, each with the number of that attempt.
    again: VecDeque<(u64, u32)>,
    /// Nothing is to be done before they come due again.
    waits: bool,
    /// The block whose copies are being written.
    copying: Option<Ticket>,
    next_progress_ns: u64,
    /// The cursor that a flush under way makes safe to record.
    flushing_cursor: u64,
}

impl Rebuild {
    pub(super) fn begin(slot: u8, cursor: u64) -> Rebuild {
        Rebuild {
            slot,
            filling: Filling::Stripes,
            next: cursor,
            window: VecDeque::with_capacity(JOBS_MAX_IDLE as usize),
            listed: None,
            unfilled: Vec::with_capacity(UNFILLED_MAX),
            again: VecDeque::with_capacity(UNFILLED_MAX),
            waits: false,
            copying: None,
            next_progress_ns: 0,
            flushing_cursor: 0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        !self.waits
    }

    /// When the next unfilled stripe is due, if there is one.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        self.unfilled.iter().map(|unfilled| unfilled.due_ns).min()
    }

    /// Every stripe before this is filled.
    fn reached(&self) -> u64 {
        let unfilled = self.unfilled.iter().map(|unfilled| unfilled.stripe);
        let in_flight = self.window.iter().map(|entry| entry.0);
        self.again.iter().map(|entry| entry.0).chain(unfilled).chain(in_flight).fold(self.next, u64::min)
    }

    /// The next stripe to look at, if any, and the attempt that this is.
    fn upcoming(&self, stripes: u64) -> Option<(u64, u32)> {
        let has_room = self.unfilled.len() + self.window.len() < UNFILLED_MAX;
        self.again.front().copied().or((has_room && self.next < stripes).then_some((self.next, 0)))
    }

    /// An attempt at a stripe has failed.
    fn put_off(&mut self, stripe: u64, attempt: u32, now_ns: u64) {
        let due_ns = now_ns + backoff_ns(REBUILD_AGAIN_NS, attempt);
        self.unfilled.push(Unfilled { stripe, attempt, due_ns });
    }

    /// Takes up the unfilled stripes that are due.
    fn try_again(&mut self, now_ns: u64) {
        let due = self.unfilled.extract_if(.., |unfilled| unfilled.due_ns <= now_ns);
        self.again.extend(due.map(|unfilled| (unfilled.stripe, unfilled.attempt + 1)));
    }

    /// That one is in the window now, or was passed by.
    fn pass(&mut self) {
        if self.again.pop_front().is_none() {
            self.next += 1;
        }
    }
}

impl Array {
    fn jobs_max(&mut self) -> u32 {
        let (now, own, shared) = (self.now_ns, self.requests.len() as u32, self.shared.clone());
        self.steward_mut().share.jobs_max(now, own, || shared.mailboxes.load())
    }

    /// A job has ended, here or at another reactor.
    pub(super) fn job_ended(&mut self, end: JobEnd) {
        let JobEnd { stripe, job, need_sync, unhealed, result } = end;
        let (now_ns, shared) = (self.now_ns, self.shared.clone());
        let steward = self.steward_mut();
        steward.jobs -= 1;
        steward.resync.unread += u64::from(result.is_err() && need_sync);
        match job {
            Job::Resync { .. } => {
                let done = &shared.steward.resync_done;
                done.store(done.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                steward.resync.lost += u64::from(result.is_err() || need_sync);
            }
            Job::Rebuild { slot, attempt } => {
                let Some(rebuild) = steward.rebuild.as_mut().filter(|rebuild| rebuild.slot == slot) else {
                    return;
                };
                if let Some(entry) = rebuild.window.iter_mut().find(|entry| entry.0 == stripe) {
                    entry.1 = true;
                }
                if result.is_err() || (need_sync && !unhealed) {
                    rebuild.put_off(stripe, attempt, now_ns);
                }
            }
        }
    }

    pub(super) fn resync_advance(&mut self) {
        let readable = self.shared.members.view().readable.0;
        let torn = self.shared.steward.torn.load(Ordering::Acquire);
        if torn != self.steward().resync.torn_seen {
            // Not at once: what refused a write a moment ago would refuse the resync's too.
            let again_at_ns = self.now_ns + RESYNC_AGAIN_NS;
            let resync = &mut self.steward_mut().resync;
            (resync.torn_seen, resync.again_at_ns, resync.attempt) = (torn, again_at_ns, 0);
            resync.unread += 1;
            self.shared.steward.resync_is_due.store(true, Ordering::Relaxed);
        }
        let Some(mut from) = self.steward().resync.from else {
            let resync = &self.steward().resync;
            let is_due = resync.unread > 0 && self.now_ns >= resync.again_at_ns;
            if is_due || (resync.lost > 0 && resync.readable != readable) {
                self.steward_mut().resync = resync.again(&self.shared);
            }
            return;
        };
        let shared = self.shared.clone();
        let (jobs_max, attempt) = (self.jobs_max(), self.steward().resync.attempt);
        let stripes = shared.geometry.stripes();
        let end = (from + CELLS_PER_TURN).min(stripes);
        while self.steward().jobs < jobs_max {
            let Some(stripe) = shared.bitmap.next_need_sync_before(from, end) else {
                from = end;
                break;
            };
            self.give_job(stripe, Job::Resync { attempt });
            from = stripe + 1;
        }
        let now = self.now_ns;
        let steward = self.steward_mut();
        steward.resync.from = Some(from);
        if from == stripes && steward.jobs == 0 {
            shared.steward.resync_is_due.store(steward.resync.unread > 0, Ordering::Relaxed);
            shared.steward.resync_total.store(0, Ordering::Relaxed);
            steward.resync.from = None;
            steward.resync.again_at_ns = now + backoff_ns(RESYNC_AGAIN_NS, attempt);
        }
    }

    pub(super) fn rebuild_advance(&mut self) {
        let Some(rebuild) = &self.steward().rebuild else { return };
        let (slot, filling) = (rebuild.slot, rebuild.filling);
        let view = self.shared.members.view();
        if !view.writable.has(slot) || (view.readable.has(slot) && filling == Filling::Finishing) {
            // It failed again, or it is done.
            if self.steward().jobs == 0 && self.steward().flushing != Some(FlushFor::Rebuild) {
                self.shared.steward.rebuild_slot.store(0, Ordering::Relaxed);
                self.steward_mut().rebuild = None;
            }
            return;
        }
        match filling {
            Filling::Stripes => self.fill_stripes(slot),
            Filling::Blocks(block) => self.fill_blocks(slot, block),
            Filling::Flushing | Filling::Finishing => {}
        }
    }

    fn fill_stripes(&mut self, slot: u8) {
        if self.steward().resync.is_running() {
            return;
        }
        let shared = self.shared.clone();
        let jobs_max = self.jobs_max();
        let stripes = shared.geometry.stripes();
        // The slot joined the view before these looks at locks; a write takes its lock before it looks at the view.
        // All four are SeqCst: we see the lock of a write that does not know the slot, or it sees the slot. (That of a discard
        // is looked at after the cell: see `cell_at_rest`.)
        for _ in 0..LOOKS_PER_TURN {
            let rebuild = self.steward().rebuild.as_ref().expect("looked at above");
            let upcoming = rebuild.upcoming(stripes).filter(|_| self.steward().jobs < jobs_max);
            let Some((stripe, attempt)) = upcoming else { break };
            let passed_by = shared.locks.is_free(stripe)
                && shared.bitmap.cell_at_rest(stripe, &shared.locks) == Some(Cell::Unwritten);
            if !passed_by {
                self.give_job(stripe, Job::Rebuild { slot, attempt });
            }
            let rebuild = self.steward_mut().rebuild.as_mut().expect("looked at above");
            if !passed_by {
                rebuild.window.push_back((stripe, false));
            }
            rebuild.pass();
        }
        let now = self.now_ns;
        let rebuild = self.steward_mut().rebuild.as_mut().expect("looked at above");
        rebuild.window.retain(|entry| !entry.1);
        rebuild.waits = false;
        shared.members.advance_cursor(rebuild.reached());
        if rebuild.reached() == stripes {
            rebuild.filling = Filling::Blocks(0);
        } else if rebuild.upcoming(stripes).is_none() && rebuild.window.is_empty() {
            rebuild.try_again(now);
            rebuild.waits = rebuild.again.is_empty();
        } else if now >= rebuild.next_progress_ns {
            let first = rebuild.next_progress_ns == 0;
            rebuild.next_progress_ns = now + PROGRESS_EVERY_NS;
            // What a flush covers was passed before it began; one that takes longer than the time between two is waited for.
            let passed = shared.members.cursor();
            if !first && self.steward_flush(FlushFor::Rebuild) {
                let rebuild = self.steward_mut().rebuild.as_mut().expect("looked at above");
                rebuild.flushing_cursor = passed;
            }
        }
    }

    /// Whether the slot has the list of lost rows, as far as there is one; writes it there otherwise.
    fn lists_lost_rows(&mut self) -> bool {
        let shared = self.shared.clone();
        let rebuild = self.steward_mut().rebuild.as_mut().expect("looked at by the caller");
        if rebuild.listed.is_none() && shared.lost.is_on_record() {
            rebuild.listed = shared.lost.touch().ok();
        }
        match rebuild.listed {
            Some(version) => shared.lost.is_durable(version),
            None => !shared.lost.is_on_record(),
        }
    }

    /// Writes every bitmap block of which the slot keeps a copy, so that its copies are not old when they
    /// begin to count.
    fn fill_blocks(&mut self, slot: u8, from: u32) {
        let shared = self.shared.clone();
        if !self.lists_lost_rows() {
            return;
        }
        let blocks = shared.bitmap.blocks();
        let mut block = from;
        for _ in 0..LOOKS_PER_TURN {
            while block < blocks && !self.keeps(slot, BlockIndex(block)) {
                block += 1;
            }
            if block >= blocks {
                break;
            }
            let at = BlockIndex(block);
            let rebuild = self.steward_mut().rebuild.as_mut().expect("looked at by the caller");
            // One block at a time: asked for here, and passed when two writes that began since have ended, one for each of its
            // places. A device that joins holds no older generation in the other place, and a start could not tell that place
            // from one that has become unreadable.
            match rebuild.copying {
                None => {
                    let ticket = shared.bitmap.request_write(at);
                    rebuild.copying = Some(ticket);
                }
                Some(ticket) => {
                    let second = Ticket { generation: ticket.generation + 1, ..ticket };
                    if shared.bitmap.is_durable(second) {
                        rebuild.copying = None;
                        block += 1;
                        continue;
                    }
                    if shared.bitmap.is_durable(ticket) && !shared.bitmap.is_writing(at) {
                        let _second = shared.bitmap.request_write(at);
                    }
                }
            }
            self.write_block(at);
            break;
        }
        let flush = block >= blocks && self.steward_flush(FlushFor::Rebuild);
        let rebuild = self.steward_mut().rebuild.as_mut().expect("looked at by the caller");
        rebuild.filling = if flush { Filling::Flushing } else { Filling::Blocks(block) };
    }

    /// The members are flushed: what the cursor had passed before may be recorded.
    pub(super) fn rebuild_flushed(&mut self, ok: bool) {
        let steward = self.steward_mut();
        let Some(rebuild) = steward.rebuild.as_mut().filter(|_| ok) else { return };
        let slot = rebuild.slot;
        match rebuild.filling {
            Filling::Flushing => {
                rebuild.filling = Filling::Finishing;
                steward.keeper.wishes.filled = Some(slot);
            }
            Filling::Stripes | Filling::Blocks(_) | Filling::Finishing => {
                steward.keeper.wishes.progress = Some((slot, rebuild.flushing_cursor));
            }
        }
    }

    /// The flush of a stop begins now: it covers everything that the cursor has passed. No operation is in flight, and the cursor does
    /// not move any more.
    pub(super) fn note_cursor_of_stop(&mut self) {
        let cursor = self.shared.members.cursor();
        if let Some(rebuild) = &mut self.steward_mut().rebuild {
            rebuild.flushing_cursor = cursor;
        }
    }

    /// The members are flushed for a stop: the cursor goes on record, before the stop does. What is on record of it may be older than
    /// [`PROGRESS_EVERY_NS`]; at the next start a stripe at or above the recorded cursor that needs a resync is not believed on the
    /// slot, and its strip there would be given up, although the device has it.
    pub(super) fn record_cursor_of_stop(&mut self) {
        let steward = self.steward_mut();
        let Some(rebuild) = &steward.rebuild else { return };
        match rebuild.filling {
            Filling::Stripes | Filling::Blocks(_) => {
                steward.keeper.wishes.progress = Some((rebuild.slot, rebuild.flushing_cursor));
            }
            // The slot is in sync on record, or about to be.
            Filling::Flushing | Filling::Finishing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many stripes cannot be filled, the rebuild keeps a bounded number of them, and tries those ever less often.
    #[test]
    fn a_rebuild_stops_behind_stripes_that_cannot_be_filled() {
        let stripes = 10 * UNFILLED_MAX as u64;
        let mut rebuild = Rebuild::begin(1, 0);
        let (mut now_ns, mut attempts) = (0, 0);
        while now_ns < 3_600_000_000_000 {
            while let Some((stripe, attempt)) = rebuild.upcoming(stripes) {
                rebuild.pass();
                rebuild.put_off(stripe, attempt, now_ns);
                attempts += 1;
            }
            assert_eq!((rebuild.reached(), rebuild.unfilled.len()), (0, UNFILLED_MAX));
            now_ns = rebuild.next_deadline_ns().expect("all are unfilled");
            rebuild.try_again(now_ns);
        }
        assert_eq!(rebuild.unfilled.capacity(), UNFILLED_MAX, "it takes no more memory");
        assert!(attempts / UNFILLED_MAX < 70, "once a minute: {attempts} attempts in an hour");
        // They can be filled now, and the rest of the array is new.
        while rebuild.again.pop_front().is_some() {}
        assert_eq!(rebuild.upcoming(stripes), Some((UNFILLED_MAX as u64, 0)));
    }

    /// Every minute one stripe can be filled, and the next one, which is new, cannot: the others keep their waits.
    #[test]
    fn a_new_unfilled_stripe_does_not_shorten_the_waits_of_others() {
        let stripes = 10 * UNFILLED_MAX as u64;
        let mut rebuild = Rebuild::begin(1, 0);
        let (mut now_ns, mut attempts, mut fill_at_ns) = (0, 0, 600_000_000_000);
        while now_ns < 4_200_000_000_000 {
            while let Some((stripe, attempt)) = rebuild.upcoming(stripes) {
                rebuild.pass();
                attempts += 1;
                if attempt > 0 && now_ns >= fill_at_ns {
                    fill_at_ns = now_ns + 60_000_000_000;
                } else {
                    rebuild.put_off(stripe, attempt, now_ns);
                }
            }
            now_ns = rebuild.next_deadline_ns().expect("all are unfilled");
            rebuild.try_again(now_ns);
        }
        assert!(rebuild.next > UNFILLED_MAX as u64 + 50, "no stripe was new");
        assert!(attempts / UNFILLED_MAX < 80, "once a minute: {attempts} attempts in 70 minutes");
    }
}
