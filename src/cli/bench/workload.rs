//! What is asked for, and in which order: the workloads, and the stream of operations that each lane
//! draws from one. Pure and seeded: the same seed and lane give the same stream.
//!
//! The workloads A to F are those of YCSB (Cooper, Silberstein, Tam, Ramakrishnan, Sears, "Benchmarking
//! cloud serving systems with YCSB", SoCC 2010, and its `workloads/` files).
//!
//! Not here: how an operation is sent (`link`), and when (`pace`).

use clap::ValueEnum;
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use serde::Serialize;

use super::zipf::{Permutation, Zipfian};

/// The longest scan, rows; each is 1 to so many long, evenly (YCSB's `maxscanlength`).
const MAX_SCAN_ROWS: u32 = 100;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Read,
    Update,
    Insert,
    Scan,
    ReadModifyWrite,
    Batch,
}

impl Kind {
    pub(super) const ALL: [Kind; 6] =
        [Kind::Read, Kind::Update, Kind::Insert, Kind::Scan, Kind::ReadModifyWrite, Kind::Batch];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Update => "update",
            Kind::Insert => "insert",
            Kind::Scan => "scan",
            Kind::ReadModifyWrite => "read-modify-write",
            Kind::Batch => "batch",
        }
    }
}

/// Which keys are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Distribution {
    /// All alike
    Uniform,
    /// Few keys often, most hardly ever (θ = 0.99), and the popular ones not side by side
    Zipfian,
    /// Zipfian by age: the newest key most often
    Latest,
}

/// The workloads that have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Name {
    /// YCSB A: 50 % reads, 50 % updates, zipfian
    A,
    /// YCSB B: 95 % reads, 5 % updates, zipfian
    B,
    /// YCSB C: reads, zipfian
    C,
    /// YCSB D: 95 % reads, 5 % inserts, the latest keys
    D,
    /// YCSB E: 95 % scans of 1 to 100 rows, 5 % inserts, zipfian
    E,
    /// YCSB F: 50 % reads, 50 % read-modify-writes, zipfian
    F,
    /// Writes over existing keys, uniform
    Put,
    /// Reads of existing keys, uniform
    Get,
    /// POST /batch of writes over existing keys, uniform; of etcd, transactions of as many
    Batch,
}

/// How often each kind of operation is chosen, in proportion to the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mix {
    pub(super) read: u32,
    pub(super) update: u32,
    pub(super) insert: u32,
    pub(super) scan: u32,
    pub(super) read_modify_write: u32,
    pub(super) batch: u32,
}

impl Mix {
    pub(super) fn weight(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Read => self.read,
            Kind::Update => self.update,
            Kind::Insert => self.insert,
            Kind::Scan => self.scan,
            Kind::ReadModifyWrite => self.read_modify_write,
            Kind::Batch => self.batch,
        }
    }

    pub(super) fn total(&self) -> u64 {
        Kind::ALL.into_iter().map(|kind| u64::from(self.weight(kind))).sum()
    }
}

/// A mix of operations over keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) mix: Mix,
    pub(super) distribution: Distribution,
}

impl From<Name> for Workload {
    fn from(name: Name) -> Self {
        use Distribution::{Latest, Uniform, Zipfian};
        let none = Mix::default();
        let (mix, distribution) = match name {
            Name::A => (Mix { read: 50, update: 50, ..none }, Zipfian),
            Name::B => (Mix { read: 95, update: 5, ..none }, Zipfian),
            Name::C => (Mix { read: 100, ..none }, Zipfian),
            Name::D => (Mix { read: 95, insert: 5, ..none }, Latest),
            Name::E => (Mix { scan: 95, insert: 5, ..none }, Zipfian),
            Name::F => (Mix { read: 50, read_modify_write: 50, ..none }, Zipfian),
            Name::Put => (Mix { update: 100, ..none }, Uniform),
            Name::Get => (Mix { read: 100, ..none }, Uniform),
            Name::Batch => (Mix { batch: 100, ..none }, Uniform),
        };
        Workload { mix, distribution }
    }
}

/// Chooses among keys, which are numbers from 0. One is computed and copied to every lane.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chooser {
    Uniform,
    Zipfian(Zipfian, Permutation),
    Latest(Zipfian),
}

impl Chooser {
    /// Over `keys` keys, at least 1. The popularity of keys inserted later is that of nobody, but for
    /// `Latest`: there the newest is always the most popular.
    pub(super) fn new(distribution: Distribution, keys: u64) -> Self {
        match distribution {
            Distribution::Uniform => Chooser::Uniform,
            Distribution::Zipfian => Chooser::Zipfian(Zipfian::new(keys), Permutation::new(keys)),
            Distribution::Latest => Chooser::Latest(Zipfian::new(keys)),
        }
    }
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Read(u64),
    Update(u64),
    /// Of a key that nobody has had yet: whoever runs it takes the next one.
    Insert,
    Scan {
        from: u64,
        rows: u32,
    },
    ReadModifyWrite(u64),
    /// Its keys are drawn by [`Generator::key`].
    Batch,
}

impl Op {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Op::Read(_) => Kind::Read,
            Op::Update(_) => Kind::Update,
            Op::Insert => Kind::Insert,
            Op::Scan { .. } => Kind::Scan,
            Op::ReadModifyWrite(_) => Kind::ReadModifyWrite,
            Op::Batch => Kind::Batch,
        }
    }
}

/// The operations of one lane.
#[derive(Debug)]
pub(super) struct Generator {
    mix: Mix,
    total: u64,
    chooser: Chooser,
    rng: Xoshiro256PlusPlus,
}

impl Generator {
    /// The mix has a total of at least 1.
    pub(super) fn new(mix: Mix, chooser: Chooser, seed: u64, lane: u64) -> Self {
        // Lanes of one seed, and one lane of neighbouring seeds, are far apart.
        let seed = seed ^ lane.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { mix, total: mix.total(), chooser, rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// The next operation, where the keys `0..there` exist.
    pub(super) fn next(&mut self, there: u64) -> Op {
        let mut drawn = self.rng.random_range(0..self.total);
        let chosen = Kind::ALL.into_iter().find(|kind| {
            let weight = u64::from(self.mix.weight(*kind));
            let found = drawn < weight;
            drawn = drawn.wrapping_sub(weight);
            found
        });
        match chosen.expect("what was drawn is less than the sum of all weights") {
            Kind::Read => Op::Read(self.key(there)),
            Kind::Update => Op::Update(self.key(there)),
            Kind::Insert => Op::Insert,
            Kind::Scan => Op::Scan { from: self.key(there), rows: self.rng.random_range(1..=MAX_SCAN_ROWS) },
            Kind::ReadModifyWrite => Op::ReadModifyWrite(self.key(there)),
            Kind::Batch => Op::Batch,
        }
    }

    /// A key among `0..there`, which are at least those that the chooser was made for.
    pub(super) fn key(&mut self, there: u64) -> u64 {
        match &self.chooser {
            Chooser::Uniform => self.rng.random_range(0..there),
            Chooser::Zipfian(zipfian, permutation) => permutation.of(zipfian.rank(self.rng.random())),
            Chooser::Latest(zipfian) => there - 1 - zipfian.rank(self.rng.random()),
        }
    }

    /// A number below `bound`, which is at least 1.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const KEYS: u64 = 10_000;
    const DRAWS: usize = 200_000;

    fn generator(name: Name, seed: u64, lane: u64) -> Generator {
        let Workload { mix, distribution } = name.into();
        Generator::new(mix, Chooser::new(distribution, KEYS), seed, lane)
    }

    fn draw(mut generator: Generator, count: usize) -> Vec<Op> {
        std::iter::repeat_with(|| generator.next(KEYS)).take(count).collect()
    }

    fn key(op: &Op) -> Option<u64> {
        match op {
            Op::Read(key) | Op::Update(key) | Op::ReadModifyWrite(key) | Op::Scan { from: key, .. } => {
                Some(*key)
            }
            Op::Insert | Op::Batch => None,
        }
    }

    /// How often each key was drawn, most often first.
    fn popularity(ops: &[Op]) -> Vec<(u64, usize)> {
        let mut counts = BTreeMap::<u64, usize>::new();
        for key in ops.iter().filter_map(key) {
            *counts.entry(key).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }

    #[test]
    fn a_seed_and_a_lane_repeat_and_others_differ() {
        let ops = draw(generator(Name::E, 7, 3), 1_000);
        assert_eq!(draw(generator(Name::E, 7, 3), 1_000), ops);
        assert_ne!(draw(generator(Name::E, 7, 4), 1_000), ops);
        assert_ne!(draw(generator(Name::E, 8, 3), 1_000), ops);
    }

    #[test]
    fn mixes_are_as_they_say() {
        for name in Name::value_variants() {
            let Workload { mix, .. } = (*name).into();
            assert_eq!(mix.total(), 100, "{name:?}");
            let ops = draw(generator(*name, 1, 0), DRAWS);
            for kind in Kind::ALL {
                let share = ops.iter().filter(|op| op.kind() == kind).count() as f64 / DRAWS as f64;
                let weight = f64::from(mix.weight(kind)) / 100.0;
                assert!((share - weight).abs() < 0.01, "{name:?} {kind:?}: {share}");
                assert!(weight > 0.0 || share == 0.0, "{name:?} {kind:?}: {share}");
            }
            assert!(ops.iter().filter_map(key).all(|key| key < KEYS), "{name:?}");
        }
    }

    #[test]
    fn uniform_wants_all_keys_alike() {
        let popularity = popularity(&draw(generator(Name::Get, 1, 0), DRAWS));
        assert_eq!(popularity.len() as u64, KEYS);
        // 20 draws a key on average, with a standard deviation of 4.5.
        assert!(popularity[0].1 < 60, "{}", popularity[0].1);
    }

    #[test]
    fn zipfian_wants_few_keys_often_and_scatters_them() {
        let popularity = popularity(&draw(generator(Name::C, 1, 0), DRAWS));
        let first = popularity[0].1 as f64 / DRAWS as f64;
        // 1 / zeta(10,000) = 0.098.
        assert!((first - 0.098).abs() < 0.01, "{first}");
        let hundred: usize = popularity.iter().take(100).map(|(_, count)| count).sum();
        assert!((0.48..0.58).contains(&(hundred as f64 / DRAWS as f64)), "{hundred}");
        let hottest: Vec<_> = popularity.iter().take(10).map(|(key, _)| *key).collect();
        assert!(hottest.iter().any(|key| *key > KEYS / 2) && hottest.iter().any(|key| *key < KEYS / 2));
    }

    #[test]
    fn latest_wants_the_newest_also_after_inserts() {
        let mut generator = generator(Name::D, 1, 0);
        for there in [KEYS, 3 * KEYS] {
            let keys: Vec<_> = std::iter::repeat_with(|| generator.key(there)).take(DRAWS).collect();
            let newest = keys.iter().filter(|key| **key == there - 1).count() as f64 / DRAWS as f64;
            assert!((newest - 0.098).abs() < 0.01, "{newest}");
            assert!(keys.iter().all(|key| (there - KEYS..there).contains(key)));
        }
    }

    #[test]
    fn scans_have_every_length() {
        let lengths: std::collections::BTreeSet<_> = draw(generator(Name::E, 1, 0), DRAWS)
            .into_iter()
            .filter_map(|op| if let Op::Scan { rows, .. } = op { Some(rows) } else { None })
            .collect();
        assert_eq!(lengths, (1..=MAX_SCAN_ROWS).collect());
    }
}
