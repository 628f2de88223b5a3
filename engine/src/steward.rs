//! The steward: the part of reactor 0 that keeps the record, resyncs, rebuilds, sweeps and stops the array.
//!
//! In each turn it does a bounded piece of each. An operator's request arrives as an [`Order`] through a
//! bounded queue and is answered through a channel that never blocks. Atomics hold what an operator may see
//! ([`StewardState`](crate::shared::StewardState)).
//!
//! A stop takes these steps, in this order:
//!
//! 1. Background work ends and no operation is left.
//! 2. Every member is flushed.
//! 3. The rebuild cursor goes on record, with the value that it had before the flush (see `rebuild`).
//! 4. The record moves on.
//! 5. Every dirty cell becomes Clean, and every bitmap block is written until both its places hold the same.
//! 6. The superblocks say Clean, in both copies.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crate::durable::{BlockWrites, FlushGate, FlushWaiter};
use crate::geometry::Slots;
use crate::job::{JOBS_MAX, Job, JobAsk};
use crate::members::{ERRORS_HALVED_EVERY_NS, Failure};
use crate::memory::Pool;
use crate::ring::Ring;
use crate::shared::{Answer, Beginning, Order, Shared};
use crate::turn::{Io, Turn};

pub(crate) mod arrival;
mod keeper;
mod lists;
mod rebuild;
mod resync;
mod share;
mod sweep;
mod tell;

use arrival::{Arrival, IS_STOPPING, has_failed};
use keeper::{Joining, Keeper, MoveTicket, Wish};
use lists::ListWrites;
use rebuild::Rebuild;
use resync::{CELLS_PER_TURN, Resync};
use share::Share;
use sweep::Sweep;
use tell::Told;

/// An order to fail a slot that waits for a search: is there an unsynced stripe of which this slot holds
/// data?
#[derive(Debug)]
struct Sparing {
    slot: u8,
    answer: Answer,
    /// The next stripe to look at.
    from: u64,
    /// Value of [`StewardState::torn`](crate::shared::StewardState::torn) at the start of the search.
    torn: u64,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Waiting for ops and background work to end.
    Draining,
    /// Waiting for the members' flush.
    Flushing,
    /// Waiting for the record to move on.
    Moving(MoveTicket),
    /// Taking the marks off the bitmap and writing its blocks; the next block is given.
    Blocks(u32),
    /// Writing the superblocks.
    Superblocks,
}

/// Bitmap blocks that a stop looks at in one turn: 64 x 8 KiB of cells.
const BLOCKS_SETTLED_PER_TURN: u32 = 64;

/// The state of the steward; see the top of this file.
#[derive(Debug)]
pub(crate) struct Steward {
    keeper: Keeper,
    resync: Resync,
    /// The device that is being prepared for its slot.
    arrival: Option<Arrival>,
    rebuild: Option<Rebuild>,
    sweep: Sweep,
    lists: ListWrites,
    /// How much of the members background work may use.
    share: Share,
    /// Background stripe ops in flight.
    jobs: u32,
    /// Jobs that were given and that [`Steward::next_job`] has not yet returned.
    given: VecDeque<JobAsk>,
    /// The order to fail a slot that waits for the search of the stripes.
    sparing: Option<Sparing>,
    /// Orders to fail a slot that wait until the record excludes the slot.
    failing: Vec<(u8, Answer)>,
    stop: Option<(Stop, Answer)>,
    /// The reason why the steward waits at the flush gate.
    flushing: Option<FlushFor>,
    halve_errors_at_ns: u64,
    told: Told,
}

/// Why the steward has the members flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlushFor {
    Sweep,
    Rebuild,
    Stop,
}

impl Steward {
    pub(crate) fn new(shared: &Shared, pool: &mut Pool) -> Steward {
        let beginning = shared.steward.beginning.lock().expect("no holder panics").take();
        let Beginning { roster, seed, rebuilding } = beginning.expect("an array has one reactor 0");
        let mut steward = Steward {
            keeper: Keeper::new(roster, seed, shared, pool),
            resync: Resync::begin(shared),
            arrival: None,
            rebuild: None,
            sweep: Sweep::new(&shared.bitmap),
            lists: ListWrites::new(pool),
            share: Share::default(),
            jobs: 0,
            given: VecDeque::with_capacity(JOBS_MAX as usize),
            sparing: None,
            failing: Vec::new(),
            stop: None,
            flushing: None,
            halve_errors_at_ns: 0,
            told: Told::at_the_start(shared),
        };
        if let Some(slot) = rebuilding {
            steward.begin_rebuild(shared, slot, shared.members.cursor());
        }
        steward
    }

    fn begin_rebuild(&mut self, shared: &Shared, slot: u8, cursor: u64) {
        shared.steward.rebuild_slot.store(u64::from(slot) + 1, Ordering::Relaxed);
        self.rebuild = Some(Rebuild::begin(slot, cursor));
        // A read-only server knows about the rebuild but does not continue it.
        if !shared.read_only {
            self.told.rebuild_begins(shared, slot, cursor);
        }
    }

    pub(crate) fn must_turn(&self, shared: &Shared) -> bool {
        if shared.read_only {
            // A read-only array has no record, resync, rebuild or sweep. It reacts to an order to stop, and
            // to a member that falls silent or answers again.
            return !shared.steward.orders.is_empty() || self.told.is_behind(shared);
        }
        let record_is_behind = {
            let (view, record) = (shared.members.view(), shared.members.record());
            !shared.failed() && view != record
        };
        !shared.steward.orders.is_empty()
            || record_is_behind
            || self.told.is_behind(shared)
            || shared.steward.rest.is_called()
            || !shared.failed() && !self.keeper.is_at_rest()
            || self.sparing.is_some()
            || !self.failing.is_empty()
            || self.arrival.as_ref().is_some_and(|arrival| shared.failed() || arrival.can_go_on())
            || self.stop.is_some()
            || self.resync.is_running()
            || self.rebuild.as_ref().is_some_and(Rebuild::is_running)
            || self.sweep.is_running()
            || !shared.lost.is_durable(shared.lost.version())
    }

    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        let rebuild = self.rebuild.as_ref().and_then(Rebuild::next_deadline_ns);
        [self.sweep.next_deadline_ns(), rebuild, self.resync.next_deadline_ns()].into_iter().flatten().min()
    }

    /// Whether a stop was ordered. Stays true once the stop is done.
    fn is_stopping(&self) -> bool {
        self.stop.is_some() || self.keeper.stopped
    }
}

/// The facts about its reactor that the steward needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Requests of the host that this reactor serves.
    pub(crate) requests: u32,
    /// Whether an operation on a stripe is under way.
    pub(crate) has_ops: bool,
}

impl Steward {
    /// Runs one turn of the steward. Afterwards [`Steward::next_job`] returns the stripes to work on.
    pub(crate) fn turn<R: Ring>(
        &mut self,
        turn: &mut Turn<'_, R>,
        blocks: &mut BlockWrites,
        flush: &mut FlushGate,
        load: Load,
    ) {
        let (shared, now_ns) = (turn.shared, turn.now_ns);
        if shared.read_only {
            refuse_orders(shared);
            self.tell(shared);
            return;
        }
        self.take_orders(turn);
        let degraded = shared.members.view().readable != shared.geometry.slots();
        shared.bitmap.mark_precisely(degraded);
        let joined = self.keeper.turn(turn);
        self.fill(shared, joined);
        self.lists.advance(turn, &mut self.keeper);
        self.arrival_turn(turn);
        self.spare(shared);
        self.answer_failing(shared);
        if !self.is_stopping() && !shared.failed() {
            self.resync_turn(shared, now_ns, load.requests);
            self.rebuild_turn(shared, now_ns, load.requests, blocks, flush);
        }
        self.sweep_turn(shared, now_ns, blocks, flush);
        self.stop_turn(shared, blocks, flush, load.has_ops);
        if now_ns >= self.halve_errors_at_ns {
            shared.members.halve_read_errors();
            self.halve_errors_at_ns = now_ns + ERRORS_HALVED_EVERY_NS;
        }
        self.tell(shared);
    }

    /// Returns the next job that this turn has given; the caller hands it to the owner of its stripe.
    pub(crate) fn next_job(&mut self) -> Option<JobAsk> {
        self.given.pop_front()
    }

    /// Gives a stripe a job. [`Steward::job_ended`] reports its end.
    fn give_job(&mut self, stripe: u64, job: Job) {
        self.jobs += 1;
        self.given.push_back(JobAsk { stripe, job });
    }

    /// Handles the end of a superblock write, successful or not.
    pub(crate) fn superblock_written(
        &mut self,
        shared: &Shared,
        now_ns: u64,
        io: &Io,
        result: Result<(), i32>,
    ) {
        let joined = self.keeper.written(shared, now_ns, io, result);
        self.fill(shared, joined);
    }

    /// Gives up a superblock write whose member has left: from now on nothing waits for it.
    pub(crate) fn superblock_lost(&mut self, shared: &Shared, now_ns: u64, io: &Io) {
        let joined = self.keeper.lost(shared, now_ns, io);
        self.fill(shared, joined);
    }

    /// Begins to fill the slot of a device that has joined. The operator is answered after that: a status
    /// that is asked for after the answer must show the rebuild, or `replace` followed by `wait` would not
    /// wait.
    fn fill(&mut self, shared: &Shared, joined: Option<Joining>) {
        if let Some(Joining { slot, answer, .. }) = joined {
            self.begin_rebuild(shared, slot, 0);
            answer.send(Ok(()));
        }
    }

    /// The writes of the list of lost rows.
    pub(crate) fn lists(&mut self) -> &mut ListWrites {
        &mut self.lists
    }

    fn take_orders<R>(&mut self, turn: &Turn<'_, R>) {
        let shared = turn.shared;
        // Popping from an empty queue costs a memory barrier; looking does not.
        if shared.steward.orders.is_empty() {
            return;
        }
        while let Some(order) = shared.steward.orders.pop() {
            match order {
                Order::Fail { slot, answer } => self.order_fail(shared, slot, answer),
                Order::Join { slot, device, member, volatile, device_bytes, answer } => {
                    self.order_join(turn, Joining { slot, device, member, volatile, device_bytes, answer });
                }
                Order::Stop { answer } => {
                    shared.steward.is_stopping.store(true, Ordering::Relaxed);
                    // Background work that waits in other reactors must end now: wake them.
                    (0..shared.tallies.len()).for_each(|me| shared.mailboxes.wake(me as u8));
                    self.stop = Some((Stop::Draining, answer));
                    self.keeper.refuse_join(IS_STOPPING);
                }
            }
        }
    }

    fn order_fail(&mut self, shared: &Shared, slot: u8, answer: Answer) {
        if let Some(why) = self.why_not_failed(shared, slot) {
            answer.send(Err(why));
        } else if self.sparing.is_some() {
            answer.send(Err("another `fail` is under way: try again".into()));
        } else {
            let torn = shared.steward.torn.load(Ordering::Acquire);
            self.sparing = Some(Sparing { slot, answer, from: 0, torn });
        }
    }

    /// Reasons to refuse an order to fail a slot that do not depend on unsynced stripes.
    fn why_not_failed(&self, shared: &Shared, slot: u8) -> Option<String> {
        let view = shared.members.view();
        let (needs, one) = (shared.needs(), Slots::one(slot));
        if shared.failed() {
            Some(has_failed(self.keeper.name()))
        } else if self.is_stopping() {
            Some(IS_STOPPING.into())
        } else if !view.writable.has(slot) {
            Some(format!("slot {slot} is not in use: nothing is to be taken out of service"))
        } else if view.readable.minus(one).count() < needs.data {
            Some(self.not_spared(shared, slot))
        } else {
            None
        }
    }

    /// Fails a slot on order, unless it holds data of an unsynced stripe: no other member can supply that
    /// data. Unsynced stripes of which the slot holds parity do not count: if the member refuses writes, such
    /// a stripe can never be resynced, and the order would be refused forever.
    fn spare(&mut self, shared: &Shared) {
        let Some(Sparing { slot, from, torn, .. }) = self.sparing else { return };
        let one = Slots::one(slot);
        let stripes = shared.geometry.stripes();
        let end = (from + CELLS_PER_TURN).min(stripes);
        let mut refusal = self.why_not_failed(shared, slot);
        let spared_by_numbers = shared.members.spares(shared.members.view(), one, shared.needs());
        if refusal.is_none() && !spared_by_numbers {
            let needed = |stripe: &u64| shared.geometry.is_data(*stripe, slot);
            let next = |stripe: &u64| shared.bitmap.next_need_sync_before(stripe + 1, end);
            let mut unsynced = std::iter::successors(shared.bitmap.next_need_sync_before(from, end), next);
            let is_torn_since = shared.steward.torn.load(Ordering::Acquire) != torn;
            if is_torn_since || unsynced.any(|stripe| needed(&stripe)) {
                refusal = Some(self.not_spared_yet(shared, slot));
            } else if end < stripes {
                self.sparing.as_mut().expect("looked at above").from = end;
                return;
            }
        }
        let Sparing { answer, .. } = self.sparing.take().expect("looked at above");
        match refusal {
            Some(why) => answer.send(Err(why)),
            None => {
                shared.members.fail(slot, Failure::Operator);
                self.failing.push((slot, answer));
            }
        }
    }

    /// Why a slot is not failed when the array can lose no further member, and what the operator can do.
    fn not_spared(&self, shared: &Shared, slot: u8) -> String {
        let (view, name) = (shared.members.view(), self.keeper.name());
        let empty = shared.geometry.slots().minus(view.writable).iter().next();
        let what_to_do = empty.map_or_else(
            || format!("wait for the rebuild (`striate wait {name}`)"),
            |empty| format!("fill slot {empty} first: `striate replace {name} {empty} DEVICE`"),
        );
        format!(
            "slot {slot} cannot be spared, and the array would lose data: not all other slots are in sync: {what_to_do}"
        )
    }

    /// Why a slot is not failed while stripes are unsynced, and what the operator can do.
    fn not_spared_yet(&self, shared: &Shared, slot: u8) -> String {
        let (stripes, name) = (shared.bitmap.need_sync(), self.keeper.name());
        let what_to_do = if self.resync.is_running() {
            format!("wait for it (`striate wait {name}`), then fail slot {slot}")
        } else if self.resync.next_deadline_ns().is_some() {
            "they could not be resynced so far, and are tried again within five minutes: try again then, and if a member has no room for what hosts write, stop the writing first".into()
        } else {
            format!(
                "they could not be resynced so far: replace what is missing, or overwrite or discard what is lost (`striate lost {name}`)"
            )
        };
        format!(
            "slot {slot} cannot be spared: {stripes} stripes are still to be resynced, and what it holds of them cannot be computed from the others: {what_to_do}. To give it up all the same, stop the array and serve it without this member"
        )
    }

    fn answer_failing(&mut self, shared: &Shared) {
        let Steward { keeper, failing, .. } = self;
        failing.retain(|(slot, answer)| {
            let one = Slots::one(*slot);
            if shared.failed() {
                answer.send(Err(has_failed(keeper.name())));
                return false;
            }
            if !shared.members.record().writable.and(one).is_empty() {
                return true;
            }
            answer.send(Ok(()));
            false
        });
    }

    /// Continues what waited for the steward's flush, which has ended.
    pub(crate) fn flushed(&mut self, ok: bool) {
        match self.flushing.take().expect("the steward asked for a flush") {
            FlushFor::Sweep => self.sweep_flushed(ok),
            FlushFor::Rebuild => self.rebuild_flushed(ok),
            FlushFor::Stop => {
                if ok {
                    self.record_cursor_of_stop();
                }
                if let Some((stop, answer)) = &mut self.stop {
                    if ok {
                        *stop = Stop::Moving(self.keeper.ask_to_move());
                    } else {
                        answer.send(Err("the array has failed: it cannot be marked clean".into()));
                        self.stop = None;
                    }
                }
            }
        }
    }

    /// Asks for a flush of the members, unless a flush of the steward is already under way.
    fn join_flush(&mut self, flush: &mut FlushGate, why: FlushFor) -> bool {
        if self.flushing.is_some() {
            return false;
        }
        self.flushing = Some(why);
        flush.join(FlushWaiter::Steward);
        true
    }

    fn stop_turn(&mut self, shared: &Shared, blocks: &mut BlockWrites, flush: &mut FlushGate, has_ops: bool) {
        let Some((stop, _)) = &self.stop else { return };
        let stop = *stop;
        if shared.failed() {
            // What is still in flight may never end, so the array must not be marked clean.
            let (_, answer) = self.stop.take().expect("looked at above");
            answer.send(Err("the array has failed: it cannot be marked clean".into()));
            return;
        }
        let next = match stop {
            Stop::Draining => {
                let lost = &shared.lost;
                let busy =
                    self.jobs > 0 || !lost.is_durable(lost.version()) || self.sweep.is_running() || has_ops;
                if busy
                    || !blocks.is_idle()
                    || self.keeper.is_busy()
                    || !self.join_flush(flush, FlushFor::Stop)
                {
                    return;
                }
                self.note_cursor_of_stop(shared);
                Stop::Flushing
            }
            Stop::Flushing => return,
            Stop::Moving(ticket) if self.keeper.has_moved(ticket) => Stop::Blocks(0),
            Stop::Moving(ticket) => Stop::Moving(ticket),
            Stop::Blocks(from) => match self.settle_blocks(shared, blocks, from) {
                Some(block) => Stop::Blocks(block),
                None => {
                    self.keeper.wishes.stop = Wish::Asked;
                    Stop::Superblocks
                }
            },
            Stop::Superblocks if self.keeper.stopped => {
                let (_, answer) = self.stop.take().expect("looked at above");
                answer.send(Ok(()));
                return;
            }
            Stop::Superblocks => Stop::Superblocks,
        };
        if let Some((stop, _)) = &mut self.stop {
            *stop = next;
        }
    }

    /// Takes the marks off the blocks from `from` on, and writes those that are behind or whose two places
    /// differ. Returns the first block that is not settled yet, or `None` when all are. The caller guarantees
    /// that parity matches the data wherever a cell is dirty: no operation is in flight, every member was
    /// flushed, and the record has moved on.
    fn settle_blocks(&mut self, shared: &Shared, blocks: &mut BlockWrites, from: u32) -> Option<u32> {
        let mut first = None;
        for block in (from..shared.bitmap.blocks()).take(BLOCKS_SETTLED_PER_TURN as usize) {
            let at = bitmap::BlockIndex(block);
            if shared.bitmap.has_dirty(at) {
                self.sweep.settle(shared, at);
            }
            if shared.bitmap.has_dirty(at) || !shared.bitmap.is_settled(at) {
                first = first.or(Some(block));
                if !shared.failed() && !shared.bitmap.is_writing(at) {
                    blocks.repeat(shared, at);
                }
            }
        }
        let passed = from.saturating_add(BLOCKS_SETTLED_PER_TURN);
        first.or((passed < shared.bitmap.blocks()).then_some(passed))
    }
}

/// Answers the orders of a read-only array: a stop succeeds and writes nothing, everything else is refused.
fn refuse_orders(shared: &Shared) {
    while let Some(order) = shared.steward.orders.pop() {
        match order {
            Order::Stop { answer } => answer.send(Ok(())),
            Order::Fail { answer, .. } | Order::Join { answer, .. } => {
                answer.send(Err("the array is read-only".into()));
            }
        }
    }
}
