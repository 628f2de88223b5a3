//! TLS for NBD clients: the certificates or the keys of a directory, and a session for each client.
//!
//! The files have the names that qemu, nbdkit and libvirt use:
//!
//! | file | contents | |
//! |---|---|---|
//! | `server-cert.pem` | the server's certificate, and the chain to its authority | required |
//! | `server-key.pem` | its private key | required (a) |
//! | `ca-cert.pem` | authorities of clients' certificates | if present, clients need a certificate of one |
//! | `ca-crl.pem` | lists of revoked certificates | if present, those are refused |
//! | `keys.psk` | users and their pre-shared keys | instead of all others (a) |
//!
//! (a) Refused if every user can read it.
//!
//! A directory with `keys.psk` and one of the other files is refused. With both, either way in would be
//! enough for a client, so a forgotten file would admit clients that its owner believes to be kept out.
//!
//! TLS 1.3 only: qemu and libnbd have it, and in TLS 1.2 a connection would have to end after 16 million
//! records of AES-GCM (256 GiB). Certificates are handled by rustls, which has no pre-shared keys; those are
//! handled by s2n-tls. Both are behind one trait, [`channel::Channel`], so that the handshake and the relay
//! are written once:
//!
//! ```text
//!   certificates (rustls)  --+
//!                            +-- channel --+-- sealed: the handshake
//!   shared_keys (s2n-tls)  --+             +-- relay: the bytes after it
//! ```
//!
//! The files are read once, at the start: a server in its sandbox cannot open them later.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use engine::server::{Encryption, Session, Wire};

use crate::failure::Result;
use certificates::Certificates;
use channel::Channel;
use files::{is_there, unusable};
#[cfg(feature = "tls-psk")]
use shared_keys::SharedKeys;

mod certificates;
mod channel;
mod files;
#[cfg(feature = "tls-psk")]
mod keys;
mod piece;
mod relay;
mod sealed;
#[cfg(feature = "tls-psk")]
mod shared_keys;

/// The name of the file of pre-shared keys.
const KEYS: &str = "keys.psk";

/// The certificates or the keys with which the server and its clients prove who they are.
pub struct Tls {
    directory: PathBuf,
    proof: Proof,
}

enum Proof {
    Certificates(Certificates),
    #[cfg(feature = "tls-psk")]
    Keys(SharedKeys),
}

impl Tls {
    /// Reads the files of a directory: either keys or certificates.
    pub fn read(directory: &Path) -> Result<Tls> {
        let keys_path = directory.join(KEYS);
        let proof = if is_there(&keys_path)? {
            refuse_both(directory, &keys_path)?;
            read_keys(&keys_path)?
        } else {
            Proof::Certificates(Certificates::read(directory)?)
        };
        Ok(Tls { directory: directory.to_path_buf(), proof })
    }

    /// Describes the certificates or the keys in one line for the log.
    pub fn describe(&self) -> String {
        let directory = self.directory.display();
        match &self.proof {
            Proof::Certificates(certificates) => {
                format!("TLS with the certificates of {directory}: {}", certificates.describe())
            }
            #[cfg(feature = "tls-psk")]
            Proof::Keys(keys) => {
                let count = keys.count();
                format!("TLS with the pre-shared keys of {directory}/{KEYS}: users that may connect: {count}")
            }
        }
    }

    fn begin(&self) -> io::Result<Box<dyn Channel>> {
        match &self.proof {
            Proof::Certificates(certificates) => certificates.begin(),
            #[cfg(feature = "tls-psk")]
            Proof::Keys(keys) => keys.begin(),
        }
    }
}

/// Refuses a directory that has both keys and certificates.
fn refuse_both(directory: &Path, keys_path: &Path) -> Result<()> {
    use certificates::{CA_CERT, CA_CRL, SERVER_CERT, SERVER_KEY};
    for other in [SERVER_CERT, SERVER_KEY, CA_CERT, CA_CRL] {
        if is_there(&directory.join(other))? {
            return Err(unusable(keys_path)(format!(
                "there is {other} beside it, and a server has either certificates or pre-shared keys: use a directory for each"
            )));
        }
    }
    Ok(())
}

#[cfg(feature = "tls-psk")]
fn read_keys(path: &Path) -> Result<Proof> {
    SharedKeys::read(path).map(Proof::Keys)
}

#[cfg(not(feature = "tls-psk"))]
fn read_keys(path: &Path) -> Result<Proof> {
    Err(unusable(path)("this program was built without pre-shared keys (the feature tls-psk)"))
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Encryption for Tls {
    fn proves_clients(&self) -> bool {
        match &self.proof {
            Proof::Certificates(certificates) => certificates.proves_clients,
            #[cfg(feature = "tls-psk")]
            Proof::Keys(_) => true,
        }
    }

    fn accept(&self, wire: &mut dyn Wire) -> io::Result<Box<dyn Session>> {
        let mut client = sealed::Client(self.begin()?);
        client.shake_hands(wire)?;
        Ok(Box::new(client))
    }
}

impl Session for sealed::Client {
    fn user(&self) -> Option<String> {
        self.0.user()
    }

    fn read(&mut self, wire: &mut dyn Wire, into: &mut [u8]) -> io::Result<usize> {
        sealed::Client::read(self, wire, into)
    }

    fn write_all(&mut self, wire: &mut dyn Wire, bytes: &[u8]) -> io::Result<()> {
        sealed::Client::write_all(self, wire, bytes)
    }

    fn relay(self: Box<Self>, client: &OwnedFd, plain: OwnedFd) {
        // The name makes the cost of TLS visible in `top -H`.
        let _named_or_not = rustix::thread::set_name(c"nbd-tls");
        relay::Relay::new(self.0, client, &plain).run();
    }
}

#[cfg(test)]
mod tests;
