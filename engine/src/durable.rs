//! Durability of changes: the writes of bitmap blocks, and the flushes of members' caches.
//!
//! Both rooms take plain indices or blocks and do not know their callers. An operation that waits for a cell
//! polls the cell, which changes when the block's write is durable. Flushes have a list of waiters, and
//! [`FlushGate::next_over`] returns those that may continue.

mod blocks;
mod flush;
mod wanted;

pub(crate) use blocks::{BlockWrites, copies};
pub(crate) use flush::{FlushGate, FlushWaiter, Over};
