//! Parity for RAID-5 and RAID-6, in every vector unit worth having.
//!
//! P is the XOR of the data strips; Q is the sum of g^i * D_i over GF(2^8) with polynomial 0x11d and g = 2, where i
//! is the data index: bit for bit what Linux md and ISA-L write. Strips may have any length, the same for all in a
//! call, and any alignment. A data strip that is not given counts as zeros, so a subset of a stripe is as good an
//! argument as the whole of it.
//!
//! What is lost, and the call that brings it back (D: a data strip):
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
//! The rooms, from the outside in:
//!
//! ```text
//!   lib.rs        free functions, on the kernels chosen for this machine
//!   dispatch.rs   which those are: measured once at the first call, or selected by name
//!   kernels.rs    the same functions on one given set of kernels; checks shapes
//!   arch/         for each instruction set: its vector type, and a table of compiled kernels
//!   kernel/       the kernels, each written once over the Vector trait
//!   vector.rs     that trait
//!   field.rs      GF(2^8), constants to multiply by
//!   reference.rs  the definition, a byte at a time
//! ```
//!
//! Every function panics when strips of one call differ in length, when a data index repeats or exceeds
//! [`INDEX_MAX`], and when a lost strip is given as present: these are bugs of the caller, and computing on would
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

/// `p` = XOR of all of `data`. No data, no bits: `p` is zeros.
///
/// From 256 KiB of data on it does what [`xor_generate_streamed`] does.
#[inline]
pub fn xor_generate(p: &mut [u8], data: &[&[u8]]) {
    kernels().xor_generate(p, data);
}

/// `p` and `q` of `data`: pairs of data index and strip. One pass over the data for both.
///
/// Fastest when the indices are 0, 1, .. n-1 in order; any distinct ones in any order are right. From 256 KiB of data
/// on it does what [`pq_generate_streamed`] does.
#[inline]
pub fn pq_generate(p: &mut [u8], q: &mut [u8], data: &[(u8, &[u8])]) {
    kernels().pq_generate(p, q, data);
}

/// As [`xor_generate`], storing `p` past the caches whatever its size: for a `p` that is not in cache and that a
/// device reads next.
///
/// It saves fetching lines only to overwrite them, and pays for it if they were in cache. See
/// [`pq_generate_streamed`].
#[inline]
pub fn xor_generate_streamed(p: &mut [u8], data: &[&[u8]]) {
    kernels().xor_generate_streamed(p, data);
}

/// As [`pq_generate`], storing `p` and `q` past the caches whatever their size: for outputs that are not in cache and
/// that a device reads next.
///
/// An ordinary store to a line that is not in cache reads it first: 4+2 moves 8 strips where 6 would do. Streamed,
/// cold 64 KiB strips gain 14 to 28 percent, and hot 4 KiB ones take up to twice as long (benches/record/); so of small
/// stripes the caller, who knows where the buffers have been, has to say. Outputs that are not whole vectors at their
/// alignment, and sets with gaps, are stored in the ordinary way. The stores are ordered before every later one, as usual.
#[inline]
pub fn pq_generate_streamed(p: &mut [u8], q: &mut [u8], data: &[(u8, &[u8])]) {
    kernels().pq_generate_streamed(p, q, data);
}

/// `q` of `data`, as [`pq_generate`] without P.
#[inline]
pub fn q_generate(q: &mut [u8], data: &[(u8, &[u8])]) {
    kernels().q_generate(q, data);
}

/// `p` ^= `old` ^ `new`: what changing one data strip from `old` to `new` does to P.
#[inline]
pub fn xor_delta(p: &mut [u8], old: &[u8], new: &[u8]) {
    kernels().xor_delta(p, old, new);
}

/// `p` ^= `old` ^ `new` and `q` ^= g^`index` * (`old` ^ `new`): what changing data strip `index` does to P and Q.
#[inline]
pub fn pq_delta(p: &mut [u8], q: &mut [u8], index: u8, old: &[u8], new: &[u8]) {
    kernels().pq_delta(p, q, index, old, new);
}

/// `q` ^= g^`index` * (`old` ^ `new`), as [`pq_delta`] without P.
#[inline]
pub fn q_delta(q: &mut [u8], index: u8, old: &[u8], new: &[u8]) {
    kernels().q_delta(q, index, old, new);
}

/// `out` ^= `factor` * `source`.
#[inline]
pub fn multiply_accumulate(out: &mut [u8], factor: u8, source: &[u8]) {
    kernels().multiply_accumulate(out, factor, source);
}

/// The one lost data strip, from all other data strips and `p`.
#[inline]
pub fn recover_one_with_p(out: &mut [u8], present: &[&[u8]], p: &[u8]) {
    kernels().recover_one_with_p(out, present, p);
}

/// The lost data strip `index`, from all other data strips and `q`: P is lost too, or is to be left alone.
#[inline]
pub fn recover_one_with_q(out: &mut [u8], index: u8, present: &[(u8, &[u8])], q: &[u8]) {
    kernels().recover_one_with_q(out, index, present, q);
}

/// Two lost data strips, each an output with its index, from all other data strips, `p` and `q`.
#[inline]
pub fn recover_two(a: (&mut [u8], u8), b: (&mut [u8], u8), present: &[(u8, &[u8])], p: &[u8], q: &[u8]) {
    kernels().recover_two(a, b, present, p, q);
}
