//! The bitmap blocks that wait to be written by this reactor, first come, first served.
//!
//! An operation that waits for a block asks for it in each turn; only its first request takes a place in the
//! queue. A block keeps its place while a write of it is in flight, here or at another reactor. If that write
//! does not contain the change that the operation waits for, the next write begins as soon as it ends. Only a
//! few block writes are in flight at a time. The queue was once last in, first out; then the first of 64
//! scattered writes waited for as long as the others kept coming, 40 s and more.

use std::collections::VecDeque;

use bitmap::BlockIndex;

/// Places for blocks that the steward requests: a batch of the sweep (64), blocks that the sweep found behind
/// (4), and those of the rebuild and the stop.
const PLACES_OF_STEWARD: usize = 128;

/// The queue of blocks; see the top of this file.
pub(super) struct Wanted {
    queue: VecDeque<BlockIndex>,
    /// A bit for each block of the array: whether the block is in the queue.
    queued: Box<[u64]>,
}

impl Wanted {
    /// Makes an empty queue for an array of `blocks` bitmap blocks, with a place for each of `ops`
    /// operations.
    pub(super) fn new(blocks: u32, ops: usize) -> Wanted {
        Wanted {
            queue: VecDeque::with_capacity(ops + PLACES_OF_STEWARD),
            queued: vec![0; (blocks as usize).div_ceil(64)].into_boxed_slice(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a block, unless it is queued already. A full queue accepts none. Then the operation asks again
    /// in the next turn, and operations ask in the order in which they began to wait.
    pub(super) fn ask(&mut self, block: BlockIndex) {
        let (word, bit) = place(block);
        if self.queued[word] & bit == 0 && self.queue.len() < self.queue.capacity() {
            self.queued[word] |= bit;
            self.queue.push_back(block);
        }
    }

    /// The block at the `nth` place.
    pub(super) fn get(&self, nth: usize) -> Option<BlockIndex> {
        self.queue.get(nth).copied()
    }

    /// Removes the block at the `nth` place from the queue.
    pub(super) fn take(&mut self, nth: usize) {
        let block = self.queue.remove(nth).expect("the caller has looked at it");
        let (word, bit) = place(block);
        self.queued[word] &= !bit;
    }
}

/// The word and the bit of a block in `queued`.
const fn place(block: BlockIndex) -> (usize, u64) {
    (block.0 as usize / 64, 1 << (block.0 % 64))
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.queue.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_the_place_of_its_first_request() {
        let mut wanted = Wanted::new(200, 8);
        for block in [70, 3, 70, 199, 3] {
            wanted.ask(BlockIndex(block));
        }
        assert_eq!(
            [0, 1, 2, 3].map(|nth| wanted.get(nth)),
            [70, 3, 199, 0].map(|block| (block > 0).then_some(BlockIndex(block)))
        );
        wanted.take(1);
        wanted.ask(BlockIndex(3));
        assert_eq!(wanted.get(2), Some(BlockIndex(3)), "a block that was taken out comes last");
        wanted.take(0);
        wanted.take(0);
        wanted.take(0);
        assert!(wanted.is_empty());
    }

    #[test]
    fn a_full_queue_takes_no_more() {
        let mut wanted = Wanted::new(10_000, 8);
        let room = wanted.queue.capacity();
        (0..10_000).for_each(|block| wanted.ask(BlockIndex(block)));
        assert_eq!(wanted.queue.len(), room);
        wanted.take(0);
        wanted.ask(BlockIndex(9_999));
        assert_eq!((wanted.queue.len(), wanted.get(room - 1)), (room, Some(BlockIndex(9_999))));
    }
}
