//! The engine's `Ring`, on the bus: what it pushes flies there, and ends when the world says so.

use std::cell::RefCell;
use std::rc::Rc;

use engine::memory::Span;
use engine::ring::{Completion, DeviceIndex, MemberIo, MemberOp, Ring};

use crate::bus::Bus;

/// A ring of the engine on the bus.
pub struct SimRing {
    bus: Rc<RefCell<Bus>>,
    name: u32,
    /// Disk of each device.
    pub devices: Vec<usize>,
}

impl SimRing {
    /// A ring that knows these disks, in the order of their device index.
    #[must_use]
    pub fn new(bus: &Rc<RefCell<Bus>>, name: u32, devices: Vec<usize>) -> SimRing {
        SimRing { bus: Rc::clone(bus), name, devices }
    }

    /// The disk of a device.
    #[must_use]
    pub fn disk(&self, device: DeviceIndex) -> Option<usize> {
        self.devices.get(usize::from(device.0)).copied()
    }
}

impl Ring for SimRing {
    fn push(&mut self, op: MemberOp) {
        assert!(
            op.span.len_bytes == 0 || op.len_bytes == u64::from(op.span.len_bytes),
            "RING: lengths differ"
        );
        assert!(op.io == MemberIo::Flush || op.len_bytes > 0, "RING: an operation of no bytes");
        let (disk, span) = (self.disk(op.device), op.span);
        debug_assert!(matches!(op.io, MemberIo::Flush | MemberIo::Deallocate) || span != Span::EMPTY);
        self.bus.borrow_mut().push(self.name, disk, op);
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        self.bus.borrow_mut().turn(self.name, completions);
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}
