//! Starting an array: the steps between assembly, which decides, and the reactors, which serve.
//!
//! All I/O goes through a [`Ring`], so the simulator starts arrays with the same code and cuts the power
//! during it. The order follows the rule of [`assembly`](crate::assembly): first the new epoch on every
//! participant, then bitmap blocks, then data.
//!
//! 1. [`read_superblocks`] of every candidate; [`assemble`](crate::assembly::assemble) decides.
//! 2. [`start`] reads the list of lost rows (without a valid copy the start is refused) and then writes the
//!    new epoch. A member that fails its superblock leaves in another epoch.
//! 3. The bitmap blocks are read from members in sync, the newest valid copy of each. After an unclean stop,
//!    Dirty cells count as `NeedSync`, and so do all cells of a block without a valid copy.
//! 4. Blocks whose copies differ or are damaged are written anew before anything relies on them.

use bitmap::{Bitmap, BlockIndex, Cell};

use crate::array::Layout;
use crate::assembly::{Assembly, Change, ChangeRefused, Roster, SlotPlan, SuperblockWrite, WriteOutcome};
use crate::format::bitmap_block::{self, Header};
use crate::format::host::Host;
use crate::format::superblock::{self, Copy, Found, NoMember};
use crate::format::zones::{PLACES_PER_BLOCK, bitmap_place};
use crate::geometry::{Geometry, Slots};
use crate::limits::{BLOCK_BYTES, BUFFER_BYTES_MAX, MEMBERS_MAX};
use crate::lost::LostRows;
use crate::members::{MemberView, Members};
use crate::memory::{Memory, Span};
use crate::ring::blame::{Blame, blame};
use crate::ring::{DeviceIndex, Durability, MemberIo, MemberOp, Ring, blocking};

mod bitmap_blocks;
mod even_out;
mod grow;
mod lost;

pub use bitmap_blocks::{Before, Seen, newest};
pub use grow::{GrowError, grow};

/// Bytes of scratch memory that these steps need.
pub const SCRATCH_BYTES: u32 = BUFFER_BYTES_MAX;

/// A ring and memory to work with. Nothing else is in flight on the ring.
pub struct Bench<'a, R: Ring> {
    /// The ring for member I/O. Its devices are the candidates, by their index.
    pub ring: &'a mut R,
    /// The memory that holds the scratch span.
    pub memory: &'a Memory,
    /// Scratch memory of [`SCRATCH_BYTES`].
    pub scratch: Span,
}

/// Options of an operator for a start.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartOptions {
    /// The host that owns the array from now on.
    pub host: Host,
    /// Write nothing, not even the epoch.
    pub read_only: bool,
    /// Assume that parity is right in stripes that are unsynced while a member is missing.
    pub trust_parity: bool,
    /// Random seed of the epoch's id; not zero.
    pub seed: u64,
}

/// An array that is ready to be served.
pub struct Started {
    /// The array's shape.
    pub geometry: Geometry,
    /// The array's zones.
    pub layout: Layout,
    /// The cells of the array.
    pub bitmap: Bitmap,
    /// The slots that may be read and written.
    pub view: MemberView,
    /// The device of each slot; the value for an absent device means nothing.
    pub devices: Vec<DeviceIndex>,
    /// The record; `None` if the array is read-only.
    pub roster: Option<Roster>,
    /// The slot whose rebuild continues, and its cursor.
    pub rebuilding: Option<(u8, u64)>,
    /// Rows that can no longer be computed.
    pub lost: LostRows,
    /// Bitmap blocks of which no copy is known to be the newest: their stripes need a resync, unless parity
    /// is trusted.
    pub stale_blocks: u32,
    /// A member is missing and the operator has said that parity is right: unsynced stripes were loaded as
    /// Dirty.
    pub parity_trusted: bool,
    /// Slots with a place of a bitmap block that could not be read, or was damaged.
    pub bad_places: Slots,
}

/// Reasons why a start failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The remaining members are too few, or must not be written.
    #[error("the array cannot be started: {0}")]
    Refused(#[from] ChangeRefused),
    /// A member refused a metadata write and is not at fault. Nothing goes on record against it.
    #[error(
        "slot {slot} did not take a metadata write, and not for a fault of its device: {}: see that its file system has room, and the kernel log",
        std::io::Error::from_raw_os_error(*errno)
    )]
    NotTaken {
        /// The member's slot.
        slot: u8,
        /// The error that the kernel reported.
        errno: i32,
    },
    /// The record says that there is a list of lost rows, and no member has a valid copy.
    #[error(
        "the array cannot be started: the list of rows that were lost cannot be read on any member in sync, and without it zeros would be \
         served for them; start it with a member that has it"
    )]
    LostRowsUnreadable,
}

impl StartError {
    /// The slot that the error is about, if any.
    #[must_use]
    pub const fn slot(&self) -> Option<usize> {
        match self {
            StartError::NotTaken { slot, .. } => Some(*slot as usize),
            StartError::Refused(_) | StartError::LostRowsUnreadable => None,
        }
    }
}

/// Stops the start if metadata was not written for a reason that says nothing about the member.
fn hold_against_member(slot: u8, result: Result<(), i32>) -> Result<(), StartError> {
    match result {
        Err(errno) if blame(errno) != Blame::Device => Err(StartError::NotTaken { slot, errno }),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl<R: Ring> Bench<'_, R> {
    /// Carries out these operations; their tags do not matter.
    pub fn run(&mut self, ops: &[MemberOp]) -> Vec<Result<(), i32>> {
        blocking::run(self.ring, ops)
    }

    fn op(device: DeviceIndex, io: MemberIo, offset_bytes: u64, span: Span) -> MemberOp {
        MemberOp { tag: 0, device, io, offset_bytes, len_bytes: u64::from(span.len_bytes), span }
    }
}

/// Reads both superblocks of a device. A copy that cannot be read counts as damaged.
///
/// The device is flushed first, so that what is read is durable. A superblock whose write failed may be in
/// the device's cache: it could be read now and be gone after the next power cut, when other superblocks say
/// that the device held it. (A device that cannot be flushed is believed anyway: the array may need it.)
pub fn read_superblocks<R: Ring>(
    bench: &mut Bench<'_, R>,
    device: DeviceIndex,
    device_bytes: u64,
) -> Result<Found, NoMember> {
    let block = BLOCK_BYTES as u32;
    let spans = [bench.scratch.part(0, block), bench.scratch.part(block, block)];
    spans.iter().for_each(|&span| bench.memory.zero(span));
    let _better_than_none = bench.run(&[Bench::<R>::op(device, MemberIo::Flush, 0, Span::EMPTY)]);
    let places = [Copy::A, Copy::B].map(Copy::offset_bytes);
    let ops: Vec<_> = spans
        .iter()
        .zip(places)
        .filter(|(_, place)| place + BLOCK_BYTES as u64 <= device_bytes)
        .map(|(&span, place)| Bench::<R>::op(device, MemberIo::Read, place, span))
        .collect();
    let results = bench.run(&ops);
    if !results.is_empty() && results.iter().all(Result::is_err) {
        return Err(NoMember::Unreadable);
    }
    for (result, span) in results.into_iter().zip(spans) {
        if result.is_err() {
            bench.memory.zero(span);
        }
    }
    bench.memory.with(spans[0], |a| bench.memory.with(spans[1], |b| superblock::choose(a, b, device_bytes)))
}

/// Writes superblocks, all at once; returns the result of each.
pub fn write_superblocks<R: Ring>(
    bench: &mut Bench<'_, R>,
    writes: &[SuperblockWrite],
) -> Vec<Result<(), i32>> {
    let block = BLOCK_BYTES as u32;
    assert!(writes.len() <= 2 * MEMBERS_MAX && 2 * MEMBERS_MAX as u32 * block <= SCRATCH_BYTES);
    let op = |(write, place): (&SuperblockWrite, u32)| {
        let span = bench.scratch.part(place * block, block);
        bench.memory.write_to(span, &write.encode());
        let device = DeviceIndex(u8::try_from(write.device).expect("a device index fits"));
        Bench::<R>::op(device, MemberIo::Write(Durability::Durable), write.copy.offset_bytes(), span)
    };
    let ops: Vec<_> = writes.iter().zip(0..).map(op).collect();
    bench.run(&ops)
}

/// Starts the array that assembly decided on. The candidates' indices are the ring's device indices.
pub fn start<R: Ring>(
    bench: &mut Bench<'_, R>,
    assembly: &Assembly,
    options: &StartOptions,
) -> Result<Started, StartError> {
    let record = &assembly.record;
    let shape = record.shape;
    let geometry = Geometry::new(
        shape.members as u8,
        shape.level.parities() as u8,
        shape.chunk_bytes,
        record.zones.stripes,
    );
    let layout = Layout::of(record.array, &record.zones, record.logical_block_bytes);
    let mut view = MemberView { readable: Slots::NONE, writable: Slots::NONE };
    let mut devices = vec![DeviceIndex(0); shape.members];
    let mut rebuilding = None;
    for (slot, plan) in assembly.slots.iter().enumerate() {
        let one = Slots::one(slot as u8);
        match *plan {
            SlotPlan::InSync { candidate } => {
                devices[slot] = DeviceIndex(candidate as u8);
                view = MemberView { readable: view.readable.or(one), writable: view.writable.or(one) };
            }
            SlotPlan::Rebuilding { candidate, cursor } => {
                devices[slot] = DeviceIndex(candidate as u8);
                view.writable = view.writable.or(one);
                rebuilding = Some((slot as u8, cursor));
            }
            SlotPlan::Stale { .. } | SlotPlan::Missing | SlotPlan::Failed | SlotPlan::Empty => {}
        }
    }
    let mut started = Started {
        geometry,
        layout,
        bitmap: Bitmap::new(geometry.stripes(), Cell::Unwritten),
        view,
        devices,
        roster: None,
        rebuilding,
        lost: LostRows::none(geometry),
        stale_blocks: 0,
        parity_trusted: false,
        bad_places: Slots::NONE,
    };
    // Read the list before the epoch begins: a start refused for lack of the list must not write an epoch
    // that leaves out a missing member which has it.
    let mut list_order = lost::IN_ORDER;
    if record.lost_rows {
        (started.lost, list_order) = lost::load(bench, &started)?;
    }
    if !options.read_only {
        let (roster, lost) = begin_epoch(bench, assembly, options)?;
        started.view =
            MemberView { readable: view.readable.minus(lost), writable: view.writable.minus(lost) };
        started.rebuilding = rebuilding.filter(|(slot, _)| !lost.has(*slot));
        started.roster = Some(roster);
    }
    started.parity_trusted =
        options.trust_parity && started.view.readable.count() < u32::from(geometry.members());
    let before = match (assembly.unclean, record.settled) {
        (true, _) => Before::Cut,
        (false, false) => Before::Stop,
        (false, true) => Before::SettledStop,
    };
    let disorder = bitmap_blocks::load(bench, &mut started, before, record.both_places);
    if !options.read_only {
        for step in even_out::STEPS {
            let failed = even_out::even_out(bench, &mut started, &disorder, step)?;
            started.leave(bench, failed, options.seed)?;
        }
        started.roster.iter_mut().for_each(Roster::note_both_places);
        let failed = lost::even_out(bench, &mut started, list_order)?;
        started.leave(bench, failed, options.seed)?;
    }
    Ok(started)
}

/// Begins the epoch of this start, and continues with further epochs until one has landed on all its
/// participants. Returns the record and the slots that were lost on the way.
fn begin_epoch<R: Ring>(
    bench: &mut Bench<'_, R>,
    assembly: &Assembly,
    options: &StartOptions,
) -> Result<(Roster, Slots), StartError> {
    let mut roster = assembly.roster()?;
    let id = roster.record().epoch.name.next_id(options.seed);
    let writes = roster.begin(Change::Start { host: options.host }, id)?;
    let lost = commit(bench, &mut roster, writes, options.seed)?;
    Ok((roster, lost))
}

/// Writes the superblocks of a change, and then of further changes until one has landed on all: a slot that
/// loses a write leaves. Returns the slots that left. `seed` makes the ids of these epochs.
fn commit<R: Ring>(
    bench: &mut Bench<'_, R>,
    roster: &mut Roster,
    mut writes: Vec<SuperblockWrite>,
    seed: u64,
) -> Result<Slots, StartError> {
    let mut lost = Slots::NONE;
    let mut reinforced = false;
    loop {
        let results = write_superblocks(bench, &writes);
        for (write, result) in writes.iter().zip(results) {
            hold_against_member(write.slot as u8, result)?;
            roster.settle(write.slot, if result.is_ok() { WriteOutcome::Landed } else { WriteOutcome::Lost });
            if result.is_err() {
                lost = lost.or(Slots::one(write.slot as u8));
            }
        }
        let written = writes.iter().fold(Slots::NONE, |slots, write| slots.or(Slots::one(write.slot as u8)));
        let now_lost = written.and(lost);
        (writes, reinforced) = if !now_lost.is_empty() {
            let id = roster.record().epoch.name.next_id(seed);
            (roster.begin(Change::Fail { slots: now_lost }, id)?, false)
        } else if reinforced {
            return Ok(lost);
        } else {
            // Write the other copy too, so that one decayed block does not put a device back by an epoch.
            (roster.reinforce()?, true)
        };
    }
}

fn shape_of(geometry: &Geometry) -> crate::format::Shape {
    let level = match geometry.parities() {
        1 => crate::format::Level::Raid5,
        _ => crate::format::Level::Raid6,
    };
    crate::format::Shape { level, members: geometry.members().into(), chunk_bytes: geometry.chunk_bytes() }
}

impl Started {
    /// Puts on record that these slots have failed. If too few are left, the start fails.
    fn leave<R: Ring>(
        &mut self,
        bench: &mut Bench<'_, R>,
        failed: Slots,
        seed: u64,
    ) -> Result<(), StartError> {
        let Some(roster) = self.roster.as_mut().filter(|_| !failed.is_empty()) else { return Ok(()) };
        let id = roster.record().epoch.name.next_id(seed);
        let writes = roster.begin(Change::Fail { slots: failed }, id)?;
        let gone = failed.or(commit(bench, roster, writes, seed)?);
        self.view =
            MemberView { readable: self.view.readable.minus(gone), writable: self.view.writable.minus(gone) };
        self.rebuilding = self.rebuilding.filter(|(slot, _)| !gone.has(*slot));
        Ok(())
    }

    /// Makes the slots that all reactors share.
    #[must_use]
    pub fn members(&self, volatile: Slots) -> Members {
        let cursor = self.rebuilding.map_or(0, |(_, cursor)| cursor);
        let members = Members::new(self.view, cursor, &self.devices, volatile);
        // Without a roster nothing can be put on record.
        if self.roster.is_none() { members.read_only() } else { members }
    }
}

/// Writes a new array: first bitmap blocks with every cell `initial`, then the superblocks. The caller has
/// wiped the superblocks of every device, durably, and zeroed what the init asks for. Device `i` gets slot
/// `i`.
pub fn write_new<R: Ring>(
    bench: &mut Bench<'_, R>,
    new: &crate::assembly::NewArray<'_>,
    initial: Cell,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), (usize, i32)> {
    let bitmap = Bitmap::new(new.zones.stripes, initial);
    let devices: Vec<_> = (0..new.shape.members).map(|slot| DeviceIndex(slot as u8)).collect();
    let layout = Layout::of(new.array, &new.zones, new.logical_block_bytes);
    write_blocks(bench, &layout, &devices, &bitmap, 0, progress)?;
    let writes = crate::assembly::create(new);
    let results = write_superblocks(bench, &writes);
    match writes.iter().zip(results).find(|(_, result)| result.is_err()) {
        Some((write, Err(errno))) => Err((write.slot, errno)),
        _ => Ok(()),
    }
}

/// Writes the blocks of a bitmap that no device has yet, from block `first` on, to the device of every slot,
/// and flushes the devices. On error returns the slot that failed and its `errno`.
fn write_blocks<R: Ring>(
    bench: &mut Bench<'_, R>,
    layout: &Layout,
    devices: &[DeviceIndex],
    bitmap: &Bitmap,
    mut first: u32,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), (usize, i32)> {
    let array = uuid::Uuid::from_bytes(layout.uuid);
    let blocks = bitmap.blocks();
    let mut cells = Box::new([0; bitmap_block::CELL_BYTES]);
    let block_bytes = (BLOCK_BYTES as u64 * PLACES_PER_BLOCK) as u32;
    let at_once = SCRATCH_BYTES / block_bytes;
    while first < blocks {
        let count = at_once.min(blocks - first);
        for nth in 0..count {
            let index = BlockIndex(first + nth);
            // Each place gets a generation of its own.
            for _ in 0..PLACES_PER_BLOCK {
                let write = bitmap.try_begin_block_write(index, &mut cells).expect("nobody else writes");
                let header = Header { array, index: index.0.into(), generation: write.generation };
                let place = bitmap_place(nth.into(), write.generation) as u32;
                let span = bench.scratch.part(place, BLOCK_BYTES as u32);
                bench.memory.with_mut(span, |bytes| bitmap_block::encode(bytes, &header, &cells));
                bitmap.finish_block_write(write, &cells);
            }
        }
        // Every member gets every block: this takes one write, is simpler than writing only the blocks that
        // it keeps, and does no harm.
        let span = bench.scratch.part(0, count * block_bytes);
        let offset = layout.bitmap_offset_bytes + bitmap_place(first.into(), 0);
        let write = MemberIo::Write(Durability::Cached);
        let ops: Vec<_> = devices.iter().map(|&device| Bench::<R>::op(device, write, offset, span)).collect();
        check(bench.run(&ops))?;
        first += count;
        progress(u64::from(first), u64::from(blocks));
    }
    let flush: Vec<_> =
        devices.iter().map(|&device| Bench::<R>::op(device, MemberIo::Flush, 0, Span::EMPTY)).collect();
    check(bench.run(&flush))
}

fn check(results: Vec<Result<(), i32>>) -> Result<(), (usize, i32)> {
    let failed =
        results.into_iter().enumerate().find_map(|(slot, result)| result.err().map(|errno| (slot, errno)));
    failed.map_or(Ok(()), Err)
}
