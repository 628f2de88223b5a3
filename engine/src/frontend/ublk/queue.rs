//! One hardware queue, served by one reactor.
//!
//! A tag goes round:
//!
//! ```text
//!   Fetching -- a request has come --> Waiting -- memory and room --> AtEngine -- reply --> Fetching (commit)
//!      |                                  ^------- NeedsMemory ----------'
//!      '-- the device is stopped --> Gone
//! ```
//!
//! - Requests go to the engine in the order in which they came. One that finds no memory holds up those behind it: what is
//!   given back with the next reply is then its, and nobody starves.
//! - A read fills the request's own pages where they are in the ring's table. They are in one table only, that of the ring
//!   which fetched them, and that one cannot be polled; so over polled members a read shorter than [`DIRECT_BYTES_MIN`]
//!   goes by a span and is copied, which costs less than the interrupt.
//! - A write's bytes are fetched when it goes to the engine, not before: what waits holds no memory.
//! - After `close` nothing more goes to the engine. What has come and was not begun stays with the driver, which fails it
//!   when the device is stopped, and hands it to the next server otherwise.

#![expect(unsafe_code, reason = "descriptors are in memory shared with the driver")]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::abi::{self, Descriptor, operation};
use crate::frontend::Frontend;
use crate::memory::{Memory, Pool, Span};
use crate::request::{Reply, Request, RequestError, RequestKind};
use crate::ring::{Lane, LaneCommand, Uring};

/// Set in the address of a fetch with automatic registration: when a request's pages cannot be registered, hand the
/// request out all the same (`UBLK_AUTO_BUF_REG_FALLBACK`).
const REGISTER_OR_NOT: u64 = 1 << 16;
/// The driver's word, in a descriptor, that they were not (`UBLK_IO_F_NEED_REG_BUF`).
const NOT_REGISTERED: u32 = 1 << 17;

/// From this length on registering pages and waiting for an interrupt costs less than a copy (zero
/// copy won from about 16 KiB on where both were interrupted).
const DIRECT_BYTES_MIN: u64 = 16 << 10;

/// linux/prctl.h, Linux 5.6.
const PR_SET_IO_FLUSHER: i32 = 57;

const SECTOR_BYTES: u64 = 512;

/// What a reactor needs to open its queue; made where the device is.
#[derive(Clone)]
pub struct UblkPlace {
    /// The character device.
    pub(super) file: Arc<File>,
    pub(super) queue: u16,
    pub(super) depth: u16,
    /// Whether requests' pages are registered with the ring.
    pub(super) zero_copy: bool,
}

impl UblkPlace {
    /// How many host buffers the ring must have room for.
    #[must_use]
    pub fn host_buffers(&self) -> u16 {
        if self.zero_copy { self.depth } else { 0 }
    }

    /// The front end, on the thread of the reactor that it is for, over that reactor's ring.
    pub fn open(self, ring: &mut Uring, memory: &Memory) -> io::Result<UblkFrontend> {
        let lane = ring.open_lane(self.file.as_raw_fd())?;
        let descriptors = Descriptors::map(&self.file, self.queue, self.depth)?;
        let registered = self.zero_copy && ring.takes_host_buffers();
        let host_arena = u16::try_from(memory.arena_count()).expect("at most ARENAS_MAX and the zero arena");
        let mut frontend = UblkFrontend {
            file: self.file,
            queue: self.queue,
            lane,
            descriptors,
            host_arena: registered.then_some(host_arena),
            direct_bytes_min: if ring.is_polled() { DIRECT_BYTES_MIN } else { 0 },
            tags: vec![Tag::Fetching; usize::from(self.depth)].into(),
            waiting: VecDeque::with_capacity(usize::from(self.depth)),
            at_engine: 0,
            closing: false,
        };
        flush_for_others();
        (0..self.depth).for_each(|tag| frontend.fetch(abi::FETCH, tag, 0));
        Ok(frontend)
    }
}

/// Where a tag is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// At the driver.
    Fetching,
    /// A request has come; how its bytes are to be moved.
    Waiting(Bytes),
    /// The engine has it.
    AtEngine {
        /// Its bytes, if they are ours.
        span: Option<Span>,
        /// What the driver is told when it has succeeded.
        result: i32,
        /// Whether `span` has to be copied out.
        read: bool,
    },
    /// The device is stopped.
    Gone,
}

/// How a read's bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bytes {
    /// Into the request's own pages, if that can be.
    Direct,
    /// By way of a span.
    Copied,
}

/// The front end of one reactor.
pub struct UblkFrontend {
    file: Arc<File>,
    queue: u16,
    lane: Lane,
    descriptors: Descriptors,
    /// The number of the arena that stands for the pages of tag 0's request, if requests' pages are registered.
    host_arena: Option<u16>,
    /// Shorter reads are copied.
    direct_bytes_min: u64,
    tags: Box<[Tag]>,
    /// Tags in state `Waiting`, oldest first.
    waiting: VecDeque<u16>,
    at_engine: u32,
    closing: bool,
}

/// What became of a request that was to go to the engine.
enum Admitted {
    /// It went.
    Sent(Request),
    /// It was answered here.
    Answered,
    /// There is no memory for it now.
    Later,
}

impl UblkFrontend {
    /// Takes note of what the driver has sent.
    fn hear(&mut self) {
        while let Some(arrival) = self.lane.take() {
            let tag = arrival.name as u16;
            let state = &mut self.tags[usize::from(tag)];
            debug_assert_eq!(*state, Tag::Fetching);
            if arrival.result == 0 {
                *state = Tag::Waiting(Bytes::Direct);
                self.waiting.push_back(tag);
            } else {
                // ENODEV: the device is stopped. Others: the driver does not take this tag's commands any more.
                *state = Tag::Gone;
            }
        }
    }

    /// Makes a request of what the driver describes.
    fn admit(&mut self, memory: &Memory, pool: &mut Pool, tag: u16, bytes: Bytes) -> Admitted {
        let Descriptor { operation_and_flags, sectors, start_sector, .. } = self.descriptors.get(tag);
        let fua = operation_and_flags & abi::IO_FLAG_FUA != 0;
        let kind = match operation_and_flags as u8 {
            operation::READ => RequestKind::Read,
            operation::WRITE => RequestKind::Write { fua },
            operation::FLUSH => RequestKind::Flush,
            operation::DISCARD => RequestKind::Discard,
            operation::WRITE_ZEROES => RequestKind::WriteZeroes { fua },
            _ => return self.refuse(tag, libc::EOPNOTSUPP),
        };
        let len_bytes = u64::from(sectors) * SECTOR_BYTES;
        let direct = bytes == Bytes::Direct
            && operation_and_flags & NOT_REGISTERED == 0
            && len_bytes >= self.direct_bytes_min;
        let (span, own) = match (kind, self.host_arena) {
            (RequestKind::Flush | RequestKind::Discard | RequestKind::WriteZeroes { .. }, _) => {
                (Span::EMPTY, None)
            }
            (RequestKind::Read, Some(first)) if direct => {
                (Span { arena: first + tag, offset_bytes: 0, len_bytes: len_bytes as u32 }, None)
            }
            (RequestKind::Read | RequestKind::Write { .. }, _) => {
                let Some(span) = pool.take(len_bytes as u32) else { return Admitted::Later };
                (span, Some(span))
            }
        };
        if let RequestKind::Write { .. } = kind {
            let at = abi::copy_offset(self.queue, tag);
            let copied = memory.with_mut(span, |bytes| rustix::io::pread(&*self.file, bytes, at));
            if copied != Ok(span.len_bytes as usize) {
                pool.give(span);
                return self.refuse(tag, libc::EIO);
            }
        }
        let read = kind == RequestKind::Read;
        // The driver wants to hear how many bytes moved; of what moves none, nothing.
        let result = if span == Span::EMPTY { 0 } else { len_bytes as i32 };
        self.tags[usize::from(tag)] = Tag::AtEngine { span: own, result, read };
        self.at_engine += 1;
        let (offset_bytes, len_bytes) =
            if kind == RequestKind::Flush { (0, 0) } else { (start_sector * SECTOR_BYTES, len_bytes) };
        Admitted::Sent(Request { tag: tag.into(), kind, offset_bytes, len_bytes, span })
    }

    fn refuse(&mut self, tag: u16, errno: i32) -> Admitted {
        self.fetch(abi::COMMIT_AND_FETCH, tag, -errno);
        Admitted::Answered
    }

    /// Tells the driver how a request went, unless it is the first time, and asks for the next.
    fn fetch(&mut self, operation: u32, tag: u16, result: i32) {
        self.tags[usize::from(tag)] = Tag::Fetching;
        let number = self.host_arena.map_or(0, |first| u64::from(first + tag) | REGISTER_OR_NOT);
        let bytes = abi::io_command(self.queue, tag, result);
        self.lane.push(LaneCommand { name: tag.into(), operation, bytes, number });
    }
}

impl Frontend for UblkFrontend {
    fn gather(&mut self, memory: &Memory, pool: &mut Pool, room: usize, requests: &mut Vec<Request>) {
        self.hear();
        if self.closing {
            return;
        }
        for _ in 0..room {
            let Some(&tag) = self.waiting.front() else { return };
            let Tag::Waiting(bytes) = self.tags[usize::from(tag)] else { unreachable!("it is in the queue") };
            match self.admit(memory, pool, tag, bytes) {
                Admitted::Sent(request) => requests.push(request),
                Admitted::Answered => {}
                Admitted::Later => return,
            }
            self.waiting.pop_front();
        }
    }

    fn reply(&mut self, memory: &Memory, pool: &mut Pool, reply: Reply) {
        let tag = reply.tag as u16;
        let Tag::AtEngine { span, result, read } = self.tags[usize::from(tag)] else {
            panic!("an answer to what was not asked: {reply:?}")
        };
        self.at_engine -= 1;
        if reply.result == Err(RequestError::NeedsMemory) {
            self.tags[usize::from(tag)] = Tag::Waiting(Bytes::Copied);
            self.waiting.push_front(tag);
            return;
        }
        let mut outcome = reply.result.map_or_else(|error| -errno_of(error), |()| result);
        if let Some(span) = span {
            if read && reply.result.is_ok() {
                let at = abi::copy_offset(self.queue, tag);
                let copied = memory.with(span, |bytes| rustix::io::pwrite(&*self.file, bytes, at));
                if copied != Ok(span.len_bytes as usize) {
                    outcome = -libc::EIO;
                }
            }
            pool.give(span);
        }
        self.fetch(abi::COMMIT_AND_FETCH, tag, outcome);
    }

    fn settle(&mut self, _memory: &Memory, _pool: &mut Pool) {}

    fn has_arrivals(&self) -> bool {
        self.lane.has_arrivals()
    }

    fn wait_fd(&self) -> Option<RawFd> {
        Some(self.lane.wait_fd())
    }

    fn close(&mut self) {
        self.closing = true;
    }

    fn drained(&self) -> bool {
        self.closing && self.at_engine == 0
    }
}

const fn errno_of(error: RequestError) -> i32 {
    match error {
        RequestError::Misaligned => libc::EINVAL,
        RequestError::OutOfRange | RequestError::Lost | RequestError::NeedsMemory => libc::EIO,
        RequestError::ReadOnly => libc::EROFS,
    }
}

/// Descriptors of a queue's requests, by tag: written by the driver before a fetch completes.
struct Descriptors {
    start: NonNull<Descriptor>,
    depth: u16,
}

impl Descriptors {
    fn map(file: &File, queue: u16, depth: u16) -> io::Result<Descriptors> {
        let (len, offset) = (abi::descriptors_bytes(depth), abi::descriptors_offset(queue));
        // SAFETY: a new mapping, of a place that the kernel chooses.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::POPULATE,
                file,
                offset,
            )
        }?;
        Ok(Descriptors { start: NonNull::new(start.cast()).expect("a mapping is not at 0"), depth })
    }

    fn get(&self, tag: u16) -> Descriptor {
        assert!(tag < self.depth);
        // SAFETY: inside the mapping, which holds `depth` of them.
        let at = unsafe { self.start.add(usize::from(tag)) };
        // SAFETY: initialized by the driver, which writes a tag's descriptor only while the tag is with it; what it wrote
        // is visible because the completion of the fetch was read, with acquire, after.
        unsafe { at.read_volatile() }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; no reference into it is ever given out.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), abi::descriptors_bytes(self.depth)) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Tells the kernel that this thread carries out writes of others: when it needs memory, it must not be made to wait for
/// the very writes that it is to carry out. Without the right to say so (CAP_SYS_RESOURCE) it goes on: the danger is a
/// deadlock under memory pressure, and only there.
fn flush_for_others() {
    // SAFETY: an option with a number; it touches no memory of ours.
    let _allowed_or_not = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}
