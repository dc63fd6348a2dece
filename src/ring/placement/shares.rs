//! What is a fair load: how many replicas each worker would keep if all were equal, as far as zones
//! allow it, and the bounds around that.
//!
//! Where zones are of unequal size, "distinct zones" and "everyone the same" contradict each other:
//! with zones of 1, 1 and 4 workers and three copies, the two that are alone must keep a copy of
//! every shard. Zones win, so the average that a worker's bounds are taken from is its zone's.

/// The load that each worker of a zone would bear, as a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Replicas of the whole zone.
    pub(super) replicas: u64,
    /// Divided by this: the workers of the zone, times what makes `replicas` whole.
    pub(super) divisor: u64,
}

impl Share {
    /// The most that a worker may bear, `slack_percent` above the share.
    pub(super) fn upper(self, slack_percent: u32) -> u64 {
        let slack = 100 + u64::from(slack_percent);
        (self.replicas * slack).div_ceil(self.divisor * 100)
    }

    /// The least that a worker should bear, `slack_percent` below the share.
    pub(super) fn lower(self, slack_percent: u32) -> u64 {
        let slack = 100 - u64::from(slack_percent.min(100));
        self.replicas * slack / (self.divisor * 100)
    }

    /// The share itself, rounded up.
    pub(super) fn fair(self) -> u64 {
        self.replicas.div_ceil(self.divisor)
    }

    /// Both bounds rounded inwards, but not past the share: tighter where a whole one is more than the
    /// slack.
    pub(super) fn inner(self, slack_percent: u32) -> (u64, u64) {
        let slack = u64::from(slack_percent.min(100));
        let lower = (self.replicas * (100 - slack)).div_ceil(self.divisor * 100);
        let upper = self.replicas * (100 + slack) / (self.divisor * 100);
        (lower.min(self.replicas / self.divisor), upper.max(self.fair()))
    }
}

/// The shares of zones with these numbers of workers, each at least 1, for `shards` shards of
/// `copies` replicas; there are at least `copies` workers.
///
/// Every worker gets the same, but a zone no more than one replica of each shard where there are
/// zones enough for all copies, and no fewer than one of each where there are not. What a zone may
/// not take or must have is fixed step by step, and the rest is shared out anew among the others
/// (as CSS resolves flexible lengths: of two kinds of violation the larger is fixed first).
pub(super) fn shares(zones: &[u64], shards: u64, copies: u64) -> Vec<Share> {
    let count = zones.len() as u64;
    let least = if count <= copies { shards } else { 0 };
    let most = |workers: u64| {
        if count >= copies { shards } else { shards * workers.min(copies - count + 1) }
    };
    let mut fixed: Vec<Option<u64>> = vec![None; zones.len()];
    loop {
        let free_workers: u64 =
            zones.iter().zip(&fixed).filter(|(_, fixed)| fixed.is_none()).map(|(workers, _)| workers).sum();
        let rest = (shards * copies).saturating_sub(fixed.iter().flatten().sum());
        // A zone's violation times `free_workers`, to stay whole.
        let violation = |workers: u64| {
            let wanted = i128::from(rest) * i128::from(workers);
            let limit = |replicas: u64| i128::from(replicas) * i128::from(free_workers);
            wanted.clamp(limit(least), limit(most(workers))) - wanted
        };
        let free = || zones.iter().zip(&fixed).filter(|(_, fixed)| fixed.is_none());
        let total: i128 = free().map(|(workers, _)| violation(*workers)).sum();
        let to_fix: Vec<Option<u64>> = zones
            .iter()
            .zip(&fixed)
            .map(|(workers, fixed)| match violation(*workers) {
                _ if fixed.is_some() => None,
                violation if violation > 0 && total >= 0 => Some(least),
                violation if violation < 0 && total <= 0 => Some(most(*workers)),
                _ => None,
            })
            .collect();
        if to_fix.iter().all(Option::is_none) {
            let share = |(workers, fixed): (&u64, &Option<u64>)| match fixed {
                Some(replicas) => Share { replicas: *replicas, divisor: *workers },
                None => Share { replicas: rest, divisor: free_workers },
            };
            return zones.iter().zip(&fixed).map(share).collect();
        }
        for (fixed, new) in fixed.iter_mut().zip(to_fix) {
            *fixed = fixed.or(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(zones: &[u64], shards: u64, copies: u64) -> Vec<(u64, u64)> {
        shares(zones, shards, copies).iter().map(|share| (share.replicas, share.divisor)).collect()
    }

    #[test]
    fn equal_zones_share_equally() {
        assert_eq!(of(&[1; 5], 100, 3), [(300, 5); 5], "workers without zones");
        assert_eq!(of(&[2, 2, 2], 100, 3), [(300, 6); 3]);
        assert_eq!(of(&[4], 100, 3), [(300, 4)]);
    }

    #[test]
    fn zones_win_over_equality() {
        assert_eq!(of(&[1, 1, 4], 100, 3), [(100, 1), (100, 1), (100, 4)]);
        assert_eq!(of(&[1, 3, 4], 100, 3), [(100, 1), (100, 3), (100, 4)]);
        assert_eq!(of(&[6, 2, 2, 2], 100, 3), [(100, 6), (200, 6), (200, 6), (200, 6)]);
        assert_eq!(of(&[1, 9], 100, 3), [(100, 1), (200, 9)], "one of each in the small zone");
        assert_eq!(of(&[2, 2], 100, 3), [(300, 4), (300, 4)]);
    }

    #[test]
    fn bounds_round_outwards() {
        let share = Share { replicas: 48, divisor: 5 };
        assert_eq!((share.lower(10), share.fair(), share.upper(10)), (8, 10, 11));
    }

    #[test]
    fn inner_bounds_are_no_more_than_one_apart_where_the_slack_is_less() {
        let inner = |replicas, divisor| Share { replicas, divisor }.inner(10);
        assert_eq!(inner(4, 4), (1, 1));
        assert_eq!(inner(3, 4), (0, 1));
        assert_eq!(inner(48, 5), (9, 10));
        assert_eq!(inner(320, 10), (29, 35));
    }

    proptest! {
        #[test]
        fn shares_add_up_and_keep_to_the_limits(
            zones in proptest::collection::vec(1u64..9, 1..9), shards in 1u64..200, copies in 1u64..8,
        ) {
            let copies = copies.min(zones.iter().sum());
            let shares = shares(&zones, shards, copies);
            let of_zone = |(workers, share): (&u64, &Share)| {
                share.replicas as f64 / share.divisor as f64 * *workers as f64
            };
            let all: Vec<f64> = zones.iter().zip(&shares).map(of_zone).collect();
            prop_assert!((all.iter().sum::<f64>() - (shards * copies) as f64).abs() < 1e-6, "{all:?}");
            for ((zone, share), workers) in all.iter().zip(&shares).zip(&zones) {
                prop_assert!(*zone <= (shards * workers) as f64 + 1e-6);
                if zones.len() as u64 >= copies {
                    prop_assert!(*zone <= shards as f64 + 1e-6);
                }
                if zones.len() as u64 <= copies {
                    prop_assert!(*zone >= shards as f64 - 1e-6);
                }
                prop_assert!(share.lower(10) <= share.fair() && share.fair() <= share.upper(10));
            }
        }
    }
}
