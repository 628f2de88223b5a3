//! Bad sectors, one at a time and several in a stripe: a bad sector costs only its own rows, and only if they
//! cannot be computed.
//!
//! Method: sectors at chosen places of chosen strips cannot be read until they are written. Oracle: the
//! world's model of the bytes; and no request fails outside of the stripes that a test has declared lossy.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bitmap::Cell;
use engine::format::Level;
use engine::format::lost_rows::LostRange;
use engine::limits::LOST_RANGES_MAX;
use engine::request::RequestKind;
use engine::tally::Tally;

use crate::world::restart::Serve;
use crate::world::{Config, Initial, World};

const CHUNK: u32 = 64 << 10;

fn array(seed: u64, level: Level, members: usize, cell: Cell) -> World {
    let initial = Initial::All(cell);
    World::new(Config { seed, level, members, chunk_bytes: CHUNK, stripes: 24, initial, reactors: 1 })
}

/// Reads of a whole strip succeed if each of its rows can be computed, even if more strips of the stripe have
/// bad sectors than parity could replace in one row.
#[test]
fn a_read_is_recovered_row_by_row() {
    for (level, members, bad) in [(Level::Raid5, 4, 2), (Level::Raid5, 3, 2), (Level::Raid6, 6, 4)] {
        let mut world = array(45, level, members, Cell::Clean);
        for strip in 0..bad {
            world.spoil(0, strip % (members as u8 - 1), u32::from(strip) * (CHUNK / 4));
        }
        assert!(!world.fails(RequestKind::Read, 0, u64::from(CHUNK)), "{level:?}");
        let stripe_bytes = u64::from(world.geometry.stripe_bytes());
        assert!(!world.fails(RequestKind::Read, 0, stripe_bytes.min(1 << 20)), "{level:?}");
        assert_eq!(world.bad_sectors(), 0, "what was read is repaired");
    }
}

/// Writes that have to read strips with bad sectors in other rows, by rmw and by rcw.
#[test]
fn a_write_is_planned_row_by_row() {
    for strip in 0..3 {
        for other in (0..4).filter(|&other| other != strip) {
            let mut world = array(46, Level::Raid5, 4, Cell::Clean);
            world.spoil(0, strip, 0);
            world.spoil(0, other, CHUNK / 2);
            let at = u64::from(strip) * u64::from(CHUNK);
            assert!(!world.fails(RequestKind::Write { fua: false }, at + 512, u64::from(CHUNK) - 1024));
            world.verify();
        }
    }
}

/// Of several requests that one operation works on together, only the one whose rows cannot be computed
/// fails.
#[test]
fn a_refused_row_costs_only_the_requests_that_touch_it() {
    for kind in [RequestKind::Write { fua: false }, RequestKind::Read] {
        let mut world = array(49, Level::Raid5, 4, Cell::Clean);
        world.spoil(0, 0, 8192);
        world.spoil(0, 1, 8192);
        world.lossy[0] = true;
        let errors = world.errors;
        // The first write keeps the stripe busy; the others arrive meanwhile and wait together.
        let strip = u64::from(CHUNK);
        assert!(world.ask(RequestKind::Write { fua: false }, 2 * strip, 512));
        for at in [0, 8192, 16384, strip + 4096] {
            assert!(world.ask(kind, at, 1024));
        }
        world.settle();
        assert_eq!(world.errors, errors + 1, "{kind:?}");
        for at in [0, 16384, strip + 4096, 2 * strip] {
            assert!(!world.fails(RequestKind::Read, at, 1024), "{kind:?} at {at}");
        }
    }
}

/// An unsynced stripe of which each data strip has a bad sector, in a row of its own: a write that covers the
/// whole stripe puts it in sync.
#[test]
fn a_stripe_that_is_overwritten_heals() {
    let mut world = array(47, Level::Raid5, 4, Cell::NeedSync);
    for strip in 0..3 {
        world.spoil(3, strip, u32::from(strip) * 8192);
    }
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    assert!(!world.fails(RequestKind::Write { fua: true }, 3 * stripe_bytes, stripe_bytes));
    assert_eq!(world.shared.bitmap.cell(3), Cell::Dirty);
    world.verify();
}

/// Host data is stored in an unsynced stripe even if another row of it cannot be read and parity cannot be
/// made.
#[test]
fn a_write_beside_a_bad_row_of_an_unsynced_stripe_is_stored() {
    let mut world = array(48, Level::Raid5, 4, Cell::NeedSync);
    world.spoil(5, 1, 4096);
    let at = 5 * u64::from(world.geometry.stripe_bytes());
    for (strip, row) in [(0, 0), (0, 4096), (1, 0), (1, 8192), (1, 4096)] {
        let at = at + strip * u64::from(CHUNK) + row;
        assert!(!world.fails(RequestKind::Write { fua: false }, at, 4096), "D{strip} at {row}");
        assert!(!world.fails(RequestKind::Read, at, 4096), "D{strip} at {row}");
    }
    world.turn_until("a resync", |world| world.is_synced());
    world.verify();
}

/// In an unsynced stripe with a member missing, a write that covers everything lost makes parity match again,
/// unless a row of another strip cannot be read. Then nothing could reconstruct what is written to the
/// missing slot, so that write is refused; a write to the other strips is not.
#[test]
fn a_write_that_nothing_would_give_back_is_refused() {
    let mut world = array(50, Level::Raid5, 4, Cell::NeedSync);
    let at = 5 * u64::from(world.geometry.stripe_bytes());
    let slot = world.geometry.rotation(5).slot_of(0);
    assert!(world.shared.members.fail(slot, engine::members::Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(slot));
    // The slot takes writes, but its rebuild has not reached the stripe.
    let device = world.new_device();
    world.shared.members.begin_rebuild(slot, device, false);
    world.lossy.fill(true);
    world.spoil(5, 1, 4096);
    assert!(world.fails(RequestKind::Write { fua: false }, at, u64::from(CHUNK)));
    let at = at + 2 * u64::from(CHUNK);
    assert!(!world.fails(RequestKind::Write { fua: false }, at, 4096));
    assert!(!world.fails(RequestKind::Read, at, 4096));
}

/// Bad sectors that background work reads again and again do not get their member failed.
#[test]
fn three_bad_sectors_cost_no_member() {
    let mut world = array(49, Level::Raid5, 4, Cell::NeedSync);
    for stripe in [4, 5, 6] {
        world.spoil(stripe, 0, 0);
    }
    world.lossy.fill(true);
    world.pass(600);
    assert_eq!(world.shared.members.view().readable.count(), 4);
    let errors: u64 = (0..4).map(|slot| world.shared.members.read_errors(slot)).sum();
    assert!(errors < 100, "{errors} read errors: the waits between attempts grow");
    // The good rows of those strips stay readable throughout.
    let at = 4 * u64::from(world.geometry.stripe_bytes());
    assert!(!world.fails(RequestKind::Read, at + u64::from(CHUNK / 2), 4096));
}

/// Fills slot 2 of an array while slot 0 has bad sectors in these stripes at these rows.
fn filled(seed: u64, level: Level, members: usize, bad: &[(u64, u32)]) -> World {
    let mut world = array(seed, level, members, Cell::Clean);
    assert!(world.shared.members.fail(2, engine::members::Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
    for &(stripe, row) in bad {
        let rotation = world.geometry.rotation(stripe);
        let strip =
            (0..members as u8).find(|&strip| rotation.slot_of(strip) == 0).expect("slot 0 has a strip");
        world.spoil(stripe, strip, row);
    }
    world.replace(2, 0);
    world
}

/// The host's address of a row of a slot's strip; `None` if the strip is parity.
fn address(world: &World, stripe: u64, slot: u8, row: u32) -> Option<u64> {
    let strip = world.geometry.rotation(stripe).strip_on(slot);
    let is_data = world.geometry.data_strips().has(strip);
    let chunk_bytes = u64::from(world.geometry.chunk_bytes());
    let at = stripe * u64::from(world.geometry.stripe_bytes()) + u64::from(strip) * chunk_bytes;
    is_data.then_some(at + u64::from(row))
}

/// A rebuild of a RAID-5 ends whatever cannot be read. Lost are only the rows of the bad sectors, in the two
/// strips that each row concerns.
#[test]
fn a_rebuild_passes_what_is_lost() {
    let bad = [(3, 0), (4, 8192), (4, 16 << 10), (5, 60 << 10), (9, 4096)];
    let mut world = filled(33, Level::Raid5, 4, &bad);
    assert_eq!(world.shared.members.view().readable.count(), 4);
    let mut lost: Vec<u64> = Vec::new();
    for (stripe, row) in bad {
        lost.extend([0, 2].iter().filter_map(|&slot| address(&world, stripe, slot, row)));
    }
    lost.sort_unstable();
    world.lossy.fill(true);
    assert_eq!(world.failing_reads(4096), lost, "the rows of the bad sectors, and no others");
    let is_lost = |stripe: u64| lost.iter().any(|at| at / u64::from(world.geometry.stripe_bytes()) == stripe);
    for (stripe, state) in (0..).zip(world.told_states()) {
        assert_eq!(
            (state.lost, state.unwritten, state.unsynced),
            (is_lost(stripe), false, false),
            "{stripe}"
        );
    }
    assert_eq!(world.bad_sectors(), 0, "they were written");
    for &at in &lost {
        world.give_up(at, 4096);
    }
    // Everything else survives the loss of any member, and after a start the lost rows are still known.
    world.stop();
    let mut world = world.restart(Serve::ReadWrite);
    world.lossy.fill(true);
    assert_eq!(world.failing_reads(4096), lost);
    // If a part of a lost row is written it can be read, at once and after a start; so can a row of a
    // discarded stripe.
    assert!(!world.fails(RequestKind::Write { fua: false }, lost[0] + 512, 1024));
    assert!(!world.fails(RequestKind::Read, lost[0] + 512, 1024));
    assert!(
        world.fails(RequestKind::Read, lost[0], 512) && world.fails(RequestKind::Read, lost[0] + 1536, 512)
    );
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    assert!(!world.fails(RequestKind::Discard, 5 * stripe_bytes, stripe_bytes));
    let left: Vec<u64> = lost.iter().copied().filter(|at| at / stripe_bytes != 5).collect();
    assert_eq!(world.failing_reads(4096), left);
    // The following starts find the array as after a crash.
    let mut world = world.restart(Serve::ReadOnly);
    assert!(!world.fails(RequestKind::Read, lost[0] + 512, 1024));
    world.lossy.fill(true);
    assert!(world.fails(RequestKind::Read, lost[0], 512));
    let mut world = world.restart(Serve::ReadWrite);
    world.lossy.fill(true);
    world.turn_until("a resync", |world| world.is_synced());
    world.lose(1);
    let first = [lost[0], lost[0] + 512, lost[0] + 1024].map(|at| world.fails(RequestKind::Read, at, 512));
    assert_eq!(first, [true, false, false]);
    for at in left {
        assert!(!world.fails(RequestKind::Write { fua: true }, at, 4096));
    }
    world.lossy.fill(false);
    world.verify();
    assert!(world.shared.lost.is_empty());
}

/// A rebuild of a RAID-6 loses nothing to one bad sector in a row.
#[test]
fn a_rebuild_loses_nothing_that_can_be_computed() {
    let world = filled(34, Level::Raid6, 6, &[(3, 0), (4, 8192), (9, 4096)]);
    assert!(world.shared.lost.is_empty());
}

/// A member of which no read succeeds for a while does not make a rebuild give up rows as if it had bad
/// sectors.
#[test]
fn a_member_that_reads_nothing_is_waited_for() {
    let mut world = array(35, Level::Raid5, 4, Cell::Clean);
    assert!(world.shared.members.fail(2, engine::members::Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
    world.disks.borrow_mut()[0].unreadable = true;
    world.join(2, 0);
    world.pass(120);
    assert!(world.shared.lost.is_empty(), "{:?}", world.shared.lost);
    world.disks.borrow_mut()[0].unreadable = false;
    world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(2));
    assert!(world.shared.lost.is_empty());
    world.verify();
}

/// Stripes that an unclean stop has left unsynced, and a missing member: the rebuild lists the member's
/// strips there as lost, and ends.
#[test]
fn a_rebuild_passes_stripes_in_doubt() {
    let mut world = array(36, Level::Raid5, 4, Cell::NeedSync);
    assert!(world.shared.members.fail(2, engine::members::Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
    world.lossy.fill(true);
    let in_doubt: Vec<u64> =
        (0..24).filter(|&stripe| world.shared.bitmap.cell(stripe) == Cell::NeedSync).collect();
    world.replace(2, 0);
    assert!(world.is_synced());
    let mut lost: Vec<u64> = in_doubt.iter().filter_map(|&stripe| address(&world, stripe, 2, 0)).collect();
    lost.sort_unstable();
    assert!(!lost.is_empty());
    assert_eq!(world.failing_reads(u64::from(CHUNK)), lost);
    for &at in &lost {
        world.give_up(at, u64::from(CHUNK));
    }
    // The other strips still survive the loss of a member.
    world.lose(0);
    assert_eq!(world.failing_reads(u64::from(CHUNK)), lost);
}

/// A row that is written is no longer listed as lost. If the list were durable before the write, a power cut
/// could leave neither the new bytes nor the error.
#[test]
fn what_is_written_over_lost_rows_is_durable() {
    let mut world = filled(33, Level::Raid5, 4, &[(3, 0)]);
    let at = [0, 2].iter().find_map(|&slot| address(&world, 3, slot, 0)).expect("one of them holds data");
    world.lossy.fill(true);
    let cached_writes = |world: &World| -> u64 {
        let of_slot =
            |slot: u8| world.disks.borrow()[usize::from(world.shared.members.device(slot).0)].counts.cached;
        world.shared.members.volatile().iter().map(of_slot).sum()
    };
    let cached = |world: &mut World| {
        let before = cached_writes(world);
        assert!(!world.fails(RequestKind::Write { fua: false }, at, 4096));
        cached_writes(world) - before
    };
    assert!(!world.shared.lost.is_empty());
    assert_eq!(cached(&mut world), 0, "writes of lost rows that may be in a volatile cache");
    assert!(cached(&mut world) > 0, "another seed: the members that are written have no cache");
}

/// More unsynced stripes in succession than the list has ranges. The slot's strips make one range, although
/// its parity strips lie between them, and the rebuild ends.
#[test]
fn a_rebuild_passes_a_block_in_doubt() {
    for (level, members, reactors) in [(Level::Raid5, 3, 1), (Level::Raid5, 3, 2), (Level::Raid6, 4, 1)] {
        let stripes = (LOST_RANGES_MAX * (members + 1)) as u64;
        let (seed, chunk_bytes, initial) = (50, 4 << 10, Initial::All(Cell::NeedSync));
        let mut world = World::new(Config { seed, level, members, chunk_bytes, stripes, initial, reactors });
        assert!(world.shared.members.fail(2, engine::members::Failure::Operator));
        world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
        world.lossy.fill(true);
        let mut in_doubt: Vec<u64> = (0..world.geometry.stripes())
            .filter(|&stripe| world.shared.bitmap.cell(stripe) == Cell::NeedSync)
            .filter_map(|stripe| address(&world, stripe, 2, 0))
            .collect();
        in_doubt.sort_unstable();
        assert!(in_doubt.len() > 2 * LOST_RANGES_MAX, "the resync was slower: {}", in_doubt.len());
        world.replace(2, 0);
        assert!(world.is_synced());
        let ranges = world.shared.lost.ranges().len();
        assert!(ranges < 40, "the stripes that the resync had in flight are no more: {ranges} ranges");
        assert_eq!(world.failing_reads(4096), in_doubt);
        for &at in &in_doubt {
            world.give_up(at, 4096);
        }
        // Strips that are overwritten are right again, even without another member; the others stay listed,
        // also after a start.
        let (written, left) = in_doubt.split_at(in_doubt.len() / 2);
        for &at in written {
            assert!(!world.fails(RequestKind::Write { fua: false }, at, 4096));
        }
        world.stop();
        let mut world = world.restart(Serve::ReadWrite);
        world.lossy.fill(true);
        world.lose(0);
        assert_eq!(world.failing_reads(4096), left);
        for &at in left {
            assert!(!world.fails(RequestKind::Write { fua: false }, at, 4096));
        }
        world.lossy.fill(false);
        world.verify();
        assert!(world.shared.lost.is_empty());
    }
}

/// A bad sector in an unsynced stripe: the resync ends with the stripe in sync and those rows listed as lost.
#[test]
fn a_resync_passes_what_is_lost() {
    let mut world = array(37, Level::Raid5, 4, Cell::NeedSync);
    world.spoil(4, 0, 8192);
    world.lossy[4] = true;
    world.turn_until("a resync", |world| world.is_synced());
    let at = address(&world, 4, world.geometry.rotation(4).slot_of(0), 8192).expect("data");
    world.give_up(at, 4096);
    assert_eq!(world.failing_reads(4096), [at]);
    assert!(!world.fails(RequestKind::Write { fua: false }, at, 4096));
    world.verify();
}

/// If the list of lost rows is full, the rebuild does not end, rows that are not listed are not given up, and
/// attempts are rare. The rebuild ends once the list has room.
#[test]
fn a_full_list_stops_a_rebuild() {
    // Two cases of what cannot be computed: a bad sector, and the slot's strips in unsynced stripes.
    for cell in [Cell::Clean, Cell::NeedSync] {
        let mut world = array(38, Level::Raid5, 4, cell);
        let full = fill_list(&world);
        assert!(world.shared.members.fail(2, engine::members::Failure::Operator));
        world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
        world.lossy.fill(true);
        if cell == Cell::Clean {
            for strip in 0..2 {
                world.spoil(3, strip, 0);
            }
        }
        world.join(2, 0);
        world.pass(200);
        assert!(!world.shared.members.view().readable.has(2));
        assert_eq!(world.shared.lost.ranges(), full, "what is not listed is not given up");
        let (reads, version) = (member_reads(&world), world.shared.lost.version());
        world.pass(600);
        let reads = member_reads(&world) - reads;
        assert!(reads < 200, "a look a minute takes {reads} reads in ten minutes");
        assert_eq!(world.shared.lost.version(), version);
        for stripe in 12..24 {
            let stripe_bytes = u64::from(world.geometry.stripe_bytes());
            assert!(!world.fails(RequestKind::Discard, stripe * stripe_bytes, stripe_bytes));
        }
        world.turn_until("a rebuild", |world| world.shared.members.record().readable.has(2));
        assert!(!world.shared.lost.is_empty());
    }
}

/// A resync that finds the list full leaves the stripe `NeedSync`, and tries it again every five minutes.
#[test]
fn a_full_list_stops_a_resync() {
    let mut world = array(39, Level::Raid5, 4, Cell::NeedSync);
    let full = fill_list(&world);
    world.spoil(4, 0, 8192);
    world.lossy.fill(true);
    world.pass(400);
    assert_eq!(world.shared.bitmap.next_need_sync(0), Some(4));
    assert_eq!(world.shared.lost.ranges(), full);
    let reads = member_reads(&world);
    world.pass(3600);
    let reads = member_reads(&world) - reads;
    assert!(reads < 1000, "a look in five minutes takes {reads} reads in an hour");
    assert_eq!(world.shared.bitmap.next_need_sync(0), Some(4));
    for stripe in 12..24 {
        let stripe_bytes = u64::from(world.geometry.stripe_bytes());
        assert!(!world.fails(RequestKind::Discard, stripe * stripe_bytes, stripe_bytes));
    }
    world.turn_until("a resync", |world| world.is_synced());
    assert!(world.shared.lost.touches(4));
}

/// Fills the list of lost rows with pieces of slot 1's strips in the last twelve stripes: every other sector,
/// until there is no room.
fn fill_list(world: &World) -> Vec<LostRange> {
    let lost = &world.shared.lost;
    let pieces = (0..u32::MAX).flat_map(|nth| (12..24).map(move |stripe| (stripe, nth * 1024 + 512)));
    let mut pieces = pieces.filter(|&(stripe, _)| world.geometry.is_data(stripe, 1));
    while !lost.is_full() {
        let (stripe, row) = pieces.next().expect("there is no end of them");
        assert!(lost.add(LostRange { stripe, stripes: 1, slot: 1, row, rows: 512 }).is_ok());
    }
    lost.ranges()
}

fn member_reads(world: &World) -> u64 {
    Tally::sum(&world.shared.tallies).member_reads
}

/// A write that covers the end of one strip and the beginning of the next does not touch the rows between:
/// bad sectors there do not make it fail.
#[test]
fn a_write_reads_no_rows_between_its_ends() {
    let mut world = array(51, Level::Raid5, 4, Cell::Clean);
    for strip in [2, 3] {
        world.spoil(7, strip, CHUNK / 2);
    }
    let at = 7 * u64::from(world.geometry.stripe_bytes()) + u64::from(CHUNK) - 4096;
    assert!(!world.fails(RequestKind::Write { fua: false }, at, 8192));
    assert_eq!(world.bad_sectors(), 2, "they were read, and repaired");
    assert!(!world.fails(RequestKind::Read, at, 8192));
}

/// The first write to a stripe with listed rows: the list is durable without these rows before the cell says
/// that the stripe is written. Otherwise a crash between the two would leave written rows that read as lost.
#[test]
fn a_first_write_of_listed_rows_takes_them_off() {
    let mut world = array(52, Level::Raid5, 4, Cell::Unwritten);
    let slot = world.geometry.rotation(3).slot_of(0);
    let listed = LostRange { stripe: 3, stripes: 1, slot, row: 0, rows: 8192 };
    assert!(world.shared.lost.add(listed).is_ok());
    let stripe_bytes = u64::from(world.geometry.stripe_bytes());
    assert!(world.ask(RequestKind::Write { fua: false }, 3 * stripe_bytes, 4096));
    world.turn_until("the cell", |world| world.shared.bitmap.cell(3) != Cell::Unwritten);
    assert!(world.shared.lost.is_empty() && world.shared.lost.is_durable(world.shared.lost.version()));
    world.settle();
    assert!(!world.fails(RequestKind::Read, 3 * stripe_bytes, stripe_bytes));
    world.verify();
}

/// A rebuild repeats the reads that failed, and the errors of its retries do not count against the members.
/// There are enough bad strips here that two share an entry of the table of bad places, so with the table
/// alone each retry would count.
#[test]
fn retries_of_a_rebuild_cost_no_member() {
    let (seed, level, initial) = (53, Level::Raid6, Initial::All(Cell::Clean));
    let mut world = World::new(Config {
        seed,
        level,
        members: 6,
        chunk_bytes: 4 << 10,
        stripes: 140,
        initial,
        reactors: 1,
    });
    assert!(world.shared.members.fail(2, engine::members::Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
    for stripe in (0..12).chain(64..76) {
        let rotation = world.geometry.rotation(stripe);
        for strip in (0..6).filter(|&strip| rotation.slot_of(strip) < 2) {
            world.spoil(stripe, strip, 0);
        }
    }
    world.lossy.fill(true);
    world.join(2, 0);
    world.pass(60);
    let all = world.geometry.slots();
    assert_eq!(world.shared.members.view().writable, all, "{:?}", world.shared.members.failure(0));
}

/// A rebuild gives up rows and writes new parity for them, and the member that holds Q refuses the write. Now
/// P matches the new rows and Q the old ones, so the stripe needs a resync.
#[test]
fn a_refused_write_of_given_up_rows_leaves_no_old_parity() {
    let mut world = array(54, Level::Raid6, 6, Cell::Clean);
    assert!(world.shared.members.fail(2, engine::members::Failure::Operator));
    world.turn_until("the record", |world| !world.shared.members.record().writable.has(2));
    // In this stripe slot 2 and the two bad strips hold data.
    let stripe = (0..24).find(|&stripe| world.geometry.rotation(stripe).strip_on(2) == 1).expect("in turn");
    world.spoil(stripe, 0, 0);
    world.spoil(stripe, 2, 0);
    let q = usize::from(world.geometry.rotation(stripe).slot_of(5));
    let data = world.data_bytes();
    world.disks.borrow_mut()[q].refuses = Some((28, data));
    world.lossy.fill(true);
    world.join(2, 0);
    world.pass(60);
    assert!(!world.shared.lost.is_empty(), "the rows are given up by now");
    world.disks.borrow_mut()[q].refuses = None;
    world.turn_until("a rebuild", |world| world.is_synced() && world.shared.members.record().readable.has(2));
    for at in world.failing_reads(4096) {
        world.give_up(at, 4096);
    }
    world.verify();
}

/// While another reactor edits the list, a write of listed rows waits for its turn. If it were answered
/// before, its rows would read as lost.
#[test]
fn a_write_waits_for_its_turn_at_the_list() {
    let mut world = array(55, Level::Raid5, 4, Cell::Clean);
    let rotation = world.geometry.rotation(0);
    let listed = LostRange { stripe: 0, stripes: 1, slot: rotation.slot_of(0), row: 0, rows: 4096 };
    assert!(world.shared.lost.add(listed).is_ok());
    // No parity strip may be listed, so this edit panics and never ends.
    let parity = LostRange { slot: rotation.slot_of(3), ..listed };
    assert!(catch_unwind(AssertUnwindSafe(|| world.shared.lost.add(parity))).is_err());
    assert!(world.ask(RequestKind::Write { fua: false }, 0, 4096));
    world.pass(5);
    assert_eq!(world.outstanding(), 1, "it was answered, and its rows are still listed");
}
