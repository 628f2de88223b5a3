//! Time: the third of the three traits by which the world enters.

/// A monotonic clock.
pub trait Clock {
    /// Nanoseconds since some fixed moment; never goes back.
    fn now_ns(&self) -> u64;
}
