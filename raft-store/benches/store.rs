//! The log writer's group commit: how many appends a second are durable, and how many syncs that
//! takes, by the number of groups that append at once.
//!
//! `cargo bench -p raft-store --bench store`. Every group is as its Raft leader would be with one
//! entry in flight: it appends an entry, waits for the flush callback, appends the next. The disk is
//! that of `TMPDIR`; on a memory file system the numbers mean nothing.

#![allow(missing_docs, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::{
    EntryPayload,
    alias::LeaderIdOf,
    storage::{IOFlushed, RaftLogStorage as _},
    type_config::TypeConfigExt as _,
    vote::RaftLeaderId as _,
};
use raft_store::{
    GroupLog, Options, Store,
    types::{Command, Entry, LogId, TypeConfig},
};
use tempfile::TempDir;

/// How many groups append at once.
const GROUPS: [u64; 4] = [1, 16, 64, 256];

/// Bytes of an entry's command.
const ENTRY_BYTES: usize = 256;

/// How long each number of groups is measured, after [`WARM_UP`].
const MEASURED: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(1);

/// Appends until `until`, an entry at a time.
async fn append(mut log: GroupLog, mut index: u64, until: Instant) -> u64 {
    let command = Command(Bytes::from(vec![b'e'; ENTRY_BYTES]));
    while Instant::now() < until {
        let log_id = LogId::new(LeaderIdOf::<TypeConfig>::new(1, 1), index);
        let entry = Entry { log_id, payload: EntryPayload::Normal(command.clone()) };
        let (sender, receiver) = TypeConfig::oneshot();
        log.append([entry], IOFlushed::signal(sender)).await.unwrap();
        receiver.await.unwrap().unwrap();
        index += 1;
    }
    index
}

/// All groups append for so long, each from its own index on.
async fn run(store: &Store, next: &mut [u64], length: Duration) {
    let until = Instant::now() + length;
    let tasks: Vec<_> = next
        .iter()
        .zip(1..)
        .map(|(index, group)| tokio::spawn(append(store.log(group), *index, until)))
        .collect();
    for (task, index) in tasks.into_iter().zip(next) {
        *index = task.await.unwrap();
    }
}

fn main() {
    // Not `cargo bench`, but a test run over all targets: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!(
        "{:>6} {:>12} {:>10} {:>14} {:>12}",
        "GROUPS", "APPENDS/S", "SYNCS/S", "APPENDS/SYNC", "MEAN SYNC US"
    );
    for groups in GROUPS {
        let dir = TempDir::new().unwrap();
        let store = Store::open(Options::at(dir.path())).unwrap();
        let mut next = vec![1; usize::try_from(groups).unwrap()];
        runtime.block_on(run(&store, &mut next, WARM_UP));
        let (before, begin) = (store.stats(), Instant::now());
        runtime.block_on(run(&store, &mut next, MEASURED));
        let (after, seconds) = (store.stats(), begin.elapsed().as_secs_f64());
        let appends = (after.appends_total - before.appends_total) as f64;
        let syncs = (after.syncs_total - before.syncs_total) as f64;
        let sync_us = (after.sync_us_total - before.sync_us_total) as f64;
        println!(
            "{groups:>6} {:>12.0} {:>10.0} {:>14.1} {:>12.0}",
            appends / seconds,
            syncs / seconds,
            appends / syncs,
            sync_us / syncs
        );
    }
}
