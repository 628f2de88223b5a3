//! A small NBD client for the demo: does what a host does to an export, on a unix socket.
//!
//! Fixed newstyle negotiation with `NBD_OPT_GO`, structured replies if the server has them (simple ones
//! otherwise), read, write, flush, trim, disconnect. Numbers and names are those of the protocol document
//! (NetworkBlockDevice/nbd, doc/proto.md).
//!
//! [`Client::read`] pipelines reads itself. The caller pipelines writes: [`Client::start_write`] sends one,
//! and [`Client::finish_write`] takes the next answer, in the server's order. The two are not mixed: a read
//! begins only when no write is in flight. So client and server cannot block on each other: while this side
//! sends, the server sends only sixteen bytes per write, which fit into its socket buffer.

use std::io::{BufReader, Error, ErrorKind, Read, Result as IoResult, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERROR_BIT: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISC: u16 = 2;
const CMD_FLUSH: u16 = 3;
const CMD_TRIM: u16 = 4;

const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_OFFSET_HOLE: u16 = 2;
const CHUNK_ERROR_BIT: u16 = 1 << 15;

/// The longest option reply or error chunk that is accepted; real ones have some tens of bytes.
const TEXT_BYTES_MAX: u32 = 16 << 10;

/// The size of the pieces of a read, and how many of them are in flight: together a little more than the
/// bandwidth-delay product of a local socket.
const READ_PIECE_BYTES: usize = 256 << 10;
const READ_PIECES_IN_FLIGHT: usize = 8;

/// How long a server may take to answer before it counts as stuck. The time is long because members may be
/// files on a disk that is busy with other work.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);

/// The ways a request can fail.
#[derive(Debug)]
pub enum NbdError {
    /// The server answered with this error number (5 is EIO), and the connection is still usable.
    Refused(u32),
    /// The connection is gone, or sent something that makes no sense.
    Broken(Error),
}

impl From<Error> for NbdError {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

impl std::fmt::Display for NbdError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(errno) => Error::from_raw_os_error(errno.cast_signed()).fmt(f),
            Self::Broken(error) => write!(f, "connection broken: {error}"),
        }
    }
}

type Result<T> = std::result::Result<T, NbdError>;

/// A connection in transmission phase.
#[derive(Debug)]
pub struct Client {
    /// Buffered input for replies.
    reader: BufReader<UnixStream>,
    /// Unbuffered output for requests.
    writer: UnixStream,
    /// Size of the export.
    size_bytes: u64,
    /// The cookie of the next request.
    next_cookie: u64,
}

/// The reads in flight, and the buffer for their bytes.
struct Window<'a> {
    first_cookie: u64,
    offset: u64,
    buffer: &'a mut [u8],
    /// Bytes still missing of each piece.
    missing: Vec<usize>,
}

/// A whole answer, or one chunk of a structured answer.
struct Answer {
    cookie: u64,
    done: bool,
    error: Option<u32>,
}

impl Client {
    /// Connects to `unix:PATH` and goes to the export `name`.
    pub fn connect(address: &str, name: &str) -> Result<Self> {
        let path = address.strip_prefix("unix:").ok_or_else(|| strange("not an address of a unix socket"))?;
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
        let mut client = Self {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
            size_bytes: 0,
            next_cookie: 1,
        };
        client.negotiate(name)?;
        Ok(client)
    }

    /// Size of the export.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn negotiate(&mut self, name: &str) -> Result<()> {
        if self.u64()? != NBD_MAGIC || self.u64()? != OPTION_MAGIC {
            return Err(strange("not an NBD server").into());
        }
        let flags = self.u16()?;
        if flags & FLAG_FIXED_NEWSTYLE == 0 {
            return Err(strange("not a fixed newstyle server").into());
        }
        let ours = flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        self.writer.write_all(&u32::from(ours).to_be_bytes())?;

        self.option(OPT_STRUCTURED_REPLY, &[])?;
        // Both answers are fine: each reply says by its magic which kind it is.
        self.option_reply(OPT_STRUCTURED_REPLY)?;

        let length = u32::try_from(name.len()).map_err(|_| strange("the name is too long"))?;
        let mut data = length.to_be_bytes().to_vec();
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(&0u16.to_be_bytes());
        self.option(OPT_GO, &data)?;
        loop {
            let (kind, data) = self.option_reply(OPT_GO)?;
            match kind {
                REP_ACK if self.size_bytes > 0 => return Ok(()),
                REP_ACK => return Err(strange("no size was told").into()),
                REP_INFO if data.len() >= 10 && data[..2] == INFO_EXPORT.to_be_bytes() => {
                    self.size_bytes = u64::from_be_bytes(data[2..10].try_into().expect("eight bytes"));
                }
                REP_INFO => {}
                kind if kind & REP_ERROR_BIT != 0 => {
                    return Err(
                        strange(&format!("no export {name}: {}", String::from_utf8_lossy(&data))).into()
                    );
                }
                _ => return Err(strange("unknown reply to an option").into()),
            }
        }
    }

    fn option(&mut self, option: u32, data: &[u8]) -> IoResult<()> {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(data.len()).expect("options are short").to_be_bytes());
        bytes.extend_from_slice(data);
        self.writer.write_all(&bytes)
    }

    fn option_reply(&mut self, option: u32) -> IoResult<(u32, Vec<u8>)> {
        if self.u64()? != OPTION_REPLY_MAGIC || self.u32()? != option {
            return Err(strange("not a reply to the option"));
        }
        let kind = self.u32()?;
        let length = self.u32()?;
        Ok((kind, self.bytes(length)?))
    }

    /// Fills `buffer` from `offset`. If the server refuses a part, the result is that error, and the content
    /// of the buffer is undefined.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut at = offset;
        let mut refused = None;
        for part in buffer.chunks_mut(READ_PIECE_BYTES * READ_PIECES_IN_FLIGHT) {
            let length = part.len() as u64;
            refused = refused.or(self.read_window(at, part)?);
            at += length;
        }
        refused.map_or(Ok(()), |errno| Err(NbdError::Refused(errno)))
    }

    fn read_window(&mut self, offset: u64, buffer: &mut [u8]) -> Result<Option<u32>> {
        let first_cookie = self.next_cookie;
        let missing: Vec<usize> = buffer.chunks(READ_PIECE_BYTES).map(<[u8]>::len).collect();
        let mut at = offset;
        for length in &missing {
            self.send(CMD_READ, at, u32::try_from(*length).expect("a piece is short"), &[])?;
            at += *length as u64;
        }
        let mut window = Window { first_cookie, offset, buffer, missing };
        let (mut left, mut refused) = (window.missing.len(), None);
        while left > 0 {
            let answer = self.answer(Some(&mut window))?;
            let piece = window.piece(answer.cookie)?;
            refused = refused.or(answer.error);
            if answer.done {
                left -= 1;
                if window.missing[piece] > 0 && refused.is_none() {
                    return Err(strange("a read that came short").into());
                }
            }
        }
        Ok(refused)
    }

    /// Sends a write, and returns its cookie; [`Client::finish_write`] returns the answer under that cookie.
    pub fn start_write(&mut self, offset: u64, data: &[u8]) -> Result<u64> {
        let length = u32::try_from(data.len()).map_err(|_| strange("the write is too long"))?;
        Ok(self.send(CMD_WRITE, offset, length, data)?)
    }

    /// Takes the next answer: the cookie of the write, and the error number if the write was refused.
    pub fn finish_write(&mut self) -> Result<(u64, std::result::Result<(), u32>)> {
        let mut error = None;
        loop {
            let answer = self.answer(None)?;
            error = error.or(answer.error);
            if answer.done {
                return Ok((answer.cookie, error.map_or(Ok(()), Err)));
            }
        }
    }

    /// Writes and waits for the answer.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.start_write(offset, data)?;
        self.finish()
    }

    /// Flushes: returns once everything acknowledged before is durable.
    pub fn flush(&mut self) -> Result<()> {
        self.send(CMD_FLUSH, 0, 0, &[])?;
        self.finish()
    }

    /// Tells the server that a range is no longer needed.
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<()> {
        self.send(CMD_TRIM, offset, length, &[])?;
        self.finish()
    }

    /// Ends the connection in order.
    pub fn disconnect(mut self) -> Result<()> {
        self.send(CMD_DISC, 0, 0, &[])?;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.finish_write()?.1.map_err(NbdError::Refused)
    }

    fn send(&mut self, command: u16, offset: u64, length: u32, data: &[u8]) -> IoResult<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut header = [0; 28];
        header[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        header[6..8].copy_from_slice(&command.to_be_bytes());
        header[8..16].copy_from_slice(&cookie.to_be_bytes());
        header[16..24].copy_from_slice(&offset.to_be_bytes());
        header[24..28].copy_from_slice(&length.to_be_bytes());
        self.writer.write_all(&header)?;
        self.writer.write_all(data)?;
        Ok(cookie)
    }

    fn answer(&mut self, window: Option<&mut Window<'_>>) -> IoResult<Answer> {
        match self.u32()? {
            SIMPLE_REPLY_MAGIC => self.simple_answer(window),
            STRUCTURED_REPLY_MAGIC => self.structured_answer(window),
            _ => Err(strange("not a reply")),
        }
    }

    fn simple_answer(&mut self, window: Option<&mut Window<'_>>) -> IoResult<Answer> {
        let (error, cookie) = (self.u32()?, self.u64()?);
        if let (0, Some(window)) = (error, window) {
            let piece = window.piece(cookie)?;
            let length = window.missing[piece];
            self.reader.read_exact(window.place(piece, window.start(piece), length)?)?;
        }
        Ok(Answer { cookie, done: true, error: (error != 0).then_some(error) })
    }

    fn structured_answer(&mut self, window: Option<&mut Window<'_>>) -> IoResult<Answer> {
        let (flags, kind, cookie, length) = (self.u16()?, self.u16()?, self.u64()?, self.u32()?);
        let mut error = None;
        match (kind, window) {
            (CHUNK_NONE, _) if length == 0 => {}
            (CHUNK_OFFSET_DATA, Some(window)) if length > 8 => {
                let (piece, offset) = (window.piece(cookie)?, self.u64()?);
                self.reader.read_exact(window.place(piece, offset, length as usize - 8)?)?;
            }
            (CHUNK_OFFSET_HOLE, Some(window)) if length == 12 => {
                let (piece, offset, hole) = (window.piece(cookie)?, self.u64()?, self.u32()?);
                window.place(piece, offset, hole as usize)?.fill(0);
            }
            (kind, _) if kind & CHUNK_ERROR_BIT != 0 && length >= 6 => {
                let text = self.bytes(length)?;
                error = Some(u32::from_be_bytes(text[..4].try_into().expect("four bytes")));
            }
            _ => return Err(strange("unknown chunk of a reply")),
        }
        Ok(Answer { cookie, done: flags & CHUNK_DONE != 0, error })
    }

    fn u16(&mut self) -> IoResult<u16> {
        let mut bytes = [0; 2];
        self.reader.read_exact(&mut bytes)?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> IoResult<u32> {
        let mut bytes = [0; 4];
        self.reader.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn u64(&mut self) -> IoResult<u64> {
        let mut bytes = [0; 8];
        self.reader.read_exact(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn bytes(&mut self, length: u32) -> IoResult<Vec<u8>> {
        if length > TEXT_BYTES_MAX {
            return Err(strange("a reply that is too long"));
        }
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Window<'_> {
    /// The piece that a reply belongs to.
    fn piece(&self, cookie: u64) -> IoResult<usize> {
        let piece = cookie.checked_sub(self.first_cookie).and_then(|piece| usize::try_from(piece).ok());
        piece.filter(|piece| *piece < self.missing.len()).ok_or_else(|| strange("a reply to no request"))
    }

    /// The offset in the export at which a piece begins.
    fn start(&self, piece: usize) -> u64 {
        self.offset + (piece * READ_PIECE_BYTES) as u64
    }

    /// The part of the buffer for `length` bytes at `offset` of the export, which must lie within the piece.
    fn place(&mut self, piece: usize, offset: u64, length: usize) -> IoResult<&mut [u8]> {
        let first = piece * READ_PIECE_BYTES;
        let last = self.buffer.len().min(first + READ_PIECE_BYTES);
        let begin = offset.checked_sub(self.offset).and_then(|begin| usize::try_from(begin).ok());
        match begin {
            Some(begin) if begin >= first && begin <= last && length <= last - begin => {
                self.missing[piece] = self.missing[piece]
                    .checked_sub(length)
                    .ok_or_else(|| strange("a byte that came twice"))?;
                Ok(&mut self.buffer[begin..begin + length])
            }
            _ => Err(strange("bytes that were not asked for")),
        }
    }
}

fn strange(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    //! Tests against a scripted server: each case is the bytes that it sends after the handshake, and what
    //! the client makes of them. (The demo and the end-to-end tests use the real server.)
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Serves one client: the handshake for an export of 1 MiB, then `script`, whatever the client asks.
    fn connect(script: Vec<u8>) -> (Client, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [NBD_MAGIC.to_be_bytes(), OPTION_MAGIC.to_be_bytes()].concat();
            hello.extend((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
            for (option, kind, data) in [
                (OPT_STRUCTURED_REPLY, REP_ACK, vec![]),
                (OPT_GO, REP_INFO, [&[0; 2][..], &(1u64 << 20).to_be_bytes(), &[0, 1]].concat()),
                (OPT_GO, REP_ACK, vec![]),
            ] {
                hello.extend(OPTION_REPLY_MAGIC.to_be_bytes());
                hello.extend([option, kind, data.len() as u32].map(u32::to_be_bytes).concat());
                hello.extend(data);
            }
            stream.write_all(&hello).unwrap();
            stream.write_all(&script).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        (Client::connect(&format!("unix:{}", path.display()), "a").unwrap(), directory)
    }

    fn simple(cookie: u64, error: u32, data: &[u8]) -> Vec<u8> {
        [&SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes(), data].concat()
    }

    fn chunk(cookie: u64, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend([flags, kind].map(u16::to_be_bytes).concat());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn data_chunk(cookie: u64, flags: u16, offset: u64, data: &[u8]) -> Vec<u8> {
        chunk(cookie, flags, CHUNK_OFFSET_DATA, &[&offset.to_be_bytes(), data].concat())
    }

    fn hole_chunk(cookie: u64, flags: u16, offset: u64, length: u32) -> Vec<u8> {
        chunk(cookie, flags, CHUNK_OFFSET_HOLE, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat())
    }

    #[test]
    fn reads_in_one_piece_and_in_chunks() {
        let scripts = [
            simple(1, 0, b"abcdefgh"),
            data_chunk(1, CHUNK_DONE, 4096, b"abcdefgh"),
            [data_chunk(1, 0, 4100, b"efgh"), data_chunk(1, CHUNK_DONE, 4096, b"abcd")].concat(),
            [data_chunk(1, 0, 4096, b"abcdefgh"), chunk(1, CHUNK_DONE, CHUNK_NONE, &[])].concat(),
        ];
        for script in scripts {
            let (mut client, _directory) = connect(script);
            assert_eq!(client.size_bytes(), 1 << 20);
            let mut buffer = [1; 8];
            client.read(4096, &mut buffer).unwrap();
            assert_eq!(&buffer, b"abcdefgh");
        }
    }

    #[test]
    fn holes_are_zeros_and_pieces_come_in_any_order() {
        let piece = READ_PIECE_BYTES as u64;
        let script = [
            hole_chunk(2, CHUNK_DONE, piece, READ_PIECE_BYTES as u32),
            data_chunk(1, CHUNK_DONE, 0, &vec![7; READ_PIECE_BYTES]),
        ];
        let (mut client, _directory) = connect(script.concat());
        let mut buffer = vec![1; 2 * READ_PIECE_BYTES];
        client.read(0, &mut buffer).unwrap();
        assert!(buffer[..READ_PIECE_BYTES].iter().all(|byte| *byte == 7));
        assert!(buffer[READ_PIECE_BYTES..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn refusals_leave_the_connection_whole() {
        let error = [&5u32.to_be_bytes()[..], &0u16.to_be_bytes()].concat();
        let script = [
            chunk(1, CHUNK_DONE, CHUNK_ERROR_BIT | 1, &error),
            simple(2, 28, &[]),
            simple(3, 0, &[]),
            simple(4, 0, b"fine"),
        ];
        let (mut client, _directory) = connect(script.concat());
        assert!(matches!(client.read(0, &mut [0; 4]), Err(NbdError::Refused(5))));
        assert!(matches!(client.write(0, b"x"), Err(NbdError::Refused(28))));
        client.flush().unwrap();
        let mut buffer = [0; 4];
        client.read(0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"fine");
        client.disconnect().unwrap();
    }

    #[test]
    fn a_server_that_lies_is_found_out() {
        let scripts = [
            // Too short, sent twice, outside the piece, to another request, unknown, and not a reply at all.
            data_chunk(1, CHUNK_DONE, 0, b"abcd"),
            [data_chunk(1, 0, 0, b"abcd"), data_chunk(1, CHUNK_DONE, 0, b"abcdefgh")].concat(),
            data_chunk(1, CHUNK_DONE, 4, b"abcdefgh"),
            data_chunk(9, CHUNK_DONE, 0, b"abcdefgh"),
            hole_chunk(1, CHUNK_DONE, 0, u32::MAX),
            chunk(1, CHUNK_DONE, 7, &[0; 16]),
            vec![0; 64],
        ];
        for script in scripts {
            let (mut client, _directory) = connect(script);
            assert!(matches!(client.read(0, &mut [0; 8]), Err(NbdError::Broken(_))));
        }
    }
}
