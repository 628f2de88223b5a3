//! Counters of each reactor, in cache lines that only this reactor writes and any thread may read.
//!
//! `tally/devices` has the counters of each member's device, and `tally/latency` the histograms in them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::status::Counters;

mod devices;
mod latency;

pub use devices::{DeviceTallies, DeviceTally, Operation};

/// A counter with one writer.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to the counter. There is only one writer, so a load and a store suffice, without a bus lock.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    /// Raises the counter to this value, if it is less.
    #[inline]
    fn raise(&self, value: u64) {
        if value > self.0.load(Ordering::Relaxed) {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    /// Current value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! tally {
    ($($name:ident),* $(,)?) => {
        /// The counters of one reactor; for their meaning see [`Counters`].
        #[derive(Default)]
        #[repr(align(128))]
        #[allow(missing_docs)]
        pub struct Tally {
            $(pub $name: Count,)*
            /// Stripes marked for a write. Not shown to operators: the sweep uses it to see whether there are
            /// new marks.
            pub marks: Count,
            /// Counters of the members' devices.
            pub devices: DeviceTallies,
        }

        impl Tally {
            /// The sum over all reactors.
            #[must_use]
            pub fn sum(tallies: &[Tally]) -> Counters {
                Counters { $($name: tallies.iter().map(|tally| tally.$name.get()).sum()),* }
            }
        }
    };
}

tally!(
    reads,
    writes,
    flushes,
    discards,
    read_bytes,
    write_bytes,
    member_reads,
    member_writes,
    intent_writes,
    rmw,
    rcw,
    full_stripe,
    merged,
    handed_over,
    reconstructed,
    errors,
);
