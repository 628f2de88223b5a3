//! Zones are disjoint, aligned and inside the member, and have no room for one more stripe, for every width
//! and any size.

use engine::format::superblock::SlotRecord;
use engine::format::zones::{self, CELLS_PER_BLOCK, MEMBER_BYTES_MAX, ZoneError, copies, zones};
use engine::format::{Level, Shape};
use proptest::prelude::*;

use super::sample;

fn check_zones(member_bytes: u64, shape: &Shape) {
    let chunk = u64::from(shape.chunk_bytes);
    let found = match zones(member_bytes, shape) {
        Ok(found) => found,
        Err(ZoneError::TooSmall { minimum_bytes, .. }) => {
            assert!(member_bytes < minimum_bytes);
            assert_eq!(zones(minimum_bytes, shape).map(|zones| zones.stripes), Ok(1));
            assert!(zones(minimum_bytes - 1, shape).is_err());
            return;
        }
        Err(ZoneError::Shape(error)) => panic!("{error}"),
    };
    let ends = |zone: zones::Zone| zone.offset_bytes + zone.len_bytes;
    assert_eq!(found.bitmap.offset_bytes, 128 << 10);
    assert!(ends(found.bitmap) <= found.log.offset_bytes);
    assert!(ends(found.log) <= found.data.offset_bytes);
    assert_eq!(ends(found.data), found.end_bytes());
    assert!(found.end_bytes() + zones::TAIL_UNUSED_BYTES <= member_bytes);
    assert!(found.log.offset_bytes.is_multiple_of(4096) && found.log.len_bytes.is_multiple_of(4096));
    assert!((1 << 20..=32 << 20).contains(&found.log.len_bytes));
    assert!(found.data.offset_bytes.is_multiple_of(1 << 20));
    assert_eq!(found.data.len_bytes, found.stripes * chunk);
    assert_eq!(found.bitmap.len_bytes, found.stripes.div_ceil(CELLS_PER_BLOCK) * 8192);

    // One more stripe, by independent arithmetic.
    let bitmap = (found.stripes + 1).div_ceil(CELLS_PER_BLOCK) * 8192;
    let data = ((128 << 10) + bitmap + found.log.len_bytes).next_multiple_of(1 << 20);
    assert!(data + (found.stripes + 1) * chunk > zones::usable(member_bytes), "one more stripe fits");
}

/// Checks zones grown to `member_bytes`: no data moves, all zones end inside, and one more stripe would not
/// fit.
fn check_grown(from: &zones::Zones, member_bytes: u64, shape: &Shape) {
    let chunk = u64::from(shape.chunk_bytes);
    let grown = from.grown(member_bytes, shape);
    let ends = |zone: zones::Zone| zone.offset_bytes + zone.len_bytes;
    assert_eq!(grown.bitmap.offset_bytes, from.bitmap.offset_bytes);
    assert_eq!(grown.data.offset_bytes, from.data.offset_bytes);
    assert_eq!(grown.data.len_bytes, grown.stripes * chunk);
    assert!(grown.stripes >= from.stripes && grown.end_bytes() <= member_bytes.max(from.end_bytes()));
    assert!(grown.bitmap.len_bytes >= grown.stripes.div_ceil(CELLS_PER_BLOCK) * 8192);
    assert!(ends(grown.bitmap) <= grown.log.offset_bytes && ends(grown.log) <= grown.data.offset_bytes);
    assert!((1 << 20..=from.log.len_bytes).contains(&grown.log.len_bytes), "{from:?} {grown:?}");
    if grown.stripes == from.stripes {
        assert_eq!(grown, *from);
    }
    let more = grown.stripes + 1;
    let bitmap_end = from.bitmap.offset_bytes + more.div_ceil(CELLS_PER_BLOCK) * 8192;
    assert!(
        from.data.offset_bytes + more * chunk > member_bytes.min(MEMBER_BYTES_MAX)
            || bitmap_end + (1 << 20) > from.data.offset_bytes,
        "one more stripe fits"
    );
    // The grown zones are accepted in a record.
    let mut superblock = sample(0);
    (superblock.record.shape, superblock.record.zones) = (*shape, grown);
    superblock.record.slots[3].cursor = 0;
    superblock.record.slots[shape.members..].fill(SlotRecord::EMPTY);
    if shape.members >= 5 {
        assert_eq!(superblock.check(), Ok(()));
    }
}

fn shapes() -> impl Iterator<Item = Shape> {
    let levels = [Level::Raid5, Level::Raid6].into_iter();
    levels.flat_map(|level| {
        (level.members_min()..=32).flat_map(move |members| {
            (12..=20).map(move |power| Shape { level, members, chunk_bytes: 1 << power })
        })
    })
}

#[test]
fn zones_of_every_shape() {
    let sizes =
        [0_u64, 1 << 20, 2 << 20, 3 << 20, 8 << 20, 100_000_000, 4 << 30, 15_360_950_534_144, 16 << 40];
    for shape in shapes() {
        for size in sizes {
            for offset in [-4097_i64, -1, 0, 1, 4096] {
                check_zones(size.saturating_add_signed(offset), &shape);
            }
        }
        check_zones(u64::MAX, &shape);
    }
}

#[test]
fn a_file_of_8_mib_is_enough() {
    let shape = Shape { level: Level::Raid5, members: 3, chunk_bytes: 64 << 10 };
    assert_eq!(zones(8 << 20, &shape).unwrap().stripes, 80);
    let error = zones(1 << 20, &shape).unwrap_err().to_string();
    assert!(error.contains("3211264"), "states the minimum: {error}");
}

proptest! {
    #[test]
    fn zones_of_any_size(bytes in any::<u64>(), shift in 0_u32..64, members in 4_usize..=32, power in 12_u32..=20) {
        check_zones(bytes >> shift, &Shape { level: Level::Raid6, members, chunk_bytes: 1 << power });
    }
}

#[test]
fn zones_grow_in_place() {
    let sizes = [3_u64 << 20, 8 << 20, 100_000_000, 4 << 30, 1 << 40, 16 << 40];
    for shape in shapes() {
        for (at, from) in sizes.iter().enumerate() {
            let Ok(from) = zones(*from, &shape) else { continue };
            for to in &sizes[at..] {
                for offset in [-4097_i64, -1, 0, 1, 4096, 1 << 20] {
                    check_grown(&from, to.saturating_add_signed(offset), &shape);
                }
            }
            check_grown(&from, u64::MAX, &shape);
            let twice = from.grown(100 << 30, &shape);
            check_grown(&twice, 1 << 50, &shape);
        }
    }
}

/// The place of the log is large enough for the growth of members that occurs in practice.
#[test]
fn the_bitmap_has_room_to_grow() {
    let shape = Shape { level: Level::Raid5, members: 5, chunk_bytes: 64 << 10 };
    let grown = |from: u64| {
        let from = zones(from, &shape).unwrap();
        from.stripes_max() * u64::from(shape.chunk_bytes)
    };
    assert!(grown(64 << 20) > 100 << 30, "{}", grown(64 << 20));
    assert!(grown(1 << 40) > 9 << 39, "{}", grown(1 << 40));
}

#[test]
fn a_bitmap_block_survives_what_the_level_bears() {
    for shape in shapes() {
        for block in [0, 1, 31, 32, 1000, u64::MAX] {
            let mut slots: Vec<usize> = copies(block, &shape).collect();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), shape.level.parities() + 1);
            assert!(slots.iter().all(|&slot| slot < shape.members));
        }
    }
}
