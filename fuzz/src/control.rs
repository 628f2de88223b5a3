//! The control socket: bytes to lines to requests, by the product's own code.

use std::io::Read;

use crate::Bytes;
use message::{Answer, Lines, Request, encode};

/// The limit of a line, as in the product's `control`.
const LINE_BYTES_MAX: usize = 64 << 10;

#[path = "../../src/control/message.rs"]
#[allow(dead_code, reason = "the client's half is not called here")]
mod message;

/// A stream that returns its bytes in pieces of one length.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.len().min(self.1).min(buffer.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

/// A client of the control socket, and (with roles exchanged) a server. The input is the length of a piece,
/// then the bytes that are sent.
pub fn control(data: &[u8]) {
    let mut bytes = Bytes(data);
    let piece = usize::from(bytes.byte()) + 1;
    let mut stream = Pieces(bytes.0, piece);
    let mut lines = Lines::default();
    let mut taken = 0;
    while let Ok(Some(line)) = lines.next(&mut stream, |_| Ok(())) {
        taken += line.len() + 1;
        assert!(
            line.len() <= LINE_BYTES_MAX && !line.contains(&b'\n'),
            "a line is one line, and not too long"
        );
        if let Ok(request) = serde_json::from_slice::<Request>(&line) {
            let again = encode(&request);
            assert_eq!(
                again.iter().filter(|&&byte| byte == b'\n').count(),
                1,
                "an encoded request is one line"
            );
            let again: Request = serde_json::from_slice(&again).expect("what is encoded can be decoded");
            assert_eq!(again, request);
        }
        if let Ok(answer) = serde_json::from_slice::<Answer>(&line) {
            let again: Answer =
                serde_json::from_slice(&encode(&answer)).expect("what is encoded can be decoded");
            assert_eq!(encode(&again), encode(&answer));
        }
    }
    assert!(taken <= bytes.0.len(), "no line is made of more than was sent");
}
