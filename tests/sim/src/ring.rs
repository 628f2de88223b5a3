//! The engine's `Ring` on the simulated bus. The bus decides when a pushed operation completes.
//!
//! An operation must lie in one zone of its disk, or the bus ends the run. The only exception is zeros over
//! the old content of a device that joins, before the data zone. The ring cuts such a write where zones begin
//! and end, as a drive does at a boundary, and completes it with its last piece.

use std::cell::RefCell;
use std::rc::Rc;

use engine::memory::Span;
use engine::ring::{Completion, DeviceIndex, MemberIo, MemberOp, Ring};

use crate::bus::Bus;

/// A ring of the engine on the bus.
pub struct SimRing {
    bus: Rc<RefCell<Bus>>,
    name: u32,
    /// The disk of each device index.
    pub devices: Vec<usize>,
    /// Devices from this index on were offered to an array that takes none. Any operation on them ends the
    /// run.
    pub members: usize,
    /// Operations that were cut: the tag, the number of pieces in flight, and the result so far.
    cut: Vec<(u32, usize, Result<(), i32>)>,
}

impl SimRing {
    /// A ring that knows these disks, by device index.
    #[must_use]
    pub fn new(bus: &Rc<RefCell<Bus>>, name: u32, devices: Vec<usize>) -> SimRing {
        SimRing { bus: Rc::clone(bus), name, devices, members: usize::MAX, cut: Vec::new() }
    }

    /// The disk behind a device index.
    #[must_use]
    pub fn disk(&self, device: DeviceIndex) -> Option<usize> {
        self.devices.get(usize::from(device.0)).copied()
    }

    /// The pieces of a write of zeros that crosses zones.
    fn pieces(&self, disk: usize, op: &MemberOp) -> Option<Vec<(u64, u64)>> {
        let bus = self.bus.borrow();
        let is_wipe = || matches!(op.io, MemberIo::Write(_)) && bus.memory.is_zero(op.span);
        let pieces = bus.disks[disk].pieces(op.offset_bytes, op.len_bytes);
        (pieces.len() > 1 && is_wipe()).then_some(pieces)
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
        assert!(
            usize::from(op.device.0) < self.members,
            "D9: disk {disk:?} is asked {:?}, and the array has refused to take it in",
            op.io
        );
        debug_assert!(matches!(op.io, MemberIo::Flush | MemberIo::Deallocate) || span != Span::EMPTY);
        let Some(pieces) = disk.and_then(|disk| self.pieces(disk, &op)) else {
            self.bus.borrow_mut().push(self.name, disk, op);
            return;
        };
        self.cut.push((op.tag, pieces.len(), Ok(())));
        for (offset_bytes, len_bytes) in pieces {
            let part = span.part((offset_bytes - op.offset_bytes) as u32, len_bytes as u32);
            let piece = MemberOp { offset_bytes, len_bytes, span: part, ..op };
            self.bus.borrow_mut().push(self.name, disk, piece);
        }
    }

    fn turn(&mut self, completions: &mut Vec<Completion>) {
        let before = completions.len();
        self.bus.borrow_mut().turn(self.name, completions);
        if self.cut.is_empty() {
            return;
        }
        for mut completion in completions.split_off(before) {
            if let Some(at) = self.cut.iter().position(|cut| cut.0 == completion.tag) {
                let (_, pending, result) = &mut self.cut[at];
                (*pending, *result) = (*pending - 1, result.and(completion.result));
                if *pending > 0 {
                    continue;
                }
                completion.result = self.cut.swap_remove(at).2;
            }
            completions.push(completion);
        }
    }

    fn wait_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}
