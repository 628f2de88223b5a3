//! What an operation on a stripe knows and decides: its state, its segments, and the arithmetic of its parity.

pub(crate) mod op;
pub(crate) mod parity;
pub(crate) mod shape;
pub(crate) mod vain;
