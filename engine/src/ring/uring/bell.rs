//! The descriptor on which a reactor sleeps: an eventfd that the kernel signals for new completions.
//!
//! Polling the ring's own descriptor looks as if it would do and does not: with `DEFER_TASKRUN` a
//! completed read only wakes a thread that waits *inside* `io_uring_enter` (`io_req_local_work_add` in
//! io_uring/tw.c: a lazy wake-up below `cq_wait_nr` returns early, and `poll_wq` is not woken at all). A
//! reactor that slept in poll(2) hung on the first read from a file. An eventfd is signalled there.
//!
//! A signal costs the kernel a lock for each batch of completions, so the bell is muted
//! (`IORING_CQ_EVENTFD_DISABLED`, a bit in shared memory) while turns bring something:
//!
//! | state | a turn brought something | a turn brought nothing |
//! |---|---|---|
//! | muted | muted | armed, silenced if it may have rung, and the kernel is looked at again |
//! | armed | muted, may have rung | armed; silenced and looked at again if it may have rung |
//!
//! Looking again closes the gap between the last look and the arming. It must be a system call: the
//! kernel publishes its work before a full barrier and then reads the bit, we write the bit and then
//! read the work, so at least one of the two sees the other. The bit that announces the work
//! (`IORING_SQ_TASKRUN`) is not ordered like that on every machine.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use io_uring::IoUring;
use rustix::event::{EventfdFlags, eventfd};

/// An eventfd that is registered with a ring.
pub(super) struct Bell {
    eventfd: OwnedFd,
    /// Whether the kernel signals it.
    armed: bool,
    /// Whether it may have been signalled since it was last silenced.
    rung: bool,
}

/// Whether the kernel must be looked at again before sleeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Something may have come in unannounced.
    Again,
    /// Whatever comes rings.
    Enough,
}

impl Bell {
    /// A muted bell for `ring`.
    pub(super) fn new(ring: &mut IoUring) -> io::Result<Bell> {
        let eventfd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        ring.completion().disable_eventfd();
        Ok(Bell { eventfd, armed: false, rung: false })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// A turn brought something: no sleep now.
    pub(super) fn mute(&mut self, ring: &mut IoUring) {
        if self.armed {
            ring.completion().disable_eventfd();
            (self.armed, self.rung) = (false, true);
        }
    }

    /// A turn brought nothing: sleep may follow.
    pub(super) fn arm(&mut self, ring: &mut IoUring) -> Look {
        if self.armed && !self.rung {
            return Look::Enough;
        }
        if self.rung {
            // Silent already, or now: both are well.
            let _count = rustix::io::read(&self.eventfd, &mut [0; 8]);
            self.rung = false;
        }
        ring.completion().enable_eventfd();
        self.armed = true;
        Look::Again
    }

    /// The kernel announced work: if armed, it rang too.
    pub(super) fn heard(&mut self) {
        self.rung |= self.armed;
    }

    /// Rings by hand: there is work that the kernel does not know of.
    pub(super) fn ring(&mut self) {
        // It can only fail because it is ringing already, 2^64 - 2 times.
        let _rings = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        self.rung = true;
    }
}
