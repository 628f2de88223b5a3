//! Who owns a stripe, and how the parts of requests come to its owner.
//!
//! A stripe that is written, reconstructed, discarded, resynced or rebuilt is owned by one reactor from the
//! first read to the last write ([`bitmap::StripeLocks`]); parts that arrive meanwhile queue behind the op
//! and are merged into the next. A reactor that finds a stripe owned by another posts the part to that
//! reactor's mailbox; when the owner has let go meanwhile, it competes for the lock like anyone. Nothing is
//! hashed to cores, so the uncontended path stays on one.
//!
//! A part for which there is no op, or no place in the owner's mailbox, is parked. What is parked is looked
//! at each turn, oldest first. While a part or a job waits for an op, an op that has done a round of work
//! gives way even if more waits for its stripe: the rest queues behind what is parked. Otherwise a few
//! stripes that are never left alone could keep all ops for ever.

use bitmap::StripeLocks;

use crate::job::JobAsk;
use crate::mailbox::Ask;
use crate::part::Part;
use crate::shared::Shared;

use super::Stripes;
use super::op::{Phase, StripeOp};

/// No op in a lock slot. The table has a byte a slot, so that it stays in a core's cache.
pub(super) const NO_OP: u8 = u8::MAX;

/// What waits for an op, or for a place in the mailbox of its stripe's owner.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parked {
    /// A part, by its index.
    Part(u32),
    /// Background work.
    Job(JobAsk),
}

/// Where a part's stripe is.
pub(super) enum Ownership {
    /// Here, in this op.
    Op(u32),
    /// Here or free, but there is no op to be had.
    NoRoom,
    /// At that reactor.
    Other(u8),
}

/// What this reactor is short of: for as long as something waits for a place, what comes later waits behind
/// it.
///
/// Parked parts and jobs are looked at each turn, oldest first. The first that finds no room notes here what
/// it is short of; from then on nothing that comes later takes room of that kind, in this turn and before the
/// next look: new requests and mail are taken between two looks, and so would always find the room first that
/// a completion has just given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Short {
    /// Operations: a parked part or job has found none.
    pub(super) ops: bool,
    /// Places in the mailboxes of these reactors, a bit each.
    places: [u64; 4],
}

const _: () = assert!(crate::limits::REACTORS_MAX <= 4 * 64);

impl Short {
    /// Whether something waits for a place in the mailbox of this reactor.
    const fn of_places(&self, reactor: u8) -> bool {
        self.places[reactor as usize / 64] & 1 << (reactor % 64) != 0
    }

    /// Notes that something waits for a place in the mailbox of this reactor.
    const fn note_places(&mut self, reactor: u8) {
        self.places[reactor as usize / 64] |= 1 << (reactor % 64);
    }
}

impl Stripes {
    /// Takes a part of a request of this reactor's host. The caller has looked for room.
    #[inline(always)] // for its span: see `Span`
    pub(crate) fn take_own(&mut self, shared: &Shared, part: Part) {
        let index = self.parts.insert_own(part);
        self.enqueue(shared, index);
    }

    /// Takes a part of another reactor's request. The caller has looked for room.
    pub(crate) fn take_guest(&mut self, shared: &Shared, part: Part) {
        let index = self.parts.insert_guest(part);
        self.enqueue(shared, index);
    }

    /// Looks at what is parked, oldest first.
    pub(crate) fn retry_parked(&mut self, shared: &Shared) {
        self.short = Short::default();
        for _ in 0..self.parked.len() {
            match self.parked.pop_front().expect("counted") {
                Parked::Part(part) => self.enqueue(shared, part),
                Parked::Job(ask) => self.enqueue_job(shared, ask),
            }
        }
    }

    /// Hands a part to the op of its stripe: here, or at the reactor that owns it.
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
                    // It was another reactor's in the first place, which hears from the new owner.
                    self.parts.remove(index);
                }
            }
        }
    }

    /// Posts an ask, unless something older waits for a place in that mailbox.
    pub(super) fn post(&mut self, shared: &Shared, reactor: u8, ask: Ask) -> bool {
        let posted = !self.short.of_places(reactor) && shared.mailboxes.post(self.me, reactor, ask);
        if !posted {
            self.short.note_places(reactor);
        }
        posted
    }

    /// The op of a stripe that this reactor owns or now comes to own.
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

    /// Lets a stripe go though more waits for it: something older waits for an op. What waited here queues
    /// behind that.
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

    /// Lets a stripe go.
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
