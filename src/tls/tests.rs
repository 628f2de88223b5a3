//! TLS with certificates that each test makes, and a client of the same library. `shared_keys/tests.rs` tests
//! keys, and `relay/tests.rs` what is the same for both.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::*;

/// A function that receives a session, or the reason why there is none.
pub(super) trait Serve: FnOnce(io::Result<Box<dyn Session>>, OwnedFd) + Send + 'static {}

impl<F: FnOnce(io::Result<Box<dyn Session>>, OwnedFd) + Send + 'static> Serve for F {}

/// A server for one client.
pub(super) fn serve_one(tls: Tls, serve: impl Serve) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let session = tls.accept(&mut socket);
        serve(session, socket.into());
    });
    (address, server)
}

/// An authority, and the directory of a server with a certificate from it.
pub(super) struct World {
    directory: TempDir,
    authority: Certificate,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

/// Issues a certificate of an authority, and its key.
pub(super) fn issue(issuer: &Issuer<'static, KeyPair>, serial: u64) -> (Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
    params.serial_number = Some(SerialNumber::from(serial));
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap(), key)
}

impl World {
    pub(super) fn new() -> World {
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

    /// A client that trusts the authority and has this certificate, connected to a server of this directory.
    pub(super) fn connect(
        &self,
        own: Option<(Certificate, KeyPair)>,
        serve: impl Serve,
    ) -> (StreamOwned<ClientConnection, TcpStream>, JoinHandle<()>) {
        let (address, server) = serve_one(self.read().unwrap(), serve);
        (self.client(address, own), server)
    }

    pub(super) fn client(
        &self,
        address: SocketAddr,
        own: Option<(Certificate, KeyPair)>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
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
        StreamOwned::new(connection, TcpStream::connect(address).unwrap())
    }
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

/// Does the handshake of a client: returns whether there was a session, and the reason if not.
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

    // Dangling links admit no client.
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
