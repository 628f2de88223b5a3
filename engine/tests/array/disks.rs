//! Members that make trouble: they start full of noise, answer late and in any order, have bad sectors, and
//! die.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use engine::format::zones::{SUPERBLOCK_A_OFFSET_BYTES, SUPERBLOCK_B_OFFSET_BYTES, TAIL_UNUSED_BYTES};
use engine::limits::{BLOCK_BYTES, RECOVERY_BYTES};
use engine::memory::Memory;
use engine::ring::{Completion, Durability, MemberIo, MemberOp, Ring};

use crate::rng::Rng;

pub const SECTOR: u64 = 512;

const EIO: i32 = 5;

/// Number of operations that a member was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub flushes: u64,
    /// Writes that need not be durable when they complete.
    pub cached: u64,
    pub deallocations: u64,
    pub deallocated_bytes: u64,
}

/// Passing read errors. After each read that is longer than a piece of rows (a batch of background work,
/// which succeeds), the next `reads` reads of a single piece fail. With [`ALWAYS`] each read fails, whatever
/// its length.
#[derive(Clone, Copy, Debug)]
pub struct Lapse {
    pub sector: u64,
    pub errno: i32,
    pub reads: u32,
    /// Failing reads that are still to come.
    pub left: u32,
}

/// Number of failing reads without end, for `Lapse::reads`.
pub const ALWAYS: u32 = u32::MAX;

impl Lapse {
    /// The error of a read of these sectors, if it fails.
    fn error(&mut self, sectors: &std::ops::Range<u64>) -> Option<i32> {
        if !sectors.contains(&self.sector) {
            return None;
        } else if self.reads == ALWAYS {
            return Some(self.errno);
        }
        if sectors.end - sectors.start > u64::from(RECOVERY_BYTES) / SECTOR {
            self.left = self.reads;
            return None;
        }
        let fails = self.left > 0;
        self.left -= u32::from(fails);
        fails.then_some(self.errno)
    }
}

/// A member's bytes and its faults.
pub struct Disk {
    pub bytes: Vec<u8>,
    /// Sectors that cannot be read until they are written.
    pub bad: BTreeSet<u64>,
    /// Whether bad sectors refuse writes too.
    pub is_worn: bool,
    /// Whether every operation fails.
    pub dead: bool,
    /// Whether the member answers nothing.
    pub silent: bool,
    /// An error, and the range in which a write that begins there fails with it and does not land. A range
    /// that starts at 0 covers the metadata; flushes then fail too.
    pub refuses: Option<(i32, std::ops::Range<u64>)>,
    /// Whether every read fails.
    pub unreadable: bool,
    /// Reads of a good sector that fail.
    pub lapse: Option<Lapse>,
    /// Whether deallocations wait until this is false; other operations are carried out.
    pub slow_advice: bool,
    /// Number of deallocations that are carried out despite `slow_advice`.
    pub advice_left: u32,
    /// Whether flushes wait until this is false; other operations are carried out.
    pub slow_flushes: bool,
    pub counts: Counts,
    /// Reads and writes that begin in this range wait until it is `None`.
    pub holds: Option<std::ops::Range<u64>>,
    /// Offset of the data zone, on a device that is to join. When its first superblock is written, none of
    /// the old content may be left before this offset, nor at the end of the device, where other programs
    /// keep their metadata.
    pub joins: Option<u64>,
    /// Whether the device was opened for reading only: then a write, a flush or a deallocation ends the test.
    pub read_only: bool,
}

impl Disk {
    /// A disk full of noise, except for its first two blocks, which are zeros.
    pub fn new(bytes: u64, rng: &mut Rng) -> Disk {
        let mut disk = Disk::of_another(bytes, rng);
        disk.bytes[..2 * BLOCK_BYTES].fill(0);
        disk
    }

    /// A disk full of noise, its first two blocks included.
    pub fn of_another(bytes: u64, rng: &mut Rng) -> Disk {
        let mut disk = Disk {
            bytes: vec![0; bytes as usize],
            bad: BTreeSet::new(),
            is_worn: false,
            dead: false,
            silent: false,
            refuses: None,
            unreadable: false,
            lapse: None,
            slow_advice: false,
            advice_left: 0,
            slow_flushes: false,
            holds: None,
            counts: Counts::default(),
            joins: None,
            read_only: false,
        };
        rng.fill(&mut disk.bytes);
        disk
    }

    /// On the first superblock written to a device that joins: asserts that its old content is gone.
    fn check_own(&mut self) {
        let Some(data_offset) = self.joins.take() else { return };
        let is_left = |at: &usize| self.bytes[*at] != 0;
        let tail = self.bytes.len() - TAIL_UNUSED_BYTES as usize;
        let left = (0..data_offset as usize).chain(tail..self.bytes.len()).find(is_left);
        assert_eq!(left, None, "a device is on record as a member, and has what it held before at this byte");
    }

    fn perform(&mut self, memory: &Memory, op: &MemberOp, noise: &mut Rng) -> Result<(), i32> {
        let end = op.offset_bytes + op.len_bytes;
        assert!(end <= self.bytes.len() as u64, "{op:?} is beyond the end");
        let place = op.offset_bytes as usize..end as usize;
        let mut sectors = op.offset_bytes / SECTOR..end / SECTOR;
        assert!(op.io == MemberIo::Read || !self.read_only, "{op:?} on a member that is only read");
        self.counts.flushes += u64::from(op.io == MemberIo::Flush);
        self.counts.cached += u64::from(op.io == MemberIo::Write(Durability::Cached));
        if op.io == MemberIo::Deallocate {
            self.counts.deallocations += 1;
            self.counts.deallocated_bytes += op.len_bytes;
        }
        if let Some((errno, bytes)) = &self.refuses {
            let refuses = match op.io {
                MemberIo::Write(_) => bytes.contains(&op.offset_bytes),
                MemberIo::Flush => bytes.start == 0,
                MemberIo::Read | MemberIo::Deallocate => false,
            };
            if refuses {
                return Err(*errno);
            }
        }
        if op.io == MemberIo::Read
            && let Some(errno) = self.lapse.as_mut().and_then(|lapse| lapse.error(&sectors))
        {
            return Err(errno);
        }
        match op.io {
            _ if self.dead => return Err(EIO),
            MemberIo::Read if self.unreadable => return Err(EIO),
            MemberIo::Read if sectors.any(|sector| self.bad.contains(&sector)) => return Err(EIO),
            MemberIo::Write(_)
                if self.is_worn && sectors.clone().any(|sector| self.bad.contains(&sector)) =>
            {
                return Err(EIO);
            }
            MemberIo::Read => memory.write_to(op.span, &self.bytes[place]),
            MemberIo::Write(_) => {
                self.bad.retain(|sector| !sectors.contains(sector));
                if COPIES.contains(&op.offset_bytes) && !memory.is_zero(op.span) {
                    self.check_own();
                }
                memory.read_from(op.span, &mut self.bytes[place]);
            }
            // The content after a deallocation is undefined: fill it with noise.
            MemberIo::Deallocate => noise.fill(&mut self.bytes[place]),
            MemberIo::Flush => {}
        }
        Ok(())
    }
}

const COPIES: [u64; 2] = [SUPERBLOCK_A_OFFSET_BYTES, SUPERBLOCK_B_OFFSET_BYTES];

/// All devices, shared by the rings of all reactors.
pub type Disks = Rc<RefCell<Vec<Disk>>>;

/// Fills a read's memory until the read is carried out.
const JUNK: u8 = 0xee;

/// An operation that is not carried out yet.
struct Queued {
    op: MemberOp,
    /// The bytes of its span when it was pushed. Until it completes the memory may not be used for anything
    /// else.
    lent: Vec<u8>,
}

impl Queued {
    fn new(memory: &Memory, op: MemberOp) -> Queued {
        let mut lent = vec![JUNK; op.span.len_bytes as usize];
        match op.io {
            // A probe of a superblock: nothing looks at what it reads, and several probes share its memory.
            MemberIo::Read if COPIES.contains(&op.offset_bytes) => lent.clear(),
            // Pages of the host do not exist here: only a member that does not answer may be asked to fill
            // them.
            MemberIo::Read if !memory.is_mapped(op.span) => lent.clear(),
            MemberIo::Read => memory.write_to(op.span, &lent),
            _ => memory.read_from(op.span, &mut lent),
        }
        Queued { op, lent }
    }

    fn check(&self, memory: &Memory) {
        let is_untouched = self.lent.is_empty() || memory.with(self.op.span, |bytes| bytes == self.lent);
        assert!(is_untouched, "memory was used for something else while the kernel had it: {:?}", self.op);
    }
}

/// A ring that carries out operations late and in any order.
pub struct SlowRing {
    disks: Disks,
    memory: Arc<Memory>,
    rng: Rng,
    queued: Vec<Queued>,
    /// Whether operations are carried out at once and in order, as the steps of a start need.
    pub prompt: bool,
}

impl SlowRing {
    pub fn new(disks: &Disks, memory: &Arc<Memory>, rng: Rng) -> SlowRing {
        SlowRing { disks: disks.clone(), memory: memory.clone(), rng, queued: Vec::new(), prompt: false }
    }
}

impl Ring for SlowRing {
    fn push(&mut self, op: MemberOp) {
        self.queued.push(Queued::new(&self.memory, op));
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        let mut disks = self.disks.borrow_mut();
        let percent = if self.prompt { 100 } else { [25, 75, 100][self.rng.below(3) as usize] };
        let mut at = self.queued.len();
        while at > 0 {
            at -= 1;
            let op = self.queued[at].op;
            let disk = &mut disks[usize::from(op.device.0)];
            let is_slow = match op.io {
                MemberIo::Deallocate => disk.silent || disk.slow_advice && disk.advice_left == 0,
                MemberIo::Flush => disk.silent || disk.slow_flushes,
                MemberIo::Read | MemberIo::Write(_) => {
                    disk.silent || disk.holds.as_ref().is_some_and(|bytes| bytes.contains(&op.offset_bytes))
                }
            };
            if !is_slow && self.rng.below(100) < percent {
                self.queued.swap_remove(at).check(&self.memory);
                if op.io == MemberIo::Deallocate {
                    disk.advice_left = disk.advice_left.saturating_sub(1);
                }
                // Pages of the host have no memory here: such an operation has no effect.
                let is_ours = self.memory.is_mapped(op.span);
                let result = if is_ours { disk.perform(&self.memory, &op, &mut self.rng) } else { Ok(()) };
                completions.push(Completion { tag: op.tag, result });
            }
        }
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}
