//! A buffer of bytes in transit: filled when it is empty, then used from the front.

/// The size of a piece: four records of TLS.
pub const PIECE_BYTES: usize = 64 << 10;

/// A buffer, and the range of it that is still to be used.
pub struct Piece {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Piece {
    pub fn new() -> Piece {
        Piece { bytes: vec![0; PIECE_BYTES].into(), from: 0, to: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    pub fn left(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }

    pub fn take(&mut self, count: usize) {
        self.from += count;
        assert!(self.from <= self.to, "more is taken than there was");
    }

    /// Fills the buffer, which must be empty, with `fill`, and returns the result of `fill`.
    pub fn fill<E>(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<usize, E> {
        assert!(self.is_empty(), "what is left would be lost");
        let filled = fill(&mut self.bytes);
        (self.from, self.to) = (0, *filled.as_ref().unwrap_or(&0));
        filled
    }
}
