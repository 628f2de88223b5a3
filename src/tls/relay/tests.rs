//! The relay, between a client of each library and a reactor that the test plays.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use engine::server::Session;
use rustls::{ClientConnection, StreamOwned};

use super::*;
#[cfg(feature = "tls-psk")]
use crate::tls::shared_keys::tests as keys;
use crate::tls::tests::{Serve, World, issue};

/// A client of either library.
pub(in crate::tls) trait Peer: Read + Write {
    /// Makes the next bytes begin with new keys, and asks the server for new keys if the library can.
    fn new_keys(&mut self);
    /// Sends the farewell of TLS with the next flush.
    fn say_farewell(&mut self);
    fn socket(&mut self) -> &mut TcpStream;
}

impl Peer for StreamOwned<ClientConnection, TcpStream> {
    fn new_keys(&mut self) {
        self.conn.refresh_traffic_keys().unwrap();
    }

    fn say_farewell(&mut self) {
        self.conn.send_close_notify();
    }

    fn socket(&mut self) -> &mut TcpStream {
        &mut self.sock
    }
}

/// A client that may connect, the reactor's end of its connection, and the relay between them.
type Relayed = (Box<dyn Peer>, UnixStream, JoinHandle<()>);

fn with_a_certificate() -> Relayed {
    let (world, (plain, reactor)) = (World::new(), UnixStream::pair().unwrap());
    let (client, server) = world.connect(Some(issue(&world.issuer, 2)), relay_to(plain));
    (Box::new(client), reactor, server)
}

#[cfg(feature = "tls-psk")]
fn with_a_key() -> Relayed {
    let (plain, reactor) = UnixStream::pair().unwrap();
    let (client, server) = keys::connect(relay_to(plain));
    (Box::new(client), reactor, server)
}

fn relay_to(plain: UnixStream) -> impl Serve {
    move |session: io::Result<Box<dyn Session>>, socket: OwnedFd| {
        session.expect("the client may connect").relay(&socket, plain.into());
    }
}

/// Functions that connect a client of each library.
const CLIENTS: &[fn() -> Relayed] = &[
    with_a_certificate,
    #[cfg(feature = "tls-psk")]
    with_a_key,
];

/// Bytes that differ by position, so that moved bytes are noticed.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// Sends much more than all buffers hold, in both directions at once; neither side reads before it has sent
/// everything.
#[test]
fn what_one_side_sends_the_other_receives() {
    for connect in CLIENTS {
        let (mut client, reactor, server) = connect();
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
        // The client writes while replies that it does not read pile up.
        client.write_all(&requests).unwrap();
        client.flush().unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("the farewell of TLS came: nothing was cut off");
        assert!(heard == replies, "as it was sent");
        serve.join().unwrap();
        server.join().unwrap();
    }
}

/// New keys take room among the replies, and no reply may be lost to them. (A relay once ended at this
/// point.)
#[test]
fn a_client_asks_for_new_keys() {
    for connect in CLIENTS {
        let (mut client, mut reactor, server) = connect();
        let replies = pattern(4 << 20);
        client.write_all(b"x").unwrap();
        reactor.read_exact(&mut [0]).unwrap();
        let mut heard = vec![0; replies.len()];
        for part in heard.chunks_mut(1 << 20) {
            client.new_keys();
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
}

#[test]
fn a_client_that_is_done_has_its_replies() {
    for connect in CLIENTS {
        for has_farewell in [true, false] {
            let (mut client, mut reactor, server) = connect();
            client.write_all(b"the last request").unwrap();
            if has_farewell {
                client.say_farewell();
            }
            client.flush().unwrap();
            if !has_farewell {
                client.socket().shutdown(std::net::Shutdown::Write).unwrap();
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
}

/// The relay ends when either side goes, and the other side learns of it.
#[test]
fn a_relay_ends_with_either_side() {
    for connect in CLIENTS {
        // Case 1: the client closes.
        let (mut client, mut reactor, server) = connect();
        client.write_all(b"x").unwrap();
        reactor.read_exact(&mut [0]).unwrap();
        drop(client);
        assert_eq!(reactor.read(&mut [0]).unwrap(), 0, "the reactor hears of the end");
        drop(reactor);
        server.join().unwrap();
        // Case 2: the client sends bytes that are not TLS.
        let (mut client, mut reactor, server) = connect();
        client.write_all(b"x").unwrap();
        reactor.read_exact(&mut [0]).unwrap();
        client.socket().write_all(&[0x5a; 1000]).unwrap();
        assert_eq!(reactor.read(&mut [0]).unwrap(), 0, "nothing of it reaches the reactor");
        server.join().unwrap();
        // Case 3: the reactor closes while its client does not read its replies.
        let (mut client, mut reactor, server) = connect();
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
}
