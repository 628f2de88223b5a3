//! TLS with certificates: stock clients that have one, and clients that must be refused. Pre-shared keys are
//! tested in `psk`.
//!
//! Method: each test makes an authority and certificates signed by it. nbdinfo, nbdcopy and qemu connect by
//! TCP with TLS. Oracles: the data that they read and write, `cmp`, their refusals, and the server's log.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::lab::{Lab, Shape, run, succeeded, timed};
use crate::tls_clients::{Ways, export_of_qemu, log_has, options, serve, stock_clients_work};

/// An authority, and a directory with the files of server and clients.
pub struct Certificates {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    pub fn new(lab: &Lab, name: &str) -> Certificates {
        let directory = lab.path(name);
        std::fs::create_dir(&directory).expect("a directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("a certificate");
        let certificates = Certificates { directory, issuer: Issuer::new(params, key) };
        certificates.write("ca-cert.pem", &authority.pem());
        for side in ["server", "client"] {
            certificates.issue(side);
        }
        certificates
    }

    /// Makes a certificate and its key, as the files of a side (server or client).
    fn issue(&self, side: &str) {
        let names = vec!["localhost".to_string(), "127.0.0.1".to_string()];
        let params = CertificateParams::new(names).expect("names");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.write(&format!("{side}-cert.pem"), &certificate.pem());
        self.write(&format!("{side}-key.pem"), &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        std::fs::write(&path, text).expect("room");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.directory.join(name)).expect("it is there");
    }

    fn text(&self) -> &str {
        self.directory.to_str().expect("UTF-8")
    }

    pub fn uri(&self, port: u16) -> String {
        format!("nbds://127.0.0.1:{port}/?tls-certificates={}", self.text())
    }

    /// The object that gives a client's certificate to qemu's tools.
    fn of_qemu(&self) -> String {
        format!("tls-creds-x509,id=t,dir={},endpoint=client", self.text())
    }
}

#[test]
fn stock_clients_use_tls() {
    let lab = Lab::new();
    let array = lab.create("tls", Shape::RAID5);
    let certificates = Certificates::new(&lab, "pki");
    let (options, port) = options(certificates.text());
    let server = serve(&array, &options);
    let uri = certificates.uri(port);
    let uri_by_unix_socket = format!(
        "nbds+unix:///?socket={}&tls-certificates={}&tls-hostname=localhost",
        server.socket.display(),
        certificates.text()
    );
    let object = certificates.of_qemu();
    let ways = Ways { uri_in: uri.clone(), uri_out: uri, uri_by_unix_socket, object, port };
    stock_clients_work(&lab, &server, &ways, 24 << 20);
    server.terminate();
    array.scrub_is_clean("after TLS");
}

#[test]
fn clients_that_prove_nothing_hear_nothing() {
    let lab = Lab::new();
    let array = lab.create("tls", Shape::RAID5);
    let certificates = Certificates::new(&lab, "pki");
    let (options, port) = options(certificates.text());
    let server = serve(&array, &options);
    // A client without TLS.
    let plain = format!("nbd://127.0.0.1:{port}");
    let refused = run("nbdinfo", &["--size", &plain]);
    let said = String::from_utf8_lossy(&refused.stderr).to_lowercase();
    assert!(!refused.status.success() && said.contains("tls"), "{said}");
    assert!(!run("nbdinfo", &["--list", &plain]).status.success(), "nor does it hear of exports");
    // A client with a certificate of another authority, which trusts the server nevertheless.
    let others = Certificates::new(&lab, "others");
    std::fs::copy(certificates.directory.join("ca-cert.pem"), others.directory.join("ca-cert.pem"))
        .expect("room");
    assert!(!run("nbdinfo", &["--size", &others.uri(port)]).status.success());
    assert!(log_has(&server, "no session of TLS: "), "{}", server.log());
    // A client without a certificate.
    certificates.remove("client-cert.pem");
    certificates.remove("client-key.pem");
    assert!(!run("nbdinfo", &["--size", &certificates.uri(port)]).status.success());
    // Bytes that are not TLS, after TLS was requested.
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a number");
    socket.read_exact(&mut [0; 18]).expect("a greeting");
    socket.write_all(&[0, 0, 0, 3]).expect("room");
    socket.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0").expect("room");
    socket.read_exact(&mut [0; 20]).expect("it may begin");
    socket.write_all(&[0x5a; 4096]).expect("room");
    let _alert = socket.read_to_end(&mut Vec::new());
    // The server is not affected, and the next client with a certificate is accepted.
    certificates.issue("client");
    succeeded("nbdinfo", &run("nbdinfo", &["--size", &certificates.uri(port)]));
    server.terminate();
}

/// The commands of docs/operating.md make certificates that work.
#[test]
fn the_manual_makes_certificates() {
    let lab = Lab::new();
    let array = lab.create("tls", Shape::RAID5);
    let manual = include_str!("../../docs/operating.md");
    let from = manual.find("openssl req -x509").expect("the manual says how");
    let script = manual[from..].split_inclusive("\ndone\n").next().expect("a loop");
    let directory = lab.path("pki");
    std::fs::create_dir(&directory).expect("a directory");
    let made = timed("sh").args(["-ec", script]).current_dir(&directory).output().expect("a shell");
    succeeded("the manual's commands", &made);
    let text = directory.to_str().expect("UTF-8");
    let server = array.serve(&["--nbd", "127.0.0.1:0", "--nbd-tls", text]);
    let uri = format!(
        "nbds+unix:///?socket={}&tls-certificates={text}&tls-hostname=box.example.com",
        server.socket.display()
    );
    let size = succeeded("nbdinfo", &run("nbdinfo", &["--size", &uri]));
    assert_eq!(size.trim(), server.status().size_bytes.to_string());
    server.terminate();
}

/// Certificates decide which addresses and clients are permitted: the server's certificate alone is not
/// enough, clients need theirs.
#[test]
fn certificates_open_the_network() {
    let lab = Lab::new();
    let array = lab.create("tls", Shape::RAID5);
    let certificates = Certificates::new(&lab, "pki");
    let everywhere = ["--nbd", "0.0.0.0:0", "--nbd-tls", certificates.text()];
    array.serve(&everywhere).terminate();
    let members: Vec<&str> = array.members.iter().map(|member| member.to_str().expect("UTF-8")).collect();
    let refusal = |options: &[&str]| {
        let args: Vec<&str> = ["serve"].iter().chain(&members).chain(options).copied().collect();
        lab.striate_refuses(&args)
    };
    certificates.remove("ca-cert.pem");
    let said = refusal(&everywhere);
    assert!(said.contains("certificates for both sides") && said.contains("--nbd-tls"), "{said}");
    array.serve(&["--nbd", "0.0.0.0:0", "--allow-remote", "--nbd-tls", certificates.text()]).terminate();
    certificates.remove("server-key.pem");
    let said = refusal(&everywhere);
    assert!(said.contains("server-key.pem: No such file"), "{said}");
    let nowhere = Path::new(certificates.text()).join("nowhere");
    let said = refusal(&["--nbd", "127.0.0.1:0", "--nbd-tls", nowhere.to_str().expect("UTF-8")]);
    assert!(said.contains("nowhere/server-key.pem"), "{said}");
    array.serve(&[]).terminate();
}

/// A forced stop ends the connection of a client that uses TLS, and the server does not wait until the client
/// notices.
#[test]
fn a_stop_ends_sessions() {
    let lab = Lab::new();
    let array = lab.create("tls", Shape::RAID5);
    let certificates = Certificates::new(&lab, "pki");
    let (options, port) = options(certificates.text());
    let server = serve(&array, &options);
    let (object, export) = (certificates.of_qemu(), export_of_qemu(port));
    let commands = ["-c", "write -P 3 0 1M", "-c", "sleep 20000"];
    let args = [&["--object", object.as_str(), "--image-opts", &export][..], &commands].concat();
    let mut client =
        timed("qemu-io").args(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    while server.status().counters.write_bytes < 1 << 20 {
        std::thread::sleep(Duration::from_millis(20));
    }
    lab.striate_refuses(&["stop", "tls"]);
    lab.striate_ok(&["stop", "--force", "tls"]);
    server.ended();
    let _ = (client.kill(), client.wait());
    array.scrub_is_clean("after a stop");
}
