//! Names as they are on disk: up to 64 bytes of letters, digits, `.`, `_`, `-`.
//!
//! Names end up in paths, log lines and on terminals, so nothing else is accepted, from an operator or from a
//! disk.

use std::fmt;

/// Length limit of a label, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;

/// A name of an array or of a host. May be empty (the host of an array that belongs to none).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label {
    /// The text; zeros from `len` on.
    bytes: [u8; LABEL_BYTES_MAX],
    len: usize,
}

/// An invalid label: too long, or with a byte that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name is at most {LABEL_BYTES_MAX} letters, digits, '.', '_' or '-'")]
pub struct LabelError;

impl Label {
    /// The empty label.
    pub const EMPTY: Label = Label { bytes: [0; LABEL_BYTES_MAX], len: 0 };

    /// Makes a label from an operator's text.
    pub fn new(text: &str) -> Result<Label, LabelError> {
        let mut bytes = [0; LABEL_BYTES_MAX];
        bytes.get_mut(..text.len()).ok_or(LabelError)?.copy_from_slice(text.as_bytes());
        Label::from_padded(&bytes).filter(|label| label.len == text.len()).ok_or(LabelError)
    }

    /// Reads a label from its disk form: the text, then zeros to the end.
    pub(super) fn from_padded(bytes: &[u8; LABEL_BYTES_MAX]) -> Option<Label> {
        let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(LABEL_BYTES_MAX);
        let (text, padding) = bytes.split_at(len);
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        (text.iter().all(allowed) && padding.iter().all(|&byte| byte == 0))
            .then_some(Label { bytes: *bytes, len })
    }

    /// The disk form of the label.
    pub(super) fn as_padded(&self) -> &[u8; LABEL_BYTES_MAX] {
        &self.bytes
    }

    /// The text of the label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).expect("only ASCII is let in")
    }

    /// Whether the label is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Default for Label {
    fn default() -> Label {
        Label::EMPTY
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}
