//! Room that requests of this reactor's host wait for: while an older request waits, newer ones queue behind
//! it. (Stripes have the same for operations and mailboxes: stripe/ownership.rs.)

/// See the top of this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Short {
    /// Parts: a request is not split to its end.
    pub(super) parts: bool,
    /// Reads of healthy strips: a request is not split to its end.
    pub(super) reads: bool,
}
