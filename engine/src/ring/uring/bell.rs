//! The descriptor on which a reactor sleeps: an eventfd that the kernel signals for new completions.
//!
//! Polling the ring's own descriptor seems sufficient but is not. With `DEFER_TASKRUN`, a completed read
//! wakes only a thread that waits *inside* `io_uring_enter` (`io_req_local_work_add` in io_uring/tw.c: a lazy
//! wake-up below `cq_wait_nr` returns early, and `poll_wq` is not woken at all). A reactor that slept in
//! poll(2) hung on the first read from a file. An eventfd is signalled in that case.
//!
//! A signal costs the kernel a lock for each batch of completions, and silencing it costs a system call, so
//! the bell is muted (`IORING_CQ_EVENTFD_DISABLED`, a bit in shared memory) while there is traffic. A muted
//! bell rings all the time: a reactor that sleeps too early wakes at once, and takes another turn.
//!
//! | state | a turn brought something | a turn brought nothing |
//! |---|---|---|
//! | muted, ringing | muted | after [`QUIET_TURNS`] of them: silenced, armed, kernel checked again |
//! | armed | muted, rung by hand | armed; if it may have rung: silenced, kernel checked again |
//!
//! The second check closes the gap between the last check and the arming. It must be a system call: the
//! kernel publishes its work before a full barrier and then reads the bit; we write the bit and then read the
//! work; so at least one of the two sees the other. The bit that announces the work (`IORING_SQ_TASKRUN`) is
//! not ordered like that on every machine.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

use super::wire::Wire;

/// Turns without completions before the bell is armed, so that the gaps between the completions of a busy
/// device cost nothing. A reactor that sleeps after each of these turns wakes as often for nothing.
const QUIET_TURNS: u32 = 64;

/// An eventfd that is registered with a ring.
pub(super) struct Bell {
    eventfd: OwnedFd,
    /// Whether the kernel signals the eventfd.
    armed: bool,
    /// Whether the eventfd may be ringing. While the bell is not armed, it always is.
    rung: bool,
    /// Turns without completions, in a row.
    quiet_turns: u32,
}

/// Whether the reactor must check the kernel again before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A completion may have arrived without a signal.
    Again,
    /// Every later completion will signal.
    Enough,
}

impl Bell {
    /// Makes a muted bell for `ring`.
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

    /// Mutes the bell, because a turn brought something and more is to be expected.
    pub(super) fn mute(&mut self, ring: &mut Wire) {
        self.quiet_turns = 0;
        if self.armed {
            ring.signal_eventfd(false);
            self.armed = false;
            self.ring();
        }
    }

    /// Arms the bell if needed, because a turn brought nothing and sleep may follow.
    pub(super) fn arm(&mut self, ring: &mut Wire) -> Look {
        self.quiet_turns = self.quiet_turns.saturating_add(1);
        if (self.armed && !self.rung) || (!self.armed && self.quiet_turns < QUIET_TURNS) {
            return Look::Enough;
        }
        // The read fails if the bell was not ringing, which does no harm.
        let _count = rustix::io::read(&self.eventfd, &mut [0; 8]);
        self.rung = false;
        ring.signal_eventfd(true);
        self.armed = true;
        Look::Again
    }

    /// Records that the kernel announced work, and so rang the bell if it was armed.
    pub(super) fn heard(&mut self) {
        self.rung |= self.armed;
    }

    /// Rings by hand, for work that the kernel does not know of.
    pub(super) fn ring(&mut self) {
        // The write can fail only if the bell is ringing already, 2^64 - 2 times.
        let _rings = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        self.rung = true;
    }
}
