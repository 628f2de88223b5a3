//! Rebuild: fills one slot, stripe by stripe, with the same ownership and the same operations as a host's
//! write.
//!
//! A turn looks at a bounded number of stripes. `share` decides how many are in flight, and
//! stripe/ownership.rs how each of them gets its turn.
//!
//! **The cursor** says how far the slot may be read. It passes a stripe only after the steward itself has
//! seen that the stripe was rebuilt. Host writes go to the slot from the start, wherever the cursor is, so a
//! rebuilt stripe stays right while the cursor is still behind it. An unwritten stripe is passed without work
//! if no operation owns it: a write that began before the slot joined would still own it.
//!
//! **Lost stripes.** If a stripe is unsynced, the strip on the slot being filled cannot be computed. The
//! strip is listed as lost, the stripe is resynced over the other members, and the rebuild continues
//! (lost.rs).
//!
//! **Unfilled stripes.** If another member cannot be read in some rows of a stripe, the stripe is filled
//! except for those rows. The error may be temporary (the bad block is rewritten, or the drive had a passing
//! problem), so the stripe is tried again after longer and longer waits. Meanwhile the cursor stays before
//! it, and reads there keep reconstructing. Finally such rows are listed as lost too. If the list is full the
//! stripe stays unfilled and is tried once a minute. After [`UNFILLED_MAX`] unfilled stripes the rebuild
//! pauses, and continues when some of them are filled.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use bitmap::{BlockIndex, Cell, Ticket};

use crate::durable::{BlockWrites, FlushGate, copies};
use crate::job::{JOBS_MAX, Job};
use crate::shared::Shared;

use super::{FlushFor, Steward};

/// Background stripes in flight while no host has requests; `share` says how many while one has.
pub(super) const JOBS_MAX_IDLE: u32 = JOBS_MAX;
/// Stripes looked at in one turn.
const LOOKS_PER_TURN: u32 = 4096;
/// Time between two recordings of the rebuild cursor.
const PROGRESS_EVERY_NS: u64 = 5_000_000_000;
/// Time before the first new attempt at a stripe that could not be read.
const REBUILD_AGAIN_NS: u64 = 1_000_000_000;
/// Each attempt doubles the waits above, at most this many times: bad blocks mostly stay bad, and each
/// attempt may cost the drive seconds. 5 s grow to 5 min, and 1 s to 1 min.
const DOUBLINGS_MAX: u32 = 6;

/// Time to wait after attempt `attempt` (0 for the first), if the first wait is `first_ns`.
pub(super) const fn backoff_ns(first_ns: u64, attempt: u32) -> u64 {
    let doublings = if attempt < DOUBLINGS_MAX { attempt } else { DOUBLINGS_MAX };
    first_ns << doublings
}

/// Most unfilled stripes that a rebuild keeps. Each turn searches all of them for the first, in some
/// microseconds.
const UNFILLED_MAX: usize = 4096;

/// A stripe that could not be filled, because a read failed or the list of lost rows is full.
#[derive(Clone, Copy, Debug)]
struct Unfilled {
    stripe: u64,
    /// How many attempts failed before the last one.
    attempt: u32,
    /// Due time of the next attempt. Each stripe has its own: a stripe that failed for the first time is
    /// tried again soon, and stripes that failed often keep their long waits.
    due_ns: u64,
}

/// Stages of a rebuild.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filling {
    /// Filling stripe by stripe.
    Stripes,
    /// Writing the slot's copies of bitmap blocks; the next block is given.
    Blocks(u32),
    /// Waiting for the last flush.
    Flushing,
    /// Waiting for the record to say that the slot is in sync.
    Finishing,
}

/// The state of a rebuild.
#[derive(Debug)]
pub(super) struct Rebuild {
    pub(super) slot: u8,
    filling: Filling,
    /// The next stripe to look at.
    next: u64,
    /// Stripes in flight, and whether each is done.
    window: VecDeque<(u64, bool)>,
    /// Version of the list of lost rows that this slot has too.
    listed: Option<u64>,
    /// Stripes that wait for another attempt.
    unfilled: Vec<Unfilled>,
    /// Stripes due for another attempt now, each with the number of that attempt.
    again: VecDeque<(u64, u32)>,
    /// Nothing can be done before unfilled stripes are due again.
    waits: bool,
    /// The block whose copies are being written now.
    copying: Option<Ticket>,
    next_progress_ns: u64,
    /// The cursor that may be recorded once the flush under way has ended.
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

    /// The time at which the next unfilled stripe is due, if there is one.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        self.unfilled.iter().map(|unfilled| unfilled.due_ns).min()
    }

    /// The first stripe that is not filled: every stripe before it is.
    fn reached(&self) -> u64 {
        let unfilled = self.unfilled.iter().map(|unfilled| unfilled.stripe);
        let in_flight = self.window.iter().map(|entry| entry.0);
        self.again.iter().map(|entry| entry.0).chain(unfilled).chain(in_flight).fold(self.next, u64::min)
    }

    /// The next stripe to look at, if any, and the number of this attempt.
    fn upcoming(&self, stripes: u64) -> Option<(u64, u32)> {
        let has_room = self.unfilled.len() + self.window.len() < UNFILLED_MAX;
        self.again.front().copied().or((has_room && self.next < stripes).then_some((self.next, 0)))
    }

    /// Schedules another attempt at a stripe after a failed one.
    fn put_off(&mut self, stripe: u64, attempt: u32, now_ns: u64) {
        let due_ns = now_ns + backoff_ns(REBUILD_AGAIN_NS, attempt);
        self.unfilled.push(Unfilled { stripe, attempt, due_ns });
    }

    /// Queues the unfilled stripes that are due.
    fn try_again(&mut self, now_ns: u64) {
        let due = self.unfilled.extract_if(.., |unfilled| unfilled.due_ns <= now_ns);
        self.again.extend(due.map(|unfilled| (unfilled.stripe, unfilled.attempt + 1)));
    }

    /// Moves past the upcoming stripe, which is now in the window or needed no work.
    fn pass(&mut self) {
        if self.again.pop_front().is_none() {
            self.next += 1;
        }
    }

    /// Takes note of the end of an attempt at a stripe.
    pub(super) fn job_ended(&mut self, stripe: u64, attempt: u32, is_filled: bool, now_ns: u64) {
        if let Some(entry) = self.window.iter_mut().find(|entry| entry.0 == stripe) {
            entry.1 = true;
        }
        if !is_filled {
            self.put_off(stripe, attempt, now_ns);
        }
    }
}

impl Steward {
    pub(super) fn rebuild_turn(
        &mut self,
        shared: &Shared,
        now_ns: u64,
        requests: u32,
        blocks: &mut BlockWrites,
        flush: &mut FlushGate,
    ) {
        let Some(rebuild) = &self.rebuild else { return };
        let (slot, filling) = (rebuild.slot, rebuild.filling);
        let view = shared.members.view();
        if !view.writable.has(slot) || (view.readable.has(slot) && filling == Filling::Finishing) {
            // The slot failed again, or the rebuild is done.
            if self.jobs == 0 && self.flushing != Some(FlushFor::Rebuild) {
                shared.steward.rebuild_slot.store(0, Ordering::Relaxed);
                self.rebuild = None;
            }
            return;
        }
        match filling {
            Filling::Stripes => self.fill_stripes(shared, now_ns, requests, flush),
            Filling::Blocks(block) => self.fill_blocks(shared, blocks, flush, block),
            Filling::Flushing | Filling::Finishing => {}
        }
    }

    fn fill_stripes(&mut self, shared: &Shared, now_ns: u64, requests: u32, flush: &mut FlushGate) {
        if self.resync.is_running() {
            return;
        }
        let jobs_max = self.jobs_max(shared, now_ns, requests);
        let stripes = shared.geometry.stripes();
        // No write may miss the new slot. Here: the slot joined the view, then we look at the stripe's lock.
        // In a write: it takes the lock, then looks at the view. All four accesses are SeqCst, so either we
        // see the lock of a write that does not know the slot, or the write sees the slot. (The lock of a
        // discard is looked at after the cell: see `cell_at_rest`.)
        for _ in 0..LOOKS_PER_TURN {
            let rebuild = self.rebuild.as_ref().expect("looked at above");
            let upcoming = rebuild.upcoming(stripes).filter(|_| self.jobs < jobs_max);
            let Some((stripe, attempt)) = upcoming else { break };
            let slot = rebuild.slot;
            let passed_by = shared.locks.is_free(stripe)
                && shared.bitmap.cell_at_rest(stripe, &shared.locks) == Some(Cell::Unwritten);
            if !passed_by {
                self.give_job(stripe, Job::Rebuild { slot, attempt });
            }
            let rebuild = self.rebuild.as_mut().expect("looked at above");
            if !passed_by {
                rebuild.window.push_back((stripe, false));
            }
            rebuild.pass();
        }
        let rebuild = self.rebuild.as_mut().expect("looked at above");
        rebuild.window.retain(|entry| !entry.1);
        rebuild.waits = false;
        shared.members.advance_cursor(rebuild.reached());
        if rebuild.reached() == stripes {
            rebuild.filling = Filling::Blocks(0);
        } else if rebuild.upcoming(stripes).is_none() && rebuild.window.is_empty() {
            rebuild.try_again(now_ns);
            rebuild.waits = rebuild.again.is_empty();
        } else if now_ns >= rebuild.next_progress_ns {
            let first = rebuild.next_progress_ns == 0;
            rebuild.next_progress_ns = now_ns + PROGRESS_EVERY_NS;
            // The flush covers what the cursor passed before it began. If a flush takes longer than the
            // interval, the next one waits for it.
            let passed = shared.members.cursor();
            if !first && self.join_flush(flush, FlushFor::Rebuild) {
                let rebuild = self.rebuild.as_mut().expect("looked at above");
                rebuild.flushing_cursor = passed;
            }
        }
    }

    /// Whether the slot has the list of lost rows, if there is a list. Has it written there if not.
    fn lists_lost_rows(&mut self, shared: &Shared) -> bool {
        let rebuild = self.rebuild.as_mut().expect("looked at by the caller");
        if rebuild.listed.is_none() && shared.lost.is_on_record() {
            rebuild.listed = shared.lost.touch().ok();
        }
        match rebuild.listed {
            Some(version) => shared.lost.is_durable(version),
            None => !shared.lost.is_on_record(),
        }
    }

    /// Writes every bitmap block of which the slot keeps a copy; otherwise the slot would begin to count with
    /// old copies.
    fn fill_blocks(&mut self, shared: &Shared, blocks: &mut BlockWrites, flush: &mut FlushGate, from: u32) {
        if !self.lists_lost_rows(shared) {
            return;
        }
        let slot = self.rebuild.as_ref().expect("looked at by the caller").slot;
        let (end, mut block) = (shared.bitmap.blocks(), from);
        for _ in 0..LOOKS_PER_TURN {
            while block < end && !copies(&shared.geometry, BlockIndex(block)).has(slot) {
                block += 1;
            }
            if block >= end {
                break;
            }
            let at = BlockIndex(block);
            let rebuild = self.rebuild.as_mut().expect("looked at by the caller");
            // One block at a time: it is requested here, and passed when two writes that began afterwards
            // have ended, one for each of its places. A device that joins holds no older generation in the
            // other place, and a start could not tell an empty place from an unreadable one.
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
            blocks.ask(at);
            break;
        }
        let is_flushing = block >= end && self.join_flush(flush, FlushFor::Rebuild);
        let rebuild = self.rebuild.as_mut().expect("looked at by the caller");
        rebuild.filling = if is_flushing { Filling::Flushing } else { Filling::Blocks(block) };
    }

    /// Asks the keeper to record what the cursor had passed before the flush, which has ended.
    pub(super) fn rebuild_flushed(&mut self, ok: bool) {
        let Some(rebuild) = self.rebuild.as_mut().filter(|_| ok) else { return };
        let slot = rebuild.slot;
        match rebuild.filling {
            Filling::Flushing => {
                rebuild.filling = Filling::Finishing;
                self.keeper.wishes.filled = Some(slot);
            }
            Filling::Stripes | Filling::Blocks(_) | Filling::Finishing => {
                self.keeper.wishes.progress = Some((slot, rebuild.flushing_cursor));
            }
        }
    }

    /// Remembers the cursor as the flush of a stop begins: the flush covers everything that the cursor has
    /// passed. No operation is in flight, and the cursor no longer moves.
    pub(super) fn note_cursor_of_stop(&mut self, shared: &Shared) {
        let cursor = shared.members.cursor();
        if let Some(rebuild) = &mut self.rebuild {
            rebuild.flushing_cursor = cursor;
        }
    }

    /// Puts the cursor on record after the flush of a stop, before the superblocks say Clean. The cursor on
    /// record may be up to [`PROGRESS_EVERY_NS`] old. At the next start, an unsynced stripe at or above the
    /// recorded cursor is not trusted on this slot, so without this its strip there would be listed as lost
    /// although the device has it.
    pub(super) fn record_cursor_of_stop(&mut self) {
        let Some(rebuild) = &self.rebuild else { return };
        match rebuild.filling {
            Filling::Stripes | Filling::Blocks(_) => {
                self.keeper.wishes.progress = Some((rebuild.slot, rebuild.flushing_cursor));
            }
            // The slot is in sync on record, or about to be.
            Filling::Flushing | Filling::Finishing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rebuild keeps a bounded number of unfilled stripes, however many fail, and tries them less and
    /// less often.
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
        // From here on they can be filled, and the rest of the array is untouched.
        while rebuild.again.pop_front().is_some() {}
        assert_eq!(rebuild.upcoming(stripes), Some((UNFILLED_MAX as u64, 0)));
    }

    /// Every minute one stripe can be filled and the next, new one cannot. The others keep their waits.
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
