//! The bitmap at a start: which copy of each block is the newest, and copies that are put in order.
//!
//! A block lies on parities + 1 members, and on each in two places that its generations take in turn. A write of a block is
//! complete when every one of these members has it; nothing relies on a write that is not. So let G be the newest
//! complete generation and g the newest one that can be read here:
//!
//! ```text
//!   place   g % 2:   g                                   the newest that is read
//!   place g+1 % 2:   g - 1, or a write that tore         then g + 1 was not complete, and g is G or newer: load g
//!   place g+1 % 2:   cannot be read, or is damaged       g + 1 may have been complete: g proves nothing
//! ```
//!
//! One member that shows the first of these proves it for all. Without proof the block is NeedSync throughout: an older
//! generation is never taken for the newest, because Unwritten would come back over data, and Clean over a write.
//!
//! After a stop in order both places say the same ([`Bitmap::is_settled`](bitmap::Bitmap::is_settled)), so any valid one will do. A program before this
//! rule wrote one place only; [`Before`] tells the two apart.
//!
//! **Generations** of a new epoch begin above all those of older epochs, whether or not these can be read: a member that
//! is not here cannot come back with a higher one.

use bitmap::{BlockIndex, Cell, LoadMode};

use crate::format::bitmap_block::{self, BlockError, Cells, Header};
use crate::format::zones::{PLACES_PER_BLOCK, bitmap_place, copies};
use crate::geometry::Slots;
use crate::limits::{BLOCK_BYTES, MEMBERS_MAX};
use crate::memory::{Memory, Span};
use crate::ring::{DeviceIndex, Durability, MemberIo, Ring};

use super::{Bench, SCRATCH_BYTES, StartError, Started, hold_against_member, shape_of};

const PLACES: usize = PLACES_PER_BLOCK as usize;

/// Generations of one epoch are below the first of the next: 2^32 writes of one block, 5 days of 10,000 a second.
const GENERATIONS_PER_EPOCH_BITS: u32 = 32;
/// Epochs with generations of their own. Later ones count on from what is read: 2^25 starts, one a second for a year.
const EPOCHS_MAX: u64 = 1 << 25;
const _: () = assert!(EPOCHS_MAX << GENERATIONS_PER_EPOCH_BITS < bitmap_block::GENERATION_MAX);

/// What happened to the array before this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// A stop in order, which left both places of every block alike.
    SettledStop,
    /// A stop in order, perhaps of a program that wrote one place of a block only.
    Stop,
    /// No stop: writes of blocks may have torn, and what is Dirty needs a resync.
    Cut,
}

/// What one place of a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A block of this generation.
    Valid(u64),
    /// A block whose checksum is wrong: a write that tore, or decay.
    Torn,
    /// Unreadable, or not a block of this array.
    Unknown,
}

/// The newest complete generation of a block, if any member proves it. `members`: what each member that keeps the
/// block and is in sync shows, its even place first.
#[must_use]
pub fn newest(members: &[[Seen; PLACES]], before: Before) -> Option<u64> {
    let valid = members.iter().flatten().filter_map(|seen| match seen {
        Seen::Valid(generation) => Some(*generation),
        Seen::Torn | Seen::Unknown => None,
    });
    let newest = valid.max()?;
    let later = (newest + 1) as usize % PLACES;
    let proves_it = |member: &[Seen; PLACES]| match (before, member[later]) {
        (Before::SettledStop, _) | (_, Seen::Valid(_)) => true,
        // Nothing was being written at a stop: a damaged block had been whole.
        (Before::Cut, Seen::Torn) => true,
        (Before::Stop, Seen::Torn) | (Before::Stop | Before::Cut, Seen::Unknown) => false,
    };
    members.iter().any(proves_it).then_some(newest)
}

/// What a load of the bitmap has found to be put in order.
#[derive(Default)]
pub(super) struct Disorder {
    /// Blocks that some slots do not have in the newest generation.
    behind: Vec<Behind>,
    /// Blocks of which no copy is the newest for certain, or some place is damaged.
    torn: Vec<BlockIndex>,
}

/// A block that some slots do not have in its newest generation.
struct Behind {
    block: BlockIndex,
    generation: u64,
    cells: Box<Cells>,
    slots: Slots,
}

/// Fills the bitmap from the members in sync. `guess`: the operator's word that parity is right, so NeedSync is Dirty.
pub(super) fn load<R: Ring>(
    bench: &mut Bench<'_, R>,
    started: &mut Started,
    before: Before,
    guess: bool,
) -> Disorder {
    let blocks = started.bitmap.blocks();
    let members = started.geometry.members();
    let block_bytes = (BLOCK_BYTES as u64 * PLACES_PER_BLOCK) as u32;
    // Every member's part of the zone, side by side in the scratch: as many blocks at a time as fit.
    let at_once = SCRATCH_BYTES / u32::from(members) / block_bytes;
    let mut disorder = Disorder::default();
    let mut first = 0;
    while first < blocks {
        let count = at_once.min(blocks - first);
        let part =
            |slot: u8| bench.scratch.part(u32::from(slot) * at_once * block_bytes, count * block_bytes);
        let offset = started.layout.bitmap_offset_bytes + bitmap_place(first.into(), 0);
        let readable = started.view.readable;
        let op =
            |slot| Bench::<R>::op(started.devices[usize::from(slot)], MemberIo::Read, offset, part(slot));
        let ops: Vec<_> = readable.iter().map(op).collect();
        let spans: Vec<_> = (0..members).map(part).collect();
        for (slot, result) in readable.iter().zip(bench.run(&ops)) {
            if result.is_err() {
                read_one_by_one(bench, started.devices[usize::from(slot)], offset, spans[usize::from(slot)]);
            }
        }
        for nth in 0..count {
            let spans: Vec<_> = spans.iter().map(|span| span.part(nth * block_bytes, block_bytes)).collect();
            load_block(
                bench.memory,
                started,
                BlockIndex(first + nth),
                &spans,
                (before, guess),
                &mut disorder,
            );
        }
        first += count;
    }
    disorder
}

/// Loads one block from both its places on each slot in sync that keeps it.
fn load_block(
    memory: &Memory,
    started: &mut Started,
    block: BlockIndex,
    spans: &[Span],
    (before, guess): (Before, bool),
    disorder: &mut Disorder,
) {
    let uuid = uuid::Uuid::from_bytes(started.layout.uuid);
    let mut seen = [[Seen::Unknown; PLACES]; MEMBERS_MAX];
    let mut keepers = Vec::with_capacity(MEMBERS_MAX);
    let mut contents: Vec<(u64, Box<Cells>)> = Vec::with_capacity(PLACES);
    for slot in copies(block.0.into(), &shape_of(&started.geometry)).map(|slot| slot as u8) {
        if !started.view.readable.has(slot) {
            continue;
        }
        for (place, shown) in seen[usize::from(slot)].iter_mut().enumerate() {
            let span = spans[usize::from(slot)].part((place * BLOCK_BYTES) as u32, BLOCK_BYTES as u32);
            *shown = memory.with(span, |bytes| match bitmap_block::decode(bytes, uuid, block.0.into()) {
                // A generation in the wrong place is no honest write of ours.
                Ok((generation, _)) if generation as usize % PLACES != place => Seen::Unknown,
                Ok((generation, cells)) => {
                    if contents.iter().all(|(known, _)| *known != generation) {
                        contents.push((generation, Box::new(*cells)));
                    }
                    Seen::Valid(generation)
                }
                Err(BlockError::Checksum) => Seen::Torn,
                Err(_) => Seen::Unknown,
            });
        }
        keepers.push((slot, seen[usize::from(slot)]));
    }
    let shown: Vec<_> = keepers.iter().map(|(_, places)| *places).collect();
    let is_bad = |places: &[Seen; PLACES]| places.iter().any(|seen| !matches!(seen, Seen::Valid(_)));
    let of_slots = |wanted: &dyn Fn(&[Seen; PLACES]) -> bool| {
        let slots = keepers.iter().filter(|(_, places)| wanted(places));
        slots.fold(Slots::NONE, |slots, (slot, _)| slots.or(Slots::one(*slot)))
    };
    let bad = of_slots(&is_bad);
    started.bad_places = started.bad_places.or(bad);
    let highest = contents.iter().map(|(generation, _)| *generation).max().unwrap_or(0);
    started.bitmap.set_generation(block, first_generation(started, highest));
    let Some(newest) = newest(&shown, before) else {
        started.stale_blocks += 1;
        started.bitmap.load_stale(block);
        disorder.torn.push(block);
        return;
    };
    let others_agree = contents.iter().all(|(_, cells)| *cells == contents[0].1);
    let at = contents.iter().position(|(generation, _)| *generation == newest).expect("it was read");
    let (_, mut cells) = contents.swap_remove(at);
    let behind = of_slots(&|places| !places.contains(&Seen::Valid(newest)));
    if !behind.is_empty() {
        disorder.behind.push(Behind { block, generation: newest, cells: cells.clone(), slots: behind });
    }
    if !bad.is_empty() {
        disorder.torn.push(block);
    }
    if guess {
        trust(&mut cells);
    }
    let mode = match before {
        Before::Cut if !guess => LoadMode::Unclean,
        Before::Cut | Before::Stop | Before::SettledStop => LoadMode::Clean,
    };
    started.bitmap.load_block(block, &cells, mode);
    if !others_agree || !bad.is_empty() {
        started.bitmap.unsettle(block);
    }
}

/// The generation that the block's next write follows, where `highest` is the highest that was read: above all those of older
/// epochs, and such that the next write does not go to the place of the highest.
fn first_generation(started: &Started, highest: u64) -> u64 {
    let epoch = started.roster.as_ref().map_or(0, |roster| roster.record().epoch.name.number);
    let of_epoch = epoch.min(EPOCHS_MAX) << GENERATIONS_PER_EPOCH_BITS;
    highest.max(of_epoch + highest % PLACES_PER_BLOCK)
}

/// A piece of a zone could not be read whole: block by block, and what cannot be read is zeros, which are no block.
fn read_one_by_one<R: Ring>(bench: &mut Bench<'_, R>, device: DeviceIndex, offset: u64, span: Span) {
    for place in (0..span.len_bytes).step_by(BLOCK_BYTES) {
        let block = span.part(place, BLOCK_BYTES as u32);
        let op = Bench::<R>::op(device, MemberIo::Read, offset + u64::from(place), block);
        if bench.run(&[op])[0].is_err() {
            bench.memory.zero(block);
        }
    }
}

/// The operator's word that parity is right: NeedSync becomes Dirty.
fn trust(cells: &mut Cells) {
    let (need_sync, dirty) = (Cell::NeedSync.disk_code(), Cell::Dirty.disk_code());
    for byte in cells.iter_mut() {
        for shift in [0, 2, 4, 6] {
            if *byte >> shift & 3 == need_sync {
                *byte = *byte & !(3 << shift) | dirty << shift;
            }
        }
    }
}

/// Puts in order what the load has found, before anything relies on it: what is on one copy only must not be
/// believed by the next start and not by this one, or the reverse. Returns the slots where that failed; they must leave, on
/// record, before the array serves.
///
/// First the slots that are behind get the newest generation as it is, in its place, so that each has it beside
/// the place that is written next. Then blocks with a damaged place are written once more: what another torn
/// write may leave there must not complete the first.
pub(super) fn even_out<R: Ring>(
    bench: &mut Bench<'_, R>,
    started: &mut Started,
    disorder: &Disorder,
) -> Result<Slots, StartError> {
    let mut failed = Slots::NONE;
    for Behind { block, generation, cells, slots } in &disorder.behind {
        let slots = slots.minus(failed);
        failed = failed.or(write_copies(bench, started, *block, *generation, cells, slots)?);
    }
    let shape = shape_of(&started.geometry);
    let mut cells = Box::new([0; bitmap_block::CELL_BYTES]);
    for &block in &disorder.torn {
        let write = started.bitmap.try_begin_block_write(block, &mut cells).expect("nobody else writes yet");
        let kept =
            copies(block.0.into(), &shape).fold(Slots::NONE, |kept, slot| kept.or(Slots::one(slot as u8)));
        let slots = kept.and(started.view.writable).minus(failed);
        failed = failed.or(write_copies(bench, started, block, write.generation, &cells, slots)?);
        started.bitmap.finish_block_write(write, &cells);
    }
    Ok(failed)
}

/// Writes a block to these slots; returns those where it failed.
fn write_copies<R: Ring>(
    bench: &mut Bench<'_, R>,
    started: &Started,
    block: BlockIndex,
    generation: u64,
    cells: &Cells,
    slots: Slots,
) -> Result<Slots, StartError> {
    let array = uuid::Uuid::from_bytes(started.layout.uuid);
    let header = Header { array, index: block.0.into(), generation };
    let span = bench.scratch.part(0, BLOCK_BYTES as u32);
    bench.memory.with_mut(span, |bytes| bitmap_block::encode(bytes, &header, cells));
    let offset = started.layout.bitmap_offset_bytes + bitmap_place(block.0.into(), generation);
    let durable = MemberIo::Write(Durability::Durable);
    let op = |slot| Bench::<R>::op(started.devices[usize::from(slot)], durable, offset, span);
    let ops: Vec<_> = slots.iter().map(op).collect();
    let mut failed = Slots::NONE;
    for (slot, result) in slots.iter().zip(bench.run(&ops)) {
        hold_against_member(slot, result)?;
        if result.is_err() {
            failed = failed.or(Slots::one(slot));
        }
    }
    Ok(failed)
}
