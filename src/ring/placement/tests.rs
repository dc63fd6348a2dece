//! Properties of placement, over small clusters of every shape, and one large one.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::{Policy, Workers, next, shares};
use crate::{
    config::{Partitioner, Settings},
    ids::{ClusterId, GroupId, NodeId, StoreId},
    ring::map::{Map, Worker},
};

fn cluster(shards: u32, replication: u32, zones: &[Option<u8>]) -> Map {
    let settings = Settings {
        name: "test".to_owned(),
        replication,
        shards,
        partitioner: Partitioner::Xxh3,
        ping_interval_ms: 5_000,
        inactive_after_ms: 15_000,
        replace_after_ms: 60_000,
        request_timeout_ms: 5_000,
        max_value_bytes: 8 << 20,
        split_size_bytes: 0,
    };
    let mut map = Map::founded(ClusterId(Uuid::nil()), settings, BTreeMap::new());
    for zone in zones {
        join(&mut map, *zone);
    }
    map
}

fn join(map: &mut Map, zone: Option<u8>) -> NodeId {
    let node = NodeId(map.workers.keys().next_back().map_or(1, |last| last.0 + 1));
    let id = format!("w{node}").parse().unwrap();
    let store = StoreId(Uuid::from_u128(node.0.into()));
    let zone = zone.map(|zone| format!("z{zone}"));
    map.workers.insert(node, Worker { id, addr: String::new(), store, zone, draining: false });
    node
}

fn all(map: &Map) -> BTreeSet<NodeId> {
    map.workers.keys().copied().collect()
}

/// Places over the eligible workers, as the coordinators do: new shards get numbers, and are formed
/// before the next change.
fn place(map: &Map, eligible: &BTreeSet<NodeId>) -> Map {
    let mut placed = next(map, &Workers::active(eligible.clone()), &Policy::default());
    for (index, shard) in placed.shards.values_mut().enumerate() {
        shard.group = GroupId(index as u64 + 1);
        shard.formed = true;
    }
    assert_eq!(placed.check(), Ok(()));
    placed
}

/// Replicas that `after` has and `before` has not.
fn added(before: &Map, after: &Map) -> usize {
    after
        .shards
        .iter()
        .map(|(start, shard)| {
            let old = &before.shards[start].replicas;
            shard.replicas.iter().filter(|node| !old.contains(node)).count()
        })
        .sum()
}

fn loads(map: &Map, eligible: &BTreeSet<NodeId>) -> BTreeMap<NodeId, usize> {
    eligible.iter().map(|node| (*node, map.shards_of(*node).count())).collect()
}

fn leads(map: &Map, eligible: &BTreeSet<NodeId>) -> BTreeMap<NodeId, usize> {
    let led = |node| map.shards.values().filter(|shard| shard.replicas[0] == node).count();
    eligible.iter().map(|node| (*node, led(*node))).collect()
}

/// floor((1 − slack) · average), ceil((1 + slack) · average).
fn bounds(things: usize, workers: usize) -> (usize, usize) {
    let slack = Policy::default().slack_percent as usize;
    (things * (100 - slack) / (workers * 100), (things * (100 + slack)).div_ceil(workers * 100))
}

#[track_caller]
fn check_bounds(map: &Map, eligible: &BTreeSet<NodeId>) {
    let copies = eligible.len().min(map.settings.replication as usize);
    let (lower, upper) = bounds(map.shards.len() * copies, eligible.len());
    let loads = loads(map, eligible);
    assert!(loads.values().all(|load| (lower..=upper).contains(load)), "{lower} to {upper}: {loads:?}");
}

#[track_caller]
fn check_primaries(map: &Map, eligible: &BTreeSet<NodeId>) {
    let (lower, upper) = bounds(map.shards.len(), eligible.len());
    let leads = leads(map, eligible);
    assert!(leads.values().all(|count| (lower..=upper).contains(count)), "{lower} to {upper}: {leads:?}");
}

/// As many zones as there are, up to the number of replicas.
#[track_caller]
fn check_zones(map: &Map, eligible: &BTreeSet<NodeId>) {
    let zone = |node: &NodeId| match &map.workers[node].zone {
        Some(zone) => zone.clone(),
        None => format!("alone {node}"),
    };
    let zones: BTreeSet<_> = eligible.iter().map(zone).collect();
    for shard in map.shards.values() {
        let used: BTreeSet<_> = shard.replicas.iter().map(zone).collect();
        assert_eq!(used.len(), shard.replicas.len().min(zones.len()), "{shard:?}");
    }
}

/// The least number of replicas that must be made, by counting: what is missing, and what the
/// bounds ask for on top of that. No solver can do with fewer.
fn least_added(before: &Map, eligible: &BTreeSet<NodeId>) -> usize {
    let copies = eligible.len().min(before.settings.replication as usize);
    let (lower, upper) = bounds(before.shards.len() * copies, eligible.len());
    let kept = loads(before, eligible);
    let missing = before.shards.len() * copies - kept.values().sum::<usize>();
    let above: usize = kept.values().map(|load| load.saturating_sub(upper)).sum();
    let below: usize = kept.values().map(|load| lower.saturating_sub(*load)).sum();
    missing + above.max(below.saturating_sub(missing))
}

/// A naive solver: from scratch, round robin over the eligible workers.
fn round_robin(map: &Map, eligible: &BTreeSet<NodeId>) -> Map {
    let mut map = map.clone();
    let copies = eligible.len().min(map.settings.replication as usize);
    let mut turn = eligible.iter().copied().cycle();
    for shard in map.shards.values_mut() {
        shard.replicas = turn.by_ref().take(copies).collect();
    }
    map
}

fn zone() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![1 => Just(None), 3 => (0u8..4).prop_map(Some)]
}

proptest! {
    #[test]
    fn a_new_cluster_is_even(shards in 1u32..120, replication in 1u32..6, workers in 1usize..30) {
        let map = cluster(shards, replication, &vec![None; workers]);
        let placed = place(&map, &all(&map));
        prop_assert_eq!(placed.shards.len(), shards as usize);
        check_bounds(&placed, &all(&map));
        check_primaries(&placed, &all(&map));
        prop_assert_eq!(&place(&map, &all(&map)), &placed, "the same input gives the same map");
        prop_assert_eq!(&place(&placed, &all(&map)), &placed, "nothing more to do");
    }

    #[test]
    fn zones_are_spread_whatever_their_sizes(
        shards in 1u32..60, replication in 1u32..5, zones in proptest::collection::vec(zone(), 1..16),
        joins in proptest::collection::vec(zone(), 0..5), leaves: u32,
    ) {
        let mut map = cluster(shards, replication, &zones);
        map = place(&map, &all(&map));
        check_zones(&map, &all(&map));
        for zone in joins {
            join(&mut map, zone);
        }
        let placed = place(&map, &all(&map));
        check_zones(&placed, &all(&map));
        prop_assert_eq!(&place(&placed, &all(&map)), &placed, "nothing more to do");
        let stay: BTreeSet<NodeId> =
            all(&map).into_iter().filter(|node| leaves >> (node.0 % 32) & 1 == 0).collect();
        if stay.len() >= replication as usize {
            let placed = place(&placed, &stay);
            check_zones(&placed, &stay);
            prop_assert_eq!(&place(&placed, &stay), &placed, "nothing more to do");
        }
    }

    /// Where every zone has the same number of workers, zones cost nothing of the bounds.
    #[test]
    fn equal_zones_keep_the_bounds(shards in 1u32..90, replication in 1u32..4, each in 1usize..5, zones in 3u8..6) {
        let zones: Vec<_> = (0..zones).flat_map(|zone| vec![Some(zone); each]).collect();
        let map = cluster(shards, replication, &zones);
        let placed = place(&map, &all(&map));
        check_bounds(&placed, &all(&map));
        check_zones(&placed, &all(&map));
    }

    #[test]
    fn joining_moves_the_least(
        shards in 1u32..120, replication in 1u32..6, workers in 1usize..20, joins in 1usize..4,
    ) {
        let mut map = cluster(shards, replication, &vec![None; workers]);
        map = place(&map, &all(&map));
        for _ in 0..joins {
            join(&mut map, None);
        }
        let placed = place(&map, &all(&map));
        check_bounds(&placed, &all(&map));
        check_primaries(&placed, &all(&map));
        let moved = added(&map, &placed);
        let least = least_added(&map, &all(&map));
        if workers >= replication as usize {
            prop_assert_eq!(moved, least);
        } else {
            // Copies are missing too, and who gets them is decided one shard after the other.
            prop_assert!(moved >= least && moved <= least + least / 8 + 2, "{moved}, least {least}");
        }
        prop_assert!(moved <= added(&map, &round_robin(&map, &all(&map))));
        if workers >= replication as usize {
            // K/N, what a worker keeps on the average, for each that joined; and a replica of each of
            // the others, whose bound may be rounded down.
            let (_, most) = bounds((shards * replication) as usize * joins, workers + joins);
            prop_assert!(moved <= most + workers, "{moved} of {most}");
        }
    }

    #[test]
    fn leaving_moves_what_was_there(
        shards in 1u32..120, replication in 1u32..6, workers in 2usize..20, leaves: u32, drain: bool,
    ) {
        let mut map = cluster(shards, replication, &vec![None; workers]);
        map = place(&map, &all(&map));
        let stay: BTreeSet<NodeId> =
            all(&map).into_iter().filter(|node| node.0 == 1 || leaves >> (node.0 % 32) & 1 == 0).collect();
        for (node, worker) in &mut map.workers {
            worker.draining = drain && !stay.contains(node);
        }
        let placed = place(&map, &stay);
        check_bounds(&placed, &stay);
        check_primaries(&placed, &stay);
        let moved = added(&map, &placed);
        let least = least_added(&map, &stay);
        prop_assert!(moved >= least && moved <= least + least / 8 + 2, "{moved}, least {least}");
        for shard in placed.shards.values() {
            let gone = shard.replicas.iter().filter(|node| !stay.contains(node)).count();
            // Whoever is merely gone may come back, and keeps the place that nobody can take.
            let vacant = (replication as usize).min(workers) - stay.len().min(replication as usize);
            prop_assert!(gone <= if drain { 0 } else { vacant }, "{shard:?}");
        }
        prop_assert_eq!(&place(&placed, &stay), &placed, "nothing more to do");
    }

    /// One after the other comes and goes: nothing drifts.
    #[test]
    fn the_bounds_hold_over_a_long_life(
        shards in 1u32..60, events in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..20),
    ) {
        let mut map = cluster(shards, 3, &[None; 4]);
        for (joins, who) in events {
            let workers: Vec<NodeId> = all(&map).into_iter().collect();
            if joins || workers.len() <= 3 {
                join(&mut map, None);
            } else {
                let leaver = workers[who.index(workers.len())];
                map = place(&map, &all(&map).into_iter().filter(|node| *node != leaver).collect());
                map.workers.remove(&leaver);
            }
            map = place(&map, &all(&map));
            check_bounds(&map, &all(&map));
            check_primaries(&map, &all(&map));
        }
    }

    /// One shard for each worker, of which each leads one, also when they have come one after the other.
    #[test]
    fn each_worker_leads_a_shard(workers in 3u32..12, more in 0usize..4) {
        let mut map = cluster(workers, 3, &[None; 3]);
        map = place(&map, &all(&map));
        for _ in 3..workers {
            join(&mut map, None);
            map = place(&map, &all(&map));
        }
        prop_assert!(leads(&map, &all(&map)).values().all(|count| *count == 1), "{:?}", map.shards);
        for _ in 0..more {
            join(&mut map, None);
            map = place(&map, &all(&map));
        }
        prop_assert!(leads(&map, &all(&map)).values().all(|count| *count <= 1), "{:?}", map.shards);
    }

    #[test]
    fn shards_that_are_not_formed_stay(shards in 1u32..40, joins in 1usize..5) {
        let map = cluster(shards, 3, &[None; 3]);
        let mut placed = place(&map, &all(&map));
        for shard in placed.shards.values_mut() {
            shard.formed = shard.group.0 % 2 == 0;
        }
        for _ in 0..joins {
            join(&mut placed, None);
        }
        let workers = Workers::active(all(&placed).into_iter().skip(1).collect());
        let moved = next(&placed, &workers, &Policy::default());
        for (start, shard) in moved.shards.iter().filter(|(_, shard)| !shard.formed) {
            prop_assert_eq!(shard, &placed.shards[start]);
        }
    }
}

#[test]
fn without_workers_nothing_changes() {
    let map = cluster(16, 3, &[None; 3]);
    let without = |workers: Workers| assert_eq!(next(&map, &workers, &Policy::default()), map);
    without(Workers::default());
    without(Workers::active(BTreeSet::from([NodeId(99)])));
    without(Workers { active: BTreeSet::new(), silent: all(&map) });
}

#[test]
fn silent_workers_keep_what_they_have_and_are_given_nothing() {
    let map = cluster(16, 3, &[None; 5]);
    let mut map = place(&map, &all(&map));
    let silent = NodeId(2);
    for _ in 0..2 {
        join(&mut map, None);
    }
    let leaver = NodeId(3);
    let active: BTreeSet<NodeId> =
        all(&map).into_iter().filter(|node| ![silent, leaver].contains(node)).collect();
    let workers = Workers { active, silent: BTreeSet::from([silent]) };
    let placed = next(&map, &workers, &Policy::default());
    assert_eq!(placed.shards_of(leaver).count(), 0);
    for (start, shard) in &placed.shards {
        assert!(!shard.replicas.contains(&silent) || map.shards[start].replicas.contains(&silent));
        assert_eq!(shard.replicas.len(), 3);
    }
    assert_eq!(next(&placed, &workers, &Policy::default()), placed);
}

#[test]
fn draining_does_not_cost_a_copy_that_a_silent_worker_should_take() {
    let map = cluster(16, 3, &[None; 3]);
    let mut map = place(&map, &all(&map));
    map.workers.get_mut(&NodeId(1)).unwrap().draining = true;
    let silent = join(&mut map, None);
    let active = BTreeSet::from([NodeId(2), NodeId(3)]);
    let placed = next(&map, &Workers { active, silent: BTreeSet::from([silent]) }, &Policy::default());
    assert_eq!(placed.shards_of(NodeId(1)).count(), 16);
    assert_eq!(added(&map, &placed), 0);
}

#[test]
fn a_worker_that_is_gone_keeps_its_place_until_somebody_can_take_it() {
    let map = cluster(16, 3, &[None; 3]);
    let mut map = place(&map, &all(&map));
    let gone = NodeId(2);
    let without = |map: &Map| all(map).into_iter().filter(|node| *node != gone).collect::<BTreeSet<_>>();
    let alone = place(&map, &without(&map));
    assert_eq!(added(&map, &alone), 0);
    assert_eq!(alone.shards_of(gone).count(), 16, "its vote still counts when it comes back");
    assert_eq!(leads(&alone, &all(&map))[&gone], 0, "and leads nothing meanwhile");
    join(&mut map, None);
    let replaced = place(&map, &without(&map));
    assert_eq!(replaced.shards_of(gone).count(), 0);
    assert_eq!(added(&map, &replaced), 16);
}

/// The size that the design is made for. Times are in the benches.
#[test]
fn a_thousand_workers_and_a_hundred_thousand_shards() {
    let zones: Vec<_> = (0..1000).map(|worker| Some((worker % 5) as u8)).collect();
    let mut map = cluster(0, 3, &zones);
    map.settings.shards = 100_000;
    let placed = place(&map, &all(&map));
    check_bounds(&placed, &all(&map));
    check_primaries(&placed, &all(&map));
    check_zones(&placed, &all(&map));

    let mut grown = placed.clone();
    let newcomer = join(&mut grown, Some(0));
    let joined = place(&grown, &all(&grown));
    check_bounds(&joined, &all(&grown));
    check_zones(&joined, &all(&grown));
    let moved = added(&grown, &joined);
    let share = shares::Share { replicas: 300_000, divisor: 1001 };
    assert!((share.lower(10)..=share.upper(10)).contains(&(moved as u64)), "{moved} replicas moved");
    assert_eq!(joined.shards_of(newcomer).count(), moved, "only to the newcomer");

    let stay: BTreeSet<NodeId> = all(&placed).into_iter().filter(|node| node.0 != 500).collect();
    let left = place(&placed, &stay);
    check_bounds(&left, &stay);
    check_zones(&left, &stay);
    assert_eq!(added(&placed, &left), placed.shards_of(NodeId(500)).count(), "only what was there");
}
