//! Memory for data: arenas that every reactor and every ring can address, and pools that hand out
//! pieces of them.
//!
//! (Stub; written by its own change.)

/// A piece of an arena: plain coordinates, no ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Which arena.
    pub arena: u16,
    /// First byte in it.
    pub offset_bytes: u32,
    /// Length.
    pub len_bytes: u32,
}

impl Span {
    /// No bytes.
    pub const EMPTY: Span = Span { arena: 0, offset_bytes: 0, len_bytes: 0 };

    /// The piece of `len_bytes` that begins `offset_bytes` into this one. Panics when it does not fit.
    #[must_use]
    pub fn part(self, offset_bytes: u32, len_bytes: u32) -> Span {
        assert!(offset_bytes as u64 + len_bytes as u64 <= self.len_bytes as u64);
        Span { arena: self.arena, offset_bytes: self.offset_bytes + offset_bytes, len_bytes }
    }
}

/// All arenas of a server.
pub struct Memory;

/// One owner's pieces of one arena.
pub struct Pool;
