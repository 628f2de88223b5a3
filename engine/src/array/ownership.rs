//! Who owns a stripe, and how the parts of requests come to its owner.
//!
//! A stripe that is written, reconstructed, discarded, resynced or rebuilt is owned by
//! one reactor from the first read to the last write ([`bitmap::StripeLocks`]); parts that arrive meanwhile
//! queue behind the op and are merged into the next. A reactor that finds a stripe owned by another
//! posts the part to that reactor's mailbox; when the owner has let go meanwhile, it competes for the
//! lock like anyone. Nothing is hashed to cores, so the uncontended path stays on one.
//!
//! A part for which there is no op, or no place in the owner's mailbox, is parked. What is parked is looked at each turn, oldest
//! first. While a part or a job waits for an op, an op that has done a round of work gives way even if more waits for its
//! stripe: the rest queues behind what is parked. Otherwise a few stripes that are never left alone could keep all ops for ever.

use bitmap::StripeLocks;

use crate::mailbox::Ask;

use crate::job::JobAsk;
use crate::stripe::op::{Phase, StripeOp};

use super::{Array, NO_OP};

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

impl Array {
    /// Hands a part to the op of its stripe: here, or at the reactor that owns it.
    pub(super) fn enqueue(&mut self, index: u32) {
        let stripe = self.parts[index].stripe;
        match self.own(stripe) {
            Ownership::Op(op) => {
                let StripeOp { waiting, phase, .. } = &mut self.ops[op];
                waiting.push(&mut self.parts, index);
                if !matches!(phase, Phase::Fresh) {
                    self.tally().merged.add(1);
                }
            }
            Ownership::NoRoom => self.parked.push_back(Parked::Part(index)),
            Ownership::Other(reactor) => {
                let part = self.parts[index];
                if !self.post(reactor, Ask::Part(part)) {
                    self.parked.push_back(Parked::Part(index));
                    return;
                }
                self.tally().handed_over.add(1);
                if part.home != self.me {
                    // It was another reactor's in the first place, which hears from the new owner.
                    self.parts.remove(index);
                    self.guests -= 1;
                }
            }
        }
    }

    /// The op of a stripe that this reactor owns or now comes to own.
    pub(super) fn own(&mut self, stripe: u64) -> Ownership {
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
            && let Err(owner) = self.shared.locks.try_own(slot, self.me)
        {
            return Ownership::Other(owner);
        }
        let op = self.ops.insert(StripeOp::new(stripe, slot, head, self.shared.geometry.rotation(stripe)));
        self.owned[slot as usize] = op as u8;
        self.fresh.push_back(op);
        Ownership::Op(op)
    }

    /// Lets a stripe go though more waits for it: something older waits for an op. What waited here queues behind that.
    pub(super) fn give_way(&mut self, index: u32) {
        while let Some(part) = self.ops[index].waiting.pop(&mut self.parts) {
            self.parked.push_back(Parked::Part(part));
        }
        let StripeOp { stripe, background, .. } = self.ops[index];
        if let Some(job) = background {
            self.parked.push_back(Parked::Job(JobAsk { stripe, job }));
        }
        self.let_go(index);
    }

    pub(super) fn let_go(&mut self, index: u32) {
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
            self.shared.locks.release(lock_slot, self.me);
        }
    }
}
