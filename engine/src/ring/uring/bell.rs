//! The descriptor on which a reactor sleeps: an eventfd that the kernel signals for new completions.
//!
//! Polling the ring's own descriptor looks as if it would do and does not: with `DEFER_TASKRUN` a
//! completed read only wakes a thread that waits *inside* `io_uring_enter` (`io_req_local_work_add` in
//! io_uring/tw.c: a lazy wake-up below `cq_wait_nr` returns early, and `poll_wq` is not woken at all). A
//! reactor that slept in poll(2) hung on the first read from a file. An eventfd is signalled there.
//!
//! A signal costs the kernel a lock for each batch of completions, and silencing it costs a system call,
//! so the bell is muted (`IORING_CQ_EVENTFD_DISABLED`, a bit in shared memory) while there is traffic. While
//! it is muted it rings all the time: who sleeps too early wakes at once, and takes another turn.
//!
//! | state | a turn brought something | a turn brought nothing |
//! |---|---|---|
//! | muted, ringing | muted | after [`QUIET_TURNS`] of them: silenced, armed, and the kernel looked at again |
//! | armed | muted, rung by hand | armed; silenced and the kernel looked at again if it may have rung |
//!
//! Looking again closes the gap between the last look and the arming. It must be a system call: the
//! kernel publishes its work before a full barrier and then reads the bit, we write the bit and then
//! read the work, so at least one of the two sees the other. The bit that announces the work
//! (`IORING_SQ_TASKRUN`) is not ordered like that on every machine.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

use super::wire::Wire;

/// Turns without completions before the bell is armed, so that the gaps between the completions of a
/// busy device cost nothing. A reactor that sleeps after each of them wakes as often for nothing.
const QUIET_TURNS: u32 = 64;

/// An eventfd that is registered with a ring.
pub(super) struct Bell {
    eventfd: OwnedFd,
    /// Whether the kernel signals it.
    armed: bool,
    /// Whether it may be ringing; always, while it is not armed.
    rung: bool,
    /// Turns without completions, in a row.
    quiet_turns: u32,
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
    pub(super) fn new(ring: &mut Wire) -> io::Result<Bell> {
        let eventfd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        ring.signal_eventfd(false);
        let mut bell = Bell { eventfd, armed: false, rung: false, quiet_turns: 0 };
        bell.ring();
        Ok(bell)
    }

    pub(super) fn fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// A turn brought something: more is to be expected.
    pub(super) fn mute(&mut self, ring: &mut Wire) {
        self.quiet_turns = 0;
        if self.armed {
            ring.signal_eventfd(false);
            self.armed = false;
            self.ring();
        }
    }

    /// A turn brought nothing: sleep may follow.
    pub(super) fn arm(&mut self, ring: &mut Wire) -> Look {
        self.quiet_turns = self.quiet_turns.saturating_add(1);
        if (self.armed && !self.rung) || (!self.armed && self.quiet_turns < QUIET_TURNS) {
            return Look::Enough;
        }
        // It may not be ringing after all: both are well.
        let _count = rustix::io::read(&self.eventfd, &mut [0; 8]);
        self.rung = false;
        ring.signal_eventfd(true);
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
