//! What makes changes durable: the writes of bitmap blocks, and the flushes of members' caches.
//!
//! Both are asked by index or block, and know nothing of who asks. An operation that waits for a cell polls the cell, which says when the
//! block's write has become durable. Flushes have waiters, and say which of them may go on ([`FlushGate::next_over`]).

mod blocks;
mod flush;
mod wanted;

pub(crate) use blocks::{BlockWrites, copies};
pub(crate) use flush::{FlushGate, FlushWaiter, Over};
