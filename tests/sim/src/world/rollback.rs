//! Members with older content than they should have, and the array as earlier stops left it.

use std::rc::Rc;

use crate::images::{Age, Image, proven};
use crate::monitors::Monitors;
use crate::oracle::Oracle;

use super::World;

/// The array as a stop in order left it.
pub struct Stop {
    /// Images of all disks that were not dead.
    images: Vec<Rc<Image>>,
    /// Disks that were in sync.
    in_sync: Vec<usize>,
    /// The oracle at the stop: it knows what was acknowledged by then.
    oracle: Oracle,
}

impl Stop {
    /// Images of all disks that were not dead.
    #[must_use]
    pub fn images(&self) -> &[Rc<Image>] {
        &self.images
    }

    /// Disks that were in sync.
    #[must_use]
    pub fn in_sync(&self) -> &[usize] {
        &self.in_sync
    }
}

impl World {
    /// Disks that are in sync according to their content, and not dead.
    #[must_use]
    pub fn in_sync_disks(&self) -> Vec<usize> {
        let mut bus = self.bus.borrow_mut();
        bus.monitors.superblocks_changed = true;
        let mut disks: Vec<usize> = Monitors::in_sync(&mut bus).into_iter().flatten().collect();
        disks.retain(|&disk| !bus.disks[disk].dead);
        disks
    }

    /// Disks that are not dead.
    #[must_use]
    pub fn alive_disks(&self) -> Vec<usize> {
        let bus = self.bus.borrow();
        (0..bus.disks.len()).filter(|&disk| !bus.disks[disk].dead).collect()
    }

    /// Keeps the stopped array as it is now: the content of each disk, and what was acknowledged.
    pub fn remember_stop(&mut self) {
        let (alive, in_sync) = (self.alive_disks(), self.in_sync_disks());
        let images = self.bus.borrow_mut().remember(&alive, true);
        self.stops.push(Rc::new(Stop { images, in_sync, oracle: self.oracle.clone() }));
    }

    /// Takes the array back to an earlier stop: all disks get the content that they had then, and disks that
    /// came later are removed. Returns false and does nothing if too few of the disks in sync at that time
    /// are still alive.
    pub fn return_to(&mut self, stop: &Stop) -> bool {
        let alive = self.alive_disks();
        let back = stop.in_sync.iter().filter(|disk| alive.contains(disk)).count();
        if back < usize::from(self.geometry.data()) {
            return false;
        }
        let mut bus = self.bus.borrow_mut();
        // A dead disk holds later content, and must not come back.
        let dead = (0..bus.disks.len()).filter(|disk| !alive.contains(disk));
        self.gone.extend(dead);
        for disk in alive {
            match stop.images.iter().find(|image| image.disk == disk) {
                Some(image) => drop(bus.put_back(image)),
                None => {
                    bus.disks[disk].dead = true;
                    self.gone.insert(disk);
                }
            }
        }
        let moment = stop.images[0].moment;
        bus.images.retain(|image| image.moment <= moment);
        drop(bus);
        self.stops.retain(|other| other.images[0].moment <= moment);
        self.older = true;
        self.oracle = stop.oracle.clone();
        self.cells_at_stop = None;
        self.idle.forget();
        true
    }

    /// The newest record that these disks prove: see [`images`](crate::images).
    #[must_use]
    pub fn proven_by(&self, disks: &[usize]) -> Option<Age> {
        proven(&mut self.bus.borrow_mut(), disks)
    }
}
