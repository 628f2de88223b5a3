//! An io_uring of the kernel: setup, registration, push, enter, and reaping of completions.
//!
//! The flags and their reasons:
//! - `SINGLE_ISSUER | DEFER_TASKRUN`: completions are processed when this thread enters the kernel, not at
//!   each interrupt, so a batch of them costs one pass. It also means that a completion never appears by
//!   itself: `enter` must ask for events even when it waits for none. [`Bell`] wakes a sleeping reactor.
//! - `TASKRUN_FLAG`: the kernel sets a bit when there is something to process, so an idle turn reads one word
//!   of memory and makes no system call.
//! - `SUBMIT_ALL`: an entry that fails at submission does not hold back those behind it.
//! - `NO_SQARRAY` (Linux 6.6): saves one indirection per entry; left out if the kernel refuses it.

#![expect(unsafe_code, reason = "submission queue entries hold addresses")]

use std::io;
use std::os::fd::RawFd;

use io_uring::register::Restriction;
use io_uring::{Builder, EnterFlags, cqueue, opcode, squeue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Piece;
use super::bell::{Bell, Look};
use super::wire::{Reaped, Setup, Submission, Width, Wire};
use crate::memory::Memory;

/// Entries of the submission queue, the most that one `enter` can submit. More entries are pushed in a second
/// round.
const SUBMISSIONS_MAX: u32 = 512;

/// Entries of the completion queue, which is also the largest number of pieces in the kernel, so the queue
/// never overflows. Example: 32 members with a depth of 256.
const COMPLETIONS_MAX: u32 = 8192;

/// Number and length of the naps for which the end of a ring waits for a device that gives nothing back: 2 s
/// in all. A stopping server must not hang on a member that was failed for its silence.
const DRAIN_NAPS_MAX: u32 = 2000;
const DRAIN_NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// The configuration of a queue.
pub(super) struct QueueConfig<'c> {
    /// See [`UringConfig`](super::UringConfig).
    pub(super) worker_cpus: &'c [usize],
    /// Whether completions are polled for instead of announced by interrupts.
    pub(super) polled: bool,
    /// The size of the entries; `Wide` if passthrough commands use this queue.
    pub(super) width: Width,
    /// See [`UringConfig`](super::UringConfig).
    pub(super) host_buffers: u16,
}

/// An io_uring with its bell and its counts.
pub(super) struct Queue {
    ring: Wire,
    /// Entries pushed and not submitted. Only `enter` submits, so the count is kept here instead of being
    /// read from the ring at each push.
    unsubmitted: u32,
    /// Pieces pushed and not reaped. Commands of a lane are not counted: they hold nothing of ours, and a
    /// command that waits for a host's request may wait for ever.
    in_flight: u32,
    /// Commands of a lane that were pushed and have not come back.
    commands: u32,
    /// Wakes a sleeping reactor; `None` for a polled queue, which wakes nothing.
    bell: Option<Bell>,
    buffers_are_fixed: bool,
    takes_host_buffers: bool,
}

impl Queue {
    /// Makes a queue for the calling thread and registers the arenas and an empty file table with it.
    pub(super) fn new(memory: &Memory, config: &QueueConfig) -> io::Result<Queue> {
        let build =
            |sq_array| Wire::new(config.width, SUBMISSIONS_MAX, &Flags { polled: config.polled, sq_array });
        let mut ring = build(SqArray::Absent).or_else(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => build(SqArray::Present),
            _ => Err(error),
        })?;
        ring.submitter().register_files_sparse(super::FILES)?;
        if !config.worker_cpus.is_empty() {
            ring.submitter().register_iowq_aff(&cpu_set(config.worker_cpus))?;
        }
        let (buffers_are_fixed, takes_host_buffers) = register_buffers(&ring, memory, config.host_buffers)?;
        let bell = if config.polled { None } else { Some(Bell::new(&mut ring)?) };
        restrict(&ring)?;
        ring.submitter().register_enable_rings()?;
        Ok(Queue {
            ring,
            unsubmitted: 0,
            in_flight: 0,
            commands: 0,
            bell,
            buffers_are_fixed,
            takes_host_buffers,
        })
    }

    /// Puts a file into a place of the table, or removes it with -1.
    pub(super) fn register_file(&mut self, place: u32, fd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(place, &[fd])?;
        Ok(())
    }

    /// Limits the kernel's worker threads for the thread of this ring to `most`.
    pub(super) fn limit_workers(&self, most: u32) -> io::Result<()> {
        // Bounded workers serve regular files and block devices. Unbounded ones serve everything else, which
        // does not occur here.
        self.ring.submitter().register_iowq_max_workers(&mut [most, 1])
    }

    pub(super) fn takes_passthrough(&self) -> bool {
        self.ring.width() == Width::Wide
    }

    pub(super) fn buffers_are_fixed(&self) -> bool {
        self.buffers_are_fixed
    }

    pub(super) fn takes_host_buffers(&self) -> bool {
        self.takes_host_buffers
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The descriptor on which a reactor may sleep.
    pub(super) fn wait_fd(&self) -> Option<RawFd> {
        self.bell.as_ref().map(Bell::fd)
    }

    /// Tells the bell that a turn brought something.
    pub(super) fn mute(&mut self) {
        if let Some(bell) = &mut self.bell {
            bell.mute(&mut self.ring);
        }
    }

    /// Tells the bell that a turn brought nothing, so that sleep may follow. Returns whether to look again
    /// before that.
    ///
    /// Called even if nothing is in flight: a muted bell rings all the time, so an idle reactor would never
    /// sleep.
    pub(super) fn arm(&mut self) -> Look {
        self.bell.as_mut().map_or(Look::Enough, |bell| bell.arm(&mut self.ring))
    }

    /// Wakes the reactor if it is about to sleep.
    pub(super) fn ring_bell(&mut self) {
        if let Some(bell) = &mut self.bell {
            bell.ring();
        }
    }

    /// Whether another entry may be pushed.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight < COMPLETIONS_MAX && !self.is_full()
    }

    /// Whether what was pushed must be submitted before more can be.
    pub(super) fn is_full(&self) -> bool {
        self.unsubmitted == SUBMISSIONS_MAX
    }

    /// Queues one entry, after `has_room` returned true. The entry's `user_data` is a packed piece.
    pub(super) fn push(&mut self, entry: Submission) {
        // SAFETY: the entry's address and length come from `Memory::ptr`, which checked them against a
        // mapping that lives until after the last completion. Or the address is that of the operation's range
        // (`Ranges`), which lives as long: `Queues` holds both, and `Uring` drains them before it releases
        // them. Until then the span belongs to the ring (the trait's contract).
        unsafe { self.ring.push(entry) };
        self.unsubmitted += 1;
        self.in_flight += 1;
    }

    /// Queues a command of a lane; the caller has checked that there is room.
    ///
    /// # Safety
    ///
    /// Any address in the command is valid as long as this queue lives.
    pub(super) unsafe fn push_command(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller's promise.
        unsafe { self.ring.push(Submission::Short(entry)) };
        self.unsubmitted += 1;
        self.commands += 1;
    }

    /// Registers a ring of provided buffers, from which multishot commands take their buffers.
    ///
    /// # Safety
    ///
    /// `start` is the beginning of a page with room for `entries`. The page and all buffers that are ever put
    /// into the ring are used for nothing else as long as this queue lives.
    pub(super) unsafe fn provide_buffers(&self, start: *mut u8, entries: u16, group: u16) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(start.addr() as u64, entries, group, 0) }
    }

    /// Submits what is queued and lets the kernel process completed work, if the kernel announced any or
    /// `collect` requires it.
    pub(super) fn enter(&mut self, collect: Collect) {
        let announced = self.ring.announces();
        if announced && let Some(bell) = &mut self.bell {
            bell.heard();
        }
        let polls = self.bell.is_none() && self.in_flight > 0;
        if self.unsubmitted > 0 || announced || polls || collect == Collect::Always {
            self.enter_for(0);
        }
    }

    /// Hands every arrived completion to `settle`.
    pub(super) fn reap(&mut self, mut settle: impl FnMut(Reaped)) {
        let (in_flight, commands) = (&mut self.in_flight, &mut self.commands);
        self.ring.reap(|reaped| {
            match Piece::unpack(reaped.name) {
                Some(_) => *in_flight -= 1,
                // A multishot command that delivers stays in flight.
                None if cqueue::more(reaped.flags) => {}
                None => *commands = commands.saturating_sub(1),
            }
            settle(reaped);
        });
    }

    /// Waits until nothing is in the kernel, or until nothing has arrived for a while. Hands every completion
    /// to `settle`.
    pub(super) fn drain(&mut self, mut settle: impl FnMut(Reaped)) {
        let mut naps = 0;
        while self.in_flight > 0 && naps < DRAIN_NAPS_MAX {
            let before = self.in_flight;
            self.enter_for(0);
            self.reap(&mut settle);
            if self.in_flight < before {
                naps = 0;
            } else {
                naps += 1;
                // The poll may be interrupted, and for a polled ring it announces nothing; the loop looks
                // again in any case.
                let ring = self.ring.as_fd();
                let _ = poll(&mut [PollFd::new(&ring, PollFlags::IN)], Some(&DRAIN_NAP));
            }
        }
        // Collect the commands of a lane that have ended. The kernel may return them 20 at a time.
        let mut before = self.commands + 1;
        while self.commands > 0 && self.commands < before {
            before = self.commands;
            self.enter_for(0);
            self.reap(&mut settle);
        }
    }

    /// Releases every file, after [`Queue::drain`]: at once, if nothing is in the kernel. If commands of a
    /// lane are still out (a ublk device is left to the next server, and the commands wait for requests of
    /// that server's time), the files are released with the process, and the io_uring stays open until then,
    /// for two reasons:
    ///
    /// - Before Linux 6.13 the kernel would wait for everything that names a file of the table, and so for
    ///   ever (io_uring/rsrc.c, io_rsrc_ref_quiesce; since then each file is counted by itself).
    /// - Commands out at a closed io_uring are canceled by a kernel thread (io_ring_exit_work), and also by
    ///   the thread that issued them, when it ends. Under Linux 6.12 the two freed requests twice: the kernel
    ///   crashed at two of some 45 such ends. Commands out at an open io_uring are canceled by the issuing
    ///   thread alone, as after a kill.
    ///
    /// If a device does not answer, the io_uring stays open too. In both cases each place of the table is
    /// emptied, except those for which `is_kept` holds and, if commands are out, that of the lane. The kernel
    /// closes a file when nothing in flight names it (before Linux 6.13, when nothing older is in flight). So
    /// a silent device does not keep the locks on the other devices, nor a ublk device whose commands have
    /// all come back.
    pub(super) fn release_files(&mut self, is_kept: impl Fn(u32) -> bool) -> Released {
        if self.commands == 0 && self.in_flight == 0 {
            // Fails only if no files are registered.
            let _released = self.ring.submitter().unregister_files();
            return Released::Now;
        }
        if let Ok(kept) = rustix::io::fcntl_dupfd_cloexec(self.ring.as_fd(), 0) {
            std::mem::forget(kept);
        }
        let is_free = |place: &u32| !is_kept(*place) && (self.commands == 0 || *place != super::LANE_FILE);
        for place in (0..super::FILES).filter(is_free) {
            let _emptied = self.ring.submitter().register_files_update(place, &[-1]);
        }
        Released::WithTheProcess
    }

    /// Submits what is queued and waits until there are `complete_count` completions.
    fn enter_for(&mut self, complete_count: u32) {
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: no argument is passed, and at most what the submission queue holds is submitted; each
        // entry's addresses are valid as argued in `push`.
        let entered = unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(self.unsubmitted, complete_count, flags, None)
        };
        if let Err(error) = entered {
            // Interrupted, short of kernel memory for a moment, or the kernel wants its completions taken
            // first. Entries that were not submitted stay queued for the next turn.
            let again = [libc::EINTR, libc::EAGAIN, libc::EBUSY];
            let errno = error.raw_os_error().unwrap_or(0);
            assert!(again.contains(&errno), "io_uring_enter: {error}");
        }
        self.unsubmitted = self.ring.unsubmitted();
    }
}

/// The time at which an io_uring releases its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Released {
    Now,
    /// Released when the process ends. Until then the memory that its commands name must stay in place.
    WithTheProcess,
}

/// The condition for asking the kernel for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collect {
    /// If the kernel announced some, or is entered anyway.
    Announced,
    /// In any case.
    Always,
}

/// Whether the submission queue has its array of indices.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SqArray {
    Present,
    Absent,
}

/// Setup flags of the io_uring; the module documentation gives the reasons.
struct Flags {
    polled: bool,
    sq_array: SqArray,
}

impl Setup for Flags {
    fn apply<S: squeue::EntryMarker, C: cqueue::EntryMarker>(&self, builder: &mut Builder<S, C>) {
        builder
            .setup_cqsize(COMPLETIONS_MAX)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_r_disabled()
            .dontfork();
        if self.sq_array == SqArray::Absent {
            builder.setup_no_sqarray();
        }
        if self.polled {
            builder.setup_iopoll();
        }
    }
}

/// The CPUs of worker threads, which exclude those of polling reactors.
fn cpu_set(cpus: &[usize]) -> libc::cpu_set_t {
    // SAFETY: a cpu_set_t is an array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        assert!(cpu < libc::CPU_SETSIZE as usize, "CPU {cpu}");
        // SAFETY: the index was checked against the size of the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    set
}

/// Makes the kernel refuse (EACCES) everything that this module does not use, because no system call filter
/// sees what goes through a ring. Only files of the table can be used. Must be called before the ring is
/// enabled.
fn restrict(ring: &Wire) -> io::Result<()> {
    /// Codes of io_uring_register(2), in the order in which they are called below.
    const UNREGISTER_FILES: u8 = 3;
    const REGISTER_FILES_UPDATE: u8 = 6;
    const REGISTER_IOWQ_MAX_WORKERS: u8 = 19;
    const REGISTER_PBUF_RING: u8 = 22;
    let registrations =
        [UNREGISTER_FILES, REGISTER_FILES_UPDATE, REGISTER_IOWQ_MAX_WORKERS, REGISTER_PBUF_RING];
    let operations = [
        opcode::Read::CODE,
        opcode::ReadFixed::CODE,
        opcode::Write::CODE,
        opcode::WriteFixed::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
        opcode::UringCmd16::CODE,
    ];
    let flags = squeue::Flags::ASYNC | squeue::Flags::BUFFER_SELECT;
    let mut allowed: Vec<Restriction> = registrations.into_iter().map(Restriction::register_op).collect();
    allowed.extend(operations.into_iter().map(Restriction::sqe_op));
    allowed.push(Restriction::sqe_flags_allowed(flags.bits()));
    allowed.push(Restriction::sqe_flags_required(squeue::Flags::FIXED_FILE.bits()));
    ring.submitter().register_restrictions(&mut allowed)
}

/// Registers every arena as the fixed buffer of its index, and leaves places for host buffers after them.
/// Returns whether the limits allowed the arenas, and whether there are host buffers.
fn register_buffers(ring: &Wire, memory: &Memory, host_buffers: u16) -> io::Result<(bool, bool)> {
    let arenas: Vec<libc::iovec> = (0..memory.arena_count())
        .map(|arena| memory.arena(arena as u16))
        .map(|arena| libc::iovec { iov_base: memory.ptr(arena).cast(), iov_len: arena.len_bytes as usize })
        .collect();
    ring.submitter().register_buffers_sparse(arenas.len() as u32 + u32::from(host_buffers))?;
    // SAFETY: the buffers are whole arenas, mapped until after the queue is gone (`Uring` holds the memory
    // and drops it last).
    let registered = unsafe { ring.submitter().register_buffers_update(0, &arenas, None) };
    match registered {
        Ok(()) => Ok((true, host_buffers > 0)),
        // RLIMIT_MEMLOCK, or too little memory to pin: everything works without fixed buffers, only slower.
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Ok((false, host_buffers > 0)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use io_uring::types;

    use super::*;

    /// A ring accepts what this module uses, and refuses the rest.
    #[test]
    fn a_ring_takes_what_it_is_for() {
        let memory = Memory::new(&[1 << 20]).unwrap();
        for width in [Width::Narrow, Width::Wide] {
            let config = QueueConfig { worker_cpus: &[], polled: false, width, host_buffers: 0 };
            let mut queue = Queue::new(&memory, &config).unwrap();
            let null = std::fs::File::open("/dev/null").unwrap();
            queue.register_file(1, null.as_raw_fd()).unwrap();
            queue.limit_workers(2).unwrap();
            let (fixed, bare) = (types::Fixed(1), types::Fd(null.as_raw_fd()));
            for (entry, expected) in [
                (opcode::Fsync::new(fixed).build(), -libc::EINVAL), // the answer of /dev/null
                (opcode::Fsync::new(bare).build(), -libc::EACCES),
                (opcode::Nop::new().build(), -libc::EACCES),
                (opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(), -libc::EACCES),
                (opcode::Close::new(types::Fixed(1)).build(), -libc::EACCES),
                (opcode::Fsync::new(fixed).build().flags(squeue::Flags::IO_LINK), -libc::EACCES),
            ] {
                // SAFETY: no entry has an address.
                unsafe { queue.push_command(entry.clone().user_data(u64::MAX)) };
                let mut results = Vec::new();
                // A flush goes to a worker thread of the kernel, which takes some time.
                for _ in 0..10_000 {
                    queue.enter(Collect::Always);
                    queue.reap(|reaped| results.push(reaped.result));
                    if !results.is_empty() {
                        break;
                    }
                    let ring = queue.ring.as_fd();
                    let _ = poll(&mut [PollFd::new(&ring, PollFlags::IN)], Some(&DRAIN_NAP));
                }
                assert_eq!(results, [expected], "{entry:?}");
            }
            let more = queue.ring.submitter().register_eventfd(null.as_raw_fd());
            assert_eq!(more.unwrap_err().raw_os_error(), Some(libc::EACCES));
        }
    }
}
