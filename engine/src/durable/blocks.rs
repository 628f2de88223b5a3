//! Writing bitmap blocks: how a mark becomes durable before the write that it announces.
//!
//! An operation that waits for a cell asks for the cell's block in each turn ([`BlockWrites::ask`]). At the
//! end of the turn each requested block is written on parities + 1 members, unless a write of that block is
//! in flight here or on another reactor. All requests made during a write of a block thus share its next
//! write. There are no wake-ups: waiters poll the cell, which is `Marked` until the mark is durable. Blocks
//! are written in the order of their first requests (see `wanted`).
//!
//! A copy that cannot be written fails its member, and the block counts as written only when the record
//! excludes that member. Otherwise a later start might believe that copy, which still says Clean.

use bitmap::{BlockIndex, BlockWrite};

use crate::format::bitmap_block::{self, Cells, Header};
use crate::geometry::{Geometry, Slots};
use crate::members::{Failure, Missed};
use crate::memory::{Pool, Span};
use crate::ring::{Durability, MemberIo, Ring};
use crate::shared::Shared;
use crate::sizes::Sizes;
use crate::slab::NONE;
use crate::turn::{Buffers, Holds, Io, IoFor, Turn};

use super::wanted::Wanted;

/// A block write of this reactor, or a free place for one.
struct Writing {
    write: Option<BlockWrite>,
    /// Snapshot of the cells, from which the bitmap learns what became durable.
    cells: Box<Cells>,
    /// The block as it is written. Empty when the kernel still holds the old span and no other was free.
    span: Span,
    /// The lot of `span` if parked I/Os hold the span, otherwise `NONE`.
    lot: u32,
    pending: u32,
    /// Members without a new copy: they were out of the view when the write began, or their write failed. The
    /// record must exclude them before the block counts as written.
    missed: Missed,
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Writing { write, cells, span: _, lot: _, pending, missed } = self;
        match write {
            None => f.write_str("-"),
            Some(write) => {
                let missed = missed.slots();
                write!(f, "{write:?} cells {:08x} {pending} {missed:?}", crc32c::crc32c(&cells[..]))
            }
        }
    }
}

/// The block writes of one reactor.
#[derive(Debug)]
pub(crate) struct BlockWrites {
    writing: Vec<Writing>,
    /// Number of entries of `writing` with a write.
    begun: usize,
    wanted: Wanted,
}

impl BlockWrites {
    /// Makes as many writes as `sizes` says, for an array of `blocks` bitmap blocks.
    pub(crate) fn new(pool: &mut Pool, sizes: &Sizes, blocks: u32) -> BlockWrites {
        let writing = |_| Writing {
            write: None,
            cells: Box::new([0; bitmap_block::CELL_BYTES]),
            span: pool
                .take(crate::limits::BLOCK_BYTES as u32)
                .expect("a fresh pool has room for the bitmap blocks"),
            lot: NONE,
            pending: 0,
            missed: Missed::NONE,
        };
        let writing = (0..sizes.block_writes).map(writing).collect();
        BlockWrites { writing, begun: 0, wanted: Wanted::new(blocks, sizes.ops) }
    }

    /// Whether everything here waits for completions only.
    pub(crate) fn settled(&self) -> bool {
        self.wanted.is_empty()
            && self.writing.iter().all(|writing| writing.write.is_none() || writing.pending > 0)
    }

    /// Keeps the span for a parked copy of this write.
    pub(crate) fn hold(&mut self, index: u32, buffers: &mut Buffers) -> Holds {
        let Writing { lot, span, .. } = &mut self.writing[index as usize];
        buffers.hold(lot, *span)
    }

    /// Whether no block is being written or waits to be.
    pub(crate) fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.begun == 0
    }

    /// Asks for a block to be written at the end of this turn, if there is room.
    pub(crate) fn ask(&mut self, block: BlockIndex) {
        self.wanted.ask(block);
    }

    /// Asks for another write of an unchanged block, so that both its places hold the same.
    pub(crate) fn repeat(&mut self, shared: &Shared, block: BlockIndex) {
        shared.bitmap.request_repeat(block);
        self.ask(block);
    }

    /// Finds a free entry for a block write, and memory for it.
    fn free_writing(&mut self, buffers: &mut Buffers) -> Option<usize> {
        let free = self.writing.iter().position(|writing| writing.write.is_none())?;
        let span = &mut self.writing[free].span;
        if *span == Span::EMPTY {
            *span = buffers.pool.take_kept_back(crate::limits::BLOCK_BYTES as u32)?;
        }
        Some(free)
    }

    /// Begins to write the requested blocks, oldest request first, while there is room.
    pub(crate) fn begin<R: Ring>(&mut self, turn: &mut Turn<'_, R>) {
        let shared = turn.shared;
        let mut nth = 0;
        while let Some(block) = self.wanted.get(nth) {
            let Some(free) = self.free_writing(turn.buffers) else {
                return;
            };
            let kept = copies(&shared.geometry, block);
            let (view, missed) = shared.members.missing_of(kept);
            let copies = kept.and(view.writable);
            if copies.is_empty() || !shared.bitmap.is_due(block) {
                // No member can take it, or a write that began after the request already covers it.
                self.wanted.take(nth);
                continue;
            }
            let writing = &mut self.writing[free];
            let Some(write) = shared.bitmap.try_begin_block_write(block, &mut writing.cells) else {
                // A write is in flight: the block keeps its place for the next one.
                nth += 1;
                continue;
            };
            self.wanted.take(nth);
            if shared.failed() {
                // The previous write of this block may have been aborted and thus incomplete; this one would
                // go to the other place and overwrite the newest complete generation. Checked after
                // `try_begin_block_write`: a write is aborted only after its reactor saw the failure, so once
                // this write can begin, this load sees the failure too.
                shared.bitmap.abort_block_write(write);
                continue;
            }
            let writing = &mut self.writing[free];
            let header = Header {
                array: uuid::Uuid::from_bytes(shared.layout.uuid),
                index: u64::from(block.0),
                generation: write.generation,
            };
            let span = writing.span;
            shared.memory.with_mut(span, |bytes| bitmap_block::encode(bytes, &header, &writing.cells));
            writing.write = Some(write);
            self.begun += 1;
            let writing = &mut self.writing[free];
            writing.missed = missed;
            writing.pending = copies.count();
            let place = crate::format::zones::bitmap_place(block.0.into(), header.generation);
            let offset = shared.layout.bitmap_offset_bytes + place;
            for slot in copies.iter() {
                let what = IoFor::Block { write: free as u32 };
                turn.push(what, slot, MemberIo::Write(Durability::Durable), offset, span);
            }
            turn.tally().intent_writes.add(1);
        }
    }

    /// Handles the end of a copy's write, successful or not.
    pub(crate) fn copy_done<R>(
        &mut self,
        turn: &mut Turn<'_, R>,
        index: u32,
        io: &Io,
        result: Result<(), i32>,
    ) {
        if let Err(errno) = result {
            io.fail_metadata(turn.shared, errno, Failure::Metadata(errno));
        }
        self.copy_ended(turn, index, io, result.is_ok());
    }

    /// Counts a copy as ended: it was written, or it failed, or nothing waits for it any more.
    pub(crate) fn copy_ended<R>(&mut self, turn: &mut Turn<'_, R>, index: u32, io: &Io, is_written: bool) {
        let writing = &mut self.writing[index as usize];
        if !is_written {
            writing.missed.add(io.slot, io.device);
        }
        writing.pending -= 1;
        if writing.pending == 0 {
            self.end(turn, index as usize);
        }
    }

    /// Ends the writes whose copies have all ended and whose failures are now on record.
    pub(crate) fn advance<R>(&mut self, turn: &mut Turn<'_, R>) {
        if self.begun == 0 {
            return;
        }
        for index in 0..self.writing.len() {
            let writing = &self.writing[index];
            if writing.write.is_some() && writing.pending == 0 {
                self.end(turn, index);
            }
        }
    }

    fn end<R>(&mut self, turn: &mut Turn<'_, R>, index: usize) {
        let shared = turn.shared;
        let failed = shared.failed();
        let writing = &mut self.writing[index];
        let on_record = shared.members.excludes(&writing.missed);
        if !failed && !on_record {
            return;
        }
        let write = writing.write.take().expect("only a write in flight ends");
        self.begun -= 1;
        if writing.lot != NONE {
            turn.buffers.leave(std::mem::replace(&mut writing.lot, NONE));
            writing.span = Span::EMPTY;
        }
        let writing = &self.writing[index];
        if !on_record {
            shared.bitmap.abort_block_write(write);
        } else {
            shared.bitmap.finish_block_write(write, &writing.cells);
        }
    }
}

/// The slots that keep a block: parities + 1 of them, rotating with the block index.
pub(crate) fn copies(geometry: &Geometry, block: BlockIndex) -> Slots {
    let members = u32::from(geometry.members());
    let kept = 0..=u32::from(geometry.parities());
    kept.fold(Slots::NONE, |slots, nth| slots.or(Slots::one(((block.0 % members + nth) % members) as u8)))
}
