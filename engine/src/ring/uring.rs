//! Members behind the kernel: block devices and files, accessed through io_uring.
//!
//! ```text
//!   push(op) -> backlog of its device -> submission queue -> kernel -> completion queue -> turn
//!               (beyond the depth)       one enter a turn              whole ops only
//! ```
//!
//! An operation travels as one or more *pieces*; each piece is one entry of the submission queue. Transfers
//! longer than the device takes at once are cut (otherwise the kernel would hand them to a worker thread),
//! and what a short transfer or `EAGAIN` left over is queued again. The operation completes when its last
//! piece has completed.
//!
//! - At most `depth_max` pieces of a device are in the kernel; the rest wait in the device's backlog. Beyond
//!   the hardware's tags the kernel would park requests on its worker threads, one thread each.
//! - Files are registered always, arenas as fixed buffers if the locked memory limit allows it.
//! - The kernel tries each transfer without blocking first, if the device supported that when it was opened.
//!   The table of a device-mapper device can later be replaced by one that does not (by `pvmove`, for
//!   example); the device then refuses every such transfer with EOPNOTSUPP. A refused transfer is repeated by
//!   a worker thread of the kernel, which may block.
//! - Nothing is allocated or waited for between construction and drop, except in `attach`.
//! - A device with a namespace beside its file receives the drive's own commands through the namespace
//!   ([`nvme`](super::nvme)). If one fails and the medium is not at fault, it is repeated through the file.
//! - Ordinary reads and writes of members that can be polled go to a second, polled io_uring
//!   (`IORING_SETUP_IOPOLL`). Flushes and deallocations are not worth polling for and never go there.
//! - A front end whose requests arrive through the same io_uring (ublk) has a [`Lane`] in it: its commands
//!   are submitted and collected by the same system call as the members' operations.
//! - A ring works only on the thread that made it (`SINGLE_ISSUER`), so it is not `Send`.
//! - At its end, a ring waits for what is in the kernel, as long as completions arrive: see `end`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use super::nvme::Namespace;
use super::{Completion, DeviceIndex, MemberIo, MemberOp, Ring, SECTOR_BYTES};
use crate::limits::{DEVICES_MAX, IO_IN_FLIGHT_MAX};
use crate::memory::Memory;
use bell::Look;
pub use lane::{Arrival, BlockIndex, Lane, LaneCommand, Payload};
use piece::{Piece, Way};
use queue::Collect;
use queues::Queues;
use verdict::{Verdict, judge};

mod batch;
mod bell;
mod end;
mod entry;
mod lane;
mod piece;
mod queue;
mod queues;
mod verdict;
mod wire;
mod workers;

/// How often one operation is repeated after `EAGAIN`, `EINTR` or a short transfer before its failure is
/// accepted. A turn repeats an operation once.
const RETRIES_MAX: u16 = 1000;

/// Most rounds of one turn. A second round is needed only if the submission queue was full, something is
/// retried, or the bell was armed just now.
const ROUNDS_MAX: usize = 8;

/// The configuration of a ring.
#[derive(Clone, Debug, Default)]
pub struct UringConfig {
    /// CPUs for the kernel's worker threads: those on which no reactor polls. Without this, workers inherit
    /// the affinity of the reactor and compete with it for its core. Empty: keep the inherited affinity.
    pub worker_cpus: Vec<usize>,
    /// Whether to make the polled ring too. It is worth it if all members can be polled: while polled
    /// operations are in flight, the reactor cannot sleep.
    pub polled: bool,
    /// Whether to make entries as long as NVMe passthrough needs. If not, devices are attached as if they had
    /// no namespace.
    pub passthrough: bool,
    /// Number of places for host buffers: request pages that the kernel itself puts into the ring's table.
    /// Member operations name them as arenas, from [`Memory::arena_count`] on.
    pub host_buffers: u16,
}

/// A device to attach to a ring.
#[derive(Debug)]
pub struct UringDevice {
    /// The file, opened with the access that the engine needs.
    pub file: File,
    /// The device's namespace, which bypasses the block layer, if there is a usable one.
    pub namespace: Option<Namespace>,
    /// The operation that carries out a deallocation.
    pub deallocate: Deallocate,
    /// Whether the device's reads and writes may go to the polled ring.
    pub polled: bool,
    /// Most pieces in the kernel at once; at least 1.
    pub depth_max: u32,
    /// Longest piece, a multiple of [`SECTOR_BYTES`].
    pub transfer_bytes_max: u32,
}

/// How a device gives a range back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deallocate {
    /// Punch a hole into the file.
    PunchHole,
    /// Discard on the block device (`BLOCK_URING_CMD_DISCARD`, Linux 6.12).
    Discard,
    /// Do nothing and succeed at once. Deallocation is only advice.
    Ignore,
}

/// The ring of devices behind the kernel.
pub struct Uring {
    queues: Queues,
    /// Operations in flight and attached devices.
    ledger: Ledger,
    /// Commands of a front end. Declared after the queues: fields drop in order, so its memory outlives them.
    lane: Lane,
    /// Operations that completed without the kernel.
    done: Vec<Completion>,
    /// Keeps the arenas mapped while the queues exist: fields drop in order.
    memory: Arc<Memory>,
    /// Whether [`Uring::close`] has been called.
    is_closed: bool,
    /// Makes the type not `Send`: the kernel accepts submissions of one thread only.
    _thread: PhantomData<*const ()>,
}

/// The operations and devices of a ring.
struct Ledger {
    /// The operations, by tag.
    operations: Box<[Operation]>,
    /// The devices, by device index.
    devices: Box<[Option<Attached>]>,
    /// A bit per device, set while its backlog is not empty.
    waiting: u64,
}

const _: () = assert!(DEVICES_MAX <= u64::BITS as usize);

/// An operation in flight.
#[derive(Clone, Copy)]
struct Operation {
    op: MemberOp,
    /// Pieces in the kernel or in the backlog; 0 when the tag is unused.
    pieces: u16,
    /// Times that a piece was queued again.
    retries: u16,
    /// Whether the device has refused to do the operation without blocking.
    may_block: bool,
    /// The first `errno` of its pieces, or 0.
    error: i32,
}

/// An attached device.
struct Attached {
    device: UringDevice,
    /// Pieces in the kernel.
    in_kernel: u32,
    /// Pieces that wait, oldest first.
    backlog: VecDeque<Piece>,
}

impl Uring {
    /// Makes a ring without devices, for the calling thread. Fails if the kernel has no io_uring, is older
    /// than 6.1, or forbids io_uring (`kernel.io_uring_disabled`, a seccomp filter).
    pub fn new(memory: Arc<Memory>, config: &UringConfig) -> io::Result<Uring> {
        let queues = Queues::new(Arc::clone(&memory), config).map_err(queues::explained)?;
        let lane = Lane::new(queues.interrupt.wait_fd().expect("this queue has a bell"));
        Ok(Uring {
            queues,
            ledger: Ledger::new(),
            lane,
            done: Vec::with_capacity(IO_IN_FLIGHT_MAX),
            memory,
            is_closed: false,
            _thread: PhantomData,
        })
    }

    /// Puts a device into the table; after an error the place is empty. Panics if the index is taken.
    pub fn attach(&mut self, index: DeviceIndex, mut device: UringDevice) -> io::Result<()> {
        assert!(self.ledger.devices[index.0 as usize].is_none(), "{index:?} is attached");
        assert!(device.depth_max > 0 && device.transfer_bytes_max > 0);
        assert!(device.transfer_bytes_max.is_multiple_of(SECTOR_BYTES));
        device.namespace = device.namespace.filter(|_| self.queues.interrupt.takes_passthrough());
        let namespace = device.namespace.as_ref().map(|namespace| namespace.file.as_raw_fd());
        if let Err(error) = self.register_device(index, device.file.as_raw_fd(), namespace) {
            // A registered file would keep its device locked. Removing from an empty place is allowed.
            let _ = self.register_device(index, -1, namespace.map(|_| -1));
            return Err(error);
        }
        // The longest possible backlog: every operation waits, and every piece in the kernel comes back.
        let room = IO_IN_FLIGHT_MAX + device.depth_max as usize;
        let attached = Attached { device, in_kernel: 0, backlog: VecDeque::with_capacity(room) };
        self.ledger.devices[index.0 as usize] = Some(attached);
        self.queues.limit_workers(self.ledger.devices.iter().flatten().map(|attached| &attached.device))
    }

    /// Removes a device from the table and closes it. Fails with `EBUSY` and changes nothing while operations
    /// on the device are in flight. An index without a device counts as detached.
    pub fn detach(&mut self, index: DeviceIndex) -> io::Result<()> {
        let place = &mut self.ledger.devices[index.0 as usize];
        if place.as_ref().is_some_and(|device| device.in_kernel > 0 || !device.backlog.is_empty()) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        if let Some(attached) = place.take() {
            self.register_device(index, -1, attached.device.namespace.map(|_| -1))?;
        }
        Ok(())
    }

    /// Opens the lane of a front end's commands, which go to `file`. At most one front end uses it.
    pub fn open_lane(&mut self, file: RawFd) -> io::Result<Lane> {
        self.queues.interrupt.register_file(LANE_FILE, file)?;
        Ok(self.lane.clone())
    }

    /// Like `open_lane`, with memory for commands in batches: `blocks` blocks of `block_bytes` each. Fails if
    /// the kernel is too old for such commands.
    pub fn open_batch_lane(&mut self, file: RawFd, blocks: usize, block_bytes: usize) -> io::Result<Lane> {
        self.lane.make_room(&self.queues.interrupt, blocks, block_bytes)?;
        self.open_lane(file)
    }

    /// Submits the commands of the lane, as many as the submission queue holds, in one system call, so a kill
    /// comes before or after all of them.
    pub fn submit_lane(&mut self) {
        self.lane.submit(&mut self.queues.interrupt);
        self.queues.interrupt.enter(Collect::Announced);
    }

    /// Whether host buffers can be named (see [`UringConfig::host_buffers`]).
    #[must_use]
    pub fn takes_host_buffers(&self) -> bool {
        self.queues.interrupt.takes_host_buffers()
    }

    /// Whether there is a polled io_uring in addition to the one with interrupts.
    #[must_use]
    pub fn is_polled(&self) -> bool {
        self.queues.polled.is_some()
    }

    /// Whether the arenas are fixed buffers. If not, `RLIMIT_MEMLOCK` is too low for them, and every
    /// operation pins its pages anew (at 512 KiB this costs a quarter of the throughput).
    #[must_use]
    pub fn buffers_are_fixed(&self) -> bool {
        self.queues.interrupt.buffers_are_fixed()
    }

    /// Registers the files of a device with every queue; -1 empties the place of a file.
    fn register_device(
        &mut self,
        index: DeviceIndex,
        file: RawFd,
        namespace: Option<RawFd>,
    ) -> io::Result<()> {
        let places = [Some((u32::from(index.0), file)), namespace.map(|file| (namespace_file(index), file))];
        let mut queues = self.queues.all();
        queues.try_for_each(|queue| {
            places.iter().flatten().try_for_each(|&(place, file)| queue.register_file(place, file))
        })
    }

    /// Moves pieces of a device from its backlog to the submission queue, as many as depth and room allow.
    fn advance(&mut self, index: DeviceIndex) {
        let Ledger { operations, devices, waiting } = &mut self.ledger;
        let attached = devices[index.0 as usize].as_mut().expect("only attached devices have a backlog");
        while let Some(piece) = attached.backlog.front_mut()
            && attached.in_kernel < attached.device.depth_max
        {
            let operation = &mut operations[piece.tag as usize];
            let (first, rest) = piece.cut(attached.device.transfer_bytes_max);
            if !self.queues.send(operation, &attached.device, first) {
                break;
            }
            attached.in_kernel += 1;
            match rest {
                Some(rest) => {
                    *piece = rest;
                    operation.pieces += 1;
                }
                None => drop(attached.backlog.pop_front()),
            }
        }
        let bit = 1 << index.0;
        *waiting = if attached.backlog.is_empty() { *waiting & !bit } else { *waiting | bit };
    }

    /// Advances every device with a backlog.
    fn advance_all(&mut self) {
        let mut waiting = self.ledger.waiting;
        while waiting != 0 {
            self.advance(DeviceIndex(waiting.trailing_zeros() as u8));
            waiting &= waiting - 1;
        }
    }

    /// Exchanges entries and completions with the kernel. Returns whether another exchange is useful at once.
    fn exchange(&mut self, collect: Collect, completions: &mut Vec<Completion>) -> Look {
        self.advance_all();
        let waiting = self.lane.submit(&mut self.queues.interrupt) | (self.ledger.waiting != 0);
        let was_full = waiting && self.queues.all().any(|queue| queue.is_full());
        let mut retried = false;
        let (ledger, lane) = (&mut self.ledger, &self.lane);
        for queue in self.queues.all() {
            queue.enter(collect);
            queue.reap(|reaped| match Piece::unpack(reaped.name) {
                None => lane.arrive(reaped),
                Some(piece) => match ledger.settle(piece, reaped.result) {
                    Settled::Completed(completion) => completions.push(completion),
                    Settled::Partly => {}
                    Settled::Again => retried = true,
                },
            });
        }
        if was_full || retried { Look::Again } else { Look::Enough }
    }
}

impl Ring for Uring {
    fn push(&mut self, op: MemberOp) {
        super::assert_well_formed(&op);
        if op.io == MemberIo::Read {
            self.memory.assert_writable(op.span);
        }
        let operation = &mut self.ledger.operations[op.tag as usize];
        assert_eq!(operation.pieces, 0, "tag {} is in flight already", op.tag);
        let Some(attached) = &mut self.ledger.devices[op.device.0 as usize] else {
            self.done.push(Completion { tag: op.tag, result: Err(libc::EBADF) });
            return;
        };
        if op.io == MemberIo::Deallocate && attached.device.deallocate == Deallocate::Ignore {
            self.done.push(Completion { tag: op.tag, result: Ok(()) });
            return;
        }
        *operation = Operation { op, pieces: 1, retries: 0, may_block: false, error: 0 };
        let piece = Piece::whole(&op, attached.device.way_of(&op));
        // Fast path, taken by nearly all operations: one piece, and nothing is queued ahead of it.
        if attached.backlog.is_empty()
            && attached.in_kernel < attached.device.depth_max
            && piece.len_bytes() <= attached.device.transfer_bytes_max
            && self.queues.send(operation, &attached.device, piece)
        {
            attached.in_kernel += 1;
            return;
        }
        attached.backlog.push_back(piece);
        if attached.backlog.len() == 1 {
            self.advance(op.device);
        }
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        let before = completions.len() + self.lane.arrived();
        completions.append(&mut self.done);
        let mut collect = Collect::Announced;
        for _round in 0..ROUNDS_MAX {
            if self.exchange(collect, completions) == Look::Again {
                continue;
            }
            if completions.len() + self.lane.arrived() > before {
                return self.queues.interrupt.mute();
            }
            if self.queues.interrupt.arm() == Look::Enough {
                return;
            }
            collect = Collect::Always;
        }
        // Out of rounds with something left to move: a reactor that sleeps now is woken at once.
        self.queues.interrupt.ring_bell();
    }

    fn wait_fd(&self) -> Option<RawFd> {
        match &self.queues.polled {
            // The reactor must not sleep either while pieces wait for a place at their device: the piece that
            // made a place may have been the last one in the kernel, and polled completions do not ring the
            // bell. (Without this, a write in two pieces, one at a time, was never finished.)
            Some(polled) if polled.in_flight() > 0 || self.ledger.waiting != 0 => None,
            _ => self.queues.interrupt.wait_fd(),
        }
    }
}

impl UringDevice {
    /// Whether this is a block device that has become too small for an operation. The kernel sets the
    /// capacity of a drive that was pulled to 0 and answers its writes with `ENOSPC`. A full pool under a
    /// thin volume gives the same answer, but the volume keeps its size. Called only after a write has
    /// failed; does not block.
    fn ends_before(&self, op: &MemberOp) -> bool {
        let is_block = self.file.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
        let end = (&self.file).seek(io::SeekFrom::End(0)).unwrap_or(0);
        is_block && end < op.offset_bytes + op.len_bytes
    }

    /// The way that pieces take at first.
    fn way(&self) -> Way {
        if self.namespace.is_some() { Way::Passthrough } else { Way::File }
    }

    /// The way that an operation takes at first.
    fn way_of(&self, op: &MemberOp) -> Way {
        match &self.namespace {
            Some(namespace) if !namespace.sends(op) => Way::File,
            _ => self.way(),
        }
    }
}

/// The effect of a finished piece on its operation.
enum Settled {
    /// The operation is complete.
    Completed(Completion),
    /// Other pieces of the operation are still in flight.
    Partly,
    /// The piece, or the rest of it, was queued again.
    Again,
}

impl Ledger {
    /// Whether the kernel holds any piece of this device.
    fn is_asked(&self, index: usize) -> bool {
        self.devices.get(index).and_then(Option::as_ref).is_some_and(|it| it.in_kernel > 0)
    }

    fn new() -> Ledger {
        let nothing = MemberOp {
            tag: 0,
            device: DeviceIndex(0),
            io: MemberIo::Flush,
            offset_bytes: 0,
            len_bytes: 0,
            span: crate::memory::Span::EMPTY,
        };
        let unused = Operation { op: nothing, pieces: 0, retries: 0, may_block: false, error: 0 };
        Ledger {
            operations: vec![unused; IO_IN_FLIGHT_MAX].into_boxed_slice(),
            devices: (0..DEVICES_MAX).map(|_| None).collect(),
            waiting: 0,
        }
    }

    /// Records a piece that left the kernel with `result`, as in a completion queue entry.
    fn settle(&mut self, piece: Piece, result: i32) -> Settled {
        let operation = &mut self.operations[piece.tag as usize];
        let device = operation.op.device;
        let attached = self.devices[device.0 as usize].as_mut().expect("in use, so not detached");
        attached.in_kernel -= 1;
        match judge(&operation.op, piece, result) {
            Verdict::Done => {}
            Verdict::Rest(rest) if operation.retries < RETRIES_MAX => {
                operation.retries += 1;
                attached.backlog.push_front(rest);
                self.waiting |= 1 << device.0;
                return Settled::Again;
            }
            Verdict::Rest(_) => operation.fail(if result < 0 { -result } else { libc::EIO }),
            Verdict::Refused if !operation.may_block => {
                operation.may_block = true;
                attached.backlog.push_front(piece);
                self.waiting |= 1 << device.0;
                return Settled::Again;
            }
            Verdict::Refused => operation.fail(libc::EOPNOTSUPP),
            Verdict::Unsupported => attached.device.deallocate = Deallocate::Ignore,
            Verdict::Failed(libc::ENOSPC) if attached.device.ends_before(&operation.op) => {
                operation.fail(libc::ENODEV);
            }
            Verdict::Failed(error) => operation.fail(error),
        }
        operation.pieces -= 1;
        if operation.pieces > 0 {
            return Settled::Partly;
        }
        let result = if operation.error == 0 { Ok(()) } else { Err(operation.error) };
        Settled::Completed(Completion { tag: operation.op.tag, result })
    }
}

impl Operation {
    /// Records an error, unless an earlier one is recorded.
    fn fail(&mut self, error: i32) {
        if self.error == 0 {
            self.error = error;
        }
    }
}

impl MemberIo {
    /// Whether the operation moves bytes of a span.
    fn is_transfer(self) -> bool {
        match self {
            MemberIo::Read | MemberIo::Write(_) => true,
            MemberIo::Flush | MemberIo::Deallocate => false,
        }
    }
}

/// The place of the lane's file in the table of files, after the devices.
const LANE_FILE: u32 = DEVICES_MAX as u32;

/// Number of places in the table of files: for the devices, the lane and the namespaces.
const FILES: u32 = 2 * DEVICES_MAX as u32 + 1;

/// The place of a device's namespace in the table of files.
fn namespace_file(index: DeviceIndex) -> u32 {
    LANE_FILE + 1 + u32::from(index.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Span;
    use crate::ring::Durability;

    pub(super) fn op(io: MemberIo, len_bytes: u32) -> MemberOp {
        let span = Span { arena: 0, offset_bytes: 0, len_bytes };
        let (device, tag) = (DeviceIndex(0), 7);
        MemberOp { tag, device, io, offset_bytes: 0, len_bytes: len_bytes.into(), span }
    }

    /// A ledger of one device that has `in_kernel` pieces in the kernel.
    fn ledger_of_one(in_kernel: u32) -> Ledger {
        let mut ledger = Ledger::new();
        let device = UringDevice {
            file: File::open("/dev/null").unwrap(),
            namespace: None,
            deallocate: Deallocate::Ignore,
            polled: false,
            depth_max: 4,
            transfer_bytes_max: 4096,
        };
        ledger.devices[0] = Some(Attached { device, in_kernel, backlog: VecDeque::new() });
        ledger
    }

    #[test]
    fn what_a_drive_does_not_take_goes_by_the_file() {
        let mut ledger = ledger_of_one(0);
        let device = &mut ledger.devices[0].as_mut().unwrap().device;
        let file = File::open("/dev/null").unwrap();
        let deallocation_bytes_max = 1 << 20;
        device.namespace = Some(Namespace { file, number: 1, block_shift: 12, deallocation_bytes_max });
        assert_eq!(device.way_of(&op(MemberIo::Read, 4096)), Way::Passthrough);
        assert_eq!(device.way_of(&op(MemberIo::Read, 512)), Way::File);
        assert_eq!(device.way_of(&MemberOp { offset_bytes: 512, ..op(MemberIo::Read, 4096) }), Way::File);
        assert_eq!(device.way_of(&op(MemberIo::Flush, 0)), Way::Passthrough);
        assert_eq!(device.way_of(&op(MemberIo::Deallocate, 1 << 20)), Way::Passthrough);
        assert_eq!(device.way_of(&op(MemberIo::Deallocate, (1 << 20) + 4096)), Way::File);
    }

    #[test]
    fn an_operation_ends_with_its_last_piece_and_its_first_error() {
        let mut ledger = ledger_of_one(3);
        let read = op(MemberIo::Read, 8192);
        ledger.operations[7] = Operation { op: read, pieces: 2, retries: 0, may_block: false, error: 0 };
        let (first, second) = Piece::whole(&read, Way::File).cut(4096);
        assert!(matches!(ledger.settle(second.unwrap(), -libc::EIO), Settled::Partly));
        assert!(matches!(ledger.settle(first, -libc::EAGAIN), Settled::Again));
        let again = ledger.devices[0].as_mut().unwrap().backlog.pop_front().unwrap();
        assert_eq!((again, ledger.waiting), (first, 1));
        let expected = Completion { tag: 7, result: Err(libc::EIO) };
        assert!(matches!(ledger.settle(again, 4096), Settled::Completed(is) if is == expected));
    }

    /// A past failure: the table of a device-mapper member was replaced by one that cannot work without
    /// blocking, and the healthy member was failed: "a metadata write failed: Operation not supported"
    /// (tests/guest/scenarios/errors).
    #[test]
    fn what_is_refused_is_tried_again_and_may_block_then() {
        let mut ledger = ledger_of_one(2);
        let write = op(MemberIo::Write(Durability::Durable), 4096);
        ledger.operations[7] = Operation { op: write, pieces: 1, retries: 0, may_block: false, error: 0 };
        let whole = Piece::whole(&write, Way::File);
        assert!(matches!(ledger.settle(whole, -libc::EOPNOTSUPP), Settled::Again));
        assert!(ledger.operations[7].may_block);
        assert_eq!(ledger.devices[0].as_mut().unwrap().backlog.pop_front(), Some(whole));
        let expected = Completion { tag: 7, result: Err(libc::EOPNOTSUPP) };
        assert!(matches!(ledger.settle(whole, -libc::EOPNOTSUPP), Settled::Completed(is) if is == expected));
    }

    #[test]
    fn retries_end() {
        let mut ledger = ledger_of_one(5000);
        let read = op(MemberIo::Read, 4096);
        ledger.operations[7] = Operation { op: read, pieces: 1, retries: 0, may_block: false, error: 0 };
        let tries = (1..).find(|_| match ledger.settle(Piece::whole(&read, Way::File), -libc::EAGAIN) {
            Settled::Completed(completion) => completion.result == Err(libc::EAGAIN),
            Settled::Again | Settled::Partly => false,
        });
        assert_eq!(tries, Some(u32::from(RETRIES_MAX) + 1));
    }
}
