//! What this reactor's requests are short of: while an older request waits for room, newer ones wait behind
//! it. (Stripes have the same for operations and mailboxes: stripe/ownership.rs.)

/// See the top of this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Short {
    /// Parts: a request is not split to its end.
    pub(super) parts: bool,
    /// Reads of healthy strips: a request is not split to its end.
    pub(super) reads: bool,
}
