//! A session in a handshake: one thing at a time, over a wire whose reads and writes end in time.

use std::io::{self, ErrorKind, Read, Write};

use engine::server::Wire;
use rustls::ServerConnection;

/// A client, by the server's side of its session.
pub struct Client(pub ServerConnection);

impl Client {
    /// The handshake of TLS. When it fails, the client is told why by an alert, if it listens.
    pub fn shake_hands(&mut self, wire: &mut dyn Wire) -> io::Result<()> {
        while self.0.is_handshaking() {
            self.flush(wire)?;
            if self.0.is_handshaking() {
                self.hear(wire)?;
            }
        }
        self.flush(wire)
    }

    /// Reads what the client said; 0 at its end.
    pub fn read(&mut self, wire: &mut dyn Wire, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.hear(wire)?;
                    // An answer of TLS itself, to new keys of the client for example.
                    self.flush(wire)?;
                }
                read => return read,
            }
        }
    }

    pub fn write_all(&mut self, wire: &mut dyn Wire, bytes: &[u8]) -> io::Result<()> {
        self.0.writer().write_all(bytes)?;
        self.flush(wire)
    }

    fn hear(&mut self, wire: &mut dyn Wire) -> io::Result<()> {
        if self.0.read_tls(&mut Reading(wire))? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match self.0.process_new_packets() {
            Ok(_) => Ok(()),
            Err(error) => {
                let _heard_or_not = self.flush(wire);
                Err(io::Error::new(ErrorKind::InvalidData, error))
            }
        }
    }

    fn flush(&mut self, wire: &mut dyn Wire) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(&mut Writing(wire))?;
        }
        Ok(())
    }
}

/// A wire as a value, which the library asks for.
struct Reading<'a>(&'a mut dyn Wire);
struct Writing<'a>(&'a mut dyn Wire);

impl Read for Reading<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
