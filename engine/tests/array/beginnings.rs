//! The state before the first turn: members, cells that fit their content, and an array started over them.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bitmap::{Bitmap, BlockIndex, CELL_BYTES_PER_BLOCK, Cell, LoadMode, STRIPES_PER_BLOCK, StripeLocks};
use engine::array::{Beginning, Shared, StewardState};
use engine::assembly::{AssemblyOptions, Candidate, NewArray, assemble};
use engine::format::Shape;
use engine::format::host::Host;
use engine::format::label::Label;
use engine::format::zones::Zones;
use engine::geometry::{Geometry, Slots};
use engine::mailbox::Mailboxes;
use engine::memory::Memory;
use engine::ring::DeviceIndex;
use engine::start::{Bench, SCRATCH_BYTES, StartOptions, read_superblocks, start, write_new};
use engine::tally::Tally;
use uuid::Uuid;

use crate::disks::{Disks, SECTOR, SlowRing};
use crate::rng::Rng;
use crate::world::{Config, Initial};

/// Everything that exists before the first turn.
pub struct Beginnings<'a> {
    pub config: Config,
    pub zones: Zones,
    pub geometry: Geometry,
    pub disks: &'a Disks,
    pub memory: &'a Arc<Memory>,
}

impl Beginnings<'_> {
    pub fn cells(&self, rng: &mut Rng) -> Vec<Cell> {
        let any = [Cell::Unwritten, Cell::Clean, Cell::Dirty, Cell::NeedSync];
        let one = |_| match self.config.initial {
            Initial::All(cell) => cell,
            Initial::Mixed => any[rng.below(4) as usize],
        };
        (0..self.zones.stripes).map(one).collect()
    }

    /// The content that a host sees: zeros in Unwritten stripes, the members' noise elsewhere. Where a cell
    /// says that parity matches, this writes matching parity to the members.
    pub fn model(&self, cells: &[Cell]) -> Vec<u8> {
        let geometry = self.geometry;
        let chunk = geometry.chunk_bytes() as usize;
        let mut model = vec![0; geometry.size_bytes() as usize];
        let mut disks = self.disks.borrow_mut();
        for (stripe, cell) in cells.iter().enumerate().filter(|(_, cell)| **cell != Cell::Unwritten) {
            let rotation = geometry.rotation(stripe as u64);
            let start = (self.zones.data.offset_bytes + geometry.strip_offset(stripe as u64)) as usize;
            let row =
                &mut model[stripe * geometry.stripe_bytes() as usize..][..geometry.stripe_bytes() as usize];
            for (strip, bytes) in row.chunks_mut(chunk).enumerate() {
                let slot = usize::from(rotation.slot_of(strip as u8));
                bytes.copy_from_slice(&disks[slot].bytes[start..start + chunk]);
            }
            if *cell == Cell::NeedSync {
                continue;
            }
            let data: Vec<(u8, &[u8])> = (0..).zip(row.chunks(chunk)).collect();
            let strips: Vec<&[u8]> = data.iter().map(|strip| strip.1).collect();
            let (mut p, mut q) = (vec![0; chunk], vec![0; chunk]);
            parity_simd::xor_generate(&mut p, &strips);
            parity_simd::q_generate(&mut q, &data);
            for (strip, parity) in geometry.parity_strips().iter().zip([p, q]) {
                let slot = usize::from(rotation.slot_of(strip));
                disks[slot].bytes[start..start + chunk].copy_from_slice(&parity);
            }
        }
        model
    }

    /// Creates the array, starts it as a server does, then sets its cells.
    pub fn start(&self, cells: &[Cell], bytes: u64, rng: &mut Rng) -> Arc<Shared> {
        let Config { members, reactors, .. } = self.config;
        let mut ring = SlowRing::new(self.disks, self.memory, rng.fork());
        ring.prompt = true;
        let scratch = self.memory.arena(reactors as u16 + 1).part(0, SCRATCH_BYTES);
        let mut bench = Bench { ring: &mut ring, memory: self.memory, scratch };
        let identities: Vec<Uuid> =
            (0..members).map(|_| Uuid::from_u64_pair(rng.next(), rng.next())).collect();
        let new = NewArray {
            array: Uuid::from_u64_pair(rng.next(), rng.next()),
            name: Label::new("test").expect("a name"),
            host: Host::ANY,
            created_s: 1_700_000_000,
            shape: Shape { level: self.config.level, members, chunk_bytes: self.config.chunk_bytes },
            logical_block_bytes: SECTOR as u32,
            zones: self.zones,
            members: &identities,
            epoch_id: rng.next() | 1,
        };
        write_new(&mut bench, &new, Cell::Unwritten, &mut |_, _| {}).expect("these disks are well");
        let candidates: Vec<Candidate> = (0..members)
            .map(|slot| Candidate {
                label: slot.to_string(),
                found: read_superblocks(&mut bench, DeviceIndex(slot as u8), bytes),
            })
            .collect();
        let assembly = assemble(&candidates, &AssemblyOptions::default()).expect("all are there");
        let options = StartOptions { seed: rng.next() | 1, ..StartOptions::default() };
        let started = start(&mut bench, &assembly, &options).expect("all are there");
        let bitmap = Bitmap::new(self.zones.stripes, Cell::Unwritten);
        for block in (0..bitmap.blocks()).map(BlockIndex) {
            let mut codes = [0; CELL_BYTES_PER_BLOCK];
            let first = u64::from(block.0) * STRIPES_PER_BLOCK;
            for (nth, cell) in cells[first as usize..].iter().take(STRIPES_PER_BLOCK as usize).enumerate() {
                codes[nth / 4] |= cell.disk_code() << (nth % 4 * 2);
            }
            bitmap.set_generation(block, started.bitmap.generation(block));
            bitmap.load_block(block, &codes, LoadMode::Clean);
        }
        for (stripe, cell) in (0..).zip(cells) {
            assert_eq!(bitmap.cell(stripe), *cell);
        }
        let volatile = Slots(rng.next() as u32 & rng.next() as u32 & started.geometry.slots().0);
        Arc::new(Shared {
            geometry: started.geometry,
            layout: started.layout,
            bitmap,
            locks: StripeLocks::new(),
            members: started.members(volatile),
            lost: started.lost,
            memory: self.memory.clone(),
            mailboxes: Mailboxes::new((0..reactors).map(|_| Box::new(|| {}) as _).collect()),
            deallocations: AtomicU32::new(0),
            tallies: (0..reactors).map(|_| Tally::default()).collect(),
            steward: StewardState::new(Beginning {
                roster: started.roster,
                seed: rng.next(),
                rebuilding: None,
            }),
            read_only: false,
        })
    }
}
