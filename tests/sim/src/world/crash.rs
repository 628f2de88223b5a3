//! Worlds that branch off at a moment at which the power could have gone.
//!
//! The branch does not need the engine's state, because the engine is gone with the power anyway. So a moment
//! consists of the members, the operations in flight to them, and what the oracle lets a read return after a
//! cut. Several worlds are made from one moment, each with other writes landed and other cached content lost.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use engine::memory::{Memory, Pool};

use crate::bus::{Bus, Moment};
use crate::config::REACTORS_MAX;
use crate::host::Host;
use crate::monitors::Monitors;
use crate::oracle::Oracle;
use crate::rng::Rng;

use super::World;
use super::decay::Spot;
use super::idle::{Idle, Loss};

/// A moment at which the power could have gone; see the top of this file.
pub struct Crash {
    moment: Moment,
    oracle: Rc<Oracle>,
    loss: Option<Loss>,
    older: bool,
    damaged: Vec<Spot>,
    apart: BTreeSet<usize>,
}

impl Crash {
    /// Whether a cut at this moment has more than one outcome.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.moment.is_open()
    }
}

impl World {
    /// Keeps the moments that the bus has recorded, together with what the oracle knows now. No request was
    /// answered since they were recorded, so that knowledge applies to them.
    pub(super) fn keep_crashes(&mut self) {
        let mut bus = self.bus.borrow_mut();
        if bus.probes.taken.is_empty() {
            return;
        }
        let taken = std::mem::take(&mut bus.probes.taken);
        if self.beyond_level {
            return;
        }
        drop(bus);
        let oracle = Rc::new(self.oracle.after_power_cut());
        let loss = self.loss();
        let (older, damaged) = (self.older, &self.damaged);
        let apart = self.bus.borrow().monitors.apart.clone();
        let crash = |moment| Crash {
            moment,
            oracle: Rc::clone(&oracle),
            loss: loss.clone(),
            older,
            damaged: damaged.clone(),
            apart: apart.clone(),
        };
        self.crashes.extend(taken.into_iter().map(crash));
    }

    /// Copies a stopped array into a world of its own. A start there has no consequences in this world.
    #[must_use]
    pub fn aside(&self, seed: u64, memory: &Arc<Memory>, verbose: bool) -> World {
        let moment = self.bus.borrow().moment_now();
        let (loss, older, damaged) = (self.loss(), self.older, self.damaged.clone());
        let apart = self.bus.borrow().monitors.apart.clone();
        let crash = Crash { moment, oracle: Rc::new(self.oracle.clone()), loss, older, damaged, apart };
        self.branch(&crash, seed, memory, verbose)
    }

    /// The world in which the power goes at this moment; `seed` decides which writes and cached sectors
    /// survive.
    #[must_use]
    pub fn branch(&self, crash: &Crash, seed: u64, memory: &Arc<Memory>, verbose: bool) -> World {
        let mut rng = Rng::new(seed);
        let (latency, watched) = (self.config.latency, self.bus.borrow().monitors.watched);
        let mut bus = Bus::at(&crash.moment, Rng::new(rng.next()), Arc::clone(memory), latency, verbose);
        (bus.lasting, bus.worn) = (self.bus.borrow().lasting, self.bus.borrow().worn);
        bus.monitors = Monitors::watching(watched);
        bus.monitors.repairs_happen = bus.lasting;
        bus.monitors.apart.clone_from(&crash.apart);
        let known = self.bus.borrow();
        bus.images = known.images.iter().filter(|image| image.moment <= crash.moment.at()).cloned().collect();
        drop(known);
        bus.lose_power();
        bus.take_apart_away();
        World {
            array_uuid: self.array_uuid,
            present: Vec::new(),
            rng,
            config: self.config.clone(),
            geometry: self.geometry,
            zones: self.zones,
            room: self.room,
            device_bytes: self.device_bytes,
            bus: Rc::new(RefCell::new(bus)),
            memory: Arc::clone(memory),
            reactors: Vec::new(),
            shared: None,
            hearsay: None,
            host: Host::resuming(&self.host),
            host_pool: Some(Pool::new(memory, REACTORS_MAX as u16)),
            oracle: (*crash.oracle).clone(),
            asked: Vec::new(),
            next_tag: 1,
            lossy: BTreeSet::new(),
            torn: BTreeSet::new(),
            beyond_level: false,
            answered: 0,
            errors: 0,
            hit_state: None,
            stored_state: self.stored_state,
            written_at: 0,
            listed_version: 0,
            waits: super::crowd::Waits::default(),
            cells_at_stop: None,
            crashes: Vec::new(),
            // Rolling back all members to a stop is tried in the main run only.
            stops: Vec::new(),
            older: crash.older,
            damaged: crash.damaged.clone(),
            gone: self.gone.union(&crash.apart).copied().collect(),
            idle: Idle::after(self.idle.watched, crash.loss.clone()),
        }
    }
}
