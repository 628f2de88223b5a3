//! Certificates made for each test, a client of the same library, and the relay between it and a reactor that the test plays.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tempfile::TempDir;

use super::*;

/// An authority, and the directory of a server with a certificate of it.
struct World {
    directory: TempDir,
    authority: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate of an authority, and its key.
fn issue(issuer: &Issuer<'static, KeyPair>, serial: u64) -> (Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
    params.serial_number = Some(SerialNumber::from(serial));
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap(), key)
}

impl World {
    fn new() -> World {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let world = World { directory: TempDir::new().unwrap(), authority, issuer: Issuer::new(params, key) };
        let (certificate, key) = issue(&world.issuer, 1);
        world.write("server-cert.pem", &certificate.pem());
        world.write("server-key.pem", &key.serialize_pem());
        world.write("ca-cert.pem", &world.authority.pem());
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn read(&self) -> Result<Tls> {
        Tls::read(self.directory.path())
    }

    fn refusal(&self) -> String {
        self.read().expect_err("it is refused").line()
    }

    /// A client that trusts the authority and has this certificate, connected to a server that `serve` plays.
    fn connect(
        &self,
        own: Option<(Certificate, KeyPair)>,
        serve: impl FnOnce(io::Result<Box<dyn Session>>, OwnedFd) + Send + 'static,
    ) -> (StreamOwned<ClientConnection, TcpStream>, JoinHandle<()>) {
        let tls = self.read().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let session = tls.accept(&mut socket);
            serve(session, socket.into());
        });
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            Some((certificate, key)) => {
                let key = PrivatePkcs8KeyDer::from(key.serialize_der());
                config.with_client_auth_cert(vec![certificate.der().clone()], key.into()).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        (StreamOwned::new(connection, TcpStream::connect(address).unwrap()), server)
    }

    /// A client with a good certificate, and the reactor's end of its connection.
    fn relay(&self) -> (StreamOwned<ClientConnection, TcpStream>, UnixStream, JoinHandle<()>) {
        let (plain, reactor) = UnixStream::pair().unwrap();
        let serve = move |session: io::Result<Box<dyn Session>>, socket: OwnedFd| {
            session.expect("its certificate is good").relay(&socket, plain.into());
        };
        let (client, server) = self.connect(Some(issue(&self.issuer, 2)), serve);
        (client, reactor, server)
    }
}

/// Bytes of which each place has its own.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let world = World::new();
    assert!(world.read().unwrap().describe().contains("clients need a certificate"));
    let key = std::fs::read_to_string(world.path("server-key.pem")).unwrap();
    std::fs::set_permissions(world.path("server-key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let refusal = world.refusal();
    assert!(refusal.contains("every user can read it: chmod 600 "), "{refusal}");
    for (file, text, expected) in [
        ("server-key.pem", "nothing", "server-key.pem: "),
        ("server-key.pem", &KeyPair::generate().unwrap().serialize_pem(), "the key that belongs"),
        ("server-key.pem", &key, ""),
        ("server-cert.pem", "nothing", "no certificate in PEM"),
        ("server-cert.pem", &issue(&world.issuer, 5).0.pem(), "the key that belongs"),
        ("ca-cert.pem", &key, "no certificate in PEM"),
        ("ca-cert.pem", &world.authority.pem(), "the key that belongs"),
    ] {
        world.write(file, text);
        match world.read() {
            Ok(_) => assert_eq!(expected, "", "{file}"),
            Err(failure) => {
                let line = failure.line();
                assert!(!expected.is_empty() && line.contains(expected), "{file}: {line}");
            }
        }
    }
    for file in ["server-cert.pem", "server-key.pem"] {
        let world = World::new();
        std::fs::remove_file(world.path(file)).unwrap();
        let refusal = world.refusal();
        assert!(refusal.contains(file) && refusal.contains("No such file"), "{refusal}");
    }
}

/// The handshake of a client: whether there was a session, and the reason if not.
fn accepted(world: &World, own: Option<(Certificate, KeyPair)>) -> std::result::Result<(), String> {
    let (told, heard) = std::sync::mpsc::channel();
    let serve = move |session: io::Result<Box<dyn Session>>, _| {
        told.send(session.map(drop).map_err(|error| error.to_string())).unwrap();
    };
    let (mut client, server) = world.connect(own, serve);
    let _its_own_view = client.conn.complete_io(&mut client.sock);
    drop(client);
    server.join().unwrap();
    heard.recv().unwrap()
}

#[test]
fn exactly_clients_with_a_certificate_of_the_authority_may_connect() {
    let world = World::new();
    assert!(world.read().unwrap().proves_clients());
    assert_eq!(accepted(&world, Some(issue(&world.issuer, 2))), Ok(()));
    let refusal = accepted(&world, None).unwrap_err();
    assert!(refusal.contains("no certificates"), "{refusal}");
    let refusal = accepted(&world, Some(issue(&World::new().issuer, 2))).unwrap_err();
    assert!(refusal.contains("certificate"), "{refusal}");

    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(7),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2126, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    world.write("ca-crl.pem", &list.signed_by(&world.issuer).unwrap().pem().unwrap());
    assert_eq!(accepted(&world, Some(issue(&world.issuer, 2))), Ok(()));
    let refusal = accepted(&world, Some(issue(&world.issuer, 7))).unwrap_err();
    assert!(refusal.contains("Revoked"), "{refusal}");

    // Links that lead nowhere let nobody in.
    for file in ["ca-crl.pem", "ca-cert.pem"] {
        std::fs::remove_file(world.path(file)).unwrap();
        std::os::unix::fs::symlink("nowhere", world.path(file)).unwrap();
        let refusal = world.refusal();
        assert!(refusal.contains(file) && refusal.contains("No such file"), "{refusal}");
        std::fs::remove_file(world.path(file)).unwrap();
    }
    assert!(!world.read().unwrap().proves_clients());
    assert_eq!(accepted(&world, None), Ok(()));
}

/// Much more than all buffers hold, both ways at once, and neither side reads before it has sent all.
#[test]
fn what_one_side_sends_the_other_receives() {
    let world = World::new();
    let (mut client, reactor, server) = world.relay();
    let (requests, replies) = (pattern(5 << 20), pattern((5 << 20) + 12345));
    let serve = {
        let (mut from, mut to) = (reactor.try_clone().unwrap(), reactor);
        let (requests, replies) = (requests.clone(), replies.clone());
        std::thread::spawn(move || {
            let writer = std::thread::spawn(move || to.write_all(&replies).map(|()| to).unwrap());
            let mut heard = vec![0; requests.len()];
            from.read_exact(&mut heard).unwrap();
            assert!(heard == requests, "as it was sent");
            drop(writer.join().unwrap());
        })
    };
    // The client writes while replies pile up, which it does not read.
    client.write_all(&requests).unwrap();
    client.flush().unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).expect("the farewell of TLS came: nothing was cut off");
    assert!(heard == replies, "as it was sent");
    serve.join().unwrap();
    server.join().unwrap();
}

/// New keys take room among the replies, and cost none of them. (Once here a relay ended at them.)
#[test]
fn a_client_asks_for_new_keys() {
    let world = World::new();
    let (mut client, mut reactor, server) = world.relay();
    let replies = pattern(4 << 20);
    client.write_all(b"x").unwrap();
    reactor.read_exact(&mut [0]).unwrap();
    let mut heard = vec![0; replies.len()];
    for part in heard.chunks_mut(1 << 20) {
        client.conn.refresh_traffic_keys().unwrap();
        client.write_all(b"x").unwrap();
        client.flush().unwrap();
        reactor.read_exact(&mut [0]).unwrap();
        let (mut to, bytes) = (reactor.try_clone().unwrap(), replies[..1 << 20].to_vec());
        let writer = std::thread::spawn(move || to.write_all(&bytes));
        client.read_exact(part).expect("all of it comes");
        writer.join().unwrap().unwrap();
    }
    assert!(heard.chunks(1 << 20).all(|part| part == &replies[..1 << 20]));
    drop(reactor);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "the farewell");
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_client_that_is_done_has_its_replies() {
    for has_farewell in [true, false] {
        let world = World::new();
        let (mut client, mut reactor, server) = world.relay();
        client.write_all(b"the last request").unwrap();
        if has_farewell {
            client.conn.send_close_notify();
        }
        client.flush().unwrap();
        if !has_farewell {
            client.sock.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut heard = Vec::new();
        reactor.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"the last request", "and the end");
        reactor.write_all(b"its reply").unwrap();
        drop(reactor);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"its reply");
        drop(client);
        server.join().unwrap();
    }
}

/// Each side that goes ends the relay, and the other side hears of it.
#[test]
fn a_relay_ends_with_either_side() {
    // A client that is gone.
    let world = World::new();
    let (mut client, mut reactor, server) = world.relay();
    client.write_all(b"x").unwrap();
    reactor.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(reactor.read(&mut [0]).unwrap(), 0, "the reactor hears of the end");
    drop(reactor);
    server.join().unwrap();
    // A client that says what is not TLS.
    let (mut client, mut reactor, server) = world.relay();
    client.write_all(b"x").unwrap();
    reactor.read_exact(&mut [0]).unwrap();
    client.sock.write_all(&[0x5a; 1000]).unwrap();
    assert_eq!(reactor.read(&mut [0]).unwrap(), 0, "nothing of it reaches the reactor");
    server.join().unwrap();
    // A reactor that hangs up on a client that does not read what was sent to it.
    let (mut client, mut reactor, server) = world.relay();
    client.write_all(b"x").unwrap();
    reactor.read_exact(&mut [0]).unwrap();
    reactor.set_nonblocking(true).unwrap();
    let reply = pattern(1 << 20);
    let mut sent = 0;
    for _ in 0..200 {
        match reactor.write(&reply) {
            Ok(count) => sent += count,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }
    assert!(sent > 0);
    drop(reactor);
    server.join().unwrap();
    let mut heard = Vec::new();
    let end = client.read_to_end(&mut heard);
    assert!(
        end.is_err() || heard.len() == sent,
        "nothing is missing without a word: {} of {sent}",
        heard.len()
    );
}
