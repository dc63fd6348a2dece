//! Placement at size, as the table of docs/BENCHMARKS.md: `cargo bench --bench placement`.
//!
//! For each size: all shards, with three copies, are placed on the workers, then one worker joins, then another one has
//! to be left. Balance is the most that one worker has over the average; moved is the share of all
//! replicas that change their worker, beside the least that could.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use quoring::{
    config::Settings,
    ids::{ClusterId, GroupId, NodeId, StoreId},
    ring::{
        map::{Map, Worker},
        placement::{self, Policy, Workers},
    },
};
use uuid::Uuid;

/// Workers and shards.
const SIZES: [(u64, u32); 5] = [(3, 16), (10, 256), (30, 1_024), (100, 10_000), (1_000, 100_000)];

const ZONES: u64 = 10;

/// Plans of which the median time is shown.
const TIMES: usize = 5;

fn main() {
    // A test run over all targets: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!(
        "| workers | shards | plan | replicas, most / average | primaries, most / average | step | moved | least |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (workers, shards) in SIZES {
        let mut map = founded(shards);
        (1..=workers).for_each(|number| join(&mut map, number));
        let first = plan(&map, &Workers::active(map.workers.keys().copied().collect()));
        line(workers, shards, "all placed", &first, None);

        let mut joined = first.map;
        join(&mut joined, workers + 1);
        let everyone: BTreeSet<NodeId> = joined.workers.keys().copied().collect();
        let joining = plan(&joined, &Workers::active(everyone.clone()));
        // A newcomer's share of all replicas.
        let fair = 1.0 / (workers + 1) as f64;
        line(workers, shards, "one joins", &joining, Some((moved(&joined, &joining.map), fair)));

        let left = NodeId(1);
        let held = f64::from(joining.map.held()[&left]) / f64::from(replicas(&joining.map));
        let others = everyone.into_iter().filter(|node| *node != left).collect();
        let leaving = plan(&joining.map, &Workers::active(others));
        line(workers, shards, "one leaves", &leaving, Some((moved(&joining.map, &leaving.map), held)));
    }
}

struct Planned {
    map: Map,
    took: Duration,
}

fn plan(map: &Map, workers: &Workers) -> Planned {
    let mut took = Vec::new();
    let mut planned = None;
    for _ in 0..TIMES {
        let began = Instant::now();
        planned = Some(placement::next(map, workers, &Policy::default()));
        took.push(began.elapsed());
    }
    took.sort();
    let mut map = planned.unwrap();
    for (index, shard) in map.shards.values_mut().enumerate() {
        shard.group = GroupId(index as u64 + 1);
        shard.formed = true;
    }
    map.check().unwrap();
    Planned { map, took: took[TIMES / 2] }
}

fn line(workers: u64, shards: u32, step: &str, planned: &Planned, moved: Option<(f64, f64)>) {
    let most_over_average = |loads: Vec<u32>| {
        let busy: Vec<u32> = loads.into_iter().filter(|load| *load > 0).collect();
        let average = f64::from(busy.iter().sum::<u32>()) / busy.len() as f64;
        f64::from(*busy.iter().max().unwrap()) / average
    };
    let mut primaries = BTreeMap::<NodeId, u32>::new();
    for shard in planned.map.shards.values() {
        *primaries.entry(shard.replicas[0]).or_default() += 1;
    }
    let (moved, least) = match moved {
        Some((moved, least)) => (format!("{:.2} %", moved * 100.0), format!("{:.2} %", least * 100.0)),
        None => ("-".to_owned(), "-".to_owned()),
    };
    println!(
        "| {workers} | {shards} | {:.1} ms | {:.2} | {:.2} | {step} | {moved} | {least} |",
        planned.took.as_secs_f64() * 1e3,
        most_over_average(planned.map.held().into_values().collect()),
        most_over_average(primaries.into_values().collect()),
    );
}

fn replicas(map: &Map) -> u32 {
    map.held().into_values().sum()
}

/// The share of all replicas that are on another worker than before.
fn moved(before: &Map, after: &Map) -> f64 {
    let new = after.shards.iter().map(|(start, shard)| {
        let old = &before.shards[start].replicas;
        shard.replicas.iter().filter(|node| !old.contains(node)).count()
    });
    new.sum::<usize>() as f64 / f64::from(replicas(after))
}

fn founded(shards: u32) -> Map {
    let settings = Settings { shards, ..Settings::default() };
    Map::founded(ClusterId(Uuid::nil()), settings, BTreeMap::new())
}

fn join(map: &mut Map, number: u64) {
    let worker = Worker {
        id: format!("w{number}").parse().unwrap(),
        addr: String::new(),
        store: StoreId(Uuid::from_u128(number.into())),
        zone: Some(format!("z{}", number % ZONES)),
        draining: false,
    };
    map.workers.insert(NodeId(number), worker);
}
