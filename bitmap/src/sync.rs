//! The atomics: core's, or loom's or shuttle's when their models run (`--cfg loom`, `--cfg shuttle`). No
//! other file of the crate names them.

#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Does nothing outside of a model: the total order comes from the `SeqCst` accesses on both sides of the
/// call. On x86-64 and on `AArch64`, these cost no more instructions than acquire and release.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) fn total_order() {}

/// Fences in a loom model: loom treats a `SeqCst` access as an acquire-release one, and fully supports only
/// the fence. The fence between two accesses orders what the two `SeqCst` accesses order by themselves. (It
/// also acquires and releases, so a model does not notice a missing Acquire beside it.)
#[cfg(loom)]
pub(crate) fn total_order() {
    loom::sync::atomic::fence(Ordering::SeqCst);
}
