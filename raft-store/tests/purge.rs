//! Purges of the log: only of what is durable, and mostly before it would be in a file.
#![allow(clippy::unwrap_used)]

use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use raft_store::{Options, Store};
use tempfile::TempDir;

use crate::common::{Kv, append, append_later, apply_from_log, indexes, log_id, open, put, small};

mod common;

#[tokio::test]
async fn only_durable_state_lets_the_log_be_purged() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let (mut log, mut machine) = (store.log(1), store.machine(1, Kv::default()).unwrap());
    append(&mut log, (1..=10).map(|n| put(1, n, "k", "v")).collect()).await.unwrap();
    assert!(log.purge(log_id(1, 1)).await.is_err());
    apply_from_log(&mut machine, &mut log, 1, 5).await.unwrap();
    assert!(log.purge(log_id(1, 6)).await.is_err());
    assert_eq!(indexes(&mut log).await.len(), 10);
    // Applied, but not flushed: the purge flushes.
    let before = store.stats().flushes_total;
    log.purge(log_id(1, 3)).await.unwrap();
    assert_eq!(store.stats().flushes_total, before + 1);
    log.purge(log_id(1, 5)).await.unwrap();
    assert_eq!(store.stats().flushes_total, before + 1);
    apply_from_log(&mut machine, &mut log, 6, 8).await.unwrap();
    let meta = machine.get_snapshot_builder().await.build_snapshot().await.unwrap().meta;
    assert_eq!(meta.last_log_id, Some(log_id(1, 8)));
    assert_eq!((store.stats().flushes_total, store.durable_index(1)), (before + 1, 5));
    log.purge(log_id(1, 8)).await.unwrap();
    assert_eq!((store.stats().flushes_total, store.durable_index(1)), (before + 2, 8));
}

#[tokio::test]
async fn most_of_what_is_purged_soon_is_never_in_a_file() {
    const ROUNDS: u64 = 128;
    const ENTRY_BYTES: usize = 128 << 10;
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let (mut log, mut machine) = (store.log(1), store.machine(1, Kv::default()).unwrap());
    for index in 1..=ROUNDS {
        append(&mut log, vec![put(1, index, "k", &"v".repeat(ENTRY_BYTES))]).await.unwrap();
        apply_from_log(&mut machine, &mut log, index, index).await.unwrap();
        if index % 4 == 0 {
            store.flush().unwrap();
            log.purge(log_id(1, index - 1)).await.unwrap();
        }
    }
    let written = ROUNDS * ENTRY_BYTES as u64;
    let stats = store.stats();
    assert!(stats.log_bytes_total > written && stats.log_memtable_bytes < written / 2, "{stats:?}");
    assert!(stats.log_file_bytes > 0 && stats.log_file_bytes < written / 2, "{stats:?}");
    drop((log, machine, store));
    let mut log = open(dir.path()).log(1);
    assert_eq!(indexes(&mut log).await, [ROUNDS]);
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1, ROUNDS - 1)));
}

/// An opening finishes what a crash cut short, and that stays so when later writes remove what told it to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_opening_removes_does_not_come_back() {
    let dir = TempDir::new().unwrap();
    let open = || Store::open(Options { stepped: true, ..small(Options::at(dir.path())) }).unwrap();
    let store = open();
    let (mut log, mut machine) = (store.log(1), store.machine(1, Kv::default()).unwrap());
    let entries = (1..=40).map(|n| put(1, n, "k", "v")).collect();
    let appended = append_later(&mut log, entries).await.unwrap();
    store.step(usize::MAX);
    appended.await.unwrap().unwrap();
    apply_from_log(&mut machine, &mut log, 1, 40).await.unwrap();
    log.purge(log_id(1, 30)).await.unwrap();
    // The purge point is written, and the entries before it are not deleted yet.
    assert_eq!(store.pending().lazy, 2);
    store.step(1);
    drop((log, machine, store));
    let store = open();
    assert_eq!(indexes(&mut store.log(1)).await.first(), Some(&31));
    // With the replica, its purge point is removed, and in the end nothing says that there was more to do.
    tokio::task::spawn_blocking(move || {
        store.drop_group(1).unwrap();
        store.step(usize::MAX);
    })
    .await
    .unwrap();
    let store = open();
    assert_eq!(store.groups(), [0; 0]);
    assert!(indexes(&mut store.log(1)).await.is_empty());
}
