//! TLS with certificates, by rustls.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::channel::Channel;
use super::files::{is_there, private, unusable};
use crate::failure::{Failure, Result};

/// The file names of the certificates, the key and the revocations.
pub const SERVER_CERT: &str = "server-cert.pem";
pub const SERVER_KEY: &str = "server-key.pem";
pub const CA_CERT: &str = "ca-cert.pem";
pub const CA_CRL: &str = "ca-crl.pem";

/// The certificates of a server.
pub struct Certificates {
    config: Arc<ServerConfig>,
    /// Whether clients need a certificate too.
    pub proves_clients: bool,
    has_revocations: bool,
}

impl Certificates {
    /// Reads the files of a directory.
    pub fn read(directory: &Path) -> Result<Certificates> {
        let key_path = directory.join(SERVER_KEY);
        let key =
            PrivateKeyDer::from_pem_slice(private(&key_path)?.as_bytes()).map_err(unusable(&key_path))?;
        let cert_path = directory.join(SERVER_CERT);
        let certificates = certificates(&cert_path)?;
        let ca_path = directory.join(CA_CERT);
        let proves_clients = is_there(&ca_path)?;
        let crl_path = directory.join(CA_CRL);
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
        // No session tickets: connections are few and long, so clients do not resume sessions.
        config.send_tls13_tickets = 0;
        Ok(Certificates { config: Arc::new(config), proves_clients, has_revocations })
    }

    /// Describes for the log which clients may connect.
    pub fn describe(&self) -> &'static str {
        match (self.proves_clients, self.has_revocations) {
            (true, true) => "clients need a certificate of ca-cert.pem that is not in ca-crl.pem",
            (true, false) => "clients need a certificate of ca-cert.pem; there is no ca-crl.pem",
            (false, _) => "clients need no certificate, for there is no ca-cert.pem",
        }
    }

    /// The channel of a new client.
    pub fn begin(&self) -> io::Result<Box<dyn Channel>> {
        let mut connection = ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        // No limit on the buffer: messages with new keys are sent among the replies and would take room that
        // a piece needs. The connection still never holds more than one piece, since a piece is sealed only
        // when everything before it was given.
        connection.set_buffer_limit(None);
        Ok(Box::new(connection))
    }
}

impl Channel for ServerConnection {
    fn user(&self) -> Option<String> {
        None
    }

    fn is_handshaking(&self) -> bool {
        rustls::CommonState::is_handshaking(self)
    }

    fn hear(&mut self, wire: &mut dyn Read) -> io::Result<usize> {
        let count = self.read_tls(wire)?;
        self.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(count)
    }

    fn open(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reader().read(into)
    }

    fn seal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer().write_all(bytes)
    }

    fn has_sealed(&self) -> bool {
        self.wants_write()
    }

    fn give(&mut self, wire: &mut dyn Write) -> io::Result<usize> {
        self.write_tls(wire)
    }

    fn say_farewell(&mut self) {
        self.send_close_notify();
    }
}

/// A verifier that admits clients with a certificate of `ca_path` that no list of `crl_path` revokes.
fn verifier(
    ca_path: &Path,
    crl_path: Option<&PathBuf>,
    provider: Arc<CryptoProvider>,
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

/// Reads the certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all: std::result::Result<Vec<_>, pem::Error> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let all = all.map_err(unusable(path))?;
    if all.is_empty() {
        return Err(unusable(path)("it holds no certificate in PEM"));
    }
    Ok(all)
}
