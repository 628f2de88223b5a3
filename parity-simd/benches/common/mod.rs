//! Code that both benches need: stripes in memory, hot or cold, and ISA-L for comparison.

pub mod isal;

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

/// Bytes of the arena: more than any last-level cache that one core can fill.
const COLD_BYTES: usize = 512 << 20;

/// A stripe of the matrix: the number of strips and their length.
#[derive(Clone, Copy)]
pub struct Shape {
    pub data: usize,
    pub parity: usize,
    pub strip_bytes: usize,
}

impl Shape {
    /// All shapes: 4+1, 8+1, 4+2, 8+2 at 4 KiB and 64 KiB.
    pub fn all() -> impl Iterator<Item = Shape> {
        [(4, 1), (8, 1), (4, 2), (8, 2)].into_iter().flat_map(|(data, parity)| {
            [4 << 10, 64 << 10].into_iter().map(move |strip_bytes| Shape { data, parity, strip_bytes })
        })
    }

    pub fn strips(self) -> usize {
        self.data + self.parity
    }

    pub fn source_bytes(self) -> usize {
        self.data * self.strip_bytes
    }

    pub fn name(self) -> String {
        format!("{}+{} {:>2}K", self.data, self.parity, self.strip_bytes >> 10)
    }
}

/// The place of the strips when a call begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Temperature {
    /// In cache: every call uses the same stripe.
    Hot,
    /// In memory: each call uses another stripe, and the first comes again after `COLD_BYTES`.
    Cold,
}

impl Temperature {
    pub const ALL: [Temperature; 2] = [Temperature::Hot, Temperature::Cold];

    pub fn name(self) -> &'static str {
        match self {
            Temperature::Hot => "hot",
            Temperature::Cold => "cold",
        }
    }
}

/// The arena of all stripes, aligned like registered buffers on huge pages. Leaked: the process ends soon.
pub struct Arena {
    base: *mut u8,
}

impl Arena {
    pub fn new() -> Arena {
        let layout = Layout::from_size_align(COLD_BYTES, 2 << 20).expect("a valid layout");
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        // Advice only: without huge pages, half of a cold measurement is page walks.
        // SAFETY: the range is the allocation; the advice does not change what it holds.
        unsafe { libc::madvise(base.cast(), COLD_BYTES, libc::MADV_HUGEPAGE) };
        // SAFETY: `base` was just allocated with so many bytes, and nothing else points there.
        let bytes = unsafe { std::slice::from_raw_parts_mut(base, COLD_BYTES) };
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[5];
        }
        Arena { base }
    }

    /// Returns the stripes of one row of the matrix, to be taken one after another.
    pub fn stripes(&self, shape: Shape, temperature: Temperature) -> Stripes {
        let count = match temperature {
            Temperature::Hot => 1,
            Temperature::Cold => COLD_BYTES / (shape.strips() * shape.strip_bytes),
        };
        Stripes { base: self.base, shape, count, next: 0 }
    }
}

/// An endless walk over stripes, in an order that no prefetcher follows.
pub struct Stripes {
    base: *mut u8,
    shape: Shape,
    count: usize,
    next: usize,
}

impl Stripes {
    /// Returns the next stripe: the address of each of its strips, data first.
    #[inline]
    pub fn take(&mut self) -> [*mut u8; 16] {
        // The stride is prime, and larger than any prefetcher's reach.
        self.next = (self.next + 7919) % self.count;
        let stripe = self.next * self.shape.strips() * self.shape.strip_bytes;
        let mut strips = [std::ptr::null_mut(); 16];
        for (index, strip) in strips.iter_mut().enumerate().take(self.shape.strips()) {
            *strip = self.base.wrapping_add(stripe + index * self.shape.strip_bytes);
        }
        strips
    }
}

/// The two ways in which our kernels store parity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stores {
    /// Chosen by the size.
    Chosen,
    /// Streamed past the caches.
    Streamed,
}

/// Generates the parity of one stripe with our kernels.
#[inline]
pub fn generate(kernels: &parity_simd::Kernels, shape: Shape, strips: &[*mut u8; 16], stores: Stores) {
    let Shape { data, parity, strip_bytes } = shape;
    // SAFETY: `Stripes::take` gives distinct strips of `strip_bytes` within the arena, and only this call
    // uses them.
    let output = |index: usize| unsafe { std::slice::from_raw_parts_mut(strips[index], strip_bytes) };
    // SAFETY: as above; sources are not among the outputs.
    let source = |index: usize| unsafe { std::slice::from_raw_parts(strips[index], strip_bytes) };
    if parity == 1 {
        let mut sources: [&[u8]; 16] = [&[]; 16];
        for (index, slot) in sources[..data].iter_mut().enumerate() {
            *slot = source(index);
        }
        match stores {
            Stores::Chosen => kernels.xor_generate(output(data), &sources[..data]),
            Stores::Streamed => kernels.xor_generate_streamed(output(data), &sources[..data]),
        }
    } else {
        let mut sources: [(u8, &[u8]); 16] = [(0, &[]); 16];
        for (index, slot) in sources[..data].iter_mut().enumerate() {
            *slot = (index as u8, source(index));
        }
        let (p, q) = (output(data), output(data + 1));
        match stores {
            Stores::Chosen => kernels.pq_generate(p, q, &sources[..data]),
            Stores::Streamed => kernels.pq_generate_streamed(p, q, &sources[..data]),
        }
    }
}
