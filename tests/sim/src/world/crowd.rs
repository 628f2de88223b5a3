//! F6: requests are served in the order of their arrival, even if a host always has new ones.
//!
//! A request that waits in a queue waits about as long as the requests before it, and then takes the time of
//! its own operations. So the age of the oldest request in flight is compared with a multiple of the load's
//! mean wait, plus a long time for its own operations. A request that is overtaken for ever exceeds any such
//! bound.

use engine::request::RequestKind;

use super::World;

/// Longest wait of a request, in multiples of the mean wait of a write.
const TIMES_THE_MEAN: u64 = 12;
/// Longest time for a request's own operations, in multiples of the slowest operation's usual time. A request
/// takes some ten consecutive steps; one step in eight takes up to eight times as long, and waits for steps
/// of other requests.
const TIMES_AN_OPERATION: u64 = 200;

/// Waiting times of the writes of one load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    /// Sum of the waiting times, ns.
    pub total_ns: u64,
    /// Number of writes that were answered.
    pub answered: u64,
}

impl Waits {
    /// Adds one answered request.
    pub fn add(&mut self, kind: RequestKind, waited_ns: u64) {
        if matches!(kind, RequestKind::Write { .. }) {
            self.total_ns += waited_ns;
            self.answered += 1;
        }
    }

    /// The age that a request may reach, ns.
    fn age_max_ns(self, slowest_ns: u64) -> u64 {
        TIMES_THE_MEAN * self.total_ns / self.answered.max(1) + TIMES_AN_OPERATION * slowest_ns
    }
}

impl World {
    /// Makes random requests, always as many in flight as the host's depth allows, until `enough` returns
    /// true or `count` requests were made.
    pub fn crowd(&mut self, count: u64, mut enough: impl FnMut(&World) -> bool) {
        self.waits = Waits::default();
        let (mut left, mut idle) = (count, 0);
        while left > 0 && !self.is_off() && !enough(self) {
            while left > 0 && (self.outstanding() as u64) < self.host.habits.depth {
                self.submit_random();
                left -= 1;
            }
            for _ in 0..8 {
                self.step_watched(&mut idle);
            }
            self.check_ages();
        }
    }

    fn check_ages(&self) {
        let now = self.bus.borrow().now_ns;
        let age_max_ns = self.waits.age_max_ns(self.config.latency.slowest_ns());
        for asked in &self.asked {
            let age_ns = now - asked.asked_ns;
            // A discard of many stripes queues again for each batch of them.
            let steps = match asked.kind {
                RequestKind::Discard | RequestKind::WriteZeroes { .. } => {
                    (asked.count / self.stripe_sectors()).div_ceil(self.config.sizes.ops as u64).max(1)
                }
                RequestKind::Read | RequestKind::Write { .. } | RequestKind::Flush => 1,
            };
            assert!(
                age_ns <= steps * age_max_ns,
                "F6: {asked:?} waits since {age_ns} ns, {} others were answered meanwhile or before, and a write waits {} ns on average",
                self.waits.answered,
                self.waits.total_ns / self.waits.answered.max(1)
            );
        }
    }

    /// Sets habits with many requests in flight, to a few hot stripes or spread over the array.
    pub fn crowd_in(&mut self) {
        let habits = &mut self.host.habits;
        habits.depth = self.rng.between(12, 48);
        habits.reads = self.rng.pick(&[5, 20, 40]);
        habits.discards = habits.discards.min(2);
        habits.hot = self.rng.pick(&[0, 50, 90, 98]);
    }
}
