//! A lane carries the commands of a front end together with the members' operations.
//!
//! ublk hands out requests as completions of commands, and takes their results as further commands, all on an
//! io_uring of the thread that serves the queue. A second io_uring for them would cost a second system call
//! per turn and a second bell, and would rule out zero copy, since a request's pages can be named only in the
//! ring that fetched it. So the commands share the reactor's io_uring:
//!
//! ```text
//!   front end -- push --> outgoing --.                      .--> arrived -- take --> front end
//!                                     > Uring::turn, one enter <
//!   array ---- MemberOp --> backlog --'                      '--> completions ------> array
//! ```
//!
//! Both ends are on one thread and use the lane in turn, so a `RefCell` is protection enough. Commands carry
//! numbers, or name memory of the lane itself ([`batch`](super::batch)) or of an arena. Both memories live as
//! long as the ring, and are never freed if commands are out when the ring ends, so the end need not wait for
//! those commands.

#![expect(unsafe_code, reason = "commands in batches hold addresses")]

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

use io_uring::{cqueue, opcode, squeue, types};

use super::LANE_FILE;
use super::batch::{BatchMemory, GROUP};
use super::piece::LANE;
use super::queue::Queue;
use super::wire::Reaped;

/// Commands that a lane holds without growing: one for every request of the deepest queue.
const COMMANDS_EXPECTED: usize = 4096;

/// A command of the front end.
#[derive(Clone, Copy, Debug)]
pub struct LaneCommand {
    /// The front end's name for the command, returned with its result; unique among the commands in flight.
    pub name: u32,
    /// The driver's number for the operation.
    pub operation: u32,
    /// The command's arguments.
    pub bytes: [u8; 16],
    /// Data that goes with the arguments.
    pub payload: Payload,
}

/// Index of a block of a batch lane, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockIndex(pub u16);

/// The data that a command carries in addition to its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A number, in the field that holds the address in the entry of an ordinary read. The driver must not
    /// treat it as an address.
    Number(u64),
    /// The address of a block, which belongs to the command until it ends.
    Block(BlockIndex),
    /// None; the command is multishot (`IORING_URING_CMD_MULTISHOT`): it stays and delivers items as they
    /// arrive, until it ends.
    Deliveries,
}

/// An event of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The command has ended.
    Ended {
        /// The command's name.
        name: u32,
        /// The driver's answer: a negative `errno`, or a value that depends on the command.
        result: i32,
    },
    /// The command has delivered an item.
    Delivered {
        /// The command's name.
        name: u32,
        /// A number that the driver delivers.
        item: u16,
    },
}

/// A handle of the lane; the front end and the ring have one each.
#[derive(Clone)]
pub struct Lane(Rc<Ends>);

struct Ends {
    outgoing: RefCell<VecDeque<LaneCommand>>,
    arrived: RefCell<VecDeque<Arrival>>,
    /// Number of arrivals ever, by which a turn sees that it brought some.
    arrivals: Cell<usize>,
    wait_fd: RawFd,
    batch: OnceCell<BatchMemory>,
}

impl Lane {
    pub(super) fn new(wait_fd: RawFd) -> Lane {
        Lane(Rc::new(Ends {
            outgoing: RefCell::new(VecDeque::with_capacity(COMMANDS_EXPECTED)),
            arrived: RefCell::new(VecDeque::with_capacity(COMMANDS_EXPECTED)),
            arrivals: Cell::new(0),
            wait_fd,
            batch: OnceCell::new(),
        }))
    }

    /// Allocates memory for commands in batches.
    pub(super) fn make_room(&self, queue: &Queue, blocks: usize, block_bytes: usize) -> io::Result<()> {
        let memory = BatchMemory::new(queue, blocks, block_bytes)?;
        assert!(self.0.batch.set(memory).is_ok(), "a lane is opened once");
        Ok(())
    }

    fn batch(&self) -> &BatchMemory {
        self.0.batch.get().expect("opened as a batch lane")
    }

    /// Writes into a block that no command holds.
    pub fn write_block(&self, block: BlockIndex, offset: usize, bytes: &[u8]) {
        self.batch().write(block, offset, bytes);
    }

    /// Reads the bytes that were written into a block.
    pub fn read_block(&self, block: BlockIndex, offset: usize, into: &mut [u8]) {
        self.batch().read(block, offset, into);
    }

    /// Queues a command; the next turn of the ring submits it.
    pub fn push(&self, command: LaneCommand) {
        if let Payload::Block(block) = command.payload {
            self.batch().hold(block, command.name);
        }
        self.0.outgoing.borrow_mut().push_back(command);
    }

    /// Takes the next arrival.
    #[must_use]
    pub fn take(&self) -> Option<Arrival> {
        self.0.arrived.borrow_mut().pop_front()
    }

    /// Whether [`Lane::take`] would return an arrival.
    #[must_use]
    pub fn has_arrivals(&self) -> bool {
        !self.0.arrived.borrow().is_empty()
    }

    /// Whether every pushed command is with the kernel, and every block is back.
    #[must_use]
    pub fn is_submitted(&self) -> bool {
        self.0.outgoing.borrow().is_empty() && self.0.batch.get().is_none_or(|batch| !batch.holds_any())
    }

    /// A descriptor that polls readable when a turn of the ring would bring an arrival, under the conditions
    /// of [`Ring::wait_fd`](crate::ring::Ring::wait_fd).
    #[must_use]
    pub fn wait_fd(&self) -> RawFd {
        self.0.wait_fd
    }

    /// Moves commands to the queue as long as it has room. Returns whether any are left.
    pub(super) fn submit(&self, queue: &mut Queue) -> bool {
        if let Some(batch) = self.0.batch.get() {
            batch.give_slots_back();
        }
        let mut outgoing = self.0.outgoing.borrow_mut();
        while !outgoing.is_empty() && !queue.is_full() {
            let command = outgoing.pop_front().expect("looked at");
            // SAFETY: an address in it is that of a block, which lives as long as the lane, or of a span that
            // a front end put into its arguments, whose arena the ring holds. Both live longer than the queue
            // (see `Uring`'s drop).
            unsafe { queue.push_command(self.entry(&command)) };
        }
        !outgoing.is_empty()
    }

    fn entry(&self, command: &LaneCommand) -> squeue::Entry {
        let address = match command.payload {
            Payload::Number(number) => Some(number),
            Payload::Block(block) => Some(self.batch().block_address(block)),
            Payload::Deliveries => None,
        };
        let entry = opcode::UringCmd16::new(types::Fixed(LANE_FILE), command.operation)
            .cmd(command.bytes)
            .addr(address)
            .build()
            .user_data(LANE | u64::from(command.name));
        if command.payload == Payload::Deliveries { multishot(entry) } else { entry }
    }

    /// Records a completion whose name belongs to the lane.
    pub(super) fn arrive(&self, reaped: Reaped) {
        let Reaped { name, result, flags } = reaped;
        let name = name as u32;
        let mut arrived = self.0.arrived.borrow_mut();
        let before = arrived.len();
        match cqueue::buffer_select(flags) {
            Some(slot) => {
                let items = self.batch().delivered(slot, usize::try_from(result).unwrap_or(0));
                arrived.extend(items.map(|item| Arrival::Delivered { name, item }));
                if !cqueue::more(flags) {
                    arrived.push_back(Arrival::Ended { name, result: 0 });
                }
            }
            None if cqueue::more(flags) => {}
            None => {
                if let Some(batch) = self.0.batch.get() {
                    batch.release(name);
                }
                arrived.push_back(Arrival::Ended { name, result });
            }
        }
        self.0.arrivals.set(self.0.arrivals.get().wrapping_add(arrived.len() - before));
    }

    /// Takes the next command, in the role of the kernel.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> Option<LaneCommand> {
        self.0.outgoing.borrow_mut().pop_front()
    }

    /// Records an arrival, in the role of the kernel.
    #[cfg(test)]
    pub(crate) fn says(&self, arrival: Arrival) {
        if let Arrival::Ended { name, .. } = arrival {
            self.batch().release(name);
        }
        self.0.arrived.borrow_mut().push_back(arrival);
    }

    /// Number of arrivals ever.
    pub(super) fn arrived(&self) -> usize {
        self.0.arrivals.get()
    }
}

/// Makes a command multishot, with provided buffers of the lane's group. The io-uring crate has no functions
/// for that.
fn multishot(entry: squeue::Entry) -> squeue::Entry {
    /// `IORING_URING_CMD_MULTISHOT`, in `uring_cmd_flags` of `struct io_uring_sqe`.
    const MULTISHOT: u32 = 1 << 1;
    const URING_CMD_FLAGS_AT: usize = 28;
    const BUFFER_GROUP_AT: usize = 40;
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    // SAFETY: an entry is exactly the kernel's structure of 64 bytes (`repr(C)` over it), for which every bit
    // pattern is valid.
    let mut bytes: [u8; 64] = unsafe { std::mem::transmute(entry) };
    bytes[URING_CMD_FLAGS_AT..][..4].copy_from_slice(&MULTISHOT.to_ne_bytes());
    bytes[BUFFER_GROUP_AT..][..2].copy_from_slice(&GROUP.to_ne_bytes());
    // SAFETY: as above.
    let entry: squeue::Entry = unsafe { std::mem::transmute(bytes) };
    entry.flags(squeue::Flags::BUFFER_SELECT)
}
