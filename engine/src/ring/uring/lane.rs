//! A lane: the commands of a front end that travel with the members' operations.
//!
//! ublk hands out requests as completions of commands, and takes their results as further commands, all on an io_uring
//! of the thread that serves the queue. A second io_uring for them would cost a second system call a turn, a second
//! bell, and zero copy, since a request's pages can be named only in the ring that fetched it. So they share the
//! reactor's:
//!
//! ```text
//!   front end -- push --> outgoing --.                      .--> arrived -- take --> front end
//!                                     > Uring::turn, one enter <
//!   array ---- MemberOp --> backlog --'                      '--> completions ------> array
//! ```
//!
//! Both ends are on one thread and hold the lane in turn, so a `RefCell` is all the protection there is. Commands carry
//! numbers, never addresses: what is in flight when the ring goes away needs no waiting for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;

use io_uring::{opcode, types};

use super::LANE_FILE;
use super::piece::LANE;
use super::queue::Queue;

/// Commands that a lane holds without growing: every request of the deepest queue.
const COMMANDS_EXPECTED: usize = 4096;

/// One command.
#[derive(Clone, Copy, Debug)]
pub struct LaneCommand {
    /// The front end's name for it, returned with its result.
    pub name: u32,
    /// The driver's number for it.
    pub operation: u32,
    /// Its arguments.
    pub bytes: [u8; 16],
    /// A further number, where the entry of an ordinary read has its address. The driver must not take it for one.
    pub number: u64,
}

/// The end of a command.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its name.
    pub name: u32,
    /// What the driver answered: a negative `errno`, or what the command says.
    pub result: i32,
}

/// One of the two ends.
#[derive(Clone)]
pub struct Lane(Rc<Ends>);

struct Ends {
    outgoing: RefCell<VecDeque<LaneCommand>>,
    arrived: RefCell<VecDeque<Arrival>>,
    /// Submissions in all.
    submissions: Cell<usize>,
    /// Arrivals in all, to tell a turn that brought some.
    arrivals: Cell<usize>,
    wait_fd: RawFd,
}

impl Lane {
    pub(super) fn new(wait_fd: RawFd) -> Lane {
        Lane(Rc::new(Ends {
            outgoing: RefCell::new(VecDeque::with_capacity(COMMANDS_EXPECTED)),
            arrived: RefCell::new(VecDeque::with_capacity(COMMANDS_EXPECTED)),
            submissions: Cell::new(0),
            arrivals: Cell::new(0),
            wait_fd,
        }))
    }

    /// Queues a command; the next turn of the ring submits it.
    pub fn push(&self, command: LaneCommand) {
        self.0.outgoing.borrow_mut().push_back(command);
    }

    /// The next that has arrived.
    #[must_use]
    pub fn take(&self) -> Option<Arrival> {
        self.0.arrived.borrow_mut().pop_front()
    }

    /// Whether [`Lane::take`] would find one.
    #[must_use]
    pub fn has_arrivals(&self) -> bool {
        !self.0.arrived.borrow().is_empty()
    }

    /// Polls readable when a turn of the ring would bring an arrival, under the conditions of
    /// [`Ring::wait_fd`](crate::ring::Ring::wait_fd).
    #[must_use]
    pub fn wait_fd(&self) -> RawFd {
        self.0.wait_fd
    }

    /// Moves commands to the queue as long as it has room; whether any are left.
    pub(super) fn submit(&self, queue: &mut Queue) -> bool {
        let mut outgoing = self.0.outgoing.borrow_mut();
        while !outgoing.is_empty() && !queue.is_full() {
            let LaneCommand { name, operation, bytes, number } = outgoing.pop_front().expect("looked at");
            let command = opcode::UringCmd16::new(types::Fixed(LANE_FILE), operation);
            let entry = command.cmd(bytes).addr(Some(number)).build();
            queue.push_command(entry.user_data(LANE | u64::from(name)));
            self.0.submissions.set(self.0.submissions.get().wrapping_add(1));
        }
        !outgoing.is_empty()
    }

    /// Notes a completion whose name is a lane's.
    pub(super) fn arrive(&self, name: u64, result: i32) {
        self.0.arrived.borrow_mut().push_back(Arrival { name: name as u32, result });
        self.0.arrivals.set(self.0.arrivals.get().wrapping_add(1));
    }

    /// Whether commands wait at the driver.
    pub(super) fn is_waiting(&self) -> bool {
        self.0.submissions.get() != self.0.arrivals.get()
    }

    /// How many have arrived ever.
    pub(super) fn arrived(&self) -> usize {
        self.0.arrivals.get()
    }
}
