//! The end of a ring.
//!
//! - Memory may not be unmapped while the kernel may still write to it or read from it. So the end waits for what is in the kernel,
//!   as long as something comes.
//! - A device that does not answer is not waited for. Its operations stay in the kernel, and their memory stays mapped until the
//!   process ends. [`Uring::close`] says which devices these are.
//! - The kernel takes a ring apart in the background, some time after its descriptor is closed. Its files, and the locks on members
//!   with them, would be held until then, and a server that starts at once would find its members taken. So files leave the ring
//!   before its descriptor is closed.

use std::sync::Arc;

use super::piece::Piece;
use super::queue::Released;
use super::{Operation, Uring};
use crate::ring::DeviceIndex;

impl Uring {
    /// Devices that were asked to fill pages of hosts' requests, and have not answered. In no order, and some more than once.
    #[must_use]
    pub fn host_reads(&self) -> Vec<DeviceIndex> {
        let is_mapped = |operation: &&Operation| self.memory.is_mapped(operation.op.span);
        let under_way = self.ledger.operations.iter().filter(|operation| operation.pieces > 0);
        under_way.filter(|operation| !is_mapped(operation)).map(|operation| operation.op.device).collect()
    }

    /// Ends the ring. Returns the devices whose operations the kernel has not given back: their files stay open, and the process may
    /// not be able to end, until it does.
    pub fn close(&mut self) -> Vec<DeviceIndex> {
        if !std::mem::replace(&mut self.is_closed, true) {
            self.let_go();
        }
        let devices = (0..self.ledger.devices.len()).filter(|&index| self.ledger.is_asked(index));
        devices.map(|index| DeviceIndex(index as u8)).collect()
    }

    fn let_go(&mut self) {
        let ledger = &mut self.ledger;
        for queue in self.queues.all() {
            queue.drain(|reaped| {
                if let Some(piece) = Piece::unpack(reaped.name) {
                    // What is to be tried again is not: nothing waits for it.
                    let _ended = ledger.settle(piece, reaped.result);
                }
            });
        }
        // The claim on a device is on its file, and a passthrough command that is out does not name that: another server could have the
        // device, and the command come after its writes.
        let ledger = &self.ledger;
        let released =
            self.queues.all().map(|queue| queue.release_files(|place| ledger.is_asked(place as usize)));
        // Commands of a lane too may be handed requests, in the memory that they name, until this thread has ended.
        if released.fold(false, |kept, released| kept | (released == Released::WithTheProcess)) {
            std::mem::forget((self.lane.clone(), Arc::clone(&self.memory)));
            self.queues.keep_ranges();
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.close();
    }
}
