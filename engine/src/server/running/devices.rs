//! The devices of a running array, by the index under which every ring knows them.
//!
//! ```text
//!   free --(take)--> claimed --(keep: the array has taken it in)--> member as long as the server runs
//!    ^                |   ^
//!    |     (dropped)  |   |  (reclaim: at the next replacement)
//!    |                v   |
//!    |               leaving
//!    `--(free: no ring knows it any more)-- claimed
//! ```
//!
//! - A [`Claim`] is the right to change what an index means. There is one for an index at most, and it is not copied: what was decided
//!   about a device that was refused never meets the device that has its index later.
//! - A claim that is dropped, however its owner ended, leaves the index *leaving*: some ring may know the device.
//! - An index is claimed before the first ring hears of it. It is free again only when no ring knows its device: a ring that
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
    /// The device of a slot, now or before.
    Member(Arc<Device>),
    /// The device may become a member, or rings are being asked to forget it: see [`Claim`].
    Claimed(Arc<Device>),
    /// The device was refused, and some ring may know it still. Held open until none does.
    Leaving(Arc<Device>),
}

/// See the top of this file.
pub(super) struct Devices(Mutex<Vec<Place>>);

impl Devices {
    /// The devices that the array started with, in order; none where it is in no slot.
    pub(super) fn new(devices: Vec<Option<Device>>) -> Devices {
        let place =
            |device: Option<Device>| device.map_or(Place::Gone, |device| Place::Member(Arc::new(device)));
        Devices(Mutex::new(devices.into_iter().map(place).collect()))
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().expect("no holder panics")
    }

    /// The device of an index: of a member, or of one that may have become a member this moment.
    pub(super) fn get(&self, index: DeviceIndex) -> Option<Arc<Device>> {
        match self.places().get(usize::from(index.0)) {
            Some(Place::Member(device) | Place::Claimed(device)) => Some(Arc::clone(device)),
            Some(Place::Leaving(_) | Place::Gone | Place::Free) | None => None,
        }
    }

    /// The devices that are members now, or were.
    pub(super) fn members(&self) -> Vec<Arc<Device>> {
        let member = |place: &Place| match place {
            Place::Member(device) => Some(Arc::clone(device)),
            Place::Free | Place::Gone | Place::Claimed(_) | Place::Leaving(_) => None,
        };
        self.places().iter().filter_map(member).collect()
    }

    /// The name of the device of an index, whatever that device is to the array: its path, and its serial number if it has one.
    pub(super) fn name(&self, index: DeviceIndex) -> Option<String> {
        let device = match self.places().get(usize::from(index.0))? {
            Place::Member(device) | Place::Claimed(device) | Place::Leaving(device) => Arc::clone(device),
            Place::Gone | Place::Free => return None,
        };
        Some(device.name())
    }

    /// An index for a device that no ring knows yet; `None` when all are taken.
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

    /// Devices that some ring may know though the array did not take them, and that are nobody's.
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

/// The one right to an index whose device is no member: to make it one, or to free it. See the top of this file.
pub(super) struct Claim<'a> {
    devices: &'a Devices,
    index: DeviceIndex,
}

impl Claim<'_> {
    pub(super) fn index(&self) -> DeviceIndex {
        self.index
    }

    /// The array has taken the device in.
    pub(super) fn keep(self) {
        self.end(Place::Member);
    }

    /// No ring knows the device any more: closes it.
    pub(super) fn free(self) {
        self.end(|_| Place::Free);
    }

    fn end(self, next: impl FnOnce(Arc<Device>) -> Place) {
        self.change(next);
        // The index may have another claim from now on.
        std::mem::forget(self);
    }

    fn change(&self, next: impl FnOnce(Arc<Device>) -> Place) {
        let mut places = self.devices.places();
        let place = &mut places[usize::from(self.index.0)];
        let Place::Claimed(device) = std::mem::replace(place, Place::Free) else {
            unreachable!("only its claim changes the place of {:?}", self.index)
        };
        *place = next(Arc::clone(&device));
        // The last reference closes the device, after the lock is released: a close may wait for the device.
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

    /// A file to be opened as a member, in a directory of its own.
    fn open(name: &str) -> (impl Fn() -> Device, std::path::PathBuf) {
        let directory = std::env::temp_dir().join(format!("striate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("member");
        device::create_file(&path, 1 << 20).unwrap();
        (move || Device::open(&path, OpenMode::SERVE).expect("nobody has it"), directory)
    }

    /// Many more refused devices than there are indices: each refusal gives its index back, and closes its device.
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

    /// Two replacements clear up what an earlier one left: one of them has the index, and what it frees stays with the device that
    /// gets the index next. (The other freed it once more, and with it a member.)
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
