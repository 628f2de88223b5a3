//! The steward's part of the [`events`](crate::events): it finds out what has changed and reports it.
//!
//! At the end of its turn the steward compares the present state with the state that it reported last: first
//! members that have left, then background work, then redundancy. Only the steward takes a slot in again,
//! many turns after the slot has left, so no slot leaves and comes back between two looks. (In a read-only
//! array a silent slot may do so; then no event reports it.) The first events say what the array lacks at its
//! start.

use crate::events::Event;
use crate::geometry::Slots;
use crate::members::MemberView;
use crate::shared::Shared;

use super::Steward;

/// The state that was reported last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    view: MemberView,
    has_failed: bool,
    has_stopped_serving: bool,
    /// The slot that is being rebuilt.
    rebuilding: Option<u8>,
    is_resyncing: bool,
}

impl Told {
    /// Reports what the array lacks as it begins. (If a rebuild continues, the steward reports that.)
    pub(super) fn at_the_start(shared: &Shared) -> Told {
        let (view, has_failed) = (shared.members.view(), shared.failed());
        let events = &shared.steward.events;
        for slot in shared.geometry.slots().minus(view.writable).iter() {
            events.tell(Event::SlotMissing { slot });
        }
        if view.readable != shared.geometry.slots() || has_failed {
            events.tell(redundancy(shared, &view, has_failed));
        }
        Told { view, has_failed, has_stopped_serving: false, rebuilding: None, is_resyncing: false }
    }

    /// Reports at once that a slot is a member again and is being rebuilt: it may have left again by the next
    /// look.
    pub(super) fn rebuild_begins(&mut self, shared: &Shared, slot: u8, from_stripe: u64) {
        self.rebuilding = Some(slot);
        self.view.writable = self.view.writable.or(Slots::one(slot));
        let device = shared.members.device(slot);
        shared.steward.events.tell(Event::RebuildBegun { slot, device, from_stripe });
    }

    /// Whether members have left or come back since the last report.
    pub(super) fn is_behind(&self, shared: &Shared) -> bool {
        self.view != shared.members.view() || self.has_failed != shared.failed()
    }
}

/// The event that reports how many members are in sync.
fn redundancy(shared: &Shared, view: &MemberView, has_failed: bool) -> Event {
    let missing = shared.geometry.slots().minus(view.readable).count() as u8;
    let spare = if has_failed { None } else { shared.geometry.parities().checked_sub(missing) };
    Event::Redundancy { spare, missing }
}

impl Steward {
    /// Reports what has changed since the last time.
    pub(super) fn tell(&mut self, shared: &Shared) {
        let is_behind = self.told.is_behind(shared);
        let seen = is_behind.then(|| self.tell_members(shared));
        self.tell_work(shared);
        if let Some((view, has_failed)) = seen {
            self.tell_redundancy(shared, view, has_failed);
        }
    }

    /// Reports members that have left or are back, and a refusal that has stopped the array. Returns the
    /// state that it has reported.
    fn tell_members(&mut self, shared: &Shared) -> (MemberView, bool) {
        let told = self.told;
        let (members, events) = (&shared.members, &shared.steward.events);
        let mut view = members.view();
        let has_failed = shared.failed();
        for slot in told.view.writable.minus(view.writable).iter() {
            let device = members.device(slot);
            let left = |why| Event::MemberLeft { slot, device, why, array_has_failed: has_failed };
            match members.failure(slot) {
                Some(why) => events.tell(left(why)),
                // The reason is stored a moment after the slot has left the view: the next look reports it.
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
        if let Some((slot, errno)) = members.stopped_serving_by().filter(|_| !told.has_stopped_serving) {
            events.tell(Event::ServingStopped { slot, device: members.device(slot), errno });
            self.told.has_stopped_serving = true;
        }
        (view, has_failed)
    }

    fn tell_redundancy(&mut self, shared: &Shared, view: MemberView, has_failed: bool) {
        let told = self.told;
        // Compare the counts: one slot may finish its rebuild in the turn in which another leaves.
        if told.view.readable.count() != view.readable.count() || told.has_failed != has_failed {
            shared.steward.events.tell(redundancy(shared, &view, has_failed));
        }
        let told = &mut self.told;
        (told.view, told.has_failed) = (view, has_failed);
    }

    fn tell_work(&mut self, shared: &Shared) {
        let (told, events) = (self.told, &shared.steward.events);
        let (view, has_failed) = (shared.members.view(), shared.failed());
        let rebuilding = self.rebuild.as_ref().map(|rebuild| rebuild.slot);
        let may_go_on = !has_failed && !shared.read_only;
        let rebuilding = rebuilding.filter(|slot| may_go_on && view.rebuilding().has(*slot));
        let is_resyncing =
            self.resync.is_running() && !has_failed && (told.is_resyncing || shared.bitmap.need_sync() > 0);
        if let Some(slot) = told.rebuilding.filter(|slot| rebuilding != Some(*slot)) {
            let device = shared.members.device(slot);
            events.tell(if view.readable.has(slot) {
                Event::RebuildEnded { slot, device }
            } else {
                Event::RebuildBrokenOff { slot, device, at_stripe: shared.members.cursor() }
            });
        }
        match (told.is_resyncing, is_resyncing) {
            (false, true) => events.tell(Event::ResyncBegun { stripes: shared.bitmap.need_sync() }),
            (true, false) => events.tell(Event::ResyncEnded { left: shared.bitmap.need_sync() }),
            (false, false) | (true, true) => {}
        }
        let told = &mut self.told;
        (told.rebuilding, told.is_resyncing) = (rebuilding, is_resyncing);
    }
}
