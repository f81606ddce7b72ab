//! Contents and choices that follow from a seed, so that a failed run can be
//! repeated.

/// A sequence of words that follows from its seed (splitmix64: seeds that
/// differ in one bit give sequences that have nothing in common).
#[derive(Clone, Debug)]
pub struct Words(u64);

impl Words {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Words {
        Words(seed)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next().unwrap_or_default() % bound as u64) as usize
    }

    /// A number from 0 up to 1, and not 1.
    pub fn share(&mut self) -> f64 {
        // All that a float can tell apart.
        (self.next().unwrap_or_default() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Iterator for Words {
    type Item = u64;

    /// Never ends.
    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(word ^ (word >> 31))
    }
}

/// `count` bytes that no compressor makes smaller.
pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
    // Mixed once: the sequences of seeds that follow each other would
    // otherwise be the same one, shifted.
    let start = Words::new(seed).next().unwrap_or_default();
    Words::new(start)
        .take(count.div_ceil(8))
        .flat_map(u64::to_le_bytes)
        .take(count)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_others_share_none() {
        assert_eq!(bytes(7, 1001), bytes(7, 1001));
        assert_eq!(bytes(7, 1001).len(), 1001);
        let (one, two) = (bytes(7, 4096), bytes(8, 4096));
        for part in one.chunks(64) {
            assert!(!two.windows(64).any(|other| other == part));
        }
    }
}
