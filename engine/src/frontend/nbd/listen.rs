//! The addresses at which clients reach the server, and the sockets behind them.
//!
//! - `unix:PATH`: only the owner may connect, and the users of a group if one is given. The mode is 0600 from
//!   the moment the name exists, because Linux takes the mode from the socket before it is bound. A file left
//!   by a server that is gone is removed. If another server answers on it, listening is refused. At the end
//!   the file is removed if it is still ours.
//! - `HOST:PORT`: NBD itself has no authentication. If clients prove with TLS that they may connect
//!   ([`Access::proven`]), any address is allowed. Otherwise an address that is not loopback needs the
//!   operator's permission ([`Access::remote`]), and so do loopback clients of other users
//!   ([`Access::local_users`]), whose user the kernel reports.

use std::fmt;
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::net::sockopt::{
    set_socket_keepalive, set_socket_recv_buffer_size, set_socket_send_buffer_size, set_tcp_keepidle,
    set_tcp_nodelay, set_tcp_user_timeout, socket_peercred,
};
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind, getpeername, getsockname,
    listen, socket_with,
};

use rustix::fs::{AtFlags, CWD, Gid, chownat};
use rustix::io::Errno;

use super::NbdError;
use super::door::Origin;
use super::peer_user::PeerUsers;
use super::visits::Peer;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;

/// How long a TCP client may fail to acknowledge data before it counts as gone.
const SILENCE_TIME_MAX: Duration = Duration::from_secs(60);

/// Buffer size requested for a unix socket, enough for a few large replies. The default is 208 KiB, and the
/// kernel cuts the request to its own limit.
const UNIX_BUFFER_BYTES: usize = 4 << 20;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket, `unix:PATH`.
    Unix(PathBuf),
    /// A TCP address, `HOST:PORT`; an IPv6 host is in brackets.
    Tcp(String),
}

impl FromStr for Address {
    type Err = NbdError;

    fn from_str(text: &str) -> Result<Address, NbdError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(NbdError(format!("{text:?}: a path is missing after unix:"))),
            Some(path) => Ok(Address::Unix(path.into())),
            None if text
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
            {
                Ok(Address::Tcp(text.into()))
            }
            None => Err(NbdError(format!("{text:?} is not an address: give unix:PATH or HOST:PORT"))),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(text) => f.write_str(text),
        }
    }
}

/// The clients that may connect in addition to those of the server's own user and of root. By default there
/// are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Allow TCP on any address, and every client of it.
    pub remote: bool,
    /// Allow every user of this machine, by TCP on loopback.
    pub local_users: bool,
    /// Allow the users of this group, by unix sockets.
    pub group: Option<u32>,
    /// Allow clients by TCP that prove with TLS that they may connect.
    pub proven: bool,
}

/// A listening socket.
pub(super) struct Listening {
    pub(super) socket: OwnedFd,
    /// The actual address, with the port that the system chose if 0 was requested.
    pub(super) address: Address,
    /// For a unix socket, the file's device and inode.
    file: Option<(u64, u64)>,
}

impl Listening {
    /// Listens on an address. A host name can resolve to several sockets.
    pub(super) fn on(address: &Address, access: Access) -> Result<Vec<Listening>, NbdError> {
        let failed = |error: io::Error| NbdError(format!("cannot listen on {address}: {error}"));
        match address {
            Address::Unix(path) => Ok(vec![listen_unix(path, access.group).map_err(failed)?]),
            Address::Tcp(text) => {
                let resolved: Vec<SocketAddr> = text.to_socket_addrs().map_err(failed)?.collect();
                let is_open = access.remote || access.proven;
                if let Some(far) = resolved.iter().find(|at| !is_open && !is_loopback(at.ip())) {
                    return Err(NbdError(format!(
                        "cannot listen on {text}: {far} can be reached from other machines, and clients have nothing to prove: give \
                         certificates for both sides or pre-shared keys with --nbd-tls; or use a loopback address or a unix socket; \
                         or --allow-remote, if the network is trusted"
                    )));
                }
                resolved.iter().map(|at| listen_tcp(at).map_err(failed)).collect()
            }
        }
    }

    /// The kind of the listener's clients.
    pub(super) fn origin(&self) -> Origin {
        match self.address {
            Address::Unix(_) => Origin::Unix,
            Address::Tcp(_) => Origin::Tcp,
        }
    }

    /// The address of an accepted client.
    pub(super) fn peer(&self, client: &OwnedFd) -> Peer {
        let name = match &self.address {
            Address::Unix(_) => {
                let process = |it: rustix::net::UCred| {
                    format!("pid {} of uid {}", it.pid.as_raw_nonzero(), it.uid.as_raw())
                };
                socket_peercred(client).map(process)
            }
            Address::Tcp(_) => {
                let address = |at: Option<SocketAddrAny>| SocketAddr::try_from(at?).ok();
                getpeername(client).map(|at| address(at).map_or_else(String::new, |at| at.to_string()))
            }
        };
        let name = name.unwrap_or_else(|_| "a client that is gone already".into());
        Peer { name, at: self.address.to_string() }
    }

    /// Checks whether an accepted client may connect. Returns `None` if it may, `Some(user)` if that user may
    /// not, and `Some(None)` if the user is unknown.
    pub(super) fn refuses(&self, access: Access, users: &PeerUsers, client: &OwnedFd) -> Option<Option<u32>> {
        if matches!(self.address, Address::Unix(_)) || access.remote || access.local_users || access.proven {
            return None;
        }
        let address = |at: Result<Option<SocketAddrAny>, Errno>| SocketAddr::try_from(at.ok()??).ok();
        let server = address(getsockname(client).map(Some));
        let user = address(getpeername(client))
            .zip(server)
            .and_then(|(client, server)| users.user_of(client, server));
        let is_ours = user.is_some_and(|user| users.is_own(user));
        (!is_ours).then_some(user)
    }

    /// Prepares an accepted socket.
    pub(super) fn tune(&self, client: &OwnedFd) -> io::Result<()> {
        match &self.address {
            Address::Unix(_) => widen(client)?,
            Address::Tcp(_) => {
                set_tcp_nodelay(client, true)?;
                set_socket_keepalive(client, true)?;
                set_tcp_keepidle(client, SILENCE_TIME_MAX)?;
                set_tcp_user_timeout(client, SILENCE_TIME_MAX.as_millis() as u32)?;
            }
        }
        Ok(())
    }
}

/// Enlarges a unix socket's buffers so that they hold some large replies.
pub(super) fn widen(socket: &OwnedFd) -> io::Result<()> {
    set_socket_send_buffer_size(socket, UNIX_BUFFER_BYTES)?;
    Ok(set_socket_recv_buffer_size(socket, UNIX_BUFFER_BYTES)?)
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let (Address::Unix(path), Some(ours)) = (&self.address, self.file)
            && identity(path).is_ok_and(|file| file == ours)
        {
            // A file that cannot be removed is stale from now on, and the next server will detect that.
            let _best_effort = std::fs::remove_file(path);
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn listen_tcp(at: &SocketAddr) -> io::Result<Listening> {
    let listener = TcpListener::bind(at)?;
    let address = Address::Tcp(listener.local_addr()?.to_string());
    listener.set_nonblocking(true)?;
    Ok(Listening { socket: listener.into(), address, file: None })
}

fn listen_unix(path: &Path, group: Option<u32>) -> io::Result<Listening> {
    remove_stale(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = std::fs::File::from(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?);
    socket.set_permissions(Permissions::from_mode(0o600))?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    if let Some(group) = group {
        chownat(CWD, path, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    }
    let file = Some(identity(path)?);
    let listening = Listening { socket: socket.into(), address: Address::Unix(path.into()), file };
    listen(&listening.socket, BACKLOG)?;
    Ok(listening)
}

/// Removes a socket file on which no server answers.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?.file_type().is_socket(),
    };
    if !is_socket {
        return Err(io::Error::new(
            ErrorKind::AlreadyExists,
            "there is a file of that name that is no socket",
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another server answers there")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, expected) in [
            ("unix:/run/a", Some(Address::Unix("/run/a".into()))),
            ("unix:", None),
            ("localhost:10809", Some(Address::Tcp("localhost:10809".into()))),
            ("[::1]:0", Some(Address::Tcp("[::1]:0".into()))),
            (":10809", None),
            ("localhost", None),
            ("localhost:70000", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Address>().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn only_loopback_unless_allowed() {
        let everywhere = Address::Tcp("0.0.0.0:0".into());
        let refusal = Listening::on(&everywhere, Access::default()).err().unwrap().0;
        assert!(refusal.contains("other machines"), "{refusal}");
        let proven = Access { proven: true, ..Access::default() };
        assert!(Listening::on(&everywhere, proven).is_ok(), "clients prove that they may connect");
        assert!(Listening::on(&Address::Tcp("127.0.0.1:0".into()), Access::default()).is_ok());
        assert!(is_loopback("::ffff:127.0.0.1".parse().unwrap()));
    }
}
