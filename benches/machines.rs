//! Micro-benches of what is pure: the shard machine's `apply`, the key codec, and placement.
//!
//! `cargo bench --bench machines`, with a part of a name to run only those. The state of a shard is a
//! `BTreeMap` here, so these are the costs of the rules, not of RocksDB (raft-store/benches/store.rs).

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    hint::black_box,
};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quoring::{
    command::{Action, At, Command, Condition, Retry, RowOp, Value, Write},
    config::{Partitioner, Settings},
    ids::{ClusterId, GroupId, NodeId, StoreId},
    ring::{
        map::{Map, Worker},
        partitioner,
        placement::{self, Policy, Workers},
    },
    shard::{
        Shard, keys, machine,
        view::{Overlay, Writes},
    },
};
use uuid::Uuid;

/// Cells of the shard that commands are applied to.
const CELLS: u64 = 100_000;

/// Bytes of a value, as in docs/BENCHMARKS.md.
const VALUE_BYTES: usize = 256;

const NOW: At = At(1_700_000_000_000);

const SHARD: Shard = Shard { group: GroupId(1), partitioner: Partitioner::Xxh3 };

type State = BTreeMap<Vec<u8>, Bytes>;

fn put(number: u64, condition: Condition, retry: Option<Retry>) -> Command {
    let value = Value { bytes: Bytes::from(vec![b'v'; VALUE_BYTES]), content_type: None, ttl_ms: None };
    let op = RowOp {
        table: "kv".to_owned(),
        action: Action::Put { column: "value".to_owned(), value },
        condition,
    };
    Command { writes: vec![Write { row: row(number), ops: vec![op] }], retry }
}

fn row(number: u64) -> String {
    // Far from each other, as keys of a real load are.
    format!("k{:012}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % CELLS)
}

fn write(state: &mut State, writes: Writes) {
    for (key, value) in writes.0 {
        match value {
            Some(value) => drop(state.insert(key, value)),
            None => drop(state.remove(&key)),
        }
    }
}

fn shard() -> State {
    let mut state = State::new();
    for number in 0..CELLS {
        let (_, writes) = machine::apply(&state, SHARD, &put(number, Condition::Always, None), NOW).unwrap();
        write(&mut state, writes);
    }
    state
}

fn apply(criterion: &mut Criterion) {
    let state = shard();
    let mut group = criterion.benchmark_group("apply");
    let retry = |number: u64| Some(Retry { key: number.into(), fingerprint: 1 });
    group.throughput(Throughput::Elements(1));
    for (name, condition) in [("put", Condition::Always), ("put if it exists", Condition::Exists)] {
        group.bench_function(name, |bencher| {
            let mut number = 0;
            bencher.iter_batched(
                || {
                    number += 1;
                    put(number, condition.clone(), None)
                },
                |command| machine::apply(&state, SHARD, black_box(&command), NOW),
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("put with an Idempotency-Key", |bencher| {
        let mut number = 0;
        bencher.iter_batched(
            || {
                number += 1;
                put(number, Condition::Always, retry(number))
            },
            |command| machine::apply(&state, SHARD, black_box(&command), NOW),
            BatchSize::SmallInput,
        );
    });
    // As an entry carries them: joined, each on top of the ones before it.
    for joined in [16, 256_u64] {
        let commands: Vec<_> = (0..joined).map(|number| put(number, Condition::Always, None)).collect();
        group.throughput(Throughput::Elements(joined));
        group.bench_with_input(
            BenchmarkId::new("puts in one entry", joined),
            &commands,
            |bencher, commands| {
                bencher.iter(|| {
                    let mut overlay = Overlay::new(&state);
                    for command in black_box(commands) {
                        machine::apply_to(&mut overlay, SHARD, command, NOW).unwrap();
                    }
                    overlay.into_writes()
                });
            },
        );
    }
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("keys");
    let row = row(12_345);
    for partitioner in [Partitioner::Xxh3, Partitioner::Md5, Partitioner::Crc32, Partitioner::Ordered] {
        group.bench_function(BenchmarkId::new("position", format!("{partitioner:?}")), |bencher| {
            bencher.iter(|| partitioner::position(partitioner, black_box(&row)));
        });
    }
    let position = partitioner::position(Partitioner::Xxh3, &row);
    group.bench_function("write a cell's", |bencher| {
        bencher.iter(|| keys::cell(black_box("kv"), position, black_box(&row), black_box("value")));
    });
    let key = keys::cell("kv", position, &row, "value");
    group.bench_function("read a cell's", |bencher| {
        bencher.iter(|| keys::read_cell(black_box(&key)).unwrap())
    });
    let odd = keys::cell("k\0v", position, "a\0row\0with\0zeros", "value");
    group.bench_function("read a cell's with escapes", |bencher| {
        bencher.iter(|| keys::read_cell(black_box(&odd)).unwrap());
    });
    group.finish();
}

/// A cluster that was placed over its workers, and their numbers.
fn placed(workers: u64, shards: u32) -> (Map, BTreeSet<NodeId>) {
    let settings = Settings { shards, ..Settings::default() };
    let mut map = Map::founded(ClusterId(Uuid::nil()), settings, BTreeMap::new());
    for number in 1..=workers {
        join(&mut map, number);
    }
    let nodes: BTreeSet<_> = map.workers.keys().copied().collect();
    let mut map = placement::next(&map, &Workers::active(nodes.clone()), &Policy::default());
    for (index, shard) in map.shards.values_mut().enumerate() {
        shard.group = GroupId(index as u64 + 1);
        shard.formed = true;
    }
    map.check().unwrap();
    (map, nodes)
}

fn join(map: &mut Map, number: u64) {
    let worker = Worker {
        id: format!("w{number}").parse().unwrap(),
        addr: String::new(),
        store: StoreId(Uuid::from_u128(number.into())),
        zone: Some(format!("z{}", number % 10)),
        draining: false,
    };
    map.workers.insert(NodeId(number), worker);
}

fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("placement");
    group.sample_size(10);
    let policy = Policy::default();
    for (workers, shards) in [(3, 16), (30, 1_024), (100, 10_000), (1_000, 100_000)] {
        let (map, nodes) = placed(workers, shards);
        let size = format!("{workers} workers, {shards} shards");
        let all = Workers::active(nodes.clone());
        group.bench_function(BenchmarkId::new("nothing to do", &size), |bencher| {
            bencher.iter(|| placement::next(black_box(&map), &all, &policy));
        });
        let mut joined = map.clone();
        join(&mut joined, workers + 1);
        let more = Workers::active(nodes.iter().copied().chain([NodeId(workers + 1)]).collect());
        group.bench_function(BenchmarkId::new("one joins", &size), |bencher| {
            bencher.iter(|| placement::next(black_box(&joined), &more, &policy));
        });
        let fewer = Workers::active(nodes.into_iter().skip(1).collect());
        group.bench_function(BenchmarkId::new("one is gone", &size), |bencher| {
            bencher.iter(|| placement::next(black_box(&map), &fewer, &policy));
        });
    }
    group.finish();
}

criterion_group!(benches, apply, codec, plans);
criterion_main!(benches);
