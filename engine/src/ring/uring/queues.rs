//! The queues of a ring, and the choice of the queue for a piece.

use std::io;
use std::sync::Arc;

use io_uring::squeue;

use super::entry::{Ranges, file_entry, passthrough_entry};
use super::piece::{Piece, Way};
use super::queue::{Queue, QueueConfig};
use super::wire::{Submission, Width};
use super::{Operation, UringConfig, UringDevice, workers};
use crate::memory::Memory;

/// The io_uring with interrupts, and the polled one if there is one. Fields drop in order, so the memory that
/// the queues point to outlives them.
pub(super) struct Queues {
    /// Takes everything that the polled queue does not.
    pub(super) interrupt: Queue,
    /// Takes reads and writes of polled devices.
    pub(super) polled: Option<Queue>,
    /// The ranges that deallocations by passthrough point to.
    ranges: Ranges,
    memory: Arc<Memory>,
    /// Number of CPUs on which the kernel's workers may run; 0 for the CPU of the ring.
    worker_cpus: usize,
}

impl Queues {
    pub(super) fn new(memory: Arc<Memory>, config: &UringConfig) -> io::Result<Queues> {
        let queue = |polled| {
            let host_buffers = if polled { 0 } else { config.host_buffers };
            let width = if config.passthrough { Width::Wide } else { Width::Narrow };
            let config = QueueConfig { worker_cpus: &config.worker_cpus, polled, width, host_buffers };
            Queue::new(&memory, &config)
        };
        let interrupt = queue(false)?;
        let polled = if config.polled { Some(queue(true)?) } else { None };
        let (ranges, worker_cpus) = (Ranges::new(config.passthrough), config.worker_cpus.len());
        Ok(Queues { interrupt, polled, ranges, memory, worker_cpus })
    }

    /// Limits the kernel's worker threads to as many as these devices can hold, and some more.
    pub(super) fn limit_workers<'d>(
        &mut self,
        attached: impl Iterator<Item = &'d UringDevice>,
    ) -> io::Result<()> {
        let most = workers::most(self.worker_cpus, attached);
        self.all().try_for_each(|queue| queue.limit_workers(most))
    }

    /// Keeps the ranges in memory for as long as the process lives, because the kernel may still read them.
    pub(super) fn keep_ranges(&mut self) {
        std::mem::forget(std::mem::replace(&mut self.ranges, Ranges::new(false)));
    }

    /// Iterates over the queues that exist.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Queue> {
        [Some(&mut self.interrupt), self.polled.as_mut()].into_iter().flatten()
    }

    /// Puts a piece of a length that the device takes at once into its queue. Returns whether there was room.
    #[inline]
    pub(super) fn send(&mut self, operation: &Operation, device: &UringDevice, piece: Piece) -> bool {
        let op = &operation.op;
        // Host buffers are only in the interrupt queue's table. A piece repeated after a failed passthrough
        // is not urgent.
        let queue = match &mut self.polled {
            Some(polled)
                if device.polled
                    && piece.way == device.way()
                    && op.io.is_transfer()
                    && usize::from(op.span.arena) < self.memory.arena_count() =>
            {
                polled
            }
            _ => &mut self.interrupt,
        };
        if !queue.has_room() {
            return false;
        }
        let fixed = queue.buffers_are_fixed();
        queue.push(match (piece.way, &device.namespace) {
            (Way::Passthrough, Some(namespace)) => {
                let entry = passthrough_entry(op, piece, namespace, &mut self.ranges, &self.memory, fixed);
                Submission::Long(entry)
            }
            _ => {
                let entry = file_entry(op, piece, device.deallocate, &self.memory, fixed);
                Submission::Short(if operation.may_block { entry.flags(squeue::Flags::ASYNC) } else { entry })
            }
        });
        true
    }
}

/// Adds advice for the operator to an error of making a queue.
pub(super) fn explained(error: io::Error) -> io::Error {
    let advice = match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            "raise the limit on locked memory (ulimit -l, LimitMEMLOCK=); a ring takes 160 KiB of it, twice that for passthrough"
        }
        Some(libc::ENOSYS | libc::EINVAL) => "Linux 6.1 or newer is needed",
        Some(libc::EPERM) => {
            "it is forbidden here: see sysctl kernel.io_uring_disabled, or a container's seccomp"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("cannot set up io_uring: {error}; {advice}"))
}
