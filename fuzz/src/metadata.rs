//! Metadata of members that were tampered with, with repaired checksums.
//!
//! An input is a byte of options and a list of edits of valid blocks, each `block, offset (2), length,
//! bytes`. Thus most of a fuzzer's inputs pass the magic and test the fields.

use std::collections::HashMap;
use std::sync::Arc;

use bitmap::{BlockIndex, Cell, LoadMode};
use engine::assembly::{AssemblyOptions, Candidate, NewArray, SuperblockWrite, assemble, create};
use engine::format::bitmap_block::{self, CELL_BYTES, GENERATION_MAX, Header};
use engine::format::host::Host;
use engine::format::label::Label;
use engine::format::superblock::{Copy, Superblock, choose, decode, encode};
use engine::format::zones::{Zones, bitmap_place, zones};
use engine::format::{Level, Shape};
use engine::memory::Memory;
use engine::ring::{Completion, DeviceIndex, MemberIo, MemberOp, Ring};
use engine::start::{Bench, SCRATCH_BYTES, StartOptions, read_superblocks, start as start_array};
use uuid::Uuid;

use crate::Bytes;

type Block = [u8; 4096];

/// Number of members of the unedited array.
const MEMBERS: usize = 4;
/// Size of each member.
const DEVICE_BYTES: u64 = 80 << 20;
/// Chunk size of the unedited array.
const CHUNK_BYTES: u32 = 64 << 10;

fn shape() -> Shape {
    Shape { level: Level::Raid5, members: MEMBERS, chunk_bytes: CHUNK_BYTES }
}

fn array() -> Uuid {
    Uuid::from_u128(0x5712_1a7e)
}

fn honest_zones() -> Zones {
    zones(DEVICE_BYTES, &shape()).expect("members are long enough")
}

/// The superblocks of the unedited array.
fn honest() -> Vec<SuperblockWrite> {
    let members: Vec<Uuid> = (1..=MEMBERS as u128).map(Uuid::from_u128).collect();
    create(&NewArray {
        array: array(),
        name: Label::new("fuzz").expect("a name"),
        host: Host::ANY,
        created_s: 1_700_000_000,
        shape: shape(),
        logical_block_bytes: 512,
        zones: honest_zones(),
        members: &members,
        epoch_id: 99,
    })
}

/// Repairs the checksum of a superblock or a bitmap block, at byte 12 in both.
fn seal(block: &mut Block) {
    block[12..16].fill(0);
    let crc = crc32c::crc32c(&block[..]);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// Applies edits. Block 255 stands for all blocks.
fn edit(bytes: &mut Bytes<'_>, blocks: &mut [Block]) {
    while !bytes.0.is_empty() {
        let which = bytes.byte();
        let offset = usize::from(u16::from_le_bytes([bytes.byte(), bytes.byte()])) % 4096;
        let count = usize::from(bytes.byte()).min(4096 - offset);
        let new = bytes.take(count);
        let count = blocks.len();
        let chosen =
            if which == 255 { 0..count } else { usize::from(which) % count..usize::from(which) % count + 1 };
        blocks[chosen].iter_mut().for_each(|block| block[offset..offset + new.len()].copy_from_slice(new));
    }
}

/// Checks what must hold of every accepted superblock.
fn check_superblock(superblock: &Superblock, copy: Copy) {
    let record = &superblock.record;
    assert_eq!(superblock.check(), Ok(()));
    assert!(record.shape.check().is_ok() && superblock.slot < record.shape.members);
    let Zones { bitmap, log, data, stripes } = record.zones;
    assert!(bitmap.offset_bytes + bitmap.len_bytes <= log.offset_bytes);
    assert!(log.offset_bytes + log.len_bytes <= data.offset_bytes);
    assert_eq!(stripes * u64::from(record.shape.chunk_bytes), data.len_bytes);
    if !superblock.read_only_required {
        assert_eq!(decode(&encode(superblock, copy), copy).as_ref(), Ok(superblock));
    }
}

/// Edits the superblocks of one member. Options: 1, the checksums are not repaired.
pub fn superblock(data: &[u8]) {
    let mut bytes = Bytes(data);
    let options = bytes.byte();
    let writes = honest();
    let mut blocks: Vec<Block> = writes.iter().map(SuperblockWrite::encode).collect();
    edit(&mut bytes, &mut blocks[..2]);
    if options & 1 == 0 {
        blocks[..2].iter_mut().for_each(seal);
    }
    for (block, copy) in blocks[..2].iter().zip([Copy::A, Copy::B]) {
        if let Ok(superblock) = decode(block, copy) {
            check_superblock(&superblock, copy);
        }
    }
    let candidates: Vec<Candidate> = (blocks.chunks_exact(2).enumerate())
        .map(|(member, pair)| Candidate {
            label: member.to_string(),
            found: choose(&pair[0], &pair[1], DEVICE_BYTES),
        })
        .collect();
    if let Ok(found) = &candidates[0].found {
        assert!(found.superblock.record.zones.end_bytes() <= DEVICE_BYTES, "zones end inside the device");
    }
    let liberal = AssemblyOptions { run_degraded: true, foreign_host_ok: true, ..AssemblyOptions::default() };
    for options in [AssemblyOptions::default(), liberal] {
        if let Ok(assembly) = assemble(&candidates, &options) {
            assert_eq!(assembly.record.shape, shape(), "one member does not change the shape");
            assert_eq!(assembly.record.zones, honest_zones(), "nor where things are");
            assert_eq!(assembly.record.array, array());
            assert_eq!(assembly.slots.len(), MEMBERS);
            let _refused_or_not = assembly.roster();
        }
    }
}

/// Edits a bitmap block. Options: 1, the checksum is not repaired; 2, the array was not stopped cleanly.
pub fn bitmap_block(data: &[u8]) {
    let mut bytes = Bytes(data);
    let options = bytes.byte();
    let mut block: Block = [0; 4096];
    let header = Header { array: array(), index: 0, generation: 7 };
    bitmap_block::encode(&mut block, &header, &[0x1b; CELL_BYTES]);
    edit(&mut bytes, std::slice::from_mut(&mut block));
    if options & 1 == 0 {
        seal(&mut block);
    }
    let Ok((generation, cells)) = bitmap_block::decode(&block, array(), 0) else { return };
    assert!(generation < GENERATION_MAX, "there is a number for the next write");
    let mut again: Block = [0; 4096];
    bitmap_block::encode(&mut again, &Header { generation, ..header }, cells);
    assert_eq!(bitmap_block::decode(&again, array(), 0), Ok((generation, cells)));
    let stripes = 1000 + u64::from(options);
    let bitmap = bitmap::Bitmap::new(stripes, Cell::Unwritten);
    bitmap.set_generation(BlockIndex(0), generation);
    let mode = if options & 2 == 0 { LoadMode::Clean } else { LoadMode::Unclean };
    bitmap.load_block(BlockIndex(0), cells, mode);
    let counts = bitmap.count();
    assert_eq!(counts.unwritten + counts.clean + counts.dirty + counts.need_sync, stripes);
    assert!(mode == LoadMode::Clean || counts.dirty == 0, "what was Dirty needs a resync");
    let mut snapshot = [0; CELL_BYTES];
    let write = bitmap.try_begin_block_write(BlockIndex(0), &mut snapshot).expect("nobody else writes");
    assert_eq!(write.generation, generation + 1);
    bitmap.finish_block_write(write, &snapshot);
    let reloaded = bitmap::Bitmap::new(stripes, Cell::Unwritten);
    reloaded.load_block(BlockIndex(0), &snapshot, LoadMode::Clean);
    assert_eq!(reloaded.count(), counts, "what is written is what is loaded");
}

/// The members' content, page by page.
struct Devices {
    pages: HashMap<(u8, u64), Block>,
    memory: Arc<Memory>,
    done: Vec<Completion>,
}

impl Ring for Devices {
    fn push(&mut self, op: MemberOp) {
        let end = op.offset_bytes.checked_add(op.len_bytes).filter(|&end| end <= DEVICE_BYTES);
        assert!(end.is_some(), "beyond the device: {op:?}");
        assert!((op.offset_bytes | op.len_bytes).is_multiple_of(4096), "metadata are whole blocks: {op:?}");
        let pages =
            (op.offset_bytes / 4096..).take((op.len_bytes / 4096) as usize).map(|page| (op.device.0, page));
        match op.io {
            MemberIo::Read => self.memory.with_mut(op.span, |bytes| {
                for (at, bytes) in pages.zip(bytes.chunks_exact_mut(4096)) {
                    bytes.copy_from_slice(self.pages.get(&at).unwrap_or(&[0; 4096]));
                }
            }),
            MemberIo::Write(_) => self.memory.with(op.span, |bytes| {
                for (at, bytes) in pages.zip(bytes.chunks_exact(4096)) {
                    self.pages.insert(at, bytes.try_into().expect("a page"));
                }
            }),
            MemberIo::Flush | MemberIo::Deallocate => {}
        }
        self.done.push(Completion { tag: op.tag, result: Ok(()) });
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.done);
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

thread_local! {
    static MEMORY: Arc<Memory> = Memory::new(&[SCRATCH_BYTES as usize]).expect("scratch");
}

/// Performs a whole start from edited members. The blocks are eight superblocks, then two places of the first
/// bitmap block on each member. Options: 1, parity is trusted; 2, read only.
pub fn start(data: &[u8]) {
    let mut bytes = Bytes(data);
    let options = bytes.byte();
    let mut blocks: Vec<Block> = honest().iter().map(SuperblockWrite::encode).collect();
    for _ in 0..MEMBERS {
        for generation in [1, 2] {
            let mut block = [0; 4096];
            let header = Header { array: array(), index: 0, generation: 2 - generation % 2 };
            bitmap_block::encode(&mut block, &header, &[0x55; CELL_BYTES]);
            blocks.push(block);
        }
    }
    edit(&mut bytes, &mut blocks);
    blocks.iter_mut().for_each(seal);
    let memory = MEMORY.with(Arc::clone);
    let mut devices = Devices { pages: HashMap::new(), memory: Arc::clone(&memory), done: Vec::new() };
    let superblock_pages = [Copy::A, Copy::B].map(|copy| copy.offset_bytes() / 4096);
    let bitmap_pages =
        [0, 1].map(|generation| (honest_zones().bitmap.offset_bytes + bitmap_place(0, generation)) / 4096);
    for member in 0..MEMBERS {
        for nth in 0..2 {
            devices.pages.insert((member as u8, superblock_pages[nth]), blocks[member * 2 + nth]);
            devices.pages.insert((member as u8, bitmap_pages[nth]), blocks[2 * MEMBERS + member * 2 + nth]);
        }
    }
    let scratch = memory.arena(0).part(0, SCRATCH_BYTES);
    let mut bench = Bench { ring: &mut devices, memory: &memory, scratch };
    let candidates: Vec<Candidate> = (0..MEMBERS as u8)
        .map(|member| Candidate {
            label: member.to_string(),
            found: read_superblocks(&mut bench, DeviceIndex(member), DEVICE_BYTES),
        })
        .collect();
    let liberal = AssemblyOptions { run_degraded: true, foreign_host_ok: true, ..AssemblyOptions::default() };
    let Ok(assembly) = assemble(&candidates, &liberal) else { return };
    let said = StartOptions {
        trust_parity: options & 1 != 0,
        read_only: options & 2 != 0 || assembly.read_only,
        seed: 5,
        ..StartOptions::default()
    };
    let Ok(started) = start_array(&mut bench, &assembly, &said) else { return };
    assert_eq!(u64::from(started.geometry.chunk_bytes()), u64::from(assembly.record.shape.chunk_bytes));
    assert_eq!(started.geometry.stripes(), assembly.record.zones.stripes);
    assert!(
        started.view.readable.count() >= u32::from(started.geometry.data()),
        "what is started can be read"
    );
    let mut cells = [0; CELL_BYTES];
    for block in (0..started.bitmap.blocks()).map(BlockIndex) {
        let write = started.bitmap.try_begin_block_write(block, &mut cells).expect("nobody else writes");
        started.bitmap.finish_block_write(write, &cells);
    }
    if !said.read_only {
        // The members can be started again from what the start left on them.
        let found: Vec<Candidate> = (0..MEMBERS as u8)
            .map(|member| Candidate {
                label: member.to_string(),
                found: read_superblocks(&mut bench, DeviceIndex(member), DEVICE_BYTES),
            })
            .collect();
        let again = assemble(&found, &liberal).expect("what was started can be assembled");
        assert_eq!((again.record.shape, again.record.zones), (assembly.record.shape, assembly.record.zones));
        assert_eq!(again.unclean, assembly.unclean, "a start by itself leaves an array as clean as it was");
        start_array(&mut bench, &again, &StartOptions { seed: 6, ..said }).expect("and started");
    }
}
