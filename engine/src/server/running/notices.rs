//! What a running array tells its operator: the engine's events in words, with the names of devices and what to do.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam::channel::Receiver;
use serde::Serialize;

use crate::array::Shared;
use crate::events::Event;
use crate::frontend::nbd::Visits;
use crate::limits::MEMBERS_MAX;
use crate::members::Failure;
use crate::ring::DeviceIndex;

use super::Server;
use super::devices::Devices;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look at it in time.
    Warning,
    /// Somebody should look at it now.
    Alarm,
}

/// The kind of a notice: the stable part, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the events of the same names say it")]
pub enum NoticeKind {
    MemberFailed,
    MemberBack,
    MemberRepaired,
    RebuildBegun,
    RebuildEnded,
    ResyncBegun,
    ResyncEnded,
    Optimal,
    Degraded,
    NoRedundancy,
    Failed,
    DataLost,
    /// Some notices found no room.
    Unheard,
}

/// Something that an operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// How much it matters.
    pub severity: Severity,
    /// What it is.
    pub kind: NoticeKind,
    /// The slot that it is about.
    pub slot: Option<u8>,
    /// The path of the device that it is about.
    pub path: Option<String>,
    /// The serial number of that device, if it has one.
    pub serial: Option<String>,
    /// What happened, and what to do.
    pub text: String,
}

/// The notices of one array, in order. Holds no member open.
pub struct Notices {
    events: Receiver<Event>,
    devices: Weak<Devices>,
    shared: Arc<Shared>,
    name: String,
    /// Repairs of each slot that were told.
    repairs: [u64; MEMBERS_MAX],
    unheard: u64,
    /// What the array began with has been told.
    has_begun: bool,
    /// The stream has ended.
    is_over: bool,
}

impl Server {
    /// The notices from the start on. To be asked for once: they go to the one who asked first.
    #[must_use]
    pub fn notices(&self) -> Notices {
        Notices {
            events: self.events.clone(),
            devices: Arc::downgrade(&self.devices),
            shared: Arc::clone(&self.shared),
            name: self.record.name.as_str().to_string(),
            repairs: [0; MEMBERS_MAX],
            unheard: 0,
            has_begun: false,
            is_over: false,
        }
    }
}

impl Server {
    /// The clients that come and go, where the array is served over NBD. To be asked for once.
    #[must_use]
    pub fn visits(&self) -> Option<Visits> {
        self.front.visits()
    }
}

impl Notices {
    /// The notices of the next moments, `None` at the end: when the server has stopped. Waits for up to `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Option<Vec<Notice>> {
        if self.is_over {
            return None;
        }
        if !self.has_begun {
            self.has_begun = true;
            return Some(self.beginning());
        }
        let mut notices = Vec::new();
        let mut event = self.events.recv_timeout(timeout).ok();
        while let Some(one) = event {
            if one == Event::Stopped {
                self.is_over = true;
                break;
            }
            notices.push(self.in_words(one));
            event = self.events.try_recv().ok();
        }
        self.repaired(&mut notices);
        let unheard = self.shared.steward.events.unheard();
        if unheard > self.unheard {
            let text = format!("{} notices were lost: there were too many at once", unheard - self.unheard);
            notices.push(notice(Severity::Warning, NoticeKind::Unheard, text));
            self.unheard = unheard;
        }
        Some(notices)
    }

    /// What the array lacks from the start on.
    fn beginning(&self) -> Vec<Notice> {
        let (geometry, members) = (&self.shared.geometry, &self.shared.members);
        let missing = geometry.slots().minus(members.view().readable).count() as u8;
        let lost = self.shared.lost.bytes();
        let lacks = (missing > 0).then(|| self.redundancy(geometry.parities().checked_sub(missing), missing));
        let lost = (lost > 0).then(|| self.in_words(Event::DataLost { bytes: lost }));
        lacks.into_iter().chain(lost).collect()
    }

    /// A notice for each slot that was repaired since the last time.
    fn repaired(&mut self, notices: &mut Vec<Notice>) {
        let shared = Arc::clone(&self.shared);
        for slot in shared.geometry.slots().iter() {
            let (now, told) = (shared.members.repairs(slot), self.repairs[usize::from(slot)]);
            if now > told {
                let text = format!(
                    "could not be read in {} places, which were written again with what the other members say",
                    now - told
                );
                let device = shared.members.device(slot);
                notices.push(self.about(Severity::Warning, NoticeKind::MemberRepaired, slot, device, text));
                self.repairs[usize::from(slot)] = now;
            }
        }
    }

    fn in_words(&self, event: Event) -> Notice {
        let (name, geometry) = (&self.name, &self.shared.geometry);
        match event {
            Event::MemberLeft { slot, device, why: Failure::Operator } => self.about(
                Severity::Warning,
                NoticeKind::MemberFailed,
                slot,
                device,
                format!("taken out of service by the operator; to fill the slot: `striate replace {name} {slot} DEVICE`"),
            ),
            Event::MemberLeft { slot, device, why } => self.about(
                Severity::Alarm,
                NoticeKind::MemberFailed,
                slot,
                device,
                format!("failed: {why}; the array goes on without it; to fill the slot: `striate replace {name} {slot} DEVICE`"),
            ),
            Event::MemberIsBack { slot, device } => self.about(
                Severity::Info,
                NoticeKind::MemberBack,
                slot,
                device,
                "answers again, and is read again".into(),
            ),
            Event::RebuildBegun { slot, device, from_stripe } => self.about(
                Severity::Info,
                NoticeKind::RebuildBegun,
                slot,
                device,
                format!("is being filled, from stripe {from_stripe} of {} on", geometry.stripes()),
            ),
            Event::RebuildEnded { slot, device } => {
                self.about(Severity::Info, NoticeKind::RebuildEnded, slot, device, "is filled".into())
            }
            Event::ResyncBegun { stripes } => notice(
                Severity::Info,
                NoticeKind::ResyncBegun,
                format!("parity of {stripes} stripes is being made to match"),
            ),
            Event::ResyncEnded { left: 0 } => {
                notice(Severity::Info, NoticeKind::ResyncEnded, "parity matches in every stripe".into())
            }
            Event::ResyncEnded { left } => notice(
                Severity::Warning,
                NoticeKind::ResyncEnded,
                format!(
                    "parity of {left} stripes could not be made to match: what they lack is missing, or cannot be read or written; `striate detail {name}` says more"
                ),
            ),
            Event::Redundancy { spare, missing } => self.redundancy(spare, missing),
            Event::DataLost { bytes } => notice(
                Severity::Alarm,
                NoticeKind::DataLost,
                format!(
                    "data was lost: {bytes} bytes cannot be read until they are written again; `striate detail {name}` lists them"
                ),
            ),
            Event::Stopped => unreachable!("it ends the notices"),
        }
    }

    /// The notice of how many members may still be lost, and how many are not in sync.
    fn redundancy(&self, spare: Option<u8>, missing: u8) -> Notice {
        let members = self.shared.geometry.members();
        let in_sync = format!("{} of {members} members are in sync", members - missing);
        match spare {
            _ if missing == 0 && spare.is_some() => {
                notice(Severity::Info, NoticeKind::Optimal, format!("all {members} members are in sync"))
            }
            Some(0) => notice(
                Severity::Alarm,
                NoticeKind::NoRedundancy,
                format!("{in_sync}: no redundancy is left, and the failure of one more loses data"),
            ),
            Some(spare) => notice(
                Severity::Warning,
                NoticeKind::Degraded,
                format!("{in_sync}: {spare} more may fail without loss of data"),
            ),
            None => notice(
                Severity::Alarm,
                NoticeKind::Failed,
                format!(
                    "{in_sync}: the array has failed; writes are refused, and reads of what is missing. Stop it, and serve it again with enough of its members"
                ),
            ),
        }
    }

    fn about(
        &self,
        severity: Severity,
        kind: NoticeKind,
        slot: u8,
        index: DeviceIndex,
        text: String,
    ) -> Notice {
        let device = self.devices.upgrade().and_then(|devices| devices.get(index));
        let path = device.as_ref().map(|device| device.path().display().to_string());
        let serial = device.as_ref().and_then(|device| device.serial()).map(str::to_string);
        let what = path.as_deref().map_or(String::new(), |path| format!(": {path}"));
        Notice { severity, kind, slot: Some(slot), path, serial, text: format!("slot {slot}{what}: {text}") }
    }
}

fn notice(severity: Severity, kind: NoticeKind, text: String) -> Notice {
    Notice { severity, kind, slot: None, path: None, serial: None, text }
}
