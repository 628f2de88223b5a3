//! Ownership of stripes, and how the parts of requests reach the owner of their stripe.
//!
//! A stripe that is written, reconstructed, discarded, resynced or rebuilt is owned by one reactor from the
//! first read to the last write ([`bitmap::StripeLocks`]). Parts that arrive meanwhile queue behind the op
//! and are merged into its next round. A reactor that finds a stripe owned by another reactor posts the part
//! to that reactor's mailbox. If the owner has released the stripe by the time it sees the part, it competes
//! for the lock like any other reactor. Stripes are not hashed to cores, so the uncontended path stays on one
//! core.
//!
//! A part that finds no free op, or no place in the owner's mailbox, is parked. Parked parts are looked at
//! each turn, oldest first. While a part or a job waits for an op, an op that has done a round of work gives
//! way even if more work waits for its stripe; that work queues behind the parked parts. Otherwise a few
//! stripes that are always busy could keep all ops for ever.

use bitmap::StripeLocks;

use crate::job::JobAsk;
use crate::mailbox::Ask;
use crate::part::Part;
use crate::shared::Shared;

use super::Stripes;
use super::op::{Phase, StripeOp};

/// Value of a lock slot without an op. An entry of the table is one byte, so that the table stays in a core's
/// cache.
pub(super) const NO_OP: u8 = u8::MAX;

/// A part or job that waits for an op, or for a place in the mailbox of its stripe's owner.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parked {
    /// A part, by its index.
    Part(u32),
    /// A job: background work.
    Job(JobAsk),
}

/// The reactor or op that has a part's stripe.
pub(super) enum Ownership {
    /// Owned by this reactor, in the given op.
    Op(u32),
    /// Owned by this reactor or free, but there is no free op.
    NoRoom,
    /// Owned by another reactor, the given one.
    Other(u8),
}

/// Room that this reactor is short of. As long as something waits for room of some kind, whatever comes later
/// waits behind it.
///
/// Parked parts and jobs are looked at each turn, oldest first. The first one that finds no room notes here
/// what it lacks. From then until the next look, nothing that comes later takes room of that kind. Without
/// this rule, new requests and mail, which are taken between two looks, would always be first to find the
/// room that a completion has just freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Short {
    /// Whether a parked part or job has found no free op.
    pub(super) ops: bool,
    /// Reactors whose mailbox had no place for a parked part or job, one bit each.
    places: [u64; 4],
}

const _: () = assert!(crate::limits::REACTORS_MAX <= 4 * 64);

impl Short {
    /// Whether something waits for a place in this reactor's mailbox.
    const fn of_places(&self, reactor: u8) -> bool {
        self.places[reactor as usize / 64] & 1 << (reactor % 64) != 0
    }

    /// Notes that something waits for a place in this reactor's mailbox.
    const fn note_places(&mut self, reactor: u8) {
        self.places[reactor as usize / 64] |= 1 << (reactor % 64);
    }
}

impl Stripes {
    /// Takes a part of a request of this reactor's host. The caller has checked that there is room.
    #[inline(always)] // for its span: see `Span`
    pub(crate) fn take_own(&mut self, shared: &Shared, part: Part) {
        let index = self.parts.insert_own(part);
        self.enqueue(shared, index);
    }

    /// Takes a part of another reactor's request. The caller has checked that there is room.
    pub(crate) fn take_guest(&mut self, shared: &Shared, part: Part) {
        let index = self.parts.insert_guest(part);
        self.enqueue(shared, index);
    }

    /// Tries every parked part and job again, oldest first.
    pub(crate) fn retry_parked(&mut self, shared: &Shared) {
        self.short = Short::default();
        for _ in 0..self.parked.len() {
            match self.parked.pop_front().expect("counted") {
                Parked::Part(part) => self.enqueue(shared, part),
                Parked::Job(ask) => self.enqueue_job(shared, ask),
            }
        }
    }

    /// Hands a part to the op of its stripe: here, or at the reactor that owns the stripe.
    pub(crate) fn enqueue(&mut self, shared: &Shared, index: u32) {
        let tally = &shared.tallies[usize::from(self.me)];
        let stripe = self.parts.list[index].stripe;
        match self.own(shared, stripe) {
            Ownership::Op(op) => {
                let StripeOp { waiting, phase, .. } = &mut self.ops[op];
                waiting.push(&mut self.parts.list, index);
                if !matches!(phase, Phase::Fresh) {
                    tally.merged.add(1);
                }
            }
            Ownership::NoRoom => self.parked.push_back(Parked::Part(index)),
            Ownership::Other(reactor) => {
                let part = self.parts.list[index];
                if !self.post(shared, reactor, Ask::Part(part)) {
                    self.parked.push_back(Parked::Part(index));
                    return;
                }
                tally.handed_over.add(1);
                if part.home != self.me {
                    // The part came from a third reactor, which gets its answer from the new owner.
                    self.parts.remove(index);
                }
            }
        }
    }

    /// Hands a job to the op of its stripe: here, or at the reactor that owns the stripe. A job waits its
    /// turn like a part of a request, so a stripe that a host keeps busy delays the job only by the rounds in
    /// front of it. (Earlier, the steward tried again each turn and looked no further meanwhile: one hot
    /// stripe of another reactor held up the whole rebuild for as long as the stripe was hot.) A job that
    /// arrives after the owner has released the stripe goes on to the next owner, as a part does.
    pub(crate) fn enqueue_job(&mut self, shared: &Shared, ask: JobAsk) {
        let JobAsk { stripe, job } = ask;
        match self.own(shared, stripe) {
            Ownership::Op(op) if self.ops[op].background.is_none() && self.ops[op].job.is_none() => {
                self.ops[op].background = Some(job);
            }
            // The op already has a job: a resync and a rebuild have met at this stripe.
            Ownership::Op(_) | Ownership::NoRoom => self.parked.push_back(Parked::Job(ask)),
            Ownership::Other(reactor) => {
                if !self.post(shared, reactor, Ask::Job(ask)) {
                    self.parked.push_back(Parked::Job(ask));
                }
            }
        }
    }

    /// Posts an ask, unless something older waits for a place in that mailbox. Returns whether it was posted.
    pub(super) fn post(&mut self, shared: &Shared, reactor: u8, ask: Ask) -> bool {
        let posted = !self.short.of_places(reactor) && shared.mailboxes.post(self.me, reactor, ask);
        if !posted {
            self.short.note_places(reactor);
        }
        posted
    }

    /// Finds the op of a stripe, or takes ownership of the stripe with a new op.
    pub(super) fn own(&mut self, shared: &Shared, stripe: u64) -> Ownership {
        let slot = StripeLocks::slot_of(stripe);
        let head = self.owned[slot as usize];
        let mut op = head;
        while op != NO_OP {
            let index = u32::from(op);
            if self.ops[index].stripe == stripe {
                return Ownership::Op(index);
            }
            op = self.ops[index].chain;
        }
        if self.short.ops || self.ops.room() == 0 {
            self.short.ops = true;
            return Ownership::NoRoom;
        }
        if head == NO_OP
            && let Err(owner) = shared.locks.try_own(slot, self.me)
        {
            return Ownership::Other(owner);
        }
        let op = self.ops.insert(StripeOp::new(stripe, slot, head, shared.geometry.rotation(stripe)));
        self.owned[slot as usize] = op as u8;
        self.fresh.push_back(op);
        Ownership::Op(op)
    }

    /// Releases a stripe although more work waits for it, because something older waits for an op. The
    /// waiting work queues behind that.
    pub(super) fn give_way(&mut self, shared: &Shared, index: u32) {
        while let Some(part) = self.ops[index].waiting.pop(&mut self.parts.list) {
            self.parked.push_back(Parked::Part(part));
        }
        let StripeOp { stripe, background, .. } = self.ops[index];
        if let Some(job) = background {
            self.parked.push_back(Parked::Job(JobAsk { stripe, job }));
        }
        self.let_go(shared, index);
    }

    /// Releases a stripe and frees its op.
    pub(super) fn let_go(&mut self, shared: &Shared, index: u32) {
        let StripeOp { chain, lock_slot, .. } = self.ops[index];
        self.ops.free(index);
        let head = &mut self.owned[lock_slot as usize];
        if u32::from(*head) == index {
            *head = chain;
        } else {
            let mut before = u32::from(*head);
            while u32::from(self.ops[before].chain) != index {
                before = self.ops[before].chain.into();
            }
            self.ops[before].chain = chain;
        }
        if self.owned[lock_slot as usize] == NO_OP {
            shared.locks.release(lock_slot, self.me);
        }
    }
}
