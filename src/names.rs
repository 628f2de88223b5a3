//! The name of an array: 1..=64 bytes of letters, digits, `.`, `_` and `-`, of which the first is no dot or
//! dash.
//!
//! The name becomes a file name in the run directory. Its characters are limited so that it cannot name a
//! file elsewhere (`..`, `/`), make a hidden file (a leading dot) or be taken for an option (a leading dash).

use std::fmt;
use std::str::FromStr;

/// The longest name, as in the superblock.
const NAME_BYTES_MAX: usize = 64;

/// A valid name of an array.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArrayName(String);

impl ArrayName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ArrayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ArrayName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(format!("a name is 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_` or `-`"));
        }
        if text.starts_with(['.', '-']) {
            return Err("a name begins with a letter, a digit or `_`".into());
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "media", "r6-fast_2.old", "0", "_x", &"n".repeat(64)] {
            assert!(good.parse::<ArrayName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "-f", ".hidden", "a b", "ä", "a\n", "a\0", &"n".repeat(65)]
        {
            assert!(bad.parse::<ArrayName>().is_err(), "{bad:?}");
        }
    }
}
