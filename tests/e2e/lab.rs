//! The laboratory: a temporary directory with members, the command line run in it, arrays and their servers.
//!
//! Everything that a test starts ends with it: a [`Server`] that goes out of scope is killed; loop devices
//! and mounts are removed when the [`Lab`] is dropped. No command can hang a run: all are run by `timeout`.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use engine::status::{ArrayStatus, Health, MemberState};
use serde_json::Value;

use crate::content::pattern;
use crate::nbd_client::NbdClient;

/// Longest time that a command may take, in seconds.
const COMMAND_SECONDS_MAX: &str = "300";
/// Longest time from start to `ready`; the promise is 2 s for a huge array on an idle machine.
const READY_MAX: Duration = Duration::from_secs(60);

/// The storage below a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    File,
    /// A loop device over a file: needs root.
    Loop,
}

/// The shape of an array, and its members.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub level: u8,
    pub members: usize,
    pub chunk: &'static str,
    pub init: &'static str,
    pub backing: Backing,
    pub member_mib: u64,
    /// Whether members are first filled with noise, like a used drive.
    pub noise: bool,
}

impl Shape {
    /// A RAID-5 of five files with 64 KiB chunks, nothing initialized; `RAID6` is the same at level 6.
    pub const RAID5: Shape = Shape {
        level: 5,
        members: 5,
        chunk: "64K",
        init: "lazy",
        backing: Backing::File,
        member_mib: 48,
        noise: false,
    };
    pub const RAID6: Shape = Shape { level: 6, ..Shape::RAID5 };

    pub fn parities(&self) -> usize {
        self.level as usize - 4
    }

    /// The health of an array that has lost only this many members.
    pub fn health_without(&self, members: usize) -> Health {
        match self.parities().checked_sub(members) {
            _ if members == 0 => Health::Optimal,
            Some(0) => Health::NoRedundancy,
            Some(_) => Health::Degraded,
            None => Health::Failed,
        }
    }

    pub fn chunk_bytes(&self) -> u64 {
        self.chunk.strip_suffix('K').expect("chunks are given in K").parse::<u64>().expect("a number") << 10
    }

    pub fn stripe_bytes(&self) -> u64 {
        (self.members - self.parities()) as u64 * self.chunk_bytes()
    }

    /// Every set of as many slots as the level can lose.
    pub fn losses(&self) -> Vec<Vec<usize>> {
        match self.level {
            5 => (0..self.members).map(|a| vec![a]).collect(),
            _ => (0..self.members).flat_map(|b| (0..b).map(move |a| vec![a, b])).collect(),
        }
    }
}

/// A temporary directory, and everything outside of it that must be undone.
pub struct Lab {
    loops: RefCell<Vec<PathBuf>>,
    mounts: RefCell<Vec<PathBuf>>,
    dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Lab {
        let dir = tempfile::Builder::new().prefix("striate-e2e.").tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("run")).expect("a run directory");
        Lab { dir, loops: RefCell::default(), mounts: RefCell::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates a sparse file of `bytes`.
    pub fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).and_then(|file| file.set_len(bytes)).expect("a sparse file");
        path
    }

    /// Attaches a loop device over `file`, unbuffered.
    pub fn loop_device(&self, file: &Path) -> PathBuf {
        self.loop_device_of(file, &["--direct-io=on"])
    }

    /// Attaches a loop device over `file`, with these options of losetup.
    pub fn loop_device_of(&self, file: &Path, options: &[&str]) -> PathBuf {
        assert_root("loop devices");
        let options = ["--find", "--show"].iter().chain(options).map(OsStr::new);
        let output = run("losetup", &options.chain([file.as_os_str()]).collect::<Vec<_>>());
        let device = PathBuf::from(succeeded("losetup", &output).trim());
        self.loops.borrow_mut().push(device.clone());
        device
    }

    /// Detaches a loop device from its file.
    pub fn detach(&self, device: &Path) {
        succeeded("losetup", &run("losetup", &[OsStr::new("--detach"), device.as_os_str()]));
        self.loops.borrow_mut().retain(|known| known != device);
    }

    /// Mounts `what` on a new directory of the laboratory.
    pub fn mount(&self, options: &[&str], what: &Path, name: &str) -> PathBuf {
        assert_root("mounts");
        let on = self.mount_point(name);
        let options =
            options.iter().map(OsStr::new).chain([what.as_os_str(), on.as_os_str()]).collect::<Vec<_>>();
        succeeded("mount", &run("mount", &options));
        on
    }

    /// Makes a directory to mount on; it is unmounted when the laboratory is dropped.
    pub fn mount_point(&self, name: &str) -> PathBuf {
        let on = self.path(name);
        fs::create_dir(&on).expect("a directory to mount on");
        self.mounts.borrow_mut().push(on.clone());
        on
    }

    /// Runs the command line. The run directory is the laboratory's.
    pub fn striate<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        let mut command = timed(env!("CARGO_BIN_EXE_striate"));
        command.args(args).env("STRIATE_RUN_DIR", self.path("run"));
        command.stdin(Stdio::null()).output().expect("the program runs")
    }

    /// Starts the command line without waiting for its end.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Child {
        let mut command = timed(env!("CARGO_BIN_EXE_striate"));
        command.args(args).env("STRIATE_RUN_DIR", self.path("run"));
        command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program runs")
    }

    /// Runs the command line; it must succeed.
    #[track_caller]
    pub fn striate_ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let output = self.striate(args);
        succeeded(&format!("striate {}", shown(args)), &output)
    }

    /// Runs the command line; it must refuse (no panic, no signal) and explain; returns the explanation.
    #[track_caller]
    pub fn striate_refuses<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let output = self.striate(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let what = format!("striate {}", shown(args));
        // 101 and 134 are panics and aborts; 124 and 137 mean that `timeout` ended it.
        let code = output.status.code();
        assert!(
            code.is_some_and(|code| !matches!(code, 0 | 101 | 124 | 134 | 137)),
            "{what}: should have been refused, ended with {:?}\n{stderr}",
            output.status
        );
        assert!(!stderr.trim().is_empty(), "{what}: refused without a word");
        assert!(!stderr.contains("panicked at"), "{what}: panicked\n{stderr}");
        let is_plain = !stderr.replace("[::", "[").contains("::") && !stderr.contains(": :");
        assert!(is_plain, "{what}: a doubled colon or a Rust path\n{stderr}");
        stderr
    }

    /// Makes members (`NAME.0`, ...) of a shape, without an array on them.
    pub fn members(&self, name: &str, shape: &Shape) -> Vec<PathBuf> {
        (0..shape.members).map(|slot| self.member(&format!("{name}.{slot}"), shape)).collect()
    }

    /// Makes another member that fits a shape.
    pub fn member(&self, name: &str, shape: &Shape) -> PathBuf {
        let file = self.file(name, shape.member_mib << 20);
        if shape.noise {
            let open = OpenOptions::new().write(true).open(&file).expect("just made");
            let seed =
                name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte as u64));
            for mib in 0..shape.member_mib {
                open.write_all_at(&pattern(seed, mib << 20, 1 << 20), mib << 20).expect("room for a member");
            }
        }
        match shape.backing {
            Backing::File => file,
            Backing::Loop => self.loop_device(&file),
        }
    }

    /// Creates an array on new members.
    #[track_caller]
    pub fn create(&self, name: &str, shape: Shape) -> Array<'_> {
        let members = self.members(name, &shape);
        let mut args = create_args(name, &shape);
        args.extend(members.iter().map(|member| member.to_string_lossy().into_owned()));
        self.striate_ok(&args);
        Array { lab: self, name: name.to_string(), shape, members }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for mount in self.mounts.borrow().iter().rev() {
            let _ = run("umount", &[OsStr::new("--lazy"), mount.as_os_str()]);
        }
        for device in self.loops.borrow().iter() {
            let _ = run("losetup", &[OsStr::new("--detach"), device.as_os_str()]);
        }
    }
}

/// The words `create NAME --level ...` up to the members.
pub fn create_args(name: &str, shape: &Shape) -> Vec<String> {
    let level = shape.level.to_string();
    ["create", name, "--level", &level, "--chunk", shape.chunk, "--init", shape.init]
        .map(String::from)
        .to_vec()
}

/// An array and its members, by slot.
pub struct Array<'lab> {
    pub lab: &'lab Lab,
    pub name: String,
    pub shape: Shape,
    pub members: Vec<PathBuf>,
}

impl Array<'_> {
    /// Serves all members.
    #[track_caller]
    pub fn serve(&self, options: &[&str]) -> Server<'_> {
        self.serve_members(&self.members, options)
    }

    /// Serves some members; returns once hosts can connect.
    #[track_caller]
    pub fn serve_members(&self, members: &[PathBuf], options: &[&str]) -> Server<'_> {
        Server::start(self.lab, &self.name, members, options)
    }

    /// Compares parity in every stripe of the stopped array. Panics unless all is consistent and trusted.
    #[track_caller]
    pub fn scrub_is_clean(&self, when: &str) {
        let scrub = self.scrub();
        assert!(scrub.mismatch_count == 0 && scrub.need_sync == 0, "{when}: {scrub:?}");
        assert!(scrub.checked + scrub.unwritten > 0, "{when}: the scrub looked at nothing: {scrub:?}");
    }

    #[track_caller]
    pub fn scrub(&self) -> Scrub {
        let mut args = vec!["scrub".to_string(), "--json".to_string()];
        args.extend(self.members.iter().map(|member| member.to_string_lossy().into_owned()));
        let output = self.lab.striate(&args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("striate scrub: {error}: {text}\n{}", String::from_utf8_lossy(&output.stderr))
        });
        let count =
            |field: &str| json[field].as_u64().unwrap_or_else(|| panic!("scrub has no {field}: {text}"));
        let scrub = Scrub {
            checked: count("checked"),
            unwritten: count("unwritten"),
            need_sync: count("need_sync"),
            mismatch_count: count("mismatch_count"),
            mismatches: json["mismatches"].to_string(),
        };
        let expected = if scrub.mismatch_count > 0 { 1 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "the exit code of a scrub with {scrub:?}");
        scrub
    }
}

/// The result of a scrub.
#[derive(Debug)]
#[expect(dead_code, reason = "`mismatches` is there to be shown by a failure")]
pub struct Scrub {
    pub checked: u64,
    pub unwritten: u64,
    pub need_sync: u64,
    pub mismatch_count: u64,
    pub mismatches: String,
}

/// A running `striate serve`, killed when it goes out of scope.
pub struct Server<'lab> {
    lab: &'lab Lab,
    name: String,
    child: Child,
    log: PathBuf,
    pub socket: PathBuf,
}

impl<'lab> Server<'lab> {
    #[track_caller]
    pub fn start(lab: &'lab Lab, name: &str, members: &[PathBuf], options: &[&str]) -> Server<'lab> {
        let socket = lab.path(&format!("{name}.sock"));
        let log = lab.path(&format!("{name}.log"));
        let stderr = OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_striate"))
            .arg("serve")
            .args(members)
            .args(["--nbd", &format!("unix:{}", socket.display())])
            .args(options)
            .env("STRIATE_RUN_DIR", lab.path("run"))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the program runs");
        let ready = wait_for_ready(child.stdout.take().expect("piped"));
        let mut server = Server { lab, name: name.to_string(), child, log, socket };
        if let Err(why) = ready {
            let ended = server.child.try_wait();
            panic!("striate serve: {why} ({ended:?})\n{}", server.log_tail());
        }
        server
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// Connects our own client.
    #[track_caller]
    pub fn connect(&self) -> NbdClient {
        NbdClient::connect(&self.socket, "")
            .unwrap_or_else(|error| panic!("connect: {error}\n{}", self.log_tail()))
    }

    #[track_caller]
    pub fn status(&self) -> ArrayStatus {
        let text = self.lab.striate_ok(&["status", &self.name, "--json"]);
        let document: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("status: {error}: {text}"));
        let mut list: Vec<ArrayStatus> = serde_json::from_value(document["arrays"].clone())
            .unwrap_or_else(|error| panic!("status: {error}: {text}"));
        assert_eq!(list.len(), 1, "status of one array: {text}");
        list.remove(0)
    }

    #[track_caller]
    pub fn slot_state(&self, slot: usize) -> MemberState {
        self.status().members[slot].state
    }

    #[track_caller]
    pub fn fail(&self, slot: usize) {
        self.lab.striate_ok(&["fail", &self.name, &slot.to_string()]);
        assert_eq!(self.slot_state(slot), MemberState::Failed, "slot {slot} after `fail`");
    }

    /// Fails a slot. While a resync runs the order is refused, with advice; then it is repeated.
    #[track_caller]
    pub fn fail_once_synced(&self, slot: usize) {
        let output = self.lab.striate(&["fail", &self.name, &slot.to_string()]);
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            let hint = format!(" wait {}`", self.name);
            assert!(why.contains("still to be resynced") && why.contains(&hint), "{why}");
            self.wait();
            self.fail(slot);
        }
    }

    #[track_caller]
    pub fn replace(&self, slot: usize, path: &Path) {
        self.lab.striate_ok(&[
            OsStr::new("replace"),
            self.name.as_ref(),
            slot.to_string().as_ref(),
            path.as_os_str(),
        ]);
    }

    /// Waits until no resync and no rebuild runs.
    #[track_caller]
    pub fn wait(&self) {
        self.lab.striate_ok(&["wait", &self.name, "--timeout", "120"]);
        let background = self.status().background;
        assert!(background.is_empty(), "still at work after `wait`: {background:?}");
    }

    /// Waits until no stripe is marked as being written, neither in memory nor on the members, according to
    /// the status. Returns the time that took.
    #[track_caller]
    pub fn wait_until_idle(&self) -> Duration {
        let began = Instant::now();
        loop {
            let cells = self.status().cells;
            if cells.dirty == 0 && cells.blocks_behind == 0 {
                return began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(60), "not idle: {cells:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Bytes of memory that the server holds (VmRSS).
    pub fn resident_bytes(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS");
        line.trim().strip_suffix(" kB").expect("in kB").parse::<u64>().expect("a number") << 10
    }

    /// Processor time that the server has used, in the kernel's ticks (a hundredth of a second each).
    pub fn cpu_ticks(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        // After the name, which is in parentheses: utime and stime are fields 14 and 15 of the line.
        let fields: Vec<&str> = text.rsplit(')').next().expect("a name").split_whitespace().collect();
        [11, 12].iter().map(|at: &usize| fields[*at].parse::<u64>().expect("a number")).sum()
    }

    /// The CPUs that a thread of the server may run on, as the kernel lists them.
    pub fn cpus_of_thread(&self, name: &str) -> String {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let task = tasks
            .map(|task| task.expect("a directory").path())
            .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name));
        let status = fs::read_to_string(task.expect("the thread is there").join("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.expect("a Cpus_allowed_list").trim().to_string()
    }

    /// Stops the server by a signal, as an operator's shell would; it must end cleanly.
    #[track_caller]
    pub fn terminate(mut self) {
        succeeded("kill", &run("kill", &["-TERM".to_string(), self.child.id().to_string()]));
        self.ended_cleanly("SIGTERM");
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the server by `striate stop`.
    #[track_caller]
    pub fn stop(mut self) {
        self.lab.striate_ok(&["stop", &self.name]);
        self.ended_cleanly("striate stop");
    }

    /// Waits until the server, which has been stopped, ends.
    pub fn ended(mut self) {
        self.ended_cleanly("a stop");
    }

    /// Kills the server without warning.
    pub fn kill(mut self) {
        self.child.kill().expect("still there");
        self.child.wait().expect("killed");
    }

    /// Whether the server still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    #[track_caller]
    fn ended_cleanly(&mut self, by: &str) {
        let began = Instant::now();
        while self.is_running() {
            assert!(began.elapsed() < READY_MAX, "still running long after {by}\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait().expect("ended");
        assert!(status.success(), "after {by} the server ended with {status}\n{}", self.log_tail());
    }

    /// The log of the server.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    fn log_tail(&self) -> String {
        let mut text = String::new();
        let _ = File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "---- the end of the log of `striate serve` ({})\n{}\n----",
                self.name,
                self.log_tail()
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the output until the server is ready; a thread reads on, so that the server never blocks.
fn wait_for_ready(stdout: impl Read + Send + 'static) -> Result<(), String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.starts_with("ready") {
                let _ = tell.send(());
            }
        }
    });
    told.recv_timeout(READY_MAX).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => format!("not ready after {READY_MAX:?}"),
        mpsc::RecvTimeoutError::Disconnected => "ended before it was ready".to_string(),
    })
}

/// A command that cannot hang. The PATH gets the directories of mke2fs and losetup in Debian, which an
/// ordinary user's PATH lacks.
pub fn timed(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", COMMAND_SECONDS_MAX, program]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
    command
}

/// Runs a program of the system.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Output {
    let output = timed(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert_ne!(output.status.code(), Some(127), "{program} is not installed: run scripts/setup test");
    output
}

/// The output of a command, which must have succeeded.
#[track_caller]
pub fn succeeded(what: &str, output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let mut text = format!("{what}: {}\n", output.status);
        let _ = write!(text, "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
        panic!("{text}");
    }
    stdout
}

/// Fails without root: an `#[ignore]`d check that is asked for must not pass by being skipped.
#[track_caller]
pub fn assert_root(what: &str) {
    let id = succeeded("id", &run("id", &["-u"]));
    assert_eq!(id.trim(), "0", "{what} need root: this check cannot run as an ordinary user");
}

/// Writes bytes into a file or a device behind the server's back.
pub fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).expect("a member");
    file.write_all_at(bytes, offset).expect("inside the member");
    file.flush().and_then(|()| file.sync_all()).expect("written");
}

/// A number from the environment.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => otherwise,
    }
}

fn shown<S: AsRef<OsStr>>(args: &[S]) -> String {
    args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ")
}
