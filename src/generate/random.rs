//! Pseudo-random numbers that are the same on every machine and in every release. `rand`'s `StdRng`
//! guarantees neither, and a benchmark's input must not change with a dependency.

/// xoshiro256++ 1.0 by David Blackman and Sebastiano Vigna, seeded by SplitMix64 as they recommend
/// (<https://prng.di.unimi.it/>). Not for secrets.
pub(super) struct Random {
    state: [u64; 4],
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut counter = seed;
        let state = std::array::from_fn(|_| {
            counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = counter;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Self { state }
    }

    pub(super) fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `end`. It is uniform enough for logs, but not for statistics.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        let high = self.bits() >> 32;
        ((high * u64::from(end)) >> 32) as u32
    }

    /// Returns one of the choices.
    pub(super) fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_published_algorithm() {
        // The first outputs of the reference implementation of xoshiro256++ for the state 1, 2, 3, 4.
        let mut random = Random { state: [1, 2, 3, 4] };
        let expected = [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386];
        assert_eq!(expected.map(|_| random.bits()), expected);
        // The first output of SplitMix64 for the seed 1234567.
        assert_eq!(Random::new(1_234_567).state[0], 6_457_827_717_110_365_317);
    }
}
