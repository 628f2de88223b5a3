//! An NBD client written from the specification, independently of the server: its constants are its own.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use engine::frontend::nbd::{Access, Address, ExportInfo, NbdServer};

use super::{PATIENCE, Pace, RamArray, Reactor};

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const ZEROES: u16 = 6;
pub const FUA: u16 = 1;
pub const DF: u16 = 4;

pub const EPERM: u32 = 1;
pub const EIO: u32 = 5;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;
pub const EOVERFLOW: u32 = 75;
/// Answer to zeroes that would not be fast.
pub const ENOTSUP: u32 = 95;

pub const ACK: u32 = 1;
pub const ERR_UNSUP: u32 = (1 << 31) + 1;
pub const ERR_INVALID: u32 = (1 << 31) + 3;
pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;

/// A server over an array in RAM.
pub struct Server {
    pub array: Arc<RamArray>,
    pub server: Option<NbdServer>,
    pub reactors: Vec<Reactor>,
    pub path: PathBuf,
}

/// Parameters that differ between tests.
pub struct Setup {
    pub size_bytes: usize,
    pub read_only: bool,
    pub reactors: usize,
    pub pace: Pace,
    pub pool_bytes: usize,
    pub room: usize,
    pub stripe_bytes: u64,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            size_bytes: 64 << 20,
            read_only: false,
            reactors: 1,
            pace: Pace::Instant,
            pool_bytes: 64 << 20,
            room: 256,
            stripe_bytes: 4096,
        }
    }
}

impl Setup {
    pub fn export(&self) -> ExportInfo {
        ExportInfo {
            name: "tank".into(),
            description: "an array in RAM".into(),
            size_bytes: self.size_bytes as u64,
            logical_block_bytes: 512,
            preferred_bytes: 64 << 10,
            read_only: self.read_only,
            stripe_bytes: self.stripe_bytes,
        }
    }

    pub fn start(self) -> Server {
        let path = socket_path();
        let listen = [Address::Unix(path.clone()), "127.0.0.1:0".parse().unwrap()];
        let (server, frontends) =
            NbdServer::start(&listen, Access::default(), self.export(), self.reactors).unwrap();
        let array = RamArray::new(self.size_bytes);
        let start =
            |frontend| Reactor::start(frontend, Arc::clone(&array), self.pace, self.pool_bytes, self.room);
        let reactors = frontends.into_iter().map(start).collect();
        Server { array, server: Some(server), reactors, path }
    }
}

/// A path that no other test uses.
pub fn socket_path() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("striate-nbd-{}-{number}.sock", std::process::id()))
}

impl Server {
    /// A socket on which nothing has been sent.
    pub fn socket(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    pub fn tcp(&self) -> TcpStream {
        let addresses = self.server.as_ref().unwrap().addresses();
        let address = addresses.iter().find(|address| matches!(address, Address::Tcp(_))).unwrap();
        let socket = TcpStream::connect(address.to_string()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket
    }

    /// Connects a client with simple replies.
    pub fn simple(&self) -> Client<UnixStream> {
        Client::go(self.socket(), false)
    }

    /// Connects a client with structured replies.
    pub fn structured(&self) -> Client<UnixStream> {
        Client::go(self.socket(), true)
    }

    /// Stops everything, and checks that the reactors end properly.
    pub fn stop(mut self) {
        drop(self.server.take());
        assert!(!self.path.exists(), "the socket file is removed");
        self.reactors.drain(..).for_each(Reactor::stop);
    }
}

/// A reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub cookie: u64,
    pub result: Result<Vec<u8>, u32>,
}

/// A client in the transmission phase.
pub struct Client<S> {
    pub socket: S,
    pub structured: bool,
    pub size_bytes: u64,
    pub flags: u16,
    next_cookie: u64,
    /// Structured reads of which some chunks have arrived.
    partial: HashMap<u64, Partial>,
}

/// A structured read of which some chunks have arrived.
#[derive(Default)]
struct Partial {
    data: Vec<u8>,
    filled: usize,
    error: Option<u32>,
}

impl<S: Read + Write> Client<S> {
    /// Performs the handshake, with `GO` and the empty name.
    pub fn go(mut socket: S, structured: bool) -> Client<S> {
        greet(&mut socket, 3).unwrap();
        if structured {
            assert_eq!(say_option(&mut socket, 8, &[]), [(ACK, vec![])]);
        }
        let replies = say_option(&mut socket, 7, &[0; 6]);
        let export = &replies.iter().find(|(kind, data)| *kind == 3 && data[..2] == [0, 0]).unwrap().1;
        Client {
            socket,
            structured,
            size_bytes: u64::from_be_bytes(export[2..10].try_into().unwrap()),
            flags: u16::from_be_bytes(export[10..12].try_into().unwrap()),
            next_cookie: 0x1234_5678_0000_0000,
            partial: HashMap::new(),
        }
    }

    /// Makes the bytes of a command; returns its cookie and the bytes.
    pub fn command(&mut self, kind: u16, flags: u16, offset: u64, len: u32) -> (u64, Vec<u8>) {
        self.next_cookie += 1;
        (self.next_cookie, command(kind, flags, self.next_cookie, offset, len))
    }

    /// Sends a command with the payload of a write; returns its cookie.
    pub fn send(&mut self, kind: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) -> u64 {
        let (cookie, mut bytes) = self.command(kind, flags, offset, len);
        bytes.extend(payload);
        self.socket.write_all(&bytes).unwrap();
        cookie
    }

    /// Sends a command and waits for its reply.
    pub fn call(
        &mut self,
        kind: u16,
        flags: u16,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, u32> {
        let cookie = self.send(kind, flags, offset, len, payload);
        let want = (kind == READ).then_some((offset, len));
        let answer = self.hear(&|_| want).unwrap();
        assert_eq!(answer.cookie, cookie);
        answer.result
    }

    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        self.call(READ, 0, offset, len, &[])
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<Vec<u8>, u32> {
        self.call(WRITE, 0, offset, data.len() as u32, data)
    }

    /// Receives one whole reply. `range` tells for a cookie whether it is a read, and of what range.
    pub fn hear(&mut self, range: &dyn Fn(u64) -> Option<(u64, u32)>) -> io::Result<Answer> {
        loop {
            let magic = u32::from_be_bytes(self.take()?);
            if magic == 0x6744_6698 {
                let error = u32::from_be_bytes(self.take()?);
                let cookie = u64::from_be_bytes(self.take()?);
                assert!(!self.structured || range(cookie).is_none(), "reads are answered in chunks");
                let mut data =
                    vec![0; range(cookie).filter(|_| error == 0).map_or(0, |range| range.1) as usize];
                self.socket.read_exact(&mut data)?;
                let result = if error == 0 { Ok(data) } else { Err(error) };
                return Ok(Answer { cookie, result });
            }
            assert_eq!((magic, self.structured), (0x668e_33ef, true), "a magic of the protocol");
            let flags = u16::from_be_bytes(self.take()?);
            let kind = u16::from_be_bytes(self.take()?);
            let cookie = u64::from_be_bytes(self.take()?);
            let len = u32::from_be_bytes(self.take()?) as usize;
            // Replies to BLOCK_STATUS are chunks too, and so are their errors.
            assert!(
                range(cookie).is_some() || kind >= 0x8001,
                "only reads are answered in chunks of content"
            );
            let (offset, want) = range(cookie).unwrap_or_default();
            let mut partial = self.partial.remove(&cookie).unwrap_or_default();
            partial.data.resize(want as usize, 0);
            match kind {
                0 => assert_eq!((len, flags), (0, 1)),
                1 => {
                    let at = (u64::from_be_bytes(self.take()?) - offset) as usize;
                    self.socket.read_exact(&mut partial.data[at..at + len - 8])?;
                    partial.filled += len - 8;
                }
                0x8001 | 0x8002 => {
                    partial.error = Some(u32::from_be_bytes(self.take()?));
                    let mut rest = vec![0; len - 4];
                    self.socket.read_exact(&mut rest)?;
                }
                other => panic!("an unknown chunk {other}"),
            }
            if flags & 1 == 0 {
                self.partial.insert(cookie, partial);
                continue;
            }
            let Partial { data, filled, error } = partial;
            let result = error.map_or(Ok(data), Err);
            assert!(result.is_err() || filled == want as usize, "all of it was sent");
            return Ok(Answer { cookie, result });
        }
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.socket.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Checks that the server hangs up and sends nothing more.
    pub fn expect_end(&mut self) {
        let mut rest = Vec::new();
        let end = self.socket.read_to_end(&mut rest);
        let reset = end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
        assert!((end.is_ok() && rest.is_empty()) || reset, "{end:?}, {} bytes", rest.len());
    }
}

/// The bytes of a command.
pub fn command(kind: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// Receives the greeting and sends the client's flags.
pub fn greet(socket: &mut (impl Read + Write), flags: u32) -> io::Result<()> {
    let mut hello = [0; 18];
    socket.read_exact(&mut hello)?;
    assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
    assert_eq!(&hello[16..], [0, 3]);
    socket.write_all(&flags.to_be_bytes())
}

/// The bytes of an option.
pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// Sends an option; receives its replies up to the acknowledgement or error.
pub fn say_option(socket: &mut (impl Read + Write), number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    socket.write_all(&option(number, data)).unwrap();
    let mut replies = Vec::new();
    loop {
        let mut header = [0; 20];
        socket.read_exact(&mut header).unwrap();
        assert_eq!(header[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
        assert_eq!(header[8..12], number.to_be_bytes());
        let kind = u32::from_be_bytes(header[12..16].try_into().unwrap());
        let mut data = vec![0; u32::from_be_bytes(header[16..20].try_into().unwrap()) as usize];
        socket.read_exact(&mut data).unwrap();
        replies.push((kind, data));
        if kind == ACK || kind >> 31 == 1 {
            return replies;
        }
    }
}

/// Writes on another thread, so that neither side waits for the other to read.
pub fn write_aside(socket: &UnixStream, bytes: Vec<u8>) -> JoinHandle<io::Result<()>> {
    let mut socket = socket.try_clone().unwrap();
    thread::spawn(move || socket.write_all(&bytes))
}
