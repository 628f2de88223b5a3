//! Parity for RAID-5 and RAID-6: XOR and Reed-Solomon, with the vector unit that this CPU has.
//!
//! P is the XOR of the data strips. Q is the sum of g^i * D_i over GF(2^8) with polynomial 0x11d and g = 2,
//! where i is the data index. Both are bit for bit what Linux md and ISA-L write. Strips may have any
//! alignment and any length, the same for all strips of a call. A data strip that is not given counts as
//! zeros, so any subset of a stripe is a valid argument.
//!
//! # Encode a stripe, lose two strips, recover them
//!
//! ```
//! let (d0, d1, d2) = ([1; 64], [20; 64], [255; 64]);
//! let (mut p, mut q) = ([0; 64], [0; 64]);
//! parity_simd::pq_generate(&mut p, &mut q, &[(0, &d0), (1, &d1), (2, &d2)]);
//!
//! // The devices of strips 0 and 2 fail. What is left: strip 1, P and Q.
//! let (mut a, mut b) = ([0; 64], [0; 64]);
//! parity_simd::recover_two((&mut a, 0), (&mut b, 2), &[(1, &d1)], &p, &q);
//! assert_eq!((a, b), (d0, d2));
//! ```
//!
//! # What is lost, and what recovers it (D: a data strip)
//!
//! | lost | read | call |
//! |---|---|---|
//! | D | other data, P | [`recover_one_with_p`] |
//! | D, Q | other data, P | [`recover_one_with_p`], then [`q_generate`] |
//! | D, P | other data, Q | [`recover_one_with_q`], then [`xor_generate`] |
//! | D, D | other data, P, Q | [`recover_two`] |
//! | P | data | [`xor_generate`] |
//! | Q | data | [`q_generate`] |
//! | P, Q | data | [`pq_generate`] |
//!
//! # Files
//!
//! ```text
//!   lib.rs        free functions, which use the kernels chosen for this machine
//!   dispatch.rs   the choice: measured once at the first call, or selected by name
//!   kernels.rs    the same functions on one given set of kernels; checks the shapes
//!   arch/         for each instruction set: its vector type, and a table of compiled kernels
//!   kernel/       the kernels, each written once over the Vector trait
//!   vector.rs     that trait
//!   field.rs      GF(2^8), and its constants in the forms that kernels multiply by
//!   reference.rs  the definition, one byte at a time
//! ```
//!
//! # Panics
//!
//! Every function panics if the strips of one call differ in length, if a data index repeats or exceeds
//! [`INDEX_MAX`], or if a lost strip is also given as present. These are bugs of the caller; continuing would
//! destroy data.

mod arch;
mod dispatch;
mod field;
mod kernel;
mod kernels;
pub mod reference;
mod vector;

pub use dispatch::{SelectError, kernels, kernels_available, select};
pub use field::{INDEX_MAX, inverse, power, product};
pub use kernels::Kernels;

/// Sets `p` to the XOR of all strips of `data`; to zeros if there is none.
///
/// From 256 KiB of data on it stores as [`xor_generate_streamed`] does.
///
/// ```
/// let mut p = [0; 4];
/// parity_simd::xor_generate(&mut p, &[&[1, 2, 3, 4], &[1, 1, 1, 1]]);
/// assert_eq!(p, [0, 3, 2, 5]);
/// ```
#[inline]
pub fn xor_generate(p: &mut [u8], data: &[&[u8]]) {
    kernels().xor_generate(p, data);
}

/// Sets `p` and `q` to the parities of `data`, pairs of data index and strip, in one pass over the data.
///
/// Fastest when the indices are 0, 1, .. n-1 in order; distinct indices in any order are correct. From 256
/// KiB of data on it stores as [`pq_generate_streamed`] does.
///
/// ```
/// let (d0, d1) = ([7; 32], [9; 32]);
/// let (mut p, mut q) = ([0; 32], [0; 32]);
/// parity_simd::pq_generate(&mut p, &mut q, &[(0, &d0), (1, &d1)]);
/// assert_eq!(p, [7 ^ 9; 32]);
/// assert_eq!(q, [7 ^ parity_simd::product(2, 9); 32]);
/// ```
#[inline]
pub fn pq_generate(p: &mut [u8], q: &mut [u8], data: &[(u8, &[u8])]) {
    kernels().pq_generate(p, q, data);
}

/// [`xor_generate`] with stores that bypass the caches, whatever the length: for a `p` that is not in cache
/// and that a device reads next.
///
/// It saves reading cache lines only to overwrite them; if they were in cache it is slower. See
/// [`pq_generate_streamed`] for figures.
///
/// ```
/// let mut p = vec![0; 4096];
/// parity_simd::xor_generate_streamed(&mut p, &[&[0xf0; 4096], &[0x0f; 4096]]);
/// assert_eq!(p, vec![0xff; 4096]);
/// ```
#[inline]
pub fn xor_generate_streamed(p: &mut [u8], data: &[&[u8]]) {
    kernels().xor_generate_streamed(p, data);
}

/// [`pq_generate`] with stores that bypass the caches, whatever the length: for outputs that are not in cache
/// and that a device reads next.
///
/// An ordinary store to a line that is not in cache reads the line first: 4+2 then moves 8 strips where 6
/// would do. Streamed, 64 KiB strips out of cache are 14 to 28 percent faster, and 4 KiB strips in cache take
/// up to twice as long (benches/record/). For small stripes only the caller knows which case applies. Outputs
/// that are not whole vectors at their alignment, and data with gaps between the indices, are stored in the
/// ordinary way. The stores are ordered before every later store, as usual.
///
/// ```
/// let data = [(0, &[1; 4096][..]), (1, &[2; 4096])];
/// let (mut p, mut q, mut same_p, mut same_q) = (vec![0; 4096], vec![0; 4096], vec![0; 4096], vec![0; 4096]);
/// parity_simd::pq_generate_streamed(&mut p, &mut q, &data);
/// parity_simd::pq_generate(&mut same_p, &mut same_q, &data);
/// assert_eq!((p, q), (same_p, same_q));
/// ```
#[inline]
pub fn pq_generate_streamed(p: &mut [u8], q: &mut [u8], data: &[(u8, &[u8])]) {
    kernels().pq_generate_streamed(p, q, data);
}

/// Sets `q` to the Q of `data`: [`pq_generate`] without P.
///
/// ```
/// let mut q = [0; 3];
/// parity_simd::q_generate(&mut q, &[(1, &[1, 2, 128])]);
/// assert_eq!(q, [2, 4, 0x1d]); // twice each byte, modulo 0x11d
/// ```
#[inline]
pub fn q_generate(q: &mut [u8], data: &[(u8, &[u8])]) {
    kernels().q_generate(q, data);
}

/// Updates `p` for one data strip that changes from `old` to `new`: `p` ^= `old` ^ `new`.
///
/// ```
/// let mut p = [5 ^ 6; 16]; // the parity of two strips, 5 and 6
/// parity_simd::xor_delta(&mut p, &[6; 16], &[9; 16]);
/// assert_eq!(p, [5 ^ 9; 16]);
/// ```
#[inline]
pub fn xor_delta(p: &mut [u8], old: &[u8], new: &[u8]) {
    kernels().xor_delta(p, old, new);
}

/// Updates `p` and `q` for data strip `index`, which changes from `old` to `new`: `p` ^= `old` ^ `new`, and
/// `q` ^= g^`index` * (`old` ^ `new`).
///
/// ```
/// use parity_simd::{pq_delta, pq_generate};
/// let (d0, old, new) = ([5; 16], [6; 16], [9; 16]);
/// let (mut p, mut q, mut p_anew, mut q_anew) = ([0; 16], [0; 16], [0; 16], [0; 16]);
/// pq_generate(&mut p, &mut q, &[(0, &d0), (1, &old)]);
/// pq_delta(&mut p, &mut q, 1, &old, &new);
/// pq_generate(&mut p_anew, &mut q_anew, &[(0, &d0), (1, &new)]);
/// assert_eq!((p, q), (p_anew, q_anew));
/// ```
#[inline]
pub fn pq_delta(p: &mut [u8], q: &mut [u8], index: u8, old: &[u8], new: &[u8]) {
    kernels().pq_delta(p, q, index, old, new);
}

/// Updates `q` for data strip `index`, which changes from `old` to `new`: [`pq_delta`] without P.
///
/// ```
/// use parity_simd::{q_delta, q_generate};
/// let (d0, old, new) = ([5; 16], [6; 16], [9; 16]);
/// let (mut q, mut q_anew) = ([0; 16], [0; 16]);
/// q_generate(&mut q, &[(0, &d0), (3, &old)]);
/// q_delta(&mut q, 3, &old, &new);
/// q_generate(&mut q_anew, &[(0, &d0), (3, &new)]);
/// assert_eq!(q, q_anew);
/// ```
#[inline]
pub fn q_delta(q: &mut [u8], index: u8, old: &[u8], new: &[u8]) {
    kernels().q_delta(q, index, old, new);
}

/// Adds `factor` * `source` to `out`, byte by byte in GF(2^8).
///
/// ```
/// let mut out = [1; 8];
/// parity_simd::multiply_accumulate(&mut out, 3, &[7; 8]);
/// assert_eq!(out, [1 ^ parity_simd::product(3, 7); 8]);
/// ```
#[inline]
pub fn multiply_accumulate(out: &mut [u8], factor: u8, source: &[u8]) {
    kernels().multiply_accumulate(out, factor, source);
}

/// Recovers one lost data strip into `out` from all other data strips and `p`.
///
/// ```
/// let (d0, d1, p) = ([3; 16], [4; 16], [3 ^ 4 ^ 5; 16]);
/// let mut d2 = [0; 16];
/// parity_simd::recover_one_with_p(&mut d2, &[&d0, &d1], &p);
/// assert_eq!(d2, [5; 16]);
/// ```
#[inline]
pub fn recover_one_with_p(out: &mut [u8], present: &[&[u8]], p: &[u8]) {
    kernels().recover_one_with_p(out, present, p);
}

/// Recovers the lost data strip `index` into `out` from all other data strips and `q`: when P is lost too, or
/// must not be used.
///
/// ```
/// let (d0, d1) = ([3; 16], [4; 16]);
/// let (mut q, mut recovered) = ([0; 16], [0; 16]);
/// parity_simd::q_generate(&mut q, &[(0, &d0), (1, &d1)]);
/// parity_simd::recover_one_with_q(&mut recovered, 1, &[(0, &d0)], &q);
/// assert_eq!(recovered, d1);
/// ```
#[inline]
pub fn recover_one_with_q(out: &mut [u8], index: u8, present: &[(u8, &[u8])], q: &[u8]) {
    kernels().recover_one_with_q(out, index, present, q);
}

/// Recovers two lost data strips, each given as an output and its index, from all other data strips, `p` and
/// `q`.
///
/// ```
/// let (d0, d1, d2) = ([3; 16], [4; 16], [5; 16]);
/// let (mut p, mut q, mut a, mut b) = ([0; 16], [0; 16], [0; 16], [0; 16]);
/// parity_simd::pq_generate(&mut p, &mut q, &[(0, &d0), (1, &d1), (2, &d2)]);
/// parity_simd::recover_two((&mut a, 1), (&mut b, 2), &[(0, &d0)], &p, &q);
/// assert_eq!((a, b), (d1, d2));
/// ```
#[inline]
pub fn recover_two(a: (&mut [u8], u8), b: (&mut [u8], u8), present: &[(u8, &[u8])], p: &[u8], q: &[u8]) {
    kernels().recover_two(a, b, present, p, q);
}

/// The examples of README.md, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
