//! The kernels, each written once over a [`Vector`].
//!
//! A kernel is a value that holds its strips and can compute `N` vectors at an offset; [`run`] walks it over
//! the strips:
//!
//! ```text
//!   0                                                    bytes
//!   |  WIDE vectors  |  WIDE vectors  | .. | 1 | 1 | 1 | part |
//!     wide blocks, all sources per block     singles     tail
//! ```
//!
//! Within a block every source is read once and every output is written once. So each strip passes through
//! the caches once, whatever the number of sources, and P and Q come out of the same loads. The tail, shorter
//! than a vector, goes through a zero-padded buffer; strips of whole sectors have no tail.
//!
//! Invariants:
//! - A kernel touches exactly the bytes `0..bytes` of each strip; the strips of one kernel are equally long.
//! - No byte of an output is read after it was written: blocks do not overlap, so accumulating kernels are
//!   correct.
//! - Everything is `#[inline(always)]` down to the intrinsics, because the compiler may use the instructions
//!   only inside the `#[target_feature]` wrapper of arch/. Closures are avoided for the same reason.
#![expect(unsafe_code, reason = "vector loads and stores on raw pointers, bounds argued by `run`")]

pub(crate) mod delta;
pub(crate) mod generate;
pub(crate) mod recover;

use crate::vector::{BYTES_MAX, Vector};

/// A computation over equally long strips.
pub(crate) trait Kernel {
    /// Computes `N` vectors at byte `at` of every strip.
    ///
    /// # Safety
    /// The CPU must have V's instruction set, and `at + N * V::BYTES` must be within every strip. For a
    /// [`Part`] of `bytes`, instead, `N` must be 1 and `at + bytes` within every strip.
    unsafe fn block<V: Vector, const N: usize, T: Transfer>(&mut self, at: usize, transfer: T);
}

/// Walks `kernel` over strips of `bytes` bytes, in wide blocks of `N` vectors moved as `transfer` does.
///
/// # Safety
/// The CPU must have V's instruction set, and every strip of the kernel must be `bytes` long. For
/// [`Streamed`], the kernel's outputs must be aligned to V::BYTES.
#[inline(always)]
pub(crate) unsafe fn run<V: Vector, const N: usize>(
    mut kernel: impl Kernel,
    bytes: usize,
    transfer: impl Transfer,
) {
    // SAFETY: the caller's promises.
    let at = unsafe { walk::<V, N>(&mut kernel, 0, bytes, transfer) };
    if at < bytes {
        // SAFETY: as above, for the `bytes - at` < V::BYTES that are left.
        unsafe { kernel.block::<V, 1, Part>(at, Part { bytes: bytes - at }) };
    }
}

/// Walks over the whole vectors of `from..to`, and returns where they end.
///
/// # Safety
/// The requirements are those of [`run`], for strips that reach to `to`, and for outputs as `transfer` stores
/// them.
#[inline(always)]
unsafe fn walk<V: Vector, const N: usize>(
    kernel: &mut impl Kernel,
    from: usize,
    to: usize,
    transfer: impl Transfer,
) -> usize {
    let wide = N * V::BYTES;
    let mut at = from;
    while to - at >= wide {
        // SAFETY: the CPU is the caller's promise; `wide` bytes are left at `at` in strips that reach to
        // `to`.
        unsafe { kernel.block::<V, N, _>(at, transfer) };
        at += wide;
    }
    while to - at >= V::BYTES {
        // SAFETY: as above, for one vector.
        unsafe { kernel.block::<V, 1, _>(at, transfer) };
        at += V::BYTES;
    }
    at
}

/// Whether `out` can be stored past the caches: it must consist of whole vectors, aligned to a vector.
pub(crate) fn fits<V: Vector>(out: &[u8]) -> bool {
    out.as_ptr().addr().is_multiple_of(V::BYTES) && out.len().is_multiple_of(V::BYTES)
}

/// The way in which a block moves between strips and registers.
pub(crate) trait Transfer: Copy {
    /// Loads a vector from byte `at` of `strip`.
    ///
    /// # Safety
    /// The CPU has V's instruction set; the bytes that this transfer moves are within `strip`.
    unsafe fn load<V: Vector>(self, strip: &[u8], at: usize) -> V;

    /// Stores a vector to byte `at` of `strip`.
    ///
    /// # Safety
    /// As for `load`.
    unsafe fn store<V: Vector>(self, vector: V, strip: &mut [u8], at: usize);
}

/// Transfers of whole vectors.
#[derive(Clone, Copy)]
pub(crate) struct Whole;

impl Transfer for Whole {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, strip: &[u8], at: usize) -> V {
        debug_assert!(at + V::BYTES <= strip.len());
        // SAFETY: the caller's promises: the CPU, and V::BYTES at `at` within the strip.
        unsafe { V::load(strip.as_ptr().wrapping_add(at)) }
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(self, vector: V, strip: &mut [u8], at: usize) {
        debug_assert!(at + V::BYTES <= strip.len());
        // SAFETY: V::BYTES at `at` are within the strip, which we hold exclusively.
        unsafe { vector.store(strip.as_mut_ptr().wrapping_add(at)) }
    }
}

/// Transfers of whole vectors, stored past the caches: the output's lines are neither fetched nor kept.
#[derive(Clone, Copy)]
pub(crate) struct Streamed;

impl Transfer for Streamed {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, strip: &[u8], at: usize) -> V {
        // SAFETY: the same promises.
        unsafe { Whole.load(strip, at) }
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(self, vector: V, strip: &mut [u8], at: usize) {
        debug_assert!(at + V::BYTES <= strip.len());
        let to = strip.as_mut_ptr().wrapping_add(at);
        debug_assert!(to.addr().is_multiple_of(V::BYTES));
        // SAFETY: V::BYTES at `at` are within the strip, which we hold exclusively; `run` demands the
        // alignment of the strip, and `at` is a multiple of V::BYTES.
        unsafe { vector.stream(to) }
    }
}

/// Transfers of whole vectors, stored to a stage: byte `base` of a strip is byte 0 of the output.
#[derive(Clone, Copy)]
pub(crate) struct Staged {
    pub base: usize,
}

impl Transfer for Staged {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, strip: &[u8], at: usize) -> V {
        // SAFETY: the same promises.
        unsafe { Whole.load(strip, at) }
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(self, vector: V, stage: &mut [u8], at: usize) {
        // SAFETY: the same promises, of a stage that begins at `base`.
        unsafe { Whole.store(vector, stage, at - self.base) }
    }
}

/// Transfers of the first `bytes` of a vector, fewer than all; the rest is zeros and is not stored.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Number of bytes to move, 1..V::BYTES.
    pub bytes: usize,
}

impl Transfer for Part {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, strip: &[u8], at: usize) -> V {
        let mut padded = [0; BYTES_MAX];
        padded[..self.bytes].copy_from_slice(&strip[at..at + self.bytes]);
        // SAFETY: the CPU is the caller's promise; the buffer holds the widest vector there is.
        unsafe { V::load(padded.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(self, vector: V, strip: &mut [u8], at: usize) {
        let mut padded = [0; BYTES_MAX];
        // SAFETY: the buffer holds the widest vector there is.
        unsafe { vector.store(padded.as_mut_ptr()) };
        strip[at..at + self.bytes].copy_from_slice(&padded[..self.bytes]);
    }
}

/// Loads `N` vectors from byte `at` of `strip`.
///
/// # Safety
/// As for [`Kernel::block`].
#[inline(always)]
unsafe fn load<V: Vector, const N: usize>(transfer: impl Transfer, strip: &[u8], at: usize) -> [V; N] {
    // SAFETY: the caller's promise: the CPU.
    let mut vectors = [unsafe { V::zero() }; N];
    let mut lane = 0;
    while lane < N {
        // SAFETY: the caller's promise: N vectors at `at` are within the strip.
        vectors[lane] = unsafe { transfer.load(strip, at + lane * V::BYTES) };
        lane += 1;
    }
    vectors
}

/// Stores `N` vectors to byte `at` of `strip`.
///
/// # Safety
/// As for [`Kernel::block`].
#[inline(always)]
unsafe fn store<V: Vector, const N: usize>(
    transfer: impl Transfer,
    vectors: [V; N],
    strip: &mut [u8],
    at: usize,
) {
    let mut lane = 0;
    while lane < N {
        // SAFETY: the caller's promise: N vectors at `at` are within the strip.
        unsafe { transfer.store(vectors[lane], strip, at + lane * V::BYTES) };
        lane += 1;
    }
}
