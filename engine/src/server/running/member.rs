//! A slot of a running array, as its operator sees it: state, device and counters.

use crate::members::MemberView;
use crate::status::{MemberState, MemberStatus};
use crate::tally::DeviceTallies;

use super::super::route;
use super::Server;

impl Server {
    /// The state of a slot, and the counters of the device in it.
    pub(super) fn member_status(&self, slot: u8, view: &MemberView) -> MemberStatus {
        let members = &self.shared.members;
        let failure = members.failure(slot);
        let state = if view.readable.has(slot) {
            MemberState::InSync
        } else if view.writable.has(slot) {
            MemberState::Rebuilding
        } else if failure.is_some() {
            MemberState::Failed
        } else {
            self.absent[usize::from(slot)].unwrap_or(MemberState::Failed)
        };
        // A slot that was empty from the start has no device: the index stored for it belongs to another
        // slot's device.
        let was_here = view.readable.has(slot) || view.writable.has(slot) || failure.is_some();
        let index = members.device(slot);
        let device = was_here.then(|| self.devices.get(index)).flatten();
        MemberStatus {
            slot: slot.into(),
            state,
            path: device.as_ref().map(|device| device.path().display().to_string()),
            read_errors: members.read_errors(slot),
            repairs: members.repairs(slot),
            refusals: members.refusals(slot),
            failure: failure.map(|failure| failure.to_string()),
            route: device.as_ref().map(|device| route::of(device, &self.rings)),
            serial: device.as_ref().and_then(|device| device.serial()).map(str::to_string),
            io: device.is_some().then(|| DeviceTallies::sum(&self.shared.tallies, index)),
        }
    }
}
