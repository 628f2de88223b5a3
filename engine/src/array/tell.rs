//! What the steward tells of: see [`events`](crate::events).
//!
//! At the end of its turn the steward compares what it told last with what is. Only the steward takes a slot in again, and many turns after
//! it has left; so no slot leaves and comes back between two looks. (In a read-only array a silent slot may: then it is not told of.)

use crate::events::Event;
use crate::geometry::Slots;
use crate::members::MemberView;

use super::{Array, Shared};

/// What was told last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    view: MemberView,
    has_failed: bool,
    /// The slot that is being filled.
    rebuilding: Option<u8>,
    is_resyncing: bool,
    lost_version: u64,
    lost_bytes: u64,
}

impl Told {
    /// As the array begins, nothing of which is news: the start says it.
    pub(super) fn at_the_start(shared: &Shared) -> Told {
        Told {
            view: shared.members.view(),
            has_failed: shared.failed(),
            rebuilding: None,
            is_resyncing: false,
            lost_version: shared.lost.version(),
            lost_bytes: shared.lost.bytes(),
        }
    }

    /// A slot is a member again, and is being filled. Told at once: it may have left again by the next look.
    pub(super) fn rebuild_begins(&mut self, shared: &Shared, slot: u8, from_stripe: u64) {
        self.rebuilding = Some(slot);
        self.view.writable = self.view.writable.or(Slots::one(slot));
        let device = shared.members.device(slot);
        shared.steward.events.tell(Event::RebuildBegun { slot, device, from_stripe });
    }

    /// Whether members have come or gone since.
    pub(super) fn is_behind(&self, shared: &Shared) -> bool {
        self.view != shared.members.view() || self.has_failed != shared.failed()
    }
}

impl Array {
    /// Tells what has changed since the last time.
    pub(super) fn tell(&mut self) {
        self.tell_work();
        self.tell_members();
        let (version, told) = (self.shared.lost.version(), self.steward().told);
        if version != told.lost_version {
            let bytes = self.shared.lost.bytes();
            if bytes > told.lost_bytes {
                self.shared.steward.events.tell(Event::DataLost { bytes });
            }
            let told = &mut self.steward_mut().told;
            (told.lost_version, told.lost_bytes) = (version, bytes);
        }
    }

    fn tell_members(&mut self) {
        let told = self.steward().told;
        if !told.is_behind(&self.shared) {
            return;
        }
        let shared = self.shared.clone();
        let (members, events) = (&shared.members, &shared.steward.events);
        let mut view = members.view();
        for slot in told.view.writable.minus(view.writable).iter() {
            match members.failure(slot) {
                Some(why) => events.tell(Event::MemberLeft { slot, device: members.device(slot), why }),
                // Who has taken it out is about to say why.
                None => {
                    let one = Slots::one(slot);
                    view.writable = view.writable.or(one);
                    view.readable = view.readable.or(told.view.readable.and(one));
                }
            }
        }
        if shared.read_only {
            for slot in view.writable.minus(told.view.writable).iter() {
                events.tell(Event::MemberIsBack { slot, device: members.device(slot) });
            }
        }
        let has_failed = shared.failed();
        // One slot may be filled as another leaves.
        if told.view.readable.count() != view.readable.count() || told.has_failed != has_failed {
            let missing = shared.geometry.slots().minus(view.readable).count() as u8;
            let spare = if has_failed { None } else { shared.geometry.parities().checked_sub(missing) };
            events.tell(Event::Redundancy { spare, missing });
        }
        let told = &mut self.steward_mut().told;
        (told.view, told.has_failed) = (view, has_failed);
    }

    fn tell_work(&mut self) {
        let (steward, shared) = (self.steward(), &self.shared);
        let (told, events) = (steward.told, &shared.steward.events);
        let readable = shared.members.view().readable;
        let rebuilding =
            steward.rebuild.as_ref().map(|rebuild| rebuild.slot).filter(|slot| !readable.has(*slot));
        let is_resyncing = steward.resync.is_running()
            && !shared.failed()
            && (told.is_resyncing || shared.bitmap.need_sync() > 0);
        // One that left before it was filled is told of as any member that leaves.
        let filled = told.rebuilding.filter(|slot| rebuilding != Some(*slot) && readable.has(*slot));
        if let Some(slot) = filled {
            events.tell(Event::RebuildEnded { slot, device: shared.members.device(slot) });
        }
        match (told.is_resyncing, is_resyncing) {
            (false, true) => events.tell(Event::ResyncBegun { stripes: shared.bitmap.need_sync() }),
            (true, false) => events.tell(Event::ResyncEnded { left: shared.bitmap.need_sync() }),
            (false, false) | (true, true) => {}
        }
        let told = &mut self.steward_mut().told;
        (told.rebuilding, told.is_resyncing) = (rebuilding, is_resyncing);
    }
}
