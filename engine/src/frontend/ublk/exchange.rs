//! The exchange with the driver: how requests arrive and how their results go back.
//!
//! | mode | since | a request arrives as | its result goes back |
//! |---|---|---|---|
//! | one by one | 6.0 | the end of its tag's command (`FETCH`) | with the next `COMMIT_AND_FETCH` |
//! | batches (`BATCH_IO`) | 7.0 | an item of a queue's `FETCH_IO_CMDS` | in an array (`COMMIT_IO_CMDS`) |
//!
//! Batches are for devices with several queues; no queue then belongs to one reactor alone. Every reactor has
//! a command waiting at every queue. The driver gives requests to the command that has waited longest until
//! that one has as many as its reactor can begin in a turn (see `ring/uring/batch`), and then to the next. So
//! a light load stays on one reactor without a hand-over, and a queue that overloads its reactor is shared
//! with the others, even if all its requests come from one CPU of the host.
//!
//! - A reactor announces the tags of its own queue (`PREP_IO_CMDS`) and waits at that queue from the start.
//!   It joins the other queues once the device is live: the driver rejects a command that waits at a queue
//!   that is not announced.
//! - The results of a turn go out together, in one array per queue. A queue has two arrays: one is filled
//!   while the other is in flight. A tag has one result until it is fetched again, so an array as long as the
//!   queue is deep never overflows.
//! - The driver answers an array with the length of what is done, and what is not done is sent again. Only if
//!   nothing is done and the error concerns an element (see `committed`), the first element is left out: its
//!   request was aborted in the meantime. After any other error (no memory, for example), leaving the element
//!   out would lose the result of a request for which a host still waits.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::abi::{self, BATCH_ELEMENT_BYTES};
use crate::ring::{Arrival, BlockIndex, Lane, LaneCommand, Payload};

/// Flag in the address of a fetch with automatic registration: hand a request out even if its pages cannot be
/// registered (`UBLK_AUTO_BUF_REG_FALLBACK`).
const REGISTER_OR_NOT: u64 = 1 << 16;

/// Blocks of the lane per queue, in batch mode.
pub(super) const BLOCKS_PER_QUEUE: usize = 2;

/// The requests of a front end: the tags of the queues that it serves, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Tags {
    /// The queues of the device that are served.
    pub(super) queues: Range<u16>,
    /// Number of tags in each queue.
    pub(super) depth: u16,
}

impl Tags {
    /// The number of tags in all served queues.
    pub(super) fn count(&self) -> usize {
        self.queues.len() * usize::from(self.depth)
    }

    /// The queue and the tag of a request.
    pub(super) fn place(&self, index: u32) -> (u16, u16) {
        let depth = u32::from(self.depth);
        (self.queues.start + (index / depth) as u16, (index % depth) as u16)
    }

    fn index(&self, queue: u16, tag: u16) -> u32 {
        u32::from(queue - self.queues.start) * u32::from(self.depth) + u32::from(tag)
    }
}

/// A message from the driver.
pub(super) enum Heard {
    /// A request has arrived for this tag.
    Came(u32),
    /// Nothing will arrive for this tag any more.
    Gone(u32),
}

/// The place where the driver leaves the bytes of requests.
pub(super) enum Bytes {
    /// In the pages of the request; we copy them with `pread` and `pwrite` (`USER_COPY`).
    Asked,
    /// In the pages, as with `Asked`, which are also in the ring's table of buffers, the first request's at
    /// this number (`AUTO_BUF_REG`).
    Registered(u16),
    /// In our memory: the driver itself copies to and from these addresses, one per request.
    Copied(Box<[u64]>),
}

/// A front end's exchange with the driver; see the module documentation.
pub(super) struct Exchange {
    lane: Lane,
    tags: Tags,
    bytes: Bytes,
    way: Way,
    /// Whether commands use un-encoded opcodes (before Linux 6.4).
    plain: bool,
    /// Messages that have arrived from the driver and were not taken yet.
    heard: VecDeque<Heard>,
    closing: bool,
}

enum Way {
    Single,
    Batch(Batch),
}

struct Batch {
    /// Set once the device is live; `None` after the other queues were joined.
    live: Option<Arc<AtomicBool>>,
    own: u16,
    /// Results for each queue.
    results: Box<[Results]>,
    /// Queues that have results to send, each once.
    unsent: Vec<u16>,
}

/// The two arrays of results of a queue.
#[derive(Clone, Copy, Default)]
struct Results {
    /// The block that is being filled, 0 or 1.
    side: u8,
    /// Elements in the block that is being filled.
    filled: u16,
    /// Elements in the other block while it is in flight, otherwise 0.
    sent: u16,
}

impl Exchange {
    fn new(lane: Lane, tags: Tags, bytes: Bytes, way: Way) -> Exchange {
        let heard = VecDeque::with_capacity(tags.count());
        Exchange { lane, tags, bytes, way, plain: false, heard, closing: false }
    }

    /// Opens the exchange one by one, and asks for every tag. `plain` selects un-encoded opcodes.
    pub(super) fn single(lane: Lane, tags: Tags, bytes: Bytes, plain: bool) -> Exchange {
        let mut exchange = Exchange { plain, ..Exchange::new(lane, tags, bytes, Way::Single) };
        (0..exchange.tags.count() as u32).for_each(|index| exchange.fetch(abi::FETCH, index, 0));
        exchange
    }

    /// Opens the exchange in batches: announces the tags of queue `own`, and waits at it.
    pub(super) fn batch(lane: Lane, tags: Tags, bytes: Bytes, own: u16, live: Arc<AtomicBool>) -> Exchange {
        let queues = tags.queues.len();
        let batch = Batch {
            live: Some(live),
            own,
            results: vec![Results::default(); queues].into(),
            unsent: Vec::with_capacity(queues),
        };
        let exchange = Exchange::new(lane, tags, bytes, Way::Batch(batch));
        let block = block_of(own - exchange.tags.queues.start, 0);
        (0..exchange.tags.depth).for_each(|tag| exchange.write_element(block, tag, own, tag, 0));
        exchange.push_block(Name::Announce(own), abi::PREP_IO_CMDS, block, exchange.tags.depth);
        exchange.wait_at(own);
        exchange
    }

    /// Takes the next message from the driver.
    pub(super) fn hear(&mut self) -> Option<Heard> {
        self.join();
        self.listen();
        self.heard.pop_front()
    }

    /// Whether [`Exchange::hear`] would return something.
    pub(super) fn has_arrivals(&self) -> bool {
        !self.heard.is_empty() || self.lane.has_arrivals()
    }

    /// The descriptor on which a reactor sleeps.
    pub(super) fn wait_fd(&self) -> RawFd {
        self.lane.wait_fd()
    }

    /// Asks for no more requests in batches. (In the mode one by one, commands already wait for every tag.)
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    fn listen(&mut self) {
        while let Some(arrival) = self.lane.take() {
            match (arrival, &self.way) {
                // ENODEV: the device is stopped. Other errors: the driver no longer takes commands for this
                // tag.
                (Arrival::Ended { name, result }, Way::Single) => {
                    self.heard.push_back(if result == 0 { Heard::Came(name) } else { Heard::Gone(name) });
                }
                (Arrival::Delivered { name, item }, Way::Batch(_)) => {
                    let Name::Wait(queue) = Name::unpack(name) else { unreachable!("no other delivers") };
                    self.heard.push_back(Heard::Came(self.tags.index(queue, item)));
                }
                (Arrival::Ended { name, result }, Way::Batch(_)) => self.ended(Name::unpack(name), result),
                (Arrival::Delivered { .. }, Way::Single) => unreachable!("nothing delivers"),
            }
        }
    }

    /// Takes the result of a request: a number of bytes, or a negative `errno`.
    pub(super) fn commit(&mut self, index: u32, result: i32) {
        match &mut self.way {
            Way::Single => self.fetch(abi::COMMIT_AND_FETCH, index, result),
            Way::Batch(batch) => {
                let (queue, tag) = self.tags.place(index);
                let at = queue - self.tags.queues.start;
                let results = &mut batch.results[usize::from(at)];
                if results.filled == 0 {
                    batch.unsent.push(at);
                }
                let (block, slot) = (block_of(at, results.side), results.filled);
                results.filled += 1;
                self.write_element(block, slot, queue, tag, result);
            }
        }
    }

    /// Sends the results taken by `commit`.
    pub(super) fn settle(&mut self) {
        self.listen();
        let Way::Batch(batch) = &mut self.way else { return };
        let mut unsent = std::mem::take(&mut batch.unsent);
        unsent.retain(|&at| !self.send(at));
        if let Way::Batch(batch) = &mut self.way {
            batch.unsent = unsent;
        }
    }

    /// Sends the results of a queue, unless its other array is still in flight. Returns whether it sent them.
    fn send(&mut self, at: u16) -> bool {
        let Way::Batch(batch) = &mut self.way else { unreachable!("only batches are sent") };
        let results = &mut batch.results[usize::from(at)];
        if results.sent > 0 {
            return false;
        }
        let (block, count) = (block_of(at, results.side), results.filled);
        *results = Results { side: 1 - results.side, filled: 0, sent: count };
        self.push_block(Name::Commit(block), abi::COMMIT_IO_CMDS, block, count);
        true
    }

    /// Whether every result has been submitted to the driver.
    pub(super) fn is_settled(&self) -> bool {
        let none_left = match &self.way {
            Way::Single => true,
            Way::Batch(batch) => batch.unsent.is_empty(),
        };
        none_left && self.lane.is_submitted()
    }

    /// Waits at the other queues too, once they are announced.
    fn join(&mut self) {
        let Way::Batch(batch) = &mut self.way else { return };
        // Relaxed: the flag says that the driver knows the queues, and publishes no memory of ours.
        if batch.live.take_if(|live| live.load(Ordering::Relaxed)).is_some() {
            let own = batch.own;
            self.tags.queues.clone().filter(|&queue| queue != own).for_each(|queue| self.wait_at(queue));
        }
    }

    fn ended(&mut self, name: Name, result: i32) {
        match name {
            // The command has delivered as many requests as it has room for, or the kernel was out of
            // resources for a moment.
            Name::Wait(queue)
                if !self.closing && matches!(-result, 0 | libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN) =>
            {
                self.wait_at(queue);
            }
            // ENODEV: the device is stopped. If a queue could not be announced, the thread that starts the
            // device notices.
            Name::Wait(_) | Name::Announce(_) => {}
            Name::Commit(block) => self.committed(block, result),
        }
    }

    /// Handles the driver's answer to an array: the number of bytes that are done
    /// (`ublk_handle_batch_commit_cmd` of drivers/block/ublk_drv.c), or an error if nothing is. EINVAL and
    /// EBUSY are what `ublk_batch_commit_io_check` returns for a request that no longer belongs to the
    /// server.
    fn committed(&mut self, block: BlockIndex, result: i32) {
        let at = block.0 / BLOCKS_PER_QUEUE as u16;
        let Way::Batch(batch) = &mut self.way else { unreachable!("only batches are committed") };
        let sent = usize::from(std::mem::take(&mut batch.results[usize::from(at)].sent));
        let settled = match -result {
            libc::EINVAL | libc::EBUSY => 1,
            // The device is gone, and its requests with it.
            libc::ENODEV => sent,
            _ => usize::try_from(result).unwrap_or(0) / BATCH_ELEMENT_BYTES,
        };
        for slot in settled..sent {
            let mut element = [0; BATCH_ELEMENT_BYTES];
            self.lane.read_block(block, slot * BATCH_ELEMENT_BYTES, &mut element);
            let (tag, result) = abi::batch_element_parts(&element);
            self.commit(self.tags.index(self.tags.queues.start + at, tag), result);
        }
    }

    /// Makes the driver copy a request's bytes through another address from its next commit on, including the
    /// copy of that commit (in drivers/block/ublk_drv.c, `ublk_commit_completion` comes after the new address
    /// is set).
    pub(super) fn copy_by(&mut self, index: u32, address: u64) {
        let Bytes::Copied(addresses) = &mut self.bytes else {
            unreachable!("only the driver's copies have addresses")
        };
        addresses[index as usize] = address;
    }

    /// Tells the driver the result of a request (except the first time for a tag), and asks for the next
    /// request.
    fn fetch(&mut self, operation: u32, index: u32, result: i32) {
        let (address, number) = match &self.bytes {
            Bytes::Asked => (0, 0),
            Bytes::Registered(first) => (0, (u64::from(*first) + u64::from(index)) | REGISTER_OR_NOT),
            Bytes::Copied(addresses) => (addresses[index as usize], 0),
        };
        let (queue, tag) = self.tags.place(index);
        let bytes = abi::io_command(queue, tag, result, address);
        let operation = if self.plain { abi::plain(operation) } else { operation };
        self.lane.push(LaneCommand { name: index, operation, bytes, payload: Payload::Number(number) });
    }

    fn wait_at(&self, queue: u16) {
        let bytes = abi::batch_command(queue, 0, 0, abi::BATCH_ITEM_BYTES);
        let (name, operation) = (Name::Wait(queue).pack(), abi::FETCH_IO_CMDS);
        self.lane.push(LaneCommand { name, operation, bytes, payload: Payload::Deliveries });
    }

    fn write_element(&self, block: BlockIndex, slot: u16, queue: u16, tag: u16, result: i32) {
        let host_buffer = match self.bytes {
            Bytes::Asked => 0,
            Bytes::Registered(first) => first + self.tags.index(queue, tag) as u16,
            Bytes::Copied(_) => unreachable!("drivers with batches need not copy"),
        };
        let element = abi::batch_element(tag, host_buffer, result);
        self.lane.write_block(block, usize::from(slot) * BATCH_ELEMENT_BYTES, &element);
    }

    fn push_block(&self, name: Name, operation: u32, block: BlockIndex, count: u16) {
        let queue = self.tags.queues.start + block.0 / BLOCKS_PER_QUEUE as u16;
        let registers = matches!(self.bytes, Bytes::Registered(_));
        let flags = if registers { abi::BATCH_REGISTER_OR_NOT } else { 0 };
        let bytes = abi::batch_command(queue, flags, count, BATCH_ELEMENT_BYTES as u8);
        let payload = Payload::Block(block);
        self.lane.push(LaneCommand { name: name.pack(), operation, bytes, payload });
    }
}

/// The block of a queue; `at` counts queues from the first that is served.
fn block_of(at: u16, side: u8) -> BlockIndex {
    BlockIndex(at * BLOCKS_PER_QUEUE as u16 + u16::from(side))
}

/// The name of a batch command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// The command that waits at a queue.
    Wait(u16),
    /// The command that announces the tags of a queue.
    Announce(u16),
    /// The command that carries the results in a block.
    Commit(BlockIndex),
}

impl Name {
    fn pack(self) -> u32 {
        match self {
            Name::Wait(queue) => u32::from(queue),
            Name::Announce(queue) => 1 << 16 | u32::from(queue),
            Name::Commit(block) => 2 << 16 | u32::from(block.0),
        }
    }

    fn unpack(name: u32) -> Name {
        match (name >> 16, name as u16) {
            (0, queue) => Name::Wait(queue),
            (1, queue) => Name::Announce(queue),
            (_, block) => Name::Commit(BlockIndex(block)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::memory::Memory;
    use crate::ring::{Uring, UringConfig};

    #[test]
    fn tags_are_counted_through_the_queues_that_are_served() {
        let tags = Tags { queues: 2..5, depth: 256 };
        assert_eq!(tags.count(), 768);
        for (index, place) in [(0, (2, 0)), (255, (2, 255)), (256, (3, 0)), (767, (4, 255))] {
            assert_eq!(tags.place(index), place);
            assert_eq!(tags.index(place.0, place.1), index);
        }
    }

    /// An exchange for two queues of four tags, served by the reactor of the first, and the parts that play
    /// the driver. (The ring belongs to the kernel, which knows nothing of ublk here: it only lends its
    /// memory.)
    fn exchange() -> (Exchange, Lane, Arc<AtomicBool>, Uring) {
        let memory = Memory::new(&[1 << 20]).unwrap();
        let mut ring = Uring::new(memory, &UringConfig::default()).unwrap();
        let tags = Tags { queues: 0..2, depth: 4 };
        let file = std::fs::File::open("/dev/null").unwrap();
        let lane =
            ring.open_batch_lane(file.as_raw_fd(), 2 * BLOCKS_PER_QUEUE, 4 * BATCH_ELEMENT_BYTES).unwrap();
        let live = Arc::new(AtomicBool::new(false));
        let exchange = Exchange::batch(lane.clone(), tags, Bytes::Asked, 0, Arc::clone(&live));
        (exchange, lane, live, ring)
    }

    /// A command as the driver reads it: its operation, its name, and its results by tag.
    type Told = (u32, Name, Vec<(u16, i32)>);

    /// Takes the next command that the driver was sent.
    fn told(lane: &Lane) -> Option<Told> {
        let command = lane.taken()?;
        let count = u16::from_ne_bytes([command.bytes[4], command.bytes[5]]);
        let element = |block, slot: u16| {
            let mut element = [0; BATCH_ELEMENT_BYTES];
            lane.read_block(block, usize::from(slot) * BATCH_ELEMENT_BYTES, &mut element);
            abi::batch_element_parts(&element)
        };
        let results = match command.payload {
            Payload::Block(block) => (0..count).map(|slot| element(block, slot)).collect(),
            Payload::Deliveries | Payload::Number(_) => Vec::new(),
        };
        Some((command.operation, Name::unpack(command.name), results))
    }

    #[test]
    fn a_queue_is_announced_and_the_others_are_joined() {
        let (mut exchange, lane, live, _ring) = exchange();
        let all = vec![(0, 0), (1, 0), (2, 0), (3, 0)];
        assert_eq!(told(&lane), Some((abi::PREP_IO_CMDS, Name::Announce(0), all)));
        assert_eq!(told(&lane), Some((abi::FETCH_IO_CMDS, Name::Wait(0), Vec::new())));
        assert!(
            exchange.hear().is_none() && told(&lane).is_none(),
            "nobody waits at a queue that may not be there"
        );
        live.store(true, Ordering::Relaxed);
        assert!(exchange.hear().is_none());
        assert_eq!(told(&lane), Some((abi::FETCH_IO_CMDS, Name::Wait(1), Vec::new())));
        lane.says(Arrival::Delivered { name: Name::Wait(1).pack(), item: 3 });
        assert!(matches!(exchange.hear(), Some(Heard::Came(7))));
    }

    #[test]
    fn who_has_had_enough_waits_again() {
        let (mut exchange, lane, _live, _ring) = exchange();
        while told(&lane).is_some() {}
        let again = Some((abi::FETCH_IO_CMDS, Name::Wait(0), Vec::new()));
        for (result, expected) in [(-libc::ENOBUFS, again.clone()), (0, again), (-libc::ENODEV, None)] {
            lane.says(Arrival::Ended { name: Name::Wait(0).pack(), result });
            assert!(exchange.hear().is_none());
            assert_eq!(told(&lane), expected, "after {result}");
        }
        exchange.close();
        lane.says(Arrival::Ended { name: Name::Wait(0).pack(), result: -libc::ENOBUFS });
        assert!(exchange.hear().is_none() && told(&lane).is_none(), "a closing reactor takes no more");
    }

    #[test]
    fn results_go_together_and_what_is_refused_is_left_out() {
        let (mut exchange, lane, _live, _ring) = exchange();
        lane.says(Arrival::Ended { name: Name::Announce(0).pack(), result: 0 });
        while told(&lane).is_some() {}
        (0..4).for_each(|index| exchange.commit(index, 512));
        exchange.commit(4, -libc::EIO);
        exchange.settle();
        let (first, other) = (block_of(0, 0), block_of(1, 0));
        let four = (0..4).map(|tag| (tag, 512)).collect();
        assert_eq!(told(&lane), Some((abi::COMMIT_IO_CMDS, Name::Commit(first), four)));
        assert_eq!(told(&lane), Some((abi::COMMIT_IO_CMDS, Name::Commit(other), vec![(0, -libc::EIO)])));
        // One of the four is done; the rest is sent again, with the result that was added in the meantime.
        exchange.commit(0, 1024);
        exchange.settle();
        assert!(told(&lane).is_none() && !exchange.is_settled(), "one array of a queue travels at a time");
        let element = BATCH_ELEMENT_BYTES as i32;
        let ended = |block, result| Arrival::Ended { name: Name::Commit(block).pack(), result };
        lane.says(ended(first, element));
        lane.says(ended(other, element));
        let second = block_of(0, 1);
        let rest = vec![(0, 1024), (1, 512), (2, 512), (3, 512)];
        exchange.settle();
        assert_eq!(told(&lane), Some((abi::COMMIT_IO_CMDS, Name::Commit(second), rest.clone())));
        // The kernel has no memory for the command: no result is lost.
        lane.says(ended(second, -libc::ENOMEM));
        exchange.settle();
        assert_eq!(told(&lane), Some((abi::COMMIT_IO_CMDS, Name::Commit(first), rest.clone())));
        lane.says(ended(first, element));
        exchange.settle();
        assert_eq!(told(&lane), Some((abi::COMMIT_IO_CMDS, Name::Commit(second), rest[1..].to_vec())));
        // The driver refuses the first element: only that one is left out.
        lane.says(ended(second, -libc::EINVAL));
        exchange.settle();
        assert_eq!(told(&lane), Some((abi::COMMIT_IO_CMDS, Name::Commit(first), rest[2..].to_vec())));
        lane.says(ended(first, -libc::ENODEV));
        exchange.settle();
        assert!(exchange.is_settled());
    }

    #[test]
    fn names_come_back() {
        for name in [Name::Wait(0), Name::Wait(65_535), Name::Announce(3), Name::Commit(BlockIndex(7))] {
            assert_eq!(Name::unpack(name.pack()), name);
        }
    }
}
