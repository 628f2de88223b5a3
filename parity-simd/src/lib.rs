//! XOR and GF(2^8) parity kernels.
