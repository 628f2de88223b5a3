//! Content that depends on its position, and random numbers that can be replayed.
//!
//! A pattern is a function of (seed, position), so any range of it can be made again for a comparison without
//! keeping it, and a strip that comes back from the wrong place differs in every word.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Random numbers from a seed (splitmix64): the same seed gives the same run.
pub struct Dice(u64);

impl Dice {
    /// Dice of a test. STRIATE_E2E_SEED sets the seed; the seed is printed, so that a failure shows it.
    pub fn new(what: &str) -> Dice {
        let seed = std::env::var("STRIATE_E2E_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            now.as_nanos() as u64 % 1_000_000_007
        });
        println!("{what}: STRIATE_E2E_SEED={seed}");
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A random element of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The pattern of `seed` for the bytes from `offset` on; `offset` and `len` are multiples of 8.
pub fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    assert!(offset.is_multiple_of(8) && len.is_multiple_of(8));
    let words = (0..len as u64 / 8).map(|i| mix(seed.wrapping_mul(0x1_0000_0001) ^ (offset / 8 + i)));
    words.flat_map(u64::to_le_bytes).collect()
}

/// Panics with the first difference of two contents, and the number of bytes that differ.
#[track_caller]
pub fn assert_same(what: &str, offset: u64, found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let differs = |at: &usize| found[*at] != expected[*at];
    let Some(first) = (0..found.len()).find(differs) else { return };
    let count = (0..found.len()).filter(differs).count();
    let sector = first & !511;
    let show = |bytes: &[u8]| {
        bytes[sector..bytes.len().min(sector + 16)].iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    panic!(
        "{what}: {count} of {} bytes differ, the first at {:#x}; sector at {:#x}: found {}, expected {}",
        found.len(),
        offset + first as u64,
        offset + sector as u64,
        show(found),
        show(expected)
    );
}

/// A hash of a file's content.
pub fn fingerprint(path: &Path) -> u64 {
    use std::hash::Hasher;
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hasher = std::hash::DefaultHasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).expect("readable") {
            0 => return hasher.finish(),
            n => hasher.write(&buffer[..n]),
        }
    }
}
