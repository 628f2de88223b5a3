//! What the privileges of a running server depend on: by which routes it works, and where its members are.

use std::path::PathBuf;

use super::super::front::Front;
use super::Server;
use crate::device::Device;
use crate::threads::Routes;

/// The routes of a server with these devices, of which some may turn out to be in no slot.
pub(super) fn routes_of(front: &Front, devices: &[Device]) -> Routes {
    Routes {
        block_device: front.is_block_device(),
        passthrough: devices.iter().any(Device::wants_passthrough),
    }
}

impl Server {
    /// The routes that it was started with. A device that replaces a member later may have another one, see `Uring::attach`.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.routes
    }

    /// The files and devices that hold the members' bytes, in every layer that is known: of a partition also its disk, of a loop
    /// device also its file.
    #[must_use]
    pub fn places(&self) -> Vec<PathBuf> {
        self.devices.members().iter().flat_map(|device| device.places().map(PathBuf::from)).collect()
    }
}
