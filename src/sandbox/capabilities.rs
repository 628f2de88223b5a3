//! The capabilities that a thread of the server keeps: a pure decision, and the system calls that carry it
//! out.
//!
//! | capability | operation | when |
//! |---|---|---|
//! | SYS_ADMIN | commands to the ublk control device (a) | start, stop, hand-over: main, control |
//! | | NVMe commands through /dev/ngXnY (b) | reactors; where a new member is examined |
//! | | BLKFLSBUF, which drops cached pages of a passthrough member | when it is opened and closed |
//! | | io_uring_setup under kernel.io_uring_disabled=1 | start only |
//! | SYS_RESOURCE | PR_SET_IO_FLUSHER of a reactor that serves a block device | start only |
//! | | raising RLIMIT_MEMLOCK | start only |
//! | IPC_LOCK | mlockall, and io_uring's registered buffers, beyond RLIMIT_MEMLOCK | start |
//! | | memory that is mapped after mlockall | every thread with a block device (c) |
//! | CHOWN | giving a unix socket to the group of `--nbd-group` | start only |
//! | DAC_OVERRIDE | opening members and devices that another user owns | start |
//! | | notes, sockets and replacements (d) | as long as the server runs |
//!
//! - (a) Checked in ublk_drv.c, ublk_ctrl_uring_cmd.
//! - (b) Checked in nvme/host/ioctl.c, nvme_cmd_allowed: each read and write before Linux 6.2, Identify
//!   Controller always.
//! - (c) If the limit could not be raised.
//! - (d) If another user owns such a file or its directory.
//!
//! No other capability is needed. Pinning a thread to a CPU (SYS_NICE), reading a member's serial number
//! (sysfs), O_EXCL, discards and zeroing of block devices work without any; SYS_RAWIO is for SCSI commands,
//! ports and /dev/mem. Without SYS_ADMIN, a server uses the block device of a member that it would otherwise
//! reach by passthrough.
//!
//! Root without DAC_OVERRIDE is still uid 0, and may write files that belong to root: /etc,
//! /proc/sys/kernel/core_pattern. Landlock prevents that ([`super::paths`]).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::Thread;

/// All capabilities that a start needs.
const START: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_RESOURCE);

/// The facts, besides the kind of thread, that decide which capabilities it keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether hosts use a block device of this machine.
    pub block_device: bool,
    /// Whether a member is reached by NVMe passthrough.
    pub passthrough: bool,
    /// Whether another user owns a member, the run directory, the directory of a socket, or a directory of
    /// replacements.
    pub others_own_files: bool,
    /// Whether RLIMIT_MEMLOCK limits how much memory the process may lock. (The memory of a server with a
    /// block device is locked, including memory that any of its threads maps later.)
    pub has_lock_limit: bool,
}

/// The capabilities that a thread keeps while the array is served.
pub(super) const fn kept(thread: Thread, facts: Facts) -> CapabilitySet {
    let commands_drives = match thread {
        Thread::Log | Thread::Signals | Thread::Listener | Thread::Handshake | Thread::Note => false,
        Thread::Reactor => facts.passthrough,
        Thread::Control | Thread::Main => facts.passthrough || facts.block_device,
    };
    let opens_files = match thread {
        Thread::Log | Thread::Signals | Thread::Listener | Thread::Handshake | Thread::Reactor => false,
        Thread::Note | Thread::Control | Thread::Main => facts.others_own_files,
    };
    let set = CapabilitySet::empty();
    let set = if commands_drives { set.union(CapabilitySet::SYS_ADMIN) } else { set };
    let set = if opens_files { set.union(CapabilitySet::DAC_OVERRIDE) } else { set };
    let locks = facts.block_device && facts.has_lock_limit;
    if locks { set.union(CapabilitySet::IPC_LOCK) } else { set }
}

/// Whether RLIMIT_MEMLOCK limits how much memory the process may lock.
#[must_use]
pub fn has_lock_limit() -> bool {
    getrlimit(Resource::Memlock).current.is_some()
}

/// Gives up every privilege that a start does not need, before there are threads. Returns a line for each
/// failure.
pub(super) fn begin() -> Vec<String> {
    umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let is_privileged = set_no_new_privs(true);
    // Succeeds for root, and where the unit sets no limit. Otherwise the limit stays, and a start reports if
    // it is too low.
    let _raised_or_not = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    let outcomes = [
        is_privileged.map_err(|error| format!("cannot set no_new_privs: {error}")),
        empty_bounding_set(),
        keep(START),
    ];
    outcomes.into_iter().filter_map(Result::err).collect()
}

/// Empties the bounding set of capabilities. Without CAP_SETPCAP the set stays unchanged, which is safe: with
/// no_new_privs, no program that is executed gains a capability from it.
fn empty_bounding_set() -> Result<(), String> {
    let sets = capabilities(None).map_err(|error| format!("cannot read capabilities: {error}"))?;
    if !sets.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for bit in 0..u64::BITS {
        // A kernel knows fewer than 64 capabilities, and answers EINVAL for the other bits.
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(format!("cannot empty the bounding set of capabilities: {error}")),
        }
    }
    Ok(())
}

/// Gives up all capabilities of the calling thread except `kept`, in every set.
pub(super) fn keep(kept: CapabilitySet) -> Result<(), String> {
    let failed = |error| format!("cannot give up capabilities: {error}");
    let sets = capabilities(None).map_err(failed)?;
    let _none_or_gone = clear_ambient_capability_set();
    let sets = CapabilitySets {
        effective: sets.effective & kept,
        permitted: sets.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the table of `super` as data: (thread, block device, passthrough, others own files) -> kept.
    #[test]
    fn a_thread_keeps_what_its_work_needs() {
        const NONE: CapabilitySet = CapabilitySet::empty();
        const ADMIN: CapabilitySet = CapabilitySet::SYS_ADMIN;
        const DAC: CapabilitySet = CapabilitySet::DAC_OVERRIDE;
        let quiet = [Thread::Log, Thread::Signals, Thread::Listener, Thread::Handshake];
        for bits in 0..8 {
            let [block_device, passthrough, others_own_files] = [1, 2, 4].map(|bit| bits & bit != 0);
            let facts = Facts { block_device, passthrough, others_own_files, has_lock_limit: false };
            let dac = if others_own_files { DAC } else { NONE };
            let admin = if block_device || passthrough { ADMIN } else { NONE };
            quiet.iter().for_each(|&thread| assert_eq!(kept(thread, facts), NONE, "{thread:?} {facts:?}"));
            assert_eq!(kept(Thread::Reactor, facts), if passthrough { ADMIN } else { NONE }, "{facts:?}");
            assert_eq!(kept(Thread::Note, facts), dac, "{facts:?}");
            assert_eq!(kept(Thread::Control, facts), dac | admin, "{facts:?}");
            assert_eq!(kept(Thread::Main, facts), dac | admin, "{facts:?}");
        }
    }

    /// Memory is locked for the whole process, so a thread that maps memory needs either the right to lock
    /// it, or no limit.
    #[test]
    fn every_thread_may_map_memory_that_is_locked() {
        let facts = Facts { block_device: true, has_lock_limit: true, ..Facts::default() };
        for thread in
            [Thread::Log, Thread::Signals, Thread::Reactor, Thread::Note, Thread::Control, Thread::Main]
        {
            assert!(kept(thread, facts).contains(CapabilitySet::IPC_LOCK), "{thread:?}");
        }
    }

    #[test]
    fn a_start_has_all_that_is_kept_later() {
        let facts =
            Facts { block_device: true, passthrough: true, others_own_files: true, has_lock_limit: true };
        for thread in [Thread::Reactor, Thread::Note, Thread::Control, Thread::Main] {
            assert!(START.contains(kept(thread, facts)), "{thread:?}");
        }
    }
}
