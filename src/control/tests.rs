//! The control socket against a fake array: what is answered, which clients are refused, which sizes and
//! times are limited.
//!
//! Oracle: the fake's own record of the calls that reached it. Clients are raw sockets where a test breaks
//! the rules, and [`Client`] where it keeps them.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::examine::{ExaminedSlot, ExaminedSuperblock};
use engine::status::{
    ArrayStatus, CellCounts, Counters, Health, LostPieces, MemberCounters, MemberRoute, MemberState,
    MemberStatus, RouteKind,
};

use super::client::{Client, Unreachable, connect_within};
use super::message::{MemberId, Request};
use super::server::{Backend, Claim, ControlServer, peer_allowed};
use super::{CLIENTS_MAX, LINE_BYTES_MAX, LINE_TIME_MAX};
use crate::names::ArrayName;
use crate::rundir::RunDir;

/// The status of a healthy RAID-5 of three.
pub fn example_status(name: &str) -> ArrayStatus {
    let member = |slot| MemberStatus {
        slot,
        state: MemberState::InSync,
        path: Some(format!("/gone/m{slot}")),
        read_errors: 0,
        repairs: 0,
        refusals: 0,
        failure: None,
        route: Some(MemberRoute { kind: RouteKind::Block, polled: true, note: "a partition".into() }),
        serial: Some(format!("S{slot}")),
        io: Some(MemberCounters::default()),
    };
    ArrayStatus {
        schema: engine::status::SCHEMA_VERSION,
        server: engine::status::ServerStatus::default(),
        read_only: false,
        trusts_parity: false,
        lost_bytes: 0,
        name: name.into(),
        uuid: "00000000-0000-4000-8000-000000000000".into(),
        level: 5,
        chunk_bytes: 64 << 10,
        size_bytes: 1 << 40,
        logical_block_bytes: 512,
        health: Health::Optimal,
        epoch: 1,
        members: (0..3).map(member).collect(),
        cells: CellCounts::default(),
        lost_rows: engine::status::LostRowsStatus::default(),
        background: Vec::new(),
        exports: vec!["unix:/gone/a.nbd".into()],
        reactors: vec![Some(3), None],
        counters: Counters::default(),
    }
}

/// The superblock of a member of that array.
pub fn example_superblock(name: &str, array_uuid: &str) -> ExaminedSuperblock {
    let slot = ExaminedSlot { state: MemberState::InSync, epoch: 1, rebuild_cursor_stripes: None };
    ExaminedSuperblock {
        name: name.into(),
        array_uuid: array_uuid.into(),
        member_uuid: "m".into(),
        host: "host".into(),
        host_id: String::new(),
        level: 5,
        chunk_bytes: 64 << 10,
        size_bytes: 1 << 40,
        data_offset_bytes: 1 << 20,
        slot: 0,
        epoch: 1,
        sequence: 7,
        clean: true,
        slots: vec![slot; 3],
    }
}

/// A fake array that only notes its calls; slot 9 cannot fail.
#[derive(Default)]
struct Fake {
    calls: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, call: String) -> Result<(), String> {
        self.calls.lock().unwrap().push(call);
        Ok(())
    }
}

impl Backend for Fake {
    fn status(&self) -> Result<ArrayStatus, String> {
        Ok(example_status("fake"))
    }
    fn lost(&self, from_stripe: u64) -> Result<LostPieces, String> {
        let pieces = vec![(from_stripe * 4096, 4096)];
        Ok(LostPieces { pieces, next_stripe: (from_stripe < 2).then_some(from_stripe + 1) })
    }
    fn fail(&self, member: &MemberId) -> Result<(), String> {
        if *member == MemberId::Slot(9) {
            Err("no slot 9".into())
        } else {
            self.note(format!("fail {member:?}"))
        }
    }
    fn replace(&self, slot: &MemberId, path: &Path, force: bool) -> Result<(), String> {
        self.note(format!("replace {slot:?} {} {force}", path.display()))
    }
    fn stop(&self, _force: bool) -> Result<Vec<String>, String> {
        self.note("stop".into()).map(|()| vec!["a member stays in use".into()])
    }
}

/// A fake array, served in a directory of its own.
struct Stage {
    run_dir: RunDir,
    name: ArrayName,
    fake: Arc<Fake>,
    control: Option<ControlServer>,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new(allowed: fn(u32) -> bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = RunDir::create(Some(directory.path())).unwrap();
        let (name, fake) = ("fake".parse().unwrap(), Arc::new(Fake::default()));
        let claim = Claim::take(&run_dir, &name).unwrap();
        let control = claim.listen(Arc::clone(&fake) as Arc<dyn Backend>, allowed, || ()).unwrap();
        Self { run_dir, name, fake, control: Some(control), _directory: directory }
    }

    fn client(&self) -> Client {
        Client::connect(Some(&self.run_dir), &self.name).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.run_dir.control_socket(&self.name).unwrap()).unwrap();
        stream.set_read_timeout(Some(2 * LINE_TIME_MAX)).unwrap();
        stream
    }
}

/// Reads until the server closes.
fn drain(mut stream: UnixStream) -> String {
    let mut text = Vec::new();
    // A reset counts as a close too: the server left some bytes of this client unread.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn commands_reach_the_array() {
    let stage = Stage::new(|_| true);
    let mut client = stage.client();
    assert_eq!(client.status().unwrap().name, "fake");
    client.command(&Request::Fail { member: MemberId::Slot(2) }).unwrap();
    client
        .command(&Request::Replace { slot: MemberId::Slot(2), path: "/dev/new".into(), force: true })
        .unwrap();
    let refused = client.command(&Request::Fail { member: MemberId::Slot(9) }).unwrap_err();
    assert_eq!(refused.line(), "no slot 9");
    client.command(&Request::Stop { force: false }).unwrap();
    assert_eq!(*stage.fake.calls.lock().unwrap(), ["fail Slot(2)", "replace Slot(2) /dev/new true", "stop"]);
}

#[test]
fn the_socket_is_private_and_goes_away() {
    let mut stage = Stage::new(|_| true);
    let path = stage.run_dir.control_socket(&stage.name).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let idle = stage.raw();
    let started = Instant::now();
    stage.control.take().unwrap().close();
    assert!(started.elapsed() < LINE_TIME_MAX, "an idle client does not hold up the end");
    assert!(!path.exists());
    assert_eq!(drain(idle), "");
}

#[test]
fn other_users_are_refused() {
    assert!(peer_allowed(7, 7) && peer_allowed(0, 7) && !peer_allowed(8, 7) && !peer_allowed(7, 0));
    let stage = Stage::new(|_| false);
    let error = stage.client().command(&Request::Stop { force: false }).unwrap_err();
    assert_eq!(
        error.line(),
        "refused: another user serves this array: give the command as that user or as root"
    );
    assert!(stage.fake.calls.lock().unwrap().is_empty());
}

#[test]
fn nonsense_is_answered_and_the_next_line_is_served() {
    let stage = Stage::new(|_| true);
    let mut stream = stage.raw();
    stream.write_all(b"\xff\xfe\n{}\n{\"verb\":\"fail\",\"member\":1}\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let text = drain(stream);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].contains("not understood") && lines[1].contains("not understood"), "{text}");
    assert_eq!(lines[2], r#"{"answer":"done"}"#);
}

#[test]
fn long_lines_end_the_conversation() {
    let stage = Stage::new(|_| true);
    let mut stream = stage.raw();
    let _ = stream.write_all(&vec![b' '; 4 * LINE_BYTES_MAX]);
    let text = drain(stream);
    assert!(text.is_empty() || text.contains("longer than 64 KiB"), "{text}");
    assert_eq!(stage.client().status().unwrap().name, "fake");
}

#[test]
fn a_client_that_drips_is_cut_off() {
    let stage = Stage::new(|_| true);
    let mut stream = stage.raw();
    let started = Instant::now();
    // A byte now and then does not keep a connection open: the line has to be complete in time.
    while stream.write_all(b" ").is_ok() && started.elapsed() < 3 * LINE_TIME_MAX {
        std::thread::sleep(Duration::from_millis(100));
    }
    let took = started.elapsed();
    assert!(took >= LINE_TIME_MAX && took < 2 * LINE_TIME_MAX, "{took:?}");
}

#[test]
fn clients_are_bounded_and_places_come_back() {
    let stage = Stage::new(|_| true);
    let mut idle: Vec<Client> = (0..CLIENTS_MAX).map(|_| stage.client()).collect();
    for client in &mut idle {
        client.status().unwrap();
    }
    assert!(stage.client().status().unwrap_err().line().starts_with("busy"));
    drop(idle);
    let started = Instant::now();
    while stage.client().status().is_err() {
        assert!(started.elapsed() < LINE_TIME_MAX, "places do not come back");
    }
}

#[test]
fn a_live_name_is_refused_and_a_dead_one_taken_over() {
    let mut stage = Stage::new(|_| true);
    let refused = Claim::take(&stage.run_dir, &stage.name).unwrap_err();
    assert!(refused.line().starts_with("already served: fake"));

    stage.control.take().unwrap().close();
    let path = stage.run_dir.control_socket(&stage.name).unwrap();
    // A server that is killed leaves a socket without a listener, and a lock file without a holder.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(Client::try_connect(&stage.run_dir, &stage.name), Err(Unreachable::Dead)));
    // A start that fails leaves the sign of the crash.
    drop(Claim::take(&stage.run_dir, &stage.name).unwrap());
    assert!(matches!(Client::try_connect(&stage.run_dir, &stage.name), Err(Unreachable::Dead)));
    let claim = Claim::take(&stage.run_dir, &stage.name).unwrap();
    let fake: Arc<dyn Backend> = Arc::new(Fake::default());
    let control = claim.listen(fake, |_| true, || ()).unwrap();
    assert_eq!(stage.client().status().unwrap().name, "fake");
    control.close();

    // A program that listens without holding the lock: its socket must stay.
    let _foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(Claim::take(&stage.run_dir, &stage.name).is_err());
    assert!(path.exists());
}

#[test]
fn a_server_that_accepts_nobody_is_not_waited_for_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let limit = Duration::from_millis(100);
    let began = Instant::now();
    let connected: Vec<_> = (0..4).map(|_| connect_within(&path, limit)).collect();
    assert!(connected[0].is_ok() && began.elapsed() < LINE_TIME_MAX);
    assert_eq!(connected[3].as_ref().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn servers_that_are_not_there() {
    let stage = Stage::new(|_| true);
    let other: ArrayName = "other".parse().unwrap();
    assert!(matches!(Client::try_connect(&stage.run_dir, &other), Err(Unreachable::NotServed)));
    assert!(Client::connect(None, &other).unwrap_err().line().starts_with("not served: other"));
}
