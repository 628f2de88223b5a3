//! Instruction sets: one file for each, with `impl Vector` and a [`Table`] of the kernels compiled for it.
//!
//! Every file has the same two items, so that [`TABLES`] can list the tables in order of preference. A table
//! is static data. The dispatcher asks once, by `Table::runs_here`, whether this CPU can run it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use crate::field::Factor;
use crate::kernel::generate::Source;

/// Every kernel, compiled for one instruction set.
///
/// # Safety
/// A call of any of the function pointers requires that `runs_here()` was true on this CPU, that all strips
/// in the call are equally long, and that the indices of a source list ascend strictly.
#[expect(
    clippy::type_complexity,
    reason = "the argument lists are the content; each names its roles beside it"
)]
pub(crate) struct Table {
    /// The name that operators use: `avx2`, `avx512-gfni`, ...
    pub name: &'static str,
    /// Whether this CPU, under this operating system, can run the kernels.
    pub runs_here: fn() -> bool,
    /// Computes out = first ^ all of rest.
    pub xor_generate: unsafe fn(&mut [u8], &[u8], &[&[u8]]),
    /// Computes p and q of data.
    pub pq_generate: unsafe fn(&mut [u8], &mut [u8], &[Source]),
    /// Like xor_generate, but bypasses the caches if out is aligned to a vector and a whole number of
    /// vectors.
    pub xor_generate_streamed: unsafe fn(&mut [u8], &[u8], &[&[u8]]),
    /// Like pq_generate, but bypasses the caches if both p and q fulfil that condition and data is dense.
    pub pq_generate_streamed: unsafe fn(&mut [u8], &mut [u8], &[Source]),
    /// Computes q of data.
    pub q_generate: unsafe fn(&mut [u8], &[Source]),
    /// Computes p ^= old ^ new.
    pub xor_delta: unsafe fn(&mut [u8], &[u8], &[u8]),
    /// Computes p ^= old ^ new and q ^= factor * (old ^ new).
    pub pq_delta: unsafe fn(&mut [u8], &mut [u8], &Factor, &[u8], &[u8]),
    /// Computes q ^= factor * (old ^ new).
    pub q_delta: unsafe fn(&mut [u8], &Factor, &[u8], &[u8]),
    /// Computes out ^= factor * source.
    pub multiply_accumulate: unsafe fn(&mut [u8], &Factor, &[u8]),
    /// Computes out = scale * (q + Q sum of present).
    pub recover_one_with_q: unsafe fn(&mut [u8], &Factor, &[Source], &[u8]),
    /// Computes out_a and out_b from scale_p, scale_q, present, p and q.
    pub recover_two: unsafe fn(&mut [u8], &mut [u8], &Factor, &Factor, &[Source], &[u8], &[u8]),
}

/// All tables of this architecture, in order of expected speed: the fastest first, portable last.
#[cfg(target_arch = "x86_64")]
pub(crate) static TABLES: &[&Table] =
    &[&avx512::GFNI, &avx512::PLAIN, &avx2::GFNI, &avx2::PLAIN, &portable::PLAIN];

/// All tables of this architecture, in order of expected speed: the fastest first, portable last.
#[cfg(target_arch = "aarch64")]
pub(crate) static TABLES: &[&Table] = &[&neon::PLAIN, &portable::PLAIN];

/// All tables of this architecture: only portable.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) static TABLES: &[&Table] = &[&portable::PLAIN];

/// Defines a static [`Table`] of the kernels over `$vector`, each compiled with `$attribute`.
///
/// `$xor` and `$q` are the numbers of vectors in a wide block: `$xor` for plain XOR, which needs one register
/// per vector, and `$q` for P+Q, which needs two registers per vector and a few for constants.
macro_rules! table {
    ($table:ident, $name:literal, $vector:ty, $runs_here:expr, xor: $xor:literal, q: $q:literal
     $(, #[$attribute:meta])*) => {
        #[doc = concat!("The kernels named `", $name, "`.")]
        pub(crate) static $table: crate::arch::Table = {
            use crate::field::Factor;
            use crate::kernel::delta::{MultiplyAccumulate, QDelta, XorDelta};
            use crate::kernel::generate::{QGenerate, Source, XorGenerate, run_staged};
            use crate::kernel::recover::{RecoverOneWithQ, RecoverTwo};
            use crate::kernel::{Streamed, Whole, fits, run};
            use crate::vector::Vector;

            $(#[$attribute])*
            unsafe fn xor_generate(out: &mut [u8], first: &[u8], rest: &[&[u8]]) {
                let bytes = out.len();
                // SAFETY: here as in every wrapper below: the table's contract is that of `run`.
                unsafe { run::<$vector, $xor>(XorGenerate { out, first, rest }, bytes, Whole) }
            }

            $(#[$attribute])*
            unsafe fn pq_generate(p: &mut [u8], q: &mut [u8], data: &[Source]) {
                let bytes = q.len();
                if crate::kernel::generate::is_dense(data) {
                    // SAFETY: as above.
                    unsafe { run::<$vector, $q>(QGenerate::<true, true> { p, q, data }, bytes, Whole) }
                } else {
                    // SAFETY: as above.
                    unsafe { run::<$vector, $q>(QGenerate::<true, false> { p, q, data }, bytes, Whole) }
                }
            }

            $(#[$attribute])*
            unsafe fn xor_generate_streamed(out: &mut [u8], first: &[u8], rest: &[&[u8]]) {
                let bytes = out.len();
                if fits::<$vector>(out) {
                    // SAFETY: as above; and the output is aligned.
                    unsafe { run::<$vector, 4>(XorGenerate { out, first, rest }, bytes, Streamed) };
                    <$vector>::drain();
                } else {
                    // SAFETY: as above.
                    unsafe { run::<$vector, $xor>(XorGenerate { out, first, rest }, bytes, Whole) }
                }
            }

            $(#[$attribute])*
            unsafe fn pq_generate_streamed(p: &mut [u8], q: &mut [u8], data: &[Source]) {
                if fits::<$vector>(p) && fits::<$vector>(q) && crate::kernel::generate::is_dense(data) {
                    // SAFETY: as above; and the outputs are aligned and whole vectors.
                    unsafe { run_staged::<$vector, $q>(p, q, data) };
                    <$vector>::drain();
                } else {
                    // SAFETY: as above.
                    unsafe { pq_generate(p, q, data) }
                }
            }

            $(#[$attribute])*
            unsafe fn q_generate(q: &mut [u8], data: &[Source]) {
                let (p, bytes): (&mut [u8], usize) = (&mut [], q.len());
                if crate::kernel::generate::is_dense(data) {
                    // SAFETY: as above.
                    unsafe { run::<$vector, $q>(QGenerate::<false, true> { p, q, data }, bytes, Whole) }
                } else {
                    // SAFETY: as above.
                    unsafe { run::<$vector, $q>(QGenerate::<false, false> { p, q, data }, bytes, Whole) }
                }
            }

            $(#[$attribute])*
            unsafe fn xor_delta(p: &mut [u8], old: &[u8], new: &[u8]) {
                let bytes = p.len();
                // SAFETY: as above.
                unsafe { run::<$vector, 4>(XorDelta { p, old, new }, bytes, Whole) }
            }

            $(#[$attribute])*
            unsafe fn pq_delta(p: &mut [u8], q: &mut [u8], factor: &Factor, old: &[u8], new: &[u8]) {
                let bytes = q.len();
                // SAFETY: as above.
                unsafe { run::<$vector, 2>(QDelta::<true> { p, q, factor, old, new }, bytes, Whole) }
            }

            $(#[$attribute])*
            unsafe fn q_delta(q: &mut [u8], factor: &Factor, old: &[u8], new: &[u8]) {
                let bytes = q.len();
                // SAFETY: as above.
                unsafe { run::<$vector, 2>(QDelta::<false> { p: &mut [], q, factor, old, new }, bytes, Whole) }
            }

            $(#[$attribute])*
            unsafe fn multiply_accumulate(out: &mut [u8], factor: &Factor, source: &[u8]) {
                let bytes = out.len();
                // SAFETY: as above.
                unsafe { run::<$vector, 2>(MultiplyAccumulate { out, factor, source }, bytes, Whole) }
            }

            $(#[$attribute])*
            unsafe fn recover_one_with_q(out: &mut [u8], scale: &Factor, present: &[Source], q: &[u8]) {
                let bytes = out.len();
                // SAFETY: as above.
                unsafe { run::<$vector, $q>(RecoverOneWithQ { out, scale, present, q }, bytes, Whole) }
            }

            $(#[$attribute])*
            unsafe fn recover_two(
                out_a: &mut [u8],
                out_b: &mut [u8],
                scale_p: &Factor,
                scale_q: &Factor,
                present: &[Source],
                p: &[u8],
                q: &[u8],
            ) {
                let bytes = out_a.len();
                // SAFETY: as above.
                unsafe {
                    run::<$vector, 2>(
                        RecoverTwo { out_a, out_b, scale_p, scale_q, present, p, q },
                        bytes,
                        Whole,
                    )
                }
            }

            crate::arch::Table {
                name: $name,
                runs_here: $runs_here,
                xor_generate,
                pq_generate,
                xor_generate_streamed,
                pq_generate_streamed,
                q_generate,
                xor_delta,
                pq_delta,
                q_delta,
                multiply_accumulate,
                recover_one_with_q,
                recover_two,
            }
        };
    };
}
use table;
