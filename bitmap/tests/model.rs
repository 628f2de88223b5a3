//! The bitmap against a naive model: random verbs, one thread. Oracle: a `Vec<Cell>` for RAM and one for the
//! disk, changed by [`stripe_bitmap::next`] one cell at a time, and rules written from the crate's page.
//! After every verb all cells, counts and scans agree, and cells that claim durability are Dirty or NeedSync
//! on the model's disk.

#![cfg(not(loom))]

use proptest::prelude::*;
use stripe_bitmap::{
    Begun, Bitmap, BlockIndex, BlockWrite, CELL_BYTES_PER_BLOCK, Cell, CellCountsRaw, Event, LoadMode,
    Looked, STRIPES_PER_BLOCK, STRIPES_PER_REGION, StripeLocks, Sweeper, Ticket, WIDEN_AFTER_MARKS, next,
};

/// Two blocks; the second is partial, and so are its last region and word.
const STRIPES: u64 = STRIPES_PER_BLOCK + 75;
const BLOCKS: usize = 2;

#[derive(Clone, Debug)]
enum Verb {
    BeginWrite(u64),
    WrittenFirst(u64),
    Resynced(u64),
    Torn(u64),
    Discard(u64),
    BeginBlockWrite(u32),
    FinishBlockWrite(u32),
    AbortBlockWrite(u32),
    Own(u64),
    Release(u64),
    Look(u32),
    Sweep(u32),
    Age(u32),
    Reload(LoadMode),
    LoseBlock(u32),
}

/// Picks stripes near every boundary, a few of them so often that verbs meet at one stripe.
fn stripe() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 15, 16, 31, 32, 33, 63, 64, STRIPES_PER_BLOCK - 1, STRIPES_PER_BLOCK, STRIPES - 1];
    prop_oneof![
        4 => proptest::sample::select(edges.to_vec()),
        2 => STRIPES_PER_BLOCK - 40..STRIPES,
        1 => 0..STRIPES,
    ]
}

fn verb() -> impl Strategy<Value = Verb> {
    let block = || 0..BLOCKS as u32;
    prop_oneof![
        6 => stripe().prop_map(Verb::BeginWrite),
        3 => stripe().prop_map(Verb::WrittenFirst),
        2 => stripe().prop_map(Verb::Resynced),
        1 => stripe().prop_map(Verb::Torn),
        2 => stripe().prop_map(Verb::Discard),
        5 => block().prop_map(Verb::BeginBlockWrite),
        5 => block().prop_map(Verb::FinishBlockWrite),
        1 => block().prop_map(Verb::AbortBlockWrite),
        2 => stripe().prop_map(Verb::Own),
        2 => stripe().prop_map(Verb::Release),
        3 => block().prop_map(Verb::Look),
        3 => block().prop_map(Verb::Sweep),
        3 => block().prop_map(Verb::Age),
        1 => prop_oneof![Just(LoadMode::Clean), Just(LoadMode::Unclean)].prop_map(Verb::Reload),
        1 => block().prop_map(Verb::LoseBlock),
    ]
}

/// The model's state of a block.
#[derive(Clone, Debug, Default)]
struct Block {
    marks: u32,
    generation: u64,
    durable: u64,
    is_behind: bool,
    passes: u32,
    snapshot: Option<Vec<u8>>,
    tickets: Vec<Ticket>,
}

struct Pair {
    bitmap: Bitmap,
    locks: StripeLocks,
    sweeper: Sweeper,
    writes: [Option<(BlockWrite, Box<[u8; CELL_BYTES_PER_BLOCK]>)>; BLOCKS],
    looks: [Option<(Looked, u32)>; BLOCKS],
    /// The image that is on all copies.
    images: [Box<[u8; CELL_BYTES_PER_BLOCK]>; BLOCKS],

    cells: Vec<Cell>,
    disk: Vec<u8>,
    blocks: [Block; BLOCKS],
    owned: Vec<u64>,
}

fn range_of(block: usize) -> std::ops::Range<usize> {
    let start = block * STRIPES_PER_BLOCK as usize;
    start..(start + STRIPES_PER_BLOCK as usize).min(STRIPES as usize)
}

impl Pair {
    fn new(initial: Cell) -> Pair {
        let bitmap = Bitmap::new(STRIPES, initial);
        let mut pair = Pair {
            locks: StripeLocks::new(),
            sweeper: bitmap.sweeper(),
            bitmap,
            writes: [None, None],
            looks: [None, None],
            images: std::array::from_fn(|_| Box::new([0; CELL_BYTES_PER_BLOCK])),
            cells: vec![initial; STRIPES as usize],
            disk: vec![initial.disk_code(); STRIPES as usize],
            blocks: Default::default(),
            owned: Vec::new(),
        };
        for block in 0..BLOCKS as u32 {
            pair.run(Verb::BeginBlockWrite(block));
            pair.run(Verb::FinishBlockWrite(block));
        }
        pair
    }

    fn move_cell(&mut self, stripe: usize, event: Event) {
        self.cells[stripe] = next(self.cells[stripe], event).expect("the model asks only for what can come");
    }

    /// The cells of a range that are in one state, found in the model's own, slow way.
    fn in_state(&self, range: std::ops::Range<usize>, state: Cell) -> Vec<usize> {
        range.filter(|stripe| self.cells[*stripe] == state).collect()
    }

    fn run(&mut self, verb: Verb) {
        match verb {
            Verb::BeginWrite(stripe) => self.begin_write(stripe),
            Verb::WrittenFirst(stripe) => {
                if self.cells[stripe as usize] == Cell::Unwritten {
                    self.bitmap.written_first(stripe);
                    self.change(stripe, Event::WrittenFirst);
                }
            }
            Verb::Resynced(stripe) => {
                if self.cells[stripe as usize] == Cell::NeedSync {
                    self.bitmap.resynced(stripe);
                    self.change(stripe, Event::Resynced);
                }
            }
            Verb::Torn(stripe) => {
                if matches!(self.cells[stripe as usize], Cell::Dirty | Cell::Aged | Cell::NeedSync) {
                    self.bitmap.torn(stripe);
                    self.change(stripe, Event::Torn);
                }
            }
            Verb::Discard(stripe) => {
                if self.cells[stripe as usize] != Cell::First {
                    let ticket = self.bitmap.discard(stripe);
                    self.change(stripe, Event::Discarded);
                    let block = &mut self.blocks[ticket.block.0 as usize];
                    assert_eq!(ticket.generation, block.generation + 1);
                    block.tickets.push(ticket);
                }
            }
            Verb::BeginBlockWrite(block) => self.begin_block_write(block as usize),
            Verb::FinishBlockWrite(block) => self.finish_block_write(block as usize),
            Verb::AbortBlockWrite(block) => {
                if let Some((write, _)) = self.writes[block as usize].take() {
                    self.bitmap.abort_block_write(write);
                    self.blocks[block as usize].is_behind = true;
                }
            }
            Verb::Own(stripe) => {
                if self.locks.try_own(StripeLocks::slot_of(stripe), 0).is_ok() {
                    self.owned.push(stripe);
                }
            }
            Verb::Release(near) => {
                if !self.owned.is_empty() {
                    let stripe = self.owned.swap_remove(near as usize % self.owned.len());
                    self.locks.release(StripeLocks::slot_of(stripe), 0);
                }
            }
            Verb::Look(block) => self.look(block as usize),
            Verb::Sweep(block) => self.sweep(block as usize),
            Verb::Age(block) => {
                let block = block as usize;
                let dirty = self.in_state(range_of(block), Cell::Dirty);
                let aged = self.bitmap.age_block(&mut self.sweeper, BlockIndex(block as u32));
                assert_eq!(aged as usize, dirty.len());
                dirty.into_iter().for_each(|stripe| self.move_cell(stripe, Event::Rested));
                self.blocks[block].passes += 1;
            }
            Verb::Reload(mode) => self.reload(mode),
            Verb::LoseBlock(block) => {
                if self.writes[block as usize].is_none() {
                    self.bitmap.load_stale(BlockIndex(block));
                    range_of(block as usize).for_each(|stripe| self.move_cell(stripe, Event::StaleCopy));
                    self.blocks[block as usize].is_behind = true;
                    // The caller writes the block before it admits any other verb.
                    self.run(Verb::BeginBlockWrite(block));
                    self.run(Verb::FinishBlockWrite(block));
                }
            }
        }
    }

    fn change(&mut self, stripe: u64, event: Event) {
        self.move_cell(stripe as usize, event);
        self.blocks[(stripe / STRIPES_PER_BLOCK) as usize].is_behind = true;
    }

    fn begin_write(&mut self, stripe: u64) {
        let cell = self.cells[stripe as usize];
        let block = (stripe / STRIPES_PER_BLOCK) as usize;
        let expected = match cell {
            Cell::First => return,
            Cell::Unwritten => Begun::Unwritten,
            Cell::NeedSync => Begun::NeedSync,
            Cell::Clean | Cell::Marked => Begun::Pending,
            Cell::Dirty | Cell::Aged => Begun::Durable,
        };
        assert_eq!(self.bitmap.begin_write(stripe), expected);
        if cell != Cell::Clean {
            return self.move_cell(stripe as usize, Event::BeginWrite);
        }
        let region = (stripe / STRIPES_PER_REGION * STRIPES_PER_REGION) as usize;
        let marked = match self.blocks[block].marks >= WIDEN_AFTER_MARKS {
            true => range_of(block),
            false => region..(region + STRIPES_PER_REGION as usize).min(STRIPES as usize),
        };
        for stripe in self.in_state(marked, Cell::Clean) {
            self.move_cell(stripe, Event::BeginWrite);
        }
        self.blocks[block].marks += 1;
        self.blocks[block].is_behind = true;
    }

    fn begin_block_write(&mut self, block: usize) {
        let mut image = Box::new([0xee; CELL_BYTES_PER_BLOCK]);
        let write = self.bitmap.try_begin_block_write(BlockIndex(block as u32), &mut image);
        assert_eq!(write.is_none(), self.writes[block].is_some());
        let Some(write) = write else { return };
        let model = &mut self.blocks[block];
        model.generation += 1;
        model.is_behind = false;
        assert_eq!(write.generation, model.generation);
        let snapshot: Vec<u8> = self.cells[range_of(block)].iter().map(|cell| cell.disk_code()).collect();
        for nth in 0..STRIPES_PER_BLOCK as usize {
            let expected = snapshot.get(nth).copied().unwrap_or(Cell::Unwritten.disk_code());
            assert_eq!(image[nth / 4] >> (nth % 4 * 2) & 3, expected, "cell {nth} of the image");
        }
        model.snapshot = Some(snapshot);
        self.writes[block] = Some((write, image));
    }

    fn finish_block_write(&mut self, block: usize) {
        let Some((write, image)) = self.writes[block].take() else { return };
        self.bitmap.finish_block_write(write, &image);
        let snapshot = self.blocks[block].snapshot.take().expect("a write has a snapshot");
        for (stripe, code) in range_of(block).zip(snapshot) {
            self.disk[stripe] = code;
            if code == Cell::Dirty.disk_code() && matches!(self.cells[stripe], Cell::Marked | Cell::First) {
                self.move_cell(stripe, Event::MarkDurable);
            }
        }
        self.images[block] = image;
        self.blocks[block].durable = self.blocks[block].generation;
    }

    fn look(&mut self, block: usize) {
        let looked = self.bitmap.sweep_look(&mut self.sweeper, BlockIndex(block as u32), &self.locks);
        let slots: Vec<u32> = self.owned.iter().map(|stripe| StripeLocks::slot_of(*stripe)).collect();
        let mut candidates = 0;
        for stripe in self.in_state(range_of(block), Cell::Aged) {
            match slots.contains(&StripeLocks::slot_of(stripe as u64)) {
                true => self.move_cell(stripe, Event::FoundBusy),
                false => candidates += 1,
            }
        }
        assert_eq!(looked.candidates, candidates);
        self.looks[block] = Some((looked, self.blocks[block].passes));
    }

    fn sweep(&mut self, block: usize) {
        let Some((looked, pass)) = self.looks[block].take() else { return };
        if pass != self.blocks[block].passes {
            return;
        }
        let aged = self.in_state(range_of(block), Cell::Aged);
        assert_eq!(self.bitmap.sweep_block(&mut self.sweeper, looked) as usize, aged.len());
        self.blocks[block].is_behind |= !aged.is_empty();
        aged.into_iter().for_each(|stripe| self.move_cell(stripe, Event::Swept));
        let regions = range_of(block).step_by(STRIPES_PER_REGION as usize);
        self.blocks[block].marks = regions
            .filter(|region| {
                let stripes = *region..(*region + STRIPES_PER_REGION as usize).min(STRIPES as usize);
                self.cells[stripes].iter().any(|cell| matches!(cell, Cell::Dirty | Cell::Marked))
            })
            .count() as u32;
    }

    /// Stops and starts: a new bitmap from the images on disk.
    fn reload(&mut self, mode: LoadMode) {
        if mode == LoadMode::Clean {
            for block in 0..BLOCKS as u32 {
                self.run(Verb::FinishBlockWrite(block));
                if self.bitmap.is_behind(BlockIndex(block)) {
                    self.run(Verb::BeginBlockWrite(block));
                    self.run(Verb::FinishBlockWrite(block));
                }
            }
        }
        let before = std::mem::take(&mut self.cells);
        let bitmap = Bitmap::new(STRIPES, Cell::Unwritten);
        for block in 0..BLOCKS {
            bitmap.load_block(BlockIndex(block as u32), &self.images[block], mode);
            bitmap.set_generation(BlockIndex(block as u32), self.blocks[block].generation);
        }
        self.sweeper = bitmap.sweeper();
        self.bitmap = bitmap;
        (self.writes, self.looks, self.owned) = ([None, None], [None, None], Vec::new());
        self.locks = StripeLocks::new();
        self.cells = self.disk.iter().map(|code| loaded(*code, mode)).collect();
        for (block, model) in self.blocks.iter_mut().enumerate() {
            let generation = model.generation;
            let is_behind = range_of(block).any(|stripe| self.cells[stripe].disk_code() != self.disk[stripe]);
            *model = Block { generation, durable: generation, is_behind, ..Block::default() };
        }
        for (stripe, (before, now)) in before.iter().zip(&self.cells).enumerate() {
            match mode {
                // A clean stop preserves everything that a reader, a writer or a resync depends on.
                LoadMode::Clean => assert_eq!(before.disk_code(), now.disk_code(), "stripe {stripe}"),
                // After an unclean stop, no parity is trusted that a write may have left behind.
                LoadMode::Unclean => assert!(
                    !matches!(before, Cell::Dirty | Cell::Aged | Cell::NeedSync) || *now == Cell::NeedSync,
                    "stripe {stripe} was {before:?} and is {now:?}"
                ),
            }
        }
    }

    fn agree(&self) {
        let mut counts = CellCountsRaw::default();
        for (stripe, cell) in self.cells.iter().enumerate() {
            assert_eq!(self.bitmap.cell(stripe as u64), *cell, "stripe {stripe}");
            match cell {
                Cell::Unwritten => counts.unwritten += 1,
                Cell::Clean => counts.clean += 1,
                Cell::NeedSync => counts.need_sync += 1,
                Cell::First | Cell::Marked | Cell::Dirty | Cell::Aged => counts.dirty += 1,
            }
            if self.bitmap.intent_is_durable(stripe as u64) {
                let pessimistic = [Cell::Dirty.disk_code(), Cell::NeedSync.disk_code()];
                assert!(
                    pessimistic.contains(&self.disk[stripe]),
                    "stripe {stripe} is {cell:?}, the disk is not"
                );
            }
        }
        assert_eq!(self.bitmap.count(), counts);
        assert_eq!(self.bitmap.need_sync(), counts.need_sync);
        for from in [0, 17, STRIPES_PER_BLOCK - 1, STRIPES_PER_BLOCK + 1, STRIPES - 1, STRIPES] {
            let first = |holds: fn(&Cell) -> bool| {
                (from..STRIPES).find(|stripe| holds(&self.cells[*stripe as usize]))
            };
            let need_sync = first(|cell| *cell == Cell::NeedSync);
            assert_eq!(self.bitmap.next_need_sync(from), need_sync);
            for end in [from, from + 1, from + 5, from + 40].map(|end| end.min(STRIPES)) {
                let before = need_sync.filter(|&stripe| stripe < end);
                assert_eq!(self.bitmap.next_need_sync_before(from, end), before);
            }
            assert_eq!(self.bitmap.next_written(from), first(|cell| *cell != Cell::Unwritten));
        }
        for (nth, block) in self.blocks.iter().enumerate() {
            let index = BlockIndex(nth as u32);
            assert_eq!(self.bitmap.is_behind(index), block.is_behind);
            assert_eq!(self.bitmap.is_writing(index), self.writes[nth].is_some());
            assert_eq!(self.bitmap.generation(index), block.generation);
            let has_dirty =
                self.cells[range_of(nth)].iter().any(|cell| cell.disk_code() == Cell::Dirty.disk_code());
            assert_eq!(self.bitmap.has_dirty(index), has_dirty);
            for ticket in &block.tickets {
                assert_eq!(self.bitmap.is_durable(*ticket), ticket.generation <= block.durable);
            }
        }
    }
}

fn loaded(code: u8, mode: LoadMode) -> Cell {
    let cells = [Cell::Unwritten, Cell::Clean, Cell::Dirty, Cell::NeedSync];
    let cell = cells.into_iter().find(|cell| cell.disk_code() == code).expect("two bits are a cell");
    match mode {
        LoadMode::Clean => cell,
        LoadMode::Unclean => next(cell, Event::UncleanLoad).expect("any cell may be loaded"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_bitmap_is_a_vector_of_cells(
        initial in proptest::sample::select(vec![Cell::Unwritten, Cell::Clean, Cell::NeedSync]),
        verbs in proptest::collection::vec(verb(), 1..120),
    ) {
        let mut pair = Pair::new(initial);
        for verb in verbs {
            pair.run(verb);
            pair.agree();
        }
    }
}
