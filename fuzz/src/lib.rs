//! Functions that a fuzzer, or `cargo test` on its corpus, runs on untrusted bytes.
//!
//! Each target is a function of bytes. It panics when a rule is broken: a parser panics, an accepted
//! structure is not consistent, an array changes its shape because of a single member, or a decoded value
//! changes when it is encoded again. Checksums are repaired, or almost every input would be rejected by them.
//!
//! `superblock`, `bitmap_block` and `start` take *edits* of valid blocks (see `metadata`), `nbd` and
//! `control` the bytes that a client sends.

mod control;
mod metadata;
mod nbd;

pub use control::control;
pub use metadata::{bitmap_block, start, superblock};
pub use nbd::nbd;

/// Runs a target on the files that are named on the command line.
pub fn on_files(target: fn(&[u8])) {
    for path in std::env::args().skip(1) {
        println!("{path}");
        target(&std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}")));
    }
}

/// Takes bytes from the front; returns zeros when none are left.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
