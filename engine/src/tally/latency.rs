//! Latencies, as a log-linear histogram with one writer.
//!
//! ```text
//!   bucket    0          1          2     ...     5          6     ...    104         105
//!   from ns   0       1024       1280          2048       2560                  68_719_476_736
//!             below 1 us | four buckets for each power of two, 2^10 to 2^36 ns | 68.7 s or more
//! ```
//!
//! A bucket covers a quarter of a power of two, and a percentile is reported as the last value of its bucket,
//! so it is at most a quarter above the exact latency. Finer buckets would cost no time but more cache;
//! HdrHistogram, which the benchmark uses, is not atomic.
//!
//! Orderings: each counter is written by its reactor alone and read by any thread, Relaxed. A reader may see
//! a latency in its bucket before or after it sees the corresponding maximum, so a percentile of a running
//! array is off by the operations of that moment, and no more.

use crate::status::LatencyNs;

use super::Count;

/// Smallest power of two with buckets of its own: 1.024 us. An NVMe drive answers in 10 us at best.
const FIRST_EXPONENT: u32 = 10;
/// Power of two from which on all latencies share one bucket: 68.7 s, twice the default member timeout.
const LAST_EXPONENT: u32 = 36;
/// Log2 of the buckets per power of two: four.
const SUB_BITS: u32 = 2;
/// Total number of buckets.
const BUCKETS: usize = (((LAST_EXPONENT - FIRST_EXPONENT) << SUB_BITS) + 2) as usize;
/// Subtracted from the place of a latency (exponent and the two bits below the leading one) so that the
/// latencies below the first power of two are in bucket 0: 1023 has exponent 9 and leading bits 7.
const BEFORE_FIRST: usize = ((FIRST_EXPONENT << SUB_BITS) + (1 << SUB_BITS) - 1) as usize;

/// Latencies of one kind of operation on one device, as one reactor measured them.
#[repr(C)] // in this order: see `Transfers`
pub struct Latencies {
    /// Longest latency, exact.
    max_ns: Count,
    /// Number of operations in each bucket.
    buckets: [Count; BUCKETS],
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { max_ns: Count::default(), buckets: std::array::from_fn(|_| Count::default()) }
    }
}

/// The bucket of a latency.
#[inline]
const fn bucket_of(ns: u64) -> usize {
    const LEAST: u64 = (1 << FIRST_EXPONENT) - 1;
    const MOST: u64 = 1 << LAST_EXPONENT;
    let ns = if ns < LEAST {
        LEAST
    } else if ns > MOST {
        MOST
    } else {
        ns
    };
    let exponent = ns.ilog2();
    // The leading bit and the two after it: 4 to 7.
    let leading = (ns >> (exponent - SUB_BITS)) as usize;
    ((exponent as usize) << SUB_BITS) + leading - BEFORE_FIRST
}

/// The largest latency of a bucket.
const fn last_of(bucket: usize) -> u64 {
    match bucket {
        0 => (1 << FIRST_EXPONENT) - 1,
        _ if bucket == BUCKETS - 1 => u64::MAX,
        _ => {
            let place = bucket - 1;
            let shift = FIRST_EXPONENT + (place >> SUB_BITS) as u32 - SUB_BITS;
            (((1 << SUB_BITS) + (place & ((1 << SUB_BITS) - 1)) as u64 + 1) << shift) - 1
        }
    }
}

impl Latencies {
    /// Counts an operation with this latency.
    #[inline]
    pub fn add(&self, ns: u64) {
        self.max_ns.raise(ns);
        self.buckets[bucket_of(ns)].add(1);
    }
}

/// Sum of the latencies of several reactors.
pub struct Sum {
    max_ns: u64,
    buckets: [u64; BUCKETS],
}

impl Sum {
    /// Adds up the latencies of all these reactors.
    pub fn of<'a>(all: impl Iterator<Item = &'a Latencies>) -> Sum {
        let mut sum = Sum { max_ns: 0, buckets: [0; BUCKETS] };
        for one in all {
            for (total, count) in sum.buckets.iter_mut().zip(&one.buckets) {
                *total += count.get();
            }
            sum.max_ns = sum.max_ns.max(one.max_ns.get());
        }
        sum
    }

    /// Number of operations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Percentiles; none if there was no operation.
    pub fn percentiles(&self) -> Option<LatencyNs> {
        let count = self.count();
        (count > 0).then(|| LatencyNs {
            p50: self.at_permille(count, 500),
            p90: self.at_permille(count, 900),
            p99: self.at_permille(count, 990),
            p999: self.at_permille(count, 999),
            max: self.max_ns,
        })
    }

    /// Latency that `permille` of 1000 operations did not exceed.
    fn at_permille(&self, count: u64, permille: u128) -> u64 {
        let rank = (u128::from(count) * permille).div_ceil(1000) as u64;
        let mut passed = 0;
        let bucket = self.buckets.iter().position(|here| {
            passed += here;
            passed >= rank
        });
        bucket.map_or(self.max_ns, last_of).min(self.max_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every latency is in the bucket whose last value is the first one not below it.
    #[test]
    fn buckets_follow_each_other() {
        let mut first = 0;
        for bucket in 0..BUCKETS {
            let last = last_of(bucket);
            assert_eq!((bucket_of(first), bucket_of(last)), (bucket, bucket), "from {first} to {last}");
            let is_narrow = last - first < first / 4;
            assert!(is_narrow || bucket == 0 || bucket == BUCKETS - 1, "{first} to {last}");
            first = last.wrapping_add(1);
        }
        assert_eq!((first, last_of(0), last_of(BUCKETS - 2)), (0, 1023, (1 << 36) - 1));
    }

    /// Compares with the exact percentiles of a sorted list.
    #[test]
    fn percentiles_are_at_most_a_quarter_above_the_true_ones() {
        for (count, step) in [(1u64, 5_000u64), (2, 1_500), (10, 80_000), (1_000, 997), (5_000, 31_337)] {
            let reactors = [Latencies::default(), Latencies::default()];
            let mut all: Vec<u64> = (1..=count).map(|nth| nth * step).collect();
            for (nth, ns) in all.iter().enumerate() {
                reactors[nth % 2].add(*ns);
            }
            all.sort_unstable();
            let sum = Sum::of(reactors.iter());
            let told = sum.percentiles().unwrap();
            assert_eq!((sum.count(), told.max), (count, count * step));
            let of_permille =
                [(500, told.p50), (900, told.p90), (990, told.p99), (999, told.p999), (1000, told.max)];
            for (permille, told) in of_permille {
                let exact = all[(count as usize * permille).div_ceil(1000) - 1];
                let most = (exact + exact / 4).max(1023);
                assert!(told >= exact && told <= most, "{permille} of {count}: {told}, exactly {exact}");
            }
        }
        assert!(Sum::of(std::iter::empty()).percentiles().is_none());
    }

    #[test]
    fn extremes_have_a_bucket() {
        let latencies = Latencies::default();
        [0, u64::MAX].into_iter().for_each(|ns| latencies.add(ns));
        let told = Sum::of(std::iter::once(&latencies)).percentiles().unwrap();
        assert_eq!((told.p50, told.p999, told.max), (1023, u64::MAX, u64::MAX));
    }
}
