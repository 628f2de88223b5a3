//! A session during the handshake: one step at a time, over a wire whose reads and writes have time limits.

use std::io::{self, ErrorKind};

use engine::server::Wire;

use super::channel::Channel;

/// A client, as the server's side of its session.
pub struct Client(pub Box<dyn Channel>);

impl Client {
    /// Does the TLS handshake. If it fails, an alert tells the client why, if the client still reads.
    pub fn shake_hands(&mut self, wire: &mut dyn Wire) -> io::Result<()> {
        while self.0.is_handshaking() {
            self.flush(wire)?;
            if self.0.is_handshaking() {
                self.hear(wire)?;
            }
        }
        self.flush(wire)
    }

    /// Reads bytes of the client; returns 0 at their end.
    pub fn read(&mut self, wire: &mut dyn Wire, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.open(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.hear(wire)?;
                    // TLS itself may have an answer to send, for example to new keys of the client.
                    self.flush(wire)?;
                }
                read => return read,
            }
        }
    }

    pub fn write_all(&mut self, wire: &mut dyn Wire, bytes: &[u8]) -> io::Result<()> {
        self.0.seal(bytes)?;
        self.flush(wire)
    }

    fn hear(&mut self, wire: &mut dyn Wire) -> io::Result<()> {
        match self.0.hear(wire) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) => {
                let _heard_or_not = self.flush(wire);
                Err(error)
            }
        }
    }

    fn flush(&mut self, wire: &mut dyn Wire) -> io::Result<()> {
        while self.0.has_sealed() {
            self.0.give(wire)?;
        }
        Ok(())
    }
}
