//! An io_uring of either width: entries of 64 and 16 bytes, or of 128 and 32 bytes if NVMe passthrough is
//! wanted.
//!
//! The kernel accepts passthrough commands on wide rings only (`nvme_uring_cmd_checks`), and everything else
//! on both. A wide ring moves twice the memory for each operation, so rings without passthrough stay narrow.

#![expect(unsafe_code, reason = "submission queue entries hold addresses")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use io_uring::squeue::Entry128;
use io_uring::{Builder, IoUring, Submitter, cqueue, squeue};

/// The longer completion queue entry.
type Entry32 = cqueue::Entry32;

/// The size of an io_uring's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Narrow,
    Wide,
}

/// An entry on its way to a submission queue.
pub(super) enum Submission {
    /// A short entry, for a ring of either width.
    Short(squeue::Entry),
    /// A long entry, for a wide ring.
    Long(Entry128),
}

/// An io_uring of the kernel.
pub(super) enum Wire {
    Narrow(IoUring),
    Wide(IoUring<Entry128, Entry32>),
}

/// A completion from the completion queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaped {
    /// The `user_data` of the entry.
    pub(super) name: u64,
    /// A negative `errno`, or a value that depends on the operation.
    pub(super) result: i32,
    /// Flags of the completion, `IORING_CQE_F_*`.
    pub(super) flags: u32,
}

impl Wire {
    /// Makes an io_uring with the flags of `setup`.
    pub(super) fn new(width: Width, entries: u32, setup: &impl Setup) -> io::Result<Wire> {
        Ok(match width {
            Width::Narrow => {
                let mut builder = IoUring::builder();
                setup.apply(&mut builder);
                Wire::Narrow(builder.build(entries)?)
            }
            Width::Wide => {
                let mut builder = IoUring::builder();
                setup.apply(&mut builder);
                Wire::Wide(builder.build(entries)?)
            }
        })
    }

    pub(super) fn width(&self) -> Width {
        match self {
            Wire::Narrow(_) => Width::Narrow,
            Wire::Wide(_) => Width::Wide,
        }
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        match self {
            Wire::Narrow(ring) => ring.submitter(),
            Wire::Wide(ring) => ring.submitter(),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Wire::Narrow(ring) => ring.as_fd(),
            Wire::Wide(ring) => ring.as_fd(),
        }
    }

    /// Number of entries that have not been submitted.
    pub(super) fn unsubmitted(&mut self) -> u32 {
        let count = match self {
            Wire::Narrow(ring) => ring.submission().len(),
            Wire::Wide(ring) => ring.submission().len(),
        };
        count as u32
    }

    /// Whether the kernel announces work that is done only when it is entered.
    pub(super) fn announces(&mut self) -> bool {
        fn look<E: squeue::EntryMarker>(queue: &squeue::SubmissionQueue<'_, E>) -> bool {
            queue.taskrun() || queue.cq_overflow()
        }
        match self {
            Wire::Narrow(ring) => look(&ring.submission()),
            Wire::Wide(ring) => look(&ring.submission()),
        }
    }

    /// Queues an entry that fits the width; the caller has checked that there is room.
    ///
    /// # Safety
    ///
    /// Every address in the entry is valid until its completion has been taken.
    pub(super) unsafe fn push(&mut self, entry: Submission) {
        let pushed = match (self, entry) {
            (Wire::Narrow(ring), Submission::Short(entry)) => {
                // SAFETY: the caller's promise.
                unsafe { ring.submission().push(&entry) }
            }
            (Wire::Wide(ring), Submission::Short(entry)) => {
                // SAFETY: the caller's promise.
                unsafe { ring.submission().push(&entry.into()) }
            }
            (Wire::Wide(ring), Submission::Long(entry)) => {
                // SAFETY: the caller's promise.
                unsafe { ring.submission().push(&entry) }
            }
            (Wire::Narrow(_), Submission::Long(_)) => unreachable!("passthrough goes to wide rings"),
        };
        pushed.expect("there is room");
    }

    /// Hands every arrived completion to `settle`.
    #[inline]
    pub(super) fn reap(&mut self, mut settle: impl FnMut(Reaped)) {
        match self {
            Wire::Narrow(ring) => ring.completion().for_each(|one| {
                settle(Reaped { name: one.user_data(), result: one.result(), flags: one.flags() });
            }),
            Wire::Wide(ring) => ring.completion().for_each(|one| {
                settle(Reaped { name: one.user_data(), result: one.result(), flags: one.flags() });
            }),
        }
    }

    /// Sets whether the kernel signals the eventfd for completions.
    pub(super) fn signal_eventfd(&mut self, signal: bool) {
        match (self, signal) {
            (Wire::Narrow(ring), true) => ring.completion().enable_eventfd(),
            (Wire::Narrow(ring), false) => ring.completion().disable_eventfd(),
            (Wire::Wide(ring), true) => ring.completion().enable_eventfd(),
            (Wire::Wide(ring), false) => ring.completion().disable_eventfd(),
        }
    }
}

/// The setup flags of an io_uring of either width.
pub(super) trait Setup {
    fn apply<S: squeue::EntryMarker, C: cqueue::EntryMarker>(&self, builder: &mut Builder<S, C>);
}
