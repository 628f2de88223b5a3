//! The engine's `Ring`, on the bus: what it pushes flies there, and ends when the world says so.
//!
//! An operation lies in one zone of its disk, or the bus ends the run. The one exception is zeros over what a device held before the
//! data zone, with which the engine makes a device its own: the ring cuts such a write where the bitmap ends, as a drive
//! does at a boundary, and completes it with its second half.

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
    /// Tags of operations of which both halves are in flight.
    halved: Vec<u32>,
    /// Halves whose other half is still in flight.
    half_done: Vec<Completion>,
}

impl SimRing {
    /// A ring that knows these disks, in the order of their device index.
    #[must_use]
    pub fn new(bus: &Rc<RefCell<Bus>>, name: u32, devices: Vec<usize>) -> SimRing {
        SimRing { bus: Rc::clone(bus), name, devices, halved: Vec::new(), half_done: Vec::new() }
    }

    /// The disk of a device.
    #[must_use]
    pub fn disk(&self, device: DeviceIndex) -> Option<usize> {
        self.devices.get(usize::from(device.0)).copied()
    }

    /// How many bytes of zeros lie before the end of the bitmap zone, where they go on behind it.
    fn cut_at(&self, disk: usize, op: &MemberOp) -> Option<u32> {
        let bus = self.bus.borrow();
        let at = bus.disks[disk].bitmap_end_within(op.offset_bytes, op.len_bytes)?;
        (matches!(op.io, MemberIo::Write(_)) && bus.memory.is_zero(op.span)).then_some(at)
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
        let Some(at) = disk.and_then(|disk| self.cut_at(disk, &op)) else {
            self.bus.borrow_mut().push(self.name, disk, op);
            return;
        };
        self.halved.push(op.tag);
        for (from, len) in [(0, at), (at, span.len_bytes - at)] {
            let half = MemberOp {
                offset_bytes: op.offset_bytes + u64::from(from),
                len_bytes: u64::from(len),
                span: span.part(from, len),
                ..op
            };
            self.bus.borrow_mut().push(self.name, disk, half);
        }
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        let before = completions.len();
        self.bus.borrow_mut().turn(self.name, completions);
        if self.halved.is_empty() {
            return;
        }
        let new = completions.split_off(before);
        for mut completion in new {
            if let Some(at) = self.half_done.iter().position(|half| half.tag == completion.tag) {
                completion.result = completion.result.and(self.half_done.swap_remove(at).result);
                self.halved.retain(|tag| *tag != completion.tag);
            } else if self.halved.contains(&completion.tag) {
                self.half_done.push(completion);
                continue;
            }
            completions.push(completion);
        }
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}
