//! How long an operation of a member takes in simulated time.

use engine::ring::MemberIo;

use crate::aim::Ask;
use crate::disk::ZoneKind;
use crate::rng::Rng;

/// Distribution of the times that operations take.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Usual upper bound, ns; one operation in eight takes up to eight times that.
    pub max_ns: u64,
    /// Kinds of operations that take even longer.
    pub slow: Option<Slow>,
}

/// A kind of operation: the zone (`None` for operations on a member as a whole) and the request.
type Kind = (Option<ZoneKind>, Ask);

/// Operations so slow that all others overtake them. An engine that should wait for them, and does not, is
/// caught.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    /// The kinds of operations that are slow.
    kinds: &'static [Kind],
    /// The disk that is slow; `None` for all disks.
    disk: Option<usize>,
    /// Factor by which these operations are slower.
    times: u64,
}

/// The kinds of operations from which the slow one is drawn.
const KINDS: [Kind; 8] = [
    (Some(ZoneKind::Superblock), Ask::Durable),
    (Some(ZoneKind::Bitmap), Ask::Durable),
    (Some(ZoneKind::Bitmap), Ask::Write),
    (Some(ZoneKind::Data), Ask::Durable),
    (Some(ZoneKind::Data), Ask::Write),
    (Some(ZoneKind::Data), Ask::Read),
    (Some(ZoneKind::Data), Ask::Deallocate),
    (None, Ask::Flush),
];

impl Latency {
    /// Any operation takes up to `max_ns`, and one in eight up to eight times that.
    #[must_use]
    pub const fn even(max_ns: u64) -> Latency {
        Latency { max_ns, slow: None }
    }

    /// Reads of data usually take about a second, so anything that reads every stripe takes long. Writes of
    /// superblocks are as slow, so many requests are acknowledged meanwhile.
    #[must_use]
    pub const fn slow_to_fill() -> Latency {
        let kinds = &[(Some(ZoneKind::Data), Ask::Read), (Some(ZoneKind::Superblock), Ask::Durable)];
        Latency { max_ns: 2_000_000, slow: Some(Slow { kinds, disk: None, times: 1_000 }) }
    }

    /// Makes one kind of operation up to a thousand times slower than the rest, on one of `disks` disks or on
    /// all. No operation is so slow that the array loses its patience with the member.
    #[must_use]
    pub fn skewed(rng: &mut Rng, disks: usize) -> Latency {
        let kinds = std::slice::from_ref(&KINDS[rng.below(KINDS.len() as u64) as usize]);
        let disk = rng.chance(40).then(|| rng.below(disks as u64) as usize);
        let times = rng.pick(&[10, 100, 1_000]);
        Latency { max_ns: rng.pick(&[1_000, 20_000, 100_000]), slow: Some(Slow { kinds, disk, times }) }
    }

    /// Makes one kind of operation 5 or 20 times slower than the rest, on one of `disks` disks or on all; no
    /// operation is faster than on a real disk.
    #[must_use]
    pub fn slowed(rng: &mut Rng, disks: usize) -> Latency {
        let skewed = Latency::skewed(rng, disks);
        let times = rng.pick(&[5, 20]);
        Latency { max_ns: 50_000, slow: skewed.slow.map(|slow| Slow { times, ..slow }) }
    }

    /// Draws the time that one operation takes, ns.
    pub fn draw(&self, rng: &mut Rng, disk: usize, zone: Option<ZoneKind>, io: MemberIo) -> u64 {
        let latency_ns = match rng.below(8) {
            0 => rng.below(self.max_ns * 8),
            _ => rng.below(self.max_ns),
        };
        let is_slow = |slow: &Slow| {
            slow.kinds.contains(&(zone, Ask::of(io))) && slow.disk.is_none_or(|only| only == disk)
        };
        latency_ns * self.slow.filter(is_slow).map_or(1, |slow| slow.times)
    }

    /// Usual upper bound for the slow operations, ns.
    #[must_use]
    pub fn slowest_ns(&self) -> u64 {
        self.max_ns * self.slow.map_or(1, |slow| slow.times)
    }
}
