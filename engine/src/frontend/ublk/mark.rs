//! The mark by which a ublk device is matched to its array. The driver stores 64 bits for the server beside
//! each device (`ublksrv_flags`).
//!
//! Layout: `'S' (8 bits) | hash of the array's name (28) | hash of its identity (28)`. The first byte says
//! that the device is ours; the hashes are enough to recognize the array. So no file has to record which
//! device belongs to which array, and no such file can be stale after a reboot.

const MARK_SHIFT: u32 = 56;
const NAME_SHIFT: u32 = 28;
const HASH_MASK: u64 = (1 << NAME_SHIFT) - 1;

/// The mark of the array with this name and identity.
pub(super) fn mark(name: &str, identity: &str) -> u64 {
    let hash = |text: &str| u64::from(crc32c::crc32c(text.as_bytes())) & HASH_MASK;
    u64::from(b'S') << MARK_SHIFT | hash(name) << NAME_SHIFT | hash(identity)
}

/// Whether two marks belong to arrays of the same name.
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
