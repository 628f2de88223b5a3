//! The devices of a running array, by the index under which every ring knows them.
//!
//! ```text
//!   free --(take)--> claimed --(keep: the array accepts it)--> member as long as the server runs
//!    ^                |   ^
//!    |     (dropped)  |   |  (reclaim: at the next replacement)
//!    |                v   |
//!    |               leaving
//!    `--(free: no ring knows it any more)-- claimed
//! ```
//!
//! - A [`Claim`] is the right to change the meaning of an index. An index has at most one claim, and a claim
//!   is not copied, so a decision about a refused device is never applied to the device that gets the index
//!   later.
//! - A dropped claim, however its owner ended, leaves the index *leaving*: a ring may still know the device.
//! - An index is claimed before the first ring learns of it. It becomes free only when no ring knows its
//!   device: a ring that refuses to forget the device has I/O of it in the kernel, and is asked again at the
//!   next replacement.
//! - The index of a member that left is not given to another device: the faults of a member are noted by slot
//!   and index (`members::Missed`).
//! - The lock is held only for moments, and never across a call that may wait for a device.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::device::Device;
use crate::limits::DEVICES_MAX;
use crate::ring::DeviceIndex;

/// State of one index.
enum Place {
    /// No ring knows a device of this index, and no slot ever had one.
    Free,
    /// The device that got this index at the start is in no slot and was closed. The index is not used again,
    /// since an empty slot may name it.
    Gone,
    /// The device of a slot, now or earlier.
    Member(Arc<Device>),
    /// The device may become a member, or rings are being asked to forget it: see [`Claim`].
    Claimed(Arc<Device>),
    /// The device was refused, and a ring may still know it. It is held open until no ring does.
    Leaving(Arc<Device>),
}

/// The devices; see the top of this file.
pub(super) struct Devices(Mutex<Vec<Place>>);

impl Devices {
    /// The devices that the array started with, in order; `None` for a device that is in no slot.
    pub(super) fn new(devices: Vec<Option<Device>>) -> Devices {
        let place =
            |device: Option<Device>| device.map_or(Place::Gone, |device| Place::Member(Arc::new(device)));
        Devices(Mutex::new(devices.into_iter().map(place).collect()))
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().expect("no holder panics")
    }

    /// The device of an index, if it is a member or may just have become one.
    pub(super) fn get(&self, index: DeviceIndex) -> Option<Arc<Device>> {
        match self.places().get(usize::from(index.0)) {
            Some(Place::Member(device) | Place::Claimed(device)) => Some(Arc::clone(device)),
            Some(Place::Leaving(_) | Place::Gone | Place::Free) | None => None,
        }
    }

    /// The devices that are or were members.
    pub(super) fn members(&self) -> Vec<Arc<Device>> {
        let member = |place: &Place| match place {
            Place::Member(device) => Some(Arc::clone(device)),
            Place::Free | Place::Gone | Place::Claimed(_) | Place::Leaving(_) => None,
        };
        self.places().iter().filter_map(member).collect()
    }

    /// The name of an index's device, whatever its state: its path, and its serial number if it has one.
    pub(super) fn name(&self, index: DeviceIndex) -> Option<String> {
        let device = match self.places().get(usize::from(index.0))? {
            Place::Member(device) | Place::Claimed(device) | Place::Leaving(device) => Arc::clone(device),
            Place::Gone | Place::Free => return None,
        };
        Some(device.name())
    }

    /// Claims an index for a device that no ring knows yet; `None` if all indices are taken.
    pub(super) fn take(&self, device: Device) -> Option<Claim<'_>> {
        let mut places = self.places();
        let free = places.iter().position(|place| matches!(place, Place::Free)).unwrap_or(places.len());
        if free == DEVICES_MAX {
            return None;
        }
        if free == places.len() {
            places.push(Place::Free);
        }
        places[free] = Place::Claimed(Arc::new(device));
        Some(Claim { devices: self, index: DeviceIndex(free as u8) })
    }

    /// Claims the refused devices that a ring may still know and that have no claim.
    pub(super) fn reclaim(&self) -> Vec<Claim<'_>> {
        let mut claims = Vec::new();
        for (index, place) in self.places().iter_mut().enumerate() {
            if let Place::Leaving(device) = place {
                *place = Place::Claimed(Arc::clone(device));
                claims.push(Claim { devices: self, index: DeviceIndex(index as u8) });
            }
        }
        claims
    }
}

/// The only right to an index whose device is no member: the right to make it a member, or to free the index.
/// See the top of this file.
pub(super) struct Claim<'a> {
    devices: &'a Devices,
    index: DeviceIndex,
}

impl Claim<'_> {
    pub(super) fn index(&self) -> DeviceIndex {
        self.index
    }

    /// Makes the device a member: the array has accepted it.
    pub(super) fn keep(self) {
        self.end(Place::Member);
    }

    /// Closes the device and frees the index: no ring knows the device any more.
    pub(super) fn free(self) {
        self.end(|_| Place::Free);
    }

    fn end(self, next: impl FnOnce(Arc<Device>) -> Place) {
        self.change(next);
        // Do not drop the claim: the index may have another claim from now on.
        std::mem::forget(self);
    }

    fn change(&self, next: impl FnOnce(Arc<Device>) -> Place) {
        let mut places = self.devices.places();
        let place = &mut places[usize::from(self.index.0)];
        let Place::Claimed(device) = std::mem::replace(place, Place::Free) else {
            unreachable!("only its claim changes the place of {:?}", self.index)
        };
        *place = next(Arc::clone(&device));
        // The last reference closes the device. Drop it after the lock is released, since a close may wait
        // for the device.
        drop(places);
        drop(device);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.change(Place::Leaving);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, OpenMode};

    /// A file that can be opened as a member, in its own directory.
    fn open(name: &str) -> (impl Fn() -> Device, std::path::PathBuf) {
        let directory = std::env::temp_dir().join(format!("striate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("member");
        device::create_file(&path, 1 << 20).unwrap();
        (move || Device::open(&path, OpenMode::SERVE).expect("nobody has it"), directory)
    }

    /// Refuses many more devices than there are indices: each refusal releases its index and closes its
    /// device.
    #[test]
    fn an_index_that_was_let_go_is_used_again() {
        let (open, directory) = open("devices");
        let devices = Devices::new(Vec::new());
        for _ in 0..3 * DEVICES_MAX {
            let claim = devices.take(open()).expect("an index is free");
            assert_eq!(claim.index(), DeviceIndex(0));
            assert!(devices.get(claim.index()).is_some() && devices.reclaim().is_empty());
            drop(claim);
            assert!(devices.get(DeviceIndex(0)).is_none());
            let mut leaving = devices.reclaim();
            assert_eq!(leaving.len(), 1);
            leaving.remove(0).free();
            assert!(devices.reclaim().is_empty());
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// Two replacements clean up after an earlier one: only one of them gets the index, and the index that it
    /// frees can be given to another device. (Once, the other freed the index a second time, and with it a
    /// member.)
    #[test]
    fn an_index_is_freed_by_its_owner_only() {
        let (open, directory) = open("owners");
        let devices = Devices::new(Vec::new());
        drop(devices.take(open()));
        let mut first = devices.reclaim();
        let second = devices.reclaim();
        assert_eq!((first.len(), second.len()), (1, 0));
        first.remove(0).free();
        let claim = devices.take(open()).expect("an index is free");
        let index = claim.index();
        drop((first, second));
        claim.keep();
        assert!(index == DeviceIndex(0) && devices.get(index).is_some() && devices.reclaim().is_empty());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
