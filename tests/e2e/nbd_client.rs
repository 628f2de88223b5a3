//! A small NBD client: fixed newstyle, simple replies, any number of commands in flight.
//!
//! It is needed for what the stock clients do not report: exactly which commands were acknowledged, and in
//! which order, when the connection broke. It requests no structured replies, so a reply is a header and, for
//! a read, the bytes. Protocol: the NBD project's doc/proto.md. The test below checks the client against
//! qemu-nbd.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const GREETING: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
const FIXED_NEWSTYLE_NO_ZEROES: u32 = 3;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;

/// Longest wait for a server before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// A command of the protocol.
#[derive(Clone, Debug)]
pub enum Command {
    Read { offset: u64, len: u32 },
    Write { offset: u64, data: Vec<u8>, fua: bool },
    Flush,
    Trim { offset: u64, len: u32 },
    WriteZeroes { offset: u64, len: u32 },
}

/// The answer to a command: its cookie, and its bytes or the protocol's error number.
pub type Answer = (u64, Result<Vec<u8>, u32>);

/// A connection to an export.
pub struct NbdClient {
    stream: UnixStream,
    cookie: u64,
    /// Number of bytes that the reply to each outstanding command carries if it succeeds.
    outstanding: BTreeMap<u64, u32>,
    pub size_bytes: u64,
    pub flags: u16,
    /// The smallest block that the server takes; 1 if it does not say.
    pub block_bytes: u32,
}

impl NbdClient {
    /// Connects to an export by its name; "" is the default one.
    pub fn connect(socket: &Path, export: &str) -> io::Result<NbdClient> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = NbdClient {
            stream,
            cookie: 0,
            outstanding: BTreeMap::new(),
            size_bytes: 0,
            flags: 0,
            block_bytes: 1,
        };
        client.handshake(export)?;
        Ok(client)
    }

    fn handshake(&mut self, export: &str) -> io::Result<()> {
        expect(self.read_u64()?, GREETING, "greeting")?;
        expect(self.read_u64()?, OPTION, "newstyle")?;
        let flags = self.read_u16()?;
        expect(flags & 3, 3, "fixed newstyle without zeroes")?;
        let mut go = Vec::new();
        go.extend(FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes());
        go.extend(OPTION.to_be_bytes());
        go.extend(OPTION_GO.to_be_bytes());
        go.extend((4 + export.len() as u32 + 2 + 2).to_be_bytes());
        go.extend((export.len() as u32).to_be_bytes());
        go.extend(export.as_bytes());
        go.extend(1u16.to_be_bytes());
        go.extend(INFO_BLOCK_SIZE.to_be_bytes());
        self.stream.write_all(&go)?;
        loop {
            expect(self.read_u64()?, OPTION_REPLY, "option reply")?;
            expect(self.read_u32()?, OPTION_GO, "the option that was asked")?;
            let kind = self.read_u32()?;
            let body_bytes = self.read_u32()? as usize;
            let body = self.read_vec(body_bytes)?;
            match kind {
                REPLY_ACK => return Ok(()),
                REPLY_INFO => self.learn(&body),
                _ => {
                    let text =
                        format!("export {export:?}: error {kind:#x} {}", String::from_utf8_lossy(&body));
                    return Err(io::Error::other(text));
                }
            }
        }
    }

    fn learn(&mut self, info: &[u8]) {
        match u16::from_be_bytes([info[0], info[1]]) {
            INFO_EXPORT => {
                self.size_bytes = u64::from_be_bytes(info[2..10].try_into().expect("eight bytes"));
                self.flags = u16::from_be_bytes([info[10], info[11]]);
            }
            INFO_BLOCK_SIZE => {
                self.block_bytes = u32::from_be_bytes(info[2..6].try_into().expect("four bytes"))
            }
            _ => {}
        }
    }

    /// Sends a command; returns the cookie that its answer will carry.
    pub fn send(&mut self, command: &Command) -> io::Result<u64> {
        let (kind, flags, offset, len, data): (u16, u16, u64, u32, &[u8]) = match command {
            Command::Read { offset, len } => (0, 0, *offset, *len, &[]),
            Command::Write { offset, data, fua } => (1, u16::from(*fua), *offset, data.len() as u32, data),
            Command::Flush => (3, 0, 0, 0, &[]),
            Command::Trim { offset, len } => (4, 0, *offset, *len, &[]),
            Command::WriteZeroes { offset, len } => (6, 0, *offset, *len, &[]),
        };
        self.cookie += 1;
        let mut header = Vec::with_capacity(28 + data.len());
        header.extend(REQUEST.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend(kind.to_be_bytes());
        header.extend(self.cookie.to_be_bytes());
        header.extend(offset.to_be_bytes());
        header.extend(len.to_be_bytes());
        header.extend(data);
        self.stream.write_all(&header)?;
        self.outstanding.insert(self.cookie, if kind == 0 { len } else { 0 });
        Ok(self.cookie)
    }

    /// Waits for the next answer, whichever command it is for.
    pub fn receive(&mut self) -> io::Result<Answer> {
        expect(self.read_u32()?, SIMPLE_REPLY, "simple reply")?;
        let error = self.read_u32()?;
        let cookie = self.read_u64()?;
        let Some(len) = self.outstanding.remove(&cookie) else {
            return Err(io::Error::other(format!("a reply for cookie {cookie}, which nobody waits for")));
        };
        if error != 0 {
            return Ok((cookie, Err(error)));
        }
        Ok((cookie, Ok(self.read_vec(len as usize)?)))
    }

    fn call(&mut self, command: &Command) -> io::Result<Result<Vec<u8>, u32>> {
        assert!(self.outstanding.is_empty(), "one call at a time");
        self.send(command)?;
        Ok(self.receive()?.1)
    }

    /// Reads; the error is the server's.
    pub fn try_read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, u32> {
        self.call(&Command::Read { offset, len: len as u32 }).expect("the connection holds")
    }

    /// Writes; the error is the server's.
    pub fn try_write(&mut self, offset: u64, data: &[u8]) -> Result<(), u32> {
        let command = Command::Write { offset, data: data.to_vec(), fua: false };
        self.call(&command).expect("the connection holds").map(|_| ())
    }

    #[track_caller]
    pub fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let pieces = (0..len).step_by(1 << 20).map(|at| {
            let piece = (len - at).min(1 << 20);
            let result = self.try_read(offset + at as u64, piece);
            result
                .unwrap_or_else(|error| panic!("read of {piece} at {:#x}: error {error}", offset + at as u64))
        });
        pieces.collect::<Vec<_>>().concat()
    }

    #[track_caller]
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, piece) in data.chunks(1 << 20).enumerate() {
            let at = offset + ((index as u64) << 20);
            let result = self.try_write(at, piece);
            result.unwrap_or_else(|error| panic!("write of {} at {at:#x}: error {error}", piece.len()));
        }
    }

    #[track_caller]
    pub fn done(&mut self, command: &Command) {
        let result = self.call(command).expect("the connection holds");
        assert!(result.is_ok(), "{command:?}: error {result:?}");
    }

    fn read_vec(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_u16(&mut self) -> io::Result<u16> {
        self.read_array().map(u16::from_be_bytes)
    }

    fn read_u32(&mut self) -> io::Result<u32> {
        self.read_array().map(u32::from_be_bytes)
    }

    fn read_u64(&mut self) -> io::Result<u64> {
        self.read_array().map(u64::from_be_bytes)
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        let mut header = [0; 28];
        header[..4].copy_from_slice(&REQUEST.to_be_bytes());
        header[7] = 2; // disconnect
        let _ = self.stream.write_all(&header);
    }
}

fn expect<T: PartialEq + std::fmt::LowerHex>(found: T, expected: T, what: &str) -> io::Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(io::Error::other(format!("{what}: expected {expected:#x}, found {found:#x}")))
}

/// Checks the client itself: another server, qemu-nbd, must understand it.
#[test]
fn another_server_understands_the_client() {
    let lab = crate::lab::Lab::new();
    let disk = lab.file("disk", 8 << 20);
    let socket = lab.path("qemu.sock");
    let mut server = crate::lab::timed("qemu-nbd")
        .args(["--format=raw", "--discard=unmap", "--socket"])
        .arg(&socket)
        .arg(&disk)
        .spawn()
        .expect("qemu-nbd is installed by scripts/setup test");
    let began = std::time::Instant::now();
    while !socket.exists() {
        assert!(began.elapsed() < PATIENCE, "qemu-nbd does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut client = NbdClient::connect(&socket, "").expect("a handshake");
    assert_eq!(client.size_bytes, 8 << 20);
    let data = crate::content::pattern(1, 4096, 65536);
    client.write(4096, &data);
    client.done(&Command::Flush);
    client.done(&Command::WriteZeroes { offset: 8192, len: 4096 });
    client.done(&Command::Trim { offset: 12288, len: 4096 });
    assert_eq!(client.read(4096, 4096), data[..4096]);
    assert_eq!(client.read(8192, 4096), [0; 4096]);
    let cookies: Vec<u64> = (0..8)
        .map(|i| client.send(&Command::Read { offset: 20480 + i * 512, len: 512 }).expect("sent"))
        .collect();
    for _ in &cookies {
        let (cookie, bytes) = client.receive().expect("an answer");
        let at = 16384 + 512 * cookies.iter().position(|c| *c == cookie).expect("ours");
        assert_eq!(bytes.expect("read"), data[at..at + 512]);
    }
    assert!(client.try_read(8 << 20, 512).is_err(), "a read past the end");
    drop(client);
    server.wait().expect("ends with its client");
}
