//! The behaviour of a server on a shared machine: while idle, on the CPUs that it is given, when found by
//! name, and when told to end.
//!
//! Oracle: the kernel's account of the server's processor time and of where its threads may run.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use engine::status::Health;

use crate::content::pattern;
use crate::lab::{Backing, Lab, Server, Shape, run, succeeded};

#[test]
fn an_idle_array_burns_no_core() {
    let lab = Lab::new();
    let array = lab.create("idle", Shape { member_mib: 24, ..Shape::RAID5 });
    let server = array.serve(&["--reactors", "2"]);
    let mut client = server.connect();
    client.write(0, &pattern(1, 0, 1 << 20));
    // A connected but silent client counts as idle too, once the sweep has cleared the marks of what it
    // wrote.
    server.wait_until_idle();
    let before = server.cpu_ticks();
    std::thread::sleep(Duration::from_secs(3));
    let ticks = server.cpu_ticks() - before;
    // A server that spins takes some 300 ticks, and 1 % of a core is 3: the bound leaves room for a kernel
    // that counts coarsely.
    assert!(ticks <= 15, "{ticks} ticks of processor time in 3 s of idleness");
    drop(client);
    server.stop();
}

#[test]
fn a_stop_and_a_start_take_less_than_a_second() {
    let lab = Lab::new();
    let array = lab.create("brisk", Shape { member_mib: 24, ..Shape::RAID5 });
    let mut server = Some(array.serve(&[]));
    let mut round = || {
        let began = Instant::now();
        server.take().expect("it runs").stop();
        server = Some(array.serve(&[]));
        began.elapsed()
    };
    // The best of several rounds, because other tests run at the same time. Alone, a round takes 70 ms.
    let best = (0..5).map(|_| round()).min().expect("five rounds");
    assert!(best < Duration::from_secs(1), "a stop and a start took {best:?} at best");
    server.expect("it runs").stop();
}

/// A start waits two seconds for a member that another process has locked; the lock stands for a device that
/// does not answer.
#[test]
fn a_signal_ends_a_start() {
    let lab = Lab::new();
    let array = lab.create("starting", Shape { member_mib: 24, ..Shape::RAID5 });
    let taken = std::fs::File::open(&array.members[1]).expect("a member file");
    rustix::fs::flock(&taken, rustix::fs::FlockOperation::LockExclusive).expect("nobody has it");
    let mut args: Vec<&OsStr> = vec!["serve".as_ref()];
    args.extend(array.members.iter().map(|member| member.as_os_str()));
    let mut starting = lab.start(&args);
    std::thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_child(&starting);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it waits");
    let status = starting.wait().expect("our child");
    // `timeout`, which runs the server, reports the signal by its own end or by its exit code.
    assert!(status.signal() == Some(15) || status.code() == Some(128 + 15), "{status}");
}

#[test]
fn reactors_poll_where_they_are_told() {
    let lab = Lab::new();
    let array = lab.create("placed", Shape { member_mib: 24, ..Shape::RAID5 });
    let server = array.serve(&["--cpus", "0"]);
    assert_eq!(server.status().reactors, [Some(0)]);
    assert_eq!(server.cpus_of_thread("reactor-0"), "0");
    let detail = lab.striate_ok(&["detail", "placed"]);
    assert!(detail.contains("1 on CPU 0"), "{detail}");
    server.stop();
    for (list, why) in [("65535", "CPU 65535 is not one"), ("0,0", "CPU 0 is given twice")] {
        let mut args: Vec<&OsStr> = vec!["serve".as_ref(), "--cpus".as_ref(), list.as_ref()];
        args.extend(array.members.iter().map(|member| member.as_os_str()));
        let output = lab.striate(&args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && error.contains(why), "--cpus {list}: {error}");
    }
    // The commands were refused before they touched anything: the array is as the stop left it.
    array.scrub_is_clean("after what was refused");
}

/// A server waits some seconds for a device that another process has locked. Neither a status query nor the
/// server's stop waits for that.
#[test]
fn a_command_that_waits_holds_up_no_other() {
    let lab = Lab::new();
    let array = lab.create("held", Shape { member_mib: 24, ..Shape::RAID5 });
    let server = array.serve(&[]);
    server.fail(1);
    let fresh = lab.member("fresh", &array.shape);
    let taken = std::fs::File::open(&fresh).expect("a member file");
    rustix::fs::flock(&taken, rustix::fs::FlockOperation::LockExclusive).expect("nobody has it");
    let args: [&OsStr; 4] = ["replace".as_ref(), "held".as_ref(), "1".as_ref(), fresh.as_ref()];
    let mut waiting = lab.start(&args);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.status().members.len(), 5);
    lab.striate_ok(&["stop", "held"]);
    assert!(waiting.try_wait().expect("our child").is_none(), "the stop waited for the replacement");
    assert!(!waiting.wait().expect("our child").success(), "an array that was stopped takes no device");
    server.ended();
}

/// SIGTERM ends a server in order even while it fills a slot and a `wait` for that runs. The next server
/// continues the rebuild.
#[test]
fn a_signal_does_not_wait_for_a_rebuild() {
    let lab = Lab::new();
    // Large enough that a rebuild lasts while the server is ended.
    let shape = Shape { member_mib: 512, init: "assume-clean", ..Shape::RAID5 };
    let mut array = lab.create("ended", shape);
    let server = array.serve(&[]);
    server.fail(1);
    let fresh = lab.member("fresh", &array.shape);
    server.replace(1, &fresh);
    let mut waiting = lab.start(&["wait", "ended"]);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!server.status().background.is_empty(), "the rebuild was over too soon");
    let began = Instant::now();
    server.terminate();
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    assert!(!waiting.wait().expect("our child").success(), "a rebuild that was broken off did not end well");
    array.members[1] = fresh;
    let server = array.serve(&[]);
    assert!(
        !server.status().background.is_empty(),
        "nothing was left of the rebuild: the signal waited for it"
    );
    server.wait();
    assert_eq!(server.status().health, Health::Optimal, "the rebuild went on");
    server.stop();
}

#[test]
#[ignore = "needs root for loop devices"]
fn an_array_is_found_by_its_name() {
    let lab = Lab::new();
    let name = format!("found-{}", std::process::id());
    let array = lab.create(&name, Shape { member_mib: 24, backing: Backing::Loop, ..Shape::RAID5 });
    let server = Server::start(&lab, &name, &[PathBuf::from(&name)], &[]);
    let status = server.status();
    let paths: Vec<PathBuf> =
        status.members.iter().filter_map(|member| member.path.clone().map(PathBuf::from)).collect();
    assert_eq!(paths, array.members);
    server.stop();
}

/// A member that appears some seconds after the others, like a drive behind a slow controller, is waited for.
/// Without it the array starts only after a time, and reports what that costs. Beside a device of another
/// array of the same name the start needs `--uuid`.
#[test]
#[ignore = "needs root for loop devices"]
fn a_member_that_is_late_is_waited_for() {
    let lab = Lab::new();
    let name = format!("late-{}", std::process::id());
    let shape = Shape { member_mib: 24, backing: Backing::Loop, ..Shape::RAID5 };
    let array = lab.create(&name, shape);
    let by_name = [PathBuf::from(&name)];
    // The laboratory still knows the loop device, and detaches it at the end.
    let (late, file) = (array.members[2].clone(), lab.path(&format!("{name}.2")));
    let losetup = |args: &[&OsStr]| succeeded("losetup", &run("losetup", args));
    losetup(&["--detach".as_ref(), late.as_ref()]);
    let mut uuid = String::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            losetup(&["--direct-io=on".as_ref(), late.as_ref(), file.as_ref()]);
        });
        let server = Server::start(&lab, &name, &by_name, &["--wait", "60"]);
        assert_eq!(server.status().health, Health::Optimal);
        uuid = server.status().uuid;
        server.stop();
    });
    losetup(&["--detach".as_ref(), late.as_ref()]);
    let other = Lab::new();
    let guest = other.create(&name, Shape { members: 3, ..shape });
    guest.members[1..].iter().for_each(|member| other.detach(member));
    let refused = lab.striate_refuses(&["serve", &name, "--wait", "1"]);
    assert!(refused.contains("several arrays are named") && refused.contains(&uuid), "{refused}");
    let server = Server::start(&lab, &name, &by_name, &["--wait", "1", "--uuid", &uuid]);
    assert_eq!(server.status().health, Health::NoRedundancy);
    let log = server.log();
    assert!(log.contains("the member of slot 2 has not come within 1 s"), "{log}");
    let left_out = format!("{}: left out: it says that it is of another array", guest.members[0].display());
    assert!(log.contains(&left_out), "{log}");
    server.stop();
}
