//! Many concurrent requests at an array that is short of every resource.
//!
//! A few operations, parts, reads and block writes must serve up to 48 requests in flight. The requests are
//! spread over several bitmap blocks, or go to a few stripes that are always in use. All members are slow, or
//! one kind of operation is. `world::crowd` says how old a request may become. Then a member is replaced
//! under the same load, and the slot must still be filled.

use bitmap::Cell;
use engine::array::Sizes;

use crate::config::Config;
use crate::latency::Latency;
use crate::rng::Rng;

use super::Story;

/// Makes the array short of every resource.
pub(super) fn short(rng: &mut Rng, config: &mut Config) {
    config.latency = match rng.below(3) {
        0 => Latency::even(rng.pick(&[20_000, 100_000, 1_000_000])),
        _ => Latency::slowed(rng, config.shape.members),
    };
    config.sizes = Sizes {
        requests: 64,
        parts: rng.pick(&[8, 16, 64]),
        ops: rng.pick(&[2, 3, 6, 16]),
        host_reads: config.shape.members + rng.below(8) as usize,
        block_writes: rng.between(1, 2) as usize,
    };
    if rng.chance(50) {
        // Several bitmap blocks; each must be written before a first write in it is acknowledged.
        (config.initial, config.shape.chunk_bytes) = (Cell::Unwritten, 4096);
        config.stripes = 16_128 * rng.between(2, 3);
    } else {
        config.stripes = config.stripes.min(24);
        config.shape.chunk_bytes = rng.pick(&[4096, 16384, 65536]);
    }
}

impl Story {
    pub(super) fn crowd(&mut self) {
        self.world.crowd_in();
        // No worlds branch off: this scenario is about requests that continue to be served.
        self.world.bus.borrow_mut().probes.left = 0;
        let count = self.requests(300, 1000);
        self.world.crowd(count, |_| false);
        self.world.drain();
        if self.world.geometry.stripes() <= 24 && self.world.spare() > 0 {
            self.world.settle();
            self.die_or_be_failed();
            self.world.drain();
            self.heal();
            self.replace();
            self.fill_in_a_crowd();
        }
        self.heal();
        self.verify();
    }

    /// Checks that the slot is filled although some stripes are always in use.
    fn fill_in_a_crowd(&mut self) {
        let is_filling = |world: &crate::world::World| {
            !world.is_off()
                && !world.running().failed()
                && !world.running().members.view().rebuilding().is_empty()
        };
        if !is_filling(&self.world) || self.world.running().bitmap.next_need_sync(0).is_some() {
            return;
        }
        let stripes = self.world.geometry.stripes();
        // A rebuild has at least 4 jobs in flight, and each waits as long as a request may.
        let patience_ns = 2_000_000_000 + stripes * 200 * self.world.config.latency.slowest_ns();
        let until_ns = self.world.bus.borrow().now_ns + patience_ns;
        while is_filling(&self.world) && self.world.bus.borrow().now_ns < until_ns {
            let passed = self.world.running().members.cursor() == stripes;
            if passed {
                break;
            }
            self.world.crowd(400, |world| !is_filling(world) || world.running().members.cursor() == stripes);
        }
        let cursor = self.world.running().members.cursor();
        assert!(
            !is_filling(&self.world) || cursor == stripes,
            "F6: the rebuild stands at stripe {cursor} of {stripes} while others are written"
        );
        self.world.drain();
    }
}
