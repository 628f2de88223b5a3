//! Requests of the host, and their answers.

use std::sync::Arc;

use engine::memory::Span;
use engine::request::{Reply, Request, RequestError, RequestKind};

use crate::disk::{SECTOR, name_of};
use crate::host::{Asked, Wish};
use crate::monitors::Monitors;

use super::{Reactor, World};

impl World {
    /// Makes the host's next random request.
    pub fn submit_random(&mut self) {
        let chunk_sectors = u64::from(self.geometry.chunk_bytes()) / SECTOR as u64;
        let (sectors, stripe_sectors) = (self.sectors(), self.stripe_sectors());
        let wish = self.host.wish(&mut self.rng, sectors, stripe_sectors, chunk_sectors);
        self.submit(wish);
    }

    /// Submits a request, rounded to whole blocks, to a random reactor. Returns false if there is no room.
    pub fn submit(&mut self, wish: Wish) -> bool {
        let (kind, block) = (wish.kind, self.config.block_sectors());
        let (first, count) = (wish.first / block * block, wish.count.next_multiple_of(block));
        let reactor = self.rng.below(self.reactors.len() as u64) as usize;
        if self.reactors[reactor].array.room() == 0 {
            return false;
        }
        if self.refuses_writes() && !matches!(kind, RequestKind::Read | RequestKind::Flush) {
            return false;
        }
        let has_data = matches!(kind, RequestKind::Read | RequestKind::Write { .. });
        let len_bytes = count * SECTOR as u64;
        let span = if has_data {
            let pool = self.host_pool.as_mut().expect("a host has its memory");
            let Some(span) = pool.take(len_bytes as u32) else { return false };
            span
        } else {
            Span::EMPTY
        };
        if !matches!(kind, RequestKind::Read | RequestKind::Flush) {
            self.note_written(first, count);
        }
        let tag = self.next_tag;
        self.next_tag += 1;
        let start = match kind {
            RequestKind::Read => {
                self.memory.with_mut(span, |bytes| bytes.fill(0xdd));
                self.oracle.read_begins()
            }
            RequestKind::Flush => self.oracle.flush_begins(),
            RequestKind::Write { .. } => {
                let (memory, host, rng) = (&self.memory, &mut self.host, &mut self.rng);
                let names: Vec<u64> = memory.with_mut(span, |bytes| {
                    host.fill(rng, bytes);
                    bytes.chunks_exact(SECTOR).map(name_of).collect()
                });
                if self.bus.borrow().verbose {
                    println!("{:>27}contents #{tag} from {first}: {names:x?}", "");
                }
                self.oracle.write_begins(tag, first, &names)
            }
            RequestKind::Discard | RequestKind::WriteZeroes { .. } => {
                self.oracle.write_begins(tag, first, &vec![0; count as usize])
            }
        };
        let excused = self.is_excused(first, count, kind == RequestKind::Read);
        let mut bus = self.bus.borrow_mut();
        bus.note(tag ^ first << 20 ^ count << 40, || {
            format!("submit   #{tag} at {reactor}: {kind:?} {first}+{count}")
        });
        let (bus_moment, asked_ns, faults_hit) = (bus.moment, bus.now_ns, bus.faults_hit);
        drop(bus);
        self.asked.push(Asked {
            tag,
            reactor,
            kind,
            first,
            count,
            span,
            start,
            bus_moment,
            asked_ns,
            excused,
            had_failed: self.running().failed(),
            faults_hit,
        });
        let request = Request { tag, kind, offset_bytes: first * SECTOR as u64, len_bytes, span };
        let Reactor { array, ring } = &mut self.reactors[reactor];
        array.submit(ring, asked_ns, request);
        true
    }

    /// Whether some disk refuses operations although it is not broken.
    #[must_use]
    pub fn is_refusing(&self) -> bool {
        let bus = self.bus.borrow();
        bus.worn || bus.disks.iter().any(|disk| disk.refusal.is_some())
    }

    /// Whether a disk may refuse an operation that this request needs. A worn sector refuses only writes of
    /// its own stripe.
    fn may_refuse(&self, asked: &Asked) -> bool {
        let stripes =
            asked.first / self.stripe_sectors()..(asked.first + asked.count).div_ceil(self.stripe_sectors());
        self.is_refusing()
            && (!self.bus.borrow().worn || stripes.into_iter().any(|stripe| self.is_worn(stripe)))
    }

    /// Whether the array is served read-only.
    #[must_use]
    pub fn refuses_writes(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.read_only)
    }

    /// Whether an error is excused: a stripe of the range needed a resync when a member was missing, its rows
    /// cannot be computed, or more is broken than the level tolerates.
    pub(super) fn is_excused(&self, first: u64, count: u64, is_read: bool) -> bool {
        if self.beyond_level {
            return true;
        }
        if self.is_lost(first, count.max(1), is_read) {
            return true;
        }
        let stripes = first / self.stripe_sectors()..=(first + count.max(1) - 1) / self.stripe_sectors();
        stripes.into_iter().any(|stripe| self.lossy.contains(&stripe))
    }

    /// Marks stripes as lossy for which a disk refused a write.
    fn mark_refused(&mut self) {
        let mut bus = self.bus.borrow_mut();
        let chunk_bytes = u64::from(self.geometry.chunk_bytes());
        let refused = std::mem::take(&mut bus.refused_strips);
        let stripe_of = |(disk, sector): (usize, u64)| {
            let first = bus.disks[disk].place_in_data(0, chunk_bytes).first;
            (sector - first) * SECTOR as u64 / chunk_bytes
        };
        self.lossy.extend(refused.into_iter().map(stripe_of));
    }

    /// Marks stripes that are `NeedSync` now as lossy: the coming fault may cost them a strip.
    pub fn mark_lossy(&mut self) {
        let shared = Arc::clone(self.running());
        let mut next = shared.bitmap.next_need_sync(0);
        while let Some(stripe) = next {
            self.lossy.insert(stripe);
            next = (stripe + 1 < self.geometry.stripes())
                .then(|| shared.bitmap.next_need_sync(stripe + 1))
                .flatten();
        }
    }

    pub(super) fn take_reply(&mut self, reply: Reply) {
        let at = self.asked.iter().position(|asked| asked.tag == reply.tag);
        let at = at.unwrap_or_else(|| panic!("I8: request #{} is answered twice", reply.tag));
        let mut asked = self.asked.swap_remove(at);
        asked.span = reply.span;
        let ok = reply.result.is_ok();
        self.answered += 1;
        let waited_ns = self.bus.borrow().now_ns - asked.asked_ns;
        self.waits.add(asked.kind, waited_ns);
        self.errors += u64::from(!ok);
        self.bus.borrow_mut().note(asked.tag ^ u64::from(ok) << 60, || {
            format!(
                "reply    #{}: {:?} {}+{} -> {:?}",
                asked.tag, asked.kind, asked.first, asked.count, reply.result
            )
        });
        if let Err(error) = reply.result {
            let is_short = self.running().members.view().readable != self.geometry.slots()
                || !self.dead_slots().is_empty();
            if self.is_refusing() && is_short {
                // A refused write has torn its stripe while a strip is missing, perhaps on a disk whose death
                // was not noticed yet. The refused write may still be unanswered: a request of several
                // stripes has one answer, and this answer may belong to a read of a stripe that is already
                // torn. Stripes that were `NeedSync` before, in an array that is short of a member, are in
                // this set anyway. Within one turn a stripe may have been torn, read and discarded, so
                // stripes with refused writes count as well.
                self.mark_lossy();
                self.mark_refused();
            }
            // A batch is written twice before it is refused: a single fault never refuses it, but two faults
            // may have hit the batch and its repetition.
            let is_unlucky = self.bus.borrow().faults_hit - asked.faults_hit > 1;
            let refused = match error {
                RequestError::NoSpace => self.may_refuse(&asked),
                RequestError::NotTaken => self.may_refuse(&asked) || is_unlucky,
                _ => false,
            };
            let excused = refused
                || error == RequestError::Lost
                    && (asked.excused
                        || self.is_excused(asked.first, asked.count, asked.kind == RequestKind::Read));
            assert!(excused, "ERROR: {asked:?} is answered {error:?}, and nothing excuses it");
            if refused && asked.kind != RequestKind::Read {
                // The request's stripes may be `NeedSync` now, and are then resynced and swept like others.
                // What an unclean end may cost is counted afresh from here.
                self.idle.forget();
            }
            if asked.kind != RequestKind::Flush && asked.count > 0 && !refused {
                let last = asked.first + asked.count - 1;
                self.torn.extend(asked.first / self.stripe_sectors()..=last / self.stripe_sectors());
            }
        }
        assert!(
            !(ok && asked.had_failed && asked.kind != RequestKind::Read),
            "E2: {asked:?} is acknowledged, and the array had failed when it was asked"
        );
        match asked.kind {
            RequestKind::Read if ok => self.check_read(&asked),
            RequestKind::Read => {}
            RequestKind::Flush if ok => {
                Monitors::check_flushed(&mut self.bus.borrow_mut(), asked.bus_moment);
                self.oracle.flush_ends(asked.start);
            }
            RequestKind::Flush => {}
            RequestKind::Write { fua } | RequestKind::WriteZeroes { fua } => {
                self.oracle.write_ends(asked.tag, asked.first, asked.count, ok, fua);
                if ok {
                    self.check_written(&asked, fua);
                }
            }
            RequestKind::Discard => self.oracle.write_ends(asked.tag, asked.first, asked.count, ok, false),
        }
        if !matches!(asked.kind, RequestKind::Read | RequestKind::Flush) {
            self.written_at = self.oracle.now();
            self.note_written(asked.first, asked.count);
        }
        if asked.span != Span::EMPTY {
            self.host_pool.as_mut().expect("a host has its memory").give(asked.span);
        }
    }
}
