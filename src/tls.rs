//! TLS for NBD clients: the certificates of a directory, and a session for each client.
//!
//! The files are those that qemu, nbdkit and libvirt use, in PEM:
//!
//! | file | of | |
//! |---|---|---|
//! | `server-cert.pem` | the server's certificate, and those between it and its authority | needed |
//! | `server-key.pem` | its private key | needed; refused if every user can read it |
//! | `ca-cert.pem` | authorities of clients' certificates | if it is there, clients must have a certificate of one of them |
//! | `ca-crl.pem` | lists of certificates that were revoked | if it is there, those are refused |
//!
//! TLS 1.3 only: qemu and libnbd have it, and in TLS 1.2 a connection would have to end after 16 million records
//! of AES-GCM (256 GiB). The library, rustls, knows no pre-shared keys.
//!
//! The files are read once, at the start: a server in its sandbox opens none of them later.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::server::{Encryption, Session, Wire};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::failure::{Failure, Result};

mod relay;
mod sealed;

/// The certificates of a server.
pub struct Tls {
    directory: PathBuf,
    config: Arc<ServerConfig>,
    proves_clients: bool,
    has_revocations: bool,
}

impl Tls {
    /// Reads the files of a directory.
    pub fn read(directory: &Path) -> Result<Tls> {
        let key_path = directory.join("server-key.pem");
        let key = PrivateKeyDer::from_pem_slice(&private(&key_path)?).map_err(unusable(&key_path))?;
        let cert_path = directory.join("server-cert.pem");
        let certificates = certificates(&cert_path)?;
        let ca_path = directory.join("ca-cert.pem");
        let proves_clients = is_there(&ca_path)?;
        let crl_path = directory.join("ca-crl.pem");
        let has_revocations = proves_clients && is_there(&crl_path)?;
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable(directory))?;
        let builder = if proves_clients {
            builder.with_client_cert_verifier(verifier(
                &ca_path,
                has_revocations.then_some(&crl_path),
                provider,
            )?)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(certificates, key).map_err(|error| {
            Failure::new(format!(
                "cannot use {} with {}: {error}: give the key that belongs to the certificate",
                cert_path.display(),
                key_path.display()
            ))
        })?;
        // Connections are few and long: a session is not taken up again.
        config.send_tls13_tickets = 0;
        let (directory, config) = (directory.to_path_buf(), Arc::new(config));
        Ok(Tls { directory, config, proves_clients, has_revocations })
    }

    /// A line for the log.
    pub fn describe(&self) -> String {
        let clients = match (self.proves_clients, self.has_revocations) {
            (true, true) => "clients need a certificate of ca-cert.pem that is not in ca-crl.pem",
            (true, false) => "clients need a certificate of ca-cert.pem; there is no ca-crl.pem",
            (false, _) => "clients need no certificate, for there is no ca-cert.pem",
        };
        format!("TLS with the certificates of {}: {clients}", self.directory.display())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Encryption for Tls {
    fn proves_clients(&self) -> bool {
        self.proves_clients
    }

    fn accept(&self, wire: &mut dyn Wire) -> io::Result<Box<dyn Session>> {
        let connection = ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        let mut client = sealed::Client(connection);
        client.shake_hands(wire)?;
        Ok(Box::new(client))
    }
}

impl Session for sealed::Client {
    fn read(&mut self, wire: &mut dyn Wire, into: &mut [u8]) -> io::Result<usize> {
        sealed::Client::read(self, wire, into)
    }

    fn write_all(&mut self, wire: &mut dyn Wire, bytes: &[u8]) -> io::Result<()> {
        sealed::Client::write_all(self, wire, bytes)
    }

    fn relay(self: Box<Self>, client: &OwnedFd, plain: OwnedFd) {
        // So that `top -H` shows the cost of TLS.
        let _named_or_not = rustix::thread::set_name(c"nbd-tls");
        relay::Relay::new(self.0, client, &plain).run();
    }
}

/// The clients that may connect.
fn verifier(
    ca_path: &Path,
    crl_path: Option<&PathBuf>,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_path)? {
        roots.add(certificate).map_err(unusable(ca_path))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if let Some(crl_path) = crl_path {
        let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(crl_path)
            .and_then(Iterator::collect)
            .map_err(unusable(crl_path))?;
        if lists.is_empty() {
            return Err(unusable(crl_path)("it holds no list of revoked certificates in PEM"));
        }
        builder.with_crls(lists)
    } else {
        builder
    };
    builder.build().map_err(unusable(ca_path))
}

/// The certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all: std::result::Result<Vec<_>, pem::Error> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let all = all.map_err(unusable(path))?;
    if all.is_empty() {
        return Err(unusable(path)("it holds no certificate in PEM"));
    }
    Ok(all)
}

/// The bytes of a file that not every user can read.
fn private(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(unusable(path))?;
    let mode = file.metadata().map_err(unusable(path))?.mode();
    if mode & 0o004 != 0 {
        return Err(unusable(path)(format!("every user can read it: chmod 600 {}", path.display())));
    }
    io::read_to_string(file).map(String::into_bytes).map_err(unusable(path))
}

fn is_there(path: &Path) -> Result<bool> {
    // A link that leads nowhere is there: without what it should lead to, more clients would get in.
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unusable(path)(error)),
    }
}

/// The failure of a file.
fn unusable<E: fmt::Display>(path: &Path) -> impl Fn(E) -> Failure + '_ {
    move |error| Failure::new(format!("cannot use {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
