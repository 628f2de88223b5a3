//! F6: requests are served in the order in which they come, also while a host has new ones all the time.
//!
//! A request that waits behind a queue waits about as long as those before it did, and then takes the time of its own operations. So
//! the oldest request in flight is held against some times the mean wait of the load so far, and a long time for its own
//! operations. A request that is overtaken for ever passes any such bound.

use engine::request::RequestKind;

use super::World;

/// A request may wait so many times as long as the mean write.
const TIMES_THE_MEAN: u64 = 12;
/// And it may take so many times as long as the slowest operation of a member does as a rule: some ten steps that follow
/// each other, of which one in eight takes eight times that, and waits for steps of other requests.
const TIMES_AN_OPERATION: u64 = 200;

/// How long writes waited during a load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    /// Together, ns.
    pub total_ns: u64,
    /// How many were answered.
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

    /// How old a request may become.
    fn age_max_ns(self, slowest_ns: u64) -> u64 {
        TIMES_THE_MEAN * self.total_ns / self.answered.max(1) + TIMES_AN_OPERATION * slowest_ns
    }
}

impl World {
    /// Requests at random, as many in flight as the host's depth allows at all times, until `enough` or so many are asked.
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
            // A discard of many stripes queues with each batch of them anew.
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

    /// Many requests at a time, at few stripes or all over.
    pub fn crowd_in(&mut self) {
        let habits = &mut self.host.habits;
        habits.depth = self.rng.between(12, 48);
        habits.reads = self.rng.pick(&[5, 20, 40]);
        habits.discards = habits.discards.min(2);
        habits.hot = self.rng.pick(&[0, 50, 90, 98]);
    }
}
