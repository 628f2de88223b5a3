//! The invariants of the operations on stripes; see the top of the room.

use crate::memory::Span;
use crate::shared::Shared;
use crate::slab::NONE;
use crate::turn::{IoFor, MemberIos};

use super::Stripes;
use super::op::Phase;
use super::ownership::{NO_OP, Parked};

impl Stripes {
    /// Asserts the invariants at the top of this room.
    pub(crate) fn check(&self, shared: &Shared, ios: &MemberIos) {
        self.check_parts();
        self.check_owners(shared);
        let mut in_flight = vec![0; self.ops.capacity() as usize];
        for io in ios.iter() {
            match io.what {
                IoFor::OpRead { op, .. }
                | IoFor::OpWrite { op, .. }
                | IoFor::OpAsk { op, .. }
                | IoFor::OpDeallocate { op } => in_flight[op as usize] += 1,
                _ => {}
            }
        }
        for (index, op) in self.ops.live() {
            let in_flight = std::mem::take(&mut in_flight[index as usize]);
            assert_eq!(in_flight, op.pending, "I/O of op {index}: {op:?}");
            let has_no_memory = matches!(op.phase, Phase::Fresh | Phase::Starved | Phase::Deallocating);
            assert!(
                !has_no_memory || op.work == Span::EMPTY && op.lot == NONE,
                "memory of op {index}: {op:?}"
            );
        }
        assert!(in_flight.iter().all(|count| *count == 0), "I/O of an op that is no more");
        assert!(self.discarded.is_empty() && self.jobs_ended.is_empty(), "left over from a turn");
    }

    /// Each part is in exactly one list here, or it is of this reactor's host and at another reactor.
    fn check_parts(&self) {
        let of_ops = self.ops.live().flat_map(|(_, op)| {
            op.waiting.indices(&self.parts.list).chain(op.active.indices(&self.parts.list))
        });
        let parked = self.parked.iter().filter_map(|parked| match parked {
            Parked::Part(part) => Some(*part),
            Parked::Job(_) => None,
        });
        let mut listed: Vec<u32> = of_ops.chain(parked).collect();
        listed.sort_unstable();
        assert!(listed.windows(2).all(|pair| pair[0] != pair[1]), "a part is in two lists: {listed:?}");
        for (index, part) in self.parts.list.live() {
            let is_here = listed.binary_search(&index).is_ok();
            assert!(is_here || part.home == self.me, "a guest is in no list: {part:?}");
        }
        self.parts.check();
    }

    /// An op exists exactly while this reactor owns its lock slot, and is found from there.
    fn check_owners(&self, shared: &Shared) {
        let mut found = 0;
        for (index, op) in self.ops.live() {
            assert!(!shared.locks.is_free(op.stripe), "op {index} does not own its stripe: {op:?}");
            let mut next = self.owned[op.lock_slot as usize];
            while next != NO_OP && u32::from(next) != index {
                next = self.ops[next.into()].chain;
            }
            found += usize::from(next != NO_OP);
        }
        assert_eq!(found, self.ops.len(), "an op is not found from its lock slot");
    }
}
