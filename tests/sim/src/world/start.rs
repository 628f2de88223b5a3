//! Starts an array as the product does: superblocks, assembly, epoch, bitmap, reactors. The power may go
//! during the start.

use std::sync::Arc;

use bitmap::StripeLocks;
use engine::array::{Array, Beginning, Shared, StewardState};
use engine::assembly::{Assembly, AssemblyOptions, Candidate, assemble};
use engine::geometry::Slots;
use engine::mailbox::Mailboxes;
use engine::memory::{Memory, Pool};
use engine::ring::DeviceIndex;
use engine::start::{Bench, SCRATCH_BYTES, StartOptions, grow, read_superblocks, start};
use engine::tally::Tally;

use crate::bus::Cut;
use crate::config::REACTORS_MAX;
use crate::ring::SimRing;

use super::told::Hearsay;
use super::{Reactor, World};

/// Outcome of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOutcome {
    /// The array runs.
    Running,
    /// The power went during the start.
    PowerCut,
    /// The start was refused.
    Refused,
}

/// Access for which an array is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    ReadWrite,
    ReadOnly,
}

/// Outcome of growing an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowOutcome {
    /// The new size is on record.
    Grown,
    /// The power went while the array was growing.
    PowerCut,
    /// Growing was refused, and nothing has changed.
    Refused,
}

impl World {
    /// Starts the array from the present disks, as the product does.
    pub fn start(&mut self, cut: Option<Cut>) -> StartOutcome {
        self.start_for(cut, Access::ReadWrite)
    }

    /// Starts the array read-only. Until [`leave_read_only`](World::leave_read_only), nothing may be written
    /// to any disk.
    pub fn start_read_only(&mut self) -> StartOutcome {
        let (cells, loss) = (self.cells_at_stop.clone(), self.idle.loss.clone());
        let outcome = self.start_for(None, Access::ReadOnly);
        (self.cells_at_stop, self.idle.loss) = (cells, loss);
        outcome
    }

    /// Ends a read-only array. It has changed nothing, so the next start finds what this one found.
    pub fn leave_read_only(&mut self) {
        self.forget_engine();
        self.bus.borrow_mut().read_only = false;
    }

    fn start_for(&mut self, cut: Option<Cut>, access: Access) -> StartOutcome {
        let read_only = access == Access::ReadOnly;
        let mut devices = self.present.clone();
        self.rng.shuffle(&mut devices);
        let mut ring = SimRing::new(&self.bus, 99, devices.clone());
        let memory = Arc::clone(&self.memory);
        let mut bench = self.bench(&mut ring, &memory);
        let assembly = match self.assemble(&mut bench, &devices, "START", cut) {
            Ok(assembly) => assembly,
            Err(outcome) => return self.start_failed(outcome),
        };
        let stripes = assembly.record.zones.stripes;
        assert!(
            stripes >= self.oracle.stripes,
            "GROW: the array has had {} stripes, and is to start with {stripes}",
            self.oracle.stripes
        );
        let seed = self.rng.next() | 1;
        self.bus.borrow_mut().read_only = read_only;
        let options = StartOptions { seed, read_only, ..StartOptions::default() };
        let started = start(&mut bench, &assembly, &options);
        let off = self.bus.borrow().off;
        let started = match started {
            _ if off => return self.start_failed(StartOutcome::PowerCut),
            Ok(started) => started,
            Err(error) => {
                self.bus.borrow_mut().note(4, || format!("not started: {error}"));
                return self.start_failed(StartOutcome::Refused);
            }
        };
        let mut bus = self.bus.borrow_mut();
        bus.blocking = false;
        bus.cut = None;
        if stripes != self.geometry.stripes() {
            (self.zones, self.geometry) = (assembly.record.zones, started.geometry);
            self.host.fit(stripes);
        }
        if let Some(watched) = &mut bus.monitors.watched {
            watched.geometry = self.geometry;
        }
        let mut volatile = Slots::NONE;
        for (slot, device) in started.devices.iter().enumerate() {
            if bus.disks[devices[usize::from(device.0)]].volatile {
                volatile = volatile.or(Slots::one(slot as u8));
            }
        }
        let (unclean, view, rebuilding) = (assembly.unclean, started.view, started.rebuilding);
        bus.slots = vec![None; bus.disks.len()];
        for (slot, device) in started.devices.iter().enumerate() {
            if view.writable.has(slot as u8) {
                let disk = devices[usize::from(device.0)];
                bus.slots[disk] = Some(slot as u8);
            }
        }
        bus.note(5, || format!("started: unclean {unclean}, {view:?}, rebuilding {rebuilding:?}"));
        drop(bus);
        self.keep_crashes();
        // Set only now, since a growth before this start that was cut may or may not have become durable.
        self.oracle.stripes = stripes;
        let members = started.members(volatile);
        let roster = started.roster;
        let beginning =
            Beginning { roster, seed: self.rng.next(), rebuilding: rebuilding.map(|(slot, _)| slot) };
        let (reactors, sizes) = (self.config.reactors, self.config.sizes);
        let shared = Arc::new(Shared {
            geometry: started.geometry,
            layout: started.layout,
            bitmap: started.bitmap,
            lost: started.lost,
            locks: StripeLocks::new(),
            members,
            memory: Arc::clone(&self.memory),
            mailboxes: Mailboxes::with_room(
                (0..reactors).map(|_| Box::new(|| {}) as _).collect(),
                sizes.requests,
                &sizes,
            ),
            tallies: (0..reactors).map(|_| Tally::default()).collect(),
            steward: StewardState::new(beginning),
            read_only,
            deallocations: std::sync::atomic::AtomicU32::new(0),
        });
        self.hearsay = Some(Hearsay::of(&shared));
        for me in 0..reactors {
            let array =
                Array::with_sizes(me as u8, Arc::clone(&shared), Pool::new(&self.memory, me as u16), sizes);
            self.reactors.push(Reactor { array, ring: SimRing::new(&self.bus, me as u32, devices.clone()) });
        }
        self.listed_version = shared.lost.version();
        self.shared = Some(shared);
        self.check_list_at_start();
        self.lossy.clear();
        self.torn.clear();
        if view.readable != self.geometry.slots() {
            self.mark_lossy();
        }
        self.check_kept();
        self.check_loss();
        self.older = false;
        if !read_only {
            self.damaged.clear();
        }
        StartOutcome::Running
    }

    fn bench<'a>(&self, ring: &'a mut SimRing, memory: &'a Memory) -> Bench<'a, SimRing> {
        Bench { ring, memory, scratch: memory.arena(REACTORS_MAX as u16 + 1).part(0, SCRATCH_BYTES) }
    }

    /// Turns the power on, reads the superblocks, and assembles the array.
    fn assemble(
        &self,
        bench: &mut Bench<'_, SimRing>,
        devices: &[usize],
        what: &str,
        cut: Option<Cut>,
    ) -> Result<Assembly, StartOutcome> {
        assert!(self.reactors.is_empty());
        {
            let mut bus = self.bus.borrow_mut();
            bus.power_on();
            bus.blocking = true;
            bus.cut = cut;
            bus.note(2, || format!("{what} with disks {devices:?}, {cut:?}"));
        }
        // Reading superblocks writes nothing, so a refused start has changed nothing.
        self.bus.borrow_mut().read_only = true;
        let mut candidates = Vec::new();
        for (index, &disk) in devices.iter().enumerate() {
            let bytes = self.bus.borrow().disks[disk].bytes();
            let found = read_superblocks(bench, DeviceIndex(index as u8), bytes);
            candidates.push(Candidate { label: disk.to_string(), found });
        }
        self.bus.borrow_mut().read_only = false;
        if self.bus.borrow().verbose {
            print_candidates(&candidates);
        }
        let options = AssemblyOptions { run_degraded: true, ..AssemblyOptions::default() };
        match assemble(&candidates, &options) {
            _ if self.is_off() => Err(StartOutcome::PowerCut),
            Ok(assembly) => Ok(assembly),
            Err(error) => {
                self.bus.borrow_mut().note(3, || format!("refused: {error}"));
                Err(StartOutcome::Refused)
            }
        }
    }

    /// Grows the stopped array by part of the available room, as the product does. Growing is refused if a
    /// member is missing or fails, or if no room is left.
    pub fn grow(&mut self, cut: Option<Cut>) -> GrowOutcome {
        let (devices, cells) = (self.present.clone(), self.cells_at_stop.take());
        let mut ring = SimRing::new(&self.bus, 99, devices.clone());
        let memory = Arc::clone(&self.memory);
        let mut bench = self.bench(&mut ring, &memory);
        let assembly = match self.assemble(&mut bench, &devices, "GROW", cut) {
            Ok(assembly) => assembly,
            Err(outcome) => {
                self.leave_the_bench();
                return if outcome == StartOutcome::PowerCut {
                    GrowOutcome::PowerCut
                } else {
                    GrowOutcome::Refused
                };
            }
        };
        let (from, chunk) = (assembly.record.zones, u64::from(self.geometry.chunk_bytes()));
        let more = (self.room.stripes - from.stripes).min(self.rng.pick(&[1, 3, 20_000, u64::MAX]));
        let zones = from.grown(from.end_bytes() + more * chunk, &assembly.record.shape);
        let seed = self.rng.next() | 1;
        let grown = (more > 0).then(|| grow(&mut bench, &assembly, zones, seed));
        if self.is_off() {
            self.leave_the_bench();
            return GrowOutcome::PowerCut;
        }
        self.bus.borrow_mut().note(17, || format!("grown: {from:?} to {zones:?}: {grown:?}"));
        self.leave_the_bench();
        if matches!(grown, Some(Ok(_))) {
            (self.oracle.stripes, self.cells_at_stop) = (zones.stripes, cells);
            GrowOutcome::Grown
        } else {
            GrowOutcome::Refused
        }
    }

    fn start_failed(&mut self, outcome: StartOutcome) -> StartOutcome {
        self.leave_the_bench();
        self.bus.borrow_mut().read_only = false;
        self.cells_at_stop = None;
        outcome
    }

    /// Ends the control steps, which waited for each of their operations.
    fn leave_the_bench(&mut self) {
        let mut bus = self.bus.borrow_mut();
        bus.blocking = false;
        bus.cut = None;
        drop(bus);
        self.keep_crashes();
    }
}

fn print_candidates(candidates: &[Candidate]) {
    for candidate in candidates {
        match &candidate.found {
            Ok(found) => {
                let record = &found.superblock.record;
                let slots: Vec<String> = record.slots[..record.shape.members]
                    .iter()
                    .map(|slot| {
                        format!("{:?}@{}:{:04x}", slot.state, slot.held.number, slot.held.id & 0xffff)
                    })
                    .collect();
                println!(
                    "    disk {} slot {} sequence {} epoch {}:{:04x} parent {:04x} {:?} found {:?} both valid {} {slots:?}",
                    candidate.label,
                    found.superblock.slot,
                    found.superblock.sequence,
                    record.epoch.name.number,
                    record.epoch.name.id & 0xffff,
                    record.epoch.line[0] & 0xffff,
                    record.state,
                    record.found,
                    found.both_valid
                );
            }
            Err(error) => println!("    disk {}: {error}", candidate.label),
        }
    }
}
