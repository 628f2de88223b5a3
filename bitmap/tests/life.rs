//! The life of cells through the public interface, one story per test, single-threaded. Oracle: the state
//! that DESIGN and the crate's page name, cell by cell.

#![cfg(not(loom))]

use stripe_bitmap::{
    Begun, Bitmap, BlockIndex, CELL_BYTES_PER_BLOCK, Cell, CellCountsRaw, LoadMode, STRIPES_PER_BLOCK,
    STRIPES_PER_REGION, StripeLocks, WIDEN_AFTER_MARKS,
};

type Image = [u8; CELL_BYTES_PER_BLOCK];
const FIRST_BLOCK: BlockIndex = BlockIndex(0);

fn write_block(bitmap: &Bitmap, block: BlockIndex) -> Image {
    let mut image = [0; CELL_BYTES_PER_BLOCK];
    let write = bitmap.try_begin_block_write(block, &mut image).expect("no write of the block is in flight");
    bitmap.finish_block_write(write, &image);
    image
}

fn on_disk(image: &Image, nth: usize) -> u8 {
    image[nth / 4] >> (nth % 4 * 2) & 3
}

fn cells(bitmap: &Bitmap) -> Vec<Cell> {
    (0..bitmap.len()).map(|stripe| bitmap.cell(stripe)).collect()
}

/// Creates a bitmap of one region in which one stripe is in the given state.
fn with_cell(state: Cell) -> Bitmap {
    let initial = match state {
        Cell::Unwritten | Cell::First => Cell::Unwritten,
        Cell::NeedSync => Cell::NeedSync,
        Cell::Clean | Cell::Marked | Cell::Dirty | Cell::Aged => Cell::Clean,
    };
    let bitmap = Bitmap::new(STRIPES_PER_REGION, initial);
    match state {
        Cell::Unwritten | Cell::NeedSync | Cell::Clean => {}
        Cell::First => bitmap.written_first(0),
        Cell::Marked | Cell::Dirty | Cell::Aged => assert_eq!(bitmap.begin_write(0), Begun::Pending),
    }
    if matches!(state, Cell::Dirty | Cell::Aged) {
        write_block(&bitmap, FIRST_BLOCK);
    }
    if state == Cell::Aged {
        assert_eq!(bitmap.age_block(&mut bitmap.sweeper(), FIRST_BLOCK), 32);
    }
    assert_eq!(bitmap.cell(0), state);
    bitmap
}

#[test]
fn begin_write_in_every_state() {
    for (before, begun, after) in [
        (Cell::Unwritten, Begun::Unwritten, Cell::Unwritten),
        (Cell::Clean, Begun::Pending, Cell::Marked),
        (Cell::Marked, Begun::Pending, Cell::Marked),
        (Cell::Dirty, Begun::Durable, Cell::Dirty),
        (Cell::Aged, Begun::Durable, Cell::Dirty),
        (Cell::NeedSync, Begun::NeedSync, Cell::NeedSync),
    ] {
        let bitmap = with_cell(before);
        assert_eq!(bitmap.begin_write(0), begun, "{before:?}");
        assert_eq!(bitmap.cell(0), after, "{before:?}");
    }
}

#[test]
#[should_panic(expected = "a second writer")]
fn begin_write_during_the_first() {
    let _ = with_cell(Cell::First).begin_write(0);
}

#[test]
fn block_write_makes_marks_durable() {
    for (before, after) in [
        (Cell::Unwritten, Cell::Unwritten),
        (Cell::First, Cell::Dirty),
        (Cell::Clean, Cell::Clean),
        (Cell::Marked, Cell::Dirty),
        (Cell::Dirty, Cell::Dirty),
        (Cell::Aged, Cell::Aged),
        (Cell::NeedSync, Cell::NeedSync),
    ] {
        let bitmap = with_cell(before);
        let image = write_block(&bitmap, FIRST_BLOCK);
        assert_eq!(on_disk(&image, 0), before.disk_code());
        assert_eq!(bitmap.cell(0), after, "{before:?}");
        assert_eq!(bitmap.intent_is_durable(0), matches!(after, Cell::Dirty | Cell::Aged));
    }
}

#[test]
fn discard_in_every_state() {
    for before in Cell::ALL.into_iter().filter(|cell| *cell != Cell::First) {
        let bitmap = with_cell(before);
        let ticket = bitmap.discard(0);
        assert_eq!(bitmap.cell(0), Cell::Unwritten, "{before:?}");
        assert!(!bitmap.is_durable(ticket) && bitmap.is_behind(FIRST_BLOCK));
        assert_eq!(on_disk(&write_block(&bitmap, FIRST_BLOCK), 0), Cell::Unwritten.disk_code());
        assert!(bitmap.is_durable(ticket) && !bitmap.is_behind(FIRST_BLOCK));
    }
}

#[test]
#[should_panic(expected = "Discarded of stripe 0")]
fn discard_during_the_first_write() {
    let _ = with_cell(Cell::First).discard(0);
}

#[test]
fn only_need_sync_is_resynced() {
    for before in Cell::ALL {
        let outcome = std::panic::catch_unwind(|| {
            let bitmap = with_cell(before);
            bitmap.resynced(0);
            bitmap.cell(0)
        });
        assert_eq!(outcome.ok(), (before == Cell::NeedSync).then_some(Cell::Dirty), "{before:?}");
    }
}

#[test]
fn only_unwritten_is_written_first() {
    for before in Cell::ALL {
        let outcome = std::panic::catch_unwind(|| {
            let bitmap = with_cell(before);
            bitmap.written_first(0);
            bitmap.cell(0)
        });
        assert_eq!(outcome.ok(), (before == Cell::Unwritten).then_some(Cell::First), "{before:?}");
    }
}

#[test]
fn load_in_every_state_and_mode() {
    for before in Cell::ALL {
        let mut image = [0; CELL_BYTES_PER_BLOCK];
        let _ = with_cell(before).try_begin_block_write(FIRST_BLOCK, &mut image);
        let dirty = before.disk_code() == Cell::Dirty.disk_code();
        for (mode, after) in [
            (LoadMode::Clean, if dirty { Cell::Dirty } else { before }),
            (LoadMode::Unclean, if dirty { Cell::NeedSync } else { before }),
        ] {
            let bitmap = Bitmap::new(STRIPES_PER_REGION, Cell::Unwritten);
            bitmap.load_block(FIRST_BLOCK, &image, mode);
            assert_eq!(bitmap.cell(0), after, "{before:?} {mode:?}");
            // After an unclean load, RAM says NeedSync where the disk still says Dirty: a clean stop must
            // write that.
            assert_eq!(
                bitmap.is_behind(FIRST_BLOCK),
                mode == LoadMode::Unclean && dirty,
                "{before:?} {mode:?}"
            );
        }
    }
}

#[test]
fn stale_blocks_need_sync_and_no_more() {
    let bitmap = Bitmap::new(STRIPES_PER_BLOCK + 20, Cell::Unwritten);
    bitmap.load_stale(BlockIndex(1));
    assert_eq!(
        bitmap.count(),
        CellCountsRaw { unwritten: STRIPES_PER_BLOCK, need_sync: 20, ..Default::default() }
    );
    assert_eq!(bitmap.next_need_sync(0), Some(STRIPES_PER_BLOCK));
    assert!(bitmap.is_behind(BlockIndex(1)) && !bitmap.is_behind(FIRST_BLOCK));
    let image = write_block(&bitmap, BlockIndex(1));
    assert_eq!(image[..5], [0, 0, 0, 0, 0], "twenty cells of NeedSync");
    assert!(image[5..].iter().all(|byte| *byte == 0b0101_0101), "and Unwritten to the end");
}

#[test]
fn bytes_beyond_the_end_are_not_believed() {
    let bitmap = Bitmap::new(17, Cell::Unwritten);
    for byte in [0x00, 0xff, 0xaa, 0x1b] {
        for mode in [LoadMode::Clean, LoadMode::Unclean] {
            bitmap.load_block(FIRST_BLOCK, &[byte; CELL_BYTES_PER_BLOCK], mode);
            let counts = bitmap.count();
            assert_eq!(counts.unwritten + counts.clean + counts.dirty + counts.need_sync, 17);
            assert_eq!(bitmap.next_need_sync(17).or(bitmap.next_written(17)), None);
            let image = write_block(&bitmap, FIRST_BLOCK);
            assert_eq!(image[4] & !3, 0b0101_0100, "cell 16, then Unwritten");
            assert!(image[5..].iter().all(|byte| *byte == 0b0101_0101));
        }
    }
}

#[test]
fn a_mark_takes_the_clean_cells_of_its_region() {
    let bitmap = Bitmap::new(3 * STRIPES_PER_REGION, Cell::Clean);
    let _ = bitmap.discard(40);
    assert_eq!(bitmap.begin_write(45), Begun::Pending);
    for (stripe, cell) in cells(&bitmap).into_iter().enumerate() {
        let expected = match stripe {
            40 => Cell::Unwritten,
            32..64 => Cell::Marked,
            _ => Cell::Clean,
        };
        assert_eq!(cell, expected, "{stripe}");
    }
}

#[test]
fn scattered_marks_widen_to_the_block_and_quiet_narrows() {
    let bitmap = Bitmap::new(2 * STRIPES_PER_BLOCK, Cell::Clean);
    let (mut sweeper, locks) = (bitmap.sweeper(), StripeLocks::new());
    for region in 0..=u64::from(WIDEN_AFTER_MARKS) {
        let dirty = if region < u64::from(WIDEN_AFTER_MARKS) { (region + 1) * 32 } else { STRIPES_PER_BLOCK };
        assert_eq!(bitmap.begin_write(region * 10 * STRIPES_PER_REGION), Begun::Pending);
        assert_eq!(bitmap.count().dirty, dirty, "the other block keeps out");
        write_block(&bitmap, FIRST_BLOCK);
    }
    let mut pass = || {
        let looked = bitmap.sweep_look(&mut sweeper, FIRST_BLOCK, &locks);
        let swept = bitmap.sweep_block(&mut sweeper, looked);
        (swept, bitmap.age_block(&mut sweeper, FIRST_BLOCK))
    };
    assert_eq!(pass(), (0, STRIPES_PER_BLOCK as u32));
    // Eight regions were written since: the load is still random, and one mark takes everything that was
    // swept.
    (0..8).for_each(|region| assert_eq!(bitmap.begin_write(region * 32), Begun::Durable));
    assert_eq!(pass(), (STRIPES_PER_BLOCK as u32 - 8, 8));
    assert_eq!(bitmap.begin_write(9), Begun::Pending);
    assert_eq!(bitmap.count().dirty, STRIPES_PER_BLOCK);
    write_block(&bitmap, FIRST_BLOCK);
    // No write for two passes: all cells are Clean, and the next mark is one region.
    pass();
    pass();
    assert_eq!(bitmap.count().dirty, 0);
    assert_eq!(bitmap.begin_write(9), Begun::Pending);
    assert_eq!(bitmap.count().dirty, 32);
}

#[test]
fn a_second_writer_waits_for_the_write_that_began_after_the_mark() {
    let bitmap = Bitmap::new(64, Cell::Clean);
    let mut early = [0; CELL_BYTES_PER_BLOCK];
    let write = bitmap.try_begin_block_write(FIRST_BLOCK, &mut early).unwrap();
    assert!(bitmap.is_writing(FIRST_BLOCK));
    assert_eq!(bitmap.begin_write(3), Begun::Pending);
    assert_eq!(bitmap.begin_write(3), Begun::Pending);
    assert!(bitmap.try_begin_block_write(FIRST_BLOCK, &mut [0; CELL_BYTES_PER_BLOCK]).is_none());
    bitmap.finish_block_write(write, &early);
    assert_eq!(bitmap.begin_write(3), Begun::Pending, "that write said Clean");
    assert!(bitmap.is_behind(FIRST_BLOCK));
    write_block(&bitmap, FIRST_BLOCK);
    assert_eq!(bitmap.begin_write(3), Begun::Durable);
}

#[test]
fn an_aborted_write_promises_nothing_and_uses_its_generation() {
    let bitmap = Bitmap::new(64, Cell::Clean);
    bitmap.set_generation(FIRST_BLOCK, 41);
    let ticket = bitmap.discard(63);
    assert_eq!(bitmap.begin_write(0), Begun::Pending);
    let mut image = [0; CELL_BYTES_PER_BLOCK];
    let write = bitmap.try_begin_block_write(FIRST_BLOCK, &mut image).unwrap();
    assert_eq!(write.generation, 42);
    bitmap.abort_block_write(write);
    assert!(bitmap.is_behind(FIRST_BLOCK) && !bitmap.is_durable(ticket));
    assert_eq!(bitmap.cell(0), Cell::Marked);
    let write = bitmap.try_begin_block_write(FIRST_BLOCK, &mut image).unwrap();
    assert_eq!(write.generation, 43);
    bitmap.finish_block_write(write, &image);
    assert!(bitmap.is_durable(ticket));
    assert_eq!((bitmap.cell(0), bitmap.generation(FIRST_BLOCK)), (Cell::Dirty, 43));
}

#[test]
fn a_discard_waits_for_the_write_after_the_one_in_flight() {
    let bitmap = Bitmap::new(64, Cell::Clean);
    let mut image = [0; CELL_BYTES_PER_BLOCK];
    let write = bitmap.try_begin_block_write(FIRST_BLOCK, &mut image).unwrap();
    let ticket = bitmap.discard(5);
    bitmap.finish_block_write(write, &image);
    assert!(!bitmap.is_durable(ticket));
    write_block(&bitmap, FIRST_BLOCK);
    assert!(bitmap.is_durable(ticket));
}

/// A cell may be swept to Clean and marked again, or discarded and written anew, all under one block write
/// whose snapshot has it Dirty. At the finish the disk does say Dirty, so Dirty is right.
#[test]
fn finish_trusts_its_snapshot() {
    let bitmap = with_cell(Cell::Aged);
    let mut image = [0; CELL_BYTES_PER_BLOCK];
    let write = bitmap.try_begin_block_write(FIRST_BLOCK, &mut image).unwrap();
    let _ = bitmap.discard(1);
    bitmap.written_first(1);
    let _ = bitmap.discard(2);
    assert_eq!(bitmap.cell(1), Cell::First);
    bitmap.finish_block_write(write, &image);
    assert_eq!([0, 1, 2].map(|stripe| bitmap.cell(stripe)), [Cell::Aged, Cell::Dirty, Cell::Unwritten]);
    assert!(bitmap.is_behind(FIRST_BLOCK));
}

#[test]
fn the_sweep_passes_over_the_busy_and_the_rewritten() {
    let bitmap = with_cell(Cell::Dirty);
    let (mut sweeper, locks) = (bitmap.sweeper(), StripeLocks::new());
    assert_eq!(bitmap.age_block(&mut sweeper, FIRST_BLOCK), 32);
    locks.try_own(StripeLocks::slot_of(7), 0).unwrap();
    let looked = bitmap.sweep_look(&mut sweeper, FIRST_BLOCK, &locks);
    assert_eq!(looked.candidates, 31);
    locks.release(StripeLocks::slot_of(7), 0);
    assert_eq!(bitmap.begin_write(8), Begun::Durable);
    assert_eq!(bitmap.sweep_block(&mut sweeper, looked), 30);
    assert_eq!(cells(&bitmap).iter().filter(|cell| **cell == Cell::Dirty).count(), 2);
    assert!(bitmap.has_dirty(FIRST_BLOCK) && bitmap.is_behind(FIRST_BLOCK));
}

#[test]
#[should_panic(expected = "aged between look and sweep")]
fn a_look_does_not_outlive_an_ageing() {
    let bitmap = with_cell(Cell::Dirty);
    let (mut sweeper, locks) = (bitmap.sweeper(), StripeLocks::new());
    let looked = bitmap.sweep_look(&mut sweeper, FIRST_BLOCK, &locks);
    bitmap.age_block(&mut sweeper, FIRST_BLOCK);
    bitmap.sweep_block(&mut sweeper, looked);
}

#[test]
#[should_panic(expected = "one sweeper")]
fn there_is_one_sweeper() {
    let bitmap = with_cell(Cell::Clean);
    let (_one, _two) = (bitmap.sweeper(), bitmap.sweeper());
}

#[test]
#[should_panic(expected = "another block write")]
fn a_block_write_of_another_bitmap_does_not_finish_here() {
    let mut image = [0; CELL_BYTES_PER_BLOCK];
    let write = with_cell(Cell::Clean).try_begin_block_write(FIRST_BLOCK, &mut image).unwrap();
    with_cell(Cell::Clean).finish_block_write(write, &image);
}

#[test]
fn ranges_and_partial_words() {
    for stripes in
        [1, 15, 16, 17, 31, 32, 33, 1000, STRIPES_PER_BLOCK - 1, STRIPES_PER_BLOCK, STRIPES_PER_BLOCK + 1]
    {
        let fresh = Bitmap::new(stripes, Cell::Unwritten);
        assert_eq!((fresh.next_written(0), fresh.next_need_sync(0)), (None, None));
        assert_eq!(fresh.count(), CellCountsRaw { unwritten: stripes, ..Default::default() });
        fresh.written_first(stripes - 1);
        assert_eq!(fresh.next_written(0), Some(stripes - 1));
        assert_eq!(fresh.next_written(stripes - 1), Some(stripes - 1));
        assert_eq!(fresh.next_written(stripes), None);
        assert_eq!(u64::from(fresh.blocks()), stripes.div_ceil(STRIPES_PER_BLOCK));
        assert_eq!(fresh.block_of(stripes - 1), BlockIndex(fresh.blocks() - 1));

        let lost = Bitmap::new(stripes, Cell::NeedSync);
        assert_eq!(lost.count(), CellCountsRaw { need_sync: stripes, ..Default::default() });
        assert_eq!(lost.need_sync(), stripes);
        (0..stripes - 1).for_each(|stripe| lost.resynced(stripe));
        assert_eq!(lost.next_need_sync(0), Some(stripes - 1));
        lost.resynced(stripes - 1);
        assert_eq!(lost.next_need_sync(0), None);
        assert_eq!(lost.next_need_sync(u64::MAX), None);
        assert_eq!(lost.count(), CellCountsRaw { dirty: stripes, ..Default::default() });

        let clean = Bitmap::new(stripes, Cell::Clean);
        assert_eq!(clean.begin_write(stripes - 1), Begun::Pending);
        assert_eq!(clean.count().dirty, (stripes - 1) % STRIPES_PER_REGION + 1);
    }
}

#[test]
#[should_panic(expected = "stripe 17 of 17")]
fn no_cell_beyond_the_end() {
    let _ = Bitmap::new(17, Cell::Clean).cell(17);
}

#[test]
fn half_a_byte_a_stripe() {
    // 15.36 TB members in 64 KiB chunks, and a bitmap so small that its fixed costs show.
    for (stripes, bytes_max) in [(234_375_000, 234_375_000 * 51 / 100), (16, 256)] {
        let bytes = Bitmap::new(stripes, Cell::Unwritten).memory_bytes();
        assert!(bytes <= bytes_max, "{bytes} bytes for {stripes} stripes");
    }
}
