//! Devices in memory that lose power during a start, and an array on them that was not stopped cleanly.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use engine::assembly::{Assembly, AssemblyOptions, Candidate, NewArray, SlotPlan, WriteOutcome, assemble};
use engine::format::bitmap_block::{CELL_BYTES, Header, decode, encode};
use engine::format::host::Host;
use engine::format::label::Label;
use engine::format::lost_rows::{self, LIST_BYTES, LostRange, PLACE_OFFSETS_BYTES};
use engine::format::superblock::{self, Copy, EpochName, Record};
use engine::format::zones::{TAIL_UNUSED_BYTES, Zones, bitmap_place, zones};
use engine::format::{Level, Shape};
use engine::limits::BLOCK_BYTES;
use engine::memory::{Memory, Span};
use engine::ring::{Completion, DeviceIndex, MemberIo, MemberOp, Ring};
use engine::start::{
    Bench, SCRATCH_BYTES, StartError, StartOptions, Started, read_superblocks, start, write_new,
    write_superblocks,
};
use uuid::Uuid;

pub const CHUNK_BYTES: u32 = 4096;
/// Bytes of a device that the array uses: eight stripes, one block of the bitmap.
pub const USED_BYTES: u64 = (2 << 20) + TAIL_UNUSED_BYTES + 8 * CHUNK_BYTES as u64;
/// Size of a device: it has room to grow.
pub const DEVICE_BYTES: u64 = USED_BYTES + (1 << 20);
/// The bytes of both places of the list of lost rows.
pub const LISTS: Range<u64> = PLACE_OFFSETS_BYTES[0]..PLACE_OFFSETS_BYTES[1] + LIST_BYTES as u64;
const ARRAY: Uuid = Uuid::from_u64_pair(7, 7);
const EIO: i32 = 5;

type Page = [u8; BLOCK_BYTES];

/// A device: the pages written to it, and the pages that cannot be read until they are written.
#[derive(Clone, Default)]
pub struct Device {
    pages: BTreeMap<u64, Rc<Page>>,
    bad: BTreeSet<u64>,
}

/// The result of a write when the power went, or when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    Nothing,
    Torn,
    Whole,
}

pub const LANDINGS: [Landing; 3] = [Landing::Nothing, Landing::Torn, Landing::Whole];

/// Faults in a start. Its writes of the bitmap come in lots, counted from zero.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    /// The lot in which the power goes, and the result of each of its writes, in order.
    pub cut: Option<(usize, Vec<Landing>)>,
    /// A lot and a device: its write there fails, with this result on the medium.
    pub refusal: Option<(usize, usize, Landing)>,
    /// A device, an error and a range: writes that begin in the range fail with the error, and do not land.
    pub refuses: Option<(usize, i32, Range<u64>)>,
    /// Whether the power goes during the first write of the list of lost rows, which is then torn on every
    /// device.
    pub tears_list: bool,
}

/// The ring of one start.
pub struct Power<'a> {
    devices: &'a mut [Device],
    present: Vec<usize>,
    memory: Arc<Memory>,
    bitmap: Range<u64>,
    trouble: Trouble,
    queued: Vec<MemberOp>,
    /// The devices that each lot went to.
    pub lots: Vec<Vec<usize>>,
    off: bool,
}

impl Power<'_> {
    fn perform(&mut self, op: &MemberOp, landing: Landing) -> Result<(), i32> {
        let device = &mut self.devices[self.present[usize::from(op.device.0)]];
        let pages =
            op.offset_bytes / BLOCK_BYTES as u64..(op.offset_bytes + op.len_bytes) / BLOCK_BYTES as u64;
        match op.io {
            MemberIo::Read if pages.clone().any(|page| device.bad.contains(&page)) => return Err(EIO),
            MemberIo::Read => self.memory.with_mut(op.span, |bytes| {
                for (page, bytes) in pages.zip(bytes.chunks_exact_mut(BLOCK_BYTES)) {
                    bytes.copy_from_slice(device.pages.get(&page).map_or(&[0; BLOCK_BYTES], |page| &**page));
                }
            }),
            MemberIo::Write(_) => self.memory.with(op.span, |bytes| {
                for (page, bytes) in pages.zip(bytes.chunks_exact(BLOCK_BYTES)) {
                    device.write(page, bytes.try_into().expect("a page"), landing);
                }
            }),
            MemberIo::Flush | MemberIo::Deallocate => {}
        }
        Ok(())
    }
}

impl Ring for Power<'_> {
    fn push(&mut self, op: MemberOp) {
        self.queued.push(op);
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        let ops = std::mem::take(&mut self.queued);
        let is_ours =
            |op: &MemberOp| matches!(op.io, MemberIo::Write(_)) && self.bitmap.contains(&op.offset_bytes);
        let lot = ops.iter().any(is_ours).then(|| {
            self.lots.push(ops.iter().map(|op| self.present[usize::from(op.device.0)]).collect());
            self.lots.len() - 1
        });
        let cut = self.trouble.cut.clone().filter(|(at, _)| Some(*at) == lot);
        let tears = self.trouble.tears_list
            && ops.iter().any(|op| matches!(op.io, MemberIo::Write(_)) && LISTS.contains(&op.offset_bytes));
        let refusal = self.trouble.refusal.filter(|(at, ..)| Some(*at) == lot);
        for (nth, op) in ops.into_iter().enumerate() {
            let device = self.present[usize::from(op.device.0)];
            let refused = refusal.filter(|(_, refusing, _)| *refusing == device);
            let refuses = self.trouble.refuses.as_ref().filter(|(refusing, _, bytes)| {
                *refusing == device && matches!(op.io, MemberIo::Write(_)) && bytes.contains(&op.offset_bytes)
            });
            let result = match (&cut, refused) {
                _ if let Some((_, errno, _)) = refuses => Err(*errno),
                _ if self.off => Err(EIO),
                _ if tears => self.perform(&op, Landing::Torn).and(Err(EIO)),
                (Some((_, landings)), _) => self.perform(&op, landings[nth]).and(Err(EIO)),
                (None, Some((_, _, landing))) => self.perform(&op, landing).and(Err(EIO)),
                (None, None) => self.perform(&op, Landing::Whole),
            };
            completions.push(Completion { tag: op.tag, result });
        }
        self.off |= cut.is_some() || tears;
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

impl Device {
    fn write(&mut self, page: u64, bytes: &Page, landing: Landing) {
        let mut bytes = *bytes;
        match landing {
            Landing::Nothing => return,
            // The header is intact, but the checksum does not match the rest.
            Landing::Torn => bytes[BLOCK_BYTES - 1] ^= 0xff,
            Landing::Whole => {}
        }
        self.bad.remove(&page);
        self.pages.insert(page, Rc::new(bytes));
    }
}

/// The content of a place of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Held {
    /// A generation, and the first byte of its cells: those of four stripes.
    Block(u64, u8),
    /// A block with a wrong checksum.
    Torn,
    /// An unreadable place.
    Bad,
    /// Anything else.
    Foreign,
}

/// An array with one bitmap block, on devices that may be absent.
#[derive(Clone)]
pub struct Members {
    pub shape: Shape,
    pub zones: Zones,
    pub devices: Vec<Device>,
    memory: Arc<Memory>,
}

/// The result of a start, and the devices of each lot of its bitmap writes.
pub struct Outcome {
    pub result: Result<Started, StartError>,
    pub lots: Vec<Vec<usize>>,
}

impl Members {
    /// A new array that was started and is in use: the record does not say that it was stopped.
    pub fn in_use(level: Level, members: usize) -> Members {
        let shape = Shape { level, members, chunk_bytes: CHUNK_BYTES };
        let zones = zones(USED_BYTES, &shape).expect("the shape is valid");
        let memory = Memory::new(&[SCRATCH_BYTES as usize]).expect("scratch");
        let devices = vec![Device::default(); members];
        let mut array = Members { shape, zones, devices, memory };
        let identities: Vec<Uuid> = (1..=members as u64).map(|nth| Uuid::from_u64_pair(nth, nth)).collect();
        let new = NewArray {
            array: ARRAY,
            name: Label::new("test").expect("a name"),
            host: Host::ANY,
            created_s: 1_700_000_000,
            shape,
            logical_block_bytes: 512,
            zones,
            members: &identities,
            epoch_id: 99,
        };
        let all: Vec<usize> = (0..members).collect();
        array.with_bench(&all, Trouble::default(), |bench| {
            write_new(bench, &new, bitmap::Cell::Unwritten, &mut |_, _| {}).expect("these devices are well");
        });
        let started = array.start(&all, StartOptions::default(), Trouble::default());
        let mut roster = started.result.expect("all are there").roster.expect("it may be written");
        for second in [false, true] {
            let writes = if second { roster.reinforce() } else { roster.wake() }.expect("it may be written");
            array.with_bench(&all, Trouble::default(), |bench| write_superblocks(bench, &writes));
            writes.iter().for_each(|write| roster.settle(write.slot, WriteOutcome::Landed));
        }
        array
    }

    /// Calls `act` with a bench on these devices, in this order; also returns the devices of each lot of
    /// bitmap writes.
    pub fn with_bench<T>(
        &mut self,
        present: &[usize],
        trouble: Trouble,
        act: impl FnOnce(&mut Bench<'_, Power<'_>>) -> T,
    ) -> (T, Vec<Vec<usize>>) {
        let bitmap = self.zones.bitmap.offset_bytes..self.zones.data.offset_bytes;
        let (memory, scratch) = (Arc::clone(&self.memory), self.memory.arena(0).part(0, SCRATCH_BYTES));
        let mut ring = Power {
            devices: &mut self.devices,
            present: present.to_vec(),
            memory: Arc::clone(&memory),
            bitmap,
            trouble,
            queued: Vec::new(),
            lots: Vec::new(),
            off: false,
        };
        let scratch: Span = scratch;
        let result = act(&mut Bench { ring: &mut ring, memory: &memory, scratch });
        (result, ring.lots)
    }

    /// The assembly of these devices.
    pub fn assembly(&mut self, present: &[usize]) -> Assembly {
        let read = |bench: &mut Bench<'_, Power<'_>>| {
            let candidate = |nth: usize| Candidate {
                label: nth.to_string(),
                found: read_superblocks(bench, DeviceIndex(nth as u8), DEVICE_BYTES),
            };
            (0..present.len()).map(candidate).collect::<Vec<_>>()
        };
        let (candidates, _) = self.with_bench(present, Trouble::default(), read);
        let options = AssemblyOptions { run_degraded: true, ..AssemblyOptions::default() };
        assemble(&candidates, &options).expect("enough members are there")
    }

    pub fn start(&mut self, present: &[usize], options: StartOptions, trouble: Trouble) -> Outcome {
        let assembly = self.assembly(present);
        let options = StartOptions { seed: assembly.record.epoch.name.id.wrapping_add(2) | 1, ..options };
        let (result, lots) = self.with_bench(present, trouble, |bench| start(bench, &assembly, &options));
        Outcome { result, lots }
    }

    /// Lists those of these devices that are in sync.
    pub fn in_sync(&mut self, present: &[usize]) -> Vec<usize> {
        let slots = self.assembly(present).slots;
        let device = |plan: &SlotPlan| match *plan {
            SlotPlan::InSync { candidate } => Some(present[candidate]),
            _ => None,
        };
        slots.iter().filter_map(device).collect()
    }

    /// Changes the record on every device.
    pub fn rewrite_records(&mut self, change: impl Fn(&mut Record)) {
        for device in &mut self.devices {
            for copy in [Copy::A, Copy::B] {
                let page = copy.offset_bytes() / BLOCK_BYTES as u64;
                let mut found = superblock::decode(&device.pages[&page][..], copy).expect("a superblock");
                change(&mut found.record);
                device.pages.insert(page, Rc::new(superblock::encode(&found, copy)));
            }
        }
    }

    /// The epoch in each copy of the superblock.
    pub fn epochs(&self, device: usize) -> [EpochName; 2] {
        [Copy::A, Copy::B].map(|copy| {
            let page = copy.offset_bytes() / BLOCK_BYTES as u64;
            let found = superblock::decode(&self.devices[device].pages[&page][..], copy);
            found.expect("a superblock").record.epoch.name
        })
    }

    /// Writes a list of lost rows to both its places.
    pub fn put_list(&mut self, device: usize, generation: u64, ranges: &[LostRange]) {
        let mut list = [0; LIST_BYTES];
        lost_rows::encode(&mut list, ARRAY, generation, ranges);
        for place in PLACE_OFFSETS_BYTES {
            for (page, bytes) in (place / BLOCK_BYTES as u64..).zip(list.chunks_exact(BLOCK_BYTES)) {
                self.devices[device].write(page, bytes.try_into().expect("a page"), Landing::Whole);
            }
        }
    }

    /// Makes a place of the list of lost rows unreadable.
    pub fn spoil_list(&mut self, device: usize, place: usize) {
        self.devices[device].bad.insert(PLACE_OFFSETS_BYTES[place] / BLOCK_BYTES as u64 + 2);
    }

    fn page_of(&self, place: u64) -> u64 {
        (self.zones.bitmap.offset_bytes + bitmap_place(0, place)) / BLOCK_BYTES as u64
    }

    /// Writes the block with these cells to its place.
    pub fn put_block(&mut self, device: usize, generation: u64, cells: u8, landing: Landing) {
        let page = self.page_of(generation);
        self.put_block_at(device, page, generation, cells, landing);
    }

    /// Writes the block to the place that belongs to the next generation.
    pub fn misplace_block(&mut self, device: usize, generation: u64, cells: u8) {
        let page = self.page_of(generation + 1);
        self.put_block_at(device, page, generation, cells, Landing::Whole);
    }

    fn put_block_at(&mut self, device: usize, page: u64, generation: u64, cells: u8, landing: Landing) {
        let mut bytes = [0x55; BLOCK_BYTES];
        let mut all = [0x55; CELL_BYTES];
        all[0] = cells;
        encode(&mut bytes, &Header { array: ARRAY, index: 0, generation }, &all);
        self.devices[device].write(page, &bytes, landing);
    }

    /// Fills a place of the block with a byte.
    pub fn put_bytes(&mut self, device: usize, place: u64, byte: u8) {
        let page = self.page_of(place);
        self.devices[device].write(page, &[byte; BLOCK_BYTES], Landing::Whole);
    }

    /// Makes a place of the block unreadable.
    pub fn spoil(&mut self, device: usize, place: u64) {
        let page = self.page_of(place);
        self.devices[device].bad.insert(page);
    }

    pub fn held(&self, device: usize) -> [Held; 2] {
        [0, 1].map(|place| {
            let (device, page) = (&self.devices[device], self.page_of(place));
            match device.pages.get(&page) {
                _ if device.bad.contains(&page) => Held::Bad,
                None => Held::Foreign,
                Some(bytes) => match decode(&bytes[..], ARRAY, 0) {
                    Ok((generation, cells)) => Held::Block(generation, cells[0]),
                    Err(engine::format::bitmap_block::BlockError::Checksum) => Held::Torn,
                    Err(_) => Held::Foreign,
                },
            }
        })
    }
}
