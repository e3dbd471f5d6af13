// SPDX-License-Identifier: GPL-2.0

//! Random numbers that a seed repeats.

/// A generator of 64-bit numbers (SplitMix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    /// A generator for one purpose: the same numbers for the same `seeds`.
    pub fn new(seeds: &[u64]) -> Self {
        let mut rng = Self(0);
        for seed in seeds {
            rng.0 = rng.next() ^ seed;
        }
        Self(rng.next())
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`, which is not 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// True `percent` times of a hundred.
    pub const fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, which are not empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    /// A random byte.
    pub const fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }

    /// A number as instructions like them: any, small, or near a power of two.
    pub const fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(4),
            1 => 0u64.wrapping_sub(self.below(4)),
            2 => (1 << self.below(64)) - self.below(2),
            3 => !((1u64 << self.below(64)).wrapping_sub(self.below(2))),
            4 => self.next() >> self.below(64),
            _ => self.next(),
        }
    }
}
