//! A device takes an empty slot of a running array.
//!
//! 1. The server decides from what the array says now: no device is opened for an array that does not take one.
//! 2. The device is opened and checked; no lock is held meanwhile, for it may not answer.
//! 3. The server decides again, and only then wipes the places of the metadata.
//! 4. Every ring learns of the device, and the steward puts it on record and fills it.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crossbeam::channel::bounded;

use crate::array::Order;
use crate::device::Access;
use crate::limits::DEVICES_MAX;
use crate::reactor::ReactorOrder;
use crate::ring::{DeviceIndex, Uring};

use super::super::fit::{blocks_suit, too_large};
use super::super::open::{open_all, refuse_content, wipe_metadata};
use super::super::{ServerError, random};
use super::{STOP_TIMEOUT, Server};

impl Server {
    /// Whether a device may take a slot now; the error says why not.
    fn may_join(&self, slot: u8) -> Result<(), ServerError> {
        let rebuilding = self.shared.steward.rebuild_slot.load(Ordering::Relaxed);
        let why = if self.read_only {
            "the array is read-only".into()
        } else if self.shared.failed() {
            "the array has failed: too few members are in sync. Stop it, and serve it again with the members that are well".into()
        } else if self.shared.members.view().writable.has(slot) {
            format!("slot {slot} is in use: `striate fail` it first")
        } else if rebuilding > 0 {
            format!("slot {} is being rebuilt: wait for it (`striate wait`)", rebuilding - 1)
        } else {
            return Ok(());
        };
        Err(ServerError(why))
    }

    /// Puts a new device in an empty slot and starts its rebuild. What the device holds is overwritten only
    /// with `force`.
    pub fn replace(&self, slot: usize, path: PathBuf, force: bool) -> Result<(), ServerError> {
        let slot = self.checked(slot)?;
        self.may_join(slot)?;
        let device = open_all(std::slice::from_ref(&path), Access::ReadWrite)?.remove(0);
        let facts = device.facts();
        let needed = self.record.zones.end_bytes();
        if facts.size_bytes < needed {
            return Err(ServerError(format!(
                "{}: has {} bytes, and a member of this array needs {needed}",
                path.display(),
                facts.size_bytes
            )));
        }
        if !blocks_suit(self.record.logical_block_bytes, facts.logical_block_bytes) {
            return Err(too_large(&device, facts.logical_block_bytes, self.record.logical_block_bytes));
        }
        if facts.volatile_cache && !self.front.admits_volatile_cache() {
            return Err(ServerError(format!(
                "{}: has a volatile cache, which the block device was made without: stop the array, serve it again, then replace",
                path.display()
            )));
        }
        refuse_content(&device, force)?;
        // Opening a device may take its time, and nothing may be written to one that the array does not take.
        self.may_join(slot)?;
        wipe_metadata(&device, self.record.zones.data.offset_bytes)?;
        let volatile = facts.volatile_cache;
        let attached = self.reactors.iter().map(|_| device.for_ring()).collect::<Result<Vec<_>, _>>()?;
        let index = {
            let mut devices = self.devices.lock().expect("no holder panics");
            if devices.len() == DEVICES_MAX {
                return Err(ServerError(
                    "too many replacements in one run: stop and serve the array again".into(),
                ));
            }
            // A ring that has taken the index keeps it, also where another ring refuses the device.
            devices.push(Some(device));
            DeviceIndex((devices.len() - 1) as u8)
        };
        for (me, (reactor, attached)) in self.reactors.iter().zip(attached).enumerate() {
            let (done, attachment) = bounded(1);
            let act = move |ring: &mut Uring| {
                let _ = done.send(ring.attach(index, attached));
            };
            reactor.port.order(&self.shared, me as u8, ReactorOrder::WithRing(Box::new(act)));
            attachment
                .recv_timeout(STOP_TIMEOUT)
                .map_err(|_| ServerError(format!("reactor {me} does not answer")))?
                .map_err(|error| ServerError(format!("{}: cannot be used: {error}", path.display())))?;
        }
        let member = random::identity();
        self.order(|answer| Order::Join { slot, device: index, member, volatile, answer })
    }
}
