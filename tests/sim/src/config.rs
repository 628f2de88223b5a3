//! The shape of a run, drawn from its seed, and the knobs that make it smaller.
//!
//! **Small** worlds have a few stripes of one-page strips: a restart takes a fraction of a millisecond, and
//! rules break in them as well as in large ones. **Full** worlds have up to sixteen members, chunks up to 64
//! KiB, odd numbers of stripes, and several bitmap blocks; a share of every campaign uses them. **Skewed**
//! worlds are small ones in which all other operations overtake one kind of operation, for example the writes
//! of bitmap blocks. An engine that keeps an order only by chance breaks it there.

use bitmap::Cell;
use engine::array::Sizes;
use engine::format::{Level, Shape};

use crate::disk::SECTOR;
use crate::latency::Latency;
use crate::rng::Rng;

/// Percentage of worlds whose members have blocks of 4096 bytes.
const LARGE_BLOCKS_PERCENT: u64 = 12;
/// Most reactors that a world may have.
pub const REACTORS_MAX: usize = 3;

/// How large a world is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// 3 to 6 members; 1 to 6 stripes, and now and then a few thousand.
    Small,
    /// 3 to 16 members, up to 40,000 stripes.
    Full,
    /// Small, with one kind of operation that takes many times longer than the rest.
    Skewed,
}

impl Flavour {
    /// The flavour with this name, in lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Flavour> {
        [Flavour::Small, Flavour::Full, Flavour::Skewed].into_iter().find(|flavour| flavour.name() == name)
    }

    /// The name of the flavour, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Flavour::Small => "small",
            Flavour::Full => "full",
            Flavour::Skewed => "skewed",
        }
    }
}

/// Upper bounds on what the seed draws. Turning one down makes another run of the seed, which may fail in the
/// same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// Size of the world.
    pub flavour: Flavour,
    /// Most members.
    pub members: u64,
    /// Most stripes.
    pub stripes: u64,
    /// Most requests in flight.
    pub depth: u64,
    /// Percentage of each load's requests that are made.
    pub load: u64,
    /// Most reactors.
    pub reactors: u64,
    /// The only branch to run, of the histories that branch off at moments of the run; `None` for all.
    pub only: Option<u32>,
}

impl Knobs {
    /// The widest bounds that the flavour allows.
    #[must_use]
    pub const fn of(flavour: Flavour) -> Knobs {
        let (members, stripes) = match flavour {
            Flavour::Small | Flavour::Skewed => (6, 3_900),
            Flavour::Full => (16, 40_000),
        };
        Knobs { flavour, members, stripes, depth: 32, load: 100, reactors: REACTORS_MAX as u64, only: None }
    }
}

/// The shape of a run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Level, members and chunk size.
    pub shape: Shape,
    /// Number of stripes.
    pub stripes: u64,
    /// Number of further stripes that the disks have room for.
    pub room_stripes: u64,
    /// Number of reactors.
    pub reactors: usize,
    /// Buffer and pool sizes of each reactor.
    pub sizes: Sizes,
    /// Logical block size of the members and of the array.
    pub block_bytes: u32,
    /// For each member, whether it has a volatile cache.
    pub volatile: Vec<bool>,
    /// State of every cell at the beginning.
    pub initial: Cell,
    /// How long the operations of members take.
    pub latency: Latency,
    /// The bounds within which the shape was drawn.
    pub knobs: Knobs,
}

impl Config {
    /// Sectors in a logical block.
    #[must_use]
    pub const fn block_sectors(&self) -> u64 {
        self.block_bytes as u64 / SECTOR as u64
    }

    /// Draws a shape within the knobs.
    pub fn random(rng: &mut Rng, knobs: Knobs) -> Config {
        let full = knobs.flavour == Flavour::Full;
        let level = rng.pick(&[Level::Raid5, Level::Raid6]);
        let least = level.members_min() as u64;
        let most = if full { rng.pick(&[6, 8, 16]) } else { least + 2 };
        let members = rng.between(least, most.min(knobs.members).max(least)) as usize;
        let chunk_bytes = if full {
            rng.pick(&[4096, 4096, 8192, 16384, 65536])
        } else {
            rng.pick(&[4096, 4096, 4096, 8192])
        };
        let caches = rng.below(3);
        let volatile = (0..members).map(|_| caches == 2 || caches == 1 && rng.chance(50)).collect();
        // Now and then several bitmap blocks: the slots of their copies rotate, and the last block is
        // partial.
        let many = full && rng.chance(6) && chunk_bytes == 4096 && members <= 8;
        let stripes = match (full, many) {
            (_, true) => rng.between(16_129, 40_000),
            (true, false) => rng.between(4, 40),
            // Now and then cells in several sectors of their block: a power cut can then tear the block.
            (false, false) if rng.chance(8) => rng.between(1_900, 3_900),
            (false, false) => rng.between(1, 6),
        };
        let many = many || stripes > 100;
        let initial = match rng.below(10) {
            _ if many => Cell::Unwritten,
            0..=5 => Cell::Unwritten,
            6..=7 => Cell::Clean,
            _ => Cell::NeedSync,
        };
        let reactors_max = if full { REACTORS_MAX as u64 } else { 2 };
        Config {
            shape: Shape { level, members, chunk_bytes },
            stripes: stripes.min(knobs.stripes),
            room_stripes: 0,
            reactors: rng.between(1, reactors_max.min(knobs.reactors)) as usize,
            sizes: if full && rng.chance(50) { Sizes::FULL } else { Sizes::SMALL },
            // Drawn from a copy of the generator, so that the rest of the run does not depend on it.
            block_bytes: if Rng::new(rng.clone().next()).chance(LARGE_BLOCKS_PERCENT) { 4096 } else { 512 },
            volatile,
            initial,
            latency: match knobs.flavour {
                Flavour::Skewed => Latency::skewed(rng, members),
                _ => Latency::even(rng.pick(&[1_000, 20_000, 20_000, 100_000, 100_000, 300_000_000])),
            },
            knobs,
        }
    }
}
