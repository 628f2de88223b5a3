//! Pre-shared keys: the file, which clients may connect, and a client of the same library.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;

use engine::server::{Encryption, Session};
use s2n_tls::enums::PeerKeyUpdate;
use tempfile::TempDir;

use super::*;
use crate::tls::relay::tests::Peer;
use crate::tls::tests::{Serve, World, issue, serve_one};
use crate::tls::{KEYS, Tls};

const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// The directory of a server with these users.
fn directory(users: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    let lines: String = users.iter().map(|(user, key)| format!("{user}:{key}\n")).collect();
    write(&directory, KEYS, &lines, 0o600);
    directory
}

fn write(directory: &TempDir, name: &str, text: &str, mode: u32) {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn refusal(directory: &TempDir) -> String {
    Tls::read(directory.path()).expect_err("it is refused").line()
}

/// A client that uses a channel of the library, on a blocking socket.
pub(in crate::tls) struct KeyClient {
    channel: Shared,
    socket: TcpStream,
}

impl KeyClient {
    /// Does the handshake as this user.
    fn connect(address: SocketAddr, user: &str, key: &str) -> io::Result<KeyClient> {
        let keys = SharedKeys::read(&directory(&[(user, key)]).path().join(KEYS)).unwrap();
        let mut client = KeyClient {
            channel: keys.connect(Mode::Client).unwrap(),
            socket: TcpStream::connect(address).unwrap(),
        };
        client.channel.negotiate()?;
        client.flush()?;
        while client.channel.is_handshaking() {
            client.hear()?;
            client.flush()?;
        }
        Ok(client)
    }

    fn hear(&mut self) -> io::Result<()> {
        match self.channel.hear(&mut self.socket)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Read for KeyClient {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.channel.open(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.hear()?,
                read => return read,
            }
        }
    }
}

impl Write for KeyClient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.channel.seal(bytes)?;
        self.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.channel.has_sealed() {
            self.channel.give(&mut self.socket)?;
        }
        Ok(())
    }
}

impl Peer for KeyClient {
    // The library never asks its peer for new keys, but answers a peer that asks.
    fn new_keys(&mut self) {
        self.channel.connection.request_key_update(PeerKeyUpdate::KeyUpdateNotRequested).unwrap();
    }

    fn say_farewell(&mut self) {
        self.channel.say_farewell();
    }

    fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }
}

/// A client that may connect, and its server.
pub(in crate::tls) fn connect(serve: impl Serve) -> (KeyClient, JoinHandle<()>) {
    let tls = Tls::read(directory(&[("alice", KEY)]).path()).unwrap();
    let (address, server) = serve_one(tls, serve);
    (KeyClient::connect(address, "alice", KEY).expect("its key is good"), server)
}

/// Starts a server with users and a client that `play` plays. Returns why the server refused the client, if
/// it did.
fn verdict(users: &[(&str, &str)], play: impl FnOnce(SocketAddr)) -> std::result::Result<(), String> {
    let (told, heard) = std::sync::mpsc::channel();
    let serve = move |session: io::Result<Box<dyn Session>>, _| {
        told.send(session.map(drop).map_err(|error| error.to_string())).unwrap();
    };
    let (address, server) = serve_one(Tls::read(directory(users).path()).unwrap(), serve);
    play(address);
    server.join().unwrap();
    heard.recv().unwrap()
}

#[test]
fn exactly_users_of_the_file_may_connect() {
    let other = KEY.replace('0', "1");
    let users = [("alice", KEY), ("bob", &other)];
    assert!(Tls::read(directory(&users).path()).unwrap().proves_clients());
    for (user, key, expected) in [
        ("alice", KEY, Ok(())),
        ("bob", &other, Ok(())),
        ("alice", &other, Err("its key is not the one that keys.psk has for user alice")),
        ("bob", KEY, Err("its key is not the one that keys.psk has for user bob")),
        ("Alice", KEY, Err("keys.psk has no user of the name that it gives")),
        ("alic", KEY, Err("keys.psk has no user of the name that it gives")),
        ("alice2", KEY, Err("keys.psk has no user of the name that it gives")),
    ] {
        let mut is_connected = false;
        let said = verdict(&users, |address| {
            is_connected = KeyClient::connect(address, user, key).is_ok();
        });
        assert_eq!(said, expected.map_err(String::from), "{user}");
        // The client sends the last message of a handshake, so only this would notice a refusal by the
        // client.
        assert_eq!(is_connected, said.is_ok(), "{user}");
    }
}

/// A client with a certificate, one that has no newer TLS than 1.2, and some that do not speak TLS are
/// refused.
#[test]
fn what_is_no_key_is_refused() {
    let (world, users) = (World::new(), [("alice", KEY)]);
    let said = verdict(&users, |address| {
        let mut client = world.client(address, Some(issue(&world.issuer, 2)));
        assert!(client.conn.complete_io(&mut client.sock).is_err());
    });
    assert_eq!(said.expect_err("it has no key"), "it offers no pre-shared key");
    // TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 in a ClientHello without extensions.
    let hello = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2f], &[1, 0]].concat();
    let hello = [&[22, 3, 1, 0, 45, 1, 0, 0, 41][..], &hello].concat();
    let cases: &[(&[u8], &str)] = &[
        (&hello, "protocol version is not supported"),
        (&hello[..20], "unexpected end of file"),
        // Read as the header of a record, these bytes announce more bytes than there are.
        (&[0x5a; 4096], "unexpected end of file"),
        (b"GET / HTTP/1.1\r\n\r\n", "unexpected end of file"),
        (&[22, 3, 1, 0, 4, 9, 0, 0, 0], "Bad message"),
        (&[23, 3, 3, 0, 1, 0], "error decrypting data"),
    ];
    for (bytes, expected) in cases {
        let said = verdict(&users, |address| {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.write_all(bytes).unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            let _alert_or_not = socket.read_to_end(&mut Vec::new());
        });
        let said = said.expect_err("it is no TLS 1.3");
        assert!(said.contains(expected), "{said}: {expected}");
    }
}

#[test]
fn files_that_let_others_in_are_refused() {
    let users = [("alice", KEY), ("bob", KEY)];
    let good = directory(&users);
    let tls = Tls::read(good.path()).unwrap();
    let said = format!("{} {tls:?}", tls.describe());
    assert!(said.contains("keys.psk: users that may connect: 2") && !said.contains(KEY), "{said}");
    write(&good, KEYS, &format!("alice:{KEY}"), 0o604);
    assert!(refusal(&good).contains("keys.psk: every user can read it: chmod 600 "), "{}", refusal(&good));
    // A certificate file beside the keys is refused, even a dangling link.
    for other in ["server-cert.pem", "server-key.pem", "ca-cert.pem", "ca-crl.pem"] {
        let both = directory(&users);
        std::os::unix::fs::symlink("nowhere", both.path().join(other)).unwrap();
        let line = refusal(&both);
        assert!(line.contains(&format!("there is {other} beside it")), "{line}");
    }
    // A dangling link of keys must not make the server use certificates instead.
    let lost = TempDir::new().unwrap();
    std::os::unix::fs::symlink("nowhere", lost.path().join(KEYS)).unwrap();
    assert!(refusal(&lost).contains("keys.psk: No such file"), "{}", refusal(&lost));
    let line = refusal(&directory(&[("alice", KEY), ("bob", "12")]));
    assert!(line.contains("keys.psk: line 2: the key of user bob has 1 bytes"), "{line}");
}

/// A ClientHello may be cut off anywhere: reading it does not panic, and does not report an extension that is
/// not there.
#[test]
fn a_hello_is_read_to_its_end() {
    let head = [&[3, 3][..], &[7; 32], &[1, 9], &[0, 2, 0x13, 1], &[1, 0]].concat();
    let extensions = [0, 10, 0, 1, 5, 0, 41, 0, 3, 1, 2, 3];
    let hello = [&head[..], &[0, extensions.len() as u8], &extensions].concat();
    assert_eq!(has_extension(&hello, PRE_SHARED_KEY), Some(true));
    assert_eq!(has_extension(&hello, 10), Some(true));
    assert_eq!(has_extension(&hello, 11), Some(false));
    // The length up to the end of the extension's number.
    let known = head.len() + 2 + 7;
    for end in 0..known {
        assert_ne!(has_extension(&hello[..end], PRE_SHARED_KEY), Some(true), "{end}");
    }
    for end in known..hello.len() {
        assert_eq!(has_extension(&hello[..end], 11), None, "{end}");
    }
}
