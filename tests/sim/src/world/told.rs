//! TELL: an operator who only hears events knows at every rest which members take part, how many are in sync, and whether the array has
//! failed; and nothing is told twice.

use std::sync::Arc;

use crossbeam::channel::Receiver;
use engine::array::Shared;
use engine::events::Event;
use engine::geometry::Slots;

use super::World;

/// Events that may wait: they are heard after every turn.
const WAITING_MAX: usize = 64;

/// What is known by hearsay.
pub(super) struct Hearsay {
    events: Receiver<Event>,
    writable: Slots,
    /// Slots that are not in sync.
    missing: u8,
    has_failed: bool,
}

impl Hearsay {
    /// Of an array that is about to run. What it begins with is known.
    pub(super) fn of(shared: &Shared) -> Hearsay {
        let view = shared.members.view();
        Hearsay {
            events: shared.steward.events.listen(WAITING_MAX),
            writable: view.writable,
            missing: shared.geometry.slots().minus(view.readable).count() as u8,
            has_failed: shared.failed(),
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::MemberLeft { slot, .. } => {
                assert!(self.writable.has(slot), "TELL: slot {slot} has left, and was no member");
                self.writable = self.writable.minus(Slots::one(slot));
            }
            Event::MemberIsBack { slot, .. } | Event::RebuildBegun { slot, .. } => {
                self.writable = self.writable.or(Slots::one(slot));
            }
            Event::RebuildEnded { slot, .. } => {
                assert!(self.writable.has(slot), "TELL: slot {slot} is filled, and is no member");
            }
            Event::Redundancy { spare, missing } => {
                let now = (missing, spare.is_none());
                assert_ne!(now, (self.missing, self.has_failed), "TELL: nothing is new");
                (self.missing, self.has_failed) = now;
            }
            Event::ResyncBegun { .. }
            | Event::ResyncEnded { .. }
            | Event::DataLost { .. }
            | Event::Stopped => {}
        }
    }
}

impl World {
    pub(super) fn hear_events(&mut self) {
        let Some(hearsay) = &mut self.hearsay else { return };
        while let Ok(event) = hearsay.events.try_recv() {
            hearsay.hear(event);
        }
    }

    /// All is quiet.
    pub(super) fn check_told(&self) {
        let (Some(hearsay), shared) = (&self.hearsay, Arc::clone(self.running())) else { return };
        let view = shared.members.view();
        let missing = shared.geometry.slots().minus(view.readable).count() as u8;
        assert_eq!(shared.steward.events.unheard(), 0);
        assert_eq!(
            (hearsay.writable, hearsay.missing, hearsay.has_failed),
            (view.writable, missing, shared.failed()),
            "TELL: what was told, and what is"
        );
    }
}
