//! A reactor's share of a device's hardware queues: its own queue, or a part of all of them (see `exchange`).
//!
//! The states of a tag:
//!
//! ```text
//!   AtDriver -- a request arrives --> Waiting -- memory and room --> AtEngine -- reply --> AtDriver (commit)
//!      |                                 ^------- NeedsMemory ----------'
//!      '-- the device is stopped --> Gone
//! ```
//!
//! - Requests go to the engine in the order in which they arrived. A request that finds no memory holds up
//!   those behind it; it gets the memory that the next reply gives back, so no request starves.
//! - A read fills the request's own pages if they are in the ring's table. They are in one table only, that
//!   of the ring that fetched them, and that ring cannot be polled. So over polled members a read shorter
//!   than [`DIRECT_BYTES_MIN`] goes through a span and is copied, which costs less than the interrupt.
//! - A write's bytes are fetched when it goes to the engine, not before: a waiting request holds no memory.
//! - After `close` nothing more goes to the engine. Requests that arrived and were not begun stay with the
//!   driver. The driver fails them when the device is stopped, and otherwise hands them to the next server.

#![expect(unsafe_code, reason = "descriptors are in memory shared with the driver")]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::abi::{self, Descriptor, operation};
use super::exchange::{BLOCKS_PER_QUEUE, Bytes, Exchange, Heard, Tags};
use crate::frontend::Frontend;
use crate::memory::{Memory, Pool, Span};
use crate::request::{Reply, Request, RequestError, RequestKind};
use crate::ring::Uring;

/// Flag in a descriptor: the request's pages were not registered with the ring (`UBLK_IO_F_NEED_REG_BUF`).
const NOT_REGISTERED: u32 = 1 << 17;

/// Shortest read over polled members for which registering pages and waiting for an interrupt costs less than
/// a copy. (Where both were interrupted, zero copy won from about 16 KiB on.)
const DIRECT_BYTES_MIN: u64 = 16 << 10;

/// Option number from linux/prctl.h, Linux 5.6.
const PR_SET_IO_FLUSHER: i32 = 57;

const SECTOR_BYTES: u64 = 512;

/// How the bytes of requests move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Movement {
    /// The driver copies, to and from permanent memory of each tag. That memory is of this length.
    ByDriver { request_bytes_max: u32 },
    /// We read a write's bytes from the driver and write a read's bytes to it.
    Asked,
    /// Writes go as with `Asked`; for reads, the pages of requests are registered with the ring.
    Registered,
}

/// Everything a reactor needs to open its queue; made together with the device.
#[derive(Clone)]
pub struct UblkPlace {
    /// The character device.
    pub(super) file: Arc<File>,
    /// The queue that belongs to this reactor.
    pub(super) queue: u16,
    /// All tags that the reactor serves, with the depth of the queues.
    pub(super) tags: Tags,
    /// Whether requests arrive in batches.
    pub(super) batched: bool,
    /// Set once the device is live.
    pub(super) live: Arc<AtomicBool>,
    /// How the bytes of requests move.
    pub(super) movement: Movement,
    /// Whether commands use un-encoded opcodes (before Linux 6.4).
    pub(super) plain: bool,
    /// Whether the first fetches are submitted without CAP_SYS_ADMIN, so that the driver reads no partitions.
    pub(super) unprivileged: bool,
}

impl UblkPlace {
    /// The number of host buffers that the ring must have room for.
    #[must_use]
    pub fn host_buffers(&self) -> u16 {
        match self.movement {
            Movement::Registered => self.tags.count() as u16,
            Movement::Asked | Movement::ByDriver { .. } => 0,
        }
    }

    /// Opens the front end, on the thread of its reactor and over that reactor's ring. `pool` is the pool
    /// that the front end will be given in its turns.
    pub fn open(self, ring: &mut Uring, memory: &Memory, pool: &mut Pool) -> io::Result<UblkFrontend> {
        let fd = self.file.as_raw_fd();
        let count = self.tags.count();
        let (mut host_arena, mut spans) = (None, None);
        let bytes = match self.movement {
            Movement::ByDriver { request_bytes_max } => {
                let taken: Option<Box<[Span]>> =
                    (0..count).map(|_| pool.take_kept_back(request_bytes_max)).collect();
                let taken = spans.insert(taken.expect("as many fit into the smallest memory"));
                Bytes::Copied(taken.iter().map(|span| memory.ptr(*span).expose_provenance() as u64).collect())
            }
            Movement::Registered if ring.takes_host_buffers() => {
                let first =
                    u16::try_from(memory.arena_count()).expect("at most ARENAS_MAX and the zero arena");
                Bytes::Registered(*host_arena.insert(first))
            }
            Movement::Registered | Movement::Asked => Bytes::Asked,
        };
        let exchange = if self.batched {
            let block_bytes = usize::from(self.tags.depth) * abi::BATCH_ELEMENT_BYTES;
            let lane = ring.open_batch_lane(fd, self.tags.queues.len() * BLOCKS_PER_QUEUE, block_bytes)?;
            Exchange::batch(lane, self.tags.clone(), bytes, self.queue, self.live)
        } else {
            Exchange::single(ring.open_lane(fd)?, self.tags.clone(), bytes, self.plain)
        };
        // Submitted before the mapping. Linux 6.12 ties the device to the process that maps its descriptors.
        // A recovery unties it, but the kernel refuses (EINVAL) to begin one before a queue has fetched.
        // After a kill between mapping and fetch, no later server could map the descriptors. If the thread
        // may not change its capabilities, the kernel reads partitions as usual.
        let admin = self.unprivileged.then(WithoutSysAdmin::new).and_then(Result::ok);
        ring.submit_lane();
        drop(admin);
        let descriptors = Descriptors::map(&self.file, &self.tags)?;
        flush_for_others();
        Ok(UblkFrontend {
            file: self.file,
            places: self.tags,
            exchange,
            descriptors,
            host_arena,
            spans,
            direct_bytes_min: if ring.is_polled() { DIRECT_BYTES_MIN } else { 0 },
            tags: vec![Tag::AtDriver; count].into(),
            waiting: VecDeque::with_capacity(count),
            at_engine: 0,
            closing: false,
        })
    }
}

/// The state of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// The driver has the tag.
    AtDriver,
    /// A request has arrived and waits to go to the engine; `Reading` says how its bytes are to move.
    Waiting(Reading),
    /// The engine has the request.
    AtEngine {
        /// The span with the request's bytes, if it is from our pool.
        span: Option<Span>,
        /// The result that the driver is told on success.
        result: i32,
        /// Whether `span` must be copied out.
        read: bool,
    },
    /// The device is stopped.
    Gone,
}

/// The way a read's bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Into the request's own pages, if possible.
    Direct,
    /// Through a span.
    Copied,
}

/// The front end of one reactor.
pub struct UblkFrontend {
    file: Arc<File>,
    places: Tags,
    exchange: Exchange,
    descriptors: Descriptors,
    /// The number of the arena that stands for the pages of the first request, if requests' pages are
    /// registered.
    host_arena: Option<u16>,
    /// The permanent memory of each tag, if the driver copies.
    spans: Option<Box<[Span]>>,
    /// Reads shorter than this are copied.
    direct_bytes_min: u64,
    /// The state of each tag, by index.
    tags: Box<[Tag]>,
    /// Tags in state `Waiting`, oldest first.
    waiting: VecDeque<u32>,
    at_engine: u32,
    closing: bool,
}

/// The outcome for a request that was to go to the engine.
enum Admitted {
    /// The request goes to the engine.
    Sent(Request),
    /// The request was answered here.
    Answered,
    /// No memory is available for the request now.
    Later,
}

impl UblkFrontend {
    /// Records what the driver has sent.
    fn hear(&mut self) {
        while let Some(heard) = self.exchange.hear() {
            match heard {
                Heard::Came(index) => {
                    let state = &mut self.tags[index as usize];
                    debug_assert_eq!(*state, Tag::AtDriver);
                    *state = Tag::Waiting(Reading::Direct);
                    self.waiting.push_back(index);
                }
                Heard::Gone(index) => self.tags[index as usize] = Tag::Gone,
            }
        }
    }

    /// Turns the driver's description into a request for the engine.
    fn admit(&mut self, memory: &Memory, pool: &mut Pool, index: u32, reading: Reading) -> Admitted {
        let Descriptor { operation_and_flags, sectors, start_sector, .. } = self.descriptors.get(index);
        let fua = operation_and_flags & abi::IO_FLAG_FUA != 0;
        let kind = match operation_and_flags as u8 {
            operation::READ => RequestKind::Read,
            operation::WRITE => RequestKind::Write { fua },
            operation::FLUSH => RequestKind::Flush,
            operation::DISCARD => RequestKind::Discard,
            operation::WRITE_ZEROES => RequestKind::WriteZeroes { fua },
            _ => return self.refuse(index, libc::EOPNOTSUPP),
        };
        let len_bytes = u64::from(sectors) * SECTOR_BYTES;
        let direct = reading == Reading::Direct
            && operation_and_flags & NOT_REGISTERED == 0
            && len_bytes >= self.direct_bytes_min;
        let (span, own) = match (kind, self.host_arena) {
            (RequestKind::Flush | RequestKind::Discard | RequestKind::WriteZeroes { .. }, _) => {
                (Span::EMPTY, None)
            }
            (RequestKind::Read, Some(first)) if direct => {
                (Span { arena: first + index as u16, offset_bytes: 0, len_bytes: len_bytes as u32 }, None)
            }
            (RequestKind::Read | RequestKind::Write { .. }, _) if let Some(spans) = &self.spans => {
                (spans[index as usize].part(0, len_bytes as u32), None)
            }
            (RequestKind::Read | RequestKind::Write { .. }, _) => {
                let Some(span) = pool.take(len_bytes as u32) else { return Admitted::Later };
                (span, Some(span))
            }
        };
        if let (RequestKind::Write { .. }, Some(span)) = (kind, own) {
            let at = self.copy_offset(index);
            let copied = memory.with_mut(span, |bytes| rustix::io::pread(&*self.file, bytes, at));
            if copied != Ok(span.len_bytes as usize) {
                pool.give(span);
                return self.refuse(index, libc::EIO);
            }
        }
        let read = kind == RequestKind::Read;
        // The driver expects the number of bytes moved; 0 for an operation that moves none.
        let result = if span == Span::EMPTY { 0 } else { len_bytes as i32 };
        self.tags[index as usize] = Tag::AtEngine { span: own, result, read };
        self.at_engine += 1;
        let (offset_bytes, len_bytes) =
            if kind == RequestKind::Flush { (0, 0) } else { (start_sector * SECTOR_BYTES, len_bytes) };
        Admitted::Sent(Request { tag: index.into(), kind, offset_bytes, len_bytes, span })
    }

    fn refuse(&mut self, index: u32, errno: i32) -> Admitted {
        self.commit(index, -errno);
        Admitted::Answered
    }

    /// Tells the driver the result of a request.
    fn commit(&mut self, index: u32, result: i32) {
        self.tags[index as usize] = Tag::AtDriver;
        self.exchange.commit(index, result);
    }

    /// Offset of a request's bytes in the character device.
    fn copy_offset(&self, index: u32) -> u64 {
        let (queue, tag) = self.places.place(index);
        abi::copy_offset(queue, tag)
    }
}

impl Frontend for UblkFrontend {
    fn gather(&mut self, memory: &Memory, pool: &mut Pool, room: usize, requests: &mut Vec<Request>) {
        self.hear();
        if self.closing {
            return;
        }
        for _ in 0..room {
            let Some(&index) = self.waiting.front() else { return };
            let Tag::Waiting(reading) = self.tags[index as usize] else { unreachable!("it is in the queue") };
            match self.admit(memory, pool, index, reading) {
                Admitted::Sent(request) => requests.push(request),
                Admitted::Answered => {}
                Admitted::Later => return,
            }
            self.waiting.pop_front();
        }
    }

    fn reply(&mut self, memory: &Memory, pool: &mut Pool, reply: Reply) {
        let index = reply.tag as u32;
        let Tag::AtEngine { span, result, read } = self.tags[index as usize] else {
            panic!("an answer to what was not asked: {reply:?}")
        };
        self.at_engine -= 1;
        if reply.result == Err(RequestError::NeedsMemory) {
            self.tags[index as usize] = Tag::Waiting(Reading::Copied);
            self.waiting.push_front(index);
            return;
        }
        let mut outcome = reply.result.map_or_else(|error| -errno_of(error), |()| result);
        if let Some(spans) = &mut self.spans
            && reply.span.len_bytes > 0
            && spans[index as usize].part(0, 0) != reply.span.part(0, 0)
        {
            // The driver still has the address of the span with which this request came, so it is told the
            // new one.
            let whole = Span { len_bytes: spans[index as usize].len_bytes, ..reply.span };
            spans[index as usize] = whole;
            self.exchange.copy_by(index, memory.ptr(whole).expose_provenance() as u64);
        }
        if let Some(span) = span.map(|_| reply.span) {
            if read && reply.result.is_ok() {
                let at = self.copy_offset(index);
                let copied = memory.with(span, |bytes| rustix::io::pwrite(&*self.file, bytes, at));
                if copied != Ok(span.len_bytes as usize) {
                    outcome = -libc::EIO;
                }
            }
            pool.give(span);
        }
        self.commit(index, outcome);
    }

    fn span_bytes(&self, len_bytes: u32) -> u32 {
        self.spans.as_ref().map_or(len_bytes, |spans| spans[0].len_bytes)
    }

    fn settle(&mut self, _memory: &Memory, _pool: &mut Pool) {
        self.exchange.settle();
    }

    fn has_arrivals(&self) -> bool {
        self.exchange.has_arrivals()
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.exchange.wait_fd())
    }

    fn close(&mut self) {
        self.closing = true;
        self.exchange.close();
    }

    fn drained(&self) -> bool {
        self.drained_but_for(0)
    }

    fn drained_but_for(&self, requests: usize) -> bool {
        self.closing && self.at_engine as usize == requests && self.exchange.is_settled()
    }
}

const fn errno_of(error: RequestError) -> i32 {
    match error {
        RequestError::Misaligned => libc::EINVAL,
        RequestError::OutOfRange
        | RequestError::Lost
        | RequestError::NotTaken
        | RequestError::NeedsMemory => libc::EIO,
        RequestError::NoSpace => libc::ENOSPC,
        RequestError::ReadOnly => libc::EROFS,
    }
}

/// Descriptors of requests, by index. The driver writes a descriptor before it hands the request out.
struct Descriptors {
    /// Start of the mapping of each queue.
    mappings: Box<[NonNull<Descriptor>]>,
    depth: u16,
}

impl Descriptors {
    fn map(file: &File, tags: &Tags) -> io::Result<Descriptors> {
        let depth = tags.depth;
        let map = |queue| {
            let (len, offset) = (abi::descriptors_bytes(depth), abi::descriptors_offset(queue));
            // SAFETY: a new mapping, at an address that the kernel chooses.
            let start = unsafe {
                mmap(
                    std::ptr::null_mut(),
                    len,
                    ProtFlags::READ,
                    MapFlags::SHARED | MapFlags::POPULATE,
                    file,
                    offset,
                )
            }
            .map_err(|error| match error {
                Errno::INVAL => io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the ublk driver does not let this server see requests: an older version that was killed in its start may have the block \
                     device still; give it up with `striate stop --force NAME`, and serve again",
                ),
                _ => error.into(),
            })?;
            Ok(NonNull::new(start.cast()).expect("a mapping is not at 0"))
        };
        // If one queue cannot be mapped, the earlier mappings stay until the process ends, which is soon.
        let mappings = tags.queues.clone().map(map).collect::<io::Result<_>>()?;
        Ok(Descriptors { mappings, depth })
    }

    fn get(&self, index: u32) -> Descriptor {
        let depth = u32::from(self.depth);
        let start = self.mappings[(index / depth) as usize];
        // SAFETY: inside the mapping, which holds `depth` descriptors.
        let at = unsafe { start.add((index % depth) as usize) };
        // SAFETY: initialized by the driver, which writes a tag's descriptor only while it has the tag. Its
        // writes are visible here, because the completion that handed the request out was read before, with
        // acquire.
        unsafe { at.read_volatile() }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        for start in &self.mappings {
            // SAFETY: mapped by `map` with this length; no reference into it is ever given out.
            let unmapped = unsafe { munmap(start.as_ptr().cast(), abi::descriptors_bytes(self.depth)) };
            debug_assert!(unmapped.is_ok());
        }
    }
}

/// Removes CAP_SYS_ADMIN from the effective set of the calling thread until this value is dropped.
struct WithoutSysAdmin(CapabilitySets);

impl WithoutSysAdmin {
    fn new() -> io::Result<WithoutSysAdmin> {
        let before = capabilities(None)?;
        let mut without = before;
        without.effective.remove(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, without)?;
        Ok(WithoutSysAdmin(before))
    }
}

impl Drop for WithoutSysAdmin {
    fn drop(&mut self) {
        // The permitted set was not changed, so the effective set can be restored from it.
        let restored = set_capabilities(None, self.0);
        debug_assert!(restored.is_ok());
    }
}

/// Tells the kernel that hosts' writes wait for this thread, so that when this thread needs memory the kernel
/// does not make it wait for those very writes. Without the right to do so (CAP_SYS_RESOURCE) the thread runs
/// on; the risk is a deadlock, and only under memory pressure.
pub(crate) fn flush_for_others() {
    // SAFETY: the option takes a number and touches no memory of ours.
    let _allowed_or_not = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}
