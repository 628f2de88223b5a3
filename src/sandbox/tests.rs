//! Tests with threads that are really confined. Oracle: the kernel refuses what a thread does not need, and
//! lets the rest through.
//!
//! Only the thread of a test is confined, and it ends with the test.

use std::fs::File;
use std::io::{ErrorKind, Seek, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::*;

/// Runs `act` in a thread of this kind.
fn within<T: Send + 'static>(
    thread: Thread,
    places: Places,
    act: impl FnOnce() -> T + Send + 'static,
) -> std::thread::Result<T> {
    let body = move || {
        // A filter needs no_new_privs, which does not disturb other tests.
        rustix::thread::set_no_new_privs(true).unwrap();
        let (reach, facts) = (Reach::new(&places), Facts::default());
        paths::restrict(reach.of(thread)).expect("this kernel has Landlock");
        capabilities::keep(capabilities::kept(thread, facts)).unwrap();
        calls::filter(thread).expect("this kernel has seccomp");
        act()
    };
    std::thread::Builder::new().name("confined".into()).spawn(body).unwrap().join()
}

fn is_refused<T>(outcome: std::io::Result<T>) -> bool {
    outcome.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// The value of field `name` in /proc/self/status, or in another file of that form.
fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_string()
}

#[test]
fn a_reactor_opens_executes_and_connects_nothing() {
    for thread in [Thread::Reactor, Thread::Listener, Thread::Handshake, Thread::Log, Thread::Signals] {
        let outcomes = within(thread, Places::default(), || {
            // `exec`, not `spawn`: this calls execve in this process, while `spawn` would fail earlier, at
            // the new process.
            let executed = Err::<(), _>(Command::new("/bin/true").exec());
            [
                is_refused(File::open("/etc/passwd")),
                is_refused(executed),
                is_refused(UnixStream::connect("/run/x")),
            ]
        });
        assert_eq!(outcomes.unwrap(), [true; 3], "{thread:?}: open, execve, socket");
    }
}

/// Memory, locks, time, output and a panic need no call that is refused.
#[test]
fn a_confined_thread_works_and_may_panic() {
    let worked = within(Thread::Reactor, Places::default(), || {
        let blocks: Vec<Vec<u8>> = (0..64).map(|nth| vec![nth; 1 << 20]).collect();
        std::thread::sleep(std::time::Duration::from_millis(1));
        let lock = Mutex::new(0_u32);
        *lock.lock().unwrap() += blocks.iter().map(|block| u32::from(block[0])).sum::<u32>();
        std::io::stderr().write_all(b"").is_ok() && lock.into_inner().unwrap() == 64 * 63 / 2
    });
    assert!(worked.unwrap());
    // A reactor whose drive refuses a write asks for the drive's end, to tell a pulled drive from a full one.
    let file = tempfile::tempfile().unwrap();
    let asked = within(Thread::Reactor, Places::default(), move || {
        file.metadata().is_ok() && (&file).seek(std::io::SeekFrom::End(0)).is_ok()
    });
    assert!(asked.unwrap());
    assert!(within(Thread::Reactor, Places::default(), || panic!("as it should")).is_err());
}

/// A thread that carries out commands can open new members, but no other file of the machine.
#[test]
fn a_command_opens_members_and_not_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    ["run", "members", "elsewhere"].iter().for_each(|name| std::fs::create_dir(path(name)).unwrap());
    ["members/m0", "members/spare", "elsewhere/file"]
        .iter()
        .for_each(|name| std::fs::write(path(name), "").unwrap());
    let places = Places { members: vec![path("members/m0")], run_dir: path("run"), ..Places::default() };
    for thread in [Thread::Control, Thread::Main] {
        let root = directory.path().to_path_buf();
        let outcome = within(thread, places.clone(), move || {
            let open =
                |path: &Path| File::options().read(true).write(true).open(path).map_err(|error| error.kind());
            let path = |name: &str| root.join(name);
            assert!(open(&path("members/spare")).is_ok());
            assert!(File::create(path("run/note")).is_ok() && std::fs::remove_file(path("run/note")).is_ok());
            assert!(open(Path::new("/dev/null")).is_ok());
            assert!(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").is_ok());
            // The user of this test owns these files, or is root; only the domain of the thread refuses.
            let refused = |outcome: Result<(), ErrorKind>| outcome == Err(ErrorKind::PermissionDenied);
            assert!(refused(open(&path("elsewhere/file")).map(drop)));
            assert!(refused(open(Path::new("/proc/sys/kernel/core_pattern")).map(drop)));
            assert!(refused(File::create(path("members/new")).map(drop).map_err(|error| error.kind())));
            assert!(refused(File::create("/etc/striate-test").map(drop).map_err(|error| error.kind())));
            assert!(is_refused(std::net::TcpListener::bind("127.0.0.1:0")));
        });
        assert!(outcome.is_ok(), "{thread:?}");
    }
}

/// The threads that must start threads can; no thread can make a process or a namespace.
#[test]
#[expect(unsafe_code, reason = "calls that no library makes with such arguments")]
fn threads_are_started_and_nothing_else() {
    for thread in [Thread::Listener, Thread::Control, Thread::Main] {
        let started = within(thread, Places::default(), || {
            let spawned = std::thread::Builder::new().spawn(|| 7).is_ok_and(|it| it.join().is_ok());
            let errno = |result: i64| (result == -1).then(|| std::io::Error::last_os_error().raw_os_error());
            // SAFETY: the kernel refuses the call before it reads any argument.
            let newer = errno(unsafe { libc::syscall(libc::SYS_clone3, 0, 0) });
            // SAFETY: the only argument is a flag, no memory; the call is refused.
            let namespace = errno(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) });
            // SAFETY: the call is refused before it makes a process, and no stack is given.
            let process = errno(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) });
            (spawned, newer, namespace, process)
        });
        let (unknown, refused) = (Some(Some(libc::ENOSYS)), Some(Some(libc::EPERM)));
        assert_eq!(started.unwrap(), (true, unknown, refused, refused), "{thread:?}");
    }
}

/// A confined thread has the privileges of the table, and so do the threads that it starts.
#[test]
fn the_kernel_tells_that_a_thread_is_confined() {
    // A confined thread cannot open /proc, so its parent looks.
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (end, may_end) = std::sync::mpsc::channel::<()>();
    let confined = std::thread::spawn(move || {
        within(Thread::Control, Places::default(), move || {
            let inherits = std::thread::spawn(move || {
                ready.send(rustix::thread::gettid()).unwrap();
                let _ended = may_end.recv();
            });
            inherits.join().unwrap();
        })
    });
    let thread = is_ready.recv().unwrap();
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    drop(end);
    confined.join().unwrap().unwrap();
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert_eq!(field(&status, "Seccomp"), "2");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(&status, set), "0".repeat(16), "{set}");
    }
}
