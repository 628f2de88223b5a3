//! ISA-L's xor_gen and pq_gen, loaded at run time, so that none of our code needs the library to build.
//!
//! `STRIATE_ISAL` names the shared object; without it the system's libisal.so.2 is tried (Debian: libisal2).
//! Both functions choose the best code for the CPU themselves. Both require strips aligned to 32 bytes and
//! lengths that are multiples of 32, with sources first in the array, then P, then Q.

use std::ffi::{c_int, c_void};

use libloading::{Library, Symbol};

use super::Shape;

type Generate = unsafe extern "C" fn(vects: c_int, len: c_int, array: *mut *mut c_void) -> c_int;

/// The library; it stays loaded until the process ends.
#[derive(Clone, Copy)]
pub struct Isal {
    xor_gen: Generate,
    pq_gen: Generate,
}

impl Isal {
    /// Loads the library, or returns the reason why it cannot be loaded.
    pub fn load() -> Result<Isal, String> {
        let path = std::env::var("STRIATE_ISAL").unwrap_or_else(|_| "libisal.so.2".to_owned());
        // SAFETY: the library has no initialisers that touch anything of ours.
        let library = unsafe { Library::new(&path) }.map_err(|error| format!("{path}: {error}"))?;
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: isa-l/raid.h declares int xor_gen(int vects, int len, void **array).
        let xor_gen: Symbol<Generate> =
            unsafe { library.get(b"xor_gen") }.map_err(|error| error.to_string())?;
        // SAFETY: and pq_gen with the same type.
        let pq_gen: Symbol<Generate> =
            unsafe { library.get(b"pq_gen") }.map_err(|error| error.to_string())?;
        Ok(Isal { xor_gen: *xor_gen, pq_gen: *pq_gen })
    }

    /// Loads the library like `load`; if it is missing, says on standard error how to get it.
    pub fn load_or_say() -> Option<Isal> {
        match Isal::load() {
            Ok(isal) => Some(isal),
            Err(reason) => {
                eprintln!("ISA-L IS ABSENT, nothing is compared with it ({reason}).");
                eprintln!("Install libisal2, or set STRIATE_ISAL to a libisal.so.2.");
                None
            }
        }
    }

    /// Generates the parity of one stripe.
    #[inline]
    pub fn generate(self, shape: Shape, strips: &[*mut u8; 16]) {
        let function = if shape.parity == 1 { self.xor_gen } else { self.pq_gen };
        let mut array = strips.map(|strip| strip.cast::<c_void>());
        // SAFETY: `strips` are distinct, page-aligned and `strip_bytes` long; the array outlives the call.
        let result =
            unsafe { function(shape.strips() as c_int, shape.strip_bytes as c_int, array.as_mut_ptr()) };
        assert_eq!(result, 0, "ISA-L refused the arguments");
    }
}
