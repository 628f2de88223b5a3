//! The command line and daemon of Striate.
fn main() {}
