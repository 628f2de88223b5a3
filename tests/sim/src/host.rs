//! The simulated host: the next request to make, and the requests in flight.

use engine::memory::Span;
use engine::request::RequestKind;

use crate::disk::SECTOR;
use crate::rng::{Rng, mix};

/// Percentage of the discards of whole stripes that cover as many stripes as the engine discards in one
/// batch, or all stripes that there are.
const LONG_DISCARDS_PERCENT: u64 = 25;
/// Sectors of a long discard: about 100 stripes of five members, if a chunk is 4 KiB.
const LONG_DISCARD_SECTORS: u64 = 3_200;

/// How a host behaves, chosen once per run.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Most requests in flight.
    pub depth: u64,
    /// Percentage of requests that are reads. What reads, flushes, discards and write-zeroes leave of 100 is
    /// writes.
    pub reads: u64,
    /// Percentage of requests that are flushes.
    pub flushes: u64,
    /// Percentage of requests that are discards.
    pub discards: u64,
    /// Percentage of requests that are write-zeroes.
    pub zeroes: u64,
    /// Percentage of writes that have FUA.
    pub fua: u64,
    /// Longest read or write, in sectors.
    pub sectors_max: u64,
    /// Percentage of requests that go to the hot stripes.
    pub hot: u64,
    /// Indices of the hot stripes.
    pub hot_stripes: Vec<u64>,
    /// Percentage of writes that continue where the last one ended.
    pub sequential: u64,
    /// Percentage of writes that cover whole chunks or stripes.
    pub aligned: u64,
}

impl Habits {
    /// Draws habits for an array of `stripes` stripes with `stripe_sectors` sectors each.
    pub fn random(rng: &mut Rng, stripes: u64, stripe_sectors: u64, depth_max: u64) -> Habits {
        let mut hot_stripes: Vec<u64> = (0..rng.between(1, 4)).map(|_| rng.below(stripes)).collect();
        hot_stripes.push(stripes - 1);
        Habits {
            depth: rng.pick(&[1, 2, 4, 8, 16, 32]).min(depth_max),
            reads: rng.pick(&[5, 20, 40, 70]),
            flushes: rng.pick(&[0, 2, 10]),
            discards: rng.pick(&[0, 2, 10]),
            zeroes: rng.pick(&[0, 2, 5]),
            fua: rng.pick(&[0, 5, 50]),
            sectors_max: rng.pick(&[1, 8, 16, 128, stripe_sectors, stripe_sectors * 3]).min(512),
            hot: rng.pick(&[0, 50, 90]),
            hot_stripes,
            sequential: rng.pick(&[0, 0, 30, 90]),
            aligned: rng.pick(&[0, 30, 80]),
        }
    }
}

/// A request in flight.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Tag of the request.
    pub tag: u64,
    /// Index of the reactor that serves the request.
    pub reactor: usize,
    /// Kind of request.
    pub kind: RequestKind,
    /// First sector.
    pub first: u64,
    /// Number of sectors.
    pub count: u64,
    /// Memory of the request.
    pub span: Span,
    /// Moment of the oracle at which the request began.
    pub start: u64,
    /// Moment of the bus at which the request began.
    pub bus_moment: u64,
    /// Simulated time at which the request began, ns.
    pub asked_ns: u64,
    /// Whether some stripe of the request was `NeedSync`, or the array was degraded, when the request began.
    pub excused: bool,
    /// Whether the array had failed when the request began.
    pub had_failed: bool,
    /// The bus's count of faults when the request began.
    pub faults_hit: u32,
}

/// The next request to make.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Kind of request.
    pub kind: RequestKind,
    /// First sector.
    pub first: u64,
    /// Number of sectors.
    pub count: u64,
}

/// The host: its habits, where its last write ended, and the number of its last content.
pub struct Host {
    /// How the host behaves.
    pub habits: Habits,
    sequential_at: u64,
    contents: u64,
}

impl Host {
    /// A host that has written nothing.
    #[must_use]
    pub fn new(habits: Habits) -> Host {
        Host { habits, sequential_at: 0, contents: 0 }
    }

    /// A host that continues after a power cut. Its new contents differ from everything written before.
    #[must_use]
    pub fn resuming(host: &Host) -> Host {
        Host { habits: host.habits.clone(), sequential_at: 0, contents: host.contents + (1 << 40) }
    }

    /// Adapts to an array of this many stripes: drops hot stripes behind the end, and makes the last stripe
    /// hot.
    pub fn fit(&mut self, stripes: u64) {
        let hot = &mut self.habits.hot_stripes;
        hot.retain(|&stripe| stripe < stripes);
        hot.push(stripes - 1);
    }

    /// The next request to an array of `sectors` sectors, in stripes of `stripe_sectors` and chunks of
    /// `chunk_sectors`.
    pub fn wish(&mut self, rng: &mut Rng, sectors: u64, stripe_sectors: u64, chunk_sectors: u64) -> Wish {
        let habits = &self.habits;
        let roll = rng.below(100);
        let base = if rng.chance(habits.hot) {
            rng.pick(&habits.hot_stripes) * stripe_sectors + rng.below(stripe_sectors)
        } else {
            rng.below(sectors)
        };
        let size = if rng.chance(50) {
            rng.between(1, habits.sectors_max.min(8))
        } else {
            rng.between(1, habits.sectors_max)
        };
        let (reads, flushes) = (habits.reads, habits.reads + habits.flushes);
        let (discards, zeroes) = (flushes + habits.discards, flushes + habits.discards + habits.zeroes);
        let fua = rng.chance(habits.fua);
        let (kind, first, count) = if roll < reads {
            (RequestKind::Read, base, size)
        } else if roll < flushes {
            (RequestKind::Flush, 0, 0)
        } else if roll < zeroes {
            let whole = rng.chance(60);
            // Drawn from a copy of the generator, so that the rest of the run does not depend on it.
            let is_long = Rng::new(rng.clone().next()).chance(LONG_DISCARDS_PERCENT);
            let (first, count) = if whole {
                let (stripes, long) = (rng.between(1, 3), (LONG_DISCARD_SECTORS / stripe_sectors).max(6));
                let first = base / stripe_sectors * stripe_sectors;
                if is_long {
                    (first.min(sectors.saturating_sub(long * stripe_sectors)), long * stripe_sectors)
                } else {
                    (first, stripes * stripe_sectors)
                }
            } else {
                (base, rng.between(1, stripe_sectors * 2))
            };
            let kind = if roll < discards { RequestKind::Discard } else { RequestKind::WriteZeroes { fua } };
            (kind, first, count)
        } else if rng.chance(habits.sequential) {
            (RequestKind::Write { fua }, self.sequential_at % sectors, size)
        } else if rng.chance(habits.aligned) {
            let unit = rng.pick(&[chunk_sectors, chunk_sectors, stripe_sectors]).min(1024);
            (RequestKind::Write { fua }, base / unit * unit, unit)
        } else {
            (RequestKind::Write { fua }, base, size)
        };
        let count = count.min(sectors - first);
        if matches!(kind, RequestKind::Write { .. }) {
            self.sequential_at = first + count;
        }
        Wish { kind, first, count }
    }

    /// Fills a buffer with content that was never written before (or, now and then, with zeros).
    pub fn fill(&mut self, rng: &mut Rng, bytes: &mut [u8]) {
        let zeros = rng.chance(3);
        for sector in bytes.chunks_exact_mut(SECTOR) {
            self.contents += 1;
            for (nth, word) in sector.chunks_exact_mut(8).enumerate() {
                let value = if zeros { 0 } else { mix(self.contents << 8 | nth as u64) };
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}
