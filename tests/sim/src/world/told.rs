//! TELL: events alone tell an operator the truth. Whenever the array rests, the events since its start say
//! which members take part, how many are in sync, which slot is being rebuilt, and whether the array has
//! failed. No event is told twice.

use std::sync::Arc;

use crossbeam::channel::Receiver;
use engine::array::Shared;
use engine::events::Event;
use engine::geometry::Slots;

use super::World;

/// Most events that may be queued. They are read after every turn.
const WAITING_MAX: usize = 64;

/// State of an array as its events tell it.
pub(super) struct Hearsay {
    events: Receiver<Event>,
    writable: Slots,
    /// Number of slots that are not in sync.
    missing: u8,
    has_failed: bool,
    rebuilding: Option<u8>,
}

impl Hearsay {
    /// State before the first event: every slot is assumed to be in sync until an event says otherwise.
    pub(super) fn of(shared: &Shared) -> Hearsay {
        Hearsay {
            events: shared.steward.events.listen(WAITING_MAX),
            writable: shared.geometry.slots(),
            missing: 0,
            has_failed: false,
            rebuilding: None,
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::SlotMissing { slot } | Event::MemberLeft { slot, .. } => {
                assert!(self.writable.has(slot), "TELL: slot {slot} has left, and was no member");
                self.writable = self.writable.minus(Slots::one(slot));
            }
            Event::MemberIsBack { slot, .. } => self.writable = self.writable.or(Slots::one(slot)),
            Event::RebuildBegun { slot, .. } => {
                self.writable = self.writable.or(Slots::one(slot));
                assert_eq!(self.rebuilding.replace(slot), None, "TELL: one rebuild at a time");
            }
            Event::RebuildEnded { slot, .. } => {
                assert_eq!(self.rebuilding.take(), Some(slot), "TELL: slot {slot} was not being rebuilt");
            }
            Event::RebuildBrokenOff { slot, .. } => {
                assert_eq!(self.rebuilding.take(), Some(slot), "TELL: slot {slot} was not being rebuilt");
            }
            Event::Redundancy { spare, missing } => {
                let now = (missing, spare.is_none());
                assert_ne!(now, (self.missing, self.has_failed), "TELL: nothing is new");
                (self.missing, self.has_failed) = now;
            }
            Event::ResyncBegun { .. }
            | Event::ResyncEnded { .. }
            | Event::ServingStopped { .. }
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

    /// TELL: compares what was told with the array's state. Nothing may be in progress.
    pub(super) fn check_told(&self) {
        let (Some(hearsay), shared) = (&self.hearsay, Arc::clone(self.running())) else { return };
        let view = shared.members.view();
        let missing = shared.geometry.slots().minus(view.readable).count() as u8;
        let rebuilding = view.rebuilding().iter().next().filter(|_| !shared.failed() && !shared.read_only);
        assert_eq!(shared.steward.events.unheard(), 0);
        assert_eq!(
            (hearsay.writable, hearsay.missing, hearsay.has_failed, hearsay.rebuilding),
            (view.writable, missing, shared.failed(), rebuilding),
            "TELL: what was told, and what is"
        );
    }
}
