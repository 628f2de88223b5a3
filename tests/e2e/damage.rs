//! Damage on the members: superblocks and bitmap blocks that are torn, full of noise, or of a future version.
//!
//! Method: an array is made, written and stopped; bytes of its metadata are overwritten at the places that
//! docs/format.md gives. They are repeated here as numbers, and the checksum is computed by a few lines of
//! our own, because the test checks the document, not the encoder. Oracle: metadata that cannot be understood
//! is refused, with the member named and nothing changed; damage that can be survived is survived, with the
//! content as before and a clean scrub after the resync.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engine::status::Health;

use crate::content::{assert_same, fingerprint, pattern};
use crate::lab::{Array, Lab, Shape, overwrite};

const BLOCK_BYTES: usize = 4096;
const SUPERBLOCK_A: u64 = 4 << 10;
const SUPERBLOCK_B: u64 = 64 << 10;
const BITMAP: u64 = 128 << 10;
/// Two places for each block, which its generations use in turn.
const BITMAP_PLACES_BYTES: usize = 2 * BLOCK_BYTES;
/// In both structures: magic at 0, version at 8, crc32c at 12 (over the block, with these four bytes as
/// zero).
const VERSION_AT: usize = 8;
const CRC_AT: usize = 12;
const INCOMPAT_AT: usize = 24;
const RO_COMPAT_AT: usize = 32;
const COMPAT_AT: usize = 40;

const SHAPE: Shape = Shape { members: 4, member_mib: 24, noise: true, ..Shape::RAID5 };
const WRITTEN_BYTES: usize = 8 << 20;

/// A stopped array with content.
fn written(lab: &Lab) -> Array<'_> {
    let array = lab.create("hurt", SHAPE);
    let server = array.serve(&[]);
    server.connect().write(0, &pattern(4, 0, WRITTEN_BYTES));
    server.stop();
    array
}

#[track_caller]
fn content_is_there(array: &Array, options: &[&str], health: Health, when: &str) {
    let server = array.serve(options);
    let found = server.connect().read(0, WRITTEN_BYTES);
    assert_same(when, 0, &found, &pattern(4, 0, WRITTEN_BYTES));
    assert_eq!(server.status().health, health, "{when}");
    server.stop();
}

#[track_caller]
fn is_refused(array: &Array, wrong: &Path, when: &str) {
    let before: Vec<u64> = array.members.iter().map(|member| fingerprint(member)).collect();
    let mut args = vec!["serve".to_string()];
    args.extend(array.members.iter().map(|member| member.to_string_lossy().into_owned()));
    args.extend(["--nbd".to_string(), format!("unix:{}", array.lab.path("hurt.sock").display())]);
    let stderr = array.lab.striate_refuses(&args);
    assert!(
        stderr.contains(wrong.to_str().expect("UTF-8")),
        "{when}: does not name {}: {stderr}",
        wrong.display()
    );
    let after: Vec<u64> = array.members.iter().map(|member| fingerprint(member)).collect();
    assert_eq!(after, before, "{when}: a refused server has changed a member");
}

fn block(path: &Path, offset: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    File::open(path).and_then(|file| file.read_exact_at(&mut block, offset)).expect("a member");
    block
}

/// Changes bytes of a metadata block and repairs its checksum.
fn patch(path: &Path, offset: u64, at: usize, bytes: &[u8]) {
    let mut block = block(path, offset);
    assert_eq!(
        block[CRC_AT..CRC_AT + 4],
        crc_of(&block).to_le_bytes(),
        "docs/format.md says where the checksum is"
    );
    block[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc_of(&block);
    block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    overwrite(path, offset, &block);
}

fn crc_of(block: &[u8]) -> u32 {
    let mut zeroed = block.to_vec();
    zeroed[CRC_AT..CRC_AT + 4].fill(0);
    crc32c(&zeroed)
}

/// Checksum by Castagnoli's polynomial, reflected, a bit at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc));
    !bytes.iter().fold(!0, byte)
}

#[test]
fn our_checksum_is_crc32c() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

/// The copy with the higher sequence number.
fn newest_copy(path: &Path) -> u64 {
    let sequence = |offset| u64::from_le_bytes(block(path, offset)[16..24].try_into().expect("eight bytes"));
    if sequence(SUPERBLOCK_A) > sequence(SUPERBLOCK_B) { SUPERBLOCK_A } else { SUPERBLOCK_B }
}

/// A way to damage a superblock copy.
type Hurt = fn(&Path, u64);
const HURTS: &[(&str, Hurt)] = &[
    ("noise", |path, at| overwrite(path, at, &pattern(77, 0, BLOCK_BYTES))),
    ("zeros", |path, at| overwrite(path, at, &[0; BLOCK_BYTES])),
    ("torn", |path, at| overwrite(path, at + 512, &pattern(78, 0, BLOCK_BYTES - 512))),
    ("one bit", |path, at| {
        let byte = block(path, at)[200] ^ 4;
        overwrite(path, at + 200, &[byte]);
    }),
];

/// Number of members for which the starts so far have reported a damaged superblock copy.
fn reports_of_damage(array: &Array) -> usize {
    let log = std::fs::read_to_string(array.lab.path("hurt.log")).expect("a log");
    log.lines().filter(|line| line.contains("one of its two superblocks was damaged")).count()
}

#[test]
fn one_bad_copy_of_a_superblock_costs_nothing() {
    for (hurt, how) in HURTS {
        for newest in [true, false] {
            let lab = Lab::new();
            let array = written(&lab);
            for member in &array.members {
                let copy = newest_copy(member);
                how(member, if newest { copy } else { SUPERBLOCK_A + SUPERBLOCK_B - copy });
            }
            let when = format!("{hurt}, the newest: {newest}");
            content_is_there(&array, &[], Health::Optimal, &when);
            // Each damaged copy is reported and repaired, so a second start has nothing to report.
            assert_eq!(reports_of_damage(&array), array.members.len(), "{when}");
            content_is_there(&array, &[], Health::Optimal, &when);
            assert_eq!(reports_of_damage(&array), array.members.len(), "{when}, at the second start");
        }
    }
}

#[test]
fn two_bad_copies_of_a_superblock_are_no_member() {
    for (hurt, how) in HURTS {
        let lab = Lab::new();
        let array = written(&lab);
        how(&array.members[2], SUPERBLOCK_A);
        how(&array.members[2], SUPERBLOCK_B);
        is_refused(&array, &array.members[2], hurt);
        // If it is left out, it is a missing member like any other.
        let mut others = array.members.clone();
        others.remove(2);
        let array = Array { members: others, ..array };
        content_is_there(&array, &[], Health::NoRedundancy, &format!("{hurt}, left out"));
    }
}

#[test]
fn what_the_future_wrote_is_left_alone() {
    for (what, at, bytes) in [
        ("a version", VERSION_AT, &2_u32.to_le_bytes()[..]),
        ("an incompatible feature", INCOMPAT_AT, &(1_u64 << 63).to_le_bytes()[..]),
    ] {
        let lab = Lab::new();
        let array = written(&lab);
        for copy in [SUPERBLOCK_A, SUPERBLOCK_B] {
            patch(&array.members[1], copy, at, bytes);
        }
        is_refused(&array, &array.members[1], what);
        for member in &array.members {
            for copy in [SUPERBLOCK_A, SUPERBLOCK_B] {
                patch(member, copy, at, bytes);
            }
        }
        is_refused(&array, &array.members[0], &format!("{what} on all members"));
    }
}

#[test]
fn what_the_future_made_optional_is_respected() {
    let lab = Lab::new();
    let array = written(&lab);
    for member in &array.members {
        for copy in [SUPERBLOCK_A, SUPERBLOCK_B] {
            patch(member, copy, COMPAT_AT, &1_u64.to_le_bytes());
        }
    }
    content_is_there(&array, &["--read-only"], Health::Optimal, "an unknown compatible feature");
    for member in &array.members {
        for copy in [SUPERBLOCK_A, SUPERBLOCK_B] {
            patch(member, copy, RO_COMPAT_AT, &1_u64.to_le_bytes());
        }
    }
    let before: Vec<u64> = array.members.iter().map(|member| fingerprint(member)).collect();
    content_is_there(&array, &["--read-only"], Health::Optimal, "an unknown feature that allows reading");
    let after: Vec<u64> = array.members.iter().map(|member| fingerprint(member)).collect();
    assert_eq!(after, before, "read only");
}

#[test]
fn one_good_copy_of_a_bitmap_block_is_enough() {
    let lab = Lab::new();
    let array = written(&lab);
    // Slots 0 and 1 of a RAID-5 keep block 0.
    overwrite(&array.members[0], BITMAP, &pattern(5, 0, BITMAP_PLACES_BYTES));
    content_is_there(&array, &[], Health::Optimal, "one bad bitmap copy");
    array.scrub_is_clean("one bad bitmap copy");
}

#[test]
fn a_lost_bitmap_block_is_resynced() {
    for (what, bytes) in
        [("noise", pattern(5, 0, BITMAP_PLACES_BYTES)), ("zeros", vec![0; BITMAP_PLACES_BYTES])]
    {
        let lab = Lab::new();
        let array = written(&lab);
        // Everything unwritten holds noise with parity that does not match: only a resync of all stripes can
        // repair that.
        for member in &array.members {
            overwrite(member, BITMAP, &bytes);
        }
        let server = array.serve(&[]);
        let found = server.connect().read(0, WRITTEN_BYTES);
        assert_same(&format!("{what} for a bitmap"), 0, &found, &pattern(4, 0, WRITTEN_BYTES));
        server.wait();
        let cells = server.status().cells;
        assert_eq!(
            (cells.need_sync, cells.unwritten),
            (0, 0),
            "{what}: all cells are resynced, Unwritten included"
        );
        let whole = server.connect().read(0, server.status().size_bytes as usize);
        server.fail(1);
        let degraded = server.connect().read(0, whole.len());
        assert_same(&format!("{what}: parity after the resync"), 0, &degraded, &whole);
        server.stop();
    }
}
