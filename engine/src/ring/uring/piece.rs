//! A piece of an operation: the part that one submission queue entry carries, and its packing into the 64
//! bits that the kernel gives back.
//!
//! ```text
//!   63       48 47         32 31          16 15        0
//!   [  0 or 2  | len, sectors | start, sectors |   tag   ]     2: by passthrough
//!   [    1     |                  a lane's name           ]
//! ```

use crate::limits::{BUFFER_BYTES_MAX, IO_IN_FLIGHT_MAX};
use crate::ring::{MemberOp, SECTOR_BYTES};

const _: () = assert!(BUFFER_BYTES_MAX / SECTOR_BYTES <= u16::MAX as u32);
const _: () = assert!(IO_IN_FLIGHT_MAX - 1 <= u16::MAX as usize);

/// Flag in the `user_data` of a lane's commands.
pub(super) const LANE: u64 = 1 << 48;

/// Flag in the `user_data` of a piece that goes by passthrough.
const PASSTHROUGH: u64 = 2 << 48;

/// The way by which a piece reaches its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// An operation on the device's file or block device.
    File,
    /// The drive's own command.
    Passthrough,
}

/// A part of an operation's span; empty for operations without a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The tag of the operation.
    pub(super) tag: u16,
    /// First sector within the span.
    start: u16,
    /// Number of sectors.
    len: u16,
    /// The way that the piece takes.
    pub(super) way: Way,
}

impl Piece {
    /// Makes a piece of a whole operation.
    pub(super) fn whole(op: &MemberOp, way: Way) -> Piece {
        let len = u16::try_from(op.span.len_bytes / SECTOR_BYTES).expect("at most BUFFER_BYTES_MAX");
        Piece { tag: op.tag as u16, start: 0, len, way }
    }

    /// The beginning of the piece within the span.
    pub(super) fn start_bytes(self) -> u32 {
        u32::from(self.start) * SECTOR_BYTES
    }

    /// Length of the piece.
    pub(super) fn len_bytes(self) -> u32 {
        u32::from(self.len) * SECTOR_BYTES
    }

    /// Splits off the first `bytes_max` bytes (a multiple of the sector, not 0), and returns the rest if
    /// there is any.
    pub(super) fn cut(self, bytes_max: u32) -> (Piece, Option<Piece>) {
        match self.after(bytes_max) {
            Some(rest) => (Piece { len: self.len - rest.len, ..self }, Some(rest)),
            None => (self, None),
        }
    }

    /// Redirects the piece through the device's file.
    pub(super) fn by_file(self) -> Piece {
        Piece { way: Way::File, ..self }
    }

    /// The part that is left after `bytes` were transferred; a partly transferred sector is left over.
    pub(super) fn after(self, bytes: u32) -> Option<Piece> {
        let done = bytes / SECTOR_BYTES;
        (done < u32::from(self.len)).then(|| {
            let done = done as u16;
            Piece { start: self.start + done, len: self.len - done, ..self }
        })
    }

    pub(super) fn pack(self) -> u64 {
        let way = match self.way {
            Way::File => 0,
            Way::Passthrough => PASSTHROUGH,
        };
        u64::from(self.tag) | u64::from(self.start) << 16 | u64::from(self.len) << 32 | way
    }

    /// Unpacks a packed piece; `None` if the bits belong to a command of a lane.
    pub(super) fn unpack(packed: u64) -> Option<Piece> {
        let way = if packed & PASSTHROUGH == 0 { Way::File } else { Way::Passthrough };
        let piece =
            Piece { tag: packed as u16, start: (packed >> 16) as u16, len: (packed >> 32) as u16, way };
        (packed & LANE == 0).then_some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_lossless() {
        for (tag, start, len) in [(0, 0, 0), (8191, 2047, 1), (5, 0, 2048), (1, 65535, 65535)] {
            for way in [Way::File, Way::Passthrough] {
                let piece = Piece { tag, start, len, way };
                assert_eq!(Piece::unpack(piece.pack()), Some(piece));
            }
        }
    }

    #[test]
    fn cutting_loses_nothing() {
        let mut rest = Some(Piece { tag: 3, start: 0, len: 2048, way: Way::File });
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
        let piece = Piece { tag: 3, start: 8, len: 8, way: Way::Passthrough };
        assert_eq!(piece.after(513), Some(Piece { start: 9, len: 7, ..piece }));
        assert_eq!(piece.after(4095), Some(Piece { start: 15, len: 1, ..piece }));
        assert_eq!(piece.after(4096), None);
    }
}
