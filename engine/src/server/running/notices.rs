//! The notices of a running array for its operator: the engine's events in words, with the names of devices
//! and advice.
//!
//! Lost data, repairs and a stuck rebuild are not events: `watch` looks for them between two waits for
//! events.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam::channel::Receiver;
use serde::Serialize;

use crate::array::Shared;
use crate::clock::{Clock, MonotonicClock};
use crate::events::Event;
use crate::frontend::nbd::Visits;
use crate::limits::MEMBERS_MAX;
use crate::members::Failure;
use crate::ring::DeviceIndex;
use crate::status::MemberState;

use super::Server;
use super::devices::Devices;

mod watch;

use watch::{Found, Watch};

/// How urgent a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For information only.
    Info,
    /// An operator should look at the array soon.
    Warning,
    /// An operator should look at the array now.
    Alarm,
}

/// Kind of a notice: the stable part, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the events of the same names say it")]
pub enum NoticeKind {
    MemberMissing,
    MemberFailed,
    MemberBack,
    MemberRepaired,
    RebuildBegun,
    RebuildEnded,
    RebuildBrokenOff,
    /// A rebuild has made no progress for some time.
    RebuildStuck,
    ResyncBegun,
    ResyncEnded,
    Optimal,
    Degraded,
    NoRedundancy,
    Failed,
    ServingStopped,
    /// More data is lost than was reported before.
    DataLost,
    /// No data is lost any more.
    DataRestored,
    /// The list of lost rows is full.
    LostListFull,
    /// At least one notice found no room and was dropped.
    Unheard,
}

/// A message for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// How urgent the notice is.
    pub severity: Severity,
    /// Kind of the notice, for programs.
    pub kind: NoticeKind,
    /// Slot that the notice is about.
    pub slot: Option<u8>,
    /// Path of the device that the notice is about.
    pub path: Option<String>,
    /// Serial number of the device, if it has one.
    pub serial: Option<String>,
    /// Text: the event, and what to do.
    pub text: String,
}

/// The notices of one array, in order. Keeps no member open.
pub struct Notices {
    events: Receiver<Event>,
    devices: Weak<Devices>,
    shared: Arc<Shared>,
    name: String,
    /// State at the start of each slot without a member.
    absent: Vec<Option<MemberState>>,
    /// Repairs of each slot's device that were already reported.
    repairs: [u64; MEMBERS_MAX],
    watch: Watch,
    unheard: u64,
    /// Whether the stream has ended.
    is_over: bool,
}

impl Server {
    /// The notices since the start. Call this only once: a second stream gets none of the events.
    #[must_use]
    pub fn notices(&self) -> Notices {
        Notices {
            events: self.events.clone(),
            devices: Arc::downgrade(&self.devices),
            shared: Arc::clone(&self.shared),
            name: self.record.name.as_str().to_string(),
            absent: self.absent.clone(),
            repairs: [0; MEMBERS_MAX],
            watch: Watch::default(),
            unheard: 0,
            is_over: false,
        }
    }
}

impl Server {
    /// The NBD clients that come and go, if the array is served over NBD. Call this only once.
    #[must_use]
    pub fn visits(&self) -> Option<Visits> {
        self.front.visits()
    }
}

impl Notices {
    /// Waits up to `timeout` for events and returns the notices. `None` at the end, when the server has
    /// stopped.
    pub fn next(&mut self, timeout: Duration) -> Option<Vec<Notice>> {
        if self.is_over {
            return None;
        }
        let mut notices = Vec::new();
        let mut event = self.events.recv_timeout(timeout).ok();
        while let Some(one) = event {
            if one == Event::Stopped {
                self.is_over = true;
                break;
            }
            if let Event::RebuildBegun { slot, .. } = one {
                // A new device's repairs are counted from zero.
                self.repairs[usize::from(slot)] = 0;
            }
            notices.push(self.in_words(one));
            event = self.events.try_recv().ok();
        }
        self.overflowed(&mut notices);
        self.repaired(&mut notices);
        let found = self.watch.look(&self.shared, MonotonicClock.now_ns());
        notices.extend(found.into_iter().map(|found| self.of_found(found)));
        Some(notices)
    }

    /// If events found no room: adds a notice that says so, and notices of the present state, to which the
    /// dropped events have led.
    fn overflowed(&mut self, notices: &mut Vec<Notice>) {
        let unheard = self.shared.steward.events.unheard();
        if unheard == self.unheard {
            return;
        }
        let text = format!(
            "{} notices were lost: there were too many at once; the state now:",
            unheard - self.unheard
        );
        self.unheard = unheard;
        notices.push(notice(Severity::Warning, NoticeKind::Unheard, text));
        let (geometry, members) = (&self.shared.geometry, &self.shared.members);
        let view = members.view();
        let out_of_service = geometry.slots().minus(view.writable).iter();
        let now = |slot| match members.failure(slot) {
            Some(why) => {
                let (device, array_has_failed) = (members.device(slot), self.shared.failed());
                Event::MemberLeft { slot, device, why, array_has_failed }
            }
            None => Event::SlotMissing { slot },
        };
        notices.extend(out_of_service.map(|slot| self.in_words(now(slot))));
        let missing = geometry.slots().minus(view.readable).count() as u8;
        let spare = if self.shared.failed() { None } else { geometry.parities().checked_sub(missing) };
        notices.push(self.redundancy(spare, missing));
    }

    /// Adds a notice for each slot with repairs since the last time.
    fn repaired(&mut self, notices: &mut Vec<Notice>) {
        let shared = Arc::clone(&self.shared);
        for slot in shared.geometry.slots().iter() {
            let (now, told) = (shared.members.repairs(slot), self.repairs[usize::from(slot)]);
            if now > told {
                let text = format!("{} unreadable places were repaired from the other members", now - told);
                let device = shared.members.device(slot);
                notices.push(self.about(Severity::Warning, NoticeKind::MemberRepaired, slot, device, text));
                self.repairs[usize::from(slot)] = now;
            }
        }
    }

    fn of_found(&self, found: Found) -> Notice {
        let name = &self.name;
        match found {
            Found::Lost { bytes } => notice(
                Severity::Alarm,
                NoticeKind::DataLost,
                format!(
                    "data was lost: {bytes} bytes cannot be read until they are written again; `striate lost {name}` lists them"
                ),
            ),
            Found::Restored => {
                notice(Severity::Info, NoticeKind::DataRestored, "no data is lost any more".into())
            }
            Found::ListFull => notice(
                Severity::Alarm,
                NoticeKind::LostListFull,
                format!(
                    "the list of lost rows is full: nothing is rebuilt or resynced where more is lost, until some of what `striate lost {name}` lists is overwritten or discarded"
                ),
            ),
            Found::Stuck { slot, stripe } => self.about(
                Severity::Warning,
                NoticeKind::RebuildStuck,
                slot,
                self.shared.members.device(slot),
                format!(
                    "its rebuild has stood still at stripe {stripe} of {} for a minute: other members cannot be read there, or the list of lost rows is full; `striate detail {name}` says more",
                    self.shared.geometry.stripes()
                ),
            ),
        }
    }

    fn in_words(&self, event: Event) -> Notice {
        let (name, geometry) = (&self.name, &self.shared.geometry);
        match event {
            Event::SlotMissing { slot } => {
                let what = match self.absent[usize::from(slot)] {
                    Some(MemberState::Failed) => "its member has failed",
                    _ => "its member is missing",
                };
                let advice = format!("to fill the slot: `striate replace {name} {slot} DEVICE`");
                let text = format!("slot {slot}: {what}; {advice}");
                Notice { slot: Some(slot), ..notice(Severity::Warning, NoticeKind::MemberMissing, text) }
            }
            Event::MemberLeft { slot, device, why, array_has_failed } => {
                let (severity, text) = self.reason(slot, why, array_has_failed);
                self.about(severity, NoticeKind::MemberFailed, slot, device, text)
            }
            Event::MemberIsBack { slot, device } => self.about(
                Severity::Info,
                NoticeKind::MemberBack,
                slot,
                device,
                "answers again, and is read again".into(),
            ),
            Event::ServingStopped { slot, device, errno } => self.about(
                Severity::Alarm,
                NoticeKind::ServingStopped,
                slot,
                device,
                format!(
                    "did not take metadata or a flush: {}; the array has stopped serving, and every member stays in sync on record. Put that right, stop the array, and serve it again",
                    std::io::Error::from_raw_os_error(errno)
                ),
            ),
            Event::RebuildBegun { slot, device, from_stripe } => self.about(
                Severity::Info,
                NoticeKind::RebuildBegun,
                slot,
                device,
                format!("is being rebuilt, from stripe {from_stripe} of {} on", geometry.stripes()),
            ),
            Event::RebuildEnded { slot, device } => {
                self.about(Severity::Info, NoticeKind::RebuildEnded, slot, device, "is rebuilt".into())
            }
            Event::RebuildBrokenOff { slot, device, at_stripe } => self.about(
                Severity::Warning,
                NoticeKind::RebuildBrokenOff,
                slot,
                device,
                format!("its rebuild was broken off at stripe {at_stripe} of {}", geometry.stripes()),
            ),
            Event::ResyncBegun { stripes } => notice(
                Severity::Info,
                NoticeKind::ResyncBegun,
                format!("parity of {stripes} stripes is being made to match"),
            ),
            Event::ResyncEnded { left: 0 } => {
                notice(Severity::Info, NoticeKind::ResyncEnded, "no stripe needs a resync".into())
            }
            Event::ResyncEnded { left } => notice(
                Severity::Warning,
                NoticeKind::ResyncEnded,
                format!(
                    "parity of {left} stripes could not be made to match: a member that they need is missing, or cannot be read or written; `striate detail {name}` says more"
                ),
            ),
            Event::Redundancy { spare, missing } => self.redundancy(spare, missing),
            Event::Stopped => unreachable!("it ends the notices"),
        }
    }

    /// Why a member has left, and what that means for the array.
    fn reason(&self, slot: u8, why: Failure, array_has_failed: bool) -> (Severity, String) {
        let name = &self.name;
        let to_fill = format!("to fill the slot: `striate replace {name} {slot} DEVICE`");
        match why {
            _ if self.shared.read_only => {
                (Severity::Alarm, format!("is passed by until it answers again: {why}"))
            }
            _ if array_has_failed => {
                (Severity::Alarm, format!("failed: {why}; the array has failed without it"))
            }
            Failure::Operator => {
                (Severity::Warning, format!("taken out of service by the operator; {to_fill}"))
            }
            _ => (Severity::Alarm, format!("failed: {why}; the array goes on without it; {to_fill}")),
        }
    }

    /// The notice of how many more members may be lost, and how many are not in sync.
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
