//! The stripes that may need a resync after an unclean end.
//!
//! A stripe that needs a resync while a member is missing has lost that member's strip. So on a degraded
//! array, every mark on disk is a stripe at risk. The rule is that marks follow what is being written, and
//! nothing else:
//!
//! - IDLE: an array that has rested for some seconds has no mark on disk, whole or degraded; the same holds
//!   after a stop in order. From then on, until something is written, an unclean end costs nothing.
//! - LOSS: on an array that has been degraded for some seconds, a power cut costs only stripes of regions
//!   that were written within the last seconds.
//!
//! A rebuild writes too: it overwrites rows that cannot be computed, on members in sync
//! ([`World::note_bad_sectors`]). Stripes that needed a resync before may still need it. After damage to
//! metadata, nothing is promised.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bitmap::Cell;
use engine::format::zones::CELLS_PER_BLOCK;

use crate::disk::SECTOR;
use crate::monitors::{Monitors, cell_in, code};

use super::World;

/// Number of cells that are marked together.
const REGION_STRIPES: u64 = 32;
/// An array has rested after this time plus a few hundred times its slowest operation.
const RESTED_NS: u64 = 5_000_000_000;

/// Stripes that an unclean end may cost.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Stripes that needed a resync before.
    before: Rc<BTreeSet<u64>>,
    /// Regions of which any stripe may be lost.
    regions: BTreeSet<u64>,
}

/// Knowledge about the array's marks.
#[derive(Default)]
pub struct Idle {
    /// Whether IDLE and LOSS are checked in this run.
    pub watched: bool,
    /// Set while the array rests: the stripes that need a resync.
    rests: Option<Rc<BTreeSet<u64>>>,
    /// Set while members are missing: since when, and the stripes that needed a resync at that time.
    degraded: Option<(u64, Rc<BTreeSet<u64>>)>,
    /// Time at which each region was last written.
    written: BTreeMap<u64, u64>,
    /// Stripes that the last unclean end may have cost.
    pub loss: Option<Loss>,
}

impl Idle {
    /// State after the power has just gone.
    #[must_use]
    pub fn after(watched: bool, loss: Option<Loss>) -> Idle {
        Idle { watched, loss, ..Idle::default() }
    }

    /// Forgets everything: nothing is promised from here on.
    pub fn forget(&mut self) {
        *self = Idle { watched: self.watched, ..Idle::default() };
    }
}

impl World {
    fn rested_ns(&self) -> u64 {
        RESTED_NS + 300 * self.config.latency.slowest_ns()
    }

    fn need_sync(&self) -> Rc<BTreeSet<u64>> {
        let cells = (0..).zip(self.cells());
        Rc::new(cells.filter(|(_, cell)| *cell == Cell::NeedSync).map(|(stripe, _)| stripe).collect())
    }

    /// Notes that stripes are being written, or were until now.
    pub(super) fn note_written(&mut self, first: u64, count: u64) {
        if !self.idle.watched || count == 0 {
            return;
        }
        let now_ns = self.bus.borrow().now_ns;
        let stripe_sectors = self.stripe_sectors();
        let regions =
            first / stripe_sectors / REGION_STRIPES..=(first + count - 1) / stripe_sectors / REGION_STRIPES;
        self.idle.written.extend(regions.map(|region| (region, now_ns)));
        self.idle.rests = None;
    }

    /// Notes whether members are missing, and since when.
    pub(super) fn note_degraded(&mut self) {
        if !self.idle.watched {
            return;
        }
        let is_degraded = self.running().members.view().readable != self.geometry.slots();
        if is_degraded != self.idle.degraded.is_some() {
            let now_ns = self.bus.borrow().now_ns;
            self.idle.degraded = is_degraded.then(|| (now_ns, self.need_sync()));
        }
    }

    /// Counts stripes with bad sectors as written while a rebuild runs. A rebuild that meets bad sectors on a
    /// member in sync gives up their rows after some attempts and overwrites them. The mark for this is on
    /// disk before the write, so until the sectors are good, the rebuild may be about to write there.
    pub(super) fn note_bad_sectors(&mut self) {
        if !self.idle.watched || !self.bus.borrow().lasting || !self.rebuilds() {
            return;
        }
        let bus = self.bus.borrow();
        let chunk_bytes = u64::from(self.geometry.chunk_bytes());
        let readable = self.running().members.view().readable;
        let stripes = readable.iter().flat_map(|slot| {
            let disk = &bus.disks[self.disk_of(slot)];
            let first = disk.place_in_data(0, chunk_bytes).first;
            disk.bad.range(first..).map(move |sector| (sector - first) * SECTOR as u64 / chunk_bytes)
        });
        let regions: BTreeSet<u64> = stripes.map(|stripe| stripe / REGION_STRIPES).collect();
        let now_ns = bus.now_ns;
        drop(bus);
        if !regions.is_empty() {
            self.idle.written.extend(regions.into_iter().map(|region| (region, now_ns)));
            self.idle.rests = None;
        }
    }

    /// The stripes that an unclean end may cost now; `None` if nothing is promised.
    pub(super) fn loss(&self) -> Option<Loss> {
        if !self.idle.watched {
            return None;
        }
        if self.shared.is_none() {
            return self.idle.loss.clone();
        }
        if let Some(before) = &self.idle.rests {
            return Some(Loss { before: Rc::clone(before), regions: BTreeSet::new() });
        }
        let (since_ns, before) = self.idle.degraded.as_ref()?;
        let (now_ns, rested_ns) = (self.bus.borrow().now_ns, self.rested_ns());
        if since_ns + rested_ns > now_ns || self.running().failed() {
            return None;
        }
        // The flush before a sweep waits for a silent member. A stripe also stays marked until its slowest
        // operation ends, even the deallocation for a discard that was answered long ago.
        let is_recent = |end_ns: u64| end_ns.saturating_add(rested_ns) > now_ns;
        let bus = self.bus.borrow();
        if is_recent(bus.stuck_until_ns) || bus.silences.iter().any(|silence| is_recent(silence.until_ns)) {
            return None;
        }
        let recent = self.idle.written.iter().filter(|(_, at_ns)| *at_ns + rested_ns > now_ns);
        let mut regions: BTreeSet<u64> = recent.map(|(region, _)| *region).collect();
        // A request in flight counts as written now, however old it is.
        for asked in self.asked.iter().filter(|asked| asked.count > 0) {
            let stripe = |sector| sector / self.stripe_sectors() / REGION_STRIPES;
            regions.extend(stripe(asked.first)..=stripe(asked.first + asked.count - 1));
        }
        Some(Loss { before: Rc::clone(before), regions })
    }

    /// IDLE, LOSS: after an unclean end, only stripes that the end may have cost need a resync.
    pub(super) fn check_loss(&mut self) {
        let Some(Loss { before, regions }) = self.idle.loss.take() else { return };
        let now = self.need_sync();
        let lost: Vec<u64> = now
            .iter()
            .copied()
            .filter(|stripe| !before.contains(stripe) && !regions.contains(&(stripe / REGION_STRIPES)))
            .collect();
        let stripes = self.geometry.stripes();
        assert!(
            lost.is_empty() || !regions.is_empty(),
            "IDLE: an array that rested, and was not written since, has lost {} of {stripes} stripes: {:?}",
            lost.len(),
            &lost[..lost.len().min(8)]
        );
        assert!(
            lost.is_empty(),
            "LOSS: a degraded array was written in regions {regions:?}, and has lost {} of {stripes} stripes: {:?}",
            lost.len(),
            &lost[..lost.len().min(8)]
        );
        if regions.is_empty() {
            self.idle.rests = Some(now);
        }
    }

    /// Lets an array rest, whole or degraded, and checks that an unclean end would then cost no stripe.
    pub fn check_idle(&mut self) {
        if self.is_off() || self.running().failed() {
            return;
        }
        self.rest(self.rested_ns());
        if self.is_off() || self.running().failed() || self.is_busy() {
            return;
        }
        for (stripe, cell) in (0..).zip(self.cells()) {
            assert!(
                matches!(cell, Cell::Clean | Cell::Unwritten | Cell::NeedSync),
                "IDLE: nothing is written, and stripe {stripe} is still {cell:?}"
            );
        }
        self.check_no_mark("nothing is written");
        self.check_places_alike();
        self.idle.rests = Some(self.need_sync());
    }

    /// Checks that no copy of a cell that a start would read says Dirty.
    pub(super) fn check_no_mark(&self, why: &str) {
        let mut bus = self.bus.borrow_mut();
        for block in 0..self.zones.bitmap_blocks() {
            for (slot, cells) in Monitors::stored_block(&mut bus, block) {
                let Some(cells) = cells else { continue };
                let first = block * CELLS_PER_BLOCK;
                for stripe in first..(first + CELLS_PER_BLOCK).min(self.geometry.stripes()) {
                    assert!(
                        cell_in(&cells, stripe) != code::DIRTY,
                        "IDLE: {why}, and slot {slot} still says that stripe {stripe} is being written"
                    );
                }
            }
        }
    }

    /// Checks that both places of a block say the same while the array rests, so that losing either one costs
    /// nothing.
    fn check_places_alike(&self) {
        let mut bus = self.bus.borrow_mut();
        for block in 0..self.zones.bitmap_blocks() {
            for (slot, disk) in Monitors::keepers(&mut bus, block) {
                let [even, odd] = Monitors::durable_places(&mut bus, disk, block);
                let alike = matches!((&even, &odd), (Some((_, even)), Some((_, odd))) if even == odd);
                let generation = |place: Option<(u64, _)>| place.map(|(generation, _)| generation);
                assert!(
                    alike,
                    "IDLE: nothing is written, and the places of bitmap block {block} on slot {slot} differ: generations {:?}, {:?}",
                    generation(even),
                    generation(odd)
                );
            }
        }
    }

    /// Notes that the array was stopped in order, with the stripes that needed a resync then.
    pub(super) fn note_stop(&mut self) {
        if !self.idle.watched {
            return;
        }
        self.check_no_mark("the array was stopped in order");
        let cells = self.cells_at_stop.iter().flatten();
        let need_sync =
            (0..).zip(cells).filter(|(_, cell)| **cell == Cell::NeedSync).map(|(stripe, _)| stripe);
        self.idle.loss = Some(Loss { before: Rc::new(need_sync.collect()), regions: BTreeSet::new() });
    }
}
