//! Single starts: see the top of main.rs.

use bitmap::{BlockIndex, Cell};
use engine::format::Level;
use engine::format::superblock::{Record, RunState};
use engine::start::{StartOptions, Started, grow, write_superblocks};

use crate::devices::{DEVICE_BYTES, Held, Landing, Members, Trouble};

/// Cells of stripes 0 to 3: Dirty, Unwritten, Unwritten, Unwritten.
const CELLS: u8 = 0b01_01_01_11;
const GENERATION: u64 = 1 << 32;
const ALL: [usize; 3] = [0, 1, 2];

/// An array of three whose block was written once, on both members that keep it; `other` fills the other
/// place.
fn written_once(record: impl Fn(&mut Record), other: impl Fn(&mut Members, usize)) -> Members {
    let mut array = Members::in_use(Level::Raid5, 3);
    array.rewrite_records(record);
    for device in [0, 1] {
        array.put_block(device, GENERATION, CELLS, Landing::Whole);
        other(&mut array, device);
    }
    array
}

fn start(array: &mut Members, present: &[usize], options: StartOptions) -> Started {
    array.start(present, options, Trouble::default()).result.expect("enough members are well")
}

fn of_an_older_program(record: &mut Record) {
    record.both_places = false;
}

fn stopped_by_an_older_program(record: &mut Record) {
    (record.state, record.settled, record.both_places) = (RunState::Clean, false, false);
}

/// The unwritten place holds zeros, or what the device held before: an older program wrote a block only once
/// on a member that joined.
#[test]
fn a_place_that_was_never_written_costs_nothing() {
    for byte in [0, 0x5a] {
        for (record, first) in [
            (of_an_older_program as fn(&mut Record), Cell::NeedSync),
            (stopped_by_an_older_program, Cell::Dirty),
        ] {
            let mut array = written_once(record, |array, device| array.put_bytes(device, 1, byte));
            let started = start(&mut array, &ALL, StartOptions::default());
            assert_eq!(started.stale_blocks, 0);
            assert!(started.bad_places.is_empty());
            assert_eq!([0, 1].map(|stripe| started.bitmap.cell(stripe)), [first, Cell::Unwritten]);
            // From now on both places are written, and the next change of the record says so.
            for device in [0, 1] {
                let held = array.held(device);
                assert!(
                    matches!(held, [Held::Block(_, one), Held::Block(_, other)] if one == other),
                    "{held:?}"
                );
            }
            let roster = started.roster.expect("it may be written");
            assert!(roster.record().both_places);
        }
    }
}

/// The power goes when one write of the record's first change after the start of an older array has landed.
#[test]
fn one_member_that_says_that_both_places_are_written_is_enough() {
    let mut array = written_once(of_an_older_program, |array, device| array.put_bytes(device, 1, 0));
    let mut roster = start(&mut array, &ALL, StartOptions::default()).roster.expect("it may be written");
    assert!(!array.assembly(&ALL).record.both_places, "nothing is written for it");
    let writes = roster.wake().expect("the record may move");
    array.with_bench(&ALL, Trouble::default(), |bench| write_superblocks(bench, &writes[..1]));
    let after = array.assembly(&ALL);
    assert!(after.record.both_places && after.unclean);
    // From now on a place without a block means that something overwrote it, so it proves nothing.
    [0, 1].iter().for_each(|&device| array.put_bytes(device, 1, 0));
    assert_eq!(start(&mut array, &ALL, StartOptions::default()).stale_blocks, 1);
}

/// A program that writes both places leaves a block in each: if a place has none, something else wrote there,
/// zeros or not.
#[test]
fn a_place_that_was_written_over_proves_nothing() {
    for byte in [0, 0x5a] {
        let mut array = written_once(|_| {}, |array, device| array.put_bytes(device, 1, byte));
        assert!(array.assembly(&ALL).record.both_places);
        let started = start(&mut array, &ALL, StartOptions::default());
        assert_eq!((started.stale_blocks, started.bitmap.cell(1)), (1, Cell::NeedSync));
    }
}

/// The generation of a block determines its place: a block in the other place was not written by this
/// program, and proves nothing.
#[test]
fn a_block_in_the_wrong_place_proves_nothing() {
    let mut array = written_once(|_| {}, |array, device| array.misplace_block(device, GENERATION, CELLS));
    let started = start(&mut array, &ALL, StartOptions::default());
    assert_eq!((started.stale_blocks, started.bitmap.cell(1)), (1, Cell::NeedSync));
}

/// Both places of a block are valid and differ when the power goes between a write and its repetition. Such a
/// block is not settled: if a stop called it settled, the next start could load the older place.
#[test]
fn places_that_differ_are_not_settled() {
    for (other, is_settled) in [(CELLS, true), (0b01_01_11_11, false)] {
        let mut array = written_once(
            |record| (record.state, record.settled) = (RunState::Clean, false),
            |array, device| array.put_block(device, GENERATION + 1, other, Landing::Whole),
        );
        let started = start(&mut array, &ALL, StartOptions::default());
        assert_eq!(started.bitmap.is_settled(BlockIndex(0)), is_settled);
    }
}

/// An unreadable place may hold the newest generation, whichever program wrote it.
#[test]
fn a_place_that_cannot_be_read_is_not_one_that_was_never_written() {
    for record in [of_an_older_program as fn(&mut Record), stopped_by_an_older_program] {
        let mut array = written_once(record, |array, device| array.spoil(device, 1));
        let started = start(&mut array, &ALL, StartOptions::default());
        assert_eq!((started.stale_blocks, started.bitmap.cell(1)), (1, Cell::NeedSync));
        assert_eq!(started.bad_places.count(), 2);
    }
}

/// `trust_parity` (the operator vouches for parity) also covers stripes of which nothing is known, but only
/// with a member missing.
#[test]
fn trusted_parity_makes_a_stale_block_dirty() {
    for (present, trust_parity, cell) in
        [(&ALL[..], true, Cell::NeedSync), (&ALL[..2], false, Cell::NeedSync), (&ALL[..2], true, Cell::Dirty)]
    {
        for read_only in [true, false] {
            let mut array = written_once(|_| {}, |array, device| array.spoil(device, 1));
            let options = StartOptions { trust_parity, read_only, ..StartOptions::default() };
            let started = start(&mut array, present, options);
            assert_eq!(started.stale_blocks, 1);
            for stripe in 0..started.geometry.stripes() {
                assert_eq!(started.bitmap.cell(stripe), cell, "{present:?}, trust {trust_parity}");
            }
            assert_eq!(started.bitmap.is_settled(BlockIndex(0)), !read_only);
        }
    }
}

/// In a known block, `trust_parity` makes those stripes Dirty that would need a resync, and changes no other
/// cell.
#[test]
fn trusted_parity_leaves_stripes_that_are_in_sync() {
    let cells = 0b01_10_00_11;
    for (trust_parity, doubtful) in [(false, Cell::NeedSync), (true, Cell::Dirty)] {
        let mut array = Members::in_use(Level::Raid5, 3);
        for (device, generation) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            array.put_block(device, GENERATION + generation, cells, Landing::Whole);
        }
        let started = start(&mut array, &ALL[..2], StartOptions { trust_parity, ..StartOptions::default() });
        // The cells were Dirty, NeedSync, Clean and Unwritten.
        let loaded = [0, 1, 2, 3].map(|stripe| started.bitmap.cell(stripe));
        assert_eq!(loaded, [doubtful, doubtful, Cell::Clean, Cell::Unwritten], "trust {trust_parity}");
    }
}

/// Growing writes none of the existing bitmap blocks.
#[test]
fn an_array_that_grows_is_as_settled_as_it_was() {
    for (state, settled) in [(RunState::Clean, true), (RunState::Clean, false), (RunState::Active, false)] {
        let mut array = Members::in_use(Level::Raid5, 3);
        array.rewrite_records(|record| (record.state, record.settled) = (state, settled));
        let assembly = array.assembly(&ALL);
        let zones = array.zones.grown(DEVICE_BYTES, &array.shape);
        let (lost, _) = array.with_bench(&ALL, Trouble::default(), |bench| grow(bench, &assembly, zones, 77));
        assert!(lost.expect("all members are well").is_empty());
        let after = array.assembly(&ALL);
        assert_eq!(after.record.zones, zones);
        assert_eq!((after.unclean, after.record.settled), (state == RunState::Active, settled));
    }
}

/// Generations of a new epoch are above all older ones, even those of a keeper that is absent: what the
/// absent keeper holds is older than what is written without it.
#[test]
fn generations_of_a_new_epoch_are_above_all_older_ones() {
    let mut array = written_once(
        |_| {},
        |array, device| {
            array.put_block(device, GENERATION + 1, CELLS, Landing::Whole);
        },
    );
    array.put_block(1, GENERATION + 999, CELLS, Landing::Whole);
    let started = start(&mut array, &[0, 2], StartOptions::default());
    let generation = started.bitmap.generation(BlockIndex(0));
    assert!(generation > GENERATION + 999, "the next write has generation {generation:#x}");
}
