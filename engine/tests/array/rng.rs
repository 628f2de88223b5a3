//! Random numbers from one seed: splitmix64 (Steele, Lea, Flood 2014).

#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn fork(&mut self) -> Rng {
        Rng::new(self.next())
    }

    /// Noise without zeros, different in every sector.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for sector in bytes.chunks_mut(512) {
            let mut word = self.next();
            for piece in sector.chunks_mut(8) {
                word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                let noise = (word | 0x0101_0101_0101_0101).to_le_bytes();
                piece.copy_from_slice(&noise[..piece.len()]);
            }
        }
    }
}
