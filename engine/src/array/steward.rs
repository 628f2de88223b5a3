//! The steward: reactor 0's other trade. It keeps the record, resyncs, rebuilds, sweeps, and stops.
//!
//! Each turn it does a bounded piece of each. What an operator asks comes as an [`Order`] through a
//! bounded queue, and is answered through a channel that never blocks; what the operator may see is in
//! atomics ([`StewardState`]).
//!
//! A stop, in order: background work ends and no op is left; every member is flushed; the cursor of a rebuild goes on record as it
//! was before the flush (see `background`); the record moves on; every cell that is dirty becomes Clean, and every bitmap block is
//! written so that both its places say the same; the superblocks say Clean, in both copies.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;
use uuid::Uuid;

use crate::assembly::Roster;
use crate::events::Events;
use crate::members::{ERRORS_HALVED_EVERY_NS, Failure};
use crate::memory::Pool;
use crate::ring::{DeviceIndex, Ring};

use super::arrival::{Arrival, IS_STOPPING, has_failed};
use super::background::{CELLS_PER_TURN, Rebuild, Resync};
use super::flush::FlushWaiter;
use super::keeper::{Joining, Keeper, MoveTicket, Wish};
use super::lost::ListWrites;
use super::noting::Noting;
use super::rest::Rest;
use super::share::Share;
use super::sweep::Sweep;
use super::tell::Told;
use super::{Array, Shared};

/// Where the outcome of an order goes.
#[derive(Clone, Debug)]
pub struct Answer(Option<Sender<Result<(), String>>>);

impl Answer {
    /// Answers into this channel, which has room for one.
    #[must_use]
    pub fn to(sender: Sender<Result<(), String>>) -> Answer {
        Answer(Some(sender))
    }

    /// Answers nobody.
    #[must_use]
    pub const fn ignored() -> Answer {
        Answer(None)
    }

    pub(super) fn send(&self, outcome: Result<(), String>) {
        if let Some(sender) = &self.0 {
            // Whoever asked may have gone away, which changes nothing.
            let _ = sender.try_send(outcome);
        }
    }
}

/// What an operator asks of a running array.
pub enum Order {
    /// Fail a slot.
    Fail {
        /// Which.
        slot: u8,
        /// Told once it is on record.
        answer: Answer,
    },
    /// Put a device in an empty slot and fill it. All rings know the device already. What it holds around the data zone is
    /// wiped first. If the order is refused, the device is not a member, and nothing more is written to it.
    Join {
        /// Which slot.
        slot: u8,
        /// The device.
        device: DeviceIndex,
        /// Its new identity.
        member: Uuid,
        /// Whether it has a volatile cache.
        volatile: bool,
        /// Length of the device in bytes, a multiple of 4 KiB.
        device_bytes: u64,
        /// Told once it is on record.
        answer: Answer,
    },
    /// Stop in order. The front ends are drained, and no reactor [works for hosts](super::Array::works_for_hosts).
    Stop {
        /// Told once the superblocks say Clean.
        answer: Answer,
    },
}

/// What all reactors and the operator see of the steward.
pub struct StewardState {
    /// What it is asked.
    pub orders: ArrayQueue<Order>,
    /// What it begins with; taken by reactor 0.
    beginning: Mutex<Option<Beginning>>,
    /// Stripes resynced since the start of the present resync, and how many there were to do.
    pub resync_done: AtomicU64,
    /// See `resync_done`; 0 when none is running.
    pub resync_total: AtomicU64,
    /// Whether another resync is due some time after one that could not read, or not write, some stripe.
    pub resync_is_due: AtomicBool,
    /// The slot being rebuilt + 1; 0 for none. The cursor is in the members.
    pub rebuild_slot: AtomicU64,
    /// The number of the epoch on record; 0 before the first change.
    pub epoch: AtomicU64,
    /// Stripes that writes have left torn, with every member there. Written by any reactor; a change asks for a resync.
    pub torn: AtomicU64,
    /// Runs of discards that devices have not heard the end of. Counted by the owners of their stripes; a stop waits for them.
    pub advice: AtomicU32,
    /// Whether a stop was ordered. Written by the steward; background work of any reactor looks at it, and does not wait then.
    pub is_stopping: AtomicBool,
    /// Whether members may be written.
    pub rest: Rest,
    /// What an operator should hear of.
    pub events: Events,
    /// Where changes of the record are noted before anything relies on them.
    pub(super) noting: Noting,
}

/// What the steward begins with.
pub struct Beginning {
    /// The members on record; `None` for an array that lives in memory only.
    pub roster: Option<Roster>,
    /// Random: the ids of later epochs are made from it.
    pub seed: u64,
    /// The slot to go on filling, if any (from the members' cursor on).
    pub rebuilding: Option<u8>,
}

impl StewardState {
    /// A steward that has not begun yet.
    #[must_use]
    pub fn new(beginning: Beginning) -> StewardState {
        StewardState {
            orders: ArrayQueue::new(64),
            rest: Rest::new(beginning.roster.is_some()),
            beginning: Mutex::new(Some(beginning)),
            advice: AtomicU32::new(0),
            resync_done: AtomicU64::new(0),
            resync_total: AtomicU64::new(0),
            resync_is_due: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            rebuild_slot: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            torn: AtomicU64::new(0),
            events: Events::default(),
            noting: Noting::default(),
        }
    }

    /// This steward of an array that is served as a block device: changes of its record are noted.
    #[must_use]
    pub fn noted_by(self, noting: Noting) -> StewardState {
        StewardState { noting, ..self }
    }

    /// The same of an array whose record says Active already, in both copies of every participant: it does not rest at first.
    #[must_use]
    pub fn awake(self) -> StewardState {
        self.rest.end();
        self
    }
}

/// An order to fail a slot, during the search for a stripe that needs a resync and of which the slot holds data.
#[derive(Debug)]
struct Sparing {
    slot: u8,
    answer: Answer,
    /// The next stripe to look at.
    from: u64,
    /// [`StewardState::torn`] when the search began.
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
    /// Taking the marks off the bitmap, and writing its blocks, this one next.
    Blocks(u32),
    /// Writing the superblocks.
    Superblocks,
}

/// Bitmap blocks that a stop looks at in one turn: 64 x 8 KiB of cells.
const BLOCKS_SETTLED_PER_TURN: u32 = 64;

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Steward {
    pub(super) keeper: Keeper,
    pub(super) recorded_cursor: u64,
    pub(super) resync: Resync,
    /// A device that is being made ready for its slot.
    pub(super) arrival: Option<Arrival>,
    pub(super) rebuild: Option<Rebuild>,
    pub(super) sweep: Sweep,
    pub(super) lists: ListWrites,
    /// How much of the members background work may use.
    pub(super) share: Share,
    /// Background stripe ops in flight.
    pub(super) jobs: u32,
    /// The order to fail a slot for which stripes are being searched.
    sparing: Option<Sparing>,
    /// Orders to fail a slot that wait for the record.
    failing: Vec<(u8, Answer)>,
    stop: Option<(Stop, Answer)>,
    /// For what the steward waits at the flush gate.
    pub(super) flushing: Option<FlushFor>,
    halve_errors_at_ns: u64,
    pub(super) told: Told,
}

/// Why the steward had the members flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlushFor {
    Sweep,
    Rebuild,
    Stop,
}

impl Steward {
    pub(super) fn new(shared: &Shared, pool: &mut Pool) -> Steward {
        let beginning = shared.steward.beginning.lock().expect("no holder panics").take();
        let Beginning { roster, seed, rebuilding } = beginning.expect("an array has one reactor 0");
        let mut steward = Steward {
            keeper: Keeper::new(roster, seed, shared.geometry.members(), pool),
            recorded_cursor: shared.members.cursor(),
            resync: Resync::begin(shared),
            arrival: None,
            rebuild: None,
            sweep: Sweep::new(&shared.bitmap),
            lists: ListWrites::new(pool),
            share: Share::default(),
            jobs: 0,
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

    pub(super) fn begin_rebuild(&mut self, shared: &Shared, slot: u8, cursor: u64) {
        shared.steward.rebuild_slot.store(u64::from(slot) + 1, Ordering::Relaxed);
        self.rebuild = Some(Rebuild::begin(slot, cursor));
        // A read-only server knows of the rebuild, and does not go on with it.
        if !shared.read_only {
            self.told.rebuild_begins(shared, slot, cursor);
        }
    }

    pub(super) fn must_turn(&self, shared: &Shared) -> bool {
        if shared.read_only {
            // No record, no resync, no rebuild and no sweep: only an order to stop, and a member that falls silent or answers again.
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

    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        let rebuild = self.rebuild.as_ref().and_then(Rebuild::next_deadline_ns);
        [self.sweep.next_deadline_ns(), rebuild, self.resync.next_deadline_ns()].into_iter().flatten().min()
    }

    /// Whether a stop was ordered; also when it is done.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_some() || self.keeper.stopped
    }
}

impl Array {
    /// A turn of the steward, if it lives here.
    pub(super) fn steward_advance<R: Ring>(&mut self, ring: &mut R) {
        if self.steward.is_none() || self.shared.read_only {
            self.refuse_orders();
            if self.steward.is_some() {
                self.tell();
            }
            return;
        }
        self.take_orders();
        let degraded = self.shared.members.view().readable != self.shared.geometry.slots();
        self.shared.bitmap.mark_precisely(degraded);
        self.keep_record(ring);
        self.lists_advance(ring);
        self.arrival_advance(ring);
        self.sparing_advance();
        self.answer_failing();
        if !self.steward().is_stopping() && !self.shared.failed() {
            self.resync_advance();
            self.rebuild_advance();
        }
        self.sweep_advance();
        self.stop_advance();
        let now = self.now_ns;
        if now >= self.steward().halve_errors_at_ns {
            self.shared.members.halve_read_errors();
            self.steward_mut().halve_errors_at_ns = now + ERRORS_HALVED_EVERY_NS;
        }
        self.tell();
    }

    pub(super) fn steward(&self) -> &Steward {
        self.steward.as_ref().expect("reactor 0 has the steward")
    }

    pub(super) fn steward_mut(&mut self) -> &mut Steward {
        self.steward.as_mut().expect("reactor 0 has the steward")
    }

    fn take_orders(&mut self) {
        // Taking from a queue that is empty costs a barrier; looking does not.
        if self.shared.steward.orders.is_empty() {
            return;
        }
        while let Some(order) = self.shared.steward.orders.pop() {
            match order {
                Order::Fail { slot, answer } => self.order_fail(slot, answer),
                Order::Join { slot, device, member, volatile, device_bytes, answer } => {
                    self.order_join(Joining { slot, device, member, volatile, device_bytes, answer });
                }
                Order::Stop { answer } => {
                    self.shared.steward.is_stopping.store(true, Ordering::Relaxed);
                    // Background work that waits in other reactors ends now.
                    (0..self.shared.tallies.len()).for_each(|me| self.shared.mailboxes.wake(me as u8));
                    let steward = self.steward_mut();
                    steward.stop = Some((Stop::Draining, answer));
                    steward.keeper.refuse_join(IS_STOPPING);
                }
            }
        }
    }

    /// A read-only array takes one order: to stop, which writes nothing.
    fn refuse_orders(&mut self) {
        if self.steward.is_none() {
            return;
        }
        while let Some(order) = self.shared.steward.orders.pop() {
            match order {
                Order::Stop { answer } => answer.send(Ok(())),
                Order::Fail { answer, .. } | Order::Join { answer, .. } => {
                    answer.send(Err("the array is read-only".into()));
                }
            }
        }
    }

    fn order_fail(&mut self, slot: u8, answer: Answer) {
        if let Some(why) = self.why_not_failed(slot) {
            answer.send(Err(why));
        } else if self.steward().sparing.is_some() {
            answer.send(Err("another `fail` is under way: try again".into()));
        } else {
            let torn = self.shared.steward.torn.load(Ordering::Acquire);
            self.steward_mut().sparing = Some(Sparing { slot, answer, from: 0, torn });
        }
    }

    /// Reasons to refuse an order to fail a slot that do not depend on stripes that need a resync.
    fn why_not_failed(&self, slot: u8) -> Option<String> {
        let view = self.shared.members.view();
        let (needs, one) = (self.shared.needs(), crate::geometry::Slots::one(slot));
        if self.shared.failed() {
            Some(has_failed(self.steward().keeper.name()))
        } else if self.steward().is_stopping() {
            Some(IS_STOPPING.into())
        } else if !view.writable.has(slot) {
            Some(format!("slot {slot} is not in use: nothing is to be taken out of service"))
        } else if view.readable.minus(one).count() < needs.data {
            Some(self.not_spared(slot))
        } else {
            None
        }
    }

    /// Fails a slot on order, unless it holds data of a stripe that needs a resync: no other member can supply that data. A stripe
    /// of which the slot holds parity does not count: if the member refuses writes, that stripe can never be resynced, and the order
    /// would be refused for ever.
    fn sparing_advance(&mut self) {
        let Some(Sparing { slot, from, torn, .. }) = self.steward().sparing else { return };
        let shared = self.shared.clone();
        let one = crate::geometry::Slots::one(slot);
        let stripes = shared.geometry.stripes();
        let end = (from + CELLS_PER_TURN).min(stripes);
        let mut refusal = self.why_not_failed(slot);
        let spared_by_numbers = shared.members.spares(shared.members.view(), one, shared.needs());
        if refusal.is_none() && !spared_by_numbers {
            let needed = |stripe: &u64| shared.geometry.is_data(*stripe, slot);
            let next = |stripe: &u64| shared.bitmap.next_need_sync_before(stripe + 1, end);
            let mut unsynced = std::iter::successors(shared.bitmap.next_need_sync_before(from, end), next);
            let is_torn_since = shared.steward.torn.load(Ordering::Acquire) != torn;
            if is_torn_since || unsynced.any(|stripe| needed(&stripe)) {
                refusal = Some(self.not_spared_yet(slot));
            } else if end < stripes {
                self.steward_mut().sparing.as_mut().expect("looked at above").from = end;
                return;
            }
        }
        let Sparing { answer, .. } = self.steward_mut().sparing.take().expect("looked at above");
        match refusal {
            Some(why) => answer.send(Err(why)),
            None => {
                shared.members.fail(slot, Failure::Operator);
                self.steward_mut().failing.push((slot, answer));
            }
        }
    }

    /// Why a slot is not failed of whose members no other may be lost, and what to do.
    fn not_spared(&self, slot: u8) -> String {
        let (view, name) = (self.shared.members.view(), self.steward().keeper.name());
        let empty = self.shared.geometry.slots().minus(view.writable).iter().next();
        let what_to_do = empty.map_or_else(
            || format!("wait for the rebuild (`striate wait {name}`)"),
            |empty| format!("fill slot {empty} first: `striate replace {name} {empty} DEVICE`"),
        );
        format!(
            "slot {slot} cannot be spared, and the array would lose data: not all other slots are in sync: {what_to_do}"
        )
    }

    /// Why a slot is not failed while stripes need a resync, and what to do.
    fn not_spared_yet(&self, slot: u8) -> String {
        let steward = self.steward();
        let (stripes, name) = (self.shared.bitmap.need_sync(), steward.keeper.name());
        let what_to_do = if steward.resync.is_running() {
            format!("wait for it (`striate wait {name}`), then fail slot {slot}")
        } else if steward.resync.next_deadline_ns().is_some() {
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

    fn answer_failing(&mut self) {
        let shared = self.shared.clone();
        let Steward { keeper, failing, .. } = self.steward_mut();
        failing.retain(|(slot, answer)| {
            let one = crate::geometry::Slots::one(*slot);
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

    /// The flush that the steward waited for has ended.
    pub(super) fn steward_flushed(&mut self, ok: bool) {
        match self.steward_mut().flushing.take().expect("the steward asked for a flush") {
            FlushFor::Sweep => self.sweep_flushed(ok),
            FlushFor::Rebuild => self.rebuild_flushed(ok),
            FlushFor::Stop => {
                if ok {
                    self.record_cursor_of_stop();
                }
                let steward = self.steward_mut();
                if let Some((stop, answer)) = &mut steward.stop {
                    if ok {
                        *stop = Stop::Moving(steward.keeper.ask_to_move());
                    } else {
                        answer.send(Err("the array has failed: it cannot be marked clean".into()));
                        steward.stop = None;
                    }
                }
            }
        }
    }

    /// Has the members flushed, unless a flush of the steward's is under way already.
    pub(super) fn steward_flush(&mut self, why: FlushFor) -> bool {
        if self.steward().flushing.is_some() {
            return false;
        }
        self.steward_mut().flushing = Some(why);
        self.join_flush(FlushWaiter::Steward);
        true
    }

    fn stop_advance(&mut self) {
        let Some((stop, _)) = &self.steward().stop else { return };
        let stop = *stop;
        if self.shared.failed() {
            // What is still in flight may never end, and nothing is marked clean after it.
            let (_, answer) = self.steward_mut().stop.take().expect("looked at above");
            answer.send(Err("the array has failed: it cannot be marked clean".into()));
            return;
        }
        let next = match stop {
            Stop::Draining => {
                let steward = self.steward();
                let lost = &self.shared.lost;
                let busy = steward.jobs > 0
                    || !lost.is_durable(lost.version())
                    || steward.sweep.is_running()
                    || self.ops.len() > 0;
                if busy
                    || !self.blocks.is_idle()
                    || steward.keeper.is_busy()
                    || !self.steward_flush(FlushFor::Stop)
                {
                    return;
                }
                self.note_cursor_of_stop();
                Stop::Flushing
            }
            Stop::Flushing => return,
            Stop::Moving(ticket) if self.steward().keeper.has_moved(ticket) => Stop::Blocks(0),
            Stop::Moving(ticket) => Stop::Moving(ticket),
            Stop::Blocks(from) => match self.settle_blocks(from) {
                Some(block) => Stop::Blocks(block),
                None => {
                    self.steward_mut().keeper.wishes.stop = Wish::Asked;
                    Stop::Superblocks
                }
            },
            Stop::Superblocks if self.steward().keeper.stopped => {
                let (_, answer) = self.steward_mut().stop.take().expect("looked at above");
                answer.send(Ok(()));
                return;
            }
            Stop::Superblocks => Stop::Superblocks,
        };
        if let Some((stop, _)) = &mut self.steward_mut().stop {
            *stop = next;
        }
    }

    /// Takes the marks off the blocks from `from` on, and writes those that are behind or differ between their two places. The
    /// first that is not settled yet; `None` when all are. No operation is in flight, every member was flushed, and the
    /// record has moved on: parity matches the data wherever a cell is dirty.
    fn settle_blocks(&mut self, from: u32) -> Option<u32> {
        let shared = self.shared.clone();
        let mut first = None;
        for block in (from..shared.bitmap.blocks()).take(BLOCKS_SETTLED_PER_TURN as usize) {
            let at = bitmap::BlockIndex(block);
            if shared.bitmap.has_dirty(at) {
                self.steward_mut().sweep.settle(&shared, at);
            }
            if shared.bitmap.has_dirty(at) || !shared.bitmap.is_settled(at) {
                first = first.or(Some(block));
                if !shared.failed() && !shared.bitmap.is_writing(at) {
                    self.repeat_block(at);
                }
            }
        }
        let passed = from.saturating_add(BLOCKS_SETTLED_PER_TURN);
        first.or((passed < shared.bitmap.blocks()).then_some(passed))
    }
}
