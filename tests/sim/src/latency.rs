//! How long an operation of a member takes.

use engine::ring::MemberIo;

use crate::aim::Ask;
use crate::disk::ZoneKind;
use crate::rng::Rng;

/// How long operations take.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// The longest as a rule, ns; one in eight takes up to eight times that.
    pub max_ns: u64,
    /// Kinds of operations that take longer still.
    pub slow: Option<Slow>,
}

/// A zone, none for what is asked of a member as a whole, and what is asked.
type Kind = (Option<ZoneKind>, Ask);

/// Operations that all others overtake: what has to wait for them, and does not, is seen.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    /// Of which kinds.
    kinds: &'static [Kind],
    /// Of this disk; none for all disks.
    disk: Option<usize>,
    /// How many times longer it takes.
    times: u64,
}

/// Kinds of operations of which one may be slow.
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
    /// Of any operation up to `max_ns`, and eight times that.
    #[must_use]
    pub const fn even(max_ns: u64) -> Latency {
        Latency { max_ns, slow: None }
    }

    /// Reads of data take a second as a rule, so what reads every stripe takes long; so do writes of superblocks, and what is
    /// acknowledged meanwhile is much.
    #[must_use]
    pub const fn slow_to_fill() -> Latency {
        let kinds = &[(Some(ZoneKind::Data), Ask::Read), (Some(ZoneKind::Superblock), Ask::Durable)];
        Latency { max_ns: 2_000_000, slow: Some(Slow { kinds, disk: None, times: 1_000 }) }
    }

    /// One of the kinds up to a thousand times slower than the rest, on one of so many disks or on all; yet never so
    /// slow that an array loses its patience with a member.
    #[must_use]
    pub fn skewed(rng: &mut Rng, disks: usize) -> Latency {
        let kinds = std::slice::from_ref(&KINDS[rng.below(KINDS.len() as u64) as usize]);
        let disk = rng.chance(40).then(|| rng.below(disks as u64) as usize);
        let times = rng.pick(&[10, 100, 1_000]);
        Latency { max_ns: rng.pick(&[1_000, 20_000, 100_000]), slow: Some(Slow { kinds, disk, times }) }
    }

    /// One of the kinds some times slower than the rest, on one of so many disks or on all, and no faster than a disk.
    #[must_use]
    pub fn slowed(rng: &mut Rng, disks: usize) -> Latency {
        let skewed = Latency::skewed(rng, disks);
        let times = rng.pick(&[5, 20]);
        Latency { max_ns: 50_000, slow: skewed.slow.map(|slow| Slow { times, ..slow }) }
    }

    /// Of one operation, ns.
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

    /// The longest as a rule of those that are slow, ns.
    #[must_use]
    pub fn slowest_ns(&self) -> u64 {
        self.max_ns * self.slow.map_or(1, |slow| slow.times)
    }
}
