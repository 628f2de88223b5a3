//! The system calls that a thread may make from now on: an allow-list for each kind of thread, as a seccomp
//! filter.
//!
//! The lists were taken from traces (`strace -f`) of servers under load, during a replacement and at their
//! end, and from the code. Calls that any thread may need, but that traces do not show, are in [`COMMON`]:
//!
//! - the allocator (of glibc and musl), locks, time, and the start and the end of a thread;
//! - a panic: its text is put into the queue of the log or written, then abort(3) raises SIGABRT by tgkill;
//! - a signal: the kernel delivers it to any thread, and the handler (signal-hook) tells the thread `signals`
//!   by send(2). Without `sendto` in a thread's list, a SIGTERM delivered to that thread would be lost.
//!
//! No list contains execve, ptrace, mount, bpf, kill or a call that makes a ring. Where the argument of a
//! call matters and is a plain number, the list restricts the argument too: no memory becomes executable,
//! `tgkill` reaches only this process, and `clone` starts only threads. The arguments of clone3 are in
//! memory, where a filter cannot look. It fails with ENOSYS, as in an old kernel, and the C library falls
//! back to `clone`.
//!
//! The kernel caches that a call without such an argument is allowed (Linux 5.11, kernel/seccomp.c,
//! seccomp_cache_prepare), so the calls of a reactor's turn do not run the filter. Reads of 4 KiB over NBD at
//! depth 32, medians of three runs on a machine with other work: 62.9 K/s with the sandbox, 62.3 K/s without.
//! The noise was 10 %.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::Thread;

/// A call and a condition on one of its arguments: `argument & mask == value`.
struct Limited {
    call: c_long,
    argument: u8,
    mask: u64,
    value: u64,
}

const fn limited(call: c_long, argument: u8, mask: u64, value: u64) -> Limited {
    Limited { call, argument, mask, value }
}

/// `ioctl` request that makes a socket non-blocking (asm-generic/ioctls.h). Its type in `libc` depends on the
/// C library.
const FIONBIO: u64 = 0x5421;

/// Mask that selects all bits of an argument that is an `int`.
const WHOLE: u64 = u32::MAX as u64;

/// Calls of every thread: memory, locks, time, its end, a panic, a signal.
const COMMON: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Calls on the sockets of clients.
const SOCKETS: &[c_long] = &[
    libc::SYS_fcntl,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Calls of a reactor: rings, descriptors that become ready, and the copies of a block device's requests.
/// When a member refuses a write for lack of space, the reactor asks for the file type and the end of that
/// member (ring/uring.rs, `ends_before`), because a drive that was pulled gives the same error as a full one.
const REACTOR: &[c_long] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_fstat,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_readv,
    libc::SYS_statx,
    libc::SYS_timerfd_settime,
];

/// Calls to accept clients and to start a thread for each, which confines itself further.
const ACCEPTING: &[c_long] =
    &[libc::SYS_accept4, libc::SYS_clone3, libc::SYS_seccomp, libc::SYS_set_tid_address];

/// Calls to open, write and remove files.
const FILES: &[c_long] = &[
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_statx,
    libc::SYS_unlinkat,
];

/// Calls to open new members and to talk to device drivers.
const DEVICES: &[c_long] = &[
    libc::SYS_dup,
    libc::SYS_eventfd2,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getuid,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_ioctl,
    libc::SYS_prlimit64,
    libc::SYS_readlinkat,
    libc::SYS_statfs,
    libc::SYS_uname,
];

/// Calls to tell the service manager that the server ends, through a socket of this machine only: see
/// [`limited_calls`].
const NOTIFYING: &[c_long] = &[libc::SYS_connect];

/// Older forms of the calls above, which some C libraries use on x86-64. Newer architectures do not have
/// them.
#[cfg(target_arch = "x86_64")]
mod older {
    use libc::c_long;

    pub(super) const COMMON: &[c_long] = &[libc::SYS_poll, libc::SYS_time];
    pub(super) const REACTOR: &[c_long] = &[libc::SYS_epoll_wait];
    pub(super) const FILES: &[c_long] =
        &[libc::SYS_access, libc::SYS_lstat, libc::SYS_open, libc::SYS_stat, libc::SYS_unlink];
    pub(super) const DEVICES: &[c_long] = &[libc::SYS_readlink];
}

#[cfg(not(target_arch = "x86_64"))]
mod older {
    use libc::c_long;

    pub(super) const COMMON: &[c_long] = &[];
    pub(super) const REACTOR: &[c_long] = &[];
    pub(super) const FILES: &[c_long] = &[];
    pub(super) const DEVICES: &[c_long] = &[];
}

/// The calls that a thread may make with any arguments.
fn calls(thread: Thread) -> Vec<c_long> {
    let of_its_own: &[&[c_long]] = match thread {
        Thread::Log => &[],
        // The pipe of the signal handler is a pair of sockets.
        Thread::Signals => &[&[libc::SYS_recvfrom]],
        Thread::Reactor => &[SOCKETS, REACTOR, older::REACTOR],
        Thread::Handshake => &[SOCKETS],
        // `pread64` reads the kernel's tables that tell which user a client belongs to; they are already
        // open.
        Thread::Listener => {
            &[SOCKETS, ACCEPTING, &[libc::SYS_getpeername, libc::SYS_getsockname, libc::SYS_pread64]]
        }
        // The thread locks the page of its file in memory.
        Thread::Note => &[FILES, older::FILES, &[libc::SYS_mlock]],
        Thread::Control => &[SOCKETS, ACCEPTING, FILES, older::FILES, DEVICES, older::DEVICES],
        Thread::Main => &[SOCKETS, ACCEPTING, FILES, older::FILES, DEVICES, older::DEVICES, NOTIFYING],
    };
    [COMMON, older::COMMON].iter().chain(of_its_own).flat_map(|list| list.iter().copied()).collect()
}

/// The calls that a thread may make only with certain arguments. If a call is listed twice, either condition
/// suffices.
fn limited_calls(thread: Thread) -> Vec<Limited> {
    let executable = libc::PROT_EXEC as u64;
    let mut calls = vec![
        limited(libc::SYS_mmap, 2, executable, 0),
        limited(libc::SYS_mprotect, 2, executable, 0),
        limited(libc::SYS_tgkill, 0, WHOLE, std::process::id().into()),
        // A thread sets its own name, and no_new_privs before each filter.
        limited(libc::SYS_prctl, 0, WHOLE, libc::PR_SET_NAME as u64),
        limited(libc::SYS_prctl, 0, WHOLE, libc::PR_SET_NO_NEW_PRIVS as u64),
    ];
    let only_threads = libc::CLONE_THREAD as u64;
    match thread {
        Thread::Log | Thread::Signals | Thread::Note => {}
        Thread::Handshake => calls.push(limited(libc::SYS_socketpair, 0, WHOLE, libc::AF_UNIX as u64)),
        // `FIONBIO` makes an accepted socket non-blocking.
        Thread::Reactor => calls.push(limited(libc::SYS_ioctl, 1, WHOLE, FIONBIO)),
        Thread::Listener => {
            calls.push(limited(libc::SYS_clone, 0, only_threads, only_threads));
            // The handshakes inherit this filter. A socket pair connects a TLS client to its reactor.
            calls.push(limited(libc::SYS_socketpair, 0, WHOLE, libc::AF_UNIX as u64));
        }
        Thread::Control => calls.push(limited(libc::SYS_clone, 0, only_threads, only_threads)),
        Thread::Main => {
            calls.push(limited(libc::SYS_clone, 0, only_threads, only_threads));
            calls.push(limited(libc::SYS_socket, 0, WHOLE, libc::AF_UNIX as u64));
        }
    }
    calls
}

/// A filter that makes clone3 fail with ENOSYS.
fn without_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, unknown, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// The filter program that the kernel runs at each call of a thread of this kind.
fn program(thread: Thread) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        calls(thread).into_iter().map(|call| (call, Vec::new())).collect();
    for Limited { call, argument, mask, value } in limited_calls(thread) {
        let operator = SeccompCmpOp::MaskedEq(mask);
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
        rules.entry(call).or_default().push(SeccompRule::new(vec![condition])?);
    }
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let machine = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, machine)?.try_into()
}

/// Refuses all other calls of the calling thread and of all threads that it starts later.
pub(super) fn filter(thread: Thread) -> Result<(), String> {
    let failed = |error: seccompiler::Error| {
        format!("seccomp: {error}: threads of the server may make any system call")
    };
    // The clone3 filter is the same for all threads and comes first: a program without the seccomp call
    // forbids adding another filter.
    [without_clone3(), program(thread)].into_iter().try_for_each(|program| {
        let program = program.map_err(|error| failed(error.into()))?;
        seccompiler::apply_filter(&program).map_err(failed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Thread; 8] = [
        Thread::Log,
        Thread::Signals,
        Thread::Reactor,
        Thread::Listener,
        Thread::Handshake,
        Thread::Note,
        Thread::Control,
        Thread::Main,
    ];

    /// A limited call that is also allowed as a whole would not be limited.
    #[test]
    fn limits_are_limits() {
        for thread in ALL {
            let whole = calls(thread);
            let in_vain = limited_calls(thread).into_iter().find(|limited| whole.contains(&limited.call));
            assert_eq!(in_vain.map(|limited| limited.call), None, "{thread:?}");
        }
    }

    #[test]
    fn no_thread_executes_or_makes_rings() {
        for thread in ALL {
            let whole = calls(thread);
            for call in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_process_vm_writev,
                libc::SYS_kill,
                libc::SYS_mount,
                libc::SYS_bpf,
                libc::SYS_io_uring_setup,
                libc::SYS_bind,
                libc::SYS_listen,
                libc::SYS_setuid,
                libc::SYS_capset,
            ] {
                assert!(!whole.contains(&call), "{thread:?}: {call}");
            }
            let opens = [Thread::Note, Thread::Control, Thread::Main].contains(&thread);
            assert_eq!(whole.contains(&libc::SYS_openat), opens, "{thread:?}");
        }
    }

    /// A handshake also has the filter of its listener, so its own list must be a subset of the listener's.
    #[test]
    fn a_handshake_may_do_what_its_listener_lets_it() {
        let listener = calls(Thread::Listener);
        assert!(calls(Thread::Handshake).iter().all(|call| listener.contains(call)));
    }

    #[test]
    fn programs_are_short() {
        for thread in ALL {
            let len = program(thread).expect("this machine is known").len();
            assert!(len < 512, "{thread:?}: {len} instructions");
        }
    }
}
