//! The format's promises, each against an oracle that is simpler than the code.
//!
//! - What is written can be read; the golden images of each released version stay readable and writable.
//! - Any byte may be changed, with the checksum repaired: nothing panics, and what is accepted lies inside
//!   the device and can be assembled, started and written again.
//! - The drawings in docs/format.md agree with the code.
//!
//! Golden images are made once, by a run with `STRIATE_GOLDEN=write`, and never again for that version.

mod layout;

use std::path::PathBuf;

use engine::assembly::{AssemblyOptions, Candidate, Change, ChangeRefused, assemble};
use engine::format::bitmap_block::{self, BlockError, CELL_BYTES, GENERATION_MAX, Header};
use engine::format::host::Host;
use engine::format::label::Label;
use engine::format::lost_rows;
use engine::format::signatures::detect_foreign;
use engine::format::superblock::{
    COMPAT_BOTH_PLACES, COMPAT_WIPED, COUNT_MAX, Copy, DecodeError, Epoch, EpochName, NoMember, Record,
    RunState, SlotRecord, SlotState, Superblock, choose, decode, encode,
};
use engine::format::zones::{self, zones};
use engine::format::{Field, Level, Shape, superblock};
use proptest::prelude::*;
use uuid::Uuid;

const DEVICE_BYTES: u64 = 64 << 20;
const SHAPE: Shape = Shape { level: Level::Raid6, members: 5, chunk_bytes: 64 << 10 };

/// A superblock in which every field has a value that no other field has.
fn sample(slot: usize) -> Superblock {
    let mut slots = [SlotRecord::EMPTY; 32];
    for (index, entry) in slots.iter_mut().enumerate().take(SHAPE.members) {
        let held = EpochName { number: 20 + index as u64, id: 0x1111_0000 + index as u64 };
        *entry =
            SlotRecord { member: member(index), state: SlotState::InSync, held, held_moves: 0, cursor: 0 };
    }
    slots[3].state = SlotState::Rebuilding;
    slots[3].cursor = 77;
    slots[4].state = SlotState::Failed;
    let record = Record {
        array: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        name: Label::new("tank-0").unwrap(),
        host: Host { id: Uuid::nil(), name: Label::new("host.example").unwrap() },
        created_s: 1_764_000_000,
        shape: SHAPE,
        logical_block_bytes: 512,
        // The layout at the time of the golden images, when arrays used their members to the end.
        zones: zones(DEVICE_BYTES + zones::TAIL_UNUSED_BYTES, &SHAPE).unwrap(),
        epoch: Epoch {
            name: EpochName { number: 42, id: 0x2222_3333_4444_5555 },
            line: [0x6666_7777, 0, 0, 0, 0, 0, 0, 0],
        },
        moves: 0,
        state: RunState::Active,
        settled: false,
        both_places: false,
        wiped: false,
        found: RunState::Clean,
        lost_rows: false,
        slots,
    };
    Superblock { sequence: 99, member: member(slot), slot, read_only_required: false, proven: false, record }
}

/// The sample superblock with a count of moves and a settled bitmap.
fn moved_sample(slot: usize) -> Superblock {
    let mut superblock = sample(slot);
    let record = &mut superblock.record;
    (record.moves, record.state, record.settled) = (0x0123_4567, RunState::Clean, true);
    (0..SHAPE.members).for_each(|slot| record.slots[slot].held_moves = 0x7000 + slot as u64);
    superblock
}

fn member(index: usize) -> Uuid {
    Uuid::from_u128(0xa0a0_0000_0000_0000_0000_0000_0000_0000 + index as u128)
}

/// Repairs the checksum of a block, which is at byte 12.
fn seal(block: &mut [u8]) {
    block[12..16].fill(0);
    let crc = crc32c::crc32c(block);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn put_u64(block: &mut [u8], offset: usize, value: u64) {
    block[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

// Superblock.

#[test]
fn superblock_round_trip() {
    for slot in 0..4 {
        for copy in [Copy::A, Copy::B] {
            let mut superblock = sample(slot);
            assert_eq!(decode(&encode(&superblock, copy), copy), Ok(superblock.clone()));
            superblock.record.epoch = superblock.record.epoch.next(EpochName { number: 43, id: 0x8888_9999 });
            for id in 1..=10 {
                superblock.record.epoch = superblock.record.epoch.next(EpochName { number: 43 + id, id });
            }
            assert_eq!(
                superblock.record.epoch.line,
                [9, 8, 7, 6, 5, 4, 3, 2],
                "the last eight, the parent first"
            );
            assert_eq!(decode(&encode(&superblock, copy), copy), Ok(superblock));
        }
    }
}

#[test]
fn superblock_refusals() {
    let good = encode(&sample(0), Copy::A);
    let with = |offset: usize, value: u64| {
        let mut block = good;
        put_u64(&mut block, offset, value);
        seal(&mut block);
        decode(&block, Copy::A)
    };
    assert_eq!(decode(&[0; 4096], Copy::A), Err(DecodeError::NotStriate));
    assert_eq!(decode(&good[..4095], Copy::A), Err(DecodeError::NotStriate));
    assert!(matches!(decode(&good, Copy::B), Err(DecodeError::Invalid(_))));
    assert_eq!(with(8, 2), Err(DecodeError::FutureVersion(2)));
    assert!(matches!(with(8, 0), Err(DecodeError::Invalid(_))));
    assert_eq!(with(24, 1 << 63), Err(DecodeError::UnknownIncompat(1 << 63)));
    assert!(with(32, 1).unwrap().read_only_required);
    assert_eq!(
        with(40, !(COMPAT_BOTH_PLACES | COMPAT_WIPED)),
        Ok(sample(0)),
        "an unknown compat bit is ignored"
    );
    assert!(matches!(with(16, COUNT_MAX + 1), Err(DecodeError::Invalid(_))));
    for offset in 0..4096 {
        let mut torn = good;
        torn[offset] ^= 0x10;
        assert!(decode(&torn, Copy::A).is_err(), "a flipped bit at {offset} is seen");
    }
}

#[test]
fn the_newest_valid_copy_counts() {
    let with_sequence = |sequence, copy| encode(&Superblock { sequence, ..sample(0) }, copy);
    let (older, newer) = (with_sequence(7, Copy::A), with_sequence(8, Copy::B));
    let mut torn = newer;
    torn[2000] ^= 1;
    let mut future = newer;
    future[8] = 2;
    seal(&mut future);
    let blank = [0; 4096];

    let chosen = |a: &[u8], b: &[u8]| {
        choose(a, b, DEVICE_BYTES).map(|f| (f.superblock.sequence, f.overwrite, f.both_valid))
    };
    assert_eq!(chosen(&older, &newer), Ok((8, Copy::A, true)));
    assert_eq!(chosen(&older, &torn), Ok((7, Copy::B, false)));
    assert_eq!(chosen(&blank, &newer), Ok((8, Copy::A, false)));
    assert_eq!(chosen(&blank, &blank), Err(NoMember::Blank));
    assert!(matches!(chosen(&blank, &torn), Err(NoMember::Damaged(DecodeError::Torn { .. }))));
    let unsupported = Err(NoMember::Unsupported(DecodeError::FutureVersion(2)));
    assert_eq!(chosen(&older, &future), unsupported, "an older copy is no substitute for a newer program's");
    assert_eq!(chosen(&with_sequence(9, Copy::A), &future), Ok((9, Copy::B, false)));
    let needed = sample(0).record.zones.end_bytes();
    assert!(choose(&older, &newer, needed).is_ok());
    assert!(matches!(choose(&older, &newer, needed - 1), Err(NoMember::TooSmall { .. })));
}

/// Puts any `a` and `b` on one device of an array whose other devices are good. Checks that nothing panics,
/// and that what is accepted lies inside the device and can be started and written.
fn check_hostile(a: &[u8], b: &[u8]) {
    let candidate = |slot: usize| Candidate {
        label: format!("dev{slot}"),
        found: choose(&encode(&sample(slot), Copy::A), &[0; 4096], DEVICE_BYTES),
    };
    let hostile = choose(a, b, DEVICE_BYTES);
    if let Ok(found) = &hostile {
        assert!(found.superblock.record.zones.end_bytes() <= DEVICE_BYTES);
        assert_eq!(found.superblock.check(), Ok(()));
    }
    let mut candidates = vec![Candidate { label: "hostile".into(), found: hostile }];
    candidates.extend((1..4).map(candidate));
    for given in [&candidates[..], &candidates[..1]] {
        let options = AssemblyOptions { run_degraded: true, foreign_host_ok: true, ..Default::default() };
        match assemble(given, &options) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(assembly) => {
                let Ok(mut roster) = assembly.roster() else { continue };
                let writes = roster.begin(Change::Start { host: Host::ANY }, 7).unwrap_or_default();
                for write in writes {
                    assert_eq!(decode(&write.encode(), write.copy), Ok(write.superblock));
                }
            }
        }
    }
}

#[test]
fn any_byte_of_a_superblock_may_be_hostile() {
    let good = encode(&sample(0), Copy::A);
    for offset in 0..2056 {
        for value in [0, 1, 0x7f, 0x80, 0xff, good[offset] ^ 1, good[offset].wrapping_add(1)] {
            let mut block = good;
            block[offset] = value;
            seal(&mut block);
            check_hostile(&block, &[0; 4096]);
        }
    }
}

#[test]
fn counts_at_their_end_are_refused_and_not_wrapped() {
    for name in ["sequence", "epoch number"] {
        let field = superblock::FIELDS.iter().find(|field| field.name == name).unwrap();
        let candidate = |slot| {
            let mut block = encode(&sample(slot), Copy::A);
            put_u64(&mut block, field.offset, COUNT_MAX);
            seal(&mut block);
            Candidate { label: format!("dev{slot}"), found: choose(&block, &[0; 4096], DEVICE_BYTES) }
        };
        let candidates: Vec<Candidate> = (0..4).map(candidate).collect();
        let options = AssemblyOptions { foreign_host_ok: true, ..Default::default() };
        let mut roster = assemble(&candidates, &options).unwrap().roster().unwrap();
        let refused = roster.begin(Change::Start { host: Host::ANY }, 7).unwrap_err();
        assert_eq!(refused, ChangeRefused::Exhausted, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn hostile_fields(changes in prop::collection::vec((0_usize..256, any::<u64>(), 0_u32..64), 1..6), both in any::<bool>()) {
        let mut a = encode(&sample(0), Copy::A);
        let mut b = encode(&Superblock { sequence: 100, ..sample(0) }, Copy::B);
        for (index, value, shift) in changes {
            put_u64(&mut a, index * 8, value >> shift);
            if both {
                put_u64(&mut b, index * 8, value >> shift);
            }
        }
        for block in [&mut a, &mut b] {
            block[..8].copy_from_slice(&superblock::MAGIC);
            seal(&mut block[..]);
        }
        check_hostile(&a, &b);
    }

    #[test]
    fn random_bytes(mut bytes in prop::collection::vec(any::<u8>(), 4096), magic in any::<bool>()) {
        if magic {
            bytes[..8].copy_from_slice(&superblock::MAGIC);
            bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
            bytes[24..40].fill(0);
            seal(&mut bytes);
        }
        check_hostile(&bytes, &bytes);
        prop_assert!(bitmap_block::decode(&bytes, Uuid::nil(), 0).is_err());
        let _ = detect_foreign(&bytes, &bytes, u64::from_le_bytes(bytes[..8].try_into().unwrap()));
    }
}

// Bitmap block.

fn sample_cells() -> Box<[u8; CELL_BYTES]> {
    let mut cells = Box::new([0; CELL_BYTES]);
    for (index, byte) in cells.iter_mut().enumerate() {
        *byte = (index * 7 + index / 256) as u8;
    }
    cells
}

fn sample_header() -> Header {
    Header { array: sample(0).record.array, index: 5, generation: 0x0102_0304 }
}

fn sample_block() -> [u8; 4096] {
    let mut block = [0xee; 4096];
    bitmap_block::encode(&mut block, &sample_header(), &sample_cells());
    block
}

#[test]
fn bitmap_block_round_trip_and_refusals() {
    let (block, Header { array, index, generation }) = (sample_block(), sample_header());
    assert_eq!(bitmap_block::decode(&block, array, index), Ok((generation, &*sample_cells())));
    assert_eq!(bitmap_block::decode(&block, Uuid::nil(), index), Err(BlockError::OtherArray(array)));
    let misplaced = BlockError::Misplaced { found: index, expected: 6 };
    assert_eq!(bitmap_block::decode(&block, array, 6), Err(misplaced));
    assert_eq!(bitmap_block::decode(&block[1..], array, index), Err(BlockError::Length));
    // A forged generation once made the start panic.
    for (generation, is_believed) in [(GENERATION_MAX - 1, true), (GENERATION_MAX, false), (u64::MAX, false)]
    {
        let mut forged = block;
        put_u64(&mut forged, 40, generation);
        seal(&mut forged);
        assert_eq!(bitmap_block::decode(&forged, array, index).is_ok(), is_believed, "{generation}");
    }
    for offset in 0..4096 {
        let mut torn = block;
        torn[offset] ^= 4;
        assert!(bitmap_block::decode(&torn, array, index).is_err(), "a flipped bit at {offset} is seen");
    }
}

// Golden images.

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden(name: &str, now: &[u8; 4096]) -> Vec<u8> {
    let path = golden_path(name);
    if std::env::var_os("STRIATE_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, now).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn golden_images_of_version_1() {
    for (name, copy, expected) in [
        // Images by programs that counted no moves: they are read, but no longer written.
        ("superblock-v1-a.bin", Copy::A, sample(1)),
        ("superblock-v1-b.bin", Copy::B, sample(3)),
        ("superblock-v1-moves-a.bin", Copy::A, moved_sample(1)),
        ("superblock-v1-moves-b.bin", Copy::B, moved_sample(3)),
    ] {
        let (now, is_written) = (encode(&expected, copy), name.contains("moves"));
        let image = if is_written { golden(name, &now) } else { std::fs::read(golden_path(name)).unwrap() };
        assert!(!is_written || image == now, "{name}: this program writes other bytes");
        assert_eq!(decode(&image, copy), Ok(expected), "{name}");
    }
    let image = golden("bitmap-block-v1.bin", &sample_block());
    assert!(image == sample_block(), "this program writes other bytes");
    let Header { array, index, generation } = sample_header();
    assert_eq!(bitmap_block::decode(&image, array, index), Ok((generation, &*sample_cells())));
}

// Other things on a device.

#[test]
fn foreign_content_is_recognised() {
    let cases: &[(usize, &[u8], &str)] = &[
        (0x438, b"\x53\xef", "ext"),
        (0, b"XFSB", "XFS"),
        (0x1_0040, b"_BHRfS_M", "btrfs"),
        (4096, b"\xfc\x4e\x2b\xa9", "md"),
        (0, b"\xfc\x4e\x2b\xa9", "md"),
        (512, b"LABELONE", "LVM2"),
        (0, b"LUKS\xba\xbe\0\x02", "LUKS"),
        (4086, b"SWAPSPACE2", "swap"),
        (512, b"EFI PART", "GPT"),
        (0x4018, b"\0\0\0\x07version", "ZFS"),
        (4096, b"STRIATE\0", "Striate"),
    ];
    let blank = vec![0; 128 << 10];
    assert_eq!(detect_foreign(&blank, &blank, DEVICE_BYTES), None);
    assert_eq!(detect_foreign(&[], &[], 0), None);
    for (offset, magic, name) in cases {
        let mut head = blank.clone();
        head[*offset..offset + magic.len()].copy_from_slice(magic);
        assert!(
            detect_foreign(&head, &blank, DEVICE_BYTES).is_some_and(|found| found.contains(name)),
            "{name}"
        );
    }
}

#[test]
fn foreign_content_at_the_end_is_recognised() {
    let cases: &[(usize, &[u8], &str)] = &[
        (8192, b"\xfc\x4e\x2b\xa9", "1.0"),
        (65536, b"\xa9\x2b\x4e\xfc", "0.90"),
        (512, b"EFI PART", "GPT"),
        (4096, b"EFI PART", "GPT"),
        (100 << 10, b"\x0c\xb1\xba\0\0\0\0\0", "ZFS"),
    ];
    let blank = vec![0; 128 << 10];
    for (from_end, magic, name) in cases {
        let mut tail = blank.clone();
        let offset = tail.len() - from_end;
        tail[offset..offset + magic.len()].copy_from_slice(magic);
        assert!(
            detect_foreign(&blank, &tail, DEVICE_BYTES).is_some_and(|found| found.contains(name)),
            "{name}"
        );
    }
}

#[test]
fn a_boot_signature_alone_is_no_partition_table() {
    let mut head = vec![0; 4096];
    head[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(detect_foreign(&head, &[], DEVICE_BYTES), None);
    head[446 + 4] = 0x83;
    head[446 + 12] = 1;
    assert!(detect_foreign(&head, &[], DEVICE_BYTES).is_some_and(|found| found.contains("MBR")));
}

#[test]
fn names_are_of_few_letters() {
    assert_eq!(Label::new("a.B_9-").unwrap().as_str(), "a.B_9-");
    assert_eq!(Label::new("").unwrap(), Label::EMPTY);
    assert_eq!(Label::new(&"x".repeat(64)).unwrap().as_str().len(), 64);
    for text in [&"x".repeat(65), "a b", "a/b", "\u{e4}", "a\0", "\x1b[2J"] {
        assert!(Label::new(text).is_err(), "{text:?}");
    }
}

// The document.

/// The drawing of a structure, eight bytes wide.
fn drawing(fields: &[Field]) -> String {
    let rule = format!("       +{}\n", "--------+".repeat(8));
    let mut text =
        format!("        0        1        2        3        4        5        6        7\n{rule}");
    for field in fields {
        let row = field.offset % 8;
        if row == 0 {
            text += &format!("{:>6} |", field.offset);
        }
        let name = if field.bytes > 8 {
            format!("{} ({} bytes)", field.name, field.bytes)
        } else {
            field.name.into()
        };
        text += &format!("{name:^width$}|", width = field.bytes.min(8) * 9 - 1);
        if row + field.bytes >= 8 {
            text += &format!("\n{rule}");
        }
    }
    text
}

#[test]
fn the_document_draws_what_the_code_has() {
    let document = include_str!("../../../docs/format.md");
    for (fields, bytes) in [
        (superblock::FIELDS, 4096),
        (superblock::SLOT_FIELDS, 48),
        (bitmap_block::FIELDS, 4096),
        (lost_rows::FIELDS, 64),
        (lost_rows::RANGE_FIELDS, 24),
    ] {
        let mut end = 0;
        for field in fields {
            assert_eq!(field.offset, end, "{} follows the field before", field.name);
            end += field.bytes;
        }
        assert_eq!(end, bytes);
        let drawing = drawing(fields);
        assert!(document.contains(&drawing), "docs/format.md lacks this drawing:\n{drawing}");
    }
    for cell in [bitmap::Cell::Unwritten, bitmap::Cell::Clean, bitmap::Cell::Dirty, bitmap::Cell::NeedSync] {
        let row = format!("| {} | {cell:?} |", cell.disk_code());
        assert!(document.contains(&row), "docs/format.md lacks {row}");
    }
}

/// Older programs clear the bit of this feature, and may then leave a place of a block unwritten.
#[test]
fn both_places_written_is_a_compat_feature() {
    let mut superblock = sample(1);
    assert_eq!(encode(&superblock, Copy::A)[40..48], [0; 8]);
    superblock.record.both_places = true;
    let block = encode(&superblock, Copy::A);
    assert_eq!(block[40..48], COMPAT_BOTH_PLACES.to_le_bytes());
    assert_eq!(decode(&block, Copy::A), Ok(superblock));
}

/// Older programs clear the bit of this feature, and may then take a member without wiping it.
#[test]
fn wiped_members_are_a_compat_feature() {
    let mut superblock = sample(1);
    superblock.record.wiped = true;
    let block = encode(&superblock, Copy::A);
    assert_eq!(block[40..48], COMPAT_WIPED.to_le_bytes());
    assert_eq!(decode(&block, Copy::A), Ok(superblock));
}

/// A superblock with a list of lost rows sets a bit that makes older programs refuse it; other superblocks do
/// not.
#[test]
fn a_list_of_lost_rows_is_an_incompat_feature() {
    let mut superblock = sample(1);
    assert_eq!(encode(&superblock, Copy::A)[24..32], [0; 8]);
    superblock.record.lost_rows = true;
    let block = encode(&superblock, Copy::A);
    assert_eq!(block[24..32], 1u64.to_le_bytes());
    assert_eq!(decode(&block, Copy::A), Ok(superblock));
}
