//! Every power cut of a state: each block that is not durable is old or new, independently of the others.
//!
//! The unit is the logical block, which a power cut leaves whole; only a metadata block may also be torn. For
//! each subset of the blocks, the array is started from the remaining content: once with all members, and
//! once for each set of missing members that the level tolerates. It resyncs, and every block is read. A
//! block with a write in flight may read as old or new; any other block must read as its durable content. An
//! image that was checked once is not checked again, whichever state it came from.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use bitmap::Cell;
use engine::geometry::Slots;
use engine::ring::MemberIo;

use super::machine::{Machine, Memories};
use super::scope::{STRIPES, Template};
use crate::bus::Bus;
use crate::disk::{Disk, PAGE, SECTOR, SECTORS_PER_PAGE, ZoneKind, name_of};
use crate::oracle::Oracle;
use crate::rng::{Rng, mix};

type Page = [u8; PAGE];

/// Most subsets of one state: with more, the scope is too large for an exhaustive check.
const SUBSETS_MAX: u64 = 1 << 16;

/// Counts of cuts, images and starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct CutCounts {
    /// Number of subsets of blocks, over all states.
    pub subsets: u64,
    /// Number of different images among them: the members' contents together with what may be read then.
    pub images: u64,
    /// Number of arrays started from these images.
    pub starts: u64,
}

/// The images that were already checked, with the counts.
#[derive(Default)]
pub struct Cuts {
    /// Counts so far.
    pub counts: CutCounts,
    checked: HashSet<u64>,
}

/// A block that is not durable, and the contents that a cut may leave in it.
struct Unit {
    disk: usize,
    page: u64,
    options: Vec<Rc<Page>>,
}

/// The share of a disk's page in the fingerprint of an image.
fn share(disk: usize, page: u64, bytes: &Page) -> u64 {
    mix(mix(page << 8 | disk as u64) ^ name_of(bytes))
}

/// Durable content of a page of a disk.
fn durable_page(disk: &mut Disk, page: u64) -> Page {
    let mut bytes = [0; PAGE];
    for (sector, bytes) in (page * SECTORS_PER_PAGE..).zip(bytes.chunks_exact_mut(SECTOR)) {
        bytes.copy_from_slice(disk.durable_sector(sector));
    }
    bytes
}

/// All blocks below the bus that are not durable.
fn units(bus: &mut Bus) -> Vec<Unit> {
    let mut units: BTreeMap<(usize, u64), Vec<Page>> = BTreeMap::new();
    for (number, disk) in bus.disks.iter_mut().enumerate() {
        let mut versions: BTreeMap<u64, Vec<Page>> = BTreeMap::new();
        for (sector, cached) in disk.cached() {
            let (page, at) = (sector / SECTORS_PER_PAGE, (sector % SECTORS_PER_PAGE) as usize * SECTOR);
            let pages = versions.entry(page).or_default();
            pages.resize(pages.len().max(cached.versions.len()), [0; PAGE]);
            for (page, (_, bytes)) in pages.iter_mut().zip(&cached.versions) {
                page[at..at + SECTOR].copy_from_slice(&bytes[..]);
            }
        }
        units.extend(versions.into_iter().map(|(page, versions)| ((number, page), versions)));
    }
    for nth in 0..bus.in_flight().len() {
        let op = &bus.in_flight()[nth];
        let (number, io, Some(place)) = (op.disk, op.op.io, op.place) else { continue };
        if bus.disks[number].dead || !matches!(io, MemberIo::Write(_) | MemberIo::Deallocate) {
            continue;
        }
        let pushed = op.pushed.clone();
        for (at, page) in
            (place.first / SECTORS_PER_PAGE..).take((place.count / SECTORS_PER_PAGE) as usize).enumerate()
        {
            let mut new = [0; PAGE];
            if io == MemberIo::Deallocate {
                // The same junk that the bus writes for a deallocation.
                let mut rng = Rng::new(place.first);
                new.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&rng.next().to_le_bytes()));
            } else {
                new.copy_from_slice(&pushed[at * PAGE..][..PAGE]);
            }
            let options = units.entry((number, page)).or_default();
            if place.zone != ZoneKind::Data {
                let mut torn = *bus.disks[number].page_now(page);
                torn[..PAGE / 2].copy_from_slice(&new[..PAGE / 2]);
                options.push(torn);
            }
            options.push(new);
        }
    }
    let unit = |((disk, page), others): ((usize, u64), Vec<Page>)| {
        let mut options = vec![Rc::new(durable_page(&mut bus.disks[disk], page))];
        for other in others {
            if options.iter().all(|known| **known != other) {
                options.push(Rc::new(other));
            }
        }
        Unit { disk, page, options }
    };
    units.into_iter().map(unit).filter(|unit| unit.options.len() > 1).collect()
}

impl Cuts {
    /// Checks every cut of a machine's present state.
    pub fn check(&mut self, machine: &Machine<'_>, template: &Template, memories: &Memories) {
        let mut oracle = machine.oracle.clone();
        oracle.power_cut();
        let (units, base) = {
            let mut bus = machine.bus.borrow_mut();
            let units = units(&mut bus);
            let mut sum = oracle.fingerprint(&[]);
            for (number, disk) in bus.disks.iter_mut().enumerate() {
                for page in 0..disk.pages() {
                    sum = sum.wrapping_add(share(number, page, &durable_page(disk, page)));
                }
                sum = sum.wrapping_add(mix(u64::from(disk.dead) << 8 | number as u64));
            }
            (units, sum)
        };
        let count = units.iter().map(|unit| unit.options.len() as u64).product::<u64>();
        assert!(count <= SUBSETS_MAX, "SCOPE: {count} subsets of blocks in one state");
        let shares: Vec<Vec<u64>> = (units.iter())
            .map(|unit| unit.options.iter().map(|bytes| share(unit.disk, unit.page, bytes)).collect())
            .collect();
        let mut chosen = vec![0; units.len()];
        loop {
            self.counts.subsets += 1;
            let image = shares.iter().zip(&chosen).fold(base, |sum, (shares, &at): (&Vec<u64>, &usize)| {
                sum.wrapping_sub(shares[0]).wrapping_add(shares[at])
            });
            if self.checked.insert(image) {
                self.counts.images += 1;
                let disks = || {
                    let bus = machine.bus.borrow();
                    let mut disks = bus.disks.clone();
                    for disk in &mut disks {
                        for page in 0..disk.pages() {
                            if disk.cached().any(|(sector, _)| sector / SECTORS_PER_PAGE == page) {
                                let bytes = durable_page(disk, page);
                                disk.put_page(page, &bytes);
                            }
                        }
                        disk.failed_reads.clear();
                    }
                    for (unit, &at) in units.iter().zip(&chosen) {
                        disks[unit.disk].put_page(unit.page, &unit.options[at][..]);
                    }
                    disks
                };
                self.start_all(template, memories, &oracle, disks);
            }
            // Counts up to the next choice, in mixed radix.
            let Some(up) = (0..units.len()).find(|&nth| chosen[nth] + 1 < units[nth].options.len()) else {
                return;
            };
            chosen[..up].fill(0);
            chosen[up] += 1;
        }
    }

    /// Starts the array from an image, once for each set of members that it must be able to do without.
    fn start_all(
        &mut self,
        template: &Template,
        memories: &Memories,
        oracle: &Oracle,
        disks: impl Fn() -> Vec<Disk>,
    ) {
        let image = disks();
        let members = image.len();
        let dead = image.iter().fold(Slots::NONE, |dead, disk| {
            let number = image.iter().position(|other| std::ptr::eq(other, disk)).expect("it is in the list");
            if disk.dead { dead.or(Slots::one(number as u8)) } else { dead }
        });
        for missing in 0..1u32 << members {
            let missing = Slots(missing);
            // The dead member stays away, or returns with its old content. Together with it, at most as many
            // members are missing as the level can miss.
            if missing.or(dead).count() > template.geometry.parities().into() {
                continue;
            }
            let mut disks = disks();
            disks.iter_mut().for_each(|disk| disk.dead = false);
            self.counts.starts += 1;
            recover(template, memories, oracle.clone(), disks, missing, false);
        }
    }
}

/// Starts the array from what a cut has left, resyncs it, and reads everything.
pub fn recover(
    template: &Template,
    memories: &Memories,
    oracle: Oracle,
    disks: Vec<Disk>,
    missing: Slots,
    verbose: bool,
) {
    let devices: Vec<usize> = (0..disks.len()).filter(|&disk| !missing.has(disk as u8)).collect();
    let machine = Machine::recovered(template, memories, disks, &devices, oracle, verbose);
    let Some(mut machine) = machine else {
        panic!("START: refused without members {missing:?}");
    };
    let readable = machine.shared.members.view().readable;
    machine.settle();
    for block in machine.read_all() {
        let stripe = block * 4096 / u64::from(template.geometry.stripe_bytes());
        assert!(
            machine.lossy.contains(&stripe) && !readable.has(machine.slot_of(block) as u8),
            "READ: block {block} cannot be read without members {missing:?}, and nothing excuses it"
        );
    }
    if readable == template.geometry.slots() {
        let stale = (0..STRIPES).find(|&stripe| machine.shared.bitmap.cell(stripe) == Cell::NeedSync);
        assert_eq!(stale, None, "A4: a stripe stays NeedSync with every member there");
    }
    machine.check_parity("resynced after a cut");
}
