//! The atomics: core's, or loom's or shuttle's when their models run (`--cfg loom`, `--cfg shuttle`). Nothing else in
//! the crate names any.

#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Nothing, outside of a model: the total order comes from the `SeqCst` accesses on both sides of the
/// call, which on x86-64 costs no instruction more than acquire and release, on `AArch64` none either.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) fn total_order() {}

/// In a model a fence: loom takes a `SeqCst` access for an acquire-release one and supports only the fence
/// fully. The fence between two accesses orders what the two `SeqCst` accesses order by themselves. (It also acquires and releases, so a model does not miss
/// an Acquire beside it.)
#[cfg(loom)]
pub(crate) fn total_order() {
    loom::sync::atomic::fence(Ordering::SeqCst);
}
