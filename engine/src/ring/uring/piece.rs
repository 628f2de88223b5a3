//! A piece of an operation: what one submission queue entry carries, and its packing into the 64 bits
//! that the kernel gives back.
//!
//! ```text
//!   63       48 47         32 31          16 15        0
//!   [    0     | len, sectors | start, sectors |   tag   ]
//!   [    1     |                  a lane's name           ]
//! ```

use crate::limits::{BUFFER_BYTES_MAX, IO_IN_FLIGHT_MAX};
use crate::ring::{MemberOp, SECTOR_BYTES};

const _: () = assert!(BUFFER_BYTES_MAX / SECTOR_BYTES <= u16::MAX as u32);
const _: () = assert!(IO_IN_FLIGHT_MAX - 1 <= u16::MAX as usize);

/// Set in what a lane's commands carry.
pub(super) const LANE: u64 = 1 << 48;

/// Part of an operation's span; empty for operations without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Of which operation.
    pub(super) tag: u16,
    /// First sector within the span.
    start: u16,
    /// Sectors.
    len: u16,
}

impl Piece {
    /// All of an operation.
    pub(super) fn whole(op: &MemberOp) -> Piece {
        let len = op.span.len_bytes / SECTOR_BYTES;
        Piece { tag: op.tag as u16, start: 0, len: u16::try_from(len).expect("at most BUFFER_BYTES_MAX") }
    }

    /// Where it begins within the span.
    pub(super) fn start_bytes(self) -> u32 {
        u32::from(self.start) * SECTOR_BYTES
    }

    /// Its length.
    pub(super) fn len_bytes(self) -> u32 {
        u32::from(self.len) * SECTOR_BYTES
    }

    /// The first `bytes_max` (a multiple of the sector, not 0) of it, and the rest if there is any.
    pub(super) fn cut(self, bytes_max: u32) -> (Piece, Option<Piece>) {
        match self.after(bytes_max) {
            Some(rest) => (Piece { len: self.len - rest.len, ..self }, Some(rest)),
            None => (self, None),
        }
    }

    /// What is left after `bytes` of it; a sector that was transferred in part is left.
    pub(super) fn after(self, bytes: u32) -> Option<Piece> {
        let done = bytes / SECTOR_BYTES;
        (done < u32::from(self.len)).then(|| {
            let done = done as u16;
            Piece { start: self.start + done, len: self.len - done, ..self }
        })
    }

    pub(super) fn pack(self) -> u64 {
        u64::from(self.tag) | u64::from(self.start) << 16 | u64::from(self.len) << 32
    }

    /// What `pack` packed; `None` for what the kernel gives back to a lane.
    pub(super) fn unpack(packed: u64) -> Option<Piece> {
        let piece = Piece { tag: packed as u16, start: (packed >> 16) as u16, len: (packed >> 32) as u16 };
        (packed & LANE == 0).then_some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_lossless() {
        for (tag, start, len) in [(0, 0, 0), (8191, 2047, 1), (5, 0, 2048), (1, 65535, 65535)] {
            let piece = Piece { tag, start, len };
            assert_eq!(Piece::unpack(piece.pack()), Some(piece));
        }
    }

    #[test]
    fn cutting_loses_nothing() {
        let mut rest = Some(Piece { tag: 3, start: 0, len: 2048 });
        let (mut next, mut count) = (0, 0);
        while let Some(piece) = rest {
            let (first, after) = piece.cut(300 * SECTOR_BYTES);
            assert_eq!(first.start, next);
            next += first.len;
            count += 1;
            rest = after;
        }
        assert_eq!((next, count), (2048, 7));
    }

    #[test]
    fn a_torn_sector_is_transferred_again() {
        let piece = Piece { tag: 3, start: 8, len: 8 };
        assert_eq!(piece.after(513), Some(Piece { tag: 3, start: 9, len: 7 }));
        assert_eq!(piece.after(4095), Some(Piece { tag: 3, start: 15, len: 1 }));
        assert_eq!(piece.after(4096), None);
    }
}
