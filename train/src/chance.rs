//! Random choices that are the same on every machine: a stream of BLAKE3 output for a seed, a
//! purpose and an index. Nothing here reads a clock or the machine's own randomness.

use std::ops::RangeInclusive;

/// A stream of choices.
pub struct Chance {
    stream: blake3::OutputReader,
}

impl Chance {
    /// The stream of one purpose and index: others with the same seed are independent of it.
    pub fn new(seed: u64, purpose: &str, index: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"relay.train.chance");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&index.to_le_bytes());
        hasher.update(purpose.as_bytes());
        Self { stream: hasher.finalize_xof() }
    }

    /// A whole number below `count`, each as likely (to one part in 2^50 for small counts); 0 for
    /// a count of 0.
    pub fn below(&mut self, count: usize) -> usize {
        let mut bytes = [0; 8];
        self.stream.fill(&mut bytes);
        let drawn = u64::from_le_bytes(bytes) % (count as u64).max(1);
        usize::try_from(drawn).unwrap_or(0)
    }

    /// A number of a range, each as likely.
    pub fn between(&mut self, range: RangeInclusive<u32>) -> u32 {
        let count = range.end().saturating_sub(*range.start()) as usize + 1;
        range.start() + u32::try_from(self.below(count)).unwrap_or(0)
    }

    /// One of several, each as likely; the default of nothing.
    pub fn pick<Item: Copy + Default>(&mut self, items: &[Item]) -> Item {
        items.get(self.below(items.len())).copied().unwrap_or_default()
    }

    /// Whether something of this likelihood, in percent, happens.
    pub fn percent(&mut self, likelihood: usize) -> bool {
        self.below(100) < likelihood
    }

    /// Puts items in a random order.
    pub fn shuffle<Item>(&mut self, items: &mut [Item]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_fixed_and_its_own() {
        let draw = |seed, purpose, index| -> Vec<usize> {
            let mut chance = Chance::new(seed, purpose, index);
            (0..6).map(|_| chance.below(1000)).collect()
        };
        assert_eq!(draw(1, "a", 0), draw(1, "a", 0));
        assert_ne!(draw(1, "a", 0), draw(2, "a", 0));
        assert_ne!(draw(1, "a", 0), draw(1, "b", 0));
        assert_ne!(draw(1, "a", 0), draw(1, "a", 1));
    }

    #[test]
    fn every_choice_occurs() {
        let mut chance = Chance::new(3, "test", 0);
        let mut counts = [0; 5];
        for _ in 0..5000 {
            counts[chance.below(5)] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert!((0..100).all(|_| (3..=5).contains(&chance.between(3..=5))));
        let mut items = [1, 2, 3, 4];
        chance.shuffle(&mut items);
        items.sort_unstable();
        assert_eq!(items, [1, 2, 3, 4]);
    }
}
