//! Skewed choice of keys: the zipfian distribution, and a permutation that scatters its ranks.
//! Pure: chance comes in as an argument.
//!
//! The generator is that of Gray, Sundaresan, Englert, Baclawski and Weinberger, "Quickly generating
//! billion-record synthetic databases" (SIGMOD 1994), as in YCSB.

/// The skew of YCSB's workloads.
pub(super) const THETA: f64 = 0.99;

/// Terms of the zeta function that are summed one by one; the rest is approximated.
const ZETA_EXACT_TERMS: u64 = 10_000;

/// Ranks `0..items`, rank `r` with a probability proportional to `1 / (r + 1)^θ`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Zipfian {
    items: u64,
    /// `zeta(items)`: the sum of all weights.
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// `items` is at least 1.
    pub(super) fn new(items: u64) -> Self {
        let zeta = zeta(items);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - self::zeta(2) / zeta);
        Self { items, zeta, alpha: 1.0 / (1.0 - THETA), eta }
    }

    /// The rank for a number drawn evenly from `[0, 1)`.
    pub(super) fn rank(&self, uniform: f64) -> u64 {
        let weight = uniform * self.zeta;
        if weight < 1.0 {
            return 0;
        }
        if weight < 1.0 + 0.5_f64.powf(THETA) {
            return 1;
        }
        let rank = self.items as f64 * (self.eta * uniform - self.eta + 1.0).powf(self.alpha);
        // A float becomes the nearest integer that there is, so rounding cannot lead out of bounds.
        (rank as u64).min(self.items - 1)
    }
}

/// The sum of `1 / i^θ` for `i` in `1..=items`. Behind the first terms it is the Euler–Maclaurin
/// formula up to its first correction; what is left out is below 1e-8.
fn zeta(items: u64) -> f64 {
    let exact = items.min(ZETA_EXACT_TERMS);
    let sum: f64 = (1..=exact).map(|i| (i as f64).powf(-THETA)).sum();
    let (from, to) = (exact as f64, items as f64);
    let integral = (to.powf(1.0 - THETA) - from.powf(1.0 - THETA)) / (1.0 - THETA);
    sum + integral + (to.powf(-THETA) - from.powf(-THETA)) / 2.0
}

/// A fixed permutation of `0..items`, so that the most wanted keys are not neighbours. Unlike the hash
/// that YCSB takes, it lets no two ranks fall on one key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permutation {
    items: u64,
    /// The smallest number of bits, at least 1, that `items - 1` fits in.
    bits: u32,
}

impl Permutation {
    /// `items` is at least 1.
    pub(super) fn new(items: u64) -> Self {
        Self { items, bits: (u64::BITS - (items - 1).leading_zeros()).max(1) }
    }

    /// Where `rank`, which is below `items`, is sent.
    pub(super) fn of(&self, rank: u64) -> u64 {
        let mut at = rank;
        // Cycle walking: a permutation of the larger range comes back below `items` in the end, in
        // under two steps on average, as `items` is more than half of that range.
        loop {
            at = self.scatter(at);
            if at < self.items {
                return at;
            }
        }
    }

    /// A permutation of all numbers of `bits` bits: each step of it can be undone.
    fn scatter(&self, mut at: u64) -> u64 {
        let mask = u64::MAX >> (u64::BITS - self.bits);
        let shift = (self.bits / 2).max(1);
        // The odd multipliers of the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
        for odd in [0xBF58_476D_1CE4_E5B9_u64, 0x94D0_49BB_1331_11EB] {
            at ^= at >> shift;
            at = at.wrapping_mul(odd) & mask;
        }
        at ^ (at >> shift)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn zeta_is_the_sum() {
        for items in [1, 2, 9_999, 10_000, 10_001, 300_000] {
            let sum: f64 = (1..=items).map(|i| (i as f64).powf(-THETA)).sum();
            assert!((zeta(items) - sum).abs() < 1e-7, "{items}: {} and {sum}", zeta(items));
        }
    }

    /// An even grid in place of chance: the share of each of the first ranks is its weight. The two
    /// first are exact; the formula for the others is a continuous approximation.
    #[test]
    fn ranks_have_their_shares() {
        const DRAWS: u32 = 1_000_000;
        for items in [10, 1_000, 100_000] {
            let zipfian = Zipfian::new(items);
            let mut counts = vec![0_u32; usize::try_from(items).unwrap()];
            for draw in 0..DRAWS {
                let rank = zipfian.rank(f64::from(draw) / f64::from(DRAWS));
                counts[usize::try_from(rank).unwrap()] += 1;
            }
            let share = |rank: usize| f64::from(counts[rank]) / f64::from(DRAWS);
            let weight = |rank: usize| ((rank + 1) as f64).powf(-THETA) / zeta(items);
            for rank in 0..2 {
                assert!((share(rank) - weight(rank)).abs() < 1e-5, "{items}, rank {rank}");
            }
            let tenth = usize::try_from(items / 10).unwrap();
            let head: f64 = (0..tenth).map(share).sum();
            let expected: f64 = (0..tenth).map(weight).sum();
            assert!((head - expected).abs() < 0.03, "{items}: {head} and {expected}");
            assert!(counts.iter().rposition(|count| *count > 0).unwrap() > counts.len() / 2, "{items}");
        }
    }

    #[test]
    fn few_items_are_enough() {
        for items in 1..=4 {
            let zipfian = Zipfian::new(items);
            let drawn: BTreeSet<_> =
                (0..10_000).map(|draw| zipfian.rank(f64::from(draw) / 10_000.0)).collect();
            assert_eq!(drawn, (0..items).collect(), "{items}");
        }
    }

    #[test]
    fn a_permutation_meets_every_key_once() {
        for items in [1, 2, 3, 7, 8, 9, 1_000, 65_537] {
            let permutation = Permutation::new(items);
            let met: BTreeSet<_> = (0..items).map(|rank| permutation.of(rank)).collect();
            assert_eq!(met, (0..items).collect(), "{items}");
        }
        let far = Permutation::new(100_000);
        let neighbours = (0..1_000).filter(|rank| far.of(*rank).abs_diff(far.of(rank + 1)) < 100).count();
        assert!(neighbours < 100, "{neighbours} of 1000 ranks stayed beside the one before");
    }
}
