//! An aligned heap buffer for direct I/O in control steps.

/// Alignment for direct I/O, which needs addresses that are multiples of the logical block; a page is always
/// enough.
const ALIGN_BYTES: usize = 4096;

/// Zeroed bytes that begin on a page boundary.
pub(super) struct Bounce {
    storage: Vec<u8>,
    start: usize,
}

impl Bounce {
    pub(super) fn new(len: usize) -> Bounce {
        let storage = vec![0; len + ALIGN_BYTES];
        let start = storage.as_ptr().addr().wrapping_neg() % ALIGN_BYTES;
        Bounce { storage, start }
    }

    /// The first `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.storage[self.start..][..len]
    }
}
