//! What a layer of hot values above RocksDB would save on a point read: the read as the leader does
//! it (a moment of the state, two lookups, decoding) against a cache of decoded cells before it.
//!
//! `cargo bench --bench hot_values`. docs/decisions/0009 says what follows.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};
use quoring::{
    clock,
    command::{Action, Answer, Cell, Command, Condition, Proposal, Query, RowOp, Value, Write},
    config::Partitioner,
    consensus::{alarms::Timer, group::Group, host::Host, machine::ShardView},
    ids::{GroupId, NodeId, Opening, Span, StoreId},
    peer::{Conn, Handler, Identity, Links, Reply},
    shard::{Shard, query},
};
use raft_store::{Options, Store, types::Node};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};
use tempfile::TempDir;

const SHARD: Shard = Shard { group: GroupId(1), partitioner: Partitioner::Xxh3 };

const VALUE_BYTES: usize = 256;

/// Memory of the layer, a quarter of what RocksDB's block cache has.
const LAYER_BYTES: u64 = 64 << 20;

/// The skew of YCSB.
const THETA: f64 = 0.99;

/// Reads of one thread in a round, all chosen beforehand.
const READS: usize = 400_000;

/// Keys written by one command.
const BATCH: u64 = 2_000;

/// A node that nobody calls.
struct Nobody;

impl Handler for Nobody {
    fn dispatch(&self, _: &Arc<Conn>, _: u8, _: Bytes, reply: Reply) {
        reply.busy();
    }
}

fn row(number: u64) -> String {
    // Far from each other, as keys of a real load are.
    format!("k{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn cell(number: u64) -> Query {
    Query::Cell { table: "kv".to_owned(), row: row(number), column: "value".to_owned() }
}

/// The only replica of a shard with so many keys, flushed to files.
async fn shard(dir: &TempDir, keys: u64) -> (Store, Arc<Host>, Arc<Group>) {
    let store = Store::open(Options::at(dir.path())).unwrap();
    let id = StoreId(store.id());
    let opening = Opening { id: 1, height: store.opened_at() };
    let me = Identity { cluster: None, node: Some(NodeId(1)), store: id, opening };
    let host = Host::new(store.clone());
    host.connect(Links::new(me, Arc::new(Nobody), Arc::new(|| 0)).0, Timer::Kernel);
    let group = host.start(SHARD.group, NodeId(1), host.shard(SHARD)).await.unwrap();
    let member = Node { addr: "127.0.0.1:1".to_owned(), store: id.0 };
    group.initialize(BTreeMap::from([(NodeId(1), member)])).await.unwrap();
    while !group.is_leader() {
        tokio::task::yield_now().await;
    }
    let mut random = SmallRng::seed_from_u64(1);
    for first in (0..keys).step_by(usize::try_from(BATCH).unwrap()) {
        let writes = (first..first + BATCH).map(|number| {
            let mut bytes = vec![0; VALUE_BYTES];
            random.fill_bytes(&mut bytes);
            let value: Value = Value { bytes: bytes.into(), content_type: None, ttl_ms: None };
            let action = Action::Put { column: "value".to_owned(), value };
            let op = RowOp { table: "kv".to_owned(), action, condition: Condition::Always };
            Write { row: row(number), ops: vec![op] }
        });
        let command = Command { writes: writes.collect(), retry: None };
        let bytes = postcard::to_stdvec(&Proposal::Command(command)).unwrap().into();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        group.propose(bytes, deadline).await.unwrap();
    }
    store.flush().unwrap();
    (store, host, group)
}

fn from_store(group: &Group, query: &Query) -> Cell {
    let view = ShardView::of(group.reader()).unwrap();
    match query::answer(&view, SHARD, Span::RING, query, clock::now()).unwrap() {
        Some(Answer::Cell(cell)) => cell,
        other => panic!("{other:?}"),
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<(u64, String), Cell> for Weight {
    fn weight(&self, key: &(u64, String), cell: &Cell) -> u64 {
        (key.1.len() + cell.bytes.len() + 128) as u64
    }
}

type Layer = Cache<(u64, String), Cell, Weight>;

fn from_layer(layer: &Layer, group: &Group, query: &Query) -> (Cell, bool) {
    let Query::Cell { row, .. } = query else { panic!("only cells are asked for") };
    let key = (1, row.clone());
    if let Some(cell) = layer.get(&key) {
        return (cell, true);
    }
    let cell = from_store(group, query);
    layer.insert(key, cell.clone());
    (cell, false)
}

/// Which keys a thread reads.
fn choose(keys: u64, zipfian: bool, thread: u64) -> Vec<Query> {
    let mut random = SmallRng::seed_from_u64(7 + thread);
    let mut sums = Vec::new();
    if zipfian {
        let mut sum = 0.0;
        sums.extend((1..=keys).map(|rank| {
            sum += (rank as f64).powf(-THETA);
            sum
        }));
    }
    let reads = (0..READS).map(|_| {
        let number = match sums.last() {
            None => random.random_range(0..keys),
            Some(all) => {
                let point = random.random::<f64>() * all;
                sums.partition_point(|sum| *sum < point) as u64
            }
        };
        cell(number.min(keys - 1))
    });
    reads.collect()
}

/// Nanoseconds of one read, with so many threads at once.
fn measure(reads: &[Vec<Query>], read: impl Fn(&Query) + Sync) -> f64 {
    let round = || {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for reads in reads {
                scope.spawn(|| reads.iter().for_each(&read));
            }
        });
        began.elapsed().as_nanos() as f64 / READS as f64
    };
    // The first one warms; the best of the others has met the fewest strangers.
    round();
    (0..3).map(|_| round()).fold(f64::MAX, f64::min)
}

fn main() {
    // Not `cargo bench`, but a test run over all targets: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!(
        "{:>9} {:>8} {:>7} {:>10} {:>10} {:>6} {:>10}",
        "keys", "choice", "threads", "store ns", "layer ns", "ratio", "layer hits"
    );
    for keys in [100_000, 1_000_000] {
        let dir = tempfile::tempdir().unwrap();
        let (store, host, group) = runtime.block_on(shard(&dir, keys));
        for (name, zipfian) in [("uniform", false), ("zipfian", true)] {
            for threads in [1, 2] {
                let reads: Vec<_> = (0..threads).map(|thread| choose(keys, zipfian, thread)).collect();
                let before = store.stats();
                let plain = measure(&reads, |query| drop(black_box(from_store(&group, query))));
                let after = store.stats();
                let layer = Layer::with_weighter(100_000, LAYER_BYTES, Weight);
                let (hits, all) =
                    (std::sync::atomic::AtomicU64::new(0), std::sync::atomic::AtomicU64::new(0));
                let with_layer = measure(&reads, |query| {
                    let (cell, hit) = from_layer(&layer, &group, query);
                    black_box(cell);
                    hits.fetch_add(u64::from(hit), std::sync::atomic::Ordering::Relaxed);
                    all.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                });
                let share = hits.into_inner() as f64 / all.into_inner() as f64;
                println!(
                    "{keys:>9} {name:>8} {threads:>7} {plain:>10.0} {with_layer:>10.0} {:>6.2} {:>9.1}%",
                    plain / with_layer,
                    share * 100.0
                );
                let [blocks, missed] = [
                    after.block_cache_hits_total - before.block_cache_hits_total,
                    after.block_cache_misses_total - before.block_cache_misses_total,
                ];
                println!(
                    "{:>9} block cache: {:.1} % of {} blocks",
                    "",
                    blocks as f64 * 100.0 / (blocks + missed) as f64,
                    blocks + missed
                );
            }
        }
        runtime.block_on(host.shutdown());
        store.shutdown().unwrap();
    }
}
