//! Random numbers for identities and epoch ids. Nothing below the server is random.

use uuid::Uuid;

/// Makes a new identity (UUID version 4).
pub(super) fn identity() -> Uuid {
    uuid::Builder::from_random_bytes(bytes()).into_uuid()
}

/// Returns a random number that is not zero.
pub(super) fn number() -> u64 {
    let bytes: [u8; 8] = bytes();
    u64::from_le_bytes(bytes).max(1)
}

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(got, Ok(N), "the kernel gives a few random bytes at once");
    bytes
}
