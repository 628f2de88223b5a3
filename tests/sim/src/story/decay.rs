//! Metadata that decays while the array is down: unreadable sectors, flipped bits, foreign bytes.
//!
//! Each place of each metadata block is hit: both copies of a superblock, both places of each copy of a
//! bitmap block, and both places of the list of lost rows, which a third of these arrays have. All members
//! are present, or some are missing. Then the array is started, now and then read-only first, and verified.
//!
//! - Whatever was damaged, older cells never count as the newest: acknowledged data reads right, and parity
//!   matches.
//! - One damaged block after a stop in order costs nothing, even with as many members missing as the level
//!   can miss: the array starts, every member in sync stays in sync, and every cell says what it said before
//!   (KEPT).
//! - One damaged block after a power cut costs at most the cells of that block, and only if no other present
//!   member keeps it.
//! - After a power cut, the newest place of a block may be lost on every member that keeps it. Then no cell
//!   goes back to an older state (OLDER). This is checked read-only and the damage is undone, since the
//!   content that the block's stripes then read as is not defined. OLDER also holds after a start that
//!   repairs such places and is cut, once or several times, with members missing. That is checked in a world
//!   aside, which is then discarded.
//! - After a stop in order, one place of the list of lost rows may be damaged on every member, which costs
//!   nothing. If all places are damaged, the start is refused: lost rows are never read as data (READ).
//! - A start leaves every member in sync with two good copies of its superblock.
//! - An installer's partition table, in a member's first and last blocks, damages one block of metadata and
//!   nothing else.
//! - Worse damage may make a start impossible. The start is then refused, and has changed nothing.

use bitmap::Cell;

use crate::bus::Cut;
use crate::images::Image;
use crate::world::{Block, Decay, Spot, StartOutcome};

use super::Story;
use super::rollback::Down;

impl Story {
    /// The decay story with one kind of damage: an installer takes a member for an empty disk.
    pub(super) fn foreign(&mut self) {
        self.partitioned = true;
        self.decay();
    }

    pub(super) fn decay(&mut self) {
        self.decay_percent = 70;
        self.world.bus.borrow_mut().probes.metadata_percent = 100;
        if self.world.config.initial == Cell::NeedSync {
            self.lose_rows();
        }
        for _ in 0..self.world.rng.between(2, 5) {
            self.load(2, 60);
            if self.chance(30) {
                self.rest();
            }
            if self.chance(20) && self.world.spare() > 0 {
                self.die_or_be_failed();
                self.load(1, 20);
            }
            if self.chance(30) {
                self.replace();
                if self.chance(60) {
                    self.settle();
                }
            }
            let down = if self.chance(30) { self.cut_a_load() } else { self.stop_or_cut() };
            self.start_decayed(down);
            self.verify();
        }
        self.end();
    }

    /// Makes a member die before its stripes are in sync: its strips are lost, and listed once its slot is
    /// filled.
    fn lose_rows(&mut self) {
        self.die();
        self.load(1, 6);
        self.replace();
        self.settle();
    }

    fn cut_a_load(&mut self) -> Down {
        self.load_and_cut();
        Down::Cut
    }

    /// Stops the array in order, unless the power goes meanwhile.
    fn stop_or_cut(&mut self) -> Down {
        let Some(answer) = self.world.order_stop() else {
            self.world.after_cut();
            return Down::Cut;
        };
        assert!(answer.is_ok(), "STOP: refused: {answer:?}");
        Down::Stopped
    }

    /// Damages some metadata, and starts the array, perhaps without some members.
    pub(super) fn start_decayed(&mut self, down: Down) {
        let missing = self.chance(50);
        self.choose_present(missing);
        let present = self.world.present.clone();
        let mut in_sync = self.world.in_sync_disks();
        in_sync.retain(|disk| present.contains(disk));
        if down == Down::Cut && self.chance(50) {
            self.world.look_without_newest(&present, &in_sync);
        }
        if down == Down::Cut && self.chance(50) {
            self.repair_aside();
        }
        let before = self.world.cells_stored_on(&present);
        let held: Vec<Image> = {
            let mut bus = self.world.bus.borrow_mut();
            let images = bus.remember(&present, true);
            images.into_iter().map(|image| (*image).clone()).collect()
        };
        // If the only present keeper of a block cannot show the newest generation after a cut, the whole
        // block needs a resync. What its Unwritten stripes then read as is not defined, so bitmap blocks are
        // spared unless all members are present.
        let whole = in_sync.len() == usize::from(self.world.geometry.members());
        let damaged = self.world.damaged.clone();
        let spots = self.damage_metadata(&in_sync, down, whole);
        let is_in_one_place = |spot: &Spot| match spot.block {
            Block::List { .. } => spot.block == spots[0].block,
            Block::Superblock(_) | Block::Bitmap { .. } => false,
        };
        let is_harmless = spots.len() == 1 || !spots.is_empty() && spots.iter().all(is_in_one_place);
        let must_run = is_harmless && down == Down::Stopped;
        if self.chance(15) {
            self.look_read_only_from(&present, must_run);
        }
        self.world.present.clone_from(&present);
        if self.world.start(None) == StartOutcome::Running {
            self.world.check_repaired();
            if let [spot] = spots[..] {
                self.world.check_no_cell_lost(&before, spot);
                let running: Vec<usize> = self
                    .world
                    .running()
                    .members
                    .view()
                    .readable
                    .iter()
                    .map(|slot| self.world.disk_of(slot))
                    .collect();
                assert!(
                    !must_run || in_sync.iter().all(|disk| running.contains(disk)),
                    "DECAY: {spot:?} cost a member: in sync are disks {running:?}, and were {in_sync:?}"
                );
            }
            return self.explore();
        }
        assert!(!must_run, "START: refused for damaged metadata that costs nothing: {spots:?}");
        let is_list = |spot: &Spot| matches!(spot.block, Block::List { .. });
        let is_refused_for_list = !spots.is_empty() && spots.iter().all(is_list);
        for mut image in held {
            let mut bus = self.world.bus.borrow_mut();
            let is_as_before =
                (0..2).all(|page| bus.disks[image.disk].page_now(page) == image.content.page_now(page));
            drop(bus);
            assert!(
                is_as_before || !is_refused_for_list,
                "START: refused for its list of lost rows, and disk {} has another record than before: a member that is missing \
                 and has the list is left out",
                image.disk
            );
            self.world.bus.borrow_mut().put_back(&image);
        }
        self.world.damaged = damaged;
        self.restart_present(false);
    }

    /// OLDER with interrupted repairs, in a world aside: some members lose the newest place of a block. The
    /// power goes in the start that repairs it, and in later starts, each with other members missing.
    fn repair_aside(&mut self) {
        let seed = self.world.rng.next();
        let world = self.world.aside(seed, &self.memories.aside, self.verbose);
        let mut aside = Story::of(world, self.knobs, self.memories.clone(), self.verbose);
        let all = aside.world.alive_disks();
        let in_sync = aside.world.in_sync_disks();
        let before = aside.world.cells_stored_on(&all);
        let percent = aside.world.rng.pick(&[50, 100]);
        aside.world.lose_newest(&in_sync, percent);
        for _ in 0..aside.world.rng.between(1, 3) {
            let missing = aside.chance(40);
            aside.choose_present(missing);
            let superblocks = 2 * aside.world.present.len() as u64;
            let blocks = aside.world.rng.below(3 * u64::from(aside.world.geometry.parities() + 1) + 1);
            match aside.world.start(Some(Cut::MetadataPushes(superblocks + blocks))) {
                StartOutcome::Running => aside.world.cut_now(),
                StartOutcome::PowerCut => {}
                StartOutcome::Refused => return,
            }
            aside.world.after_cut();
            aside.choose_present(true);
            let present = aside.world.present.clone();
            let _may_be_refused = aside.world.look_for_older(&present, &before);
        }
    }

    fn damage_metadata(&mut self, disks: &[usize], down: Down, whole: bool) -> Vec<Spot> {
        if !self.world.damaged.is_empty() {
            // A start that was cut may not have repaired the old damage, and more damage in addition would be
            // too much.
            return self.world.damaged.clone();
        }
        if self.partitioned {
            let disk = self.world.rng.pick(disks);
            self.world.damaged = vec![self.world.partition(disk)];
            return self.world.damaged.clone();
        }
        let all = self.world.metadata(disks);
        if self.chance(25)
            && let Some(lists) = self.damage_lists(&all)
        {
            return lists;
        }
        let bitmaps_too = down == Down::Stopped || whole;
        // Only one block after a power cut, since the cut itself tears blocks.
        let many = !self.chance(70) && down == Down::Stopped;
        let count = if many { self.world.rng.between(2, 4) } else { 1 };
        let mut spots: Vec<Spot> = Vec::new();
        for _ in 0..count {
            let spot = self.world.rng.pick(&all);
            let decay = self.world.rng.pick(&[
                Decay::OneSector,
                Decay::OneSector,
                Decay::AllSectors,
                Decay::Flip,
                Decay::Overwritten,
            ]);
            let is_bitmap = matches!(spot.block, Block::Bitmap { .. });
            if may_join(&spots, spot) && (bitmaps_too || !is_bitmap) {
                self.world.decay(spot, decay);
                spots.push(spot);
            }
        }
        self.world.damaged.clone_from(&spots);
        spots
    }

    /// Damages the list of lost rows on every member: one of its places, or both. Returns `None` if there is
    /// no list.
    fn damage_lists(&mut self, all: &[Spot]) -> Option<Vec<Spot>> {
        let only = if self.chance(70) { Some(self.world.rng.below(2) as usize) } else { None };
        let is_hit = |spot: &Spot| match spot.block {
            Block::List { place } => only.is_none_or(|only| place == only),
            Block::Superblock(_) | Block::Bitmap { .. } => false,
        };
        let spots: Vec<Spot> = all.iter().copied().filter(is_hit).collect();
        for &spot in &spots {
            let decay =
                self.world.rng.pick(&[Decay::OneSector, Decay::AllSectors, Decay::Flip, Decay::Overwritten]);
            self.world.decay(spot, decay);
        }
        self.world.damaged.clone_from(&spots);
        (!spots.is_empty()).then_some(spots)
    }
}

/// Whether a start must tolerate this damage in addition to the rest: at most one place of a bitmap block,
/// and then no member that loses both copies of its superblock. What worse damage leaves of the cells cannot
/// be predicted.
fn may_join(spots: &[Spot], spot: Spot) -> bool {
    let is_bitmap = |spot: &Spot| matches!(spot.block, Block::Bitmap { .. });
    let is_superblock = |spot: &Spot| matches!(spot.block, Block::Superblock(_));
    let all = || spots.iter().chain([&spot]);
    let bitmaps = all().filter(|spot| is_bitmap(spot)).count();
    let superblocks_of = |disk| all().filter(|spot| spot.disk == disk && is_superblock(spot)).count();
    let a_member_goes = all().any(|spot| superblocks_of(spot.disk) > 1);
    !spots.contains(&spot) && bitmaps <= 1 && !(bitmaps == 1 && a_member_goes)
}
