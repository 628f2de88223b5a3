//! What the cells cost on the write path.

fn main() {}
