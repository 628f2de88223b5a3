//! Loading the bitmap: which copy of each block is the newest.
//!
//! A block lies on parities + 1 members, its *keepers*, and on each keeper in two places that its generations
//! use in turn. A write of a block is complete when every keeper in sync has it. Nothing relies on an
//! incomplete write, and the next write of the block does not begin before it is complete. Let G be the
//! newest complete generation, and g the newest one that can be read here:
//!
//! ```text
//!   place   g % 2:   g                                   the newest that is read
//!   place   g % 2:   g                                the newest that is read
//!   place g+1 % 2:   g - 1, or a torn write           then g + 1 was not complete; g is G or newer: load g
//!   place g+1 % 2:   unreadable, or foreign           g + 1 may have been complete: g proves nothing
//!
//! A keeper that shows one of the first two rows proves it for all keepers. Without proof the block is
//! *stale*, and all its cells are `NeedSync`. An older generation is never taken for the newest, because
//! Unwritten would come back over data, and Clean over a write. `--trust-parity` makes all cells of a stale
//! block Dirty, like every other `NeedSync` cell: the operator asks for what parity says, and which stripes
//! were never written is not known.
//!
//! A torn place is a proof only because no write of ours tears a place that may have held G while the other
//! place holds an older generation. A running array ensures this by writing the two places in turn. A start
//! has to take care; see [`even_out`](super::even_out).
//!
//! After a stop in order both places hold the same ([`Bitmap::is_settled`](bitmap::Bitmap::is_settled)), so
//! any valid one will do.
//!
//! **A place that was never written.** A program before the rule of two places wrote a block only once on a
//! member that joined. The other place then holds what the device held before: zeros, or anything else. So a
//! place that can be read and holds no block of this array has two explanations: it was never written (then g
//! + 1 was not complete, as above), or it was overwritten from outside (then g proves nothing). Its content
//! does not tell them apart; zeros do not either, because a discard also leaves zeros. The record does.
//! Programs that write both places say so
//! ([`Record::both_places`](crate::format::superblock::Record::both_places)), and then such a place proves
//! nothing. If the record does not say so, the place counts as never written, as the older program would
//! treat it. The start that finds it writes both places, and the record says so from the first write on. A
//! place that *cannot* be read never proves anything.
//!
//! **Generations** of a new epoch begin above all those of older epochs, whether or not these can be read: an
//! absent member cannot come back with a higher one, and a place that becomes readable again is older than
//! everything written since.

use std::collections::BTreeSet;

use bitmap::{BlockIndex, Cell, LoadMode};

use crate::format::bitmap_block::{self, BlockError, Cells};
use crate::format::zones::{PLACES_PER_BLOCK, bitmap_place, copies};
use crate::geometry::Slots;
use crate::limits::{BLOCK_BYTES, MEMBERS_MAX};
use crate::memory::{Memory, Span};
use crate::ring::{DeviceIndex, MemberIo, Ring};

use super::even_out::{Behind, Disorder};
use super::{Bench, SCRATCH_BYTES, Started, shape_of};

const PLACES: usize = PLACES_PER_BLOCK as usize;

/// Bits of the generations within one epoch: 2^32 writes of one block, which is 5 days at 10,000 per second.
const GENERATIONS_PER_EPOCH_BITS: u32 = 32;
/// Epochs that have generations of their own; later epochs count on from what is read. 2^25 starts are one
/// per second for a year.
const EPOCHS_MAX: u64 = 1 << 25;
const _: () = assert!(EPOCHS_MAX << GENERATIONS_PER_EPOCH_BITS < bitmap_block::GENERATION_MAX);

/// The end of the array's last run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// A stop in order that left both places of every block alike.
    SettledStop,
    /// A stop in order, perhaps of a program that wrote only one place of a block.
    Stop,
    /// No stop: writes of blocks may have torn, and Dirty stripes need a resync.
    Cut,
}

/// The content of one place of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A block of this generation.
    Valid(u64),
    /// A block with a wrong checksum: a torn write, or decay.
    Torn,
    /// No block of this array, in an array where some places may never have been written.
    NeverWritten,
    /// An unreadable place, or no block of this array.
    Unknown,
}

/// The newest complete generation of a block, if any member proves it. `members` has an entry for each keeper
/// in sync: what its even place shows, then its odd place.
#[must_use]
pub fn newest(members: &[[Seen; PLACES]], before: Before) -> Option<u64> {
    let valid = members.iter().flatten().filter_map(|seen| match seen {
        Seen::Valid(generation) => Some(*generation),
        Seen::Torn | Seen::NeverWritten | Seen::Unknown => None,
    });
    let newest = valid.max()?;
    let later = (newest + 1) as usize % PLACES;
    let proves_it = |member: &[Seen; PLACES]| match (before, member[later]) {
        (Before::SettledStop, _) | (_, Seen::Valid(_) | Seen::NeverWritten) => true,
        // Nothing was being written at a stop, so a damaged block had been whole.
        (Before::Cut, Seen::Torn) => true,
        (Before::Stop, Seen::Torn) | (Before::Stop | Before::Cut, Seen::Unknown) => false,
    };
    members.iter().any(proves_it).then_some(newest)
}

/// Places that could not be read, as (slot, offset).
type Unreadable = BTreeSet<(u8, u64)>;

/// Fills the bitmap from the members in sync. `both_places` is true if the record says that both places of
/// every block have been written.
pub(super) fn load<R: Ring>(
    bench: &mut Bench<'_, R>,
    started: &mut Started,
    before: Before,
    both_places: bool,
) -> Disorder {
    let blocks = started.bitmap.blocks();
    let members = started.geometry.members();
    let block_bytes = (BLOCK_BYTES as u64 * PLACES_PER_BLOCK) as u32;
    // The scratch memory holds the same part of every member's bitmap zone side by side, as many blocks at a
    // time as fit.
    let at_once = SCRATCH_BYTES / u32::from(members) / block_bytes;
    let mut disorder = Disorder::default();
    let mut unreadable = Unreadable::new();
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
                let device = started.devices[usize::from(slot)];
                let bad = read_one_by_one(bench, device, offset, spans[usize::from(slot)]);
                unreadable.extend(bad.into_iter().map(|place| (slot, place)));
            }
        }
        for nth in 0..count {
            let spans: Vec<_> = spans.iter().map(|span| span.part(nth * block_bytes, block_bytes)).collect();
            let block = BlockIndex(first + nth);
            let keepers = look(bench.memory, started, block, &spans, &unreadable, both_places);
            load_block(started, block, keepers, before, &mut disorder);
        }
        first += count;
    }
    disorder
}

/// The places of one block, as read from its keepers in sync.
struct Keepers {
    /// Each slot with its even and its odd place.
    places: Vec<(u8, [Seen; PLACES])>,
    /// The cells of each generation that was read.
    contents: Vec<(u64, Box<Cells>)>,
}

/// Looks at both places of one block on its keepers in sync.
fn look(
    memory: &Memory,
    started: &Started,
    block: BlockIndex,
    spans: &[Span],
    unreadable: &Unreadable,
    both_places: bool,
) -> Keepers {
    let mut keepers =
        Keepers { places: Vec::with_capacity(MEMBERS_MAX), contents: Vec::with_capacity(PLACES) };
    let uuid = uuid::Uuid::from_bytes(started.layout.uuid);
    let slots = copies(block.0.into(), &shape_of(&started.geometry)).map(|slot| slot as u8);
    for slot in slots.filter(|slot| started.view.readable.has(*slot)) {
        let mut seen = [Seen::Unknown; PLACES];
        for (place, seen) in seen.iter_mut().enumerate() {
            let offset = started.layout.bitmap_offset_bytes + bitmap_place(block.0.into(), place as u64);
            if unreadable.contains(&(slot, offset)) {
                continue;
            }
            let span = spans[usize::from(slot)].part((place * BLOCK_BYTES) as u32, BLOCK_BYTES as u32);
            *seen = memory.with(span, |bytes| match bitmap_block::decode(bytes, uuid, block.0.into()) {
                // A generation in the wrong place is not a write of ours.
                Ok((generation, _)) if generation as usize % PLACES != place => Seen::Unknown,
                Ok((generation, cells)) => {
                    if keepers.contents.iter().all(|(known, _)| *known != generation) {
                        keepers.contents.push((generation, Box::new(*cells)));
                    }
                    Seen::Valid(generation)
                }
                Err(BlockError::Checksum) => Seen::Torn,
                Err(BlockError::NotABitmapBlock | BlockError::OtherArray(_)) if !both_places => {
                    Seen::NeverWritten
                }
                Err(_) => Seen::Unknown,
            });
        }
        keepers.places.push((slot, seen));
    }
    keepers
}

/// Loads one block from what its keepers showed.
fn load_block(
    started: &mut Started,
    block: BlockIndex,
    keepers: Keepers,
    before: Before,
    disorder: &mut Disorder,
) {
    let Keepers { places: keepers, mut contents } = keepers;
    let shown: Vec<_> = keepers.iter().map(|(_, places)| *places).collect();
    let of_slots = |wanted: &dyn Fn(&[Seen; PLACES]) -> bool| {
        let slots = keepers.iter().filter(|(_, places)| wanted(places));
        slots.fold(Slots::NONE, |slots, (slot, _)| slots.or(Slots::one(*slot)))
    };
    let bad = of_slots(&|places| places.iter().any(|seen| !matches!(seen, Seen::Valid(_))));
    let decayed = of_slots(&|places| places.iter().any(|seen| matches!(seen, Seen::Torn | Seen::Unknown)));
    started.bad_places = started.bad_places.or(decayed);
    if !bad.is_empty() {
        disorder.damaged.push(block);
    }
    let highest = contents.iter().map(|(generation, _)| *generation).max().unwrap_or(0);
    let Some(newest) = newest(&shown, before) else {
        // The next write goes to the place of the highest generation; the argument is at the top of
        // `even_out`.
        started.bitmap.set_generation(block, first_generation(started, highest + 1));
        started.stale_blocks += 1;
        load_stale(started, block);
        return;
    };
    // The next write goes to the place that does not hold the newest generation.
    started.bitmap.set_generation(block, first_generation(started, newest));
    let others_agree = contents.iter().all(|(_, cells)| *cells == contents[0].1);
    let at = contents.iter().position(|(generation, _)| *generation == newest).expect("it was read");
    let (_, mut cells) = contents.swap_remove(at);
    let its_place = newest as usize % PLACES;
    let behind = of_slots(&|places| match places[its_place] {
        Seen::Valid(held) => held != newest,
        Seen::Torn | Seen::NeverWritten => true,
        // The place may hold the newest generation; the argument is at the top of `even_out`.
        Seen::Unknown => false,
    });
    if !behind.is_empty() {
        disorder.behind.push(Behind { block, generation: newest, cells: cells.clone(), slots: behind });
    }
    if started.parity_trusted {
        trust(&mut cells);
    }
    let mode = match before {
        Before::Cut if !started.parity_trusted => LoadMode::Unclean,
        Before::Cut | Before::Stop | Before::SettledStop => LoadMode::Clean,
    };
    started.bitmap.load_block(block, &cells, mode);
    if !others_agree || !bad.is_empty() {
        started.bitmap.unsettle(block);
    }
}

/// Loads a block about which nothing is known.
fn load_stale(started: &Started, block: BlockIndex) {
    if started.parity_trusted {
        let mut cells = [Cell::NeedSync.disk_code(); bitmap_block::CELL_BYTES];
        trust(&mut cells);
        started.bitmap.load_block(block, &cells, LoadMode::Clean);
    } else {
        started.bitmap.load_stale(block);
    }
}

/// The generation that a block's next write follows. It is not below `follows`, belongs in the same place,
/// and is above all generations of older epochs.
fn first_generation(started: &Started, follows: u64) -> u64 {
    let epoch = started.roster.as_ref().map_or(0, |roster| roster.record().epoch.name.number);
    let of_epoch = epoch.min(EPOCHS_MAX) << GENERATIONS_PER_EPOCH_BITS;
    follows.max(of_epoch + follows % PLACES_PER_BLOCK)
}

/// Reads, place by place, a piece of a zone that could not be read as a whole. Returns the offsets of
/// unreadable places.
fn read_one_by_one<R: Ring>(
    bench: &mut Bench<'_, R>,
    device: DeviceIndex,
    offset: u64,
    span: Span,
) -> Vec<u64> {
    let mut bad = Vec::new();
    for place in (0..span.len_bytes).step_by(BLOCK_BYTES) {
        let at = offset + u64::from(place);
        let op = Bench::<R>::op(device, MemberIo::Read, at, span.part(place, BLOCK_BYTES as u32));
        if bench.run(&[op])[0].is_err() {
            bad.push(at);
        }
    }
    bad
}

/// Turns `NeedSync` into Dirty, because the operator says that parity is right.
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
