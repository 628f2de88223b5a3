//! The server as a process: its output, and the signals that it gets.
//!
//! Oracle: the array is served and takes orders throughout, and when the process is told to end, it ends in
//! order with exit code 0.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use engine::status::{ArrayStatus, MemberState};
use serde::Deserialize as _;

use crate::content::pattern;
use crate::lab::{Array, Lab, Shape, timed};
use crate::nbd_client::NbdClient;

const SHAPE: Shape = Shape { member_mib: 24, ..Shape::RAID5 };
/// Longest wait of these tests.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A server whose output goes where a test says.
struct Process<'lab> {
    array: &'lab Array<'lab>,
    child: Child,
    socket: PathBuf,
}

impl<'lab> Process<'lab> {
    /// Starts the server; `program` is the command line up to `serve`.
    fn start(array: &'lab Array<'lab>, mut program: Command) -> Process<'lab> {
        let socket = array.lab.path("process.sock");
        program.arg("serve").args(&array.members).args(["--nbd", &format!("unix:{}", socket.display())]);
        program.env("STRIATE_RUN_DIR", array.lab.path("run")).stdin(Stdio::null());
        let process = Process { array, child: program.spawn().expect("the program runs"), socket };
        process.until("it is served", || process.is_served());
        process
    }

    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < WAIT_MAX, "not so after {WAIT_MAX:?}: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_served(&self) -> bool {
        self.array.lab.striate(&["status", &self.array.name]).status.success()
    }

    fn members(&self) -> Vec<MemberState> {
        let text = self.array.lab.striate_ok(&["status", &self.array.name, "--json"]);
        let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let status = ArrayStatus::deserialize(&document["arrays"][0]).expect("a status");
        status.members.iter().map(|member| member.state).collect()
    }

    /// Writes, and reads back.
    fn serves(&self, seed: u64) {
        let data = pattern(seed, 0, 256 << 10);
        let mut client = NbdClient::connect(&self.socket, "").expect("it is served");
        client.write(0, &data);
        assert_eq!(client.read(0, data.len()), data);
    }

    fn signal(&self, name: &str) {
        let killed = timed("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(killed.expect("kill runs").success(), "kill -s {name}");
    }

    /// Checks that the process, which has been told to end, ends in order.
    fn ends(mut self) {
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("our child") {
                Some(status) => break status,
                None => assert!(began.elapsed() < WAIT_MAX, "still running"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "the server ended with {status}");
        self.array.scrub_is_clean("after the server has ended");
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn striate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_striate"))
}

/// The disk under the log, or under the reader of the `ready` line, is full.
#[test]
fn output_that_cannot_be_written_ends_no_server() {
    let lab = Lab::new();
    let array = lab.create("deaf", SHAPE);
    let full = || File::options().write(true).open("/dev/full").expect("a device of every system");
    for by_signal in [true, false] {
        let mut program = striate();
        program.stdout(full()).stderr(full());
        let process = Process::start(&array, program);
        process.serves(1);
        lab.striate_refuses(&["fail", "deaf", "77"]);
        process.serves(2);
        match by_signal {
            true => process.signal("TERM"),
            false => drop(lab.striate_ok(&["stop", "deaf"])),
        }
        process.ends();
    }
    // The exit code of a failing command does not depend on its output either.
    let mut program = timed(env!("CARGO_BIN_EXE_striate"));
    let refused = program.args(["detail", "/nonexistent/member"]).stderr(full()).output();
    assert_eq!(refused.expect("the program runs").status.code(), Some(1));
}

/// The reader of the log has stopped reading, like a stalled terminal or a program that hangs. More is logged
/// than the pipe and the queue hold.
#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let lab = Lab::new();
    let array = lab.create("stalled", SHAPE);
    for reads_again in [true, false] {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut program = striate();
        program.stdout(Stdio::null()).stderr(writer);
        let process = Process::start(&array, program);
        let mut control = UnixStream::connect(lab.path("run/stalled.sock")).expect("it is served");
        let mut answers = BufReader::new(control.try_clone().expect("a handle"));
        for _ in 0..2_000 {
            control.write_all(b"{\"verb\":\"fail\",\"member\":77}\n").expect("it listens");
            let mut answer = String::new();
            answers.read_line(&mut answer).expect("it answers");
            assert!(answer.contains("error"), "{answer}");
        }
        process.serves(3);
        if reads_again {
            let mut text = vec![0; 1 << 20];
            process.until("the log goes on", || {
                let count = reader.read(&mut text).expect("the log");
                // Each order writes a line whenever the queue is full.
                let _ = control.write_all(b"{\"verb\":\"fail\",\"member\":77}\n");
                String::from_utf8_lossy(&text[..count]).contains("lines of the log were lost")
            });
            // From here on the log has no reader: each line fails.
            drop(reader);
            lab.striate_refuses(&["fail", "stalled", "77"]);
        }
        process.signal("TERM");
        process.ends();
    }
}

/// Signals that a service receives in its life end it only if they are meant to. A server that is halted
/// (TSTP, TTOU) would halt its hosts.
#[test]
fn only_what_asks_for_an_end_ends_a_server() {
    let lab = Lab::new();
    let array = lab.create("called", SHAPE);
    for end in ["TERM", "INT"] {
        let mut program = striate();
        program.stdout(Stdio::null()).stderr(File::create(lab.path("called.log")).expect("a log"));
        let process = Process::start(&array, program);
        let passed_over = [
            "HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "TSTP", "TTIN", "TTOU", "XFSZ", "XCPU",
            "PIPE", "PWR", "RTMIN", "40",
        ];
        for (nth, name) in passed_over.iter().enumerate() {
            process.signal(name);
            process.serves(nth as u64);
        }
        // Two signals at once count as one, and the stop is clean.
        process.signal(end);
        process.signal(end);
        process.ends();
        let log = std::fs::read_to_string(lab.path("called.log")).expect("a log");
        assert!(log.contains("SIGHUP is passed over"), "{log}");
    }
}

/// A limit of the process on the length of files is no fault of the members that reach it: the write fails,
/// and no member is failed.
#[test]
fn a_limit_on_files_fails_no_member() {
    let lab = Lab::new();
    let array = lab.create("limited", SHAPE);
    let mut program = Command::new("prlimit");
    program.args([&format!("--fsize={}", 12 << 20), "--", env!("CARGO_BIN_EXE_striate")]);
    program.stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process::start(&array, program);
    process.serves(4);
    let mut client = NbdClient::connect(&process.socket, "").expect("it is served");
    let beyond = 70 << 20;
    assert!(
        client.try_write(beyond, &pattern(5, 0, 4096)).is_err(),
        "it lies beyond the limit of each member"
    );
    assert_eq!(process.members(), [MemberState::InSync; 5]);
    process.serves(6);
    process.signal("TERM");
    process.ends();
}

/// `status --watch` ends when its reader ends.
#[test]
fn a_watch_ends_with_its_reader() {
    let lab = Lab::new();
    let array = lab.create("watched", SHAPE);
    let server = array.serve(&[]);
    let mut program = timed(env!("CARGO_BIN_EXE_striate"));
    program.args(["status", "--watch"]).env("STRIATE_RUN_DIR", lab.path("run")).stdout(Stdio::piped());
    let mut watch = program.spawn().expect("the program runs");
    let mut line = String::new();
    BufReader::new(watch.stdout.take().expect("piped")).read_line(&mut line).expect("a table");
    assert!(line.contains("HEALTH"), "{line}");
    assert!(watch.wait().expect("our child").success());
    server.stop();
}

/// `stop` is refused while clients are connected, and the refusal says how many. A client that has just hung
/// up does not count; a signal and `--force` stop the server regardless of clients.
#[test]
fn a_stop_is_refused_while_clients_are_connected() {
    let lab = Lab::new();
    let array = lab.create("shared", SHAPE);
    let server = array.serve(&[]);
    let mut clients = [server.connect(), server.connect()];
    let why = lab.striate_refuses(&["stop", "shared"]);
    assert!(why.contains("2 connected clients") && why.contains("--force"), "{why}");
    for client in &mut clients {
        client.write(0, &pattern(7, 0, 4096));
    }
    drop(clients);
    server.stop();
    let server = array.serve(&[]);
    let _connected = server.connect();
    lab.striate_ok(&["stop", "shared", "--force"]);
    server.ended();
    let server = array.serve(&[]);
    let _connected = server.connect();
    server.terminate();
    array.scrub_is_clean("after all that");
}
