//! The devices of a running array, by the index under which every ring knows them.
//!
//! ```text
//!   free --(take)--> held --(the array takes it in)--> held as long as the server runs
//!                     `--(let go: refused)--> leaving --(no ring knows it any more)--> free
//! ```
//!
//! - An index is held before the first ring hears of it. It is free again only when no ring knows its device: a ring that
//!   refuses to forget it has I/O of it in the kernel, and is asked again at the next replacement.
//! - The index of a member that left is not given to another device: what is noted against a member is noted by slot and
//!   index (`members::Missed`).
//! - The lock is held for moments only, and never over a call that may wait for a device.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::device::Device;
use crate::limits::DEVICES_MAX;
use crate::ring::DeviceIndex;

/// One index.
enum Place {
    /// No ring knows a device of this index, and no slot ever had one.
    Free,
    /// The device that was given for it at the start is in no slot and was closed. Not used again: an empty slot may name it.
    Gone,
    Held(Arc<Device>),
    /// The device was refused, and some ring may know it still. Held open until none does.
    Leaving(Arc<Device>),
}

/// See the top of this file.
pub(super) struct Devices(Mutex<Vec<Place>>);

impl Devices {
    /// The devices that the array started with, in order; none where it is in no slot.
    pub(super) fn new(devices: Vec<Option<Device>>) -> Devices {
        let place =
            |device: Option<Device>| device.map_or(Place::Gone, |device| Place::Held(Arc::new(device)));
        Devices(Mutex::new(devices.into_iter().map(place).collect()))
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().expect("no holder panics")
    }

    /// The device of an index.
    pub(super) fn get(&self, index: DeviceIndex) -> Option<Arc<Device>> {
        match self.places().get(usize::from(index.0)) {
            Some(Place::Held(device)) => Some(Arc::clone(device)),
            Some(Place::Leaving(_) | Place::Gone | Place::Free) | None => None,
        }
    }

    /// An index for a device that no ring knows yet; `None` when all are taken.
    pub(super) fn take(&self, device: Device) -> Option<DeviceIndex> {
        let mut places = self.places();
        let free = places.iter().position(|place| matches!(place, Place::Free)).unwrap_or(places.len());
        if free == DEVICES_MAX {
            return None;
        }
        if free == places.len() {
            places.push(Place::Free);
        }
        places[free] = Place::Held(Arc::new(device));
        Some(DeviceIndex(free as u8))
    }

    /// The array does not take this device: the index is free once every ring has forgotten it.
    pub(super) fn leave(&self, index: DeviceIndex) {
        let place = &mut self.places()[usize::from(index.0)];
        *place = match std::mem::replace(place, Place::Free) {
            Place::Held(device) | Place::Leaving(device) => Place::Leaving(device),
            other @ (Place::Free | Place::Gone) => other,
        };
    }

    /// Devices that some ring may know though the array did not take them.
    pub(super) fn leaving(&self) -> Vec<DeviceIndex> {
        let places = self.places();
        let leaving = places.iter().enumerate().filter(|(_, place)| matches!(place, Place::Leaving(_)));
        leaving.map(|(index, _)| DeviceIndex(index as u8)).collect()
    }

    /// No ring knows this index any more. Closes the device.
    pub(super) fn free(&self, index: DeviceIndex) {
        let place = std::mem::replace(&mut self.places()[usize::from(index.0)], Place::Free);
        // Closed here, when the lock is free again: a close may wait for the device.
        drop(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, OpenMode};

    /// Many more refused devices than there are indices: each refusal gives its index back, and closes its device.
    #[test]
    fn an_index_that_was_let_go_is_used_again() {
        let directory = std::env::temp_dir().join(format!("striate-devices-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("member");
        device::create_file(&path, 1 << 20).unwrap();
        let open = || Device::open(&path, OpenMode::SERVE);
        let devices = Devices::new(Vec::new());
        for _ in 0..3 * DEVICES_MAX {
            let index = devices.take(open().expect("nobody has it")).expect("an index is free");
            assert_eq!(index, DeviceIndex(0));
            assert!(devices.get(index).is_some());
            devices.leave(index);
            assert!(devices.get(index).is_none() && devices.leaving() == [index]);
            devices.free(index);
            assert_eq!(devices.leaving(), []);
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
