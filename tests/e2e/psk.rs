//! TLS with pre-shared keys: stock clients with a key, and clients that must be refused. Certificates are
//! tested in `tls`.
//!
//! Method: each test writes a file of keys for the server and one for its clients, as an operator does.
//! nbdinfo, nbdcopy and qemu, which use GnuTLS, connect by TCP. Oracles: the data that they read and write,
//! `cmp`, their refusals, and the server's log.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::lab::{Lab, Shape, run, succeeded, timed};
use crate::tls::Certificates;
use crate::tls_clients::{Ways, export_of_qemu, log_has, options, serve, stock_clients_work};

/// Keys of users, in hexadecimal, as `openssl rand -hex 32` prints them.
const ALICE: &str = "4fd1a6cbbcd1b37a4d7a0b6ec1a5d0f79e0c2a8fb2f34f6c1d5e8a7b9c0d1e2f";
const BOB: &str = "a8c1f2e3d4b5968778695a4b3c2d1e0ff0e1d2c3b4a5968778695a4b3c2d1e0f";

/// A directory with a file of keys.
struct Keys {
    directory: PathBuf,
}

impl Keys {
    fn new(lab: &Lab, name: &str, users: &[(&str, &str)]) -> Keys {
        let directory = lab.path(name);
        std::fs::create_dir(&directory).expect("a directory");
        let mut text = String::new();
        for (user, key) in users {
            writeln!(text, "{user}:{key}").expect("room");
        }
        let keys = Keys { directory };
        std::fs::write(keys.file(), text).expect("room");
        keys.allow(0o600);
        keys
    }

    fn file(&self) -> PathBuf {
        self.directory.join("keys.psk")
    }

    fn allow(&self, mode: u32) {
        std::fs::set_permissions(self.file(), std::fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    fn text(&self) -> &str {
        self.directory.to_str().expect("UTF-8")
    }

    fn uri(&self, user: &str, port: u16) -> String {
        format!("nbds://{user}@127.0.0.1:{port}/?tls-psk-file={}", self.file().display())
    }

    /// The object that gives a user's key to qemu's tools.
    fn of_qemu(&self, user: &str) -> String {
        format!("tls-creds-psk,id=t,dir={},username={user},endpoint=client", self.text())
    }
}

/// Large transfers by several connections in both directions, and each of the tools.
#[test]
fn stock_clients_use_keys() {
    const BYTES: usize = 96 << 20;
    let lab = Lab::new();
    let array = lab.create("psk", Shape::RAID5);
    let keys = Keys::new(&lab, "keys", &[("alice", ALICE), ("bob", BOB)]);
    let (options, port) = options(keys.text());
    let server = serve(&array, &options);
    assert!(server.log().contains("users that may connect: 2"), "{}", server.log());
    let uri_by_unix_socket = format!(
        "nbds+unix://alice@/?socket={}&tls-psk-file={}",
        server.socket.display(),
        keys.file().display()
    );
    let ways = Ways {
        uri_in: keys.uri("alice", port),
        uri_out: keys.uri("bob", port),
        uri_by_unix_socket,
        object: keys.of_qemu("bob"),
        port,
    };
    stock_clients_work(&lab, &server, &ways, BYTES);
    let (plain, out) = (server.uri(), lab.path("converted"));
    let (object, export, out) = (ways.object, export_of_qemu(port), out.to_str().expect("UTF-8"));
    let args = ["convert", "--object", &object, "--image-opts", &export, "-O", "raw", out];
    succeeded("qemu-img convert", &run("qemu-img", &args));
    let compare = ["compare", "-f", "raw", "-F", "raw", out, &plain];
    succeeded("qemu-img compare", &run("qemu-img", &compare));
    let port = port.to_string();
    let list = ["--list", "-b", "127.0.0.1", "-p", &port, "--object", &object, "--tls-creds", "t"];
    let said = succeeded("qemu-nbd --list", &run("qemu-nbd", &list));
    assert!(said.contains("psk"), "{said}");
    let log = server.log();
    assert!(!log.contains("WARN") && !log.contains(ALICE) && !log.contains(BOB), "{log}");
    server.terminate();
    array.scrub_is_clean("after TLS");
}

/// Clients that offer only a part of GnuTLS: curves other than the server's first choice, another cipher, no
/// TLS 1.3.
#[test]
fn clients_and_the_server_agree_on_an_algorithm() {
    let lab = Lab::new();
    let array = lab.create("psk", Shape::RAID5);
    let keys = Keys::new(&lab, "keys", &[("alice", ALICE)]);
    let (options, port) = options(keys.text());
    let server = serve(&array, &options);
    for (priority, refusal) in [
        ("NORMAL:-GROUP-ALL:+GROUP-SECP521R1:+GROUP-SECP384R1:+ECDHE-PSK", None),
        ("NORMAL:-GROUP-ALL:+GROUP-X25519:+ECDHE-PSK", None),
        ("NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305:+ECDHE-PSK", None),
        // The hash of this cipher suite is not that of the key.
        ("NORMAL:-CIPHER-ALL:+AES-256-GCM:+ECDHE-PSK", Some("Cipher is not supported")),
        ("NORMAL:-VERS-TLS1.3:+ECDHE-PSK:+PSK", Some("TLS protocol version is not supported")),
    ] {
        let object = format!("{},priority={priority}", keys.of_qemu("alice"));
        let export = export_of_qemu(port);
        let args =
            ["--object", &object, "--image-opts", &export, "-c", "write -P 7 0 1M", "-c", "read -P 7 0 1M"];
        let output = run("qemu-io", &args);
        match refusal {
            None => {
                let text = succeeded(priority, &output);
                assert!(text.contains("read 1048576/1048576") && !text.contains("failed"), "{text}");
            }
            Some(reason) => {
                assert!(!output.status.success(), "{priority}");
                let line = format!("no session of TLS: {reason}");
                assert!(log_has(&server, &line), "{priority}: {}", server.log());
            }
        }
    }
    server.terminate();
}

#[test]
fn clients_without_a_key_hear_nothing() {
    let lab = Lab::new();
    let array = lab.create("psk", Shape::RAID5);
    let keys = Keys::new(&lab, "keys", &[("alice", ALICE)]);
    let (options, port) = options(keys.text());
    let server = serve(&array, &options);
    // A client without TLS.
    let plain = format!("nbd://127.0.0.1:{port}");
    let refused = run("nbdinfo", &["--size", &plain]);
    let said = String::from_utf8_lossy(&refused.stderr).to_lowercase();
    assert!(!refused.status.success() && said.contains("tls"), "{said}");
    assert!(!run("nbdinfo", &["--list", &plain]).status.success(), "nor does it hear of exports");
    // Another key, and the name of a user that the server does not have, with both client libraries.
    let others = Keys::new(&lab, "others", &[("alice", BOB), ("bob", ALICE)]);
    for (user, reason) in [
        ("alice", "its key is not the one that keys.psk has for user alice"),
        ("bob", "keys.psk has no user of the name that it gives"),
    ] {
        let refused_before = server.log().matches(reason).count();
        let began = Instant::now();
        assert!(!run("nbdinfo", &["--size", &others.uri(user, port)]).status.success(), "{user}");
        let (object, export) = (others.of_qemu(user), export_of_qemu(port));
        let args = ["--object", &object, "--image-opts", &export, "-c", "read 0 1M"];
        assert!(!run("qemu-io", &args).status.success(), "{user}");
        // The TLS library's own delay of 10 s and more after a failure is switched off.
        assert!(began.elapsed() < Duration::from_secs(9), "a refusal took {:?}", began.elapsed());
        assert!(log_has(&server, reason), "{}", server.log());
        let is_told = |count: usize| count >= refused_before + 2;
        assert!(is_told(server.log().matches(reason).count()), "{}", server.log());
    }
    // A client that has certificates.
    let certificates = Certificates::new(&lab, "pki");
    assert!(!run("nbdinfo", &["--size", &certificates.uri(port)]).status.success());
    assert!(log_has(&server, "no session of TLS: it offers no pre-shared key"), "{}", server.log());
    // Bytes that are not TLS, and no bytes at all, after TLS was requested.
    for bytes in [&[22, 3, 1, 0, 4, 9, 0, 0, 0][..], &[0x5a; 4096], &[]] {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(15))).expect("a number");
        socket.read_exact(&mut [0; 18]).expect("a greeting");
        socket.write_all(&[0, 0, 0, 3]).expect("room");
        socket.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0").expect("room");
        socket.read_exact(&mut [0; 20]).expect("it may begin");
        socket.write_all(bytes).expect("room");
        let end = socket.read_to_end(&mut Vec::new());
        let is_patience = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!is_patience, "the server waits for a client that says nothing");
    }
    assert!(log_has(&server, "no session of TLS: it did not answer in time"), "{}", server.log());
    assert!(server.log().contains("no session of TLS: Bad message encountered"), "{}", server.log());
    // The server is not affected, and the next client with the key is accepted.
    succeeded("nbdinfo", &run("nbdinfo", &["--size", &keys.uri("alice", port)]));
    server.terminate();
}

/// The commands of docs/operating.md make keys that work, and its clients connect with them. They run as they
/// are printed, except for the names of the machine, the two directories, and the port.
#[test]
fn the_manual_makes_keys() {
    let lab = Lab::new();
    let array = lab.create("media", Shape::RAID5);
    let manual = include_str!("../../docs/operating.md");
    let block = |first: &str| {
        let from = manual.find(first).unwrap_or_else(|| panic!("the manual has no line {first}"));
        manual[from..].split("\n```").next().expect("a block")
    };
    let directory = lab.path("psk");
    std::fs::create_dir(&directory).expect("a directory");
    let shell = |script: &str| {
        let made = timed("sh").args(["-ec", script]).current_dir(&directory).output().expect("a shell");
        succeeded(script, &made)
    };
    shell(block("umask 077\n"));
    let (_, port) = options(directory.to_str().expect("UTF-8"));
    let (clients, ours) = (directory.join("alice"), directory.to_str().expect("UTF-8"));
    let connect = block("striate serve media --nbd 0.0.0.0:10809 --nbd-tls /etc/striate/psk\n")
        .replace("0.0.0.0:10809", &format!("0.0.0.0:{port}"))
        .replace("box.example.com/", &format!("127.0.0.1:{port}/"))
        .replace("host=box.example.com,file.port=10809", &format!("host=127.0.0.1,file.port={port}"))
        .replace("/etc/striate/psk", ours)
        .replace("/etc/pki/nbd", clients.to_str().expect("UTF-8"));
    let (serve, connect) = connect.split_once('\n').expect("clients follow the server");
    let options: Vec<&str> = serve.split(' ').skip(3).collect();
    let server = array.serve(&options);
    shell(connect);
    let size = directory.join("media.img").metadata().expect("nbdcopy has made it").len();
    assert_eq!(size, server.status().size_bytes);
    // The client has the key of a single user only.
    let users = |path: PathBuf| std::fs::read_to_string(path).expect("a file").lines().count();
    assert_eq!((users(directory.join("keys.psk")), users(clients.join("keys.psk"))), (2, 1));
    server.terminate();
}

/// Keys decide which addresses and clients are permitted; a directory that may be unsafe is refused.
#[test]
fn keys_open_the_network() {
    let lab = Lab::new();
    let array = lab.create("psk", Shape::RAID5);
    let keys = Keys::new(&lab, "keys", &[("alice", ALICE)]);
    let everywhere = ["--nbd", "0.0.0.0:0", "--nbd-tls", keys.text()];
    array.serve(&everywhere).terminate();
    let members: Vec<&str> = array.members.iter().map(|member| member.to_str().expect("UTF-8")).collect();
    let args: Vec<&str> = ["serve"].iter().chain(&members).chain(&everywhere).copied().collect();
    keys.allow(0o644);
    let said = lab.striate_refuses(&args);
    assert!(said.contains("keys.psk: every user can read it: chmod 600 "), "{said}");
    keys.allow(0o640);
    let ca = keys.directory.join("ca-cert.pem");
    std::fs::write(&ca, "").expect("room");
    let said = lab.striate_refuses(&args);
    assert!(said.contains("there is ca-cert.pem beside it"), "{said}");
    std::fs::remove_file(&ca).expect("it is there");
    for (text, expected) in [
        (String::new(), "keys.psk: it holds no key"),
        (format!("alice:{ALICE}\nbob:{}", &BOB[..30]), "keys.psk: line 2: the key of user bob has 15 bytes"),
        (format!("alice:{ALICE}\nalice:{BOB}"), "keys.psk: line 2: user alice has a key in line 1 already"),
        (format!("alice {ALICE}"), "keys.psk: line 1: it is not USER:KEY"),
    ] {
        std::fs::write(keys.file(), text).expect("room");
        let said = lab.striate_refuses(&args);
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains(ALICE) && !said.contains(&BOB[..30]), "a key is told: {said}");
    }
    array.serve(&[]).terminate();
}

/// The thread of a client is confined like the others. A forced stop ends its connection, and the server does
/// not wait until the client notices.
#[test]
fn a_stop_ends_sessions_with_keys() {
    let lab = Lab::new();
    let array = lab.create("psk", Shape::RAID5);
    let keys = Keys::new(&lab, "keys", &[("alice", ALICE)]);
    let (mut options, port) = options(keys.text());
    options.extend(["--log", "debug"].map(String::from));
    let server = serve(&array, &options);
    let (object, export) = (keys.of_qemu("alice"), export_of_qemu(port));
    let args = ["--object", &object, "--image-opts", &export, "-c", "write -P 3 0 1M", "-c", "sleep 20000"];
    let mut client =
        timed("qemu-io").args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    while server.status().counters.write_bytes < 1 << 20 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("it runs");
    let tasks: Vec<PathBuf> = tasks.map(|task| task.expect("a directory").path()).collect();
    let of_tls = tasks
        .iter()
        .filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "nbd-tls"));
    let of_tls: Vec<String> =
        of_tls.map(|task| std::fs::read_to_string(task.join("status")).expect("it waits")).collect();
    assert!(!of_tls.is_empty(), "the client has a thread");
    for status in of_tls {
        assert!(status.contains("Seccomp:\t2") && status.contains("CapEff:\t0000000000000000"), "{status}");
    }
    assert!(log_has(&server, " by TLS as alice at "), "{}", server.log());
    lab.striate_refuses(&["stop", "psk"]);
    lab.striate_ok(&["stop", "--force", "psk"]);
    server.ended();
    let _ = (client.kill(), client.wait());
    array.scrub_is_clean("after a stop");
}
