//! Finds the user of a client on this machine that connects by TCP, from the kernel's list of sockets
//! (proc_pid_net(5), `/proc/net/tcp`).
//!
//! ```text
//!   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
//!    1: 0100007F:A3F2 0100007F:2A39 01 00000000:00000000 00:00000000 00000000  1000        0 4242 ...
//! ```
//!
//! An address is hexadecimal; each word of it is in the byte order of the machine.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileExt;

/// The kernel's tables of IPv4 and IPv6 sockets. A client of one kind may reach a server of the other.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The kernel's tables, kept open because a thread that accepts clients opens no files.
pub(super) struct PeerUsers {
    tables: Vec<File>,
    own: u32,
}

impl PeerUsers {
    /// Opens the tables that exist.
    pub(super) fn open() -> PeerUsers {
        let tables = TABLES.iter().filter_map(|table| File::open(table).ok()).collect();
        PeerUsers { tables, own: rustix::process::geteuid().as_raw() }
    }

    /// Whether a user is the server's own or root.
    pub(super) fn is_own(&self, user: u32) -> bool {
        user == self.own || user == 0
    }

    /// The user of the socket at `client` that is connected to `server`; `None` if the kernel lists none.
    pub(super) fn user_of(&self, client: SocketAddr, server: SocketAddr) -> Option<u32> {
        let tables = self.tables.iter().filter_map(|table| read_all(table).ok());
        tables.filter_map(|table| find(&table, client, server)).next()
    }
}

/// Reads a table from its beginning.
fn read_all(table: &File) -> io::Result<String> {
    let (mut bytes, mut len) = (vec![0; 64 << 10], 0);
    loop {
        match table.read_at(&mut bytes[len..], len as u64)? {
            0 => break,
            count => len += count,
        }
        if len == bytes.len() {
            bytes.resize(2 * len, 0);
        }
    }
    bytes.truncate(len);
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn find(table: &str, client: SocketAddr, server: SocketAddr) -> Option<u32> {
    let same = |text: &str, address: SocketAddr| {
        parse(text).is_some_and(|it| {
            it.ip().to_canonical() == address.ip().to_canonical() && it.port() == address.port()
        })
    };
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (local, remote) = (words.nth(1)?, words.next()?);
        if !same(local, client) || !same(remote, server) {
            return None;
        }
        let (user, inode) = (words.nth(4)?, words.nth(1)?);
        // A socket that its process has closed has no inode, and is listed with user 0.
        (inode != "0").then(|| user.parse().ok())?
    })
}

fn parse(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, bytes) in bytes.chunks_exact_mut(4).enumerate() {
                bytes.copy_from_slice(&word(8 * index)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_client_of_this_machine_has_a_user() {
        let users = PeerUsers::open();
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(at) else { continue };
            let server = listener.local_addr().unwrap();
            let client = TcpStream::connect(server).unwrap();
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(users.user_of(client.local_addr().unwrap(), server), Some(own), "{at}");
            // The server's own end of the connection is listed too, with the addresses swapped.
            let stranger = SocketAddr::new(server.ip(), 1);
            assert_eq!(users.user_of(stranger, server), None);
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 00000000:2A39 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n   \
            1: 0100007F:2A39 0100007F:A3F2 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 0 0 10 -1\n   \
            2: 0100007F:A3F2 0100007F:2A39 01 00000000:00000000 02:000000A7 00000000  1000        0 3 2 0 20 4 30 10 -1\n";
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (client, server) = (address("127.0.0.1:41970"), address("127.0.0.1:10809"));
        assert_eq!(find(table, client, server), Some(1000));
        assert_eq!(find(table, server, client), Some(0));
        assert_eq!(find(table, address("[::ffff:127.0.0.1]:41970"), server), Some(1000));
        assert_eq!(find(table, address("127.0.0.1:41971"), server), None);
        let closed = "\n 1: 0100007F:A3F2 0100007F:2A39 06 00000000:00000000 03:00000C1D 00000000     0        0 0 3 0";
        assert_eq!(find(closed, client, server), None, "a client that has closed its socket is not root");
        assert_eq!(find("", client, server), None);
        assert_eq!(parse("0000000000000000FFFF00000100007F:0016"), Some(address("[::ffff:127.0.0.1]:22")));
        assert_eq!(parse("0100007F"), None);
    }
}
