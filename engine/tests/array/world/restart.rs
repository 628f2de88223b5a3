//! An orderly stop, and the next start, as a server does both.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bitmap::{BlockIndex, StripeLocks};
use crossbeam::channel::bounded;
use engine::array::{Answer, Array, Beginning, Order, Shared, StewardState};
use engine::assembly::{AssemblyOptions, Candidate, assemble};
use engine::format::superblock::{Copy, Superblock, decode};
use engine::limits::BLOCK_BYTES;
use engine::mailbox::Mailboxes;
use engine::memory::Pool;
use engine::ring::DeviceIndex;
use engine::start::{Bench, SCRATCH_BYTES, StartOptions, read_superblocks, start};
use engine::tally::Tally;

use super::World;
use crate::disks::SlowRing;

/// Whether the next start may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serve {
    ReadWrite,
    ReadOnly,
}

impl World {
    /// Has every bitmap block written: the initial cells of a run exist in memory only.
    pub fn request_blocks(&self) {
        for block in 0..self.shared.bitmap.blocks() {
            let _asked = self.shared.bitmap.request_write(BlockIndex(block));
        }
    }

    /// Stops the array in order.
    pub fn stop(&mut self) {
        self.settle();
        self.request_blocks();
        let (answer, answered) = bounded(1);
        assert!(self.shared.steward.orders.push(Order::Stop { answer: Answer::to(answer) }).is_ok());
        self.turn_until("a stop", |_| !answered.is_empty());
        assert_eq!(answered.recv(), Ok(Ok(())), "{:?}", self.config);
    }

    /// Starts the array from all disks, after a stop or as after a crash.
    pub fn restart(mut self, serve: Serve) -> World {
        let read_only = serve == Serve::ReadOnly;
        self.reactors.clear();
        let disks = &self.disks;
        let bytes = disks.borrow()[0].bytes.len() as u64;
        let mut ring = SlowRing::new(disks, &self.memory, self.rng.fork());
        ring.prompt = true;
        let scratch = self.memory.arena(self.config.reactors as u16 + 1).part(0, SCRATCH_BYTES);
        let mut bench = Bench { ring: &mut ring, memory: &self.memory, scratch };
        let count = disks.borrow().len();
        let candidates: Vec<Candidate> = (0..count)
            .map(|device| Candidate {
                label: device.to_string(),
                found: read_superblocks(&mut bench, DeviceIndex(device as u8), bytes),
            })
            .collect();
        let options = AssemblyOptions { run_degraded: true, ..AssemblyOptions::default() };
        let assembly = assemble(&candidates, &options).expect("enough members are there");
        let options = StartOptions { seed: self.rng.next() | 1, read_only, ..StartOptions::default() };
        let started = start(&mut bench, &assembly, &options).expect("enough members are well");
        let reactors = self.config.reactors;
        self.shared = Arc::new(Shared {
            geometry: started.geometry,
            layout: started.layout,
            members: started.members(started.view.writable),
            bitmap: started.bitmap,
            lost: started.lost,
            locks: StripeLocks::new(),
            memory: self.memory.clone(),
            mailboxes: Mailboxes::new((0..reactors).map(|_| Box::new(|| {}) as _).collect()),
            deallocations: AtomicU32::new(0),
            tallies: (0..reactors).map(|_| Tally::default()).collect(),
            steward: StewardState::new(Beginning {
                roster: started.roster,
                seed: self.rng.next(),
                rebuilding: started.rebuilding.map(|(slot, _)| slot),
            })
            .noted_by(std::mem::take(&mut self.noting)),
            read_only,
        });
        self.reactors = (0..reactors)
            .map(|me| {
                let array = Array::new(me as u8, self.shared.clone(), Pool::new(&self.memory, me as u16));
                (array, SlowRing::new(&self.disks, &self.memory, self.rng.fork()))
            })
            .collect();
        self
    }

    /// The content of every disk.
    pub fn disk_contents(&self) -> Vec<Vec<u8>> {
        self.disks.borrow().iter().map(|disk| disk.bytes.clone()).collect()
    }

    /// The superblocks of every disk, both copies.
    pub fn superblocks(&self) -> Vec<Superblock> {
        let disks = self.disks.borrow();
        let copies = disks.iter().flat_map(|disk| [Copy::A, Copy::B].map(|copy| (disk, copy)));
        let decoded = copies.map(|(disk, copy)| {
            let bytes = &disk.bytes[copy.offset_bytes() as usize..][..BLOCK_BYTES];
            decode(bytes, copy).expect("a superblock of ours")
        });
        decoded.collect()
    }

    /// The bitmap zone of every disk.
    pub fn bitmap_zones(&self) -> Vec<Vec<u8>> {
        let zone = self.zones.bitmap.offset_bytes as usize..self.zones.data.offset_bytes as usize;
        self.disks.borrow().iter().map(|disk| disk.bytes[zone.clone()].to_vec()).collect()
    }

    /// Whether no reactor has member I/O in flight.
    pub fn io_is_quiet(&self) -> bool {
        self.reactors.iter().all(|(array, _)| array.io_is_quiet())
    }

    pub fn must_turn(&self) -> bool {
        self.reactors.iter().any(|(array, _)| array.must_turn())
    }

    /// The data zone of every member.
    pub fn data_bytes(&self) -> std::ops::Range<u64> {
        self.zones.data.offset_bytes..self.zones.end_bytes()
    }

    /// The first sector of a strip on its member, and that member's device.
    pub fn sector_of(&self, stripe: u64, strip: u8) -> (usize, u64) {
        let slot = self.geometry.rotation(stripe).slot_of(strip);
        let place = self.zones.data.offset_bytes + self.geometry.strip_offset(stripe);
        (usize::from(self.shared.members.device(slot).0), place / crate::disks::SECTOR)
    }
}
