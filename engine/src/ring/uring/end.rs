//! The end of a ring.
//!
//! - Memory must not be unmapped while the kernel may still read or write it. So the end waits for what is in
//!   the kernel, as long as completions arrive.
//! - A device that does not answer is not waited for. Its operations stay in the kernel, and their memory
//!   stays mapped until the process ends. [`Uring::close`] returns these devices.
//! - The kernel dismantles a ring in the background, some time after its descriptor is closed. Until then it
//!   would hold the ring's files, and with them the locks on members, and a server that starts at once would
//!   find its members taken. So files are removed from the ring before its descriptor is closed.

use std::sync::Arc;

use super::piece::Piece;
use super::queue::Released;
use super::{Operation, Uring};
use crate::ring::DeviceIndex;

impl Uring {
    /// Lists the devices that were asked to fill pages of hosts' requests and have not answered, in no order,
    /// with repetitions.
    #[must_use]
    pub fn host_reads(&self) -> Vec<DeviceIndex> {
        let is_mapped = |operation: &&Operation| self.memory.is_mapped(operation.op.span);
        let under_way = self.ledger.operations.iter().filter(|operation| operation.pieces > 0);
        under_way.filter(|operation| !is_mapped(operation)).map(|operation| operation.op.device).collect()
    }

    /// Ends the ring. Returns the devices whose operations the kernel has not given back. Until it does,
    /// their files stay open, and the process may be unable to end.
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
                    // A piece that would be retried is not, since nothing waits for it.
                    let _ended = ledger.settle(piece, reaped.result);
                }
            });
        }
        // A device is claimed through its file, which a passthrough command in flight does not name. If the
        // file were closed, another server could take the device, and the command could be carried out after
        // that server's writes.
        let ledger = &self.ledger;
        let released =
            self.queues.all().map(|queue| queue.release_files(|place| ledger.is_asked(place as usize)));
        // Commands of a lane may also be handed requests, in the memory that they name, until this thread has
        // ended.
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
