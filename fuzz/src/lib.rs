//! What a fuzzer, or `cargo test` on its corpus, does with bytes that nobody vouches for.
//!
//! Each target is a function of bytes. It panics when a rule is broken: a parser that panics itself, a structure that
//! was accepted and is not consistent, an array that changes its shape because one member says so, a decoded value that
//! does not survive its encoding. Checksums are repaired, or nothing would come past them.
//!
//! `superblock`, `bitmap_block` and `start` take *edits* of honest blocks (see `metadata`), `nbd` and `control` what a
//! client sends.

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

/// Takes bytes from the front; zeros when there are none left.
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
