//! The height of a store: rises with what is promised, is told only once it is on the disk, and goes
//! down only with a directory that was put back. What SIGKILL leaves of it is in `crash.rs`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use openraft::storage::RaftLogStorage;
use raft_store::{Options, Store};
use tempfile::TempDir;

use crate::common::{Kv, append, append_later, apply_from_log, log_id, open, put, small, vote};

mod common;

#[tokio::test]
async fn it_rises_with_every_promise_and_not_without_a_sync() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let (mut log, mut machine) = (store.log(1), store.machine(1, Kv::default()).unwrap());
    let mut last = store.opened_at();
    assert_eq!((last, store.height()), (1, 1));
    let mut rises = |what: &str| {
        let height = store.height();
        assert!(height > last, "{what}: {height} after {last}");
        last = height;
    };
    log.save_vote(&vote(1, 1)).await.unwrap();
    rises("a vote");
    append(&mut log, (1..=20).map(|n| put(1, n, "k", "v")).collect()).await.unwrap();
    rises("an append");
    log.truncate_after(Some(log_id(1, 18))).await.unwrap();
    rises("a truncation");
    apply_from_log(&mut machine, &mut log, 1, 18).await.unwrap();
    store.flush().unwrap();
    // What is lost with the power without harm, and what nobody else was told.
    let batches = store.stats().batches_total;
    log.save_committed(Some(log_id(1, 18))).await.unwrap();
    log.purge(log_id(1, 10)).await.unwrap();
    while store.stats().batches_total == batches {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.height(), last);
    drop((log, machine));
    store.drop_group(1).unwrap();
    assert!(store.height() > last, "a dropped replica");
    assert_eq!(store.opened_at(), 1);
}

/// Whoever is told that something is durable can read a height that covers it: no later look is
/// higher, as nothing else was written.
#[tokio::test]
async fn it_is_up_before_anybody_is_told() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let (mut log, mut told) = (store.log(1), store.height());
    for index in 1..=200 {
        let done = append_later(&mut log, vec![put(1, index, "k", "v")]).await.unwrap();
        done.await.unwrap().unwrap();
        // It may have counted a batch that nobody waits for.
        assert!(store.height() > told);
        told = store.height();
    }
}

#[tokio::test]
async fn every_opening_is_higher_than_all_that_was_before() {
    let dir = TempDir::new().unwrap();
    let mut told = 0;
    let mut opened = |how: &str| {
        let store = open(dir.path());
        assert!(store.opened_at() > told, "{how}: opened at {}, was at {told}", store.opened_at());
        assert_eq!(store.height(), store.opened_at());
        told = store.opened_at();
        store
    };
    // Nothing was written at all.
    drop(opened("made"));
    drop(opened("empty"));
    for round in 1..=3 {
        let store = opened("again");
        let (mut log, mut machine) = (store.log(round), store.machine(round, Kv::default()).unwrap());
        log.save_vote(&vote(1, 1)).await.unwrap();
        // More than the log's memtables hold: what comes first is flushed, and its place in the WAL written over.
        for start in (1..=600).step_by(100) {
            let value = "v".repeat(10_000);
            append(&mut log, (start..start + 100).map(|n| put(1, n, "k", &value)).collect()).await.unwrap();
        }
        apply_from_log(&mut machine, &mut log, 1, 600).await.unwrap();
        let height = store.height();
        if round == 1 {
            // As after a crash: nobody closes it.
            drop((log, machine, store));
        } else {
            store.flush().unwrap();
            log.purge(log_id(1, 600)).await.unwrap();
            drop((log, machine));
            store.drop_group(round).unwrap();
            store.shutdown().unwrap();
            drop(store);
        }
        let store = opened("after work");
        assert!(store.opened_at() > height, "{} after {height}", store.opened_at());
        drop(store);
        // What the last opening recovered is in files now, and the WAL holds nothing but its own record.
        drop(opened("with nothing to recover"));
    }
}

#[tokio::test]
async fn a_directory_that_was_put_back_is_no_higher_than_it_was() {
    let (dir, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(dir.path());
    let id = store.id();
    append(&mut store.log(1), vec![put(1, 1, "k", "v")]).await.unwrap();
    drop(store);
    copy_dir(dir.path(), copy.path());
    // The least that can happen meanwhile: it was started again, and promised nothing.
    let told = open(dir.path()).height();
    let back = open(copy.path());
    assert_eq!(back.id(), id, "nothing else tells them apart");
    assert!(back.opened_at() <= told, "opened at {}, was told to be at {told}", back.opened_at());
}

#[test]
fn in_memory_every_store_is_another_one() {
    let [one, other] = [(); 2].map(|()| Store::open(small(Options::in_memory())).unwrap());
    assert_ne!(one.id(), other.id());
    assert_eq!((one.height(), other.height()), (1, 1));
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_dir(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}
