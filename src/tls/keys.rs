//! The file of pre-shared keys: the users that may connect, and a key for each.
//!
//! The format is that of GnuTLS, which qemu, nbdkit and libnbd use too: lines `USER:KEY`, the key in
//! hexadecimal.
//!
//! ```text
//!   alice:1b4ce2a8f1f0d3b6ad8c6e2f1a0b9c8d7e6f5a4b3c2d1e0ff0e1d2c3b4a59687
//! ```
//!
//! | a line | is |
//! |---|---|
//! | empty | skipped |
//! | `#...` | refused (a) |
//! | with a key of less than [`KEY_BYTES_MIN`] | refused |
//! | with a key of zeros only | refused: a key that was never filled |
//! | with a user of an earlier line | refused: it is not clear which key is meant |
//!
//! (a) GnuTLS reads the rest of such a line as a name in hexadecimal, which no NBD client uses. The format
//! has no comments.
//!
//! Messages name the line and the user, never a key or text that might be one.

use std::path::Path;

use super::files::unusable;
use crate::failure::Result;

/// The shortest key: at least 128 bits (RFC 9257, section 6). qemu and nbdkit have no limit. An attacker who
/// has recorded one handshake could guess a short key offline.
pub const KEY_BYTES_MIN: usize = 16;

/// The longest key that `psktool` makes.
pub const KEY_BYTES_MAX: usize = 512;

/// The longest name that GnuTLS looks up (lib/auth/psk.h, MAX_USERNAME_SIZE).
pub const NAME_BYTES_MAX: usize = 128;

/// The most users of a file. The library compares a client's name with every user's, and each handshake
/// begins with a copy of all keys. Example: 256 users cost a handshake 0.3 ms.
pub const USERS_MAX: usize = 256;

/// A user that may connect.
#[derive(PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub key: Vec<u8>,
}

/// Parses the users of a file's text, at least one. `path` is for messages.
pub fn parse(path: &Path, text: &str) -> Result<Vec<User>> {
    let mut users: Vec<(usize, User)> = Vec::new();
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim_end().is_empty()) {
        let unusable = |why: String| unusable(path)(format!("line {line}: {why}"));
        let user = user(text.trim_end()).map_err(unusable)?;
        if let Some((earlier, _)) = users.iter().find(|(_, other)| other.name == user.name) {
            return Err(unusable(format!("user {} has a key in line {earlier} already", user.name)));
        }
        if users.len() == USERS_MAX {
            return Err(unusable(format!("there are more than {USERS_MAX} users")));
        }
        users.push((line, user));
    }
    if users.is_empty() {
        return Err(unusable(path)("it holds no key: a line of it is USER:KEY"));
    }
    Ok(users.into_iter().map(|(_, user)| user).collect())
}

/// Parses the user of a line, or says what is wrong with it.
fn user(line: &str) -> std::result::Result<User, String> {
    if line.starts_with('#') {
        return Err("it begins with #: comments and names in hexadecimal are not taken".into());
    }
    let Some((name, key)) = line.split_once(':') else {
        return Err("it is not USER:KEY".into());
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(format!(
            "the user's name has to have 1 to {NAME_BYTES_MAX} bytes, all of them printable"
        ));
    }
    let Some(key) = from_hex(key) else {
        return Err(format!("the key of user {name} is not hexadecimal, two digits a byte"));
    };
    if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()) {
        return Err(format!(
            "the key of user {name} has {} bytes; keys have {KEY_BYTES_MIN} to {KEY_BYTES_MAX}",
            key.len()
        ));
    }
    if key.iter().all(|&byte| byte == 0) {
        return Err(format!("the key of user {name} is all zeros"));
    }
    Ok(User { name: name.into(), key })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).map(|it| it as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0eFF";

    #[test]
    fn a_file_has_users() {
        let text = format!("alice:{KEY}\n\nbob smith:{}\r\nc:{KEY}", "ab".repeat(512));
        let users = parse(Path::new("keys.psk"), &text).unwrap();
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["alice", "bob smith", "c"]);
        assert_eq!(users[0].key, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(users[1].key, [0xab; 512]);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_explained() {
        let short = &KEY[2..];
        let many: String = (0..=USERS_MAX).map(|user| format!("u{user}:{KEY}\n")).collect();
        for (text, expected) in [
            ("", "cannot use /d/keys.psk: it holds no key"),
            ("\n \n", "it holds no key"),
            (&format!("a:{KEY}\n{KEY}"), "line 2: it is not USER:KEY"),
            (&format!("\n\n:{KEY}"), "line 3: the user's name has to have 1 to 128 bytes"),
            (&format!("a\x07:{KEY}"), "line 1: the user's name"),
            (&format!("{}:{KEY}", "a".repeat(129)), "line 1: the user's name"),
            (&format!("# all: of them\na:{KEY}"), "line 1: it begins with #"),
            (&format!("a:{KEY}0"), "line 1: the key of user a is not hexadecimal"),
            (&format!("a:{KEY}+1"), "the key of user a is not hexadecimal"),
            (&format!("a: {KEY}"), "the key of user a is not hexadecimal"),
            ("a:", "the key of user a has 0 bytes; keys have 16 to 512"),
            (&format!("a:{short}"), "the key of user a has 15 bytes"),
            (&format!("a:{}", "11".repeat(513)), "the key of user a has 513 bytes"),
            (&format!("a:{}", "00".repeat(32)), "the key of user a is all zeros"),
            (
                &format!("a:{KEY}\nb:{KEY}\na:{}", "22".repeat(16)),
                "line 3: user a has a key in line 1 already",
            ),
            (&many, "line 257: there are more than 256 users"),
        ] {
            let Err(failure) = parse(Path::new("/d/keys.psk"), text) else { panic!("{expected:?} is taken") };
            let line = failure.line();
            assert!(line.contains(expected), "{line}: {expected}");
            assert!(!line.contains(short) && !line.contains("1111"), "a key is told: {line}");
        }
    }
}
