//! Whose a device is: what the driver keeps for a server beside each (`ublksrv_flags`).
//!
//! `'S' (8 bits) | hash of the array's name (28) | hash of its identity (28)`: a byte that says that it is ours, and enough of the
//! two to know the device again. So no file has to remember which device is whose, and none can be wrong after a reboot.

const MARK_SHIFT: u32 = 56;
const NAME_SHIFT: u32 = 28;
const HASH_MASK: u64 = (1 << NAME_SHIFT) - 1;

/// The mark of an array.
pub(super) fn mark(name: &str, identity: &str) -> u64 {
    let hash = |text: &str| u64::from(crc32c::crc32c(text.as_bytes())) & HASH_MASK;
    u64::from(b'S') << MARK_SHIFT | hash(name) << NAME_SHIFT | hash(identity)
}

/// Whether two marks are of arrays of one name.
pub(super) fn same_name(one: u64, other: u64) -> bool {
    one >> NAME_SHIFT == other >> NAME_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_tell_arrays_apart() {
        let media = mark("media", "3f0a");
        assert_eq!(media, mark("media", "3f0a"));
        assert_eq!(media >> MARK_SHIFT, u64::from(b'S'));
        assert_ne!(media, mark("media", "3f0b"));
        assert!(same_name(media, mark("media", "")) && !same_name(media, mark("medial", "3f0a")));
        assert!(!same_name(0, mark("media", "")));
    }
}
