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
//! of AES-GCM (256 GiB). The library, rustls, knows no pre-shared keys. The handshake ([`sealed`]) and the relay ([`relay`]) know it by the trait
//! [`channel::Channel`] only.
//!
//! The files are read once, at the start: a server in its sandbox opens none of them later.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use engine::server::{Encryption, Session, Wire};

use crate::failure::Result;
use certificates::Certificates;

mod certificates;
mod channel;
mod files;
mod piece;
mod relay;
mod sealed;

/// The certificates of a server.
pub struct Tls {
    directory: PathBuf,
    certificates: Certificates,
}

impl Tls {
    /// Reads the files of a directory.
    pub fn read(directory: &Path) -> Result<Tls> {
        let certificates = Certificates::read(directory)?;
        Ok(Tls { directory: directory.to_path_buf(), certificates })
    }

    /// A line for the log.
    pub fn describe(&self) -> String {
        format!("TLS with the certificates of {}: {}", self.directory.display(), self.certificates.describe())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Encryption for Tls {
    fn proves_clients(&self) -> bool {
        self.certificates.proves_clients
    }

    fn accept(&self, wire: &mut dyn Wire) -> io::Result<Box<dyn Session>> {
        let mut client = sealed::Client(self.certificates.begin()?);
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

#[cfg(test)]
mod tests;
